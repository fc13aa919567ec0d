#include "report_replay.hpp"

#include "report_run.hpp"
#include "run_output.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <functional>
#include <utility>

namespace directmap::tool {
namespace {

constexpr std::uint64_t nanoseconds_a_millisecond = 1'000'000;

ReportSeries series_of(const ReplayResult& result, std::size_t policy, bool with_walks) {
    ReportSeries series{
        .name = policy_title(result.policies[policy].policy), .detail = {}, .sizes = result.leaf_sizes, .points = {}};
    const std::uint64_t page = result.leaf_sizes.back();
    for (const Moment& moment : result.moments) {
        const PolicyMoment& at = moment.policies[policy];
        ReportPoint point{.label = moment.note.empty()
                                       ? fmt::format("after {}", counted(moment.events, "change", "changes"))
                                       : printable(moment.note),
                          .milliseconds = moment.nanoseconds / nanoseconds_a_millisecond,
                          .leaves = at.map.leaves,
                          .table_bytes = at.map.tables * page,
                          .reach_bytes = 0,
                          .further_metrics = {at.counters.invalidations, at.counters.splits, at.counters.collapses}};
        if (with_walks) point.further_metrics.push_back(static_cast<std::uint64_t>(walks_a_thousand(at.tlb) + 0.5));
        series.points.push_back(std::move(point));
    }
    return series;
}

ReportTable comparison_table(const ReplaySetting& setting, const ReplayResult& result) {
    ReportTable table{
        .title = "The same trace under every policy", .note = {}, .early = true, .columns = {{""}}, .rows = {}};
    const std::uint64_t page = result.leaf_sizes.back();
    const auto row = [&](std::string name, const std::function<std::string(std::size_t)>& value) {
        std::vector<std::string> cells = {std::move(name)};
        for (std::size_t i = 0; i < result.policies.size(); ++i) cells.push_back(value(i));
        table.rows.push_back(std::move(cells));
    };
    const auto& policies = result.policies;
    const auto& end = result.moments.back().policies;
    for (const PolicyResult& policy : policies) table.columns.push_back({policy_title(policy.policy), true});
    row("leaves after boot", [&](std::size_t i) { return grouped(policies[i].boot.leaf_count); });
    row("leaves at the worst moment", [&](std::size_t i) { return grouped(policies[i].worst.leaf_count); });
    row("leaves at the end", [&](std::size_t i) { return grouped(end[i].map.leaf_count); });
    row("page tables at the worst moment", [&](std::size_t i) { return human_size(policies[i].worst.tables * page); });
    row("page tables at the end", [&](std::size_t i) { return human_size(end[i].map.tables * page); });
    row("splits", [&](std::size_t i) { return grouped(policies[i].counters.splits); });
    row("collapses", [&](std::size_t i) { return grouped(policies[i].counters.collapses); });
    row("TLB invalidations", [&](std::size_t i) { return grouped(policies[i].counters.invalidations); });
    row("changes refused", [&](std::size_t i) { return grouped(policies[i].refused_count()); });
    if (!setting.pattern.empty()) {
        table.note = fmt::format("Table walks are those of {} on {} accesses, on average over the trace.",
                                 printable(setting.config.core.name), setting.pattern);
        row("table walks of 1,000 accesses", [&](std::size_t i) {
            return fmt::format("{:.1f}",
                               mean_over(result, i, [](const PolicyMoment& at) { return walks_a_thousand(at.tlb); }));
        });
    }
    return table;
}

} // namespace

Report report_of(const ReplaySetting& setting, const ReplayResult& result) {
    Report report;
    report.kind = "replay";
    report.title = fmt::format("{} on {}", setting.trace, printable(setting.map.source));
    report.subtitle = fmt::format("{} of {}, {}", counted(result.events, "recorded change", "recorded changes"),
                                  counted(result.pages, "page", "pages"), counted(setting.config.cpus, "CPU", "CPUs"));
    report.tone = result.kept() ? Report::Tone::neutral : Report::Tone::bad;
    report.verdict = verdict_of(setting, result).text;
    for (std::string& reservation : reservations(setting, result)) report.verdicts.push_back(std::move(reservation));
    std::uint64_t calls = 0;
    std::size_t problems = 0;
    for (const PolicyResult& policy : result.policies) {
        calls += policy.calls;
        problems += policy.problems.size();
        for (const std::string& problem : policy.problems)
            report.verdicts.push_back(fmt::format("{}: {}", policy_name(policy.policy), problem));
    }
    const auto& end = result.moments.back().policies;
    const std::uint64_t page = result.leaf_sizes.back();
    report.facts = {{"RAM", human_size(end.front().map.bytes), ""},
                    {"changes", grouped(result.events), counted(result.pages, "page", "pages")}};
    for (std::size_t i = 0; i < result.policies.size(); ++i)
        report.facts.push_back({fmt::format("leaves at the end, {}", policy_title(result.policies[i].policy)),
                                grouped(end[i].map.leaf_count),
                                human_size(end[i].map.tables * page) + " of page tables"});
    report.facts.push_back(
        {"platform calls checked", grouped(calls),
         problems == 0 ? "no promise was broken" : counted(problems, "promise was broken", "promises were broken")});
    report.tables.push_back(comparison_table(setting, result));
    const bool with_walks = !setting.pattern.empty();
    ReportTimeline timeline{.title = "Over time",
                            .note =
                                fmt::format("{} of the trace.", counted(result.moments.size(), "moment", "moments")),
                            .further_metrics = {{"TLB invalidations"}, {"Splits"}, {"Collapses"}},
                            .series = {}};
    if (with_walks) timeline.further_metrics.push_back({"Table walks of 1,000 accesses"});
    for (std::size_t i = 0; i < result.policies.size(); ++i)
        timeline.series.push_back(series_of(result, i, with_walks));
    report.timelines.push_back(std::move(timeline));
    // What is by pages all over is of the least interest.
    for (const bool by_pages : {false, true})
        for (const PolicyResult& policy : result.policies)
            if (!policy.dump.empty() && (policy.policy == Policy::pages) == by_pages)
                add_map(report, policy.dump, policy_title(policy.policy) + ", at the end", page);
    return report;
}

} // namespace directmap::tool

#include "report_run.hpp"

#include "analyze.hpp"
#include "report_analyze.hpp"
#include "run_reach.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <functional>

namespace directmap::tool {
namespace {

ReportSeries series_of(const RunSetting& setting, const WorkloadResult& result) {
    ReportSeries series{.name = policy_title(result.policy),
                        .detail = policy_explanation(result.policy, setting),
                        .sizes = result.leaf_sizes,
                        .points = {}};
    const std::uint64_t page = result.leaf_sizes.back();
    for (const Step& step : result.steps)
        series.points.push_back(
            {.label = step_label(step, page),
             .milliseconds = step.milliseconds,
             .leaves = step.map.leaves,
             .table_bytes = step.map.tables * page,
             .reach_bytes = step.reach,
             .further_metrics = {step.counters.invalidations, step.counters.splits, step.counters.collapses}});
    return series;
}

ReportTable comparison_table(const std::vector<const WorkloadResult*>& shown, std::uint64_t page) {
    ReportTable table{.title = "The same scenario under every policy",
                      .note = fmt::format("TLB reach is the RAM that {} TLB entries cover on average if all RAM is "
                                          "equally likely to be used; for comparing maps, not for predicting a core.",
                                          grouped(tlb_entries)),
                      .early = true,
                      .columns = {{""}},
                      .rows = {}};
    const auto row = [&](std::string name, const std::function<std::string(const WorkloadResult&)>& value) {
        std::vector<std::string> cells = {std::move(name)};
        for (const WorkloadResult* result : shown) cells.push_back(value(*result));
        table.rows.push_back(std::move(cells));
    };
    for (const WorkloadResult* result : shown) table.columns.push_back({policy_title(result->policy), true});
    row("leaves after boot", [](const WorkloadResult& r) { return grouped(r.boot.leaf_count); });
    row("leaves at the worst moment", [](const WorkloadResult& r) { return grouped(r.worst.leaf_count); });
    row("leaves at the end", [](const WorkloadResult& r) { return grouped(r.steps.back().map.leaf_count); });
    row("page tables after boot", [&](const WorkloadResult& r) { return human_size(r.boot.tables * page); });
    row("page tables at the worst moment", [&](const WorkloadResult& r) { return human_size(r.worst.tables * page); });
    row("page tables at the end",
        [&](const WorkloadResult& r) { return human_size(r.steps.back().map.tables * page); });
    row("TLB reach at the worst moment", [](const WorkloadResult& r) { return human_size(r.worst_reach); });
    row("TLB reach at the end", [](const WorkloadResult& r) { return human_size(r.steps.back().reach); });
    row("splits", [](const WorkloadResult& r) { return grouped(r.counters.splits); });
    row("collapses", [](const WorkloadResult& r) { return grouped(r.counters.collapses); });
    row("TLB invalidations", [](const WorkloadResult& r) { return grouped(r.counters.invalidations); });
    row("descriptors stored", [](const WorkloadResult& r) { return grouped(r.counters.stores + r.counters.filled); });
    return table;
}

std::string percent_saved(std::uint64_t now, std::uint64_t before) {
    return before == 0 || now >= before ? "" : fmt::format("{} less", percent(before - now, before));
}

void add_facts(Report& report, const RunSetting& setting, const std::vector<const WorkloadResult*>& shown) {
    const auto find = [&](Policy policy) -> const WorkloadResult* {
        const auto found = std::ranges::find_if(shown, [&](const auto* result) { return result->policy == policy; });
        return found == shown.end() ? nullptr : *found;
    };
    // What is told is the policy that heals by itself, or the best there is, against what kernels do today.
    const WorkloadResult* best = shown.front();
    for (const Policy policy : {Policy::background, Policy::on_restore, Policy::on_request, Policy::zoned}) {
        if (const WorkloadResult* found = find(policy)) {
            best = found;
            break;
        }
    }
    const std::uint64_t page = best->leaf_sizes.back();
    const Step& end = best->steps.back();
    report.facts = {
        {"RAM", human_size(end.map.bytes), counted(setting.config.cpus, "CPU", "CPUs")},
        {"steps", grouped(best->steps.size()), fmt::format("{} changes of the map", grouped(best->changes))}};
    const std::string name = policy_title(best->policy);
    const WorkloadResult* pages = find(Policy::pages);
    const WorkloadResult* never = find(Policy::never);
    const auto against = [&](const WorkloadResult* other, const std::string& value, std::uint64_t now,
                             std::uint64_t before) {
        return other == nullptr || other == best
                   ? std::string()
                   : fmt::format("{} {}{}{}", value, policy_title(other->policy),
                                 percent_saved(now, before).empty() ? "" : "; ", percent_saved(now, before));
    };
    const WorkloadResult* worst = never != nullptr ? never : pages;
    if (worst != nullptr && !worst->steps.empty()) {
        const MapState& other = worst->steps.back().map;
        report.facts.push_back({fmt::format("leaves at the end, {}", name), grouped(end.map.leaf_count),
                                against(worst, grouped(other.leaf_count), end.map.leaf_count, other.leaf_count)});
        report.facts.push_back({fmt::format("page tables, {}", name), human_size(end.map.tables * page),
                                against(worst, human_size(other.tables * page), end.map.tables, other.tables)});
        report.facts.push_back({fmt::format("TLB reach, {}", name), human_size(end.reach),
                                against(worst, human_size(worst->steps.back().reach), 0, 0)});
    }
    std::uint64_t calls = 0;
    std::size_t problems = 0;
    for (const WorkloadResult* result : shown) {
        calls += result->calls;
        problems += result->problems.size();
    }
    report.facts.push_back(
        {"platform calls checked", grouped(calls),
         problems == 0 ? "no promise was broken" : counted(problems, "promise was broken", "promises were broken")});
}

} // namespace

void add_map(Report& report, std::string_view dump, const std::string& title, std::uint64_t granule) {
    constexpr std::size_t picture_limit = 20000; // of each of several maps
    AnalyzeOptions options;
    options.granule = granule;
    options.map.picture_limit = picture_limit;
    const auto source = text_source(dump);
    analyze_dumps(*source, title, options, [&](DumpAnalysis&& analysis, const DumpVocabulary& vocabulary) {
        if (!analysis.map.has_value()) return;
        report.maps.push_back(map_of(analysis, vocabulary, title));
        report.maps.back().note +=
            fmt::format(" {} leaves, {} at best.", grouped(analysis.map->units), grouped(analysis.map->minimum_units));
    });
}

Report report_of(const RunSetting& setting, const std::vector<WorkloadResult>& results) {
    Report report;
    report.kind = "run";
    report.title = fmt::format("{} on {}", printable(setting.scenario.name), printable(setting.map.source));
    report.subtitle = setting.scenario.about;
    std::vector<const WorkloadResult*> shown;
    for (const WorkloadResult& result : results)
        if (result.finished && !result.steps.empty()) shown.push_back(&result);
    report.tone = all_kept(results) ? Report::Tone::neutral : Report::Tone::bad;
    for (const WorkloadResult& result : results)
        for (const std::string& problem : result.problems)
            report.verdicts.push_back(fmt::format("{}: {}", policy_name(result.policy), problem));
    if (shown.empty()) {
        report.verdict = "No policy came to the end of the scenario.";
        return report;
    }
    report.verdict = conclusion_text(setting, results);
    const std::uint64_t page = shown.front()->leaf_sizes.back();
    add_facts(report, setting, shown);
    report.tables.push_back(comparison_table(shown, page));
    ReportTimeline timeline{.title = "Over time",
                            .note =
                                fmt::format("Scenario {}, seed {}: {}.", printable(setting.scenario.source),
                                            setting.config.seed, counted(shown.front()->steps.size(), "step", "steps")),
                            .further_metrics = {{"TLB invalidations"}, {"Splits"}, {"Collapses"}},
                            .series = {}};
    for (const WorkloadResult* result : shown) timeline.series.push_back(series_of(setting, *result));
    report.timelines.push_back(std::move(timeline));
    // What is by pages all over is of the least interest.
    std::ranges::stable_partition(shown, [](const auto* result) { return result->policy != Policy::pages; });
    for (const WorkloadResult* result : shown)
        if (!result->dump.empty()) add_map(report, result->dump, policy_title(result->policy) + ", at the end", page);
    ReportTable statements{.title = "The scenario", .note = {}, .columns = {{"line", true}, {"statement"}}, .rows = {}};
    const std::function<void(const std::vector<Statement>&, std::size_t)> list = [&](const std::vector<Statement>&
                                                                                         block,
                                                                                     std::size_t depth) {
        for (const Statement& statement : block) {
            statements.rows.push_back({std::to_string(statement.line), std::string(2 * depth, ' ') + statement.text});
            list(statement.body, depth + 1);
        }
    };
    list(setting.scenario.statements, 0);
    report.tables.push_back(std::move(statements));
    return report;
}

} // namespace directmap::tool

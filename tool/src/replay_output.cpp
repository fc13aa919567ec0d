#include "replay_output.hpp"

#include "run_output.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

namespace directmap::tool {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view schema = "directmap.replay/1";
constexpr std::size_t text_columns = 100;
constexpr std::size_t rows_of_time = 12;

std::string duration_text(std::uint64_t nanoseconds) {
    const double seconds = static_cast<double>(nanoseconds) / 1e9;
    if (seconds < 1) return fmt::format("{:.0f} ms", seconds * 1e3);
    if (seconds < 120) return fmt::format("{:.3g} s", seconds);
    if (seconds < 7200) return fmt::format("{:.0f} min", seconds / 60);
    if (seconds < 172800) return fmt::format("{:.1f} h", seconds / 3600);
    return fmt::format("{:.1f} days", seconds / 86400);
}

/// Three digits: `0.123`, `12.3`, `987`.
std::string rate_text(double rate) {
    if (rate == 0) return "0";
    return fmt::format("{:.{}f}", rate, rate >= 99.95 ? 0 : rate >= 9.995 ? 1 : rate >= 0.9995 ? 2 : 3);
}

std::uint64_t sum_of(const std::vector<std::uint64_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
}

double mean_walks(const ReplayResult& result, std::size_t policy) {
    return mean_over(result, policy, [](const PolicyMoment& moment) { return walks_a_thousand(moment.tlb); });
}
double mean_leaves(const ReplayResult& result, std::size_t policy) {
    return mean_over(result, policy,
                     [](const PolicyMoment& moment) { return static_cast<double>(moment.map.leaf_count); });
}

const PolicyMoment& end_of(const ReplayResult& result, std::size_t policy) {
    return result.moments.back().policies[policy];
}

std::string facts_text(const ReplaySetting& setting, const ReplayResult& result, const Palette& palette,
                       std::size_t width) {
    const ReplayConfig& config = setting.config;
    std::string operations;
    for (const auto& [operation, count] : result.operations)
        operations += fmt::format("{}{} {}", operations.empty() ? "" : ", ", grouped(count), operation_name(operation));
    std::string text =
        fact("trace",
             fmt::format("{}: {} in {} ({}), {} in all", setting.trace, counted(result.events, "change", "changes"),
                         duration_text(result.nanoseconds), operations, counted(result.pages, "page", "pages")),
             palette, width);
    text += fact("machine",
                 fmt::format("{} of RAM in {} ({}); {}, FEAT_BBM level {}{}", human_size(setting.plan.large.bytes),
                             counted(setting.plan.ram.size(), "range", "ranges"), printable(setting.map.source),
                             counted(config.cpus, "CPU", "CPUs"), config.bbm,
                             config.resizes_live() ? "" : ": no leaf is resized"),
                 palette, width);
    text +=
        fact("map",
             fmt::format("arm64, {} pages, {}-bit VA", leaf_name(result.leaf_sizes.back()), config.translation.va_bits),
             palette, width);
    if (!setting.pattern.empty())
        text += fact("accesses",
                     fmt::format("{}, {} at each of {} moments, on the TLBs of {} ({})", setting.pattern,
                                 grouped(config.accesses), result.moments.size(), config.core.name, config.core.about),
                     palette, width);
    return text;
}

/// A few of the moments, evenly chosen, the first and the last among them.
std::vector<std::size_t> chosen_moments(const ReplayResult& result) {
    std::vector<std::size_t> chosen;
    const std::size_t last = result.moments.size() - 1;
    const std::size_t rows = std::min(rows_of_time, result.moments.size());
    for (std::size_t row = 0; row < rows; ++row)
        chosen.push_back(rows == 1 ? 0 : (row * last + (rows - 1) / 2) / (rows - 1));
    return chosen;
}

std::string timeline_text(const ReplayResult& result, const Palette& palette, std::size_t width) {
    constexpr std::size_t time_width = 8;
    constexpr std::size_t label_width = time_width + 1 + 8;
    constexpr std::size_t count_width = 8;
    const std::size_t column = std::min<std::size_t>((width - label_width) / result.policies.size(), 30);
    const std::size_t bar = column - count_width - 2;
    std::string text = fmt::format("{}  RAM by leaf size:{}\n", palette.bold("Leaves over time"),
                                   legend_of(result.leaf_sizes, palette));
    std::string head = fmt::format("{:<{}}{:>{}}", "time", time_width, "changes", label_width - time_width);
    for (const PolicyResult& policy : result.policies)
        head += fmt::format("  {:<{}}", short_name(policy.policy), column - 2);
    text += palette.dim(head.substr(0, head.find_last_not_of(' ') + 1)) + '\n';
    for (const std::size_t index : chosen_moments(result)) {
        const Moment& moment = result.moments[index];
        text += fmt::format("{:<{}}{:>{}}", moment.line == 0 ? "boot" : duration_text(moment.nanoseconds), time_width,
                            short_count(moment.events), label_width - time_width);
        for (const PolicyMoment& policy : moment.policies)
            text += fmt::format("  {}{:>{}}", bar_of(result.leaf_sizes, policy.map.leaves, bar, palette),
                                short_count(policy.map.leaf_count), count_width);
        text += '\n';
    }
    text += palette.dim(wrapped("Beside each bar: leaves. Widths go with the fourth root of the RAM that a size maps, "
                                "so that small shares show.",
                                width));
    return text;
}

std::string comparison(const ReplaySetting& setting, const ReplayResult& result, const Palette& palette,
                       std::size_t width) {
    constexpr std::size_t name_width = 30;
    const std::uint64_t page = result.leaf_sizes.back();
    const std::size_t column = std::min<std::size_t>((width - name_width) / result.policies.size(), 16);
    std::string text;
    const auto row = [&](std::string_view name, const std::function<std::string(std::size_t)>& value) {
        text += fmt::format("{:<{}}", name, name_width);
        for (std::size_t i = 0; i < result.policies.size(); ++i) text += fmt::format("{:>{}}", value(i), column);
        text += '\n';
    };
    const auto counter = [&](std::string_view name, std::uint64_t Counters::*member) {
        row(name, [&](std::size_t i) { return short_count(result.policies[i].counters.*member); });
    };
    row("", [&](std::size_t i) { return std::string(short_name(result.policies[i].policy)); });
    text = palette.dim(text);
    row("leaves after boot", [&](std::size_t i) { return short_count(result.policies[i].boot.leaf_count); });
    row("  at the worst moment", [&](std::size_t i) { return short_count(result.policies[i].worst.leaf_count); });
    row("  at the end", [&](std::size_t i) { return short_count(end_of(result, i).map.leaf_count); });
    row("  that would say the same",
        [&](std::size_t i) { return short_count(sum_of(result.policies[i].smallest_cover)); });
    row("page tables after boot", [&](std::size_t i) { return short_size(result.policies[i].boot.tables * page); });
    row("  at the worst moment", [&](std::size_t i) { return short_size(result.policies[i].worst.tables * page); });
    row("  at the end", [&](std::size_t i) { return short_size(end_of(result, i).map.tables * page); });
    counter("splits", &Counters::splits);
    counter("collapses", &Counters::collapses);
    counter("TLB invalidations", &Counters::invalidations);
    if (!setting.pattern.empty()) {
        row("walks of 1,000, after boot",
            [&](std::size_t i) { return rate_text(walks_a_thousand(result.moments.front().policies[i].tlb)); });
        row("  on average", [&](std::size_t i) { return rate_text(mean_walks(result, i)); });
        row("  at the end", [&](std::size_t i) { return rate_text(walks_a_thousand(end_of(result, i).tlb)); });
    }
    row("refused", [&](std::size_t i) {
        const std::uint64_t count = result.policies[i].refused_count();
        return count == 0 ? std::string("-") : short_count(count);
    });
    return text;
}

std::string policy_text(const ReplaySetting& setting, const ReplayResult& result, std::size_t policy) {
    std::string text = fmt::format("{} ({} leaves on average", policy_name(result.policies[policy].policy),
                                   short_count(static_cast<std::uint64_t>(std::llround(mean_leaves(result, policy)))));
    if (!setting.pattern.empty()) text += fmt::format(", {} walks", rate_text(mean_walks(result, policy)));
    return text + fmt::format(", {} invalidations)", short_count(result.policies[policy].counters.invalidations));
}

Json tlb_json(const ReplayConfig& config, const TlbCounts& counts) {
    Json json = {{"accesses", counts.accesses}};
    for (std::size_t level = 0; level < counts.misses.size(); ++level)
        json["misses"][config.core.levels[level].name] = counts.misses[level];
    json["walks"] = counts.walks();
    return json;
}

Json json_of_map(const ReplayResult& result, const MapState& map) {
    return {{"leaves", leaves_json(result.leaf_sizes, map.leaves)},
            {"leaf_count", map.leaf_count},
            {"tables", map.tables},
            {"table_bytes", map.tables * result.leaf_sizes.back()}};
}

} // namespace

Verdict verdict_of(const ReplaySetting& setting, const ReplayResult& result) {
    // How good a policy is: how many walks its map costs, or how many leaves it has where walks weren't counted.
    // Within a twentieth of the best nobody would notice a difference; then the one with the fewest invalidations is
    // better, since every CPU takes part in those.
    const bool walks = !setting.pattern.empty();
    std::vector<double> costs;
    for (std::size_t i = 0; i < result.policies.size(); ++i)
        costs.push_back(walks ? mean_walks(result, i) : mean_leaves(result, i));
    const double slack = walks ? 0.5 : 0;
    std::vector<std::size_t> able;
    for (std::size_t i = 0; i < result.policies.size(); ++i)
        if (result.policies[i].refused_count() == 0 && result.policies[i].problems.empty()) able.push_back(i);
    Verdict verdict;
    if (able.empty()) {
        verdict.text = "No policy could do all that the trace asks for; see the changes that were refused.";
        return verdict;
    }
    const double best = costs[*std::min_element(able.begin(), able.end(),
                                                [&](std::size_t a, std::size_t b) { return costs[a] < costs[b]; })];
    std::vector<std::size_t> good;
    for (const std::size_t i : able)
        if (costs[i] <= best * 1.05 + slack) good.push_back(i);
    const auto invalidations = [&](std::size_t i) { return result.policies[i].counters.invalidations; };
    const std::size_t chosen = *std::min_element(
        good.begin(), good.end(), [&](std::size_t a, std::size_t b) { return invalidations(a) < invalidations(b); });
    verdict.policy = chosen;
    std::vector<std::string> equals, dearer, others;
    for (std::size_t i = 0; i < result.policies.size(); ++i) {
        if (i == chosen) continue;
        const bool equal = std::find(good.begin(), good.end(), i) != good.end();
        const bool more = invalidations(i) > invalidations(chosen);
        (!equal ? others : more ? dearer : equals).push_back(policy_text(setting, result, i));
    }
    verdict.text = fmt::format("For this trace: {}.", policy_text(setting, result, chosen));
    if (!equals.empty()) verdict.text += fmt::format(" Just as good: {}.", fmt::join(equals, ", "));
    if (!dearer.empty())
        verdict.text += fmt::format(" As good, but for more invalidations: {}.", fmt::join(dearer, ", "));
    if (!others.empty()) verdict.text += fmt::format(" Behind: {}.", fmt::join(others, ", "));
    const PolicyMoment& end = end_of(result, chosen);
    const std::uint64_t fewest = sum_of(result.policies[chosen].smallest_cover);
    if (end.map.leaf_count > fewest)
        verdict.text += fmt::format(" At the end it still has {} leaves where {} would do.",
                                    grouped(end.map.leaf_count), grouped(fewest));
    if (walks)
        verdict.text += fmt::format(" Walks are table walks of 1,000 accesses ({}) on average over the trace; policies "
                                    "within a twentieth of the best count as equal.",
                                    setting.pattern);
    return verdict;
}

std::vector<std::string> reservations(const ReplaySetting& setting, const ReplayResult& result) {
    std::vector<std::string> sentences;
    if (result.remarks.partial)
        sentences.push_back(fmt::format("The trace is partial: {}.", result.remarks.partial_reason));
    for (const auto& [what, count] : result.remarks.skipped)
        sentences.push_back(fmt::format("Not replayed: {}: {}.", what, grouped(count)));
    const ReplayResult::Outside& outside = result.outside;
    if (outside.pages != 0)
        sentences.push_back(fmt::format(
            "{} outside of RAM {} not in the map and were left out, in {} as a whole and {} in part; the first at "
            "{}:{}, {}{}.",
            counted(outside.pages, "page", "pages"), outside.pages == 1 ? "is" : "are",
            counted(outside.events, "change", "changes"), grouped(outside.partly), setting.trace, outside.line,
            hex(outside.address),
            is_virtual(outside.address) ? " (--offset says where the direct map of the recorded kernel begins)" : ""));
    if (result.widened != 0)
        sentences.push_back(fmt::format(
            "{} of the trace's pages did not fill pages of {}: whole pages were changed instead, which changes more "
            "than was recorded.",
            counted(result.widened, "change", "changes"), leaf_name(result.leaf_sizes.back())));
    for (const PolicyResult& policy : result.policies)
        for (const auto& [code, refused] : policy.refused)
            sentences.push_back(fmt::format("Under {}, {} refused ({}: {}), the first at {}:{}.",
                                            policy_name(policy.policy),
                                            counted(refused.count, "change was", "changes were"), code, refused.reason,
                                            setting.trace, refused.line));
    return sentences;
}

std::string replay_text(const ReplaySetting& setting, const ReplayResult& result, const Palette& palette,
                        std::size_t width) {
    width = std::min(width, text_columns);
    std::string text = facts_text(setting, result, palette, width) + '\n';
    for (const std::string& sentence : reservations(setting, result))
        text += palette.yellow(wrapped(sentence, width, 2));
    if (text.back() != '\n' || text[text.size() - 2] != '\n') text += '\n';
    text += timeline_text(result, palette, width) + '\n' + comparison(setting, result, palette, width) + '\n';
    text += palette.bold("Verdict") + '\n' + wrapped(verdict_of(setting, result).text, width);
    if (!result.kept()) {
        text += '\n' + palette.red("This must not happen:") + '\n';
        for (const PolicyResult& policy : result.policies)
            for (const std::string& problem : policy.problems)
                text += fmt::format("  {}: {}\n", policy_name(policy.policy), problem);
    }
    return text;
}

Json replay_json(const ReplaySetting& setting, const ReplayResult& result) {
    const ReplayConfig& config = setting.config;
    Json json = {{"schema", schema}};
    json["trace"] = {{"source", setting.trace},
                     {"events", result.events},
                     {"pages", result.pages},
                     {"seconds", static_cast<double>(result.nanoseconds) / 1e9},
                     {"partial", result.remarks.partial}};
    if (result.remarks.partial) json["trace"]["partial_reason"] = result.remarks.partial_reason;
    json["trace"]["operations"] = Json::object();
    for (const auto& [operation, count] : result.operations)
        json["trace"]["operations"][std::string(operation_name(operation))] = count;
    json["trace"]["skipped"] = Json::object();
    for (const auto& [what, count] : result.remarks.skipped) json["trace"]["skipped"][what] = count;
    json["trace"]["outside_ram"] = {
        {"events", result.outside.events}, {"partly", result.outside.partly}, {"pages", result.outside.pages}};
    json["trace"]["widened"] = result.widened;
    json["memory_map"] = {{"source", printable(setting.map.source)},
                          {"format", format_name(setting.map.format)},
                          {"bytes", setting.plan.large.bytes},
                          {"ranges", setting.plan.ram.size()}};
    json["machine"] = {{"granule", leaf_name(result.leaf_sizes.back())},
                       {"va_bits", config.translation.va_bits},
                       {"offset", hex(config.offset)},
                       {"cpus", config.cpus},
                       {"bbm", config.bbm}};
    if (!setting.pattern.empty())
        json["tlb"] = {{"core", config.core.name},
                       {"source", config.core.source},
                       {"pattern", setting.pattern},
                       {"accesses", config.accesses},
                       {"seed", setting.seed}};
    Json& policies = json["policies"] = Json::array();
    for (std::size_t i = 0; i < result.policies.size(); ++i) {
        const PolicyResult& policy = result.policies[i];
        Json entry = {{"policy", policy_name(policy.policy)},
                      {"changes", policy.changes},
                      {"platform_calls", policy.calls},
                      {"counters", counters_json(policy.counters)},
                      {"boot", json_of_map(result, policy.boot)},
                      {"worst", json_of_map(result, policy.worst)},
                      {"end", json_of_map(result, end_of(result, i).map)},
                      {"smallest_cover", leaves_json(result.leaf_sizes, policy.smallest_cover)}};
        if (!setting.pattern.empty()) entry["walks_per_1000_accesses"] = mean_walks(result, i);
        entry["refused"] = Json::object();
        for (const auto& [code, refused] : policy.refused)
            entry["refused"][code] = {
                {"count", refused.count}, {"first_line", refused.line}, {"reason", refused.reason}};
        entry["problems"] = policy.problems;
        Json& moments = entry["moments"] = Json::array();
        for (const Moment& moment : result.moments) {
            const PolicyMoment& state = moment.policies[i];
            Json at = {{"seconds", static_cast<double>(moment.nanoseconds) / 1e9},
                       {"events", moment.events},
                       {"line", moment.line}};
            if (!moment.note.empty()) at["note"] = moment.note;
            at.update(json_of_map(result, state.map));
            at["splits"] = state.counters.splits;
            at["collapses"] = state.counters.collapses;
            at["invalidations"] = state.counters.invalidations;
            if (!setting.pattern.empty()) at["tlb"] = tlb_json(config, state.tlb);
            moments.push_back(std::move(at));
        }
        policies.push_back(std::move(entry));
    }
    const Verdict verdict = verdict_of(setting, result);
    json["verdict"] = {{"policy", nullptr}, {"text", verdict.text}};
    if (verdict.policy) json["verdict"]["policy"] = policy_name(result.policies[*verdict.policy].policy);
    json["ok"] = result.kept();
    return json;
}

} // namespace directmap::tool

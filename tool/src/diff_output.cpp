#include "diff_output.hpp"

#include "analyze_output.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ranges>

namespace directmap::tool {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view schema = "directmap.diff/1";

std::string address(std::uint64_t value) {
    return fmt::format("{:#018x}", value);
}

/// Not to be mapped is a state like any other here.
std::string state_name(const DumpDiff& diff, DumpAttributes attributes) {
    return attributes == 0 ? "not mapped" : diff.vocabulary.describe(attributes, diff.after.architecture);
}

std::string state_change(const DumpDiff& diff, DumpAttributes before, DumpAttributes after) {
    if (before == 0) return "mapped";
    if (after == 0) return "not mapped any more";
    return difference(after, before, diff.after.architecture, diff.vocabulary);
}

Json by_size(const CountBySize& counts) {
    Json json = Json::object();
    for (std::size_t index = counts.size(); index-- > 0;) {
        if (counts[index] != 0) json[leaf_name(std::uint64_t{1} << index)] = counts[index];
    }
    return json;
}

std::string list_by_size(const CountBySize& counts) {
    std::string text;
    for (std::size_t index = counts.size(); index-- > 0;) {
        if (counts[index] != 0)
            text += fmt::format("{}{} x {}", text.empty() ? "" : ", ", grouped(counts[index]),
                                leaf_name(std::uint64_t{1} << index));
    }
    return text;
}

Json dump_json(const DumpAnalysis& analysis, const MapSummary& map) {
    Json leaves = Json::object();
    for (const std::uint64_t size : map.sizes() | std::views::reverse) leaves[leaf_name(size)] = map.count(size);
    return {{"file", analysis.name},
            {"dump", analysis.index},
            {"start", address(map.start)},
            {"end", address(map.last + 1)},
            {"mapped_bytes", map.mapped_bytes},
            {"leaves", std::move(leaves)},
            {"units", map.units},
            {"minimum_units", map.minimum_units},
            {"tables", map.tables},
            {"tables_reclaimable", map.tables_reclaimable},
            {"partial", analysis.partial()}};
}

Json resize_json(const DumpDiff& diff, const ResizeSummary& summary, std::string_view parts_name) {
    Json changes = Json::array();
    for (const auto& [sizes, bytes] : summary.bytes_from_to | std::views::reverse)
        changes.push_back({{"from", leaf_name(sizes.first)}, {"to", leaf_name(sizes.second)}, {"bytes", bytes}});
    Json list = Json::array();
    for (const LeafChange& change : summary.list) {
        Json cause;
        if (change.permission_changes != 0)
            cause = {{"start", address(change.cause_start)},
                     {"bytes", change.cause_bytes},
                     {"before", state_name(diff, change.cause_before)},
                     {"after", state_name(diff, change.cause_after)}};
        list.push_back({{"start", address(change.start)},
                        {"size", leaf_name(change.size)},
                        {parts_name, by_size(change.parts)},
                        {"permission_changes", change.permission_changes},
                        {"cause", std::move(cause)}});
    }
    return {{"leaves", by_size(summary.leaves)},
            {"bytes", summary.bytes},
            {"changes", std::move(changes)},
            {"list", std::move(list)}};
}

Json ranges_json(const RangeTotals& totals) {
    Json list = Json::array();
    for (const AddressRange& range : totals.list)
        list.push_back({{"start", address(range.start)}, {"end", address(range.last + 1)}});
    return {{"ranges", totals.ranges}, {"bytes", totals.bytes}, {"list", std::move(list)}};
}

Json permissions_json(const DumpDiff& diff) {
    Json groups = Json::array();
    for (const PermissionGroup& group : diff.permission_groups)
        groups.push_back({{"before", state_name(diff, group.before)},
                          {"after", state_name(diff, group.after)},
                          {"ranges", group.ranges},
                          {"bytes", group.bytes}});
    Json list = Json::array();
    for (const PermissionChange& change : diff.permissions)
        list.push_back({{"start", address(change.start)},
                        {"end", address(change.start + change.bytes)},
                        {"before", state_name(diff, change.before)},
                        {"after", state_name(diff, change.after)}});
    return {{"ranges", diff.permission_ranges},
            {"bytes", diff.permission_bytes},
            {"changes", std::move(groups)},
            {"list", std::move(list)}};
}

// ---- Text

/// `1,234 (+56)`.
std::string with_change(std::uint64_t before, std::uint64_t after) {
    if (before == after) return grouped(after);
    return fmt::format("{} ({}{})", grouped(after), after > before ? "+" : "-",
                       grouped(after > before ? after - before : before - after));
}

std::string totals_text(const MapSummary& before, const MapSummary& after, const Palette& palette) {
    std::vector<std::uint64_t> sizes = after.sizes();
    for (const std::uint64_t size : before.sizes()) {
        if (std::ranges::find(sizes, size) == sizes.end()) sizes.push_back(size);
    }
    std::ranges::sort(sizes, std::ranges::greater{});
    std::string text = palette.dim(fmt::format("  {:<9}  {:>16}  {:>28}", "", "before", "after")) + '\n';
    const auto row = [&text](const std::string& name, const std::string& a, const std::string& b) {
        text += fmt::format("  {:<9}  {:>16}  {:>28}\n", name, a, b);
    };
    for (const std::uint64_t size : sizes)
        row(leaf_name(size), grouped(before.count(size)), with_change(before.count(size), after.count(size)));
    row("leaves", grouped(before.units), with_change(before.units, after.units));
    row("at best", grouped(before.minimum_units), with_change(before.minimum_units, after.minimum_units));
    row("tables", grouped(before.tables), with_change(before.tables, after.tables));
    row("mapped", human_size(before.mapped_bytes), human_size(after.mapped_bytes));
    return text;
}

std::string resize_text(const DumpDiff& diff, const ResizeSummary& summary, std::string_view verb,
                        std::string_view parts, std::size_t listed) {
    std::string text =
        fmt::format("{} {} ({}), {} of memory", grouped(summary.count()), summary.count() == 1 ? "leaf" : "leaves",
                    list_by_size(summary.leaves), human_size(summary.bytes));
    text = fmt::format("{}: {}\n", verb, text);
    for (std::size_t index = 0; index < std::min(listed, summary.list.size()); ++index) {
        const LeafChange& change = summary.list[index];
        text += fmt::format("  {} leaf at {} {} {}\n", leaf_name(change.size), address(change.start), parts,
                            list_by_size(change.parts));
        if (change.permission_changes != 0)
            text += fmt::format(
                "      {} at {}: {}{}\n", human_size(change.cause_bytes), address(change.cause_start),
                state_change(diff, change.cause_before, change.cause_after),
                change.permission_changes == 1
                    ? ""
                    : fmt::format(", and {}", counted(change.permission_changes - 1, "more change", "more changes")));
    }
    if (summary.count() > listed)
        text += fmt::format("  ... and {} more; --list N shows N\n",
                            grouped(summary.count() - std::min<std::uint64_t>(listed, summary.list.size())));
    return text;
}

std::string permissions_text(const DumpDiff& diff, const Palette& palette, std::size_t listed) {
    std::string text =
        fmt::format("{}: {} in {}\n", palette.bold("Changed permission"), human_size(diff.permission_bytes),
                    counted(diff.permission_ranges, "range", "ranges"));
    for (const PermissionGroup& group : diff.permission_groups)
        text += fmt::format("  {} ({}): {}\n", counted(group.ranges, "range", "ranges"), human_size(group.bytes),
                            palette.yellow(state_change(diff, group.before, group.after)));
    for (std::size_t index = 0; index < std::min(listed, diff.permissions.size()); ++index) {
        const PermissionChange& change = diff.permissions[index];
        text += fmt::format("    {}  {:>9}  {}\n", address_range(change.start, change.start + change.bytes - 1),
                            human_size(change.bytes), state_change(diff, change.before, change.after));
    }
    if (diff.permission_ranges > listed)
        text += fmt::format("    ... and {} more; --list N shows N\n", grouped(diff.permission_ranges - listed));
    return text;
}

std::string ranges_text(const RangeTotals& totals, std::string_view what, std::size_t listed) {
    std::string text =
        fmt::format("{}: {} in {}\n", what, human_size(totals.bytes), counted(totals.ranges, "range", "ranges"));
    for (std::size_t index = 0; index < std::min(listed, totals.list.size()); ++index)
        text += fmt::format("    {}  {:>9}\n", address_range(totals.list[index].start, totals.list[index].last),
                            human_size(totals.list[index].last - totals.list[index].start + 1));
    if (totals.ranges > listed)
        text += fmt::format("    ... and {} more; --list N shows N\n", grouped(totals.ranges - listed));
    return text;
}

} // namespace

std::string_view change_name(ChangeKind kind) {
    switch (kind) {
    case ChangeKind::none: return "unchanged";
    case ChangeKind::split: return "split";
    case ChangeKind::healed: return "healed";
    case ChangeKind::permission: return "changed permission";
    case ChangeKind::mapped: return "newly mapped";
    case ChangeKind::unmapped: return "not mapped any more";
    }
    return "";
}

Json json_of(const DumpDiff& diff) {
    return {{"schema", schema},
            {"architecture", architecture_name(diff.after.architecture)},
            {"granule", leaf_name(diff.after.map.value().geometry.granule())},
            {"same", diff.same()},
            {"moved", diff.moved},
            {"partial", diff.before.partial() || diff.after.partial()},
            {"before", dump_json(diff.before, diff.before.map.value())},
            {"after", dump_json(diff.after, diff.after.map.value())},
            {"split", resize_json(diff, diff.split, "into")},
            {"healed", resize_json(diff, diff.healed, "from")},
            {"permissions", permissions_json(diff)},
            {"mapped", ranges_json(diff.mapped)},
            {"unmapped", ranges_json(diff.unmapped)},
            {"unchanged_bytes", diff.unchanged_bytes}};
}

std::string text_of(const DumpDiff& diff, const Palette& palette, std::size_t listed) {
    const MapSummary& before = diff.before.map.value();
    const MapSummary& after = diff.after.map.value();
    std::string text = palette.bold(fmt::format("{} -> {}", shown_path(diff.title_of(diff.before)),
                                                shown_path(diff.title_of(diff.after)))) +
                       '\n';
    text += fmt::format("{}, {} pages; direct map {}{}\n", architecture_name(diff.after.architecture),
                        leaf_name(after.geometry.granule()), address_range(after.start, after.last),
                        diff.moved ? fmt::format(", before {} (compared by distance from the start)",
                                                 address_range(before.start, before.last))
                                   : "");
    for (const DumpAnalysis* analysis : {&diff.before, &diff.after}) {
        if (analysis->partial())
            text += fmt::format("{}: {} is partial: {}\n", palette.yellow("Note"), shown_path(diff.title_of(*analysis)),
                                analysis->problems.front().reason);
    }
    if (diff.same())
        return text + palette.green("No difference") +
               fmt::format(" in {}, {}\n", human_size(after.mapped_bytes), counted(after.units, "leaf", "leaves"));
    text += '\n' + totals_text(before, after, palette);
    if (diff.split.bytes != 0) text += '\n' + resize_text(diff, diff.split, palette.red("Split"), "is now", listed);
    if (diff.healed.bytes != 0) text += '\n' + resize_text(diff, diff.healed, palette.green("Healed"), "was", listed);
    if (diff.permission_bytes != 0) text += '\n' + permissions_text(diff, palette, listed);
    if (diff.mapped.bytes != 0) text += '\n' + ranges_text(diff.mapped, "Newly mapped", listed);
    if (diff.unmapped.bytes != 0) text += '\n' + ranges_text(diff.unmapped, "Not mapped any more", listed);
    text += fmt::format("\nUnchanged: {}\n", human_size(diff.unchanged_bytes));
    return text;
}

} // namespace directmap::tool

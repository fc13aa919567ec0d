#include "report_analyze.hpp"

#include "diff_output.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <ranges>

namespace directmap::tool {
namespace {

constexpr std::size_t listed_rows = 100;

std::string rounded_up(double value) {
    return grouped(static_cast<std::uint64_t>(std::ceil(value - 0.05)));
}

std::string circumstances(const DumpAnalysis& analysis, const MapSummary& map) {
    return fmt::format("{}, {} pages{}; direct map at {}", architecture_name(analysis.architecture),
                       leaf_name(map.geometry.granule()), analysis.granule_is_certain ? "" : " (assumed)",
                       address_range(map.start, map.last));
}

ReportTable sizes_table(const MapSummary& map) {
    ReportTable table{.title = "Leaves by size",
                      .note = "What maps the memory now, and the fewest leaves that could say the same.",
                      .early = true,
                      .columns = {{"leaf"}, {"now", true}, {"memory", true}, {"share", true}, {"at best", true}},
                      .rows = {}};
    const std::vector<std::uint64_t> sizes = map.sizes();
    for (const std::uint64_t size : sizes | std::views::reverse)
        table.rows.push_back({leaf_name(size), grouped(map.count(size)), human_size(map.bytes(size)),
                              percent(map.bytes(size), map.mapped_bytes),
                              grouped(map.minimum_leaves[size_index(size)])});
    table.rows.push_back({"all", grouped(map.units), human_size(map.mapped_bytes), "", grouped(map.minimum_units)});
    return table;
}

ReportTable causes_table(const DumpAnalysis& analysis, const MapSummary& map, const DumpVocabulary& vocabulary) {
    ReportTable table{
        .title = "What broke it up",
        .note = "Permission islands: memory that differs from what is around it, by what differs. The "
                "usual cause is what kernels do such changes for, not what was seen.",
        .early = true,
        .columns = {{"difference"}, {"islands", true}, {"memory", true}, {"leaves broken by them"}, {"usual cause"}},
        .rows = {}};
    for (const IslandGroup& group : map.island_groups | std::views::take(listed_rows))
        table.rows.push_back({difference(group.attributes, group.around, analysis.architecture, vocabulary),
                              grouped(group.count), human_size(group.bytes), list_by_size(group.broke),
                              usual_cause(group.attributes, group.around, analysis.architecture)});
    return table;
}

ReportTable islands_table(const DumpAnalysis& analysis, const MapSummary& map, const DumpVocabulary& vocabulary,
                          std::size_t map_index) {
    ReportTable table{.title = "Permission islands",
                      .note = "Those that broke the largest leaves.",
                      .columns = {{"range"}, {"size", true}, {"difference"}, {"broke"}},
                      .rows = {}};
    std::vector<PermissionIsland> list = map.island_list;
    std::ranges::stable_sort(list, std::ranges::greater{}, &PermissionIsland::broke_size);
    for (const PermissionIsland& island : list | std::views::take(listed_rows)) {
        table.rows.push_back(
            {address_range(island.start, island.start + island.bytes - 1), human_size(island.bytes),
             difference(island.attributes, island.around, analysis.architecture, vocabulary),
             island.broke_size == 0 ? "no leaf" : fmt::format("a {} leaf", leaf_name(island.broke_size))});
        table.places.emplace_back(ReportPlace{map_index, island.start, island.bytes});
    }
    if (map.islands > table.rows.size())
        table.note += fmt::format(" {} of {}; --json lists more.", grouped(table.rows.size()), grouped(map.islands));
    return table;
}

ReportTable regions_table(const MapSummary& map, std::size_t map_index) {
    ReportTable table{.title = "Worst regions",
                      .note = fmt::format("Ranges of {} in which healing would save the most leaves.",
                                          leaf_name(map.geometry.largest_leaf())),
                      .columns = {{"region"},
                                  {"mapped", true},
                                  {"leaves", true},
                                  {"at best", true},
                                  {"tables back", true},
                                  {"islands", true}},
                      .rows = {}};
    for (const RegionSummary& region : map.worst_regions) {
        table.rows.push_back({address_range(region.start, region.start + region.span - 1),
                              human_size(region.mapped_bytes), grouped(region.units), grouped(region.minimum_units),
                              grouped(region.tables_reclaimable), grouped(region.islands)});
        table.places.emplace_back(ReportPlace{map_index, region.start, region.span});
    }
    return table;
}

ReportTable tlb_table(const MapSummary& map, const WorkingSets& working_sets) {
    ReportTable table{.title = "TLB entries needed",
                      .note = "On average, for so much memory in use: as one range that lies anywhere, or as pages "
                              "that lie anywhere.",
                      .columns = {{"working set"},
                                  {"one range", true},
                                  {"at best", true},
                                  {"scattered pages", true},
                                  {"at best", true}},
                      .rows = {}};
    for (const std::uint64_t bytes : suitable_sets(map, working_sets)) {
        const TlbDemand now = tlb_demand(map.leaves, map.geometry.granule(), bytes);
        const TlbDemand best = tlb_demand(map.minimum_leaves, map.geometry.granule(), bytes);
        table.rows.push_back({human_size(bytes), rounded_up(now.dense), rounded_up(best.dense),
                              rounded_up(now.scattered), rounded_up(best.scattered)});
    }
    return table;
}

ReportTable ranges_table(std::string title, std::string note, const std::vector<AddressRange>& ranges) {
    ReportTable table{
        .title = std::move(title), .note = std::move(note), .columns = {{"range"}, {"size", true}}, .rows = {}};
    for (const AddressRange& range : ranges | std::views::take(listed_rows))
        table.rows.push_back({address_range(range.start, range.last), human_size(range.last - range.start + 1)});
    return table;
}

ReportTable problems_table(const DumpAnalysis& analysis) {
    ReportTable table{.title = "Why these results are partial",
                      .note = fmt::format("{} in the input.", counted(analysis.problem_count, "problem", "problems")),
                      .early = true,
                      .columns = {{"line", true}, {"what is wrong"}},
                      .rows = {}};
    for (const DumpProblem& problem : analysis.problems)
        table.rows.push_back({problem.line == 0 ? "" : grouped(problem.line), problem.reason});
    return table;
}

void add_verdict(Report& report, const MapSummary& map) {
    if (map.units == map.minimum_units) {
        report.tone = Report::Tone::good;
        report.verdict = "Nothing to heal: no fewer leaves could say the same.";
    } else {
        report.tone = Report::Tone::bad;
        report.verdict =
            fmt::format("Healing would gain: {} leaves where {} would do, {} times as many as needed.",
                        grouped(map.units), grouped(map.minimum_units), times(map.units, map.minimum_units));
        report.verdicts.push_back(fmt::format("{} could be mapped by larger leaves now: {}.",
                                              human_size(map.collapsible_bytes), list_by_size(map.collapsible_into)));
    }
    report.verdicts.push_back(
        fmt::format("By pages alone it would take {} leaves; with one permission for all of it, {}.",
                    grouped(map.all_pages_units()), grouped(map.uniform_units)));
    if (map.islands != 0) {
        const std::string broken = list_by_size(map.broken_leaves);
        report.verdicts.push_back(
            fmt::format("{} ({}) broke {}.", counted(map.islands, "permission island", "permission islands"),
                        human_size(map.island_bytes), broken.empty() ? "no leaf" : "leaves: " + broken));
    }
}

void add_facts(Report& report, const DumpAnalysis& analysis, const MapSummary& map) {
    const auto share_of = [&](std::uint64_t bytes) { return percent(bytes, map.mapped_bytes) + " of the map"; };
    report.facts = {
        {"memory mapped", human_size(map.mapped_bytes),
         map.holes == 0 ? "without holes"
                        : fmt::format("{} ({})", counted(map.holes, "hole", "holes"), human_size(map.hole_bytes))},
        {"leaves", grouped(map.units), fmt::format("{} at best", grouped(map.minimum_units))},
        {"could be larger now", human_size(map.collapsible_bytes), share_of(map.collapsible_bytes)},
        {"tables that come back", grouped(map.tables_reclaimable),
         fmt::format("of {}; {}", grouped(map.tables), human_size(map.tables_reclaimable * map.geometry.granule()))},
        {"permission islands", grouped(map.islands), human_size(map.island_bytes)},
        {"writable and executable", human_size(analysis.writable_executable.bytes),
         analysis.writable_executable.bytes == 0
             ? "in the whole dump"
             : fmt::format("in {}, {} of it in the direct map",
                           counted(analysis.writable_executable.ranges, "range", "ranges"),
                           human_size(map.writable_executable_bytes))},
    };
    if (map.present_invalid_bytes != 0)
        report.facts.push_back(
            {"present but invalid", human_size(map.present_invalid_bytes), share_of(map.present_invalid_bytes)});
    const TlbDemand now = tlb_demand(map.leaves, map.geometry.granule(), map.mapped_bytes);
    const TlbDemand best = tlb_demand(map.minimum_leaves, map.geometry.granule(), map.mapped_bytes);
    report.facts.push_back(
        {"TLB entries for all of it", rounded_up(now.dense), fmt::format("{} at best", rounded_up(best.dense))});
}

std::string picture_note(const MapSummary& map, const MapPicture& picture) {
    std::string note = fmt::format("{} of {}.", human_size(map.mapped_bytes), address_range(map.start, map.last));
    if (!std::ranges::all_of(picture.runs(), &PictureRun::exact))
        note +=
            fmt::format(" Where many small pieces are, they are summed up by {}.", human_size(picture.resolution()));
    return note;
}

// ---- Differences

std::string state_change(const DumpDiff& diff, DumpAttributes before, DumpAttributes after) {
    if (before == 0) return "mapped";
    if (after == 0) return "not mapped any more";
    return difference(after, before, diff.after.architecture, diff.vocabulary);
}

ReportTable resize_table(const DumpDiff& diff, const ResizeSummary& summary, std::string title, std::string parts,
                         std::optional<std::size_t> map_index) {
    ReportTable table{
        .title = std::move(title),
        .note = fmt::format("{}, {} of memory.", list_by_size(summary.leaves), human_size(summary.bytes)),
        .columns = {{"leaf at"}, {"size"}, {std::move(parts)}, {"changes of permission inside", true}, {"the first"}},
        .rows = {}};
    for (const LeafChange& change : summary.list | std::views::take(listed_rows)) {
        table.rows.push_back(
            {fmt::format("{:#018x}", change.start), leaf_name(change.size), list_by_size(change.parts),
             grouped(change.permission_changes),
             change.permission_changes == 0
                 ? ""
                 : fmt::format("{} at {:#018x}: {}", human_size(change.cause_bytes), change.cause_start,
                               state_change(diff, change.cause_before, change.cause_after))});
        if (map_index) table.places.emplace_back(ReportPlace{*map_index, change.start, change.size});
    }
    if (summary.count() > table.rows.size())
        table.note += fmt::format(" The first {} of {}.", grouped(table.rows.size()), grouped(summary.count()));
    return table;
}

ReportTable totals_table(const MapSummary& before, const MapSummary& after) {
    ReportTable table{.title = "Before and after",
                      .note = {},
                      .early = true,
                      .columns = {{""}, {"before", true}, {"after", true}, {"change", true}},
                      .rows = {}};
    const auto row = [&](std::string name, std::uint64_t a, std::uint64_t b) {
        table.rows.push_back({std::move(name), grouped(a), grouped(b),
                              a == b ? "" : (b > a ? "+" : "-") + grouped(b > a ? b - a : a - b)});
    };
    std::vector<std::uint64_t> sizes = after.sizes();
    for (const std::uint64_t size : before.sizes())
        if (std::ranges::find(sizes, size) == sizes.end()) sizes.push_back(size);
    std::ranges::sort(sizes, std::ranges::greater{});
    for (const std::uint64_t size : sizes) row("leaves of " + leaf_name(size), before.count(size), after.count(size));
    row("leaves", before.units, after.units);
    row("leaves at best", before.minimum_units, after.minimum_units);
    row("page tables", before.tables, after.tables);
    row("tables that could come back", before.tables_reclaimable, after.tables_reclaimable);
    return table;
}

} // namespace

ReportMap map_of(const DumpAnalysis& analysis, const DumpVocabulary& vocabulary, std::string title) {
    const MapSummary& map = analysis.map.value();
    return {.title = std::move(title),
            .note = picture_note(map, map.picture),
            .sizes = map.sizes(),
            .picture = map.picture,
            .architecture = analysis.architecture,
            .vocabulary = vocabulary};
}

Report report_of(std::vector<ReportedDump>&& dumps, const WorkingSets& working_sets) {
    Report report;
    report.kind = "analyze";
    const auto bytes_of = [](const ReportedDump& dump) {
        return dump.analysis.map.has_value() ? dump.analysis.map->mapped_bytes : 0;
    };
    const ReportedDump& chosen = *std::ranges::max_element(dumps, {}, bytes_of);
    const DumpAnalysis& analysis = chosen.analysis;
    report.title = shown_path(analysis.name);
    if (dumps.size() > 1) report.title += fmt::format(", dump {}", analysis.index);
    if (!analysis.map.has_value()) {
        report.tone = Report::Tone::bad;
        report.verdict = "There is no direct map in this dump.";
        report.tables.push_back(problems_table(analysis));
        return report;
    }
    const MapSummary& map = *analysis.map;
    report.subtitle = circumstances(analysis, map);
    add_verdict(report, map);
    add_facts(report, analysis, map);
    std::size_t chosen_map = 0;
    for (const ReportedDump& dump : dumps) {
        if (!dump.analysis.map.has_value()) continue;
        if (&dump == &chosen) chosen_map = report.maps.size();
        report.maps.push_back(map_of(dump.analysis, dump.vocabulary, fmt::format("dump {}", dump.analysis.index)));
    }
    // The page opens with its first map.
    std::swap(report.maps.front(), report.maps[chosen_map]);
    if (analysis.partial()) {
        report.verdicts.push_back("These results are partial: the table below says why.");
        report.tables.push_back(problems_table(analysis));
    }
    if (map.islands != 0) report.tables.push_back(causes_table(analysis, map, chosen.vocabulary));
    report.tables.push_back(sizes_table(map));
    if (!map.worst_regions.empty()) report.tables.push_back(regions_table(map, 0));
    if (map.islands != 0) report.tables.push_back(islands_table(analysis, map, chosen.vocabulary, 0));
    report.tables.push_back(tlb_table(map, working_sets));
    if (analysis.writable_executable.bytes != 0)
        report.tables.push_back(ranges_table("Writable and executable memory",
                                             "Anywhere in the dump. Whoever can write here can run what was written.",
                                             analysis.writable_executable.list));
    return report;
}

Report report_of(const DumpDiff& diff) {
    const MapSummary& before = diff.before.map.value();
    const MapSummary& after = diff.after.map.value();
    Report report;
    report.kind = "diff";
    report.title =
        fmt::format("{} → {}", shown_path(diff.title_of(diff.before)), shown_path(diff.title_of(diff.after)));
    report.subtitle = circumstances(diff.after, after);
    if (diff.moved)
        report.subtitle +=
            fmt::format(", before {} (compared by distance from the start)", address_range(before.start, before.last));
    if (diff.same()) {
        report.verdict = "No difference.";
    } else {
        report.tone = after.units > before.units ? Report::Tone::bad : Report::Tone::good;
        report.verdict =
            fmt::format("{} split, {} healed; {} changed permission. {} leaves have become {}.",
                        counted(diff.split.count(), "leaf", "leaves"), counted(diff.healed.count(), "leaf", "leaves"),
                        human_size(diff.permission_bytes), grouped(before.units), grouped(after.units));
    }
    for (const DumpAnalysis* analysis : {&diff.before, &diff.after}) {
        if (analysis->partial())
            report.verdicts.push_back(fmt::format("{} is partial: {}", shown_path(diff.title_of(*analysis)),
                                                  analysis->problems.front().reason));
    }
    report.facts = {
        {"split", grouped(diff.split.count()), fmt::format("{} of memory", human_size(diff.split.bytes))},
        {"healed", grouped(diff.healed.count()), fmt::format("{} of memory", human_size(diff.healed.bytes))},
        {"changed permission", human_size(diff.permission_bytes), counted(diff.permission_ranges, "range", "ranges")},
        {"newly mapped", human_size(diff.mapped.bytes), counted(diff.mapped.ranges, "range", "ranges")},
        {"not mapped any more", human_size(diff.unmapped.bytes), counted(diff.unmapped.ranges, "range", "ranges")},
        {"unchanged", human_size(diff.unchanged_bytes),
         percent(diff.unchanged_bytes, after.mapped_bytes) + " of the map"},
    };
    report.maps.push_back(
        {.title = "after",
         .note = picture_note(after, diff.picture) + " Each cell can be coloured by leaf size or by what changed.",
         .sizes = after.sizes(),
         .picture = diff.picture,
         .architecture = diff.after.architecture,
         .vocabulary = diff.vocabulary});
    report.tables.push_back(totals_table(before, after));
    const std::optional<std::size_t> not_moved = diff.moved ? std::nullopt : std::optional<std::size_t>(0);
    if (diff.split.bytes != 0)
        report.tables.push_back(resize_table(diff, diff.split, "Split leaves", "is now", not_moved));
    if (diff.healed.bytes != 0) report.tables.push_back(resize_table(diff, diff.healed, "Healed leaves", "was", 0));
    if (diff.permission_bytes != 0) {
        ReportTable groups{.title = "Changes of permission",
                           .note = {},
                           .columns = {{"change"}, {"ranges", true}, {"memory", true}},
                           .rows = {}};
        for (const PermissionGroup& group : diff.permission_groups)
            groups.rows.push_back(
                {state_change(diff, group.before, group.after), grouped(group.ranges), human_size(group.bytes)});
        report.tables.push_back(std::move(groups));
        ReportTable list{.title = "Ranges that changed permission",
                         .note =
                             fmt::format("The first {} of {}.", grouped(std::min(listed_rows, diff.permissions.size())),
                                         grouped(diff.permission_ranges)),
                         .columns = {{"range"}, {"size", true}, {"change"}},
                         .rows = {}};
        for (const PermissionChange& change : diff.permissions | std::views::take(listed_rows)) {
            list.rows.push_back({address_range(change.start, change.start + change.bytes - 1), human_size(change.bytes),
                                 state_change(diff, change.before, change.after)});
            list.places.emplace_back(ReportPlace{0, change.start, change.bytes});
        }
        report.tables.push_back(std::move(list));
    }
    if (diff.mapped.bytes != 0) report.tables.push_back(ranges_table("Newly mapped", {}, diff.mapped.list));
    if (diff.unmapped.bytes != 0) report.tables.push_back(ranges_table("Not mapped any more", {}, diff.unmapped.list));
    return report;
}

} // namespace directmap::tool

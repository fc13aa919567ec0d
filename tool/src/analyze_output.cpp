#include "analyze_output.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ranges>

namespace directmap::tool {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view schema = "directmap.analyze/1";
constexpr std::uint64_t mib = std::uint64_t{1} << 20;
constexpr std::uint64_t gib = std::uint64_t{1} << 30;

std::string address(std::uint64_t value) {
    return fmt::format("{:#018x}", value);
}

std::string_view found_by_name(DumpAnalysis::FoundBy found_by) {
    switch (found_by) {
    case DumpAnalysis::FoundBy::marker: return "marker";
    case DumpAnalysis::FoundBy::end_marker: return "end marker";
    case DumpAnalysis::FoundBy::shape: return "shape";
    }
    return "";
}

std::string_view problem_name(DumpProblem::Kind kind) {
    return kind == DumpProblem::Kind::bad ? "bad" : "missing";
}

/// Every size of the map's geometry, largest first, so that rows of different dumps have equal columns.
Json by_size(const std::vector<std::uint64_t>& sizes, const CountBySize& counts, bool in_bytes) {
    Json json = Json::object();
    for (const std::uint64_t size : sizes | std::views::reverse)
        json[leaf_name(size)] = counts[size_index(size)] * (in_bytes ? size : 1);
    return json;
}

/// Only what there is.
Json by_size_that_is(const CountBySize& counts) {
    Json json = Json::object();
    for (std::size_t index = counts.size(); index-- > 0;) {
        if (counts[index] != 0) json[leaf_name(std::uint64_t{1} << index)] = counts[index];
    }
    return json;
}

Json size_or_null(std::uint64_t size) {
    return size == 0 ? Json() : Json(leaf_name(size));
}

double rounded(double value) {
    return std::round(value * 10) / 10;
}

Json direct_map_json(const DumpAnalysis& analysis, const MapSummary& map) {
    const std::vector<std::uint64_t> sizes = map.sizes();
    return {{"found_by", found_by_name(analysis.found_by)},
            {"first_line", analysis.first_line},
            {"start", address(map.start)},
            {"end", address(map.last + 1)},
            {"mapped_bytes", map.mapped_bytes},
            {"granule", leaf_name(map.geometry.granule())},
            {"granule_certain", analysis.granule_is_certain},
            {"leaves", by_size(sizes, map.leaves, false)},
            {"bytes", by_size(sizes, map.leaves, true)},
            {"units", map.units},
            {"minimum_units", map.minimum_units},
            {"minimum_leaves", by_size(sizes, map.minimum_leaves, false)},
            {"uniform_units", map.uniform_units},
            {"all_pages_units", map.all_pages_units()},
            {"collapsible",
             {{"bytes", map.collapsible_bytes},
              {"units_saved", map.units - map.minimum_units},
              {"into", by_size(sizes, map.collapsible_into, false)}}},
            {"tables", map.tables},
            {"tables_reclaimable", map.tables_reclaimable},
            {"tables_empty", map.tables_empty},
            {"table_bytes_reclaimable", map.tables_reclaimable * map.geometry.granule()},
            {"present_invalid_bytes", map.present_invalid_bytes},
            {"writable_executable_bytes", map.writable_executable_bytes}};
}

Json islands_json(const DumpAnalysis& analysis, const MapSummary& map, const DumpVocabulary& vocabulary) {
    Json changes = Json::array();
    for (const IslandGroup& group : map.island_groups) {
        Json change = {{"attributes", vocabulary.describe(group.attributes, analysis.architecture)},
                       {"around", vocabulary.describe(group.around, analysis.architecture)},
                       {"count", group.count},
                       {"bytes", group.bytes},
                       {"broke", by_size_that_is(group.broke)}};
        const std::string cause = usual_cause(group.attributes, group.around, analysis.architecture);
        change["usual_cause"] = cause.empty() ? Json() : Json(cause);
        changes.push_back(std::move(change));
    }
    Json list = Json::array();
    for (const PermissionIsland& island : map.island_list) {
        list.push_back({{"start", address(island.start)},
                        {"end", address(island.start + island.bytes)},
                        {"bytes", island.bytes},
                        {"attributes", vocabulary.describe(island.attributes, analysis.architecture)},
                        {"around", vocabulary.describe(island.around, analysis.architecture)},
                        {"broke", size_or_null(island.broke_size)},
                        {"broke_start", island.broke_size == 0 ? Json() : Json(address(island.broke_start))}});
    }
    return {{"count", map.islands},
            {"bytes", map.island_bytes},
            {"broke", by_size_that_is(map.islands_by_broken_leaf)},
            {"broken_leaves", by_size_that_is(map.broken_leaves)},
            {"by_change", std::move(changes)},
            {"list", std::move(list)}};
}

Json tlb_json(const MapSummary& map, const WorkingSets& working_sets) {
    Json list = Json::array();
    for (const std::uint64_t bytes : suitable_sets(map, working_sets)) {
        const TlbDemand now = tlb_demand(map.leaves, map.geometry.granule(), bytes);
        const TlbDemand best = tlb_demand(map.minimum_leaves, map.geometry.granule(), bytes);
        list.push_back({{"working_set", bytes},
                        {"dense", rounded(now.dense)},
                        {"dense_minimum", rounded(best.dense)},
                        {"scattered", rounded(now.scattered)},
                        {"scattered_minimum", rounded(best.scattered)}});
    }
    return list;
}

Json regions_json(const MapSummary& map) {
    Json list = Json::array();
    for (const RegionSummary& region : map.worst_regions) {
        list.push_back({{"start", address(region.start)},
                        {"end", address(region.start + region.span)},
                        {"mapped_bytes", region.mapped_bytes},
                        {"units", region.units},
                        {"minimum_units", region.minimum_units},
                        {"uniform_units", region.uniform_units},
                        {"units_saved", region.units_saved()},
                        {"tables_reclaimable", region.tables_reclaimable},
                        {"islands", region.islands}});
    }
    return list;
}

Json writable_executable_json(const WritableExecutable& found) {
    Json list = Json::array();
    for (const AddressRange& range : found.list)
        list.push_back({{"start", address(range.start)}, {"end", address(range.last + 1)}});
    return {{"bytes", found.bytes}, {"ranges", found.ranges}, {"list", std::move(list)}};
}

Json problems_json(std::span<const DumpProblem> problems) {
    Json list = Json::array();
    for (const DumpProblem& problem : problems) {
        list.push_back({{"kind", problem_name(problem.kind)},
                        {"line", problem.line == 0 ? Json() : Json(problem.line)},
                        {"reason", problem.reason}});
    }
    return list;
}

// ---- Text

/// Columns as wide as their widest cell; the first is left-aligned, the others right.
std::string table_text(const std::vector<std::vector<std::string>>& rows, const Palette& palette) {
    std::vector<std::size_t> widths;
    for (const auto& row : rows) {
        widths.resize(std::max(widths.size(), row.size()));
        for (std::size_t column = 0; column < row.size(); ++column)
            widths[column] = std::max(widths[column], row[column].size());
    }
    std::string text;
    for (std::size_t index = 0; index < rows.size(); ++index) {
        std::string line;
        for (std::size_t column = 0; column < rows[index].size(); ++column)
            line += column == 0 ? fmt::format("  {:<{}}", rows[index][column], widths[column])
                                : fmt::format("  {:>{}}", rows[index][column], widths[column]);
        line.erase(line.find_last_not_of(' ') + 1);
        text += (index == 0 ? palette.dim(line) : line) + '\n';
    }
    return text;
}

std::string title(const DumpAnalysis& analysis, const TextOptions& options) {
    std::string text = shown_path(analysis.name);
    if (options.name_dump) text += fmt::format(", dump {}", analysis.index);
    return options.palette.bold(text) + '\n';
}

std::string problems_text(const DumpAnalysis& analysis, const Palette& palette) {
    if (!analysis.partial()) return {};
    std::string text = palette.yellow("These results are partial") + ":\n";
    for (const DumpProblem& problem : analysis.problems)
        text += problem.line == 0 ? fmt::format("  {}\n", problem.reason)
                                  : fmt::format("  line {}: {}\n", problem.line, problem.reason);
    if (analysis.problem_count > analysis.problems.size())
        text += fmt::format("  ... and {} more\n", grouped(analysis.problem_count - analysis.problems.size()));
    return text;
}

std::string writable_executable_text(const DumpAnalysis& analysis, const Palette& palette) {
    const WritableExecutable& found = analysis.writable_executable;
    if (found.bytes == 0) return "Writable and executable: none\n";
    std::string text = fmt::format(
        "{}: {} in {}{}\n", palette.red("Writable and executable"), human_size(found.bytes),
        counted(found.ranges, "range", "ranges"),
        analysis.map.has_value() && analysis.map->writable_executable_bytes != 0
            ? fmt::format(", {} of it in the direct map", human_size(analysis.map->writable_executable_bytes))
            : "");
    constexpr std::size_t shown = 5;
    for (std::size_t index = 0; index < std::min(shown, found.list.size()); ++index) {
        const AddressRange& range = found.list[index];
        text +=
            fmt::format("  {}  {}\n", address_range(range.start, range.last), human_size(range.last - range.start + 1));
    }
    if (found.ranges > shown)
        text += fmt::format("  ... and {} more; --json lists them\n", grouped(found.ranges - shown));
    return text;
}

std::string sizes_text(const MapSummary& map, const Palette& palette) {
    std::vector<std::vector<std::string>> rows = {{"leaf", "now", "memory", "share", "at best"}};
    const std::vector<std::uint64_t> sizes = map.sizes();
    for (const std::uint64_t size : sizes | std::views::reverse)
        rows.push_back({leaf_name(size), grouped(map.count(size)), human_size(map.bytes(size)),
                        percent(map.bytes(size), map.mapped_bytes), grouped(map.minimum_leaves[size_index(size)])});
    rows.push_back({"all", grouped(map.units), human_size(map.mapped_bytes), "", grouped(map.minimum_units)});
    return table_text(rows, palette);
}

std::string verdict_text(const MapSummary& map, const Palette& palette) {
    std::string text;
    if (map.units == map.minimum_units) {
        text += palette.green("Nothing to heal") + ": no fewer leaves could say the same.\n";
    } else {
        text += fmt::format("{}: {} leaves where {} would do, {} times as many as needed.\n",
                            palette.bold("Healing would gain"), grouped(map.units), grouped(map.minimum_units),
                            times(map.units, map.minimum_units));
        text +=
            fmt::format("  {} could be mapped by larger leaves now ({}); {}.\n", human_size(map.collapsible_bytes),
                        list_by_size(map.collapsible_into),
                        map.tables_reclaimable == 0
                            ? "no table would come back"
                            : fmt::format("{} would come back ({})", counted(map.tables_reclaimable, "table", "tables"),
                                          human_size(map.tables_reclaimable * map.geometry.granule())));
    }
    text += fmt::format("  By pages alone it would take {} leaves; with one permission for all of it, {}.\n",
                        grouped(map.all_pages_units()), grouped(map.uniform_units));
    text += fmt::format("  Page tables: {} with memory below them{}.\n", grouped(map.tables),
                        map.tables_empty == 0 ? "" : fmt::format(", {} empty", grouped(map.tables_empty)));
    return text;
}

std::string islands_text(const DumpAnalysis& analysis, const MapSummary& map, const DumpVocabulary& vocabulary,
                         const TextOptions& options) {
    if (map.islands == 0) return "Permission islands: none\n";
    std::string text = fmt::format("{}: {} ({})", options.palette.bold("Permission islands"), grouped(map.islands),
                                   human_size(map.island_bytes));
    const std::string broken = list_by_size(map.broken_leaves);
    text += broken.empty() ? ", none of which broke a leaf\n" : fmt::format(" broke leaves: {}\n", broken);
    constexpr std::size_t groups_shown = 8;
    for (std::size_t index = 0; index < std::min(groups_shown, map.island_groups.size()); ++index) {
        const IslandGroup& group = map.island_groups[index];
        const std::string cause = usual_cause(group.attributes, group.around, analysis.architecture);
        text += fmt::format(
            "  {} x {} ({}){}\n", grouped(group.count),
            options.palette.yellow(difference(group.attributes, group.around, analysis.architecture, vocabulary)),
            human_size(group.bytes), cause.empty() ? "" : ": " + cause);
    }
    if (map.island_groups.size() > groups_shown)
        text += fmt::format("  ... and {} other differences\n", grouped(map.island_groups.size() - groups_shown));
    // Those that broke the largest leaves; among equals the first.
    std::vector<PermissionIsland> list = map.island_list;
    std::ranges::stable_sort(list, std::ranges::greater{}, &PermissionIsland::broke_size);
    list.resize(std::min(list.size(), options.islands));
    for (const PermissionIsland& island : list) {
        text +=
            fmt::format("    {}  {:>9}  {}\n", address_range(island.start, island.start + island.bytes - 1),
                        human_size(island.bytes),
                        island.broke_size == 0 ? "broke no leaf"
                                               : fmt::format("broke the {} leaf at {}", leaf_name(island.broke_size),
                                                             hex(island.broke_start)));
    }
    if (map.islands > list.size())
        text += fmt::format("    ... and {} more; --islands N shows N\n", grouped(map.islands - list.size()));
    return text;
}

std::string regions_text(const MapSummary& map, const Palette& palette) {
    if (map.worst_regions.empty()) return {};
    std::vector<std::vector<std::string>> rows = {{"region", "mapped", "leaves", "at best", "tables back", "islands"}};
    for (const RegionSummary& region : map.worst_regions)
        rows.push_back({address_range(region.start, region.start + region.span - 1), human_size(region.mapped_bytes),
                        grouped(region.units), grouped(region.minimum_units), grouped(region.tables_reclaimable),
                        grouped(region.islands)});
    return palette.bold("Worst regions") + '\n' + table_text(rows, palette);
}

std::string tlb_text(const MapSummary& map, const WorkingSets& working_sets, const Palette& palette) {
    std::vector<std::vector<std::string>> rows = {
        {"working set", "one range", "at best", "scattered pages", "at best"}};
    for (const std::uint64_t bytes : suitable_sets(map, working_sets)) {
        const TlbDemand now = tlb_demand(map.leaves, map.geometry.granule(), bytes);
        const TlbDemand best = tlb_demand(map.minimum_leaves, map.geometry.granule(), bytes);
        const auto number = [](double value) { return grouped(static_cast<std::uint64_t>(std::ceil(value - 0.05))); };
        rows.push_back(
            {human_size(bytes), number(now.dense), number(best.dense), number(now.scattered), number(best.scattered)});
    }
    return palette.bold("TLB entries needed") + '\n' + table_text(rows, palette);
}

std::string holes_text(const MapSummary& map) {
    if (map.holes == 0) return "Holes: none\n";
    return fmt::format(
        "Holes: {} ({}){}\n", grouped(map.holes), human_size(map.hole_bytes),
        map.small_holes == 0
            ? ""
            : fmt::format(", {} of them smaller than {} ({}): edges of RAM, or pages taken out of the map",
                          grouped(map.small_holes), leaf_name(map.geometry.entry_size(1)),
                          human_size(map.small_hole_bytes)));
}

// ---- The picture

/// From the smallest leaf to the largest. The letter stands where there is no colour.
struct Shade {
    char letter;
    unsigned colour; ///< of 256
};
constexpr std::array<Shade, 5> shades = {{{'p', 203}, {'c', 215}, {'b', 74}, {'m', 79}, {'g', 71}}};

/// Shades for the sizes that a map has, spread so that the largest leaf always looks the same.
Shade shade_of(const std::vector<std::uint64_t>& sizes, std::uint64_t size) {
    const auto rank = static_cast<std::size_t>(std::ranges::find(sizes, size) - sizes.begin());
    if (rank == 0) return shades.front();
    const std::size_t from_top = sizes.size() - 1 - std::min(rank, sizes.size() - 1);
    const std::array<std::size_t, 5> order =
        sizes.size() == 3 ? std::array<std::size_t, 5>{4, 2, 0, 0, 0} : std::array<std::size_t, 5>{4, 3, 2, 1, 0};
    return shades[order[std::min<std::size_t>(from_top, 4)]];
}

struct Cell {
    std::array<std::uint64_t, 64> bytes_by_size{};
    std::uint64_t mapped = 0;
    DumpAttributes attributes = 0;
    bool several = false; ///< more than one set of attributes
};

void add_to_cell(Cell& cell, const PictureKind& kind, std::uint64_t bytes) {
    if (cell.mapped == 0) cell.attributes = kind.attributes;
    cell.several |= cell.attributes != kind.attributes;
    cell.mapped += bytes;
    cell.bytes_by_size[size_index(kind.leaf_size)] += bytes;
}

/// Chunks of this size in which there is memory.
std::uint64_t used_chunks(std::span<const PictureRun> runs, std::uint64_t chunk) {
    std::uint64_t used = 0;
    std::uint64_t counted = 0; // chunks are numbered from 1
    for (const PictureRun& run : runs) {
        const std::uint64_t first = run.start / chunk + 1;
        const std::uint64_t last = (run.start + (run.span - 1)) / chunk + 1;
        const std::uint64_t from = std::max(first, counted + 1);
        if (from <= last) used += last - from + 1;
        counted = std::max(counted, last);
    }
    return used;
}

} // namespace

WorkingSets suitable_sets(const MapSummary& map, const WorkingSets& wanted) {
    if (!wanted.empty()) return wanted;
    WorkingSets sets;
    for (const std::uint64_t size : {64 * mib, gib, 16 * gib, 256 * gib}) {
        if (size < map.mapped_bytes) sets.push_back(size);
    }
    sets.push_back(map.mapped_bytes);
    return sets;
}

std::string percent(std::uint64_t part, std::uint64_t whole) {
    const double share = whole == 0 ? 0 : 100 * static_cast<double>(part) / static_cast<double>(whole);
    // What is there must not read as nothing, and what isn't all not as all.
    if (part != 0 && share < 0.1) return "<0.1 %";
    if (part != whole && share > 99.9) return ">99.9 %";
    return fmt::format("{:.1f} %", share);
}

std::string times(std::uint64_t more, std::uint64_t less) {
    const double factor = less == 0 ? 1 : static_cast<double>(more) / static_cast<double>(less);
    return factor < 100 ? fmt::format("{:.{}f}", factor, factor < 10 ? 2 : 1)
                        : grouped(static_cast<std::uint64_t>(std::llround(factor)));
}

std::string list_by_size(const CountBySize& counts) {
    std::string text;
    for (std::size_t index = counts.size(); index-- > 0;) {
        if (counts[index] != 0)
            text += fmt::format("{}{} of {}", text.empty() ? "" : ", ", grouped(counts[index]),
                                leaf_name(std::uint64_t{1} << index));
    }
    return text;
}

std::string shown_path(std::string_view path) {
    std::string text(path);
    std::ranges::replace_if(
        text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '?');
    return text;
}

std::string address_range(std::uint64_t start, std::uint64_t last) {
    return address(start) + "-" + address(last + 1);
}

std::string difference(DumpAttributes attributes, DumpAttributes around, DumpArchitecture architecture,
                       const DumpVocabulary& vocabulary) {
    const std::string has = vocabulary.describe(attributes & ~around, architecture);
    const std::string lacks = vocabulary.describe(around & ~attributes, architecture);
    if (has.empty()) return "without " + lacks;
    return lacks.empty() ? "with " + has : fmt::format("{} instead of {}", has, lacks);
}

std::string usual_cause(DumpAttributes attributes, DumpAttributes around, DumpArchitecture architecture) {
    if (is_present_invalid(attributes, architecture) && !is_present_invalid(around, architecture))
        return "not accessible: secret memory, guard pages, page debugging";
    if ((attributes & ~around & attribute::uncached) != 0) return "not cached: memory that a device shares";
    if ((attributes & ~around & attribute::realm_shared) != 0) return "shared with the host of a confidential guest";
    if ((attributes & ~around & attribute::key) != 0) return "guarded by a protection key: page tables";
    if (is_writable(around) && !is_writable(attributes) &&
        (around & attribute::tagged) != (attributes & attribute::tagged))
        return "read-only and untagged: the kernel image's alias";
    if (is_writable(around) && !is_writable(attributes))
        return "read-only: code and constants of modules and BPF, page tables, sealed data, the kernel image's alias";
    if (is_executable(attributes) && !is_executable(around)) return "executable: code that uses its direct-map address";
    if (is_writable(attributes) && !is_writable(around)) return "writable, in the middle of read-only memory";
    return {};
}

Json json_of(const DumpAnalysis& analysis, const DumpVocabulary& vocabulary, const WorkingSets& working_sets) {
    Json json = {{"schema", schema},
                 {"file", analysis.name},
                 {"dump", analysis.index},
                 {"architecture", architecture_name(analysis.architecture)},
                 {"entries", analysis.entries},
                 {"partial", analysis.partial()},
                 {"error", Json()}};
    if (analysis.map.has_value()) {
        const MapSummary& map = *analysis.map;
        json["direct_map"] = direct_map_json(analysis, map);
        json["islands"] = islands_json(analysis, map, vocabulary);
        json["holes"] = {{"count", map.holes},
                         {"bytes", map.hole_bytes},
                         {"small", {{"count", map.small_holes}, {"bytes", map.small_hole_bytes}}}};
        json["tlb"] = tlb_json(map, working_sets);
        json["worst_regions"] = regions_json(map);
    } else {
        json["direct_map"] = Json();
        json["error"] = analysis.problems.empty() ? "no direct map" : analysis.problems.back().reason;
    }
    json["writable_executable"] = writable_executable_json(analysis.writable_executable);
    Json unknown = Json::array();
    for (const std::string& word : vocabulary.unknown_words()) unknown.push_back(word);
    json["unknown_attributes"] = std::move(unknown);
    json["problem_count"] = analysis.problem_count;
    json["problems"] = problems_json(analysis.problems);
    return json;
}

Json json_of_failure(const std::string& name, std::uint64_t line, const std::string& reason) {
    const DumpProblem problem{DumpProblem::Kind::bad, line, reason};
    return {{"schema", schema},   {"file", name},
            {"dump", 0},          {"architecture", Json()},
            {"entries", 0},       {"partial", true},
            {"error", reason},    {"direct_map", Json()},
            {"problem_count", 1}, {"problems", problems_json(std::span(&problem, 1))}};
}

std::string text_picture(const MapSummary& map, const Palette& palette, std::size_t width, std::size_t most_rows) {
    const std::span<const PictureRun> runs = map.picture.runs();
    const std::span<const PictureKind> kinds = map.picture.kinds();
    constexpr std::size_t label = 21; // `  0xffff000000000000 `
    if (runs.empty() || width < label + 8) return {};
    // A power of two, so that rows start at round addresses.
    std::size_t row_cells = 8;
    while (row_cells * 2 + label <= width && row_cells < 128) row_cells *= 2;
    std::uint64_t chunk = map.geometry.granule();
    while (used_chunks(runs, chunk * row_cells) > most_rows && chunk < std::uint64_t{1} << 56) chunk *= 2;

    const std::vector<std::uint64_t> sizes = map.sizes();
    const std::uint64_t row_bytes = chunk * row_cells;
    std::string text =
        fmt::format("  each cell is {}; colour or letter is the leaf size of most of it:", leaf_name(chunk));
    std::string legend;
    for (const std::uint64_t size : sizes | std::views::reverse) {
        const Shade shade = shade_of(sizes, size);
        legend += palette.enabled()
                      ? ' ' + palette.wrap(fmt::format("48;5;{}", shade.colour), "  ") + ' ' + leaf_name(size)
                      : fmt::format(" {}={}", shade.letter, leaf_name(size));
    }
    text += '\n' + fmt::format("  {} {}\n", legend.substr(1),
                               palette.enabled() ? " : = several permissions" : "capital=several permissions .=hole");

    std::vector<Cell> row(row_cells);
    std::uint64_t row_start = round_down(runs.front().start, row_bytes);
    std::uint64_t previous_row = row_start;
    const auto flush_row = [&] {
        if (row_start - previous_row > row_bytes)
            text += fmt::format("  {:18} {} of nothing\n", "...", human_size(row_start - previous_row - row_bytes));
        previous_row = row_start;
        std::string line = fmt::format("  {} ", address(row_start));
        for (Cell& cell : row) {
            if (cell.mapped == 0) {
                line += palette.enabled() ? ' ' : '.';
            } else {
                const auto most = std::ranges::max_element(cell.bytes_by_size) - cell.bytes_by_size.begin();
                const Shade shade = shade_of(sizes, std::uint64_t{1} << most);
                if (palette.enabled())
                    line += palette.wrap(fmt::format("30;48;5;{}", shade.colour), cell.several ? ":" : " ");
                else
                    line += static_cast<char>(cell.several ? shade.letter - 'a' + 'A' : shade.letter);
            }
            cell = Cell{};
        }
        text += line + '\n';
    };
    for (const PictureRun& run : runs) {
        // Summed-up runs are spread evenly over their span.
        const double density = static_cast<double>(run.bytes) / static_cast<double>(run.span);
        std::uint64_t at = run.start;
        std::uint64_t left = run.span;
        while (left != 0) {
            if (at - row_start >= row_bytes) {
                flush_row();
                row_start = round_down(at, row_bytes);
            }
            const std::uint64_t part = std::min(left, chunk - at % chunk);
            const auto bytes = run.exact() ? part : static_cast<std::uint64_t>(static_cast<double>(part) * density);
            add_to_cell(row[(at - row_start) / chunk], kinds[run.kind], std::max<std::uint64_t>(bytes, 1));
            at += part;
            left -= part;
        }
    }
    flush_row();
    return text;
}

std::string text_of(const DumpAnalysis& analysis, const DumpVocabulary& vocabulary, const WorkingSets& working_sets,
                    const TextOptions& options) {
    const Palette& palette = options.palette;
    std::string text = title(analysis, options);
    if (!analysis.map.has_value()) {
        text += problems_text(analysis, palette);
        text += writable_executable_text(analysis, palette);
        return text;
    }
    const MapSummary& map = *analysis.map;
    text +=
        fmt::format("{}, {} pages{}; direct map {} (found by its {})\n", architecture_name(analysis.architecture),
                    leaf_name(map.geometry.granule()), analysis.granule_is_certain ? "" : " (assumed; --granule says)",
                    address_range(map.start, map.last), found_by_name(analysis.found_by));
    text += problems_text(analysis, palette);
    text += '\n' + sizes_text(map, palette) + '\n';
    text += verdict_text(map, palette);
    constexpr std::size_t picture_rows = 10;
    const std::string picture = text_picture(map, palette, options.width, picture_rows);
    if (!picture.empty()) text += '\n' + palette.bold("Map") + '\n' + picture;
    text += '\n' + islands_text(analysis, map, vocabulary, options);
    const std::string regions = regions_text(map, palette);
    if (!regions.empty()) text += '\n' + regions;
    text += '\n' + tlb_text(map, working_sets, palette);
    text += '\n' + holes_text(map) + writable_executable_text(analysis, palette);
    if (map.present_invalid_bytes != 0)
        text += fmt::format("Present but invalid: {}\n", human_size(map.present_invalid_bytes));
    if (!vocabulary.unknown_words().empty())
        text +=
            fmt::format("Attributes that this version doesn't know: {}\n", fmt::join(vocabulary.unknown_words(), " "));
    return text;
}

std::string fleet_heading() {
    return fmt::format("{:>9}  {:>12}  {:>12}  {:>8}  {:>9}  {:>8}  {}\n", "mapped", "leaves", "at best", "times",
                       "tables", "islands", "dump");
}

std::string fleet_line(const DumpAnalysis& analysis) {
    const std::string name = analysis.index > 1 ? fmt::format("{}, dump {}", shown_path(analysis.name), analysis.index)
                                                : shown_path(analysis.name);
    if (!analysis.map.has_value())
        return fmt::format("{:>9}  {:>12}  {:>12}  {:>8}  {:>9}  {:>8}  {}: no direct map\n", "-", "-", "-", "-", "-",
                           "-", name);
    const MapSummary& map = *analysis.map;
    return fmt::format("{:>9}  {:>12}  {:>12}  {:>8}  {:>9}  {:>8}  {}{}\n", human_size(map.mapped_bytes),
                       grouped(map.units), grouped(map.minimum_units), times(map.units, map.minimum_units),
                       grouped(map.tables_reclaimable), grouped(map.islands), name,
                       analysis.partial() ? " (partial)" : "");
}

} // namespace directmap::tool

// `directmap plan`: the layout of a machine's direct map, as text or JSON.
#include "commands.hpp"
#include "input_error.hpp"
#include "memory_map.hpp"
#include "options.hpp"
#include "output.hpp"
#include "plan.hpp"
#include "scanner.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fmt/format.h>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

namespace directmap::tool {
namespace {

constexpr const char* description =
    "Plan the direct map of a machine from its memory map\n"
    "\n"
    "Shows how many leaves of each size and how many tables the layout of an arm64 kernel takes, and what keeps leaves "
    "from\n"
    "being larger. Three layouts stand side by side: 'large' uses the largest leaves that the alignment of both "
    "addresses\n"
    "and the edges of RAM allow; 'pages' maps page by page; 'zoned' is large but for the zones given with --pages.\n";

constexpr const char* footer =
    "A RANGE is START-END, END being the last byte as in /proc/iomem, or START+SIZE. Numbers are hexadecimal; a SIZE "
    "that\n"
    "ends in K, M, G or T is decimal.\n"
    "\n"
    "Memory maps (--memory-map) are\n"
    "  iomem  the text of /proc/iomem, read as root: its 'System RAM' lines\n"
    "  list   one RANGE a line; ': reserved' or ': nomap' behind it makes it a hole; '#' starts a comment\n"
    "  dmesg  a kernel log, arm64 or x86-64: early memory node ranges, e820, EFI or device-tree memory; not the nomap "
    "ranges\n"
    "\n"
    "Examples:\n"
    "  directmap plan                                          this machine (as root)\n"
    "  directmap plan --memory-map builtin:ampere-emag-256g    a server whose map is part of the program\n"
    "  directmap plan --memory-map iomem.txt --granule 64k     another machine, with 64K pages\n"
    "  directmap plan --memory-map list.txt --pages 80000000+512M --exclude c0000000-cfffffff\n"
    "  directmap plan --memory-map iomem.txt --json | jq .tables\n"
    "\n"
    "Exit codes: 0 success, 2 bad input or usage.";

/// What a person is shown of a long list; --all shows the rest.
constexpr std::size_t causes_shown = 12;

struct Options {
    std::string memory_map = "/proc/iomem";
    std::string format = "auto";
    std::string granule = "4k";
    unsigned va_bits = 48;
    std::string offset;
    std::vector<std::string> pages;
    std::vector<std::string> statics;
    std::vector<std::string> exclude;
    bool exclude_crash_kernel = false;
    bool contiguous_top = false;
    bool json = false;
    bool all = false;
};

std::vector<Range> ranges_of(const char* option, const std::vector<std::string>& texts) {
    std::vector<Range> ranges;
    for (const std::string& text : texts) {
        std::string error;
        const auto range = parse_range(text, error);
        if (!range) throw InputError(option, 0, fmt::format("'{}': {}", printable(text), error));
        ranges.push_back(*range);
    }
    return ranges;
}

MemoryMapFormat format_of(const std::string& word) {
    for (const MemoryMapFormat format : {MemoryMapFormat::iomem, MemoryMapFormat::list, MemoryMapFormat::dmesg})
        if (word == format_name(format)) return format;
    return MemoryMapFormat::automatic;
}

PlanRequest request_of(const Options& options) {
    PlanRequest request;
    request.translation = {page_shift_of(options.granule), options.va_bits, options.contiguous_top};
    if (!options.offset.empty()) {
        Scanner scanner(options.offset);
        std::uint64_t offset = 0;
        if (!scanner.hex(offset) || !scanner.at_end())
            throw InputError(
                "--offset", 0,
                fmt::format("'{}' is not a hexadecimal number of up to 64 bits", printable(options.offset)));
        request.offset = offset;
    }
    request.pages = ranges_of("--pages", options.pages);
    request.statics = ranges_of("--static", options.statics);
    request.exclude = ranges_of("--exclude", options.exclude);
    request.exclude_crash_kernel = options.exclude_crash_kernel;
    return request;
}

nlohmann::ordered_json json_of(const Range& range) {
    return {{"start", range.start}, {"end", range.end}};
}

nlohmann::ordered_json json_of(const std::vector<Range>& ranges) {
    nlohmann::ordered_json json = nlohmann::ordered_json::array();
    for (const Range& range : ranges) json.push_back(json_of(range));
    return json;
}

/// Puts the figures of a layout into `json`.
void add_figures(nlohmann::ordered_json& json, const Plan& plan, const LayoutFigures& figures) {
    nlohmann::ordered_json leaves = nlohmann::ordered_json::object();
    for (std::size_t i = 0; i < plan.leaf_sizes.size(); ++i) leaves[leaf_name(plan.leaf_sizes[i])] = figures.leaves[i];
    json["leaves"] = leaves;
    json["leaf_count"] = figures.leaf_count;
    json["tables"] = figures.tables;
    json["table_bytes"] = figures.table_bytes;
    json["bytes"] = figures.bytes;
}

/// Addresses and sizes are numbers (physical addresses stay below 2^53), ends are exclusive; the offset needs 64 bits
/// and is text.
nlohmann::ordered_json json_of(const MemoryMap& map, const Plan& plan) {
    nlohmann::ordered_json json = {{"schema", "directmap.plan/1"}};
    json["source"] = printable(map.source);
    json["format"] = format_name(map.format);
    json["granule"] = leaf_name(std::uint64_t{1} << plan.translation.granule_shift);
    json["va_bits"] = plan.translation.va_bits;
    json["offset"] = hex(plan.offset);
    add_figures(json, plan, plan.large);
    nlohmann::ordered_json& layouts = json["layouts"];
    for (const auto& [name, figures] :
         {std::pair{"large", &plan.large}, {"pages", &plan.pages}, {"zoned", &plan.zoned}})
        add_figures(layouts[name], plan, *figures);
    json["ram"] = json_of(plan.ram);
    json["rounded"] = json_of(plan.rounded);
    json["excluded"] = json_of(plan.excluded);
    nlohmann::ordered_json& lost = json["lost"] = nlohmann::ordered_json::array();
    for (const LostLeaf& leaf : plan.lost) {
        nlohmann::ordered_json entry = json_of(leaf.range);
        entry["size"] = leaf_name(leaf.size);
        entry["leaves"] = leaf.leaf_count();
        entry["instead_of"] = leaf_name(leaf.instead_of);
        entry["reason"] = reason_name(leaf.reason);
        if (!leaf.cause.empty()) entry["cause"] = json_of(leaf.cause);
        if (!leaf.name.empty()) entry["cause"]["name"] = leaf.name;
        lost.push_back(std::move(entry));
    }
    return json;
}

/// Columns as wide as their widest cell; the first is left-aligned, the others right.
std::string table_of(const std::vector<std::vector<std::string>>& rows, const Palette& palette) {
    std::vector<std::size_t> widths;
    for (const auto& row : rows)
        for (std::size_t i = 0; i < row.size(); ++i) {
            if (i == widths.size()) widths.push_back(0);
            widths[i] = std::max(widths[i], row[i].size());
        }
    std::string text;
    for (std::size_t r = 0; r < rows.size(); ++r) {
        std::string line;
        for (std::size_t i = 0; i < rows[r].size(); ++i)
            line += i == 0 ? fmt::format("  {:<{}}", rows[r][i], widths[i])
                           : fmt::format("  {:>{}}", rows[r][i], widths[i]);
        text += (r == 0 ? palette.dim(line) : line) + '\n';
    }
    return text;
}

/// All places that one thing in the way accounts for.
struct CauseGroup {
    LossReason reason = LossReason::hole;
    Range cause;
    std::string name;
    std::vector<const LostLeaf*> places;
    std::uint64_t leaves = 0;
};

std::vector<CauseGroup> groups_of(const Plan& plan) {
    std::map<std::tuple<LossReason, std::uint64_t, std::uint64_t, std::string>, CauseGroup> groups;
    for (const LostLeaf& leaf : plan.lost) {
        CauseGroup& group = groups[{leaf.reason, leaf.cause.start, leaf.cause.end, leaf.name}];
        group.reason = leaf.reason;
        group.cause = leaf.cause;
        group.name = leaf.name;
        group.places.push_back(&leaf);
        group.leaves += leaf.leaf_count();
    }
    std::vector<CauseGroup> result;
    for (auto& [key, group] : groups) result.push_back(std::move(group));
    std::stable_sort(result.begin(), result.end(),
                     [](const CauseGroup& a, const CauseGroup& b) { return a.leaves > b.leaves; });
    return result;
}

std::string title_of(const CauseGroup& group) {
    const std::string name = group.name.empty() ? "" : fmt::format(" ({})", group.name);
    switch (group.reason) {
    case LossReason::alignment: return "VA and PA are not aligned alike (--offset)";
    case LossReason::end_of_ram:
        return group.cause.start == 0 ? fmt::format("RAM starts at {}{}", hex(group.cause.end), name)
                                      : fmt::format("RAM ends at {}{}", hex(group.cause.start), name);
    case LossReason::hole: return fmt::format("hole {}, {}{}", hex(group.cause), human_size(group.cause.size()), name);
    case LossReason::exclusion:
        return fmt::format("excluded {}, {}{}", hex(group.cause), human_size(group.cause.size()), name);
    case LossReason::zone: return fmt::format("zone {}, {}{}", hex(group.cause), human_size(group.cause.size()), name);
    }
    return {};
}

/// `20 x 64K for want of 2M, ...`, the largest loss first.
std::string sizes_of(const CauseGroup& group) {
    std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t, std::greater<>> counts;
    for (const LostLeaf* leaf : group.places) counts[{leaf->instead_of, leaf->size}] += leaf->leaf_count();
    std::string text;
    for (const auto& [sizes, count] : counts)
        text += fmt::format("{}{} x {} instead of {}", text.empty() ? "" : ", ", grouped(count),
                            leaf_name(sizes.second), leaf_name(sizes.first));
    return text;
}

std::string text_of(const MemoryMap& map, const Plan& plan, bool all, const Palette& palette) {
    const std::uint64_t page = std::uint64_t{1} << plan.translation.granule_shift;
    std::string text =
        fmt::format("{}\n", palette.bold(fmt::format("Direct map of {} of RAM in {}", human_size(plan.large.bytes),
                                                     counted(plan.ram.size(), "range", "ranges"))));
    text += fmt::format("arm64, {} pages, {}-bit VA, VA = PA + {}; from {} ({})\n\n", leaf_name(page),
                        plan.translation.va_bits, hex(plan.offset), printable(map.source), format_name(map.format));

    std::vector<std::vector<std::string>> rows(1);
    rows[0].emplace_back("layout");
    for (const std::uint64_t size : plan.leaf_sizes) rows[0].push_back(leaf_name(size));
    rows[0].insert(rows[0].end(), {"leaves", "tables", "table memory"});
    for (const auto& [name, figures] :
         {std::pair{"large", &plan.large}, {"pages", &plan.pages}, {"zoned", &plan.zoned}}) {
        std::vector<std::string>& row = rows.emplace_back();
        row.emplace_back(name);
        for (const std::uint64_t count : figures->leaves) row.push_back(grouped(count));
        row.insert(row.end(),
                   {grouped(figures->leaf_count), grouped(figures->tables), human_size(figures->table_bytes)});
    }
    text += table_of(rows, palette);

    const std::vector<Range> crash_kernel = intersect(plan.ram, ranges_of(map.crash_kernel));
    if (!crash_kernel.empty())
        text += fmt::format("\nMapped with the rest: {} of crash kernel; --exclude-crash-kernel leaves it out.\n",
                            human_size(total_size(crash_kernel)));
    if (!plan.excluded.empty()) text += fmt::format("\nExcluded: {} of RAM.\n", human_size(total_size(plan.excluded)));
    if (!plan.rounded.empty()) {
        text += fmt::format("\nNot mapped: {} of RAM at edges that are not aligned to {} pages.\n",
                            human_size(total_size(plan.rounded)), leaf_name(page));
        for (std::size_t i = 0; i < plan.rounded.size() && (all || i < causes_shown); ++i)
            text += fmt::format("  {}  {}\n", hex(plan.rounded[i]), human_size(plan.rounded[i].size()));
        if (!all && plan.rounded.size() > causes_shown)
            text += fmt::format("  ... and {} more; --all shows them.\n", grouped(plan.rounded.size() - causes_shown));
    }

    if (plan.lost.empty())
        return text + fmt::format("\nNo larger leaf was lost: everything is mapped by {} leaves.\n",
                                  leaf_name(plan.leaf_sizes.front()));
    std::uint64_t bytes = 0;
    for (const LostLeaf& leaf : plan.lost) bytes += leaf.range.size();
    const std::vector<CauseGroup> groups = groups_of(plan);
    text += fmt::format("\n{} in {}, {}, by what is in the way:\n", palette.bold("Larger leaves were lost"),
                        counted(plan.lost.size(), "place", "places"), human_size(bytes));
    for (std::size_t i = 0; i < groups.size() && (all || i < causes_shown); ++i) {
        text += fmt::format("  {}\n      {}\n", palette.yellow(title_of(groups[i])), sizes_of(groups[i]));
        if (!all) continue;
        for (const LostLeaf* leaf : groups[i].places)
            text += palette.dim(fmt::format("      {}  {} x {} instead of {}", hex(leaf->range),
                                            grouped(leaf->leaf_count()), leaf_name(leaf->size),
                                            leaf_name(leaf->instead_of))) +
                    '\n';
    }
    if (!all && groups.size() > causes_shown) {
        std::uint64_t leaves = 0;
        for (std::size_t i = causes_shown; i < groups.size(); ++i) leaves += groups[i].leaves;
        text += fmt::format("  ... and {} with {}; --all shows them.\n",
                            counted(groups.size() - causes_shown, "more cause", "more causes"),
                            counted(leaves, "leaf", "leaves"));
    }
    return text;
}

void run_plan(const Options& options) {
    const PlanRequest request = request_of(options);
    const MemoryMap map = read_memory_map(options.memory_map, format_of(options.format));
    const Plan plan = make_plan(map, request);
    const std::string text =
        options.json ? json_of(map, plan).dump(2) + '\n' : text_of(map, plan, options.all, Palette(stdout));
    std::fwrite(text.data(), 1, text.size(), stdout);
}

} // namespace

void register_plan(CLI::App& app, int& exit_code) {
    const auto options = std::make_shared<Options>();
    CLI::App* plan = app.add_subcommand("plan", description);
    plan->footer(footer);
    plan->add_option("--memory-map", options->memory_map,
                     "The memory map; '-' is standard input,\n'builtin:NAME' one that is part of the program")
        ->type_name("FILE")
        ->capture_default_str();
    plan->add_option("--memory-map-format", options->format, "auto (look at the text), iomem, list or dmesg")
        ->type_name("FORMAT")
        ->transform(one_of({"auto", "iomem", "list", "dmesg"}))
        ->capture_default_str();
    plan->add_option("--granule", options->granule, "Page size: 4k, 16k or 64k")
        ->type_name("SIZE")
        ->transform(one_of(page_size_words()))
        ->capture_default_str();
    plan->add_option("--va-bits", options->va_bits,
                     "Bits of virtual address that the map has:\n39, 48, 52 (4k), 47, 48, 52 (16k), 42, 48, 52 (64k)")
        ->type_name("N")
        ->capture_default_str();
    plan->add_option(
            "--offset", options->offset,
            "VA - PA, hexadecimal, modulo 2^64. By default the first\nRAM, rounded down to the largest leaf, lies at "
            "the\nbottom of the upper half of the address space")
        ->type_name("HEX");
    plan->add_option("--pages", options->pages, "Keep RANGE at pages in 'zoned'; may be repeated")
        ->type_name("RANGE")
        ->allow_extra_args(false);
    plan->add_option("--static", options->statics,
                     "RANGE is never resized: it stays large in 'pages' too;\nmay be repeated")
        ->type_name("RANGE")
        ->allow_extra_args(false);
    plan->add_option("--exclude", options->exclude, "Do not map RANGE; may be repeated")
        ->type_name("RANGE")
        ->allow_extra_args(false);
    plan->add_flag("--exclude-crash-kernel", options->exclude_crash_kernel, "Do not map the crash kernel's memory");
    plan->add_flag("--contiguous-top", options->contiguous_top,
                   "Use contiguous groups of 1G blocks too (16G leaves, 4k\nonly)");
    plan->add_flag("--json", options->json, "Print JSON: all that the text says and every place; ends\nare exclusive");
    plan->add_flag("--all", options->all, "Print every place where a larger leaf was lost");
    plan->callback([options, &exit_code] {
        run_plan(*options);
        exit_code = exit_ok;
    });
}

} // namespace directmap::tool

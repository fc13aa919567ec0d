#include "analyze.hpp"

#include "input_error.hpp"
#include "output.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <fmt/format.h>
#include <utility>

namespace directmap::tool {
namespace {

constexpr std::uint64_t mib = std::uint64_t{1} << 20;
constexpr std::uint64_t gib = std::uint64_t{1} << 30;
constexpr std::size_t listed_problems = 20;
constexpr std::size_t listed_ranges = 100;

/// A direct map that is recognised by its shape holds at least this much; anything less could be a driver's mapping.
constexpr std::uint64_t smallest_shape = 16 * mib;

// x86-64 keeps everything else above this address: the CPU entry area, EFI services, the kernel image, modules, fixed
// mappings.
constexpr std::uint64_t x86_direct_map_limit = 0xfffffe0000000000;
constexpr std::uint64_t kernel_half = 0x8000000000000000;
/// Kernels for 39-bit addresses live above this one, where everything is closer together.
constexpr std::uint64_t small_kernel_half = 0xffffff8000000000;

/// What a marker says about the lines behind it.
enum class Section : std::uint8_t { unnamed, direct_map, low_kernel, other };

struct MarkerMeaning {
    Section section = Section::other;
    bool end = false;
    bool start = false; ///< spelled out, so that an end marker is to be expected
};

MarkerMeaning meaning_of(std::string_view marker) {
    std::string name;
    for (const char c : marker) name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    MarkerMeaning meaning;
    meaning.end = name.ends_with(" end") || name.starts_with("end ");
    meaning.start = name.ends_with(" start");
    if (name.starts_with("linear mapping"))
        meaning.section = Section::direct_map;
    else if (name.starts_with("low kernel mapping"))
        meaning.section = Section::low_kernel;
    return meaning;
}

/// A part of the address space that is, or could be, the direct map. While the granule is not known it is worked out
/// for all.
struct Area {
    struct Variant {
        DumpGeometry geometry;
        MapAnalyzer map;
    };
    std::vector<Variant> variants;
    DumpAnalysis::FoundBy found_by = DumpAnalysis::FoundBy::shape;
    std::uint64_t last = 0;
    std::uint64_t first_line = 0;
    std::uint64_t last_line = 0;
    std::uint64_t mapped_bytes = 0;
    std::uint64_t plain_bytes = 0; ///< writable, not executable: what RAM in a direct map looks like
    bool has_devices = false;
    std::uint64_t gaps = 0; ///< between its lines, where there is not even a line about a hole
    std::uint64_t gap_bytes = 0;
    std::uint64_t first_gap_line = 0;
    std::vector<DumpProblem> skipped;         ///< remarks of the kernel that it left out lines
    std::vector<DumpProblem> skipped_in_hole; ///< the same; they matter only when there is more memory behind the hole
    bool ends_in_hole = false;

    [[nodiscard]] bool looks_like_direct_map() const {
        return plain_bytes >= smallest_shape && plain_bytes >= mapped_bytes / 2 && !has_devices;
    }
};

/// Follows one dump.
class DumpAnalyzer {
public:
    explicit DumpAnalyzer(const AnalyzeOptions& options) : options_(options) {}

    void take_marker(std::string_view marker);
    void take_line(const DumpLine& line);
    void take_problem(const DumpProblem& problem);
    [[nodiscard]] DumpAnalysis finish(std::string name, std::uint64_t index);

private:
    void add_problem(DumpProblem problem);
    [[nodiscard]] bool is_sound(const DumpLine& line);
    void count_writable_executable(const DumpLine& line);
    [[nodiscard]] bool could_be_direct_map(const DumpLine& line) const;
    void add_to_shape(const DumpLine& line);
    void add_to_area(Area& area, const DumpLine& line);
    [[nodiscard]] std::unique_ptr<Area> make_area(DumpAnalysis::FoundBy found_by) const;
    void close_candidate();
    [[nodiscard]] std::unique_ptr<Area> choose_area();
    [[nodiscard]] std::string no_direct_map() const;

    const AnalyzeOptions& options_;
    DumpAnalysis result_;
    LevelNames levels_;
    GranuleInference inference_;
    bool has_contiguous_ = false;
    bool shows_holes_ = false;
    bool any_line_ = false;
    std::uint64_t previous_last_ = 0;
    std::uint64_t last_line_ = 0;

    Section section_ = Section::unnamed;
    std::string section_name_;
    std::string unfinished_; ///< name of a direct map section that has started and whose end is still to come
    bool left_low_kernel_ = false;

    std::unique_ptr<Area> marked_;    ///< what stands under a marker that can be trusted
    std::unique_ptr<Area> candidate_; ///< what is being read and could be the direct map by its shape
    std::unique_ptr<Area> best_;      ///< the best candidate so far
};

void DumpAnalyzer::add_problem(DumpProblem problem) {
    ++result_.problem_count;
    if (problem.kind == DumpProblem::Kind::bad) ++result_.bad_lines;
    if (result_.problems.size() < listed_problems) result_.problems.push_back(std::move(problem));
}

void DumpAnalyzer::take_problem(const DumpProblem& problem) {
    if (problem.kind != DumpProblem::Kind::skipped) {
        add_problem(problem);
        return;
    }
    // Elsewhere in the address space it doesn't matter.
    Area* const area = section_ == Section::direct_map ? marked_.get() : candidate_.get();
    if (area == nullptr || area->last_line != last_line_) return;
    std::vector<DumpProblem>& skipped = area->ends_in_hole ? area->skipped_in_hole : area->skipped;
    if (skipped.size() < listed_problems) skipped.push_back(problem);
}

void DumpAnalyzer::take_marker(std::string_view marker) {
    const MarkerMeaning meaning = meaning_of(marker);
    const bool names_direct_map = meaning.section == Section::direct_map;
    if (meaning.end) {
        if (section_ == Section::unnamed && names_direct_map) {
            // An excerpt without the start: everything up to here was the direct map.
            close_candidate();
            if (best_ != nullptr && (marked_ == nullptr || best_->mapped_bytes > marked_->mapped_bytes)) {
                marked_ = std::move(best_);
                marked_->found_by = DumpAnalysis::FoundBy::end_marker;
            }
        } else if (section_ == Section::unnamed && result_.architecture != DumpArchitecture::x86_64) {
            // Everything up to here was something else.
            candidate_.reset();
            best_.reset();
        }
        if (names_direct_map) unfinished_.clear();
        section_ = Section::unnamed;
        section_name_.clear();
        return;
    }
    left_low_kernel_ = section_ == Section::low_kernel;
    section_ = meaning.section;
    section_name_ = marker;
    if (names_direct_map && meaning.start) unfinished_ = marker;
}

void DumpAnalyzer::take_line(const DumpLine& line) {
    result_.architecture = line.architecture;
    levels_.see(line);
    if (line.entry == DumpEntry::table) return;
    if (line.architecture == DumpArchitecture::arm64) inference_.see(line, levels_);
    if (!is_sound(line)) return;
    ++result_.entries;
    shows_holes_ |= line.entry == DumpEntry::hole;
    if (line.entry == DumpEntry::leaf) {
        has_contiguous_ |= line.contiguous;
        count_writable_executable(line);
    }
    if (section_ == Section::direct_map) {
        if (marked_ == nullptr) marked_ = make_area(DumpAnalysis::FoundBy::marker);
        add_to_area(*marked_, line);
    } else if (could_be_direct_map(line)) {
        add_to_shape(line);
    }
    any_line_ = true;
    previous_last_ = line.last;
    last_line_ = line.number;
}

/// Leaves that no geometry of the architecture allows can't be counted.
bool DumpAnalyzer::is_sound(const DumpLine& line) {
    if (line.entry != DumpEntry::leaf) return true;
    const DumpGeometry geometry = line.architecture != DumpArchitecture::arm64 ? DumpGeometry::riscv()
                                  : !options_.granule.has_value()              ? DumpGeometry::arm64_4k()
                                  : *options_.granule == 65536                 ? DumpGeometry::arm64_64k()
                                  : *options_.granule == 16384                 ? DumpGeometry::arm64_16k()
                                                                               : DumpGeometry::arm64_4k();
    if (leaf_runs(line, geometry, levels_).count != 0 && line.last - line.start != UINT64_MAX) return true;
    const std::uint64_t entry = geometry.entry_size(levels_.depth(line.level, line.architecture, geometry.granule()));
    add_problem({DumpProblem::Kind::bad, line.number,
                 fmt::format("{} to {} isn't made of whole {} leaves of {}", hex(line.start), hex(line.last + 1),
                             level_name(line.level, line.architecture),
                             entry == 0 ? "more than all memory" : leaf_name(entry))});
    return false;
}

void DumpAnalyzer::count_writable_executable(const DumpLine& line) {
    if (!is_writable_executable(line.attributes, line.architecture)) return;
    WritableExecutable& found = result_.writable_executable;
    found.bytes += line.last - line.start + 1;
    if (!found.list.empty() && found.list.size() == found.ranges && found.list.back().last + 1 == line.start) {
        found.list.back().last = line.last;
        return;
    }
    ++found.ranges;
    if (found.list.size() < listed_ranges) found.list.push_back({line.start, line.last});
}

bool DumpAnalyzer::could_be_direct_map(const DumpLine& line) const {
    if (line.start < kernel_half) return false;
    // On x86-64 markers can lie: before all are set up, one is printed in front of each line, whatever the line is
    // about.
    if (line.architecture == DumpArchitecture::x86_64) return line.start < x86_direct_map_limit;
    return section_ == Section::unnamed;
}

std::unique_ptr<Area> DumpAnalyzer::make_area(DumpAnalysis::FoundBy found_by) const {
    auto area = std::make_unique<Area>();
    area->found_by = found_by;
    const auto add = [&](const DumpGeometry& geometry) {
        area->variants.push_back({geometry, MapAnalyzer(geometry, result_.architecture, options_.map)});
    };
    switch (result_.architecture) {
    case DumpArchitecture::arm64:
        for (const DumpGeometry& geometry :
             {DumpGeometry::arm64_4k(), DumpGeometry::arm64_16k(), DumpGeometry::arm64_64k()}) {
            if (options_.granule.has_value() ? geometry.granule() == *options_.granule
                                             : inference_.is_possible(geometry.granule()))
                add(geometry);
        }
        break;
    case DumpArchitecture::x86_64: add(DumpGeometry::x86_64()); break;
    case DumpArchitecture::riscv:
        if (!has_contiguous_) add(DumpGeometry::riscv());
        add(DumpGeometry::riscv_napot());
        break;
    }
    return area;
}

void DumpAnalyzer::add_to_shape(const DumpLine& line) {
    if (line.entry == DumpEntry::leaf && candidate_ != nullptr) {
        // Other areas lie further away than pieces of RAM are from each other. Where a marker says that this is the map
        // of RAM, any distance is fine; where one says that it's over, the next hole ends it.
        const std::uint64_t distance = line.start - candidate_->last - 1;
        const std::uint64_t usual = line.start >= small_kernel_half ? 32 * gib : 512 * gib;
        const std::uint64_t limit = section_ == Section::low_kernel ? UINT64_MAX : left_low_kernel_ ? gib : usual;
        if (distance >= limit) close_candidate();
    }
    if (candidate_ == nullptr) {
        if (line.entry == DumpEntry::hole) return;
        candidate_ =
            make_area(section_ == Section::low_kernel ? DumpAnalysis::FoundBy::marker : DumpAnalysis::FoundBy::shape);
    }
    if (line.entry == DumpEntry::leaf) left_low_kernel_ = false;
    add_to_area(*candidate_, line);
}

void DumpAnalyzer::add_to_area(Area& area, const DumpLine& line) {
    if (area.mapped_bytes != 0 && any_line_ && area.last_line == last_line_ && line.start != previous_last_ + 1) {
        ++area.gaps;
        area.gap_bytes += line.start - previous_last_ - 1;
        if (area.first_gap_line == 0) area.first_gap_line = line.number;
    }
    area.last_line = line.number;
    std::erase_if(area.variants, [&](const Area::Variant& variant) {
        return (line.architecture == DumpArchitecture::arm64 && !options_.granule.has_value() &&
                !inference_.is_possible(variant.geometry.granule())) ||
               (has_contiguous_ && variant.geometry == DumpGeometry::riscv());
    });
    for (Area::Variant& variant : area.variants) {
        if (line.entry == DumpEntry::hole) {
            variant.map.add_hole(line.start, line.last,
                                 levels_.depth(line.level, line.architecture, variant.geometry.granule()));
            continue;
        }
        const LeafRuns runs = leaf_runs(line, variant.geometry, levels_);
        for (const LeafRun& run : std::span(runs.runs).first(runs.count)) variant.map.add_leaves(run);
    }
    area.ends_in_hole = line.entry == DumpEntry::hole;
    if (area.ends_in_hole) return;
    std::ranges::move(area.skipped_in_hole, std::back_inserter(area.skipped));
    area.skipped_in_hole.clear();
    const std::uint64_t bytes = line.last - line.start + 1;
    if (area.mapped_bytes == 0) area.first_line = line.number;
    area.last = line.last;
    area.mapped_bytes += bytes;
    area.has_devices |= (line.attributes & attribute::device) != 0;
    if (is_writable(line.attributes) && !is_executable(line.attributes)) area.plain_bytes += bytes;
}

void DumpAnalyzer::close_candidate() {
    // Where a marker and the shape agree, size doesn't matter.
    const auto is_better = [](const Area& a, const Area& b) {
        const bool named = a.found_by == DumpAnalysis::FoundBy::marker;
        return a.found_by != b.found_by ? named : a.plain_bytes > b.plain_bytes;
    };
    if (candidate_ != nullptr && candidate_->looks_like_direct_map() &&
        (best_ == nullptr || is_better(*candidate_, *best_)))
        best_ = std::move(candidate_);
    candidate_.reset();
}

std::unique_ptr<Area> DumpAnalyzer::choose_area() {
    close_candidate();
    if (marked_ != nullptr && marked_->mapped_bytes != 0) return std::move(marked_);
    return std::move(best_);
}

std::string DumpAnalyzer::no_direct_map() const {
    const std::string_view expected =
        result_.architecture == DumpArchitecture::x86_64
            ? "a range of kernel addresses that maps RAM, writable and not executable"
            : "lines under a marker `---[ Linear Mapping start ]---`, or a range of kernel addresses that maps RAM";
    return fmt::format("no direct map in this dump of {} ({}{}); expected {}", architecture_name(result_.architecture),
                       counted(result_.entries, "line", "lines"),
                       section_name_.empty() ? "" : fmt::format(", the last under `{}`", section_name_), expected);
}

DumpAnalysis DumpAnalyzer::finish(std::string name, std::uint64_t index) {
    result_.name = std::move(name);
    result_.index = index;
    const std::unique_ptr<Area> area = choose_area();
    if (area == nullptr) {
        add_problem({DumpProblem::Kind::missing, 0, no_direct_map()});
        return std::move(result_);
    }
    std::uint64_t granule = 4096;
    if (result_.architecture == DumpArchitecture::arm64) {
        granule = options_.granule.value_or(inference_.granule());
        result_.granule_is_certain = options_.granule.has_value() || inference_.is_certain();
    }
    const auto variant = std::ranges::find_if(
        area->variants, [&](const Area::Variant& candidate) { return candidate.geometry.granule() == granule; });
    Area::Variant& chosen = variant == area->variants.end() ? area->variants.front() : *variant;
    result_.map = chosen.map.finish(levels_.depth(DumpLevel::pgd, result_.architecture, chosen.geometry.granule()));
    result_.found_by = area->found_by;
    result_.first_line = area->first_line;

    for (DumpProblem& problem : area->skipped) add_problem(std::move(problem));
    if (shows_holes_ && area->gaps != 0)
        add_problem({DumpProblem::Kind::missing, area->first_gap_line,
                     fmt::format("{} missing: the direct map's lines leave out {}, first in front of this one",
                                 area->gaps == 1 ? "a line is" : "lines are", human_size(area->gap_bytes))});
    if (area->found_by == DumpAnalysis::FoundBy::marker && !unfinished_.empty())
        add_problem({DumpProblem::Kind::missing, last_line_,
                     fmt::format("the dump ends here, but `{}` has no end marker yet", unfinished_)});
    else if (result_.architecture == DumpArchitecture::x86_64 && area->last_line == last_line_)
        add_problem({DumpProblem::Kind::missing, last_line_, "the dump ends here, inside the direct map"});
    return std::move(result_);
}

} // namespace

LeafRuns leaf_runs(const DumpLine& line, const DumpGeometry& geometry, const LevelNames& levels) {
    LeafRuns result;
    const unsigned depth = levels.depth(line.level, line.architecture, geometry.granule());
    const std::uint64_t entry = geometry.entry_size(depth);
    if (entry == 0 || ((line.start | (line.last + 1)) & (entry - 1)) != 0) return result;
    const auto add = [&](std::uint64_t start, std::uint64_t last, std::uint64_t size) {
        result.runs[result.count++] = {.start = start,
                                       .last = last,
                                       .leaf_size = size,
                                       .depth = depth,
                                       .attributes = line.attributes,
                                       .offset = line.has_physical ? line.start - line.physical : 0};
    };
    const std::uint64_t group = line.contiguous ? geometry.group_size(depth) : 0;
    if (group == 0) {
        add(line.start, line.last, entry);
        return result;
    }
    const std::uint64_t first_group = round_up(line.start, group);
    const std::uint64_t groups_last =
        round_down(line.last + 1, group) - 1; // wraps as the end of the address space does
    if (first_group > groups_last || first_group < line.start) {
        add(line.start, line.last, entry);
        return result;
    }
    if (line.start != first_group) add(line.start, first_group - 1, entry);
    add(first_group, groups_last, group);
    if (groups_last != line.last) add(groups_last + 1, line.last, entry);
    return result;
}

std::uint64_t analyze_dumps(ByteSource& source, const std::string& name, const AnalyzeOptions& options,
                            const std::function<void(DumpAnalysis&&, const DumpVocabulary&)>& result) {
    DumpVocabulary vocabulary;
    DumpReader reader(source, name, vocabulary);
    std::unique_ptr<DumpAnalyzer> analyzer;
    std::uint64_t dumps = 0;
    const auto finish = [&] {
        if (analyzer != nullptr) result(analyzer->finish(name, dumps), vocabulary);
    };
    // Lines that were wrong before there was any dump; the first dump answers for them.
    std::vector<DumpProblem> early;
    for (;;) {
        switch (reader.next()) {
        case DumpEvent::new_dump:
            finish();
            ++dumps;
            analyzer = std::make_unique<DumpAnalyzer>(options);
            for (const DumpProblem& problem : early) analyzer->take_problem(problem);
            early.clear();
            break;
        case DumpEvent::marker: analyzer->take_marker(reader.marker()); break;
        case DumpEvent::line: analyzer->take_line(reader.line()); break;
        case DumpEvent::problem:
            if (analyzer != nullptr)
                analyzer->take_problem(reader.problem());
            else if (early.size() < listed_problems)
                early.push_back(reader.problem());
            break;
        case DumpEvent::end:
            finish();
            if (dumps == 0 && !early.empty()) throw InputError(name, early.front().line, early.front().reason);
            if (dumps == 0)
                throw InputError(name, 0,
                                 "no line of a page-table dump; expected lines like "
                                 "`0xffff000000200000-0xffff000000400000  2M PMD  RW NX SHD AF BLK UXN MEM/NORMAL`");
            return dumps;
        }
    }
}

} // namespace directmap::tool

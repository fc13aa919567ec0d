#include "plan.hpp"

#include "input_error.hpp"
#include "output.hpp"

#include <directmap/arm64/format.hpp>
#include <directmap/geometry.hpp>
#include <directmap/layout.hpp>

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <functional>
#include <iterator>
#include <limits>
#include <utility>

namespace directmap::tool {
namespace {

/// The engine's formats are types; a request names one at run time. This is one of them as a value.
struct EngineFormat {
    Translation translation;
    std::span<const LeafSize> leaf_sizes;
    unsigned pa_bits;
    Result<void> (*check)(const Layout&, std::uint64_t offset);
    Measure (*measure)(const Layout&, std::uint64_t offset, Mapping);

    [[nodiscard]] std::uint64_t page_size() const { return leaf_sizes.back().bytes(); }
    [[nodiscard]] std::uint64_t largest_leaf() const { return leaf_sizes.front().bytes(); }
};

template <arm64::Granule granule, unsigned va_bits, bool contiguous_top = false>
constexpr EngineFormat engine_format() {
    using G = Geometry<arm64::shape(granule, va_bits, contiguous_top)>;
    return {{G::page_shift, va_bits, contiguous_top},
            {G::leaf_sizes.of, G::leaf_sizes.count},
            G::pa_bits,
            &check_layout<G>,
            &measure<G>};
}

const EngineFormat engine_formats[] = {
    engine_format<arm64::Granule::k4, 39>(),       engine_format<arm64::Granule::k4, 48>(),
    engine_format<arm64::Granule::k4, 52>(),       engine_format<arm64::Granule::k4, 39, true>(),
    engine_format<arm64::Granule::k4, 48, true>(), engine_format<arm64::Granule::k4, 52, true>(),
    engine_format<arm64::Granule::k16, 47>(),      engine_format<arm64::Granule::k16, 48>(),
    engine_format<arm64::Granule::k16, 52>(),      engine_format<arm64::Granule::k64, 42>(),
    engine_format<arm64::Granule::k64, 48>(),      engine_format<arm64::Granule::k64, 52>(),
};

const EngineFormat& find_format(const Translation& wanted) {
    for (const EngineFormat& format : engine_formats)
        if (format.translation == wanted) return format;
    const std::vector<unsigned> possible = va_bits_of(wanted.granule_shift);
    const std::string granule = leaf_name(std::uint64_t{1} << wanted.granule_shift);
    if (possible.empty()) throw InputError("--granule", 0, fmt::format("{} is none of 4K, 16K, 64K", granule));
    if (std::find(possible.begin(), possible.end(), wanted.va_bits) == possible.end())
        throw InputError(
            "--va-bits", 0,
            fmt::format("with {} pages a map has {} bits, not {}", granule, fmt::join(possible, ", "), wanted.va_bits));
    throw InputError("--contiguous-top", 0, "only with 4K pages; the largest leaf of the others needs no asking");
}

/// What the user asked for, checked against the memory map.
class Planner {
public:
    Planner(const MemoryMap& map, const PlanRequest& request)
        : map_(map), request_(request), format_(find_format(request.translation)) {}

    Plan make();

private:
    struct Piece {
        Range range;
        bool by_pages = false;
        bool in_zone = false;
    };
    /// Neighbouring leaves of one size.
    struct Run {
        Range range;
        std::size_t size_index = 0;
        std::optional<LostLeaf> loss;
    };
    struct Obstacle {
        LossReason reason = LossReason::hole;
        Range cause;
        std::string name;
    };

    void take_ram();
    void take_exclusions(std::vector<Range>& ram);
    void choose_offset();
    void take_zones();
    void check();
    [[nodiscard]] LayoutFigures figures(const std::vector<Zone>& zones, Mapping mapping) const;
    [[nodiscard]] std::vector<Piece> pieces(const std::vector<Zone>& zones) const;
    [[nodiscard]] std::vector<Run> runs(const std::vector<Piece>& pieces) const;
    void explain(const std::vector<Run>& large);
    [[nodiscard]] bool usable(std::size_t size_index) const { return plan_.offset % plan_.leaf_sizes[size_index] == 0; }
    [[nodiscard]] std::optional<LostLeaf> loss(const std::vector<Piece>& pieces, std::size_t piece,
                                               const Run& run) const;
    [[nodiscard]] Obstacle below(const std::vector<Piece>& pieces, std::size_t piece) const;
    [[nodiscard]] Obstacle above(const std::vector<Piece>& pieces, std::size_t piece) const;
    [[nodiscard]] Obstacle gap_at(std::uint64_t address, Range gap, bool outside) const;
    [[nodiscard]] Obstacle zone_at(std::uint64_t address) const;
    [[nodiscard]] Layout layout(const std::vector<Zone>& zones) const {
        return {{ram_.data(), ram_.size()}, {zones.data(), zones.size()}};
    }

    const MemoryMap& map_;
    const PlanRequest& request_;
    const EngineFormat& format_;
    Plan plan_;
    std::vector<RamRange> ram_;
    std::vector<NamedRange> excluded_names_;
    std::vector<NamedRange> zone_names_;
    std::vector<NamedRange> gap_names_; ///< what the source names outside RAM; disjoint
    std::vector<Zone> statics_;
    std::vector<Zone> all_zones_;
};

/// The range that holds `address` in a sorted, disjoint list; its index, or nothing.
template <class Ranges, class Projection>
const typename Ranges::value_type* find_range(const Ranges& ranges, std::uint64_t address, Projection range_of) {
    auto after = std::upper_bound(ranges.begin(), ranges.end(), address, [&](std::uint64_t value, const auto& element) {
        return value < range_of(element).start;
    });
    if (after == ranges.begin()) return nullptr;
    --after;
    return range_of(*after).contains(address) ? &*after : nullptr;
}

const NamedRange* find_named(const std::vector<NamedRange>& ranges, std::uint64_t address) {
    return find_range(ranges, address, [](const NamedRange& named) { return named.range; });
}

/// Sorted by address; of ranges that overlap, the earlier or outer one stays.
std::vector<NamedRange> disjoint(std::vector<NamedRange> ranges) {
    std::stable_sort(ranges.begin(), ranges.end(), [](const NamedRange& a, const NamedRange& b) {
        return a.range.start != b.range.start ? a.range.start < b.range.start : a.range.end > b.range.end;
    });
    std::vector<NamedRange> result;
    for (NamedRange& named : ranges)
        if (!named.range.empty() && (result.empty() || result.back().range.end <= named.range.start))
            result.push_back(std::move(named));
    return result;
}

Plan Planner::make() {
    plan_.translation = request_.translation;
    for (const LeafSize& size : format_.leaf_sizes) plan_.leaf_sizes.push_back(size.bytes());
    take_ram();
    choose_offset();
    take_zones();
    check();
    plan_.large = figures(statics_, Mapping::largest);
    plan_.pages = figures(statics_, Mapping::pages);
    plan_.zoned = figures(all_zones_, Mapping::largest);
    explain(runs(pieces(statics_)));
    return std::move(plan_);
}

void Planner::take_exclusions(std::vector<Range>& ram) {
    for (const Range& range : request_.exclude) {
        const std::vector<Range> parts = intersect({range}, map_.ram);
        if (parts.empty()) throw InputError("--exclude", 0, fmt::format("there is no RAM at {}", hex(range)));
        for (const Range& part : parts) excluded_names_.push_back({part, "--exclude"});
    }
    if (request_.exclude_crash_kernel) {
        if (map_.crash_kernel.empty())
            throw InputError("--exclude-crash-kernel", 0, fmt::format("{} shows no crash kernel", map_.source));
        excluded_names_.insert(excluded_names_.end(), map_.crash_kernel.begin(), map_.crash_kernel.end());
    }
    const std::vector<Range> excluded = ranges_of(excluded_names_);
    plan_.excluded = intersect(ram, excluded);
    ram = subtract(ram, excluded);
    excluded_names_ = disjoint(std::move(excluded_names_));
}

void Planner::take_ram() {
    std::vector<Range> ram = map_.ram;
    take_exclusions(ram);
    const std::uint64_t page = format_.page_size();
    for (const Range& range : ram) {
        const Range whole{align_up(range.start, page), align_down(range.end, page)};
        if (whole.empty()) {
            plan_.rounded.push_back(range);
            continue;
        }
        if (range.start != whole.start) plan_.rounded.push_back({range.start, whole.start});
        plan_.ram.push_back(whole);
        if (range.end != whole.end) plan_.rounded.push_back({whole.end, range.end});
    }
    if (plan_.ram.empty())
        throw InputError(map_.source, 0, fmt::format("no {} page of RAM is left to map", leaf_name(page)));
    for (const Range& range : plan_.ram) ram_.push_back({phys_range(range.start, range.end), {}});

    gap_names_ = map_.nomap;
    gap_names_.insert(gap_names_.end(), map_.devices.begin(), map_.devices.end());
    gap_names_ = disjoint(std::move(gap_names_));
}

void Planner::choose_offset() {
    const unsigned va_bits = request_.translation.va_bits;
    if (request_.offset) {
        plan_.offset = *request_.offset;
        if (plan_.offset % format_.page_size() != 0)
            throw InputError(
                "--offset", 0,
                fmt::format("{} is not a multiple of the {} page", hex(plan_.offset), leaf_name(format_.page_size())));
    } else {
        const std::uint64_t base = align_down(plan_.ram.front().start, format_.largest_leaf());
        const std::uint64_t span = plan_.ram.back().end - base;
        if (span > std::uint64_t{1} << va_bits)
            throw InputError(map_.source, 0,
                             fmt::format("RAM spans {}, but a map of {} bits holds {}; see --va-bits", human_size(span),
                                         va_bits, human_size(std::uint64_t{1} << va_bits)));
        plan_.offset = 0 - (std::uint64_t{1} << va_bits) - base;
    }
}

void Planner::take_zones() {
    const auto take = [&](const std::vector<Range>& ranges, const char* option, ZoneKind kind) {
        std::vector<Zone> zones;
        for (const Range& range : ranges) {
            const std::uint64_t page = format_.page_size();
            if (range.start % page != 0 || range.end % page != 0)
                throw InputError(option, 0,
                                 fmt::format("{} does not consist of whole {} pages (the end is the last byte)",
                                             hex(range), leaf_name(page)));
            if (intersect({range}, plan_.ram).empty())
                throw InputError(option, 0, fmt::format("there is no RAM at {}", hex(range)));
        }
        for (const Range& range : merged(ranges)) {
            zones.push_back({phys_range(range.start, range.end), kind, false, {}});
            zone_names_.push_back({range, option});
        }
        return zones;
    };
    statics_ = take(request_.statics, "--static", ZoneKind::fixed_size);
    const std::vector<Zone> pages = take(request_.pages, "--pages", ZoneKind::pages);
    const std::vector<Range> both = intersect(merged(request_.statics), merged(request_.pages));
    if (!both.empty()) throw InputError("--static", 0, fmt::format("{} is also in --pages", hex(both.front())));
    std::merge(statics_.begin(), statics_.end(), pages.begin(), pages.end(), std::back_inserter(all_zones_),
               [](const Zone& a, const Zone& b) { return a.range.start < b.range.start; });
    zone_names_ = disjoint(std::move(zone_names_));
}

void Planner::check() {
    const std::uint64_t limit = std::uint64_t{1} << format_.pa_bits;
    if (plan_.ram.back().end > limit)
        throw InputError(map_.source, 0,
                         fmt::format("RAM {} lies beyond {} bits of physical address{}", hex(plan_.ram.back()),
                                     format_.pa_bits, format_.pa_bits < 52 ? "; --va-bits 52 has 52" : ""));
    // Zones may be longer than RAM, but the engine wants even that to be addressable.
    for (const Zone& zone : all_zones_)
        if (zone.range.end().value() > limit)
            throw InputError("a zone", 0,
                             fmt::format("{} lies beyond {} bits of physical address",
                                         hex(Range{zone.range.start.value(), zone.range.end().value()}),
                                         format_.pa_bits));
    if (const Result<void> result = format_.check(layout(all_zones_), plan_.offset); !result)
        throw InputError(map_.source, 0,
                         fmt::format("{} (at {}, with VA = PA + {})", result.error().reason(),
                                     hex(result.error().where().value()), hex(plan_.offset)));
}

LayoutFigures Planner::figures(const std::vector<Zone>& zones, Mapping mapping) const {
    const Measure measured = format_.measure(layout(zones), plan_.offset, mapping);
    LayoutFigures result;
    result.leaves.assign(std::begin(measured.leaves), std::begin(measured.leaves) + plan_.leaf_sizes.size());
    for (const std::uint64_t count : result.leaves) result.leaf_count += count;
    result.tables = measured.tables;
    result.table_bytes = measured.tables * format_.page_size();
    result.bytes = measured.bytes;
    return result;
}

/// What the engine maps alike: leaves never cross the edge of a piece.
std::vector<Planner::Piece> Planner::pieces(const std::vector<Zone>& zones) const {
    std::vector<Piece> result;
    SegmentCursor cursor(layout(zones), Mapping::largest);
    for (Segment segment; cursor.next(segment);)
        result.push_back(
            {{segment.range.start.value(), segment.range.end().value()}, segment.by_pages, segment.attributes.fixed()});
    return result;
}

/// The leaves of pieces that are mapped large: around the largest leaves that fit, smaller ones towards both edges.
std::vector<Planner::Run> Planner::runs(const std::vector<Piece>& pieces) const {
    std::vector<Run> result;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        const Piece& piece = pieces[i];
        if (piece.by_pages) continue;
        const std::size_t first = result.size();
        Range covered;
        for (std::size_t size = 0; size < plan_.leaf_sizes.size(); ++size) {
            if (!usable(size)) continue;
            const std::uint64_t bytes = plan_.leaf_sizes[size];
            const Range whole{align_up(piece.range.start, bytes), align_down(piece.range.end, bytes)};
            if (whole.empty()) continue;
            if (covered.empty()) {
                // The largest that fit may lie on both sides of a boundary of the next size, lost to one edge here and
                // to the other there.
                const std::uint64_t larger = size == 0 ? 0 : plan_.leaf_sizes[size - 1];
                const std::uint64_t boundary = size == 0 ? whole.start : align_up(whole.start, larger);
                if (whole.start < boundary && boundary < whole.end && boundary + larger > whole.end) {
                    result.push_back({{whole.start, boundary}, size, {}});
                    result.push_back({{boundary, whole.end}, size, {}});
                } else {
                    result.push_back({whole, size, {}});
                }
            } else {
                if (whole.start < covered.start) result.push_back({{whole.start, covered.start}, size, {}});
                if (covered.end < whole.end) result.push_back({{covered.end, whole.end}, size, {}});
            }
            covered = whole;
        }
        std::sort(result.begin() + static_cast<std::ptrdiff_t>(first), result.end(),
                  [](const Run& a, const Run& b) { return a.range.start < b.range.start; });
        for (std::size_t run = first; run < result.size(); ++run) result[run].loss = loss(pieces, i, result[run]);
    }
    return result;
}

std::optional<LostLeaf> Planner::loss(const std::vector<Piece>& pieces, std::size_t piece, const Run& run) const {
    if (run.size_index == 0) return std::nullopt;
    const std::uint64_t larger = plan_.leaf_sizes[run.size_index - 1];
    LostLeaf lost{run.range, plan_.leaf_sizes[run.size_index], larger, LossReason::alignment, {}, {}};
    if (!usable(run.size_index - 1) && align_up(run.range.start, larger) + larger <= run.range.end) return lost;
    // The larger leaf would reach over one edge of the piece, or over both; then the nearer one is named.
    const Range block{align_down(run.range.start, larger), align_down(run.range.start, larger) + larger};
    const Range& whole = pieces[piece].range;
    const bool over_start = block.start < whole.start;
    const bool over_end = block.end > whole.end;
    const bool start_is_nearer = run.range.start - whole.start <= whole.end - run.range.end;
    const Obstacle obstacle =
        over_start && (!over_end || start_is_nearer) ? below(pieces, piece) : above(pieces, piece);
    lost.reason = obstacle.reason;
    lost.cause = obstacle.cause;
    lost.name = obstacle.name;
    return lost;
}

Planner::Obstacle Planner::below(const std::vector<Piece>& pieces, std::size_t piece) const {
    const std::uint64_t start = pieces[piece].range.start;
    const std::uint64_t previous_end = piece == 0 ? 0 : pieces[piece - 1].range.end;
    if (piece != 0 && previous_end == start) return zone_at(pieces[piece].in_zone ? start : start - 1);
    return gap_at(start - 1, {previous_end, start}, piece == 0);
}

Planner::Obstacle Planner::above(const std::vector<Piece>& pieces, std::size_t piece) const {
    const std::uint64_t end = pieces[piece].range.end;
    const bool last = piece + 1 == pieces.size();
    const std::uint64_t next_start = last ? std::uint64_t{1} << format_.pa_bits : pieces[piece + 1].range.start;
    if (!last && next_start == end) return zone_at(pieces[piece].in_zone ? end - 1 : end);
    return gap_at(end, {end, std::max(next_start, end + 1)}, last);
}

Planner::Obstacle Planner::zone_at(std::uint64_t address) const {
    Obstacle obstacle{LossReason::zone, {}, {}};
    if (const NamedRange* zone = find_named(zone_names_, address)) {
        obstacle.cause = zone->range;
        obstacle.name = zone->name;
    }
    return obstacle;
}

/// `address` is the one next to the piece, in the gap `gap` between pieces or outside of all.
Planner::Obstacle Planner::gap_at(std::uint64_t address, Range gap, bool outside) const {
    // Part of a page at an edge of RAM is no obstacle of its own; what made the page partial is.
    const auto is_rounded = [&](std::uint64_t at) { return find_range(plan_.rounded, at, std::identity{}); };
    while (const Range* rounded = is_rounded(address)) {
        const std::uint64_t next = address == gap.start ? rounded->end : rounded->start - 1;
        if (!gap.contains(next)) break;
        gap = address == gap.start ? Range{next, gap.end} : Range{gap.start, next + 1};
        address = next;
    }
    // What was excluded is an obstacle of its own: a gap reaches as far as the first RAM, mapped or not.
    const std::vector<Range> parts = subtract({gap}, plan_.excluded);
    if (const Range* part = find_range(parts, address, std::identity{})) gap = *part;
    Obstacle obstacle{outside ? LossReason::end_of_ram : LossReason::hole, gap, {}};
    const auto clipped = [&](const Range& range) {
        return Range{std::max(range.start, gap.start), std::min(range.end, gap.end)};
    };
    if (const Range* excluded = find_range(plan_.excluded, address, std::identity{})) {
        // Exclusions may overlap, and then not each of them kept its name.
        const NamedRange* by_name = find_named(excluded_names_, address);
        obstacle.reason = LossReason::exclusion;
        obstacle.cause = clipped(by_name != nullptr ? by_name->range : *excluded);
        obstacle.name = by_name != nullptr ? by_name->name : "--exclude";
    } else if (const NamedRange* named = find_named(gap_names_, address)) {
        if (!outside) obstacle.cause = clipped(named->range);
        obstacle.name = named->name;
    }
    return obstacle;
}

/// `large` has the leaves of the same RAM without zones of pages: what a page of a zone was lost from.
void Planner::explain(const std::vector<Run>& large) {
    const std::vector<Piece> zoned = pieces(all_zones_);
    for (const Run& run : runs(zoned))
        if (run.loss) plan_.lost.push_back(*run.loss);
    const std::uint64_t page = format_.page_size();
    for (const Piece& piece : zoned) {
        if (!piece.by_pages) continue;
        auto run = std::lower_bound(large.begin(), large.end(), piece.range.start,
                                    [](const Run& r, std::uint64_t address) { return r.range.end <= address; });
        for (; run != large.end() && run->range.start < piece.range.end; ++run) {
            LostLeaf lost{intersect({run->range}, {piece.range}).front(),
                          page,
                          plan_.leaf_sizes[run->size_index],
                          LossReason::zone,
                          {},
                          {}};
            const std::optional<LostLeaf>& without_zone = run->loss;
            if (without_zone && lost.instead_of == page) {
                // Pages with or without the zone.
                const Range range = lost.range;
                lost = *without_zone;
                lost.range = range;
            } else {
                const Obstacle obstacle = zone_at(lost.range.start);
                lost.cause = obstacle.cause;
                lost.name = obstacle.name;
            }
            plan_.lost.push_back(std::move(lost));
        }
    }
    std::stable_sort(plan_.lost.begin(), plan_.lost.end(),
                     [](const LostLeaf& a, const LostLeaf& b) { return a.range.start < b.range.start; });
}

} // namespace

std::vector<unsigned> va_bits_of(unsigned granule_shift) {
    std::vector<unsigned> result;
    for (const EngineFormat& format : engine_formats)
        if (format.translation.granule_shift == granule_shift && !format.translation.contiguous_top)
            result.push_back(format.translation.va_bits);
    return result;
}

std::string_view reason_name(LossReason reason) {
    switch (reason) {
    case LossReason::alignment: return "alignment";
    case LossReason::hole: return "hole";
    case LossReason::end_of_ram: return "end_of_ram";
    case LossReason::exclusion: return "exclusion";
    case LossReason::zone: return "zone";
    }
    return "?";
}

Plan make_plan(const MemoryMap& map, const PlanRequest& request) {
    return Planner(map, request).make();
}

} // namespace directmap::tool

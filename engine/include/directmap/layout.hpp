// What a direct map is to contain, and what that costs: a pure calculation, before any memory exists.
#pragma once

#include <cstdint>

#include "directmap/attributes.hpp"
#include "directmap/error.hpp"
#include "directmap/geometry.hpp"
#include "directmap/reasons.hpp"
#include "directmap/span.hpp"
#include "directmap/units.hpp"

namespace directmap {

/// A range of RAM, with the attributes that its pages start with.
struct RamRange {
    PhysRange range;
    Attributes attributes;
};

enum class ZoneKind : std::uint8_t {
    excluded,   ///< not mapped: a no-map hole, a crash kernel's memory
    pages,      ///< mapped by pages that stay pages: a guard-page pool, tables of an interrupt controller
    fixed_size, ///< mapped with the largest leaves, never resized afterwards: the kernel image's alias ("static")
};

/// A part of RAM that is mapped otherwise than its surroundings.
struct Zone {
    PhysRange range;
    ZoneKind kind = ZoneKind::excluded;
    /// The zone's own attributes; otherwise those of the RAM around it.
    bool has_attributes = false;
    Attributes attributes{};
};

/// RAM and zones, each sorted by address and free of overlaps. Zones may reach beyond RAM; what is outside is ignored.
struct Layout {
    Span<const RamRange> ram;
    Span<const Zone> zones;
};

/// How RAM outside of zones is mapped.
enum class Mapping : std::uint8_t {
    largest, ///< by the largest leaves that the alignment of both addresses allows
    pages,   ///< by single pages: a machine that can't resize live and wants every page changeable
};

/// A maximal run of RAM that is mapped alike.
struct Segment {
    PhysRange range;
    Attributes attributes; ///< `fixed` is set in zones
    bool by_pages = false;
};

/// Yields the segments of a layout in address order. Neighbours that say the same are one segment, so that leaves
/// may span what a firmware listed separately.
class SegmentCursor {
public:
    constexpr SegmentCursor(const Layout& layout, Mapping mapping) : layout_{layout}, mapping_{mapping} {
        has_next_ = step(next_);
    }

    /// False at the end.
    [[nodiscard]] constexpr bool next(Segment& segment) {
        if (!has_next_) return false;
        segment = next_;
        while ((has_next_ = step(next_)) && next_.range.start == segment.range.end() &&
               next_.attributes == segment.attributes && next_.by_pages == segment.by_pages) {
            segment.range.size += next_.range.size;
        }
        return true;
    }

private:
    [[gnu::noinline]] constexpr bool step(Segment& segment) {
        while (ram_ < layout_.ram.size()) {
            const RamRange& ram = layout_.ram[ram_];
            if (position_ < ram.range.start) position_ = ram.range.start;
            if (position_ >= ram.range.end()) {
                ++ram_;
                continue;
            }
            while (zone_ < layout_.zones.size() && layout_.zones[zone_].range.end() <= position_) ++zone_;
            const Zone* zone = zone_ < layout_.zones.size() ? &layout_.zones[zone_] : nullptr;
            PhysAddr end = ram.range.end();
            const bool inside = zone != nullptr && zone->range.start <= position_;
            if (zone != nullptr) {
                const PhysAddr limit = inside ? zone->range.end() : zone->range.start;
                if (limit < end) end = limit;
            }
            const PhysAddr start = position_;
            position_ = end;
            if (inside && zone->kind == ZoneKind::excluded) continue;
            segment.range = {start, end - start};
            segment.attributes = inside && zone->has_attributes ? zone->attributes : ram.attributes;
            if (inside) segment.attributes = segment.attributes.with_fixed(true);
            segment.by_pages = inside ? zone->kind == ZoneKind::pages : mapping_ == Mapping::pages;
            return true;
        }
        return false;
    }

    Layout layout_;
    Mapping mapping_;
    PhysAddr position_{};
    std::size_t ram_ = 0;
    std::size_t zone_ = 0;
    Segment next_{};
    bool has_next_ = false;
};

/// What a layout costs.
struct Measure {
    std::uint64_t leaves[6] = {}; ///< by leaf size, in the order of Geometry::leaf_sizes
    std::uint64_t tables = 0;     ///< root included
    std::uint64_t bytes = 0;      ///< mapped
};

/// Checks a layout for a map with VA = PA + `offset`: aligned, sorted, free of overlaps, addressable.
/// Errors: invalid_argument with the first offending range's start.
template <class G>
[[nodiscard]] constexpr Result<void> check_layout(const Layout& layout, std::uint64_t offset) {
    if (layout.ram.empty()) return Error{reasons::no_ram, PhysAddr{}};
    if ((offset & (G::page_size - 1)) != 0) {
        return Error{reasons::misaligned_offset, PhysAddr{}};
    }
    for (bool zones = false;; zones = true) {
        std::uint64_t previous_end = 0;
        const std::size_t count = zones ? layout.zones.size() : layout.ram.size();
        for (std::size_t i = 0; i < count; ++i) {
            const PhysRange range = zones ? layout.zones[i].range : layout.ram[i].range;
            const std::uint64_t start = range.start.value(), end = start + range.size;
            const Reason* reason = nullptr;
            if (range.size == 0) {
                reason = &reasons::empty_entry;
            } else if (((start | range.size) & (G::page_size - 1)) != 0) {
                reason = &reasons::misaligned_entry;
            } else if (end < start) {
                reason = &reasons::wrapping_entry;
            } else if (end > std::uint64_t{1} << G::pa_bits) {
                reason = &reasons::unaddressable_entry;
            } else if (start < previous_end) {
                reason = zones ? &reasons::unsorted_zones : &reasons::unsorted_ram;
            }
            if (reason != nullptr) return Error{*reason, range.start};
            previous_end = end;
        }
        if (zones) break;
    }
    // All RAM must lie in one half of the address space: the bits above va_bits are the same from end to end.
    const PhysRange last = layout.ram[layout.ram.size() - 1].range;
    const std::uint64_t first_va = layout.ram[0].range.start.value() + offset;
    const std::uint64_t last_va = last.end().value() - 1 + offset;
    if (first_va >> G::va_bits != last_va >> G::va_bits) {
        return Error{reasons::too_wide, last.start};
    }
    return {};
}

/// The leaves and tables of a checked layout in a map with VA = PA + `offset`. Linear in the number of segments,
/// whatever they contain.
template <class G>
[[nodiscard]] constexpr Measure measure(const Layout& layout, std::uint64_t offset, Mapping mapping) {
    Measure m;
    m.tables = 1; // the root
    std::uint64_t next_uncounted[8] = {};
    constexpr auto slot = [](int level) { return static_cast<unsigned>(level + 1); };
    // Counts the tables of `level` over the addresses [start, end); segments come in order.
    const auto count_tables = [&](int level, std::uint64_t start, std::uint64_t end) {
        if (start >= end) return;
        std::uint64_t first = start >> G::shift(level - 1);
        const std::uint64_t last = (end - 1) >> G::shift(level - 1);
        if (first < next_uncounted[slot(level)]) first = next_uncounted[slot(level)];
        if (first > last) return;
        m.tables += last - first + 1;
        next_uncounted[slot(level)] = last + 1;
    };
    const std::uint64_t va_mask = (std::uint64_t{1} << G::va_bits) - 1;

    SegmentCursor cursor{layout, mapping};
    for (Segment segment; cursor.next(segment);) {
        const std::uint64_t pa = segment.range.start.value(), size = segment.range.size;
        const std::uint64_t va = (pa + offset) & va_mask;
        m.bytes += size;
        for (int level = G::root_level + 1; level <= G::first_leaf_level; ++level) count_tables(level, va, va + size);

        // From the largest size down, [covered_start, covered_end) grows outward from the segment's middle.
        const std::uint64_t start = va, end = va + size;
        std::uint64_t covered_start = end, covered_end = end;
        bool covered = false;
        for (unsigned i = 0; i < G::leaf_sizes.count; ++i) {
            const LeafSize leaf = G::leaf_sizes.of[i];
            const bool page = i + 1 == G::leaf_sizes.count;
            if (page || (!segment.by_pages && (offset & (leaf.bytes() - 1)) == 0)) {
                const std::uint64_t first = align_up(start, leaf.bytes()), last = align_down(end, leaf.bytes());
                if (covered) {
                    m.leaves[i] += ((covered_start - first) + (last - covered_end)) >> leaf.shift;
                } else if (first < last) {
                    m.leaves[i] += (last - first) >> leaf.shift;
                    covered = true;
                }
                if (covered) {
                    covered_start = first;
                    covered_end = last;
                }
            }
            if (!leaf.contiguous && !page) {
                count_tables(leaf.level + 1, start, covered_start);
                count_tables(leaf.level + 1, covered_end, end);
            }
        }
    }
    return m;
}

} // namespace directmap

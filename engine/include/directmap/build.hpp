// Building the map from a layout, in memory that the caller bounds, before anything translates through it.
#pragma once

#include <cstdint>

#include "directmap/core.hpp"
#include "directmap/layout.hpp"
#include "directmap/reclaim.hpp"
#include "directmap/split.hpp"

namespace directmap {

namespace detail {

/// Fills tables that nothing translates through yet.
template <Format F, Platform P>
class Builder {
public:
    using G = typename F::geometry;
    using Table = typename P::Table;

    explicit Builder(Core<F, P>& core) : core_{core} {}

    /// False when the table source ran out; then every table built so far is complete enough to be freed.
    [[nodiscard]] bool map(const Segment& segment) {
        return map_entries(core_.platform.table(core_.root), G::root_level, segment.range.start, segment.range.end(),
                           segment, false);
    }

private:
    /// Entries of `table` from `pa` to `end`, which it covers. A `fresh` table's entries there hold garbage.
    bool map_entries(Table table, int level, PhysAddr pa, PhysAddr end, const Segment& segment, bool fresh) {
        P& platform = core_.platform;
        const unsigned shift = G::shift(level);
        const std::uint64_t size = std::uint64_t{1} << shift;
        const bool leaves = level == G::last_level ||
                            (level >= G::first_leaf_level && !segment.by_pages && core_.aligned_for(shift));
        while (pa < end) {
            const unsigned index = G::index(level, core_.va_of(pa));
            const PhysAddr next = core_.entry_start(pa, shift) + size;
            const PhysAddr stop = next < end ? next : end;
            if (leaves && stop - pa == size) {
                pa = fill_leaves(table, level, index, pa, end, segment);
                continue;
            }
            PhysAddr child;
            const Descriptor d = fresh ? Descriptor{} : platform.load(table, index);
            if (d.empty()) {
                if (!platform.take_table(child, false)) {
                    if (fresh) platform.fill(table, index, G::index(level, core_.va_of(end - 1)) - index + 1, Descriptor{}, 0);
                    return false;
                }
                const unsigned first = G::index(level + 1, core_.va_of(pa));
                const unsigned last = G::index(level + 1, core_.va_of(stop - 1));
                const Table below = platform.table(child);
                platform.fill(below, 0, first, Descriptor{}, 0);
                platform.fill(below, last + 1, G::table_entries - last - 1, Descriptor{}, 0);
                platform.fill(table, index, 1, F::table(child), 0);
            } else {
                child = F::table_address(d);
            }
            if (!map_entries(platform.table(child), level + 1, pa, stop, segment, d.empty())) {
                if (fresh && stop < end) {
                    platform.fill(table, index + 1, G::index(level, core_.va_of(end - 1)) - index, Descriptor{}, 0);
                }
                return false;
            }
            pa = stop;
        }
        return true;
    }

    /// Whole leaves from `pa` on, in one region and one progression of addresses; returns where they end.
    PhysAddr fill_leaves(Table table, int level, unsigned index, PhysAddr pa, PhysAddr end, const Segment& segment) {
        const unsigned shift = G::shift(level);
        PhysAddr stop = core_.region_end(pa, end);
        const PhysAddr limit{align_down(pa.value(), F::progression_limit) + F::progression_limit};
        if (limit < stop) stop = limit;
        unsigned count = static_cast<unsigned>((stop - pa) >> shift);
        if (count > G::entries(level) - index) count = G::entries(level) - index;
        const Descriptor leaf = core_.format.leaf(level, pa, segment.attributes);
        auto& region = core_.region_of(pa);
        const auto fill = [&](unsigned first, unsigned n, Descriptor mark) {
            if (n == 0) return;
            core_.platform.fill(table, index + first, n, leaf.advanced(std::uint64_t{first} << shift) | mark,
                                std::uint64_t{1} << shift);
        };
        unsigned head = count, grouped = 0;
        if (!segment.by_pages && core_.groups_allowed(level)) {
            const unsigned group = G::group_entries(level);
            head = (0u - index) & (group - 1);
            if (head > count) head = count;
            grouped = (count - head) & ~(group - 1);
        }
        fill(0, head, Descriptor{});
        fill(head, grouped, F::contiguous_mask);
        fill(head + grouped, count - head - grouped, Descriptor{});
        if (grouped != 0) count_leaves<G>(region, level, true, grouped);
        count_leaves<G>(region, level, false, count - grouped);
        return pa + (std::uint64_t{count} << shift);
    }

    Core<F, P>& core_;
};

} // namespace detail

/// Builds the map described by `layout`. The core's offset, regions and format are set; its root is not.
/// Errors: invalid_argument (the layout, or fewer regions than `needed`), no_tables with how many tables are needed in
/// all. After an error every table taken has been given back.
template <Format F, Platform P>
[[nodiscard]] Result<void> build_map(Core<F, P>& core, const Layout& layout, Mapping mapping) {
    using G = typename F::geometry;
    if (auto r = check_layout<G>(layout, core.offset); !r) return r;
    const PhysAddr start = layout.ram[0].range.start, end = layout.ram[layout.ram.size() - 1].range.end();
    core.span = {start, end - start};
    core.first_region = core.va_of(start) >> G::region_shift;
    const std::size_t regions = core.region_index(end - 1) + 1;
    if (core.regions.size() < regions) {
        return Error{ErrorCode::invalid_argument, start, static_cast<std::uint32_t>(regions),
                     "the map spans more regions than there is storage for"};
    }
    core.regions = {core.regions.data(), regions};

    P& platform = core.platform;
    WriteSection<P> writable{platform};
    bool built = platform.take_table(core.root, false);
    if (built) {
        platform.fill(platform.table(core.root), 0, G::root_entries, Descriptor{}, 0);
        detail::Builder<F, P> builder{core};
        SegmentCursor cursor{layout, mapping};
        for (Segment segment; built && cursor.next(segment);) built = builder.map(segment);
        if (!built) {
            const auto root = platform.table(core.root);
            for (unsigned i = 0; i < G::root_entries; ++i) {
                const Descriptor d = platform.load(root, i);
                if (F::is_table(G::root_level, d)) detail::free_subtree(core, F::table_address(d), G::root_level + 1);
            }
            platform.give_table(core.root);
            for (auto& region : core.regions) region = {};
        }
    }
    if (!built) {
        const Measure needs = measure<G>(layout, core.offset, mapping);
        return Error{ErrorCode::no_tables, start, static_cast<std::uint32_t>(needs.tables),
                     "the table source is exhausted"};
    }
    platform.barrier_publish(); // before the root is installed
    platform.barrier_context();
    return {};
}

} // namespace directmap

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
                           segment);
    }

private:
    /// Entries of `table` from `pa` to `end`, which it covers.
    [[nodiscard, gnu::noinline]] bool map_entries(Table table, int level, PhysAddr pa, PhysAddr end,
                                                  const Segment& segment) {
        P& platform = core_.platform;
        const unsigned shift = G::shift(level);
        const std::uint64_t size = G::bytes(level);
        const bool leaves =
            level == G::last_level || (level >= G::first_leaf_level && !segment.by_pages && core_.aligned_for(shift));
        while (pa < end) {
            const unsigned index = G::index(level, core_.va_of(pa));
            const PhysAddr next = core_.entry_start(pa, shift) + size;
            const PhysAddr stop = next < end ? next : end;
            if (leaves && stop - pa == size) {
                pa = fill_leaves(table, level, index, pa, end, segment);
                continue;
            }
            Descriptor link = platform.load(table, index);
            if (link.empty()) {
                PhysAddr child;
                if (!platform.take_table(child, false)) return false;
                clear(platform.table(child), level + 1, pa, stop);
                link = F::table(child);
                platform.fill(table, index, 1, link, 0);
            }
            if (!map_entries(platform.table(F::table_address(link)), level + 1, pa, stop, segment)) return false;
            pa = stop;
        }
        return true;
    }

    /// A new table holds garbage. One of the last level, of which there are many, is cleared only where no leaf comes.
    void clear(Table table, int level, PhysAddr pa, PhysAddr end) {
        unsigned first = G::table_entries, after = G::table_entries;
        if (level == G::last_level) {
            first = G::index(level, core_.va_of(pa));
            after = G::index(level, core_.va_of(end - 1)) + 1;
        }
        core_.platform.fill(table, 0, first, Descriptor{}, 0);
        core_.platform.fill(table, after, G::table_entries - after, Descriptor{}, 0);
    }

    /// Whole leaves from `pa` on, in one table and one progression of addresses; returns where they end.
    PhysAddr fill_leaves(Table table, int level, unsigned index, PhysAddr pa, PhysAddr end, const Segment& segment) {
        const unsigned shift = G::shift(level);
        const PhysAddr limit{align_down(pa.value(), F::progression_limit) + F::progression_limit};
        const std::uint64_t whole = ((limit < end ? limit : end) - pa) >> shift;
        const unsigned room = G::entries(level) - index;
        const unsigned count = whole < room ? static_cast<unsigned>(whole) : room;
        const Descriptor leaf = core_.format.leaf(level, pa, segment.attributes);
        unsigned done = 0;
        const auto fill_until = [&](unsigned stop, bool contiguous) {
            if (done == stop) return;
            const std::uint64_t before = std::uint64_t{done} << shift;
            core_.platform.fill(table, index + done, stop - done,
                                leaf.advanced(before) | (contiguous ? F::contiguous_mask : Descriptor{}),
                                G::bytes(level));
            account(pa + before, level, contiguous, stop - done);
            done = stop;
        };
        if (!segment.by_pages && core_.groups_allowed(level)) {
            const unsigned group = G::group_entries(level);
            const unsigned head = (0u - index) & (group - 1);
            if (head < count) {
                fill_until(head, false);
                fill_until(head + ((count - head) & ~(group - 1)), true);
            }
        }
        fill_until(count, false);
        return pa + (std::uint64_t{count} << shift);
    }

    /// Adds `count` neighbouring leaves to the accounts of the regions that they lie in.
    void account(PhysAddr pa, int level, bool contiguous, unsigned count) {
        const unsigned shift = G::shift(level);
        const unsigned index = G::leaf_size_index(level, contiguous), scale = contiguous ? G::group_shift(level) : 0;
        const std::uint64_t into_region = core_.va_of(pa) & (G::region_bytes - 1);
        const unsigned room = static_cast<unsigned>((G::region_bytes - into_region) >> shift);
        auto* region = &core_.region_of(pa);
        if (count > room) {
            region++->leaves[index] += room >> scale;
            const unsigned each_shift = G::region_shift - shift, each = 1u << (each_shift - scale);
            count -= room;
            for (unsigned whole = (count - 1) >> each_shift; whole != 0; --whole) {
                region++->leaves[index] += each;
                count -= 1u << each_shift;
            }
        }
        region->leaves[index] += count >> scale;
    }

    Core<F, P>& core_;
};

/// Each region learns in which table its root-side entries are: descents begin there.
template <Format F, Platform P>
void note_region_tables(Core<F, P>& core) {
    using G = typename F::geometry;
    constexpr std::uint64_t in_table =
        (std::uint64_t{G::table_entries} << G::shift(G::first_leaf_level)) >> G::region_shift; // regions of one table
    auto* region = core.regions.begin();
    for (std::uint64_t number = core.first_region; region != core.regions.end();) {
        PhysAddr table = core.root;
        for (int level = G::root_level; level < G::first_leaf_level && table != PhysAddr{}; ++level) {
            const unsigned index = G::index(level, number << G::region_shift);
            table = F::table_address(core.platform.load(core.platform.table(table), index));
        }
        const std::uint64_t here = in_table - (number & (in_table - 1));
        const auto left = static_cast<std::uint64_t>(core.regions.end() - region);
        auto* const end = region + (here < left ? here : left);
        for (number += here; region != end; ++region) region->table = table;
    }
}

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
    detail::note_region_tables(core);
    platform.barrier_publish(); // before the root is installed
    platform.barrier_context();
    return {};
}

} // namespace directmap

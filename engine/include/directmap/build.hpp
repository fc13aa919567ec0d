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

    /// Takes the root.
    void begin() {
        has_root_ = take(G::root_level, PhysAddr{}, core_.root);
        if (has_root_) core_.platform.fill(core_.platform.table(core_.root), 0, G::root_entries, Descriptor{}, 0);
    }
    /// Once the source is exhausted, what is missing is only counted.
    void map(const Segment& segment) {
        attributes_ = segment.attributes;
        by_pages_ = segment.by_pages;
        map_entries(core_.platform.table(core_.root), has_root_, G::root_level, segment.range.start,
                    segment.range.end());
    }
    [[nodiscard]] bool exhausted() const { return exhausted_; }
    /// Whatever was built is complete enough for that.
    void free() {
        if (has_root_) free_subtree(core_, core_.root, G::root_level);
    }
    /// Taken or missing.
    [[nodiscard]] std::uint64_t tables() const { return tables_; }

private:
    /// Entries from `pa` to `end` of `table`, which covers them; if `present` is false, of a table that is missing.
    [[gnu::noinline]] void map_entries(Table table, bool present, int level, PhysAddr pa, PhysAddr end) {
        P& platform = core_.platform;
        const unsigned shift = G::shift(level);
        const std::uint64_t size = G::bytes(level);
        const bool blocks = level >= G::first_leaf_level && !by_pages_ && core_.aligned_for(shift);
        while (pa < end) {
            const unsigned index = G::index(level, core_.va_of(pa));
            const PhysAddr next = core_.entry_start(pa, shift) + size;
            const PhysAddr stop = next < end ? next : end;
            if (level >= G::last_level || (blocks && stop - pa == size)) {
                if (present) {
                    pa = fill_leaves(table, level, index, pa, end);
                } else {
                    pa = stop;
                }
                continue;
            }
            Descriptor link = present ? platform.load(table, index) : Descriptor{};
            PhysAddr child = F::table_address(link);
            if (link.empty() && take(level + 1, next, child)) {
                clear(platform.table(child), level + 1, pa, stop);
                link = F::table(child);
                platform.fill(table, index, 1, link, 0);
            }
            if (!link.empty() || level + 1 != G::last_level)
                map_entries(platform.table(child), !link.empty(), level + 1, pa, stop);
            pa = stop;
        }
    }

    /// A table of `level` for what lies before `end`. False if there is none; counted all the same, once.
    [[nodiscard]] bool take(int level, PhysAddr end, PhysAddr& pa) {
        if (!exhausted_) {
            ++tables_;
            exhausted_ = !core_.platform.take_table(pa, false);
        } else if (missing_until_[level - G::root_level] != end) {
            ++tables_;
        }
        if (exhausted_) missing_until_[level - G::root_level] = end;
        return !exhausted_;
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
    [[gnu::noinline]] PhysAddr fill_leaves(Table table, int level, unsigned index, PhysAddr pa, PhysAddr end) {
        const unsigned shift = G::shift(level);
        const PhysAddr limit{align_down(pa.value(), F::progression_limit) + F::progression_limit};
        const std::uint64_t whole = ((limit < end ? limit : end) - pa) >> shift;
        const unsigned room = G::entries(level) - index;
        const unsigned count = whole < room ? static_cast<unsigned>(whole) : room;
        const Descriptor leaf = core_.format.leaf(level, pa, attributes_);
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
        if (!by_pages_ && core_.groups_allowed(level)) {
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
    [[gnu::noinline]] void account(PhysAddr pa, int level, bool contiguous, unsigned count) {
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
    Attributes attributes_; ///< of the segment that is being mapped
    bool by_pages_ = false;
    std::uint64_t tables_ = 0;
    bool has_root_ = false;
    bool exhausted_ = false;
    PhysAddr missing_until_[G::last_level - G::root_level + 1]; ///< by level: where the last one that is missing ends
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
        return Error::needing(reasons::too_few_regions, regions);
    }
    core.regions = {core.regions.data(), regions};

    P& platform = core.platform;
    WriteSection<P> writable{platform};
    detail::Builder<F, P> builder{core};
    builder.begin();
    SegmentCursor cursor{layout, mapping};
    for (Segment segment; cursor.next(segment);) builder.map(segment);
    if (builder.exhausted()) {
        builder.free();
        for (auto& region : core.regions) {
            for (std::uint32_t& leaves : region.leaves) leaves = 0;
        }
        return Error::needing(reasons::no_tables, builder.tables());
    }
    detail::note_region_tables(core);
    platform.barrier_publish(); // before the root is installed
    platform.barrier_context();
    return {};
}

} // namespace directmap

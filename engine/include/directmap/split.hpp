// Splitting: one leaf becomes a table of smaller leaves with the same translation and attributes.
#pragma once

#include <cstdint>

#include "directmap/core.hpp"
#include "directmap/plan.hpp"

namespace directmap {

namespace detail {

/// Adds `n` descriptors' worth of leaves (contiguous: whole groups) to a region's account; negative to remove.
template <class G, class RegionState>
void count_leaves(RegionState& region, int level, bool contiguous, std::int64_t n) {
    if (contiguous) n >>= G::group_shift(level);
    std::uint32_t& leaves = region.leaves[G::leaf_size_index(level, contiguous)];
    leaves = static_cast<std::uint32_t>(leaves + n);
}

/// Writes every group that a cut leaves whole in its final form at once:
///
///     entry 0        low                  high          last
///     |CCCC|CCCC|CC..|....|....|RRRR|RRRR|....|CCCC|CCCC|
///      outside: contiguous   |  inside: contiguous after the change (marked)  |  outside: contiguous
///
/// Entries that are themselves cut become tables, built first.
template <Format F, Platform P>
class SplitBuilder {
public:
    using G = typename F::geometry;
    using CoreType = Core<F, P>;

    /// `inside` marks the groups that lie wholly between the cuts: with F::regroup_mask the commit closes them once they
    /// have changed; with nothing they stay single.
    SplitBuilder(CoreType& core, typename CoreType::RegionState& region, typename CoreType::TableReserve& reserve,
                 Descriptor inside)
        : core_{core}, region_{region}, reserve_{reserve}, inside_{inside} {}

    /// Builds the table for a leaf of `level` that is cut at `low` and `high` (byte offsets into it; 0 and the leaf's
    /// size where it isn't cut). Returns the table's descriptor; nothing points to it yet.
    Descriptor build(int level, Descriptor leaf, std::uint64_t low, std::uint64_t high) {
        P& platform = core_.platform;
        const int child_level = level + 1;
        const unsigned shift = G::shift(child_level);
        const std::uint64_t step = G::bytes(child_level), inside = step - 1;
        const Descriptor child = F::child_of(level, leaf);
        const PhysAddr pa = reserve_.use();
        const auto table = platform.table(pa);
        const auto fill = [&](unsigned first, unsigned end, Descriptor mark) {
            if (first < end) platform.fill(table, first, end - first, child.advanced(first * step) | mark, step);
        };
        const unsigned group_shift = G::group_shift(child_level), group = 1u << group_shift;
        unsigned grouped = 0;
        if (core_.groups_allowed(child_level) && core_.gate.may_merge()) {
            const auto entries_below = [&](std::uint64_t bytes) { // whole groups below an offset, in entries
                return static_cast<unsigned>(bytes >> shift) & ~(group - 1);
            };
            const std::uint64_t round_up = G::group_bytes(child_level) - 1;
            const unsigned before = entries_below(low), after = entries_below(high + round_up);
            unsigned in_start = entries_below(low + round_up), in_end = entries_below(high);
            if (in_start > in_end) in_start = in_end = after; // both cuts in one group
            fill(0, before, F::contiguous_mask);
            fill(before, in_start, Descriptor{});
            fill(in_start, in_end, inside_);
            fill(in_end, after, Descriptor{});
            fill(after, G::table_entries, F::contiguous_mask);
            grouped = before + (G::table_entries - after);
        } else {
            fill(0, G::table_entries, Descriptor{});
        }
        region_.counters.filled += G::table_entries;
        ++region_.counters.splits;
        ++region_.counters.tables_taken;
        count_leaves<G>(region_, level, false, -1);
        if (grouped != 0) count_leaves<G>(region_, child_level, true, grouped);
        count_leaves<G>(region_, child_level, false, G::table_entries - grouped);

        if (child_level != G::last_level) {
            const std::uint64_t low_inside = low & inside, high_inside = high & inside;
            const unsigned low_index = static_cast<unsigned>(low >> shift), high_index = static_cast<unsigned>(high >> shift);
            const auto replace = [&](unsigned index, std::uint64_t from, std::uint64_t to) {
                const Descriptor link = build(child_level, child.advanced(index * step), from, to);
                platform.fill(table, index, 1, link, 0);
            };
            if (low_inside != 0 && high_inside != 0 && low_index == high_index) {
                replace(low_index, low_inside, high_inside);
            } else {
                if (low_inside != 0) replace(low_index, low_inside, step);
                if (high_inside != 0) replace(high_index, 0, high_inside);
            }
        }
        return F::table(pa);
    }

private:

    CoreType& core_;
    typename CoreType::RegionState& region_;
    typename CoreType::TableReserve& reserve_;
    Descriptor inside_;
};

/// Makes the descriptors of the group around `index` single. Every entry is stored once; sizes change, nothing else.
template <Format F, Platform P>
void open_group(Core<F, P>& core, typename Core<F, P>::RegionState& region, typename P::Table table, int level,
                unsigned index, Descriptor mark = {}) {
    using G = typename F::geometry;
    const unsigned group = G::group_entries(level), first = index & ~(group - 1);
    core.platform.update(table, first, group, {F::contiguous_mask, mark});
    region.counters.stores += group;
    ++region.counters.groups_opened;
    count_leaves<G>(region, level, true, -static_cast<std::int64_t>(group));
    count_leaves<G>(region, level, false, group);
}

} // namespace detail

/// Cuts the leaves that straddle the ends of `part`, as planned. New tables are complete and visible to walkers before
/// the one store that publishes each of them. Called with the region's lock held and the tables in `reserve`. `inside`
/// marks groups between the ends, see SplitBuilder.
template <Format F, Platform P>
void cut_ends(Core<F, P>& core, typename Core<F, P>::RegionState& region, PhysRange part,
              const Plan<typename P::Table>& plan, typename Core<F, P>::TableReserve& reserve, Descriptor inside) {
    using G = typename F::geometry;
    P& platform = core.platform;
    const auto& low = plan.low;
    const auto& high = plan.high;

    // 1. Groups that an end cuts. (Both ends in one group: once.)
    const auto group_of = [&](const Cut<typename P::Table>& cut) {
        return core.entry_start(cut.start, G::shift(cut.level) + G::group_shift(cut.level));
    };
    if (low.open_group) detail::open_group(core, region, low.table, low.level, low.index);
    const bool same_group = low.open_group && high.open_group && low.level == high.level &&
                            group_of(low) == group_of(high);
    if (high.open_group && !same_group) detail::open_group(core, region, high.table, high.level, high.index);

    // 2. Tables, filled while nothing points to them.
    const bool same_leaf = low.split && high.split && low.start == high.start;
    detail::SplitBuilder<F, P> builder{core, region, reserve, inside};
    Descriptor low_link, high_link;
    const auto whole = [&](const Cut<typename P::Table>& cut) { return cut.value.without(F::contiguous_mask); };
    if (low.split) {
        const std::uint64_t end = same_leaf ? part.end() - low.start : G::bytes(low.level);
        low_link = builder.build(low.level, whole(low), part.start - low.start, end);
    }
    if (high.split && !same_leaf) high_link = builder.build(high.level, whole(high), 0, part.end() - high.start);

    // 3. Visible to walkers, then published. A walker that still sees the leaf and one that sees the table agree.
    platform.barrier_publish();
    ++region.counters.barriers;
    if (low.split) platform.store(low.table, low.index, low_link);
    if (high.split && !same_leaf) platform.store(high.table, high.index, high_link);
    const unsigned links = (low.split ? 1u : 0u) + (high.split && !same_leaf ? 1u : 0u);
    if (links != 0) {
        region.counters.stores += links;
        platform.barrier_publish();
        ++region.counters.barriers;
    }
    platform.barrier_context();
}

} // namespace directmap

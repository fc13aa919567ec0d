// Splitting: one leaf becomes a table of smaller leaves with the same translation and attributes.
#pragma once

#include <cstdint>

#include "directmap/core.hpp"
#include "directmap/plan.hpp"

namespace directmap {

namespace detail {

template <class Core>
void publish(Core& core, typename Core::RegionState& region) {
    core.platform.barrier_publish();
    ++region.counters.barriers;
}

/// Adds `n` descriptors' worth of leaves (contiguous: whole groups) to a region's account; negative to remove.
template <class G, class RegionState>
void count_leaves(RegionState& region, int level, bool contiguous, std::int64_t n) {
    if (contiguous) n >>= G::group_shift(level);
    std::uint32_t& leaves = region.leaves[G::leaf_size_index(level, contiguous)];
    leaves = static_cast<std::uint32_t>(leaves + n);
}

/// Accounts for one group that becomes contiguous, or single descriptors.
template <class G, class RegionState>
void count_group(RegionState& region, int level, bool contiguous) {
    const std::uint32_t group = G::group_entries(level);
    region.leaves[G::leaf_size_index(level, true)] += contiguous ? 1u : ~0u;
    region.leaves[G::leaf_size_index(level, false)] += contiguous ? ~group + 1u : group;
    ++(contiguous ? region.counters.groups_closed : region.counters.groups_opened);
}

/// Makes the descriptors of the group around `index` contiguous, or single ones with `mark`. Every entry is stored
/// once; sizes change, nothing else.
template <Format F, Platform P>
[[gnu::noinline]] void set_group(Core<F, P>& core, typename Core<F, P>::RegionState& region, typename P::Table table,
                                 int level, unsigned index, bool contiguous, Descriptor mark = {}) {
    using G = typename F::geometry;
    const unsigned group = G::group_entries(level);
    core.platform.update(table, index & ~(group - 1), group,
                         contiguous ? DescriptorChange{F::regroup_mask, F::contiguous_mask}
                                    : DescriptorChange{F::contiguous_mask, mark});
    region.counters.stores += group;
    count_group<G>(region, level, contiguous);
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

    /// `inside` marks the groups that lie wholly between the cuts: with F::regroup_mask the commit closes them once
    /// they have changed; with nothing they stay single.
    SplitBuilder(CoreType& core, typename CoreType::RegionState& region, typename CoreType::TableReserve& reserve,
                 Descriptor inside)
        : core_{core}, region_{region}, reserve_{reserve}, inside_{inside} {}

    /// Builds the table for a leaf of `level` that is cut at `low` and `high` (byte offsets into it; 0 and the leaf's
    /// size where it isn't cut). Returns the table's descriptor; nothing points to it yet.
    [[gnu::noinline]] Descriptor build(int level, Descriptor leaf, std::uint64_t low, std::uint64_t high) {
        const int child_level = level + 1;
        const unsigned shift = G::shift(child_level);
        const Descriptor child = F::child_of(level, leaf);
        const PhysAddr pa = reserve_.use();
        const auto table = core_.platform.table(pa);
        fill(table, child_level, child, low, high);
        ++region_.counters.splits;
        ++region_.counters.tables_taken;
        count_leaves<G>(region_, level, false, -1);

        const std::uint64_t step = G::bytes(child_level), inside = step - 1;
        const std::uint64_t low_inside = low & inside, high_inside = high & inside;
        const unsigned low_index = static_cast<unsigned>(low >> shift),
                       high_index = static_cast<unsigned>(high >> shift);
        if (child_level == G::last_level || (low_inside | high_inside) == 0) return F::table(pa);
        const auto replace = [&](unsigned index, std::uint64_t from, std::uint64_t to) {
            const Descriptor link = build(child_level, child.advanced(std::uint64_t{index} << shift), from, to);
            core_.platform.fill(table, index, 1, link, 0);
        };
        if (low_inside != 0 && high_inside != 0 && low_index == high_index) {
            replace(low_index, low_inside, high_inside);
        } else {
            if (low_inside != 0) replace(low_index, low_inside, step);
            if (high_inside != 0) replace(high_index, 0, high_inside);
        }
        return F::table(pa);
    }

    /// Whether there are groups that wait to be closed.
    [[nodiscard]] bool marked() const { return marked_; }

private:
    void fill(typename P::Table table, int level, Descriptor first, std::uint64_t low, std::uint64_t high) {
        const unsigned shift = G::shift(level), group_shift = G::group_shift(level);
        unsigned done = 0;
        const auto until = [&](std::uint64_t end, Descriptor mark) {
            const unsigned stop = static_cast<unsigned>(end);
            if (stop <= done) return;
            core_.platform.fill(table, done, stop - done, first.advanced(std::uint64_t{done} << shift) | mark,
                                G::bytes(level));
            done = stop;
        };
        unsigned grouped = 0;
        if (core_.groups_allowed(level) && core_.gate.may_merge()) {
            const std::uint64_t group_bytes = G::group_bytes(level);
            const std::uint64_t before = align_down(low, group_bytes) >> shift,
                                after = align_up(high, group_bytes) >> shift;
            until(before, F::contiguous_mask);
            if (!inside_.empty()) {
                const std::uint64_t start = align_up(low, group_bytes) >> shift,
                                    end = align_down(high, group_bytes) >> shift;
                until(start, Descriptor{});
                if (start < end) marked_ = true;
                until(end, inside_);
            }
            until(after, Descriptor{});
            until(G::table_entries, F::contiguous_mask);
            grouped = static_cast<unsigned>(before + G::table_entries - after);
            region_.leaves[G::leaf_size_index(level, true)] += grouped >> group_shift;
        } else {
            until(G::table_entries, Descriptor{});
        }
        region_.counters.filled += G::table_entries;
        region_.leaves[G::leaf_size_index(level, false)] += G::table_entries - grouped;
    }

    CoreType& core_;
    typename CoreType::RegionState& region_;
    typename CoreType::TableReserve& reserve_;
    Descriptor inside_;
    bool marked_ = false;
};

} // namespace detail

/// Cuts the leaves that straddle the ends of `part`, as planned. New tables are complete and visible to walkers before
/// the one store that publishes each of them. Called with the region's lock held and the tables in `reserve`. `inside`
/// marks groups between the ends, see SplitBuilder; the result tells whether any was marked. `plan.run`, if it was all
/// of `part`, is that afterwards too, or no longer `single`.
template <Format F, Platform P>
bool cut_ends(Core<F, P>& core, typename Core<F, P>::RegionState& region, PhysRange part, Plan<typename P::Table>& plan,
              typename Core<F, P>::TableReserve& reserve, Descriptor inside) {
    using G = typename F::geometry;
    P& platform = core.platform;
    const auto& low = plan.low;
    const auto& high = plan.high;

    // 1. Groups that an end cuts. (Both ends in one group: once.)
    if (low.open_group) detail::set_group(core, region, low.table, low.level, low.index, false);
    if (high.open_group) {
        const unsigned shift = G::shift(high.level) + G::group_shift(high.level);
        const bool same_group = low.open_group && low.level == high.level &&
                                core.entry_start(low.start, shift) == core.entry_start(high.start, shift);
        if (!same_group) detail::set_group(core, region, high.table, high.level, high.index, false);
    }

    // 2. Tables, filled while nothing points to them.
    const bool same_leaf = low.split && high.split && low.start == high.start;
    detail::SplitBuilder<F, P> builder{core, region, reserve, inside};
    Descriptor low_link, high_link;
    if (low.split) {
        const std::uint64_t end = same_leaf ? part.end() - low.start : G::bytes(low.level);
        low_link = builder.build(low.level, low.value, part.start - low.start, end);
    }
    if (high.split && !same_leaf) high_link = builder.build(high.level, high.value, 0, part.end() - high.start);

    // 3. Visible to walkers, then published. A walker that still sees the leaf and one that sees the table agree.
    platform.barrier_publish();
    ++region.counters.barriers;
    const auto link = [&](const Cut<typename P::Table>& cut, Descriptor table) {
        if (table.empty()) return;
        platform.store(cut.table, cut.index, table);
        ++region.counters.stores;
    };
    link(low, low_link);
    link(high, high_link);
    if (low.split || high.split) {
        platform.barrier_publish();
        ++region.counters.barriers;
    }
    platform.barrier_context();

    if (low.split || high.split) {
        plan.single = false;
    } else {
        plan.run.value = plan.run.value.without(F::contiguous_mask);
    }
    return builder.marked();
}

} // namespace directmap

// Splitting: one leaf becomes a table of smaller leaves with the same translation and attributes.
#pragma once

#include <cstdint>

#include "directmap/core.hpp"
#include "directmap/plan.hpp"

namespace directmap::detail {

template <class Core>
void publish(Core& core, typename Core::RegionState& region) {
    core.platform.barrier_publish();
    ++region.counters.barriers;
}

/// Background collapse looks at these without the lock.
template <class Core>
void note_change(Core& core, typename Core::RegionState& region) {
    __atomic_store_n(&region.touched, true, __ATOMIC_RELAXED);
    __atomic_store_n(&region.last_change, core.platform.now(), __ATOMIC_RELAXED);
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

/// Cuts the leaves that straddle the ends of a part. Every group that a cut leaves whole is written in its final form
/// at once:
///
///     entry 0        low                  high          last
///     |CCCC|CCCC|CC..|....|....|RRRR|RRRR|....|CCCC|CCCC|
///      outside: contiguous   |  inside: contiguous after the change (marked)  |  outside: contiguous
template <Format F, Platform P>
class EndCutter {
public:
    using G = typename F::geometry;
    using CoreType = Core<F, P>;
    using RegionState = typename CoreType::RegionState;
    using Table = typename P::Table;

    EndCutter(CoreType& map, bool atomic, TableLoan* loan) : core{map}, reserve{map, atomic, loan} {}

protected:
    /// Cuts the ends of `part` as planned. New tables are complete and visible to walkers before the one store that
    /// publishes each of them. Called with the region's lock held and the tables in `reserve`. `inside` marks the
    /// groups that lie wholly between the ends: with F::regroup_mask the commit closes them once they have changed;
    /// with nothing they stay single. The result tells whether any was marked.
    [[gnu::noinline]] bool cut_ends(const Plan<Table>& plan, Descriptor inside) {
        // 1. Groups that an end cuts. (Both ends in one group: once.)
        for (const auto& cut : plan.ends) {
            if (cut.open_group && core.platform.load(cut.table, cut.index).any_of(F::contiguous_mask))
                set_group(core, *here, cut.table, cut.level, cut.index, false);
        }

        // 2. Tables, filled while nothing points to them.
        inside_ = inside;
        marked_ = false;
        const bool same_leaf = plan.one_leaf();
        Descriptor links[2];
        for (unsigned i = 0; i < 2; ++i) {
            const auto& cut = plan.ends[i];
            if (!cut.split || (i == 1 && same_leaf)) continue;
            const std::uint64_t low = i == 0 ? part.start - cut.start : 0;
            const std::uint64_t high = i == 1 || same_leaf ? part.end() - cut.start : G::bytes(cut.level);
            links[i] = build(cut.level, cut.value, low, high);
        }

        // 3. Visible to walkers, then published. A walker that still sees the leaf and one that sees the table agree.
        publish(core, *here);
        bool linked = false;
        for (unsigned i = 0; i < 2; ++i) {
            if (links[i].empty()) continue;
            core.platform.store(plan.ends[i].table, plan.ends[i].index, links[i]);
            ++here->counters.stores;
            linked = true;
        }
        if (linked) publish(core, *here);
        core.platform.barrier_context();
        return marked_;
    }

    CoreType& core;
    typename CoreType::TableReserve reserve;
    RegionState* here = nullptr; ///< where the change is at, its lock held
    PhysRange part;              ///< that region's

private:
    /// Builds the table for a leaf of `level` that is cut at `low` and `high` (byte offsets into it; 0 and the leaf's
    /// size where it isn't cut). Returns the table's descriptor; nothing points to it yet.
    [[gnu::noinline]] Descriptor build(int level, Descriptor leaf, std::uint64_t low, std::uint64_t high) {
        const int child_level = level + 1;
        const unsigned shift = G::shift(child_level);
        const Descriptor child = F::child_of(level, leaf);
        const PhysAddr pa = reserve.use();
        const auto table = core.platform.table(pa);
        fill(table, child_level, child, low, high);
        ++here->counters.splits;
        ++here->counters.tables_taken;
        count_leaves<G>(*here, level, false, -1);

        const std::uint64_t step = G::bytes(child_level), inside = step - 1;
        const std::uint64_t low_inside = low & inside, high_inside = high & inside;
        const unsigned low_index = static_cast<unsigned>(low >> shift),
                       high_index = static_cast<unsigned>(high >> shift);
        if (child_level == G::last_level || (low_inside | high_inside) == 0) return F::table(pa);
        const auto replace = [&](unsigned index, std::uint64_t from, std::uint64_t to) {
            const Descriptor link = build(child_level, child.advanced(std::uint64_t{index} << shift), from, to);
            core.platform.fill(table, index, 1, link, 0);
        };
        const bool together = low_inside != 0 && high_inside != 0 && low_index == high_index;
        if (low_inside != 0) replace(low_index, low_inside, together ? high_inside : step);
        if (high_inside != 0 && !together) replace(high_index, 0, high_inside);
        return F::table(pa);
    }

    void fill(Table table, int level, Descriptor first, std::uint64_t low, std::uint64_t high) {
        const unsigned shift = G::shift(level);
        unsigned before = 0, after = G::table_entries; // what lies between can't be contiguous yet
        unsigned start = 0, end = 0;                   // but will be, once it has changed
        if (core.groups_allowed(level) && core.gate.may_merge()) {
            const std::uint64_t group_bytes = G::group_bytes(level);
            const auto index = [&](std::uint64_t offset) { return static_cast<unsigned>(offset >> shift); };
            before = index(align_down(low, group_bytes));
            after = index(align_up(high, group_bytes));
            start = index(align_up(low, group_bytes));
            end = index(align_down(high, group_bytes));
            here->leaves[G::leaf_size_index(level, true)] +=
                (before + G::table_entries - after) >> G::group_shift(level);
        }
        if (inside_.empty() || start >= end) start = end = after;
        marked_ = marked_ || start < end;
        const auto piece = [&](unsigned from, unsigned to, Descriptor mark) {
            fill_piece(table, shift, first, from, to, mark);
        };
        piece(0, before, F::contiguous_mask);
        piece(before, start, Descriptor{});
        piece(start, end, inside_);
        piece(end, after, Descriptor{});
        piece(after, G::table_entries, F::contiguous_mask);
        here->counters.filled += G::table_entries;
        here->leaves[G::leaf_size_index(level, false)] += after - before;
    }

    /// The entries [from, to) of a table whose first would be `first`.
    [[gnu::noinline]] void fill_piece(Table table, unsigned shift, Descriptor first, unsigned from, unsigned to,
                                      Descriptor mark) {
        if (from >= to) return;
        core.platform.fill(table, from, to - from, first.advanced(std::uint64_t{from} << shift) | mark,
                           std::uint64_t{1} << shift);
    }

    Descriptor inside_;
    bool marked_ = false;
};

} // namespace directmap::detail

// The one cursor over leaves. Every operation finds its way through `find_run`.
//
//   root ── level 0 ── level 1 ──┬─ 1G block                     a run: neighbouring entries of one table
//                                └─ level 2 ──┬─ 2M … 2M         that are leaves or empty, as far as the
//                                             └─ level 3 ── 4K … range goes
#pragma once

#include <cstdint>

#include "directmap/core.hpp"

namespace directmap {

/// Neighbouring entries of one table, none of which is a table.
template <class Table>
struct Run {
    Table table{};
    PhysAddr start;   ///< of what the first entry maps; at or below the address looked for
    Descriptor value; ///< of the first entry
    int level = 0;
    unsigned first = 0;
    unsigned count = 0;
    bool through_range = false; ///< a table on the way lies in the range that was given as `own`
};

/// The run that holds `pa`, cut off at `end` (exclusive, above `pa`). `own` is a range of physical memory; whether a
/// table on the way lies in it is noted. Reads only; may run without a lock inside a WalkerSection.
template <Format F, Platform P>
[[nodiscard, gnu::noinline]] Run<typename P::Table> find_run(Core<F, P>& core, PhysAddr pa, PhysAddr end,
                                                             PhysRange own = {}) {
    using G = typename F::geometry;
    P& platform = core.platform;
    const std::uint64_t va = core.va_of(pa);
    Run<typename P::Table> run;
    // The tables above a region never change, so that only who asks about them has to pass them.
    const std::size_t region = core.region_index(pa);
    PhysAddr table{};
    if (own.empty() && region < core.regions.size()) table = core.regions[region].table;
    const bool from_root = table == PhysAddr{};
    if (from_root) table = core.root;
    run.level = from_root ? G::root_level : G::first_leaf_level;
    unsigned shift = G::shift(run.level);
    for (;; ++run.level, shift -= G::index_bits) {
        if (own.contains(table)) run.through_range = true;
        run.table = platform.table(table);
        run.first = static_cast<unsigned>(va >> shift) & (G::entries(run.level) - 1);
        run.value = platform.load(run.table, run.first);
        if (!F::is_table(run.level, run.value)) break;
        table = F::table_address(run.value);
    }
    run.start = core.entry_start(pa, shift);
    // Entries up to `end`, but no further than the table.
    const std::uint64_t wanted = (end - run.start - 1) >> shift;
    const unsigned left = G::entries(run.level) - run.first;
    const unsigned limit = wanted < left ? static_cast<unsigned>(wanted) + 1 : left;
    run.count = limit;
    if (run.level != G::last_level) {
        for (run.count = 1; run.count < limit; ++run.count) {
            if (F::is_table(run.level, platform.load(run.table, run.first + run.count))) break;
        }
    }
    return run;
}

/// The end of what a run maps, limited to `end`.
template <Format F, class Table>
[[nodiscard]] PhysAddr run_end(const Run<Table>& run, PhysAddr end) {
    const std::uint64_t bytes = std::uint64_t{run.count} << F::geometry::shift(run.level);
    return bytes < end - run.start ? run.start + bytes : end;
}

/// One leaf or one hole, as walks report it.
struct Leaf {
    PhysRange range;
    Attributes attributes;   ///< meaningless for a hole
    int level = 0;           ///< of the entry that maps it, or of the empty entry
    bool contiguous = false; ///< a whole contiguous group
    bool mapped = false;     ///< false: a hole
};

namespace detail {

/// What a walk calls for each leaf: compiled once for all kinds of visitors.
struct LeafVisitor {
    bool (*visit)(void* context, const Leaf& leaf);
    void* context;
};

template <Format F, Platform P>
[[gnu::noinline]] void walk_leaves(Core<F, P>& core, PhysRange range, LeafVisitor visitor) {
    using G = typename F::geometry;
    for (PhysAddr pa = range.start; pa < range.end();) {
        // One section a region bounds how long a walk can hold back reclaim.
        WalkerSection<P> section{core.platform};
        const PhysAddr limit = core.region_end(pa, range.end());
        while (pa < limit) {
            const auto run = find_run(core, pa, limit);
            const unsigned shift = G::shift(run.level), group_shift = G::group_shift(run.level);
            for (unsigned i = 0; i < run.count;) {
                const Descriptor d = i == 0 ? run.value : core.platform.load(run.table, run.first + i);
                if (F::is_table(run.level, d)) break; // split since the run was found: descend anew
                Leaf leaf;
                leaf.level = run.level;
                leaf.mapped = F::is_leaf(run.level, d);
                leaf.contiguous = leaf.mapped && group_shift != 0 && d.any_of(F::contiguous_mask);
                if (leaf.mapped) leaf.attributes = core.format.attributes(d);
                const unsigned size_shift = shift + (leaf.contiguous ? group_shift : 0);
                leaf.range = {core.entry_start(run.start + (std::uint64_t{i} << shift), size_shift),
                              std::uint64_t{1} << size_shift};
                if (!visitor.visit(visitor.context, leaf)) return;
                pa = leaf.range.end();
                i = static_cast<unsigned>((pa - run.start) >> shift);
            }
        }
    }
}

} // namespace detail

/// Calls `visit(const Leaf&)` for every leaf and hole that overlaps `range`, in address order; leaves are reported
/// whole, holes entry by entry. Takes no lock, waits for nobody and blocks nobody; each leaf was true at some moment of
/// the walk (promise P7). `visit` returns false to stop.
template <Format F, Platform P, class Visit>
void walk(Core<F, P>& core, PhysRange range, Visit visit) {
    detail::walk_leaves(
        core, range,
        {[](void* context, const Leaf& leaf) -> bool { return (*static_cast<Visit*>(context))(leaf); }, &visit});
}

} // namespace directmap

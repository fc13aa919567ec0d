// What a change of one region's part would do: a pure read (design §5).
#pragma once

#include <cstdint>

#include "directmap/core.hpp"
#include "directmap/walk.hpp"

namespace directmap {

/// Where a change is called from, and what it may rely on.
struct ChangeOptions {
    /// The caller can't sleep: tables come from what is set aside, never from the table source.
    bool atomic = false;
    /// No CPU translates through the map until the call returns, and tables are reached another way: leaves may be
    /// resized whatever the gate says.
    bool quiescent = false;
    /// The caller owns the pages that carry the table key (the table pool): it alone may change them.
    bool owns_tables = false;
    /// Tables that the caller brings; then no other source is asked. Null: the platform's source, or the stock.
    TableLoan* loan = nullptr;
};

/// A leaf that straddles an end of the range, or the group that does.
template <class Table>
struct Cut {
    bool open_group = false; ///< its contiguous group must become single descriptors
    bool split = false;      ///< the entry itself must become a table
    Table table{};
    int level = 0;
    unsigned index = 0;
    PhysAddr start; ///< of the entry
    Descriptor value;

    [[nodiscard]] bool needed() const { return open_group || split; }
};

template <class Table>
struct Plan {
    bool alters = false;  ///< something would change
    bool resizes = false; ///< leaves must be split, or groups opened
    bool breaks = false;  ///< valid leaves change what must break before it makes
    bool retypes = false; ///< invalid leaves change what would have to break if they were valid
    bool stale = false;   ///< translations that may be cached change
    bool groups = false;  ///< contiguous groups lie inside the range
    bool single = false;  ///< the range is exactly `run`
    bool pinned = true;   ///< both ends lie in leaves of fixed size, which nobody splits or merges meanwhile
    unsigned tables = 0;
    unsigned avoided = 0; ///< splits that a leaf's agreement with the change made needless
    int level = InvalidationScope::any_level; ///< of all leaves in the range, if they share one
    unsigned stride_shift = 0;                ///< of the smallest
    Run<Table> run;
    Cut<Table> low, high;
};

/// The tables that cutting an entry of `level` at `low` and `high` takes; offsets into the entry, 0 for no cut there.
template <class G>
[[nodiscard]] constexpr unsigned tables_for_cut(int level, std::uint64_t low, std::uint64_t high) {
    if (low == 0 && high == 0) return 0;
    const unsigned shift = G::shift(level + 1);
    const std::uint64_t mask = (std::uint64_t{1} << shift) - 1;
    unsigned tables = 1;
    if (level + 1 == G::last_level) return tables;
    const bool low_cut = (low & mask) != 0, high_cut = (high & mask) != 0;
    if (low_cut && high_cut && low >> shift == high >> shift) {
        return tables + tables_for_cut<G>(level + 1, low & mask, high & mask);
    }
    if (low_cut) tables += tables_for_cut<G>(level + 1, low & mask, 0);
    if (high_cut) tables += tables_for_cut<G>(level + 1, 0, high & mask);
    return tables;
}

namespace detail {

/// Whether the entry `index` of `run` straddles `boundary`, an address inside or at the edge of what it maps.
template <Format F, Platform P>
[[nodiscard]] Cut<typename P::Table> examine_cut(Core<F, P>& core, const Run<typename P::Table>& run, unsigned index,
                                                 Descriptor value, PhysAddr boundary, DescriptorChange spelled,
                                                 unsigned& avoided) {
    using G = typename F::geometry;
    Cut<typename P::Table> cut;
    const unsigned shift = G::shift(run.level);
    const std::uint64_t va = core.va_of(boundary);
    const bool inside_entry = (va & (G::bytes(run.level) - 1)) != 0;
    const bool grouped = value.any_of(F::contiguous_mask) && (va & (G::group_bytes(run.level) - 1)) != 0;
    if (!inside_entry && !grouped) return cut;
    if (spelled.difference(value).empty()) {
        ++avoided;
        return cut;
    }
    cut.open_group = grouped;
    cut.split = inside_entry;
    cut.table = run.table;
    cut.level = run.level;
    cut.index = index;
    cut.start = run.start + (std::uint64_t{index - run.first} << shift);
    cut.value = value;
    return cut;
}

/// Whether a contiguous group in the run would change; single descriptors beside it may change alone.
template <Format F, Platform P>
[[nodiscard]] bool alters_group(Core<F, P>& core, const Run<typename P::Table>& run, RunSummary summary,
                                DescriptorChange spelled) {
    if (summary.all.any_of(F::contiguous_mask)) return true;
    for (unsigned i = 0; i < run.count; ++i) {
        const Descriptor d = core.platform.load(run.table, run.first + i);
        if (d.any_of(F::contiguous_mask) && !spelled.difference(d).empty()) return true;
    }
    return false;
}

/// Whether the run holds a page with the table key: only the pool may change those. Without a key in the run, or without
/// a table key at all, that costs one test.
template <Format F, Platform P>
[[nodiscard]] bool holds_table_pages(Core<F, P>& core, const Run<typename P::Table>& run, RunSummary summary) {
    if (core.table_key == 0 || !summary.any.any_of(F::key_mask)) return false;
    const Descriptor key = F::key_bits(core.table_key);
    for (unsigned i = 0; i < run.count; ++i) {
        if ((core.platform.load(run.table, run.first + i) & F::key_mask) == key) return true;
    }
    return false;
}

template <Format F>
[[nodiscard]] Error static_leaf(PhysAddr where) {
    return {ErrorCode::unsupported, where, 0, "a leaf of fixed size would have to be resized"};
}

} // namespace detail

/// Plans `change` of `part`, which lies in one region. Errors: not_mapped (the first hole), unsupported (a fixed leaf
/// straddles an end), incompatible (the part holds a table that the change has to reach afterwards).
template <Format F, Platform P>
[[nodiscard]] Error plan_change(Core<F, P>& core, PhysRange part, Change change, ChangeOptions options,
                                Plan<typename P::Table>& plan, bool& failed) {
    using G = typename F::geometry;
    P& platform = core.platform;
    failed = true;
    plan.stride_shift = G::region_shift;
    bool first = true;
    for (PhysAddr pa = part.start; pa < part.end(); first = false) {
        const auto run = find_run(core, pa, part.end(), part);
        const PhysAddr end = run_end<F>(run, part.end());
        RunSummary summary;
        if (run.count == 1) {
            summary = {run.value, run.value};
        } else {
            summary = platform.summarize(run.table, run.first, run.count, Descriptor{}, 0);
        }
        if (!summary.all.all_of(F::present_mask)) {
            unsigned hole = 0;
            while (F::is_leaf(run.level, platform.load(run.table, run.first + hole))) ++hole;
            const PhysAddr where = run.start + (std::uint64_t{hole} << G::shift(run.level));
            return {ErrorCode::not_mapped, where < part.start ? part.start : where, 0, "a hole in the range"};
        }
        const DescriptorChange spelled = core.format.spell(run.level, change);
        const Descriptor altered = summary.altered_by(spelled);
        const bool last = end == part.end();
        if (first) {
            plan.run = run;
            plan.single = last;
            plan.level = run.level;
        } else if (plan.level != run.level) {
            plan.level = InvalidationScope::any_level;
        }
        if (G::shift(run.level) < plan.stride_shift) plan.stride_shift = G::shift(run.level);

        if (!altered.empty()) {
            plan.alters = true;
            plan.retypes = plan.retypes || altered.any_of(F::break_mask);
            if (summary.any.any_of(F::valid_mask)) {
                const bool only_validates = altered == F::valid_mask && spelled.set.any_of(F::valid_mask);
                if (altered.any_of(F::break_mask)) plan.breaks = true;
                if (!only_validates && !altered.without(F::software_mask).empty()) plan.stale = true;
            }
            if (run.through_range && core.platform.tables_mapped_here() && !keeps_tables(core, change)) {
                return {ErrorCode::incompatible, part.start, 0, "the range maps page tables that the change has to edit"};
            }
            if (!options.owns_tables && detail::holds_table_pages(core, run, summary)) {
                return {ErrorCode::incompatible, pa, 0, "the range holds protected page tables"};
            }
            if (summary.any.any_of(F::contiguous_mask)) plan.groups = plan.groups || detail::alters_group(core, run, summary, spelled);
        }
        if (first) plan.pinned = run.value.any_of(F::fixed_mask);
        if (first) plan.low = detail::examine_cut(core, run, run.first, run.value, part.start, spelled, plan.avoided);
        if (last) {
            const unsigned index = run.first + run.count - 1;
            const Descriptor value = run.count == 1 ? run.value : platform.load(run.table, index);
            plan.high = detail::examine_cut(core, run, index, value, part.end(), spelled, plan.avoided);
            plan.pinned = plan.pinned && value.any_of(F::fixed_mask);
        }
        pa = end;
    }
    if (!plan.low.needed() && !plan.high.needed()) {
        plan.resizes = plan.groups && !plan.breaks;
        failed = false;
        return {};
    }
    plan.resizes = true;
    if (plan.low.needed() && plan.low.value.any_of(F::fixed_mask)) return detail::static_leaf<F>(part.start);
    if (plan.high.needed() && plan.high.value.any_of(F::fixed_mask)) return detail::static_leaf<F>(part.end());
    const std::uint64_t low = plan.low.split ? part.start - plan.low.start : 0;
    const std::uint64_t high = plan.high.split ? part.end() - plan.high.start : 0;
    if (plan.low.split && plan.high.split && plan.low.start == plan.high.start) {
        plan.tables = tables_for_cut<G>(plan.low.level, low, high);
    } else {
        if (plan.low.split) plan.tables += tables_for_cut<G>(plan.low.level, low, 0);
        if (plan.high.split) plan.tables += tables_for_cut<G>(plan.high.level, 0, high);
    }
    failed = false;
    return {};
}

} // namespace directmap

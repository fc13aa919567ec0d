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
    /// Set by `protect_deferred`: where to add what is stale, instead of flushing it.
    StaleSet* deferred = nullptr;
};

inline constexpr ChangeOptions default_options{};

/// A leaf that straddles an end of the range, or the group that does.
template <class Table>
struct Cut {
    Table table{};
    PhysAddr start; ///< of the entry
    Descriptor value;
    unsigned index = 0;
    std::int8_t level = 0;
    bool open_group = false; ///< its contiguous group must become single descriptors
    bool split = false;      ///< the entry itself must become a table

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
    bool partial = false; ///< in some run nothing would change
    bool pinned = true;   ///< both ends lie in leaves of fixed size, which nobody splits or merges meanwhile
    std::uint8_t tables = 0;
    std::uint8_t avoided = 0;                         ///< splits that a leaf's agreement with the change made needless
    std::int8_t level = InvalidationScope::any_level; ///< of all leaves in the range, if they share one
    std::uint8_t stride_shift = 0;                    ///< of the smallest, once the ends are cut
    Cut<Table> ends[2];                               ///< at the start, and at the end

    [[nodiscard]] bool cuts() const { return ends[0].needed() || ends[1].needed(); }
    /// Both ends cut the same leaf.
    [[nodiscard]] bool one_leaf() const { return ends[0].split && ends[1].split && ends[0].start == ends[1].start; }
};

namespace detail {

/// The plan of one region's part of a change.
template <Format F, Platform P>
class Planner {
public:
    using G = typename F::geometry;
    using TableRun = Run<typename P::Table>;
    using TableCut = Cut<typename P::Table>;

    Planner(Core<F, P>& core, const PhysRange& range, const PhysRange& part, Change change,
            const ChangeOptions& options, Plan<typename P::Table>& plan)
        : core_{core}, range_{range}, part_{part}, change_{change}, options_{options}, plan_{plan} {}

    [[nodiscard, gnu::always_inline]] Result<void> run() {
        plan_ = {};
        plan_.stride_shift = G::region_shift;
        for (PhysAddr pa = part_.start; pa < part_.end();) {
            const TableRun run = find_run(core_, pa, part_.end(), range_);
            if (pa == part_.start) {
                plan_.level = static_cast<std::int8_t>(run.level);
            } else if (plan_.level != run.level) {
                plan_.level = InvalidationScope::any_level;
            }
            const PhysAddr end = run_end<F>(run, part_.end());
            if (auto r = look_at(run, pa == part_.start, end == part_.end()); !r) {
                // Without the lock: another CPU put a table where the run had a leaf. No hole, but a reason to look
                // again.
                if (r.error().code() == ErrorCode::not_mapped && !has_hole(run)) continue;
                return r;
            }
            pa = end;
        }
        plan_.resizes = plan_.cuts() || (plan_.groups && !plan_.breaks);
        if (!plan_.cuts()) return {};
        return measure_cuts();
    }

private:
    [[nodiscard]] Result<void> look_at(const TableRun& run, bool first, bool last) {
        const DescriptorChange spelled = core_.format.spell(run.level, change_);
        RunSummary summary{run.value, run.value};
        if (run.count != 1) summary = core_.platform.summarize(run.table, run.first, run.count, Descriptor{}, 0);
        if (!summary.all.all_of(F::present_mask)) return hole_in(run);
        const unsigned shift = G::shift(run.level);
        if (shift < plan_.stride_shift) plan_.stride_shift = static_cast<std::uint8_t>(shift);
        const Descriptor altered = summary.altered_by(spelled);
        if (altered.empty()) {
            plan_.partial = true;
        } else {
            plan_.alters = true;
            if (altered.any_of(F::break_mask)) plan_.retypes = true;
            if (summary.any.any_of(F::valid_mask)) {
                const bool only_validates = altered == F::valid_mask && spelled.set.any_of(F::valid_mask);
                if (altered.any_of(F::break_mask)) plan_.breaks = true;
                if (!only_validates && !altered.without(F::software_mask).empty()) plan_.stale = true;
            }
            if (run.through_range && core_.platform.tables_mapped_here() && !keeps_tables(core_, change_)) {
                return Error{reasons::own_tables, part_.start};
            }
            if (!options_.owns_tables && gives_table_key(core_, change_)) {
                return Error{reasons::table_key, part_.start};
            }
            if (core_.table_key != 0 && !options_.owns_tables && holds_table_pages(run, summary)) {
                return Error{reasons::protected_tables, inside(run.start)};
            }
            if (!plan_.groups && summary.any.any_of(F::contiguous_mask))
                plan_.groups = alters_group(run, summary, spelled);
        }
        if (first) plan_.pinned = run.value.any_of(F::fixed_mask);
        if (last) {
            const Descriptor value = core_.platform.load(run.table, run.first + run.count - 1);
            plan_.pinned = plan_.pinned && value.any_of(F::fixed_mask);
        }
        const std::uint64_t inside =
            (summary.any.any_of(F::contiguous_mask) ? G::group_bytes(run.level) : G::bytes(run.level)) - 1;
        if (first && (core_.va_of(part_.start) & inside) != 0)
            examine_cut(plan_.ends[0], run, run.first, part_.start, spelled);
        if (last && (core_.va_of(part_.end()) & inside) != 0) {
            examine_cut(plan_.ends[1], run, run.first + run.count - 1, part_.end(), spelled);
        }
        return {};
    }

    [[nodiscard]] bool has_hole(const TableRun& run) const {
        bool hole = run.count == 1;
        for (unsigned i = 0; !hole && i < run.count; ++i) {
            const Descriptor d = core_.platform.load(run.table, run.first + i);
            hole = !F::is_leaf(run.level, d) && !F::is_table(run.level, d);
        }
        return hole;
    }
    [[nodiscard]] Error hole_in(const TableRun& run) const {
        unsigned hole = 0;
        while (hole + 1 < run.count && F::is_leaf(run.level, core_.platform.load(run.table, run.first + hole))) ++hole;
        const PhysAddr where = run.start + (std::uint64_t{hole} << G::shift(run.level));
        return {reasons::hole, inside(where)};
    }
    /// The part's first address where an entry begins before it; even before address 0, if the offset is odd enough.
    [[nodiscard]] PhysAddr inside(PhysAddr entry) const { return part_.contains(entry) ? entry : part_.start; }

    /// Whether a contiguous group in the run would change; single descriptors beside it may change alone.
    [[nodiscard]] bool alters_group(const TableRun& run, RunSummary summary, DescriptorChange spelled) const {
        bool alters = summary.all.any_of(F::contiguous_mask);
        for (unsigned i = 0; !alters && i < run.count; ++i) {
            const Descriptor d = core_.platform.load(run.table, run.first + i);
            alters = d.any_of(F::contiguous_mask) && !spelled.difference(d).empty();
        }
        return alters;
    }

    /// Whether the run holds a page with the table key: only the pool may change those.
    [[nodiscard]] bool holds_table_pages(const TableRun& run, RunSummary summary) const {
        bool holds = false;
        for (unsigned i = 0; !holds && summary.any.any_of(F::key_mask) && i < run.count; ++i) {
            holds = holds_tables(core_, core_.platform.load(run.table, run.first + i));
        }
        return holds;
    }

    /// Whether the entry `index` of `run` straddles `boundary`, an address inside or at the edge of what it maps.
    [[gnu::noinline]] void examine_cut(TableCut& cut, const TableRun& run, unsigned index, PhysAddr boundary,
                                       DescriptorChange spelled) {
        const std::uint64_t va = core_.va_of(boundary);
        const Descriptor value = run.count == 1 ? run.value : core_.platform.load(run.table, index);
        const bool inside_entry = (va & (G::bytes(run.level) - 1)) != 0;
        const bool grouped = value.any_of(F::contiguous_mask) && (va & (G::group_bytes(run.level) - 1)) != 0;
        if (!inside_entry && !grouped) return;
        if (spelled.difference(value).empty()) {
            ++plan_.avoided;
            return;
        }
        const PhysAddr start = run.start + (std::uint64_t{index - run.first} << G::shift(run.level));
        cut = {run.table, start, value, index, static_cast<std::int8_t>(run.level), grouped, inside_entry};
    }

    /// What the cuts take, and how small they leave the leaves.
    [[nodiscard]] Result<void> measure_cuts() {
        unsigned tables = 0;
        for (const TableCut& cut : plan_.ends) {
            const PhysAddr end = &cut == plan_.ends ? part_.start : part_.end();
            if (cut.needed() && cut.value.any_of(F::fixed_mask)) return Error{reasons::fixed_leaf, end};
            if (!cut.split) continue;
            // The address bits decide: an entry is cut where the end has a bit below the entry's size.
            const unsigned added = levels_above(cut.level, lowest_bit(core_.va_of(end)));
            const unsigned stride = G::shift(cut.level + static_cast<int>(added));
            tables += added;
            if (stride < plan_.stride_shift) plan_.stride_shift = static_cast<std::uint8_t>(stride);
        }
        // Entries that both ends cut have one table: above the highest bit in which the ends differ.
        if (plan_.one_leaf()) {
            const std::uint64_t low_va = core_.va_of(part_.start), high_va = core_.va_of(part_.end());
            const unsigned highest_difference = 63u - static_cast<unsigned>(__builtin_clzll(low_va ^ high_va));
            const unsigned bit = lowest_bit(low_va);
            tables -= levels_above(plan_.ends[0].level, highest_difference > bit ? highest_difference : bit);
        }
        plan_.tables = static_cast<std::uint8_t>(tables);
        return {};
    }
    [[nodiscard]] static unsigned lowest_bit(std::uint64_t va) { return static_cast<unsigned>(__builtin_ctzll(va)); }
    /// How many levels from `level` on have entries larger than 2^bit bytes.
    [[nodiscard]] static unsigned levels_above(int level, unsigned bit) {
        return (G::shift(level) - bit + G::index_bits - 1) / G::index_bits;
    }

    Core<F, P>& core_;
    const PhysRange& range_;
    const PhysRange& part_;
    Change change_;
    const ChangeOptions& options_;
    Plan<typename P::Table>& plan_;
};

} // namespace detail

/// Plans `change` of `part`, which lies in one region, on behalf of a change of `range`. Errors: not_mapped (the first
/// hole), unsupported (a fixed leaf straddles an end), incompatible (the range holds a table that the change of this
/// part has to reach, or the part holds protected ones).
template <Format F, Platform P>
[[nodiscard, gnu::noinline]] Result<void> plan_change(Core<F, P>& core, const PhysRange& range, const PhysRange& part,
                                                      Change change, const ChangeOptions& options,
                                                      Plan<typename P::Table>& plan) {
    return detail::Planner<F, P>{core, range, part, change, options, plan}.run();
}

} // namespace directmap

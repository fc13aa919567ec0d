// Bringing leaves to single pages: what `prepare` does to a range and `repaint` to the whole map.
#pragma once

#include <cstdint>

#include "directmap/collapse.hpp"
#include "directmap/core.hpp"
#include "directmap/protect.hpp"
#include "directmap/reclaim.hpp"

namespace directmap {

namespace detail {

/// Tables in a subtree below a leaf of `level`.
template <class G>
[[nodiscard]] constexpr unsigned tables_to_pages(int level) {
    return level + 1 == G::last_level ? 1 : 1 + G::table_entries * tables_to_pages<G>(level + 1);
}

/// What to do about fixed leaves: repaint leaves them alone, prepare refuses.
enum class Obstacle : std::uint8_t { skip, refuse };

/// Leaves of one region that fill more than a page become pages, level by level. Holes are passed over. The lock is
/// held for one leaf at a time, or for the entries of one last-level table.
template <Format F, Platform P>
class ToPages {
public:
    using G = typename F::geometry;
    using CoreType = Core<F, P>;

    ToPages(CoreType& core, PhysRange part, const ChangeOptions& options, Obstacle obstacle)
        : core_{core}, region_{core.region_of(part.start)}, pa_{part.start}, end_{part.end()}, options_{options},
          obstacle_{obstacle}, reserve_{core, false} {}

    /// Errors: unsupported (a fixed leaf, if refusing; the gate), no_tables, busy. What was split before an error stays
    /// split: no attribute has changed.
    [[nodiscard]] Result<void> run() {
        Result<void> result;
        while (result && pa_ < end_) {
            result = step();
            // The table source may sleep: it is asked with no lock held.
            if (result && wants_table_ && !reserve_.fill(1))
                result = Error::needing(reasons::no_tables, tables_to_pages<G>(run_.level));
        }
        if (options_.quiescent) {
            RegionGuard<F, P> guard{core_, region_};
            if (region_.deferred) flush_region(core_, region_, end_ - 1);
        }
        return result;
    }

private:
    /// Goes on behind what needs nothing (more), or asks for a table.
    [[nodiscard, gnu::noinline]] Result<void> step() {
        RegionGuard<F, P> guard{core_, region_};
        if (!wants_table_ || !omits(core_.platform, Omission::second_look)) {
            // One table's worth at most: a run ends with its table, but finding the end of a long one takes its time.
            constexpr int level = G::last_level - 1;
            const PhysAddr next = core_.entry_start(pa_, G::shift(level)) + G::bytes(level);
            run_ = find_run(core_, pa_, next - pa_ < end_ - pa_ ? next : end_);
        }
        wants_table_ = false;
        if (run_.level == G::last_level) {
            if (auto r = open_groups(); !r) return r;
        } else if (F::is_leaf(run_.level, run_.value)) {
            if (!run_.value.any_of(F::fixed_mask)) {
                if (auto r = check(); !r) return r;
                wants_table_ = reserve_.count() == 0;
                if (!wants_table_) split();
                return {};
            }
            if (obstacle_ == Obstacle::refuse) return Error{reasons::fixed_leaf, pa_};
        }
        pa_ = run_end<F>(run_, end_);
        return {};
    }

    [[nodiscard]] Result<void> check() const { return options_.quiescent ? Result<void>{} : check_gate(core_, pa_); }

    /// The run's one leaf becomes a table.
    void split() {
        P& platform = core_.platform;
        const int level = run_.level;
        WriteSection<P> writable{platform};
        // Resizing upon resizing owes nothing in between, as long as attributes agree.
        if (F::flush_owed_after_resize && region_.may_be_outdated()) flush_region(core_, region_, pa_);
        if (run_.value.any_of(F::contiguous_mask)) set_group(core_, region_, run_.table, level, run_.first, false);
        const PhysAddr table = reserve_.use();
        platform.fill(platform.table(table), 0, G::table_entries,
                      F::child_of(level, run_.value.without(F::contiguous_mask)), G::bytes(level + 1));
        publish(core_, region_); // the table and the opened group, before the link
        platform.store(run_.table, run_.first, F::table(table));
        leave_behind();
        count_leaves<G>(region_, level, false, -1);
        count_leaves<G>(region_, level + 1, false, G::table_entries);
        ++region_.counters.stores;
        ++region_.counters.splits;
        ++region_.counters.tables_taken;
        region_.counters.filled += G::table_entries;
        if (level + 1 == G::last_level) pa_ = run_end<F>(run_, end_);
    }

    /// The groups of last-level entries that overlap the run.
    [[nodiscard]] Result<void> open_groups() {
        if constexpr (!G::has_groups(G::last_level)) return {};
        const unsigned group = G::group_entries(G::last_level);
        bool opened = false;
        Result<void> result;
        WriteSection<P> writable{core_.platform};
        for (unsigned i = run_.first & ~(group - 1); result && i < run_.first + run_.count; i += group) {
            const Descriptor d = core_.platform.load(run_.table, i);
            if (!d.any_of(F::contiguous_mask)) continue;
            if (d.any_of(F::fixed_mask)) {
                if (obstacle_ == Obstacle::refuse) result = Error{reasons::fixed_leaf, pa_};
                continue;
            }
            result = check();
            if (!result) break;
            set_group(core_, region_, run_.table, run_.level, i, false);
            opened = true;
        }
        if (opened) leave_behind(); // also what an error left opened: the next change of a page relies on it
        return result;
    }

    /// Publishes what became smaller. Larger entries may linger in TLBs: right while everyone tolerates it, flushed at
    /// the end where nobody must.
    void leave_behind() {
        publish(core_, region_);
        core_.platform.barrier_context();
        if (!omits(core_.platform, Omission::lingering_note)) region_.defer(false);
        note_change(core_, region_);
    }

    CoreType& core_;
    typename CoreType::RegionState& region_;
    PhysAddr pa_; ///< everything before it is done
    PhysAddr end_;
    const ChangeOptions& options_;
    Obstacle obstacle_;
    typename CoreType::TableReserve reserve_;
    Run<typename P::Table> run_; ///< at `pa_`
    bool wants_table_ = false;   ///< for the run's leaf
};

/// Errors: see ToPages::run.
template <Format F, Platform P>
[[nodiscard, gnu::noinline]] Result<void> to_pages(Core<F, P>& core, PhysRange range, const ChangeOptions& options,
                                                   Obstacle obstacle) {
    Result<void> result;
    for (PhysAddr pa = range.start; result && pa < range.end();) {
        const PhysAddr end = core.region_end(pa, range.end());
        result = ToPages<F, P>{core, {pa, end - pa}, options, obstacle}.run();
        pa = end;
    }
    return result;
}

/// Marks every page of one region's part as fixed, with the region's lock held.
template <Format F, Platform P>
void pin_pages(Core<F, P>& core, typename Core<F, P>::RegionState& region, PhysRange part) {
    const DescriptorChange pinned = core.format.spell(F::geometry::last_level, Change{}.fixed(true));
    WriteSection<P> writable{core.platform};
    for (PhysAddr pa = part.start; pa < part.end();) {
        const auto run = find_run(core, pa, part.end());
        core.platform.update(run.table, run.first, run.count, pinned);
        region.counters.stores += run.count;
        pa = run_end<F>(run, part.end());
    }
    publish(core, region);
}

/// Before and after a preparation, which collapse stays out of; `pin` ends one that succeeded.
template <Format F, Platform P>
[[gnu::noinline]] void note_preparing(Core<F, P>& core, PhysRange range, bool begins, bool pin) {
    for (PhysAddr pa = range.start; pa < range.end();) {
        const PhysAddr end = core.region_end(pa, range.end());
        auto& region = core.region_of(pa);
        RegionGuard<F, P> guard{core, region};
        region.preparing += begins ? 1u : ~0u;
        if (pin) pin_pages(core, region, {pa, end - pa});
        pa = end;
    }
}

} // namespace detail

/// Pins `range` to pages: splits what is larger and marks every page as fixed. Later changes inside never resize.
/// On an error no page is pinned; leaves may have become smaller, with the same attributes.
template <Format F, Platform P>
[[nodiscard]] Result<void> prepare_range(Core<F, P>& core, PhysRange range, const ChangeOptions& options) {
    if (options.atomic) return Error{reasons::prepare_sleeps, range.start};
    detail::note_preparing(core, range, true, false); // a collapse would merge what has just been split
    Result<void> result = change_range(core, range, Change{}.fixed(true), options, true);
    if (result) result = detail::to_pages(core, range, options, detail::Obstacle::refuse);
    detail::note_preparing(core, range, false, result.ok());
    return result;
}

/// Undoes `prepare`: the pages may be collapsed again. Nothing else changes. Errors: not_mapped; unsupported for a
/// static leaf.
template <Format F, Platform P>
[[nodiscard]] Result<void> release_range(Core<F, P>& core, PhysRange range) {
    for (PhysAddr pa = range.start; pa < range.end();) {
        WalkerSection<P> walker{core.platform};
        const auto run = find_run(core, pa, range.end());
        for (unsigned i = 0; i < run.count; ++i) {
            const Descriptor d = core.platform.load(run.table, run.first + i);
            const bool large = run.level != F::geometry::last_level || d.any_of(F::contiguous_mask);
            if (large && d.any_of(F::fixed_mask)) return Error{reasons::fixed_leaf, pa};
        }
        pa = run_end<F>(run, range.end());
    }
    return change_range(core, range, Change{}.fixed(false), default_options);
}

/// Brings everything that isn't fixed to pages. Errors: no_tables (some leaves remain large; call again with more),
/// busy / unsupported by the gate.
template <Format F, Platform P>
[[nodiscard]] Result<void> repaint_all(Core<F, P>& core, const ChangeOptions& options) {
    return detail::to_pages(core, core.span, options, detail::Obstacle::skip);
}

} // namespace directmap

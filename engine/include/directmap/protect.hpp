// Changing attributes: plan → reserve → commit → flush (design §5).
#pragma once

#include <cstdint>

#include "directmap/core.hpp"
#include "directmap/page_change.hpp"
#include "directmap/plan.hpp"
#include "directmap/split.hpp"

namespace directmap {

namespace detail {

template <class Core>
[[gnu::noinline]] void flush_now(Core& core, typename Core::RegionState& region, Span<const StaleRange> stale) {
    const FlushCost cost = flush(core.platform, stale, core.flush_ceiling, core.gate.invalidate_twice());
    region.counters.add(cost);
}

/// Everything in the region that was changed without a flush is flushed, so that nothing stale is merged over.
template <Format F, Platform P>
[[gnu::noinline]] void flush_region(Core<F, P>& core, typename Core<F, P>::RegionState& region, PhysAddr inside) {
    using G = typename F::geometry;
    const StaleRange all{core.virt(core.entry_start(inside, G::region_shift)),
                         G::region_bytes,
                         G::page_shift,
                         {InvalidationScope::any_level, true}};
    publish(core, region);
    flush_now(core, region, {&all, 1});
    region.note_flushed();
}

/// Where translations of two sizes may be cached together only if their attributes agree: what an earlier resize or a
/// deferred change left behind goes before leaves change or are resized.
template <Format F, Platform P>
void flush_before_change([[maybe_unused]] Core<F, P>& core, [[maybe_unused]] typename Core<F, P>::RegionState& region,
                         [[maybe_unused]] PhysAddr inside) {
    if constexpr (F::flush_owed_after_resize) {
        if (region.unflushed != 0 || region.deferred) flush_region(core, region, inside);
    }
}

/// Why the gate doesn't allow a leaf to be resized now.
template <Format F, Platform P>
[[nodiscard]] Error gate_refusal(const Core<F, P>& core, PhysAddr where) {
    return {core.gate.mode() == Gate::Mode::undecided ? reasons::gate_undecided : reasons::gate_closed, where};
}

/// The gate's answer to a plan that resizes.
template <Format F, Platform P>
[[nodiscard]] Result<void> check_gate(const Core<F, P>& core, PhysAddr where) {
    return core.gate.may_split() ? Result<void>{} : gate_refusal(core, where);
}

/// A change on its way through the regions of its range.
template <Format F, Platform P>
class RangeChange : EndCutter<F, P> {
public:
    using Base = EndCutter<F, P>;
    using typename Base::CoreType;
    using typename Base::G;
    using typename Base::RegionState;
    using typename Base::Table;
    using TableRun = Run<Table>;

    RangeChange(CoreType& map, PhysRange range, Change change, const ChangeOptions& options, bool cut_only)
        : Base{map, options.atomic, options.loan}, range_{range}, change_{change}, options_{options},
          one_region_{map.region_end(range.start, range.end()) == range.end()}, cut_only_{cut_only} {}

    [[nodiscard]] Result<void> run() {
        const bool several = !one_region_ && !cut_only_;
        Result<void> result;
        if (several) result = look_ahead();
        if (!result) return result;
        for (PhysAddr pa = range_.start; result && go_to(pa); pa = part.end()) result = change_part();
        // (The part that an error stopped at hasn't changed.)
        if (several && options_.deferred == nullptr) flush_regions(result ? range_.end() : part.start);
        return result;
    }

private:
    enum class Pass : std::uint8_t { open_groups, change, close_groups, break_leaves, make_leaves };

    using Base::core;
    using Base::here;
    using Base::part;
    using Base::reserve;

    [[nodiscard]] Result<void> plan() { return plan_change(core, range_, part, change_, options_, plan_); }

    [[nodiscard]] Result<void> check() const {
        if (!(cut_only_ ? plan_.cuts() : plan_.resizes) || options_.quiescent) return {};
        return check_gate(core, part.start);
    }

    /// Moves to the part of the region that holds `pa`; false behind the last.
    [[nodiscard]] bool go_to(PhysAddr pa) {
        if (pa == range_.end()) return false;
        part = {pa, core.region_end(pa, range_.end()) - pa};
        here = &core.region_of(pa);
        return true;
    }

    /// All regions first, without their locks: holes, fixed leaves and the gate are found before anything is touched.
    /// Only the two ends can need tables, and whatever another CPU splits or collapses meanwhile, the worst case of
    /// both ends is in hand before the first region is committed.
    [[nodiscard, gnu::noinline]] Result<void> look_ahead() {
        bool cuts = false;
        for (PhysAddr pa = range_.start; go_to(pa); pa = part.end()) {
            WalkerSection<P> walker{core.platform};
            // The gate may have closed since the plan looked: then nothing is left that must be resized.
            Result<void> allowed;
            for (unsigned attempt = 0; attempt == 0 || (attempt == 1 && !allowed); ++attempt) {
                if (auto r = plan(); !r) return r;
                allowed = check();
            }
            if (!allowed) return allowed;
            // Only the range's own ends can be cut, unless they lie on a region's edge or in pinned pages.
            const bool at_edge = ((core.va_of(pa) | core.va_of(part.end())) & (G::region_bytes - 1)) == 0;
            cuts = cuts || plan_.cuts() || (!at_edge && !plan_.pinned);
        }
        if (!cuts || !(core.gate.may_split() || options_.quiescent)) return {};
        return fill_reserve(G::worst_tables);
    }

    [[nodiscard, gnu::noinline]] Result<void> fill_reserve(unsigned wanted) {
        if (!reserve.fill(wanted)) return reserve.exhausted(wanted);
        for (unsigned i = 0; !cut_only_ && core.platform.tables_mapped_here() && i < reserve.count(); ++i) {
            if (range_.contains(reserve[i])) return Error{reasons::table_from_range, reserve[i]};
        }
        return {};
    }

    [[nodiscard, gnu::noinline]] Result<void> change_part() {
        constexpr std::uint64_t unplanned = ~std::uint64_t{0};
        for (std::uint64_t planned_at = unplanned;;) {
            {
                RegionGuard<F, P> guard{core, *here};
                // Every store into the region's tables is counted: a plan holds as long as the count does.
                const bool trusted = planned_at != unplanned && omits(core.platform, Omission::second_plan);
                if (here->counters.stores != planned_at && !trusted) {
                    if (auto r = plan(); !r) return r;
                    planned_at = here->counters.stores;
                }
                if (auto r = check(); !r) return r;
                if (plan_.tables <= reserve.count()) {
                    commit();
                    return {};
                }
            }
            // With no lock held; then everything is looked at again. Nothing has been committed yet: a range of several
            // regions has its reserve already.
            if (auto r = fill_reserve(plan_.tables); !r) return r;
        }
    }

    /// Commits the plan to `part`, whose region's lock is held, and flushes or says what is owed.
    [[gnu::always_inline]] void commit() {
        RegionState& region = *here;
        bool owed = false;
        if (plan_.alters || plan_.cuts()) flush_before_change(core, region, part.start);
        if (cut_only_) {
            if (!plan_.cuts()) return;
            WriteSection<P> writable{core.platform};
            this->cut_ends(plan_, Descriptor{});
            region.defer(false);
            if (options_.quiescent) flush_region(core, region, part.start);
            return;
        }
        region.counters.splits_avoided += plan_.avoided;
        StaleSet& stale = options_.deferred != nullptr ? *options_.deferred : stale_;
        if (plan_.alters) {
            owed = change_leaves(stale);
        } else if (region.may_be_outdated()) {
            // There is nothing to do, and the caller relies on its being done: others' flushes may still be owed.
            stale.add({core.virt(part.start), part.size, plan_.stride_shift, {InvalidationScope::any_level, true}});
            owed = true;
        }
        if (options_.deferred != nullptr) {
            if (owed || plan_.resizes) region.defer(owed);
        } else if (!one_region_) {
            region.begin_flush();
        } else if (owed) {
            flush_now(core, region, stale_);
        } else if (plan_.alters) {
            if (plan_.resizes) region.defer(false); // larger entries may linger, still right
            core.platform.barrier_context();
        }
    }

    /// Returns whether a flush is owed.
    [[nodiscard, gnu::always_inline]] bool change_leaves(StaleSet& stale) {
        RegionState& region = *here;
        WriteSection<P> writable{core.platform};
        bool owed = false, marked = false;
        if (plan_.cuts()) {
            marked = this->cut_ends(plan_, F::regroup_mask);
            if constexpr (F::flush_owed_after_resize) {
                StaleSet cut;
                add_cut_leaves(cut);
                flush_now(core, region, cut);
            }
        }
        InvalidationScope scope{plan_.level, true};
        // An entry that was split may still be cached at its old level, by this change or by one not flushed yet.
        const bool lingering = region.unflushed != 0 || region.deferred;
        if (plan_.resizes || (lingering && !omits(core.platform, Omission::unhinted_flush))) {
            scope.level = InvalidationScope::any_level;
        }
        const bool owes = plan_.stale || region.may_be_outdated(); // what is invalid may be cached as it was
        StaleRange changed{core.virt(part.start), part.size, plan_.stride_shift, scope};
        // A leaf that was made invalid with the flush deferred may still be cached as it was: then the break is owed
        // still.
        if (plan_.breaks || (plan_.retypes && region.may_be_outdated())) {
            break_and_make(changed);
        } else {
            change_in_place(marked);
        }
        // Groups that were opened and closed again behind a closed gate: no trace of the single descriptors.
        const bool reopened = options_.quiescent && plan_.groups;
        if ((owes || reopened) && !plan_.breaks) {
            stale.add(changed);
            owed = true;
        }
        if (options_.quiescent && plan_.cuts()) {
            add_cut_leaves(stale);
            owed = true;
        }
        note_change(core, region);
        return owed;
    }

    /// The larger leaves that were cut, where they are not tolerated beside the smaller ones.
    void add_cut_leaves(StaleSet& stale) const {
        for (const Cut<Table>& cut : plan_.ends) {
            const unsigned shift = G::shift(cut.level) + (cut.open_group ? G::group_shift(cut.level) : 0);
            if (!cut.needed()) continue;
            stale.add({core.virt(core.entry_start(cut.start, shift)),
                       std::uint64_t{1} << shift,
                       G::shift(cut.level),
                       {InvalidationScope::any_level, false}});
        }
    }

    /// Changes that must break before they make: every leaf that changes becomes invalid (with its group bit cleared,
    /// so that no half of a group speaks for the other), is flushed everywhere, and only then gets its new value, group
    /// bit included. In between, accesses to these pages fault; the caller owns them. Leaves of the range whose own
    /// change could be made in place are broken too: one flush serves all.
    [[gnu::noinline]] void break_and_make(StaleRange& changed) {
        (void)each_run(Pass::break_leaves);
        publish(core, *here);
        changed.level = InvalidationScope::any_level;
        flush_now(core, *here, {&changed, 1});
        (void)each_run(Pass::make_leaves);
        publish(core, *here);
        core.platform.barrier_context();
    }

    /// Changes in place. A group is opened before its members may differ and closed again after the last of them has
    /// changed, each step visible before the next: at no moment does a group bit cover descriptors that disagree.
    void change_in_place(bool marked) {
        if (plan_.groups && each_run(Pass::open_groups)) {
            marked = true;
            publish(core, *here);
        }
        (void)each_run(Pass::change);
        publish(core, *here);
        if (marked && each_run(Pass::close_groups)) publish(core, *here);
    }

    /// One pass over the leaves of `part`; returns whether a group was opened or closed.
    [[gnu::noinline]] bool each_run(Pass pass) {
        bool any = false;
        for (PhysAddr pa = part.start; pa < part.end();) {
            const TableRun run = find_run(core, pa, part.end());
            switch (pass) {
            case Pass::change: change_run(run); break;
            case Pass::open_groups:
            case Pass::close_groups: any = set_groups(run, pass == Pass::close_groups) || any; break;
            case Pass::break_leaves:
            case Pass::make_leaves: remake_run(run, pass == Pass::make_leaves); break;
            }
            pa = run_end<F>(run, part.end());
        }
        return any;
    }

    void change_run(const TableRun& run) {
        P& platform = core.platform;
        const DescriptorChange spelled = core.format.spell(run.level, change_);
        if (run.count == 1) {
            const Descriptor made = spelled.apply_to(run.value);
            if (made == run.value) return;
            platform.store(run.table, run.first, made);
        } else {
            // Where every run changes, as the plan saw, none needs a second look.
            if ((plan_.partial || plan_.cuts()) &&
                platform.summarize(run.table, run.first, run.count, Descriptor{}, 0).altered_by(spelled).empty()) {
                return;
            }
            platform.update(run.table, run.first, run.count, spelled);
        }
        here->counters.stores += run.count;
    }

    /// Opens the run's groups that will change and marks them, or closes those that are marked.
    [[nodiscard]] bool set_groups(const TableRun& run, bool close) {
        if (!G::has_groups(run.level)) return false;
        const bool closes = close || options_.quiescent || core.gate.may_merge();
        const DescriptorChange spelled = core.format.spell(run.level, change_);
        const unsigned group = G::group_entries(run.level);
        bool any = false;
        for (unsigned i = (run.first + group - 1) & ~(group - 1); i + group <= run.first + run.count; i += group) {
            const Descriptor d = core.platform.load(run.table, i);
            if (!d.any_of(close ? F::regroup_mask : F::contiguous_mask)) continue;
            if (!close && spelled.difference(d).empty()) continue;
            set_group(core, *here, run.table, run.level, i, close, closes ? F::regroup_mask : Descriptor{});
            any = true;
        }
        return any;
    }

    /// Makes the run's leaves that change invalid and marks them, or gives those that are marked their new value.
    void remake_run(const TableRun& run, bool make) {
        const DescriptorChange spelled = core.format.spell(run.level, change_);
        for (unsigned i = run.first; i < run.first + run.count; ++i) {
            const Descriptor d = core.platform.load(run.table, i);
            const bool grouped = d.any_of(make ? F::regroup_mask : F::contiguous_mask);
            Descriptor next;
            if (make) {
                next = d.without(F::broken_mask | F::regroup_mask);
                if (d.any_of(F::broken_mask)) next = next | F::valid_mask;
                if (grouped) next = next | F::contiguous_mask;
                next = spelled.apply_to(next);
                if (next == d) continue;
            } else {
                if (!d.any_of(F::valid_mask) || spelled.difference(d).without(F::software_mask).empty()) continue;
                next = d.without(F::valid_mask | F::contiguous_mask) | F::broken_mask;
                if (grouped) next = next | F::regroup_mask;
            }
            core.platform.store(run.table, i, next);
            ++here->counters.stores;
            if (grouped && (i & (G::group_entries(run.level) - 1)) == 0) count_group<G>(*here, run.level, make);
        }
    }

    /// One round for the regions up to `end`, which have all been changed.
    [[gnu::noinline]] void flush_regions(PhysAddr end) {
        const PhysAddr start = range_.start;
        const FlushCost cost = flush(core.platform, stale_, core.flush_ceiling, core.gate.invalidate_twice());
        if (stale_.empty()) core.platform.barrier_context();
        for (PhysAddr pa = start; pa < end; pa = core.region_end(pa, end)) {
            RegionState& region = core.region_of(pa);
            RegionGuard<F, P> guard{core, region};
            region.end_flush();
            if (pa == start) region.counters.add(cost);
        }
    }

    PhysRange range_;
    Change change_;
    const ChangeOptions& options_;
    bool one_region_;
    bool cut_only_;
    StaleSet stale_;
    Plan<Table> plan_;
};

} // namespace detail

/// Changes attributes of `range`. With `cut_only` it changes none, and cuts what straddles the ends of the range and of
/// each region in it.
template <Format F, Platform P>
[[nodiscard, gnu::noinline]] Result<void> change_range(Core<F, P>& core, PhysRange range, Change change,
                                                       const ChangeOptions& options, bool cut_only = false) {
    return detail::RangeChange<F, P>{core, range, change, options, cut_only}.run();
}

/// The tables that `change_range` would take now. Errors: as it would answer, but for those of the table source.
template <Format F, Platform P>
[[nodiscard]] Result<unsigned> plan_tables(Core<F, P>& core, PhysRange range, Change change,
                                           const ChangeOptions& options) {
    unsigned tables = 0;
    for (PhysAddr pa = range.start; pa < range.end();) {
        const PhysAddr end = core.region_end(pa, range.end());
        WalkerSection<P> walker{core.platform};
        Plan<typename P::Table> plan;
        if (auto r = plan_change(core, range, {pa, end - pa}, change, options, plan); !r) return r.error();
        if (plan.resizes && !options.quiescent && !core.gate.may_split()) return detail::gate_refusal(core, pa);
        tables += plan.tables;
        pa = end;
    }
    return tables;
}

} // namespace directmap

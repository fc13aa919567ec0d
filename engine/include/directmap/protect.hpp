// Changing attributes: plan → reserve → commit → flush (design §5).
#pragma once

#include <cstdint>

#include "directmap/core.hpp"
#include "directmap/plan.hpp"
#include "directmap/split.hpp"

namespace directmap {

namespace detail {

/// Calls `visit(run)` for every run of `part`.
template <Format F, Platform P, class Visit>
void for_each_run(Core<F, P>& core, PhysRange part, Visit visit) {
    for (PhysAddr pa = part.start; pa < part.end();) {
        const auto run = find_run(core, pa, part.end());
        visit(run);
        pa = run_end<F>(run, part.end());
    }
}

/// Calls `visit(first index)` for every group that lies wholly in `run` and whose first descriptor has `mark`.
template <Format F, Platform P, class Visit>
void for_each_group(Core<F, P>& core, const Run<typename P::Table>& run, Descriptor mark, Visit visit) {
    using G = typename F::geometry;
    if (!G::has_groups(run.level)) return;
    const unsigned group = G::group_entries(run.level);
    const unsigned last = (run.first + run.count) & ~(group - 1);
    for (unsigned i = (run.first + group - 1) & ~(group - 1); i < last; i += group) {
        const Descriptor d = core.platform.load(run.table, i);
        if (d.any_of(mark)) visit(i, d);
    }
}

template <class Core>
void publish(Core& core, typename Core::RegionState& region) {
    core.platform.barrier_publish();
    ++region.counters.barriers;
}

template <class Core>
void flush_now(Core& core, typename Core::RegionState& region, const StaleSet& stale) {
    const FlushCost cost = flush(core.platform, stale, core.flush_ceiling, core.gate.invalidate_twice());
    region.counters.invalidations += cost.invalidations;
    region.counters.barriers += cost.barriers;
    if (cost.invalidations != 0) ++region.counters.rounds;
}

/// log2 of the smallest leaf in `part` once its ends are cut: as fine as the ends need.
template <Format F, Platform P>
[[nodiscard]] unsigned stride_after_cut(const Core<F, P>& core, PhysRange part, const Plan<typename P::Table>& plan) {
    using G = typename F::geometry;
    unsigned stride = plan.stride_shift;
    const auto consider = [&](const Cut<typename P::Table>& cut, PhysAddr boundary) {
        if (!cut.split) return;
        int level = cut.level + 1;
        while (level != G::last_level && !core.virt(boundary).aligned(G::bytes(level))) ++level;
        if (G::shift(level) < stride) stride = G::shift(level);
    };
    consider(plan.low, part.start);
    consider(plan.high, part.end());
    return stride;
}

/// Changes that must break before they make: every leaf that changes becomes invalid (with its group bit cleared, so
/// that no half of a group speaks for the other), is flushed everywhere, and only then gets its new value, group
/// bit included. In between, accesses to these pages fault; the caller owns them. Leaves of the range whose own change
/// could be made in place are broken too: one flush serves all.
template <Format F, Platform P>
void commit_break(Core<F, P>& core, typename Core<F, P>::RegionState& region, PhysRange part, Change change,
                  const Plan<typename P::Table>& plan) {
    using G = typename F::geometry;
    P& platform = core.platform;
    const auto store = [&](typename P::Table table, unsigned index, Descriptor value) {
        platform.store(table, index, value);
        ++region.counters.stores;
    };
    const auto account_group = [&](int level, unsigned index, bool closed) { // once a group, at its first entry
        const std::int64_t group = G::group_entries(level);
        if ((index & static_cast<unsigned>(group - 1)) != 0) return;
        count_leaves<G>(region, level, true, closed ? group : -group);
        count_leaves<G>(region, level, false, closed ? -group : group);
        ++(closed ? region.counters.groups_closed : region.counters.groups_opened);
    };
    for_each_run(core, part, [&](const Run<typename P::Table>& run) {
        const DescriptorChange spelled = core.format.spell(run.level, change);
        for (unsigned i = run.first; i < run.first + run.count; ++i) {
            const Descriptor d = platform.load(run.table, i);
            if (!d.any_of(F::valid_mask) || spelled.difference(d).without(F::software_mask).empty()) continue;
            const bool grouped = d.any_of(F::contiguous_mask);
            const Descriptor marks = F::broken_mask | (grouped ? F::regroup_mask : Descriptor{});
            if (grouped) account_group(run.level, i, false);
            store(run.table, i, d.without(F::valid_mask | F::contiguous_mask) | marks);
        }
    });
    publish(core, region);
    StaleSet stale;
    stale.add({core.virt(part.start), part.size, stride_after_cut(core, part, plan), {InvalidationScope::any_level, true}});
    flush_now(core, region, stale);
    for_each_run(core, part, [&](const Run<typename P::Table>& run) {
        const DescriptorChange spelled = core.format.spell(run.level, change);
        for (unsigned i = run.first; i < run.first + run.count; ++i) {
            const Descriptor d = platform.load(run.table, i);
            Descriptor made = d.without(F::broken_mask | F::regroup_mask);
            if (d.any_of(F::broken_mask)) made = made | F::valid_mask;
            if (d.any_of(F::regroup_mask)) {
                made = made | F::contiguous_mask;
                account_group(run.level, i, true);
            }
            made = spelled.apply_to(made);
            if (made != d) store(run.table, i, made);
        }
    });
    publish(core, region);
    platform.barrier_context();
}

/// Changes in place. A group is opened before its members may differ and closed again after the last of them has
/// changed, each step visible before the next: at no moment does a group bit cover descriptors that disagree.
template <Format F, Platform P>
void commit_in_place(Core<F, P>& core, typename Core<F, P>::RegionState& region, PhysRange part, Change change,
                     const Plan<typename P::Table>& plan) {
    using G = typename F::geometry;
    using TableRun = Run<typename P::Table>;
    P& platform = core.platform;
    if (plan.single && !plan.resizes) { // one run: the plan's descent serves the commit too
        const DescriptorChange spelled = core.format.spell(plan.run.level, change);
        if (plan.run.count == 1) {
            platform.store(plan.run.table, plan.run.first, spelled.apply_to(plan.run.value));
        } else {
            platform.update(plan.run.table, plan.run.first, plan.run.count, spelled);
        }
        region.counters.stores += plan.run.count;
        publish(core, region);
        return;
    }
    const bool may_close = core.gate.may_merge();
    if (plan.groups) {
        for_each_run(core, part, [&](const TableRun& run) {
            const DescriptorChange spelled = core.format.spell(run.level, change);
            for_each_group(core, run, F::contiguous_mask, [&](unsigned first, Descriptor d) {
                if (spelled.difference(d).empty()) return;
                open_group(core, region, run.table, run.level, first, may_close ? F::regroup_mask : Descriptor{});
            });
        });
        publish(core, region);
    }
    for_each_run(core, part, [&](const TableRun& run) {
        const DescriptorChange spelled = core.format.spell(run.level, change);
        const RunSummary summary = run.count == 1
                                       ? RunSummary{run.value, run.value}
                                       : platform.summarize(run.table, run.first, run.count, Descriptor{}, 0);
        if (summary.altered_by(spelled).empty()) return;
        platform.update(run.table, run.first, run.count, spelled);
        region.counters.stores += run.count;
    });
    publish(core, region);
    if (!plan.resizes || !may_close) return;
    bool closed = false;
    for_each_run(core, part, [&](const TableRun& run) {
        for_each_group(core, run, F::regroup_mask, [&](unsigned first, Descriptor) {
            const unsigned group = G::group_entries(run.level);
            platform.update(run.table, first, group, {F::regroup_mask, F::contiguous_mask});
            region.counters.stores += group;
            ++region.counters.groups_closed;
            count_leaves<G>(region, run.level, false, -static_cast<std::int64_t>(group));
            count_leaves<G>(region, run.level, true, group);
            closed = true;
        });
    });
    if (closed) publish(core, region);
}

/// The gate's answer to a plan that resizes.
template <Format F, Platform P>
[[nodiscard]] Result<void> check_gate(const Core<F, P>& core, PhysAddr where) {
    if (core.gate.may_split()) return {};
    if (core.gate.mode() == Gate::Mode::undecided) {
        return Error{ErrorCode::busy, where, 0, "a leaf must be resized, and the gate has not decided yet"};
    }
    return Error{ErrorCode::unsupported, where, 0, "a leaf must be resized, and a CPU on the map can't tolerate that"};
}

template <Format F, Platform P>
[[nodiscard]] Result<void> fill_reserve(typename Core<F, P>::TableReserve& reserve, unsigned wanted, PhysRange range,
                                        bool atomic, bool mapped_here) {
    if (!reserve.fill(wanted)) {
        return Error{atomic ? ErrorCode::would_block : ErrorCode::no_tables, range.start, wanted,
                     atomic ? "more tables are needed than are set aside" : "the table source is exhausted"};
    }
    for (unsigned i = 0; mapped_here && i < reserve.count(); ++i) {
        if (range.contains(reserve[i])) {
            return Error{ErrorCode::incompatible, reserve[i], 0, "the table source handed out memory that is being changed"};
        }
    }
    return {};
}

/// Commits `change` to `part`, which lies in one region whose lock is held, and adds what became stale to `stale`.
template <Format F, Platform P>
void commit(Core<F, P>& core, typename Core<F, P>::RegionState& region, PhysRange part, Change change,
            const Plan<typename P::Table>& plan, typename Core<F, P>::TableReserve& reserve, bool quiescent,
            StaleSet& stale) {
    using G = typename F::geometry;
    WriteSection<P> writable{core.platform};
    InvalidationScope scope{plan.level, true};
    region.counters.splits_avoided += plan.avoided;
    if (plan.low.needed() || plan.high.needed()) {
        cut_ends(core, region, part, plan, reserve, F::regroup_mask);
        if (quiescent || F::flush_owed_after_resize) {
            // The larger leaves may be cached where they are no longer tolerated.
            const auto whole = [&](const Cut<typename P::Table>& cut) {
                const unsigned shift = G::shift(cut.level) + (cut.open_group ? G::group_shift(cut.level) : 0);
                if (cut.needed()) {
                    stale.add({core.virt(core.entry_start(cut.start, shift)), std::uint64_t{1} << shift,
                               G::shift(cut.level), {InvalidationScope::any_level, false}});
                }
            };
            whole(plan.low);
            whole(plan.high);
        }
        if constexpr (F::flush_owed_after_resize) {
            flush_now(core, region, stale);
            stale.clear();
        }
    }
    // A leaf that was made invalid with the flush deferred may still be cached as it was: then the break is owed still.
    if (plan.breaks || (plan.retypes && (region.unflushed != 0 || region.deferred))) {
        commit_break(core, region, part, change, plan);
    } else {
        commit_in_place(core, region, part, change, plan);
    }
    // An entry that was split may still be cached at its old level, by this change or by one not flushed yet.
    if (plan.resizes || region.unflushed != 0 || region.deferred) scope.level = InvalidationScope::any_level;
    if (plan.stale && !plan.breaks) {
        stale.add({core.virt(part.start), part.size, stride_after_cut(core, part, plan), scope});
    }
    // Background collapse looks at these without the lock.
    __atomic_store_n(&region.touched, true, __ATOMIC_RELAXED);
    __atomic_store_n(&region.last_change, core.platform.now(), __ATOMIC_RELAXED);
}

} // namespace detail

/// Changes attributes of `range`. With `deferred` null the change is flushed when the call returns; otherwise what is stale
/// is added there and the caller flushes.
template <Format F, Platform P>
[[nodiscard]] Result<void> change_range(Core<F, P>& core, PhysRange range, Change change, ChangeOptions options,
                                        StaleSet* deferred) {
    using G = typename F::geometry;
    using CoreType = Core<F, P>;
    P& platform = core.platform;
    const bool mapped_here = platform.tables_mapped_here();
    const bool one_region = core.region_end(range.start, range.end()) == range.end();
    typename CoreType::TableReserve reserve{platform, core.stock, options.atomic, options.loan};
    StaleSet later;

    if (!one_region) {
        // All regions first, without their locks: holes, fixed leaves and the gate are found before anything is
        // touched. Only the two ends can need tables, and whatever another CPU splits or collapses meanwhile, the
        // worst case of both ends is in hand before the first region is committed.
        bool cuts = false;
        for (PhysAddr pa = range.start; pa < range.end();) {
            const PhysAddr end = core.region_end(pa, range.end());
            WalkerSection<P> walker{platform};
            Plan<typename P::Table> plan;
            bool failed = false;
            const PhysRange part{pa, end - pa};
            const Error error = plan_change(core, part, change, options, plan, failed);
            if (failed) return error;
            if (plan.resizes && !options.quiescent) {
                if (auto open = detail::check_gate(core, pa); !open) return open;
            }
            // Only the range's own ends can be cut, unless they lie on a region's edge or in pinned pages.
            const bool at_edge = core.virt(pa).aligned(G::region_bytes) && core.virt(end).aligned(G::region_bytes);
            cuts = cuts || plan.low.needed() || plan.high.needed() || (!at_edge && !plan.pinned);
            pa = end;
        }
        if (cuts && (core.gate.may_split() || options.quiescent)) {
            auto filled = detail::fill_reserve<F, P>(reserve, G::worst_tables, range, options.atomic, mapped_here);
            if (!filled) return filled;
        }
    }

    Result<void> result;
    PhysAddr pa = range.start;
    while (pa < range.end()) {
        const PhysAddr end = core.region_end(pa, range.end());
        const PhysRange part{pa, end - pa};
        auto& region = core.region_of(pa);
        unsigned wanted = 0;
        {
            RegionGuard<F, P> guard{core, region};
            Plan<typename P::Table> plan;
            bool failed = false;
            const Error error = plan_change(core, part, change, options, plan, failed);
            if (failed) {
                result = error;
                break;
            }
            if (plan.alters && plan.resizes && !options.quiescent) {
                if (result = detail::check_gate(core, pa); !result) break;
            }
            if (!plan.alters || plan.tables <= reserve.count()) {
                StaleSet stale;
                if (plan.alters) {
                    detail::commit(core, region, part, change, plan, reserve, options.quiescent, stale);
                } else {
                    region.counters.splits_avoided += plan.avoided;
                }
                if (deferred != nullptr) {
                    region.deferred = region.deferred || !stale.empty() || plan.resizes;
                    deferred->add(stale);
                } else if (!one_region) {
                    ++region.unflushed;
                    later.add(stale);
                } else if (!stale.empty()) {
                    detail::flush_now(core, region, stale);
                } else if (plan.alters) {
                    region.deferred = region.deferred || plan.resizes; // larger entries may linger, still right
                    platform.barrier_context();
                }
                pa = end;
                continue;
            }
            wanted = plan.tables;
        }
        // With no lock held; then everything is looked at again. Nothing has been committed yet: a range of several
        // regions has its reserve already.
        result = detail::fill_reserve<F, P>(reserve, wanted, range, options.atomic, mapped_here);
        if (!result) break;
    }
    if (!one_region && deferred == nullptr) {
        const FlushCost cost = flush(platform, later, core.flush_ceiling, core.gate.invalidate_twice());
        if (later.empty()) platform.barrier_context();
        for (PhysAddr done = range.start; done < pa; done = core.region_end(done, range.end())) {
            auto& region = core.region_of(done);
            RegionGuard<F, P> guard{core, region};
            --region.unflushed;
            if (done == range.start && cost.invalidations != 0) {
                region.counters.invalidations += cost.invalidations;
                region.counters.barriers += cost.barriers;
                ++region.counters.rounds;
            }
        }
    }
    return result;
}

/// The tables that `change_range` would take now.
template <Format F, Platform P>
[[nodiscard]] Result<unsigned> plan_tables(Core<F, P>& core, PhysRange range, Change change, ChangeOptions options) {
    unsigned tables = 0;
    for (PhysAddr pa = range.start; pa < range.end();) {
        const PhysAddr end = core.region_end(pa, range.end());
        WalkerSection<P> walker{core.platform};
        Plan<typename P::Table> plan;
        bool failed = false;
        const Error error = plan_change(core, {pa, end - pa}, change, options, plan, failed);
        if (failed) return error;
        tables += plan.tables;
        pa = end;
    }
    return tables;
}

} // namespace directmap

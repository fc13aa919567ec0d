// The face of the engine. A user reads this header; everything else it includes is how.
//
//     directmap::DirectMap<directmap::arm64::Format4K48, MyPlatform> map{platform, {.offset = 0xffff000000000000},
//     regions}; map.build({ram, zones}, directmap::Mapping::largest);      // before anything translates through it
//     install(map.root());                                       // TTBR1_EL1
//     map.admit(boot_cpu_capabilities);                          // now leaves may be resized
//     map.protect(page, directmap::Change{}.writable(false));    // splits what it must, flushed when it returns
//     map.protect(page, directmap::Change{}.writable(true));
//     map.collapse(page);                                        // and the large leaf is back
#pragma once

#include <cstdint>

#include "directmap/build.hpp"
#include "directmap/collapse.hpp"
#include "directmap/core.hpp"
#include "directmap/dump.hpp"
#include "directmap/flip.hpp"
#include "directmap/layout.hpp"
#include "directmap/mapping.hpp"
#include "directmap/pages.hpp"
#include "directmap/protect.hpp"
#include "directmap/walk.hpp"

namespace directmap {

struct Config {
    std::uint64_t offset = 0; ///< VA − PA, aligned to pages; the more it is aligned, the larger the leaves
    CollapsePolicy policy = CollapsePolicy::on_request;
    std::uint64_t quiet_time = 0; ///< background collapse leaves alone what changed more recently (Platform::now units)
    unsigned table_key = 0;       ///< protection key of table pages (P9); 0: tables aren't protected
    unsigned flush_ceiling = 512; ///< single-address invalidations before the whole map is invalidated
};

/// Where an address leads.
struct Translation {
    PhysAddr pa;
    Attributes attributes;
    LeafSize leaf;
};

/// The map's account: what it consists of and what happened to it (promise P12).
struct Statistics {
    std::uint64_t leaves[6] = {}; ///< by leaf size, in the order of Geometry::leaf_sizes
    std::uint64_t bytes = 0;      ///< the same as bytes
    Counters counters;
    unsigned set_aside = 0;           ///< tables in stock for atomic callers
    unsigned set_aside_low_water = 0; ///< the fewest that there ever were
    unsigned retired = 0;             ///< unlinked tables that wait for walkers
};

/// One map of all RAM at VA = PA + offset.
///
/// Ranges are physical, aligned to pages, and inside the RAM that was built; `virt` and `phys` convert. Every function
/// may be called on any CPU at any time after `build`, unless it says otherwise; changes in different regions run in
/// parallel. After an error, the attributes of every page are as before (promise P4).
template <Format F, Platform P>
class DirectMap {
public:
    using G = typename F::geometry;
    using PlatformType = P;
    using RegionState = Region<typename P::Lock>;

    /// A flush that is still owed. Completes when it goes out of scope, if `complete` hasn't been called; merges
    /// with others first, so that many changes cost one round.
    class [[nodiscard]] DeferredFlush {
    public:
        DeferredFlush() = default;
        DeferredFlush(DeferredFlush&& other) noexcept { merge(static_cast<DeferredFlush&&>(other)); }
        DeferredFlush& operator=(DeferredFlush&& other) noexcept {
            if (this == &other) return *this;
            complete();
            merge(static_cast<DeferredFlush&&>(other));
            return *this;
        }
        ~DeferredFlush() { complete(); }

        /// Takes over what `other` owes; both belong to one map.
        [[gnu::noinline]] void merge(DeferredFlush&& other) noexcept {
            if (other.map_ == nullptr) return;
            map_ = other.map_;
            stale_.add(other.stale_);
            other.map_ = nullptr;
            other.stale_.clear();
        }
        /// Once this returns, no CPU uses what the changes replaced (promise P2).
        [[gnu::noinline]] void complete() {
            if (map_ == nullptr) return;
            map_->flush_deferred(stale_);
            map_ = nullptr;
            stale_.clear();
        }

    private:
        friend class DirectMap;
        DirectMap* map_ = nullptr;
        StaleSet stale_;
    };

    /// `regions` is storage for one Region for each Geometry::region_bytes from the first to the last byte of RAM; it
    /// and `platform` must outlive the map.
    DirectMap(P& platform, const Config& config, Span<RegionState> regions, F format = {})
        : core_{.platform = platform, .format = format} {
        core_.offset = config.offset;
        core_.policy = config.policy;
        core_.quiet_time = config.quiet_time;
        core_.table_key = config.table_key;
        core_.flush_ceiling = config.flush_ceiling;
        core_.regions = regions;
    }
    DirectMap(const DirectMap&) = delete;
    DirectMap& operator=(const DirectMap&) = delete;

    /// Builds the map, once, before anything translates through it. Tables come from the platform's source.
    /// Errors: invalid_argument (the first offending range; or too few regions, and how many are needed), no_tables and
    /// how many are needed. Nothing is kept after an error.
    [[nodiscard]] Result<void> build(const Layout& layout, Mapping mapping) {
        return build_map(core_, layout, mapping);
    }

    /// The root table, for the translation table base register.
    [[nodiscard]] PhysAddr root() const { return core_.root; }
    [[nodiscard]] VirtAddr virt(PhysAddr pa) const { return core_.virt(pa); }
    [[nodiscard]] PhysAddr phys(VirtAddr va) const { return PhysAddr{va.value() - core_.offset}; }

    /// The tables that changing `range` so would take now: a pure read, for callers that must know beforehand. Errors:
    /// as `protect` would answer.
    [[nodiscard]] Result<unsigned> tables_needed(PhysRange range, Change change,
                                                 const ChangeOptions& options = default_options) {
        if (auto r = check(range, change); !r) return r.error();
        return plan_tables(core_, range, change, options);
    }

    /// Changes attributes of `range`, splitting leaves that straddle its ends and no others (P5). When it returns,
    /// every CPU uses the new attributes (P2) and nothing outside of the range has changed or faulted (P3). A change of
    /// memory type or sharing breaks before it makes: in between, accesses to the range fault. Errors:
    /// invalid_argument, not_mapped, unsupported, busy, no_tables, would_block, incompatible (see ErrorCode).
    [[nodiscard, gnu::noinline]] Result<void> protect(PhysRange range, Change change,
                                                      const ChangeOptions& options = default_options) {
        if (core_.policy == CollapsePolicy::on_restore) return protect_and_heal(range, change, options);
        // Most changes: a page, and a page that is a leaf of its own. What these decline, errors too, goes further.
        if (is_page(range)) {
            if (options.deferred == nullptr && detail::PageChange<F, P>{core_, range.start, change}.run()) return {};
            return protect_page(range, change, options);
        }
        return protect_range(range, change, options);
    }

    /// The same, with the flush still owed: older attributes may be used until it is complete. What must break before
    /// it makes is flushed at once all the same. Until its region is next flushed as a whole (a collapse does), changes
    /// there that would owe nothing, since they find nothing to do or make pages valid, flush their range too.
    [[nodiscard]] Result<DeferredFlush> protect_deferred(PhysRange range, Change change, ChangeOptions options = {}) {
        Result<DeferredFlush> result{InPlace{}}; // too large to be moved
        options.deferred = &result.value().stale_;
        if (const auto done = protect(range, change, options); done) {
            result.value().map_ = this;
        } else {
            result.fail(done.error());
        }
        return result;
    }

    // The named forms.
    [[nodiscard]] Result<void> set_read_only(PhysRange r, const ChangeOptions& o = default_options) {
        return protect(r, Change{}.writable(false), o);
    }
    [[nodiscard]] Result<void> set_writable(PhysRange r, const ChangeOptions& o = default_options) {
        return protect(r, Change{}.writable(true), o);
    }
    [[nodiscard]] Result<void> set_executable(PhysRange r, bool on, const ChangeOptions& o = default_options) {
        return protect(r, Change{}.executable(on), o);
    }
    /// Present-invalid: every access faults, the leaf keeps its address and attributes; the memory may be reused once
    /// this has returned.
    [[nodiscard]] Result<void> set_invalid(PhysRange r, const ChangeOptions& o = default_options) {
        return protect(r, Change{}.valid(false), o);
    }
    [[nodiscard]] Result<void> set_valid(PhysRange r, const ChangeOptions& o = default_options) {
        return protect(r, Change{}.valid(true), o);
    }
    [[nodiscard]] Result<void> set_key(PhysRange r, unsigned key, const ChangeOptions& o = default_options) {
        return protect(r, Change{}.key(key), o);
    }
    [[nodiscard]] Result<void> set_shared(PhysRange r, bool on, const ChangeOptions& o = default_options) {
        return protect(r, Change{}.shared(on), o);
    }

    /// Pins `range` to pages: later changes inside it never resize a leaf, need no table and may come from atomic
    /// context. Collapse leaves it alone until `release`. May sleep. Linear in the range, one table for each large leaf
    /// in it.
    [[nodiscard]] Result<void> prepare(PhysRange range, const ChangeOptions& options = default_options) {
        if (auto r = check(range, Change{}); !r) return r;
        return prepare_range(core_, range, options);
    }
    /// Ends a `prepare`. (The pages of a zone are pinned the same way: released, they may be collapsed too.)
    [[nodiscard]] Result<void> release(PhysRange range) {
        if (auto r = check(range, Change{}); !r) return r;
        if (auto r = release_range(core_, range); !r) return r;
        if (core_.policy == CollapsePolicy::on_restore) heal_range(core_, range);
        return {};
    }

    /// Makes a page that `prepare` has pinned invalid, or valid again, with one store: no lock, no table, any context.
    /// The page's owner calls it, one CPU at a time for each page. When it returns, no CPU reaches an invalid page any
    /// more. Errors: invalid_argument, not_mapped, unsupported (not pinned), incompatible (a page table).
    [[nodiscard]] Result<void> flip(PhysAddr page, bool valid) {
        if (!page.aligned(G::page_size) || !core_.span.contains(page)) return Error{reasons::foreign_page, page};
        return flip_page(core_, page, valid);
    }

    /// Maps a bank of memory that was added at run time, by the rules of `build`: the largest leaves, `attributes` for
    /// all of it. `range` lies in a zone that was excluded at build time, and is a hole. May sleep. Errors:
    /// invalid_argument, no_tables; after an error the hole is there as before.
    /// (A template, like `remove`, so that a kernel whose memory never changes doesn't carry it, however it
    /// instantiates the map.)
    template <int = 0>
    [[nodiscard]] Result<void> add(PhysRange range, Attributes attributes = {}) {
        if (auto r = check(range, Change{}); !r) return r;
        if (auto r = map_range(core_, range, range.start, attributes); !r) return r;
        if (core_.policy != CollapsePolicy::never) heal_range(core_, range);
        return {};
    }
    /// Takes a bank of memory out of the map. Nobody uses it any more, and it holds no table of the map. One flush a
    /// region; tables that only served the bank come back to the source. Takes no table. Errors: invalid_argument,
    /// not_mapped, incompatible (a leaf reaches beyond the range, or a table lies in it: where); nothing has changed
    /// then.
    template <int = 0>
    [[nodiscard]] Result<void> remove(PhysRange range) {
        if (auto r = check(range, Change{}); !r) return r;
        if (auto r = check_removable(core_, range); !r) return r;
        unmap_range(core_, range, [](PhysRange, PhysAddr) {});
        return {};
    }

    /// Makes leaves as large as they can be wherever a larger one would overlap `range` (P10), reading at most `budget`
    /// tables; if that wasn't enough, the result says where to go on. Unlinked tables come back to the source after the
    /// grace period, by this or by `reclaim`. Errors: invalid_argument; busy and unsupported by the gate, or by policy.
    [[nodiscard]] Result<CollapseProgress> collapse(PhysRange range, std::uint64_t budget = ~std::uint64_t{0}) {
        if (auto r = check(range, Change{}); !r) return r.error();
        if (core_.policy == CollapsePolicy::never) {
            return Error{reasons::never_collapses, range.start};
        }
        Result<CollapseProgress> result{InPlace{}};
        if (auto r = collapse_range(core_, range, budget, result.value()); !r) result.fail(r.error());
        return result;
    }
    /// A step of background collapse, for a thread or an idle loop; looks only at regions that were touched since it
    /// last did and have been quiet. Does nothing under other policies.
    CollapseProgress background_step(std::uint64_t budget) {
        if (core_.policy != CollapsePolicy::background || !core_.gate.may_merge()) return {};
        return directmap::background_step(core_, budget);
    }
    /// Everything but static zones becomes pages. Live while the gate is open; otherwise under quiescence.
    [[nodiscard]] Result<void> repaint(const ChangeOptions& options = default_options) {
        return repaint_all(core_, options);
    }

    /// Admits a CPU before its first translation through the map (P8); its MMU is off or uses another map. Called on a
    /// CPU that is inside already (the boot CPU admits itself first). A CPU that doesn't tolerate resizing is admitted
    /// once the map consists of pages and resizing is forbidden for good, or refused, as `policy` says.
    /// Errors: unsupported (refused), no_tables (the repaint ran out: nobody was admitted, try again).
    [[nodiscard]] Result<void> admit(CpuCapabilities cpu, AdmissionPolicy policy = AdmissionPolicy::repaint);
    [[nodiscard]] Gate::Mode gate_mode() const { return core_.gate.mode(); }

    /// Sets tables aside for atomic callers until the stock is full or holds `count`. May sleep. Errors: no_tables.
    [[nodiscard]] Result<void> set_aside(unsigned count = Core<F, P>::Stock::capacity) {
        for (unsigned have = 0; (have = core_.stock.count()) < count;) {
            PhysAddr pa;
            if (!core_.platform.take_table(pa, false)) {
                return Error::needing(reasons::no_tables, count - have);
            }
            if (!core_.stock.put(core_.platform, pa)) {
                core_.platform.give_table(pa);
                break;
            }
        }
        core_.stock.reset_low_water(core_.platform);
        return {};
    }
    /// Where a change with these options takes its tables: for callers that take them beforehand and lend them
    /// (ChangeOptions::loan). (A template like `add`.)
    template <int = 0>
    [[nodiscard]] TableSupply<Core<F, P>> supply(const ChangeOptions& options) {
        return {core_, options.atomic, options.loan};
    }
    /// Gives back tables whose grace period is over; returns how many still wait. Any context.
    unsigned reclaim() { return directmap::reclaim(core_); }

    /// Where `pa`'s alias in the map leads. Errors: invalid_argument, not_mapped. Takes no lock, any context.
    [[nodiscard]] Result<Translation> translate(PhysAddr pa) {
        if (!core_.span.contains(pa)) return Error{reasons::foreign_address, pa};
        const PhysAddr page{align_down(pa.value(), G::page_size)};
        WalkerSection<P> walker{core_.platform};
        const auto run = find_run(core_, page, page + G::page_size);
        if (!F::is_leaf(run.level, run.value)) return Error{reasons::not_mapped, pa};
        const bool group = G::has_groups(run.level) && run.value.any_of(F::contiguous_mask);
        const PhysAddr leaf = core_.format.leaf_address(run.level, run.value);
        return Translation{leaf + (pa - run.start),
                           core_.format.attributes(run.value),
                           {run.level, group, G::shift(run.level) + (group ? G::group_shift(run.level) : 0)}};
    }
    /// Calls `visit(const Leaf&)` for every leaf and hole that overlaps `range`; see directmap::walk.
    template <class Visit>
    void walk(PhysRange range, Visit visit) {
        directmap::walk(core_, range, visit);
    }
    [[nodiscard]] PhysRange span() const { return core_.span; }
    /// Writes the map in the arm64 page-table dump format; see directmap::dump.
    template <class Sink>
    void dump(Sink sink) {
        directmap::dump(core_, sink);
    }

    /// Sums the regions' accounts. Exact while nothing changes.
    [[nodiscard]] Statistics statistics() const {
        Statistics s;
        s.counters = deferred_;
        for (const RegionState& region : core_.regions) {
            for (unsigned i = 0; i < G::leaf_sizes.count; ++i) s.leaves[i] += region.leaves[i];
            s.counters += region.counters;
        }
        for (unsigned i = 0; i < G::leaf_sizes.count; ++i) s.bytes += s.leaves[i] << G::leaf_sizes.of[i].shift;
        s.set_aside = core_.stock.count();
        s.set_aside_low_water = core_.stock.low_water();
        s.retired = core_.retired_count;
        return s;
    }

private:
    /// A page of a region of the map; there need not be RAM.
    [[nodiscard]] bool is_page(PhysRange range) const {
        return range.size == G::page_size && range.start.aligned(G::page_size) &&
               core_.region_index(range.start) < core_.regions.size();
    }
    [[nodiscard, gnu::noinline]] Result<void> protect_page(PhysRange page, Change change,
                                                           const ChangeOptions& options) {
        if (detail::PageSplit<F, P>{core_, page.start, change, options}.run()) return {};
        return protect_range(page, change, options);
    }
    [[nodiscard, gnu::noinline]] Result<void> protect_range(PhysRange range, Change change,
                                                            const ChangeOptions& options) {
        if (auto r = check(range, change); !r) return r;
        return change_range(core_, range, change, options);
    }
    [[nodiscard, gnu::noinline]] Result<void> protect_and_heal(PhysRange range, Change change,
                                                               const ChangeOptions& options) {
        auto result = is_page(range) ? protect_page(range, change, options) : protect_range(range, change, options);
        if (result && options.deferred == nullptr) heal_range(core_, range);
        return result;
    }

    /// Waits until every operation that read the gate before has left its region (see Gate).
    [[gnu::noinline]] void pass_through_regions() {
        if (detail::omits(core_.platform, Omission::admission_wait)) return;
        for (RegionState& region : core_.regions) RegionGuard<F, P> guard{core_, region};
    }
    /// Whether contiguous groups are left anywhere.
    [[nodiscard, gnu::noinline]] bool has_groups() const {
        for (const RegionState& region : core_.regions) {
            for (unsigned i = 0; i < G::leaf_sizes.count; ++i) {
                if (G::leaf_sizes.of[i].contiguous && __atomic_load_n(&region.leaves[i], __ATOMIC_RELAXED) != 0)
                    return true;
            }
        }
        return false;
    }

    [[nodiscard, gnu::noinline]] Result<void> check(PhysRange range, Change change) const {
        if (((range.start.value() | range.size) & (G::page_size - 1)) != 0)
            return Error{reasons::misaligned_range, range.start};
        if (range.size == 0) return Error{reasons::empty_range, range.start};
        const std::uint64_t before = range.start - core_.span.start;
        if (before >= core_.span.size || range.size > core_.span.size - before) {
            return Error{reasons::foreign_range, range.start};
        }
        if (!core_.format.expressible(change)) {
            return Error{reasons::no_realm, range.start};
        }
        return {};
    }

    [[gnu::noinline]] void flush_deferred(Span<const StaleRange> stale) {
        if (stale.empty()) return;
        const FlushCost cost = flush(core_.platform, stale, core_.flush_ceiling, core_.gate.invalidate_twice());
        core_.platform.acquire(core_.reclaim_lock);
        deferred_.add(cost);
        core_.platform.release(core_.reclaim_lock);
    }

    Core<F, P> core_;
    Counters deferred_{}; ///< of flushes that no region did, under the reclaim lock
};

template <Format F, Platform P>
Result<void> DirectMap<F, P>::admit(CpuCapabilities cpu, AdmissionPolicy policy) {
    Gate& gate = core_.gate;
    P& platform = core_.platform;
    if (cpu.invalidate_twice) {
        gate.require_twice();
        pass_through_regions();
    }
    const bool tolerates = cpu.tolerates_live_resize && !cpu.no_contiguous;
    const auto decide = [&]() -> Result<bool> { // whether the map has to be repainted first
        switch (gate.mode()) {
        case Gate::Mode::undecided: // the boot CPU: it found the map as it was built, nothing was resized
            if (cpu.no_contiguous) gate.forbid_contiguous();
            gate.set(tolerates ? Gate::Mode::open : Gate::Mode::closed);
            return false;
        case Gate::Mode::closed:
            if (cpu.no_contiguous && has_groups()) return Error{reasons::fixed_groups, PhysAddr{}};
            return false;
        case Gate::Mode::open:
        case Gate::Mode::splitting: break;
        }
        if (tolerates || detail::omits(platform, Omission::admission_check)) return false;
        if (policy == AdmissionPolicy::refuse) {
            return Error{reasons::intolerant_cpu, PhysAddr{}};
        }
        gate.set(Gate::Mode::splitting);
        ++core_.repaints;
        return true;
    };
    // Admissions race: the lock makes each decision one step, and is never held while the map is repainted. Two
    // repaints may run at once; whoever is through first closes the gate for both.
    platform.acquire(core_.admission_lock);
    const auto decided = decide();
    platform.release(core_.admission_lock);
    if (!decided) return decided.error();
    if (!decided.value()) return {};

    // It takes every region's lock: what saw the gate open is finished before it looks, and nothing merges behind it.
    if (cpu.no_contiguous) gate.forbid_contiguous();
    auto repainted = repaint_all(core_, {});
    if (repainted && cpu.no_contiguous && has_groups()) repainted = Error{reasons::fixed_groups, PhysAddr{}};
    platform.acquire(core_.admission_lock);
    --core_.repaints;
    const bool others = core_.repaints != 0 && !detail::omits(platform, Omission::repaint_count);
    if (repainted) {
        gate.set(Gate::Mode::closed);
    } else if (gate.mode() == Gate::Mode::closed && !(cpu.no_contiguous && has_groups())) {
        repainted = {}; // another admission was through first: nothing is left to repaint
    } else if (gate.mode() == Gate::Mode::splitting && !others) {
        gate.forbid_contiguous(false); // nobody was admitted who minds
        gate.set(Gate::Mode::open);
    }
    platform.release(core_.admission_lock);
    if (!repainted) return repainted;
    // Nothing is being split when the newcomer enters (a bank may have been added behind the repaint), nor does a
    // larger entry linger where it isn't tolerated.
    pass_through_regions();
    const StaleRange everything{
        core_.virt(core_.span.start), core_.span.size, G::page_shift, {InvalidationScope::any_level, false}};
    flush_deferred({&everything, 1});
    return {};
}

} // namespace directmap

// A region: the unit of locking and of accounting.
#pragma once

#include <cstdint>

#include "directmap/flush.hpp"
#include "directmap/units.hpp"

namespace directmap {

/// What happened, as counts. Kept for each region under its lock, summed on demand (promise P12).
struct Counters {
    std::uint64_t invalidations = 0;   ///< invalidation instructions: by address, by range or of everything
    std::uint64_t splits = 0;          ///< leaves that became a table of smaller ones
    std::uint64_t splits_avoided = 0;  ///< leaves that straddled an end of a range but already agreed with the change
    std::uint64_t groups_opened = 0;   ///< contiguous groups that became single descriptors
    std::uint64_t groups_closed = 0;   ///< the reverse
    std::uint64_t collapses = 0;       ///< tables that became one leaf
    std::uint64_t stores = 0;          ///< descriptors stored into live tables
    std::uint64_t filled = 0;          ///< descriptors filled into tables that nothing pointed to yet
    std::uint64_t barriers = 0;        ///< publish and complete barriers
    std::uint64_t rounds = 0;          ///< invalidation rounds: flushes, however many instructions each took
    std::uint64_t tables_taken = 0;    ///< tables linked into the map after build
    std::uint64_t tables_returned = 0; ///< tables unlinked from the map

    /// A flush is one round, however many ranges it served.
    constexpr void add(FlushCost cost) {
        invalidations += cost.invalidations;
        barriers += cost.barriers;
        if (cost.invalidations != 0) ++rounds;
    }
    constexpr Counters& operator+=(const Counters& o) {
        splits += o.splits;
        splits_avoided += o.splits_avoided;
        groups_opened += o.groups_opened;
        groups_closed += o.groups_closed;
        collapses += o.collapses;
        stores += o.stores;
        filled += o.filled;
        barriers += o.barriers;
        invalidations += o.invalidations;
        rounds += o.rounds;
        tables_taken += o.tables_taken;
        tables_returned += o.tables_returned;
        return *this;
    }
};

/// State of one region. The embedder provides an array of these, zero-initialised or default-constructed, one for each
/// `Geometry::region_bytes` of the map's span. Every member is protected by `lock`.
///
/// The lock protocol, and the interleaving that each rule prevents:
/// 1. A CPU writes descriptors below a region's root-side entries only with that region's lock held.
///    (A splits a block while B changes its attributes: B's store hits the block, A's table holds the old attributes.)
/// 2. At most one region lock is held at a time, and nothing sleeps, allocates or calls out while it is held.
///    (A holds 1 and wants 2, B holds 2 and wants 1; or the allocator changes the map and re-enters.)
/// 3. What a plan saw without the lock is looked at again with it. (A plans a split, B splits, A publishes a second
///    table over B's and loses B's changes.)
/// 4. A change is flushed before the lock is released, or `unflushed` / `deferred` says that it isn't, and then no
///    invalidation in the region carries a level hint, and a collapse flushes the region first. (A splits and unlocks;
///    B's hinted invalidation misses the large entry that A left in a TLB. A tightens with the flush deferred; a
///    collapse puts a block over pages whose wider entries still live.)
/// 5. The gate's mode is read with the lock held. (A sees the gate open, the gate closes, a CPU that can't tolerate
///    resizing enters, A resizes.)
/// 6. Walkers take no lock. A table that is unlinked is flushed, then stamped, then kept until every walker of that
/// time
///    has gone (reclaim.hpp). (A dump has read the pointer to a table; a collapse unlinks it, the source hands it out
///    again, and the dump reads what it holds then.)
/// 7. Whoever holds a lock waits for nothing but the end of an invalidation; whoever may sleep, for tables, holds none.
///    An atomic caller's tables are set aside, under a lock of their own. (A sleeps for memory with the lock held; B
///    spins for it with interrupts off, on the CPU that A needs.)
/// A region shares no cache line with another: CPUs that change different ones don't take lines from each other (P11).
template <class Lock>
struct alignas(64) Region {
    Lock lock{};
    std::uint32_t leaves[6] = {};  ///< by leaf size, in the order of Geometry::leaf_sizes
    PhysAddr table{};              ///< holds the region's root-side entries, since build; 0 where no RAM is
    std::uint32_t unflushed = 0;   ///< changes committed whose flush has not finished
    std::uint32_t preparing = 0;   ///< `prepare` calls under way: collapse stays out
    bool deferred = false;         ///< a change's flush was deferred, or a split left larger entries behind
    bool outdated = false;         ///< the former: what was replaced may still be in use
    bool touched = false;          ///< changed since background collapse last looked
    std::uint64_t last_change = 0; ///< Platform::now() at that time
    Counters counters{};

    /// Whether some CPU may still use attributes that a change has replaced. (`flip` asks without the lock.)
    [[nodiscard]] bool may_be_outdated() const {
        return __atomic_load_n(&outdated, __ATOMIC_RELAXED) || __atomic_load_n(&unflushed, __ATOMIC_RELAXED) != 0;
    }
    /// A change goes unflushed for now: `replaced` if it concerns attributes, not sizes alone.
    void defer(bool replaced) {
        deferred = true;
        if (replaced) __atomic_store_n(&outdated, true, __ATOMIC_RELAXED);
    }
    /// A change is committed whose flush follows, or that flush has finished.
    void begin_flush() { __atomic_store_n(&unflushed, unflushed + 1, __ATOMIC_RELAXED); }
    void end_flush() { __atomic_store_n(&unflushed, unflushed - 1, __ATOMIC_RELAXED); }
    /// Everything in the region has been flushed, but for changes that are under way.
    void note_flushed() {
        deferred = false;
        __atomic_store_n(&outdated, false, __ATOMIC_RELAXED);
    }
};

} // namespace directmap

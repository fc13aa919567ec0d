// What the engine asks of its surroundings, as a concept. A kernel, a firmware and the hosted machine each bring a
// type that satisfies it; the exemplar below is compiled and documents every member.
#pragma once

#include <concepts>
#include <cstdint>

#include "directmap/descriptor.hpp"
#include "directmap/units.hpp"

namespace directmap {

/// What a TLB invalidation reaches. A hint or a narrow scope makes hardware look at less; a wrong one leaves stale
/// entries behind (Arm ARM, TLBI instructions and FEAT_TTL).
struct InvalidationScope {
    static constexpr int any_level = -2;

    /// Only entries that came from a leaf of this level; `any_level` when leaves of several sizes may be cached.
    int level = any_level;
    /// Only leaves; false also reaches the walk caches, which hold table descriptors.
    bool leaves_only = true;

    friend constexpr bool operator==(InvalidationScope, InvalidationScope) = default;
};

namespace detail {

/// Sections that hand something from their beginning to their end.
template <class P>
concept SectionsNest = requires(P& p) {
    { p.end_table_writes(p.begin_table_writes()) } -> std::same_as<void>;
};
template <class P>
concept BracketsTableWrites = SectionsNest<P> || requires(P& p) {
    { p.begin_table_writes() } -> std::same_as<void>;
    { p.end_table_writes() } -> std::same_as<void>;
};

} // namespace detail

/// Requirements on `P`:
///
/// Table memory. `Table` is a cheap handle through which this CPU reads and writes one table page.
/// - `table(pa)`: the handle of the table page at `pa`. No access happens.
/// - `load`: one single-copy-atomic 64-bit load; later loads through its value must not be reordered before it
///   (an address dependency is enough).
/// - `store`: one single-copy-atomic 64-bit store into a table that may be live.
/// - `fill`: plain stores of count descriptors, each `step` bytes further, into a table that nothing points to.
/// - `update`: for each of `count` live descriptors in index order, one single-copy-atomic store of the changed value.
///   The caller holds the region's lock, so nobody else writes them.
/// - `summarize`: union and intersection of `descriptor[i] ^ expected(i)`, with expected(i) = `expected` advanced by
///   i × `step`. With an empty `expected` and no step: of the descriptors themselves.
/// DefaultTableMemory (table_memory.hpp) provides the last five for tables reached through plain pointers.
///
/// Ordering. arm64 names in brackets.
/// - `barrier_publish` [DSB ISHST]: this CPU's earlier descriptor stores are visible to every CPU's table walks.
/// - `barrier_complete` [DSB ISH]: the same, and this CPU's earlier invalidations have finished on every CPU, walks
/// that
///   were in progress included.
/// - `barrier_context` [ISB]: this CPU's later instructions see all of that.
///
/// Invalidation, broadcast to every CPU of the map's shareability domain, finished by `barrier_complete` only.
/// - `range_invalidation()`: whether `invalidate_range` exists on every CPU (FEAT_TLBIRANGE).
/// - `invalidate(va, scope)`: entries that translate `va`, whatever their size.
/// - `invalidate_range(va, bytes, scope)`: entries that translate any byte of the range.
/// - `invalidate_all()`: everything of this map, walk caches included.
///
/// Exclusion.
/// - `Lock`: a spin lock, default-constructed free; `acquire` also keeps interrupts of this CPU away until `release`.
///
/// Table pages.
/// - `take_table(pa, atomic)`: hands out a page for a table, false if there is none. May sleep unless `atomic`. Called
///   without locks held. Its contents don't matter. It must be mapped writable by this map, or reachable another way.
/// - `give_table(pa)`: takes a page back, in any context.
/// - `tables_mapped_here()`: whether `load` and `store` go through the very map being edited (then a change that takes
///   its own tables away is refused), or through another mapping.
///
/// Protected tables (promise P9): `begin_table_writes` / `end_table_writes` bracket every write to tables on this CPU;
/// without a table key they do nothing. What the first returns, if anything, is handed to the second: sections that may
/// nest tell there whether one was open already (arm64/key_register.hpp). Both must be inlined into their caller.
///
/// Lock-free walkers (promise P7).
/// - `walker_enter` / `walker_exit` bracket a walk on this CPU; they nest, and never wait.
/// - `grace_stamp()`: a moment; `grace_elapsed(stamp)`: every walk that had begun before that moment has ended. Never
///   called by two CPUs at once.
/// Epochs (epochs.hpp) provides these four; a kernel may use its RCU instead.
///
/// - `now()`: a monotonic time in any unit, compared with the quiet time of background collapse.
/// - `relax()`: a hint in a busy-wait loop.
template <class P>
concept Platform = detail::BracketsTableWrites<P> &&
    requires(P& p, const P& cp, typename P::Table table, typename P::Lock& lock, unsigned index, unsigned count,
             Descriptor descriptor, std::uint64_t bytes, DescriptorChange change, VirtAddr va, PhysAddr pa,
             PhysAddr& taken, InvalidationScope scope, bool atomic, std::uint64_t stamp) {
    requires std::default_initializable<typename P::Lock>;
    { p.table(pa) } -> std::same_as<typename P::Table>;
    { p.load(table, index) } -> std::same_as<Descriptor>;
    { p.store(table, index, descriptor) } -> std::same_as<void>;
    { p.fill(table, index, count, descriptor, bytes) } -> std::same_as<void>;
    { p.update(table, index, count, change) } -> std::same_as<void>;
    { p.summarize(table, index, count, descriptor, bytes) } -> std::same_as<RunSummary>;
    { p.barrier_publish() } -> std::same_as<void>;
    { p.barrier_complete() } -> std::same_as<void>;
    { p.barrier_context() } -> std::same_as<void>;
    { cp.range_invalidation() } -> std::same_as<bool>;
    { p.invalidate(va, scope) } -> std::same_as<void>;
    { p.invalidate_range(va, bytes, scope) } -> std::same_as<void>;
    { p.invalidate_all() } -> std::same_as<void>;
    { p.acquire(lock) } -> std::same_as<void>;
    { p.release(lock) } -> std::same_as<void>;
    { p.take_table(taken, atomic) } -> std::same_as<bool>;
    { p.give_table(pa) } -> std::same_as<void>;
    { cp.tables_mapped_here() } -> std::same_as<bool>;
    { p.walker_enter() } -> std::same_as<void>;
    { p.walker_exit() } -> std::same_as<void>;
    { p.grace_stamp() } -> std::same_as<std::uint64_t>;
    { p.grace_elapsed(stamp) } -> std::same_as<bool>;
    { p.now() } -> std::same_as<std::uint64_t>;
    { p.relax() } -> std::same_as<void>;
};

/// The exemplar: satisfies the concept, does nothing. Copy it to start a port.
class ExemplarPlatform {
public:
    struct Table {
        std::uint64_t* descriptors;
    };
    struct Lock {};

    Table table(PhysAddr) { return {}; }
    Descriptor load(Table, unsigned) { return {}; }
    void store(Table, unsigned, Descriptor) {}
    void fill(Table, unsigned, unsigned, Descriptor, std::uint64_t) {}
    void update(Table, unsigned, unsigned, DescriptorChange) {}
    RunSummary summarize(Table, unsigned, unsigned, Descriptor, std::uint64_t) { return {}; }
    void barrier_publish() {}
    void barrier_complete() {}
    void barrier_context() {}
    [[nodiscard]] bool range_invalidation() const { return false; }
    void invalidate(VirtAddr, InvalidationScope) {}
    void invalidate_range(VirtAddr, std::uint64_t, InvalidationScope) {}
    void invalidate_all() {}
    void acquire(Lock&) {}
    void release(Lock&) {}
    bool take_table(PhysAddr&, bool) { return false; }
    void give_table(PhysAddr) {}
    [[nodiscard]] bool tables_mapped_here() const { return true; }
    void begin_table_writes() {}
    void end_table_writes() {}
    void walker_enter() {}
    void walker_exit() {}
    std::uint64_t grace_stamp() { return 0; }
    bool grace_elapsed(std::uint64_t) { return true; }
    std::uint64_t now() { return 0; }
    void relax() {}
};

static_assert(Platform<ExemplarPlatform>);

} // namespace directmap

// The state that every operation works on. Users see DirectMap (direct_map.hpp), not this.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include "directmap/attributes.hpp"
#include "directmap/descriptor.hpp"
#include "directmap/error.hpp"
#include "directmap/flush.hpp"
#include "directmap/gate.hpp"
#include "directmap/geometry.hpp"
#include "directmap/omissions.hpp"
#include "directmap/platform.hpp"
#include "directmap/reasons.hpp"
#include "directmap/region.hpp"
#include "directmap/reserve.hpp"
#include "directmap/span.hpp"
#include "directmap/units.hpp"

namespace directmap {

/// How descriptors are written. Everything architecture-specific that the operations need; arm64/format.hpp is the
/// documented model of it.
template <class F>
concept Format = requires(const F f, int level, Descriptor d, PhysAddr pa, Attributes a, Change change) {
    typename F::geometry;
    { F::flush_owed_after_resize } -> std::convertible_to<bool>;
    { F::progression_limit } -> std::convertible_to<std::uint64_t>;
    { F::valid_mask } -> std::convertible_to<Descriptor>;
    { F::present_mask } -> std::convertible_to<Descriptor>;
    { F::contiguous_mask } -> std::convertible_to<Descriptor>;
    { F::fixed_mask } -> std::convertible_to<Descriptor>;
    { F::regroup_mask } -> std::convertible_to<Descriptor>;
    { F::broken_mask } -> std::convertible_to<Descriptor>;
    { F::software_mask } -> std::convertible_to<Descriptor>;
    { F::break_mask } -> std::convertible_to<Descriptor>;
    { F::key_mask } -> std::convertible_to<Descriptor>;
    { F::key_bits(0u) } -> std::same_as<Descriptor>;
    { f.leaf(level, pa, a) } -> std::same_as<Descriptor>;
    { F::table(pa) } -> std::same_as<Descriptor>;
    { F::is_table(level, d) } -> std::same_as<bool>;
    { F::is_leaf(level, d) } -> std::same_as<bool>;
    { F::table_address(d) } -> std::same_as<PhysAddr>;
    { f.leaf_address(level, d) } -> std::same_as<PhysAddr>;
    { f.attributes(d) } -> std::same_as<Attributes>;
    { f.spell(level, change) } -> std::same_as<DescriptorChange>;
    { f.expressible(change) } -> std::same_as<bool>;
    { F::child_of(level, d) } -> std::same_as<Descriptor>;
    { F::parent_of(level, d) } -> std::same_as<Descriptor>;
};

/// When leaves become large again.
enum class CollapsePolicy : std::uint8_t {
    never,      ///< not even on request
    on_request, ///< by `collapse` alone ("explicit")
    on_restore, ///< also right after a change, around the range that it changed
    background, ///< by `background_step`, called from a thread or an idle loop
};

/// A table (with everything below it) that is unlinked: first waiting for its flush, then for walkers that may still
/// read it.
struct RetiredTable {
    PhysAddr pa;
    int level = 0;                ///< of the table's descriptors
    std::uint64_t stamp = 0;      ///< once flushed: when
    const void* region = nullptr; ///< whose collapse has yet to flush it; null afterwards
};

template <Format F, Platform P>
struct Core {
    using G = typename F::geometry;
    using Table = typename P::Table;
    using Stock = TableStock<P, G::worst_tables>;
    using TableReserve = Reserve<Core>;
    using RegionState = Region<typename P::Lock>;

    static constexpr unsigned retired_capacity = 64;

    P& platform;
    F format{};
    std::uint64_t offset = 0; ///< VA − PA
    PhysAddr root{};
    PhysRange span{};               ///< from the first to the last byte of RAM, holes included
    Span<RegionState> regions{};    ///< one for each region_bytes from `first_region` on
    std::uint64_t first_region = 0; ///< (VA of span.start) >> region_shift
    unsigned flush_ceiling = 512;   ///< single-address invalidations before the whole map is invalidated
    CollapsePolicy policy = CollapsePolicy::on_request;
    std::uint64_t quiet_time = 0; ///< background collapse leaves alone what changed more recently
    unsigned table_key = 0;       ///< protection key of table pages; 0: tables aren't protected
    Gate gate{};
    typename P::Lock admission_lock{}; ///< makes each decision of the gate one step
    unsigned repaints = 0;             ///< admissions that are repainting the map
    Stock stock{};
    typename P::Lock reclaim_lock{};
    RetiredTable retired[retired_capacity]{};
    unsigned retired_count = 0;
    std::size_t background_region = 0; ///< where background collapse goes on

    [[nodiscard]] std::uint64_t va_of(PhysAddr pa) const { return pa.value() + offset; }
    [[nodiscard]] VirtAddr virt(PhysAddr pa) const { return VirtAddr{va_of(pa)}; }
    [[nodiscard]] std::size_t region_index(PhysAddr pa) const {
        return static_cast<std::size_t>((va_of(pa) >> G::region_shift) - first_region);
    }
    [[nodiscard]] RegionState& region_of(PhysAddr pa) { return regions[region_index(pa)]; }
    /// The end of the region that holds `pa`, or `end` if that comes first.
    [[nodiscard]] PhysAddr region_end(PhysAddr pa, PhysAddr end) const {
        const PhysAddr next{align_down(va_of(pa), G::region_bytes) + G::region_bytes - offset};
        return next - pa < end - pa ? next : end;
    }
    /// Leaves of this size are possible at all: both addresses share the size's alignment.
    [[nodiscard]] bool aligned_for(unsigned shift) const { return (offset & ((std::uint64_t{1} << shift) - 1)) == 0; }
    /// Where the leaf or entry of 2^shift bytes around `pa` starts, measured in virtual addresses.
    [[nodiscard]] PhysAddr entry_start(PhysAddr pa, unsigned shift) const {
        return PhysAddr{align_down(va_of(pa), std::uint64_t{1} << shift) - offset};
    }
    [[nodiscard]] bool groups_allowed(int level) const {
        return G::has_groups(level) && aligned_for(G::shift(level) + G::group_shift(level)) &&
               gate.contiguous_allowed();
    }
};

/// Whether tables whose own mapping a change touches stay readable and, in a write section, writable.
template <Format F, Platform P>
[[nodiscard]] bool keeps_tables(const Core<F, P>& core, Change change) {
    const Attributes to = change.values();
    if (change.names_valid() && !to.valid()) return false;
    if (change.names_writable() && !to.writable()) return false;
    if (change.names_key() && to.key() != core.table_key) return false;
    return !change.names_memory_type() && !change.names_shared();
}

/// Whether a leaf maps protected page tables: only their owner may change it.
template <Format F, Platform P>
[[nodiscard]] bool holds_tables(const Core<F, P>& core, Descriptor leaf) {
    return core.table_key != 0 && (leaf & F::key_mask) == F::key_bits(core.table_key);
}

/// Whether a change would pass pages off as page tables: nobody but their owner could change them again.
template <Format F, Platform P>
[[nodiscard]] bool gives_table_key(const Core<F, P>& core, Change change) {
    return core.table_key != 0 && change.names_key() && change.values().key() == core.table_key;
}

/// Holds a region's lock for a scope.
template <Format F, Platform P>
class [[nodiscard]] RegionGuard {
public:
    RegionGuard(Core<F, P>& core, typename Core<F, P>::RegionState& region) : core_{core}, region_{region} {
        core_.platform.acquire(region_.lock);
    }
    RegionGuard(const RegionGuard&) = delete;
    RegionGuard& operator=(const RegionGuard&) = delete;
    ~RegionGuard() { core_.platform.release(region_.lock); }

private:
    Core<F, P>& core_;
    typename Core<F, P>::RegionState& region_;
};

namespace detail {

struct NothingToRestore {};

template <Platform P>
[[gnu::always_inline]] inline auto begin_table_writes(P& platform) {
    if constexpr (SectionsNest<P>) {
        return platform.begin_table_writes();
    } else {
        platform.begin_table_writes();
        return NothingToRestore{};
    }
}

} // namespace detail

/// Makes tables writable on this CPU for a scope (promise P9). Inlined, so that no function opens a section for whoever
/// calls it.
template <Platform P>
class [[nodiscard]] WriteSection {
public:
    [[gnu::always_inline]] explicit WriteSection(P& platform)
        : platform_{platform}, before_{detail::begin_table_writes(platform)} {}
    WriteSection(const WriteSection&) = delete;
    WriteSection& operator=(const WriteSection&) = delete;
    [[gnu::always_inline]] ~WriteSection() {
        if constexpr (detail::SectionsNest<P>) {
            platform_.end_table_writes(before_);
        } else {
            platform_.end_table_writes();
        }
    }

private:
    P& platform_;
    [[no_unique_address]] decltype(detail::begin_table_writes(std::declval<P&>())) before_;
};

/// A walk's read side (promise P7).
template <Platform P>
class [[nodiscard]] WalkerSection {
public:
    explicit WalkerSection(P& platform) : platform_{platform} { platform_.walker_enter(); }
    WalkerSection(const WalkerSection&) = delete;
    WalkerSection& operator=(const WalkerSection&) = delete;
    ~WalkerSection() { platform_.walker_exit(); }

private:
    P& platform_;
};

} // namespace directmap

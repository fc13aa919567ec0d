#include "fault_cases.hpp"

#include <utility>

#include <fmt/format.h>

#include "machine/rig.hpp"
#include "support/leaves.hpp"
#include "support/operations.hpp"

namespace directmap::test {

namespace {

using machine::Fault;
using machine::FaultyPlatform;
using machine::RigConfig;

template <class F>
using FaultyRig = machine::Rig<F, FaultyPlatform>;
using SmallRig = FaultyRig<SmallFormat>;

// The small geometry: 4K pages, groups of 16K, blocks of 32K (groups of 128K) and 256K.
constexpr std::uint64_t page = 0x1000, group = 0x4000, block = 0x8000, large = 0x40000;
constexpr std::uint64_t base = 0x80000;
constexpr PhysRange one_page{PhysAddr{base + large + 5 * page}, page};
constexpr Change read_only = Change{}.writable(false);

RigConfig small_config() {
    RigConfig config;
    config.ram = {{phys_range(base, base + 4 * large), {}}, {phys_range(base + 4 * large, base + 6 * large), {}}};
    return config;
}

/// Plays with the fault in force and looks at what must hold afterwards, the account of tables included.
template <class F, class Play>
Verdict play_on(const RigConfig& config, Fault fault, Play play) {
    FaultyRig<F> rig{config, [&](machine::Machine& m) {
                         FaultyPlatform platform{m, fault};
                         platform.arm(fault == Fault::unaligned_group); // a matter of the build
                         return platform;
                     }};
    rig.platform().arm();
    play(rig);
    rig.platform().arm(false);
    (void)rig.map().reclaim();
    if (const std::string problem = rig.check(); !problem.empty() && rig.machine().violations().empty()) {
        rig.machine().report("P12 accounted", problem, 0);
    }
    const std::size_t needed = tables_for<typename F::geometry>(leaves_of(rig.map()), config.offset);
    if (rig.machine().violations().empty() && rig.machine().tables_in_use() != needed) {
        rig.machine().report(
            "P12 accounted",
            fmt::format("{} tables are in use, the leaves need {}", rig.machine().tables_in_use(), needed), 0);
    }
    return {rig.machine().violations()};
}

/// A scenario on the small machine. What the engine answers isn't judged here: some faults make it fail.
template <class Play>
auto on_small(Play play, RigConfig config = small_config()) {
    return [=](Fault fault) { return play_on<SmallFormat>(config, fault, play); };
}

void protect(auto& rig, PhysRange range, Change change) {
    (void)rig.protect(range, change);
}

const auto split = [](auto& rig) { protect(rig, one_page, read_only); };
const auto split_and_heal = [](auto& rig) {
    protect(rig, one_page, read_only);
    protect(rig, one_page, Change{}.writable(true));
    (void)rig.collapse(one_page);
    (void)rig.map().reclaim();
};
const auto split_read_only = [](auto& rig) {
    protect(rig, phys_range(base + large, base + 2 * large), read_only);
    protect(rig, one_page, Change{}.executable(true));
};
const auto tighten_pages = [](auto& rig) {
    protect(rig, {one_page.start, 2 * page}, read_only);
    protect(rig, {one_page.start, 2 * page}, Change{}.valid(false));
};
const auto change_group = [](auto& rig) {
    protect(rig, {PhysAddr{base + large + block}, block},
            Change{}.executable(true)); // leaves groups of pages on both sides
    protect(rig, one_page, read_only);
    protect(rig, {PhysAddr{base + large}, group}, read_only);
};
const auto retype = [](auto& rig) {
    protect(rig, {one_page.start, 2 * page}, Change{}.memory_type(MemoryType::normal_noncacheable));
};
const auto collapse_under_a_walker = [](auto& rig) {
    protect(rig, one_page, read_only);
    protect(rig, one_page, Change{}.writable(true));
    bool collapsed = false;
    rig.map().walk(rig.whole(), [&](const Leaf& leaf) {
        if (!collapsed && leaf.range.contains(one_page.start)) {
            collapsed = true;
            rig.machine().run_on(1);
            (void)rig.collapse(one_page);
            (void)rig.map().reclaim();
            rig.machine().run_on(0);
        }
        return true;
    });
};

/// A map by pages, where level hints are given from the start.
RigConfig pages_config() {
    RigConfig config = small_config();
    config.mapping = Mapping::pages;
    return config;
}
/// Physical and virtual addresses that share the alignment of pages, and no larger one.
RigConfig skewed_config() {
    RigConfig config = small_config();
    config.offset += page;
    return config;
}
/// Tables in memory with a protection key of its own.
RigConfig protected_config() {
    RigConfig config = small_config();
    config.table_key = 1;
    config.ram.back().attributes = Attributes{}.with_key(1);
    return config;
}
/// 4 GiB to 12 GiB, the tables at the top: the halves of a leaf and of a table pointer differ.
RigConfig halves_config() {
    constexpr std::uint64_t gib = std::uint64_t{1} << 30;
    RigConfig config;
    config.ram = {{phys_range(4 * gib, 12 * gib), {}}};
    return config;
}

} // namespace

const std::vector<FaultCase>& fault_cases() {
    static const std::vector<FaultCase> cases = {
        {Fault::drop_publish_barrier, "P1 translation", "split for one page", on_small(split)},
        {Fault::late_publish_barrier, "P1 translation", "split for one page", on_small(split)},
        {Fault::drop_completion_barrier, "P2 tightening", "two pages read-only, then invalid", on_small(tighten_pages)},
        {Fault::weak_completion_barrier, "P2 tightening", "two pages read-only, then invalid", on_small(tighten_pages)},
        {Fault::drop_invalidation, "P2 tightening", "two pages read-only, then invalid", on_small(tighten_pages)},
        {Fault::narrow_invalidation, "P2 tightening", "two pages read-only, then invalid", on_small(tighten_pages)},
        {Fault::wrong_level_hint, "P2 tightening", "a page of a map by pages invalid",
         on_small(tighten_pages, pages_config())},
        {Fault::stale_level_hint, "P2 tightening", "split for one page", on_small(split)},
        {Fault::unmasked_address, "P2 tightening", "a page of a map by pages invalid",
         on_small(tighten_pages, pages_config())},
        {Fault::leaves_only_collapse, "P7 reclaim", "split, restore, collapse", on_small(split_and_heal)},
        {Fault::local_invalidation, "P2 tightening", "two pages read-only, then invalid", on_small(tighten_pages)},
        {Fault::half_group, "contiguous group", "a group of pages read-only", on_small(change_group)},
        {Fault::unopened_group, "contiguous group", "a group of pages read-only", on_small(change_group)},
        {Fault::unaligned_group, "P1 translation", "build with addresses that share the alignment of pages alone",
         on_small([](auto&) {}, skewed_config())},
        {Fault::publish_before_fill, "P1 translation", "split for one page", on_small(split)},
        {Fault::short_fill, "P1 translation", "split for one page", on_small(split)},
        {Fault::forgotten_attribute, "break-before-make", "split a read-only block", on_small(split_read_only)},
        {Fault::wrong_leaf_type, "descriptor", "split for one page", on_small(split)},
        {Fault::two_step_parent, "P7 reclaim", "split for one page, tables above another 4 GiB",
         [](Fault fault) {
             return play_on<arm64::Format4K48>(halves_config(), fault, [](auto& rig) {
                 protect(rig, phys_range(0x1'4000'5000, 0x1'4000'6000), read_only);
             });
         }},
        {Fault::emptied_invalid_leaf, "P1 translation", "two pages invalid", on_small(tighten_pages)},
        {Fault::wide_update, "P3 neighbours", "pages of a map by pages read-only, then invalid",
         on_small(tighten_pages, pages_config())},
        {Fault::missing_break, "break-before-make", "memory type of two pages", on_small(retype)},
        {Fault::missing_break_flush, "break-before-make", "memory type of two pages", on_small(retype)},
        {Fault::free_before_flush, "P7 reclaim", "split, restore, collapse", on_small(split_and_heal)},
        {Fault::free_before_grace, "P7 reclaim", "collapse under a walker", on_small(collapse_under_a_walker)},
        {Fault::double_free, "P4 all or nothing", "split, restore, collapse", on_small(split_and_heal)},
        {Fault::lost_table, "P12 accounted", "split, restore, collapse", on_small(split_and_heal)},
        {Fault::drop_lock, "lock protocol", "split for one page", on_small(split)},
        {Fault::drop_write_section, "own access", "split for one page, tables protected by a key",
         on_small(split, protected_config())},
    };
    return cases;
}

} // namespace directmap::test

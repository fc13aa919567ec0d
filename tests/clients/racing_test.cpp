// Two users of a map at once, in every order that two preemptions allow: the explorer plays them, the machine judges.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "directmap/chunk_pool.hpp"
#include "directmap_clients/guard_pages.hpp"
#include "directmap_clients/secret_memory.hpp"
#include "directmap_clients/shared_buffers.hpp"
#include "machine/area_rig.hpp"
#include "machine/explorer.hpp"
#include "machine/protected_rig.hpp"

namespace directmap::client_tests {
namespace {

using machine::RangeAllocator;
using machine::World;
using Map = machine::RigMap<machine::SmallFormat, machine::ExploredPlatform>;
using SmallArea = machine::RigArea<machine::SmallFormat, machine::ExploredPlatform>;
using Pool = ChunkPool<Map, RangeAllocator>;
using Lock = machine::ExploredPlatform::Lock;

struct Memory {
    void zero(PhysRange) {}
    void write(VirtAddr, const void*, std::size_t) {}
    void fill(VirtAddr, std::uint32_t, std::size_t) {}
};
struct Host {
    machine::Machine& machine;
    bool share(PhysRange range) {
        machine.set_granules(range, true);
        return true;
    }
    bool unshare(PhysRange range) {
        machine.set_granules(range, false);
        return true;
    }
};

/// The users of one run, which end with it. Runs come one after another.
struct Users {
    explicit Users(World& w)
        : map{w.rig}, area{map, {VirtAddr{w.rig.config().offset + 0x800000}, World::region_size}, 64},
          pool{map,    w.rig.platform(), allocator, clients::SecretMemory<Map, Pool, Memory>::pool_config(),
               frames, magazines},
          secrets{map, pool, memory}, guards{map, allocator, guard_storage}, host{w.rig.machine()},
          shared{map, w.rig.platform(), allocator, host, {shared_frames, shared_magazines, leaks}} {
        (void)area.area().admit({.tolerates_live_resize = true});
    }

    Map map;
    SmallArea area;
    RangeAllocator allocator{World::region(0)};
    ChunkFrame frames[16], shared_frames[16];
    Magazine<Lock> magazines[3], shared_magazines[3];
    PhysRange guard_storage[2], leaks[4];
    Memory memory;
    Pool pool;
    clients::SecretMemory<Map, Pool, Memory> secrets;
    clients::GuardPages<Map, RangeAllocator> guards;
    Host host;
    clients::SharedBuffers<Map, RangeAllocator, Host> shared;
    PhysRange guard_pool;
    std::optional<VirtRange> mapped[2];
    bool failed = false;
};
std::unique_ptr<Users> users;

machine::RigConfig small_map(bool realm = false) {
    machine::RigConfig config;
    config.ram = {{phys_range(World::base, World::base + 3 * World::region_size), {}}};
    config.table_pool = World::region(2);
    config.policy = CollapsePolicy::on_restore;
    if (realm) config.realm_shared_address = std::uint64_t{1} << 40;
    return config;
}

void start(World& w) {
    users = std::make_unique<Users>(w);
    if (!users->area.opened()) w.fail("the area can't be opened");
}

template <class T>
void must(World& w, const Result<T>& result, const char* what) {
    if (!result) w.fail(std::string(what) + ": " + result.error().reason(), result.error().where());
}

/// Every order within two preemptions; returns the story of the first that goes wrong.
std::string explore(const machine::Scenario& scenario, std::uint64_t& executions) {
    machine::Explorer explorer{scenario, nullptr};
    const machine::Tally tally = explorer.search({.kind = machine::SearchMode::Kind::bounded, .bound = 2});
    executions = tally.executions;
    users.reset();
    return tally.failure ? explorer.story(tally.failure->schedule) : "";
}

#define EXPECT_EVERY_ORDER_RIGHT(scenario, least)                                                                      \
    do {                                                                                                               \
        std::uint64_t executions = 0;                                                                                  \
        EXPECT_EQ(explore(scenario, executions), "");                                                                  \
        EXPECT_GE(executions, least##u) << "the two hardly met";                                                       \
        RecordProperty("executions", std::to_string(executions));                                                      \
    } while (false)

TEST(Racing, AGuardFlipsWhileItsNeighboursAreSplitAndHealed) {
    EXPECT_EVERY_ORDER_RIGHT(
        (machine::Scenario{.name = "guard-neighbours",
                           .config = small_map(),
                           .prepare =
                               [](World& w) {
                                   start(w);
                                   const auto pool = users->guards.prepare(4 * World::page_size);
                                   must(w, pool, "preparing guards");
                                   users->guard_pool = pool.value();
                               },
                           .agents = {{0, "guards a page, and opens it again",
                                       [](World& w) {
                                           const PhysAddr page = users->guard_pool.start + World::page_size;
                                           must(w, users->guards.guard(page), "guarding");
                                           w.access(page, false, true);
                                           must(w, users->guards.unguard(page), "opening");
                                           w.access(page, true, false);
                                       }},
                                      {1, "changes the pages behind the pool, and heals them",
                                       [](World& w) {
                                           const PhysRange next{users->guard_pool.end(), World::page_size};
                                           w.protect(next, Change{}.writable(false));
                                           w.protect(next, Change{}.writable(true));
                                           w.collapse(World::region(0));
                                       }}},
                           .finish = [](World&) { users->guards.release_all(); }}),
        50);
}

TEST(Racing, TwoCpusWantASecretPageOfAnEmptyPool) {
    const auto take = [](World& w) {
        const unsigned cpu = w.rig.machine().cpu();
        const auto page = users->secrets.take(cpu);
        must(w, page, "taking a secret page");
        w.access(page.value(), false, true);
        if (!users->secrets.give(page.value(), cpu)) w.fail("the page isn't the pool's");
    };
    EXPECT_EVERY_ORDER_RIGHT((machine::Scenario{.name = "secret-secret",
                                                .config = small_map(),
                                                .prepare = start,
                                                .agents = {{0, "takes a page", take}, {1, "takes a page", take}},
                                                .finish = [](World&) { users->secrets.shrink(~std::uint64_t{0}); }}),
                             50);
}

TEST(Racing, TwoMappingsComeAndGoInOneTable) {
    const auto come_and_go = [](World& w) {
        const unsigned cpu = w.rig.machine().cpu();
        const PhysRange run = World::pages(64 + 4 * cpu, 2);
        const auto range = users->area.map({&run, 1}, Attributes{}.with_writable(false));
        must(w, range, "mapping");
        const auto there = users->area.translate(range.value().start);
        if (!there || there.value().pa != run.start) w.fail("the mapping leads elsewhere", run.start);
        if (!users->area.unmap(range.value())) w.fail("the mapping can't be taken away");
    };
    EXPECT_EVERY_ORDER_RIGHT(
        (machine::Scenario{.name = "map-unmap",
                           .config = small_map(),
                           .prepare = start,
                           .agents = {{0, "maps and unmaps", come_and_go}, {1, "maps and unmaps", come_and_go}},
                           .finish =
                               [](World& w) {
                                   users->area.trim();
                                   users->area.verify();
                                   for (const std::uint64_t n : users->area.statistics().leaves)
                                       if (n != 0) w.fail("leaves are left in the area");
                               }}),
        50);
}

TEST(Racing, CodeIsSealedWhileAnotherCpusMmuWalksToItsAliases) {
    EXPECT_EVERY_ORDER_RIGHT(
        (machine::Scenario{.name = "seal-walk",
                           .config = small_map(),
                           .prepare =
                               [](World& w) {
                                   start(w);
                                   const PhysRange run = World::pages(65);
                                   const auto range = users->area.map({&run, 1}, Attributes{});
                                   must(w, range, "mapping");
                                   users->mapped[0] = range.value();
                               },
                           .agents = {{0, "makes the page executable through the area, then ordinary again",
                                       [](World& w) {
                                           const VirtRange range = *users->mapped[0];
                                           must(w, users->area.protect(range, Change{}.executable(true)), "sealing");
                                           must(w, users->area.protect(range, Change{}.writable(true)), "opening");
                                       }},
                                      {1, "walks to both aliases, and changes a neighbour",
                                       [](World& w) {
                                           w.walk_in_hardware(World::pages(65).start);
                                           w.walk_in_hardware(users->map.home(*users->mapped[0]).start);
                                           w.protect(World::pages(66), Change{}.writable(false));
                                           w.walk_in_hardware(World::pages(65).start);
                                           w.protect(World::pages(66), Change{}.writable(true));
                                       }}},
                           .finish = [](World&) { (void)users->area.unmap(*users->mapped[0]); }}),
        50);
}

/// Makes a range executable that may be written through this mapping, through the other one and in the direct map: all
/// of them change, or none.
void seal_or_nothing(World& w, VirtRange range, bool must_succeed, ChangeOptions options = {}) {
    const auto sealed = users->area.protect(range, Change{}.executable(true), options);
    if (must_succeed) must(w, sealed, "sealing");
    users->area.each_piece(range, [&](VirtAddr va, PhysRange phys) {
        for (std::uint64_t at = 0; at != phys.size; at += World::page_size) {
            const Attributes here = users->area.translate(va + at).value().attributes;
            bool writable[2] = {here.writable(), users->map.translate(phys.start + at).value().attributes.writable()};
            if (here.executable() != sealed.ok() || writable[0] == sealed.ok() || writable[1] == sealed.ok())
                w.fail("an alias has changed, or hasn't, against what the result says", phys.start + at);
        }
    });
}

TEST(Racing, AliasesChangeWhileTheLeavesAroundThemHeal) {
    EXPECT_EVERY_ORDER_RIGHT(
        (machine::Scenario{.name = "seal-heal",
                           .config = small_map(),
                           .prepare =
                               [](World& w) {
                                   start(w);
                                   const PhysRange runs[] = {World::pages(65), World::pages(74)};
                                   const auto range = users->area.map({runs, 2}, Attributes{});
                                   must(w, range, "mapping");
                                   users->mapped[0] = range.value();
                                   w.protect(World::pages(75), Change{}.writable(false));
                               },
                           .agents = {{0, "makes pages 65 and 74 executable through the area",
                                       [](World& w) { seal_or_nothing(w, *users->mapped[0], true); }},
                                      {1, "makes page 75 as it was, so that the leaves around it heal",
                                       [](World& w) { w.protect(World::pages(75), Change{}.writable(true)); }}},
                           .finish = [](World&) { (void)users->area.unmap(*users->mapped[0]); }}),
        50);
}

TEST(Racing, AliasesChangeWhileACpuThatCantTolerateResizingIsAdmitted) {
    for (const bool atomic : {false, true}) {
        EXPECT_EVERY_ORDER_RIGHT(
            (machine::Scenario{
                .name = "seal-admit",
                .config = small_map(),
                .prepare =
                    [](World& w) {
                        start(w);
                        const PhysRange run = World::pages(64, 8);
                        for (auto& mapped : users->mapped) {
                            const auto range = users->area.map({&run, 1}, Attributes{});
                            must(w, range, "mapping");
                            mapped = range.value();
                        }
                        if (!w.rig.map().set_aside()) w.fail("tables can't be set aside");
                    },
                .agents = {{0, "makes a page of a block executable, which cuts three leaves",
                            [atomic](World& w) {
                                const VirtRange page{users->mapped[0]->start + World::page_size, World::page_size};
                                seal_or_nothing(w, page, false, {.atomic = atomic});
                            }},
                           {1, "admits a CPU to the area",
                            [](World& w) {
                                must(w, users->area.area().admit({}), "admitting");
                                if (users->area.area().protect_here(
                                        {users->mapped[1]->start + 4 * World::page_size, World::page_size},
                                        Change{}.valid(false)))
                                    w.fail("a leaf is cut behind the admission");
                            }}},
                .finish =
                    [](World&) {
                        for (const auto& mapped : users->mapped) (void)users->area.unmap(*mapped);
                    },
                .hidden_state = true}),
            50);
    }
}

TEST(Racing, ABufferIsSharedWhileTheNextPageIsUsed) {
    EXPECT_EVERY_ORDER_RIGHT(
        (machine::Scenario{.name = "share-neighbour",
                           .config = small_map(true),
                           .prepare = start,
                           .agents = {{0, "shares page 65, and takes it back",
                                       [](World& w) {
                                           must(w, users->shared.share(World::pages(65)), "sharing");
                                           must(w, users->shared.unshare(World::pages(65)), "taking back");
                                       }},
                                      {1, "uses page 66, and makes it read-only",
                                       [](World& w) {
                                           w.access(World::pages(66).start, true, false);
                                           w.walk_in_hardware(World::pages(66).start);
                                           w.protect(World::pages(66), Change{}.writable(false));
                                           w.access(World::pages(66).start, false, false);
                                           w.protect(World::pages(66), Change{}.writable(true));
                                       }}}}),
        50);
}

} // namespace
} // namespace directmap::client_tests

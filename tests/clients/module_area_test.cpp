// Modules: load → relocate → seal → unload, and what happens when any step of that fails.
#include "client_rig.hpp"
#include "directmap_clients/module_area.hpp"

namespace directmap::client_tests {
namespace {

using Modules = ModuleArea<TestArea, TestPool, RangeAllocator>;

struct ModuleRig : ClientRig {
    explicit ModuleRig(const machine::RigConfig& config = rig_config())
        : ClientRig{config}, area{map, area_range}, pool{map,          rig.platform(),
                                                         allocator,    Modules::pool_config(),
                                                         frame_span(), magazine_span()},
          scratch(2048), modules{area, rig.platform(), pool, data, {scratch.data(), scratch.size()}} {
        EXPECT_TRUE(area.opened());
        start_tables = machine().tables_in_use();
    }
    void expect_clean() {
        area.verify();
        EXPECT_EQ(area.statistics().mappings, 0u);
        EXPECT_EQ(data.taken(), 0u);
        EXPECT_EQ(modules.lost_pages(), 0u);
        pool.shrink(~std::uint64_t{0});
        (void)area.area().reclaim_tables();
        expect_as_at_start();
    }
    TestArea area;
    TestPool pool;
    RangeAllocator data{phys_range(0xc0000000, 0xd0000000)};
    std::vector<PhysRange> scratch;
    Modules modules;
};

constexpr ModuleSizes sizes{5 * page, 2 * page + 100, 3 * page};

TEST(ModuleArea, AModuleIsWritableUntilItIsSealedAndExecutableOnlyAfterwards) {
    ModuleRig t; // the machine watches W^X over every alias
    auto module = t.modules.load(sizes, 0);
    ASSERT_TRUE(module);
    Module& m = module.value();
    EXPECT_EQ(m.constants.size, 3 * page);
    for (const VirtRange& section : {m.text, m.constants, m.data}) {
        EXPECT_TRUE(t.reachable(section.start, true)) << "relocation writes";
        EXPECT_FALSE(t.reachable(section.start, false, true));
    }
    ASSERT_TRUE(t.modules.seal(m));
    EXPECT_TRUE(t.reachable(m.text.start, false, true));
    EXPECT_FALSE(t.reachable(m.text.start, true));
    EXPECT_FALSE(t.reachable(m.constants.start, true));
    EXPECT_FALSE(t.reachable(m.constants.start, false, true));
    EXPECT_TRUE(t.reachable(m.data.end() - page, true));
    EXPECT_FALSE(t.reachable(t.area.translate(m.text.start).value().pa, true)) << "nor through the direct map";
    EXPECT_FALSE(t.modules.seal(m));
    const VirtAddr text = m.text.start;
    ASSERT_TRUE(t.modules.unload(m, 0));
    EXPECT_FALSE(t.reachable(text));
    EXPECT_FALSE(t.modules.unload(m, 0));
    t.expect_clean();
}

TEST(ModuleArea, SealingAndUnloadingNeedNoMemory) {
    ModuleRig t;
    auto module = t.modules.load({3 * page, page, 0}, 0);
    auto large = t.modules.load({3 * block + page, 17 * page, block}, 1);
    ASSERT_TRUE(module && large);
    t.machine().tables_left = 0;
    EXPECT_TRUE(t.modules.seal(module.value()));
    EXPECT_TRUE(t.modules.seal(large.value()));
    EXPECT_TRUE(t.modules.unload(module.value(), 1));
    EXPECT_TRUE(t.modules.unload(large.value(), 0));
    t.expect_clean();
}

TEST(ModuleArea, ManyModulesShareTheirChunksOfTheDirectMap) {
    ModuleRig t;
    std::vector<Module> loaded;
    for (unsigned i = 0; i < 40; ++i) {
        auto module = t.modules.load({(i % 9 + 1) * page, page, page}, i % 2);
        ASSERT_TRUE(module);
        ASSERT_TRUE(t.modules.seal(module.value()));
        loaded.push_back(module.value());
    }
    EXPECT_LE(t.rig.map().statistics().counters.splits, 1u) << "one chunk was cut out";
    EXPECT_EQ(t.rig.check(), "");
    for (Module& module : loaded) ASSERT_TRUE(t.modules.unload(module, 0));
    t.expect_clean();
}

TEST(ModuleArea, WhateverRunsOutDuringALoadNothingIsKept) {
    bool loaded = false;
    for (std::uint64_t tables = 0; !loaded; ++tables) {
        ModuleRig t;
        t.machine().tables_left = tables;
        auto module = t.modules.load({3 * block, page, page}, 0);
        loaded = module.ok();
        t.machine().tables_left = ~std::uint64_t{0};
        if (loaded) ASSERT_TRUE(t.modules.unload(module.value(), 0));
        t.expect_clean();
    }
    { // memory for text; for data; scratch space; addresses
        ModuleRig t;
        t.allocator.largest = 0;
        EXPECT_EQ(t.modules.load(sizes, 0).error().code(), ErrorCode::no_tables);
        t.expect_clean();
    }
    {
        ModuleRig t;
        t.data.largest = 0;
        EXPECT_EQ(t.modules.load(sizes, 0).error().code(), ErrorCode::no_tables);
        t.expect_clean();
    }
    {
        ModuleRig t;
        EXPECT_EQ(t.modules.load({0, 0, 4 * gib}, 0).error().code(), ErrorCode::no_tables);
        t.expect_clean();
    }
    ModuleRig t;
    EXPECT_EQ(t.modules.load({}, 0).error().code(), ErrorCode::invalid_argument);
    t.expect_clean();
}

/// The area, with a change that fails on demand: as if an alias of the module's pages could not be changed.
struct FailingArea : TestArea {
    using TestArea::TestArea;
    Result<void> protect(VirtRange range, Change change, ChangeOptions options = {}) {
        if (--steps_left < 0) return Error::needing(reasons::no_tables, 1);
        return TestArea::protect(range, change, options);
    }
    int steps_left = 1000;
};

TEST(ModuleArea, AModuleWhoseSealFailsAtAnyStepIsNeverExecutableAndCanBeSealedAgainOrUnloaded) {
    for (int steps = 0; steps < 2; ++steps) {
        for (const bool again : {false, true}) {
            ModuleRig t;
            FailingArea failing{t.map, {VirtAddr{0xffffa00000000000}, gib}};
            ASSERT_TRUE(failing.opened());
            t.start_tables = t.machine().tables_in_use();
            ModuleArea<FailingArea, TestPool, RangeAllocator> modules{
                failing, t.rig.platform(), t.pool, t.data, {t.scratch.data(), t.scratch.size()}};
            auto module = modules.load(sizes, 0);
            ASSERT_TRUE(module);
            failing.steps_left = steps;
            const auto sealed = modules.seal(module.value());
            ASSERT_FALSE(sealed) << "an error is never swallowed";
            EXPECT_EQ(sealed.error().code(), ErrorCode::no_tables);
            EXPECT_FALSE(t.reachable(module.value().text.start, false, true));
            failing.steps_left = 1000;
            if (again) {
                ASSERT_TRUE(modules.seal(module.value()));
                EXPECT_TRUE(t.reachable(module.value().text.start, false, true));
            }
            ASSERT_TRUE(modules.unload(module.value(), 0));
            failing.verify();
            (void)failing.area().reclaim_tables();
            t.expect_clean();
        }
    }
}

} // namespace
} // namespace directmap::client_tests

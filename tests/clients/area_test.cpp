// Areas: mappings beside the direct map, and aliases that know each other.
#include "client_rig.hpp"

namespace directmap::client_tests {
namespace {

struct AreaRig : ClientRig {
    explicit AreaRig(const machine::RigConfig& config = rig_config()) : ClientRig{config}, area{map, area_range} {
        EXPECT_TRUE(area.opened());
        (void)area.area().admit({.tolerates_live_resize = config.bbm >= 3});
        start_tables = machine().tables_in_use();
    }
    void expect_empty() {
        area.verify();
        EXPECT_EQ(rig.problems(), "");
        const AreaStatistics s = area.statistics();
        for (const std::uint64_t leaves : s.leaves) EXPECT_EQ(leaves, 0u);
        EXPECT_EQ(s.mappings + s.bytes, 0u);
        (void)area.area().reclaim_tables();
        EXPECT_EQ(machine().tables_in_use(), start_tables);
    }
    TestArea area;
};

constexpr Attributes read_only = Attributes{}.with_writable(false);

TEST(Area, ScatteredPagesLieSideBySideAndLeadWhereTheyShould) {
    AreaRig t;
    const PhysRange runs[] = {
        {PhysAddr{0x80005000}, page}, {PhysAddr{0x80001000}, 2 * page}, {PhysAddr{0xb0000000}, page}};
    const auto mapped = t.area.map({runs, 3}, read_only);
    ASSERT_TRUE(mapped);
    const VirtAddr va = mapped.value().start;
    EXPECT_EQ(t.area.translate(va).value().pa, PhysAddr{0x80005000});
    EXPECT_EQ(t.area.translate(va + page).value().pa, PhysAddr{0x80001000});
    EXPECT_EQ(t.area.translate(va + 2 * page + 8).value().pa, PhysAddr{0x80002008});
    EXPECT_EQ(t.area.translate(va + 3 * page).value().pa, PhysAddr{0xb0000000});
    EXPECT_FALSE(t.area.translate(va + 4 * page)) << "a guard follows";
    EXPECT_FALSE(t.area.translate(va).value().attributes.writable());
    EXPECT_TRUE(t.area.unmap(mapped.value()));
    EXPECT_FALSE(t.reachable(va));
    t.expect_empty();
    t.expect_as_at_start();
}

TEST(Area, LeavesAreAsLargeAsBothAddressesAllow) {
    AreaRig t;
    // 64K aligned run of pages; 2M blocks with a tail; a run that begins in the middle of a block.
    const PhysRange runs[] = {{PhysAddr{0x80010000}, 32 * page},
                              {PhysAddr{0x90000000}, 4 * block + 16 * page},
                              {PhysAddr{0xa01f0000}, 16 * page + block}};
    for (const PhysRange& run : runs) {
        const auto mapped = t.area.map({&run, 1}, read_only);
        ASSERT_TRUE(mapped);
        EXPECT_EQ(t.area.translate(mapped.value().end() - page).value().pa, run.end() - page);
    }
    EXPECT_EQ(t.area.statistics().leaves[2], 5u) << "2M";
    EXPECT_EQ(t.area.statistics().leaves[3], 2u + 1u + 1u) << "64K";
    EXPECT_EQ(t.area.statistics().leaves[4], 0u) << "4K";
    t.area.verify();
    EXPECT_EQ(t.rig.problems(), "");
}

TEST(Area, TakingAMappingAwayNeedsNoMemoryAndGivesEveryTableBack) {
    AreaRig t;
    std::vector<VirtRange> mapped;
    for (unsigned i = 0; i < 40; ++i) {
        const PhysRange run{PhysAddr{0x80000000 + i * 0x345000}, (i % 7 + 1) * (i % 5 == 0 ? block : 3 * page)};
        const auto r = t.area.map({&run, 1}, read_only);
        ASSERT_TRUE(r) << i;
        mapped.push_back(r.value());
        if (i % 3 == 0) {
            ASSERT_TRUE(t.area.protect_here({r.value().start, page}, Change{}.valid(false)));
        }
    }
    t.area.verify();
    t.machine().tables_left = 0;
    std::uint64_t bytes = 0, seen = 0;
    for (const VirtRange& range : mapped) {
        bytes += range.size;
        ASSERT_TRUE(t.area.unmap(range, [&](PhysRange piece) {
            seen += piece.size;
            EXPECT_FALSE(t.area.translate(range.start)) << "the memory is told before the mapping has gone";
        }));
    }
    EXPECT_EQ(seen, bytes);
    t.expect_empty();
}

TEST(Area, WhateverTableIsMissingNothingIsMapped) {
    const PhysRange runs[] = {
        {PhysAddr{0x80001000}, 3 * page}, {PhysAddr{0x90000000}, 3 * block}, {PhysAddr{0x80001000}, page}};
    for (std::uint64_t tables = 0;; ++tables) {
        AreaRig t;
        t.machine().tables_left = tables;
        const auto mapped = t.area.map({runs, 3}, read_only);
        if (mapped) {
            EXPECT_GE(tables, 3u);
            EXPECT_TRUE(t.area.unmap(mapped.value()));
        } else {
            EXPECT_EQ(mapped.error().code(), ErrorCode::no_tables);
        }
        t.machine().tables_left = ~std::uint64_t{0};
        t.expect_empty();
        if (mapped) break;
    }
}

TEST(Area, APageIsReadOnlyThroughEveryAliasBeforeItBecomesExecutable) {
    AreaRig t; // the machine watches every step: W^X
    const PhysRange run{PhysAddr{0x80000000}, 4 * page};
    const auto a = t.area.map({&run, 1}, Attributes{}), b = t.area.map({&run, 1}, Attributes{});
    ASSERT_TRUE(a && b);
    ASSERT_TRUE(t.area.protect(a.value(), Change{}.executable(true)));
    EXPECT_FALSE(t.reachable(run.start, true));
    EXPECT_FALSE(t.reachable(a.value().start, true));
    EXPECT_FALSE(t.reachable(b.value().start, true));
    EXPECT_TRUE(t.reachable(a.value().start, false, true));
    EXPECT_FALSE(t.reachable(b.value().start, false, true)) << "what is given is given to one alias";
    // And back: nobody executes it any more when somebody may write it.
    ASSERT_TRUE(t.area.protect(b.value(), Change{}.writable(true)));
    EXPECT_FALSE(t.reachable(a.value().start, false, true));
    EXPECT_TRUE(t.reachable(run.start, true));
    EXPECT_TRUE(t.reachable(b.value().start, true));
    t.area.verify();
    EXPECT_EQ(t.rig.check(), "");
    EXPECT_TRUE(t.area.unmap(a.value()) && t.area.unmap(b.value()));
    t.expect_empty();
    t.expect_as_at_start();
}

TEST(Area, EachStepOfAChangeIsOneFlushHoweverScatteredThePagesAre) {
    AreaRig t;
    PhysRange runs[7];
    for (unsigned i = 0; i < 7; ++i) runs[i] = {PhysAddr{0x80003000 + i * 3 * block}, page};
    const auto mapped = t.area.map({runs, 7}, Attributes{});
    ASSERT_TRUE(mapped);
    Calls calls;
    t.machine().record_to(calls.sink());
    ASSERT_TRUE(t.area.protect(mapped.value(), Change{}.executable(true)));
    EXPECT_EQ(calls.of("barrier_complete"), 3u) << "the direct map read-only, the area read-only, the area executable";
}

TEST(Area, TheMachineSeesAnAliasThatIsWritableWhileAnotherIsExecutable) {
    AreaRig t;
    const PhysRange run{PhysAddr{0x80000000}, page};
    const auto mapped = t.area.map({&run, 1}, read_only);
    ASSERT_TRUE(mapped);
    ASSERT_TRUE(t.area.protect_here(mapped.value(), Change{}.executable(true))); // the direct map can still write
    EXPECT_NE(t.rig.problems().find("W^X"), std::string::npos);
}

TEST(Area, TheMachineSeesAnAliasThatIsWritableOnlyInATlb) {
    AreaRig t;
    const PhysRange run{PhysAddr{0x80000000}, page};
    const auto mapped = t.area.map({&run, 1}, read_only);
    ASSERT_TRUE(mapped);
    auto flush = t.map.protect_deferred(run, Change{}.writable(false));
    ASSERT_TRUE(flush);
    ASSERT_TRUE(t.area.protect_here(mapped.value(), Change{}.executable(true)));
    EXPECT_NE(t.rig.problems().find("W^X"), std::string::npos);
}

TEST(Area, AnErrorOnAnAliasIsTheCallersToKnow) {
    AreaRig t;
    const PhysRange run{PhysAddr{0x80001000}, page}; // in a block of the direct map, which has to be split
    const auto mapped = t.area.map({&run, 1}, Attributes{});
    ASSERT_TRUE(mapped);
    t.machine().tables_left = 0;
    const auto made = t.area.protect(mapped.value(), Change{}.executable(true));
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code(), ErrorCode::no_tables);
    EXPECT_GT(made.error().needed(), 0U);
    EXPECT_EQ(t.area.statistics().alias_failures, 1u);
    EXPECT_FALSE(t.reachable(mapped.value().start, false, true));
    t.machine().tables_left = ~std::uint64_t{0};
    EXPECT_EQ(t.rig.check(), "");
}

TEST(Area, ClosingItGivesBackWhatOpeningTook) {
    ClientRig t;
    TestArea area{t.map, area_range};
    ASSERT_TRUE(area.opened());
    EXPECT_GT(t.machine().tables_in_use(), t.start_tables);
    const PhysRange run{PhysAddr{0x80000000}, 3 * page};
    const auto mapped = area.map({&run, 1}, read_only);
    ASSERT_TRUE(mapped);
    EXPECT_TRUE(area.unmap(mapped.value()));
    area.area().close();
    t.expect_as_at_start();
    EXPECT_FALSE(t.reachable(mapped.value().start));
}

TEST(Area, WhatIsNotAMappingIsNotTakenAway) {
    AreaRig t;
    const PhysRange run{PhysAddr{0x80000000}, 8 * page};
    const auto mapped = t.area.map({&run, 1}, read_only);
    ASSERT_TRUE(mapped);
    const VirtAddr va = mapped.value().start;
    EXPECT_FALSE(t.area.area().unmap({va, 4 * page}));
    EXPECT_FALSE(t.area.area().unmap({va + page, 7 * page}));
    EXPECT_FALSE(t.area.area().unmap({va + gib, page}));
    EXPECT_FALSE(t.area.area().unmap({VirtAddr{0xffff000080000000}, page}));
    EXPECT_EQ(t.area.translate(va).value().pa, run.start);
    EXPECT_EQ(t.area.area().protect({va + 16 * page, page}, Change{}.writable(false)).error().code(),
              ErrorCode::not_mapped);
    EXPECT_EQ(t.area.area().protect({va, page}, Change{}.shared(true)).error().code(), ErrorCode::unsupported);
}

TEST(Area, WhereACpuCantTolerateResizingLeavesKeepTheirSizes) {
    AreaRig t;
    const PhysRange run{PhysAddr{0x80000000}, block};
    const auto mapped = t.area.map({&run, 1}, read_only);
    ASSERT_TRUE(mapped);
    ASSERT_TRUE(t.area.area().admit({.tolerates_live_resize = false}));
    EXPECT_EQ(t.area.protect_here({mapped.value().start, page}, Change{}.valid(false)).error().code(),
              ErrorCode::unsupported);
    EXPECT_TRUE(t.area.protect_here(mapped.value(), Change{}.valid(false)));
    EXPECT_TRUE(t.area.unmap(mapped.value()));
    t.expect_empty();
}

// ---- memory that comes and goes ------------------------------------------------------------------------------------

constexpr PhysRange bank = phys_range(0xa0000000, 0xb0000000);

TEST(Banks, AddedMemoryIsMappedByTheRulesOfBoot) {
    machine::RigConfig config = rig_config();
    config.zones = {{bank, ZoneKind::excluded, false, {}}};
    ClientRig later{config};
    ASSERT_FALSE(later.map.translate(bank.start));
    ASSERT_TRUE(later.map.add(bank));
    ClientRig at_boot;
    EXPECT_EQ(later.rig.check(), "");
    ASSERT_TRUE(later.map.collapse(ram));
    EXPECT_EQ(later.rig.leaves(), at_boot.rig.leaves());
    EXPECT_EQ(later.map.add(bank).error().code(), ErrorCode::invalid_argument);
}

TEST(Banks, AMissingTableLeavesTheHoleAsItWas) {
    machine::RigConfig config = rig_config();
    const PhysRange small = phys_range(0xa01ff000, 0xa0401000); // a page at each end of a block: two tables
    config.zones = {{phys_range(0xa0000000, 0xa0600000), ZoneKind::excluded, false, {}}};
    ClientRig t{config};
    for (const std::uint64_t tables : {0u, 1u}) {
        t.machine().tables_left = tables;
        EXPECT_EQ(t.map.add(small).error().code(), ErrorCode::no_tables);
        EXPECT_FALSE(t.map.translate(small.start));
        t.expect_as_at_start();
    }
    t.machine().tables_left = 2;
    EXPECT_TRUE(t.map.add(small));
    EXPECT_EQ(t.rig.check(), "");
}

TEST(Banks, ABankLeavesWithOneFlushAndItsTables) {
    machine::RigConfig config = rig_config();
    config.zones = {{bank, ZoneKind::excluded, false, {}}};
    ClientRig t{config};
    ASSERT_TRUE(t.map.add(bank));
    ASSERT_TRUE(t.map.protect({bank.start + page, page}, Change{}.writable(false)));
    Calls calls;
    t.machine().record_to(calls.sink());
    ASSERT_TRUE(t.map.remove(bank));
    EXPECT_EQ(calls.of("barrier_complete"), 1u);
    EXPECT_FALSE(t.reachable(bank.start));
    EXPECT_FALSE(t.map.translate(bank.start));
    t.expect_as_at_start();
}

TEST(Banks, ABankThatALeafReachesBeyondStaysWholeAndTheErrorTellsWhere) {
    ClientRig t;
    const auto refused = t.map.remove(bank); // inside of a 1G block
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), ErrorCode::incompatible);
    EXPECT_EQ(refused.error().where(), PhysAddr{0x80000000});
    t.expect_as_at_start();
    EXPECT_EQ(t.rig.map().remove(phys_range(0xc0000000, 0x100000000)).error().code(), ErrorCode::incompatible)
        << "it holds the map's tables";
    t.expect_as_at_start();
}

} // namespace
} // namespace directmap::client_tests

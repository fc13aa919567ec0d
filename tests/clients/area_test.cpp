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

/// Mappings of scattered memory whose every alias has something to cut: pages inside of 1G blocks of the direct map, a
/// block of the area, a page that one mapping has twice, and pieces that overlap.
struct ScatteredAliases : AreaRig {
    explicit ScatteredAliases(const machine::RigConfig& config = rig_config()) : AreaRig{config} {
        const PhysRange runs[] = {{PhysAddr{0xa0000000}, block}, {PhysAddr{0x80001000}, 2 * page},
                                  {PhysAddr{0x9fe03000}, page},  {PhysAddr{0xb0005000}, page},
                                  {PhysAddr{0x9fe03000}, page},  {PhysAddr{0x80002000}, 2 * page}};
        const auto mapped = area.map({runs, 6}, Attributes{}), twice = area.map({runs, 3}, Attributes{});
        EXPECT_TRUE(mapped && twice);
        range = mapped.value();
        other = twice.value();
        EXPECT_EQ(area.translate(other.start).value().leaf.bytes(), block);
        EXPECT_TRUE(map.protect({PhysAddr{0x80002000}, page}, Change{}.writable(false))); // as it is to become
    }
    /// Every leaf of the direct map and of the area, and how many tables there are.
    [[nodiscard]] std::string tree() {
        (void)rig.map().reclaim();
        (void)area.area().reclaim_tables();
        std::string text = std::to_string(machine().tables_in_use()) + " tables";
        const auto note = [&](std::uint64_t at, std::uint64_t size, Attributes a) {
            text += "\n" + std::to_string(at) + "+" + std::to_string(size) + " " + std::to_string(a.bits());
        };
        map.walk(ram, [&](const Leaf& leaf) {
            note(leaf.range.start.value(), leaf.range.size, leaf.attributes);
            return true;
        });
        for (const VirtRange mapping : {range, other}) {
            for (VirtAddr va = mapping.start; va != mapping.end(); va = va + page) {
                const auto at = area.translate(va);
                EXPECT_TRUE(at);
                note(va.value(), at.value().leaf.bytes(), at.value().attributes);
            }
        }
        return text;
    }
    /// After a refusal.
    void expect_still(const std::string& before) {
        EXPECT_EQ(rig.problems(), ""); // what the machine saw meanwhile
        EXPECT_EQ(tree(), before);
        EXPECT_EQ(rig.check(), "");
        area.verify();
    }
    VirtRange range, other;
};

constexpr Change all_kinds[] = {Change{}.executable(true), Change{}.writable(false), Change{}.writable(true),
                                Change{}.executable(true).valid(false)};

TEST(Area, WhateverTableIsMissingNoAliasChanges) {
    for (const Change& change : all_kinds) {
        // The whole mapping; from inside of its block on; inside of the block alone.
        for (const auto [skipped, size] :
             {std::pair{0 * page, block + 7 * page}, {page, block + 2 * page}, {2 * page, 3 * page}}) {
            std::uint64_t wanted = 3; // at least
            for (std::uint64_t tables = 0;; ++tables) {
                ScatteredAliases t;
                if (change == all_kinds[2]) {
                    ASSERT_TRUE(t.area.protect(t.range, Change{}.executable(true))); // everything is to be undone
                    ASSERT_TRUE(t.map.collapse(ram));
                }
                const std::string before = t.tree();
                t.machine().tables_left = tables;
                const auto changed = t.area.protect({t.range.start + skipped, size}, change);
                t.machine().tables_left = ~std::uint64_t{0};
                if (changed) {
                    EXPECT_EQ(tables, wanted) << "the error said how many";
                    EXPECT_NE(t.tree(), before);
                    EXPECT_EQ(t.rig.check(), "");
                    t.area.verify();
                    EXPECT_EQ(t.rig.problems(), "");
                    break;
                }
                EXPECT_EQ(changed.error().code(), ErrorCode::no_tables);
                if (tables == 0) wanted = changed.error().needed();
                EXPECT_EQ(changed.error().needed(), wanted);
                t.expect_still(before);
                if (HasFailure()) FAIL() << "with " << tables << " tables, change " << change.mask();
            }
        }
    }
}

TEST(Area, ARefusalOnAnyAliasComesBeforeTheFirstHasChanged) {
    const auto refused = [](ScatteredAliases& t, VirtRange range, ErrorCode code, std::uint64_t where, bool on_alias) {
        const std::string before = t.tree();
        for (const Change& change : all_kinds) {
            if (change == all_kinds[2]) continue; // changes nothing
            const std::uint64_t failures = t.area.statistics().alias_failures;
            const auto r = t.area.protect(range, change);
            ASSERT_FALSE(r);
            EXPECT_EQ(r.error().code(), code);
            EXPECT_EQ(r.error().where(), PhysAddr{where});
            EXPECT_EQ(t.area.statistics().alias_failures, failures + (on_alias ? 1 : 0));
            t.expect_still(before);
        }
    };
    { // the direct map: its last page lies in a static zone
        machine::RigConfig config = rig_config();
        config.zones = {{phys_range(0xb0000000, 0xb0200000), ZoneKind::fixed_size, false, {}}};
        ScatteredAliases t{config};
        refused(t, {t.range.start, block + 4 * page}, ErrorCode::unsupported, 0xb0005000, true);
    }
    { // the other mapping, whose block must not be cut any more
        ScatteredAliases t;
        ASSERT_TRUE(t.area.area().admit({.tolerates_live_resize = false}));
        refused(t, {t.range.start + page, page}, ErrorCode::unsupported, t.other.start.value() + page, true);
    }
    { // this one: a hole behind the mapping
        ScatteredAliases t;
        refused(t, {t.range.start, t.range.size + page}, ErrorCode::not_mapped, t.range.end().value(), false);
    }
}

TEST(Area, TablesThatAChangeDidNotUseGoBack) {
    ScatteredAliases t;
    ASSERT_TRUE(t.area.protect(t.range, Change{}.writable(false)));
    const std::string cut = t.tree();
    ASSERT_TRUE(t.area.protect(t.range, Change{}.writable(true)));
    ASSERT_TRUE(t.map.collapse(ram));
    ASSERT_TRUE(t.area.protect(t.range, Change{}.writable(false)));
    EXPECT_EQ(t.tree(), cut);
    ASSERT_TRUE(t.area.protect(t.range, Change{}.writable(false))); // changes nothing
    EXPECT_EQ(t.tree(), cut);
}

TEST(Area, AnAtomicChangeUsesWhatIsSetAsideAndNothingElse) {
    for (unsigned set_aside = 0;; ++set_aside) {
        ScatteredAliases t;
        ASSERT_TRUE(t.rig.map().set_aside(set_aside));
        t.machine().tables_left = 0;
        const std::string before = t.tree();
        // In a 2M leaf of the direct map, of the other mapping and of this one.
        const auto changed = t.area.protect({t.range.start + page, page}, Change{}.executable(true), {.atomic = true});
        if (changed) {
            EXPECT_EQ(set_aside, 4u);
            EXPECT_EQ(t.rig.map().statistics().set_aside, 1u) << "the direct map's leaf could have been a 1G block";
            EXPECT_EQ(t.rig.check(), "");
            EXPECT_TRUE(t.reachable(t.range.start + page, false, true));
            break;
        }
        EXPECT_EQ(changed.error().code(), ErrorCode::would_block);
        EXPECT_EQ(changed.error().needed(), 4u);
        EXPECT_EQ(t.rig.map().statistics().set_aside, set_aside);
        t.expect_still(before);
        ASSERT_LT(set_aside, 4u);
    }
}

TEST(Area, AChangeUsesTheTablesThatItsCallerBrings) {
    ScatteredAliases t;
    TableLoan loan;
    for (; loan.count < TableLoan::capacity; ++loan.count)
        ASSERT_TRUE(t.rig.platform().take_table(loan.pages[loan.count], false));
    t.machine().tables_left = 0;
    const std::string before = t.tree();
    EXPECT_FALSE(t.area.protect(t.range, Change{}.executable(true), {.loan = &loan}));
    EXPECT_EQ(loan.count, TableLoan::capacity);
    t.expect_still(before);
    EXPECT_TRUE(t.area.protect({t.range.start + page, page}, Change{}.executable(true), {.loan = &loan}));
    EXPECT_EQ(loan.count, 1u);
    EXPECT_EQ(t.rig.check(), "");
    while (loan.count != 0) t.rig.platform().give_table(loan.pages[--loan.count]);
}

TEST(Area, ATableOutOfThePagesThatChangeIsRefusedBeforeOneChanges) {
    AreaRig t;
    PhysAddr free;
    ASSERT_TRUE(t.rig.platform().take_table(free, false));
    const PhysRange runs[] = {{PhysAddr{0x80001000}, page}, {free, page}};
    const auto mapped = t.area.map({runs, 2}, Attributes{});
    ASSERT_TRUE(mapped);
    const std::size_t tables = t.machine().tables_in_use() - 1;
    t.rig.platform().give_table(free); // which will be the next to be handed out
    const auto refused = t.area.protect(mapped.value(), Change{}.executable(true));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), ErrorCode::incompatible);
    EXPECT_EQ(refused.error().where(), free);
    EXPECT_TRUE(t.reachable(runs[0].start, true)) << "the direct map's first alias has changed";
    EXPECT_EQ(t.machine().tables_in_use(), tables);
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

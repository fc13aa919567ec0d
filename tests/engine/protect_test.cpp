// Changing attributes: promises P1, P2, P3, P5, P6, P11 and the hazards around them, on the machine.
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/leaves.hpp"
#include "support/scenario.hpp"

namespace directmap::test {
namespace {

using machine::Rig;
using machine::RigConfig;
using Leaves = std::array<std::uint64_t, 6>;

constexpr std::uint64_t start = 4 * gib;
constexpr Change read_only = Change{}.writable(false), writable = Change{}.writable(true);
constexpr Change uncached = Change{}.memory_type(MemoryType::normal_noncacheable);
/// A page in the middle of everything: of a group, of a block, of a group of blocks, of a 1G block.
constexpr PhysRange one_page = at(start + gib + 33 * mib + 67 * kib / 4 * 4 + 5 * kib / 4 * 4, 4 * kib);
static_assert(one_page.start.aligned(4 * kib));

RigConfig four_gib() {
    return ram(start, 4 * gib);
}

// ---- P1
// ---------------------------------------------------------------------------------------------------------------

class EveryChange : public testing::TestWithParam<std::pair<const char*, Change>> {};

TEST_P(EveryChange, OfEveryLeafSizeAndOfPartsOfItShowsOldOrNewAtEveryMoment) {
    RigConfig config = four_gib();
    config.realm_shared_address = std::uint64_t{1} << 47;
    Rig4K rig{config};
    const Change change = GetParam().second;
    const Change back =
        Change{}.writable(true).executable(false).valid(true).key(0).global(true).shared(false).memory_type(
            MemoryType::normal);
    for (const std::uint64_t size : {4 * kib, 64 * kib, 2 * mib, 32 * mib, gib}) {
        for (const std::uint64_t from : {std::uint64_t{0}, size, 4 * kib}) {
            const PhysRange range = at(start + from, size);
            ASSERT_TRUE(rig.protect(range, change)) << size << " at " << from;
            EXPECT_EQ(rig.check(), "") << size << " at " << from;
            ASSERT_TRUE(rig.protect(range, back));
            EXPECT_EQ(rig.check(), "") << size << " at " << from;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Of, EveryChange,
                         testing::Values(std::pair{"writable", read_only},
                                         std::pair{"executable", Change{}.executable(true)},
                                         std::pair{"valid", Change{}.valid(false)}, std::pair{"key", Change{}.key(3)},
                                         std::pair{"global", Change{}.global(false)},
                                         std::pair{"memory_type", uncached}, std::pair{"shared", Change{}.shared(true)},
                                         std::pair{"several", uncached.valid(false).key(5).writable(false)}),
                         [](const auto& info) { return std::string{info.param.first}; });

TEST(Protect, ALeafMadeInvalidKeepsItsAddressAndAttributes) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(one_page, Change{}.executable(true).key(2)));
    ASSERT_TRUE(rig.protect(one_page, Change{}.valid(false)));
    const auto invalid = rig.map().translate(one_page.start);
    ASSERT_TRUE(invalid);
    EXPECT_EQ(invalid.value().pa, one_page.start);
    EXPECT_EQ(invalid.value().attributes, Attributes{}.with_executable(true).with_key(2).with_valid(false));
    ASSERT_TRUE(rig.protect(one_page, Change{}.valid(true)));
    EXPECT_EQ(rig.map().translate(one_page.start).value().attributes, Attributes{}.with_executable(true).with_key(2));
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, AnInvalidLargeLeafIsSplitAndRevalidatedLikeAnyOther) { // a pass that skipped them once panicked a guest
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(at(start, gib), Change{}.valid(false)));
    ASSERT_TRUE(rig.protect(at(start + 4 * kib, 4 * kib), Change{}.valid(true)));
    EXPECT_TRUE(rig.map().translate(PhysAddr{start + 4 * kib}).value().attributes.valid());
    EXPECT_FALSE(rig.map().translate(PhysAddr{start + 8 * kib}).value().attributes.valid());
    ASSERT_TRUE(rig.protect(at(start, gib), Change{}.valid(true)));
    ASSERT_TRUE(rig.collapse(at(start, gib)));
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, AChangeOfMemoryTypeBreaksBeforeItMakes) {
    EventLog log;
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.prepare(one_page));
    rig.machine().record_to(log.sink());
    ASSERT_TRUE(rig.protect(one_page, uncached));
    EXPECT_EQ(log.order().find("config begin acquire begin_table_writes store barrier_publish invalidate "
                               "barrier_complete barrier_context store barrier_publish barrier_context"),
              0U)
        << log.order();
    std::vector<bool> valid;
    for (const machine::Event& e : log.events()) {
        if (std::string_view{e.call} == "store") valid.push_back((e.value & 1) != 0);
    }
    EXPECT_EQ(valid, (std::vector<bool>{false, true}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, APageThatChangesNothingIsNotBroken) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(one_page, uncached));
    bool faulted = false; // the page next to it has the type already
    ASSERT_TRUE(rig.protect(at(one_page.start.value() + 4 * kib, 4 * kib), uncached));
    rig.machine().record_to([&](const machine::Event& e) {
        faulted = faulted || (std::string_view{e.call} == "store" && (e.value & 1) == 0 &&
                              (e.value & 0xfffffffff000) == one_page.start.value());
    });
    ASSERT_TRUE(rig.protect(at(one_page.start.value(), 12 * kib), uncached));
    EXPECT_FALSE(faulted);
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, AnInvalidLeafNeedsNoBreakButAnOwedFlushIsPaidFirst) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.prepare(one_page));
    // Invalid in the tables, yet every CPU may still use it as it was.
    auto owed = rig.protect_deferred(one_page, Change{}.valid(false));
    ASSERT_TRUE(owed);
    ASSERT_TRUE(rig.protect(one_page, uncached.valid(true)));
    EXPECT_EQ(rig.check(), "");
    rig.complete(owed.value());

    ASSERT_TRUE(rig.protect(one_page, Change{}.valid(false)));
    EventLog log;
    rig.machine().record_to(log.sink());
    ASSERT_TRUE(rig.protect(one_page, Change{}.valid(true).memory_type(MemoryType::normal)));
    EXPECT_EQ(log.count("store"), 1U);
    EXPECT_EQ(rig.check(), "");
}

// ---- P2
// ---------------------------------------------------------------------------------------------------------------

TEST(Protect, OnceItReturnsNoCpuCanUseTheWiderPermission) {
    RigConfig config = four_gib();
    config.cpus = 4;
    for (const std::uint64_t size : {4 * kib, 2 * mib, gib}) {
        Rig4K rig{config};
        const PhysRange range = at(start + gib, size);
        for (unsigned cpu = 0; cpu < 4; ++cpu)
            ASSERT_TRUE(rig.machine().reach(cpu, range.start, true, false).may_succeed);
        ASSERT_TRUE(rig.protect(range, read_only));
        for (unsigned cpu = 0; cpu < 4; ++cpu) {
            EXPECT_FALSE(rig.machine().reach(cpu, range.start, true, false).may_succeed) << "CPU " << cpu;
            EXPECT_FALSE(rig.machine().reach(cpu, range.end() - 4 * kib, true, false).may_succeed) << "CPU " << cpu;
            EXPECT_FALSE(rig.machine().reach(cpu, range.start, false, false).may_fault) << "CPU " << cpu;
        }
        EXPECT_EQ(rig.check(), "");
    }
}

TEST(Protect, ADeferredFlushKeepsTheWiderPermissionPossibleUntilItCompletes) {
    Rig4K rig{four_gib()};
    auto owed = rig.protect_deferred(one_page, read_only);
    ASSERT_TRUE(owed);
    EXPECT_TRUE(rig.machine().reach(1, one_page.start, true, false).may_succeed);
    rig.complete(owed.value());
    EXPECT_FALSE(rig.machine().reach(1, one_page.start, true, false).may_succeed);
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, AChangeThatFindsNothingToDoPaysForWhatAnotherOneOwes) {
    for (const std::uint64_t size : {4 * kib, 8 * kib, 2 * gib}) { // alone, the general way, and several regions
        for (const bool prepared : {false, true}) {
            if (prepared && size > gib) continue;
            Rig4K rig{four_gib()};
            const PhysRange range = at(start, size);
            if (prepared) ASSERT_TRUE(rig.prepare(range));
            // One that takes tables their own mapping, and one that doesn't: the hot path is for the latter.
            for (const Change tightening : {read_only, Change{}.executable(false)}) {
                ASSERT_TRUE(rig.protect(range, Change{}.writable(true).executable(true)));
                auto owed = rig.protect_deferred(range, tightening);
                ASSERT_TRUE(owed);
                ASSERT_TRUE(rig.protect(range, tightening)) << size; // nothing to store, and the same promise
                EXPECT_EQ(rig.check(), "") << size << (prepared ? " prepared" : "");
            }
        }
    }
}

TEST(Protect, AChangeThatMakesValidPaysForWhatAnotherOneOwes) {
    for (const std::uint64_t size : {4 * kib, 8 * kib}) {
        Rig4K rig{four_gib()};
        const PhysRange range = at(start, size);
        auto first = rig.protect_deferred(range, read_only);
        auto second = rig.protect_deferred(range, Change{}.valid(false));
        ASSERT_TRUE(first && second);
        // It was writable and still may be cached so; valid and read-only is what everybody has to use now.
        ASSERT_TRUE(rig.protect(range, Change{}.valid(true)));
        EXPECT_EQ(rig.check(), "") << size;
    }
}

TEST(Protect, LargerEntriesThatLingerCostNoFlushWhereAChangeFindsNothingToDo) {
    Rig4K rig{four_gib()};
    EventLog log;
    ASSERT_TRUE(rig.prepare(one_page)); // splits: larger entries linger, and say the same
    auto owed = rig.protect_deferred(at(start + 2 * gib, 4 * kib), read_only); // another region's affair
    ASSERT_TRUE(owed);
    rig.machine().record_to(log.sink());
    ASSERT_TRUE(rig.protect(one_page, writable));
    EXPECT_EQ(log.count("barrier_complete"), 0U);
}

TEST(Protect, ADeferredChangeThatFindsNothingToDoTakesOverWhatAnotherOneOwes) {
    Rig4K rig{four_gib()};
    auto first = rig.protect_deferred(one_page, read_only);
    auto second = rig.protect_deferred(one_page, read_only);
    ASSERT_TRUE(first && second);
    rig.complete(second.value()); // reports whoever may still use the old permission
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, AFlipThatFindsThePageInvalidPaysForWhatAnotherChangeOwes) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.prepare(one_page));
    auto owed = rig.protect_deferred(one_page, Change{}.valid(false));
    ASSERT_TRUE(owed);
    ASSERT_TRUE(rig.flip(one_page.start, false));
    EXPECT_EQ(rig.check(), "");
    EXPECT_FALSE(rig.machine().reach(1, one_page.start, false, false).may_succeed);
}

TEST(Protect, AFlushThatIsOwedAtTheEndOfItsScopeIsPaidThere) {
    Rig4K rig{four_gib()};
    EventLog log;
    {
        auto owed = rig.protect_deferred(one_page, read_only);
        ASSERT_TRUE(owed);
        rig.machine().record_to(log.sink());
    }
    EXPECT_EQ(log.count("barrier_complete"), 1U);
    rig.machine().deferred_flushed(one_page); // reports whoever may still use the old permission
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, ManyDeferredFlushesMergeIntoOneRound) {
    Rig4K rig{four_gib()};
    auto owed = rig.protect_deferred(one_page, read_only);
    ASSERT_TRUE(owed);
    for (unsigned i = 1; i < 40; ++i) {
        auto more = rig.protect_deferred({one_page.start + i * 8 * mib, 4 * kib}, read_only);
        ASSERT_TRUE(more);
        owed.value().merge(std::move(more.value()));
    }
    EventLog log;
    rig.machine().record_to(log.sink());
    rig.complete(owed.value());
    EXPECT_EQ(log.count("barrier_complete"), 1U);
    EXPECT_LE(log.count("invalidate_range") + log.count("invalidate"), 4U);
    EXPECT_EQ(rig.check(), "");
}

// ---- P3
// ---------------------------------------------------------------------------------------------------------------

TEST(Protect, NeighboursNeitherChangeNorFaultNotEvenForAMoment) {
    Rig4K rig{four_gib()};
    const std::vector<PhysAddr> neighbours = {one_page.start - 4 * kib, one_page.end(), PhysAddr{start + gib},
                                              PhysAddr{start + 2 * gib - 4 * kib}, one_page.start + 2 * mib};
    unsigned looked = 0;
    rig.machine().record_to([&](const machine::Event&) {
        for (const PhysAddr pa : neighbours) {
            for (unsigned cpu = 0; cpu < 2; ++cpu) {
                ++looked;
                EXPECT_FALSE(rig.machine().reach(cpu, pa, true, false).may_fault);
                EXPECT_FALSE(rig.machine().reach(cpu, pa, true, true).may_succeed);
            }
        }
    });
    ASSERT_TRUE(rig.protect(one_page, read_only));
    ASSERT_TRUE(rig.protect(one_page, uncached));
    ASSERT_TRUE(rig.protect(one_page, Change{}.valid(false)));
    EXPECT_GT(looked, 100U);
    EXPECT_EQ(rig.check(), "");
}

// ---- P5
// ---------------------------------------------------------------------------------------------------------------

TEST(Protect, OnePageOfAFreshBlockLeavesTheLargestPiecesAroundIt) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(one_page, read_only));
    EXPECT_EQ(rig.leaves(), (Leaves{3, 31, 15, 31, 16}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, ALeafWhollyInsideTheRangeIsNotSplit) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(at(start, 2 * gib), read_only));
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
    EXPECT_EQ(rig.map().statistics().counters.splits, 0U);
    ASSERT_TRUE(rig.protect(at(start + gib - 2 * mib, 2 * mib + gib), writable)); // cuts the block before, not this one
    EXPECT_EQ(rig.leaves(), (Leaves{3, 31, 16, 0, 0}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, ARangeAlignedToASizeLeavesThatSizeWhole) {
    const struct {
        std::uint64_t size;
        Leaves leaves;
    } cases[] = {
        {64 * kib, {3, 31, 15, 32, 0}}, {2 * mib, {3, 31, 16, 0, 0}}, {32 * mib, {3, 32, 0, 0, 0}}, {gib, {4}}};
    for (const auto& c : cases) {
        Rig4K rig{four_gib()};
        ASSERT_TRUE(rig.protect(at(start + gib, c.size), read_only));
        EXPECT_EQ(rig.leaves(), c.leaves) << c.size;
        EXPECT_EQ(rig.check(), "");
    }
}

TEST(Protect, AChangeThatTheLeafAlreadyAgreesWithSplitsAndStoresNothing) {
    Rig4K rig{four_gib()};
    EventLog log;
    rig.machine().record_to(log.sink());
    ASSERT_TRUE(rig.protect(one_page, writable));
    EXPECT_EQ(log.order(),
              "config begin acquire release acquire release end"); // it isn't a page of its own: looked at twice
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
    EXPECT_EQ(rig.map().statistics().counters.splits_avoided, 2U); // both ends lie in the leaf
}

TEST(Protect, AGroupThatAgreesStaysClosedWhenItsTableChanges) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(at(start, 2 * mib + 64 * kib), read_only));
    const Leaves before = rig.leaves();
    ASSERT_TRUE(rig.protect(at(start, 2 * mib + 64 * kib), read_only.executable(true)));
    EXPECT_EQ(rig.leaves(), before); // opened to be changed, closed again
    ASSERT_TRUE(rig.protect(at(start + 2 * mib + 4 * kib, 8 * kib), read_only));
    EXPECT_EQ(rig.leaves(), before);
    EXPECT_EQ(rig.check(), "");
}

// ---- P6
// ---------------------------------------------------------------------------------------------------------------

TEST(Protect, TheWorstChangeTakesTwoTablesForEachLevelBelowTheLargest) {
    Rig4K rig{four_gib()};
    const std::size_t before = rig.machine().tables_in_use();
    ASSERT_TRUE(rig.protect(at(start + 4 * kib, 2 * gib), read_only)); // cuts two 1G blocks, each down to pages
    EXPECT_EQ(rig.machine().tables_in_use(), before + 4);
    EXPECT_EQ(Rig4K::G::worst_tables, 4U);
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, TablesAreTakenBeforeAnythingIsTouchedAndWithNoLockHeld) {
    EventLog log;
    Rig4K rig{four_gib()};
    rig.machine().record_to(log.sink());
    ASSERT_TRUE(rig.protect(at(start + 4 * kib, gib), read_only));
    bool touched = false;
    unsigned locks = 0, taken = 0;
    for (const machine::Event& e : log.events()) {
        const std::string_view call = e.call;
        if (call == "fill" || call == "store" || call == "update") touched = true;
        if (call == "acquire") ++locks;
        if (call == "release") --locks;
        if (call != "take_table") continue;
        ++taken;
        EXPECT_FALSE(touched);
        EXPECT_EQ(locks, 0U);
    }
    EXPECT_EQ(taken, 4U);
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, TablesNeededIsWhatTheChangeThenTakes) {
    Rig4K rig{four_gib()};
    for (const PhysRange range : {one_page, at(start + 4 * kib, gib), at(start, 64 * kib), at(start, gib), one_page}) {
        const auto needed = rig.map().tables_needed(range, read_only);
        ASSERT_TRUE(needed);
        const std::size_t before = rig.machine().tables_in_use();
        ASSERT_TRUE(rig.protect(range, read_only));
        EXPECT_EQ(rig.machine().tables_in_use() - before, needed.value());
    }
}

TEST(Protect, TablesNeededAnswersAsTheChangeWouldWhereNothingMayBeResized) {
    RigConfig config = four_gib();
    config.bbm = 1;
    Rig4K rig{config};
    for (const PhysRange range : {one_page, at(start, gib)}) {
        const auto needed = rig.map().tables_needed(range, read_only);
        const auto changed = rig.protect(range, read_only);
        EXPECT_EQ(needed.ok(), changed.ok());
        if (changed) continue;
        EXPECT_EQ(needed.error().code(), changed.error().code());
        EXPECT_EQ(needed.error().where(), changed.error().where());
        EXPECT_EQ(rig.map().tables_needed(range, read_only, {.quiescent = true}).value(), 2U);
    }
}

TEST(Protect, ItsWorkDoesNotDependOnTheSizeOfTheMap) {
    const auto events_on = [](std::uint64_t size) {
        Rig4K rig{ram(start, size)};
        const std::uint64_t before = rig.machine().events();
        EXPECT_TRUE(rig.protect(one_page, read_only));
        EXPECT_TRUE(rig.protect(at(start + 2 * mib, 64 * mib), read_only));
        return rig.machine().events() - before;
    };
    EXPECT_EQ(events_on(4 * gib), events_on(4 * tib));
}

TEST(Protect, ItsWorkIsLinearInWhatItChanges) {
    RigConfig config = four_gib();
    config.zones = {{.range = at(start, 64 * mib), .kind = ZoneKind::pages}};
    Rig4K rig{config};
    unsigned key = 0;
    const auto events_of = [&](std::uint64_t size) {
        const std::uint64_t before = rig.machine().events();
        EXPECT_TRUE(rig.protect(at(start, size), Change{}.key(++key)));
        return rig.machine().events() - before;
    };
    const std::uint64_t one = events_of(2 * mib), eight = events_of(16 * mib), all = events_of(64 * mib);
    EXPECT_GT(one, 512U); // a store for each page
    EXPECT_LT(eight, 9 * one);
    EXPECT_LT(all, 5 * eight);
}

// ---- hazards
// ------------------------------------------------------------------------------------------------------------

TEST(Protect, ARangeCostsOneInvalidationRoundHoweverManyLeaves) { // hazard 9
    for (const bool by_range : {true, false}) {
        RigConfig config = four_gib();
        config.zones = {{.range = at(start, 64 * mib), .kind = ZoneKind::pages}};
        config.range_invalidation = by_range;
        Rig4K rig{config};
        EventLog log;
        rig.machine().record_to(log.sink());
        ASSERT_TRUE(rig.protect(at(start, mib), read_only)); // 256 pages
        EXPECT_EQ(log.count("barrier_complete"), 1U);
        EXPECT_EQ(log.count("barrier_publish"), 1U);
        EXPECT_EQ(log.count("invalidate_range"), by_range ? 1U : 0U);
        EXPECT_EQ(log.count("invalidate"), by_range ? 0U : 256U);
        EXPECT_EQ(rig.map().statistics().counters.rounds, 1U);
        EXPECT_EQ(rig.check(), "");
    }
}

TEST(Protect, AboveACeilingTheWholeMapIsInvalidatedAtOnce) {
    RigConfig config = four_gib();
    config.zones = {{.range = at(start, 64 * mib), .kind = ZoneKind::pages}};
    config.range_invalidation = false;
    Rig4K rig{config};
    EventLog log;
    rig.machine().record_to(log.sink());
    ASSERT_TRUE(rig.protect(at(start, 2 * mib + 4 * kib), read_only)); // 513 pages, the ceiling is 512
    EXPECT_EQ(log.count("invalidate_all"), 1U);
    EXPECT_EQ(log.count("invalidate"), 0U);
    EXPECT_EQ(log.count("barrier_complete"), 1U);
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, ARangeOfSeveralRegionsIsFlushedInOneRound) {
    Rig4K rig{four_gib()};
    EventLog log;
    rig.machine().record_to(log.sink());
    ASSERT_TRUE(rig.protect(at(start + gib - 4 * kib, gib + 8 * kib), read_only));
    EXPECT_EQ(log.count("barrier_complete"), 1U);
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, NoInvalidationCarriesALevelHintWhereALargerLeafMayLinger) { // hazard 2
    Rig4K rig{four_gib()};
    const auto hint_of = [&](PhysRange range, Change change) {
        EventLog log;
        rig.machine().record_to(log.sink());
        EXPECT_TRUE(rig.protect(range, change));
        rig.machine().record_to([](const machine::Event&) {});
        int hint = -100;
        for (const machine::Event& e : log.events()) {
            if (e.targets != 0) hint = e.scope.level;
        }
        return hint;
    };
    EXPECT_EQ(hint_of(at(start + 2 * gib, gib), read_only), 1); // a whole block in a region where nothing was split
    EXPECT_EQ(hint_of(one_page, read_only), InvalidationScope::any_level) << "the block that is split may be cached";
    // That flush removed the block. One that `prepare` splits may stay cached, for it still is right.
    ASSERT_TRUE(rig.prepare(at(start, 8 * kib)));
    EXPECT_EQ(hint_of(at(start, 4 * kib), read_only), InvalidationScope::any_level);
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, OnAMapByPagesInvalidationsSayThatOnlyPagesAreMeant) {
    RigConfig config = four_gib();
    config.zones = {{.range = at(start, 64 * mib), .kind = ZoneKind::pages}};
    Rig4K rig{config};
    EventLog log;
    rig.machine().record_to(log.sink());
    ASSERT_TRUE(rig.protect(at(start, 8 * kib), read_only));
    for (const machine::Event& e : log.events()) {
        if (e.targets == 0) continue;
        EXPECT_EQ(e.scope.level, 3);
        EXPECT_TRUE(e.scope.leaves_only);
        EXPECT_EQ(e.targets, ~std::uint64_t{0}) << "broadcast"; // hazard 16
    }
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, APageWhoseInvalidationIsStillOwedIsFlushedWhenItChangesAgain) {
    for (const std::uint64_t size : {4 * kib, 8 * kib}) { // alone, and the general way
        Rig4K rig{four_gib()};
        const PhysRange range = at(start, size);
        ASSERT_TRUE(rig.prepare(range));
        auto owed = rig.map().protect_deferred(range, Change{}.valid(false));
        ASSERT_TRUE(owed);
        const auto before = rig.map().statistics().counters.rounds;
        ASSERT_TRUE(rig.map().protect(range, read_only)); // a CPU may still hold the valid, writable page
        EXPECT_EQ(rig.map().statistics().counters.rounds, before + 1);
    }
}

TEST(Protect, ADeferredFlushIsCountedWhenItIsDone) { // P12
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.prepare(one_page));
    auto owed = rig.map().protect_deferred(one_page, read_only);
    ASSERT_TRUE(owed);
    const Counters before = rig.map().statistics().counters;
    EventLog log;
    rig.machine().record_to(log.sink());
    owed.value().complete();
    const Counters after = rig.map().statistics().counters;
    EXPECT_EQ(after.rounds, before.rounds + 1);
    EXPECT_EQ(after.invalidations, before.invalidations + 1);
    EXPECT_EQ(after.barriers, before.barriers + 1);
    EXPECT_EQ(log.order(), "config invalidate barrier_complete barrier_context acquire release") << "and it was done";
    owed.value().complete(); // nothing is owed any more
    EXPECT_EQ(rig.map().statistics().counters.rounds, after.rounds);
}

TEST(Protect, MakingALeafValidNeedsABarrierAndNoInvalidation) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.prepare(one_page));
    ASSERT_TRUE(rig.protect(one_page, Change{}.valid(false)));
    EventLog log;
    rig.machine().record_to(log.sink());
    ASSERT_TRUE(rig.protect(one_page, Change{}.valid(true)));
    EXPECT_EQ(
        log.order(),
        "config begin acquire begin_table_writes store barrier_publish end_table_writes barrier_context release end");
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, ASplitIsOneStoreIntoTheParentBetweenTwoBarriers) { // hazards 5 and 6: filled, visible, then linked
    Rig4K rig{four_gib()};
    EventLog log;
    rig.machine().record_to(log.sink());
    ASSERT_TRUE(rig.protect(one_page, read_only));
    const std::string order = log.order();
    const std::size_t last_fill = order.rfind("fill"), link = order.find("store");
    ASSERT_NE(last_fill, std::string::npos);
    EXPECT_LT(last_fill, link) << order;
    EXPECT_NE(order.find("fill barrier_publish store barrier_publish"), std::string::npos) << order;
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, WhatWouldTakeAwayTheTablesThatTheChangeEditsIsRefused) { // hazard 3
    Rig4K rig{four_gib()};
    const PhysAddr root = rig.map().root();
    const PhysRange around = at(root.value() & ~(2 * mib - 1), 2 * mib);
    const auto before = words_of_tree<Format4K>(rig.platform(), root);
    for (const Change change : {uncached, read_only, Change{}.valid(false), Change{}.key(3)}) {
        for (const PhysRange range : {PhysRange{root, 4 * kib}, around, at(start, 4 * gib)}) {
            auto r = rig.map().protect(range, change);
            ASSERT_FALSE(r);
            EXPECT_EQ(r.error().code(), ErrorCode::incompatible);
        }
    }
    EXPECT_EQ(words_of_tree<Format4K>(rig.platform(), root), before);
    ASSERT_TRUE(rig.protect({root, 4 * kib}, Change{}.executable(true)))
        << "tables stay accessible: nothing against it";
    EXPECT_EQ(rig.check(), "");
}

/// Hands out the tables that a test has chosen before those of the machine.
class ChosenTables : public machine::Platform {
public:
    using machine::Platform::Platform;
    bool take_table(PhysAddr& pa, bool atomic, Where where = Where::current()) {
        if (chosen.empty()) return machine::Platform::take_table(pa, atomic, where);
        pa = chosen.back();
        chosen.pop_back();
        machine().own_table(pa.value());
        return true;
    }
    std::vector<PhysAddr> chosen;
};

TEST(Protect, TablesOfALaterRegionAreNotTakenAwayByTheSameChange) { // hazard 3, across regions
    Rig<Format4K, ChosenTables> rig{four_gib()};
    // The tables of the second region lie in the last pages of the first.
    rig.platform().chosen = {PhysAddr{start + gib - 4 * kib}, PhysAddr{start + gib - 8 * kib}};
    ASSERT_TRUE(rig.protect(at(start + gib + 4 * kib, 4 * kib), Change{}.executable(true)));
    const auto before = words_of_tree<Format4K>(rig.platform(), rig.map().root());
    ASSERT_TRUE(before.contains(start + gib - 4 * kib));
    for (const Change change : {read_only, uncached, Change{}.valid(false)}) {
        auto r = rig.map().protect(phys_range(start + gib - 8 * kib, start + gib + 8 * kib), change);
        ASSERT_FALSE(r);
        EXPECT_EQ(r.error().code(), ErrorCode::incompatible);
        EXPECT_EQ(words_of_tree<Format4K>(rig.platform(), rig.map().root()), before);
    }
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, MapsLargerThanOneRootEntryAreChangedAcrossItsEdges) { // hazard 13
    Rig4K rig{ram(tib / 2 - 2 * gib, 2 * tib)};
    for (const std::uint64_t edge : {tib / 2, tib, 3 * tib / 2}) {
        ASSERT_TRUE(rig.protect(at(edge - 4 * kib, 8 * kib), read_only));
        EXPECT_FALSE(rig.map().translate(PhysAddr{edge - 1}).value().attributes.writable());
        EXPECT_FALSE(rig.map().translate(PhysAddr{edge}).value().attributes.writable());
        EXPECT_TRUE(rig.map().translate(PhysAddr{edge + 4 * kib}).value().attributes.writable());
    }
    ASSERT_TRUE(rig.protect(at(tib / 2 - gib, tib + 2 * gib), read_only));
    EXPECT_EQ(rig.check(), "");
    ASSERT_TRUE(rig.protect(at(tib / 2 - gib, tib + 2 * gib), writable));
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.leaves(), (Leaves{2048}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, SixteenTebibytesCostMemoryForTheirTablesOnly) {
    Rig4K rig{ram(0, 16 * tib)};
    EXPECT_EQ(rig.leaves(), (Leaves{16384}));
    EXPECT_EQ(rig.machine().tables_in_use(), 33U);
    for (std::uint64_t pa = tib / 3 & ~(4 * kib - 1); pa < 15 * tib; pa += tib)
        ASSERT_TRUE(rig.protect(at(pa, 4 * kib), read_only));
    EXPECT_LT(rig.machine().memory_pages(), 80U);
    EXPECT_EQ(rig.check(), "");
}

/// A table source that changes the map before it answers, as an allocator with protected pages may (hazard 4).
class ReentrantPlatform : public machine::Platform {
public:
    using machine::Platform::Platform;
    bool take_table(PhysAddr& pa, bool atomic, Where where = Where::current()) {
        if (before_taking != nullptr) {
            const auto call = std::exchange(before_taking, nullptr);
            call();
        }
        return machine::Platform::take_table(pa, atomic, where);
    }
    std::function<void()> before_taking;
};

TEST(Protect, ATableSourceThatChangesTheSameLeafMeanwhileLeavesNoOrphan) { // hazard 4
    Rig<Format4K, ReentrantPlatform> rig{four_gib()};
    unsigned inner = 0;
    rig.platform().before_taking = [&] {
        ++inner;
        EXPECT_TRUE(rig.protect({one_page.start + 4 * kib, 4 * kib}, Change{}.executable(true)));
        EXPECT_TRUE(rig.protect({one_page.start + 4 * mib, 4 * kib}, Change{}.executable(true)));
    };
    ASSERT_TRUE(rig.protect(one_page, read_only));
    EXPECT_EQ(inner, 1U);
    EXPECT_EQ(rig.machine().tables_in_use(), tables_for<Rig4K::G>(leaves_of(rig.map()), rig.config().offset));
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, ATableSourceThatHandsOutMemoryOfTheRangeIsRefused) { // hazard 3
    RigConfig config = four_gib();
    config.table_pool = at(start + gib, 2 * mib);
    Rig4K rig{config};
    const auto before = words_of_tree<Format4K>(rig.platform(), rig.map().root());
    const std::size_t tables = rig.machine().tables_in_use();
    auto r = rig.protect(at(start + gib + 4 * kib, 2 * mib - 16 * kib), Change{}.valid(false));
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::incompatible);
    EXPECT_EQ(words_of_tree<Format4K>(rig.platform(), rig.map().root()), before);
    EXPECT_EQ(rig.machine().tables_in_use(), tables);
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, TablesAreTakenOneCallEachHoweverManyAreInUse) { // hazard 15
    EventLog log;
    Rig4K rig{four_gib()};
    for (unsigned i = 0; i < 50; ++i) ASSERT_TRUE(rig.protect(at(start + i * 4 * mib, 4 * kib), read_only));
    rig.machine().record_to(log.sink());
    ASSERT_TRUE(rig.protect(at(start + 3 * gib - 4 * kib, 4 * kib), read_only));
    EXPECT_EQ(log.count("take_table"), 2U);
}

TEST(Protect, AnAtomicCallerTakesOnlyWhatIsSetAside) { // hazard 8
    Rig4K rig{four_gib()};
    const ChangeOptions atomic{.atomic = true};
    EventLog log;
    rig.machine().record_to(log.sink());
    auto r = rig.protect(one_page, read_only, atomic);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::would_block);
    EXPECT_EQ(r.error().needed(), 2U);
    EXPECT_EQ(log.count("take_table"), 0U);

    ASSERT_TRUE(rig.map().set_aside(2));
    log.clear();
    ASSERT_TRUE(rig.protect(one_page, read_only, atomic));
    EXPECT_EQ(log.count("take_table"), 0U);
    EXPECT_EQ(rig.map().statistics().set_aside, 0U);
    EXPECT_EQ(rig.map().statistics().set_aside_low_water, 0U);
    ASSERT_TRUE(rig.protect(one_page, writable, atomic)) << "what is split already needs nothing";
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, WhatAnAtomicCallerDidNotUseStaysSetAside) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.map().set_aside(4));
    ASSERT_TRUE(rig.protect(at(start + gib - 64 * kib, 128 * kib), read_only, {.atomic = true}));
    EXPECT_EQ(rig.map().statistics().set_aside, 0U); // two ends, two levels each
    ASSERT_TRUE(rig.map().set_aside(3));
    auto r = rig.protect(at(start + 3 * gib - 64 * kib, 128 * kib), read_only, {.atomic = true});
    ASSERT_FALSE(r);
    EXPECT_EQ(rig.map().statistics().set_aside, 3U);
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, RestoringNeedsNoTables) { // hazard 18: what gives memory back must not ask for some
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(at(start + gib - 4 * kib, 8 * kib), read_only));
    rig.machine().tables_left = 0;
    ASSERT_TRUE(rig.protect(at(start + gib - 4 * kib, 4 * kib), writable));
    ASSERT_TRUE(rig.protect(at(start + gib, 4 * kib), writable));
    EXPECT_EQ(rig.check(), "");
}

TEST(Protect, SuccessMeansDone) { // hazard 17: no silent success when it was impossible
    for (const unsigned bbm : {0U, 1U, 2U, 3U}) {
        RigConfig config = four_gib();
        config.bbm = bbm;
        Rig4K rig{config};
        const auto r = rig.protect(one_page, read_only);
        EXPECT_EQ(r.ok(), bbm == 3U);
        EXPECT_EQ(rig.map().translate(one_page.start).value().attributes.writable(), bbm != 3U);
        EXPECT_EQ(rig.check(), "");
    }
}

// ---- P11
// ----------------------------------------------------------------------------------------------------------------

TEST(Protect, AChangeWaitsForNoOtherRegionsLock) {
    const RigConfig config = four_gib();
    machine::MachineConfig machine_config;
    machine_config.regime = machine::regime_of<Format4K>();
    machine_config.table_pool = at(start + 3 * gib, gib);
    machine::Machine machine{machine_config};
    machine.reference().map(config.ram[0].range, machine::access_of({}));
    machine::Platform platform{machine};
    std::vector<Region<machine::Machine::Lock>> regions(4);
    DirectMap<Format4K, machine::Platform> map{platform, {.offset = config.offset}, {regions.data(), regions.size()}};
    ASSERT_TRUE(map.build({{config.ram.data(), 1}, {}}, Mapping::largest));
    ASSERT_TRUE(map.admit({.tolerates_live_resize = true}));

    machine.run_on(1);
    platform.acquire(regions[1].lock); // CPU 1 is in the middle of a change there
    machine.run_on(0);
    ASSERT_TRUE(map.protect(at(start, 4 * kib), read_only));
    ASSERT_TRUE(map.protect(at(start + 2 * gib, 4 * kib), read_only));
    EXPECT_TRUE(machine.violations().empty());
    ASSERT_TRUE(map.protect(one_page, read_only)); // this one would have had to wait
    EXPECT_FALSE(machine.violations().empty());
}

} // namespace
} // namespace directmap::test

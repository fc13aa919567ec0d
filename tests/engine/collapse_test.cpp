// Making leaves large again: promises P7, P10 and P12, the four policies, and what collapse must leave alone.
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "support/leaves.hpp"
#include "support/scenario.hpp"

namespace directmap::test {
namespace {

using machine::RigConfig;
using Leaves = std::array<std::uint64_t, 6>;

constexpr std::uint64_t start = 4 * gib;
constexpr Change read_only = Change{}.writable(false), writable = Change{}.writable(true);
constexpr PhysRange one_page = at(start + gib + 33 * mib + 84 * kib, 4 * kib);

RigConfig four_gib() {
    return ram(start, 4 * gib);
}

// ---- P10
// --------------------------------------------------------------------------------------------------------------

TEST(Collapse, ASplitThatIsUndoneHealsToTheLeavesAndTablesThatWereThere) {
    Rig4K rig{four_gib()};
    const std::size_t tables = rig.machine().tables_in_use();
    ASSERT_TRUE(rig.protect(one_page, read_only));
    ASSERT_TRUE(rig.protect(one_page, writable));
    EXPECT_NE(rig.leaves(), (Leaves{4}));
    const auto progress = rig.collapse(one_page);
    ASSERT_TRUE(progress);
    EXPECT_TRUE(progress.value().finished);
    EXPECT_EQ(progress.value().tables_freed, 2U);
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
    EXPECT_EQ(rig.machine().tables_in_use(), tables);
    EXPECT_EQ(rig.check(), "");
}

TEST(Collapse, AfterItNoFewerLeavesCouldSayTheSame) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.prepare(at(start, 96 * mib)));
    ASSERT_TRUE(rig.release(at(start, 96 * mib)));
    ASSERT_TRUE(rig.protect(at(start + 32 * mib - 72 * kib, 2 * mib + 100 * kib), read_only));
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.leaves(), rig.smallest_cover());
    EXPECT_EQ(rig.check(), "");
}

TEST(Collapse, FromInsideAGroupOfBlocksTheWholeGroupHeals) {
    Rig4K rig{four_gib()};
    // Two tables in one group of blocks, a third page elsewhere that keeps the rest of the gigabyte apart.
    ASSERT_TRUE(rig.protect(at(start, 4 * kib), read_only));
    ASSERT_TRUE(rig.protect(at(start + 4 * mib, 4 * kib), read_only));
    ASSERT_TRUE(rig.protect(at(start + 512 * mib, 4 * kib), read_only));
    ASSERT_TRUE(rig.protect(at(start, 32 * mib), writable));
    ASSERT_TRUE(rig.collapse(at(start, 4 * kib))); // the larger leaf would overlap this page
    EXPECT_EQ(rig.map().translate(PhysAddr{start}).value().leaf.bytes(), 32 * mib);
    EXPECT_EQ(rig.leaves(), rig.smallest_cover());
    EXPECT_EQ(rig.check(), "");
}

TEST(Collapse, WhatIsNotUniformIsMergedAsFarAsItGoes) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(at(start, gib), read_only));
    ASSERT_TRUE(rig.prepare(at(start, 32 * mib)));
    ASSERT_TRUE(rig.release(at(start, 32 * mib)));
    ASSERT_TRUE(rig.protect(one_page, read_only));
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.leaves(), (Leaves{3, 31, 15, 31, 16})); // the read-only page alone is apart
    EXPECT_EQ(rig.check(), "");
}

TEST(Collapse, ABudgetIsKeptAndTheRestIsDoneFromWhereItStopped) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.prepare(at(start, 64 * mib)));
    ASSERT_TRUE(rig.release(at(start, 64 * mib)));
    PhysRange rest = rig.whole();
    unsigned steps = 0;
    for (bool finished = false; !finished; ++steps) {
        auto r = rig.collapse(rest, 5);
        ASSERT_TRUE(r);
        EXPECT_LE(r.value().tables_read, 5U);
        finished = r.value().finished;
        if (finished) break;
        ASSERT_GE(r.value().next, rest.start);
        rest = phys_range(r.value().next.value(), rig.whole().end().value());
        ASSERT_LT(steps, 100U);
        EXPECT_EQ(rig.check(), "");
    }
    EXPECT_GE(steps, 5U);
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
}

TEST(Collapse, ASmallBudgetForAPageInALargeUniformRangeComesToAnEnd) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.prepare(at(start, 64 * mib)));
    ASSERT_TRUE(rig.release(at(start, 64 * mib)));
    const PhysRange page = at(start + 8 * mib, 4 * kib);
    unsigned steps = 0;
    while (true) {
        auto r = rig.collapse(page, 2);
        ASSERT_TRUE(r);
        if (r.value().finished) break;
        ASSERT_LT(++steps, 50U);
    }
    EXPECT_EQ(rig.map().translate(page.start).value().leaf.bytes(), gib);
    EXPECT_EQ(rig.check(), "");
}

TEST(Collapse, ItReadsWhatItLooksAtAndNotTheMap) {
    const auto read_on = [](std::uint64_t size) {
        Rig4K rig{ram(start, size)};
        EXPECT_TRUE(rig.protect(one_page, read_only));
        EXPECT_TRUE(rig.protect(one_page, writable));
        const std::uint64_t before = rig.machine().events();
        EXPECT_TRUE(rig.collapse(one_page));
        return rig.machine().events() - before;
    };
    EXPECT_EQ(read_on(4 * gib), read_on(4 * tib));
}

// ---- hazard 21: every attribute keeps leaves apart
// --------------------------------------------------------------------------

class DifferentAttribute : public testing::TestWithParam<std::pair<const char*, Change>> {};

TEST_P(DifferentAttribute, KeepsAPageOutOfALargerLeaf) {
    RigConfig config = four_gib();
    config.realm_shared_address = std::uint64_t{1} << 47;
    for (const std::uint64_t position : {std::uint64_t{0}, 2 * mib - 4 * kib, 64 * kib, 36 * kib}) {
        Rig4K rig{config};
        const PhysRange page = at(start + gib + position, 4 * kib);
        ASSERT_TRUE(rig.protect(page, GetParam().second));
        const Leaves apart = rig.leaves();
        ASSERT_TRUE(rig.collapse(rig.whole()));
        EXPECT_EQ(rig.leaves(), apart) << position;
        EXPECT_EQ(rig.check(), "") << position;
    }
}

INSTANTIATE_TEST_SUITE_P(Of, DifferentAttribute,
                         testing::Values(std::pair{"writable", read_only},
                                         std::pair{"executable", Change{}.executable(true)},
                                         std::pair{"valid", Change{}.valid(false)}, std::pair{"key", Change{}.key(5)},
                                         std::pair{"global", Change{}.global(false)},
                                         std::pair{"memory_type", Change{}.memory_type(MemoryType::normal_tagged)},
                                         std::pair{"shared", Change{}.shared(true)}),
                         [](const auto& info) { return std::string{info.param.first}; });

TEST(Collapse, PinnedPagesStayPagesUntilTheyAreReleased) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.prepare(at(start + 64 * kib, 8 * kib)));
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.map().translate(PhysAddr{start + 64 * kib}).value().leaf.bytes(), 4 * kib);
    EXPECT_EQ(rig.map().translate(PhysAddr{start + 64 * kib}).value().attributes.fixed(), true);
    EXPECT_EQ(rig.check(), "");
    ASSERT_TRUE(rig.release(at(start + 64 * kib, 8 * kib)));
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Collapse, InvalidLeavesMergeToAnInvalidLeafThatKeepsAddressAndAttributes) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(one_page, read_only));
    ASSERT_TRUE(rig.protect(one_page, writable));
    ASSERT_TRUE(rig.protect(at(start + gib, gib), Change{}.valid(false).key(3)));
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
    EXPECT_EQ(rig.map().translate(one_page.start).value().attributes, Attributes{}.with_valid(false).with_key(3));
    EXPECT_EQ(rig.check(), "");
}

TEST(Collapse, NothingMergesAcrossWhereAddressesDoNotRunOn) { // hazard 14
    RigConfig config = ram(start, 64 * mib);
    config.offset += 4 * kib; // no leaf larger than a page shares both alignments
    Rig4K rig{config};
    EXPECT_EQ(rig.leaves(), (Leaves{0, 0, 0, 0, 16384}));
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.leaves(), (Leaves{0, 0, 0, 0, 16384}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Collapse, GroupsFormOnlyWhereThePhysicalAddressIsAlignedToThem) { // hazard 14
    for (const std::uint64_t skew : {16 * kib, 64 * kib, mib, 2 * mib, 16 * mib}) {
        RigConfig config = ram(start, 128 * mib);
        config.offset += skew;
        Rig4K rig{config};
        ASSERT_TRUE(rig.protect(at(start + 8 * mib, 4 * kib), read_only));
        ASSERT_TRUE(rig.protect(at(start + 8 * mib, 4 * kib), writable));
        ASSERT_TRUE(rig.collapse(rig.whole()));
        EXPECT_EQ(rig.leaves(), rig.smallest_cover()) << skew;
        EXPECT_EQ(rig.check(), "") << skew;
    }
}

TEST(Collapse, ADeferredChangeIsFlushedBeforeItsPagesAreMerged) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(one_page, read_only));
    auto owed = rig.protect_deferred(at(start + gib, gib), Change{}.writable(false).executable(true));
    ASSERT_TRUE(owed);
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
    rig.complete(owed.value());
    EXPECT_EQ(rig.check(), "");
}

// ---- P7
// ---------------------------------------------------------------------------------------------------------------

TEST(Collapse, ATableIsGivenBackOnlyOnceNoWalkerCanStillReadIt) { // hazard 7
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(one_page, read_only));
    ASSERT_TRUE(rig.protect(one_page, writable));
    const std::size_t tables = rig.machine().tables_in_use();
    bool collapsed = false;
    rig.map().walk(rig.whole(), [&](const Leaf& leaf) {
        if (collapsed || !leaf.range.contains(one_page.start)) return true;
        collapsed = true;
        rig.machine().run_on(1); // the dump on CPU 0 stands in the table that CPU 1 merges
        EXPECT_TRUE(rig.collapse(one_page));
        EXPECT_EQ(rig.leaves(), (Leaves{4}));
        EXPECT_NE(rig.map().reclaim(), 0U);
        EXPECT_EQ(rig.machine().tables_in_use(), tables);
        rig.machine().run_on(0);
        return true;
    });
    ASSERT_TRUE(collapsed);
    EXPECT_EQ(rig.map().reclaim(), 0U);
    EXPECT_EQ(rig.machine().tables_in_use(), tables - 2);
    EXPECT_EQ(rig.check(), "");
}

TEST(Collapse, AWalkerThatStallsStopsReclaimButNeitherChangesNorCollapses) {
    Rig4K rig{ram(start, 70 * gib)};
    constexpr unsigned split = 66; // more than places for retired tables
    for (unsigned i = 0; i < split; ++i) ASSERT_TRUE(rig.protect(at(start + i * gib, 4 * kib), read_only));
    for (unsigned i = 0; i < split; ++i) ASSERT_TRUE(rig.protect(at(start + i * gib, 4 * kib), writable));
    bool first = true;
    rig.map().walk(rig.whole(), [&](const Leaf&) {
        if (!std::exchange(first, false)) return false;
        rig.machine().run_on(1);
        auto r = rig.collapse(rig.whole());
        EXPECT_TRUE(r);
        EXPECT_FALSE(r.value().finished) << "a full list of retired tables must be told, not dropped";
        EXPECT_TRUE(rig.protect(at(start + 68 * gib, 4 * kib), read_only));
        rig.machine().run_on(0);
        return true;
    });
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.map().reclaim(), 0U);
    EXPECT_EQ(rig.leaves(), rig.smallest_cover());
    EXPECT_EQ(rig.check(), "");
}

TEST(Collapse, TheInvalidationReachesWalkCachesAndComesBeforeTheTableGoesBack) { // hazards 7 and 25
    EventLog log;
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(one_page, read_only));
    ASSERT_TRUE(rig.protect(one_page, writable));
    rig.machine().record_to(log.sink());
    ASSERT_TRUE(rig.collapse(one_page));
    bool invalidated = false, completed = false;
    unsigned given = 0;
    for (const machine::Event& e : log.events()) {
        const std::string_view call = e.call;
        if (e.targets != 0) {
            invalidated = true;
            EXPECT_FALSE(e.scope.leaves_only);
            EXPECT_EQ(e.scope.level, InvalidationScope::any_level);
        }
        if (call == "barrier_complete") completed = invalidated;
        if (call == "give_table") {
            ++given;
            EXPECT_TRUE(completed);
        }
    }
    EXPECT_EQ(given, 2U);
    EXPECT_EQ(log.count("barrier_complete"), 1U) << "one round for the region";
}

// ---- policies
// ---------------------------------------------------------------------------------------------------------

TEST(CollapsePolicies, NeverMeansNever) {
    RigConfig config = four_gib();
    config.policy = CollapsePolicy::never;
    Rig4K rig{config};
    ASSERT_TRUE(rig.protect(one_page, read_only));
    ASSERT_TRUE(rig.protect(one_page, writable));
    auto r = rig.map().collapse(rig.whole());
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::unsupported);
    EXPECT_NE(rig.leaves(), (Leaves{4}));
}

TEST(CollapsePolicies, OnRequestWaitsForTheRequest) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(one_page, read_only));
    ASSERT_TRUE(rig.protect(one_page, writable));
    EXPECT_EQ(rig.map().statistics().counters.collapses, 0U);
    EXPECT_EQ(rig.map().background_step(100).tables_read, 0U);
    ASSERT_TRUE(rig.collapse(one_page));
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
}

TEST(CollapsePolicies, OnRestoreHealsWithTheChangeThatMakesItPossible) {
    RigConfig config = four_gib();
    config.policy = CollapsePolicy::on_restore;
    Rig4K rig{config};
    const std::size_t tables = rig.machine().tables_in_use();
    ASSERT_TRUE(rig.protect(one_page, read_only));
    EXPECT_EQ(rig.leaves(), (Leaves{3, 31, 15, 31, 16}));
    ASSERT_TRUE(rig.protect(one_page, writable));
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
    EXPECT_EQ(rig.machine().tables_in_use(), tables);
    ASSERT_TRUE(rig.prepare(one_page));
    ASSERT_TRUE(rig.release(one_page));
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
    EXPECT_EQ(rig.check(), "");
}

TEST(CollapsePolicies, BackgroundLooksOnlyAtWhatWasTouchedAndIsQuiet) {
    RigConfig config = four_gib();
    config.policy = CollapsePolicy::background;
    config.quiet_time = 100;
    Rig4K rig{config};
    EXPECT_EQ(rig.background_step(100).tables_read, 0U) << "nothing was touched";
    rig.machine().clock = 1000;
    ASSERT_TRUE(rig.protect(one_page, read_only));
    ASSERT_TRUE(rig.protect(one_page, writable));
    EXPECT_EQ(rig.background_step(100).tables_read, 0U) << "it is still busy";
    rig.machine().clock = 1100;
    EXPECT_EQ(rig.background_step(100).tables_freed, 2U);
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
    EXPECT_EQ(rig.background_step(100).tables_read, 0U) << "it has been looked at";
    EXPECT_EQ(rig.check(), "");
}

TEST(CollapsePolicies, BackgroundKeepsItsBudgetAndGoesOnWhereItStopped) {
    RigConfig config = four_gib();
    config.policy = CollapsePolicy::background;
    Rig4K rig{config};
    ASSERT_TRUE(rig.prepare(at(start, 64 * mib)));
    ASSERT_TRUE(rig.release(at(start, 64 * mib)));
    ASSERT_TRUE(rig.protect(at(start + 3 * gib, 4 * kib), read_only));
    ASSERT_TRUE(rig.protect(at(start + 3 * gib, 4 * kib), writable));
    unsigned steps = 0;
    while (rig.leaves() != Leaves{4}) {
        EXPECT_LE(rig.background_step(7).tables_read, 7U);
        ASSERT_LT(++steps, 40U);
    }
    EXPECT_GE(steps, 5U);
    EXPECT_EQ(rig.check(), "");
}

// ---- P12
// --------------------------------------------------------------------------------------------------------------

TEST(Accounting, LeavesTimesSizeIsWhatIsMappedAfterEveryStep) { // hazard 20
    Rig4K rig{four_gib()};
    const auto bytes = [&] { return rig.map().statistics().bytes; };
    EXPECT_EQ(bytes(), 4 * gib);
    ASSERT_TRUE(rig.protect(one_page, read_only));
    EXPECT_EQ(bytes(), 4 * gib);
    ASSERT_TRUE(rig.protect(at(start + gib - 4 * kib, 2 * gib), Change{}.valid(false)));
    EXPECT_EQ(bytes(), 4 * gib);
    ASSERT_TRUE(rig.prepare(at(start + 3 * gib + 60 * kib, 8 * mib)));
    EXPECT_EQ(bytes(), 4 * gib);
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(bytes(), 4 * gib);
    EXPECT_EQ(rig.check(), "");
}

TEST(Accounting, CountersTellWhatHappened) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(one_page, read_only));
    Counters c = rig.map().statistics().counters;
    EXPECT_EQ(c.splits, 2U);
    EXPECT_EQ(c.tables_taken, 2U);
    EXPECT_EQ(c.filled, 1024U);
    EXPECT_EQ(c.stores, 2U); // the link, the page
    EXPECT_EQ(c.rounds, 1U);
    EXPECT_EQ(c.invalidations, 1U);
    ASSERT_TRUE(rig.protect(one_page, writable));
    ASSERT_TRUE(rig.collapse(one_page));
    c = rig.map().statistics().counters;
    EXPECT_EQ(c.collapses, 1U);
    EXPECT_EQ(c.tables_returned, 2U);
    EXPECT_EQ(c.rounds, 3U);
    EXPECT_EQ(rig.map().statistics().retired, 0U);
    const std::size_t tables = rig.machine().tables_in_use();
    EXPECT_EQ(tables, rig.initial_tables() + c.tables_taken - c.tables_returned);
}

} // namespace
} // namespace directmap::test

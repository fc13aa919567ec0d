// Guard pages: what a flip costs, and that it is done when it returns.
#include "client_rig.hpp"
#include "directmap_clients/guard_pages.hpp"

namespace directmap::client_tests {
namespace {

using Guards = GuardPages<TestMap, RangeAllocator>;

struct GuardRig : ClientRig {
    explicit GuardRig(const machine::RigConfig& config = rig_config())
        : ClientRig{config}, guards{map, allocator, {storage, 4}} {}
    PhysRange storage[4];
    Guards guards;
};

TEST(GuardPages, AFlipIsOneStoreAndTakesNoLockNoTableAndNoSplit) {
    GuardRig t;
    const auto pool = t.guards.prepare(32 * page);
    ASSERT_TRUE(pool);
    const std::uint64_t splits = t.rig.map().statistics().counters.splits;
    t.machine().tables_left = 0;
    Calls calls;
    t.machine().record_to(calls.sink());
    ASSERT_TRUE(t.guards.guard(pool.value().start + 5 * page));
    EXPECT_EQ(calls.of("store"), 1u);
    EXPECT_EQ(calls.of("acquire") + calls.of("take_table") + calls.of("relax"), 0u);
    EXPECT_EQ(calls.of("invalidate"), 1u);
    ASSERT_TRUE(t.guards.unguard(pool.value().start + 5 * page));
    EXPECT_EQ(calls.of("store"), 2u);
    EXPECT_EQ(calls.of("acquire") + calls.of("take_table") + calls.of("relax"), 0u);
    EXPECT_EQ(calls.of("invalidate"), 1u) << "making a page valid needs no invalidation";
    EXPECT_EQ(t.rig.map().statistics().counters.splits, splits);
    EXPECT_EQ(t.guards.statistics().flips, 2u);
    EXPECT_EQ(t.rig.check(), "");
}

TEST(GuardPages, NoCpuReachesAGuardedPageOnceTheFlipHasReturned) {
    GuardRig t;
    const auto pool = t.guards.prepare(16 * page);
    ASSERT_TRUE(pool);
    const PhysAddr guarded = pool.value().start + 3 * page;
    EXPECT_TRUE(t.reachable(guarded));
    ASSERT_TRUE(t.guards.guard(guarded));
    EXPECT_FALSE(t.reachable(guarded)) << "not even through the large leaf that prepare has split";
    EXPECT_TRUE(t.reachable(guarded + page));
    EXPECT_TRUE(t.reachable(guarded - page));
    ASSERT_TRUE(t.guards.unguard(guarded));
    EXPECT_TRUE(t.reachable(guarded));
    EXPECT_EQ(t.rig.check(), "");
}

TEST(GuardPages, APageThatIsNotOfThePoolIsRefusedAndStaysAsItIs) {
    GuardRig t;
    ASSERT_TRUE(t.guards.prepare(4 * page));
    const PhysAddr other{0xb0000000};
    EXPECT_EQ(t.guards.guard(other).error().code(), ErrorCode::invalid_argument);
    EXPECT_EQ(t.map.flip(other, false).error().code(), ErrorCode::unsupported)
        << "nor does the map flip what isn't pinned";
    EXPECT_TRUE(t.reachable(other));
    EXPECT_EQ(t.rig.check(), "");
}

TEST(GuardPages, AllLeavesAreLargeAgainOnceThePoolsAreGone) {
    GuardRig t;
    const auto a = t.guards.prepare(block), b = t.guards.prepare(64 * page);
    ASSERT_TRUE(a && b);
    for (unsigned i = 0; i < 40; ++i) ASSERT_TRUE(t.guards.guard((i % 2 != 0 ? a : b).value().start + i * page));
    ASSERT_TRUE(t.map.collapse(ram)); // leaves pins alone
    EXPECT_FALSE(t.reachable(a.value().start + page));
    t.guards.release_all();
    t.expect_as_at_start();
}

TEST(GuardPages, APoolThatCantBePreparedIsGivenBackWhole) {
    for (std::uint64_t tables = 0;; ++tables) {
        GuardRig t;
        t.machine().tables_left = tables;
        const auto pool = t.guards.prepare(2 * block);
        if (pool) {
            EXPECT_GE(tables, 2u) << "it needs a table for each block";
            break;
        }
        EXPECT_EQ(pool.error().code(), ErrorCode::no_tables);
        EXPECT_EQ(t.allocator.taken(), 0u);
        EXPECT_EQ(t.guards.statistics().bytes, 0u);
        ASSERT_TRUE(t.map.collapse(ram));
        t.expect_as_at_start();
    }
}

} // namespace
} // namespace directmap::client_tests

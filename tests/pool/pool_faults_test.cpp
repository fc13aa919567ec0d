// Mistakes that the pool makes on purpose: each is noticed by what docs/protected-tables.md claims.
#include <string>

#include <gtest/gtest.h>

#include "pool_player.hpp"

namespace directmap::machine {
namespace {

/// What the first sequence that notices the mistake says; nothing if none does. Without the mistake the same sequence
/// has nothing to say.
[[nodiscard]] std::string first_notice(Omission omission, PoolStage stage) {
    stage.config.omission = omission;
    for (unsigned depth = 1; depth <= 4; ++depth) {
        std::vector<unsigned> sequence(depth, 0);
        do {
            std::string notice = play<Toy>(stage, sequence, RangeAllocator::none, RangeAllocator::none);
            if (notice.empty()) continue;
            stage.config.omission = Omission::nothing;
            EXPECT_EQ(play<Toy>(stage, sequence, RangeAllocator::none, RangeAllocator::none), "");
            return notice;
        } while (advance(sequence, pool_steps<Toy>().size()));
    }
    return {};
}
void expect_notice(Omission omission, const char* words, const PoolStage& stage = stage_of<Toy>(112, 0x4000)) {
    const std::string notice = first_notice(omission, stage);
    EXPECT_NE(notice.find(words), std::string::npos) << notice;
}

TEST(PoolFault, PagesHandedOutBeforeTheyHaveTheKeyAreNoticed) {
    expect_notice(Omission::pool_attributes, "may be mapped without the table key");
}
TEST(PoolFault, NormalRequestsThatEatTheReserveAreNoticed) {
    expect_notice(Omission::pool_split_reserve, "a normal request leaves");
}
TEST(PoolFault, SplitsThatEatTheRefillsReserveAreNoticed) {
    for (const Omission omission : {Omission::nothing, Omission::pool_refill_reserve}) {
        PoolStage stage = stage_of<Toy>(16, 0x4000);
        stage.config.omission = omission;
        Player<Toy> player{stage};
        player.rig.allocator().largest = 0;
        std::size_t before = ~std::size_t{0};
        while (player.outside.size() != before) { // until there is nothing for splits
            before = player.outside.size();
            ASSERT_EQ(player.take(PageUse::split), "");
        }
        EXPECT_EQ(player.check().find("suffice for a refill") == std::string::npos, omission == Omission::nothing);
    }
}
TEST(PoolFault, AFailedRefillThatDoesntRepayIsNoticed) {
    for (const Omission omission : {Omission::nothing, Omission::pool_repay}) {
        PoolStage stage = stage_of<Toy>();
        stage.config.omission = omission;
        Player<Toy> player{stage};
        player.rig.allocator().largest = 0;
        EXPECT_FALSE(player.rig.refill());
        EXPECT_EQ(player.check().find("pages are owned") == std::string::npos, omission == Omission::nothing);
    }
}

TEST(PoolFault, AShrinkThatSplitsIsNoticed) {
    for (const Omission omission : {Omission::nothing, Omission::pool_shrink_loan}) {
        PoolStage stage = stage_of<Toy>(112, 0x4000);
        stage.config.omission = omission;
        Player<Toy> player{stage};
        ASSERT_TRUE(player.rig.ready());
        for (unsigned i = 0; i < 40; ++i) ASSERT_EQ(player.take(PageUse::normal), "");
        ASSERT_TRUE(player.rig.map().collapse(player.rig.map().span()));
        std::vector<PhysAddr> kept;
        for (const PhysAddr pa : player.outside) { // of each block of two chunks, one is free
            if (pa.value() % 0x8000 >= 0x4000 || !player.rig.give(pa)) kept.push_back(pa);
        }
        player.outside = kept;
        const std::string problem = player.shrink();
        EXPECT_EQ(problem, omission == Omission::nothing ? "" : "a shrink splits a leaf");
    }
}

TEST(PoolFault, SayingThatThereIsNothingWithoutALookIntoMagazinesIsNoticed) {
    for (const Omission omission : {Omission::nothing, Omission::pool_drain}) {
        PoolStage stage = stage_of<Toy>(16, 0x4000);
        stage.config.omission = omission;
        Player<Toy> player{stage};
        ASSERT_TRUE(player.rig.ready());
        player.rig.allocator().largest = 0;
        std::string problem;
        while (player.rig.pool().statistics().free > Player<Toy>::reserves && problem.empty()) // magazines included
            problem = player.take(PageUse::normal);
        ASSERT_EQ(problem, "");
        player.rig.machine().run_on(1);
        ASSERT_EQ(player.give(), "");
        ASSERT_EQ(player.give(), "");
        player.rig.machine().run_on(0);
        problem = player.take(PageUse::normal);
        EXPECT_EQ(problem.empty(), omission == Omission::nothing) << problem;
    }
}

} // namespace
} // namespace directmap::machine

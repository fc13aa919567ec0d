// Every sequence of operations up to a depth, and every failure of the page allocator within it: the claims of
// docs/protected-tables.md.
#include <random>

#include <gtest/gtest.h>

#include "pool_player.hpp"

namespace directmap::machine {
namespace {

constexpr std::uint64_t never = RangeAllocator::none;

/// Plays all sequences of this depth on a new machine each.
template <class F>
void play_all(const PoolStage& stage, unsigned depth) {
    std::vector<unsigned> sequence(depth, 0);
    do {
        ASSERT_EQ(play<F>(stage, sequence, never, never), "");
    } while (advance(sequence, pool_steps<F>().size()));
}

/// The same with every failure: for each call of the page allocator, once that call alone and once all from there on.
template <class F>
void play_all_failures(const PoolStage& stage, unsigned depth) {
    std::vector<unsigned> sequence(depth, 0);
    do {
        std::uint64_t calls = 0;
        ASSERT_EQ(play<F>(stage, sequence, never, never, &calls), "");
        for (std::uint64_t call = 0; call < calls; ++call) {
            ASSERT_EQ(play<F>(stage, sequence, call, never), "") << "call " << call << " fails";
            ASSERT_EQ(play<F>(stage, sequence, never, call), "") << "all calls from " << call << " on fail";
        }
    } while (advance(sequence, pool_steps<F>().size()));
}

/// The pool begins with little more than its reserve, and grows by the smallest chunks.
template <class F>
[[nodiscard]] PoolStage poor_stage(std::uint64_t chunk_pages) {
    return stage_of<F>(chunk_pages, Player<F>::smallest_chunk);
}

TEST(PoolSequences, NoneRunsDryReentersExposesATableOrLosesAPage) {
    play_all<Toy>(stage_of<Toy>(), long_run() ? 5 : 4);
}
TEST(PoolSequences, NoneDoesSoWithAnyFailureOfThePageAllocator) {
    play_all_failures<Toy>(poor_stage<Toy>(112), long_run() ? 5 : 4);
}
TEST(PoolSequences, NoneDoesSoWhenMemoryIsScarceFromTheStart) {
    play_all_failures<Toy>(poor_stage<Toy>(16), long_run() ? 5 : 4);
}
TEST(PoolSequences, NoneDoesSoWithThreeClassesOfChunks) {
    play_all_failures<WideToy>(poor_stage<WideToy>(256), long_run() ? 4 : 3);
}
TEST(PoolSequences, NoneDoesSoWithFourKilobytePages) {
    play_all_failures<arm64::Format4K48>(poor_stage<arm64::Format4K48>(1024), long_run() ? 3 : 2);
}
TEST(PoolSequences, NoneDoesSoWithSixteenKilobytePages) {
    play_all_failures<arm64::Format16K48>(poor_stage<arm64::Format16K48>(1024), long_run() ? 3 : 2);
}
TEST(PoolSequences, NoneDoesSoWithSixtyFourKilobytePages) {
    play_all_failures<arm64::Format64K48>(poor_stage<arm64::Format64K48>(1024), long_run() ? 3 : 2);
}

TEST(PoolSequences, LongRandomOnesOnBothCpusKeepEveryInvariantAndHealInTheEnd) {
    const unsigned seeds = long_run() ? 2000 : 60;
    for (unsigned seed = 1; seed <= seeds; ++seed) {
        Player<Toy> player{stage_of<Toy>()};
        const PhysRange user = player.stage().user;
        constexpr std::uint64_t page = Player<Toy>::page;
        std::mt19937 random{seed};
        for (unsigned i = 0; i < 150; ++i) {
            player.rig.machine().run_on(random() % 2);
            std::string problem;
            if (random() % 2 == 0) {
                const std::uint64_t first = random() % (user.size / page);
                const std::uint64_t most = user.size / page - first;
                const std::uint64_t count = 1 + random() % std::min<std::uint64_t>(most, random() % 2 == 0 ? 2 : 40);
                problem = player.change(player.pages(first, count),
                                        Change{}.writable(random() % 2 == 0).key(random() % 4 == 0 ? 2 : 0));
            } else {
                problem = pool_steps<Toy>()[random() % pool_steps<Toy>().size()].run(player);
            }
            if (problem.empty()) problem = player.check();
            ASSERT_EQ(problem, "") << "seed " << seed << ", step " << i;
        }
        player.rig.allocator().largest = never;
        while (!player.outside.empty()) ASSERT_EQ(player.give(), "");
        ASSERT_EQ(player.change(user, Change{}.writable(true).key(0)), "");
        (void)player.rig.shrink(~std::uint64_t{0});
        ASSERT_EQ(player.check(), "") << "seed " << seed;
        unsigned leaves = 0;
        player.rig.map().walk(user, [&](const Leaf&) { return ++leaves != 0; });
        EXPECT_EQ(leaves, 3u) << "user memory should be three 256K blocks again, seed " << seed;
    }
}

} // namespace
} // namespace directmap::machine

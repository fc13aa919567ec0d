// Shadow stacks: at thread rate, with a key of their own.
#include "client_rig.hpp"
#include "directmap_clients/shadow_stacks.hpp"

namespace directmap::client_tests {
namespace {

using Stacks = ShadowStacks<TestPool, TestMemory>;

struct StackRig : ClientRig {
    StackRig()
        : pool{map, rig.platform(), allocator, Stacks::pool_config(3), frame_span(), magazine_span()}, stacks{pool,
                                                                                                              memory} {}
    TestPool pool;
    TestMemory memory;
    Stacks stacks;
};

TEST(ShadowStacks, ThreadsComeAndGoWithoutAChangeOfTheMap) {
    StackRig t;
    const auto first = t.stacks.create(0);
    ASSERT_TRUE(first);
    const Counters before = t.rig.map().statistics().counters;
    std::vector<PhysAddr> threads;
    for (unsigned i = 0; i < 300; ++i) {
        const auto stack = t.stacks.create(i % 2);
        ASSERT_TRUE(stack);
        threads.push_back(stack.value());
        if (i % 3 == 0) {
            ASSERT_TRUE(t.stacks.destroy(threads.front(), i % 2));
            threads.erase(threads.begin());
        }
    }
    EXPECT_EQ(t.rig.map().statistics().counters.stores, before.stores);
    EXPECT_EQ(t.rig.check(), "");
}

TEST(ShadowStacks, AStackHasItsKeyAndNothingOfTheLastThreadInIt) {
    StackRig t;
    const auto stack = t.stacks.create(0);
    ASSERT_TRUE(stack);
    EXPECT_EQ(t.map.translate(stack.value()).value().attributes.key(), 3u);
    EXPECT_EQ(t.memory.word_at(stack.value()), 0u);
}

TEST(ShadowStacks, TheirMemoryIsOrdinaryAgainOnceTheLastThreadIsGone) {
    StackRig t;
    std::vector<PhysAddr> threads;
    for (unsigned i = 0; i < 700; ++i) threads.push_back(t.stacks.create(0).value());
    EXPECT_FALSE(t.stacks.destroy(PhysAddr{0xbff00000}, 0));
    for (const PhysAddr stack : threads) ASSERT_TRUE(t.stacks.destroy(stack, 1));
    EXPECT_EQ(t.stacks.shrink(~std::uint64_t{0}), 1024u);
    t.expect_as_at_start();
}

} // namespace
} // namespace directmap::client_tests

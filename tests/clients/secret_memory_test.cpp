// Secret memory: when it is unreachable, when it is zeroed, and what deferring the flush gives up.
#include "client_rig.hpp"
#include "directmap_clients/scattered_pages.hpp"
#include "directmap_clients/secret_memory.hpp"

namespace directmap::client_tests {
namespace {

using Secrets = SecretMemory<TestMap, TestPool, TestMemory>;

struct SecretRig : ClientRig {
    explicit SecretRig(const machine::RigConfig& config = rig_config())
        : ClientRig{config}, pool{map,          rig.platform(), allocator, Secrets::pool_config(),
                                  frame_span(), magazine_span()},
          secrets{map, pool, memory} {
        memory.before_zero = [this](PhysRange range) {
            for (std::uint64_t at = 0; at < range.size; at += page)
                EXPECT_FALSE(reachable(range.start + at)) << "a page is mapped before it is zeroed";
        };
    }
    TestPool pool;
    TestMemory memory;
    Secrets secrets;
};

TEST(SecretMemory, APageIsUnmappedAndFlushedBeforeItsUserGetsIt) {
    SecretRig t;
    for (unsigned i = 0; i < 100; ++i) {
        const auto secret = t.secrets.take(i % 2);
        ASSERT_TRUE(secret);
        EXPECT_FALSE(t.reachable(secret.value()));
    }
    EXPECT_EQ(t.rig.check(), "");
}

TEST(SecretMemory, TakingAndGivingAPageDoesntTouchTheMap) {
    SecretRig t;
    const auto first = t.secrets.take(0);
    ASSERT_TRUE(first);
    const Counters before = t.rig.map().statistics().counters;
    for (unsigned i = 0; i < 50; ++i) {
        const auto secret = t.secrets.take(0);
        ASSERT_TRUE(secret);
        ASSERT_TRUE(t.secrets.give(secret.value(), 0));
    }
    EXPECT_EQ(t.rig.map().statistics().counters.stores, before.stores);
    EXPECT_EQ(t.rig.map().statistics().counters.invalidations, before.invalidations);
}

TEST(SecretMemory, APageIsZeroedBeforeItIsMappedAgain) {
    SecretRig t;
    const auto secret = t.secrets.take(0);
    ASSERT_TRUE(secret);
    ASSERT_TRUE(t.secrets.give(secret.value(), 0)); // before_zero looks
    EXPECT_EQ(t.memory.word_at(secret.value()), 0u);
    EXPECT_EQ(t.memory.zeroed, page);
    EXPECT_EQ(t.secrets.shrink(~std::uint64_t{0}), 512u);
    EXPECT_TRUE(t.reachable(secret.value()));
    t.expect_as_at_start();
}

TEST(SecretMemory, AForeignPageIsNeitherZeroedNorTaken) {
    SecretRig t;
    ASSERT_TRUE(t.secrets.take(0));
    EXPECT_FALSE(t.secrets.give(PhysAddr{0xbff00000}, 0));
    EXPECT_EQ(t.memory.zeroed, 0u);
}

TEST(SecretMemory, ManyRangesAreHiddenWithOneFlush) {
    SecretRig t{rig_config(CollapsePolicy::on_request)};
    const PhysRange guest[] = {{PhysAddr{0x80000000}, 40 * block},
                               {PhysAddr{0x90000000}, page},
                               {PhysAddr{0xa0000000}, 3 * block},
                               {PhysAddr{0xb0001000}, 5 * page}};
    Calls calls;
    t.machine().record_to(calls.sink());
    ASSERT_TRUE(t.secrets.hide({guest, 4}));
    EXPECT_EQ(calls.of("barrier_complete"), 1u);
    for (const PhysRange& range : guest) {
        EXPECT_FALSE(t.reachable(range.start));
        EXPECT_FALSE(t.reachable(range.end() - page));
    }
    ASSERT_TRUE(t.secrets.reveal({guest, 4}));
    ASSERT_TRUE(t.map.collapse(ram));
    t.expect_as_at_start();
}

TEST(SecretMemory, WithTheFlushDeferredACpuMayStillReachItUntilTheFlushIsComplete) {
    SecretRig t;
    const PhysRange guest{PhysAddr{0x80000000}, block};
    {
        auto flush = t.secrets.hide_deferred({&guest, 1});
        ASSERT_TRUE(flush);
        EXPECT_TRUE(t.reachable(guest.start)) << "that is what it gives up";
        flush.value().complete();
    }
    EXPECT_FALSE(t.reachable(guest.start));
    EXPECT_EQ(t.rig.check(), "");
}

TEST(SecretMemory, WhenTablesRunOutNothingIsHiddenWhateverTheStep) {
    const PhysRange guest[] = {
        {PhysAddr{0x80001000}, page}, {PhysAddr{0x90001000}, page}, {PhysAddr{0xc0001000}, page}};
    for (std::uint64_t tables = 0;; ++tables) {
        SecretRig t;
        t.machine().tables_left = tables;
        const auto hidden = t.secrets.hide({guest, 3});
        for (const PhysRange& range : guest) EXPECT_EQ(t.reachable(range.start), !hidden.ok());
        EXPECT_EQ(t.secrets.stranded(), 0u);
        if (hidden) {
            EXPECT_EQ(tables, 5u) << "two GiB blocks, three blocks of 2 MiB";
            ASSERT_TRUE(t.secrets.reveal({guest, 3}));
        } else {
            EXPECT_EQ(hidden.error().code(), ErrorCode::no_tables);
        }
        t.expect_as_at_start();
        if (hidden) break;
    }
}

TEST(SecretMemory, PooledPagesCutOneLeafWhereScatteredOnesCutOneEach) {
    SecretRig pooled;
    for (unsigned i = 0; i < 100; ++i) ASSERT_TRUE(pooled.secrets.take(0));
    ClientRig t;
    using Pool = ScatteredPages<TestMap, RangeAllocator>;
    RangeAllocator often{usable};
    Pool pool{t.map, t.rig.platform(), often, SecretMemory<TestMap, Pool, TestMemory>::pool_config()};
    TestMemory memory;
    SecretMemory<TestMap, Pool, TestMemory> scattered{t.map, pool, memory};
    std::vector<PhysAddr> pages;
    for (unsigned i = 0; i < 100; ++i) {
        PhysAddr between; // what others take meanwhile
        (void)often.take_chunk(between, block - page);
        const auto secret = scattered.take(0);
        ASSERT_TRUE(secret);
        pages.push_back(secret.value());
    }
    EXPECT_LE(pooled.rig.map().statistics().counters.splits, 1u);
    EXPECT_GE(t.rig.map().statistics().counters.splits, 100u);
    for (const PhysAddr secret : pages) ASSERT_TRUE(scattered.give(secret, 0));
    EXPECT_EQ(t.rig.check(), "");
    EXPECT_EQ(t.rig.leaves(), t.start_leaves) << "it heals, too, once everybody has gone";
}

} // namespace
} // namespace directmap::client_tests

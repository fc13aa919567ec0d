// Shared buffers: break, tell the host, make; and memory that is lost stays lost.
#include "client_rig.hpp"
#include "directmap_clients/shared_buffers.hpp"

namespace directmap::client_tests {
namespace {

/// A host that may fail half-way: it has changed the first half of the range by then.
struct TestHost {
    bool share(PhysRange range) { return change(range, true); }
    bool unshare(PhysRange range) { return change(range, false); }
    bool change(PhysRange range, bool shared) {
        if (look) look(range);
        ++calls;
        if (calls == fail_at) {
            machine->set_granules({range.start, range.size / 2}, shared);
            return false;
        }
        machine->set_granules(range, shared);
        return true;
    }
    machine::Machine* machine = nullptr;
    std::function<void(PhysRange)> look;
    unsigned calls = 0, fail_at = 0;
};

using Shared = SharedBuffers<TestMap, RangeAllocator, TestHost>;

[[nodiscard]] machine::RigConfig realm(unsigned cpus_outside = 0) {
    machine::RigConfig config = rig_config();
    config.realm_shared_address = std::uint64_t{1} << 47;
    config.cpus_outside = cpus_outside;
    return config;
}

struct SharedRig : ClientRig {
    explicit SharedRig(const machine::RigConfig& config = realm())
        : ClientRig{config}, host{&machine(), {}, 0, 0}, shared{map,
                                                                rig.platform(),
                                                                allocator,
                                                                host,
                                                                {frame_span(), magazine_span(), {leaks, 4}}} {
        host.look = [this](PhysRange range) {
            for (std::uint64_t at = 0; at < range.size; at += page)
                EXPECT_FALSE(reachable(range.start + at)) << "the host is told while a CPU may still reach the memory";
        };
    }
    PhysRange leaks[4];
    TestHost host;
    Shared shared;
};

TEST(SharedBuffers, NoCpuReachesAPageWhileTheHostChangesItsView) {
    SharedRig t;
    const auto buffer = t.shared.take_buffer(16 * page);
    ASSERT_TRUE(buffer); // host.look checks, and the machine compares every translation with the host's view
    EXPECT_TRUE(t.reachable(buffer.value().start));
    EXPECT_TRUE(t.map.translate(buffer.value().start).value().attributes.shared());
    ASSERT_TRUE(t.shared.give_buffer(buffer.value()));
    EXPECT_EQ(t.host.calls, 2u);
    EXPECT_EQ(t.shared.statistics().shared, 0u);
    t.expect_as_at_start();
}

TEST(SharedBuffers, WorkBeforeSecondaryCpusAndAnyAllocatorAreThere) {
    SharedRig t{realm(1)};
    const PhysRange tables{PhysAddr{0xc8000000}, 4 * page}; // of an interrupt controller, in memory of its own
    ASSERT_TRUE(t.shared.share(tables));
    EXPECT_TRUE(t.map.translate(tables.start).value().attributes.shared());
    EXPECT_EQ(t.allocator.taken(), 0u);
    t.machine().enter(1, t.map.root().value());
    EXPECT_TRUE(t.reachable(tables.start));
    ASSERT_TRUE(t.shared.unshare(tables));
    t.expect_as_at_start();
}

TEST(SharedBuffers, SharedPagesLieTogetherInOneCluster) {
    SharedRig t;
    std::vector<PhysAddr> pages;
    for (unsigned i = 0; i < 200; ++i) {
        const auto taken = t.shared.take(i % 2);
        ASSERT_TRUE(taken);
        pages.push_back(taken.value());
    }
    EXPECT_EQ(t.host.calls, 1u) << "one cluster, one conversation";
    EXPECT_LE(t.rig.map().statistics().counters.splits, 1u);
    for (const PhysAddr each : pages) ASSERT_TRUE(t.shared.give(each, 0));
    EXPECT_EQ(t.shared.shrink(~std::uint64_t{0}), 512u);
    t.expect_as_at_start();
}

TEST(SharedBuffers, ABufferWhoseSharingFailsHalfWayIsNeverHandedOutAgain) {
    SharedRig t;
    t.host.fail_at = 1;
    const auto lost = t.shared.take_buffer(16 * page);
    ASSERT_FALSE(lost);
    EXPECT_EQ(lost.error().code(), ErrorCode::unsupported);
    const PhysRange leaked{lost.error().where(), 16 * page};
    EXPECT_TRUE(t.shared.is_lost(leaked));
    EXPECT_FALSE(t.reachable(leaked.start));
    EXPECT_EQ(t.shared.statistics().leaked, 16 * page);
    EXPECT_EQ(t.shared.statistics().refused_half, 1u);
    EXPECT_EQ(t.allocator.taken(), 16 * page) << "the allocator doesn't get it back";
    for (unsigned i = 0; i < 64; ++i) {
        const auto buffer = t.shared.take_buffer(16 * page);
        ASSERT_TRUE(buffer);
        EXPECT_FALSE(buffer.value().overlaps(leaked));
    }
    EXPECT_EQ(t.rig.check(), "");
}

TEST(SharedBuffers, ABufferWhoseReturnFailsHalfWayIsNeverHandedOutAgain) {
    SharedRig t;
    const auto buffer = t.shared.take_buffer(16 * page);
    ASSERT_TRUE(buffer);
    t.host.fail_at = 2;
    ASSERT_FALSE(t.shared.give_buffer(buffer.value()));
    EXPECT_TRUE(t.shared.is_lost(buffer.value()));
    EXPECT_FALSE(t.reachable(buffer.value().start));
    const auto other = t.shared.take_buffer(16 * page);
    ASSERT_TRUE(other);
    EXPECT_FALSE(other.value().overlaps(buffer.value()));
    EXPECT_EQ(t.rig.check(), "");
}

TEST(SharedBuffers, AClusterThatIsLostOnItsWayBackLeavesThePool) {
    SharedRig t;
    const auto taken = t.shared.take(0);
    ASSERT_TRUE(taken);
    ASSERT_TRUE(t.shared.give(taken.value(), 0));
    t.host.fail_at = 2;
    (void)t.shared.shrink(~std::uint64_t{0});
    EXPECT_EQ(t.shared.statistics().leaked, block);
    EXPECT_EQ(t.shared.pool_statistics().owned, 0u);
    EXPECT_EQ(t.allocator.taken(), block);
    const auto next = t.shared.take(0);
    ASSERT_TRUE(next);
    EXPECT_FALSE(t.shared.is_lost({next.value(), page}));
    EXPECT_EQ(t.rig.check(), "");
}

TEST(SharedBuffers, AClusterThatIsLostOnItsWayInIsNotTheAllocatorsAgain) {
    SharedRig t;
    t.host.fail_at = 1;
    const auto next = t.shared.take(0); // the large cluster is lost, a smaller one serves
    EXPECT_EQ(t.shared.statistics().leaked, block);
    ASSERT_TRUE(next);
    EXPECT_FALSE(t.shared.is_lost({next.value(), page}));
    EXPECT_EQ(t.rig.check(), "");
}

TEST(SharedBuffers, NoChangeBeginsThatCouldNotBeWrittenDownAsLost) {
    SharedRig t;
    for (unsigned i = 0; i < 4; ++i) {
        t.host.fail_at = t.host.calls + 1;
        EXPECT_FALSE(t.shared.take_buffer(page));
    }
    const unsigned calls = t.host.calls;
    EXPECT_EQ(t.shared.take_buffer(page).error().code(), ErrorCode::unsupported);
    EXPECT_EQ(t.host.calls, calls);
    EXPECT_EQ(t.shared.statistics().leaks, 4u);
    EXPECT_EQ(t.allocator.taken(), 4 * page) << "the fifth was given back";
}

TEST(SharedBuffers, WhenTablesRunOutABufferIsPrivateAsBeforeOrLostButNeverBetween) {
    for (std::uint64_t tables = 0; tables < 6; ++tables) {
        SharedRig t;
        t.machine().tables_left = tables;
        const PhysRange buffer{PhysAddr{0x80001000}, page};
        const auto shared = t.shared.share(buffer);
        const bool is_shared = t.map.translate(buffer.start).value().attributes.shared();
        EXPECT_EQ(shared.ok(), is_shared);
        EXPECT_EQ(shared.ok(), tables >= 2) << tables;
        EXPECT_FALSE(t.shared.is_lost(buffer)) << "tables are only needed before the break";
        EXPECT_TRUE(t.reachable(buffer.start));
        if (shared) {
            t.machine().tables_left = 0;
            EXPECT_TRUE(t.shared.unshare(buffer)) << "taking it back needs none";
        }
        t.expect_as_at_start();
    }
}

} // namespace
} // namespace directmap::client_tests

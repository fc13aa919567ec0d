// The pool's parts, one by one: chunks, reserves, magazines, giving back.
#include <map>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "machine/events.hpp"
#include "pool_player.hpp"

namespace directmap::machine {
namespace {

constexpr std::uint64_t page = 0x1000;
using ToyRig = ProtectedRig<Toy>;
using WideRig = ProtectedRig<WideToy>;
constexpr unsigned toy_reserves = Player<Toy>::reserves;

/// Pages for others, as many as are to be had without the reserve.
template <class Rig>
std::vector<PhysAddr> take_all(Rig& rig) {
    std::vector<PhysAddr> pages;
    for (auto r = rig.take(PageUse::normal); r; r = rig.take(PageUse::normal)) pages.push_back(r.value());
    return pages;
}
template <class Rig>
void give_all(Rig& rig, std::vector<PhysAddr>& pages) {
    for (const PhysAddr pa : pages) ASSERT_TRUE(rig.give(pa));
    pages.clear();
}
/// What is called while `action` runs.
template <class Rig, class Action>
std::vector<Event> calls_of(Rig& rig, Action action) {
    std::vector<Event> calls;
    rig.machine().record_to([&](const Event& e) { calls.push_back(e); });
    action();
    rig.machine().record_to({});
    return calls;
}

TEST(ChunkPool, StartsWithItsReserveAndEveryTableProtected) {
    ToyRig rig{stage_of<Toy>().config};
    ASSERT_TRUE(rig.ready()) << rig.ready().error().reason();
    EXPECT_EQ(rig.check(0), "");
    EXPECT_GE(rig.pool().available(), toy_reserves);
}

TEST(ChunkPool, TakesAFrameIfItCanThenSixteenPagesThenFour) {
    WideRig rig{stage_of<WideToy>(256).config};
    const auto refilled = [&](std::uint64_t largest) {
        rig.allocator().largest = largest;
        const std::uint64_t before = rig.pool().statistics().owned;
        EXPECT_TRUE(rig.refill());
        return rig.pool().statistics().owned - before;
    };
    EXPECT_EQ(refilled(RangeAllocator::none), 32u);
    EXPECT_EQ(refilled(31 * page), 16u);
    EXPECT_EQ(refilled(15 * page), 4u);
    const PoolStatistics s = rig.pool().statistics();
    EXPECT_EQ(s.chunks[1], 1u);
    EXPECT_EQ(s.chunks[2], 1u);
    EXPECT_EQ(rig.check(0), "");
}

template <class F>
using PoolOf = typename ProtectedRig<F>::Pool;

TEST(ChunkPool, NeverAsksForMoreThanTwoMegabytesAtOnceWhateverTheGranule) {
    EXPECT_EQ(PoolOf<arm64::Format4K48>::frame_bytes, 2u << 20);
    EXPECT_EQ(PoolOf<arm64::Format16K48>::frame_bytes, 2u << 20);
    EXPECT_EQ(PoolOf<arm64::Format64K48>::frame_bytes, 2u << 20); // not a block of 512M
    EXPECT_EQ(PoolOf<arm64::Format4K48>::chunk_pages[1] * 4096u, 64u << 10);
    EXPECT_EQ(PoolOf<arm64::Format16K48>::chunk_pages[0], 128u);
    EXPECT_EQ(PoolOf<arm64::Format64K48>::chunk_pages[0], 32u);
    EXPECT_EQ(PoolOf<arm64::Format64K48>::chunk_pages[2], 4u);
}

TEST(ChunkPool, GivesAChunkItsKeyByOneChange) {
    WideRig rig{stage_of<WideToy>(256).config};
    const auto calls = calls_of(rig, [&] { ASSERT_TRUE(rig.refill()); });
    std::vector<std::uint64_t> changes;
    for (const Event& e : calls) {
        if (std::string_view{e.call} == "begin") changes.push_back(e.size);
    }
    EXPECT_EQ(changes, (std::vector<std::uint64_t>{32 * page}));
}

TEST(ChunkPool, CutsOneLeafForAChunkInALargeOne) {
    ProtectedRig<arm64::Format4K48> rig{stage_of<arm64::Format4K48>(4096).config};
    ASSERT_TRUE(rig.ready());
    const std::uint64_t tables = rig.machine().tables_in_use();
    ASSERT_TRUE(rig.refill()); // beside another chunk: a block of 2M, in a table of blocks that is there already
    EXPECT_EQ(rig.machine().tables_in_use(), tables);
}

TEST(ChunkPool, EvenTheSmallestRefillGainsMoreThanItUses) {
    ToyRig rig{stage_of<Toy>().config};
    rig.allocator().largest = 4 * page;
    for (unsigned i = 0; i < 8; ++i) {
        const std::uint64_t before = rig.pool().statistics().free;
        ASSERT_TRUE(rig.refill());
        EXPECT_GT(rig.pool().statistics().free, before);
    }
    EXPECT_EQ(rig.check(0), "");
}

TEST(ChunkPool, RepaysTheReserveWhenARefillFails) {
    ToyRig rig{stage_of<Toy>().config};
    const std::uint64_t before = rig.pool().statistics().free;
    rig.allocator().largest = 0;
    for (unsigned i = 0; i < 10; ++i) EXPECT_FALSE(rig.refill());
    EXPECT_EQ(rig.pool().statistics().free, before);
    EXPECT_EQ(rig.pool().statistics().failed_refills, 10u);
    EXPECT_EQ(rig.check(0), "");
}

TEST(ChunkPool, RepaysTheMemoryWhenTheGateForbidsARefill) {
    PoolStage stage = stage_of<Toy>();
    stage.config.tolerates_resize = false;
    ToyRig rig{stage.config};
    ASSERT_FALSE(rig.ready());
    EXPECT_EQ(rig.ready().error().code(), ErrorCode::unsupported);
    EXPECT_EQ(rig.pool().statistics().owned, 0u);
    EXPECT_EQ(rig.allocator().taken(), 0u);
}

TEST(ChunkPool, ServesARepaintAndRefillsAfterTheGateHasClosed) {
    ToyRig rig{stage_of<Toy>().config};
    // A CPU that doesn't tolerate resizing wants in: all becomes pages, by tables from the pool.
    ASSERT_TRUE(rig.map().admit({.tolerates_live_resize = false}));
    EXPECT_EQ(rig.map().gate_mode(), Gate::Mode::closed);
    EXPECT_EQ(rig.check(0), "");
    ASSERT_TRUE(rig.refill()); // needs no resize
    EXPECT_EQ(rig.check(0), "");
}

TEST(ChunkPool, RepaysTheReserveAndTheMemoryWhenItHasNoRoomForAnotherFrame) {
    PoolStage stage = stage_of<Toy>();
    stage.config.frames = 3;
    ToyRig rig{stage.config};
    ASSERT_TRUE(rig.ready());
    while (rig.refill()) EXPECT_EQ(rig.check(0), "");
    const std::uint64_t free = rig.pool().statistics().free, taken = rig.allocator().taken();
    EXPECT_FALSE(rig.refill());
    EXPECT_EQ(rig.pool().statistics().free, free);
    EXPECT_EQ(rig.allocator().taken(), taken);
    EXPECT_EQ(rig.check(0), "");
}

TEST(ChunkPool, KeepsItsReserveFromNormalRequestsForSplits) {
    const PoolStage stage = stage_of<Toy>();
    ToyRig rig{stage.config};
    rig.allocator().largest = 0;
    const std::vector<PhysAddr> outside = take_all(rig);
    EXPECT_EQ(rig.pool().available(), toy_reserves);
    // Both ends of this range cut a 256K block down to pages: the worst case, with no memory for a refill.
    const PhysRange worst{stage.user.start + 0x31000, 0x60000};
    EXPECT_EQ(rig.map().tables_needed(worst, Change{}.writable(false)).value(), ToyRig::G::worst_tables);
    EXPECT_TRUE(rig.protect(worst, Change{}.writable(false)));
    EXPECT_EQ(rig.check(outside.size()), "");
    // What is left now is the refill's own.
    EXPECT_EQ(rig.take(PageUse::split).error().code(), ErrorCode::no_tables);
    rig.allocator().largest = 4 * page;
    EXPECT_TRUE(rig.refill());
    EXPECT_EQ(rig.check(outside.size()), "");
}

TEST(ChunkPool, ServesAnAtomicCallerFromTheReserveAndNeverRefillsForOne) {
    ToyRig rig{stage_of<Toy>().config};
    rig.allocator().largest = 0;
    std::vector<PhysAddr> outside = take_all(rig);
    rig.allocator().largest = RangeAllocator::none;
    rig.allocator().calls = 0;
    for (unsigned i = 0; i < ToyRig::G::worst_tables; ++i) {
        auto r = rig.take(PageUse::atomic);
        ASSERT_TRUE(r);
        outside.push_back(r.value());
    }
    EXPECT_EQ(rig.take(PageUse::atomic).error().code(), ErrorCode::would_block);
    EXPECT_EQ(rig.allocator().calls, 0u);
    EXPECT_EQ(rig.check(outside.size()), "");
}

TEST(ChunkPool, LooksIntoOtherCpusMagazinesBeforeItSaysThatThereIsNothing) {
    ToyRig rig{stage_of<Toy>().config};
    std::vector<PhysAddr> outside = take_all(rig); // the allocator is empty now as well
    rig.machine().run_on(1);
    for (unsigned i = 0; i < 3; ++i) { // into CPU 1's magazine
        ASSERT_TRUE(rig.give(outside.back()));
        outside.pop_back();
    }
    rig.machine().run_on(0);
    EXPECT_TRUE(rig.take(PageUse::normal));
    EXPECT_TRUE(rig.take(PageUse::atomic));
    EXPECT_EQ(rig.check(outside.size() + 2), "");
}

TEST(ChunkPool, TouchesNeitherMapNorAnythingSharedWhenAPageIsGiven) {
    ToyRig rig{stage_of<Toy>().config};
    const PhysAddr pa = rig.take(PageUse::normal).value();
    Machine::Lock region_lock; // any context: an interrupt handler may come while a lock is held
    rig.machine().acquire(region_lock, {});
    const auto calls = calls_of(rig, [&] { EXPECT_TRUE(rig.give(pa)); });
    rig.machine().release(region_lock, {});
    std::vector<std::string> names;
    for (const Event& e : calls) names.emplace_back(e.call);
    EXPECT_EQ(names, (std::vector<std::string>{"config", "acquire", "release"})) << "its own magazine's lock";
    EXPECT_EQ(rig.check(0), "");
}

TEST(ChunkPool, LetsEachCpuTakeAndGiveFromItsOwnMagazine) {
    ToyRig rig{stage_of<Toy>().config};
    for (unsigned i = 0; i < 4; ++i) ASSERT_TRUE(rig.refill()); // plenty
    std::map<unsigned, std::set<unsigned>> locks;
    for (unsigned round = 0; round < 2; ++round) { // the first fills the magazines
        for (unsigned i = 0; i < 100; ++i) {
            const unsigned cpu = i % 2;
            rig.machine().run_on(cpu);
            const auto calls = calls_of(rig, [&] { ASSERT_TRUE(rig.give(rig.take(PageUse::normal).value())); });
            for (const Event& e : calls) {
                if (round == 1 && e.lock != 0) locks[cpu].insert(e.lock);
            }
        }
    }
    EXPECT_EQ(locks[0].size(), 1u);
    EXPECT_EQ(locks[1].size(), 1u);
    EXPECT_NE(locks[0], locks[1]);
}

TEST(ChunkPool, GivesAWholeFreeChunkBackAndTheMapHeals) {
    ToyRig rig{stage_of<Toy>().config};
    std::vector<PhysAddr> pages;
    for (unsigned i = 0; i < 40; ++i) pages.push_back(rig.take(PageUse::normal).value());
    give_all(rig, pages);
    const std::uint64_t taken = rig.allocator().taken(), owned = rig.pool().statistics().owned;
    const std::uint64_t given = rig.shrink(~std::uint64_t{0});
    EXPECT_GT(given, 0u);
    EXPECT_EQ(rig.allocator().taken(), taken - given * page);
    EXPECT_EQ(rig.pool().statistics().owned, owned - given);
    EXPECT_GE(rig.pool().available(), toy_reserves) << "a shrink leaves the reserve";
    EXPECT_EQ(rig.map().collapse(rig.map().span()).value().tables_freed, 0u) << "nothing is left to heal";
    EXPECT_EQ(rig.check(0), "");
}

TEST(ChunkPool, NeverTakesATableToShrink) {
    ToyRig rig{stage_of<Toy>().config};
    std::vector<PhysAddr> taken;
    for (unsigned i = 0; i < 40; ++i) taken.push_back(rig.take(PageUse::normal).value());
    give_all(rig, taken);
    ASSERT_TRUE(rig.map().collapse(rig.map().span())); // neighbouring chunks of the pool may become one leaf
    const std::uint64_t splits = rig.map().statistics().counters.splits;
    EXPECT_GT(rig.shrink(~std::uint64_t{0}), 0u);
    EXPECT_EQ(rig.map().statistics().counters.splits, splits);
    EXPECT_EQ(rig.check(0), "");
}

TEST(ChunkPool, KeepsAChunkThatOnlyASplitCouldGiveBack) {
    PoolStage stage = stage_of<Toy>(112, 4 * page);
    stage.config.early = phys_range(stage.config.early.start.value(), stage.config.early.start.value() + 16 * page);
    stage.config.chunks = phys_range(stage.config.chunks.start.value() + 8 * page, stage.config.chunks.end().value());
    ToyRig rig{stage.config};
    std::vector<PhysAddr> taken;
    for (unsigned i = 0; i < 24; ++i) taken.push_back(rig.take(PageUse::normal).value());
    ASSERT_TRUE(rig.map().collapse(rig.map().span())); // two chunks of four pages are a block of eight
    // Of each block one chunk is free, the other is not.
    std::vector<PhysAddr> kept;
    for (const PhysAddr pa : taken) {
        if (pa.value() % 0x8000 < 0x4000) {
            ASSERT_TRUE(rig.give(pa));
        } else {
            kept.push_back(pa);
        }
    }
    const std::uint64_t owned = rig.pool().statistics().owned;
    const std::uint64_t splits = rig.map().statistics().counters.splits;
    const auto in_block = rig.map().translate(kept.front());
    ASSERT_TRUE(in_block);
    ASSERT_EQ(in_block.value().leaf.bytes(), 0x8000u);
    const std::uint64_t given = rig.shrink(~std::uint64_t{0});
    EXPECT_EQ(given, owned - rig.pool().statistics().owned);
    EXPECT_EQ(rig.map().statistics().counters.splits, splits);
    EXPECT_TRUE(rig.pool().owns(PhysAddr{kept.front().value() & ~std::uint64_t{0x7fff}}));
    EXPECT_EQ(rig.check(kept.size()), "");
}

TEST(ChunkPool, GivesChunksThatHaveBecomeOneLeafBackTogether) {
    PoolStage stage = stage_of<Toy>(112, 4 * page);
    ToyRig rig{stage.config};
    std::vector<PhysAddr> taken;
    for (unsigned i = 0; i < 40; ++i) taken.push_back(rig.take(PageUse::normal).value());
    give_all(rig, taken);
    ASSERT_TRUE(rig.map().collapse(rig.map().span()));
    const std::uint64_t owned = rig.pool().statistics().owned;
    EXPECT_GE(rig.shrink(~std::uint64_t{0}), owned - toy_reserves - 8 - 8)
        << "all but the reserve, early pages, a frame";
    EXPECT_EQ(rig.check(0), "");
}

TEST(ChunkPool, RefusesPagesThatArentItsOwnOrLieFreeAlready) {
    const PoolStage stage = stage_of<Toy>();
    ToyRig rig{stage.config};
    EXPECT_FALSE(rig.give(stage.user.start)); // of users
    EXPECT_FALSE(rig.give(PhysAddr{0}));
    EXPECT_FALSE(rig.give(PhysAddr{~std::uint64_t{0xfff}}));
    rig.allocator().largest = 0;
    std::vector<PhysAddr> outside = take_all(rig);
    const PhysAddr one = rig.take(PageUse::split).value();
    EXPECT_TRUE(rig.give(one));
    EXPECT_FALSE(rig.give(one)); // given already
    EXPECT_EQ(rig.check(outside.size()), "");
}

TEST(ChunkPool, RefusesToAdoptWhatItHasAndChangesNothing) {
    const PoolStage stage = stage_of<Toy>();
    ToyRig rig{stage.config};
    const PhysRange overlapping{stage.config.early.end() + (std::uint64_t{0} - page), 4 * page};
    auto r = rig.adopt(overlapping, [](PhysAddr) { return false; });
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::invalid_argument);
    EXPECT_EQ(rig.map().translate(stage.config.early.end() + page).value().attributes.key(), 0u);
    EXPECT_EQ(rig.check(0), "");
}

TEST(ChunkPool, ChangesNothingWhenItHasNoRoomForAnAdoption) {
    PoolStage stage = stage_of<Toy>();
    stage.config.frames = 3;
    ToyRig rig{stage.config};
    while (rig.refill()) {
    }
    const PhysRange range{stage.user.start + 6 * page, 20 * page}; // three frames
    auto r = rig.adopt(range, [](PhysAddr) { return false; });
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::no_tables);
    EXPECT_EQ(rig.map().translate(range.start).value().attributes.key(), 0u);
    EXPECT_FALSE(rig.pool().owns(range.start));
    EXPECT_EQ(rig.check(0), "");
}

TEST(ChunkPool, ServesPagesWithAnyAttributesFromTheSameMechanism) {
    const PoolStage stage = stage_of<Toy>();
    ToyRig rig{stage.config};
    RangeAllocator text_memory{phys_range(stage.user.start.value(), stage.user.start.value() + 0x40000)};
    std::vector<ChunkFrame> frames(16);
    std::vector<Magazine<Machine::Lock>> magazines(2);
    ChunkPool<ToyRig::Map, RangeAllocator> text{
        rig.map(),
        rig.map_platform(),
        text_memory,
        {.give = Change{}.writable(false).executable(true), .restore = Change{}.writable(true).executable(false)},
        Span<ChunkFrame>{frames.data(), frames.size()},
        Span<Magazine<Machine::Lock>>{magazines.data(), magazines.size()}};
    const PhysAddr pa = text.take(PageUse::normal, 0).value();
    EXPECT_TRUE(rig.map().translate(pa).value().attributes.executable());
    EXPECT_FALSE(rig.map().translate(pa).value().attributes.writable());
    EXPECT_TRUE(text.give(pa, 0));
    EXPECT_TRUE(rig.map().translate(pa).value().attributes.executable()) << "a free page keeps its attributes";
    EXPECT_EQ(text.shrink(~std::uint64_t{0}), 8u);
    EXPECT_TRUE(rig.map().translate(pa).value().attributes == Attributes{});
    EXPECT_EQ(rig.check(0), "");
}

TEST(ChunkPool, DoesntMergeLeavesWithDifferentKeys) {
    const PoolStage stage = stage_of<Toy>();
    ToyRig rig{stage.config};
    ASSERT_TRUE(rig.protect({stage.user.start, 0x8000}, Change{}.key(2)));
    ASSERT_TRUE(rig.map().collapse(rig.map().span()));
    const auto inside = rig.map().translate(stage.user.start), beside = rig.map().translate(stage.user.start + 0x8000);
    ASSERT_TRUE(inside && beside);
    EXPECT_EQ(inside.value().attributes.key(), 2u);
    EXPECT_EQ(beside.value().attributes.key(), 0u);
    EXPECT_EQ(inside.value().leaf.bytes(), 0x8000u);
    EXPECT_EQ(rig.check(0), "");
}

} // namespace
} // namespace directmap::machine

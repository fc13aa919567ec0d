// Stale ranges and the rounds that invalidate them: every address that was stale is reached, in a bounded number of
// calls.
#include <algorithm>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "directmap/flush.hpp"
#include "directmap/platform.hpp"
#include "support/scenario.hpp"
#include "support/scripts.hpp"

namespace directmap::test {
namespace {

/// Remembers what it was told to invalidate.
class CountingPlatform : public ExemplarPlatform {
public:
    struct Call {
        std::uint64_t start, size; ///< size 0: everything
        InvalidationScope scope;
    };
    [[nodiscard]] bool range_invalidation() const { return by_range; }
    void invalidate(VirtAddr va, InvalidationScope scope) { calls.push_back({va.value(), 1, scope}); }
    void invalidate_range(VirtAddr va, std::uint64_t bytes, InvalidationScope scope) {
        calls.push_back({va.value(), bytes, scope});
    }
    void invalidate_all() { calls.push_back({0, 0, {InvalidationScope::any_level, false}}); }
    void barrier_complete() { ++rounds; }

    /// Whether a leaf of 2^shift bytes around `va`, cached from `level`, is gone.
    [[nodiscard]] bool reached(std::uint64_t va, unsigned shift, int level, bool table) const {
        const std::uint64_t leaf = align_down(va, std::uint64_t{1} << shift),
                            leaf_end = leaf + (std::uint64_t{1} << shift);
        return std::any_of(calls.begin(), calls.end(), [&](const Call& c) {
            if (c.size == 0) return true;
            const bool hits = c.start < leaf_end && leaf < c.start + c.size;
            const bool level_fits = c.scope.level == InvalidationScope::any_level || c.scope.level == level;
            return hits && level_fits && (!table || !c.scope.leaves_only);
        });
    }
    bool by_range = true;
    std::vector<Call> calls;
    unsigned rounds = 0;
};

constexpr std::uint64_t base = 0xffff000000000000;

StaleRange stale_pages(std::uint64_t start, std::uint64_t size, int level = 3, bool leaves_only = true) {
    return {VirtAddr{base + start}, size, 12, {level, leaves_only}};
}

TEST(Flush, NothingStaleCostsNothing) {
    CountingPlatform platform;
    const FlushCost cost = flush(platform, StaleSet{}, 512, true);
    EXPECT_EQ(cost.invalidations, 0U);
    EXPECT_EQ(platform.rounds, 0U);
}

TEST(Flush, ARangeIsOneCallOnACpuThatHasRangesAndOneForEachLeafOnOthers) {
    for (const bool by_range : {true, false}) {
        CountingPlatform platform;
        platform.by_range = by_range;
        StaleSet stale;
        stale.add(stale_pages(0, 16 * 4096));
        const FlushCost cost = flush(platform, stale, 512, false);
        EXPECT_EQ(cost.invalidations, by_range ? 1U : 16U);
        EXPECT_EQ(platform.rounds, 1U);
    }
}

TEST(Flush, TheCeilingCountsCallsAndNotBytes) {
    CountingPlatform platform;
    platform.by_range = false;
    StaleSet stale;
    stale.add({VirtAddr{base}, 512 * mib, 21, {2, true}}); // 256 blocks
    (void)flush(platform, stale, 256, false);
    EXPECT_EQ(platform.calls.size(), 256U);
    platform.calls.clear();
    (void)flush(platform, stale, 255, false);
    ASSERT_EQ(platform.calls.size(), 1U);
    EXPECT_EQ(platform.calls[0].size, 0U);
}

TEST(Flush, AQuirkyCpuGetsEverythingTwiceEachTimeToTheEnd) {
    CountingPlatform platform;
    StaleSet stale;
    stale.add(stale_pages(0, 4096));
    stale.add(stale_pages(gib, 4096));
    (void)flush(platform, stale, 512, true);
    EXPECT_EQ(platform.calls.size(), 4U);
    EXPECT_EQ(platform.rounds, 2U);
}

TEST(StaleSets, NeighboursBecomeOneRange) {
    StaleSet stale;
    for (std::uint64_t i = 0; i < 100; ++i) stale.add(stale_pages(i * 4096, 4096));
    ASSERT_EQ(stale.count(), 1U);
    EXPECT_EQ(stale[0].size, 100U * 4096);
}

TEST(StaleSets, DifferentLevelsMergeToNoHintAndWalkCachesAreNotForgotten) {
    StaleSet stale;
    stale.add(stale_pages(0, 4096, 3, true));
    stale.add({VirtAddr{base + 4096}, 2 * mib, 21, {2, false}});
    ASSERT_EQ(stale.count(), 1U);
    EXPECT_EQ(stale[0].level, InvalidationScope::any_level);
    EXPECT_FALSE(stale[0].leaves_only);
    EXPECT_EQ(stale[0].stride_shift, 12U);
}

TEST(StaleSets, ScatteredRangesAreNotFlushedWithWhatLiesBetween) {
    StaleSet stale;
    for (std::uint64_t i = 0; i < StaleSet::capacity; ++i) stale.add(stale_pages(i * tib, 4096));
    EXPECT_EQ(stale.count(), StaleSet::capacity);
    for (unsigned i = 0; i < stale.count(); ++i) EXPECT_EQ(stale[i].size, 4096U);
}

RC_GTEST_PROP(StaleSets, WhateverIsAddedIsReachedInBoundedCalls, ()) {
    struct Piece {
        std::uint64_t start;
        unsigned shift;
        std::uint64_t count;
        int level;
        bool table;
    };
    std::vector<Piece> pieces;
    StaleSet stale;
    const unsigned n = *rc::gen::inRange(1U, 12U);
    for (unsigned i = 0; i < n; ++i) {
        Piece p{};
        p.level = *rc::gen::inRange(1, 4);
        p.shift = 12 + 9 * static_cast<unsigned>(3 - p.level);
        p.start = base + (*rc::gen::inRange<std::uint64_t>(0, 4096) << p.shift) % (16 * gib);
        p.count = *rc::gen::inRange<std::uint64_t>(1, 20);
        p.table = *rc::gen::arbitrary<bool>();
        const bool hint = *rc::gen::arbitrary<bool>();
        stale.add({VirtAddr{p.start},
                   p.count << p.shift,
                   p.shift,
                   {hint ? p.level : InvalidationScope::any_level, !p.table}});
        pieces.push_back(p);
    }
    RC_ASSERT(stale.count() <= StaleSet::capacity);
    CountingPlatform platform;
    platform.by_range = *rc::gen::arbitrary<bool>();
    const unsigned ceiling = *rc::gen::inRange(1U, 600U);
    (void)flush(platform, stale, ceiling, false);
    RC_ASSERT(platform.rounds == 1U);
    RC_ASSERT(platform.calls.size() <= std::max<std::size_t>(ceiling, StaleSet::capacity));
    for (const Piece& p : pieces) {
        for (std::uint64_t i = 0; i < p.count; ++i) {
            RC_ASSERT(platform.reached(p.start + (i << p.shift), p.shift, p.level, p.table));
        }
    }
}

} // namespace
} // namespace directmap::test

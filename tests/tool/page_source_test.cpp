// The page allocator of a run: where it hands out memory, and that it never hands out the same twice.
#include "page_source.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

namespace directmap::tool {
namespace {

constexpr std::uint64_t page = 4096, mib = 1 << 20;

struct Source {
    std::mt19937_64 random{1};
    PageSource pages{{{mib, 3 * mib}, {8 * mib, 16 * mib}}, page, random};

    std::uint64_t take(std::uint64_t bytes) {
        PhysAddr pa;
        EXPECT_TRUE(pages.take(pa, bytes));
        return pa.value();
    }
};

TEST(PageSource, SinglePagesLieSideBySideFromTheirPlaceOn) {
    Source s;
    s.pages.settle_at(9 * mib);
    EXPECT_EQ(s.take(page), 9 * mib);
    EXPECT_EQ(s.take(page), 9 * mib + page);
    s.pages.settle_at(9 * mib - page);
    EXPECT_EQ(s.take(page), 9 * mib - page);
    EXPECT_EQ(s.take(page), 9 * mib + 2 * page) << "what is taken is passed over";
    s.pages.give(PhysAddr{9 * mib}, page);
    s.pages.settle_at(9 * mib);
    EXPECT_EQ(s.take(page), 9 * mib);
}

TEST(PageSource, PagesGoOnInTheNextPieceOfMemoryAndThenAtTheStart) {
    Source s;
    s.pages.settle_at(3 * mib - page);
    EXPECT_EQ(s.take(page), 3 * mib - page);
    EXPECT_EQ(s.take(page), 8 * mib);
    s.pages.settle_at(16 * mib - page);
    EXPECT_EQ(s.take(page), 16 * mib - page);
    EXPECT_EQ(s.take(page), mib);
}

TEST(PageSource, LargerPiecesAreAlignedToTheirSizeAndInTheWindow) {
    Source s;
    s.pages.look_within(4 * mib);
    std::vector<std::uint64_t> starts;
    for (int i = 0; i < 16; ++i) starts.push_back(s.take(64 << 10));
    std::sort(starts.begin(), starts.end());
    EXPECT_LT(starts.back() - starts.front(), 4 * mib);
    for (const std::uint64_t start : starts) EXPECT_EQ(start % (64 << 10), 0u);
    EXPECT_EQ(std::adjacent_find(starts.begin(), starts.end()), starts.end());
}

TEST(PageSource, EverythingCanBeTakenOnceAndThenWhatIsMissingIsKnown) {
    Source s;
    for (std::uint64_t i = 0; i < 10 * mib / page; ++i) (void)s.take(page);
    PhysAddr pa;
    EXPECT_FALSE(s.pages.take(pa, page));
    EXPECT_EQ(s.pages.missing(), page);
    s.pages.expect_room();
    EXPECT_EQ(s.pages.missing(), 0u);
    for (std::uint64_t at = 8 * mib; at < 10 * mib; at += page) s.pages.give(PhysAddr{at}, page);
    EXPECT_EQ(s.take(2 * mib), 8 * mib);
}

TEST(PageSource, APieceMayComeBackInParts) {
    Source s;
    const std::uint64_t start = s.take(mib);
    s.pages.give(PhysAddr{start + page}, page);
    s.pages.settle_at(start);
    EXPECT_EQ(s.take(page), start + page);
    s.pages.give(PhysAddr{start}, page);
    s.pages.settle_at(start);
    EXPECT_EQ(s.take(page), start);
}

} // namespace
} // namespace directmap::tool

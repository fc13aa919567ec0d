// The executable cache: large leaves shared by small pieces of code, written through windows, poisoned when freed.
#include <array>

#include "client_rig.hpp"
#include "directmap_clients/executable_cache.hpp"

namespace directmap::client_tests {
namespace {

using Cache = ExecutableCache<TestMap, TestArea, TestArea, RangeAllocator, TestMemory>;
constexpr std::uint32_t poison = 0xd4200000;
constexpr std::array<std::uint32_t, 4> code{0x11111111, 0x22222222, 0x33333333, 0xd65f03c0};

/// The area for windows: what it maps is reached by one CPU alone.
struct WindowMap : TestMap {
    explicit WindowMap(machine::Rig<Format>& rig) : TestMap{rig} { window = true; }
};

struct CacheRig : ClientRig {
    explicit CacheRig(std::size_t chunk_count = 8)
        : ClientRig{rig_config()}, window_map{rig}, area{map, area_range}, windows{window_map,
                                                                                   {VirtAddr{0xffffa00000000000}, gib}},
          chunks(chunk_count),
          cache{map, rig.platform(), area, windows, allocator, memory, {chunks.data(), chunks.size()}} {
        EXPECT_TRUE(area.opened() && windows.opened());
        start_tables = machine().tables_in_use();
        memory.phys = [this](VirtAddr va) {
            if (area.range().contains(va)) return area.translate(va).value().pa;
            if (windows.range().contains(va)) return windows.translate(va).value().pa;
            return PhysAddr{va.value() - 0xffff000000000000};
        };
        memory.before_write = [this](VirtAddr va, std::uint64_t bytes) {
            EXPECT_TRUE(reachable(va, true)) << "code is written through what isn't writable";
            last_window = {va, bytes};
        };
    }
    WindowMap window_map;
    TestArea area, windows;
    TestMemory memory;
    std::vector<CodeChunk> chunks;
    Cache cache;
    VirtRange last_window;
};

TEST(ExecutableCache, SmallPiecesOfCodeShareOneLargeLeaf) {
    CacheRig t;
    for (unsigned i = 0; i < 200; ++i) ASSERT_TRUE(t.cache.allocate(100 + i * 40));
    EXPECT_EQ(t.area.statistics().leaves[2], 1u);
    EXPECT_EQ(t.area.statistics().bytes, block);
    EXPECT_LE(t.rig.map().statistics().counters.splits, 1u);
    const CodeStatistics s = t.cache.statistics();
    EXPECT_EQ(s.pieces, 200u);
    EXPECT_EQ(s.chunks[0], 1u);
    EXPECT_EQ(s.used + s.largest_free, block);
    EXPECT_EQ(t.rig.check(), "");
}

TEST(ExecutableCache, CodeIsExecutableAndNobodyButItsWriterCanWriteIt) {
    CacheRig t;
    auto piece = t.cache.allocate(sizeof code);
    ASSERT_TRUE(piece);
    EXPECT_EQ(t.memory.word_at(piece.value().pa), poison) << "until something is written";
    ASSERT_TRUE(t.cache.write(piece.value(), 0, code.data(), sizeof code));
    EXPECT_EQ(t.memory.word_at(piece.value().pa + 8), code[2]);
    EXPECT_EQ(t.area.translate(piece.value().va).value().pa, piece.value().pa);
    EXPECT_TRUE(t.reachable(piece.value().va, false, true));
    EXPECT_FALSE(t.reachable(piece.value().va, true));
    EXPECT_FALSE(t.reachable(piece.value().pa, true)) << "the direct map";
    EXPECT_FALSE(t.reachable(t.last_window.start)) << "the window is gone, from every TLB";
    EXPECT_FALSE(t.cache.write(piece.value(), 60, code.data(), sizeof code)) << "beyond the piece";
    t.area.verify();
    t.windows.verify();
    EXPECT_EQ(t.rig.check(), "");
}

TEST(ExecutableCache, FreedTextIsPoisonedBeforeItsRoomIsFree) {
    CacheRig t;
    auto piece = t.cache.allocate(200);
    ASSERT_TRUE(piece);
    ASSERT_TRUE(t.cache.write(piece.value(), 0, code.data(), sizeof code));
    ASSERT_TRUE(t.cache.free(piece.value()));
    for (std::uint64_t at = 0; at < piece.value().size; at += 4)
        EXPECT_EQ(t.memory.word_at(piece.value().pa + at), poison);
    EXPECT_FALSE(t.cache.free(piece.value())) << "it is gone";
    auto next = t.cache.allocate(200);
    ASSERT_TRUE(next);
    EXPECT_EQ(next.value().pa, piece.value().pa);
}

TEST(ExecutableCache, WithoutAWindowTextStaysAllocatedAndTheCallerIsTold) {
    CacheRig t;
    auto piece = t.cache.allocate(64);
    ASSERT_TRUE(piece);
    t.machine().tables_left = 0;
    EXPECT_EQ(t.cache.write(piece.value(), 0, code.data(), sizeof code).error().code(), ErrorCode::no_tables);
    EXPECT_EQ(t.cache.free(piece.value()).error().code(), ErrorCode::no_tables);
    EXPECT_EQ(t.cache.statistics().failed_writes, 2u);
    EXPECT_EQ(t.cache.statistics().pieces, 1u);
    t.machine().tables_left = ~std::uint64_t{0};
    EXPECT_TRUE(t.cache.free(piece.value()));
}

TEST(ExecutableCache, FragmentsAreCounted) {
    CacheRig t;
    std::vector<CodePiece> pieces;
    for (unsigned i = 0; i < 20; ++i) pieces.push_back(t.cache.allocate(256).value());
    EXPECT_EQ(t.cache.statistics().fragments, 1u);
    for (unsigned i = 0; i < 20; i += 2) ASSERT_TRUE(t.cache.free(pieces[i]));
    EXPECT_EQ(t.cache.statistics().fragments, 11u);
    EXPECT_EQ(t.cache.statistics().pieces, 10u);
}

TEST(ExecutableCache, WhereNoLargeChunkIsToBeHadSmallOnesServe) {
    CacheRig t;
    t.allocator.largest = 4 * page;
    auto piece = t.cache.allocate(3 * page);
    ASSERT_TRUE(piece);
    EXPECT_EQ(t.cache.statistics().chunks[2], 1u);
    EXPECT_EQ(t.cache.statistics().fallbacks, 1u);
    EXPECT_FALSE(t.cache.allocate(5 * page)) << "no small chunk holds that";
    t.allocator.largest = ~std::uint64_t{0};
    ASSERT_TRUE(t.cache.allocate(5 * page));
    EXPECT_EQ(t.cache.statistics().chunks[0], 1u);
    EXPECT_EQ(t.rig.check(), "");
}

TEST(ExecutableCache, IdleChunksGoBackOnRequestAndTheMapHeals) {
    CacheRig t;
    std::vector<CodePiece> pieces;
    for (unsigned i = 0; i < 3; ++i) pieces.push_back(t.cache.allocate(block).value());
    auto kept = t.cache.allocate(64);
    ASSERT_TRUE(kept);
    for (const CodePiece& piece : pieces) ASSERT_TRUE(t.cache.free(piece));
    t.machine().tables_left = 0;
    EXPECT_EQ(t.cache.shrink(~std::uint64_t{0}), 3 * block);
    EXPECT_TRUE(t.reachable(kept.value().va, false, true));
    t.machine().tables_left = ~std::uint64_t{0};
    ASSERT_TRUE(t.cache.free(kept.value()));
    EXPECT_EQ(t.cache.shrink(~std::uint64_t{0}), block);
    (void)t.area.area().reclaim_tables();
    (void)t.windows.area().reclaim_tables();
    t.expect_as_at_start();
}

TEST(ExecutableCache, WhateverTableIsMissingAChunkIsGivenBackWhole) {
    bool got = false;
    for (std::uint64_t tables = 0; !got; ++tables) {
        ASSERT_LT(tables, 20u);
        CacheRig t;
        t.allocator.largest = 4 * page; // which has to be cut out of a block
        t.machine().tables_left = tables;
        auto piece = t.cache.allocate(64);
        got = piece.ok();
        t.machine().tables_left = ~std::uint64_t{0};
        if (got) {
            EXPECT_GE(tables, 2u);
            ASSERT_TRUE(t.cache.free(piece.value()));
            EXPECT_EQ(t.cache.shrink(1), 4 * page);
        }
        (void)t.area.area().reclaim_tables();
        (void)t.windows.area().reclaim_tables();
        t.expect_as_at_start();
    }
}

} // namespace
} // namespace directmap::client_tests

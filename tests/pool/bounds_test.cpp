// The numbers of docs/protected-tables.md, found by trying: what a change can need at worst, and what giving a chunk
// its key can.
#include <algorithm>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "pool_player.hpp"
#include "support/host_platform.hpp"

namespace directmap::test {
namespace {

struct Worst {
    unsigned change = 0, chunk = 0;
};

/// Asks for the tables of every range whose ends are at, or a page beside, an edge or the middle of a leaf of any size,
/// over three regions of largest leaves; and of every chunk in the first of them that differs.
template <class F>
Worst find_worst() {
    using G = typename F::geometry;
    using Host = HostPlatform<G::page_shift>;
    Host platform{std::uint64_t{1} << 40, 64};
    using Map = DirectMap<F, Host>;
    const std::uint64_t base = G::region_bytes * 4;
    const RamRange ram{phys_range(base, base + 3 * G::region_bytes), {}};
    std::vector<typename Map::RegionState> regions(3);
    const std::uint64_t offset = G::va_bits == 64 ? 0 : ~std::uint64_t{0} << (G::va_bits - 1) << 1;
    Map map{platform, {.offset = offset}, {regions.data(), regions.size()}};
    EXPECT_TRUE(map.build({{&ram, 1}, {}}, Mapping::largest));
    EXPECT_TRUE(map.admit({.tolerates_live_resize = true}));

    std::set<std::uint64_t> ends;
    for (unsigned region = 0; region < 3; ++region) {
        for (unsigned i = 0; i < G::leaf_sizes.count; ++i) {
            const std::uint64_t size = G::leaf_sizes.of[i].bytes();
            for (const std::uint64_t middle : {std::uint64_t{0}, size, size / 2, 3 * size}) {
                const std::uint64_t at = region * G::region_bytes + middle / G::page_size * G::page_size;
                for (const std::uint64_t end : {at - G::page_size, at, at + G::page_size})
                    if (end <= 3 * G::region_bytes) ends.insert(end);
            }
        }
    }
    Worst worst;
    for (auto low = ends.begin(); low != ends.end(); ++low) {
        for (auto high = std::next(low); high != ends.end(); ++high) {
            const auto needed = map.tables_needed({PhysAddr{base + *low}, *high - *low}, Change{}.writable(false));
            EXPECT_TRUE(needed);
            worst.change = std::max(worst.change, needed.value());
        }
    }
    using Pool = typename machine::ProtectedRig<F>::Pool;
    for (const unsigned pages : Pool::chunk_pages) {
        if (pages == 0) continue;
        const std::uint64_t bytes = std::uint64_t{pages} << G::page_shift;
        const std::uint64_t end = std::min<std::uint64_t>(G::region_bytes, 2048 * bytes);
        for (std::uint64_t at = 0; at < end; at += bytes) {
            const auto needed = map.tables_needed({PhysAddr{base + at}, bytes}, Change{}.key(1));
            EXPECT_TRUE(needed);
            worst.chunk = std::max(worst.chunk, needed.value());
        }
    }
    return worst;
}

/// `levels`: leaf levels, as the table of the bounds has them.
template <class F>
void expect_bounds(unsigned levels) {
    using G = typename F::geometry;
    using Pool = typename machine::ProtectedRig<F>::Pool;
    const Worst worst = find_worst<F>();
    EXPECT_EQ(worst.change, 2 * (levels - 1));
    EXPECT_EQ(worst.chunk, levels - 1);
    EXPECT_EQ(G::worst_tables, worst.change);
    EXPECT_EQ(Pool::chunk_tables, worst.chunk);
    EXPECT_GT(4u, worst.chunk) << "the smallest chunk gains more than it uses";
    EXPECT_LE(Pool::frame_bytes, 2u << 20);
}

TEST(PoolBounds, AreReachedAndNeverExceededWithFourKilobytePages) {
    expect_bounds<arm64::Format4K39>(3);
    expect_bounds<arm64::Format4K48>(3);
    expect_bounds<arm64::Format4K52>(3);
}
TEST(PoolBounds, AreReachedAndNeverExceededWithGroupsOfTheLargestBlock) {
    expect_bounds<arm64::Format4K48TopGroups>(3);
}
TEST(PoolBounds, AreReachedAndNeverExceededWithSixteenKilobytePages) {
    expect_bounds<arm64::Format16K47>(2);
    expect_bounds<arm64::Format16K48>(2);
    expect_bounds<arm64::Format16K52>(2);
}
TEST(PoolBounds, AreReachedAndNeverExceededWithSixtyFourKilobytePages) {
    expect_bounds<arm64::Format64K42>(2);
    expect_bounds<arm64::Format64K48>(2);
    expect_bounds<arm64::Format64K52>(2);
}
TEST(PoolBounds, AreReachedAndNeverExceededOnTheToyMachine) {
    expect_bounds<machine::Toy>(3);
    expect_bounds<machine::WideToy>(3);
}

} // namespace
} // namespace directmap::test

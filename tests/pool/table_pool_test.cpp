// The table pool on the machine, keys in force: the claims of docs/protected-tables.md.
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "machine/protected_rig.hpp"

namespace directmap::machine {
namespace {

/// Eight entries a table: pages of 4K, groups of 16K, blocks of 32K (groups of 128K) and 256K.
constexpr Shape toy_shape{12, 24, 48, 3, 1, {0, 0, 2, 2}};
using Toy = arm64::Format<toy_shape>;
using ToyRig = ProtectedRig<Toy>;

constexpr PhysRange user = phys_range(0x100000, 0x1c0000);
constexpr std::uint64_t page = 0x1000;

[[nodiscard]] ProtectedRigConfig toy_config() {
    ProtectedRigConfig config;
    config.ram = phys_range(0x100000, 0x280000);
    config.early = phys_range(0x200000, 0x208000);
    config.chunks = phys_range(0x210000, 0x280000);
    return config;
}

[[nodiscard]] bool long_run() {
    return std::getenv("DIRECTMAP_LONG") != nullptr;
}

/// What a sequence is made of. Each returns what went wrong, or nothing.
struct Player {
    ToyRig rig{toy_config()};
    std::vector<PhysAddr> outside;

    std::string change(PhysRange range, Change to) {
        auto r = rig.protect(range, to);
        if (r) return {};
        const bool memory_left = rig.allocator().largest >= 4 * page;
        if (r.error().code == ErrorCode::no_tables && !memory_left) return {};
        return fmt::format("protect answers {} ({})", name(r.error().code), r.error().reason);
    }
    std::string take(PageUse use) {
        auto r = rig.take(use);
        if (r) {
            outside.push_back(r.value());
            return {};
        }
        const bool memory_left = rig.allocator().largest >= 4 * page;
        if (!memory_left && r.error().code == ErrorCode::no_tables) return {};
        if (use == PageUse::atomic && r.error().code == ErrorCode::would_block) return {};
        return fmt::format("take answers {} ({})", name(r.error().code), r.error().reason);
    }
    std::string give() {
        if (outside.empty()) return {};
        const bool ours = rig.give(outside.back());
        outside.pop_back();
        return ours ? "" : "the pool doesn't know a page that it handed out";
    }
};

struct Step {
    const char* name;
    std::function<std::string(Player&)> run;
};

[[nodiscard]] const std::vector<Step>& steps() {
    static const std::vector<Step> all = {
        {"one page read-only",
         [](Player& p) {
             return p.change({user.start + 5 * page, page}, Change{}.writable(false));
         }},
        {"a range over three regions read-only",
         [](Player& p) {
             return p.change({user.start + 0x31000, 0x60000}, Change{}.writable(false));
         }},
        {"both ends inside one block",
         [](Player& p) {
             return p.change({user.start + 0x89000, 3 * page}, Change{}.key(2));
         }},
        {"everything as it was", [](Player& p) { return p.change(user, Change{}.writable(true).key(0)); }},
        {"take for another map", [](Player& p) { return p.take(PageUse::normal); }},
        {"take in atomic context", [](Player& p) { return p.take(PageUse::atomic); }},
        {"give", [](Player& p) { return p.give(); }},
        {"shrink", [](Player& p) { return (void)p.rig.shrink(~std::uint64_t{0}), std::string{}; }},
        {"memory becomes scattered", [](Player& p) { return p.rig.allocator().largest = 4 * page, std::string{}; }},
        {"memory runs out", [](Player& p) { return p.rig.allocator().largest = 0, std::string{}; }},
        {"memory comes back", [](Player& p) { return p.rig.allocator().largest = ~std::uint64_t{0}, std::string{}; }},
    };
    return all;
}

TEST(TablePool, StartsWithItsReserveAndEveryTableProtected) {
    ToyRig rig{toy_config()};
    ASSERT_TRUE(rig.ready()) << rig.ready().error().reason;
    EXPECT_EQ(rig.check(0), "");
    EXPECT_GE(rig.pool().available(), ToyRig::G::worst_tables + ToyRig::Pool::chunk_tables);
}

TEST(TablePool, NoSequenceOfOperationsRunsDryReentersOrLosesAPage) {
    const unsigned depth = long_run() ? 6 : 4;
    std::vector<unsigned> sequence(depth, 0);
    std::uint64_t played = 0;
    for (bool more = true; more;) {
        Player player;
        std::string story, problem;
        for (unsigned i = 0; i < depth && problem.empty(); ++i) {
            const Step& step = steps()[sequence[i]];
            story += fmt::format("{}; ", step.name);
            problem = step.run(player);
            if (problem.empty()) problem = player.rig.check(player.outside.size());
        }
        ++played;
        ASSERT_EQ(problem, "") << story;
        more = false;
        for (unsigned i = depth; i-- != 0 && !more;) {
            more = ++sequence[i] != steps().size();
            if (!more) sequence[i] = 0;
        }
    }
    RecordProperty("sequences", static_cast<int>(played));
}

TEST(TablePool, LongRandomSequencesOnBothCpusKeepEveryInvariant) {
    const unsigned seeds = long_run() ? 2000 : 60;
    for (unsigned seed = 1; seed <= seeds; ++seed) {
        Player player;
        std::mt19937 random{seed};
        for (unsigned i = 0; i < 150; ++i) {
            player.rig.machine().run_on(random() % 2);
            std::string problem;
            if (random() % 2 == 0) {
                const std::uint64_t first = random() % (user.size / page);
                const std::uint64_t most = user.size / page - first;
                const std::uint64_t count = 1 + random() % std::min<std::uint64_t>(most, random() % 2 == 0 ? 2 : 40);
                problem = player.change({user.start + first * page, count * page},
                                        Change{}.writable(random() % 2 == 0).key(random() % 4 == 0 ? 2 : 0));
            } else {
                problem = steps()[random() % steps().size()].run(player);
            }
            if (problem.empty()) problem = player.rig.check(player.outside.size());
            ASSERT_EQ(problem, "") << "seed " << seed << ", step " << i;
        }
        // Everything goes back, and the map heals.
        player.rig.allocator().largest = ~std::uint64_t{0};
        while (!player.outside.empty()) ASSERT_EQ(player.give(), "");
        ASSERT_EQ(player.change(user, Change{}.writable(true).key(0)), "");
        (void)player.rig.shrink(~std::uint64_t{0});
        ASSERT_EQ(player.rig.check(0), "") << "seed " << seed;
        unsigned leaves = 0;
        player.rig.map().walk(user, [&](const Leaf&) { return ++leaves != 0; });
        EXPECT_EQ(leaves, 3u) << "user memory should be three 256K blocks again, seed " << seed;
    }
}

TEST(TablePool, AFailingRefillRepaysTheReserve) {
    ToyRig rig{toy_config()};
    const std::uint64_t before = rig.pool().statistics().free;
    rig.allocator().largest = 0;
    for (unsigned i = 0; i < 10; ++i) EXPECT_FALSE(rig.refill());
    EXPECT_EQ(rig.pool().statistics().free, before);
    EXPECT_EQ(rig.pool().statistics().failed_refills, 10u);
    EXPECT_EQ(rig.check(0), "");
}

TEST(TablePool, EvenTheSmallestRefillGainsMoreThanItUses) {
    ToyRig rig{toy_config()};
    rig.allocator().largest = 4 * page;
    for (unsigned i = 0; i < 8; ++i) {
        const std::uint64_t before = rig.pool().statistics().free;
        ASSERT_TRUE(rig.refill());
        EXPECT_GT(rig.pool().statistics().free, before);
    }
    EXPECT_EQ(rig.check(0), "");
}

TEST(TablePool, NormalRequestsLeaveTheReserveToSplits) {
    ToyRig rig{toy_config()};
    rig.allocator().largest = 0;
    std::uint64_t outside = 0;
    while (rig.take(PageUse::normal)) ++outside;
    EXPECT_GE(rig.pool().available(), ToyRig::G::worst_tables + ToyRig::Pool::chunk_tables);
    // Both ends of this range cut a 256K block down to pages: the worst case, with no memory for a refill.
    EXPECT_TRUE(rig.protect({user.start + 0x31000, 0x60000}, Change{}.writable(false)));
    EXPECT_EQ(rig.check(outside), "");
}

TEST(TablePool, AShrinkNeverTakesATable) {
    ToyRig rig{toy_config()};
    std::vector<PhysAddr> taken;
    for (unsigned i = 0; i < 40; ++i) {
        auto r = rig.take(PageUse::normal);
        ASSERT_TRUE(r);
        taken.push_back(r.value());
    }
    for (const PhysAddr pa : taken) ASSERT_TRUE(rig.give(pa));
    ASSERT_TRUE(rig.map().collapse(rig.map().span())); // neighbouring chunks of the pool may become one leaf
    const std::uint64_t splits = rig.map().statistics().counters.splits;
    EXPECT_GT(rig.shrink(~std::uint64_t{0}), 0u);
    EXPECT_EQ(rig.map().statistics().counters.splits, splits);
    EXPECT_EQ(rig.check(0), "");
}

TEST(TablePool, EveryKindOfTablePageFaultsOnAWriteFromOutsideOfAWriteSection) {
    ToyRig rig{toy_config()};
    ASSERT_TRUE(rig.protect({user.start + 5 * page, page}, Change{}.writable(false)));
    const std::uint64_t tables = rig.machine().tables_in_use();
    unsigned protected_pages = 0;
    for (PhysAddr pa = rig.map().span().start; pa < rig.map().span().end(); pa = pa + page) {
        protected_pages += rig.machine().stray_write_faults(pa) ? 1u : 0u;
    }
    // One page is read-only by the change above; all other faulting pages are the pool's: tables, and free pages too.
    EXPECT_EQ(protected_pages - 1, rig.pool().statistics().owned);
    EXPECT_GT(protected_pages, tables);
    EXPECT_TRUE(rig.machine().stray_write_faults(rig.map().root()));
    // Freshly collapsed tables keep the key.
    ASSERT_TRUE(rig.protect({user.start + 5 * page, page}, Change{}.writable(true)));
    EXPECT_EQ(rig.check(0), "");
}

TEST(TablePool, ATablePageCantBeMadeWritableOrGivenAnotherKeyByACaller) {
    ToyRig rig{toy_config()};
    const PhysRange root{rig.map().root(), page};
    for (const Change change : {Change{}.key(0), Change{}.key(3), Change{}.valid(false), Change{}.writable(false),
                                Change{}.executable(true), Change{}.memory_type(MemoryType::normal_noncacheable)}) {
        // Straight to the map, the machine untold: it judges any effect as a violation.
        auto r = rig.map().ToyRig::Map::Base::protect(root, change);
        ASSERT_FALSE(r);
        EXPECT_EQ(r.error().code, ErrorCode::incompatible);
    }
    // A free page of the pool, and a range that only overlaps one.
    const PhysAddr free = rig.take(PageUse::split).value();
    ASSERT_TRUE(rig.give(free));
    EXPECT_FALSE(rig.protect({free, page}, Change{}.key(0)));
    EXPECT_FALSE(rig.protect({rig.map().span().start, rig.map().span().size}, Change{}.key(0)));
    EXPECT_EQ(rig.check(0), "");
}

TEST(TablePool, EarlyTablesThatCollapseFreesComeBackToThePool) {
    ProtectedRigConfig config = toy_config();
    ToyRig rig{config};
    // The early range holds the build's tables and those of the pool's first chunk; shrinking to the minimum frees what
    // it can.
    const std::uint64_t owned = rig.pool().statistics().owned;
    ASSERT_TRUE(rig.protect({user.start + 0x31000, 0x60000}, Change{}.writable(false)));
    ASSERT_TRUE(rig.protect(user, Change{}.writable(true)));
    rig.map().reclaim();
    EXPECT_EQ(rig.check(0), "");
    EXPECT_GE(rig.pool().statistics().owned, owned);
}

TEST(TablePool, LeavesWithDifferentKeysDontMerge) {
    ToyRig rig{toy_config()};
    ASSERT_TRUE(rig.protect({user.start, 0x8000}, Change{}.key(2)));
    ASSERT_TRUE(rig.map().collapse(rig.map().span()));
    const auto inside = rig.map().translate(user.start), beside = rig.map().translate(user.start + 0x8000);
    ASSERT_TRUE(inside && beside);
    EXPECT_EQ(inside.value().attributes.key(), 2u);
    EXPECT_EQ(beside.value().attributes.key(), 0u);
    EXPECT_EQ(inside.value().leaf.bytes(), 0x8000u);
    EXPECT_EQ(rig.check(0), "");
}

template <class F>
void real_geometry(std::uint64_t ram_bytes) {
    using G = typename F::geometry;
    ProtectedRigConfig config;
    const std::uint64_t base = std::uint64_t{1} << 36;
    config.ram = phys_range(base, base + ram_bytes);
    config.early = phys_range(base, base + (2u << 20));
    config.chunks = phys_range(base + ram_bytes / 2, base + ram_bytes);
    config.policy = CollapsePolicy::on_restore;
    ProtectedRig<F> rig{config};
    ASSERT_TRUE(rig.ready()) << rig.ready().error().reason;
    std::mt19937_64 random{7};
    const PhysRange mine = phys_range(base + (2u << 20), base + ram_bytes / 2);
    for (unsigned i = 0; i < 60; ++i) {
        const std::uint64_t at = random() % (mine.size >> G::page_shift);
        const PhysRange one{mine.start + (at << G::page_shift), G::page_size};
        ASSERT_TRUE(rig.protect(one, Change{}.writable(false)));
        if (i % 3 == 0) ASSERT_TRUE(rig.protect(one, Change{}.writable(true)));
    }
    EXPECT_EQ(rig.check(0), "");
    ASSERT_TRUE(rig.protect(mine, Change{}.writable(true)));
    (void)rig.shrink(~std::uint64_t{0});
    EXPECT_EQ(rig.check(0), "");
}

TEST(TablePool, WorksWithFourKilobytePages) {
    real_geometry<arm64::Format4K48>(std::uint64_t{4} << 30);
}
TEST(TablePool, WorksWithSixteenKilobytePages) {
    real_geometry<arm64::Format16K48>(std::uint64_t{4} << 30);
}
TEST(TablePool, WorksWithSixtyFourKilobytePages) {
    real_geometry<arm64::Format64K48>(std::uint64_t{32} << 30);
}

} // namespace
} // namespace directmap::machine

// Promise P4: tables run out at every point at which they can, and every time the tree is word for word what it was.
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "support/host_platform.hpp"
#include "support/leaves.hpp"
#include "support/scenario.hpp"

namespace directmap::test {
namespace {

constexpr Change read_only = Change{}.writable(false);

/// A map of four regions on host memory, whose tables can be counted out one by one.
template <class F>
struct Host {
    using G = typename F::geometry;
    using P = HostPlatform<G::page_shift>;
    static constexpr std::uint64_t base = 4 * G::region_bytes;

    Host() {
        ram = {at(base, 4 * G::region_bytes), {}};
        EXPECT_TRUE(map.build({{&ram, 1}, {}}, Mapping::largest));
        EXPECT_TRUE(map.admit({.tolerates_live_resize = true}));
    }
    /// `operation` needs tables: with fewer it fails and leaves every word as it was, with enough it succeeds.
    template <class Operation>
    void fails_whole_until_it_has_enough(Operation operation, ErrorCode code = ErrorCode::no_tables) {
        const auto before = words();
        const std::size_t in_use = platform.tables_in_use();
        for (unsigned tables = 0;; ++tables) {
            platform.limit = tables;
            auto r = operation();
            if (r) {
                EXPECT_NE(words(), before);
                EXPECT_GT(tables, 0U) << "nothing was needed, nothing was tried";
                break;
            }
            EXPECT_EQ(r.error().code(), code) << tables;
            EXPECT_GT(r.error().needed(), 0U) << tables;
            EXPECT_TRUE(words() == before) << "the tree changed with " << tables << " tables";
            EXPECT_EQ(platform.tables_in_use(), in_use) << tables;
            EXPECT_EQ(platform.limit, tables) << "tables were not returned";
            ASSERT_LT(tables, 100U);
        }
        platform.limit = ~std::uint64_t{0} >> 1;
    }
    [[nodiscard]] auto words() { return words_of_tree<F>(platform, map.root()); }

    P platform{0, 1024};
    std::vector<Region<typename P::Lock>> regions = std::vector<Region<typename P::Lock>>(4);
    DirectMap<F, P> map{platform, {.offset = 0xffff000000000000}, {regions.data(), regions.size()}};
    RamRange ram;
};

template <class F>
class OutOfTables : public testing::Test {};

using Formats = testing::Types<arm64::Format4K48, arm64::Format4K48TopGroups, arm64::Format16K48, arm64::Format64K48>;
TYPED_TEST_SUITE(OutOfTables, Formats);

TYPED_TEST(OutOfTables, AChangeOfOnePageFailsWholeOrNotAtAll) {
    Host<TypeParam> host;
    using G = typename TypeParam::geometry;
    host.fails_whole_until_it_has_enough(
        [&] { return host.map.protect(at(host.base + 5 * G::page_size, G::page_size), read_only); });
}

TYPED_TEST(OutOfTables, AChangeWithBothEndsInOneRegionFailsWholeOrNotAtAll) {
    Host<TypeParam> host;
    using G = typename TypeParam::geometry;
    host.fails_whole_until_it_has_enough(
        [&] { return host.map.protect(at(host.base + G::page_size, G::region_bytes - 2 * G::page_size), read_only); });
}

TYPED_TEST(OutOfTables, AChangeAcrossRegionsFailsWholeOrNotAtAll) {
    Host<TypeParam> host;
    using G = typename TypeParam::geometry;
    host.fails_whole_until_it_has_enough([&] {
        return host.map.protect(at(host.base + G::page_size, 3 * G::region_bytes - 2 * G::page_size), read_only);
    });
}

TYPED_TEST(OutOfTables, AChangeThatBreaksFailsBeforeItBreaks) {
    Host<TypeParam> host;
    using G = typename TypeParam::geometry;
    host.fails_whole_until_it_has_enough([&] {
        return host.map.protect(at(host.base + G::page_size, 2 * G::region_bytes),
                                Change{}.memory_type(MemoryType::normal_noncacheable));
    });
}

TYPED_TEST(OutOfTables, ADeferredChangeFailsWholeOrNotAtAll) {
    Host<TypeParam> host;
    using G = typename TypeParam::geometry;
    host.fails_whole_until_it_has_enough(
        [&] { return host.map.protect_deferred(at(host.base + G::page_size, 2 * G::region_bytes), read_only); });
}

TYPED_TEST(OutOfTables, AChangeUnderQuiescenceFailsWholeOrNotAtAll) {
    using G = typename TypeParam::geometry;
    Host<TypeParam> host;
    host.platform.limit = ~std::uint64_t{0} >> 1;
    // Behind a closed gate, too: whoever holds the machine still may resize.
    HostPlatform<G::page_shift> platform{0, 1024};
    std::vector<Region<typename HostPlatform<G::page_shift>::Lock>> regions(4);
    DirectMap<TypeParam, HostPlatform<G::page_shift>> map{
        platform, {.offset = 0xffff000000000000}, {regions.data(), regions.size()}};
    ASSERT_TRUE(map.build({{&host.ram, 1}, {}}, Mapping::largest));
    ASSERT_TRUE(map.admit({.tolerates_live_resize = false}));
    const auto before = words_of_tree<TypeParam>(platform, map.root());
    unsigned tables = 0;
    for (;; ++tables) {
        platform.limit = tables;
        auto r = map.protect(at(host.base + G::page_size, 2 * G::region_bytes), read_only, {.quiescent = true});
        if (r) break;
        EXPECT_EQ(r.error().code(), ErrorCode::no_tables);
        EXPECT_TRUE(words_of_tree<TypeParam>(platform, map.root()) == before) << tables;
        ASSERT_LT(tables, 10U);
    }
    EXPECT_GT(tables, 0U);
}

TYPED_TEST(OutOfTables, AnAtomicChangeFailsWholeWithoutAskingTheSource) {
    Host<TypeParam> host;
    using G = typename TypeParam::geometry;
    const PhysRange range = at(host.base + G::page_size, 2 * G::region_bytes);
    const auto before = host.words();
    unsigned aside = 0;
    for (;; ++aside) {
        ASSERT_TRUE(host.map.set_aside(aside));
        host.platform.limit = 0;
        auto r = host.map.protect(range, read_only, {.atomic = true});
        host.platform.limit = ~std::uint64_t{0} >> 1;
        if (r) break;
        EXPECT_EQ(r.error().code(), ErrorCode::would_block);
        EXPECT_TRUE(host.words() == before) << aside;
        EXPECT_EQ(host.map.statistics().set_aside, aside);
        ASSERT_LT(aside, 10U);
    }
    EXPECT_GT(aside, 0U);
}

TYPED_TEST(OutOfTables, AFailingPrepareKeepsEveryAttributeAndPinsNothing) {
    Host<TypeParam> host;
    using G = typename TypeParam::geometry;
    const std::uint64_t block = G::bytes(G::last_level - 1);
    const PhysRange range = at(host.base + G::region_bytes - block - G::page_size, 2 * block);
    ASSERT_TRUE(host.map.protect(at(range.start.value(), G::page_size * 3), Change{}.key(5)));
    const auto attributes_of_pages = [&] {
        std::vector<Attributes> attributes;
        for (std::uint64_t pa = range.start.value() - 4 * G::page_size; pa < range.end().value() + 4 * G::page_size;
             pa += G::page_size) {
            attributes.push_back(host.map.translate(PhysAddr{pa}).value().attributes);
        }
        return attributes;
    };
    const auto before = attributes_of_pages();
    for (unsigned tables = 0;; ++tables) {
        host.platform.limit = tables;
        auto r = host.map.prepare(range);
        if (r) break;
        EXPECT_EQ(r.error().code(), ErrorCode::no_tables);
        EXPECT_EQ(attributes_of_pages(), before) << tables;
        const std::size_t expected = tables_for<G>(leaves_of(host.map), 0xffff000000000000);
        EXPECT_EQ(host.platform.tables_in_use(), expected) << "a table was lost with " << tables;
        ASSERT_LT(tables, 100U);
    }
}

TYPED_TEST(OutOfTables, AFailingRepaintKeepsEveryAttributeAndLosesNoTable) {
    using G = typename TypeParam::geometry;
    HostPlatform<G::page_shift> platform{0, 512};
    std::vector<Region<typename HostPlatform<G::page_shift>::Lock>> regions(1);
    DirectMap<TypeParam, HostPlatform<G::page_shift>> map{
        platform, {.offset = 0xffff000000000000}, {regions.data(), regions.size()}};
    const std::uint64_t base = 4 * G::region_bytes, block = G::bytes(G::last_level - 1);
    const RamRange part{at(base, 20 * block), {}};
    ASSERT_TRUE(map.build({{&part, 1}, {}}, Mapping::largest));
    ASSERT_TRUE(map.admit({.tolerates_live_resize = true}));
    ASSERT_TRUE(map.protect(at(base + 3 * G::page_size, G::page_size), read_only));
    unsigned tables = 0;
    for (;; ++tables) {
        platform.limit = tables % 7;
        auto r = map.repaint();
        std::uint64_t bytes = 0;
        for (const LeafItem& leaf : leaves_of(map)) {
            bytes += leaf.size;
            EXPECT_EQ(leaf.access.writable, leaf.start != base + 3 * G::page_size);
        }
        EXPECT_EQ(bytes, 20 * block);
        EXPECT_EQ(map.statistics().bytes, 20 * block);
        EXPECT_EQ(platform.tables_in_use(), tables_for<G>(leaves_of(map), 0xffff000000000000)) << tables;
        if (r) break;
        EXPECT_EQ(r.error().code(), ErrorCode::no_tables);
        ASSERT_LT(tables, 200U);
    }
    EXPECT_GT(tables, 5U);
}

TYPED_TEST(OutOfTables, ABuildSaysHowManyItNeedsAndReturnsWhatItTook) {
    using G = typename TypeParam::geometry;
    const std::uint64_t base = 4 * G::region_bytes;
    const RamRange ranges[] = {{at(base + G::page_size, G::region_bytes), {}},
                               {at(base + 2 * G::region_bytes - 8 * G::page_size, G::page_size * 3), {}}};
    std::uint64_t needed = 0;
    for (unsigned tables = 0;; ++tables) {
        HostPlatform<G::page_shift> platform{0, 64};
        platform.limit = tables;
        std::vector<Region<typename HostPlatform<G::page_shift>::Lock>> regions(2);
        DirectMap<TypeParam, HostPlatform<G::page_shift>> map{
            platform, {.offset = 0xffff000000000000}, {regions.data(), regions.size()}};
        auto r = map.build({ranges, {}}, Mapping::largest);
        if (r) {
            EXPECT_EQ(tables, needed) << "it was said to need";
            EXPECT_EQ(platform.tables_in_use(), needed);
            break;
        }
        EXPECT_EQ(r.error().code(), ErrorCode::no_tables);
        EXPECT_EQ(platform.tables_in_use(), 0U);
        EXPECT_EQ(platform.limit, tables);
        if (tables != 0) EXPECT_EQ(r.error().needed(), needed);
        needed = r.error().needed();
        ASSERT_LT(tables, 64U);
    }
}

TYPED_TEST(OutOfTables, AfterAFailedPrepareOrRepaintACollapseBringsEveryWordBack) {
    using G = typename TypeParam::geometry;
    for (const bool repaint : {false, true}) {
        Host<TypeParam> host;
        const std::uint64_t block = G::bytes(G::last_level - 1);
        const auto before = host.words();
        const std::size_t in_use = host.platform.tables_in_use();
        for (unsigned tables = 0; tables < 12; ++tables) {
            host.platform.limit = tables;
            auto r = repaint ? host.map.repaint()
                             : host.map.prepare(at(host.base + G::region_bytes - 10 * block, 20 * block));
            ASSERT_FALSE(r) << tables;
            EXPECT_EQ(r.error().code(), ErrorCode::no_tables);
            ASSERT_TRUE(host.map.collapse(host.map.span())); // which needs none
            EXPECT_TRUE(host.words() == before) << tables;
            EXPECT_EQ(host.platform.tables_in_use(), in_use);
        }
    }
}

TYPED_TEST(OutOfTables, WhatGivesMemoryBackNeedsNone) {
    using G = typename TypeParam::geometry;
    Host<TypeParam> host;
    const auto before = host.words();
    const PhysRange range = at(host.base + 3 * G::page_size, 5 * G::page_size);
    ASSERT_TRUE(host.map.prepare(range));
    ASSERT_TRUE(host.map.protect(range, read_only));
    host.platform.limit = 0;
    ASSERT_TRUE(host.map.protect(range, Change{}.writable(true)));
    ASSERT_TRUE(host.map.release(range));
    ASSERT_TRUE(host.map.collapse(range));
    EXPECT_TRUE(host.words() == before);
}

/// A platform on which something happens when the first lock is taken: another CPU was there before.
template <class F>
class Interrupted : public HostPlatform<F::geometry::page_shift> {
public:
    using HostPlatform<F::geometry::page_shift>::HostPlatform;
    using Lock = typename HostPlatform<F::geometry::page_shift>::Lock;
    void acquire(Lock&) {
        if (auto first = std::exchange(before_the_lock, nullptr)) first();
    }
    std::function<void()> before_the_lock;
};

TYPED_TEST(OutOfTables, AChangeThatFindsItsPagesCollapsedUnderTheLockFailsWholeAsWell) {
    // It planned with pages and reserved nothing; another CPU collapsed them; now it has to ask, and there is nothing.
    using G = typename TypeParam::geometry;
    Interrupted<TypeParam> platform{0, 1024};
    std::vector<Region<typename Interrupted<TypeParam>::Lock>> regions(4);
    DirectMap<TypeParam, Interrupted<TypeParam>> map{
        platform, {.offset = 0xffff000000000000}, {regions.data(), regions.size()}};
    const std::uint64_t base = 4 * G::region_bytes;
    const RamRange ram{at(base, 4 * G::region_bytes), {}};
    const PhysRange page = at(base + 3 * G::page_size, G::page_size);
    ASSERT_TRUE(map.build({{&ram, 1}, {}}, Mapping::largest));
    ASSERT_TRUE(map.admit({.tolerates_live_resize = true}));
    const auto collapsed = words_of_tree<TypeParam>(platform, map.root());
    ASSERT_TRUE(map.protect(page, read_only));
    ASSERT_TRUE(map.protect(page, Change{}.writable(true)));
    bool interrupted = false;
    const std::uint64_t scarce = G::leaf_levels - 2; // one less than it takes
    platform.before_the_lock = [&] {
        interrupted = true;
        ASSERT_TRUE(map.collapse(map.span()));
        platform.limit = scarce;
    };
    auto r = map.protect(page, read_only);
    ASSERT_TRUE(interrupted);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::no_tables);
    EXPECT_GT(r.error().needed(), 0U);
    EXPECT_EQ(platform.limit, scarce) << "what was taken is given back";
    EXPECT_TRUE(words_of_tree<TypeParam>(platform, map.root()) == collapsed);
}

TYPED_TEST(OutOfTables, SettingAsideTellsHowManyAreMissing) {
    Host<TypeParam> host;
    host.platform.limit = 3;
    auto r = host.map.set_aside(5);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::no_tables);
    EXPECT_EQ(r.error().needed(), 2U);
    EXPECT_EQ(host.map.statistics().set_aside, 3U); // what there was stays, for atomic callers
}

TEST(OutOfTablesOnTheMachine, NobodySeesAnythingOfAChangeThatFails) {
    Rig4K rig{ram(4 * gib, 4 * gib)};
    for (unsigned tables = 0; tables < 4; ++tables) {
        rig.machine().tables_left = tables;
        auto r = rig.protect(at(5 * gib - 4 * kib, gib + 8 * kib), read_only);
        ASSERT_FALSE(r);
        EXPECT_EQ(rig.machine().tables_left, tables);
        EXPECT_EQ(rig.check(), "");
    }
    rig.machine().tables_left = 4;
    ASSERT_TRUE(rig.protect(at(5 * gib - 4 * kib, gib + 8 * kib), read_only));
    EXPECT_EQ(rig.check(), "");
}

} // namespace
} // namespace directmap::test

// Who uses which memory.
#include "pure/memory_plan.hpp"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <string>
#include <vector>

namespace directmap::kernel {
namespace {

constexpr std::uint64_t page = 0x1000;
constexpr std::uint64_t mib = 1 << 20;

BootInformation machine_with(std::initializer_list<PhysRange> banks) {
    BootInformation information;
    for (const PhysRange& bank : banks) EXPECT_TRUE(information.memory.insert(bank));
    return information;
}

constexpr Occupied occupied{phys_range(0x4020'0000, 0x4030'0000), phys_range(0x4800'0000, 0x4800'1234)};

std::string problem(const BootInformation& information, const Occupied& o = occupied) {
    MemoryPlan plan;
    const char* wrong = plan.make(information, o, page);
    return wrong == nullptr ? "" : wrong;
}

std::vector<PhysRange> free_ranges(const MemoryPlan& plan) {
    std::vector<PhysRange> ranges;
    plan.for_each_free([&](PhysRange range) { ranges.push_back(range); });
    return ranges;
}

TEST(MemoryPlan, TheImageAndTheDeviceTreeAreReadOnlyAndNeverResized) {
    MemoryPlan plan;
    ASSERT_EQ(plan.make(machine_with({phys_range(0x4000'0000, 0x6000'0000)}), occupied, page), nullptr);
    const Layout layout = plan.layout();
    ASSERT_EQ(layout.zones.size(), 2u);
    for (const Zone& zone : layout.zones) {
        EXPECT_EQ(zone.kind, ZoneKind::fixed_size);
        EXPECT_TRUE(zone.has_attributes);
        EXPECT_FALSE(zone.attributes.writable());
    }
    EXPECT_EQ(layout.zones[1].range, phys_range(0x4800'0000, 0x4800'2000)); // whole pages
}

TEST(MemoryPlan, BanksShrinkToWholePages) {
    MemoryPlan plan;
    ASSERT_EQ(plan.make(machine_with({phys_range(0x1001, 0x5fff), phys_range(0x1'0000'0800, 0x1'0000'0fff)}), {}, page),
              nullptr);
    ASSERT_EQ(plan.layout().ram.size(), 1u);
    EXPECT_EQ(plan.layout().ram[0].range, phys_range(0x2000, 0x5000));
}

TEST(MemoryPlan, TheSpanReachesFromTheFirstToTheLastBankInWholeUnits) {
    MemoryPlan plan;
    ASSERT_EQ(plan.make(machine_with({phys_range(0x5000, 0x6000), phys_range(0x2'0000, 0x2'1000)}), {}, page), nullptr);
    EXPECT_EQ(plan.span_bytes(page), 0x1'c000u);
    EXPECT_EQ(plan.span_bytes(0x1'0000), 0x3'0000u);
}

TEST(MemoryPlan, MemoryThatMustNotBeMappedIsNeitherMappedNorFree) {
    auto information = machine_with({phys_range(0x4000'0000, 0x6000'0000)});
    ASSERT_TRUE(information.no_map.insert(phys_range(0x5000'0000, 0x5000'0001)));
    ASSERT_TRUE(information.reserved.insert(phys_range(0x5800'0000, 0x5800'1000)));
    MemoryPlan plan;
    ASSERT_EQ(plan.make(information, occupied, page), nullptr);
    EXPECT_EQ(plan.layout().zones[2].kind, ZoneKind::excluded);
    for (const PhysRange& range : free_ranges(plan)) {
        EXPECT_FALSE(range.overlaps(phys_range(0x5000'0000, 0x5000'1000)));
        EXPECT_FALSE(range.overlaps(phys_range(0x5800'0000, 0x5800'1000)));
        EXPECT_FALSE(range.overlaps(occupied.image));
    }
}

TEST(MemoryPlan, WhatCannotBeIsSaid) {
    EXPECT_EQ(problem(machine_with({})), "no memory of at least one page");
    EXPECT_EQ(problem(machine_with({phys_range(0x800, 0x1000)})), "no memory of at least one page");
    auto information = machine_with({phys_range(0x4000'0000, 0x6000'0000)});
    ASSERT_TRUE(information.no_map.insert(phys_range(0x4020'0000, 0x4021'0000)));
    EXPECT_EQ(problem(information), "the image lies in memory that must not be mapped");
    EXPECT_EQ(problem(machine_with({phys_range(0x4000'0000, 0x6000'0000)}),
                      {occupied.image, phys_range(0x4021'0000, 0x4022'0000)}),
              "the device tree lies in the image, or in memory that must not be mapped");
}

TEST(MemoryPlan, PiecesComeFromTheTopAndAreTakenOnce) {
    MemoryPlan plan;
    ASSERT_EQ(plan.make(machine_with({phys_range(0x4000'0000, 0x6000'0000)}), occupied, page), nullptr);
    const std::uint64_t before = plan.free_bytes();
    const PhysRange first = plan.take(3 * mib, 2 * mib);
    EXPECT_EQ(first, phys_range(0x5fc0'0000, 0x5ff0'0000));
    const PhysRange second = plan.take(3 * mib, 2 * mib);
    EXPECT_FALSE(second.overlaps(first));
    EXPECT_EQ(plan.free_bytes(), before - 6 * mib);
    EXPECT_TRUE(plan.take(plan.free_bytes() + page, page).empty());
}

TEST(MemoryPlan, AZoneOfPagesIsPartOfTheLayout) {
    MemoryPlan plan;
    ASSERT_EQ(plan.make(machine_with({phys_range(0x4000'0000, 0x6000'0000)}), occupied, page), nullptr);
    const PhysRange zone = plan.take_page_zone(4 * mib, page);
    EXPECT_EQ(plan.layout().zones[2].range, zone);
    EXPECT_EQ(plan.layout().zones[2].kind, ZoneKind::pages);
}

TEST(MemoryPlan, WhatIsGivenAKeyKeepsItsSizeAndIsWritable) {
    MemoryPlan plan;
    ASSERT_EQ(plan.make(machine_with({phys_range(0x4000'0000, 0x6000'0000)}), occupied, page), nullptr);
    const PhysRange tables = plan.take(4 * mib, 2 * mib);
    ASSERT_TRUE(plan.give_key(tables, 1));
    const Zone& zone = plan.layout().zones[2];
    EXPECT_EQ(zone.range, tables);
    EXPECT_EQ(zone.kind, ZoneKind::fixed_size);
    EXPECT_TRUE(zone.has_attributes);
    EXPECT_EQ(zone.attributes, Attributes{}.with_key(1));
}

RC_GTEST_PROP(MemoryPlan, FreeAndTakenMemoryAddUpToAllMemory, ()) {
    BootInformation information;
    std::uint64_t at = 0;
    for (int i = *rc::gen::inRange(1, 6); i > 0; --i) {
        at += *rc::gen::inRange<std::uint64_t>(1, 64) * mib;
        const std::uint64_t size = *rc::gen::inRange<std::uint64_t>(1, 64) * mib;
        RC_ASSERT(information.memory.insert({PhysAddr{at}, size}));
        at += size;
    }
    for (int i = *rc::gen::inRange(0, 6); i > 0; --i) {
        const PhysRange range{PhysAddr{*rc::gen::inRange<std::uint64_t>(0, at)},
                              *rc::gen::inRange<std::uint64_t>(1, mib)};
        RC_ASSERT(information.reserved.insert(range));
    }
    information.memory.merge();
    MemoryPlan plan;
    RC_ASSERT(plan.make(information, {}, page) == nullptr);
    std::uint64_t taken = 0;
    for (int i = *rc::gen::inRange(0, 5); i > 0; --i)
        taken += plan.take(*rc::gen::inRange<std::uint64_t>(1, 32) * mib, page).size;
    // Page by page, by another way: in RAM, and touched by nothing that is reserved.
    std::uint64_t untouched = 0;
    for (const PhysRange& bank : information.memory) {
        for (PhysAddr p = bank.start; p < bank.end(); p = p + page)
            untouched += information.reserved.overlaps({p, page}) ? 0 : page;
    }
    RC_ASSERT(plan.free_bytes() + taken == untouched);
    // No two free ranges touch.
    PhysAddr last{};
    plan.for_each_free([&](PhysRange range) {
        RC_ASSERT(range.start >= last);
        last = range.end();
    });
}

} // namespace
} // namespace directmap::kernel

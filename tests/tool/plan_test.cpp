#include "plan.hpp"

#include "input_error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <fmt/format.h>
#include <set>

namespace directmap::tool {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint64_t k = 1024, m = 1024 * k, g = 1024 * m;

MemoryMap map_of(std::vector<Range> ram) {
    MemoryMap map;
    map.source = "FILE";
    map.format = MemoryMapFormat::list;
    map.ram = std::move(ram);
    return map;
}

MemoryMap data_map(const std::string& name) {
    return read_memory_map(DIRECTMAP_SOURCE_DIR "/tests/data/memmaps/" + name);
}

std::string error_of(const MemoryMap& map, const PlanRequest& request) {
    try {
        static_cast<void>(make_plan(map, request));
    } catch (const InputError& error) {
        return error.what();
    }
    return "no error";
}

PlanRequest with(Translation translation) {
    PlanRequest request;
    request.translation = translation;
    return request;
}

// ---- counts that are known

TEST(Plan, AnAmpereServerHas687LargeLeaves) {
    const Plan plan = make_plan(data_map("iomem-ampere-emag-256g.txt"), {});
    EXPECT_EQ(plan.leaf_sizes, (std::vector<std::uint64_t>{g, 32 * m, 2 * m, 64 * k, 4 * k}));
    EXPECT_THAT(plan.large.leaves, ElementsAre(253, 79, 102, 253, 0));
    EXPECT_EQ(plan.large.leaf_count, 687U);
    EXPECT_EQ(plan.large.bytes, 274537971712U);
}

TEST(Plan, ABroadcomServerHas269LargeLeaves) {
    const Plan plan = make_plan(data_map("iomem-broadcom-stingray.txt"), {});
    EXPECT_THAT(plan.large.leaves, ElementsAre(46, 59, 54, 100, 10));
}

TEST(Plan, PagesOf256GiBTake512MiBOfLastLevelTables) {
    const Plan plan = make_plan(map_of({{0x8000000000, 0x8000000000 + 256 * g}}), {});
    EXPECT_THAT(plan.large.leaves, ElementsAre(256, 0, 0, 0, 0));
    EXPECT_EQ(plan.large.tables, 2U);
    EXPECT_THAT(plan.pages.leaves, ElementsAre(0, 0, 0, 0, 256 * g / (4 * k)));
    EXPECT_EQ(plan.pages.tables, 2 + 256 + 256 * 512U);
    EXPECT_EQ(plan.pages.table_bytes - 258 * 4 * k, 512 * m);
}

TEST(Plan, OtherGranulesHaveTheirOwnLeafSizes) {
    const MemoryMap map = map_of({{0, 16 * g}});
    const Plan plan_16k = make_plan(map, with({14, 48, false}));
    EXPECT_EQ(plan_16k.leaf_sizes, (std::vector<std::uint64_t>{g, 32 * m, 2 * m, 16 * k}));
    EXPECT_THAT(plan_16k.large.leaves, ElementsAre(16, 0, 0, 0));
    const Plan plan_64k = make_plan(map, with({16, 48, false}));
    EXPECT_EQ(plan_64k.leaf_sizes, (std::vector<std::uint64_t>{16 * g, 512 * m, 2 * m, 64 * k}));
    EXPECT_THAT(plan_64k.large.leaves, ElementsAre(1, 0, 0, 0));
}

TEST(Plan, GroupsOf1GBlocksAreUsedWhenAskedFor) {
    const MemoryMap map = map_of({{16 * g, 49 * g}});
    EXPECT_THAT(make_plan(map, {}).large.leaves, ElementsAre(33, 0, 0, 0, 0));
    EXPECT_THAT(make_plan(map, with({12, 48, true})).large.leaves, ElementsAre(2, 1, 0, 0, 0, 0));
}

TEST(Plan, TheDefaultOffsetCostsNoAlignment) {
    for (const unsigned va_bits : {39U, 48U, 52U}) {
        const Plan plan = make_plan(map_of({{g + 4 * k, 5 * g}}), with({12, va_bits, false}));
        EXPECT_EQ(plan.offset + g, 0 - (std::uint64_t{1} << va_bits));
        EXPECT_EQ(plan.large.leaves.front(), 3U);
    }
}

// ---- zones, exclusions, edges

TEST(Plan, ExcludingTheCrashKernelLeavesAHole) {
    PlanRequest request;
    request.exclude_crash_kernel = true;
    const MemoryMap map = data_map("iomem-ampere-emag-256g.txt");
    const Plan plan = make_plan(map, request);
    EXPECT_THAT(plan.excluded, ElementsAre(map.crash_kernel.front().range));
    EXPECT_EQ(plan.large.bytes, 274537971712U - 272 * m);
    EXPECT_TRUE(std::any_of(plan.lost.begin(), plan.lost.end(), [](const LostLeaf& lost) {
        return lost.reason == LossReason::exclusion && lost.name == "Crash kernel";
    }));
}

TEST(Plan, AZoneOfPagesIsPagesInTheZonedLayoutAlone) {
    PlanRequest request;
    request.pages = {{g, g + 2 * m}};
    const Plan plan = make_plan(map_of({{0, 4 * g}}), request);
    EXPECT_THAT(plan.large.leaves, ElementsAre(4, 0, 0, 0, 0));
    EXPECT_THAT(plan.zoned.leaves, ElementsAre(3, 31, 15, 0, 512));
    ASSERT_EQ(plan.lost.size(), 3U);
    EXPECT_EQ(plan.lost[0].range, (Range{g, g + 2 * m}));
    EXPECT_EQ(plan.lost[0].size, 4 * k);
    EXPECT_EQ(plan.lost[0].instead_of, g);
    for (const LostLeaf& lost : plan.lost) {
        EXPECT_EQ(lost.reason, LossReason::zone);
        EXPECT_EQ(lost.cause, (Range{g, g + 2 * m}));
        EXPECT_EQ(lost.name, "--pages");
    }
}

TEST(Plan, AStaticZoneStaysLargeInAMapByPages) {
    PlanRequest request;
    request.statics = {{32 * m, 96 * m}};
    const Plan plan = make_plan(map_of({{0, g}}), request);
    EXPECT_THAT(plan.pages.leaves, ElementsAre(0, 2, 0, 0, (g - 64 * m) / (4 * k)));
    EXPECT_THAT(plan.large.leaves, ElementsAre(0, 32, 0, 0, 0)); // no leaf straddles its edges
}

TEST(Plan, EdgesOfRamThatAreNoWholePagesAreRoundedInwardAndReported) {
    const Plan plan = make_plan(map_of({{0x1000, 0x9fc00}, {0x100000, 0x100800}, {0x200400, 0x300000}}), {});
    EXPECT_THAT(plan.ram, ElementsAre(Range{0x1000, 0x9f000}, Range{0x201000, 0x300000}));
    EXPECT_THAT(plan.rounded,
                ElementsAre(Range{0x9f000, 0x9fc00}, Range{0x100000, 0x100800}, Range{0x200400, 0x201000}));
}

TEST(Plan, WhatMakesAnEdgeUnalignedIsWhatIsInTheWay) {
    MemoryMap map = map_of({{0, 0x9fc00}, {0x100000, 2 * m}});
    map.nomap = {{{0x9fc00, 0xa0000}, "EBDA"}};
    const Plan plan = make_plan(map, {});
    const auto below = std::find_if(plan.lost.begin(), plan.lost.end(),
                                    [](const LostLeaf& lost) { return lost.range.end == 0x9f000; });
    ASSERT_NE(below, plan.lost.end());
    EXPECT_EQ(below->reason, LossReason::hole);
    EXPECT_EQ(below->name, "EBDA");
    EXPECT_EQ(below->cause, (Range{0x9fc00, 0xa0000}));
}

TEST(Plan, AHoleIsNamedAsTheSourceNamesIt) {
    const Plan plan = make_plan(data_map("dmesg-sm8550-phone.txt"), {});
    std::set<std::string> names;
    for (const LostLeaf& lost : plan.lost) names.insert(lost.name);
    EXPECT_THAT(names, testing::Contains("mpss-region@8a800000"));
}

TEST(Plan, AMisalignedOffsetIsToldAsAlignment) {
    PlanRequest request;
    request.offset = 0xffff000000010000;
    const Plan plan = make_plan(map_of({{0, 4 * g}}), request);
    EXPECT_THAT(plan.large.leaves, ElementsAre(0, 0, 0, 4 * g / (64 * k), 0));
    ASSERT_EQ(plan.lost.size(), 1U);
    EXPECT_EQ(plan.lost[0].reason, LossReason::alignment);
    EXPECT_EQ(plan.lost[0].range, (Range{0, 4 * g}));
    EXPECT_EQ(plan.lost[0].instead_of, 2 * m);
}

TEST(Plan, LeavesOnBothSidesOfABoundaryAreLostToTheEdgeOfTheirSide) {
    const Plan plan = make_plan(map_of({{48 * m, 80 * m}}), {}); // 16 x 2M, around the boundary of 32M leaves at 64M
    ASSERT_EQ(plan.lost.size(), 2U);
    EXPECT_EQ(plan.lost[0].range, (Range{48 * m, 64 * m}));
    EXPECT_EQ(plan.lost[0].cause.end, 48 * m);
    EXPECT_EQ(plan.lost[1].range, (Range{64 * m, 80 * m}));
    EXPECT_EQ(plan.lost[1].cause.start, 80 * m);
}

TEST(Plan, OfTwoEdgesInTheWayTheNearerOneIsNamed) {
    const Plan plan = make_plan(map_of({{g + m + 4 * k, g + m + 192 * k}}), {});
    ASSERT_EQ(plan.lost.size(), 2U);
    EXPECT_EQ(plan.lost[0].size, 4 * k);
    EXPECT_EQ(plan.lost[0].cause.end, g + m + 4 * k);
    EXPECT_EQ(plan.lost[1].size, 64 * k); // 60 KiB from the lower edge, at the upper one
    EXPECT_EQ(plan.lost[1].cause.start, g + m + 192 * k);
}

TEST(Plan, AHoleBesideAnExclusionIsStillAHole) {
    PlanRequest request;
    request.exclude = {{g + 4 * m, g + 6 * m}}; // RAM; what is mapped below it ends 2 MiB earlier
    const Plan plan = make_plan(map_of({{0, g + 2 * m}, {g + 4 * m, 2 * g}}), request);
    const auto at = [&](std::uint64_t start) {
        return *std::find_if(plan.lost.begin(), plan.lost.end(),
                             [&](const LostLeaf& l) { return l.range.start == start; });
    };
    EXPECT_EQ(at(g).reason, LossReason::hole);
    EXPECT_EQ(at(g).cause, (Range{g + 2 * m, g + 4 * m}));
    EXPECT_EQ(at(g + 6 * m).reason, LossReason::exclusion);
    EXPECT_EQ(at(g + 6 * m).cause, (Range{g + 4 * m, g + 6 * m}));
}

TEST(Plan, TheOuterEdgesOfRamAreTold) {
    const Plan plan = make_plan(map_of({{g + 2 * m, 2 * g + 4 * k}}), {});
    ASSERT_FALSE(plan.lost.empty());
    EXPECT_EQ(plan.lost.front().reason, LossReason::end_of_ram);
    EXPECT_EQ(plan.lost.front().cause, (Range{0, g + 2 * m}));
    EXPECT_EQ(plan.lost.back().reason, LossReason::end_of_ram);
    EXPECT_EQ(plan.lost.back().cause.start, 2 * g + 4 * k);
}

// ---- requests that cannot be met

TEST(Plan, ATranslationThatDoesNotExistIsAnError) {
    EXPECT_THAT(error_of(map_of({{0, g}}), with({12, 42, false})),
                AllOf(HasSubstr("--va-bits"), HasSubstr("39, 48, 52")));
    EXPECT_THAT(error_of(map_of({{0, g}}), with({16, 48, true})), HasSubstr("--contiguous-top"));
    EXPECT_THAT(error_of(map_of({{0, g}}), with({13, 48, false})), HasSubstr("--granule"));
}

TEST(Plan, RamThatDoesNotFitIsAnError) {
    EXPECT_THAT(error_of(map_of({{0, g}, {g << 10, (g << 10) + g}}), with({12, 39, false})),
                AllOf(HasSubstr("FILE: "), HasSubstr("512 GiB")));
    EXPECT_THAT(error_of(map_of({{std::uint64_t{1} << 50, (std::uint64_t{1} << 50) + g}}), {}),
                AllOf(HasSubstr("FILE: "), HasSubstr("48 bits of physical address"), HasSubstr("--va-bits 52")));
}

TEST(Plan, AnOffsetThatPutsRamInBothHalvesIsAnError) {
    PlanRequest request;
    request.offset = 0 - (std::uint64_t{1} << 48) - 2 * g;
    EXPECT_THAT(error_of(map_of({{g, 4 * g}}), request), HasSubstr("virtual address space"));
    request.offset = 0x800;
    EXPECT_THAT(error_of(map_of({{g, 4 * g}}), request), AllOf(HasSubstr("--offset"), HasSubstr("4K page")));
}

TEST(Plan, ZonesAndExclusionsMustNameRam) {
    const MemoryMap map = map_of({{g, 2 * g}});
    PlanRequest request;
    request.pages = {{4 * g, 5 * g}};
    EXPECT_THAT(error_of(map, request), AllOf(HasSubstr("--pages"), HasSubstr("no RAM at 100000000-13fffffff")));
    request = {};
    request.statics = {{0, m}};
    EXPECT_THAT(error_of(map, request), AllOf(HasSubstr("--static"), HasSubstr("no RAM")));
    request = {};
    request.exclude = {{0, m}};
    EXPECT_THAT(error_of(map, request), AllOf(HasSubstr("--exclude"), HasSubstr("no RAM")));
    request = {};
    request.exclude_crash_kernel = true;
    EXPECT_THAT(error_of(map, request), AllOf(HasSubstr("--exclude-crash-kernel"), HasSubstr("FILE")));
    request = {};
    request.exclude = {{g, 2 * g}};
    EXPECT_THAT(error_of(map, request), AllOf(HasSubstr("FILE"), HasSubstr("no 4K page of RAM is left")));
}

TEST(Plan, ZonesAreWholePagesAndOfOneKind) {
    PlanRequest request;
    request.pages = {{g, g + m + 1}};
    EXPECT_THAT(error_of(map_of({{g, 2 * g}}), request),
                AllOf(HasSubstr("--pages"), HasSubstr("the end is the last byte")));
    request.pages = {{g, g + 2 * m}};
    request.statics = {{g + m, g + 4 * m}};
    EXPECT_THAT(error_of(map_of({{g, 2 * g}}), request), AllOf(HasSubstr("--static"), HasSubstr("--pages")));
}

// ---- against an independent count

/// The architecture's leaf sizes once more, written down by hand: bytes and the level of the descriptors.
struct KnownLeaf {
    std::uint64_t bytes;
    int level;
};
std::vector<KnownLeaf> known_leaves(const Translation& t) {
    switch (t.granule_shift) {
    case 12:
        if (t.contiguous_top) return {{16 * g, 1}, {g, 1}, {32 * m, 2}, {2 * m, 2}, {64 * k, 3}, {4 * k, 3}};
        return {{g, 1}, {32 * m, 2}, {2 * m, 2}, {64 * k, 3}, {4 * k, 3}};
    case 14: return {{g, 2}, {32 * m, 2}, {2 * m, 3}, {16 * k, 3}};
    default: return {{16 * g, 2}, {512 * m, 2}, {2 * m, 3}, {64 * k, 3}};
    }
}

/// Lays leaves one by one, each the largest that its address and the rest of the range allow, and remembers every table
/// on the way to them. It shares nothing with the engine's calculation but the rules of the architecture.
struct BruteForce {
    Translation translation;
    std::uint64_t offset = 0;
    std::vector<std::uint64_t> leaves;
    std::set<std::pair<int, std::uint64_t>> tables;

    BruteForce(const Translation& t, std::uint64_t o) : translation(t), offset(o), leaves(known_leaves(t).size()) {}

    void lay(Range range, bool by_pages) {
        const std::vector<KnownLeaf> sizes = known_leaves(translation);
        const std::uint64_t va_mask = (std::uint64_t{1} << translation.va_bits) - 1;
        while (!range.empty()) {
            std::size_t i = by_pages ? sizes.size() - 1 : 0;
            while (range.start % sizes[i].bytes != 0 || (range.start + offset) % sizes[i].bytes != 0 ||
                   range.size() < sizes[i].bytes)
                ++i;
            ++leaves[i];
            const unsigned index_bits = translation.granule_shift - 3;
            for (int level = sizes[i].level;; --level) {
                // What one table of this level covers.
                const unsigned shift = translation.granule_shift + index_bits * static_cast<unsigned>(4 - level);
                if (shift >= translation.va_bits) {
                    tables.emplace(level, 0); // the root
                    break;
                }
                if (!tables.emplace(level, ((range.start + offset) & va_mask) >> shift).second) break;
            }
            range.start += sizes[i].bytes;
        }
    }
};

struct Scenario {
    std::vector<Range> ram;
    PlanRequest request;
};

/// Ranges that start and end at interesting places: multiples of leaf sizes, now and then a few pages off.
std::vector<Range> any_ranges(std::uint64_t page, std::uint64_t limit, int most) {
    const auto near = [&] {
        const std::uint64_t unit = *rc::gen::element(g, 512 * m, 32 * m, 2 * m, 64 * k, page);
        const std::uint64_t at =
            *rc::gen::inRange<std::uint64_t>(0, limit / std::max(unit, page)) * std::max(unit, page);
        const std::uint64_t off = *rc::gen::inRange<std::uint64_t>(0, 4) * page;
        return at / page * page + off;
    };
    std::vector<Range> ranges;
    const int count = *rc::gen::inRange(1, most + 1);
    for (int i = 0; i < count; ++i) {
        const std::uint64_t a = near(), b = near();
        ranges.push_back({std::min(a, b), std::max(a, b) + page});
    }
    return merged(ranges);
}

Scenario any_scenario() {
    Scenario s;
    s.request.translation = *rc::gen::element(
        Translation{12, 39, false}, Translation{12, 48, false}, Translation{12, 48, true}, Translation{12, 52, false},
        Translation{14, 47, false}, Translation{14, 48, false}, Translation{14, 52, false}, Translation{16, 42, false},
        Translation{16, 48, false}, Translation{16, 52, false});
    const std::uint64_t page = std::uint64_t{1} << s.request.translation.granule_shift;
    // Pages are counted one by one, so a few GiB must do; far banks are moved apart afterwards.
    std::uint64_t move = 0;
    for (const Range& range : any_ranges(page, 3 * g, 6)) {
        s.ram.push_back({range.start + move, range.end + move});
        move += *rc::gen::element<std::uint64_t>(0, 0, 16 * g, 100 * g);
    }
    s.ram = merged(s.ram);
    if (*rc::gen::arbitrary<bool>()) {
        const std::uint64_t unit = *rc::gen::element(page, 64 * k, 2 * m, 32 * m, g, 16 * g);
        const std::uint64_t base = 0 - (std::uint64_t{1} << s.request.translation.va_bits);
        s.request.offset = base + *rc::gen::inRange<std::uint64_t>(0, 8) * std::max(unit, page);
    }
    const auto in_ram = [&](int most) {
        std::vector<Range> zones = any_ranges(page, 3 * g, most);
        return intersect(zones, s.ram);
    };
    if (*rc::gen::arbitrary<bool>()) s.request.exclude = in_ram(2);
    const std::vector<Range> rest = subtract(s.ram, merged(s.request.exclude));
    RC_PRE(!rest.empty());
    if (*rc::gen::arbitrary<bool>()) s.request.pages = intersect(in_ram(2), rest);
    if (*rc::gen::arbitrary<bool>()) s.request.statics = subtract(intersect(in_ram(2), rest), merged(s.request.pages));
    return s;
}

/// Leaf-wise, one zone or stretch between zones at a time.
BruteForce brute_force(const Scenario& s, const Plan& plan, bool zones_of_pages, bool by_pages) {
    BruteForce brute(s.request.translation, plan.offset);
    const std::vector<Range> ram = subtract(s.ram, merged(s.request.exclude));
    const std::vector<Range> statics = intersect(merged(s.request.statics), ram);
    const std::vector<Range> pages = zones_of_pages ? intersect(merged(s.request.pages), ram) : std::vector<Range>{};
    for (const Range& range : subtract(subtract(ram, statics), pages)) brute.lay(range, by_pages);
    for (const Range& range : statics) brute.lay(range, false);
    for (const Range& range : pages) brute.lay(range, true);
    return brute;
}

RC_GTEST_PROP(PlanProperty, LeavesAndTablesAreThoseOfAnIndependentCount, ()) {
    const Scenario s = any_scenario();
    const Plan plan = make_plan(map_of(s.ram), s.request);
    const auto check = [&](const LayoutFigures& figures, const BruteForce& brute) {
        RC_ASSERT(figures.leaves == brute.leaves);
        RC_ASSERT(figures.tables == brute.tables.size());
        RC_ASSERT(figures.table_bytes == figures.tables << s.request.translation.granule_shift);
        RC_ASSERT(figures.bytes == total_size(plan.ram));
    };
    check(plan.large, brute_force(s, plan, false, false));
    check(plan.zoned, brute_force(s, plan, true, false));
    check(plan.pages, brute_force(s, plan, false, true));
}

RC_GTEST_PROP(PlanProperty, EveryLeafThatIsNotTheLargestIsExplainedOnce, ()) {
    const Scenario s = any_scenario();
    const Plan plan = make_plan(map_of(s.ram), s.request);
    std::vector<std::uint64_t> explained(plan.leaf_sizes.size());
    std::vector<Range> places;
    for (const LostLeaf& lost : plan.lost) {
        const auto size = std::find(plan.leaf_sizes.begin(), plan.leaf_sizes.end(), lost.size);
        RC_ASSERT(size != plan.leaf_sizes.end());
        RC_ASSERT(lost.range.size() % lost.size == 0U);
        explained[static_cast<std::size_t>(size - plan.leaf_sizes.begin())] += lost.leaf_count();
        places.push_back(lost.range);
    }
    RC_ASSERT(explained.front() == 0U);
    for (std::size_t i = 1; i < explained.size(); ++i) RC_ASSERT(explained[i] == plan.zoned.leaves[i]);
    RC_ASSERT(total_size(merged(places)) == total_size(places)); // none twice
}

RC_GTEST_PROP(PlanProperty, WhatIsToldToBeInTheWayIsInTheWay, ()) {
    const Scenario s = any_scenario();
    const Plan plan = make_plan(map_of(s.ram), s.request);
    for (const LostLeaf& lost : plan.lost) {
        RC_ASSERT(lost.instead_of > lost.size);
        if (lost.reason == LossReason::alignment) {
            RC_ASSERT(plan.offset % lost.instead_of != 0U);
            continue;
        }
        const bool in_zone_of_pages =
            lost.cause.contains(lost.range) && !intersect(merged(s.request.pages), {lost.cause}).empty();
        if (lost.reason == LossReason::zone && in_zone_of_pages) continue;
        // The larger leaf that these leaves would have been part of: it reaches into the cause.
        const std::uint64_t start = lost.range.start / lost.instead_of * lost.instead_of;
        const Range block{start, start + lost.instead_of};
        RC_ASSERT(block.contains(lost.range));
        RC_ASSERT(block.overlaps(lost.cause) && !lost.cause.contains(block));
        if (lost.reason == LossReason::zone) {
            RC_ASSERT(!intersect(merged(s.request.pages), {lost.cause}).empty() ||
                      !intersect(merged(s.request.statics), {lost.cause}).empty());
            continue;
        }
        RC_ASSERT(intersect({lost.cause}, plan.ram).empty());
        RC_ASSERT((lost.reason == LossReason::exclusion) ==
                  !intersect(merged(s.request.exclude), {lost.cause}).empty());
        if (lost.reason == LossReason::end_of_ram)
            RC_ASSERT(lost.cause.end <= plan.ram.front().start || lost.cause.start >= plan.ram.back().end);
    }
}

RC_GTEST_PROP(PlanProperty, EveryByteOfRamIsMappedRoundedOrExcluded, ()) {
    std::vector<Range> ram;
    std::uint64_t at = 0;
    for (const auto& [gap, size] :
         *rc::gen::nonEmpty(rc::gen::container<std::vector<std::pair<std::uint64_t, std::uint64_t>>>(rc::gen::pair(
             rc::gen::inRange<std::uint64_t>(1, 300 * k), rc::gen::inRange<std::uint64_t>(1, 300 * k))))) {
        ram.push_back({at + gap, at + gap + size});
        at += gap + size;
    }
    PlanRequest request;
    request.exclude = {ram.front().start + 1 < ram.front().end ? Range{ram.front().start + 1, ram.front().end}
                                                               : ram.front()};
    std::optional<Plan> plan;
    try {
        plan = make_plan(map_of(ram), request);
    } catch (const InputError& error) {
        RC_ASSERT(error.reason().find("no 4K page of RAM is left") != std::string::npos);
        return;
    }
    std::vector<Range> all = plan->ram;
    all.insert(all.end(), plan->rounded.begin(), plan->rounded.end());
    all.insert(all.end(), plan->excluded.begin(), plan->excluded.end());
    RC_ASSERT(total_size(all) == total_size(ram));
    RC_ASSERT(merged(all) == merged(ram));
    for (const Range& range : plan->ram) RC_ASSERT(range.start % (4 * k) == 0U && range.end % (4 * k) == 0U);
}

} // namespace
} // namespace directmap::tool

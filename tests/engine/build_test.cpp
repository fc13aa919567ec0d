// Building: the largest leaves that alignment allows, zones and holes, boot memory, and what a layout costs.
#include <array>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "support/host_platform.hpp"
#include "support/leaves.hpp"
#include "support/operations.hpp"
#include "support/scenario.hpp"
#include "support/scripts.hpp"

namespace directmap::test {
namespace {

using machine::RigConfig;
using Leaves = std::array<std::uint64_t, 6>;
constexpr std::uint64_t start = 4 * gib;

TEST(Build, AlignedRamIsMappedByTheLargestLeaves) {
    Rig4K rig{ram(start, 64 * gib)};
    ASSERT_TRUE(rig.built());
    EXPECT_EQ(rig.leaves(), (Leaves{64}));
    EXPECT_EQ(rig.initial_tables(), 2U);
    EXPECT_EQ(rig.check(), "");
}

TEST(Build, GroupsOfTheLargestBlockAreThereWhenAskedFor) {
    machine::Rig<arm64::Format4K48TopGroups> rig{ram(48 * gib, 40 * gib)};
    EXPECT_EQ(rig.leaves(), (Leaves{2, 8}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Build, AnUnalignedEdgeIsMappedByEverSmallerLeaves) {
    Rig4K rig{ram(start + 4 * kib, 2 * gib - 4 * kib)};
    EXPECT_EQ(rig.leaves(), (Leaves{1, 31, 15, 31, 15}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Build, AdjoiningRangesThatAgreeShareLeaves) {
    RigConfig config = ram(start, gib / 2);
    config.ram.push_back({at(start + gib / 2, gib / 2 + gib), {}});
    Rig4K rig{config};
    EXPECT_EQ(rig.leaves(), (Leaves{2}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Build, AdjoiningRangesThatDisagreeDoNot) {
    RigConfig config = ram(start, gib / 2);
    config.ram.push_back({at(start + gib / 2, gib / 2 + gib), Attributes{}.with_executable(true)});
    Rig4K rig{config};
    EXPECT_EQ(rig.leaves(), (Leaves{1, 32}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Build, AnExclusionLeavesAHoleAndTheLargestLeavesAroundIt) {
    RigConfig config = ram(start, 4 * gib);
    config.zones = {{.range = at(start + gib + 2 * mib, 2 * mib), .kind = ZoneKind::excluded}};
    Rig4K rig{config};
    EXPECT_EQ(rig.leaves(), (Leaves{3, 31, 15}));
    EXPECT_FALSE(rig.map().translate(PhysAddr{start + gib + 2 * mib}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Build, AZoneOfPagesIsByPagesAndTheRestStaysLarge) {
    RigConfig config = ram(start, 4 * gib);
    config.zones = {{.range = at(start + gib, 2 * mib + 4 * kib), .kind = ZoneKind::pages}};
    config.bbm = 0; // a machine that can't resize: only what is declared is by pages
    Rig4K rig{config};
    EXPECT_EQ(rig.leaves(), (Leaves{3, 31, 14, 31, 512 + 1 + 15}));
    ASSERT_TRUE(rig.protect(at(start + gib + 2 * mib, 4 * kib), Change{}.writable(false)));
    EXPECT_EQ(rig.check(), "");
}

TEST(Build, AZonesOwnAttributesApply) {
    RigConfig config = ram(start, 4 * gib);
    config.zones = {{.range = at(start + gib, 32 * mib),
                     .kind = ZoneKind::fixed_size,
                     .has_attributes = true,
                     .attributes = Attributes{}.with_writable(false).with_executable(true)}};
    Rig4K rig{config};
    EXPECT_EQ(rig.leaves(), (Leaves{3, 32}));
    const Attributes found = rig.map().translate(PhysAddr{start + gib}).value().attributes;
    EXPECT_FALSE(found.writable());
    EXPECT_TRUE(found.executable() && found.fixed());
    EXPECT_EQ(rig.check(), "");
}

TEST(Build, ZonesOutsideOfRamAreIgnored) {
    RigConfig config = ram(start, 4 * gib);
    config.zones = {{.range = at(gib, gib), .kind = ZoneKind::pages},
                    {.range = at(start - 4 * kib, 8 * kib), .kind = ZoneKind::excluded},
                    {.range = at(start + 100 * gib, gib), .kind = ZoneKind::excluded}};
    Rig4K rig{config};
    EXPECT_EQ(rig.leaves(), (Leaves{3, 31, 15, 31, 15}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Build, PagesOnlyMeansPagesOnly) {
    RigConfig config = ram(start, 64 * mib);
    config.mapping = Mapping::pages;
    Rig4K rig{config};
    EXPECT_EQ(rig.leaves(), (Leaves{0, 0, 0, 0, 16384}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Build, TheOffsetsAlignmentBoundsTheLeaves) {
    const struct {
        std::uint64_t skew;
        Leaves leaves;
    } cases[] = {
        {32 * mib, {0, 32}}, {2 * mib, {0, 0, 512}}, {64 * kib, {0, 0, 0, 16384}}, {4 * kib, {0, 0, 0, 0, 262144}}};
    for (const auto& c : cases) {
        RigConfig config = ram(start, gib);
        config.offset += c.skew;
        Rig4K rig{config};
        EXPECT_EQ(rig.leaves(), c.leaves) << c.skew;
        EXPECT_EQ(rig.check(), "") << c.skew;
    }
}

TEST(Build, ItTakesAsManyTablesAsMeasureSays) {
    RigConfig config = ram(start + 4 * kib, 3 * gib);
    config.ram.push_back({at(2 * tib - 12 * kib, 5 * gib), {}});
    config.zones = {{.range = at(start + gib, 70 * kib & ~(4 * kib - 1)), .kind = ZoneKind::pages}};
    Rig4K rig{config};
    ASSERT_TRUE(rig.built());
    const Layout layout{{config.ram.data(), config.ram.size()}, {config.zones.data(), config.zones.size()}};
    const Measure m = measure<Rig4K::G>(layout, config.offset, Mapping::largest);
    EXPECT_EQ(rig.initial_tables(), m.tables);
    EXPECT_EQ(m.bytes, 8 * gib);
    for (unsigned i = 0; i < 6; ++i) EXPECT_EQ(rig.leaves()[i], m.leaves[i]);
    EXPECT_EQ(rig.check(), "");
}

TEST(Build, ItsWorkIsLinearInTheLeavesThatItMakes) {
    const auto events_of = [](std::uint64_t size) { return Rig4K{ram(start, size)}.machine().events(); };
    EXPECT_LT(events_of(4 * tib), events_of(4 * gib) + 200); // a fill for each table of 512 leaves
}

TEST(Build,
     NothingTranslatesThroughItBeforeItIsComplete) { // the machine judges the whole tree when the first CPU enters
    EventLog log;
    RigConfig config = ram(start + 4 * kib, 4 * gib);
    config.record = log.sink();
    Rig4K rig{config};
    bool published = false;
    for (const machine::Event& e : log.events()) {
        const std::string_view call = e.call;
        if (call == "fill") published = false;
        if (call == "barrier_publish") published = true;
        if (call == "install") {
            EXPECT_TRUE(published);
            break;
        }
    }
    EXPECT_EQ(rig.check(), "");
}

// ---- any layout
// -------------------------------------------------------------------------------------------------------------

/// Random RAM, zones, offsets and mappings, as the driver of random lives makes them; then nothing is done to it.
template <class F>
void any_layout_is_mapped_by_the_smallest_cover() {
    using G = typename F::geometry;
    const auto script = random_script(60);
    Driver<F> driver{Script{script.data(), script.size()}, {.most_operations = 0}};
    RC_ASSERT(driver.run() == "");
    auto& rig = driver.rig();
    const machine::RigConfig& config = rig.config();
    // Every page with its attributes: verified by the run. Every leaf as large as can be, zones apart:
    std::vector<LeafItem> expected;
    SegmentCursor cursor{{{config.ram.data(), config.ram.size()}, {config.zones.data(), config.zones.size()}},
                         config.mapping};
    for (Segment s; cursor.next(s);) {
        const LeafItem like{0, 0, machine::access_of(s.attributes), s.attributes.fixed()};
        append_cover<G>(expected, s.range.start.value(), s.range.end().value(), config.offset,
                        s.by_pages ? G::page_size : ~std::uint64_t{0}, like);
    }
    RC_ASSERT(difference(leaves_of(rig.map()), expected) == "");
    const Layout layout{{config.ram.data(), config.ram.size()}, {config.zones.data(), config.zones.size()}};
    const Measure m = measure<G>(layout, config.offset, config.mapping);
    RC_ASSERT(m.tables == rig.initial_tables());
    for (unsigned i = 0; i < G::leaf_sizes.count; ++i) RC_ASSERT(m.leaves[i] == rig.leaves()[i]);
}

RC_GTEST_PROP(AnyLayout, IsMappedByTheSmallestCoverOfSmallTables, ()) {
    any_layout_is_mapped_by_the_smallest_cover<SmallFormat>();
}
RC_GTEST_PROP(AnyLayout, IsMappedByTheSmallestCoverWithGroupsOfTheLargestBlock, ()) {
    any_layout_is_mapped_by_the_smallest_cover<SmallTopGroupsFormat>();
}
RC_GTEST_PROP(AnyLayout, IsMappedByTheSmallestCoverWithTwoLevelsOfLeaves, ()) {
    any_layout_is_mapped_by_the_smallest_cover<SmallTwoLevelFormat>();
}
RC_GTEST_PROP(AnyLayout, IsMappedByTheSmallestCoverOf4KPages, ()) {
    any_layout_is_mapped_by_the_smallest_cover<arm64::Format4K48>();
}
RC_GTEST_PROP(AnyLayout, IsMappedByTheSmallestCoverOf16KPages, ()) {
    any_layout_is_mapped_by_the_smallest_cover<arm64::Format16K48>();
}
RC_GTEST_PROP(AnyLayout, IsMappedByTheSmallestCoverOf64KPages, ()) {
    any_layout_is_mapped_by_the_smallest_cover<arm64::Format64K48>();
}

} // namespace
} // namespace directmap::test

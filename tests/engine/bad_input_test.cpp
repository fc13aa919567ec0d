// Promise P13: whatever a caller hands in, a typed error that says where, and nothing changed.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "support/host_platform.hpp"
#include "support/leaves.hpp"
#include "support/scenario.hpp"

namespace directmap::test {
namespace {

constexpr std::uint64_t start = 4 * gib;
constexpr Change read_only = Change{}.writable(false);

// ---- ranges
// -----------------------------------------------------------------------------------------------------------

struct BadRange {
    const char* name;
    PhysRange range;
    ErrorCode code = ErrorCode::invalid_argument;
    std::uint64_t where = 0; ///< 0: the range's start
};

/// RAM from 4 to 8 GiB with a hole of 64 KiB at 5 GiB.
constexpr std::uint64_t hole = start + gib;
const BadRange bad_ranges[] = {
    {"an_unaligned_start", at(start + 1, 4 * kib)},
    {"a_start_between_pages", at(start + 2 * kib, 4 * kib)},
    {"an_unaligned_size", at(start, 4 * kib + 1)},
    {"half_a_page", at(start, 2 * kib)},
    {"an_empty_range", at(start, 0)},
    {"an_empty_range_at_the_end", at(start + 4 * gib, 0)},
    {"an_address_below", at(start - 4 * kib, 4 * kib)},
    {"a_range_that_begins_below", at(start - 4 * kib, 8 * kib)},
    {"an_address_above", at(start + 4 * gib, 4 * kib)},
    {"a_range_that_ends_above", at(start + 4 * gib - 4 * kib, 8 * kib)},
    {"address_zero", at(0, 4 * kib)},
    {"the_highest_page", at(~std::uint64_t{0} - 4 * kib + 1, 4 * kib)},
    {"a_range_that_wraps_around", at(start + gib, ~std::uint64_t{0} - 4 * kib + 1)},
    {"a_range_that_wraps_to_its_start", at(start + 4 * kib, ~std::uint64_t{0} - 4 * kib + 1)},
    {"everything", at(0, ~std::uint64_t{0} - 4 * kib + 1)},
    {"a_hole", at(hole, 4 * kib), ErrorCode::not_mapped},
    {"a_range_that_ends_in_a_hole", at(hole - 4 * kib, 8 * kib), ErrorCode::not_mapped, hole},
    {"a_range_that_begins_in_a_hole", at(hole + 60 * kib, 8 * kib), ErrorCode::not_mapped},
    {"a_range_across_a_hole", at(start, 3 * gib), ErrorCode::not_mapped, hole},
    {"a_range_of_regions_with_a_hole_in_a_later_one", at(start + 4 * kib, gib), ErrorCode::not_mapped, hole},
};

class ABadRange : public testing::TestWithParam<BadRange> {
protected:
    static machine::RigConfig config() {
        machine::RigConfig c = ram(start, 4 * gib);
        c.zones = {{.range = at(hole, 64 * kib), .kind = ZoneKind::excluded}};
        return c;
    }
    template <class R>
    void expect_refused(const R& result, const char* operation) {
        ASSERT_FALSE(result) << operation;
        EXPECT_EQ(result.error().code(), GetParam().code) << operation;
        const std::uint64_t where = GetParam().where != 0 ? GetParam().where : GetParam().range.start.value();
        EXPECT_EQ(result.error().where().value(), where) << operation;
        EXPECT_STRNE(result.error().reason(), "") << operation;
    }
};

TEST_P(ABadRange, IsRefusedWithItsPlaceAndChangesNothing) {
    Rig4K rig{config()};
    ASSERT_TRUE(rig.protect(at(start + 2 * mib, 4 * kib), read_only));
    const auto before = words_of_tree<Format4K>(rig.platform(), rig.map().root());
    const std::size_t tables = rig.machine().tables_in_use();
    const PhysRange range = GetParam().range;
    auto& map = rig.map();

    expect_refused(map.protect(range, read_only), "protect");
    expect_refused(map.protect(range, Change{}.memory_type(MemoryType::normal_tagged)), "a break");
    expect_refused(map.protect(range, read_only, {.atomic = true}), "atomic protect");
    expect_refused(map.protect_deferred(range, read_only), "protect_deferred");
    expect_refused(map.set_read_only(range), "set_read_only");
    expect_refused(map.set_writable(range), "set_writable");
    expect_refused(map.set_executable(range, true), "set_executable");
    expect_refused(map.set_invalid(range), "set_invalid");
    expect_refused(map.set_valid(range), "set_valid");
    expect_refused(map.set_key(range, 3), "set_key");
    expect_refused(map.tables_needed(range, read_only), "tables_needed");
    expect_refused(map.release(range), "release");
    EXPECT_EQ(words_of_tree<Format4K>(rig.platform(), map.root()), before);
    EXPECT_EQ(rig.machine().tables_in_use(), tables);

    if (GetParam().code == ErrorCode::invalid_argument) { // a hole is nothing that collapse minds
        expect_refused(map.collapse(range), "collapse");
        expect_refused(map.prepare(range), "prepare");
        EXPECT_EQ(words_of_tree<Format4K>(rig.platform(), map.root()), before);
    } else {
        const auto leaves = leaves_of(map);
        expect_refused(map.prepare(range), "prepare"); // may leave smaller leaves, never other attributes or pins
        for (const LeafItem& leaf : leaves_of(map)) EXPECT_FALSE(leaf.fixed);
        ASSERT_TRUE(map.collapse(map.span()));
        EXPECT_EQ(leaves_of(map), leaves);
    }
    EXPECT_EQ(rig.check(), "");
}

INSTANTIATE_TEST_SUITE_P(Such, ABadRange, testing::ValuesIn(bad_ranges),
                         [](const auto& info) { return std::string{info.param.name}; });

TEST(BadInput, TranslateTellsForeignAddressesAndHoles) {
    machine::RigConfig config = ram(start, 4 * gib);
    config.zones = {{.range = at(hole, 64 * kib), .kind = ZoneKind::excluded}};
    Rig4K rig{config};
    for (const std::uint64_t pa : {std::uint64_t{0}, start - 1, start + 4 * gib, ~std::uint64_t{0}}) {
        auto r = rig.map().translate(PhysAddr{pa});
        ASSERT_FALSE(r);
        EXPECT_EQ(r.error().code(), ErrorCode::invalid_argument);
        EXPECT_EQ(r.error().where().value(), pa);
    }
    auto r = rig.map().translate(PhysAddr{hole + 5});
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::not_mapped);
    const auto odd = rig.map().translate(PhysAddr{start + 12345});
    ASSERT_TRUE(odd);
    EXPECT_EQ(odd.value().pa, PhysAddr{start + 12345});
    EXPECT_EQ(odd.value().leaf.bytes(), gib);
}

TEST(BadInput, AHoleIsToldWhereItIsEvenIfItsEntryBeginsBelowAddressZero) {
    machine::RigConfig config;
    config.offset = 0xffff000020000000; // the first entry of 1G begins half a gigabyte below address 0
    config.ram = {{at(0, 16 * mib), {}}, {at(gib, gib), {}}};
    config.zones = {{.range = at(0, 16 * mib), .kind = ZoneKind::excluded}};
    Rig4K rig{config};
    ASSERT_TRUE(rig.built()) << rig.built().error().reason();
    auto r = rig.protect(at(8 * kib, 4 * kib), read_only);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::not_mapped);
    EXPECT_EQ(r.error().where(), PhysAddr{8 * kib});
}

TEST(BadInput, SharingOutsideOfARealmIsUnsupported) {
    Rig4K rig{ram(start, 4 * gib)};
    for (const bool on : {true, false}) {
        auto r = rig.map().set_shared(at(start, 4 * kib), on);
        ASSERT_FALSE(r);
        EXPECT_EQ(r.error().code(), ErrorCode::unsupported);
    }
    EXPECT_EQ(rig.leaves()[of_1g], 4U);
}

TEST(BadInput, AChangeThatNamesNothingDoesNothing) {
    Rig4K rig{ram(start, 4 * gib)};
    ASSERT_TRUE(rig.protect(at(start + 4 * kib, 4 * kib), Change{}));
    EXPECT_EQ(rig.leaves()[of_1g], 4U);
    EXPECT_EQ(rig.check(), "");
}

// ---- layouts
// ------------------------------------------------------------------------------------------------------------

struct BadLayout {
    const char* name;
    std::vector<PhysRange> ram;
    std::vector<PhysRange> zones;
    std::uint64_t offset = 0xffff000000000000;
    std::size_t regions = 8;
    std::uint64_t where = 0; ///< the offender
};

const BadLayout bad_layouts[] = {
    {"no_ram", {}, {}, 0xffff000000000000, 8, 0},
    {"an_empty_range", {at(start, 0)}, {}, 0xffff000000000000, 8, start},
    {"an_empty_second_range", {at(start, gib), at(start + gib, 0)}, {}, 0xffff000000000000, 8, start + gib},
    {"an_unaligned_start", {at(start + 12, gib)}, {}, 0xffff000000000000, 8, start + 12},
    {"an_unaligned_size", {at(start, gib - 1)}, {}, 0xffff000000000000, 8, start},
    {"ranges_out_of_order", {at(start + gib, gib), at(start, gib)}, {}, 0xffff000000000000, 8, start},
    {"overlapping_ranges",
     {at(start, gib), at(start + gib - 4 * kib, gib)},
     {},
     0xffff000000000000,
     8,
     start + gib - 4 * kib},
    {"the_same_range_twice", {at(start, gib), at(start, gib)}, {}, 0xffff000000000000, 8, start},
    {"a_range_that_wraps_around", {at(start, ~std::uint64_t{0} - 4 * kib + 1)}, {}, 0xffff000000000000, 8, start},
    {"a_range_beyond_the_physical_address_space",
     {at(start, gib), at((std::uint64_t{1} << 48) - gib, 2 * gib)},
     {},
     0xffff000000000000,
     8,
     (std::uint64_t{1} << 48) - gib},
    {"an_unaligned_offset", {at(start, gib)}, {}, 0xffff000000000001, 8, 0},
    {"ram_that_crosses_the_end_of_the_address_space", {at(start, gib)}, {}, 0 - start - gib / 2, 8, start},
    {"an_empty_zone", {at(start, gib)}, {at(start, 0)}, 0xffff000000000000, 8, start},
    {"an_unaligned_zone", {at(start, gib)}, {at(start + 1, 4 * kib)}, 0xffff000000000000, 8, start + 1},
    {"overlapping_zones",
     {at(start, gib)},
     {at(start, 8 * kib), at(start + 4 * kib, 4 * kib)},
     0xffff000000000000,
     8,
     start + 4 * kib},
    {"too_few_regions", {at(start, 9 * gib)}, {}, 0xffff000000000000, 8, 0},
};

class ABadLayout : public testing::TestWithParam<BadLayout> {};

TEST_P(ABadLayout, IsRefusedWithItsOffenderAndTakesNothing) {
    const BadLayout& bad = GetParam();
    HostPlatform<> platform{0, 4096};
    std::vector<Region<HostPlatform<>::Lock>> regions(bad.regions);
    DirectMap<Format4K, HostPlatform<>> map{platform, {.offset = bad.offset}, {regions.data(), regions.size()}};
    std::vector<RamRange> ranges;
    std::vector<Zone> zones;
    for (const PhysRange r : bad.ram) ranges.push_back({r, {}});
    for (const PhysRange r : bad.zones) zones.push_back({.range = r});
    auto r = map.build({{ranges.data(), ranges.size()}, {zones.data(), zones.size()}}, Mapping::largest);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::invalid_argument);
    EXPECT_EQ(r.error().where().value(), bad.where) << r.error().reason();
    EXPECT_EQ(platform.tables_in_use(), 0U);
    if (std::string{bad.name} == "too_few_regions") EXPECT_EQ(r.error().needed(), 9U);
}

INSTANTIATE_TEST_SUITE_P(Such, ABadLayout, testing::ValuesIn(bad_layouts),
                         [](const auto& info) { return std::string{info.param.name}; });

TEST(BadInput, EveryErrorCodeHasItsName) {
    EXPECT_STREQ(name(ErrorCode::invalid_argument), "invalid_argument");
    EXPECT_STREQ(name(ErrorCode::not_mapped), "not_mapped");
    EXPECT_STREQ(name(ErrorCode::busy), "busy");
    EXPECT_STREQ(name(ErrorCode::unsupported), "unsupported");
    EXPECT_STREQ(name(ErrorCode::no_tables), "no_tables");
    EXPECT_STREQ(name(ErrorCode::would_block), "would_block");
    EXPECT_STREQ(name(ErrorCode::incompatible), "incompatible");
}

} // namespace
} // namespace directmap::test

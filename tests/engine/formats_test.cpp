// arm64 descriptors of every granule and address size, held against the machine's own reading of the manual; and every
// format building, splitting, changing and healing on the machine.
#include <array>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "machine/regime.hpp"
#include "support/leaves.hpp"
#include "support/scenario.hpp"
#include "support/scripts.hpp"

namespace directmap::test {
namespace {

using machine::Entry;
using machine::Regime;

static_assert(Format<arm64::Format4K39> && Format<arm64::Format4K48> && Format<arm64::Format4K52> &&
              Format<arm64::Format4K48TopGroups> && Format<arm64::Format16K47> && Format<arm64::Format16K48> &&
              Format<arm64::Format16K52> && Format<arm64::Format64K42> && Format<arm64::Format64K48> &&
              Format<arm64::Format64K52>);

// ---- descriptors
// --------------------------------------------------------------------------------------------------------

Attributes random_attributes() {
    const auto bit = [] { return *rc::gen::arbitrary<bool>(); };
    const auto below = [](unsigned n) { return *rc::gen::inRange(0U, n); };
    return Attributes{}
        .with_writable(bit())
        .with_executable(bit())
        .with_valid(bit())
        .with_global(bit())
        .with_shared(bit())
        .with_fixed(bit())
        .with_key(below(8))
        .with_memory_type(static_cast<MemoryType>(below(5)));
}

Change random_change() {
    Change change;
    const Attributes to = random_attributes();
    const unsigned named = *rc::gen::inRange(0U, 256U);
    if ((named & 1) != 0) change = change.writable(to.writable());
    if ((named & 2) != 0) change = change.executable(to.executable());
    if ((named & 4) != 0) change = change.valid(to.valid());
    if ((named & 8) != 0) change = change.global(to.global());
    if ((named & 16) != 0) change = change.shared(to.shared());
    if ((named & 32) != 0) change = change.fixed(to.fixed());
    if ((named & 64) != 0) change = change.key(to.key());
    if ((named & 128) != 0) change = change.memory_type(to.memory_type());
    return change;
}

template <class F>
struct OneDescriptor {
    using G = typename F::geometry;

    OneDescriptor() {
        regime.realm_shared_address = format.realm_shared_address = realm ? std::uint64_t{1} << (G::pa_bits - 1) : 0;
        if (!realm) attributes = attributes.with_shared(false);
        // With a shared-address bit, RAM lies below it.
        const std::uint64_t limit = std::uint64_t{1} << (G::pa_bits - (realm ? 1 : 0));
        const std::uint64_t random = *rc::gen::resize(rc::kNominalSize, rc::gen::inRange<std::uint64_t>(0, limit));
        pa = PhysAddr{align_down(random, G::bytes(level))};
    }
    bool realm = *rc::gen::arbitrary<bool>();
    int level = *rc::gen::inRange(G::first_leaf_level, G::last_level + 1);
    Attributes attributes = random_attributes();
    PhysAddr pa;
    F format;
    Regime regime = machine::regime_of<F>();
};

template <class F>
void a_leaf_means_what_was_meant() {
    const OneDescriptor<F> d;
    const Descriptor leaf = d.format.leaf(d.level, d.pa, d.attributes);
    const Entry entry = d.regime.decode(d.level, leaf.bits());
    RC_ASSERT(entry.problem == nullptr);
    RC_ASSERT(entry.kind == (d.attributes.valid() ? Entry::Kind::leaf : Entry::Kind::invalid));
    RC_ASSERT(entry.pa == d.pa.value());
    RC_ASSERT(entry.access == machine::access_of(d.attributes));
    RC_ASSERT(!entry.contiguous);
    RC_ASSERT(F::is_leaf(d.level, leaf));
    RC_ASSERT(!F::is_table(d.level, leaf));
    RC_ASSERT(d.format.leaf_address(d.level, leaf) == d.pa);
    RC_ASSERT(d.format.attributes(leaf) == d.attributes);
    RC_ASSERT(leaf.any_of(F::valid_mask) == d.attributes.valid());
    RC_ASSERT(leaf.any_of(F::fixed_mask) == d.attributes.fixed());
    RC_ASSERT((leaf & F::key_mask) == F::key_bits(d.attributes.key()));
    if (F::geometry::has_groups(d.level)) {
        const Entry grouped = d.regime.decode(d.level, (leaf | F::contiguous_mask).bits());
        RC_ASSERT(grouped.problem == nullptr);
        RC_ASSERT(grouped.contiguous);
        RC_ASSERT(grouped.access == entry.access);
    }
}

template <class F>
void a_change_is_spelled_as_the_leaf_that_it_makes() {
    const OneDescriptor<F> d;
    Change change = random_change();
    if (!d.format.expressible(change)) {
        RC_ASSERT(change.names_shared());
        RC_DISCARD("sharing needs a realm");
    }
    const Descriptor before = d.format.leaf(d.level, d.pa, d.attributes);
    const DescriptorChange spelled = d.format.spell(d.level, change);
    const Descriptor after = spelled.apply_to(before);
    RC_ASSERT(after == d.format.leaf(d.level, d.pa, change.apply_to(d.attributes)));
    RC_ASSERT(spelled.difference(before) == (before ^ after));
    RC_ASSERT(spelled.difference(after).empty());
    // Only what the architecture lets change in place is outside of the break mask.
    const machine::Access from = machine::access_of(d.attributes),
                          to = machine::access_of(change.apply_to(d.attributes));
    RC_ASSERT((before ^ after).any_of(F::break_mask) == from.must_break_for(to));
    // What software alone reads needs no invalidation.
    RC_ASSERT((before ^ after).without(F::software_mask).empty() == (from == to));
}

template <class F>
void parent_and_child_say_the_same() {
    using G = typename F::geometry;
    const OneDescriptor<F> d;
    if (d.level == G::last_level) RC_DISCARD("pages have no children");
    const Descriptor parent = d.format.leaf(d.level, d.pa, d.attributes);
    const Descriptor child = d.format.leaf(d.level + 1, d.pa, d.attributes);
    RC_ASSERT(F::child_of(d.level, parent) == child);
    RC_ASSERT(F::parent_of(d.level, child) == parent);
    RC_ASSERT(F::child_of(d.level, parent | F::contiguous_mask) == child);
    RC_ASSERT(F::parent_of(d.level, child | F::contiguous_mask) == parent);
}

template <class F>
void neighbours_differ_by_their_address_alone() {
    using G = typename F::geometry;
    const OneDescriptor<F> d;
    const std::uint64_t room =
        (align_down(d.pa.value(), F::progression_limit) + F::progression_limit - d.pa.value()) >> G::shift(d.level);
    const std::uint64_t steps = *rc::gen::inRange<std::uint64_t>(0, std::min<std::uint64_t>(room, G::table_entries));
    const std::uint64_t bytes = steps << G::shift(d.level);
    RC_ASSERT(d.format.leaf(d.level, d.pa, d.attributes).advanced(bytes) ==
              d.format.leaf(d.level, d.pa + bytes, d.attributes));
}

template <class F>
void a_table_pointer_means_what_was_meant() {
    using G = typename F::geometry;
    const std::uint64_t random =
        *rc::gen::resize(rc::kNominalSize, rc::gen::inRange<std::uint64_t>(0, std::uint64_t{1} << G::pa_bits));
    const PhysAddr pa{align_down(random, G::page_size)};
    const int level = *rc::gen::inRange(G::root_level, G::last_level);
    const Descriptor table = F::table(pa);
    const Entry entry = machine::regime_of<F>().decode(level, table.bits());
    RC_ASSERT(entry.problem == nullptr);
    RC_ASSERT(entry.kind == Entry::Kind::table);
    RC_ASSERT(entry.pa == pa.value());
    RC_ASSERT(F::is_table(level, table));
    RC_ASSERT(!F::is_leaf(level, table));
    RC_ASSERT(F::table_address(table) == pa);
    RC_ASSERT(!F::is_leaf(level, Descriptor{}));
    RC_ASSERT(!F::is_table(level, Descriptor{}));
}

#define DESCRIPTOR_PROPERTIES(FormatName)                                                                              \
    RC_GTEST_PROP(DescriptorsOf##FormatName, ALeafMeansWhatWasMeant, ()) {                                             \
        a_leaf_means_what_was_meant<arm64::FormatName>();                                                              \
    }                                                                                                                  \
    RC_GTEST_PROP(DescriptorsOf##FormatName, AChangeIsSpelledAsTheLeafThatItMakes, ()) {                               \
        a_change_is_spelled_as_the_leaf_that_it_makes<arm64::FormatName>();                                            \
    }                                                                                                                  \
    RC_GTEST_PROP(DescriptorsOf##FormatName, ParentAndChildSayTheSame, ()) {                                           \
        parent_and_child_say_the_same<arm64::FormatName>();                                                            \
    }                                                                                                                  \
    RC_GTEST_PROP(DescriptorsOf##FormatName, NeighboursDifferByTheirAddressAlone, ()) {                                \
        neighbours_differ_by_their_address_alone<arm64::FormatName>();                                                 \
    }                                                                                                                  \
    RC_GTEST_PROP(DescriptorsOf##FormatName, ATablePointerMeansWhatWasMeant, ()) {                                     \
        a_table_pointer_means_what_was_meant<arm64::FormatName>();                                                     \
    }                                                                                                                  \
    static_assert(true)

DESCRIPTOR_PROPERTIES(Format4K39);
DESCRIPTOR_PROPERTIES(Format4K48);
DESCRIPTOR_PROPERTIES(Format4K52);
DESCRIPTOR_PROPERTIES(Format16K47);
DESCRIPTOR_PROPERTIES(Format16K52);
DESCRIPTOR_PROPERTIES(Format64K42);
DESCRIPTOR_PROPERTIES(Format64K48);
DESCRIPTOR_PROPERTIES(Format64K52);

TEST(Descriptors, ALastLevelLeafHasThePagesTypeAndABlockTheBlocks) { // hazard 1
    const arm64::Format4K48 format;
    EXPECT_EQ(format.leaf(3, PhysAddr{gib}, {}).bits() & 3, 3U);
    EXPECT_EQ(format.leaf(2, PhysAddr{gib}, {}).bits() & 3, 1U);
    EXPECT_EQ(format.leaf(1, PhysAddr{gib}, {}).bits() & 3, 1U);
    EXPECT_EQ(format.leaf(3, PhysAddr{gib}, Attributes{}.with_valid(false)).bits() & 3, 2U);
}

TEST(Descriptors, TheMachineRefusesTheEncodingsThatTheArchitectureReserves) {
    const Regime regime = machine::regime_of<arm64::Format4K48>();
    const std::uint64_t page = arm64::Format4K48{}.leaf(3, PhysAddr{gib}, {}).bits();
    const std::uint64_t block = arm64::Format4K48{}.leaf(2, PhysAddr{gib}, {}).bits();
    const auto malformed = [&](int level, std::uint64_t word) {
        return regime.decode(level, word).kind == Entry::Kind::malformed;
    };
    EXPECT_FALSE(malformed(3, page));
    EXPECT_TRUE(malformed(3, page & ~std::uint64_t{2})); // 0b01 at the last level
    EXPECT_TRUE(malformed(2, block | 1U << 12));         // an address below the block's size
    EXPECT_TRUE(malformed(0, block));                    // no blocks of 512G
    EXPECT_TRUE(malformed(3, page & ~std::uint64_t{1U << 10}));
    EXPECT_TRUE(malformed(3, page & ~(std::uint64_t{3} << 8)));
    EXPECT_TRUE(malformed(3, page & ~(std::uint64_t{1} << 54)));
    EXPECT_TRUE(malformed(1, arm64::Format4K48{}.leaf(1, PhysAddr{gib}, {}).bits() | std::uint64_t{1} << 52));
    EXPECT_TRUE(malformed(3, page | std::uint64_t{1} << 48));
    EXPECT_TRUE(malformed(2, (block & ~std::uint64_t{1}) | 2));
}

// ---- geometry
// -------------------------------------------------------------------------------------------------------------

TEST(Geometries, LeafSizesAreThoseOfTheArchitecture) {
    const auto sizes_of = [](const auto& sizes) {
        std::vector<std::uint64_t> bytes;
        for (unsigned i = 0; i < sizes.count; ++i) bytes.push_back(sizes.of[i].bytes());
        return bytes;
    };
    using Sizes = std::vector<std::uint64_t>;
    EXPECT_EQ(sizes_of(arm64::Format4K48::geometry::leaf_sizes), (Sizes{gib, 32 * mib, 2 * mib, 64 * kib, 4 * kib}));
    EXPECT_EQ(sizes_of(arm64::Format4K48TopGroups::geometry::leaf_sizes),
              (Sizes{16 * gib, gib, 32 * mib, 2 * mib, 64 * kib, 4 * kib}));
    EXPECT_EQ(sizes_of(arm64::Format16K48::geometry::leaf_sizes), (Sizes{gib, 32 * mib, 2 * mib, 16 * kib}));
    EXPECT_EQ(sizes_of(arm64::Format64K48::geometry::leaf_sizes), (Sizes{16 * gib, 512 * mib, 2 * mib, 64 * kib}));
}

TEST(Geometries, RootsAreWhereTheAddressSizePutsThem) {
    EXPECT_EQ(arm64::Format4K39::geometry::root_level, 1);
    EXPECT_EQ(arm64::Format4K48::geometry::root_level, 0);
    EXPECT_EQ(arm64::Format4K52::geometry::root_level, -1);
    EXPECT_EQ(arm64::Format16K47::geometry::root_level, 1);
    EXPECT_EQ(arm64::Format16K48::geometry::root_level, 0);
    EXPECT_EQ(arm64::Format64K42::geometry::root_level, 2);
    EXPECT_EQ(arm64::Format64K48::geometry::root_level, 1);
    EXPECT_EQ(arm64::Format64K48::geometry::root_entries, 64U);
    EXPECT_EQ(arm64::Format64K52::geometry::root_entries, 1024U);
    EXPECT_EQ(arm64::Format16K48::geometry::root_entries, 2U);
    EXPECT_EQ(arm64::Format4K52::geometry::root_entries, 16U);
}

// ---- every format on the machine
// ----------------------------------------------------------------------------------------------

template <class F>
class EveryFormat : public testing::Test {
public:
    using G = typename F::geometry;
    /// The part of the upper half that is translated begins here.
    static constexpr std::uint64_t offset = ~std::uint64_t{0} << G::va_bits;
    static machine::RigConfig config(std::uint64_t start, std::uint64_t size) {
        machine::RigConfig c = ram(start, size);
        c.offset = offset;
        return c;
    }
};

using Formats = testing::Types<arm64::Format4K39, arm64::Format4K48, arm64::Format4K52, arm64::Format4K48TopGroups,
                               arm64::Format16K47, arm64::Format16K48, arm64::Format16K52, arm64::Format64K42,
                               arm64::Format64K48, arm64::Format64K52>;
TYPED_TEST_SUITE(EveryFormat, Formats);

TYPED_TEST(EveryFormat, BuildsSplitsChangesAndHealsOnTheMachine) {
    using G = typename TypeParam::geometry;
    const std::uint64_t base = 2 * G::region_bytes, page = G::page_size;
    machine::Rig<TypeParam> rig{this->config(base, 4 * G::region_bytes)};
    ASSERT_TRUE(rig.built());
    EXPECT_EQ(rig.check(), "");
    const auto start = rig.leaves();
    EXPECT_EQ(start[0], 4U) << "four leaves of the largest size";
    EXPECT_EQ(start, rig.smallest_cover());

    const PhysRange ranges[] = {at(base + 5 * page, page), at(base + G::region_bytes - 3 * page, 7 * page),
                                at(base + 2 * G::region_bytes, G::bytes(G::last_level - 1)),
                                at(base + 2 * G::region_bytes + page, G::group_bytes(G::last_level))};
    const Change changes[] = {Change{}.writable(false), Change{}.executable(true).writable(false),
                              Change{}.memory_type(MemoryType::normal_noncacheable), Change{}.valid(false),
                              Change{}.key(6).global(false)};
    for (const Change change : changes) {
        for (const PhysRange range : ranges) {
            const auto before = leaves_of(rig.map());
            ASSERT_TRUE(rig.protect(range, change));
            EXPECT_EQ(difference(leaves_of(rig.map()),
                                 after_change<G>(before, range, machine::effect_of(change), this->offset)),
                      "");
            EXPECT_EQ(rig.check(), "");
        }
    }
    const Change back =
        Change{}.writable(true).executable(false).valid(true).global(true).key(0).memory_type(MemoryType::normal);
    for (const PhysRange range : ranges) ASSERT_TRUE(rig.protect(range, back));
    ASSERT_TRUE(rig.prepare(ranges[1]));
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.leaves(), rig.smallest_cover({ranges[1]}));
    ASSERT_TRUE(rig.release(ranges[1]));
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.leaves(), start);
    EXPECT_EQ(rig.machine().tables_in_use(), rig.initial_tables());
    EXPECT_EQ(rig.check(), "");
}

TYPED_TEST(EveryFormat, MapsUnalignedRamAroundHolesWithTheLargestLeavesThatFit) {
    using G = typename TypeParam::geometry;
    const std::uint64_t base = 2 * G::region_bytes, page = G::page_size, block = G::bytes(G::last_level - 1);
    machine::RigConfig config = this->config(base + 3 * page, G::region_bytes - 7 * page);
    config.ram.push_back({at(base + G::region_bytes + 5 * page, 2 * block), Attributes{}.with_executable(true)});
    config.ram.push_back({at(base + 2 * G::region_bytes, G::region_bytes), {}});
    config.zones = {{.range = at(base + block + page, page), .kind = ZoneKind::excluded},
                    {.range = at(base + 2 * block, 3 * page), .kind = ZoneKind::pages}};
    machine::Rig<TypeParam> rig{config};
    ASSERT_TRUE(rig.built());
    EXPECT_EQ(rig.leaves(), rig.smallest_cover({config.zones[1].range}));
    EXPECT_EQ(rig.machine().tables_in_use(), tables_for<G>(leaves_of(rig.map()), this->offset));
    EXPECT_EQ(rig.check(), "");
}

template <class F>
class WideAddresses : public EveryFormat<F> {};
using WideFormats = testing::Types<arm64::Format4K52, arm64::Format16K52, arm64::Format64K52>;
TYPED_TEST_SUITE(WideAddresses, WideFormats);

TYPED_TEST(WideAddresses, WorkAcrossThePlaceWhereTheAddressFieldIsSplit) {
    using G = typename TypeParam::geometry;
    const std::uint64_t edge = TypeParam::progression_limit;
    machine::RigConfig config = this->config(edge - 2 * G::region_bytes, 4 * G::region_bytes);
    machine::Rig<TypeParam> rig{config};
    ASSERT_TRUE(rig.built()) << rig.built().error().reason();
    EXPECT_EQ(rig.leaves()[0], 4U);
    ASSERT_TRUE(rig.protect(at(edge - 3 * G::page_size, 6 * G::page_size), Change{}.writable(false)));
    EXPECT_EQ(rig.check(), "");
    ASSERT_TRUE(rig.protect(at(edge - 3 * G::page_size, 6 * G::page_size), Change{}.writable(true)));
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.leaves()[0], 4U);
    EXPECT_EQ(rig.check(), "");
}

TYPED_TEST(WideAddresses, WorkUpToTheLastByteOfTheAddressSpace) {
    using G = typename TypeParam::geometry;
    const std::uint64_t end = std::uint64_t{1} << 52, page = G::page_size; // its virtual address wraps to 0
    machine::Rig<TypeParam> rig{this->config(end - 3 * G::region_bytes, 3 * G::region_bytes)};
    ASSERT_TRUE(rig.built()) << rig.built().error().reason();
    const PhysRange last = at(end - G::region_bytes, G::region_bytes), last_page = at(end - page, page);
    // The tables lie there; what leaves them accessible is allowed.
    ASSERT_TRUE(rig.protect(last_page, Change{}.executable(true)));
    EXPECT_TRUE(rig.map().translate(last_page.start).value().attributes.executable());
    EXPECT_FALSE(rig.map().translate(last_page.start - page).value().attributes.executable());
    ASSERT_TRUE(rig.protect(last, Change{}.executable(true)));
    ASSERT_TRUE(rig.collapse(last));
    EXPECT_EQ(rig.leaves()[0], 3U);
    EXPECT_EQ(rig.map().reclaim(), 0U);
    EXPECT_EQ(rig.check(), "");
    std::uint64_t walked = 0;
    rig.map().walk(rig.whole(), [&](const Leaf& leaf) {
        walked += leaf.range.size;
        return true;
    });
    EXPECT_EQ(walked, 3 * G::region_bytes);
}

TYPED_TEST(WideAddresses, ByPagesTheProgressionOfDescriptorsStopsAtThatPlace) {
    using G = typename TypeParam::geometry;
    const std::uint64_t edge = TypeParam::progression_limit;
    machine::RigConfig config = this->config(edge - 40 * G::page_size, 80 * G::page_size);
    config.mapping = Mapping::pages;
    config.offset += G::page_size; // entries of one table on both sides of the edge
    config.ram.push_back({at(edge + 100 * G::page_size, 100 * G::page_size), {}});
    machine::Rig<TypeParam> rig{config};
    ASSERT_TRUE(rig.built()) << rig.built().error().reason();
    EXPECT_EQ(rig.check(), "");
    ASSERT_TRUE(rig.protect(at(edge - 4 * G::page_size, 8 * G::page_size), Change{}.writable(false)));
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.check(), "");
}

} // namespace
} // namespace directmap::test

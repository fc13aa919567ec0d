// The operations know no architecture: with x86-64 descriptors, untouched, they build, protect, split and collapse.
// What differs there: sizes are 4K, 2M and 1G, nothing has to break before it makes, the bits are others and one of
// them moves between a page and a larger leaf, and translations of two sizes may be cached together only while they
// agree.
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/leaves.hpp"
#include "support/replay.hpp"
#include "support/scenario.hpp"
#include "support/x86_format.hpp"

namespace directmap::test {
namespace {

static_assert(Format<X86Format> && Format<SmallX86Format>);
static_assert(X86Format::geometry::leaf_sizes.count == 3 && X86Format::geometry::root_level == 0);

using Rig = machine::Rig<X86Format>;
enum Leaf : unsigned { of_1g, of_2m, of_4k };
constexpr std::uint64_t base = 4 * gib;
constexpr Change read_only = Change{}.writable(false);

machine::RigConfig config() {
    machine::RigConfig c = ram(base, 4 * gib);
    c.ram.push_back({at(base + 4 * gib, gib), {}}); // tables
    c.offset = 0xffff888000000000;
    return c;
}

std::vector<Attributes> all_attributes() {
    std::vector<Attributes> all;
    for (unsigned bits = 0; bits < 32; ++bits) {
        for (unsigned type = 0; type < 5; ++type) {
            for (const unsigned key : {0U, 1U, 6U}) {
                all.push_back(Attributes{}
                                  .with_valid((bits & 1) != 0)
                                  .with_writable((bits & 2) != 0)
                                  .with_executable((bits & 4) != 0)
                                  .with_global((bits & 8) != 0)
                                  .with_fixed((bits & 16) != 0)
                                  .with_key(key)
                                  .with_memory_type(static_cast<MemoryType>(type)));
            }
        }
    }
    return all;
}

TEST(X86Descriptors, EveryLeafMeansWhatWasMeantAtEveryLevel) {
    const X86Format format;
    const machine::Regime regime = machine::regime_of<X86Format>();
    for (const Attributes& a : all_attributes()) {
        for (int level = 1; level <= 3; ++level) {
            const PhysAddr pa{0x000d'e000'0000'0000 + 7 * X86Format::geometry::bytes(level)};
            const Descriptor d = format.leaf(level, pa, a);
            const machine::Entry e = regime.decode(level, d.bits());
            ASSERT_EQ(e.problem, nullptr) << e.problem;
            ASSERT_EQ(e.kind, a.valid() ? machine::Entry::Kind::leaf : machine::Entry::Kind::invalid);
            ASSERT_EQ(e.pa, pa.value());
            ASSERT_TRUE(e.access == machine::access_of(a)) << machine::describe(e.access);
            ASSERT_EQ(format.attributes(d), a);
            ASSERT_EQ(format.leaf_address(level, d), pa);
            ASSERT_TRUE(X86Format::is_leaf(level, d));
            ASSERT_FALSE(X86Format::is_table(level, d));
            if (level == 3) continue;
            ASSERT_EQ(X86Format::child_of(level, d), format.leaf(level + 1, pa, a));
            ASSERT_EQ(X86Format::parent_of(level, format.leaf(level + 1, pa, a)), d);
        }
    }
}

TEST(X86Descriptors, AChangeIsSpelledAsTheLeafThatItMakesAtEveryLevel) {
    const X86Format format;
    const std::vector<Change> changes = {Change{}.writable(false),
                                         Change{}.executable(true),
                                         Change{}.valid(false),
                                         Change{}.valid(true).global(false),
                                         Change{}.key(5),
                                         Change{}.memory_type(MemoryType::normal),
                                         Change{}.memory_type(MemoryType::normal_noncacheable),
                                         Change{}.memory_type(MemoryType::device_nGnRnE),
                                         Change{}.fixed(true)};
    for (const Attributes& a : all_attributes()) {
        for (int level = 1; level <= 3; ++level) {
            for (const Change change : changes) {
                const Descriptor before = format.leaf(level, PhysAddr{64 * gib}, a);
                ASSERT_EQ(format.spell(level, change).apply_to(before),
                          format.leaf(level, PhysAddr{64 * gib}, change.apply_to(a)));
            }
        }
    }
    EXPECT_FALSE(format.expressible(Change{}.shared(true)));
}

TEST(X86, BuildsProtectsSplitsAndHealsWithTheOperationsUntouched) {
    Rig rig{config()};
    ASSERT_TRUE(rig.built()) << rig.built().error().reason();
    EXPECT_EQ(rig.leaves()[of_1g], 5U);
    ASSERT_TRUE(rig.protect(at(base + gib + 5 * 4 * kib, 4 * kib), read_only));
    EXPECT_EQ(rig.leaves()[of_1g], 4U);
    EXPECT_EQ(rig.leaves()[of_2m], 511U);
    EXPECT_EQ(rig.leaves()[of_4k], 512U);
    ASSERT_TRUE(rig.protect(at(base + 3 * gib - 4 * mib, 6 * mib + 4 * kib), Change{}.valid(false)));
    ASSERT_TRUE(rig.protect(at(base, 64 * mib), Change{}.memory_type(MemoryType::normal_noncacheable)));
    ASSERT_TRUE(rig.protect(at(base + 4 * kib, 4 * kib), Change{}.key(3).global(false)));
    EXPECT_EQ(rig.leaves(), rig.smallest_cover()) << "as little was split as can be";
    EXPECT_EQ(rig.check(), "");
    const Change back =
        Change{}.writable(true).valid(true).memory_type(MemoryType::normal).key(0).global(true).executable(false);
    ASSERT_TRUE(rig.protect(at(base, 4 * gib), back));
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.leaves()[of_1g], 5U);
    EXPECT_EQ(rig.machine().tables_in_use(), rig.initial_tables());
    EXPECT_EQ(rig.check(), "");
}

TEST(X86, AMemoryTypeChangesInPlaceForNothingHasToBreakThere) {
    EventLog log;
    machine::RigConfig c = config();
    c.record = log.sink();
    Rig rig{c};
    ASSERT_TRUE(rig.prepare(at(base, 8 * kib)));
    log.clear();
    ASSERT_TRUE(rig.protect(at(base + 4 * kib, 4 * kib), Change{}.memory_type(MemoryType::device_nGnRE)));
    EXPECT_EQ(log.count("store"), 1U) << log.order();
    EXPECT_EQ(rig.check(), "");
}

/// Where the flush between a change of size and the next of attributes is: the record from the store that links a table
/// to the first store of another value of a leaf.
std::string between_resize_and_change(const std::vector<machine::Event>& events) {
    std::string calls;
    bool resized = false;
    for (const machine::Event& e : events) {
        const std::string_view call = e.call;
        const bool store = call == "store" || call == "update";
        if (store && X86Format::is_table(2, Descriptor::from_bits(e.value)) && e.value != 0) {
            resized = true;
            calls.clear();
        } else if (store && resized) {
            return calls;
        } else if (call.starts_with("invalidate") || call.starts_with("barrier")) {
            calls += std::string{call} + " ";
        }
    }
    return "no change after a resize";
}

TEST(X86, AFlushComesBetweenAChangeOfSizeAndTheNextChangeOfAttributes) {
    EventLog log;
    machine::RigConfig c = config();
    c.record = log.sink();
    Rig rig{c};
    log.clear();
    ASSERT_TRUE(rig.protect(at(base + gib + 4 * kib, 4 * kib), read_only));
    EXPECT_EQ(between_resize_and_change(log.events()),
              "barrier_publish barrier_context invalidate barrier_complete barrier_context ")
        << log.order();
    EXPECT_EQ(rig.check(), "");
}

TEST(X86, TheFlushComesAlsoWhereSizeAndAttributesAreChangedByDifferentCalls) {
    // A split that changes nothing may leave the larger entry cached, which is right until somebody changes a piece.
    for (const bool whole_map : {false, true}) {
        machine::RigConfig c = ram(0x80000, 0x80000);
        c.ram.push_back({at(0x100000, 0x80000), {}});
        machine::Rig<SmallX86Format> rig{c};
        ASSERT_TRUE(rig.built()) << rig.built().error().reason();
        if (whole_map) {
            ASSERT_TRUE(rig.repaint());
        } else {
            ASSERT_TRUE(rig.prepare(at(0x84000, 0x2000)));
        }
        EXPECT_EQ(rig.check(), "");
        ASSERT_TRUE(rig.protect(at(0x84000, 0x1000), read_only));
        EXPECT_EQ(rig.check(), "");
    }
}

TEST(X86, ADeferredChangeIsFlushedBeforeItsLeafIsSplit) {
    machine::RigConfig c = ram(0x80000, 0x80000);
    c.ram.push_back({at(0x100000, 0x80000), {}});
    machine::Rig<SmallX86Format> rig{c};
    auto flush = rig.protect_deferred(at(0x80000, 0x40000), read_only);
    ASSERT_TRUE(flush);
    ASSERT_TRUE(rig.protect(at(0x84000, 0x1000), Change{}.executable(true)));
    rig.complete(flush.value());
    EXPECT_EQ(rig.check(), "");
}

TEST(X86, TheMachineSeesTwoSizesThatDisagree) {
    // The judge itself: a page of a split block becomes read-only while the block may still be cached.
    machine::RigConfig c = ram(0x80000, 0x80000);
    c.ram.push_back({at(0x100000, 0x80000), {}});
    machine::Rig<SmallX86Format> rig{c};
    ASSERT_TRUE(rig.repaint());
    const unsigned id =
        rig.machine().begin_change(at(0x80000, 0x1000), machine::effect_of(read_only), false, "by hand");
    std::uint64_t table = 0;
    rig.machine().for_each_word([&](std::uint64_t t, unsigned, std::uint64_t word) {
        if (rig.machine().regime().decode(3, word).pa == 0x80000 && (word & SmallX86Format::mapped) != 0) table = t;
    });
    ASSERT_NE(table, 0U);
    auto& platform = rig.platform();
    const auto t = platform.table(PhysAddr{table});
    const bool was_open = platform.begin_table_writes();
    platform.store(t, 0, platform.load(t, 0).without(Descriptor::from_bits(SmallX86Format::write)));
    platform.end_table_writes(was_open);
    platform.barrier_publish();
    rig.machine().end_change(id, machine::Machine::Outcome::deferred);
    EXPECT_NE(rig.problems().find("mixed sizes"), std::string::npos) << rig.problems();
}

TEST(X86, EveryPrefixOfStoresTranslatesToOldOrNew) {
    machine::RigConfig c = ram(0x80000, 0x80000);
    c.ram.push_back({at(0x100000, 0x80000), {}});
    Replay replay{machine::regime_of<SmallX86Format>(), c.offset};
    for (const RamRange& r : c.ram) replay.expect(r.range, machine::access_of(r.attributes));
    c.record = [&](const machine::Event& e) { replay(e); };
    machine::Rig<SmallX86Format> rig{c};
    ASSERT_TRUE(rig.protect(at(0x85000, 0x1000), read_only));
    ASSERT_TRUE(rig.protect(at(0xb5000, 0x13000), Change{}.memory_type(MemoryType::normal_noncacheable)));
    ASSERT_TRUE(rig.protect(at(0x80000, 0x80000), Change{}.writable(true).memory_type(MemoryType::normal)));
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(replay.problem(), "");
    EXPECT_EQ(rig.problems(), "");
    EXPECT_GT(replay.stores(), 10U);
}

} // namespace
} // namespace directmap::test

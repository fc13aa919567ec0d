// The admission gate, pinning and repainting: promise P8, the windows of boot and the quirks of CPUs (hazards 11 and
// 12).
#include <array>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "support/host_platform.hpp"
#include "support/leaves.hpp"
#include "support/scenario.hpp"

namespace directmap::test {
namespace {

using machine::RigConfig;
using Leaves = std::array<std::uint64_t, 6>;

constexpr std::uint64_t start = 4 * gib;
constexpr Change read_only = Change{}.writable(false), writable = Change{}.writable(true);
constexpr PhysRange one_page = at(start + gib + 33 * mib + 84 * kib, 4 * kib);

RigConfig four_gib() {
    return ram(start, 4 * gib);
}
/// Two gigabytes, of which the second is mapped by pages: small enough to be repainted.
RigConfig repaintable() {
    RigConfig config = ram(start, 96 * mib);
    return config;
}

/// A map on host memory that nobody has been admitted to.
struct Boot {
    HostPlatform<> platform{16 * gib, 4096};
    std::vector<Region<HostPlatform<>::Lock>> regions = std::vector<Region<HostPlatform<>::Lock>>(8);
    DirectMap<Format4K, HostPlatform<>> map{platform, {.offset = 0xffff000000000000}, {regions.data(), regions.size()}};
    RamRange ram{at(start, 4 * gib), {}};

    Leaves leaves() {
        Leaves found{};
        for (unsigned i = 0; i < 6; ++i) found[i] = map.statistics().leaves[i];
        return found;
    }
};

TEST(Gate, UntilItHasDecidedAResizeIsBusyAndChangesNothing) {
    Boot boot;
    ASSERT_TRUE(boot.map.build({{&boot.ram, 1}, {}}, Mapping::largest));
    const auto before = words_of_tree<Format4K>(boot.platform, boot.map.root());
    EXPECT_EQ(boot.map.gate_mode(), Gate::Mode::undecided);
    const auto expect_busy = [](const auto& r) {
        ASSERT_FALSE(r);
        EXPECT_EQ(r.error().code(), ErrorCode::busy);
    };
    expect_busy(boot.map.protect(one_page, read_only));
    expect_busy(boot.map.prepare(one_page));
    expect_busy(boot.map.collapse(one_page));
    expect_busy(boot.map.repaint());
    EXPECT_EQ(words_of_tree<Format4K>(boot.platform, boot.map.root()), before);
    ASSERT_TRUE(boot.map.protect(at(start, gib), read_only)) << "what needs no resize works in every window";
    ASSERT_TRUE(boot.map.admit({.tolerates_live_resize = true}));
    ASSERT_TRUE(boot.map.protect(one_page, read_only));
}

class ClosedGate : public testing::TestWithParam<unsigned> {};

TEST_P(ClosedGate, RefusesToResizeAndLeavesTheRestToWork) {
    RigConfig config = four_gib();
    config.bbm = GetParam();
    config.zones = {{.range = at(start + 2 * gib, 64 * mib), .kind = ZoneKind::pages}};
    Rig4K rig{config};
    const auto before = leaves_of(rig.map());
    const auto expect_unsupported = [&](const auto& r) {
        ASSERT_FALSE(r);
        EXPECT_EQ(r.error().code(), ErrorCode::unsupported);
        EXPECT_EQ(leaves_of(rig.map()), before);
    };
    expect_unsupported(rig.protect(one_page, read_only));
    expect_unsupported(rig.protect(at(start + gib, 32 * mib), read_only));
    expect_unsupported(rig.protect(at(start + gib - 4 * kib, 8 * kib), read_only));
    expect_unsupported(rig.prepare(one_page));
    expect_unsupported(rig.collapse(one_page));
    expect_unsupported(rig.repaint());
    EXPECT_EQ(rig.check(), "");

    ASSERT_TRUE(rig.protect(at(start, gib), read_only));                          // a whole leaf
    ASSERT_TRUE(rig.protect(at(start + 2 * gib + 4 * kib, 12 * kib), read_only)); // pages
    ASSERT_TRUE(rig.protect(at(start + 2 * gib + 4 * kib, 4 * kib), Change{}.memory_type(MemoryType::normal_tagged)));
    ASSERT_TRUE(rig.protect(one_page, writable)) << "nothing to change, nothing to split";
    ASSERT_TRUE(rig.prepare(at(start + 2 * gib, 64 * kib))) << "pages already";
    EXPECT_EQ(rig.check(), "");
}

TEST_P(ClosedGate, LetsLeavesBeResizedUnderQuiescence) {
    RigConfig config = repaintable();
    config.bbm = GetParam();
    Rig4K rig{config};
    rig.machine().begin_quiescence();
    ASSERT_TRUE(rig.protect(at(start + 4 * kib, 4 * kib), read_only, {.quiescent = true}));
    rig.machine().end_quiescence(); // reports a larger leaf that may still be cached
    EXPECT_EQ(rig.check(), "");
    ASSERT_TRUE(rig.repaint({.quiescent = true}));
    EXPECT_EQ(rig.leaves(), (Leaves{0, 0, 0, 0, 24576}));
    ASSERT_TRUE(rig.protect(at(start + 40 * mib, 4 * kib), read_only));
    EXPECT_EQ(rig.check(), "");
}

TEST_P(ClosedGate, StaticGroupsKeepTheirSizeUnderQuiescence) {
    RigConfig config = repaintable();
    config.bbm = GetParam();
    config.zones = {{.range = at(start + 32 * mib + 64 * kib, 64 * kib), .kind = ZoneKind::fixed_size}};
    Rig4K rig{config};
    const auto before = leaves_of(rig.map());
    for (const Change change : {read_only, Change{}.valid(false), Change{}.valid(true).writable(true)}) {
        rig.machine().begin_quiescence();
        ASSERT_TRUE(rig.protect(config.zones[0].range, change, {.quiescent = true}));
        rig.machine().end_quiescence();
        EXPECT_EQ(rig.check(), "");
    }
    EXPECT_EQ(leaves_of(rig.map()), before);
}

INSTANTIATE_TEST_SUITE_P(Bbm, ClosedGate, testing::Values(0U, 1U, 2U));

TEST(Gate, ANewcomerWithoutToleranceIsAdmittedOnceTheMapIsPages) {
    RigConfig config = repaintable();
    config.cpus = 3;
    config.cpus_outside = 1;
    Rig4K rig{config};
    rig.machine().set_bbm(2, 0);
    ASSERT_TRUE(rig.protect(at(start + 4 * kib, 4 * kib), read_only));
    const unsigned id = rig.machine().begin_change(rig.whole(), machine::effect_of({}), false, "admit");
    ASSERT_TRUE(rig.map().admit({.tolerates_live_resize = false}));
    rig.machine().end_change(id, machine::Machine::Outcome::done);
    rig.machine().enter(2, rig.map().root().value()); // nothing larger may be cached that it could meet
    EXPECT_EQ(rig.map().gate_mode(), Gate::Mode::closed);
    EXPECT_EQ(rig.leaves(), (Leaves{0, 0, 0, 0, 24576}));
    ASSERT_TRUE(rig.protect(at(start + 32 * mib + 4 * kib, 8 * kib), read_only));
    auto r = rig.collapse(rig.whole());
    ASSERT_FALSE(r) << "for good";
    EXPECT_EQ(r.error().code(), ErrorCode::unsupported);
    EXPECT_EQ(rig.check(), "");
}

TEST(Gate, ItStaysOpenForCpusThatTolerateResizing) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.map().admit({.tolerates_live_resize = true}));
    EXPECT_EQ(rig.map().gate_mode(), Gate::Mode::open);
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
}

TEST(Gate, APolicyCanRefuseTheNewcomerInstead) {
    Rig4K rig{four_gib()};
    auto r = rig.map().admit({.tolerates_live_resize = false}, AdmissionPolicy::refuse);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::unsupported);
    EXPECT_EQ(rig.map().gate_mode(), Gate::Mode::open);
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
    ASSERT_TRUE(rig.protect(one_page, read_only));
    EXPECT_EQ(rig.check(), "");
}

TEST(Gate, ARepaintThatRunsOutAdmitsNobodyAndCanBeTriedAgain) {
    Rig4K rig{repaintable()};
    for (const std::uint64_t tables : {0U, 1U, 20U, 20U}) { // 48 in all, and what was made stays
        rig.machine().tables_left = tables;
        auto r = rig.map().admit({.tolerates_live_resize = false});
        ASSERT_FALSE(r) << tables;
        EXPECT_EQ(r.error().code(), ErrorCode::no_tables);
        EXPECT_EQ(rig.map().gate_mode(), Gate::Mode::open);
        EXPECT_EQ(rig.check(), "");
    }
    rig.machine().tables_left = 1000;
    ASSERT_TRUE(rig.map().admit({.tolerates_live_resize = false}));
    EXPECT_EQ(rig.leaves(), (Leaves{0, 0, 0, 0, 24576}));
    EXPECT_EQ(rig.check(), "");
}

TEST(Gate, StaticZonesStayLargeThroughARepaint) {
    RigConfig config = repaintable();
    config.zones = {{.range = at(start + 32 * mib, 34 * mib), .kind = ZoneKind::fixed_size}};
    Rig4K rig{config};
    ASSERT_TRUE(rig.repaint());
    EXPECT_EQ(rig.leaves(), (Leaves{0, 1, 1, 0, 15872}));
    EXPECT_EQ(rig.check(), "");
}

// ---- hazard 12: quirks
// ------------------------------------------------------------------------------------------------------

TEST(Quirks, OnceACpuNeedsItEveryInvalidationIsIssuedAndCompletedTwice) {
    Rig4K rig{four_gib()};
    EventLog log;
    rig.machine().record_to(log.sink());
    ASSERT_TRUE(rig.protect(one_page, read_only));
    EXPECT_EQ(log.count("invalidate"), 1U);
    EXPECT_EQ(log.count("barrier_complete"), 1U);

    ASSERT_TRUE(rig.map().admit({.tolerates_live_resize = true, .invalidate_twice = true}));
    log.clear();
    ASSERT_TRUE(rig.protect(one_page, writable));
    ASSERT_TRUE(rig.protect(one_page, Change{}.memory_type(MemoryType::normal_tagged)));
    ASSERT_TRUE(rig.protect(one_page, Change{}.memory_type(MemoryType::normal)));
    EXPECT_EQ(log.count("invalidate"), 6U);
    EXPECT_EQ(log.count("barrier_complete"), 6U);
    const std::string order = log.order();
    EXPECT_NE(order.find("invalidate barrier_complete invalidate barrier_complete"), std::string::npos) << order;
    log.clear();
    ASSERT_TRUE(rig.collapse(one_page));
    EXPECT_EQ(log.count("barrier_complete"), 2U);
    auto owed = rig.protect_deferred(one_page, read_only);
    ASSERT_TRUE(owed);
    log.clear();
    rig.complete(owed.value());
    EXPECT_EQ(log.count("barrier_complete"), 2U);
    EXPECT_EQ(rig.check(), "");
}

TEST(Quirks, ACpuThatMishandlesGroupsIsAdmittedToAMapWithoutThem) {
    Rig4K rig{repaintable()};
    ASSERT_GT(rig.leaves()[of_32m], 0U);
    ASSERT_TRUE(rig.map().admit({.tolerates_live_resize = true, .no_contiguous = true}));
    rig.map().walk(rig.whole(), [](const Leaf& leaf) {
        EXPECT_FALSE(leaf.contiguous);
        return true;
    });
    EXPECT_EQ(rig.check(), "");
}

TEST(Quirks, WhereSuchACpuIsNotAdmittedGroupsFormAgain) {
    RigConfig config = repaintable();
    config.zones = {{.range = at(start + 32 * mib + 64 * kib, 64 * kib), .kind = ZoneKind::fixed_size}};
    Rig4K rig{config};
    const auto before = rig.leaves();
    auto r = rig.map().admit({.tolerates_live_resize = true, .no_contiguous = true});
    ASSERT_FALSE(r) << "a static group stays";
    EXPECT_EQ(r.error().code(), ErrorCode::unsupported);
    EXPECT_EQ(rig.map().gate_mode(), Gate::Mode::open);
    ASSERT_TRUE(rig.collapse(rig.whole()));
    EXPECT_EQ(rig.leaves(), before);
    EXPECT_EQ(rig.check(), "");
}

TEST(Quirks, ABootCpuThatMishandlesGroupsIsAdmittedBeforeTheBuildAndGetsNone) {
    Boot boot;
    boot.ram.range = at(start + 4 * kib, 2 * gib - 8 * kib);
    ASSERT_TRUE(boot.map.admit({.tolerates_live_resize = true, .no_contiguous = true}));
    ASSERT_TRUE(boot.map.build({{&boot.ram, 1}, {}}, Mapping::largest));
    EXPECT_EQ(boot.leaves()[of_32m], 0U);
    EXPECT_EQ(boot.leaves()[of_64k], 0U);
    EXPECT_GT(boot.leaves()[of_2m], 0U);
}

// ---- prepare
// --------------------------------------------------------------------------------------------------------------

TEST(Prepare, LaterChangesInsideNeverResizeAndNeedNoTable) {
    Rig4K rig{four_gib()};
    const PhysRange range = at(start + gib - 68 * kib, 3 * mib); // two regions
    ASSERT_TRUE(rig.prepare(range));
    const auto before = rig.leaves();
    const std::uint64_t splits = rig.map().statistics().counters.splits;
    rig.machine().tables_left = 0;
    for (const PhysRange part : {range, at(start + gib - 4 * kib, 8 * kib), at(start + gib, 4 * kib)}) {
        ASSERT_TRUE(rig.protect(part, read_only, {.atomic = true}));
        ASSERT_TRUE(rig.protect(part, Change{}.valid(false), {.atomic = true}));
        ASSERT_TRUE(rig.protect(part, Change{}.valid(true).writable(true), {.atomic = true}));
    }
    EXPECT_EQ(rig.leaves(), before);
    EXPECT_EQ(rig.map().statistics().counters.splits, splits);
    EXPECT_EQ(rig.check(), "");
}

TEST(Prepare, ItPinsWhatItWasAskedForAndChangesNoAttribute) {
    Rig4K rig{four_gib()};
    ASSERT_TRUE(rig.protect(at(start, 2 * mib), read_only));
    ASSERT_TRUE(rig.prepare(at(start + 2 * mib - 8 * kib, 12 * kib)));
    for (const std::uint64_t page : {2 * mib - 12 * kib, 2 * mib - 8 * kib, 2 * mib, 2 * mib + 4 * kib}) {
        const Translation t = rig.map().translate(PhysAddr{start + page}).value();
        EXPECT_EQ(t.attributes.fixed(), page >= 2 * mib - 8 * kib && page < 2 * mib + 4 * kib) << page;
        EXPECT_EQ(t.attributes.writable(), page >= 2 * mib) << page;
    }
    EXPECT_EQ(rig.check(), "");
}

TEST(Prepare, AnAtomicCallerIsToldThatItWouldSleep) {
    Rig4K rig{four_gib()};
    auto r = rig.prepare(one_page, {.atomic = true});
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::would_block);
    EXPECT_EQ(rig.leaves(), (Leaves{4}));
}

TEST(Prepare, AHoleOrAStaticLeafIsAnErrorAndNothingIsPinned) {
    RigConfig config = four_gib();
    config.zones = {{.range = at(start + gib, 64 * kib), .kind = ZoneKind::excluded},
                    {.range = at(start + 2 * gib, 32 * mib), .kind = ZoneKind::fixed_size}};
    Rig4K rig{config};
    auto hole = rig.prepare(at(start + gib - 4 * kib, 16 * kib));
    ASSERT_FALSE(hole);
    EXPECT_EQ(hole.error().code(), ErrorCode::not_mapped);
    EXPECT_EQ(hole.error().where(), PhysAddr{start + gib});
    auto fixed = rig.prepare(at(start + 2 * gib - 4 * kib, 8 * kib));
    ASSERT_FALSE(fixed);
    EXPECT_EQ(fixed.error().code(), ErrorCode::unsupported);
    for (const LeafItem& leaf : leaves_of(rig.map()))
        EXPECT_EQ(leaf.fixed, leaf.start >= start + 2 * gib && leaf.end() <= start + 2 * gib + 32 * mib);
    EXPECT_EQ(rig.check(), "");
}

TEST(Prepare, AStaticZoneIsChangedAsAWholeAndNeverCut) {
    RigConfig config = four_gib();
    config.zones = {{.range = at(start + 2 * gib, 34 * mib), .kind = ZoneKind::fixed_size}};
    Rig4K rig{config};
    const auto before = rig.leaves();
    auto cut = rig.protect(at(start + 2 * gib, 4 * kib), read_only);
    ASSERT_FALSE(cut);
    EXPECT_EQ(cut.error().code(), ErrorCode::unsupported);
    ASSERT_TRUE(rig.protect(at(start + 2 * gib, 34 * mib), read_only));
    ASSERT_TRUE(rig.protect(at(start + 2 * gib, 34 * mib), writable));
    ASSERT_TRUE(rig.collapse(rig.whole())) << "nor merged with what is around it";
    EXPECT_EQ(rig.leaves(), before);
    auto release = rig.release(at(start + 2 * gib, 34 * mib));
    ASSERT_FALSE(release);
    EXPECT_EQ(release.error().code(), ErrorCode::unsupported);
    EXPECT_EQ(rig.check(), "");
}

} // namespace
} // namespace directmap::test

// History replay: the tables as they are after every single store of every operation, judged by somebody who knows
// nothing but the record of what happened.
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "support/operations.hpp"
#include "support/replay.hpp"
#include "support/scenario.hpp"
#include "support/scripts.hpp"

namespace directmap::test {
namespace {

using Small = SmallFormat::geometry;
constexpr std::uint64_t page = Small::page_size, block = Small::bytes(2), large = Small::bytes(1);
constexpr std::uint64_t base = 0x80000;
constexpr PhysRange play = at(base, 4 * large);

machine::RigConfig small_config() {
    machine::RigConfig config = ram(base, 4 * large);
    config.ram.push_back({at(base + 4 * large, 2 * large), {}});
    return config;
}

/// A small machine and the replay of what happens on it.
struct Recorded {
    explicit Recorded(machine::RigConfig config = small_config())
        : replay{machine::regime_of<SmallFormat>(), config.offset} {
        for (const RamRange& r : config.ram) replay.expect(r.range, machine::access_of(r.attributes));
        config.record = [this](const machine::Event& e) { replay(e); };
        rig = std::make_unique<machine::Rig<SmallFormat>>(config);
    }
    void expect_old_or_new_throughout() const {
        EXPECT_EQ(replay.problem(), "");
        EXPECT_EQ(rig->problems(), "");
        EXPECT_GT(replay.stores(), 1U) << "nothing was looked at";
    }
    Replay replay;
    std::unique_ptr<machine::Rig<SmallFormat>> rig;
};

TEST(History, EveryPrefixOfASplitsStoresTranslatesToOldOrNew) {
    Recorded r;
    ASSERT_TRUE(r.rig->protect(at(base + large + 5 * page, page), Change{}.writable(false)));
    ASSERT_TRUE(r.rig->protect(at(base + 2 * large - 3 * page, 9 * page), Change{}.executable(true)));
    r.expect_old_or_new_throughout();
    EXPECT_FALSE(r.replay.translation(base + large + 5 * page)->writable);
    EXPECT_TRUE(r.replay.translation(base + large + 6 * page)->writable);
}

TEST(History, EveryPrefixOfAChangeOfWholeGroupsTranslatesToOldOrNew) {
    Recorded r;
    ASSERT_TRUE(
        r.rig->protect(at(base + page, page), Change{}.writable(false))); // leaves groups of pages and of blocks
    ASSERT_TRUE(r.rig->protect(at(base, large), Change{}.valid(false)));
    ASSERT_TRUE(r.rig->protect(at(base, large), Change{}.valid(true)));
    r.expect_old_or_new_throughout();
}

TEST(History, EveryPrefixOfABreakIsOldOrBrokenOrNew) {
    Recorded r;
    const Change uncached = Change{}.memory_type(MemoryType::normal_noncacheable);
    ASSERT_TRUE(r.rig->protect(at(base + large + 5 * page, 20 * page), uncached));
    ASSERT_TRUE(r.rig->protect(at(base + large, large), Change{}.memory_type(MemoryType::normal)));
    r.expect_old_or_new_throughout();
}

TEST(History, EveryPrefixOfACollapseTranslatesAsBefore) {
    Recorded r;
    ASSERT_TRUE(r.rig->repaint());
    ASSERT_TRUE(r.rig->collapse(play));
    ASSERT_TRUE(r.rig->prepare(at(base + block, 3 * page)));
    ASSERT_TRUE(r.rig->release(at(base + block, 3 * page)));
    ASSERT_TRUE(r.rig->collapse(play));
    r.expect_old_or_new_throughout();
}

TEST(History, AStoreThatBreaksTheTranslationIsFound) {
    // The judge itself: a table that lacks its last entry, a page that gets another's address.
    Recorded r;
    const std::uint64_t root = r.rig->map().root().value();
    machine::Event e;
    e.call = "store";
    e.table = root;
    e.index = static_cast<unsigned>((base + r.rig->config().offset) >> Small::shift(0)) & (Small::root_entries - 1);
    e.count = 1;
    e.value = 0;
    r.replay(e);
    EXPECT_NE(r.replay.problem().find("nothing is mapped"), std::string::npos) << r.replay.problem();
}

template <class F>
void random_life_is_old_or_new_throughout() {
    const auto script = random_script(260);
    std::unique_ptr<Replay> replay;
    DriverOptions options{.compare_leaves = false};
    options.before_build = [&](machine::RigConfig& config) {
        machine::Regime regime = machine::regime_of<F>();
        regime.realm_shared_address = config.realm_shared_address;
        replay = std::make_unique<Replay>(regime, config.offset);
        SegmentCursor cursor{{{config.ram.data(), config.ram.size()}, {config.zones.data(), config.zones.size()}},
                             config.mapping};
        for (Segment segment; cursor.next(segment);)
            replay->expect(segment.range, machine::access_of(segment.attributes));
        config.record = [&](const machine::Event& e) { (*replay)(e); };
    };
    Driver<F> driver{Script{script.data(), script.size()}, options};
    RC_ASSERT(driver.run() == "");
    RC_ASSERT(replay->problem() == "");
    RC_ASSERT(replay->stores() != 0U);
}

RC_GTEST_PROP(HistoryOfARandomLife, EveryPrefixOfStoresTranslatesToOldOrNew, ()) {
    random_life_is_old_or_new_throughout<SmallFormat>();
}
RC_GTEST_PROP(HistoryOfARandomLife, EveryPrefixOfStoresTranslatesToOldOrNewWithGroupsOfTheLargestBlock, ()) {
    random_life_is_old_or_new_throughout<SmallTopGroupsFormat>();
}
RC_GTEST_PROP(HistoryOfARandomLife, EveryPrefixOfStoresTranslatesToOldOrNewWithTwoLevelsOfLeaves, ()) {
    random_life_is_old_or_new_throughout<SmallTwoLevelFormat>();
}

} // namespace
} // namespace directmap::test

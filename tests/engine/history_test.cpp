// History replay: the tables as they are after every single store of every operation, judged by somebody who knows
// nothing but the record of what happened.
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
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

/// Every operation by itself, in every shape of tables; the name says what is stored.
template <class F>
class HistoryOf : public testing::Test {
protected:
    using G = typename F::geometry;
    using RigType = machine::Rig<F>;
    static constexpr std::uint64_t small_page = G::page_size, small_block = G::bytes(G::last_level - 1),
                                   region = G::region_bytes, start = 2 * G::region_bytes;
    static constexpr PhysRange one_page = at(start + region + 5 * small_page, small_page);
    static constexpr PhysRange whole = at(start, 4 * region);

    struct Operation {
        const char* name;
        std::function<void(RigType&)> prepare; ///< what was there before, replayed as well
        std::function<void(RigType&)> play;
        std::function<void(machine::RigConfig&)> with = [](machine::RigConfig&) {};
    };

    static machine::RigConfig config() {
        machine::RigConfig c = ram(start, 4 * region);
        c.ram.push_back({at(start + 4 * region, 2 * region), {}});
        c.table_pool = at(start + 4 * region, 2 * region);
        return c;
    }
    static std::vector<Operation> operations() {
        const auto nothing = [](RigType&) {};
        const auto protect = [](PhysRange range, Change change, ChangeOptions options = {}) {
            return [=](RigType& rig) { ASSERT_TRUE(rig.protect(range, change, options)); };
        };
        const auto collapse = [](PhysRange range, std::uint64_t budget = ~std::uint64_t{0}) {
            return [=](RigType& rig) {
                std::uint64_t tables = budget;
                for (PhysRange rest = range; !rest.empty(); ++tables) {
                    const auto r = rig.collapse(rest, tables);
                    ASSERT_TRUE(r);
                    if (r.value().finished) break;
                    rest = {r.value().next, rest.end() - r.value().next};
                }
            };
        };
        const auto repaint = [](RigType& rig) { ASSERT_TRUE(rig.repaint()); };
        const auto whole_operation = [](RigType& rig, const char* name, auto play) {
            const unsigned id = rig.machine().begin_change(whole, machine::effect_of({}), false, name);
            play();
            rig.machine().end_change(id, machine::Machine::Outcome::done);
        };
        const Change read_only = Change{}.writable(false), uncached = Change{}.memory_type(MemoryType::device_nGnRE);
        const PhysRange both_ends = at(start + region + 3 * small_page, small_block + small_page);
        const PhysRange across_regions = at(start + region - 3 * small_page, region + 7 * small_page);
        const PhysRange group = at(start + region, G::group_bytes(G::last_level));
        const PhysRange block_group = at(start + region, G::group_bytes(G::last_level - 1));
        return {
            {"a split for one page", nothing, protect(one_page, read_only)},
            {"a split at both ends in one leaf", nothing, protect(both_ends, read_only)},
            {"a split at both ends in different regions", nothing, protect(across_regions, read_only)},
            {"a second split beside the first", protect(one_page, read_only),
             protect(both_ends, Change{}.executable(true))},
            {"an invalid leaf split", protect(whole, Change{}.valid(false)), protect(one_page, Change{}.valid(true))},
            {"a group of pages opened, changed and closed", protect(one_page, Change{}.key(2)),
             protect(group, read_only)},
            {"a group of blocks opened, changed and closed",
             protect(at(start + 2 * region - small_page, small_page), read_only), protect(block_group, read_only)},
            {"part of a group of pages", protect(group, read_only),
             protect(at(start + region, small_page), Change{}.key(1))},
            {"whole leaves read-only", nothing, protect(whole, read_only)},
            {"executable", nothing, protect(both_ends, Change{}.executable(true))},
            {"a key", nothing, protect(both_ends, Change{}.key(5))},
            {"not global", nothing, protect(both_ends, Change{}.global(false))},
            {"invalid", nothing, protect(both_ends, Change{}.valid(false))},
            {"valid again", protect(both_ends, Change{}.valid(false)), protect(both_ends, Change{}.valid(true))},
            {"several attributes at once", nothing,
             protect(across_regions, Change{}.writable(false).executable(true).key(3).global(false))},
            {"a break", nothing, protect(across_regions, uncached)},
            {"a break of a whole leaf", nothing, protect(at(start, region), uncached)},
            {"a break of groups and pages together", protect(one_page, read_only),
             protect(at(start + region, region), uncached)},
            {"a break of what is partly invalid", protect(one_page, Change{}.valid(false)),
             protect(both_ends, uncached)},
            {"sharing with the host", nothing, protect(both_ends, Change{}.shared(true)),
             [](machine::RigConfig& c) { c.realm_shared_address = std::uint64_t{1} << 47; }},
            {"a deferred change, and another over it, flushed later", nothing,
             [=](RigType& rig) {
                 auto first = rig.protect_deferred(both_ends, read_only);
                 ASSERT_TRUE(first);
                 auto second = rig.protect_deferred(across_regions, Change{}.valid(false));
                 ASSERT_TRUE(second);
                 first.value().merge(std::move(second.value()));
                 rig.complete(first.value());
             }},
            {"an atomic change of what is set aside", [](RigType& rig) { ASSERT_TRUE(rig.map().set_aside()); },
             protect(across_regions, read_only, {.atomic = true})},
            {"a change that runs out of tables", [](RigType& rig) { rig.machine().tables_left = 1; },
             [=](RigType& rig) { ASSERT_FALSE(rig.protect(across_regions, read_only)); }},
            {"prepare", nothing, [=](RigType& rig) { ASSERT_TRUE(rig.prepare(across_regions)); }},
            {"prepare of what is changed already", protect(both_ends, read_only),
             [=](RigType& rig) { ASSERT_TRUE(rig.prepare(across_regions)); }},
            {"prepare that runs out of tables", [](RigType& rig) { rig.machine().tables_left = 3; },
             [=](RigType& rig) { ASSERT_FALSE(rig.prepare(whole)); }},
            {"changes of prepared pages", [=](RigType& rig) { ASSERT_TRUE(rig.prepare(both_ends)); },
             protect(one_page, uncached)},
            {"release", [=](RigType& rig) { ASSERT_TRUE(rig.prepare(both_ends)); },
             [=](RigType& rig) { ASSERT_TRUE(rig.release(both_ends)); }},
            {"repaint", protect(both_ends, read_only), repaint},
            {"repaint under quiescence", protect(both_ends, read_only),
             [](RigType& rig) { ASSERT_TRUE(rig.repaint({.quiescent = true})); }},
            {"repaint that runs out of tables", [](RigType& rig) { rig.machine().tables_left = 5; },
             [](RigType& rig) { ASSERT_FALSE(rig.repaint()); }},
            {"collapse of pages to groups", [=](RigType& rig) { repaint(rig), protect(one_page, read_only)(rig); },
             collapse(group)},
            {"collapse of pages to the largest leaf", repaint, collapse(whole)},
            {"collapse of blocks to the largest leaf",
             [=](RigType& rig) {
                 protect(one_page, read_only)(rig);
                 protect(one_page, Change{}.writable(true))(rig);
             },
             collapse(one_page)},
            {"collapse in small steps", repaint, collapse(whole, 1)},
            {"collapse of what is not alike",
             [=](RigType& rig) { repaint(rig), protect(across_regions, read_only)(rig); }, collapse(whole)},
            {"collapse of what a deferred change left",
             [=](RigType& rig) {
                 auto flush = rig.protect_deferred(both_ends, read_only);
                 ASSERT_TRUE(flush);
                 auto undone = rig.protect_deferred(both_ends, Change{}.writable(true));
                 ASSERT_TRUE(undone);
                 flush.value().merge(std::move(undone.value()));
                 ASSERT_TRUE(rig.collapse(whole));
                 rig.complete(flush.value());
             },
             nothing},
            {"a restore that heals by itself", protect(both_ends, read_only),
             protect(both_ends, Change{}.writable(true)),
             [](machine::RigConfig& c) { c.policy = CollapsePolicy::on_restore; }},
            {"background collapse",
             [=](RigType& rig) {
                 protect(across_regions, read_only)(rig);
                 protect(across_regions, Change{}.writable(true))(rig);
             },
             [=](RigType& rig) {
                 for (unsigned i = 0; i < 20; ++i) (void)rig.background_step(2);
             },
             [](machine::RigConfig& c) { c.policy = CollapsePolicy::background; }},
            {"the admission of a CPU that can't resize", protect(both_ends, read_only),
             [=](RigType& rig) {
                 whole_operation(rig, "admit", [&] { ASSERT_TRUE(rig.map().admit({.tolerates_live_resize = false})); });
             }},
        };
    }
};
using SmallFormats = testing::Types<SmallFormat, SmallTopGroupsFormat, SmallTwoLevelFormat>;
TYPED_TEST_SUITE(HistoryOf, SmallFormats);

TYPED_TEST(HistoryOf, EveryOperationTranslatesToOldOrNewAfterEveryStore) {
    for (const auto& operation : this->operations()) {
        SCOPED_TRACE(operation.name);
        machine::RigConfig config = this->config();
        operation.with(config);
        machine::Regime regime = machine::regime_of<TypeParam>();
        regime.realm_shared_address = config.realm_shared_address;
        Replay replay{regime, config.offset};
        for (const RamRange& r : config.ram) replay.expect(r.range, machine::access_of(r.attributes));
        config.record = [&](const machine::Event& e) { replay(e); };
        machine::Rig<TypeParam> rig{config};
        ASSERT_TRUE(rig.built());
        operation.prepare(rig);
        const std::uint64_t before = replay.stores();
        operation.play(rig);
        if (testing::Test::HasFatalFailure()) return;
        EXPECT_EQ(replay.problem(), "");
        EXPECT_EQ(rig.problems(), "");
        EXPECT_GE(replay.stores(), before);
        EXPECT_GT(replay.stores(), 1U) << "nothing was looked at";
    }
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

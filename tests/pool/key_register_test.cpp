// The key register: what a write section writes, and what it costs.
#include <vector>

#include <gtest/gtest.h>

#include "directmap/arm64/key_register.hpp"
#include "pool_player.hpp"

namespace directmap {
namespace {

/// A register that remembers; each write is one barrier, too.
struct FakeRegister {
    static inline std::uint64_t value = 0;
    static inline std::vector<std::uint64_t> written = {};
    static inline bool enabled = false;

    static std::uint64_t read() { return value; }
    static void write(std::uint64_t to) {
        value = to;
        written.push_back(to);
    }
    static void enable() { enabled = true; }
    static void reset(std::uint64_t to) {
        value = to;
        written.clear();
    }
};
using Sections = arm64::TableSections<1, FakeRegister>;

TEST(KeyRegister, IsSetBeforeKeysAreEnabled) {
    FakeRegister::reset(0);
    FakeRegister::enabled = false;
    Sections::enable();
    EXPECT_TRUE(FakeRegister::enabled);
    EXPECT_EQ(FakeRegister::value, 0x17u);
}

TEST(KeyRegister, ASectionRaisesTheTableKeyAndTakesItBack) {
    FakeRegister::reset(0x17);
    const bool was_open = Sections::begin();
    EXPECT_EQ(FakeRegister::value, 0x57u);
    Sections::end(was_open);
    EXPECT_EQ(FakeRegister::written, (std::vector<std::uint64_t>{0x57, 0x17}));
}

TEST(KeyRegister, ANestedSectionWritesNothingAndLeavesTheOuterOneOpen) {
    FakeRegister::reset(0x17);
    const bool outer = Sections::begin();
    const bool inner = Sections::begin();
    Sections::end(inner);
    EXPECT_EQ(FakeRegister::value, 0x57u);
    Sections::end(outer);
    EXPECT_EQ(FakeRegister::written, (std::vector<std::uint64_t>{0x57, 0x17})) << "one pair";
}

TEST(KeyRegister, ASectionLeavesOtherKeysAlone) {
    FakeRegister::reset(0x3017);
    const bool was_open = Sections::begin();
    EXPECT_EQ(FakeRegister::value, 0x3057u);
    Sections::end(was_open);
    EXPECT_EQ(FakeRegister::value, 0x3017u);
}

TEST(KeyRegister, AnExceptionRunsOutsideOfTheSectionThatItInterruptsAndGoesBackIntoIt) {
    FakeRegister::reset(0x57);
    {
        const Sections::Exception handler;
        EXPECT_EQ(FakeRegister::value, 0x17u);
        { // a handler that changes the map has a section of its own
            const bool was_open = Sections::begin();
            EXPECT_FALSE(was_open);
            Sections::end(was_open);
        }
        EXPECT_EQ(FakeRegister::value, 0x17u);
    }
    EXPECT_EQ(FakeRegister::value, 0x57u);
    FakeRegister::reset(0x17);
    { const Sections::Exception handler; }
    EXPECT_TRUE(FakeRegister::written.empty()) << "nothing to do outside of sections";
}

TEST(KeyRegister, OneCommitWritesItOncePairwiseHoweverMuchItChanges) {
    using namespace machine;
    constexpr std::uint64_t page = 0x1000;
    PoolStage stage = stage_of<Toy>();
    stage.config.policy = CollapsePolicy::on_request;
    ProtectedRig<Toy> rig{stage.config};
    const auto writes = [&](auto action) {
        const std::uint64_t before = rig.machine().key_register_writes();
        action();
        return rig.machine().key_register_writes() - before;
    };
    const PhysRange one{stage.user.start + 5 * page, page};
    EXPECT_EQ(writes([&] { ASSERT_TRUE(rig.protect(one, Change{}.writable(false))); }), 2u) << "with a split";
    EXPECT_EQ(writes([&] { ASSERT_TRUE(rig.protect(one, Change{}.writable(true))); }), 2u) << "without";
    EXPECT_EQ(writes([&] { ASSERT_TRUE(rig.protect(one, Change{}.writable(true))); }), 0u) << "nothing to change";
    const PhysRange range{stage.user.start + 0x9000, 0x30000};
    EXPECT_EQ(writes([&] { ASSERT_TRUE(rig.protect(range, Change{}.writable(false))); }), 2u) << "many pages";
    EXPECT_EQ(writes([&] { ASSERT_TRUE(rig.map().collapse({stage.user.start, 0x40000})); }), 2u) << "a collapse";
    EXPECT_EQ(rig.check(0), "");
}

} // namespace
} // namespace directmap

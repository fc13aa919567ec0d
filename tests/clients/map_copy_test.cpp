// Copies of the map: what becomes of pages that are present but invalid is said, not guessed.
#include "client_rig.hpp"
#include "directmap_clients/map_copy.hpp"

namespace directmap::client_tests {
namespace {

constexpr PhysRange secret{PhysAddr{0x80401000}, 3 * page}, hidden{PhysAddr{0x90000000}, 2 * block};
constexpr PhysRange constant{PhysAddr{0xa0000000}, 5 * page};

struct CopyRig : ClientRig {
    CopyRig() {
        EXPECT_TRUE(map.protect(secret, Change{}.valid(false)));
        EXPECT_TRUE(map.protect(hidden, Change{}.valid(false))); // a large leaf that is present and invalid
        EXPECT_TRUE(map.protect(constant, Change{}.writable(false)));
    }
    ClientRig copy;
};

TEST(MapCopy, ForHibernationEveryInvalidLeafIsValidInTheCopy) {
    CopyRig t;
    const auto report = copy_map(t.map, t.copy.rig.map(), InvalidLeaves::make_valid);
    ASSERT_TRUE(report);
    EXPECT_EQ(report.value().made_valid, secret.size + hidden.size);
    EXPECT_EQ(report.value().left_out, 0u);
    EXPECT_EQ(report.value().bytes, ram.size);
    EXPECT_TRUE(t.copy.map.translate(secret.start).value().attributes.valid());
    EXPECT_TRUE(t.copy.map.translate(hidden.end() - page).value().attributes.valid());
    EXPECT_FALSE(t.copy.map.translate(constant.start).value().attributes.writable());
    EXPECT_EQ(t.rig.check(), "") << "this map is as it was";
}

TEST(MapCopy, ForKexecEveryInvalidLeafIsLeftOutOfTheCopy) {
    CopyRig t;
    const auto report = copy_map(t.map, t.copy.rig.map(), InvalidLeaves::leave_out);
    ASSERT_TRUE(report);
    EXPECT_EQ(report.value().left_out, secret.size + hidden.size);
    EXPECT_EQ(report.value().bytes, ram.size - secret.size - hidden.size);
    t.map.walk(ram, [&](const Leaf& leaf) {
        const Attributes there = t.copy.map.translate(leaf.range.start).value().attributes;
        EXPECT_EQ(there, leaf.attributes) << std::hex << leaf.range.start.value();
        return true;
    });
}

} // namespace
} // namespace directmap::client_tests

// The windows of boot in which other kernels can't split: no allocator yet, and secondaries not all seen (design §7,
// docs/gate.md).
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "machine/rig.hpp"
#include "support/scenario.hpp"

namespace directmap::test {
namespace {

constexpr std::uint64_t start = 4 * gib;
constexpr PhysRange boot_memory = at(start, 64 * kib); ///< all that there is for tables
constexpr PhysRange page = at(start + gib + 7 * mib + 12 * kib, 4 * kib);

/// Before there is an allocator: tables come from boot memory, and from nowhere else.
class EarlyPlatform : public machine::Platform {
public:
    explicit EarlyPlatform(machine::Machine& machine) : machine::Platform{machine} {}

    bool take_table(PhysAddr& pa, bool, Where where = Where::current()) {
        if (used_ == boot_memory.size) return false;
        pa = boot_memory.start + used_;
        used_ += 4 * kib;
        machine().own_table(pa.value(), where);
        return true;
    }
    void give_table(PhysAddr pa, Where where = Where::current()) { machine().disown_table(pa.value(), where); }
    [[nodiscard]] unsigned taken() const { return static_cast<unsigned>(used_ / (4 * kib)); }

private:
    std::uint64_t used_ = 0;
};
static_assert(directmap::Platform<EarlyPlatform>);

machine::RigConfig realm_guest(unsigned cpus_outside) {
    machine::RigConfig config = ram(start, 2 * gib);
    config.cpus = 1 + cpus_outside;
    config.cpus_outside = cpus_outside;
    config.realm_shared_address = std::uint64_t{1} << 46;
    return config;
}

/// As a guest does it: take the page out of use, ask the host, use it again.
template <class Rig>
void share(Rig& rig) {
    ASSERT_TRUE(rig.protect(page, Change{}.valid(false)));
    rig.machine().set_granules(page, true);
    ASSERT_TRUE(rig.protect(page, Change{}.shared(true)));
    ASSERT_TRUE(rig.protect(page, Change{}.valid(true)));
}

TEST(BootWindows, ARealmSharesAPageBeforeThereIsAnAllocatorOrASecondary) {
    machine::Rig<Format4K, EarlyPlatform> rig{realm_guest(2)};
    ASSERT_TRUE(rig.built());
    const unsigned built = rig.platform().taken();
    share(rig);
    EXPECT_EQ(rig.check(), "");
    EXPECT_LE(rig.platform().taken() - built, 4u);
    EXPECT_TRUE(rig.map().translate(page.start).value().attributes.shared());
    EXPECT_FALSE(rig.map().translate(page.end()).value().attributes.shared());

    // Secondaries come afterwards, and the page is shared for them as well.
    ASSERT_TRUE(rig.map().admit({.tolerates_live_resize = true}));
    rig.machine().enter(1, rig.map().root().value());
    EXPECT_EQ(rig.check(), "");
}

TEST(BootWindows, BetweenTheFirstSecondaryAndTheLastASplitWorks) {
    machine::Rig<Format4K> rig{realm_guest(3)};
    ASSERT_TRUE(rig.map().admit({.tolerates_live_resize = true}));
    rig.machine().enter(1, rig.map().root().value());
    EXPECT_TRUE(rig.protect(page, Change{}.writable(false))) << "two CPUs have not been seen yet";
    ASSERT_TRUE(rig.map().admit({.tolerates_live_resize = true}));
    rig.machine().enter(2, rig.map().root().value());
    EXPECT_TRUE(rig.protect(page, Change{}.writable(true)));
    EXPECT_TRUE(rig.collapse(page));
    EXPECT_EQ(rig.check(), "");
}

TEST(BootWindows, ARealmWhoseBootCpuDoesNotTolerateResizingSharesAllTheSame) {
    machine::RigConfig config = realm_guest(1);
    config.ram = {{at(start + gib, 32 * mib), {}}};
    config.mapping = Mapping::pages;
    config.bbm = 0;
    machine::Rig<Format4K> rig{config};
    ASSERT_TRUE(rig.built());
    EXPECT_EQ(rig.map().gate_mode(), Gate::Mode::closed);
    share(rig);
    EXPECT_EQ(rig.check(), "");
}

TEST(BootWindows, OnceAnIntolerantCpuIsInsideLaterOnesOfBothKindsEnterAtOnce) {
    machine::RigConfig config = realm_guest(3);
    config.ram = {{at(start, 64 * mib), {}}};
    machine::Rig<Format4K> rig{config};
    const auto tables_for = [&](CpuCapabilities cpu) {
        const auto before = rig.map().statistics().counters.tables_taken;
        EXPECT_TRUE(rig.map().admit(cpu));
        return rig.map().statistics().counters.tables_taken - before;
    };
    EXPECT_GT(tables_for({.tolerates_live_resize = false}), 0u) << "this one repaints";
    EXPECT_EQ(tables_for({.tolerates_live_resize = false}), 0u);
    EXPECT_EQ(tables_for({.tolerates_live_resize = true}), 0u);
    EXPECT_EQ(rig.map().gate_mode(), Gate::Mode::closed) << "for good";
    EXPECT_EQ(rig.check(), "");
}

} // namespace
} // namespace directmap::test

// Writes to page tables by who shouldn't: every kind of table page, at every moment.
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "pool_player.hpp"

namespace directmap::machine {
namespace {

constexpr std::uint64_t page = 0x1000;
using ToyRig = ProtectedRig<Toy>;
using G = ToyRig::G;

/// Tables of the map by the level of their entries.
void find_tables(ToyRig& rig, PhysAddr table, int level, std::map<int, std::vector<PhysAddr>>& found) {
    found[level].push_back(table);
    if (level == G::last_level) return;
    for (unsigned i = 0; i < G::entries(level); ++i) {
        const Descriptor d = Descriptor::from_bits(rig.machine().load(table.value(), i, {}));
        if (Toy::is_table(level, d)) find_tables(rig, Toy::table_address(d), level + 1, found);
    }
}
[[nodiscard]] std::map<int, std::vector<PhysAddr>> tables_of(ToyRig& rig) {
    std::map<int, std::vector<PhysAddr>> found;
    find_tables(rig, rig.map().root(), G::root_level, found);
    return found;
}

/// No CPU can write it outside of a section, by any translation that it may use; all can read it.
void expect_protected(ToyRig& rig, PhysAddr pa, const std::string& kind) {
    for (unsigned cpu = 0; cpu < rig.machine().config().cpus; ++cpu) {
        EXPECT_FALSE(rig.machine().reach(cpu, pa, true, false).may_succeed)
            << "CPU " << cpu << " writes " << kind << " at " << std::hex << pa.value();
        EXPECT_FALSE(rig.machine().reach(cpu, pa, false, false).may_fault) << kind;
    }
}

TEST(TableAttack, AWriteToEveryKindOfTablePageFaults) {
    PoolStage stage = stage_of<Toy>();
    stage.config.early.size = 12 * page;
    stage.spare.start = stage.config.early.end();
    stage.config.split_early = {stage.user.start + 5 * page, page}; // so that early tables of each level stay in use
    ToyRig rig{stage.config};
    ASSERT_TRUE(rig.ready());
    std::uint64_t outside = 0; // free early pages, so that the pool's other pages become tables
    for (bool early = true; early; ++outside) early = stage.config.early.contains(rig.take(PageUse::normal).value());
    ASSERT_TRUE(rig.protect({stage.user.start + 0x45000, page}, Change{}.writable(false)));
    expect_protected(rig, rig.map().root(), "the root");
    std::map<int, unsigned> early, pooled;
    for (const auto& [level, tables] : tables_of(rig)) {
        for (const PhysAddr pa : tables) {
            expect_protected(rig, pa, "a table of level " + std::to_string(level));
            ++(stage.config.early.contains(pa) ? early : pooled)[level];
        }
    }
    EXPECT_GT(early[1], 0u); // every kind was there to be tried
    EXPECT_GT(early[2], 0u);
    EXPECT_GT(early[3], 0u);
    EXPECT_GT(pooled[2], 0u);
    EXPECT_GT(pooled[3], 0u);
    // Pages that are no tables now: in the pool's lists, and in a magazine.
    const PhysAddr cached = rig.take(PageUse::normal).value();
    expect_protected(rig, cached, "a page that was handed out");
    ASSERT_TRUE(rig.give(cached));
    expect_protected(rig, cached, "a page in a magazine");
    ASSERT_TRUE(rig.map().set_aside()); // those next: from the magazine, and more
    EXPECT_GT(rig.map().statistics().set_aside, 0u);
    expect_protected(rig, cached, "a page set aside for atomic callers");
    rig.pool().drain_magazines();
    expect_protected(rig, cached, "a free page");
    unsigned owned = 0;
    for (PhysAddr pa = rig.map().span().start; pa < rig.map().span().end(); pa = pa + page) {
        if (!rig.pool().owns(pa)) continue;
        ++owned;
        expect_protected(rig, pa, "a page of the pool");
    }
    EXPECT_EQ(owned, rig.pool().statistics().owned);
    EXPECT_FALSE(rig.machine().stray_write_faults(stage.user.start)) << "what isn't protected doesn't fault";
    EXPECT_EQ(rig.check(outside), "");
}

TEST(TableAttack, AWriteToAFreshlyCollapsedTableFaults) {
    const PoolStage stage = stage_of<Toy>();
    ToyRig rig{stage.config};
    const PhysRange one{stage.user.start + 5 * page, page};
    ASSERT_TRUE(rig.protect(one, Change{}.writable(false)));
    auto before = tables_of(rig);
    bool collapsed = false;
    rig.map().walk(stage.user, [&](const Leaf&) { // while a walker keeps them from being reused
        if (collapsed) return true;
        collapsed = true;
        EXPECT_TRUE(rig.protect(one, Change{}.writable(true)));
        EXPECT_GT(rig.map().statistics().retired, 0u);
        for (const auto& [level, tables] : before)
            for (const PhysAddr pa : tables) expect_protected(rig, pa, "a table that was unlinked");
        return true;
    });
    rig.map().reclaim();
    EXPECT_EQ(rig.map().statistics().retired, 0u);
    EXPECT_LT(tables_of(rig)[3].size(), before[3].size());
    for (const auto& [level, tables] : before)
        for (const PhysAddr pa : tables) expect_protected(rig, pa, "a table that came back");
    EXPECT_EQ(rig.check(0), "");
}

/// Before every platform call of CPU 0: another CPU tries to write tables, and an exception's handler on this one.
class Attacker final : public Scheduler {
public:
    Attacker(ToyRig& rig, std::vector<PhysAddr> tables) : rig_{rig}, tables_{std::move(tables)} {}
    void before_call(const char*) override { attack(); }
    void wait(const char*, const std::function<bool()>&) override { attack(); }
    void pause() override {}
    unsigned choose(const char*, unsigned) override { return 0; }
    void touch(std::uint64_t, bool) override {}

    unsigned moments = 0, inside = 0;

private:
    void attack() {
        Machine& machine = rig_.machine();
        ++moments;
        inside += machine.may_write_tables() ? 1u : 0u;
        for (const PhysAddr pa : tables_) EXPECT_FALSE(machine.reach(1, pa, true, false).may_succeed);
        const std::uint64_t interrupted = machine.enter_exception();
        EXPECT_FALSE(machine.may_write_tables());
        for (const PhysAddr pa : tables_) EXPECT_FALSE(machine.reach(0, pa, true, false).may_succeed);
        machine.leave_exception(interrupted);
    }

    ToyRig& rig_;
    std::vector<PhysAddr> tables_;
};

TEST(TableAttack, AtNoMomentOfAChangeCanAnotherCpuOrAnExceptionWriteATable) {
    const PoolStage stage = stage_of<Toy>();
    ToyRig rig{stage.config};
    ASSERT_TRUE(rig.protect({stage.user.start + 0x45000, page}, Change{}.writable(false)));
    std::vector<PhysAddr> tables;
    for (const auto& [level, of_level] : tables_of(rig)) tables.insert(tables.end(), of_level.begin(), of_level.end());
    Attacker attacker{rig, tables};
    rig.machine().schedule_with(&attacker);
    EXPECT_TRUE(rig.protect({stage.user.start + 0x31000, 0x60000}, Change{}.writable(false)));
    EXPECT_TRUE(rig.protect(stage.user, Change{}.writable(true))); // collapses
    EXPECT_TRUE(rig.map().prepare({stage.user.start, 0x40000}));
    EXPECT_TRUE(rig.refill());
    (void)rig.shrink(~std::uint64_t{0});
    rig.machine().schedule_with(nullptr);
    EXPECT_GT(attacker.inside, 20u) << "some moments were inside of sections";
    EXPECT_GT(attacker.moments, attacker.inside);
    EXPECT_EQ(rig.check(0), "");
}

TEST(TableAttack, ASectionIsClosedOnEveryErrorPath) {
    const PoolStage stage = stage_of<Toy>();
    ToyRig rig{stage.config};
    const auto closed_after = [&](Result<void> result) {
        EXPECT_FALSE(rig.machine().may_write_tables());
        return result.ok() ? "none" : name(result.error().code());
    };
    const PhysRange one{stage.user.start + 0x45000, page};
    EXPECT_STREQ(closed_after(rig.map().protect({one.start, 1}, Change{}.key(2))), "invalid_argument");
    EXPECT_STREQ(closed_after(rig.protect({rig.map().root(), page}, Change{}.key(0))), "incompatible");
    EXPECT_STREQ(closed_after(rig.protect(one, Change{}.writable(false), {.atomic = true})), "would_block");
    rig.allocator().largest = 0;
    std::uint64_t outside = 0;
    while (rig.take(PageUse::split)) ++outside;
    EXPECT_STREQ(closed_after(rig.protect(one, Change{}.writable(false))), "no_tables");
    EXPECT_STREQ(closed_after(rig.map().prepare({stage.user.start, 0x40000})), "no_tables");
    EXPECT_STREQ(closed_after(rig.map().repaint()), "no_tables");
    EXPECT_EQ(rig.check(outside), "");
}

TEST(TableAttack, ACallerCantMakeATablePageWritableOrGiveItAnotherKey) {
    ToyRig rig{stage_of<Toy>().config};
    const PhysRange root{rig.map().root(), page};
    for (const Change change : {Change{}.key(0), Change{}.key(3), Change{}.valid(false), Change{}.writable(false),
                                Change{}.executable(true), Change{}.memory_type(MemoryType::normal_noncacheable)}) {
        // Straight to the map, the machine untold: it judges any effect as a violation.
        auto r = rig.map().ToyRig::Map::Base::protect(root, change);
        ASSERT_FALSE(r);
        EXPECT_EQ(r.error().code(), ErrorCode::incompatible);
        EXPECT_NE(std::string{r.error().reason()}.find("page tables"), std::string::npos) << "it says why";
    }
    // A free page of the pool, and a range that only overlaps one.
    const PhysAddr free = rig.take(PageUse::split).value();
    ASSERT_TRUE(rig.give(free));
    EXPECT_FALSE(rig.protect({free, page}, Change{}.key(0)));
    EXPECT_FALSE(rig.protect({rig.map().span().start, rig.map().span().size}, Change{}.key(0)));
    EXPECT_EQ(rig.check(0), "");
}

TEST(TableAttack, ACallerCantGiveAPageThatItTookFromThePoolAnotherKey) {
    ToyRig rig{stage_of<Toy>().config};
    const PhysRange mine{rig.take(PageUse::normal).value(), page};
    for (const Change change : {Change{}.key(0), Change{}.key(2), Change{}.writable(false), Change{}.valid(false)}) {
        auto r = rig.map().ToyRig::Map::Base::protect(mine, change);
        ASSERT_FALSE(r);
        EXPECT_EQ(r.error().code(), ErrorCode::incompatible);
    }
    expect_protected(rig, mine.start, "a page that was handed out");
    EXPECT_EQ(rig.check(1), "");
}

TEST(TableAttack, ACallerCantPinATablePageAndFlipIt) {
    const PoolStage stage = stage_of<Toy>();
    ToyRig rig{stage.config};
    ASSERT_TRUE(rig.protect({stage.user.start + 5 * page, page}, Change{}.writable(false)));
    for (const auto& [level, tables] : tables_of(rig)) {
        for (const PhysAddr pa : tables) {
            auto pinned = rig.map().prepare({pa, page});
            ASSERT_FALSE(pinned) << "level " << level;
            EXPECT_EQ(pinned.error().code(), ErrorCode::incompatible);
            EXPECT_FALSE(rig.map().flip(pa, false));
        }
    }
    EXPECT_EQ(rig.check(0), "");
}

TEST(TableAttack, ACallerCantFlipATablePageThatWasBuiltAsAPage) { // in a zone of fixed size it passes for pinned
    const PoolStage stage = stage_of<Toy>();
    const PhysAddr table = stage.user.start + 5 * page;
    RigConfig config;
    config.ram = {{{stage.config.ram.start, stage.config.ram.size}, {}},
                  {{stage.config.ram.end(), 0x40000}, Attributes{}.with_key(1)}}; // the map's own tables
    config.zones = {{{table, page}, ZoneKind::fixed_size, true, Attributes{}.with_key(1)}};
    config.table_key = 1;
    Rig<Toy> rig{config};
    ASSERT_TRUE(rig.built()) << rig.built().error().reason();
    auto r = rig.map().flip(table, false);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::incompatible);
    EXPECT_TRUE(rig.map().translate(table).value().attributes.valid());
}

TEST(TableAttack, ACallerCantPassItsOwnPagesOffAsPageTables) {
    const PoolStage stage = stage_of<Toy>();
    ToyRig rig{stage.config};
    auto r = rig.protect({stage.user.start, page}, Change{}.key(1));
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::incompatible);
    EXPECT_TRUE(rig.protect({stage.user.start, page}, Change{}.key(2)));
    EXPECT_EQ(rig.check(0), "");
}

TEST(TableAttack, AnAliasOfATablePageInAnotherMapCantBeMadeWritableEither) {
    // A second map of the same RAM, at another offset, is built with the table key over the pool's memory.
    const PoolStage stage = stage_of<Toy>();
    ToyRig rig{stage.config};
    RigConfig second;
    const PhysRange ram = stage.config.ram;
    second.ram = {{{ram.start, ram.size}, {}}};
    second.zones = {{stage.config.early, ZoneKind::fixed_size, true, Attributes{}.with_key(1)},
                    {stage.config.chunks, ZoneKind::fixed_size, true, Attributes{}.with_key(1)}};
    second.ram.push_back({{ram.end(), 0x40000}, Attributes{}.with_key(1)}); // its own tables
    second.offset = 0xffff800000000000;
    second.table_key = 1;
    Rig<Toy> alias{second};
    ASSERT_TRUE(alias.built()) << alias.built().error().reason();
    alias.machine().enforce_keys();
    unsigned tried = 0;
    for (const auto& [level, tables] : tables_of(rig)) {
        for (const PhysAddr pa : tables) {
            EXPECT_EQ(alias.map().translate(pa).value().attributes.key(), 1u);
            EXPECT_FALSE(alias.machine().reach(0, pa, true, false).may_succeed) << "a write through the alias";
            for (const Change change : {Change{}.key(0), Change{}.writable(true).key(2), Change{}.executable(true)}) {
                auto r = alias.protect({pa, page}, change);
                ASSERT_FALSE(r);
                EXPECT_EQ(r.error().code(), ErrorCode::incompatible);
                ++tried;
            }
            EXPECT_FALSE(alias.machine().reach(0, pa, true, false).may_succeed) << "afterwards";
        }
    }
    EXPECT_GE(tried, 9u);
    EXPECT_EQ(alias.check(), "");
}

} // namespace
} // namespace directmap::machine

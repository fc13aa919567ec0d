// Tables before any allocator: none is forgotten, and all are protected and come back in the end.
#include <set>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "machine/events.hpp"
#include "pool_player.hpp"

namespace directmap::machine {
namespace {

constexpr std::uint64_t page = 0x1000;
using ToyRig = ProtectedRig<Toy>;

MachineConfig toy_machine() {
    MachineConfig config;
    config.regime = regime_of<Toy>();
    return config;
}

TEST(EarlyTables, AreRecordedHoweverManyRangesTheyComeFrom) {
    Machine machine{toy_machine()};
    UnwatchedPages pages{machine};
    std::vector<PhysRange> ranges;
    for (unsigned i = 0; i < 1000; ++i) ranges.push_back({PhysAddr{0x100000 + i * 4 * page}, (1 + i % 3) * page});
    EarlyTableSource<UnwatchedPages> source{pages, {ranges.data(), ranges.size()}, page};
    std::vector<PhysAddr> taken;
    PhysAddr pa;
    while (source.take(pa)) taken.push_back(pa);
    EXPECT_EQ(taken.size(), 1999u);
    for (const PhysAddr one : taken) ASSERT_TRUE(source.in_use(one));
    EXPECT_FALSE(source.in_use(PhysAddr{0x100000 + page})) << "between two ranges";
    // Every other one comes back, and is handed out again before anything else.
    std::set<std::uint64_t> back;
    for (std::size_t i = 0; i < taken.size(); i += 2) {
        source.give(taken[i]);
        back.insert(taken[i].value());
    }
    for (std::size_t i = 0; i < taken.size(); i += 97) EXPECT_EQ(source.in_use(taken[i]), i % 2 == 1);
    while (source.take(pa)) ASSERT_EQ(back.erase(pa.value()), 1u);
    EXPECT_TRUE(back.empty());
    source.retire();
    EXPECT_FALSE(source.take(pa));
}

TEST(EarlyTables, AreWrittenInsideAWriteSectionAlsoWhenTheyComeBack) {
    class SectionWatcher : public UnwatchedPages {
    public:
        using UnwatchedPages::UnwatchedPages;

        bool begin_table_writes() { return std::exchange(open_, true); }
        void end_table_writes(bool was_open) { open_ = was_open; }
        void fill(Table t, unsigned first, unsigned count, Descriptor value, std::uint64_t step) {
            EXPECT_TRUE(open_) << "the page may be a table with its key already";
            UnwatchedPages::fill(t, first, count, value, step);
        }

    private:
        bool open_ = false;
    };
    Machine machine{toy_machine()};
    SectionWatcher pages{machine};
    const PhysRange memory{PhysAddr{0x100000}, 2 * page};
    EarlyTableSource<SectionWatcher> source{pages, {&memory, 1}, page};
    PhysAddr pa;
    ASSERT_TRUE(source.take(pa));
    source.give(pa);
    EXPECT_FALSE(pages.begin_table_writes()) << "and the section ends there";
}

TEST(EarlyTables, LeaveNothingBehindWhereverTheyRunOut) {
    bool began = false;
    for (unsigned count = 0; !began; ++count) {
        ASSERT_LE(count, 16u);
        PoolStage stage = stage_of<Toy>(112, 4 * page);
        stage.config.early.size = count * page;
        ToyRig rig{stage.config};
        began = rig.ready().ok();
        if (began) {
            EXPECT_EQ(rig.check(0), "");
            continue;
        }
        EXPECT_EQ(rig.ready().error().code(), ErrorCode::no_tables) << count;
        EXPECT_EQ(rig.machine().violations().size(), 0u) << count;
        std::uint64_t in_use = 0;
        for (PhysAddr pa = stage.config.early.start; pa < stage.config.early.end(); pa = pa + page)
            in_use += rig.early().in_use(pa) ? 1u : 0u;
        EXPECT_EQ(in_use, rig.machine().tables_in_use()) << count;
        EXPECT_EQ(rig.allocator().taken(), rig.pool().statistics().owned * page) << count;
    }
}

TEST(EarlyTables, AreProtectedAfterTheReserveAndAllOfThem) {
    std::vector<PhysRange> keyed;
    PoolStage stage = stage_of<Toy>();
    stage.config.before_build = [&](Machine& machine) {
        machine.record_to([&, &machine = machine](const Event& e) {
            if (std::string_view{e.call} == "begin" && e.change.find("key=1") != std::string::npos)
                keyed.push_back({PhysAddr{e.va - machine.config().offset}, e.size});
        });
    };
    ToyRig rig{stage.config};
    ASSERT_TRUE(rig.ready());
    rig.machine().record_to({});
    ASSERT_GE(keyed.size(), 2u);
    EXPECT_EQ(keyed.back(), stage.config.early);
    std::uint64_t reserve = 0;
    for (std::size_t i = 0; i + 1 < keyed.size(); ++i) {
        EXPECT_FALSE(keyed[i].overlaps(stage.config.early));
        reserve += keyed[i].size;
    }
    EXPECT_GE(reserve, Player<Toy>::reserves * page);
    for (PhysAddr pa = stage.config.early.start; pa < stage.config.early.end(); pa = pa + page)
        EXPECT_TRUE(rig.machine().stray_write_faults(pa));
}

TEST(EarlyTables, ThatCollapseFreesComeBackToThePool) {
    PoolStage stage = stage_of<Toy>();
    stage.config.early.size = 12 * page;
    stage.spare.start = stage.config.early.end();
    stage.config.split_early = {stage.user.start + 5 * page, page};
    ToyRig rig{stage.config};
    ASSERT_TRUE(rig.ready()) << rig.ready().error().reason();
    EXPECT_EQ(rig.check(0), "");
    // Two early tables cut this leaf. When it heals they are free pages of the pool, and become tables again.
    const std::uint64_t free = rig.pool().statistics().free;
    ASSERT_TRUE(rig.protect(stage.config.split_early, Change{}.writable(true)));
    rig.map().reclaim();
    EXPECT_EQ(rig.pool().statistics().free, free + 2);
    EXPECT_EQ(rig.check(0), "");
    rig.allocator().largest = 0;
    bool early = false;
    std::uint64_t outside = 0;
    for (auto r = rig.take(PageUse::split); r; r = rig.take(PageUse::split), ++outside)
        early = early || stage.config.early.contains(r.value());
    EXPECT_TRUE(early);
    EXPECT_EQ(rig.check(outside), "");
}

} // namespace
} // namespace directmap::machine

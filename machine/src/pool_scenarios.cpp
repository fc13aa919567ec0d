// Scenarios with protected tables: two CPUs at the table pool at once, refilling, splitting, freeing, shrinking.
#include "machine/pool_scenarios.hpp"

#include <memory>
#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "directmap/chunk_pool.hpp"
#include "machine/protected_rig.hpp"

namespace directmap::machine {

namespace {

constexpr unsigned table_key = 1;

/// The pool, beside the world. It begins with little more than its reserve, in chunks of four pages.
class RacePool final : public ExploredPlatform::TableSource {
public:
    using Pool = ChunkPool<PoolMap<SmallRig>, RangeAllocator>;
    static constexpr PhysRange chunks =
        phys_range(World::base + World::region_size + 0x8000, World::base + World::region_size + 0x20000);
    static constexpr PhysRange spare =
        phys_range(World::base + World::region_size, World::base + World::region_size + 0x3000);

    explicit RacePool(World& world)
        : world_{world}, map_{world.rig}, memory{chunks}, frames_(8),
          magazines_(2), pool{map_,
                              world.rig.platform(),
                              memory,
                              table_pool_config<Pool>(table_key),
                              Span<ChunkFrame>{frames_.data(), frames_.size()},
                              Span<Magazine<Machine::Lock>>{magazines_.data(), magazines_.size()}} {
        memory.largest = 0x4000;
        while (pool.available() < World::G::worst_tables + Pool::chunk_tables) expect("refill", pool.refill());
        expect("become the table source", pool.become_table_source());
        world.rig.platform().use(this);
        world.rig.machine().enforce_keys();
    }

    bool take(PhysAddr& pa, bool atomic) override {
        const bool taken = pool.take_table(pa, atomic, cpu());
        if (taken) ++tables_out_;
        return taken;
    }
    bool give(PhysAddr pa) override {
        if (!pool.owns(pa)) return false;
        --tables_out_;
        expect("give", pool.give(pa, cpu()));
        return true;
    }
    [[nodiscard]] bool owns(PhysAddr pa) const override { return pool.owns(pa); }

    /// Pages for others.
    void take_pages(unsigned count, PageUse use = PageUse::normal) {
        for (unsigned i = 0; i < count; ++i) {
            auto taken = pool.take(use, cpu());
            const bool refused = use == PageUse::atomic && !taken && taken.error().code() == ErrorCode::would_block;
            if (!refused) expect("take", taken ? Result<void>{} : Result<void>{taken.error()});
            if (taken) outside.push_back(taken.value());
        }
    }
    void give_pages() {
        while (!outside.empty()) {
            const PhysAddr pa = outside.back();
            outside.pop_back();
            expect("give", pool.give(pa, cpu()));
        }
    }
    /// Brings the pool down to its floor, as splits do.
    void drain() {
        while (pool.available() > Pool::chunk_tables) take_pages(1, PageUse::atomic);
    }
    /// Five chunks, of which only the last is wholly free: alone in its frame.
    void leave_one_free_chunk() {
        while (pool.statistics().owned < 16) refill();
        drain();
        std::set<std::uint64_t> seen;
        std::vector<PhysAddr> kept;
        for (const PhysAddr pa : outside) {
            if (seen.insert(pa.value() / 0x4000).second) {
                kept.push_back(pa);
            } else {
                expect("give", pool.give(pa, cpu()));
            }
        }
        outside = kept;
        refill();
    }
    void adopt() {
        expect("adopt", pool.adopt(spare, [](PhysAddr) { return false; }));
    }
    void refill() {
        const auto refilled = pool.refill();
        if (!refilled && refilled.error().code() != ErrorCode::busy) expect("refill", refilled);
    }
    void shrink() { (void)pool.shrink(~std::uint64_t{0}); }

    /// Every page accounted for, and enough of them for the next refill.
    void check() {
        const PoolStatistics s = pool.statistics();
        const std::uint64_t tables = tables_out_ + map_.tables_lent;
        if (s.owned != s.free + tables + outside.size()) {
            world_.fail(fmt::format("{} pages are owned, but {} are free, {} are tables and {} are outside", s.owned,
                                    s.free, tables, outside.size()));
        }
        if (pool.available() < Pool::chunk_tables) world_.fail("a refill would not find its tables");
        if (world_.rig.machine().may_write_tables()) world_.fail("a write section was left open");
    }

    void expect(const char* what, const Result<void>& result) {
        if (!result)
            world_.fail(fmt::format("{} fails: {}, {}", what, name(result.error().code()), result.error().reason()));
    }
    void expect(const char* what, bool done) {
        if (!done) world_.fail(fmt::format("{} fails", what));
    }

private:
    [[nodiscard]] unsigned cpu() const { return world_.rig.machine().cpu(); }

    World& world_;
    PoolMap<SmallRig> map_;
    std::uint64_t tables_out_ = 0; ///< that the map has taken, less those that it has given back

public:
    RangeAllocator memory;

private:
    std::vector<ChunkFrame> frames_;
    std::vector<Magazine<Machine::Lock>> magazines_;

public:
    Pool pool;
    std::vector<PhysAddr> outside; ///< pages that others have
};

[[nodiscard]] RacePool& pool_of(World& world) {
    return *static_cast<RacePool*>(world.annex.get());
}

RigConfig protected_map() {
    RigConfig config;
    config.ram = {{{World::region(0).start, 2 * World::region_size}, {}},
                  {World::region(2), Attributes{}.with_key(table_key)}};
    config.table_pool = World::region(2); // for the build; it has the key from the start
    config.table_key = table_key;
    return config;
}

const Change read_only = Change{}.writable(false);
const Change writable = Change{}.writable(true);

Scenario race(const char* name, const char* what, std::function<void(World&)> prepare, Agent first, Agent second) {
    Scenario scenario;
    scenario.name = name;
    scenario.what = what;
    scenario.config = protected_map();
    scenario.prepare = [prepare = std::move(prepare)](World& world) {
        world.annex = std::make_shared<RacePool>(world);
        if (prepare) prepare(world);
    };
    scenario.agents = {std::move(first), std::move(second)};
    scenario.finish = [](World& world) {
        world.rig.map().reclaim();
        pool_of(world).check();
        pool_of(world).drain(); // every page that the pool says is free can be had, and is known when it comes back
        pool_of(world).give_pages();
        pool_of(world).check();
    };
    return scenario;
}

} // namespace

const std::vector<Scenario>& pool_scenarios() {
    static const std::vector<Scenario> all = [] {
        const auto drain = [](World& w) { pool_of(w).drain(); };
        const Agent splits{0, "makes page 5 read-only", [](World& w) { w.protect(w.pages(5), read_only); }};
        const Agent shrinks{1, "shrinks the pool", [](World& w) { pool_of(w).shrink(); }};
        std::vector<Scenario> list;
        list.push_back(race("pool-split-split", "two CPUs split leaves with the pool at its floor: both have to refill",
                            drain, splits,
                            {1, "makes page 40 read-only", [](World& w) { w.protect(w.pages(40), read_only); }}));
        list.push_back(race("pool-refill-refill", "two CPUs refill the pool", {},
                            {0, "refills", [](World& w) { pool_of(w).refill(); }},
                            {1, "refills", [](World& w) { pool_of(w).refill(); }}));
        list.push_back(race(
            "pool-refill-shrink", "one CPU adds a chunk to a frame whose last other chunk is given back",
            [](World& w) { pool_of(w).leave_one_free_chunk(); }, {0, "refills", [](World& w) { pool_of(w).refill(); }},
            shrinks));
        list.push_back(race(
            "pool-split-shrink", "one CPU splits a leaf while another one gives chunks back",
            [](World& w) { pool_of(w).refill(); }, splits, shrinks));
        list.push_back(race(
            "pool-give-shrink", "one CPU gives pages back while another one gives chunks back",
            [](World& w) { pool_of(w).take_pages(4); },
            {0, "gives four pages back", [](World& w) { pool_of(w).give_pages(); }}, shrinks));
        list.push_back(race("pool-collapse-split",
                            "one CPU frees tables by a collapse, another one needs some, at the floor",
                            [](World& w) {
                                w.protect(w.pages(5), read_only);
                                w.protect(w.pages(5), writable);
                                pool_of(w).drain();
                            },
                            {0, "collapses region 0", [](World& w) { w.collapse(w.region(0)); }},
                            {1, "makes page 40 read-only", [](World& w) { w.protect(w.pages(40), read_only); }}));
        list.push_back(race("pool-adopt-split", "one CPU adopts pages while another one splits, at the floor", drain,
                            {0, "adopts three pages", [](World& w) { pool_of(w).adopt(); }},
                            {1, "makes page 40 read-only", [](World& w) { w.protect(w.pages(40), read_only); }}));
        list.push_back(race("pool-atomic-refill", "one CPU takes pages in atomic context while another one refills",
                            drain,
                            {0, "takes three pages", [](World& w) { pool_of(w).take_pages(3, PageUse::atomic); }},
                            {1, "refills", [](World& w) { pool_of(w).refill(); }}));
        return list;
    }();
    return all;
}

const std::vector<SeededFault>& pool_faults() {
    static const std::vector<SeededFault> all = {
        {"pool-forget-frame", "a shrink forgets the frame that a refill is about to add to", "pool-refill-shrink",
         Omission::pool_frame_pin},
        {"pool-unprotected-chunk", "a chunk's pages are handed out before they have the table key", "pool-split-split",
         Omission::pool_attributes},
    };
    return all;
}

} // namespace directmap::machine

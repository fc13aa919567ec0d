// The races of races/races.hpp, which the machine's explorer plays in every order, run here by CPUs that really race:
// over and over, each time with other head starts.
#include "races/races.hpp"

#include "cpu/cpu.hpp"
#include "cpu/workers.hpp"
#include "scenarios/scenario.hpp"

namespace directmap::kernel {

namespace {

/// Where the pages of a race lie: how many bytes there are from one to the next, to the next group, block, group of
/// blocks and region.
class Ground {
public:
    static constexpr unsigned pages = 128, region_pages = 64;

    /// In two neighbouring largest leaves if the arena has room for them, otherwise in pairs of groups of blocks, or of
    /// a few blocks. An empty `whole` if there is no room even for those.
    explicit Ground(PhysRange arena) {
        for (unsigned i = 0; i < Geometry::leaf_sizes.count; ++i) {
            const LeafSize size = Geometry::leaf_sizes.of[i];
            if (size.level != Geometry::last_level) continue;
            (size.contiguous ? group_ : page_) = size.bytes();
        }
        constexpr int block_level = Geometry::last_level - 1;
        block_ = Geometry::bytes(block_level);
        constexpr std::uint64_t few_blocks = 4 * Geometry::bytes(block_level),
                                group =
                                    Geometry::has_groups(block_level) ? Geometry::group_bytes(block_level) : few_blocks;
        constexpr struct {
            std::uint64_t blocks, region;
        } choices[] = {{group, Geometry::region_bytes}, {group, 2 * group}, {few_blocks, 2 * few_blocks}};
        for (const auto& choice : choices) {
            const PhysAddr start{align_up(arena.start.value() + page_size, choice.region)};
            const bool fits = start + 2 * choice.region + page_size <= arena.end();
            if (!fits || choice.region < 2 * choice.blocks) continue;
            blocks_ = choice.blocks;
            region_ = choice.region;
            whole = {start, 2 * region_};
            return;
        }
    }

    [[nodiscard]] PhysRange range(unsigned first, unsigned count) const {
        const unsigned behind = first + count;
        const PhysAddr end = behind % 4 == 0 ? place(behind) : place(behind - 1) + page_;
        return phys_range(place(first).value(), end.value());
    }
    [[nodiscard]] PhysRange region(unsigned i) const { return {whole.start + i * region_, region_}; }

    PhysRange whole;

private:
    [[nodiscard]] PhysAddr place(unsigned page) const {
        return whole.start + (page / 64 * region_ + page % 64 / 32 * blocks_ + page % 32 / 8 * block_ +
                              page % 8 / 4 * group_ + page % 4 * page_);
    }

    std::uint64_t page_ = 0, group_ = 0, block_ = 0, blocks_ = 0, region_ = 0;
};

/// A signal between CPUs, which the races use like a number.
class Flag {
public:
    Flag& operator=(int value) {
        __atomic_store_n(&value_, value, __ATOMIC_RELEASE);
        return *this;
    }
    operator int() const { return __atomic_load_n(&value_, __ATOMIC_ACQUIRE); }

private:
    int value_ = 0;
};

/// What a race sees of the kernel.
class World {
public:
    World(Stage& stage, const Ground& ground) : stage_{stage}, ground_{ground} {}

    Flag flags[8];

    [[nodiscard]] PhysRange pages(unsigned first, unsigned count = 1) const { return ground_.range(first, count); }
    [[nodiscard]] PhysRange region(unsigned i) const { return ground_.region(i); }

    void protect(PhysRange range, Change change, ChangeOptions options = {}) {
        require(stage_.map.protect(range, change, options), "a change in a race");
    }
    void protect_deferred(unsigned i, PhysRange range, Change change) {
        auto owed = stage_.map.protect_deferred(range, change);
        require(owed, "a deferred change in a race");
        owed_[i] = static_cast<KernelMap::DeferredFlush&&>(owed.value());
    }
    void complete(unsigned i) { owed_[i].complete(); }
    void collapse(PhysRange range) { require(stage_.map.collapse(range), "a collapse in a race"); }
    void prepare(PhysRange range) { require(stage_.map.prepare(range), "pinning in a race"); }
    void release(PhysRange range) { require(stage_.map.release(range), "unpinning in a race"); }
    void repaint() { require(stage_.map.repaint(), "a repaint in a race"); }

    void access(PhysAddr pa, bool write, bool must_fault) {
        const std::uint64_t va = stage_.va(pa) + this_cpu().index * sizeof(std::uint64_t);
        const std::uint64_t token = Random::mix(va + season_++);
        const ProbeResult result = write ? probe_store(va, token) : probe_load(va);
        if (result.faulted != must_fault)
            fail("a {} {} on CPU {} {}", write ? "store to" : "load from", Hex{va}, this_cpu().index,
                 result.faulted ? "faulted" : "worked");
        must_fault ? stage_.tally.count_fault() : stage_.tally.count_access();
        if (write && !must_fault && *reinterpret_cast<const volatile std::uint64_t*>(va) != token)
            fail("a store to {} got lost", Hex{va});
    }
    /// By an address translation instruction. The page may be invalid just now; but it leads nowhere else.
    void walk_in_hardware(PhysAddr pa) {
        constexpr std::uint64_t failed = 1, address_mask = 0x0000'ffff'ffff'f000;
        std::uint64_t result = 0;
        mask_interrupts_nested(); // a handler may translate, too
        asm volatile("at s1e1r, %1\n\tisb\n\tmrs %0, par_el1" : "=r"(result) : "r"(stage_.va(pa)) : "memory");
        unmask_interrupts_nested();
        if ((result & failed) == 0 && align_down(result & address_mask, page_size) != pa.value())
            fail("CPU {} finds {} where {} should be", this_cpu().index, Hex{result & address_mask}, Hex{pa.value()});
        stage_.tally.count_access();
    }
    Result<Translation> translate(PhysAddr pa) {
        auto found = stage_.map.translate(pa);
        require(found, "a look-up in a race");
        if (found.value().pa != pa) fail("a look-up of {} finds {}", Hex{pa.value()}, Hex{found.value().pa.value()});
        return found;
    }

    template <class Condition>
    void await(const char*, Condition condition) {
        while (!condition()) asm volatile("yield");
    }

private:
    Stage& stage_;
    const Ground& ground_;
    KernelMap::DeferredFlush owed_[4];
    std::uint64_t season_ = 0;
};

using Race = races::Race<World>;

void run(Stage& stage, const Ground& ground, const Race& race) {
    World world{stage, ground};
    if (race.prepare != nullptr) race.prepare(world);
    unsigned next = 0, cpus_of_agents[Race::max_agents] = {}; // agents in the order of the CPUs that take part
    for (unsigned cpu = 0; cpu < max_cpus && next < race.cpus; ++cpu) {
        if (cpu == 0 || is_idle(cpu)) cpus_of_agents[next++] = cpu;
    }
    unsigned ready = 0;
    std::uint64_t head_starts[max_cpus];
    for (std::uint64_t& start : head_starts) start = stage.random.one_in(3) ? 0 : stage.random.below(3000);
    on_all_cpus([&](unsigned cpu) {
        for (const auto& agent : race.agents) {
            if (agent.run == nullptr || cpus_of_agents[agent.cpu] != cpu) continue;
            __atomic_add_fetch(&ready, 1, __ATOMIC_ACQ_REL);
            while (__atomic_load_n(&ready, __ATOMIC_ACQUIRE) != race.cpus) asm volatile("yield");
            for (std::uint64_t i = head_starts[cpu]; i != 0; --i) asm volatile("");
            agent.run(world);
        }
    });
    stage.tally.count_change();
}

/// Whatever a race has left, the map becomes what it was.
void restore(Stage& stage, PhysRange range, const Race& race) {
    const Change ordinary = Change{}.writable(true).executable(false).valid(true).memory_type(MemoryType::normal);
    require(stage.map.protect(range, ordinary), "restoring what a race changed");
    heal(stage, race.repaints ? stage.map.span() : range);
}

} // namespace

bool room_for_races(const Stage& stage) {
    return !Ground{stage.arena}.whole.empty();
}

void play_races(Stage& stage) {
    const Ground ground{stage.arena};
    unsigned running = 1;
    for (unsigned cpu = 1; cpu < max_cpus; ++cpu) running += is_idle(cpu) ? 1 : 0;
    heal(stage, ground.whole); // on a map that was built by pages
    const Statistics before = stage.map.statistics();
    constexpr std::uint64_t small = std::uint64_t{1} << 30;
    races::for_each<World>([&](const Race& race) {
        if (race.cpus > running || (race.repaints && before.bytes > small)) return;
        const std::uint64_t rounds = stage.rounds(race.repaints ? 4 : 8);
        for (std::uint64_t round = 0; round < rounds; ++round) {
            run(stage, ground, race);
            restore(stage, ground.whole, race);
            const Statistics after = stage.map.statistics();
            for (unsigned i = 0; i < Geometry::leaf_sizes.count; ++i) {
                if (after.bytes == before.bytes && (race.repaints || after.leaves[i] == before.leaves[i])) continue;
                fail("after {} there are {} leaves of {} instead of {}", race.name, after.leaves[i],
                     Size{Geometry::leaf_sizes.of[i].bytes()}, before.leaves[i]);
            }
        }
    });
}

} // namespace directmap::kernel

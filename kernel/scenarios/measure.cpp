// What the engine's operations cost on this CPU, in instructions: barriers and invalidations count as one each. The
// maps measured are built beside the live one, in free memory, and nothing translates through them; so a small machine
// can build the tables of a large one.
#include <new>
#include <optional>

#include "cpu/instruction_meter.hpp"
#include "memory/address_space.hpp"
#include "scenarios/scenario.hpp"

namespace directmap::kernel {

namespace {

using MeasuredMap = DirectMap<Format, ArmPlatform>;

constexpr std::uint64_t gib = std::uint64_t{1} << 30;
constexpr std::size_t max_regions = 256 * gib / Geometry::region_bytes + 1;
MeasuredMap::RegionState regions[max_regions];

/// Instructions, or nothing where they can't be counted; then microseconds have to do.
struct Cost {
    std::optional<std::uint64_t> instructions;
    std::uint64_t microseconds = 0;
};

template <class Operation>
Cost cost_of(Operation operation) {
    mask_interrupts();
    const bool counted = InstructionMeter::available();
    const std::uint64_t start = read_cntvct_el0();
    std::optional<InstructionMeter> meter;
    if (counted) meter.emplace();
    operation();
    Cost cost;
    if (counted) cost.instructions = meter->read();
    cost.microseconds = (read_cntvct_el0() - start) * 1'000'000 / read_cntfrq_el0();
    unmask_interrupts();
    return cost;
}

class Report {
public:
    explicit Report(bool json) : json_{json} {}

    /// One figure: the cost of `count` operations of one kind.
    void add(std::string_view what, std::uint64_t bytes, const Cost& cost, std::uint64_t count,
             std::uint64_t tables_used) {
        print("    {} {}", Left{what, 34}, Left{size_text(bytes), 5});
        if (cost.instructions) {
            print("{} instructions", Right{*cost.instructions / count, 12});
            if (count != 1) print(" each of {}", count);
        } else {
            print("{} us", Right{cost.microseconds, 12});
        }
        if (tables_used != 0) print(", {} tables = {} KiB", tables_used, tables_used * page_size >> 10);
        print("\n");
        if (!json_) return;
        print("{\"event\":\"cost\",\"operation\":{},\"bytes\":{},\"count\":{}", Quoted{what}, bytes, count);
        if (cost.instructions) print(",\"instructions\":{}", *cost.instructions);
        print(",\"microseconds\":{}", cost.microseconds);
        if (tables_used != 0) print(",\"tables\":{},\"table_bytes\":{}", tables_used, tables_used * page_size);
        print("}\n");
    }

private:
    std::string_view size_text(std::uint64_t bytes) {
        text_.clear();
        if (bytes != 0) format(text_.sink(), "{}", Size{bytes});
        return text_.view();
    }

    bool json_;
    TextBuffer<16> text_;
};

/// A map of `bytes` of RAM from address 0, in tables of its own.
class Bench {
public:
    Bench(Stage& stage, Report& report) : report_{report}, memory_{stage.arena}, platform_{{true, true}} {
        platform_.reach_tables_at(direct_map_offset);
    }

    [[nodiscard]] bool room_for(std::uint64_t bytes, Mapping mapping) const {
        const RamRange ram{phys_range(0, bytes), {}};
        const Measure needs = measure<Geometry>({{&ram, 1}, {}}, direct_map_offset, mapping);
        return (needs.tables + 2 * Geometry::worst_tables) * page_size <= memory_.size;
    }
    void build(std::uint64_t bytes, Mapping mapping) {
        if (!room_for(bytes, mapping)) {
            print("    (no free memory for the tables of {} by pages)\n", Size{bytes});
            return;
        }
        const Cost cost = start_over(bytes, mapping);
        report_.add(mapping == Mapping::largest ? "build, large" : "build, by pages", bytes, cost, 1,
                    tables_->in_use());
    }

    /// A new map; what was there is forgotten.
    Cost start_over(std::uint64_t bytes, Mapping mapping) {
        platform_.take_tables_from(tables_.emplace(platform_, memory_));
        for (auto& region : regions) region = {};
        const RamRange ram{phys_range(0, bytes), {}};
        map_ = new (storage_) MeasuredMap{platform_, {.offset = direct_map_offset}, {regions, max_regions}};
        const Cost cost = cost_of([&] { require(map_->build({{&ram, 1}, {}}, mapping), "building a map to measure"); });
        CpuCapabilities able;
        able.tolerates_live_resize = true; // nothing translates through this map
        require(map_->admit(able), "opening its gate");
        return cost;
    }

    [[nodiscard]] MeasuredMap& map() { return *map_; }

private:
    Report& report_;
    PhysRange memory_;
    ArmPlatform platform_;
    std::optional<EarlySource<ArmPlatform>> tables_;
    MeasuredMap* map_ = nullptr;
    alignas(MeasuredMap) static inline unsigned char storage_[sizeof(MeasuredMap)];
};

void measure_changes(Bench& bench, Report& report, Random& random) {
    const PhysRange page = {PhysAddr{Geometry::region_bytes / 2 + 5 * page_size}, page_size};
    const PhysRange first_gib = phys_range(0, gib);
    const auto set = [&](PhysRange range, bool writable) {
        require(bench.map().protect(range, Change{}.writable(writable)), "a measured change");
    };

    static_cast<void>(bench.start_over(64 * gib, Mapping::largest));
    report.add("first split of a largest leaf", page_size, cost_of([&] { set(page, false); }), 1, 0);
    constexpr unsigned repetitions = 1000;
    report.add("protect, no split needed", page_size, cost_of([&] {
                   for (unsigned i = 0; i < repetitions; ++i) set(page, i % 2 != 0);
               }),
               repetitions, 0);
    set(page, true);
    report.add("collapse after one split", page_size,
               cost_of([&] { require(bench.map().collapse(page), "a measured collapse"); }), 1, 0);

    constexpr unsigned changes = 10'000;
    report.add("protect of random pages of 64G", page_size, cost_of([&] {
                   for (unsigned i = 0; i < changes; ++i)
                       set({PhysAddr{random.below(64 * gib / page_size) * page_size}, page_size}, false);
               }),
               changes, 0);

    if (!bench.room_for(gib, Mapping::pages)) return;
    static_cast<void>(bench.start_over(gib, Mapping::pages));
    const std::uint64_t pages = gib / page_size;
    report.add("protect of 1G of pages, per page", gib, cost_of([&] { set(first_gib, false); }), pages, 0);
    set(first_gib, true);
    report.add("collapse of 1G of pages", gib, cost_of([&] {
                   while (!bench.map().collapse(first_gib).value().finished) static_cast<void>(bench.map().reclaim());
               }),
               1, 0);
    if (!bench.room_for(16 * gib, Mapping::pages)) return;
    static_cast<void>(bench.start_over(16 * gib, Mapping::largest));
    report.add("repaint to pages", 16 * gib, cost_of([&] { require(bench.map().repaint(), "a measured repaint"); }), 1,
               0);
}

} // namespace

void play_measure(Stage& stage) {
    Report report{stage.machine.command_line.json};
    if (!InstructionMeter::available()) print("    (no instruction counts: QEMU counts with -icount shift=0 alone)\n");
    Bench bench{stage, report};
    for (const std::uint64_t size : {1, 16, 64, 256}) {
        bench.build(size * gib, Mapping::largest);
        bench.build(size * gib, Mapping::pages);
    }
    measure_changes(bench, report, stage.random);
}

} // namespace directmap::kernel

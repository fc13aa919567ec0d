#include "scenarios/scenario.hpp"

#include "cpu/overlays.hpp"
#include "cpu/workers.hpp"
#include "memory/address_space.hpp"

namespace directmap::kernel {

namespace {

constexpr Scenario scenarios[] = {
    {"errors", "ranges that are none get a typed error, and nothing changes", play_errors, Needs::nothing},
    {"permissions", "each permission works or faults as it should, on every CPU, when protect returns",
     play_permissions, Needs::pages},
    {"resizes", "leaves of every size split, become pages, and heal, while other CPUs use them", play_resizes,
     Needs::resizing},
    {"parallel", "all CPUs change one leaf, and different regions, at once", play_parallel, Needs::pages},
    {"races", "what the machine plays in every order, by CPUs that really race", play_races, Needs::racing},
    {"walkers", "walks and dumps see a whole map while its tables are reused", play_walkers, Needs::pages},
    {"deferred", "many changes, one flush", play_deferred, Needs::pages},
    {"memory-types", "what must break before it makes leaves its neighbours alone", play_memory_types, Needs::pages},
    {"atomic", "changes from interrupts in prepared pages", play_atomic, Needs::pages},
    {"exhaustion", "without tables a change fails whole", play_exhaustion, Needs::resizing},
    {"hotplug", "CPUs leave, and come back to the map as it is then", play_hotplug, Needs::others},
    {"keys", "page tables can be written in write sections alone", play_keys, Needs::keys},
    {"clients", "code runs from the cache, secrets and guards fault, on every CPU", play_clients, Needs::resizing},
    {"soak", "random changes keep every account and every byte", play_soak, Needs::pages},
    {"day", "a day's users come and go, and when all have gone the map is what it was", play_day, Needs::resizing,
     true},
    {"measure", "what each operation costs, in instructions", play_measure, Needs::nothing, true},
    // These end the run.
    {"crash-store", "a store to a read-only page", play_crash_store, Needs::pages, true},
    {"crash-store-elsewhere", "the same, on every other CPU", play_crash_store_elsewhere, Needs::others, true},
    {"crash-null", "a load through a null pointer", play_crash_null, Needs::nothing, true},
    {"crash-jump", "a jump into data", play_crash_jump, Needs::nothing, true},
    {"crash-instruction", "an instruction that there isn't", play_crash_instruction, Needs::nothing, true},
    {"crash-stack", "endless recursion", play_crash_stack, Needs::nothing, true},
    {"crash-handler", "a load through a null pointer, in the tick", play_crash_handler, Needs::nothing, true},
    {"crash-handler-stack", "endless recursion, in the tick", play_crash_handler_stack, Needs::nothing, true},
};

constexpr Scenario admission{"admission",
                             "a CPU that can't tolerate resizing comes in, and the map becomes pages, live",
                             play_admission, Needs::nothing};

/// The same word gives the same numbers whichever scenarios are played before.
std::uint64_t seed_for(const Scenario& scenario, std::uint64_t seed) {
    for (const char* c = scenario.name; *c != '\0'; ++c) seed = Random::mix(seed + static_cast<unsigned char>(*c));
    return seed;
}

/// The zone of pages where the rest can't be resized, otherwise the largest piece of free memory.
PhysRange choose_arena() {
    if (!memory.page_zone.empty() && memory.map->gate_mode() != Gate::Mode::open) return memory.page_zone;
    return memory.plan.largest_free();
}

bool arena_has_pages(const Stage& stage) {
    if (stage.can_resize()) return true;
    const auto leaf = stage.map.translate(stage.arena.start);
    return leaf.ok() && leaf.value().leaf.bytes() == page_size;
}

bool any_other_cpu() {
    for (unsigned cpu = 1; cpu < max_cpus; ++cpu) {
        if (is_idle(cpu)) return true;
    }
    return false;
}

/// Null, or why this machine can't play the scenario.
const char* obstacle(const Scenario& scenario, const Stage& stage) {
    const bool resizes = scenario.needs == Needs::resizing || scenario.needs == Needs::racing;
    const bool needs_others = scenario.needs == Needs::others || scenario.needs == Needs::racing;
    if (resizes && !stage.can_resize()) return "a CPU can't tolerate live resizing";
    if (needs_others && !any_other_cpu()) return "there is no other CPU";
    if (scenario.needs == Needs::racing && !room_for_races(stage)) return "too little memory in one piece";
    if (scenario.needs == Needs::keys && !overlays::enabled()) return "the CPU has no FEAT_S1POE";
    const bool needs_pages = scenario.needs == Needs::pages || scenario.needs == Needs::others;
    if (needs_pages && !arena_has_pages(stage)) return "a CPU can't tolerate live resizing, and the map is large";
    return nullptr;
}

/// What a map must consist of once everything is restored and collapsed: the least leaves for its attributes.
Measure ideal() {
    return measure<Geometry>(memory.plan.layout(), direct_map_offset, Mapping::largest);
}

void check_account(const Scenario& scenario) {
    const Statistics statistics = memory.map->statistics();
    if (statistics.bytes != ideal().bytes)
        fail("after {}: {} bytes mapped instead of {}", scenario.name, statistics.bytes, ideal().bytes);
    if (memory.mapping != Mapping::largest || memory.map->gate_mode() != Gate::Mode::open) return;
    if (memory.policy == CollapsePolicy::never) return;
    static_cast<void>(memory.map->reclaim());
    const Measure wanted = ideal();
    for (unsigned i = 0; i < Geometry::leaf_sizes.count; ++i) {
        const LeafSize size = Geometry::leaf_sizes.of[i];
        if (statistics.leaves[i] != wanted.leaves[i]) {
            fail("after {} the map did not heal: {} leaves of {} instead of {}", scenario.name, statistics.leaves[i],
                 Size{size.bytes()}, wanted.leaves[i]);
        }
    }
    const std::uint64_t tables =
        memory.tables.in_use() - memory.map->statistics().set_aside - memory.map->statistics().retired;
    if (tables != wanted.tables) fail("after {}: {} tables in use instead of {}", scenario.name, tables, wanted.tables);
}

void play(const Scenario& scenario, const Machine& machine) {
    Stage stage{machine, *memory.map, Random{seed_for(scenario, machine.command_line.seed)}, choose_arena(), {}};
    if (const char* why = obstacle(scenario, stage)) {
        print("  {} not here: {}\n", Left{scenario.name, 13}, why);
        return;
    }
    const std::uint64_t start = read_cntvct_el0();
    scenario.play(stage);
    const std::uint64_t milliseconds = (read_cntvct_el0() - start) * 1000 / read_cntfrq_el0();
    check_account(scenario);
    const Tally& tally = stage.tally;
    if (tally.changes == 0 && scenario.play != play_measure) fail("{} found nothing to change", scenario.name);
    print("  {} {} changes {} accesses {} expected faults {} ms  {}\n", Left{scenario.name, 13},
          Right{tally.changes, 7}, Right{tally.accesses, 7}, Right{tally.expected_faults, 6}, Right{milliseconds, 6},
          scenario.proves);
    if (machine.command_line.json) {
        print("{\"event\":\"scenario\",\"name\":\"{}\",\"changes\":{},\"accesses\":{},\"expected_faults\":{},"
              "\"milliseconds\":{}}\n",
              scenario.name, tally.changes, tally.accesses, tally.expected_faults, milliseconds);
    }
}

} // namespace

void heal(Stage& stage, PhysRange range) {
    if (!stage.can_resize()) return;
    for (unsigned attempt = 0; attempt < 1000; ++attempt) {
        const auto progress = stage.map.collapse(range);
        require(progress, "collapsing");
        static_cast<void>(stage.map.reclaim());
        if (progress.value().finished) return;
    }
    fail("a collapse of {} bytes at {} doesn't come to its end", range.size, Hex{range.start.value()});
}

void check_scenario_name(const CommandLine& command_line) {
    const std::string_view wanted = command_line.scenario;
    bool known = wanted == "none" || wanted == "all";
    for (const Scenario& scenario : scenarios) known = known || wanted == scenario.name;
    if (!known) refuse("unknown scenario: {}", Quoted{wanted});
}

void play_scenarios(const Machine& machine) {
    const std::string_view wanted = machine.command_line.scenario;
    for (const Scenario& scenario : scenarios) {
        if (wanted == scenario.name || (wanted == "all" && !scenario.on_request)) play(scenario, machine);
    }
}

void admit_unable_cpus(const Machine& machine) {
    play(admission, machine);
}

} // namespace directmap::kernel

// A CPU that doesn't tolerate live resizing comes late, to a map of large leaves that the others run on.
#include "boot/secondaries.hpp"
#include "memory/address_space.hpp"
#include "scenarios/crew.hpp"
#include "scenarios/spots.hpp"

namespace directmap::kernel {

namespace {

void check_that_the_map_is_pages() {
    const Statistics statistics = memory.map->statistics();
    const Measure wanted = measure<Geometry>(memory.plan.layout(), direct_map_offset, Mapping::pages);
    for (unsigned i = 0; i < Geometry::leaf_sizes.count; ++i) {
        if (statistics.leaves[i] == wanted.leaves[i]) continue;
        fail("after the repaint: {} leaves of {} instead of {}", statistics.leaves[i],
             Size{Geometry::leaf_sizes.of[i].bytes()}, wanted.leaves[i]);
    }
}

} // namespace

void play_admission(Stage& stage) {
    const CommandLine& line = stage.machine.command_line;
    for (unsigned cpu = 1; cpu < stage.machine.information.cpu_count; ++cpu) {
        if ((line.unable_cpus >> cpu & 1) == 0) continue;
        const bool first = stage.can_resize();
        // The others work on pages of every kind of leaf, all the while.
        Field field{stage};
        if (first) for_each_leaf_size(stage, [&](PhysRange leaf, LeafSize) { field.add_neighbours_of(leaf); });
        Crew crew{field};
        if (first) {
            if (bring_up(cpu, stage.machine, AdmissionPolicy::refuse))
                fail("CPU {} was admitted, against the policy", cpu);
            if (!stage.can_resize()) fail("refusing CPU {} closed the gate", cpu);
            stage.tally.count_change();
        }
        if (!bring_up(cpu, stage.machine, AdmissionPolicy::repaint)) fail("the gate refused CPU {}", cpu);
        stage.tally.count_change();
        if (stage.map.gate_mode() != Gate::Mode::closed) fail("CPU {} is in, and the gate still open", cpu);
        if (first) check_that_the_map_is_pages();
        crew.dismiss();
        require_error(stage.map.collapse({stage.arena.start, page_size}), ErrorCode::unsupported,
                      "a collapse that a CPU can't tolerate");
    }
}

} // namespace directmap::kernel

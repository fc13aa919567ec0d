// CPUs that leave and come back while the map changes: what they find is the map as it is then.
#include "boot/secondaries.hpp"
#include "scenarios/access.hpp"
#include "scenarios/crew.hpp"

namespace directmap::kernel {

void play_hotplug(Stage& stage) {
    const PhysRange page{stage.arena.start + align_down(stage.arena.size / 2, page_size), page_size};
    prepare_page_for_access(stage, page.start);
    for (std::uint64_t round = 0; round < stage.rounds(3); ++round) {
        for (unsigned cpu = 1; cpu < max_cpus; ++cpu) {
            if (!is_idle(cpu)) continue;
            bring_down(cpu);
            Field field{stage};
            field.add_neighbours_of(page);
            Crew crew{field}; // the others
            for (const bool writable : {false, true}) {
                require(stage.map.protect(page, Change{}.writable(writable)), "changing while a CPU is away");
                stage.tally.count_change();
                if (!writable && !bring_up(cpu, stage.machine))
                    fail("the gate refused CPU {} that it had admitted", cpu);
                const auto check = [&](unsigned) {
                    check_access(stage, page.start, Attributes{}.with_writable(writable));
                };
                start_job(
                    cpu, [](void* c, unsigned n) { (*static_cast<decltype(check)*>(c))(n); },
                    const_cast<void*>(static_cast<const void*>(&check)));
                finish_job(cpu);
            }
            heal(stage, page);
        }
    }
}

} // namespace directmap::kernel

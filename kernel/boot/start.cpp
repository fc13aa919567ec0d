// The boot CPU's way from the first C++ at a virtual address to the verdict. Read this file first.
#include "boot/machine.hpp"
#include "boot/secondaries.hpp"
#include "cpu/cpu.hpp"
#include "cpu/ending.hpp"
#include "cpu/exceptions.hpp"
#include "device/interrupts.hpp"
#include "memory/image.hpp"
#include "memory/kernel_map.hpp"
#include "scenarios/report.hpp"
#include "scenarios/scenario.hpp"

using namespace directmap::kernel;
using directmap::PhysAddr;

namespace {

/// Whether CPUs other than the boot CPU are declared unable to tolerate live resizing.
bool any_unable(const Machine& machine) {
    const std::uint32_t others = (1u << machine.information.cpu_count) - 2;
    return (machine.command_line.unable_cpus & others) != 0;
}

} // namespace

extern "C" [[noreturn]] void start(PhysAddr device_tree, PhysAddr image) {
    image_pa = image;
    become_cpu(0);
    open_early_console();
    use_exception_vectors();
    const Machine& machine = read_machine(device_tree);
    check_scenario_name(machine.command_line);
    start_interrupt_controller(machine.information);
    start_direct_map(machine);
    start_interrupts();
    bring_up_able(machine);
    report_machine(machine);
    report_map(machine, "before");
    play_scenarios(machine);
    if (any_unable(machine)) { // the map is repainted for them; then the same again, by pages
        admit_unable_cpus(machine);
        play_scenarios(machine);
    }
    report_map(machine, "after");
    report_counters(machine);
    pass();
}

// A CPU comes in through three rooms:
//
//   boot CPU                               new CPU
//   CPU_ON ───────────────────────────────► secondary_boot: MMU on, identity map; image at its high address
//                                           says what it can do
//   ◄──────────────────────────── arrived ─ waits, outside of the direct map
//   the gate: admit (may repaint the map)
//   admitted ─────────────────────────────► enters the direct map
//   ◄─────────────────────────────── idle ─ works
#include "boot/secondaries.hpp"

#include "cpu/cpu.hpp"
#include "cpu/ending.hpp"
#include "cpu/exceptions.hpp"
#include "cpu/overlays.hpp"
#include "cpu/psci.hpp"
#include "cpu/translation.hpp"
#include "cpu/workers.hpp"
#include "memory/image.hpp"
#include "memory/kernel_map.hpp"

extern "C" const char secondary_boot[];

namespace directmap::kernel {

namespace {

constinit const CommandLine* secondaries_command_line = nullptr;
constinit CpuCapabilities arrived_capabilities[max_cpus];

/// In ticks of the system counter: ten seconds, against a CPU that never arrives.
std::uint64_t patience() {
    return 10 * read_cntfrq_el0();
}

template <class Condition>
bool wait_patiently(Condition done) {
    const std::uint64_t start = read_cntvct_el0();
    while (!done()) {
        if (read_cntvct_el0() - start > patience()) return false;
        asm volatile("yield");
    }
    return true;
}

} // namespace

bool bring_up(unsigned cpu, const Machine& machine, AdmissionPolicy policy) {
    secondaries_command_line = &machine.command_line;
    cpus[cpu].affinity = machine.information.cpus[cpu];
    workers[cpu].stop = false;
    const std::int32_t error = psci.cpu_on(cpus[cpu].affinity, pa_in_image(secondary_boot).value(), cpu);
    if (error != 0) fail("PSCI can't start CPU {}: error {}", cpu, error);
    if (!wait_patiently([cpu] { return state_of(cpu) == Worker::State::arrived; })) fail("CPU {} never arrived", cpu);

    const auto admitted = memory.map->admit(arrived_capabilities[cpu], policy);
    if (!admitted) {
        if (admitted.error().code() != ErrorCode::unsupported)
            fail("CPU {} was not admitted: {}", cpu, admitted.error().reason());
        set_state(cpu, Worker::State::refused);
        bring_down(cpu);
        return false;
    }
    set_state(cpu, Worker::State::admitted);
    if (!wait_patiently([cpu] { return is_idle(cpu); })) fail("CPU {} was admitted but never came in", cpu);
    return true;
}

void bring_down(unsigned cpu) {
    if (is_idle(cpu)) {
        workers[cpu].stop = true;
        set_state(cpu, Worker::State::busy);
    }
    if (!wait_patiently([cpu] { return psci.affinity_info(cpus[cpu].affinity) == Psci::Affinity::off; })) {
        fail("CPU {} doesn't turn off", cpu);
    }
    set_state(cpu, Worker::State::off);
}

void bring_up_able(const Machine& machine) {
    if (machine.information.cpu_count > 1 && !psci.available()) fail("several CPUs but no PSCI to start them");
    for (unsigned cpu = 1; cpu < machine.information.cpu_count; ++cpu) {
        const bool unable = (machine.command_line.unable_cpus >> cpu & 1) != 0;
        if (!unable && !bring_up(cpu, machine)) fail("the gate refused CPU {}", cpu);
    }
}

} // namespace directmap::kernel

using namespace directmap::kernel;

extern "C" [[noreturn]] void start_secondary(unsigned cpu) {
    become_cpu(cpu);
    use_exception_vectors();
    drop_lower_tables(); // the identity map
    if (!overlays::start_on_this_cpu()) fail("CPU {} has no permission overlays, but the boot CPU has", cpu);
    arrived_capabilities[cpu] = capabilities_of_this_cpu(*secondaries_command_line);
    set_state(cpu, Worker::State::arrived);
    // Not asleep: this CPU's interrupts are still off.
    while (state_of(cpu) == Worker::State::arrived) asm volatile("yield");
    if (state_of(cpu) == Worker::State::admitted) {
        enter_direct_map();
        start_interrupts();
        work();
        stop_interrupts();
    }
    psci.cpu_off();
    fail("CPU {} could not be turned off", cpu);
}

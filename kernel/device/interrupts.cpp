#include "device/interrupts.hpp"

#include "cpu/barriers.hpp"
#include "cpu/cpu.hpp"
#include "cpu/ending.hpp"
#include "cpu/exceptions.hpp"
#include "cpu/interrupts.hpp"
#include "cpu/overlays.hpp"
#include "device/gic_v2.hpp"
#include "memory/device_window.hpp"
#include "memory/early_tables.hpp"

namespace directmap::kernel {

namespace {

constexpr unsigned nudge_interrupt = 0; // software generated
constexpr unsigned tick_interrupt = 27; // the virtual timer's private interrupt
constexpr unsigned ticks_per_second = 500;

constinit GicV2 controller;
constinit bool available = false;
constinit TickHandler tick_handler = nullptr;

void schedule_tick() {
    write_cntv_tval_el0(read_cntfrq_el0() / ticks_per_second);
}

} // namespace

void start_interrupt_controller(const BootInformation& information) {
    if (!information.has_gic) return;
    constexpr std::uint64_t distributor_size = 0x1000, cpu_interface_size = 0x100;
    const auto distributor = map_in_device_window(information.gic_distributor, distributor_size, device_attributes);
    const auto cpu_interface =
        map_in_device_window(information.gic_cpu_interface, cpu_interface_size, device_attributes);
    if (!distributor || !cpu_interface) fail("too few early tables for the interrupt controller");
    controller = GicV2{*distributor, *cpu_interface};
    controller.start_distributor();
    available = true;
}

void start_interrupts() {
    if (!available) return;
    controller.start_cpu(nudge_interrupt, tick_interrupt);
    schedule_tick();
    write_cntv_ctl_el0(1);
    isb();
    unmask_interrupts();
}

void stop_interrupts() {
    mask_interrupts();
    write_cntv_ctl_el0(0);
    isb();
}

void nudge(unsigned cpu) {
    if (available) {
        dsb_ish(); // what the other CPU is to see, it sees before it wakes
        controller.send(cpu, nudge_interrupt);
    }
}

void set_tick_handler(TickHandler handler) {
    tick_handler = handler;
}

bool interrupts_available() {
    return available;
}

namespace detail {

void sleep_unless(bool (*awake)(const void*), const void* context) {
    if (!available) {
        asm volatile("yield");
        return;
    }
    // Masked, an interrupt that arrives between the question and the sleep still ends the sleep.
    mask_interrupts();
    if (!awake(context)) wfi();
    unmask_interrupts();
}

} // namespace detail

} // namespace directmap::kernel

using namespace directmap::kernel;

extern "C" void handle_interrupt(ExceptionFrame& frame, unsigned) {
    const overlays::Sections::Exception outside_of_sections;
    Cpu& cpu = this_cpu();
    if (cpu.lock_depth != 0) fail("CPU {} was interrupted at {} while it held a lock", cpu.index, Hex{frame.pc});
    const std::uint32_t acknowledged = controller.acknowledge();
    const unsigned interrupt = GicV2::id_of(acknowledged);
    if (interrupt >= GicV2::spurious) return;
    if (interrupt == tick_interrupt) {
        ++cpu.ticks;
        if (tick_handler != nullptr) tick_handler();
        schedule_tick();
    } else if (interrupt != nudge_interrupt) {
        fail("CPU {} got interrupt {}, which nobody asked for", cpu.index, interrupt);
    }
    controller.complete(acknowledged);
}

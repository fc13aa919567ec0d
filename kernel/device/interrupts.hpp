// The interrupts of this kernel: a tick on every CPU, and a nudge that wakes one from its sleep.
#pragma once

#include <cstdint>

#include "pure/boot_information.hpp"

namespace directmap::kernel {

/// Sets up the interrupt controller. Without one that this kernel knows, CPUs wait by polling and nothing ticks.
void start_interrupt_controller(const BootInformation& information);
/// This CPU's part; then its interrupts are unmasked.
void start_interrupts();
/// Before this CPU is turned off: masks its interrupts and stops its tick.
void stop_interrupts();

/// Wakes a CPU that waits.
void nudge(unsigned cpu);
/// Waits a while for something to change: until the next interrupt, or a few cycles where there are none.
template <class Condition>
void wait_until(Condition done);

/// What a tick calls, in interrupt context, on the CPU that it interrupted. Set before ticks begin.
using TickHandler = void (*)();
void set_tick_handler(TickHandler handler);

namespace detail {
[[nodiscard]] bool interrupts_available();
void sleep_unless(bool (*done)(const void*), const void* context);
} // namespace detail

template <class Condition>
void wait_until(Condition done) {
    // Most waits are short; sleeping and being woken costs thousands of cycles.
    for (unsigned i = 0; i < 2000; ++i) {
        if (done()) return;
        asm volatile("yield");
    }
    while (!done()) {
        detail::sleep_unless([](const void* c) { return (*static_cast<const Condition*>(c))(); }, &done);
    }
}

} // namespace directmap::kernel

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

/// Whether there are interrupts at all.
[[nodiscard]] bool interrupts_available();

/// Wakes a CPU that sleeps.
void nudge(unsigned cpu);

/// What a tick calls, in interrupt context, on the CPU that it interrupted; null: nothing.
using TickHandler = void (*)();
void set_tick_handler(TickHandler handler);

namespace detail {
void sleep_unless(bool (*awake)(const void*), const void* context);
} // namespace detail

/// Sleeps until the next interrupt (a tick or a nudge) unless `awake()` is true already. Without interrupts it returns
/// at once.
template <class Condition>
void sleep_unless(const Condition& awake) {
    detail::sleep_unless([](const void* c) { return (*static_cast<const Condition*>(c))(); }, &awake);
}

/// Waits until `done()` is true: for a while awake, because most waits are short, then asleep.
template <class Condition>
void wait_until(const Condition& done) {
    for (unsigned i = 0; i < 2000; ++i) {
        if (done()) return;
        asm volatile("yield");
    }
    while (!done()) sleep_unless(done);
}

} // namespace directmap::kernel

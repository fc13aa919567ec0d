// Mistakes that nobody expects, one a boot, to see what the kernel says of them: registers, a backtrace, and one line
// with the cause. Each must end the run; that it does, and with which line, tests/kernel checks.
#include "cpu/workers.hpp"
#include "device/interrupts.hpp"
#include "scenarios/scenario.hpp"

namespace directmap::kernel {

namespace {

// Not inlined: these are the names that the verdict must tell.
[[gnu::noinline]] void store_wildly(std::uint64_t va) {
    *reinterpret_cast<volatile std::uint64_t*>(va) = 1;
}
[[gnu::noinline]] std::uint64_t load_wildly(std::uint64_t va) {
    return *reinterpret_cast<volatile std::uint64_t*>(va);
}

/// Ends in the guard page below whichever stack it runs on.
[[gnu::noinline]] unsigned recurse(unsigned depth) {
    volatile unsigned char room[1024];
    room[0] = static_cast<unsigned char>(depth);
    return depth == ~0u ? 0 : recurse(depth + 1) + room[0];
}

PhysRange read_only_page(Stage& stage) {
    const PhysRange page{stage.arena.start + 5 * page_size, page_size};
    require(stage.map.protect(page, Change{}.writable(false)), "making a page read-only");
    return page;
}

[[noreturn]] void survived() {
    fail("nothing happened");
}

/// Runs `crash` in the next tick, on the exception stack.
void crash_in_tick(TickHandler crash) {
    if (!interrupts_available()) fail("there is no tick to crash in");
    set_tick_handler(crash);
    for (unsigned i = 0; i < 1000; ++i) sleep_unless([] { return false; });
    survived();
}

} // namespace

void play_crash_store(Stage& stage) {
    store_wildly(stage.va(read_only_page(stage).start));
    survived();
}
void play_crash_store_elsewhere(Stage& stage) {
    const std::uint64_t va = stage.va(read_only_page(stage).start);
    on_all_cpus([va](unsigned cpu) {
        if (cpu != 0) store_wildly(va);
    });
    survived();
}
void play_crash_null(Stage&) {
    static_cast<void>(load_wildly(0));
    survived();
}
void play_crash_jump(Stage& stage) {
    reinterpret_cast<void (*)()>(stage.va(stage.arena.start))();
    survived();
}
void play_crash_instruction(Stage&) {
    asm volatile("udf #0");
    survived();
}
void play_crash_stack(Stage&) {
    static_cast<void>(recurse(0));
    survived();
}
void play_crash_handler(Stage&) {
    crash_in_tick([] { static_cast<void>(load_wildly(0)); });
}
void play_crash_handler_stack(Stage&) {
    crash_in_tick([] { static_cast<void>(recurse(0)); });
}

} // namespace directmap::kernel

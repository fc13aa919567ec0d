// Page tables with a protection key: everybody may read them, and only a write section may write them.
#include "cpu/overlays.hpp"
#include "device/interrupts.hpp"
#include "scenarios/crew.hpp"

namespace directmap::kernel {

namespace {

struct TickCheck {
    std::uint64_t va = 0;
    bool wrong = false;
    unsigned inside_of_section = 0; ///< ticks that came while the boot CPU was in a write section
    bool section = false;
};
constinit TickCheck tick_check;

/// A store to a table that nobody uses must work now, or must fault; with emulated overlays the register alone tells.
void check_store(Stage& stage, std::uint64_t va, bool may) {
    if (overlays::may_write_tables() != may)
        fail("CPU {} {} write page tables", this_cpu().index, may ? "should be able to, but can't," : "can");
    stage.tally.count_access();
    if (overlays::mode != Overlays::on) return;
    const ProbeResult store = probe_store(va, 0);
    if (store.faulted == may) fail("a store to a page table {}", may ? "faulted in a write section" : "worked");
    if (store.faulted && store.syndrome.fault() != FaultKind::permission) fail("a page table is not mapped");
    if (store.faulted) stage.tally.count_fault();
}

void check_in_tick() {
    if (this_cpu().index != 0 || !__atomic_load_n(&tick_check.section, __ATOMIC_RELAXED)) return;
    ++tick_check.inside_of_section;
    tick_check.wrong = tick_check.wrong || overlays::may_write_tables() ||
                       (overlays::mode == Overlays::on && !probe_store(tick_check.va, 0).faulted);
}

} // namespace

void play_keys(Stage& stage) {
    const PhysRange tables = memory.tables.range();
    const PhysRange spare{tables.end() - page_size, page_size}; // the pool is larger than it will ever be used
    const std::uint64_t va = stage.va(spare.start);

    // Every table has the key, and nobody but the tables' owner may change that.
    for (PhysAddr page = tables.start; page < tables.end(); page = page + page_size) {
        const auto found = stage.map.translate(page);
        require(found, "translating a page table");
        if (found.value().attributes.key() != overlays::table_key)
            fail("a page table at {} has no key", Hex{page.value()});
    }
    for (const Change change : {Change{}.writable(false), Change{}.key(0), Change{}.valid(false)}) {
        require_error(stage.map.protect(tables, change), ErrorCode::incompatible, "a change of the page tables");
        stage.tally.count_change();
    }

    on_all_cpus([&](unsigned) {
        if (!probe_load(va).faulted) stage.tally.count_access();
        check_store(stage, va, false);
        const bool outer = overlays::Sections::begin();
        check_store(stage, va, true);
        const bool inner = overlays::Sections::begin(); // they nest
        overlays::Sections::end(inner);
        check_store(stage, va, true);
        overlays::Sections::end(outer);
        check_store(stage, va, false);
    });

    // An interrupt in a write section isn't part of it, and gives it back as it was.
    if (interrupts_available()) {
        tick_check = {va};
        set_tick_handler(check_in_tick);
        const bool was_open = overlays::Sections::begin();
        __atomic_store_n(&tick_check.section, true, __ATOMIC_RELAXED);
        wait_until([] { return __atomic_load_n(&tick_check.inside_of_section, __ATOMIC_ACQUIRE) >= 3; });
        __atomic_store_n(&tick_check.section, false, __ATOMIC_RELAXED);
        check_store(stage, va, true);
        overlays::Sections::end(was_open);
        set_tick_handler(nullptr);
        if (tick_check.wrong) fail("an interrupt could write page tables");
        stage.tally.count_change();
    }
    check_store(stage, va, false);
}

} // namespace directmap::kernel

// Changes from where nothing can wait: the tick interrupt of every CPU, in pages that were prepared for it.
#include "cpu/barriers.hpp"
#include "cpu/cpu.hpp"
#include "cpu/workers.hpp"
#include "device/interrupts.hpp"
#include "scenarios/spots.hpp"

namespace directmap::kernel {

namespace {

constexpr ChangeOptions atomic{.atomic = true};

/// What the tick handler works on; it gets no argument.
struct TickWork {
    Stage* stage = nullptr;
    PhysAddr pages[max_cpus];
    std::uint64_t done[max_cpus] = {};
};
constinit TickWork tick_work;

void change_own_page() {
    Stage& stage = *tick_work.stage;
    const unsigned cpu = this_cpu().index;
    const PhysRange page{tick_work.pages[cpu], page_size};
    require(stage.map.protect(page, Change{}.writable(false), atomic), "an atomic change in a prepared page");
    require(stage.map.protect(page, Change{}.writable(true), atomic), "restoring a prepared page");
    auto* const word = reinterpret_cast<volatile std::uint64_t*>(stage.va(page.start));
    *word = tick_work.done[cpu] + 1;
    const auto found = stage.map.translate(page.start); // a walk, perhaps inside of another
    require(found, "translating in an interrupt");
    if (found.value().leaf.bytes() != page_size) fail("a prepared page is not a page");
    __atomic_store_n(&tick_work.done[cpu], tick_work.done[cpu] + 1, __ATOMIC_RELEASE);
}

/// Without tables set aside, an atomic caller that needs one is told so; with them it is served.
void try_the_stock(Stage& stage, PhysRange leaf) {
    const PhysRange page{leaf.start, page_size};
    require_error(stage.map.protect(page, Change{}.writable(false), atomic), ErrorCode::would_block,
                  "an atomic split with nothing set aside");
    require(stage.map.set_aside(), "setting tables aside");
    require(stage.map.protect(page, Change{}.writable(false), atomic), "an atomic split from what is set aside");
    require(stage.map.protect(page, Change{}.writable(true), atomic), "an atomic change back");
    heal(stage, leaf);
    stage.tally.changes += 3;
}

} // namespace

void play_atomic(Stage& stage) {
    PhysRange large;
    if (stage.can_resize()) {
        for_each_leaf_size(stage, [&](PhysRange leaf, LeafSize size) {
            if (large.empty() && size.bytes() != page_size && !size.contiguous) large = leaf;
        });
        if (!large.empty() && stage.map.statistics().set_aside == 0) try_the_stock(stage, large);
    }
    if (!interrupts_available()) return;

    // Prepared pages of all CPUs next to each other, in a leaf that is split and collapsed around them meanwhile.
    const PhysAddr first{align_up(stage.arena.start.value(), 64 * page_size)};
    const PhysRange prepared{first, max_cpus * page_size};
    if (stage.can_resize()) require(stage.map.prepare(prepared), "preparing pages");
    tick_work = {};
    tick_work.stage = &stage;
    for (unsigned cpu = 0; cpu < max_cpus; ++cpu) tick_work.pages[cpu] = first + cpu * page_size;
    set_tick_handler(change_own_page);

    const std::uint64_t wanted = stage.rounds(10);
    const auto all_ticked = [&] {
        for (unsigned cpu = 0; cpu < max_cpus; ++cpu) {
            const bool running = cpu == 0 || is_idle(cpu);
            if (running && __atomic_load_n(&tick_work.done[cpu], __ATOMIC_ACQUIRE) < wanted) return false;
        }
        return true;
    };
    const PhysRange around{first + 32 * page_size, 16 * page_size};
    while (!all_ticked()) {
        require(stage.map.set_read_only(around), "changing around prepared pages");
        require(stage.map.set_writable(around), "restoring around prepared pages");
        heal(stage, around);
        stage.tally.count_change();
    }
    set_tick_handler(nullptr);
    on_all_cpus([](unsigned) {}); // no handler is running any more
    for (const std::uint64_t done : tick_work.done) stage.tally.changes += 2 * done;
    if (stage.can_resize()) {
        require(stage.map.release(prepared), "releasing pages");
        heal(stage, prepared);
    }
}

} // namespace directmap::kernel

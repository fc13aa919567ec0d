// All CPUs change the map at once: pages of the same leaf, and of different regions.
#include "cpu/cpu.hpp"
#include "cpu/workers.hpp"
#include "scenarios/access.hpp"

namespace directmap::kernel {

namespace {

/// The pages that CPUs share out among themselves: page i belongs to CPU i modulo their number.
struct Share {
    PhysRange window;
    unsigned cpus;

    [[nodiscard]] PhysAddr page(unsigned cpu, std::uint64_t i) const {
        return window.start + (i * cpus + cpu) * page_size;
    }
    [[nodiscard]] std::uint64_t count() const { return window.size / page_size / cpus; }
};

/// Changes of random pages of one's own, each tried at once. The others may split, collapse and open groups around it
/// at every moment.
void change_own_pages(Stage& stage, const Share& share, unsigned cpu, std::uint64_t rounds, std::uint64_t seed) {
    Random random{seed};
    for (std::uint64_t round = 0; round < rounds; ++round) {
        const PhysAddr page = share.page(cpu, random.below(share.count()));
        const bool writable = random.one_in(2), executable = random.one_in(3), valid = !random.one_in(4);
        const Change change = Change{}.writable(writable).executable(executable).valid(valid);
        require(stage.map.protect({page, page_size}, change), "changing a page among others");
        check_access(stage, page, change.apply_to(Attributes{}), Surroundings::changing);
        require(stage.map.protect({page, page_size}, Change{}.writable(true).executable(false).valid(true)),
                "restoring a page among others");
        check_access(stage, page, Attributes{}, Surroundings::changing);
        stage.tally.count_change();
        if (stage.can_resize() && random.one_in(8)) {
            require(stage.map.collapse(share.window), "collapsing among others");
            static_cast<void>(stage.map.reclaim());
        }
    }
}

/// The CPUs' numbers have holes when some are off; their places in a share have none.
unsigned number_cpus(unsigned (&place)[max_cpus]) {
    unsigned cpus = 1;
    for (unsigned cpu = 1; cpu < max_cpus; ++cpu) {
        if (is_idle(cpu)) place[cpu] = cpus++;
    }
    return cpus;
}

void play_window(Stage& stage, PhysRange window) {
    unsigned place[max_cpus] = {};
    const Share share{window, number_cpus(place)};
    for (PhysAddr page = window.start; page < window.end(); page = page + page_size)
        prepare_page_for_access(stage, page);
    const std::uint64_t rounds = stage.rounds(60), seed = stage.random.next();
    on_all_cpus([&](unsigned cpu) { change_own_pages(stage, share, place[cpu], rounds, seed + cpu); });
    check_attributes(stage, window, Attributes{});
    heal(stage, window);
}

} // namespace

void play_parallel(Stage& stage) {
    // At the start of a region, and across the border of two where the arena has one.
    const std::uint64_t size = 64 * page_size;
    const PhysAddr start{align_up(stage.arena.start.value(), size)};
    play_window(stage, {start, size});
    const PhysAddr border{align_up(start.value() + size, Geometry::region_bytes)};
    if (stage.arena.contains(border + size) && border - size >= start) play_window(stage, {border - size, 2 * size});
}

} // namespace directmap::kernel

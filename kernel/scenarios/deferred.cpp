// Many changes, one flush: afterwards nobody can use what any of them took away.
#include "scenarios/access.hpp"
#include "scenarios/crew.hpp"

namespace directmap::kernel {

void play_deferred(Stage& stage) {
    constexpr unsigned pages_in_a_batch = 6;
    // Far apart if there is room, so that one leaf holds at most one of them.
    const std::uint64_t distance = align_down((stage.arena.size - page_size) / pages_in_a_batch, page_size);
    PhysAddr pages[pages_in_a_batch];
    for (unsigned i = 0; i < pages_in_a_batch; ++i) {
        pages[i] = stage.arena.start + i * distance;
        prepare_page_for_access(stage, pages[i]);
    }
    Field field{stage};
    field.add_neighbours_of({pages[1], page_size});
    field.add_neighbours_of({pages[2], page_size});
    Crew crew{field};
    const auto everyone_checks = [&](Attributes attributes) {
        crew.everyone([&](unsigned) {
            for (const PhysAddr page : pages) check_access(stage, page, attributes);
        });
        crew.tend_alone();
    };
    everyone_checks(Attributes{});
    for (std::uint64_t round = 0; round < stage.rounds(30); ++round) {
        const Change tighter = stage.random.one_in(2) ? Change{}.writable(false) : Change{}.valid(false);
        KernelMap::DeferredFlush owed;
        for (const PhysAddr page : pages) {
            auto flush = stage.map.protect_deferred({page, page_size}, tighter);
            require(flush, "a change with its flush deferred");
            owed.merge(static_cast<KernelMap::DeferredFlush&&>(flush.value()));
            stage.tally.count_change();
        }
        owed.complete();
        everyone_checks(tighter.apply_to(Attributes{}));
        for (const PhysAddr page : pages) {
            require(stage.map.protect({page, page_size}, Change{}.writable(true).valid(true)), "restoring");
            heal(stage, {page, page_size});
        }
        everyone_checks(Attributes{});
    }
}

} // namespace directmap::kernel

// Every permission, on every size of leaf, tried by every CPU as soon as `protect` has returned; while it ran, the
// others worked on the pages next door.
#include "scenarios/access.hpp"
#include "scenarios/crew.hpp"
#include "scenarios/spots.hpp"

namespace directmap::kernel {

namespace {

constexpr unsigned states = 8; // writable × executable × valid

Attributes state(unsigned number) {
    return Attributes{}
        .with_writable((number & 1) != 0)
        .with_executable((number & 2) != 0)
        .with_valid((number & 4) != 0);
}

Change change_to(Attributes attributes) {
    return Change{}.writable(attributes.writable()).executable(attributes.executable()).valid(attributes.valid());
}

void try_states(Stage& stage, PhysRange target) {
    const PhysAddr middle = target.start + align_down(target.size / 2, page_size);
    const PhysAddr pages[] = {target.start, middle, target.end() - page_size};
    for (const PhysAddr page : pages) prepare_page_for_access(stage, page);

    Field field{stage};
    field.add_neighbours_of(target);
    Crew crew{field};
    const auto everyone_checks = [&](Attributes attributes) {
        crew.everyone([&](unsigned) {
            for (const PhysAddr page : pages) check_access(stage, page, attributes);
        });
        crew.tend_alone();
    };
    everyone_checks(Attributes{});
    // Every state, then random steps between them: what a TLB remembers depends on what came before.
    for (std::uint64_t round = 0; round < stage.rounds(12); ++round) {
        const auto number =
            round < states ? static_cast<unsigned>(round) : static_cast<unsigned>(stage.random.below(states));
        const Attributes attributes = state(number);
        require(stage.map.protect(target, change_to(attributes)), "changing permissions");
        stage.tally.count_change();
        everyone_checks(attributes);
    }
    require(stage.map.protect(target, change_to(Attributes{})), "restoring permissions");
    stage.tally.count_change();
    everyone_checks(Attributes{});
}

} // namespace

void play_permissions(Stage& stage) {
    for_each_leaf_size(stage, [&](PhysRange leaf, LeafSize size) {
        const PhysAddr inside = leaf.start + align_down(leaf.size / 2, page_size);
        try_states(stage, leaf); // whole
        if (size.bytes() == page_size) return;
        try_states(stage, {inside, page_size});                                 // a page of it
        try_states(stage, {leaf.start, page_size});                             // its first page
        try_states(stage, {leaf.end() - page_size, 2 * page_size});             // across its end
        try_states(stage, {leaf.start + page_size, leaf.size - 2 * page_size}); // all but its ends
        heal(stage, {leaf.start, leaf.size + page_size});
    });
}

} // namespace directmap::kernel

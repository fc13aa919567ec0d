// Leaves of every size split, painted to pages and healed, over and over, while the other CPUs use what they map.
#include "scenarios/crew.hpp"
#include "scenarios/spots.hpp"

namespace directmap::kernel {

namespace {

/// A range of whole pages in `leaf`, smaller than it.
PhysRange random_part(Stage& stage, PhysRange leaf) {
    const std::uint64_t pages = leaf.size / page_size;
    const std::uint64_t first = stage.random.below(pages);
    // Mostly a few pages, sometimes up to the end of the leaf.
    const std::uint64_t most = stage.random.one_in(4) ? pages - first : 3;
    std::uint64_t count = 1 + stage.random.below(most);
    if (first + count > pages) count = pages - first;
    if (count == pages) --count;
    return {leaf.start + first * page_size, count * page_size};
}

/// To paint a leaf to pages is expensive, and tries nothing new for its size.
constexpr std::uint64_t most_painted = std::uint64_t{64} << 20;
constexpr std::uint64_t paint_one_in = 6;

/// All of a leaf becomes pages, and whole again.
void paint(Stage& stage, PhysRange leaf, LeafSize size, Crew& crew) {
    if (size.bytes() > most_painted) return;
    require(stage.map.prepare(leaf), "painting a leaf to pages");
    crew.tend_alone();
    const auto painted = stage.map.translate(leaf.start);
    require(painted, "translating what was painted");
    if (painted.value().leaf.bytes() != page_size) fail("the leaf at {} was not painted", Hex{leaf.start.value()});
    require(stage.map.release(leaf), "releasing a leaf");
    heal(stage, leaf);
    static_cast<void>(stage.map.reclaim());
    crew.tend_alone();
    const auto healed = stage.map.translate(leaf.start);
    require(healed, "translating what was collapsed");
    if (healed.value().leaf != size) fail("the leaf at {} did not become whole again", Hex{leaf.start.value()});
    stage.tally.count_change();
}

void resize_repeatedly(Stage& stage, PhysRange leaf, LeafSize size) {
    const std::uint64_t rounds = stage.rounds(40);
    for (std::uint64_t round = 0; round < rounds; ++round) {
        const PhysRange part = random_part(stage, leaf);
        Field field{stage};
        field.add_neighbours_of(part);
        field.add(leaf.start - page_size);
        field.add(leaf.end());
        Crew crew{field};
        for (unsigned repetition = 0; repetition < 12; ++repetition) {
            if (stage.random.one_in(paint_one_in)) {
                paint(stage, leaf, size, crew);
                continue;
            }
            const Change tighter = stage.random.one_in(2) ? Change{}.valid(false) : Change{}.writable(false);
            require(stage.map.protect(part, tighter), "splitting a leaf");
            crew.tend_alone();
            const auto split = stage.map.translate(part.start);
            require(split, "translating what was split");
            if (split.value().leaf.bytes() > part.size) fail("the leaf at {} was not split", Hex{part.start.value()});
            require(stage.map.protect(part, Change{}.valid(true).writable(true)), "restoring a leaf");
            heal(stage, leaf);
            static_cast<void>(stage.map.reclaim());
            crew.tend_alone();
            const auto healed = stage.map.translate(part.start);
            require(healed, "translating what was collapsed");
            if (healed.value().leaf != size) fail("the leaf at {} did not become whole again", Hex{leaf.start.value()});
            stage.tally.count_change();
        }
    }
}

} // namespace

void play_resizes(Stage& stage) {
    // On a map that was built by pages, make some large leaves first.
    constexpr std::uint64_t some = std::uint64_t{128} << 20;
    if (memory.mapping == Mapping::pages)
        heal(stage, {stage.arena.start, stage.arena.size < some ? stage.arena.size : some});
    for_each_leaf_size(stage, [&](PhysRange leaf, LeafSize size) {
        if (size.bytes() != page_size) resize_repeatedly(stage, leaf, size);
    });
}

} // namespace directmap::kernel

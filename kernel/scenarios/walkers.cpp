// Walks, dumps and translations on all other CPUs while leaves are split and collapsed and their tables reused.
#include "cpu/workers.hpp"
#include "scenarios/spots.hpp"

namespace directmap::kernel {

namespace {

/// A walk must cover the range without gap or overlap, whatever happens meanwhile, and see pages that are either as
/// they were or as they are made.
void walk_once(Stage& stage, PhysRange range) {
    PhysAddr at = range.start;
    stage.map.walk(range, [&](const Leaf& leaf) {
        if (!leaf.mapped) fail("a walk saw a hole at {}", Hex{leaf.range.start.value()});
        if (leaf.range.start > at || leaf.range.end() <= at)
            fail("a walk jumped from {} to {}", Hex{at.value()}, Hex{leaf.range.start.value()});
        const Attributes seen = leaf.attributes.with_fixed(false);
        if (seen != Attributes{} && seen != Attributes{}.with_writable(false)) {
            fail("a walk saw attributes at {} that nobody gave", Hex{leaf.range.start.value()});
        }
        at = leaf.range.end();
        return true;
    });
    if (at < range.end()) fail("a walk ended at {}, before its end", Hex{at.value()});
}

void dump_once(Stage& stage) {
    unsigned lines = 0;
    stage.map.dump([&](const char* text, unsigned size) {
        if (size == 0 || text[size - 1] != '\n') fail("a line of a dump has no end");
        ++lines;
    });
    if (lines < 3) fail("a dump has {} lines", lines);
}

} // namespace

void play_walkers(Stage& stage) {
    PhysRange leaf;
    for_each_leaf_size(stage, [&](PhysRange range, LeafSize) {
        if (leaf.empty()) leaf = range;
    });
    if (leaf.empty()) return;
    // A map of single pages takes too long to print.
    const bool dumps = memory.mapping == Mapping::largest;
    std::uint64_t walks = 0;
    const auto walk_until = [&](unsigned cpu, auto stopped) {
        Random random{cpu};
        do {
            walk_once(stage, leaf.size <= Geometry::bytes(Geometry::last_level - 1)
                                 ? leaf
                                 : PhysRange{leaf.start, Geometry::bytes(Geometry::last_level - 1)});
            for (unsigned i = 0; i < 16; ++i) {
                const PhysAddr page = leaf.start + align_down(random.below(leaf.size), page_size);
                const auto found = stage.map.translate(page);
                require(found, "translating while others change");
                if (found.value().pa != page)
                    fail("{} translates to {}", Hex{page.value()}, Hex{found.value().pa.value()});
            }
            if (dumps && random.one_in(4)) dump_once(stage);
            __atomic_fetch_add(&walks, 1, __ATOMIC_RELAXED);
        } while (!stopped());
    };
    {
        BackgroundWork background{walk_until};
        const std::uint64_t rounds = stage.rounds(200);
        for (std::uint64_t round = 0; round < rounds; ++round) {
            const PhysRange page{leaf.start + align_down(stage.random.below(leaf.size), page_size), page_size};
            require(stage.map.set_read_only(page), "changing under walkers");
            require(stage.map.set_writable(page), "restoring under walkers");
            // Not to the end: tables that a walker might still read pile up, and a collapse stops when there are too
            // many.
            if (stage.can_resize()) require(stage.map.collapse(leaf), "collapsing under walkers");
            static_cast<void>(stage.map.reclaim());
            stage.tally.count_change();
        }
    }
    heal(stage, leaf);
    walk_until(0, [] { return true; });
    stage.tally.accesses += walks;
}

} // namespace directmap::kernel

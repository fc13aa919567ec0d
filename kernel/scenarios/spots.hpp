// Finding leaves of a wanted size to work on.
#pragma once

#include "scenarios/scenario.hpp"

namespace directmap::kernel {

/// The first leaf of exactly this size that lies in the arena with room on both sides; an empty range if there is none.
[[nodiscard]] inline PhysRange find_leaf(Stage& stage, LeafSize size) {
    PhysRange found;
    const std::uint64_t margin = 4 * page_size;
    if (stage.arena.size < 2 * margin + size.bytes()) return found;
    const PhysRange inner{stage.arena.start + margin, stage.arena.size - 2 * margin};
    stage.map.walk(inner, [&](const Leaf& leaf) {
        const bool matches = leaf.mapped && leaf.range.size == size.bytes() && leaf.level == size.level;
        const bool inside = inner.start <= leaf.range.start && leaf.range.end() <= inner.end();
        if (matches && inside) found = leaf.range;
        return found.empty();
    });
    return found;
}

/// Calls `visit(range, size)` for a leaf of each size that the arena has, the largest first. Leaves that the machine
/// can't resize are left out unless they are pages.
template <class Visit>
void for_each_leaf_size(Stage& stage, Visit visit) {
    for (unsigned i = 0; i < Geometry::leaf_sizes.count; ++i) {
        const LeafSize size = Geometry::leaf_sizes.of[i];
        if (size.bytes() != page_size && !stage.can_resize()) continue;
        if (stage.map.statistics().leaves[i] == 0) continue; // so that a map of pages isn't searched from end to end
        const PhysRange leaf = find_leaf(stage, size);
        if (!leaf.empty()) visit(leaf, size);
    }
}

} // namespace directmap::kernel

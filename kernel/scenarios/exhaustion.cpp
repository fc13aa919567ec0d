// Running out of tables at every point where a change can: an error, and nothing changed.
#include "scenarios/access.hpp"
#include "scenarios/spots.hpp"

namespace directmap::kernel {

void play_exhaustion(Stage& stage) {
    for_each_leaf_size(stage, [&](PhysRange leaf, LeafSize size) {
        const auto changed = stage.map.translate(leaf.start);
        require(changed, "translating");
        // Both ends cut: the most tables that one change can need.
        const PhysRange inside{leaf.start + page_size, leaf.size - 2 * page_size};
        if (size.bytes() == page_size || size.bytes() <= 2 * page_size) return;
        const Statistics before = stage.map.statistics();
        const std::uint64_t tables = memory.tables.in_use();
        unsigned allowed = 0;
        for (;; ++allowed) {
            memory.tables.allow(allowed);
            const auto result = stage.map.set_read_only(inside);
            memory.tables.allow_all();
            stage.tally.count_change();
            if (result.ok()) break;
            if (allowed > Geometry::worst_tables) fail("{} tables were not enough", allowed);
            require_error(result, ErrorCode::no_tables, "a split without tables");
            const Statistics after = stage.map.statistics();
            for (unsigned i = 0; i < Geometry::leaf_sizes.count; ++i) {
                if (after.leaves[i] != before.leaves[i])
                    fail("a change that failed for want of tables left leaves split");
            }
            if (memory.tables.in_use() != tables) fail("a change that failed for want of tables kept some");
            check_attributes(stage, {leaf.start, page_size}, Attributes{});
        }
        require(stage.map.set_writable(inside), "restoring");
        heal(stage, leaf);
        static_cast<void>(stage.map.reclaim());
    });
}

} // namespace directmap::kernel

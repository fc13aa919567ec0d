// Making one pinned page invalid or valid again with a single store: no split, no table, no lock.
#pragma once

#include "directmap/core.hpp"

namespace directmap {

/// Flips the valid bit of a page that `prepare` has pinned. Any context, interrupts included: it takes no lock and
/// waits for nobody. While the page is pinned no other change writes its descriptor (a collapse leaves the table
/// alone, a split has nothing to split, and whoever changes neighbours stores into theirs alone), so one CPU at a time,
/// the page's owner, may store into it without the region's lock.
///
/// The invalidation carries no level hint: what `prepare` split may still be cached as the larger leaf it was. No
/// counter knows of a flip: CPUs would queue on the counter's cache line. A flip that changes something is one store,
/// and one invalidation if it makes the page invalid.
/// Errors: not_mapped; unsupported if the page isn't pinned.
template <Format F, Platform P>
[[nodiscard]] Result<void> flip_page(Core<F, P>& core, PhysAddr page, bool valid) {
    using G = typename F::geometry;
    P& platform = core.platform;
    const VirtAddr va = core.virt(page);
    {
        // Straight down: a pinned page is at the last level, or it isn't one.
        WalkerSection<P> walker{platform};
        auto table = platform.table(core.root);
        Descriptor d = platform.load(table, G::index(G::root_level, va.value()));
        int level = G::root_level;
        for (; level != G::last_level && F::is_table(level, d); ++level) {
            table = platform.table(F::table_address(d));
            d = platform.load(table, G::index(level + 1, va.value()));
        }
        if (!F::is_leaf(level, d)) return Error{reasons::not_mapped, page};
        if (level != G::last_level || (d & (F::fixed_mask | F::contiguous_mask)) != F::fixed_mask)
            return Error{reasons::not_prepared, page};
        if (holds_tables(core, d))
            return Error{reasons::protected_tables, page}; // built as a page of a zone, not pinned by its owner
        const Descriptor next = valid ? d | F::valid_mask : d.without(F::valid_mask);
        if (next == d) {
            // Made invalid by a change whose flush is still owed?
            if (valid || !core.region_of(page).may_be_outdated()) return {};
        } else {
            WriteSection<P> writable{platform};
            platform.store(table, G::index(G::last_level, va.value()), next);
        }
    }
    platform.barrier_publish();
    if (!valid) {
        platform.invalidate(va, {InvalidationScope::any_level, true});
        platform.barrier_complete();
        if (core.gate.invalidate_twice()) {
            platform.invalidate(va, {InvalidationScope::any_level, true});
            platform.barrier_complete();
        }
    }
    platform.barrier_context();
    return {};
}

} // namespace directmap

// Table pages on their way back: unlinked, flushed, then kept until no walker can still read them (promise P7).
#pragma once

#include "directmap/core.hpp"

namespace directmap {

namespace detail {

/// Gives back a table that nothing reaches any more, and every table below it.
template <Format F, Platform P>
void free_subtree(Core<F, P>& core, PhysAddr pa, int level) {
    if (level != F::geometry::last_level) {
        const auto table = core.platform.table(pa);
        for (unsigned i = 0; i < F::geometry::entries(level); ++i) {
            const Descriptor d = core.platform.load(table, i);
            if (F::is_table(level, d)) free_subtree(core, F::table_address(d), level + 1);
        }
    }
    core.platform.give_table(pa);
}

/// Lists a table that is about to be unlinked. False if the list is full: then nothing may be unlinked.
template <Format F, Platform P>
[[nodiscard]] bool retire(Core<F, P>& core, PhysAddr pa, int level, const void* region) {
    core.platform.acquire(core.reclaim_lock);
    const bool room = core.retired_count != Core<F, P>::retired_capacity;
    if (room) core.retired[core.retired_count++] = {pa, level, 0, region};
    core.platform.release(core.reclaim_lock);
    return room;
}

/// The flush of everything that `region` unlinked has completed: the grace period begins.
template <Format F, Platform P>
void retired_flushed(Core<F, P>& core, const void* region) {
    core.platform.acquire(core.reclaim_lock);
    const std::uint64_t stamp = core.platform.grace_stamp();
    for (unsigned i = 0; i < core.retired_count; ++i) {
        if (core.retired[i].region != region) continue;
        core.retired[i].stamp = stamp;
        core.retired[i].region = nullptr;
    }
    core.platform.release(core.reclaim_lock);
}

} // namespace detail

/// Gives back every retired table whose grace period has passed; returns how many still wait. Any context.
template <Format F, Platform P>
unsigned reclaim(Core<F, P>& core) {
    for (;;) {
        RetiredTable free;
        bool found = false;
        core.platform.acquire(core.reclaim_lock);
        for (unsigned i = 0; i < core.retired_count && !found; ++i) {
            if (core.retired[i].region != nullptr || !core.platform.grace_elapsed(core.retired[i].stamp)) continue;
            free = core.retired[i];
            core.retired[i] = core.retired[--core.retired_count];
            found = true;
        }
        const unsigned waiting = core.retired_count;
        core.platform.release(core.reclaim_lock);
        if (!found) return waiting;
        detail::free_subtree(core, free.pa, free.level); // with no lock held: the table source has its own
    }
}

} // namespace directmap

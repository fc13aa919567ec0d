// Shadow stacks: a page for each thread that ordinary stores can't write, because it has a protection key of its own
// (or is read-only, where there are no keys). Created and destroyed at the rate at which threads come and go.
//
//     clients::ShadowStacks stacks{pool, contents};     // a pool with ShadowStacks::pool_config(key)
//     auto stack = stacks.create(cpu);                  // zeroed; the map isn't touched
//     stacks.destroy(stack.value(), cpu);
#pragma once

#include <cstddef>
#include <cstdint>

#include "directmap/chunk_pool.hpp"
#include "directmap_clients/contents.hpp"

namespace directmap::clients {

/// Free pages keep their key, so a new thread costs a page from its CPU's magazine and no change of the map.
template <class Pool, Contents Memory>
class ShadowStacks {
public:
    using G = typename Pool::G;

    /// For machines with protection keys; `key` is not the key of the page tables.
    [[nodiscard]] static typename Pool::Config pool_config(unsigned key) {
        typename Pool::Config config;
        config.give = Change{}.key(key);
        config.restore = Change{}.key(0);
        return config;
    }
    /// For machines without: read-only in the direct map, written through the thread's own mapping.
    [[nodiscard]] static typename Pool::Config read_only_pool_config() {
        typename Pool::Config config;
        config.give = Change{}.writable(false);
        config.restore = Change{}.writable(true);
        return config;
    }

    ShadowStacks(Pool& pool, Memory& memory) : pool_{pool}, memory_{memory} {}
    ShadowStacks(const ShadowStacks&) = delete;
    ShadowStacks& operator=(const ShadowStacks&) = delete;

    /// A stack for a new thread: nothing of the last one's return addresses is left. Any context that the pool's `use`
    /// allows. Errors: as the pool's.
    [[nodiscard]] Result<PhysAddr> create(std::size_t cpu, PageUse use = PageUse::normal) {
        auto page = pool_.take(use, cpu);
        if (page) memory_.zero({page.value(), G::page_size});
        return page;
    }
    /// Any context; false if the page isn't one of these.
    bool destroy(PhysAddr stack, std::size_t cpu) { return pool_.owns(stack) && pool_.give(stack, cpu); }
    std::uint64_t shrink(std::uint64_t pages) { return pool_.shrink(pages); }

private:
    Pool& pool_;
    Memory& memory_;
};

} // namespace directmap::clients

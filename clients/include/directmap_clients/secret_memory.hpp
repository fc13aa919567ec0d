// Secret memory: pages that the kernel itself can't reach. A user's mapping is the only one that leads to them.
//
//     clients::SecretMemory secrets{map, pool, contents};   // a pool with SecretMemory::pool_config()
//     auto page = secrets.take(cpu);                        // unmapped and flushed already
//     secrets.give(page.value(), cpu);                      // zeroed, and still unmapped
#pragma once

#include <cstddef>
#include <cstdint>

#include "directmap/chunk_pool.hpp"
#include "directmap_clients/contents.hpp"

namespace directmap::clients {

/// `Pool` is a ChunkPool, or ScatteredPages for comparison; its pages are invalid in the map, flushed before anybody
/// gets one, and stay so while they are free: taking and giving back one page doesn't touch the map.
///
/// Whole ranges, for a hypervisor that populates guests by the gigabyte, go past the pool: `hide` and `reveal`.
template <class Map, class Pool, Contents Memory>
class SecretMemory {
public:
    using G = typename Map::G;

    [[nodiscard]] static typename Pool::Config pool_config() {
        typename Pool::Config config;
        config.give = Change{}.valid(false);
        config.restore = Change{}.valid(true);
        return config;
    }

    SecretMemory(Map& map, Pool& pool, Memory& memory) : map_{map}, pool_{pool}, memory_{memory} {}
    SecretMemory(const SecretMemory&) = delete;
    SecretMemory& operator=(const SecretMemory&) = delete;

    /// A page that no CPU can reach through the map. May sleep, unless `use` says otherwise. Errors: as the pool's.
    [[nodiscard]] Result<PhysAddr> take(std::size_t cpu, PageUse use = PageUse::normal) { return pool_.take(use, cpu); }
    /// Fills `pages`, or takes none of them.
    [[nodiscard]] Result<void> take_many(Span<PhysAddr> pages, std::size_t cpu) {
        for (std::size_t i = 0; i < pages.size(); ++i) {
            const auto page = pool_.take(PageUse::normal, cpu);
            if (page) {
                pages[i] = page.value();
                continue;
            }
            while (i != 0) (void)pool_.give(pages[--i], cpu); // nobody has written to them
            return page.error();
        }
        return {};
    }
    /// Zeroes the page, then gives it back; it stays unmapped until the pool gives its chunk away. False if the page
    /// isn't the pool's: nothing is done then.
    bool give(PhysAddr page, std::size_t cpu) {
        if (!pool_.owns(page)) return false;
        memory_.zero({page, G::page_size});
        return pool_.give(page, cpu);
    }
    /// Back-pressure: gives free pages back to where they came from, as whole chunks. May sleep.
    std::uint64_t shrink(std::uint64_t pages) { return pool_.shrink(pages); }

    /// Makes whole ranges, which the caller owns, secret: one flush for all of them. When it returns no CPU can reach
    /// any. After an error none is hidden. Errors: as `protect`.
    [[nodiscard]] Result<void> hide(Span<const PhysRange> ranges) {
        auto flush = hide_deferred(ranges);
        if (!flush) return flush.error();
        flush.value().complete();
        return {};
    }
    /// The same with the flush still owed: opt in only where the owner of the memory accepts that *until the flush is
    /// complete the kernel can still read and write what it is told to be unable to reach*, through any translation
    /// that a CPU has cached. Good for filling a guest before it runs: the flushes of many calls merge into one, which
    /// must be complete before the first secret is written.
    [[nodiscard]] auto hide_deferred(Span<const PhysRange> ranges) {
        using Flush = typename Map::DeferredFlush;
        Flush all;
        for (std::size_t i = 0; i < ranges.size(); ++i) {
            auto flush = map_.protect_deferred(ranges[i], Change{}.valid(false));
            if (flush) {
                all.merge(static_cast<Flush&&>(flush.value()));
                continue;
            }
            all.complete();
            while (i != 0) { // each was cut by itself a moment ago, so nothing has to be split for this
                --i;
                if (!map_.protect(ranges[i], Change{}.valid(true))) strand(ranges[i].size);
            }
            return Result<Flush>{flush.error()};
        }
        return Result<Flush>{static_cast<Flush&&>(all)};
    }
    /// Zeroes ranges that were hidden, then maps them again. Goes on after an error and returns the first: what could
    /// not be mapped again stays hidden, and is counted.
    [[nodiscard]] Result<void> reveal(Span<const PhysRange> ranges) {
        Result<void> result;
        for (const PhysRange& range : ranges) {
            memory_.zero(range);
            auto r = map_.protect(range, Change{}.valid(true));
            if (r) continue;
            strand(range.size);
            if (result) result = r;
        }
        return result;
    }
    /// Bytes that could not be mapped again after they had been hidden.
    [[nodiscard]] std::uint64_t stranded() const { return __atomic_load_n(&stranded_, __ATOMIC_RELAXED); }

private:
    void strand(std::uint64_t bytes) { __atomic_fetch_add(&stranded_, bytes, __ATOMIC_RELAXED); }

    Map& map_;
    Pool& pool_;
    Memory& memory_;
    std::uint64_t stranded_ = 0;
};

} // namespace directmap::clients

// Guard pages: a prepared pool whose pages become invalid and valid again from any context. For allocation sampling and
// page debugging, which flip pages in interrupts and allocators and can't wait for anything.
//
//     clients::GuardPages guards{map, page_allocator, storage};
//     guards.prepare(2 << 20);        // may sleep; splits what it must, once
//     guards.guard(page);             // one store, one invalidation
//     guards.unguard(page);           // one store
#pragma once

#include <cstddef>
#include <cstdint>

#include "directmap/chunk_pool.hpp"
#include "directmap/reasons.hpp"

namespace directmap::reasons {

inline constexpr Reason no_pool_storage{ErrorCode::no_tables, "no storage for another pool", Reason::counts_needed};
inline constexpr Reason no_pool{ErrorCode::no_tables, "no memory for the pool"};
inline constexpr Reason not_guard_page{ErrorCode::invalid_argument, "not a page of the pool"};

} // namespace directmap::reasons

namespace directmap::clients {

struct GuardStatistics {
    std::uint64_t bytes = 0; ///< prepared
    std::uint64_t flips = 0;
};

/// `Map` is a DirectMap or what wraps one. `prepare` and `release_all` exclude everything else; `guard` and `unguard`
/// of different pages need no exclusion at all, not even from each other on one CPU's interrupts.
template <class Map, ChunkSource Source>
class GuardPages {
public:
    using G = typename Map::G;

    /// `storage` has room for one range for each call of `prepare`.
    GuardPages(Map& map, Source& source, Span<PhysRange> storage) : map_{map}, source_{source}, pools_{storage} {}
    GuardPages(const GuardPages&) = delete;
    GuardPages& operator=(const GuardPages&) = delete;

    /// Takes `bytes` (a power of two) from the source and pins them to pages; returns where. May sleep. Errors:
    /// no_tables (memory, tables or storage), whatever DirectMap::prepare says; nothing is kept then.
    [[nodiscard]] Result<PhysRange> prepare(std::uint64_t bytes) {
        if (count_ == pools_.size()) return Error::needing(reasons::no_pool_storage, 1);
        PhysAddr pa;
        if (!source_.take_chunk(pa, bytes)) return Error{reasons::no_pool, PhysAddr{}};
        const PhysRange pool{pa, bytes};
        if (auto r = map_.prepare(pool); !r) {
            source_.give_chunk(pa, bytes);
            return r.error();
        }
        pools_[count_++] = pool;
        return pool;
    }
    /// When this returns, every access to `page` faults on every CPU. Any context. Errors: invalid_argument (not a page
    /// of the pool).
    [[nodiscard]] Result<void> guard(PhysAddr page) { return flip(page, false); }
    /// When this returns, `page` may be used. Any context.
    [[nodiscard]] Result<void> unguard(PhysAddr page) { return flip(page, true); }

    [[nodiscard]] bool owns(PhysAddr page) const {
        for (std::size_t i = 0; i < count_; ++i) {
            if (pools_[i].contains(page)) return true;
        }
        return false;
    }
    /// Makes every page valid, ends the pins and gives the memory back. May sleep. Nothing here takes memory: the pages
    /// are single already.
    void release_all() {
        for (; count_ != 0; --count_) {
            const PhysRange pool = pools_[count_ - 1];
            (void)map_.protect(pool, Change{}.valid(true));
            (void)map_.release(pool);
            (void)map_.collapse(pool); // heals now, unless policy or gate say otherwise
            source_.give_chunk(pool.start, pool.size);
        }
    }
    [[nodiscard]] GuardStatistics statistics() const {
        GuardStatistics s;
        for (std::size_t i = 0; i < count_; ++i) s.bytes += pools_[i].size;
        s.flips = __atomic_load_n(&flips_, __ATOMIC_RELAXED);
        return s;
    }

private:
    [[nodiscard]] Result<void> flip(PhysAddr page, bool valid) {
        if (!owns(page)) return Error{reasons::not_guard_page, page};
        __atomic_fetch_add(&flips_, 1, __ATOMIC_RELAXED);
        return map_.flip(page, valid);
    }

    Map& map_;
    Source& source_;
    Span<PhysRange> pools_;
    std::size_t count_ = 0;
    std::uint64_t flips_ = 0;
};

} // namespace directmap::clients

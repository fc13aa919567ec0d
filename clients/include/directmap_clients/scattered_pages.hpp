// Pages with given attributes, taken one by one from wherever the page allocator has them: what kernels did before they
// had a pool. Same calls as ChunkPool, so that any component can run on it and the two can be compared.
#pragma once

#include <cstddef>
#include <cstdint>

#include "directmap/chunk_pool.hpp"
#include "directmap/reasons.hpp"

namespace directmap::reasons {

inline constexpr Reason scattered_sleeps{ErrorCode::would_block, "a page without a pool needs a change of the map"};
inline constexpr Reason no_page{ErrorCode::no_tables, "the source has no page", Reason::counts_needed};

} // namespace directmap::reasons

namespace directmap::clients {

/// Every page cuts the leaf that holds it, and gives it back for the map to heal, or not.
template <class Map, ChunkSource Source>
class ScatteredPages {
public:
    using G = typename Map::G;
    using P = typename Map::PlatformType;
    using Lock = typename P::Lock;
    using Config = typename ChunkPool<Map, Source>::Config;

    ScatteredPages(Map& map, P& platform, Source& source, const Config& config)
        : map_{map}, platform_{platform}, source_{source}, config_{config} {}
    ScatteredPages(const ScatteredPages&) = delete;
    ScatteredPages& operator=(const ScatteredPages&) = delete;

    /// May sleep, unless asked by an atomic caller, whom it always refuses. Errors: would_block, no_tables (no page, or
    /// no table to split with), whatever `protect` says.
    [[nodiscard]] Result<PhysAddr> take(PageUse use, std::size_t /*cpu*/) {
        if (use == PageUse::atomic) {
            return Error{reasons::scattered_sleeps, PhysAddr{}};
        }
        PhysAddr pa;
        if (!source_.take_chunk(pa, G::page_size)) return Error::needing(reasons::no_page, 1);
        if (auto r = map_.protect({pa, G::page_size}, config_.give); !r) {
            source_.give_chunk(pa, G::page_size);
            return r.error();
        }
        count(1, 0);
        return pa;
    }
    /// False if the page can't be restored; it stays as it is then, and isn't handed out again.
    bool give(PhysAddr pa, std::size_t /*cpu*/) {
        if (!map_.protect({pa, G::page_size}, config_.restore)) return false;
        source_.give_chunk(pa, G::page_size);
        count(~std::uint64_t{0}, 1);
        return true;
    }
    /// What was taken isn't written down anywhere: the caller is believed.
    [[nodiscard]] bool owns(PhysAddr /*pa*/) { return true; }
    std::uint64_t shrink(std::uint64_t /*pages*/) { return 0; }
    [[nodiscard]] PoolStatistics statistics() {
        platform_.acquire(lock_);
        PoolStatistics s = statistics_;
        platform_.release(lock_);
        s.low_water = 0;
        return s;
    }

private:
    void count(std::uint64_t owned, std::uint64_t given_back) {
        platform_.acquire(lock_);
        statistics_.owned += owned;
        statistics_.given_back += given_back;
        platform_.release(lock_);
    }

    Map& map_;
    P& platform_;
    Source& source_;
    Config config_;
    Lock lock_{};
    PoolStatistics statistics_{};
};

} // namespace directmap::clients

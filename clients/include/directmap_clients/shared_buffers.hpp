// Memory that a confidential guest shares with its host: bounce buffers, queues, interrupt-controller tables.
//
//     clients::SharedBuffers shared{map, platform, page_allocator, host, storage};
//     auto page = shared.take(cpu);            // out of a cluster: shared pages lie together, leaves stay large
//     auto buffer = shared.take_buffer(2 << 20);
//     shared.share(range);                     // memory of the caller's own, as early as the map is built
//
// Sharing always breaks before it makes: the page is taken out of the map and flushed, then the host is told, then the
// page is mapped again as what it is now. At no moment does a translation disagree with the host.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "directmap/chunk_pool.hpp"
#include "directmap/reasons.hpp"

namespace directmap::reasons {

inline constexpr Reason no_buffer{ErrorCode::no_tables, "no memory for a buffer"};
inline constexpr Reason no_room_for_loss{ErrorCode::unsupported, "no more changes may fail half-way"};
inline constexpr Reason lost_by_host{ErrorCode::unsupported, "the host failed half-way: the memory is lost"};
inline constexpr Reason lost_by_map{ErrorCode::unsupported, "mapping failed half-way: the memory is lost"};

} // namespace directmap::reasons

namespace directmap::clients {

/// The host, or what talks to it. Called with no lock held, while no CPU can reach the range. False: it may have done a
/// part of it, and nobody can know which.
template <class H>
concept SharingHost = requires(H& host, PhysRange range) {
    { host.share(range) } -> std::same_as<bool>;
    { host.unshare(range) } -> std::same_as<bool>;
};

struct SharingStatistics {
    std::uint64_t shared = 0;       ///< bytes that the host can see
    std::uint64_t leaked = 0;       ///< bytes that are lost on purpose
    std::uint64_t leaks = 0;        ///< changes that failed half-way
    std::uint64_t refused_half = 0; ///< of these, by the host; the others by the map
};

/// Everything that shared buffers keep, provided by the embedder.
template <class Lock>
struct SharingStorage {
    Span<ChunkFrame> frames;
    Span<Magazine<Lock>> magazines; ///< one for each CPU
    Span<PhysRange> leaks;          ///< one for each change that may fail half-way before sharing is refused for good
};

/// A change that fails half-way leaves memory of which nobody knows to whom it belongs. It is left unmapped, counted,
/// and never handed out again. There is always room to write down one more such range before a change begins.
template <class Map, ChunkSource Source, SharingHost Host>
class SharedBuffers {
public:
    using G = typename Map::G;
    using P = typename Map::PlatformType;
    using Lock = typename P::Lock;

    SharedBuffers(Map& map, P& platform, Source& source, Host& host, const SharingStorage<Lock>& storage)
        : sharing_{map, platform, host, storage.leaks}, keeper_{source, sharing_},
          pool_{sharing_,       platform,         keeper_, {Change{}.shared(true), Change{}.shared(false)},
                storage.frames, storage.magazines} {}
    SharedBuffers(const SharedBuffers&) = delete;
    SharedBuffers& operator=(const SharedBuffers&) = delete;

    /// A shared page, out of a cluster. May sleep unless atomic. Errors: as ChunkPool::take.
    [[nodiscard]] Result<PhysAddr> take(std::size_t cpu, PageUse use = PageUse::normal) { return pool_.take(use, cpu); }
    /// Gives it back; it stays shared until its cluster is given away. False if it isn't one.
    bool give(PhysAddr page, std::size_t cpu) { return pool_.give(page, cpu); }

    /// A buffer of `bytes`, a power of two, in one piece. May sleep. Errors: no_tables (memory), as `share`.
    [[nodiscard]] Result<PhysRange> take_buffer(std::uint64_t bytes) {
        PhysAddr pa;
        if (!keeper_.take_chunk(pa, bytes)) return Error{reasons::no_buffer, PhysAddr{}};
        const PhysRange buffer{pa, bytes};
        if (auto r = share(buffer); !r) {
            keeper_.give_chunk(pa, bytes); // which keeps it if it is lost
            return r.error();
        }
        return buffer;
    }
    /// Makes it private again and gives it back. Errors: as `unshare`; the buffer is still shared then, or lost.
    [[nodiscard]] Result<void> give_buffer(PhysRange buffer) {
        if (auto r = unshare(buffer); !r) return r;
        keeper_.give_chunk(buffer.start, buffer.size);
        return {};
    }

    /// Shares memory of the caller's own. Works before any other CPU runs and before there is a page allocator, as long
    /// as the map has tables to split with. Errors: whatever `protect` says (nothing has changed, `is_lost` is false);
    /// unsupported when the change failed half-way: the memory is lost.
    [[nodiscard]] Result<void> share(PhysRange range, ChangeOptions options = {}) {
        return sharing_.change(range, true, options);
    }
    [[nodiscard]] Result<void> unshare(PhysRange range, ChangeOptions options = {}) {
        return sharing_.change(range, false, options);
    }
    /// Whether any of `range` was lost in a change that failed half-way: whoever owns it must not use it again.
    [[nodiscard]] bool is_lost(PhysRange range) { return sharing_.lost(range); }

    /// Back-pressure: makes whole clusters private and gives them back. May sleep.
    std::uint64_t shrink(std::uint64_t pages) { return pool_.shrink(pages); }
    [[nodiscard]] SharingStatistics statistics() { return sharing_.statistics(); }
    [[nodiscard]] PoolStatistics pool_statistics() { return pool_.statistics(); }

private:
    /// What the pool takes for its map: giving a chunk its attributes is the whole conversation with the host.
    class Sharing {
    public:
        using G = typename Map::G;
        using PlatformType = P;

        Sharing(Map& map, P& platform, Host& host, Span<PhysRange> leaks)
            : map_{map}, platform_{platform}, host_{host}, leaks_{leaks} {}

        Result<void> protect(PhysRange range, Change change, ChangeOptions options) {
            const bool share = change.values().shared();
            auto r = this->change(range, share, options);
            // A cluster that was lost on its way back is given back all the same: to the keeper, who keeps it. The pool
            // must not put its pages into circulation again.
            if (!r && !share && lost(range)) return {};
            return r;
        }
        auto collapse(PhysRange range) { return map_.collapse(range); }

        [[nodiscard]] Result<void> change(PhysRange range, bool share, ChangeOptions options) {
            platform_.acquire(lock_);
            const bool room = leak_count_ + in_flight_ < leaks_.size();
            if (room) ++in_flight_;
            platform_.release(lock_);
            if (!room) return Error{reasons::no_room_for_loss, range.start};
            // 1. Break: nobody reaches the range any more, whatever it was.
            auto r = map_.protect(range, Change{}.valid(false).shared(share), options);
            if (!r) {
                settle(range, share, Ending::refused);
                return r;
            }
            // 2. The host.
            if (!(share ? host_.share(range) : host_.unshare(range))) {
                settle(range, share, Ending::lost_by_host);
                return Error{reasons::lost_by_host, range.start};
            }
            // 3. Make.
            r = map_.protect(range, Change{}.valid(true), options);
            settle(range, share, r ? Ending::done : Ending::lost_by_map);
            if (r) return r;
            return Error{reasons::lost_by_map, range.start};
        }

        [[nodiscard]] bool lost(PhysRange range) {
            platform_.acquire(lock_);
            bool found = false;
            for (unsigned i = 0; i < leak_count_ && !found; ++i) found = leaks_[i].overlaps(range);
            platform_.release(lock_);
            return found;
        }
        [[nodiscard]] SharingStatistics statistics() {
            platform_.acquire(lock_);
            const SharingStatistics s = statistics_;
            platform_.release(lock_);
            return s;
        }

    private:
        enum class Ending : std::uint8_t { done, refused, lost_by_host, lost_by_map };

        void settle(PhysRange range, bool share, Ending ending) {
            platform_.acquire(lock_);
            --in_flight_;
            if (ending == Ending::done) statistics_.shared += share ? range.size : 0 - range.size;
            if (ending == Ending::lost_by_host || ending == Ending::lost_by_map) {
                leaks_[leak_count_++] = range;
                statistics_.leaked += range.size;
                ++statistics_.leaks;
                if (ending == Ending::lost_by_host) ++statistics_.refused_half;
                if (!share) statistics_.shared -= range.size; // lost, not shared
            }
            platform_.release(lock_);
        }

        Map& map_;
        P& platform_;
        Host& host_;
        Span<PhysRange> leaks_;
        Lock lock_{};
        unsigned leak_count_ = 0;
        unsigned in_flight_ = 0;
        SharingStatistics statistics_{};
    };

    /// What the pool takes for its source: memory that is lost ends here.
    class Keeper {
    public:
        Keeper(Source& source, Sharing& sharing) : source_{source}, sharing_{sharing} {}
        bool take_chunk(PhysAddr& pa, std::uint64_t bytes) { return source_.take_chunk(pa, bytes); }
        void give_chunk(PhysAddr pa, std::uint64_t bytes) {
            if (!sharing_.lost({pa, bytes})) source_.give_chunk(pa, bytes);
        }

    private:
        Source& source_;
        Sharing& sharing_;
    };

    Sharing sharing_;
    Keeper keeper_;
    ChunkPool<Sharing, Keeper> pool_;
};

} // namespace directmap::clients

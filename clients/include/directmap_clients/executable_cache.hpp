// Executable memory for many small pieces of code: modules' text, BPF programs, probes and trampolines. They share
// large leaves that are read-only and executable for good; a piece is written through a short alias of its own.
//
//     area     |code|code|....|poison|code|.........|     one 2M leaf, read-only and executable
//     window          |page|                              writable, while a piece is written, then gone
//     direct map  …|  the same memory, read-only  |…
#pragma once

#include <cstddef>
#include <cstdint>

#include "directmap/area.hpp"
#include "directmap/chunk_pool.hpp"
#include "directmap/reasons.hpp"
#include "directmap_clients/contents.hpp"

namespace directmap::reasons {

inline constexpr Reason large_piece{ErrorCode::invalid_argument, "no chunk holds a piece of that size"};
inline constexpr Reason large_code{ErrorCode::invalid_argument, "the code is larger than the piece"};
inline constexpr Reason foreign_piece{ErrorCode::invalid_argument, "not a piece of this cache"};
inline constexpr Reason no_chunk_storage{ErrorCode::no_tables, "no storage for another chunk", Reason::counts_needed};

} // namespace directmap::reasons

namespace directmap::clients {

/// A piece of executable memory.
struct CodePiece {
    VirtAddr va;
    PhysAddr pa;
    std::uint64_t size = 0; ///< as it was rounded up
};

/// One chunk and what is used of it. Storage is the embedder's, default-constructed.
struct CodeChunk {
    static constexpr std::uint64_t granule = 64; ///< bytes: the unit of allocation, a cache line
    static constexpr std::uint64_t most_bytes = std::uint64_t{2} << 20;
    static constexpr unsigned words = most_bytes / granule / 64;

    PhysRange phys; ///< empty: it has no memory (yet)
    VirtRange va;
    bool claimed = false;
    std::uint64_t free = 0;         ///< bytes
    std::uint64_t used[words] = {}; ///< one bit for each granule
};

struct CodeStatistics {
    std::uint64_t chunks[3] = {}; ///< by class: large, 16 pages, 4 pages
    std::uint64_t bytes = 0;      ///< in chunks
    std::uint64_t used = 0;       ///< bytes in pieces
    std::uint64_t pieces = 0;
    std::uint64_t fragments = 0;     ///< free runs between pieces
    std::uint64_t largest_free = 0;  ///< bytes of the longest of them
    std::uint64_t fallbacks = 0;     ///< chunks that are small because no large one was to be had
    std::uint64_t failed_writes = 0; ///< for want of a window
};

/// `Map` is a DirectMap or what wraps one; `AreaType` its Area, where code is executed; `WindowArea` an area for the
/// writing aliases. Where the writer's CPU alone uses the windows' root (a table base of its own, as kernels have for
/// patching text) no other CPU ever sees code both writable and executable; in a shared root the window shows it for
/// the duration of one write.
///
/// Freed text is poisoned before anybody else gets it. A window that can't be had while text is being freed leaves the
/// piece allocated, unpoisoned, and tells.
template <class Map, class AreaType, class WindowArea, ChunkSource Source, Contents Memory>
class ExecutableCache {
public:
    using G = typename Map::G;
    using P = typename Map::PlatformType;
    using Lock = typename P::Lock;

    static constexpr std::uint64_t large_bytes =
        (std::uint64_t{1} << G::shift(G::last_level - 1)) < CodeChunk::most_bytes
            ? std::uint64_t{1} << G::shift(G::last_level - 1)
            : CodeChunk::most_bytes;
    static constexpr std::uint64_t chunk_bytes[3] = {large_bytes, 16 * G::page_size, 4 * G::page_size};

    struct Config {
        std::uint32_t poison = 0xd4200000; ///< arm64: BRK #0
    };

    ExecutableCache(Map& map, P& platform, AreaType& area, WindowArea& windows, Source& source, Memory& memory,
                    Span<CodeChunk> chunks, const Config& config = {})
        : map_{map}, platform_{platform}, area_{area}, windows_{windows}, source_{source}, memory_{memory},
          chunks_{chunks}, config_{config} {}
    ExecutableCache(const ExecutableCache&) = delete;
    ExecutableCache& operator=(const ExecutableCache&) = delete;

    /// Room for `bytes` of code: executable, read-only, full of poison until it is written. May sleep. Errors:
    /// invalid_argument (empty, or larger than a chunk), no_tables (no memory in any chunk size that would do).
    [[nodiscard]] Result<CodePiece> allocate(std::uint64_t bytes) {
        bytes = align_up(bytes, CodeChunk::granule);
        if (bytes == 0 || bytes > large_bytes) return Error{reasons::large_piece, PhysAddr{}};
        for (;;) {
            CodePiece piece;
            platform_.acquire(lock_);
            const bool got = find_room(bytes, piece);
            platform_.release(lock_);
            if (got) return piece;
            if (auto r = grow(bytes); !r) return r.error();
        }
    }

    /// Writes code into a piece through a window. Nobody may execute what is being replaced meanwhile, unless the
    /// architecture allows that (single instructions, breakpoints first). Errors: invalid_argument (beyond the piece),
    /// no_tables (no window: nothing is written).
    [[nodiscard]] Result<void> write(const CodePiece& piece, std::uint64_t offset, const void* from,
                                     std::size_t bytes) {
        if (offset > piece.size || bytes > piece.size - offset) return Error{reasons::large_code, piece.pa};
        return through_window(piece.pa + offset, bytes, [&](VirtAddr va) { memory_.write(va, from, bytes); });
    }

    /// Nobody executes the piece any more. Its text is poisoned before the room is free. Errors: invalid_argument (not
    /// a piece of this cache), no_tables (no window; the piece stays allocated, try again).
    [[nodiscard]] Result<void> free(const CodePiece& piece) {
        platform_.acquire(lock_);
        CodeChunk* const chunk = chunk_of(piece);
        platform_.release(lock_);
        if (chunk == nullptr) return Error{reasons::foreign_piece, piece.pa};
        auto r = through_window(piece.pa, piece.size, [&](VirtAddr va) {
            memory_.fill(va, config_.poison, static_cast<std::size_t>(piece.size));
        });
        if (!r) return r;
        platform_.acquire(lock_);
        mark(*chunk, (piece.pa - chunk->phys.start) / CodeChunk::granule, piece.size / CodeChunk::granule, false);
        chunk->free += piece.size;
        --statistics_.pieces;
        platform_.release(lock_);
        return {};
    }

    /// Back-pressure: gives wholly free chunks back until `bytes` are given or none is left; returns how many bytes
    /// went. The memory is ordinary again, and the direct map heals. May sleep, takes no memory.
    std::uint64_t shrink(std::uint64_t bytes) {
        std::uint64_t given = 0;
        for (CodeChunk& chunk : chunks_) {
            if (given >= bytes) break;
            platform_.acquire(lock_);
            const PhysRange phys = chunk.phys;
            const bool idle = !phys.empty() && chunk.free == phys.size;
            if (idle) chunk.free = 0; // nobody finds room here any more
            platform_.release(lock_);
            if (!idle) continue;
            (void)area_.unmap(chunk.va);
            if (!map_.protect(phys, Change{}.writable(true))) {
                strand(chunk, phys);
                continue;
            }
            (void)map_.collapse(phys);
            source_.give_chunk(phys.start, phys.size);
            platform_.acquire(lock_);
            chunk.phys = {};
            chunk.claimed = false;
            --statistics_.chunks[class_of(phys.size)];
            platform_.release(lock_);
            given += phys.size;
        }
        return given;
    }

    [[nodiscard]] CodeStatistics statistics() {
        platform_.acquire(lock_);
        CodeStatistics s = statistics_;
        for (const CodeChunk& chunk : chunks_) {
            s.bytes += chunk.phys.size;
            s.used += chunk.phys.size - chunk.free;
            std::uint64_t run = 0;
            for (std::uint64_t i = 0; i <= chunk.phys.size / CodeChunk::granule; ++i) {
                if (i != chunk.phys.size / CodeChunk::granule && !is_used(chunk, i)) {
                    ++run;
                    continue;
                }
                if (run != 0) ++s.fragments;
                if (run * CodeChunk::granule > s.largest_free) s.largest_free = run * CodeChunk::granule;
                run = 0;
            }
        }
        platform_.release(lock_);
        return s;
    }

private:
    [[nodiscard]] static bool is_used(const CodeChunk& chunk, std::uint64_t i) {
        return (chunk.used[i / 64] >> (i % 64) & 1) != 0;
    }
    static void mark(CodeChunk& chunk, std::uint64_t first, std::uint64_t count, bool on) {
        for (std::uint64_t i = first; i < first + count; ++i) {
            const std::uint64_t bit = std::uint64_t{1} << (i % 64);
            chunk.used[i / 64] = on ? chunk.used[i / 64] | bit : chunk.used[i / 64] & ~bit;
        }
    }
    [[nodiscard]] static unsigned class_of(std::uint64_t bytes) {
        return bytes == chunk_bytes[0] ? 0u : bytes == chunk_bytes[1] ? 1u : 2u;
    }

    /// With the lock held.
    [[nodiscard]] bool find_room(std::uint64_t bytes, CodePiece& piece) {
        const std::uint64_t wanted = bytes / CodeChunk::granule;
        for (CodeChunk& chunk : chunks_) {
            if (chunk.phys.empty() || chunk.free < bytes) continue;
            const std::uint64_t all = chunk.phys.size / CodeChunk::granule;
            for (std::uint64_t i = 0, run = 0; i < all; ++i) {
                run = is_used(chunk, i) ? 0 : run + 1;
                if (run != wanted) continue;
                const std::uint64_t first = i + 1 - wanted;
                mark(chunk, first, wanted, true);
                chunk.free -= bytes;
                ++statistics_.pieces;
                const std::uint64_t offset = first * CodeChunk::granule;
                piece = {chunk.va.start + offset, chunk.phys.start + offset, bytes};
                return true;
            }
        }
        return false;
    }
    [[nodiscard]] CodeChunk* chunk_of(const CodePiece& piece) {
        for (CodeChunk& chunk : chunks_) {
            if (chunk.phys.contains(piece.pa) && piece.size <= chunk.phys.end() - piece.pa &&
                is_used(chunk, (piece.pa - chunk.phys.start) / CodeChunk::granule))
                return &chunk;
        }
        return nullptr;
    }

    /// Another chunk, as large as is to be had. Poison is written while the memory is still ordinary; then it becomes
    /// read-only where the kernel sees it, and only then executable where code is fetched.
    [[nodiscard]] Result<void> grow(std::uint64_t bytes) {
        platform_.acquire(lock_);
        CodeChunk* chunk = nullptr;
        for (CodeChunk& each : chunks_) {
            if (each.claimed) continue;
            each.claimed = true;
            chunk = &each;
            break;
        }
        platform_.release(lock_);
        if (chunk == nullptr) return Error::needing(reasons::no_chunk_storage, 1);
        Result<void> result = Error::needing(reasons::no_chunk, 1);
        PhysRange phys;
        for (unsigned c = 0; c < 3 && !result && bytes <= chunk_bytes[c]; ++c) {
            PhysAddr pa;
            if (!source_.take_chunk(pa, chunk_bytes[c])) continue;
            phys = {pa, chunk_bytes[c]};
            result = make_executable(*chunk, phys);
            if (!result) source_.give_chunk(pa, phys.size);
        }
        platform_.acquire(lock_);
        if (result) {
            chunk->phys = phys;
            chunk->free = phys.size;
            ++statistics_.chunks[class_of(phys.size)];
            if (class_of(phys.size) != 0) ++statistics_.fallbacks;
        } else {
            chunk->claimed = false;
        }
        platform_.release(lock_);
        return result;
    }
    [[nodiscard]] Result<void> make_executable(CodeChunk& chunk, PhysRange phys) {
        memory_.fill(map_.virt(phys.start), config_.poison, static_cast<std::size_t>(phys.size));
        if (auto r = map_.protect(phys, Change{}.writable(false)); !r) return r;
        auto mapped = area_.map({&phys, 1}, Attributes{}.with_writable(false).with_executable(true));
        if (mapped) {
            chunk.va = mapped.value();
            return {};
        }
        (void)map_.protect(phys, Change{}.writable(true)); // it was cut a moment ago, so this takes no table
        (void)map_.collapse(phys);
        return mapped.error();
    }
    void strand(CodeChunk& chunk, PhysRange phys) {
        platform_.acquire(lock_);
        mark(chunk, 0, phys.size / CodeChunk::granule, true); // read-only memory that nobody executes, kept for good
        platform_.release(lock_);
    }

    /// Maps the pages around some bytes writable, for as long as `use` takes.
    template <class Use>
    [[nodiscard]] Result<void> through_window(PhysAddr pa, std::uint64_t bytes, Use use) {
        const PhysAddr first{align_down(pa.value(), G::page_size)};
        const PhysRange pages{first, align_up(pa.value() + bytes, G::page_size) - first.value()};
        auto window = windows_.map({&pages, 1}, Attributes{});
        if (!window) {
            __atomic_fetch_add(&statistics_.failed_writes, 1, __ATOMIC_RELAXED);
            return window.error();
        }
        use(window.value().start + (pa - first));
        (void)windows_.unmap(window.value());
        return {};
    }

    Map& map_;
    P& platform_;
    AreaType& area_;
    WindowArea& windows_;
    Source& source_;
    Memory& memory_;
    Span<CodeChunk> chunks_;
    Config config_;
    Lock lock_{};
    CodeStatistics statistics_{};
};

} // namespace directmap::clients

// The tables of the kernel's direct map: one range of RAM, of which the build takes the beginning page by page. Then
// the engine's pool has all of it (directmap/chunk_pool.hpp): the early pages adopted, the rest in chunks.
#pragma once

#include "cpu/cpu.hpp"
#include "directmap/chunk_pool.hpp"
#include "memory/granule.hpp"
#include "memory/seeded_platform.hpp"

namespace directmap::kernel {

using KernelMap = DirectMap<Format, SeededPlatform>;

/// Chunks in a row: the largest that is aligned where the last one ended.
class TableChunks {
public:
    void use(PhysRange range) {
        next_ = range.start;
        end_ = range.end();
    }
    [[nodiscard]] bool take_chunk(PhysAddr& pa, std::uint64_t bytes) {
        if (!next_.aligned(bytes) || end_ - next_ < bytes) return false;
        pa = next_;
        next_ = next_ + bytes;
        return true;
    }
    /// The last one taken, which the pool couldn't add. Nobody shrinks this pool.
    void give_chunk(PhysAddr pa, std::uint64_t) { next_ = pa; }

private:
    PhysAddr next_, end_;
};

class MapTables final : public TableSource {
public:
    using Pool = ChunkPool<KernelMap, TableChunks>;

    /// What the pool notes about tables in `bytes` of memory, in bytes.
    [[nodiscard]] static constexpr std::uint64_t notes_for(std::uint64_t bytes) {
        return (bytes / Pool::frame_bytes + 2) * sizeof(ChunkFrame); // at both ends there may be a part of one
    }
    /// `range` is for tables; whoever needs it mapped with their key sees to that. `notes` is other memory.
    void use(PhysRange range, PhysRange notes) {
        range_ = range;
        notes_ = notes;
    }
    [[nodiscard]] PhysRange range() const { return range_; }

    /// Tables come from the range from now on.
    void start_early(SeededPlatform& platform);
    /// And from the pool from now on, which keeps what splits need. The map is live; `key` is its table key, or 0.
    void start_pool(KernelMap& map, SeededPlatform& platform, unsigned key);

    [[nodiscard]] bool take(PhysAddr& pa, bool atomic) override {
        if (allowed_ == 0) return false;
        if (allowed_ != all) --allowed_;
        return pool_->take_table(pa, atomic, this_cpu().index);
    }
    void give(PhysAddr pa) override;

    /// For running out on purpose, on one CPU: hands out no more than `pages` from now on.
    void allow(std::uint64_t pages) { allowed_ = pages; }
    void allow_all() { allowed_ = all; }

    /// Pages handed out and not given back.
    [[nodiscard]] std::uint64_t in_use();

private:
    static constexpr std::uint64_t all = ~std::uint64_t{0};

    PhysRange range_, notes_;
    TableChunks chunks_;
    Pool* pool_ = nullptr; ///< null: the early source is in use
    std::uint64_t allowed_ = all;
};

} // namespace directmap::kernel

#include "memory/map_tables.hpp"

#include <new>
#include <optional>

#include "cpu/ending.hpp"
#include "memory/require.hpp"

namespace directmap::kernel {

namespace {

using Pool = MapTables::Pool;
using Early = EarlySource<SeededPlatform>;

constinit Magazine<SpinLock> magazines[max_cpus];

constinit std::optional<Early> early;
alignas(Pool) constinit unsigned char pool_storage[sizeof(Pool)] = {};

} // namespace

void MapTables::start_early(SeededPlatform& platform) {
    early.emplace(platform, range_);
    platform.take_tables_from(*early);
}

void MapTables::start_pool(KernelMap& map, SeededPlatform& platform, unsigned key) {
    constexpr std::uint64_t smallest_chunk = 4 * page_size;
    // The build gave nothing back: what it took is the beginning of the range.
    const PhysRange used{range_.start, early->in_use() * page_size};
    const PhysRange rest = phys_range(align_up(used.end().value(), smallest_chunk), range_.end().value());
    chunks_.use(rest);
    auto* const frames = reinterpret_cast<ChunkFrame*>(map.virt(notes_.start).value());
    const std::size_t frame_count = notes_.size / sizeof(ChunkFrame);
    for (std::size_t i = 0; i < frame_count; ++i) new (frames + i) ChunkFrame{};
    pool_ =
        new (pool_storage) Pool{map, platform, chunks_, table_pool_config<Pool>(key), {frames, frame_count}, magazines};
    while (pool_->available() < Geometry::worst_tables + Pool::chunk_tables)
        require(pool_->refill(), "the first chunks of the table pool");
    require(pool_->become_table_source(), "starting the table pool");
    platform.take_tables_from(*this);
    const auto is_table = [&](PhysAddr pa) { return used.contains(pa); };
    require(pool_->adopt(phys_range(used.start.value(), rest.start.value()), is_table), "adopting early tables");
}

void MapTables::give(PhysAddr pa) {
    if (!pool_->give(pa, this_cpu().index)) fail("a table at {} came back that nobody has", Hex{pa.value()});
}

std::uint64_t MapTables::in_use() {
    if (pool_ == nullptr) return early ? early->in_use() : 0;
    const PoolStatistics statistics = pool_->statistics();
    return statistics.owned - statistics.free;
}

} // namespace directmap::kernel

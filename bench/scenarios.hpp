// What is measured, shared by the program that takes times and the one that counts instructions.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <vector>

#include "bench_platform.hpp"

namespace directmap::bench {

inline constexpr std::uint64_t GiB = std::uint64_t{1} << 30;
inline constexpr std::uint64_t page_size = 4096;
inline constexpr std::uint64_t ram_base = 2 * GiB;
inline constexpr std::uint64_t map_offset = 0xffff'0000'0000'0000;

/// Ends the program: a benchmark of an operation that failed would be a wrong number.
inline void require(bool ok, const char* what) {
    if (ok) return;
    std::fprintf(stderr, "bench: failed: %s\n", what);
    std::exit(1);
}
/// The same for an operation's result.
template <class R>
inline void must(const R& result) {
    if (!result.ok()) [[unlikely]]
        require(false, result.error().reason());
}

/// A map with VA = PA + map_offset of RAM from ram_base on, and everything it stands on.
template <class Lock = NoLock>
class Bed {
public:
    using Platform = BenchPlatform<Lock>;
    using Map = DirectMap<arm64::Format4K48, Platform>;

    /// `tables` is the number of tables that there can be.
    Bed(std::uint64_t ram_bytes, std::size_t tables)
        : platform{tables}, ram_{{phys_range(ram_base, ram_base + ram_bytes), {}}}, regions_(ram_bytes / GiB) {
        clear();
    }

    /// An empty map whose boot CPU has not been admitted.
    void clear() {
        map_.reset();
        platform.reset();
        for (auto& region : regions_) region = {};
        map_.emplace(platform, Config{.offset = map_offset},
                     Span<typename Map::RegionState>{regions_.data(), regions_.size()});
    }
    void build(Mapping mapping) { must(map().build({{ram_, 1}, {}}, mapping)); }
    void admit() { must(map().admit({.tolerates_live_resize = true})); }
    void start(Mapping mapping) {
        clear();
        build(mapping);
        admit();
    }

    [[nodiscard]] Map& map() { return *map_; }
    [[nodiscard]] PhysRange page(std::uint64_t index) const {
        return {PhysAddr{ram_base + index * page_size}, page_size};
    }

    Platform platform;

private:
    RamRange ram_[1];
    std::vector<typename Map::RegionState> regions_;
    std::optional<Map> map_;
};

/// Tables of `ram` bytes by pages: the last level, the one above it, and the two at the top.
[[nodiscard]] constexpr std::size_t tables_by_pages(std::uint64_t ram) {
    return ram / (2 << 20) + ram / GiB + 2;
}

inline constexpr unsigned random_pages = 10'000;
/// Page numbers, the same in every run. They may repeat, as random pages do.
[[nodiscard]] inline std::vector<std::uint64_t> choose_pages(std::uint64_t ram_bytes, unsigned count) {
    std::mt19937_64 random{1};
    std::vector<std::uint64_t> pages(count);
    for (auto& page : pages) page = random() % (ram_bytes / page_size);
    return pages;
}

} // namespace directmap::bench

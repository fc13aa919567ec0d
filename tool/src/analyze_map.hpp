// What a direct map is made of, what it could be made of, and what stands in the way.
//
// The map comes leaf by leaf, in ascending order. Work goes region by region: a region is an aligned range as long as
// the largest leaf, so everything that could ever be one leaf lies inside one, and memory is bounded by what fits into
// one region.
#pragma once

#include "analyze_picture.hpp"
#include "dump_geometry.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace directmap::tool {

/// Counts by leaf size; index n stands for 2^n bytes.
using CountBySize = std::array<std::uint64_t, 64>;

/// A stretch of equal attributes inside a region that mostly has others.
struct PermissionIsland {
    std::uint64_t start = 0;
    std::uint64_t bytes = 0;
    DumpAttributes attributes = 0;
    DumpAttributes around = 0; ///< what most of the region has
    std::uint64_t broke_size =
        0; ///< the largest leaf that would be possible if the island had the attributes around; 0: none
    std::uint64_t broke_start = 0;
};

/// All islands that differ from what is around them in the same way.
struct IslandGroup {
    DumpAttributes attributes = 0;
    DumpAttributes around = 0;
    std::uint64_t count = 0;
    std::uint64_t bytes = 0;
    CountBySize broke{}; ///< islands, by the size of the leaf that each broke
};

struct RegionSummary {
    std::uint64_t start = 0;
    std::uint64_t span = 0; ///< up to the end of the region
    std::uint64_t mapped_bytes = 0;
    std::uint64_t units = 0;
    std::uint64_t minimum_units = 0;
    std::uint64_t uniform_units = 0;
    std::uint64_t tables_reclaimable = 0;
    std::uint64_t islands = 0;

    [[nodiscard]] std::uint64_t units_saved() const { return units - minimum_units; }
};

struct MapSummary {
    explicit MapSummary(const DumpGeometry& used, std::size_t picture_limit) : geometry(used), picture(picture_limit) {}

    DumpGeometry geometry;
    std::uint64_t start = 0; ///< of the first leaf
    std::uint64_t last = 0;  ///< of the last leaf
    std::uint64_t mapped_bytes = 0;
    std::uint64_t present_invalid_bytes = 0;
    std::uint64_t writable_executable_bytes = 0;
    CountBySize leaves{};

    std::uint64_t units = 0;         ///< leaves of all sizes
    std::uint64_t minimum_units = 0; ///< the fewest leaves that could say the same
    std::uint64_t uniform_units = 0; ///< the fewest leaves if all memory that is mapped had equal attributes
    CountBySize minimum_leaves{};
    CountBySize collapsible_into{}; ///< new leaves that collapsing would make
    std::uint64_t collapsible_bytes = 0;

    std::uint64_t tables = 0; ///< below the top-level table, with at least one leaf somewhere below them
    std::uint64_t tables_reclaimable = 0;
    std::uint64_t tables_empty = 0; ///< between the first leaf and the last, with no leaf below them

    std::uint64_t holes = 0;
    std::uint64_t hole_bytes = 0;
    std::uint64_t small_holes =
        0; ///< smaller than a block, with memory on both sides: usually pages that were taken out of the map
    std::uint64_t small_hole_bytes = 0;

    std::uint64_t islands = 0;
    std::uint64_t island_bytes = 0;
    CountBySize islands_by_broken_leaf{};
    CountBySize broken_leaves{};               ///< distinct leaves that islands broke
    std::vector<IslandGroup> island_groups;    ///< the most frequent first
    std::vector<PermissionIsland> island_list; ///< those that broke the largest leaves, by address
    std::vector<RegionSummary> worst_regions;  ///< the one that would gain most first

    MapPicture picture;

    [[nodiscard]] std::uint64_t all_pages_units() const { return mapped_bytes / geometry.granule(); }
    /// Every size of the geometry, and the larger ones that the map has; ascending.
    [[nodiscard]] std::vector<std::uint64_t> sizes() const;
    [[nodiscard]] std::uint64_t count(std::uint64_t size) const;
    [[nodiscard]] std::uint64_t bytes(std::uint64_t size) const { return count(size) * size; }
};

[[nodiscard]] std::size_t size_index(std::uint64_t size);

struct MapOptions {
    std::uint64_t max_leaf = UINT64_MAX; ///< larger leaves are not assumed possible
    std::size_t worst_regions = 10;
    std::size_t islands = 1000; ///< how many are listed
    std::size_t picture_limit = 0;
};

/// Leaves of one size that follow each other without a gap.
struct LeafRun {
    std::uint64_t start = 0;
    std::uint64_t last = 0;
    std::uint64_t leaf_size = 0;
    unsigned depth = 0;
    DumpAttributes attributes = 0;
    /// VA − PA, where the dump tells it. Leaves larger than its alignment are impossible, and a step in it can't be
    /// inside a leaf.
    std::uint64_t offset = 0;
};

class MapAnalyzer {
public:
    MapAnalyzer(const DumpGeometry& geometry, DumpArchitecture architecture, const MapOptions& options);

    /// Addresses ascend, and the run is made of whole leaves.
    void add_leaves(const LeafRun& run);
    /// A hole that the dump shows, which tells that tables exist. Holes that it doesn't show are found all the same.
    void add_hole(std::uint64_t start, std::uint64_t last, unsigned depth);

    [[nodiscard]] bool empty() const { return summary_.mapped_bytes == 0; }
    /// `top_depth` is the depth of the top-level table's entries.
    [[nodiscard]] MapSummary finish(unsigned top_depth);

private:
    static constexpr unsigned depth_count = 5;

    static constexpr std::size_t most_sizes = DumpGeometry::most_sizes;

    /// What closed regions have added up to. Sizes are indices into the geometry's.
    struct Totals {
        std::uint64_t minimum_units = 0;
        std::uint64_t uniform_units = 0;
        std::uint64_t collapsible_bytes = 0;
        std::uint64_t tables_reclaimable = 0;
        std::array<std::uint64_t, most_sizes> minimum_leaves{};
        std::array<std::uint64_t, most_sizes> collapsible_into{};
    };
    struct Piece {
        std::uint64_t begin; ///< within the region
        std::uint64_t end;
        std::uint64_t leaf_size;
        std::uint64_t usable; ///< the largest leaf that could map it
        std::uint64_t offset;
        DumpAttributes attributes;
        unsigned depth;
    };
    /// Neighbouring pieces that could share leaves.
    struct Stretch {
        std::uint64_t begin;
        std::uint64_t end;
        std::uint64_t usable;
        DumpAttributes attributes;
        std::size_t first_piece;
        std::size_t piece_count;
    };
    struct Extent {
        std::uint64_t begin;
        std::uint64_t end;
        std::uint64_t usable;
        std::uint64_t offset;
    };

    [[nodiscard]] std::uint64_t usable_size(std::uint64_t offset) const;
    void count_run(const LeafRun& run);
    void count_hole_before(std::uint64_t start);
    void count_tables(std::uint64_t start, std::uint64_t last, unsigned depth, bool leaf);
    void add_piece(const LeafRun& run, std::uint64_t start, std::uint64_t last);
    void add_whole_regions(const LeafRun& run, std::uint64_t first, std::uint64_t count);
    void close_region();
    void find_stretches();
    [[nodiscard]] std::uint64_t reclaimable_tables(const Stretch& stretch) const;
    void count_collapsible(const Stretch& stretch);
    std::uint64_t find_islands();
    void add_island(const PermissionIsland& island);
    void flush_island();
    void keep_if_worst(const RegionSummary& region);

    DumpArchitecture architecture_;
    MapOptions options_;
    std::uint64_t region_size_;
    MapSummary summary_;
    Totals totals_;

    bool region_open_ = false;
    std::uint64_t region_start_ = 0;
    std::vector<Piece> pieces_;
    std::vector<Stretch> stretches_;
    std::vector<Extent> extents_;

    std::array<unsigned, depth_count> table_bits_{}; ///< log2 of what a table of entries of this depth reaches over
    std::array<std::uint64_t, depth_count> tables_with_leaf_{};
    std::array<std::uint64_t, depth_count> tables_at_all_{};
    std::array<std::uint64_t, depth_count> tables_up_to_last_leaf_{};
    std::array<std::uint64_t, depth_count> last_table_with_leaf_{};
    std::array<std::uint64_t, depth_count> last_table_at_all_{};

    std::array<std::uint64_t, 64>
        last_broken_{}; ///< start of the leaf that was last counted as broken, plus one, by size
    PermissionIsland last_island_;
    bool have_island_ = false;
};

/// TLB entries that memory of this map takes up, on average, when `bytes` of it are in use.
struct TlbDemand {
    double dense = 0;     ///< the bytes are one range that lies anywhere
    double scattered = 0; ///< the bytes are pages that lie anywhere
};
[[nodiscard]] TlbDemand tlb_demand(const CountBySize& leaves, std::uint64_t granule, std::uint64_t bytes);

} // namespace directmap::tool

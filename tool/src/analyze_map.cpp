#include "analyze_map.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace directmap::tool {
namespace {

/// Hostile input could bring any number of combinations; what comes beyond these counts in the totals only.
constexpr std::size_t most_island_groups = 64;
constexpr std::size_t most_attributes_in_region = 64;

bool broke_more(const PermissionIsland& a, const PermissionIsland& b) {
    return a.broke_size != b.broke_size ? a.broke_size > b.broke_size : a.start < b.start;
}

bool is_worse(const RegionSummary& a, const RegionSummary& b) {
    if (a.units_saved() != b.units_saved()) return a.units_saved() > b.units_saved();
    const std::uint64_t lost_a = a.minimum_units - a.uniform_units;
    const std::uint64_t lost_b = b.minimum_units - b.uniform_units;
    return lost_a != lost_b ? lost_a > lost_b : a.start < b.start;
}

} // namespace

std::size_t size_index(std::uint64_t size) {
    return static_cast<std::size_t>(std::countr_zero(size));
}

std::vector<std::uint64_t> MapSummary::sizes() const {
    std::vector<std::uint64_t> all(geometry.leaf_sizes().begin(), geometry.leaf_sizes().end());
    for (std::size_t index = 0; index < leaves.size(); ++index) {
        if (leaves[index] != 0 && std::ranges::find(all, std::uint64_t{1} << index) == all.end())
            all.push_back(std::uint64_t{1} << index);
    }
    std::ranges::sort(all);
    return all;
}

std::uint64_t MapSummary::count(std::uint64_t size) const {
    return leaves[size_index(size)];
}

MapAnalyzer::MapAnalyzer(const DumpGeometry& geometry, DumpArchitecture architecture, const MapOptions& options)
    : architecture_(architecture), options_(options), region_size_(geometry.largest_leaf()),
      summary_(geometry, options.picture_limit) {
    for (unsigned depth = 0; depth < depth_count; ++depth) {
        const std::uint64_t reach = geometry.entry_size(depth + 1);
        table_bits_[depth] = reach == 0 ? 64 : static_cast<unsigned>(std::countr_zero(reach));
    }
}

/// The largest leaf that memory at this offset from its physical address could be mapped with.
std::uint64_t MapAnalyzer::usable_size(std::uint64_t offset) const {
    const std::uint64_t aligned = offset == 0 ? UINT64_MAX : std::uint64_t{1} << std::countr_zero(offset);
    std::uint64_t usable = summary_.geometry.granule();
    for (const std::uint64_t size : summary_.geometry.leaf_sizes()) {
        if (size <= aligned && size <= options_.max_leaf) usable = size;
    }
    return usable;
}

void MapAnalyzer::add_leaves(const LeafRun& run) {
    count_run(run);
    if (run.leaf_size > usable_size(run.offset)) {
        // Larger than what is assumed possible: it stands for itself.
        const std::uint64_t count = (run.last - run.start + 1) / run.leaf_size;
        totals_.minimum_units += count;
        totals_.uniform_units += count;
        summary_.minimum_leaves[size_index(run.leaf_size)] += count;
        return;
    }
    std::uint64_t start = run.start;
    while (true) {
        if (region_open_ && start - region_start_ >= region_size_) close_region();
        if (!region_open_ && start % region_size_ == 0) {
            // (last - start + 1) / size, without leaving 64 bits at the end of the address space.
            const std::uint64_t whole =
                (run.last - start) / region_size_ + ((run.last + 1) % region_size_ == 0 ? 1 : 0);
            if (whole != 0) {
                add_whole_regions(run, start, whole);
                if (run.last - start == whole * region_size_ - 1) return;
                start += whole * region_size_;
            }
        }
        if (!region_open_) {
            region_open_ = true;
            region_start_ = round_down(start, region_size_);
        }
        const std::uint64_t region_last = region_start_ + (region_size_ - 1);
        add_piece(run, start, std::min(run.last, region_last));
        if (run.last <= region_last) return;
        start = region_last + 1;
    }
}

void MapAnalyzer::add_hole(std::uint64_t start, std::uint64_t last, unsigned depth) {
    if (!empty()) count_tables(start, last, depth, false);
}

void MapAnalyzer::count_run(const LeafRun& run) {
    const std::uint64_t bytes = run.last - run.start + 1;
    const std::uint64_t count = bytes / run.leaf_size;
    if (empty())
        summary_.start = run.start;
    else
        count_hole_before(run.start);
    summary_.last = run.last;
    summary_.mapped_bytes += bytes;
    summary_.units += count;
    summary_.leaves[size_index(run.leaf_size)] += count;
    if (is_present_invalid(run.attributes, architecture_)) summary_.present_invalid_bytes += bytes;
    if (is_writable_executable(run.attributes, architecture_)) summary_.writable_executable_bytes += bytes;
    count_tables(run.start, run.last, run.depth, true);
    tables_up_to_last_leaf_ = tables_at_all_;
    summary_.picture.add(run.start, bytes, {run.leaf_size, run.attributes});
}

void MapAnalyzer::count_hole_before(std::uint64_t start) {
    const std::uint64_t bytes = start - summary_.last - 1;
    if (bytes == 0) return;
    ++summary_.holes;
    summary_.hole_bytes += bytes;
    if (bytes < summary_.geometry.entry_size(1)) {
        ++summary_.small_holes;
        summary_.small_hole_bytes += bytes;
    }
}

/// An entry of a depth needs the table that it is in, and every table above. Each is counted when its first entry
/// comes.
void MapAnalyzer::count_tables(std::uint64_t start, std::uint64_t last, unsigned depth, bool leaf) {
    for (; depth < depth_count && table_bits_[depth] < 64; ++depth) {
        // Numbered from 1, so that 0 can mean none.
        const std::uint64_t first_table = (start >> table_bits_[depth]) + 1;
        const std::uint64_t last_table = (last >> table_bits_[depth]) + 1;
        const auto count = [&](std::uint64_t& counted, std::uint64_t& total) {
            const std::uint64_t from = std::max(first_table, counted + 1);
            if (from <= last_table) total += last_table - from + 1;
            counted = std::max(counted, last_table);
        };
        count(last_table_at_all_[depth], tables_at_all_[depth]);
        if (leaf) count(last_table_with_leaf_[depth], tables_with_leaf_[depth]);
    }
}

void MapAnalyzer::add_piece(const LeafRun& run, std::uint64_t start, std::uint64_t last) {
    const std::uint64_t begin = start - region_start_;
    const std::uint64_t end = last - region_start_ + 1;
    if (!pieces_.empty()) {
        Piece& before = pieces_.back();
        if (before.end == begin && before.leaf_size == run.leaf_size && before.attributes == run.attributes &&
            before.offset == run.offset && before.depth == run.depth) {
            before.end = end;
            return;
        }
    }
    pieces_.push_back({.begin = begin,
                       .end = end,
                       .leaf_size = run.leaf_size,
                       .usable = usable_size(run.offset),
                       .offset = run.offset,
                       .attributes = run.attributes,
                       .depth = run.depth});
}

/// Regions that are mapped by leaves of one size and one set of attributes are all alike: one is worked out, all are
/// counted.
void MapAnalyzer::add_whole_regions(const LeafRun& run, std::uint64_t first, std::uint64_t count) {
    const Totals before = totals_;
    const std::uint64_t listed = std::min<std::uint64_t>(count, std::max<std::size_t>(options_.worst_regions, 1));
    for (std::uint64_t index = 0; index < listed; ++index) {
        region_start_ = first + index * region_size_;
        add_piece(run, region_start_, region_start_ + (region_size_ - 1));
        close_region();
    }
    const auto repeat = [&](std::uint64_t& now, std::uint64_t then) {
        now += (now - then) / listed * (count - listed);
    };
    repeat(totals_.minimum_units, before.minimum_units);
    repeat(totals_.uniform_units, before.uniform_units);
    repeat(totals_.collapsible_bytes, before.collapsible_bytes);
    repeat(totals_.tables_reclaimable, before.tables_reclaimable);
    for (std::size_t index = 0; index < most_sizes; ++index) {
        repeat(totals_.minimum_leaves[index], before.minimum_leaves[index]);
        repeat(totals_.collapsible_into[index], before.collapsible_into[index]);
    }
}

void MapAnalyzer::close_region() {
    region_open_ = false;
    RegionSummary region{.start = region_start_, .span = region_size_};
    find_stretches();
    for (const Piece& piece : pieces_) {
        region.mapped_bytes += piece.end - piece.begin;
        region.units += (piece.end - piece.begin) / piece.leaf_size;
    }
    for (const Stretch& stretch : stretches_) {
        region.minimum_units +=
            add_cover(summary_.geometry, stretch.begin, stretch.end, stretch.usable, totals_.minimum_leaves);
        region.tables_reclaimable += reclaimable_tables(stretch);
        count_collapsible(stretch);
    }
    std::array<std::uint64_t, most_sizes> unused{};
    for (const Extent& extent : extents_)
        region.uniform_units += add_cover(summary_.geometry, extent.begin, extent.end, extent.usable, unused);
    region.islands = find_islands();

    totals_.minimum_units += region.minimum_units;
    totals_.uniform_units += region.uniform_units;
    totals_.tables_reclaimable += region.tables_reclaimable;
    keep_if_worst(region);
    pieces_.clear();
}

/// Joins the region's pieces to stretches that could share leaves, and to extents that could if attributes were equal.
void MapAnalyzer::find_stretches() {
    stretches_.clear();
    extents_.clear();
    std::uint64_t previous_offset = 0;
    for (std::size_t index = 0; index < pieces_.size(); ++index) {
        const Piece& piece = pieces_[index];
        const bool touches = index != 0 && pieces_[index - 1].end == piece.begin && previous_offset == piece.offset;
        if (touches && stretches_.back().attributes == piece.attributes) {
            stretches_.back().end = piece.end;
            ++stretches_.back().piece_count;
        } else {
            stretches_.push_back({piece.begin, piece.end, piece.usable, piece.attributes, index, 1});
        }
        if (touches)
            extents_.back().end = piece.end;
        else
            extents_.push_back({piece.begin, piece.end, piece.usable, piece.offset});
        previous_offset = piece.offset;
    }
}

/// Tables that would be free after collapsing: those whose whole reach lies inside the stretch, where one leaf could
/// stand for the table.
std::uint64_t MapAnalyzer::reclaimable_tables(const Stretch& stretch) const {
    std::uint64_t tables = 0;
    for (unsigned depth = 0; depth < depth_count; ++depth) {
        const std::uint64_t reach = summary_.geometry.entry_size(depth + 1);
        if (reach == 0 || reach > stretch.usable) break;
        // Where entries of this depth or below stand, a table is. Levels change only at borders of tables.
        for (std::size_t index = 0; index < stretch.piece_count;) {
            if (pieces_[stretch.first_piece + index].depth > depth) {
                ++index;
                continue;
            }
            const std::uint64_t begin = pieces_[stretch.first_piece + index].begin;
            std::uint64_t end = begin;
            for (; index < stretch.piece_count && pieces_[stretch.first_piece + index].depth <= depth; ++index)
                end = pieces_[stretch.first_piece + index].end;
            const std::uint64_t from = round_up(begin, reach);
            const std::uint64_t to = round_down(end, reach);
            if (from < to) tables += (to - from) / reach;
        }
    }
    return tables;
}

/// A leaf is collapsible when the next larger leaf around it lies wholly inside the stretch.
void MapAnalyzer::count_collapsible(const Stretch& stretch) {
    const std::span<const std::uint64_t> sizes = summary_.geometry.leaf_sizes();
    std::array<std::uint64_t, most_sizes> made{};
    add_cover(summary_.geometry, stretch.begin, stretch.end, stretch.usable, made);
    for (std::size_t index = 0; index < stretch.piece_count; ++index) {
        const Piece& piece = pieces_[stretch.first_piece + index];
        std::uint64_t collapsing = 0;
        const auto next = std::ranges::upper_bound(sizes, piece.leaf_size);
        if (next != sizes.end() && *next <= stretch.usable) {
            const std::uint64_t from = std::max(round_up(stretch.begin, *next), piece.begin);
            const std::uint64_t to = std::min(round_down(stretch.end, *next), piece.end);
            collapsing = from < to ? to - from : 0;
        }
        totals_.collapsible_bytes += collapsing;
        // The others are in the cover as they are.
        const auto kept = (piece.end - piece.begin - collapsing) / piece.leaf_size;
        made[static_cast<std::size_t>(next - sizes.begin()) - 1] -= kept;
    }
    for (std::size_t index = 0; index < sizes.size(); ++index) totals_.collapsible_into[index] += made[index];
}

/// Finds what keeps the region from being one leaf, as far as attributes do. Returns how many islands there are.
std::uint64_t MapAnalyzer::find_islands() {
    if (stretches_.size() < 2) return 0;
    std::array<std::pair<DumpAttributes, std::uint64_t>, most_attributes_in_region> totals;
    std::size_t count = 0;
    for (const Stretch& stretch : stretches_) {
        const auto known = std::span(totals).first(count);
        const auto found = std::ranges::find(known, stretch.attributes, [](const auto& total) { return total.first; });
        if (found != known.end())
            found->second += stretch.end - stretch.begin;
        else if (count < totals.size())
            totals[count++] = {stretch.attributes, stretch.end - stretch.begin};
    }
    const DumpAttributes around = std::ranges::max_element(std::span(totals).first(count), {}, [](const auto& total) {
                                      return total.second;
                                  })->first;

    std::uint64_t islands = 0;
    auto extent = extents_.begin();
    for (const Stretch& stretch : stretches_) {
        while (extent->end < stretch.end) ++extent;
        if (stretch.attributes == around) continue;
        ++islands;
        PermissionIsland island{.start = region_start_ + stretch.begin,
                                .bytes = stretch.end - stretch.begin,
                                .attributes = stretch.attributes,
                                .around = around};
        const std::span<const std::uint64_t> sizes = summary_.geometry.leaf_sizes();
        for (std::size_t index = sizes.size(); index-- > 1 && island.broke_size == 0;) {
            const std::uint64_t size = sizes[index];
            if (size > extent->usable) continue;
            for (const std::uint64_t touched : {stretch.begin, stretch.end - 1}) {
                const std::uint64_t leaf = round_down(touched, size);
                const bool mapped = extent->begin <= leaf && leaf + size <= extent->end;
                const bool inside = stretch.begin <= leaf && leaf + size <= stretch.end;
                if (!mapped || inside) continue;
                if (island.broke_size == 0) {
                    island.broke_size = size;
                    island.broke_start = region_start_ + leaf;
                }
                std::uint64_t& counted = last_broken_[size_index(size)];
                if (counted < region_start_ + leaf + 1) {
                    counted = region_start_ + leaf + 1;
                    ++summary_.broken_leaves[size_index(size)];
                }
            }
        }
        add_island(island);
    }
    return islands;
}

/// An island that goes on in the next region is one island, so each waits for the next to come.
void MapAnalyzer::add_island(const PermissionIsland& island) {
    if (have_island_ && last_island_.start + last_island_.bytes == island.start &&
        last_island_.attributes == island.attributes && last_island_.around == island.around) {
        last_island_.bytes += island.bytes;
        if (island.broke_size > last_island_.broke_size) {
            last_island_.broke_size = island.broke_size;
            last_island_.broke_start = island.broke_start;
        }
        return;
    }
    flush_island();
    last_island_ = island;
    have_island_ = true;
}

void MapAnalyzer::flush_island() {
    if (!have_island_) return;
    have_island_ = false;
    const PermissionIsland& island = last_island_;
    ++summary_.islands;
    summary_.island_bytes += island.bytes;
    if (island.broke_size != 0) ++summary_.islands_by_broken_leaf[size_index(island.broke_size)];

    std::vector<IslandGroup>& groups = summary_.island_groups;
    auto group = std::ranges::find_if(groups, [&](const IslandGroup& known) {
        return known.attributes == island.attributes && known.around == island.around;
    });
    if (group == groups.end() && groups.size() < most_island_groups)
        group = groups.insert(groups.end(), {.attributes = island.attributes, .around = island.around});
    if (group != groups.end()) {
        ++group->count;
        group->bytes += island.bytes;
        if (island.broke_size != 0) ++group->broke[size_index(island.broke_size)];
    }

    // A heap whose front is the island that matters least of those listed.
    std::vector<PermissionIsland>& list = summary_.island_list;
    if (list.size() < options_.islands) {
        list.push_back(island);
        std::ranges::push_heap(list, broke_more);
    } else if (!list.empty() && broke_more(island, list.front())) {
        std::ranges::pop_heap(list, broke_more);
        list.back() = island;
        std::ranges::push_heap(list, broke_more);
    }
}

void MapAnalyzer::keep_if_worst(const RegionSummary& region) {
    if (region.units_saved() == 0 && region.islands == 0) return;
    std::vector<RegionSummary>& worst = summary_.worst_regions;
    const auto place = std::ranges::upper_bound(worst, region, is_worse);
    if (static_cast<std::size_t>(place - worst.begin()) == options_.worst_regions) return;
    worst.insert(place, region);
    if (worst.size() > options_.worst_regions) worst.pop_back();
}

MapSummary MapAnalyzer::finish(unsigned top_depth) {
    if (region_open_) close_region();
    flush_island();
    summary_.minimum_units = totals_.minimum_units;
    summary_.uniform_units = totals_.uniform_units;
    summary_.collapsible_bytes = totals_.collapsible_bytes;
    summary_.tables_reclaimable = totals_.tables_reclaimable;
    const std::span<const std::uint64_t> sizes = summary_.geometry.leaf_sizes();
    for (std::size_t index = 0; index < sizes.size(); ++index) {
        summary_.minimum_leaves[size_index(sizes[index])] += totals_.minimum_leaves[index];
        summary_.collapsible_into[size_index(sizes[index])] += totals_.collapsible_into[index];
    }
    for (unsigned depth = 0; depth < std::min(top_depth, depth_count); ++depth) {
        summary_.tables += tables_with_leaf_[depth];
        summary_.tables_empty += tables_up_to_last_leaf_[depth] - tables_with_leaf_[depth];
    }
    std::ranges::sort(summary_.island_list, {}, &PermissionIsland::start);
    std::ranges::stable_sort(summary_.island_groups, std::ranges::greater{}, &IslandGroup::count);
    return std::move(summary_);
}

TlbDemand tlb_demand(const CountBySize& leaves, std::uint64_t granule, std::uint64_t bytes) {
    double mapped = 0;
    for (std::size_t index = 0; index < leaves.size(); ++index)
        mapped += static_cast<double>(leaves[index]) * std::exp2(static_cast<double>(index));
    TlbDemand demand;
    const double used = std::min(static_cast<double>(bytes), mapped);
    for (std::size_t index = 0; index < leaves.size() && mapped > 0; ++index) {
        const auto count = static_cast<double>(leaves[index]);
        const double size = std::exp2(static_cast<double>(index));
        const double page = static_cast<double>(granule);
        // A range of n pages touches a leaf of m pages in n + m - 1 of its positions.
        demand.dense += count * std::min(1.0, (used + size - page) / mapped);
        // Pages drawn without putting back: the chance that none of a leaf's pages is drawn.
        demand.scattered += count * (1.0 - std::pow(1.0 - used / mapped, size / page));
    }
    return demand;
}

} // namespace directmap::tool

// What the direct map of a machine would look like: counts from the engine, and why larger leaves were lost.
#pragma once

#include "memory_map.hpp"
#include "range.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace directmap::tool {

/// A translation that the engine has a format for.
struct Translation {
    unsigned granule_shift = 12; ///< 12, 14 or 16
    unsigned va_bits = 48;
    bool contiguous_top = false; ///< 4K granule: contiguous groups of 1G blocks (16G) as well
    friend bool operator==(const Translation&, const Translation&) = default;
};

/// Those of arm64 that a plan can be made for, the default of each granule included.
[[nodiscard]] std::vector<unsigned> va_bits_of(unsigned granule_shift);

struct PlanRequest {
    Translation translation;
    /// VA - PA, modulo 2^64. By default the lowest address of the upper half's `va_bits` (as a kernel has it) maps the
    /// first RAM, rounded down to the largest leaf, so that no alignment is lost.
    std::optional<std::uint64_t> offset;
    std::vector<Range> pages;   ///< zones to be kept at pages
    std::vector<Range> statics; ///< zones that keep their size whatever happens, and stay large in a map by pages
    std::vector<Range> exclude; ///< not to be mapped
    bool exclude_crash_kernel = false;
};

/// Leaves and tables of one layout.
struct LayoutFigures {
    std::vector<std::uint64_t> leaves; ///< by leaf size, in the order of Plan::leaf_sizes
    std::uint64_t leaf_count = 0;
    std::uint64_t tables = 0; ///< the root included
    std::uint64_t table_bytes = 0;
    std::uint64_t bytes = 0; ///< mapped
};

enum class LossReason {
    alignment,  ///< VA and PA are not aligned alike
    hole,       ///< the larger leaf would cover addresses that are not RAM
    end_of_ram, ///< the larger leaf would reach below the first or above the last RAM
    exclusion,  ///< the larger leaf would cover RAM that was excluded
    zone,       ///< in a zone of pages, or cut by the edge of a zone
};

[[nodiscard]] std::string_view reason_name(LossReason reason);

/// A place where the layout has smaller leaves than the next size up, and what is in the way.
struct LostLeaf {
    Range range;
    std::uint64_t size = 0;       ///< of the leaves there
    std::uint64_t instead_of = 0; ///< the leaf size that was lost
    LossReason reason = LossReason::hole;
    Range cause;      ///< what is in the way; empty for alignment
    std::string name; ///< of the cause, if the source has one
    [[nodiscard]] std::uint64_t leaf_count() const { return range.size() / size; }
};

struct Plan {
    Translation translation;
    std::uint64_t offset = 0;
    std::vector<std::uint64_t> leaf_sizes; ///< the largest first
    std::vector<Range> ram;                ///< what is mapped: whole granules, exclusions taken out
    std::vector<Range> rounded;            ///< RAM that is not mapped because its granule is not RAM as a whole
    std::vector<Range> excluded;           ///< RAM that is not mapped because it was excluded
    LayoutFigures large;                   ///< the largest leaves that fit; zones of pages not asked for
    LayoutFigures pages;                   ///< pages, except static zones
    LayoutFigures zoned;                   ///< as large, with zones of pages
    std::vector<LostLeaf> lost; ///< of the zoned layout (the large one, if no zones of pages are asked for), by address
};

/// Throws InputError when the request contradicts itself, names memory that is not RAM, or does not fit the
/// translation.
[[nodiscard]] Plan make_plan(const MemoryMap& map, const PlanRequest& request);

} // namespace directmap::tool

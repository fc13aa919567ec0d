// Who uses which physical memory: what the direct map is built from, and what is left for the scenarios.
#pragma once

#include <cstdint>
#include <optional>

#include "directmap/layout.hpp"
#include "pure/boot_information.hpp"

namespace directmap::kernel {

/// What the kernel itself occupies.
struct Occupied {
    PhysRange image;
    PhysRange device_tree;
};

class MemoryPlan {
public:
    /// Collects RAM (rounded inward to pages) and zones: the image and the device tree are mapped read-only and never
    /// resized, `no-map` memory not at all. Null, or why this machine can't be mapped.
    [[nodiscard]] const char* make(const BootInformation& information, const Occupied& occupied,
                                   std::uint64_t page_size);

    /// Takes `size` bytes at a multiple of `alignment` out of the free memory, from its top; an empty range if there is
    /// no such piece.
    [[nodiscard]] PhysRange take(std::uint64_t size, std::uint64_t alignment);
    /// Takes a piece that is to be mapped by pages.
    [[nodiscard]] PhysRange take_page_zone(std::uint64_t size, std::uint64_t alignment);

    /// Takes a piece that is mapped with a protection key; never resized, so that a change can't need what lies in it.
    [[nodiscard]] bool give_key(PhysRange taken, unsigned key);

    /// What `build` is given.
    [[nodiscard]] Layout layout() const { return {{ram_, ram_count_}, {zones_, zone_count_}}; }
    [[nodiscard]] std::uint64_t ram_bytes() const;
    /// From the first to the last byte of RAM, in whole multiples of `unit`.
    [[nodiscard]] std::uint64_t span_bytes(std::uint64_t unit) const;
    [[nodiscard]] std::uint64_t free_bytes() const;
    [[nodiscard]] PhysRange largest_free() const;

    /// Calls `visit(PhysRange)` for each maximal free range, in address order.
    template <class Visit>
    void for_each_free(Visit visit) const {
        for (std::size_t i = 0; i < ram_count_; ++i) {
            PhysAddr from = ram_[i].range.start;
            const PhysAddr end = ram_[i].range.end();
            for (const PhysRange& taken : taken_) {
                if (taken.end() <= from) continue;
                if (end <= taken.start) break;
                if (from < taken.start) visit(PhysRange{from, taken.start - from});
                from = taken.end();
            }
            if (from < end) visit(PhysRange{from, end - from});
        }
    }

private:
    static constexpr std::size_t max_zones = BootInformation::max_ranges + 5;
    static constexpr std::size_t max_taken = 3 * BootInformation::max_ranges;

    [[nodiscard]] bool add_zone(PhysRange range, ZoneKind kind, std::optional<Attributes> attributes);
    [[nodiscard]] bool add_taken(PhysRange range);

    std::uint64_t page_size_ = 0;
    RamRange ram_[BootInformation::max_ranges];
    std::size_t ram_count_ = 0;
    Zone zones_[max_zones];
    std::size_t zone_count_ = 0;
    RangeList<max_taken> taken_; ///< page-aligned
};

} // namespace directmap::kernel

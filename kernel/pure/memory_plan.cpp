#include "pure/memory_plan.hpp"

namespace directmap::kernel {

namespace {

/// The whole pages inside of a range.
PhysRange round_inward(PhysRange range, std::uint64_t page_size) {
    const std::uint64_t start = align_up(range.start.value(), page_size),
                        end = align_down(range.end().value(), page_size);
    return start < end ? phys_range(start, end) : PhysRange{};
}

/// The pages that a range touches.
PhysRange round_outward(PhysRange range, std::uint64_t page_size) {
    if (range.empty()) return {};
    return phys_range(align_down(range.start.value(), page_size), align_up(range.end().value(), page_size));
}

} // namespace

const char* MemoryPlan::make(const BootInformation& information, const Occupied& occupied, std::uint64_t page_size) {
    page_size_ = page_size;
    for (const PhysRange& bank : information.memory) {
        const PhysRange pages = round_inward(bank, page_size);
        if (!pages.empty()) ram_[ram_count_++] = {pages, {}};
    }
    if (ram_count_ == 0) return "no memory of at least one page";

    for (const PhysRange& hole : information.no_map) {
        if (!add_zone(hole, ZoneKind::excluded, std::nullopt)) return "memory ranges that must not be mapped overlap";
    }
    constexpr Attributes read_only = Attributes{}.with_writable(false);
    if (!add_zone(occupied.image, ZoneKind::fixed_size, read_only))
        return "the image lies in memory that must not be mapped";
    if (!add_zone(occupied.device_tree, ZoneKind::fixed_size, read_only)) {
        return "the device tree lies in the image, or in memory that must not be mapped";
    }
    bool room = add_taken(information.initrd);
    for (const PhysRange& reserved : information.reserved) room = room && add_taken(reserved);
    return room ? nullptr : "more reserved ranges than this kernel can hold";
}

bool MemoryPlan::add_zone(PhysRange range, ZoneKind kind, std::optional<Attributes> attributes) {
    const PhysRange pages = round_outward(range, page_size_);
    if (pages.empty()) return true;
    if (zone_count_ == max_zones) return false;
    std::size_t at = zone_count_;
    for (; at != 0 && pages.start < zones_[at - 1].range.start; --at) zones_[at] = zones_[at - 1];
    const bool overlaps = (at != 0 && zones_[at - 1].range.overlaps(pages)) ||
                          (at != zone_count_ && zones_[at + 1].range.overlaps(pages));
    Zone& zone = zones_[at];
    zone = {pages, kind, attributes.has_value(), attributes.value_or(Attributes{})};
    ++zone_count_;
    return !overlaps && add_taken(pages);
}

bool MemoryPlan::add_taken(PhysRange range) {
    if (!taken_.insert(round_outward(range, page_size_))) return false;
    taken_.merge();
    return true;
}

PhysRange MemoryPlan::take(std::uint64_t size, std::uint64_t alignment) {
    PhysRange found;
    for_each_free([&](PhysRange free) {
        if (free.size < size) return;
        const std::uint64_t start = align_down(free.end().value() - size, alignment);
        if (start >= free.start.value()) found = {PhysAddr{start}, size};
    });
    if (!found.empty() && !add_taken(found)) return {};
    return found;
}

PhysRange MemoryPlan::take_page_zone(std::uint64_t size, std::uint64_t alignment) {
    const PhysRange zone = take(size, alignment);
    if (!zone.empty() && !add_zone(zone, ZoneKind::pages, std::nullopt)) return {};
    return zone;
}

bool MemoryPlan::give_key(PhysRange taken, unsigned key) {
    return add_zone(taken, ZoneKind::fixed_size, Attributes{}.with_key(key));
}

std::uint64_t MemoryPlan::ram_bytes() const {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < ram_count_; ++i) sum += ram_[i].range.size;
    return sum;
}

std::uint64_t MemoryPlan::span_bytes(std::uint64_t unit) const {
    const std::uint64_t start = ram_[0].range.start.value(), end = ram_[ram_count_ - 1].range.end().value();
    return align_up(end, unit) - align_down(start, unit);
}

std::uint64_t MemoryPlan::free_bytes() const {
    std::uint64_t sum = 0;
    for_each_free([&](PhysRange free) { sum += free.size; });
    return sum;
}

PhysRange MemoryPlan::largest_free() const {
    PhysRange largest;
    for_each_free([&](PhysRange free) {
        if (free.size > largest.size) largest = free;
    });
    return largest;
}

} // namespace directmap::kernel

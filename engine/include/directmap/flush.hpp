// What has to be invalidated, as a value that merges, and the one place that invalidates.
#pragma once

#include <cstdint>

#include "directmap/platform.hpp"
#include "directmap/span.hpp"
#include "directmap/units.hpp"

namespace directmap {

/// A span of virtual addresses whose cached translations are stale.
struct StaleRange {
    constexpr StaleRange() = default;
    constexpr StaleRange(VirtAddr va, std::uint64_t bytes, unsigned smallest_shift, InvalidationScope scope)
        : start{va}, size{bytes}, stride_shift{static_cast<std::uint8_t>(smallest_shift)},
          level{static_cast<std::int8_t>(scope.level)}, leaves_only{scope.leaves_only} {}

    [[nodiscard]] constexpr InvalidationScope scope() const { return {level, leaves_only}; }

    VirtAddr start;
    std::uint64_t size = 0;
    std::uint8_t stride_shift = 0; ///< log2 of the smallest leaf that may be cached
    std::int8_t level = InvalidationScope::any_level;
    bool leaves_only = true;
};

/// Stale ranges waiting for one invalidation round. A few are kept apart, so that scattered changes don't invalidate
/// what lies between them; more than that merge into whichever neighbour grows least.
class StaleSet {
public:
    static constexpr unsigned capacity = 4;

    [[nodiscard]] bool empty() const { return count_ == 0; }
    [[nodiscard]] unsigned count() const { return count_; }
    [[nodiscard]] const StaleRange& operator[](unsigned i) const { return ranges_[i]; }
    operator Span<const StaleRange>() const { return {ranges_, count_}; }
    void clear() { count_ = 0; }

    [[gnu::noinline]] void add(const StaleRange& range) {
        unsigned best = 0;
        std::uint64_t least_growth = ~std::uint64_t{0};
        for (unsigned i = 0; i < count_; ++i) {
            const std::uint64_t growth = hull_size(ranges_[i], range) - ranges_[i].size;
            if (growth < least_growth) {
                least_growth = growth;
                best = i;
            }
        }
        const bool touches = least_growth <= range.size; // adjacent or overlapping
        if (count_ < capacity && !touches) {
            ranges_[count_++] = range;
        } else {
            merge(ranges_[best], range);
        }
    }
    void add(const StaleSet& other) {
        for (unsigned i = 0; i < other.count_; ++i) add(other.ranges_[i]);
    }

private:
    // Addresses of one map lie in one half of the address space, so distances from the lower start don't wrap.
    static std::uint64_t hull_size(const StaleRange& a, const StaleRange& b) {
        const VirtAddr start = a.start < b.start ? a.start : b.start;
        const std::uint64_t a_end = (a.start - start) + a.size, b_end = (b.start - start) + b.size;
        return a_end > b_end ? a_end : b_end;
    }
    static void merge(StaleRange& into, const StaleRange& range) {
        into.size = hull_size(into, range);
        if (range.start < into.start) into.start = range.start;
        if (range.stride_shift < into.stride_shift) into.stride_shift = range.stride_shift;
        if (into.level != range.level) into.level = InvalidationScope::any_level;
        into.leaves_only = into.leaves_only && range.leaves_only;
    }

    StaleRange ranges_[capacity];
    unsigned count_ = 0;
};

/// What a flush did, for the counters.
struct FlushCost {
    std::uint32_t invalidations = 0;
    std::uint32_t barriers = 0;
};

/// One round: every stale range, then the barrier that waits for all CPUs. The stores that made the translations stale
/// must have been published before (barrier_publish): otherwise a walk between the invalidation and the barrier may
/// cache the old descriptor again.
/// `ceiling` is the number of single-address invalidations above which the whole map is invalidated instead.
template <Platform P>
[[gnu::noinline]] FlushCost flush(P& platform, Span<const StaleRange> stale, unsigned ceiling, bool twice) {
    FlushCost cost;
    if (stale.empty()) return cost;
    const bool by_range = platform.range_invalidation();
    std::uint64_t single = 0;
    for (const StaleRange& range : stale) {
        if (!by_range) single += ((range.size - 1) >> range.stride_shift) + 1;
    }
    for (unsigned pass = 0; pass < (twice ? 2u : 1u); ++pass) {
        if (single > ceiling) {
            platform.invalidate_all();
            ++cost.invalidations;
        } else {
            for (const StaleRange& range : stale) {
                const std::uint64_t stride = std::uint64_t{1} << range.stride_shift;
                if (by_range && range.size > stride) {
                    platform.invalidate_range(range.start, range.size, range.scope());
                    ++cost.invalidations;
                    continue;
                }
                for (std::uint64_t done = 0; done < range.size; done += stride) {
                    platform.invalidate(range.start + done, range.scope());
                    ++cost.invalidations;
                }
            }
        }
        platform.barrier_complete();
        ++cost.barriers;
    }
    platform.barrier_context();
    return cost;
}

} // namespace directmap

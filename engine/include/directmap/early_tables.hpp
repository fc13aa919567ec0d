// Tables before any allocator exists: boot memory that the caller bounds, handed out and remembered, so that it can be
// protected later and comes back instead of leaking (design §7, the first window).
#pragma once

#include <cstdint>

#include "directmap/core.hpp"
#include "directmap/descriptor.hpp"
#include "directmap/platform.hpp"
#include "directmap/span.hpp"
#include "directmap/units.hpp"

namespace directmap {

/// Hands out pages from a list of ranges, in order. What it gave out is always the list's beginning, so its record has
/// no limit of its own. Pages given back are chained through their first word and handed out again first. Used by one
/// CPU at a time.
template <Platform P>
class EarlyTableSource {
public:
    /// `memory`: ranges aligned to pages; the storage of the list outlives the source.
    EarlyTableSource(P& platform, Span<const PhysRange> memory, std::uint64_t page_size)
        : platform_{platform}, memory_{memory}, page_size_{page_size} {}

    [[nodiscard]] bool take(PhysAddr& pa) {
        if (returned_ != 0) {
            pa = first_returned_;
            const Descriptor link = platform_.load(platform_.table(pa), 0);
            first_returned_ = PhysAddr{link.bits()};
            --returned_;
            return true;
        }
        while (range_ < memory_.size() && used_ == memory_[range_].size) {
            ++range_;
            used_ = 0;
        }
        if (range_ == memory_.size()) return false;
        pa = memory_[range_].start + used_;
        used_ += page_size_;
        return true;
    }
    /// `pa` came from `take` and nothing reaches it any more.
    void give(PhysAddr pa) {
        WriteSection<P> writable{platform_}; // it may carry the table key already
        platform_.fill(platform_.table(pa), 0, 1, Descriptor::from_bits(first_returned_.value()), 0);
        first_returned_ = pa;
        ++returned_;
    }

    /// Whether `pa` is out in the map.
    [[nodiscard]] bool in_use(PhysAddr pa) const {
        bool handed_out = false;
        for (std::size_t i = 0; i < memory_.size() && i <= range_; ++i) {
            const std::uint64_t limit = i < range_ ? memory_[i].size : used_;
            handed_out = handed_out || pa - memory_[i].start < limit;
        }
        PhysAddr at = first_returned_;
        for (std::uint64_t n = 0; handed_out && n < returned_; ++n) {
            if (at == pa) return false;
            at = PhysAddr{platform_.load(platform_.table(at), 0).bits()};
        }
        return handed_out;
    }
    [[nodiscard]] Span<const PhysRange> memory() const { return memory_; }

    /// Everything now belongs to a pool, which asked `in_use` for each page: this source is empty for good.
    void retire() {
        range_ = memory_.size();
        used_ = 0;
        returned_ = 0;
    }

private:
    P& platform_;
    Span<const PhysRange> memory_;
    std::uint64_t page_size_;
    std::size_t range_ = 0;  ///< the range that is being used up
    std::uint64_t used_ = 0; ///< bytes of it
    std::uint64_t returned_ = 0;
    PhysAddr first_returned_;
};

} // namespace directmap

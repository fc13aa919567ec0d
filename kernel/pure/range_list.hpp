// A short, sorted list of physical ranges, of a fixed capacity because it is needed before there is an allocator.
#pragma once

#include <cstddef>

#include "directmap/units.hpp"

namespace directmap::kernel {

template <std::size_t capacity>
class RangeList {
public:
    [[nodiscard]] std::size_t size() const { return count_; }
    [[nodiscard]] bool empty() const { return count_ == 0; }
    [[nodiscard]] const PhysRange& operator[](std::size_t i) const { return ranges_[i]; }
    [[nodiscard]] const PhysRange* begin() const { return ranges_; }
    [[nodiscard]] const PhysRange* end() const { return ranges_ + count_; }

    /// Inserts in address order; ranges may overlap. Empty ranges are left out. False if the list is full.
    [[nodiscard]] bool insert(PhysRange range) {
        if (range.empty()) return true;
        if (count_ == capacity) return false;
        std::size_t at = count_++;
        for (; at != 0 && range.start < ranges_[at - 1].start; --at) ranges_[at] = ranges_[at - 1];
        ranges_[at] = range;
        return true;
    }

    /// Makes one range of those that touch or overlap.
    void merge() {
        std::size_t last = 0;
        for (std::size_t i = 1; i < count_; ++i) {
            PhysRange& into = ranges_[last];
            if (ranges_[i].start <= into.end()) {
                if (into.end() < ranges_[i].end()) into.size = ranges_[i].end() - into.start;
            } else {
                ranges_[++last] = ranges_[i];
            }
        }
        if (count_ != 0) count_ = last + 1;
    }

    [[nodiscard]] bool overlaps(PhysRange range) const {
        for (const PhysRange& mine : *this) {
            if (mine.overlaps(range)) return true;
        }
        return false;
    }

    [[nodiscard]] std::uint64_t bytes() const {
        std::uint64_t sum = 0;
        for (const PhysRange& mine : *this) sum += mine.size;
        return sum;
    }

private:
    PhysRange ranges_[capacity];
    std::size_t count_ = 0;
};

} // namespace directmap::kernel

#include "page_source.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace directmap::tool {

PageSource::PageSource(std::vector<Range> usable, std::uint64_t page_size, std::mt19937_64& random)
    : usable_(std::move(usable)), window_(usable_), page_size_(page_size), random_(random) {}

void PageSource::look_within(std::uint64_t bytes) {
    window_ = usable_;
    if (bytes == 0 || bytes >= total_size(usable_)) return;
    const Range& range = usable_[index_by_size(usable_)];
    window_ = {range};
    if (range.size() <= bytes) return;
    const std::uint64_t start = range.start + below((range.size() - bytes) / page_size_ + 1) * page_size_;
    window_ = {{start, start + bytes}};
}

std::uint64_t PageSource::random_place(std::uint64_t alignment) {
    const Range& range = window_[index_by_size(window_)];
    const std::uint64_t first = align_up(range.start, alignment);
    if (first >= range.end) return range.start;
    return first + below((range.end - first - 1) / alignment + 1) * alignment;
}

bool PageSource::take(PhysAddr& pa, std::uint64_t bytes) {
    std::uint64_t start = 0;
    if (!(bytes == page_size_ ? find_page(start) : find_piece(start, bytes))) {
        missing_ = bytes;
        return false;
    }
    used_[start] = start + bytes;
    pa = PhysAddr{start};
    return true;
}

void PageSource::give(PhysAddr pa, std::uint64_t bytes) {
    // A piece may come back in parts: what a pool took whole it gives back whole, a buffer's owner may not.
    auto it = std::prev(used_.upper_bound(pa.value()));
    const auto [start, end] = *it;
    used_.erase(it);
    if (start < pa.value()) used_[start] = pa.value();
    if (pa.value() + bytes < end) used_[pa.value() + bytes] = end;
}

std::size_t PageSource::index_by_size(const std::vector<Range>& ranges) {
    std::uint64_t at = below(total_size(ranges));
    for (std::size_t i = 0;; ++i) {
        if (at < ranges[i].size()) return i;
        at -= ranges[i].size();
    }
}

bool PageSource::is_free(const Range& range) const {
    const auto after = used_.lower_bound(range.end);
    return after == used_.begin() || std::prev(after)->second <= range.start;
}

/// The first free page from `next_page_` on, going round once.
bool PageSource::find_page(std::uint64_t& start) {
    std::uint64_t at = next_page_;
    for (bool wrapped = false;;) {
        const auto range =
            std::find_if(usable_.begin(), usable_.end(), [&](const Range& each) { return at < each.end; });
        if (range == usable_.end() || (wrapped && at > next_page_)) {
            if (wrapped) return false;
            wrapped = true;
            at = 0;
            continue;
        }
        at = align_up(std::max(at, range->start), page_size_);
        const auto after = used_.upper_bound(at);
        const bool is_used = after != used_.begin() && std::prev(after)->second > at;
        if (is_used) {
            at = std::prev(after)->second;
        } else if (at + page_size_ > range->end) {
            at = range->end;
        } else {
            start = at;
            next_page_ = at + page_size_;
            return true;
        }
    }
}

/// Aligned to its size, as buddies are; in the window if there is room, else anywhere.
bool PageSource::find_piece(std::uint64_t& start, std::uint64_t bytes) {
    for (unsigned attempt = 0; attempt < 64; ++attempt) {
        const Range& range = window_[index_by_size(window_)];
        const std::uint64_t first = align_up(range.start, bytes);
        if (first + bytes > range.end) continue;
        start = first + below((range.end - first - bytes) / bytes + 1) * bytes;
        if (is_free({start, start + bytes})) return true;
    }
    for (const std::vector<Range>* area : {&window_, &usable_}) {
        for (const Range& range : *area) {
            for (start = align_up(range.start, bytes); start + bytes <= range.end; start += bytes)
                if (is_free({start, start + bytes})) return true;
        }
    }
    return false;
}

} // namespace directmap::tool

// The page allocator of the modelled machine, after it has been up for a while: what it has free lies anywhere.
#pragma once

#include "clients.hpp"
#include "range.hpp"

#include <cstdint>
#include <map>
#include <random>
#include <vector>

namespace directmap::tool {

/// Places are random but for the seed. Single pages are handed out side by side, from the place on where their taker
/// looked first; everything larger lies by itself.
class PageSource final : public PageSupply {
public:
    PageSource(std::vector<Range> usable, std::uint64_t page_size, std::mt19937_64& random);

    /// Where whoever comes next finds memory: a part of the usable memory of `bytes`, if there is one that large; 0:
    /// anywhere. What has no room there lies anywhere, too.
    void look_within(std::uint64_t bytes);
    /// The single pages that are taken next come from there on.
    void settle_at(std::uint64_t place) { next_page_ = place; }
    /// A place within what `look_within` chose, aligned to `alignment`.
    [[nodiscard]] std::uint64_t random_place(std::uint64_t alignment);

    [[nodiscard]] bool take(PhysAddr& pa, std::uint64_t bytes) override;
    void give(PhysAddr pa, std::uint64_t bytes) override;

    /// The bytes of the last `take` since `expect_room` that found nothing; 0 if none did.
    [[nodiscard]] std::uint64_t missing() const { return missing_; }
    void expect_room() { missing_ = 0; }
    /// A number from 0 to `limit` - 1. (The standard's distributions differ between libraries.)
    [[nodiscard]] std::uint64_t below(std::uint64_t limit) { return random_() % limit; }

private:
    [[nodiscard]] std::size_t index_by_size(const std::vector<Range>& ranges);
    [[nodiscard]] bool is_free(const Range& range) const;
    [[nodiscard]] bool find_page(std::uint64_t& start);
    [[nodiscard]] bool find_piece(std::uint64_t& start, std::uint64_t bytes);

    std::vector<Range> usable_; ///< sorted
    std::vector<Range> window_;
    std::uint64_t page_size_;
    std::mt19937_64& random_;
    std::map<std::uint64_t, std::uint64_t> used_; ///< start to end
    std::uint64_t next_page_ = 0;
    std::uint64_t missing_ = 0;
};

} // namespace directmap::tool

#include "scenarios/field.hpp"

#include "cpu/cpu.hpp"

namespace directmap::kernel {

namespace {

/// Not every word, so that a page takes little time; but the first and the last, and a different set of cache lines.
constexpr std::uint64_t stride = 72;
static_assert(stride % sizeof(std::uint64_t) == 0 && page_size % stride != 0);

std::uint64_t crop(PhysAddr word, std::uint64_t season) {
    return Random::mix(word.value() ^ season << 48);
}

} // namespace

void Field::add(PhysAddr page) {
    if (size_ == capacity || !stage_.arena.contains(page)) return;
    for (unsigned i = 0; i < size_; ++i) {
        if (plots_[i].page == page) return;
    }
    plots_[size_] = {page, 0};
    sow(plots_[size_++]);
}

void Field::add_neighbours_of(PhysRange range) {
    constexpr std::uint64_t distances[] = {1, 2, 15, 16, 511, 512};
    for (const std::uint64_t distance : distances) {
        add(range.start - distance * page_size);
        add(range.end() + (distance - 1) * page_size);
    }
}

void Field::tend(unsigned tender, unsigned tenders) {
    for (unsigned i = tender; i < size_; i += tenders) {
        check(plots_[i]);
        ++plots_[i].season;
        sow(plots_[i]);
    }
}

void Field::check_all() const {
    for (unsigned i = 0; i < size_; ++i) check(plots_[i]);
}

void Field::check(const Plot& plot) const {
    for (std::uint64_t offset = 0; offset < page_size; offset += stride) {
        const PhysAddr word = plot.page + offset;
        const std::uint64_t found = *reinterpret_cast<const volatile std::uint64_t*>(stage_.va(word));
        const std::uint64_t wanted = crop(word, plot.season);
        if (found != wanted) {
            fail("CPU {} reads {} at {}, where it wrote {}", this_cpu().index, Hex{found}, Hex{stage_.va(word)},
                 Hex{wanted});
        }
    }
}

void Field::sow(Plot& plot) const {
    for (std::uint64_t offset = 0; offset < page_size; offset += stride) {
        const PhysAddr word = plot.page + offset;
        *reinterpret_cast<volatile std::uint64_t*>(stage_.va(word)) = crop(word, plot.season);
    }
}

} // namespace directmap::kernel

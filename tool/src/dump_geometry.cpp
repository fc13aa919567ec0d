#include "dump_geometry.hpp"

#include <algorithm>
#include <bit>

namespace directmap::tool {
namespace {

constexpr std::uint64_t kib = 1024;
constexpr std::uint64_t mib = 1024 * kib;
constexpr std::uint64_t gib = 1024 * mib;
/// Depth of the top level's entries when there are five levels.
constexpr unsigned deepest = 4;

/// Both bounds of the line, folded: a size divides it exactly when it divides the start and the end.
std::uint64_t bounds(const DumpLine& line) {
    return line.start | (line.last + 1);
}

bool divides(std::uint64_t size, std::uint64_t value) {
    return value % size == 0;
}

} // namespace

DumpGeometry::DumpGeometry(std::uint64_t granule, std::initializer_list<std::uint64_t> sizes, unsigned page_group,
                           unsigned block_group)
    : granule_(granule), size_count_(sizes.size()), page_group_(page_group), block_group_(block_group) {
    std::ranges::copy(sizes, sizes_.begin());
}

DumpGeometry DumpGeometry::arm64_4k() {
    return {4 * kib, {4 * kib, 64 * kib, 2 * mib, 32 * mib, gib}, 16, 16};
}

DumpGeometry DumpGeometry::arm64_16k() {
    return {16 * kib, {16 * kib, 2 * mib, 32 * mib, gib}, 128, 32};
}

DumpGeometry DumpGeometry::arm64_64k() {
    return {64 * kib, {64 * kib, 2 * mib, 512 * mib, 16 * gib}, 32, 32};
}

DumpGeometry DumpGeometry::x86_64() {
    return {4 * kib, {4 * kib, 2 * mib, gib}, 0, 0};
}

DumpGeometry DumpGeometry::riscv() {
    return {4 * kib, {4 * kib, 2 * mib, gib}, 16, 0};
}

DumpGeometry DumpGeometry::riscv_napot() {
    return {4 * kib, {4 * kib, 64 * kib, 2 * mib, gib}, 16, 0};
}

std::uint64_t DumpGeometry::entry_size(unsigned depth) const {
    const auto granule_bits = static_cast<unsigned>(std::countr_zero(granule_));
    const unsigned bits = granule_bits + depth * (granule_bits - 3);
    return bits < 64 ? std::uint64_t{1} << bits : 0;
}

std::uint64_t DumpGeometry::group_size(unsigned depth) const {
    return entry_size(depth) * (depth == 0 ? page_group_ : block_group_);
}

unsigned LevelNames::depth(DumpLevel level, DumpArchitecture architecture, std::uint64_t granule) const {
    switch (level) {
    case DumpLevel::pte:
    case DumpLevel::pmd:
    case DumpLevel::pud:
    case DumpLevel::p4d: return static_cast<unsigned>(level);
    case DumpLevel::pgd: return top_depth(architecture, granule);
    case DumpLevel::root: break;
    }
    return deepest + 1;
}

unsigned LevelNames::top_depth(DumpArchitecture architecture, std::uint64_t granule) const {
    const unsigned named = has_seen(DumpLevel::p4d)   ? 4
                           : has_seen(DumpLevel::pud) ? 3
                           : has_seen(DumpLevel::pmd) ? 2
                                                      : 1;
    // arm64 keeps both halves of the address space apart; elsewhere the top bit of an address tells the half.
    const auto ones = static_cast<unsigned>(std::countl_one(lowest_));
    const unsigned address_bits = (architecture == DumpArchitecture::arm64 ? 64 : 65) - std::min(ones, 60u);
    const auto granule_bits = static_cast<unsigned>(std::countr_zero(granule));
    const unsigned index_bits = granule_bits - 3;
    const unsigned levels = (address_bits - std::min(address_bits, granule_bits) + index_bits - 1) / index_bits;
    return std::clamp(std::max(named, levels - std::min(levels, 1u)), 1u, deepest);
}

void GranuleInference::see(const DumpLine& line, const LevelNames& levels) {
    for (Candidate& candidate : candidates_) {
        if (!candidate.possible) continue;
        const DumpGeometry geometry = candidate.granule == 4 * kib    ? DumpGeometry::arm64_4k()
                                      : candidate.granule == 16 * kib ? DumpGeometry::arm64_16k()
                                                                      : DumpGeometry::arm64_64k();
        // The largest address space has 4 levels with 16K pages and 3 with 64K pages.
        const bool too_deep = (candidate.granule > 4 * kib && levels.has_seen(DumpLevel::p4d)) ||
                              (candidate.granule > 16 * kib && levels.has_seen(DumpLevel::pud));
        std::uint64_t entry = 0;
        if (line.level <= DumpLevel::pud) entry = geometry.entry_size(static_cast<unsigned>(line.level));
        if (line.contiguous && line.level <= DumpLevel::pmd)
            entry = geometry.group_size(static_cast<unsigned>(line.level));
        if (too_deep || (entry != 0 && !divides(entry, bounds(line)))) {
            // Pages are the smallest there is; what isn't aligned even then is an error of the line, not of the
            // granule.
            candidate.possible = candidate.granule == 4 * kib;
            continue;
        }
        // Each bound that a smaller granule would have allowed elsewhere speaks for this one. Bounds that the next
        // level would have explained as well say nothing.
        const std::uint64_t smaller = DumpGeometry::arm64_4k().entry_size(static_cast<unsigned>(line.level));
        const std::uint64_t next = smaller << 9;
        if (line.level > DumpLevel::pmd || entry <= smaller) continue;
        for (const std::uint64_t bound : {line.start, line.last + 1}) {
            constexpr unsigned enough = 1000;
            if (!divides(next, bound) && candidate.evidence < enough)
                candidate.evidence += static_cast<unsigned>(std::countr_zero(entry) - std::countr_zero(smaller));
        }
    }
}

bool GranuleInference::is_possible(std::uint64_t granule) const {
    return std::ranges::find(candidates_, granule, &Candidate::granule)->possible;
}

std::uint64_t GranuleInference::granule() const {
    constexpr unsigned wanted = 8; // wrong once in 256 dumps whose bounds fall anywhere, which real ones' don't
    for (const Candidate& candidate : candidates_) {
        if (candidate.possible && (candidate.evidence >= wanted || candidate.granule == 4 * kib))
            return candidate.granule;
    }
    return 4 * kib;
}

bool GranuleInference::is_certain() const {
    return granule() != 4 * kib || (!candidates_[0].possible && !candidates_[1].possible);
}

std::uint64_t add_cover(const DumpGeometry& geometry, std::uint64_t begin, std::uint64_t end, std::uint64_t largest,
                        std::span<std::uint64_t> counts) {
    const std::span<const std::uint64_t> sizes = geometry.leaf_sizes();
    std::uint64_t total = 0;
    // [low, high) is what larger leaves cover already, aligned to them; each smaller size fills up both sides.
    std::uint64_t low = begin;
    std::uint64_t high = begin;
    bool covered = false;
    for (std::size_t index = sizes.size(); index-- > 0;) {
        const std::uint64_t size = sizes[index];
        if (size > largest) continue;
        std::uint64_t count = 0;
        const std::uint64_t from = round_up(begin, size);
        const std::uint64_t to = round_down(end, size);
        if (covered) {
            count = (low - from) / size + (to - high) / size;
        } else if (from < to) {
            count = (to - from) / size;
            covered = true;
        } else {
            continue;
        }
        low = from;
        high = to;
        counts[index] += count;
        total += count;
    }
    return total;
}

} // namespace directmap::tool

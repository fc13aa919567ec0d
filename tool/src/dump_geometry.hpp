// Sizes of leaves and tables, as far as reading dumps needs them: for granules and architectures that are known only at
// run time.
#pragma once

#include "dump.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace directmap::tool {

/// How one kernel's page tables divide memory. A depth counts from the bottom: entries of depth 0 are pages.
class DumpGeometry {
public:
    static DumpGeometry arm64_4k();
    static DumpGeometry arm64_16k();
    static DumpGeometry arm64_64k();
    static DumpGeometry x86_64();
    static DumpGeometry riscv();
    /// With contiguous pages of 64K (Svnapot).
    static DumpGeometry riscv_napot();

    [[nodiscard]] std::uint64_t granule() const { return granule_; }
    /// The sizes that a direct map is built of, ascending. A dump can hold larger leaves; those are counted, never
    /// assumed.
    [[nodiscard]] std::span<const std::uint64_t> leaf_sizes() const { return std::span(sizes_).first(size_count_); }
    [[nodiscard]] std::uint64_t largest_leaf() const { return sizes_[size_count_ - 1]; }
    /// What one entry of this depth maps, or 0 when that is more than the address space.
    [[nodiscard]] std::uint64_t entry_size(unsigned depth) const;
    /// What a contiguous group of such entries maps, or 0 when there are no groups.
    [[nodiscard]] std::uint64_t group_size(unsigned depth) const;

    friend bool operator==(const DumpGeometry&, const DumpGeometry&) = default;

    static constexpr std::size_t most_sizes = 5;

private:
    DumpGeometry(std::uint64_t granule, std::initializer_list<std::uint64_t> sizes, unsigned page_group,
                 unsigned block_group);

    std::uint64_t granule_;
    std::array<std::uint64_t, most_sizes> sizes_{};
    std::size_t size_count_;
    unsigned page_group_;
    unsigned block_group_;
};

/// Which depth the levels' names mean. Kernels with fewer levels than names call their top level PGD, so it depends on
/// what has been seen so far: other names, and addresses that need so many levels.
class LevelNames {
public:
    void see(const DumpLine& line) {
        seen_ |= 1u << static_cast<unsigned>(line.level);
        if (line.start >= kernel_half && line.start < lowest_) lowest_ = line.start;
    }
    [[nodiscard]] bool has_seen(DumpLevel level) const { return (seen_ >> static_cast<unsigned>(level) & 1) != 0; }
    [[nodiscard]] unsigned depth(DumpLevel level, DumpArchitecture architecture, std::uint64_t granule) const;

private:
    static constexpr std::uint64_t kernel_half = 0x8000000000000000;

    [[nodiscard]] unsigned top_depth(DumpArchitecture architecture, std::uint64_t granule) const;

    unsigned seen_ = 0;
    std::uint64_t lowest_ = UINT64_MAX;
};

/// The granule of an arm64 dump, from the alignment of what it holds. Only entries whose level fixes their alignment
/// tell something.
class GranuleInference {
public:
    void see(const DumpLine& line, const LevelNames& levels);

    /// Nothing in the dump contradicts the granule.
    [[nodiscard]] bool is_possible(std::uint64_t granule) const;
    /// The granule that the dump speaks for.
    [[nodiscard]] std::uint64_t granule() const;
    /// False: the dump holds too little to tell, and the granule is the usual one.
    [[nodiscard]] bool is_certain() const;

private:
    struct Candidate {
        std::uint64_t granule;
        bool possible;
        unsigned evidence; ///< bits: how improbable the alignments seen would be with a smaller granule
    };
    // Largest first: a larger granule's dump is always possible with a smaller one.
    std::array<Candidate, 3> candidates_{{{65536, true, 0}, {16384, true, 0}, {4096, true, 0}}};
};

/// Counts the leaves of the smallest cover of [begin, end) by size, adding to `counts` (as many as the geometry has
/// sizes). No leaf is larger than `largest`. Returns how many leaves that are.
std::uint64_t add_cover(const DumpGeometry& geometry, std::uint64_t begin, std::uint64_t end, std::uint64_t largest,
                        std::span<std::uint64_t> counts);

[[nodiscard]] constexpr std::uint64_t round_down(std::uint64_t value, std::uint64_t size) {
    return value & ~(size - 1);
}
/// The caller knows that it doesn't overflow.
[[nodiscard]] constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t size) {
    return (value + size - 1) & ~(size - 1);
}

} // namespace directmap::tool

// The shape of a translation: levels, table sizes and leaf sizes, all at compile time.
//
//   level   -1 / 0      1         2         3
//   4K      512G+       1G block  2M block  4K page      contiguous groups: (16G) 32M 64K
//   16K     64G+        –         32M block 16K page     contiguous groups:       1G  2M
//   64K     –           –         512M block 64K page    contiguous groups:       16G 2M
//
// (Arm ARM DDI 0487, D8.3 descriptor formats and D8.7.1 the Contiguous bit. The larger blocks of FEAT_LPA2
// and FEAT_LPA, 512G, 64G and 4T, are left out: a leaf is also the unit of locking, and no machine's RAM
// alignment rewards them.)
#pragma once

#include <cstdint>

namespace directmap {

/// One size that a leaf can have.
struct LeafSize {
    int level = 0;           ///< translation level of the descriptors
    bool contiguous = false; ///< a contiguous group of such descriptors
    unsigned shift = 0;      ///< log2 of the bytes that the leaf maps

    [[nodiscard]] constexpr std::uint64_t bytes() const { return std::uint64_t{1} << shift; }
    friend constexpr bool operator==(LeafSize, LeafSize) = default;
};

/// Parameters of a translation; see Geometry.
struct Shape {
    unsigned page_shift;                         ///< log2 of the page (granule) size
    unsigned va_bits;                            ///< input address size
    unsigned pa_bits;                            ///< output address size
    unsigned index_bits;                         ///< log2 of the entries of a full table
    int first_leaf_level;                        ///< the largest block's level
    unsigned contiguous_shift[4] = {0, 0, 0, 0}; ///< log2 of the group's entries, by level 0–3; 0: no groups
};

namespace detail {

/// Small numbers by level, −1 to 3, packed into one word: looking one up shifts a constant and reads no memory.
class ByLevel {
public:
    template <class Value>
    explicit constexpr ByLevel(Value value_of) {
        for (int level = -1; level <= 3; ++level) packed_ |= (value_of(level) & 15u) << (4 * (level + 1));
    }
    [[nodiscard]] constexpr unsigned operator[](int level) const { return packed_ >> (4 * (level + 1)) & 15u; }

private:
    std::uint32_t packed_ = 0;
};

} // namespace detail

/// Everything that follows from a Shape. Levels are numbered as Arm does, the last is always 3.
template <Shape shape>
struct Geometry {
    static constexpr int last_level = 3;
    static constexpr unsigned page_shift = shape.page_shift;
    static constexpr std::uint64_t page_size = std::uint64_t{1} << page_shift;
    static constexpr unsigned va_bits = shape.va_bits;
    static constexpr unsigned pa_bits = shape.pa_bits;
    static constexpr unsigned index_bits = shape.index_bits;
    static constexpr unsigned table_entries = 1u << index_bits;
    static constexpr int first_leaf_level = shape.first_leaf_level;
    static constexpr int leaf_levels = last_level - first_leaf_level + 1;
    static constexpr int root_level =
        last_level + 1 - static_cast<int>((va_bits - page_shift + index_bits - 1) / index_bits);

    /// log2 of the bytes that one descriptor of `level` covers.
    [[nodiscard]] static constexpr unsigned shift(int level) {
        return page_shift + index_bits * static_cast<unsigned>(last_level - level);
    }
    [[nodiscard]] static constexpr std::uint64_t bytes(int level) { return std::uint64_t{1} << shift(level); }

    static constexpr unsigned root_entries = 1u << (va_bits - shift(root_level));
    [[nodiscard]] static constexpr unsigned entries(int level) {
        return level == root_level ? root_entries : table_entries;
    }
    [[nodiscard]] static constexpr unsigned index(int level, std::uint64_t va) {
        return static_cast<unsigned>(va >> shift(level)) & (entries(level) - 1);
    }

    /// log2 of the descriptors in a contiguous group of `level`; 0 where the level has none.
    [[nodiscard]] static constexpr unsigned group_shift(int level) {
        constexpr detail::ByLevel shifts{[](int l) { return l < first_leaf_level ? 0 : shape.contiguous_shift[l]; }};
        return shifts[level];
    }
    [[nodiscard]] static constexpr bool has_groups(int level) { return group_shift(level) != 0; }
    [[nodiscard]] static constexpr unsigned group_entries(int level) { return 1u << group_shift(level); }
    [[nodiscard]] static constexpr std::uint64_t group_bytes(int level) { return bytes(level) << group_shift(level); }

    /// Leaf sizes, the largest first. The index into this order is used wherever leaves are counted by size.
    static constexpr unsigned max_leaf_sizes = 6;
    struct LeafSizes {
        LeafSize of[max_leaf_sizes];
        unsigned count;
    };
    static constexpr LeafSizes leaf_sizes = [] {
        LeafSizes sizes{};
        for (int level = first_leaf_level; level <= last_level; ++level) {
            if (has_groups(level)) sizes.of[sizes.count++] = {level, true, shift(level) + group_shift(level)};
            sizes.of[sizes.count++] = {level, false, shift(level)};
        }
        return sizes;
    }();
    /// `contiguous` only where the level has groups.
    [[nodiscard]] static constexpr unsigned leaf_size_index(int level, bool contiguous) {
        constexpr detail::ByLevel singles{[](int l) {
            unsigned index = 0;
            while (index < leaf_sizes.count && (leaf_sizes.of[index].level != l || leaf_sizes.of[index].contiguous))
                ++index;
            return index;
        }};
        return singles[level] - (contiguous ? 1u : 0u);
    }

    /// The unit of locking: what the largest leaf covers, so that no leaf straddles two regions.
    static constexpr unsigned region_shift = leaf_sizes.of[0].shift;
    static constexpr std::uint64_t region_bytes = std::uint64_t{1} << region_shift;
    /// Descriptors of `first_leaf_level` in a region.
    static constexpr unsigned region_entries = 1u << (region_shift - shift(first_leaf_level));

    /// The most tables that one change can need: a full descent at both ends of its range (promise P6).
    static constexpr unsigned worst_tables = 2u * static_cast<unsigned>(leaf_levels - 1);

    static_assert(leaf_sizes.count <= max_leaf_sizes);
    static_assert(first_leaf_level >= root_level, "the root must not lie below the largest block");
    static_assert(va_bits > shift(root_level) && va_bits <= 57);
    static_assert(region_entries <= entries(first_leaf_level));
};

} // namespace directmap

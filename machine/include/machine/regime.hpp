// How the machine's MMU reads descriptors. Written from the manual and on purpose apart from the engine's formats: an
// encoding mistake there must not be mirrored here.
#pragma once

#include <cstdint>

#include "machine/access.hpp"

namespace directmap::machine {

/// A decoded descriptor.
struct Entry {
    enum class Kind : std::uint8_t {
        empty,   ///< all zero: nothing mapped
        invalid, ///< a leaf whose valid bit is clear: keeps address and attributes, faults
        leaf,
        table,
        malformed, ///< an encoding that the architecture reserves, or address bits where none may be
    };
    Kind kind = Kind::empty;
    bool contiguous = false;
    std::uint64_t pa = 0; ///< of the leaf or table
    Access access{};
    const char* problem = nullptr; ///< for malformed

    [[nodiscard]] bool is_leaf() const { return kind == Kind::leaf || kind == Kind::invalid; }
};

/// A translation regime: sizes and the meaning of descriptors.
struct Regime {
    unsigned page_shift = 12;
    unsigned va_bits = 48;
    unsigned pa_bits = 48;
    unsigned index_bits = 9;
    int first_block_level = 1; ///< the lowest-numbered level at which a block is legal
    unsigned group_shift[4] = {0, 4, 4, 4};
    std::uint64_t realm_shared_address = 0;
    // Other architectures, for tests. (x86-64 needs no break, but translations of two sizes may only be cached together
    // if their attributes agree.)
    Entry (*decoder)(const Regime& regime, int level, std::uint64_t word) = nullptr; ///< null: arm64's
    bool breaks_before_makes = true;
    bool sizes_mix_if_alike = false;

    /// arm64 with this granule (12, 14 or 16 bits) and address size; 52 selects the 52-bit descriptor forms.
    [[nodiscard]] static Regime arm64(unsigned page_shift, unsigned va_bits);

    [[nodiscard]] int root_level() const {
        return 4 - static_cast<int>((va_bits - page_shift + index_bits - 1) / index_bits);
    }
    [[nodiscard]] unsigned shift(int level) const { return page_shift + index_bits * static_cast<unsigned>(3 - level); }
    [[nodiscard]] std::uint64_t bytes(int level) const { return std::uint64_t{1} << shift(level); }
    [[nodiscard]] unsigned entries(int level) const {
        return level == root_level() ? 1u << (va_bits - shift(level)) : 1u << index_bits;
    }
    [[nodiscard]] unsigned group(int level) const { return level < 0 ? 1u : 1u << group_shift[level]; }
    /// log2 of the largest leaf.
    [[nodiscard]] unsigned region_shift() const { return shift(first_block_level) + group_shift[first_block_level]; }

    [[nodiscard]] Entry decode(int level, std::uint64_t word) const;
};

} // namespace directmap::machine

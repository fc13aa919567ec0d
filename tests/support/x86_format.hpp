// x86-64 descriptors, for tests alone: proof that the Format concept admits an architecture that differs where it can.
// 4K pages, 2M and 1G leaves, no contiguous hint, no break-before-make; the page-attribute-table bit sits elsewhere in a page than
// in a larger leaf; and a flush is owed between a size change and the next change of attributes.
// (Intel SDM volume 3A, 4.5 four-level paging, 4.10.2 on mixed sizes in TLBs.)
#pragma once

#include <cstdint>

#include "directmap/directmap.hpp"

namespace directmap::test {

inline constexpr Shape x86_shape{12, 48, 52, 9, 1, {0, 0, 0, 0}};

struct X86Format {
    using geometry = Geometry<x86_shape>;

    std::uint64_t realm_shared_address = 0; ///< unused; rigs set it

    static constexpr bool flush_owed_after_resize = true;

    static constexpr std::uint64_t present_bit = 1, write_bit = 2, write_through_bit = 8, cache_disable_bit = 16,
                                   accessed_bit = 32, dirty_bit = 64, size_bit = 1u << 7, page_pat_bit = 1u << 7,
                                   global_bit = 1u << 8, mapped_bit = 1u << 9, fixed_bit = 1u << 10,
                                   block_pat_bit = 1u << 12, no_execute_bit = std::uint64_t{1} << 63;
    static constexpr std::uint64_t address_bits = 0x000f'ffff'ffff'f000;
    static constexpr unsigned key_shift = 59;

    static constexpr Descriptor valid_mask = Descriptor::from_bits(present_bit);
    static constexpr Descriptor present_mask = Descriptor::from_bits(mapped_bit); ///< software's: a leaf, valid or not
    static constexpr Descriptor contiguous_mask{};
    static constexpr Descriptor fixed_mask = Descriptor::from_bits(fixed_bit);
    static constexpr Descriptor regroup_mask{};
    static constexpr Descriptor broken_mask = Descriptor::from_bits(std::uint64_t{1} << 52);
    static constexpr Descriptor software_mask = Descriptor::from_bits(fixed_bit | std::uint64_t{1} << 52);
    static constexpr Descriptor break_mask{}; ///< nothing has to
    static constexpr Descriptor key_mask = Descriptor::from_bits(std::uint64_t{15} << key_shift);
    [[nodiscard]] static constexpr Descriptor key_bits(unsigned key) {
        return Descriptor::from_bits(std::uint64_t{key & 7} << key_shift);
    }
    static constexpr std::uint64_t progression_limit = std::uint64_t{1} << 52;

    [[nodiscard]] static constexpr std::uint64_t pat_bit(int level) { return level == 3 ? page_pat_bit : block_pat_bit; }
    /// Index 0: write-back; 2: uncached (PCD); 4: write-combining (PAT); 1 and 3 for the rest.
    [[nodiscard]] static constexpr std::uint64_t type_bits(int level, MemoryType type) {
        switch (type) {
        case MemoryType::normal: return 0;
        case MemoryType::normal_tagged: return write_through_bit;
        case MemoryType::normal_noncacheable: return pat_bit(level);
        case MemoryType::device_nGnRnE: return cache_disable_bit | write_through_bit;
        case MemoryType::device_nGnRE: return cache_disable_bit;
        }
        return 0;
    }
    [[nodiscard]] static constexpr std::uint64_t all_type_bits(int level) {
        return write_through_bit | cache_disable_bit | pat_bit(level);
    }

    [[nodiscard]] constexpr Descriptor leaf(int level, PhysAddr pa, Attributes a) const {
        std::uint64_t bits = pa.value() | accessed_bit | dirty_bit | mapped_bit | type_bits(level, a.memory_type());
        if (level != 3) bits |= size_bit;
        if (a.valid()) bits |= present_bit;
        if (a.writable()) bits |= write_bit;
        if (a.global()) bits |= global_bit;
        if (!a.executable()) bits |= no_execute_bit;
        if (a.fixed()) bits |= fixed_bit;
        return Descriptor::from_bits(bits) | key_bits(a.key());
    }
    [[nodiscard]] static constexpr Descriptor table(PhysAddr pa) {
        return Descriptor::from_bits(pa.value() | present_bit | write_bit | accessed_bit);
    }
    [[nodiscard]] static constexpr bool is_table(int level, Descriptor d) {
        return level != 3 && (d.bits() & (present_bit | mapped_bit)) == present_bit;
    }
    [[nodiscard]] static constexpr bool is_leaf(int, Descriptor d) { return d.any_of(present_mask); }
    [[nodiscard]] static constexpr PhysAddr table_address(Descriptor d) { return PhysAddr{d.bits() & address_bits}; }
    [[nodiscard]] constexpr PhysAddr leaf_address(int level, Descriptor d) const {
        return PhysAddr{d.bits() & address_bits & ~(geometry::bytes(level) - 1)};
    }
    /// The level decides where the page-attribute-table bit is, and the size bit of a larger leaf is that bit of a page: a
    /// leaf of unknown level is told apart by its size bit alone, which is why pages here never set the bit in position 7
    /// without bit 12 of the address being free to say so.
    [[nodiscard]] constexpr Attributes attributes(Descriptor d) const {
        const std::uint64_t bits = d.bits();
        // Both are set in a write-combining block, the first alone in a write-combining page or in any other block.
        // Pages and blocks are told apart by a software bit.
        const bool block = (bits & block_bit) != 0;
        const bool pat = (bits & (block ? block_pat_bit : page_pat_bit)) != 0;
        const bool through = (bits & write_through_bit) != 0, uncached = (bits & cache_disable_bit) != 0;
        const MemoryType type = pat                   ? MemoryType::normal_noncacheable
                                : uncached && through ? MemoryType::device_nGnRnE
                                : uncached            ? MemoryType::device_nGnRE
                                : through             ? MemoryType::normal_tagged
                                                      : MemoryType::normal;
        return Attributes{}
            .with_valid((bits & present_bit) != 0)
            .with_writable((bits & write_bit) != 0)
            .with_global((bits & global_bit) != 0)
            .with_executable((bits & no_execute_bit) == 0)
            .with_fixed((bits & fixed_bit) != 0)
            .with_key(static_cast<unsigned>(bits >> key_shift) & 7)
            .with_memory_type(type);
    }
    static constexpr std::uint64_t block_bit = 0;
};

} // namespace directmap::test

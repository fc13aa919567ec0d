// TLB invalidation, broadcast to all CPUs of the inner shareable domain (Arm ARM D8.13, C5.5).
// Nothing here waits: that is what dsb_ish is for.
#pragma once

#include <cstdint>

#include "directmap/platform.hpp"
#include "memory/granule.hpp"

namespace directmap::kernel::tlb {

/// The operand of an invalidation by address: VA[55:12] in bits 43:0, the level hint in 47:44, the ASID (unused by the
/// `AA` forms) above. The address of a kernel has ones above bit 55, which must not reach the hint.
[[nodiscard]] constexpr std::uint64_t address_operand(std::uint64_t va, int level, bool level_hints) {
    constexpr std::uint64_t address_mask = (std::uint64_t{1} << 44) - 1;
    constexpr std::uint64_t granule = page_size == 4096 ? 1 : page_size == 16384 ? 2 : 3;
    const bool hinted = level_hints && level >= 1;
    const std::uint64_t hint = hinted ? granule << 2 | static_cast<std::uint64_t>(level) : 0;
    return (va >> 12 & address_mask) | hint << 44;
}
static_assert(address_operand(0xffff'0000'1234'5000, InvalidationScope::any_level, true) == 0xff0'0001'2345);

/// TLBI VAAE1IS or, for leaves alone, VAALE1IS.
inline void invalidate(std::uint64_t operand, bool leaves_only) {
    if (leaves_only) {
        asm volatile("tlbi vaale1is, %0" ::"r"(operand) : "memory");
    } else {
        asm volatile("tlbi vaae1is, %0" ::"r"(operand) : "memory");
    }
}

/// TLBI VMALLE1IS.
inline void invalidate_all() {
    asm volatile("tlbi vmalle1is" ::: "memory");
}

/// One step of an invalidation by range (FEAT_TLBIRANGE): (number + 1) × 2^(5 × scale + 1) pages.
struct RangeStep {
    static constexpr unsigned max_scale = 3, max_number = 31;

    unsigned scale;
    unsigned number;

    [[nodiscard]] constexpr std::uint64_t pages() const { return std::uint64_t{number + 1} << (5 * scale + 1); }
    /// The largest step of at most `pages`, which must be 2 or more.
    [[nodiscard]] static constexpr RangeStep at_most(std::uint64_t pages) {
        unsigned scale = max_scale;
        while (pages >> (5 * scale + 1) == 0) --scale;
        const std::uint64_t units = pages >> (5 * scale + 1);
        return {scale, static_cast<unsigned>(units > max_number ? max_number : units - 1)};
    }
};
static_assert(RangeStep::at_most(2).pages() == 2);
static_assert(RangeStep::at_most(65).pages() == 64);
static_assert(RangeStep::at_most(std::uint64_t{1} << 40).pages() == std::uint64_t{32} << 16);

/// The operand of an invalidation by range: the page number in bits 36:0, the level in 38:37, the size in 45:39, the
/// granule in 47:46.
[[nodiscard]] constexpr std::uint64_t range_operand(std::uint64_t va, RangeStep step, int level) {
    constexpr std::uint64_t address_mask = (std::uint64_t{1} << 37) - 1;
    constexpr std::uint64_t granule = page_size == 4096 ? 1 : page_size == 16384 ? 2 : 3;
    const auto hint = static_cast<std::uint64_t>(level >= 1 ? level : 0);
    return (va >> Geometry::page_shift & address_mask) | hint << 37 | std::uint64_t{step.number} << 39 |
           std::uint64_t{step.scale} << 44 | granule << 46;
}

/// TLBI RVAAE1IS or RVAALE1IS, by their encodings: the assembler knows the names only for newer architectures.
inline void invalidate_range(std::uint64_t operand, bool leaves_only) {
    if (leaves_only) {
        asm volatile("sys #0, c8, c2, #7, %0" ::"r"(operand) : "memory");
    } else {
        asm volatile("sys #0, c8, c2, #3, %0" ::"r"(operand) : "memory");
    }
}

} // namespace directmap::kernel::tlb

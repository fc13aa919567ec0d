// This CPU's translation table registers.
#pragma once

#include "cpu/barriers.hpp"
#include "cpu/registers.hpp"
#include "directmap/units.hpp"

namespace directmap::kernel {

/// Whatever this CPU's TLB holds; no other CPU's.
inline void invalidate_local_tlb() {
    asm volatile("dsb nshst\n\ttlbi vmalle1\n\tdsb nsh\n\tisb" ::: "memory");
}

/// Replaces the tables of the lower half, which nothing uses at the moment.
inline void use_lower_tables(PhysAddr root) {
    constexpr std::uint64_t walks_disabled = std::uint64_t{1} << 7; // TCR_EL1.EPD0
    write_tcr_el1(read_tcr_el1() | walks_disabled);
    isb();
    write_ttbr0_el1(root.value());
    isb();
    invalidate_local_tlb();
    write_tcr_el1(read_tcr_el1() & ~walks_disabled);
    isb();
}

/// Turns translation of the lower half off.
inline void drop_lower_tables() {
    constexpr std::uint64_t walks_disabled = std::uint64_t{1} << 7;
    write_tcr_el1(read_tcr_el1() | walks_disabled);
    isb();
    invalidate_local_tlb();
}

/// Replaces the tables of the upper half, which this very code runs in. Both roots reach the image and the device
/// window through the same lower-level tables, so whichever a walk uses, it finds the same translation.
inline void use_upper_tables(PhysAddr root) {
    write_ttbr1_el1(root.value());
    isb();
    invalidate_local_tlb();
}

} // namespace directmap::kernel

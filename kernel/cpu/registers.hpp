// Access to system registers, by their names in the Arm ARM.
#pragma once

#include <cstdint>

// By name, or by encoding where the assembler may not know the name.
#define DIRECTMAP_READABLE_REGISTER(name) DIRECTMAP_ENCODED_READABLE_REGISTER(name, #name)
#define DIRECTMAP_REGISTER(name) DIRECTMAP_ENCODED_REGISTER(name, #name)
#define DIRECTMAP_ENCODED_READABLE_REGISTER(name, encoding)                                                            \
    inline std::uint64_t read_##name() {                                                                               \
        std::uint64_t value;                                                                                           \
        asm volatile("mrs %0, " encoding : "=r"(value));                                                               \
        return value;                                                                                                  \
    }
#define DIRECTMAP_ENCODED_REGISTER(name, encoding)                                                                     \
    DIRECTMAP_ENCODED_READABLE_REGISTER(name, encoding)                                                                \
    inline void write_##name(std::uint64_t value) {                                                                    \
        asm volatile("msr " encoding ", %0" ::"r"(value) : "memory");                                                  \
    }

namespace directmap::kernel {

DIRECTMAP_READABLE_REGISTER(ctr_el0)
DIRECTMAP_READABLE_REGISTER(cntfrq_el0)
DIRECTMAP_READABLE_REGISTER(cntvct_el0)
DIRECTMAP_READABLE_REGISTER(id_aa64dfr0_el1)
DIRECTMAP_READABLE_REGISTER(id_aa64isar0_el1)
DIRECTMAP_READABLE_REGISTER(id_aa64mmfr0_el1)
DIRECTMAP_READABLE_REGISTER(id_aa64mmfr2_el1)
DIRECTMAP_READABLE_REGISTER(midr_el1)
DIRECTMAP_READABLE_REGISTER(mpidr_el1)
DIRECTMAP_READABLE_REGISTER(pmceid0_el0)
DIRECTMAP_REGISTER(cntv_ctl_el0)
DIRECTMAP_REGISTER(cntv_tval_el0)
DIRECTMAP_REGISTER(daif)
DIRECTMAP_REGISTER(pmcntenset_el0)
DIRECTMAP_REGISTER(pmcr_el0)
DIRECTMAP_REGISTER(pmevcntr0_el0)
DIRECTMAP_REGISTER(pmevtyper0_el0)
DIRECTMAP_REGISTER(pmovsclr_el0)
DIRECTMAP_REGISTER(tcr_el1)
DIRECTMAP_REGISTER(tpidr_el1)
DIRECTMAP_REGISTER(ttbr0_el1)
DIRECTMAP_REGISTER(ttbr1_el1)
// Too new for the assembler to know its name.
DIRECTMAP_ENCODED_READABLE_REGISTER(id_aa64mmfr3_el1, "s3_0_c0_c7_3")

/// A field of an identification register: the four bits from `shift` on.
[[nodiscard]] constexpr unsigned id_field(std::uint64_t value, unsigned shift) {
    return value >> shift & 0xf;
}

} // namespace directmap::kernel

#undef DIRECTMAP_ENCODED_REGISTER
#undef DIRECTMAP_ENCODED_READABLE_REGISTER
#undef DIRECTMAP_REGISTER
#undef DIRECTMAP_READABLE_REGISTER

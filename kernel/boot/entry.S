// From reset to C++.
//
//   boot ──► el1 ──► build_early_map ──► turn_on_mmu ──► (high addresses) clear .bss ──► start          CPU 0
//   secondary_boot ──► el1 ──► turn_on_mmu ──► (high addresses) start_secondary                         CPUs 1–7
//
// Until turn_on_mmu has returned, code runs at its physical address: only addresses relative to the program counter
// (adr, adrp) are right, and what is stored bypasses the caches.

#include "boot/stack_layout.h"
#include "boot/translation_setup.h"

// Registers too new for the assembler's names.
#define ID_AA64MMFR3_EL1 s3_0_c0_c7_3
#define TCR2_EL1 s3_0_c2_c0_3
#define HCRX_EL2 s3_4_c1_c2_2
#define HFGRTR_EL2 s3_4_c1_c1_4
#define HFGWTR_EL2 s3_4_c1_c1_5

    .macro address register, symbol
    adrp    \register, \symbol
    add     \register, \register, :lo12:\symbol
    .endm

// The stacks of CPU `index`: exceptions on SP_EL1, everything else on SP_EL0, so that a stack that ran into its guard
// page can still be reported.
    .macro set_stacks index, scratch1, scratch2
    address \scratch1, cpu_stacks
    ldr     \scratch2, =STACKS_OF_A_CPU
    madd    \scratch1, \index, \scratch2, \scratch1
    add     \scratch2, \scratch1, #EXCEPTION_STACK_TOP
    msr     spsel, #1
    mov     sp, \scratch2
    add     \scratch2, \scratch1, #STACK_TOP
    msr     spsel, #0
    mov     sp, \scratch2
    .endm

    .macro set_early_vectors scratch
    address \scratch, early_vectors
    msr     vbar_el1, \scratch
    isb
    .endm

    .section .head, "ax"

    .global boot
boot:                                       // x0: physical address of the device tree
    msr     daifset, #0xf
    mov     x19, x0
    adr     x1, image_header
    mov     x20, x1
    tst     x1, #(IMAGE_ALIGNMENT - 1)
    adr     x0, misplaced
    b.ne    early_fail
    bl      enter_el1
    set_early_vectors x0
    set_stacks xzr, x0, x1
    // What the caches hold of the memory that is written now, with the caches off, must not come back over it.
    bl      forget_cached_early_memory
    bl      build_early_map
    bl      forget_cached_early_memory
    bl      turn_on_mmu
    ldr     x0, =1f                         // the link address
    br      x0
1:  set_early_vectors x0
    set_stacks xzr, x0, x1
    address x0, bss_start
    address x1, bss_end
2:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    2b
    mov     x0, x19
    mov     x1, x20
    mov     x29, xzr                        // the end of every backtrace
    mov     x30, xzr
    b       start

    .global secondary_boot
secondary_boot:                             // x0: index of the CPU, the context that PSCI was given
    msr     daifset, #0xf
    mov     x19, x0
    bl      enter_el1
    set_early_vectors x0
    bl      turn_on_mmu
    ldr     x0, =1f
    br      x0
1:  set_early_vectors x0
    set_stacks x19, x0, x1
    mov     x0, x19
    mov     x29, xzr
    mov     x30, xzr
    b       start_secondary

// Leaves the CPU at EL1 with its MMU off, wherever it was. Returns to x30 at EL1.
enter_el1:
    mrs     x0, CurrentEL
    cmp     x0, #(2 << 2)
    b.eq    1f
    cmp     x0, #(1 << 2)
    adr     x0, wrong_level
    mrs     x1, CurrentEL
    b.ne    early_fail
    ldr     x0, =SCTLR_MMU_OFF
    msr     sctlr_el1, x0
    isb
    ret
1:  mov     x0, #(1 << 31)                  // HCR_EL2.RW: EL1 is AArch64; nothing is trapped
    msr     hcr_el2, x0
    ldr     x0, =SCTLR_MMU_OFF
    msr     sctlr_el1, x0
    mov     x0, #3                          // EL1 may use the physical counter and timer
    msr     cnthctl_el2, x0
    msr     cntvoff_el2, xzr
    mov     x0, #0x33ff                     // CPTR_EL2: no traps, RES1 bits
    msr     cptr_el2, x0
    msr     hstr_el2, xzr
    mrs     x0, pmcr_el0                    // MDCR_EL2.HPMN: all event counters belong to EL1
    ubfx    x0, x0, #11, #5
    msr     mdcr_el2, x0
    mrs     x0, midr_el1
    msr     vpidr_el2, x0
    mrs     x0, mpidr_el1
    msr     vmpidr_el2, x0
    msr     vttbr_el2, xzr
    mrs     x0, ID_AA64MMFR3_EL1            // FEAT_TCR2: EL1 may use TCR2_EL1
    tst     x0, #0xf
    b.eq    2f
    mov     x1, #(1 << 14)                  // HCRX_EL2.TCR2En
    msr     HCRX_EL2, x1
2:  tst     x0, #(0xf << 16)                // FEAT_S1POE: and POR_EL1
    b.eq    3f
    mov     x1, #(1 << 60)                  // HFGRTR_EL2.nPOR_EL1, HFGWTR_EL2.nPOR_EL1
    msr     HFGRTR_EL2, x1
    msr     HFGWTR_EL2, x1
3:
    mov     x0, #0x3c5                      // EL1h, everything masked
    msr     spsr_el2, x0
    msr     elr_el2, x30
    eret

// Turns on MMU and caches with the early tables. The code runs on in the identity map.
turn_on_mmu:
    address x0, identity_root
    msr     ttbr0_el1, x0
    address x0, image_root
    msr     ttbr1_el1, x0
    ldr     x0, =MAIR_VALUE
    msr     mair_el1, x0
    ldr     x0, =TCR_VALUE
    mrs     x1, id_aa64mmfr0_el1            // TCR_EL1.IPS: as many physical address bits as the CPU has,
    and     x1, x1, #0xf
    mov     x2, #5                          // but no more than the 48 of this format
    cmp     x1, x2
    csel    x1, x1, x2, lo
    bfi     x0, x1, #32, #3
    msr     tcr_el1, x0
    mrs     x1, ID_AA64MMFR3_EL1            // whatever the extended control register holds is not meant for these tables
    tst     x1, #0xf
    b.eq    1f
    msr     TCR2_EL1, xzr
1:  isb
    tlbi    vmalle1                         // whatever the TLB held when the CPU came up
    dsb     nsh
    ic      iallu
    dsb     nsh
    isb
    ldr     x0, =SCTLR_MMU_ON
    msr     sctlr_el1, x0
    isb
    ret

// Throws away cached copies of the early tables and the first CPU's stack.
forget_cached_early_memory:
    address x0, early_memory_start
    address x1, image_end
    mrs     x2, ctr_el0                     // DminLine: log2 of the words in the smallest data cache line
    ubfx    x2, x2, #16, #4
    mov     x3, #4
    lsl     x2, x3, x2
1:  dc      ivac, x0
    add     x0, x0, x2
    cmp     x0, x1
    b.lo    1b
    dsb     sy
    ret

// Until C++ has set up the console and the real vectors, an exception is reported like every other early failure.
    .balign 0x800
early_vectors:
    .rept 16
    .balign 0x80
    adr     x0, early_exception
    mrs     x1, elr_el1
    b       early_fail
    .endr

early_exception:
    .asciz  "exception before the console was ready, at"
misplaced:
    .asciz  "the image must lie at a 2 MiB boundary, but is at"
wrong_level:
    .asciz  "entered at an exception level other than EL1 and EL2: CurrentEL is"
    .balign 4

// Values of the registers that turn_on_mmu programs (Arm ARM, D17.2: SCTLR_EL1, TCR_EL1, MAIR_EL1).
#pragma once

// RES1 bits of SCTLR_EL1 before any extension, which also select little endian and no traps.
#define SCTLR_MMU_OFF 0x30d00800
#define SCTLR_M (1 << 0)
#define SCTLR_C (1 << 2)
#define SCTLR_SA (1 << 3)
#define SCTLR_I (1 << 12)
#define SCTLR_MMU_ON (SCTLR_MMU_OFF | SCTLR_M | SCTLR_C | SCTLR_SA | SCTLR_I)

// Memory types by index, as directmap::MemoryType numbers them: 0 write-back, 1 the same (this kernel uses no
// allocation tags), 2 non-cacheable, 3 device nGnRnE, 4 device nGnRE.
#define MAIR_VALUE 0x040044ffff

// Both halves: 48 address bits (TxSZ), walks through write-back, inner shareable memory; global, no tags, ASIDs of
// TTBR0.
#define TCR_HALF(shift) ((16 << (shift)) | (1 << ((shift) + 8)) | (1 << ((shift) + 10)) | (3 << ((shift) + 12)))
#if DIRECTMAP_GRANULE == 4
#define TCR_GRANULES ((0 << 14) | (2 << 30))
#define IMAGE_PAGE_SIZE_CODE 1
#elif DIRECTMAP_GRANULE == 16
#define TCR_GRANULES ((2 << 14) | (1 << 30))
#define IMAGE_PAGE_SIZE_CODE 2
#else
#define TCR_GRANULES ((1 << 14) | (3 << 30))
#define IMAGE_PAGE_SIZE_CODE 3
#endif
#define TCR_VALUE (TCR_HALF(0) | TCR_HALF(16) | TCR_GRANULES)

#define IMAGE_ALIGNMENT 0x200000

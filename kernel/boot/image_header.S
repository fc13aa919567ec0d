#include "boot/translation_setup.h"

// The header that makes the file an arm64 Image (Linux: Documentation/arch/arm64/booting.rst), so that every boot loader
// for arm64 kernels can start it: at its first byte, MMU off, device tree in x0.

    .section .head.first, "ax"
    .global image_header
image_header:
    b       boot                            // code0
    .long   0                               // code1
    .quad   0                               // text_offset: from a 2 MiB boundary
    .quad   image_memory_size               // image_size: memory it takes, stacks and all
    .quad   (IMAGE_PAGE_SIZE_CODE << 1) | (1 << 3) // flags: little endian; granule; anywhere in RAM
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

#include "boot/stacks.hpp"

alignas(DIRECTMAP_PAGE_SIZE)
    [[gnu::section(".stacks,\"aw\",@nobits//")]] unsigned char cpu_stacks[directmap::kernel::max_cpus][STACKS_OF_A_CPU];

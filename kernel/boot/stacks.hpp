// The CPUs' stacks, with guard pages that aren't mapped.
#pragma once

#include <cstdint>

#include "boot/stack_layout.h"
#include "pure/boot_information.hpp"

extern "C" unsigned char cpu_stacks[directmap::kernel::max_cpus][STACKS_OF_A_CPU];

namespace directmap::kernel {

[[nodiscard]] inline std::uint64_t stacks_of(unsigned cpu) {
    return reinterpret_cast<std::uint64_t>(cpu_stacks[cpu]);
}

/// Whether two words at `address` lie in one of the CPU's stacks.
[[nodiscard]] inline bool in_stacks_of(unsigned cpu, std::uint64_t address) {
    const std::uint64_t offset = address - stacks_of(cpu);
    const bool inside = (offset >= EXCEPTION_STACK_BOTTOM && offset <= EXCEPTION_STACK_TOP - 16) ||
                        (offset >= STACK_BOTTOM && offset <= STACK_TOP - 16);
    return inside && address % 8 == 0;
}

[[nodiscard]] inline bool in_guard_page(std::uint64_t address) {
    const std::uint64_t offset = address - stacks_of(0);
    if (offset >= sizeof(cpu_stacks)) return false;
    const std::uint64_t within = offset % STACKS_OF_A_CPU;
    return within < GUARD_SIZE || (within >= EXCEPTION_STACK_TOP && within < STACK_BOTTOM);
}

} // namespace directmap::kernel

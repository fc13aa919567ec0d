// Masking of this CPU's interrupts.
#pragma once

#include "cpu/cpu.hpp"
#include "cpu/registers.hpp"

namespace directmap::kernel {

/// Masks interrupts; nests. The outermost call remembers what the mask was.
inline void mask_interrupts_nested() {
    const std::uint64_t before = read_daif();
    asm volatile("msr daifset, #2" ::: "memory");
    Cpu& cpu = this_cpu();
    if (cpu.lock_depth++ == 0) cpu.saved_interrupts = before;
}
inline void unmask_interrupts_nested() {
    Cpu& cpu = this_cpu();
    if (--cpu.lock_depth == 0) write_daif(cpu.saved_interrupts);
}

inline void mask_interrupts() {
    asm volatile("msr daifset, #2" ::: "memory");
}
inline void unmask_interrupts() {
    asm volatile("msr daifclr, #2" ::: "memory");
}

} // namespace directmap::kernel

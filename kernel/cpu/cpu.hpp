// What belongs to one CPU, reached through TPIDR_EL1.
#pragma once

#include <cstdint>

#include "cpu/expected_fault.hpp"
#include "cpu/registers.hpp"
#include "pure/boot_information.hpp"

namespace directmap::kernel {

/// A cache line of its own, so that CPUs don't disturb each other's.
struct alignas(128) Cpu {
    unsigned index = 0;
    std::uint64_t affinity = 0; ///< as PSCI names the CPU
    ExpectedFault expected;
    unsigned lock_depth = 0;            ///< spin locks held
    std::uint64_t saved_interrupts = 0; ///< the mask from before the outermost of them
    std::uint64_t ticks = 0;            ///< timer interrupts taken
    /// Without overlays: what stands in for POR_EL1 (overlays.hpp). Exceptions look at it.
    volatile std::uint64_t key_register = 0;
};

extern Cpu cpus[max_cpus];

[[nodiscard]] inline Cpu& this_cpu() {
    return *reinterpret_cast<Cpu*>(read_tpidr_el1());
}
/// Must run on the CPU itself, before anything else asks who it is.
inline void become_cpu(unsigned index) {
    cpus[index].index = index;
    write_tpidr_el1(reinterpret_cast<std::uint64_t>(&cpus[index]));
}

} // namespace directmap::kernel

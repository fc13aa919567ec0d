// CPUs that resize live leaves without conflict aborts although their identification register can't say so
// (ID_AA64MMFR2_EL1.BBM ≥ 3 says it since the register has a word for it). Each vendor's statement about its own CPU.
#pragma once

#include <cstdint>

namespace directmap::kernel {

/// A CPU by its MIDR_EL1, from a revision (variant and patch) on.
struct CpuModel {
    std::uint8_t implementer;
    std::uint16_t part;
    std::uint8_t variant;
    std::uint8_t patch;
};

inline constexpr CpuModel no_abort_cpus[] = {
    {0x41, 0xd82, 0, 3}, // Cortex-X4
    {0x41, 0xd84, 0, 2}, // Neoverse-V3
    {0x41, 0xd83, 0, 2}, // Neoverse-V3AE
    {0x41, 0xd88, 0, 0}, // Cortex-A520AE
    {0x41, 0xd4d, 0, 0}, // Cortex-A715
    {0x41, 0xd89, 0, 0}, // Cortex-A720AE
    {0x41, 0xd87, 0, 0}, // Cortex-A725
    {0x41, 0xd8e, 0, 0}, // Neoverse-N3
    {0x41, 0xd8a, 0, 0}, // C1-Nano
    {0x41, 0xd8b, 0, 0}, // C1-Pro
    {0x41, 0xd8c, 1, 1}, // C1-Ultra: earlier revisions livelock (erratum 3683289)
    {0x41, 0xd90, 1, 1}, // C1-Premium: the same
    {0x4e, 0x010, 0, 0}, // NVIDIA Olympus
    {0xc0, 0xac3, 0, 0}, // AmpereOne
    {0xc0, 0xac4, 0, 0}, // AmpereOne 1A
};

[[nodiscard]] constexpr bool is_no_abort_cpu(std::uint64_t midr) {
    const auto implementer = static_cast<std::uint8_t>(midr >> 24),
               variant = static_cast<std::uint8_t>(midr >> 20 & 0xf), patch = static_cast<std::uint8_t>(midr & 0xf);
    const auto part = static_cast<std::uint16_t>(midr >> 4 & 0xfff);
    for (const CpuModel& model : no_abort_cpus) {
        const bool recent = variant > model.variant || (variant == model.variant && patch >= model.patch);
        if (implementer == model.implementer && part == model.part && recent) return true;
    }
    return false;
}

} // namespace directmap::kernel

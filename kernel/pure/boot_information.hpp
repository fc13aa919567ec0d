// What the kernel wants to know from the device tree.
#pragma once

#include <cstdint>
#include <string_view>

#include "pure/device_tree.hpp"
#include "pure/range_list.hpp"

namespace directmap::kernel {

/// The most CPUs that this kernel runs on.
inline constexpr unsigned max_cpus = 8;

/// How PSCI is called: by an instruction that enters EL2 or one that enters EL3.
enum class PsciConduit : std::uint8_t { none, hvc, smc };

struct BootInformation {
    static constexpr std::size_t max_ranges = 32;

    RangeList<max_ranges> memory;   ///< RAM, merged
    RangeList<max_ranges> reserved; ///< in use by firmware; mapped
    RangeList<max_ranges> no_map;   ///< must not even be mapped
    PhysRange initrd;
    PhysAddr uart;
    bool has_uart = false;
    PhysAddr gic_distributor; ///< of a GICv2, if there is one
    PhysAddr gic_cpu_interface;
    bool has_gic = false;
    std::uint64_t cpus[max_cpus] = {}; ///< the affinity of each, as PSCI and MPIDR_EL1 name it
    unsigned cpu_count = 0;
    PsciConduit psci = PsciConduit::none;
    std::string_view command_line; ///< points into the device tree
};

/// Reads `tree`, which has been checked. Returns null, or what is missing from it; `information` then holds what was
/// found until there (the UART is looked for first, so that the complaint can be printed).
[[nodiscard]] const char* read_boot_information(const DeviceTree& tree, BootInformation& information);

} // namespace directmap::kernel

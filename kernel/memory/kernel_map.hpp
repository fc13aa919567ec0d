// The kernel's direct map: the engine with this kernel's platform.
#pragma once

#include <optional>

#include "boot/machine.hpp"
#include "directmap/directmap.hpp"
#include "memory/map_tables.hpp"
#include "pure/memory_plan.hpp"

namespace directmap::kernel {

/// The map and what belongs to it.
struct Memory {
    KernelMap* map = nullptr;
    SeededPlatform* platform = nullptr;
    MemoryPlan plan;
    Mapping mapping = Mapping::largest;
    CollapsePolicy policy = CollapsePolicy::on_request;
    Format format;
    PhysRange page_zone; ///< with map=zoned: mapped by pages
    MapTables tables;
    std::optional<std::uint64_t> build_instructions; ///< where they can be counted

    [[nodiscard]] std::uint64_t va(PhysAddr pa) const { return map->virt(pa).value(); }
};

extern Memory memory;

/// Decides who uses which memory, builds the map, and switches to it: afterwards RAM is reached through the direct map
/// alone. By the boot CPU, before there are others. Whatever can't be done ends the run.
void start_direct_map(const Machine& machine);

/// This CPU translates through the direct map from now on. It must have been admitted.
void enter_direct_map();

/// What `cpu` says to the gate: what its registers say, and what the command line makes of it.
[[nodiscard]] CpuCapabilities capabilities_of_this_cpu(const CommandLine& command_line);

} // namespace directmap::kernel

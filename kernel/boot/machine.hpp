// The machine as the boot loader describes it.
#pragma once

#include "directmap/units.hpp"
#include "pure/boot_information.hpp"
#include "pure/command_line.hpp"

namespace directmap::kernel {

struct Machine {
    BootInformation information;
    CommandLine command_line;
    PhysRange device_tree;
};

/// Makes the console usable at the place where QEMU virt has it, until the device tree is read.
void open_early_console();

/// Reads device tree and command line, switches to the console that they name, and says what was found. Whatever is
/// wrong with them ends the run.
[[nodiscard]] const Machine& read_machine(PhysAddr device_tree);

} // namespace directmap::kernel

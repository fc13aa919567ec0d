#include "boot/machine.hpp"

#include "cpu/ending.hpp"
#include "cpu/psci.hpp"
#include "memory/address_space.hpp"
#include "memory/device_window.hpp"
#include "memory/early_tables.hpp"

namespace directmap::kernel {

namespace {

constexpr PhysAddr early_uart{0x0900'0000};
constinit Machine machine;

std::uint64_t map_device(PhysAddr pa, std::uint64_t size, Attributes attributes) {
    const auto va = map_in_device_window(pa, size, attributes);
    if (!va) fail("too few early tables to map {} bytes at {}", size, Hex{pa.value()});
    return *va;
}

/// Checks and maps the tree. The boot protocol promises an 8-byte aligned blob in RAM, but the boot loader may not
/// keep to it.
DeviceTree open_device_tree(PhysAddr pa) {
    if (pa.value() == 0) fail("no device tree was given");
    if (!pa.aligned(8)) fail("the device tree at {} is not aligned to 8 bytes", Hex{pa.value()});
    if (pa.value() >= direct_map_size) fail("the device tree at {} lies beyond the address space", Hex{pa.value()});
    const std::uint64_t header = map_device(pa, DeviceTree::header_size, constant_attributes);
    const std::uint32_t claimed = DeviceTree::claimed_size(reinterpret_cast<const void*>(header));
    if (claimed == 0) fail("there is no device tree at {}", Hex{pa.value()});
    if (claimed > DeviceTree::size_limit) fail("the device tree at {} claims {} bytes", Hex{pa.value()}, claimed);

    const std::uint64_t va = map_device(pa, claimed, constant_attributes);
    DeviceTree tree;
    if (const char* wrong = tree.check(reinterpret_cast<const void*>(va), claimed)) {
        fail("the device tree at {} can't be used: {}", Hex{pa.value()}, wrong);
    }
    machine.device_tree = {pa, claimed};
    return tree;
}

} // namespace

void open_early_console() {
    console.use(Pl011{map_device(early_uart, page_size, device_attributes)});
}

const Machine& read_machine(PhysAddr device_tree) {
    const DeviceTree tree = open_device_tree(device_tree);
    BootInformation& information = machine.information;
    const char* const missing = read_boot_information(tree, information);
    if (information.has_uart && information.uart != early_uart) {
        console.use(Pl011{map_device(information.uart, page_size, device_attributes)});
    }
    psci.set_conduit(information.psci);
    if (missing != nullptr) fail("the device tree describes {}", missing);
    const CommandLineError error = read_command_line(information.command_line, machine.command_line);
    if (error.what != nullptr) refuse("{} on the command line: {}", error.what, Quoted{error.word});
    if (machine.command_line.json) report_verdict_as_json();
    return machine;
}

} // namespace directmap::kernel

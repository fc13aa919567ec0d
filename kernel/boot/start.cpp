// The boot CPU's way from the first C++ at a virtual address to the verdict. Read this file first.
#include "boot/machine.hpp"
#include "boot/secondaries.hpp"
#include "cpu/cpu.hpp"
#include "cpu/ending.hpp"
#include "cpu/exceptions.hpp"
#include "device/interrupts.hpp"
#include "memory/image.hpp"
#include "memory/kernel_map.hpp"

namespace directmap::kernel {

PhysAddr image_pa;

} // namespace directmap::kernel

using namespace directmap::kernel;
using directmap::PhysAddr;

extern "C" [[noreturn]] void start(PhysAddr device_tree, PhysAddr image) {
    image_pa = image;
    become_cpu(0);
    open_early_console();
    use_exception_vectors();
    const Machine& machine = read_machine(device_tree);
    start_interrupt_controller(machine.information);
    start_direct_map(machine);
    start_interrupts();
    bring_up_all(machine);
    memory.map->dump([](const char* text, unsigned size) { print("{}", std::string_view{text, size}); });
    pass();
}

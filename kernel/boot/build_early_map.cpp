// The first C++ that runs: MMU and caches are off, code runs at its physical address, .bss is not cleared yet. Only
// what is addressed relative to the program counter is right here: no tables of pointers, no virtual functions.
#include "boot/stacks.hpp"
#include "boot/translation_setup.h"
#include "cpu/registers.hpp"
#include "memory/early_tables.hpp"
#include "memory/image.hpp"

extern "C" {
[[noreturn]] void early_fail(const char* reason, std::uint64_t number);
void build_early_map();
}

namespace directmap::kernel {

namespace {

static_assert(IMAGE_ALIGNMENT == image_alignment);
constexpr PhysAddr early_uart{0x0900'0000}; // as in early_fail.S

void require(bool mapped) {
    if (!mapped) early_fail("too few early tables; needed more than", early_tables_used());
}

/// The parts of the image with the permissions that they keep, at `va` for its first byte.
void map_image(EarlyMapper& mapper, std::uint64_t va) {
    const std::uint64_t base = address_of(image_start);
    const auto map_part = [&](std::uint64_t from, std::uint64_t to, Attributes attributes) {
        require(mapper.map(va + (from - base), PhysAddr{from}, to - from, attributes));
    };
    map_part(base, address_of(text_end), code_attributes);
    map_part(address_of(text_end), address_of(rodata_end), constant_attributes);
    map_part(address_of(rodata_end), stacks_of(0), data_attributes);
    for (unsigned cpu = 0; cpu < max_cpus; ++cpu) { // all but the guard pages
        const std::uint64_t stacks = stacks_of(cpu);
        map_part(stacks + EXCEPTION_STACK_BOTTOM, stacks + EXCEPTION_STACK_TOP, data_attributes);
        map_part(stacks + STACK_BOTTOM, stacks + STACK_TOP, data_attributes);
    }
}

} // namespace
} // namespace directmap::kernel

using namespace directmap;
using namespace directmap::kernel;

void build_early_map() {
    const std::uint64_t mmfr0 = read_id_aa64mmfr0_el1();
    if (!granule_supported(mmfr0)) early_fail("this CPU lacks the image's page size, in KiB", DIRECTMAP_GRANULE);

    reset_early_tables();
    EarlyMapper image{image_root, 0};
    map_image(image, image_base);
    EarlyMapper identity{identity_root, 0};
    map_image(identity, address_of(image_start));
    require(identity.map(align_down(early_uart.value(), page_size), PhysAddr{align_down(early_uart.value(), page_size)},
                         page_size, device_attributes));
}

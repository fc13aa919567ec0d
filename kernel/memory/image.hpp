// The kernel's image: its parts (image/kernel.lds) and where it was loaded.
#pragma once

#include <cstdint>

#include "directmap/units.hpp"
#include "memory/address_space.hpp"

// Addresses that the linker knows.
extern "C" {
extern const char image_start[], text_end[], rodata_end[], image_end[];
}

namespace directmap::kernel {

/// The address of a linker symbol as this code sees it: physical while the MMU is off, virtual afterwards.
[[nodiscard]] inline std::uint64_t address_of(const char* symbol) {
    return reinterpret_cast<std::uint64_t>(symbol);
}

[[nodiscard]] inline std::uint64_t image_size() {
    return address_of(image_end) - address_of(image_start);
}
[[nodiscard]] inline std::uint64_t text_end_va() {
    return image_base + (address_of(text_end) - address_of(image_start));
}

/// Where the image was loaded. Known once the MMU is on.
extern PhysAddr image_pa;

/// The physical address of something in the image.
template <class T>
[[nodiscard]] PhysAddr pa_in_image(const T* pointer) {
    return image_pa + (reinterpret_cast<std::uint64_t>(pointer) - image_base);
}

} // namespace directmap::kernel

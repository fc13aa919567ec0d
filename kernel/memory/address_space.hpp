// Where everything lies in the kernel's half of the address space (TTBR1_EL1, 48 bits).
//
//   0xffff'0000'0000'0000   the direct map: VA = PA + direct_map_offset, 128 TiB
//   0xffff'8000'8000'0000   the kernel image: text, read-only data, data, stacks
//   0xffff'8001'0000'0000   the device window: console, interrupt controller, device tree
//
// The lower half (TTBR0_EL1) holds an identity map of the image while a CPU turns its MMU on; then, on the boot CPU,
// the memory of the engine's tables until its map is live. Afterwards it is off, and a null pointer faults.
#pragma once

#include <cstdint>

namespace directmap::kernel {

inline constexpr std::uint64_t direct_map_offset = 0xffff'0000'0000'0000;
inline constexpr std::uint64_t direct_map_size = std::uint64_t{1} << 47;
inline constexpr std::uint64_t image_base = 0xffff'8000'8000'0000; // as in image/kernel.lds
inline constexpr std::uint64_t device_window = 0xffff'8001'0000'0000;

/// What the arm64 boot protocol asks of an image's place.
inline constexpr std::uint64_t image_alignment = std::uint64_t{2} << 20;

} // namespace directmap::kernel

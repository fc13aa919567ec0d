// Mappings of devices and of the device tree, made once each and kept.
#pragma once

#include <cstdint>
#include <optional>

#include "directmap/attributes.hpp"
#include "directmap/units.hpp"

namespace directmap::kernel {

/// Maps the pages around [pa, pa + size) in the device window and returns the address of `pa` there. Called by the boot
/// CPU while it is alone. Nothing if the early tables ran out.
[[nodiscard]] std::optional<std::uint64_t> map_in_device_window(PhysAddr pa, std::uint64_t size, Attributes attributes);

} // namespace directmap::kernel

// The granule of this image, and what follows from it. One image is built for each granule, because the engine's
// geometry is known at compile time.
#pragma once

#include <cstdint>

#include "directmap/arm64/format.hpp"

#ifndef DIRECTMAP_GRANULE
#error "DIRECTMAP_GRANULE must be 4, 16 or 64"
#endif

namespace directmap::kernel {

#if DIRECTMAP_GRANULE == 4
using Format = arm64::Format4K48;
#elif DIRECTMAP_GRANULE == 16
using Format = arm64::Format16K48;
#elif DIRECTMAP_GRANULE == 64
using Format = arm64::Format64K48;
#endif

using Geometry = Format::geometry;
inline constexpr std::uint64_t page_size = Geometry::page_size;

/// Whether the CPU has this granule, by its ID_AA64MMFR0_EL1 (TGran4 and TGran64: 0xf means no; TGran16: 0 does).
[[nodiscard]] constexpr bool granule_supported(std::uint64_t mmfr0) {
    switch (DIRECTMAP_GRANULE) {
    case 4: return (mmfr0 >> 28 & 0xf) != 0xf;
    case 16: return (mmfr0 >> 20 & 0xf) != 0;
    default: return (mmfr0 >> 24 & 0xf) != 0xf;
    }
}

} // namespace directmap::kernel

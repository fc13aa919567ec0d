// The kernel's own few tables, made without the engine: an identity map to turn the MMU on in, the image, the device
// window, and the memory of the engine's tables until its own map is live.
#pragma once

#include <cstdint>

#include "directmap/attributes.hpp"
#include "directmap/units.hpp"
#include "memory/granule.hpp"

namespace directmap::kernel {

struct alignas(page_size) EarlyTable {
    std::uint64_t descriptors[Geometry::table_entries];
};

/// Maps into the tables below `root`, taking tables from a pool in the image. `pa_offset` is what turns the address of
/// a pool table as the code sees it into its physical address: 0 while the MMU is off.
class EarlyMapper {
public:
    explicit EarlyMapper(EarlyTable& root, std::uint64_t pa_offset) : root_{root}, pa_offset_{pa_offset} {}

    /// Maps [va, va + size) to `pa` with the largest blocks that fit; nothing of it may be mapped yet. All three are
    /// multiples of the page size. False if the pool ran out.
    [[nodiscard]] bool map(std::uint64_t va, PhysAddr pa, std::uint64_t size, Attributes attributes);

private:
    [[nodiscard]] EarlyTable* table_below(std::uint64_t& descriptor);

    EarlyTable& root_;
    std::uint64_t pa_offset_;
};

/// Empties the roots and the pool, which nobody has cleared before.
void reset_early_tables();
/// Tables of the pool that are in use.
[[nodiscard]] unsigned early_tables_used();

/// Attributes of the parts of the image and of devices.
inline constexpr Attributes code_attributes = Attributes{}.with_writable(false).with_executable(true);
inline constexpr Attributes constant_attributes = Attributes{}.with_writable(false);
inline constexpr Attributes data_attributes = Attributes{};
inline constexpr Attributes device_attributes = Attributes{}.with_memory_type(MemoryType::device_nGnRE);

} // namespace directmap::kernel

// Roots that entry.S loads.
extern "C" {
extern directmap::kernel::EarlyTable identity_root;   ///< lower half: the image, at its physical address
extern directmap::kernel::EarlyTable image_root;      ///< upper half: the image and the device window
extern directmap::kernel::EarlyTable table_pool_root; ///< lower half: the engine's tables, until its map is live
}

#include "memory/device_window.hpp"

#include "memory/address_space.hpp"
#include "memory/early_tables.hpp"
#include "memory/image.hpp"

namespace directmap::kernel {

namespace {

constinit std::uint64_t next_va = device_window;

} // namespace

std::optional<std::uint64_t> map_in_device_window(PhysAddr pa, std::uint64_t size, Attributes attributes) {
    const PhysAddr start{align_down(pa.value(), page_size)};
    const std::uint64_t bytes = align_up(pa.value() + size, page_size) - start.value();
    const std::uint64_t va = next_va;
    EarlyMapper mapper{image_root, image_pa.value() - image_base};
    if (!mapper.map(va, start, bytes, attributes)) return std::nullopt;
    next_va += bytes + page_size; // a hole between any two
    return va + (pa - start);
}

} // namespace directmap::kernel

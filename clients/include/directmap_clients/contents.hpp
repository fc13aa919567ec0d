// What users of a direct map ask about what memory holds, as a concept. The map decides who may reach a page; filling
// it is the embedder's, who knows through which mapping that can be done.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "directmap/area.hpp"
#include "directmap/units.hpp"

namespace directmap::clients {

/// - `zero(range)`: physical memory becomes zero. The direct map may not reach it at that moment: a user's mapping, a
///   window, or the instruction that zeroes by physical address does.
/// - `write(va, from, bytes)`: writes through `va`, which is mapped writable, and makes it visible to instruction
///   fetches where that takes cache maintenance.
/// - `fill(va, word, bytes)`: the same with one word over and over; `bytes` is a multiple of four.
template <class C>
concept Contents = requires(C& c, PhysRange range, VirtAddr va, const void* from, std::size_t bytes,
                            std::uint32_t word) {
    { c.zero(range) } -> std::same_as<void>;
    { c.write(va, from, bytes) } -> std::same_as<void>;
    { c.fill(va, word, bytes) } -> std::same_as<void>;
};

} // namespace directmap::clients

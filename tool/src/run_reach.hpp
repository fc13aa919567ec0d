// How much memory a TLB covers: a simple model, for comparing maps, not for predicting a core.
#pragma once

#include <cstdint>
#include <span>

namespace directmap::tool {

/// First- and second-level data TLB of a widely used server core (Arm Neoverse N1: 48 and 1280 entries).
inline constexpr std::uint64_t tlb_entries = 48 + 1280;

/// The bytes that the TLB covers, on average, while every byte of the map is equally likely to be used next.
///
/// `sizes` and `counts` describe the leaves. Each takes one entry, whatever its size; the least recently used entry is
/// evicted. If all leaves fit, everything is covered. Otherwise a leaf is found cached with the probability
/// 1 - exp(-t · size), with the t at which the expected number of cached leaves is `entries` (Che's approximation of
/// least recently used).
[[nodiscard]] std::uint64_t tlb_reach(std::span<const std::uint64_t> sizes, std::span<const std::uint64_t> counts,
                                      std::uint64_t entries = tlb_entries);

} // namespace directmap::tool

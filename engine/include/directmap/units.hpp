// Strong types for addresses and ranges. A physical address can't be passed where a virtual one is meant.
#pragma once

#include <compare>
#include <cstdint>

namespace directmap {

namespace detail {

template <class Tag>
class Address {
public:
    constexpr Address() = default;
    explicit constexpr Address(std::uint64_t value) : value_{value} {}

    [[nodiscard]] constexpr std::uint64_t value() const { return value_; }
    [[nodiscard]] constexpr bool aligned(std::uint64_t size) const { return (value_ & (size - 1)) == 0; }

    /// Arithmetic wraps modulo 2^64, as addresses do in hardware.
    friend constexpr Address operator+(Address a, std::uint64_t bytes) { return Address{a.value_ + bytes}; }
    friend constexpr Address operator-(Address a, std::uint64_t bytes) { return Address{a.value_ - bytes}; }
    friend constexpr std::uint64_t operator-(Address a, Address b) { return a.value_ - b.value_; }
    friend constexpr auto operator<=>(Address, Address) = default;

private:
    std::uint64_t value_ = 0;
};

} // namespace detail

/// A physical address: what a descriptor translates to (on arm64 of stage 1: an output address).
using PhysAddr = detail::Address<struct PhysicalTag>;
/// A virtual address as the CPU issues it, sign extension included.
using VirtAddr = detail::Address<struct VirtualTag>;

/// The bytes [start, start + size) of physical memory.
struct PhysRange {
    PhysAddr start;
    std::uint64_t size = 0;

    [[nodiscard]] constexpr PhysAddr end() const { return start + size; }
    [[nodiscard]] constexpr bool empty() const { return size == 0; }
    [[nodiscard]] constexpr bool contains(PhysAddr a) const { return a - start < size; }
    [[nodiscard]] constexpr bool overlaps(PhysRange other) const { return start < other.end() && other.start < end(); }
    friend constexpr bool operator==(PhysRange, PhysRange) = default;
};

/// The bytes [start, end); start must not lie above end.
[[nodiscard]] constexpr PhysRange phys_range(std::uint64_t start, std::uint64_t end) {
    return {PhysAddr{start}, end - start};
}

[[nodiscard]] constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t size) {
    return value & ~(size - 1);
}
/// Wraps to 0 at the end of the address space.
[[nodiscard]] constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t size) {
    return (value + size - 1) & ~(size - 1);
}

} // namespace directmap

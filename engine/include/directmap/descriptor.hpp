// One translation-table entry as an opaque word. Only a format gives its bits a meaning; everything else moves,
// compares and masks it through the few operations here.
#pragma once

#include <cstdint>

namespace directmap {

/// A descriptor: 64 bits that a format made (or that a walk loaded). Zero maps nothing.
class Descriptor {
public:
    constexpr Descriptor() = default;
    /// For formats, and for platforms that load a word from memory.
    [[nodiscard]] static constexpr Descriptor from_bits(std::uint64_t bits) { return Descriptor{bits}; }
    /// For formats, and for platforms that store the word to memory.
    [[nodiscard]] constexpr std::uint64_t bits() const { return bits_; }

    [[nodiscard]] constexpr bool empty() const { return bits_ == 0; }
    [[nodiscard]] constexpr bool any_of(Descriptor mask) const { return (bits_ & mask.bits_) != 0; }
    [[nodiscard]] constexpr bool all_of(Descriptor mask) const { return (bits_ & mask.bits_) == mask.bits_; }
    [[nodiscard]] constexpr Descriptor without(Descriptor mask) const { return Descriptor{bits_ & ~mask.bits_}; }
    /// The descriptor `bytes` further on: neighbouring leaves differ by their address alone.
    [[nodiscard]] constexpr Descriptor advanced(std::uint64_t bytes) const { return Descriptor{bits_ + bytes}; }

    friend constexpr Descriptor operator|(Descriptor a, Descriptor b) { return Descriptor{a.bits_ | b.bits_}; }
    friend constexpr Descriptor operator&(Descriptor a, Descriptor b) { return Descriptor{a.bits_ & b.bits_}; }
    friend constexpr Descriptor operator^(Descriptor a, Descriptor b) { return Descriptor{a.bits_ ^ b.bits_}; }
    friend constexpr bool operator==(Descriptor, Descriptor) = default;

private:
    explicit constexpr Descriptor(std::uint64_t bits) : bits_{bits} {}
    std::uint64_t bits_ = 0;
};

/// A change of attributes, as a format spells it for the leaves of one level: new = (old & ~clear) | set.
struct DescriptorChange {
    Descriptor clear;
    Descriptor set;

    [[nodiscard]] constexpr Descriptor apply_to(Descriptor d) const { return d.without(clear) | set; }
    /// The bits that would differ if applied to `d`.
    [[nodiscard]] constexpr Descriptor difference(Descriptor d) const {
        return (d & clear).without(set) | set.without(d);
    }
};

/// What a run of descriptors has in common: the union and the intersection of their bits (or of their
/// differences from an expected progression).
struct RunSummary {
    Descriptor any;
    Descriptor all = Descriptor::from_bits(~std::uint64_t{0});

    constexpr void add(Descriptor d) {
        any = any | d;
        all = all & d;
    }
    /// The bits that `change` would alter in at least one descriptor of the run.
    [[nodiscard]] constexpr Descriptor altered_by(DescriptorChange change) const {
        return (any & change.clear).without(change.set) | change.set.without(all);
    }
};

} // namespace directmap

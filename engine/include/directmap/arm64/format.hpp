// arm64 stage-1 descriptors (VMSAv8-64) of a kernel's direct map. The only place where their bits are known.
// Source of the rules: Arm ARM DDI 0487, D8.3 (descriptor formats), D8.4 (permissions), D8.7 (other fields).
#pragma once

#include <cstdint>

#include "directmap/attributes.hpp"
#include "directmap/descriptor.hpp"
#include "directmap/geometry.hpp"
#include "directmap/units.hpp"

namespace directmap::arm64 {

enum class Granule : std::uint8_t { k4, k16, k64 };

/// The shape of a granule's translation. `va_bits` 52 asks for the 52-bit forms: FEAT_LPA2 with 4K and 16K pages,
/// FEAT_LVA with FEAT_LPA with 64K pages. `top_groups` allows contiguous groups of the largest blocks where they
/// are off by default (4K: 16 GiB of 1G blocks); it also makes a region that large.
[[nodiscard]] constexpr Shape shape(Granule granule, unsigned va_bits, bool top_groups = false) {
    const unsigned pa_bits = va_bits > 48 ? 52 : 48;
    switch (granule) {
    case Granule::k4: return {12, va_bits, pa_bits, 9, 1, {0, top_groups ? 4u : 0u, 4, 4}};
    case Granule::k16: return {14, va_bits, pa_bits, 11, 2, {0, 0, 5, 7}};
    case Granule::k64: break;
    }
    return {16, va_bits, pa_bits, 13, 2, {0, 0, 5, 5}};
}

/// Descriptors for one Shape. An object, not a namespace, because a realm learns the position of its shared-address
/// bit at boot; it is copied into the map that uses it.
template <Shape shape_value>
struct Format {
    using Shape_ = Geometry<shape_value>;
    using geometry = Shape_;

    /// The address bit that marks memory shared with the host (realms: the top bit of the IPA space), as a byte
    /// address; 0 outside a realm.
    std::uint64_t realm_shared_address = 0;

    /// A stale larger entry may coexist with smaller ones of changed attributes at BBM level 2 without aborts:
    /// nothing is owed between a resize and the next change (unlike x86-64).
    static constexpr bool flush_owed_after_resize = false;

    // Masks over leaves, for use on whole runs.
    static constexpr Descriptor valid_mask = Descriptor::from_bits(1);
    /// Set in every leaf, valid or not, and in no empty entry (the access flag).
    static constexpr Descriptor present_mask = Descriptor::from_bits(1u << 10);
    static constexpr Descriptor contiguous_mask = Descriptor::from_bits(std::uint64_t{1} << 52);
    static constexpr Descriptor fixed_mask = Descriptor::from_bits(std::uint64_t{1} << 55);
    /// Software marks that exist only while a change is being committed, under the region's lock.
    static constexpr Descriptor regroup_mask = Descriptor::from_bits(std::uint64_t{1} << 56);
    static constexpr Descriptor broken_mask = Descriptor::from_bits(std::uint64_t{1} << 57);
    /// Bits that hardware ignores.
    static constexpr Descriptor software_mask = Descriptor::from_bits(std::uint64_t{0xf} << 55);
    static constexpr Descriptor key_mask = Descriptor::from_bits(std::uint64_t{7} << 60);
    /// What a leaf with this protection key has under `key_mask`.
    [[nodiscard]] static constexpr Descriptor key_bits(unsigned key) {
        return Descriptor::from_bits(std::uint64_t{key & 7} << 60);
    }

    /// Bits whose change must break before it makes while the leaf is valid, whatever the BBM level: output address
    /// (realm sharing is an address bit), memory type, shareability.
    static constexpr Descriptor break_mask = Descriptor::from_bits(0x0003'ffff'ffff'f000 | (7u << 2) | (3u << 8));

    /// A leaf of `level` that maps `pa`, aligned to the level's size, with `attributes`. Never contiguous: the group
    /// bit is set by whoever writes a whole group.
    [[nodiscard]] constexpr Descriptor leaf(int level, PhysAddr pa, Attributes a) const {
        std::uint64_t bits = level == geometry::last_level ? 0b10 : 0b00; // page 0b11, block 0b01; bit 0 is `valid`
        bits |= has_shareability ? 3u << 8 : 0u;                          // inner shareable
        bits |= present_mask.bits();
        bits |= std::uint64_t{1} << 54; // never executable at EL0
        return Descriptor::from_bits(bits | (a.bits() & attribute_bits) |
                                     address_bits(pa.value() | shared_address(a.bits())));
    }
    /// A table descriptor, for a level above the last.
    [[nodiscard]] static constexpr Descriptor table(PhysAddr pa) {
        return Descriptor::from_bits(0b11 | address_bits(pa.value()));
    }

    [[nodiscard]] static constexpr bool is_table(int level, Descriptor d) {
        return level != geometry::last_level && (d.bits() & 0b10) != 0; // no block has bit 1, valid or not
    }
    /// True of every leaf, present-invalid ones included.
    [[nodiscard]] static constexpr bool is_leaf(int level, Descriptor d) {
        return !is_table(level, d) && d.any_of(present_mask);
    }
    [[nodiscard]] static constexpr PhysAddr table_address(Descriptor d) {
        return PhysAddr{address_of(d.bits()) & ~(geometry::page_size - 1)};
    }
    [[nodiscard]] constexpr PhysAddr leaf_address(int level, Descriptor d) const {
        return PhysAddr{address_of(d.bits()) & ~(geometry::bytes(level) - 1) & ~realm_shared_address};
    }
    [[nodiscard]] constexpr Attributes attributes(Descriptor d) const {
        const std::uint64_t bits = d.bits();
        const bool shared = (address_of(bits) & realm_shared_address) != 0;
        return Attributes::from_bits((bits & attribute_bits) | (shared ? Attributes::shared_bit : 0));
    }

    /// The bits that `change` clears and sets in a leaf; the same for every arm64 level.
    [[nodiscard]] constexpr DescriptorChange spell([[maybe_unused]] int level, Change change) const {
        std::uint64_t clear = change.mask() & attribute_bits, set = change.values().bits() & attribute_bits;
        if (change.names_shared()) {
            clear |= address_bits(realm_shared_address);
            set |= address_bits(shared_address(change.values().bits()));
        }
        return {Descriptor::from_bits(clear), Descriptor::from_bits(set)};
    }
    /// Whether this machine can express the change at all (sharing needs a realm).
    [[nodiscard]] constexpr bool expressible(Change change) const {
        return !change.names_shared() || realm_shared_address != 0;
    }

    /// A leaf's child: the same translation and attributes, one level down.
    [[nodiscard]] static constexpr Descriptor child_of(int level, Descriptor parent) {
        const std::uint64_t bits = parent.without(contiguous_mask).bits();
        return Descriptor::from_bits(level + 1 == geometry::last_level ? bits | 0b10 : bits);
    }
    /// The reverse: the leaf of `level` that says the same as a full table whose first entry is `child`.
    [[nodiscard]] static constexpr Descriptor parent_of(int level, Descriptor child) {
        const std::uint64_t bits = child.without(contiguous_mask).bits();
        return Descriptor::from_bits(level + 1 == geometry::last_level ? bits & ~std::uint64_t{0b10} : bits);
    }

    /// Physical addresses are split over two fields above this many bytes, so a progression of descriptors must
    /// not cross a multiple of it.
    static constexpr std::uint64_t progression_limit = std::uint64_t{1} << (geometry::page_shift == 16 ? 48 : 50);

private:
    /// The attributes that are descriptor bits, each where the descriptor has it.
    static constexpr std::uint64_t attribute_bits =
        Attributes::valid_bit | Attributes::type_mask << Attributes::type_shift | Attributes::read_only_bit |
        Attributes::not_global_bit | Attributes::execute_never_bit | Attributes::fixed_bit |
        Attributes::key_mask << Attributes::key_shift;
    static_assert(fixed_mask.bits() == Attributes::fixed_bit && valid_mask.bits() == Attributes::valid_bit);
    static_assert(key_mask.bits() == Attributes::key_mask << Attributes::key_shift);

    [[nodiscard]] constexpr std::uint64_t shared_address(std::uint64_t attributes) const {
        return (attributes & Attributes::shared_bit) != 0 ? realm_shared_address : 0;
    }

    /// With FEAT_LPA2's 52-bit descriptors, bits 9:8 hold address bits; shareability then comes from TCR_EL1.
    static constexpr bool has_shareability = !(geometry::pa_bits == 52 && geometry::page_shift != 16);
    static constexpr bool split_high = geometry::pa_bits == 52;

    [[nodiscard]] static constexpr std::uint64_t address_bits(std::uint64_t pa) {
        if constexpr (!split_high) return pa;
        if constexpr (geometry::page_shift == 16) // FEAT_LPA: 51:48 in 15:12
            return (pa & 0x0000'ffff'ffff'0000) | ((pa >> 48 & 0xf) << 12);
        return (pa & 0x0003'ffff'ffff'f000) | ((pa >> 50 & 3) << 8); // FEAT_LPA2: 51:50 in 9:8
    }
    [[nodiscard]] static constexpr std::uint64_t address_of(std::uint64_t bits) {
        if constexpr (!split_high) return bits & 0x0000'ffff'ffff'f000;
        if constexpr (geometry::page_shift == 16) return (bits & 0x0000'ffff'ffff'0000) | ((bits >> 12 & 0xf) << 48);
        return (bits & 0x0003'ffff'ffff'f000) | ((bits >> 8 & 3) << 50);
    }
};

using Format4K39 = Format<shape(Granule::k4, 39)>;
using Format4K48 = Format<shape(Granule::k4, 48)>;
using Format4K52 = Format<shape(Granule::k4, 52)>;
using Format4K48TopGroups = Format<shape(Granule::k4, 48, true)>;
using Format16K47 = Format<shape(Granule::k16, 47)>;
using Format16K48 = Format<shape(Granule::k16, 48)>;
using Format16K52 = Format<shape(Granule::k16, 52)>;
using Format64K42 = Format<shape(Granule::k64, 42)>;
using Format64K48 = Format<shape(Granule::k64, 48)>;
using Format64K52 = Format<shape(Granule::k64, 52)>;

} // namespace directmap::arm64

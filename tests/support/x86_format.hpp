// x86-64 descriptors, for tests alone: proof that the Format concept admits an architecture that differs where it can.
// Leaves of 4K, 2M and 1G, no contiguous hint, nothing that has to break before it makes, execute permission and
// memory types spelled otherwise, the page-attribute-table bit at another place in a page than in a larger leaf; and a
// flush is owed between a change of size and the next change of attributes. (Intel SDM volume 3A: 4.5 four-level
// paging, 4.10.2.3 translations of several sizes, 12.12 page attribute table.)
#pragma once

#include <cstdint>

#include "directmap/directmap.hpp"
#include "machine/regime.hpp"

namespace directmap::test {

inline constexpr Shape x86_shape{12, 48, 52, 9, 1, {0, 0, 0, 0}};
/// The same with tables of eight entries, so that everything can happen within a few hundred pages.
inline constexpr Shape small_x86_shape{12, 24, 52, 3, 1, {0, 0, 0, 0}};

template <Shape shape>
struct X86FormatOf {
    using geometry = Geometry<shape>;

    std::uint64_t realm_shared_address = 0; ///< there are no realms; rigs set it for every format

    static constexpr bool flush_owed_after_resize = true;

    static constexpr std::uint64_t bit(unsigned n) { return std::uint64_t{1} << n; }
    static constexpr std::uint64_t present = bit(0), write = bit(1), write_through = bit(3), cache_disable = bit(4),
                                   accessed = bit(5), dirty = bit(6), page_size = bit(7), pat_of_page = bit(7),
                                   global = bit(8), pat_of_block = bit(12), no_execute = bit(63);
    // Software's: a leaf, whether present or not; one that keeps its size; one of more than a page; one that is broken.
    static constexpr std::uint64_t mapped = bit(9), fixed = bit(10), block = bit(11), broken = bit(52);
    static constexpr std::uint64_t address_bits = 0x000f'ffff'ffff'f000;
    static constexpr unsigned key_shift = 59;

    static constexpr Descriptor valid_mask = Descriptor::from_bits(present);
    static constexpr Descriptor present_mask = Descriptor::from_bits(mapped);
    static constexpr Descriptor contiguous_mask{}, regroup_mask{}, break_mask{}; // there is no such thing
    static constexpr Descriptor fixed_mask = Descriptor::from_bits(fixed);
    static constexpr Descriptor broken_mask = Descriptor::from_bits(broken);
    static constexpr Descriptor software_mask = Descriptor::from_bits(fixed | broken);
    static constexpr Descriptor key_mask = Descriptor::from_bits(std::uint64_t{15} << key_shift);
    static constexpr std::uint64_t progression_limit = bit(52);
    [[nodiscard]] static constexpr Descriptor key_bits(unsigned key) {
        return Descriptor::from_bits(std::uint64_t{key & 7} << key_shift);
    }

    [[nodiscard]] static constexpr std::uint64_t pat(int level) { return level == 3 ? pat_of_page : pat_of_block; }
    /// Write-combining is the one type here that needs the page-attribute-table bit.
    [[nodiscard]] static constexpr std::uint64_t type_bits(int level, MemoryType type) {
        switch (type) {
        case MemoryType::normal: return 0;
        case MemoryType::normal_tagged: return write_through;
        case MemoryType::normal_noncacheable: return pat(level);
        case MemoryType::device_nGnRnE: return cache_disable | write_through;
        case MemoryType::device_nGnRE: return cache_disable;
        }
        return 0;
    }

    [[nodiscard]] constexpr Descriptor leaf(int level, PhysAddr pa, Attributes a) const {
        std::uint64_t bits = pa.value() | accessed | dirty | mapped | type_bits(level, a.memory_type());
        if (level != 3) bits |= page_size | block;
        if (a.valid()) bits |= present;
        if (a.writable()) bits |= write;
        if (a.global()) bits |= global;
        if (!a.executable()) bits |= no_execute;
        if (a.fixed()) bits |= fixed;
        return Descriptor::from_bits(bits) | key_bits(a.key());
    }
    [[nodiscard]] static constexpr Descriptor table(PhysAddr pa) {
        return Descriptor::from_bits(pa.value() | present | write | accessed);
    }
    [[nodiscard]] static constexpr bool is_table(int level, Descriptor d) {
        return level != 3 && (d.bits() & (present | mapped)) == present;
    }
    [[nodiscard]] static constexpr bool is_leaf(int, Descriptor d) { return d.any_of(present_mask); }
    [[nodiscard]] static constexpr PhysAddr table_address(Descriptor d) { return PhysAddr{d.bits() & address_bits}; }
    [[nodiscard]] constexpr PhysAddr leaf_address(int level, Descriptor d) const {
        return PhysAddr{d.bits() & address_bits & ~(geometry::bytes(level) - 1)};
    }
    /// Where the page-attribute-table bit is depends on the level; `block` says which it is.
    [[nodiscard]] constexpr Attributes attributes(Descriptor d) const {
        const std::uint64_t bits = d.bits();
        const auto has = [&](std::uint64_t mask) { return (bits & mask) != 0; };
        const MemoryType type = has(has(block) ? pat_of_block : pat_of_page) ? MemoryType::normal_noncacheable
                                : !has(cache_disable) && !has(write_through) ? MemoryType::normal
                                : !has(cache_disable)                        ? MemoryType::normal_tagged
                                : has(write_through)                         ? MemoryType::device_nGnRnE
                                                                             : MemoryType::device_nGnRE;
        return Attributes{}
            .with_valid(has(present))
            .with_writable(has(write))
            .with_global(has(global))
            .with_executable(!has(no_execute))
            .with_fixed(has(fixed))
            .with_key(static_cast<unsigned>(bits >> key_shift))
            .with_memory_type(type);
    }

    [[nodiscard]] constexpr DescriptorChange spell(int level, Change change) const {
        const Attributes to = change.values();
        std::uint64_t clear = 0, set = 0;
        const auto spelled = [&](bool named, std::uint64_t mask, bool on) {
            if (!named) return;
            clear |= mask;
            if (on) set |= mask;
        };
        spelled(change.names_valid(), present, to.valid());
        spelled(change.names_writable(), write, to.writable());
        spelled(change.names_global(), global, to.global());
        spelled(change.names_executable(), no_execute, !to.executable());
        spelled(change.names_fixed(), fixed, to.fixed());
        if (change.names_key()) {
            clear |= key_mask.bits();
            set |= key_bits(to.key()).bits();
        }
        if (change.names_memory_type()) {
            clear |= write_through | cache_disable | pat(level);
            set |= type_bits(level, to.memory_type());
        }
        return {Descriptor::from_bits(clear), Descriptor::from_bits(set)};
    }
    [[nodiscard]] constexpr bool expressible(Change change) const { return !change.names_shared(); }

    [[nodiscard]] static constexpr Descriptor child_of(int level, Descriptor parent) {
        if (level + 1 != 3) return parent;
        const std::uint64_t bits = parent.bits() & ~(page_size | block | pat_of_block);
        return Descriptor::from_bits((parent.bits() & pat_of_block) != 0 ? bits | pat_of_page : bits);
    }
    [[nodiscard]] static constexpr Descriptor parent_of(int level, Descriptor child) {
        if (level + 1 != 3) return child;
        const std::uint64_t bits = child.bits() | page_size | block;
        return Descriptor::from_bits((child.bits() & pat_of_page) != 0 ? bits | pat_of_block : bits);
    }

    /// How hardware reads it, written from the manual and apart from the functions above. (Realm sharing has no place
    /// here; bits 9–11 and 52–58 are ignored by hardware, and an entry that is not present has no other rules.)
    [[nodiscard]] static machine::Entry decode(const machine::Regime& regime, int level, std::uint64_t word) {
        machine::Entry e;
        if (word == 0) return e;
        const auto malformed = [&](const char* problem) {
            e.kind = machine::Entry::Kind::malformed;
            e.problem = problem;
            return e;
        };
        const bool is_present = (word & 0x1) != 0, ps = (word >> 7 & 1) != 0, leaf = (word >> 9 & 1) != 0;
        if (level != 3 && is_present && !ps) {
            if (leaf) return malformed("a leaf above the last level without the page-size bit");
            e.kind = machine::Entry::Kind::table;
            e.pa = word & 0x000f'ffff'ffff'f000;
            if ((word & 0x2) == 0) return malformed("a table through which nothing may be written");
            if (word >> 63 != 0) return malformed("a table through which nothing may be executed");
            return e;
        }
        if (!leaf) return malformed("an entry that is neither empty nor a leaf nor a table");
        if (level < regime.first_block_level) return malformed("a leaf at a level that has none");
        if ((word & 0x4) != 0) return malformed("a leaf that user mode may access");
        if ((word & 0x60) != 0x60) return malformed("a leaf that hardware would have to mark accessed and dirty");
        const bool pat_set = level == 3 ? ps : (word >> 12 & 1) != 0;
        e.pa = word & 0x000f'ffff'ffff'f000 & ~(level == 3 ? 0 : std::uint64_t{0x1000});
        if ((e.pa & (regime.bytes(level) - 1)) != 0)
            return malformed("a leaf whose address is not aligned to its size");
        const unsigned index = (pat_set ? 4U : 0U) + static_cast<unsigned>(word >> 3 & 3); // PAT, PCD, PWT
        constexpr int type_of_index[] = {0, 1, 4, 3, 2, -1, -1, -1};
        if (type_of_index[index] < 0) return malformed("a memory type that nothing asks for");
        e.kind = is_present ? machine::Entry::Kind::leaf : machine::Entry::Kind::invalid;
        e.access.valid = is_present;
        e.access.writable = (word & 0x2) != 0;
        e.access.executable = word >> 63 == 0;
        e.access.global = (word >> 8 & 1) != 0;
        e.access.type = static_cast<unsigned>(type_of_index[index]) & 7U;
        e.access.key = static_cast<unsigned>(word >> 59) & 7U;
        return e;
    }
    static void describe_to(machine::Regime& regime) {
        regime.decoder = decode;
        regime.breaks_before_makes = false;
        regime.sizes_mix_if_alike = true;
    }
};

using X86Format = X86FormatOf<x86_shape>;
using SmallX86Format = X86FormatOf<small_x86_shape>;

} // namespace directmap::test

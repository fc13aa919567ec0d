#include "machine/regime.hpp"

#include <fmt/format.h>

namespace directmap::machine {

Access access_of(const Attributes& a) {
    Access access;
    access.valid = a.valid();
    access.writable = a.writable();
    access.executable = a.executable();
    access.global = a.global();
    access.shared = a.shared();
    access.type = static_cast<unsigned>(a.memory_type()) & 7u;
    access.key = a.key() & 7u;
    return access;
}

std::string describe(const Access& access) {
    if (access.absent) return "nothing";
    std::string text = fmt::format("{} {}", access.writable ? "RW" : "ro", access.executable ? "x" : "NX");
    if (access.type != 0) text += fmt::format(" type {}", unsigned{access.type});
    if (access.key != 0) text += fmt::format(" key {}", unsigned{access.key});
    if (access.shared) text += " shared";
    if (!access.global) text += " nG";
    return access.valid ? text : fmt::format("invalid ({})", text);
}

Regime Regime::arm64(unsigned page_shift, unsigned va_bits) {
    Regime r;
    r.page_shift = page_shift;
    r.va_bits = va_bits;
    r.pa_bits = va_bits > 48 ? 52 : 48;
    r.index_bits = page_shift - 3;
    if (page_shift == 14) {
        r.first_block_level = 2;
        r.group_shift[1] = 0;
        r.group_shift[2] = 5;
        r.group_shift[3] = 7;
    } else if (page_shift == 16) {
        r.first_block_level = 2;
        r.group_shift[1] = 0;
        r.group_shift[2] = 5;
        r.group_shift[3] = 5;
    }
    return r;
}

// VMSAv8-64 stage 1 (Arm ARM D8.3): bits 1:0 give the type, which depends on the level; the output address is in
// 47:12 (52-bit forms move its top bits into 15:12 or 49:48 and 9:8); AF 10, nG 11, AP[2] 7, AttrIndx 4:2,
// contiguous 52, PXN 53, UXN 54, POIndex 62:60.
Entry Regime::decode(int level, std::uint64_t word) const {
    if (decoder != nullptr) return decoder(*this, level, word);
    Entry e;
    if (word == 0) return e;
    const auto malformed = [&](const char* problem) {
        e.kind = Entry::Kind::malformed;
        e.problem = problem;
        return e;
    };
    const bool valid = (word & 1) != 0, type = (word & 2) != 0, last = level == 3;
    std::uint64_t address = 0;
    if (pa_bits == 48) {
        address = word & 0x0000fffffffff000;
        if ((word & 0x0003000000000000) != 0 && valid) return malformed("reserved address bits are set");
    } else if (page_shift == 16) {
        address = (word & 0x0000ffffffff0000) | ((word >> 12 & 0xf) << 48);
    } else {
        address = (word & 0x0003fffffffff000) | ((word >> 8 & 3) << 50);
    }
    if (valid && type && !last) {
        e.kind = Entry::Kind::table;
        e.pa = address;
        if ((address & ((std::uint64_t{1} << page_shift) - 1)) != 0) return malformed("a table that is not aligned");
        return e;
    }
    if (last && valid && !type) return malformed("a last-level leaf with the type of a block (0b01)");
    if (!last && !type && level < first_block_level) return malformed("a block at a level that has none");
    if (!valid && (word & (1u << 10)) == 0) return malformed("an invalid entry that is neither empty nor a leaf");
    if (!valid && type != last) return malformed("a present-invalid leaf of the wrong type for its level");
    if ((word & (1u << 10)) == 0) return malformed("a leaf without the access flag");
    if (pa_bits == 48 || page_shift == 16) {
        if ((word >> 8 & 3) != 3) return malformed("a leaf that is not inner shareable");
    }
    if ((word >> 54 & 1) == 0) return malformed("a leaf that user mode may execute");
    if ((word & (1u << 6)) != 0) return malformed("a leaf that user mode may access");
    e.access.shared = realm_shared_address != 0 && (address & realm_shared_address) != 0;
    e.pa = address & ~realm_shared_address;
    if ((e.pa & (bytes(level) - 1)) != 0) return malformed("a leaf whose address is not aligned to its size");
    e.kind = valid ? Entry::Kind::leaf : Entry::Kind::invalid;
    e.contiguous = (word >> 52 & 1) != 0;
    if (e.contiguous && group(level) == 1) return malformed("a contiguous bit at a level without groups");
    e.access.valid = valid;
    e.access.writable = (word & (1u << 7)) == 0;
    e.access.executable = (word >> 53 & 1) == 0;
    e.access.global = (word & (1u << 11)) == 0;
    e.access.type = static_cast<unsigned>(word >> 2) & 7u;
    e.access.key = static_cast<unsigned>(word >> 60) & 7u;
    return e;
}

} // namespace directmap::machine

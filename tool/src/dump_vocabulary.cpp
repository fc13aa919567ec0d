#include "dump_vocabulary.hpp"

#include <algorithm>
#include <array>
#include <bit>

namespace directmap::tool {
namespace {

constexpr unsigned printed_by(DumpArchitecture architecture) {
    return 1u << static_cast<unsigned>(architecture);
}
constexpr unsigned arm64 = printed_by(DumpArchitecture::arm64);
constexpr unsigned x86 = printed_by(DumpArchitecture::x86_64);
constexpr unsigned riscv = printed_by(DumpArchitecture::riscv);

// Bits of the set that carry no meaning for this program beyond "equal or not"; those with a meaning are in the header.
enum Bit : unsigned {
    read_only = 9,
    not_executable,
    user,
    shareable,
    accessed,
    not_global,
    user_not_executable,
    guarded,
    dirty_modifier,
    write_through,
    cache_disabled,
    memory_type_bit,
    global,
    dirty,
    readable,
    normal,
    normal_tagged,
    normal_not_cached,
    normal_write_through,
    strongly_ordered,
    device_early,
    device_gathering,
    key_1,
    key_2,
    key_3,
    key_4,
    key_5,
    key_6,
    key_7,
    first_unknown = 48,
};
static_assert(key_7 < first_unknown && first_unknown + DumpVocabulary::unknown_limit == 64);

constexpr DumpAttributes set(Bit bit) {
    return DumpAttributes{1} << bit;
}
constexpr DumpAttributes device(Bit bit) {
    return set(bit) | attribute::device;
}

struct Entry {
    unsigned printers; ///< architectures that print the word, for describe()
    DumpWord word;
};

// In the order in which kernels print them. A spelling that is read but never written has no printers.
constexpr std::array table = {
    Entry{arm64, {.text = "F", .attributes = attribute::invalid}},
    Entry{riscv, {.text = "N", .shape = DumpShape::contiguous}},
    Entry{riscv, {.text = "D", .attributes = set(dirty)}},
    Entry{riscv, {.text = "A", .attributes = set(accessed)}},
    Entry{riscv, {.text = "G", .attributes = set(global)}},
    Entry{riscv, {.text = "U", .attributes = set(user)}},
    Entry{riscv, {.text = "X", .attributes = attribute::executable}},
    Entry{riscv, {.text = "W", .attributes = attribute::writable}},
    Entry{riscv, {.text = "R", .attributes = set(readable)}},
    Entry{riscv, {.text = "V", .attributes = attribute::riscv_valid, .last = true}},
    Entry{arm64 | x86, {.text = "USR", .attributes = set(user)}},
    Entry{arm64 | x86, {.text = "ro", .attributes = set(read_only)}},
    Entry{0, {.text = "RO", .attributes = set(read_only)}},
    Entry{arm64 | x86, {.text = "RW", .attributes = attribute::writable}},
    Entry{x86, {.text = "PWT", .attributes = set(write_through)}},
    Entry{x86, {.text = "PCD", .attributes = set(cache_disabled) | attribute::uncached}},
    Entry{x86, {.text = "PSE", .shape = DumpShape::block}},
    Entry{x86, {.text = "PAT", .attributes = set(memory_type_bit)}},
    Entry{x86, {.text = "GLB", .attributes = set(global)}},
    Entry{arm64 | x86, {.text = "NX", .attributes = set(not_executable)}},
    Entry{arm64 | x86, {.text = "x", .attributes = attribute::executable}},
    Entry{arm64, {.text = "SHD", .attributes = set(shareable)}},
    Entry{arm64, {.text = "AF", .attributes = set(accessed)}},
    Entry{arm64, {.text = "NG", .attributes = set(not_global)}},
    Entry{arm64, {.text = "CON", .shape = DumpShape::contiguous}},
    Entry{arm64, {.text = "BLK", .shape = DumpShape::block}},
    Entry{arm64, {.text = "TBL", .shape = DumpShape::table}},
    Entry{arm64, {.text = "UXN", .attributes = set(user_not_executable)}},
    Entry{arm64, {.text = "DBM", .attributes = set(dirty_modifier)}},
    Entry{arm64, {.text = "GP", .attributes = set(guarded)}},
    Entry{arm64, {.text = "MEM/NORMAL", .attributes = set(normal), .last = true}},
    Entry{arm64, {.text = "MEM/NORMAL-TAGGED", .attributes = set(normal_tagged) | attribute::tagged, .last = true}},
    Entry{arm64, {.text = "MEM/NORMAL-NC", .attributes = set(normal_not_cached) | attribute::uncached, .last = true}},
    Entry{arm64, {.text = "MEM/NORMAL-WT", .attributes = set(normal_write_through), .last = true}},
    Entry{arm64, {.text = "DEVICE/nGnRnE", .attributes = device(strongly_ordered), .last = true}},
    Entry{arm64, {.text = "DEVICE/nGnRE", .attributes = device(device_early), .last = true}},
    Entry{arm64, {.text = "DEVICE/GRE", .attributes = device(device_gathering), .last = true}},
    // The engine's own dump says more than kernels do.
    Entry{arm64, {.text = "SHARED", .attributes = attribute::realm_shared, .trailing = true}},
    Entry{arm64, {.text = "KEY1", .attributes = set(key_1) | attribute::key, .trailing = true}},
    Entry{arm64, {.text = "KEY2", .attributes = set(key_2) | attribute::key, .trailing = true}},
    Entry{arm64, {.text = "KEY3", .attributes = set(key_3) | attribute::key, .trailing = true}},
    Entry{arm64, {.text = "KEY4", .attributes = set(key_4) | attribute::key, .trailing = true}},
    Entry{arm64, {.text = "KEY5", .attributes = set(key_5) | attribute::key, .trailing = true}},
    Entry{arm64, {.text = "KEY6", .attributes = set(key_6) | attribute::key, .trailing = true}},
    Entry{arm64, {.text = "KEY7", .attributes = set(key_7) | attribute::key, .trailing = true}},
};

} // namespace

std::string_view architecture_name(DumpArchitecture architecture) {
    constexpr std::array<std::string_view, 3> names = {"arm64", "x86-64", "riscv"};
    return names[static_cast<std::size_t>(architecture)];
}

std::string_view level_name(DumpLevel level, DumpArchitecture architecture) {
    constexpr std::array<std::string_view, 6> upper = {"PTE", "PMD", "PUD", "P4D", "PGD", "CR3"};
    constexpr std::array<std::string_view, 6> lower = {"pte", "pmd", "pud", "p4d", "pgd", "cr3"};
    return (architecture == DumpArchitecture::x86_64 ? lower : upper)[static_cast<std::size_t>(level)];
}

const DumpWord* DumpVocabulary::find(std::string_view text) {
    // The reader remembers whole attribute columns, so this runs once for each column that an input has, not once a
    // line.
    const auto found = std::ranges::find(table, text, [](const Entry& entry) { return entry.word.text; });
    return found == table.end() ? nullptr : &found->word;
}

DumpAttributes DumpVocabulary::intern(std::string_view text) {
    auto found = std::ranges::find(unknown_, text);
    if (found == unknown_.end() && unknown_.size() < unknown_limit)
        found = unknown_.insert(unknown_.end(), std::string(text));
    const auto index = found == unknown_.end() ? unknown_limit - 1 : static_cast<std::size_t>(found - unknown_.begin());
    return DumpAttributes{1} << (first_unknown + index);
}

std::string DumpVocabulary::describe(DumpAttributes attributes, DumpArchitecture architecture) const {
    std::string text;
    const auto add = [&text](std::string_view word) {
        if (!text.empty()) text += ' ';
        text += word;
    };
    for (const Entry& entry : table) {
        const DumpAttributes bits = entry.word.attributes;
        if (bits != 0 && (attributes & bits) == bits && (entry.printers & printed_by(architecture)) != 0)
            add(entry.word.text);
    }
    for (std::size_t index = 0; index < unknown_.size(); ++index) {
        if ((attributes >> (first_unknown + index) & 1) != 0) add(unknown_[index]);
    }
    return text;
}

} // namespace directmap::tool

// The words of page-table dumps: every attribute that a kernel prints for a leaf, in one place.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace directmap::tool {

enum class DumpArchitecture : std::uint8_t { arm64, x86_64, riscv };

[[nodiscard]] std::string_view architecture_name(DumpArchitecture architecture);

/// Names of levels as dumps print them. `root` is what x86-64 prints as `cr3`.
enum class DumpLevel : std::uint8_t { pte, pmd, pud, p4d, pgd, root };

/// `PMD` in arm64 and riscv dumps, `pmd` in x86-64 dumps.
[[nodiscard]] std::string_view level_name(DumpLevel level, DumpArchitecture architecture);

/// The attributes of a leaf: a set of words. Two leaves could be one leaf only when their sets are equal. Words that
/// tell the shape of the leaf (contiguous, block, table) are not attributes and not in the set.
using DumpAttributes = std::uint64_t;

namespace attribute {
inline constexpr DumpAttributes writable = 1;
inline constexpr DumpAttributes executable = 2;
/// Present-invalid: the leaf keeps its address and attributes, but every access faults.
inline constexpr DumpAttributes invalid = 4;
inline constexpr DumpAttributes device = 8;
/// riscv prints a letter for a valid leaf where arm64 prints one for an invalid leaf.
inline constexpr DumpAttributes riscv_valid = 16;
inline constexpr DumpAttributes uncached = 32;
inline constexpr DumpAttributes tagged = 64;
/// Shared with the host of a confidential guest.
inline constexpr DumpAttributes realm_shared = 128;
/// Any protection key but the first.
inline constexpr DumpAttributes key = 256;
} // namespace attribute

/// What a word says about the shape of an entry.
enum class DumpShape : std::uint8_t { none, contiguous, block, table };

struct DumpWord {
    std::string_view text;
    DumpAttributes attributes = 0; ///< what the word adds to the set
    DumpShape shape = DumpShape::none;
    bool last = false;     ///< the line is complete with this word; only trailing words may follow
    bool trailing = false; ///< may follow the last word
};

/// Known words, and the unknown ones of one input. Newer kernels print words that this table does not have: each gets a
/// bit of its own, so that leaves which differ in it are not taken for equal.
class DumpVocabulary {
public:
    /// The word, or nothing when it is not known.
    [[nodiscard]] static const DumpWord* find(std::string_view text);

    /// The bit for a word that `find` does not know. After `unknown_limit` different words all further ones share the
    /// last bit.
    [[nodiscard]] DumpAttributes intern(std::string_view text);
    [[nodiscard]] std::span<const std::string> unknown_words() const { return unknown_; }

    /// The attributes in the order in which the architecture's kernel prints them: `RW NX SHD AF UXN MEM/NORMAL`.
    [[nodiscard]] std::string describe(DumpAttributes attributes, DumpArchitecture architecture) const;

    static constexpr std::size_t unknown_limit = 16;

private:
    std::vector<std::string> unknown_;
};

[[nodiscard]] constexpr bool is_writable(DumpAttributes attributes) {
    return (attributes & attribute::writable) != 0;
}
[[nodiscard]] constexpr bool is_executable(DumpAttributes attributes) {
    return (attributes & attribute::executable) != 0;
}
[[nodiscard]] constexpr bool is_present_invalid(DumpAttributes attributes, DumpArchitecture architecture) {
    return (attributes & attribute::invalid) != 0 ||
           (architecture == DumpArchitecture::riscv && (attributes & attribute::riscv_valid) == 0);
}
/// Code that can be written and run without a fault. A present-invalid leaf can do neither.
[[nodiscard]] constexpr bool is_writable_executable(DumpAttributes attributes, DumpArchitecture architecture) {
    return is_writable(attributes) && is_executable(attributes) && !is_present_invalid(attributes, architecture);
}

} // namespace directmap::tool

// What changed between two page-table dumps of one host: what split, what healed, what changed permission.
#pragma once

#include "analyze.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace directmap::tool {

/// An input that is read twice: once to find the direct map, once to compare it. What can't be read again (a pipe, a
/// file of the kernel that changes while it is looked at) is copied to a temporary file first.
class RereadableInput {
public:
    /// `path` may be `-` for standard input, and end in `#2` for the second dump of a file. Throws InputError.
    explicit RereadableInput(const std::string& path);
    RereadableInput(const RereadableInput&) = delete;
    RereadableInput& operator=(const RereadableInput&) = delete;
    ~RereadableInput();

    /// From the start. Only one source at a time.
    [[nodiscard]] std::unique_ptr<ByteSource> open();
    [[nodiscard]] const std::string& name() const { return name_; }
    /// Which dump of the input is meant; 0 when it wasn't said.
    [[nodiscard]] std::uint64_t wanted_dump() const { return wanted_dump_; }

private:
    std::string name_;
    std::uint64_t wanted_dump_ = 0;
    int descriptor_ = -1;
};

enum class ChangeKind : std::uint8_t { none, split, healed, permission, mapped, unmapped };

/// A leaf of one dump that is several in the other.
struct LeafChange {
    std::uint64_t start = 0; ///< address in the dump that has the large leaf
    std::uint64_t size = 0;
    CountBySize parts{}; ///< leaves of the other dump in its place
    /// What changed permission inside, which is why leaves split; the first one. No attributes means not mapped.
    std::uint64_t permission_changes = 0;
    std::uint64_t cause_start = 0;
    std::uint64_t cause_bytes = 0;
    DumpAttributes cause_before = 0;
    DumpAttributes cause_after = 0;
};

/// All split leaves of a size, or all healed ones.
struct ResizeSummary {
    std::uint64_t bytes = 0;
    CountBySize leaves{}; ///< the large ones
    std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> bytes_from_to;
    std::vector<LeafChange> list; ///< the first ones
    [[nodiscard]] std::uint64_t count() const;
};

struct PermissionChange {
    std::uint64_t start = 0; ///< address in the later dump
    std::uint64_t bytes = 0;
    DumpAttributes before = 0;
    DumpAttributes after = 0;
};

struct PermissionGroup {
    DumpAttributes before = 0;
    DumpAttributes after = 0;
    std::uint64_t ranges = 0;
    std::uint64_t bytes = 0;
};

struct RangeTotals {
    std::uint64_t ranges = 0;
    std::uint64_t bytes = 0;
    std::vector<AddressRange> list; ///< the first ones
};

struct DumpDiff {
    DumpAnalysis before;
    DumpAnalysis after;
    DumpVocabulary vocabulary; ///< of the attributes below
    bool moved = false;        ///< the direct map starts elsewhere (address-space randomization): offsets were compared

    ResizeSummary split;
    ResizeSummary healed;
    std::uint64_t permission_bytes = 0;
    std::uint64_t permission_ranges = 0;
    std::vector<PermissionGroup> permission_groups; ///< the most bytes first
    std::vector<PermissionChange> permissions;      ///< the first ones
    RangeTotals mapped;                             ///< in the later dump only
    RangeTotals unmapped;                           ///< in the earlier dump only
    std::uint64_t unchanged_bytes = 0;

    MapPicture picture{0}; ///< the later dump; kinds are marked with what changed

    [[nodiscard]] bool same() const;
    /// What a person calls one of both dumps: with its number if they are of one file.
    [[nodiscard]] std::string title_of(const DumpAnalysis& dump) const;
};

struct DiffOptions {
    AnalyzeOptions analyze;
    std::size_t listed = 100; ///< entries of each list
    std::size_t picture_limit = 0;
};

/// Compares two dumps. Throws InputError when one holds no direct map, or several and it wasn't said which, when they
/// can't be of one host (another architecture or page size), and when a line is bad: a difference that isn't there
/// would be worse than none.
[[nodiscard]] DumpDiff diff_dumps(RereadableInput& before, RereadableInput& after, const DiffOptions& options);

} // namespace directmap::tool

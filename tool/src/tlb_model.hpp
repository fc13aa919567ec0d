// Set-associative TLBs of real cores: how often a stream of accesses needs a table walk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace directmap::tool {

/// Entries that share their sets: a whole level, or the part of one that is kept for some sizes.
struct TlbPart {
    std::uint64_t entries = 0;
    std::uint64_t ways = 0;           ///< divides `entries`; the same number means fully associative
    std::vector<std::uint64_t> sizes; ///< that an entry can map, in bytes, the smallest first
};

struct TlbLevel {
    std::string name;
    std::vector<TlbPart> parts; ///< no size is in two of them
};

struct TlbCore {
    std::string name;
    std::string about;
    std::string source;     ///< where the figures are from
    bool contiguous = true; ///< a contiguous group becomes one entry
    std::vector<TlbLevel> levels;
};

/// Reads cores from JSON; docs/replay.md describes the keys. Throws InputError.
[[nodiscard]] std::vector<TlbCore> parse_tlb_cores(std::string_view json, const std::string& source);
/// Those that are part of the program (tool/data/tlb-cores.json); the default one first.
[[nodiscard]] std::vector<TlbCore> builtin_tlb_cores();
/// A built-in core by its name, or the first of a file. Throws InputError.
[[nodiscard]] TlbCore read_tlb_core(const std::string& name_or_path);

/// The leaf that a walk finds.
struct TlbLeaf {
    std::uint64_t va = 0;              ///< where the leaf starts
    std::uint64_t size = 0;            ///< of the leaf, a contiguous group counted as one
    std::uint64_t descriptor_size = 0; ///< of one descriptor of it: smaller than `size` in a contiguous group
};

struct TlbCounts {
    std::uint64_t accesses = 0;
    std::vector<std::uint64_t> misses; ///< by level; the last level's misses are table walks
    [[nodiscard]] std::uint64_t walks() const { return misses.empty() ? 0 : misses.back(); }
    friend bool operator==(const TlbCounts&, const TlbCounts&) = default;
};

/// One core's data TLBs. Each level is looked up for every size it can hold; what a lower level finds is put into those
/// above; the least recently used entry of a set makes room.
///
/// A leaf is kept as the largest entry that the level can hold and that fits into the leaf: a core that holds no 1G
/// entries keeps a 1G leaf as several of 512M.
class TlbModel {
public:
    explicit TlbModel(const TlbCore& core);

    /// Accesses `va`. `find()` returns the leaf there and is called only when all levels miss; a leaf of size 0 is one
    /// that nobody can access, and the access is not counted.
    template <class Find>
    void access(std::uint64_t va, Find find) {
        const std::size_t level = look_up(va);
        const TlbLeaf leaf = level == levels_.size() ? find() : found_;
        if (leaf.size == 0) return;
        ++counts_.accesses;
        for (std::size_t missed = 0; missed < level; ++missed) ++counts_.misses[missed];
        fill(va, level, leaf);
    }
    /// Forgets what was counted, but no entry.
    void start_counting();
    [[nodiscard]] const TlbCounts& counts() const { return counts_; }

private:
    struct Entry {
        std::uint64_t va = 0;
        std::uint64_t size = 0; ///< 0: empty
        std::uint64_t used = 0;
        TlbLeaf leaf;
    };
    struct Part {
        std::uint64_t ways = 0;
        std::uint64_t sets = 0;
        std::vector<std::uint64_t> sizes;
        std::vector<std::uint64_t> present; ///< entries of each size: there is no need to look for what isn't there
        std::vector<Entry> entries;         ///< set by set
    };
    using Level = std::vector<Part>;

    /// The first level that holds `va`, its entry marked as used and its leaf in `found_`; the number of levels if none
    /// does.
    [[nodiscard]] std::size_t look_up(std::uint64_t va);
    /// Puts an entry for `va` into all levels above `level`.
    void fill(std::uint64_t va, std::size_t level, const TlbLeaf& leaf);

    bool contiguous_;
    std::vector<Level> levels_;
    TlbLeaf found_;
    std::uint64_t now_ = 0;
    TlbCounts counts_;
};

inline constexpr const char* default_tlb_core = "neoverse-n1";

} // namespace directmap::tool

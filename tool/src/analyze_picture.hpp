// A picture of a map that stays small however large the map: exact where there is room, summed up where there isn't.
#pragma once

#include "dump_vocabulary.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace directmap::tool {

/// Memory that is mapped in one way.
struct PictureKind {
    std::uint64_t leaf_size = 0;
    DumpAttributes attributes = 0;
    std::uint8_t mark = 0; ///< anything else that tells kinds apart
    friend bool operator==(const PictureKind&, const PictureKind&) = default;
};

/// `bytes` bytes of one kind, somewhere within [start, start + span). When both are equal, that is exactly where they
/// are.
struct PictureRun {
    std::uint64_t start = 0;
    std::uint64_t span = 0;
    std::uint64_t bytes = 0;
    std::uint32_t kind = 0;

    [[nodiscard]] bool exact() const { return span == bytes; }
};

class MapPicture {
public:
    /// Keeps at most about `limit` runs; 0 keeps none.
    explicit MapPicture(std::size_t limit) : limit_(limit) {}

    /// Addresses ascend.
    void add(std::uint64_t start, std::uint64_t bytes, PictureKind kind);

    [[nodiscard]] std::span<const PictureRun> runs() const { return runs_; }
    [[nodiscard]] std::span<const PictureKind> kinds() const { return kinds_; }
    /// Runs smaller than this may have been summed up.
    [[nodiscard]] std::uint64_t resolution() const { return resolution_; }

private:
    void append(PictureRun run);
    void compact();

    std::size_t limit_;
    std::uint64_t resolution_ = 4096;
    std::vector<PictureRun> runs_;
    std::vector<PictureKind> kinds_;
};

} // namespace directmap::tool

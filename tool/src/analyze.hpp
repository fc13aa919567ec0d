// From page-table dumps to what is known about their direct maps.
#pragma once

#include "analyze_map.hpp"
#include "dump.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace directmap::tool {

struct AnalyzeOptions {
    std::optional<std::uint64_t> granule; ///< of arm64 dumps, when it shall not be inferred
    MapOptions map;
};

struct AddressRange {
    std::uint64_t start = 0;
    std::uint64_t last = 0;
};

/// Memory anywhere in the address space that can be written and executed.
struct WritableExecutable {
    std::uint64_t bytes = 0;
    std::uint64_t ranges = 0;
    std::vector<AddressRange> list; ///< the first ones
};

/// What one dump says.
struct DumpAnalysis {
    enum class FoundBy : std::uint8_t { marker, end_marker, shape };

    std::string name;        ///< of the input
    std::uint64_t index = 0; ///< which dump of the input; from 1
    DumpArchitecture architecture = DumpArchitecture::arm64;
    std::uint64_t entries = 0; ///< lines about leaves and holes

    std::optional<MapSummary> map; ///< nothing when the dump shows no direct map
    FoundBy found_by = FoundBy::marker;
    bool granule_is_certain = true;
    std::uint64_t first_line = 0; ///< of the direct map

    WritableExecutable writable_executable;

    std::vector<DumpProblem> problems; ///< the first ones
    std::uint64_t bad_lines = 0;       ///< problems that make the input a bad one
    std::uint64_t problem_count = 0;
    /// The figures don't tell all of the direct map.
    [[nodiscard]] bool partial() const { return problem_count != 0; }
};

/// Analyzes all dumps of an input, one after the other, in memory that doesn't depend on its size. `result` is called
/// for each; the vocabulary knows its attributes' names. Returns how many there were. Throws InputError when the input
/// holds none at all, or isn't text.
std::uint64_t analyze_dumps(ByteSource& source, const std::string& name, const AnalyzeOptions& options,
                            const std::function<void(DumpAnalysis&&, const DumpVocabulary&)>& result);

/// Where a dump's direct map is, and in which geometry its lines are to be read. What a second pass over a dump needs.
struct DirectMapPlace {
    std::uint64_t start = 0;
    std::uint64_t last = 0;
    DumpGeometry geometry = DumpGeometry::arm64_4k();
};

/// The sizes of the leaves that a line stands for. Kernels set the contiguous bit on whole groups only; where a line's
/// ends aren't a group's, the rest counts as single entries. Up to three runs; none when the line can't be made of such
/// leaves.
struct LeafRuns {
    std::array<LeafRun, 3> runs;
    std::size_t count = 0;
};
[[nodiscard]] LeafRuns leaf_runs(const DumpLine& line, const DumpGeometry& geometry, const LevelNames& levels);

} // namespace directmap::tool

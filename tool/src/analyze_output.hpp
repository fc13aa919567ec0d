// What `directmap analyze` says about a dump, as JSON and as text.
#pragma once

#include "analyze.hpp"
#include "output.hpp"

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

namespace directmap::tool {

/// Sizes of working sets for which the demand for TLB entries is shown. Without any, sizes that suit the map are taken.
using WorkingSets = std::vector<std::uint64_t>;

/// One object, described in docs/schema.md.
[[nodiscard]] nlohmann::ordered_json json_of(const DumpAnalysis& analysis, const DumpVocabulary& vocabulary,
                                             const WorkingSets& working_sets);
/// The same object for an input that holds no dump at all.
[[nodiscard]] nlohmann::ordered_json json_of_failure(const std::string& name, std::uint64_t line,
                                                     const std::string& reason);

struct TextOptions {
    Palette palette;
    std::size_t width = 80;   ///< of the terminal
    std::size_t islands = 10; ///< how many are listed
    bool name_dump = false;   ///< the input has several dumps: say which this is
};

/// Everything, for one dump.
[[nodiscard]] std::string text_of(const DumpAnalysis& analysis, const DumpVocabulary& vocabulary,
                                  const WorkingSets& working_sets, const TextOptions& options);

/// One line for each of many dumps, and the heading above them.
[[nodiscard]] std::string fleet_heading();
[[nodiscard]] std::string fleet_line(const DumpAnalysis& analysis);

/// The map as coloured blocks, or as letters without colour. Every line fits into `width`.
[[nodiscard]] std::string text_picture(const MapSummary& map, const Palette& palette, std::size_t width,
                                       std::size_t most_rows);

/// What usually makes memory differ in this way: "read-only: ...". Empty when nothing is known.
[[nodiscard]] std::string usual_cause(DumpAttributes attributes, DumpAttributes around, DumpArchitecture architecture);

/// Words of `attributes` that `around` doesn't have, or the other way round when it has all: `ro` instead of `RW`.
[[nodiscard]] std::string difference(DumpAttributes attributes, DumpAttributes around, DumpArchitecture architecture,
                                     const DumpVocabulary& vocabulary);

/// `wanted`, or sizes that suit the map.
[[nodiscard]] WorkingSets suitable_sets(const MapSummary& map, const WorkingSets& wanted);

/// `12.5 %`; what is there never reads as nothing, and what isn't all never as all.
[[nodiscard]] std::string percent(std::uint64_t part, std::uint64_t whole);
/// How many times as many: `1.05`, `12.3`, `1,234`.
[[nodiscard]] std::string times(std::uint64_t more, std::uint64_t less);
/// `3 of 1G, 12 of 32M`.
[[nodiscard]] std::string list_by_size(const CountBySize& counts);

/// A path, whole, fit for a terminal.
[[nodiscard]] std::string shown_path(std::string_view path);

/// `0xffff000000000000-0xffff000000200000`, the end exclusive and printed as kernels do.
[[nodiscard]] std::string address_range(std::uint64_t start, std::uint64_t last);

} // namespace directmap::tool

// Reports of page-table dumps.
#pragma once

#include "analyze_output.hpp"
#include "diff.hpp"
#include "report.hpp"

#include <string>
#include <vector>

namespace directmap::tool {

/// One dump of an input, as `analyze_dumps` hands it out, and the vocabulary that it was read with.
struct ReportedDump {
    DumpAnalysis analysis;
    DumpVocabulary vocabulary;
};

/// All dumps of one input; there is at least one. Facts and tables are about the one with the most memory.
[[nodiscard]] Report report_of(std::vector<ReportedDump>&& dumps, const WorkingSets& working_sets);

/// Two dumps of one host.
[[nodiscard]] Report report_of(const DumpDiff& diff);

/// The picture of a dump's direct map. The analysis has one.
[[nodiscard]] ReportMap map_of(const DumpAnalysis& analysis, const DumpVocabulary& vocabulary, std::string title);

/// How many runs of memory a picture on a page keeps; the rest is summed up.
inline constexpr std::size_t report_picture_limit = 50000;

} // namespace directmap::tool

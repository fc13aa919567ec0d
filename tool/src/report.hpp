// Reports: one HTML page that is complete in itself, for analyze, diff, run and whatever else plays workloads.
//
// A command says what it found in the words of this header; the page's looks and behaviour are in tool/data/report.
// docs/report.md describes the page and its data.
#pragma once

#include "analyze_map.hpp"
#include "analyze_picture.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace directmap::tool {

/// A number that matters, with its name and a word on what it means.
struct ReportFact {
    std::string name;
    std::string value;
    std::string note;
};

/// A map of memory as a picture.
struct ReportMap {
    std::string title;
    std::string note;
    std::vector<std::uint64_t> sizes; ///< of leaves, in bytes, ascending: the smallest is the page
    MapPicture picture{0};            ///< marks of its kinds are what a ChangeKind says, or 0
    DumpArchitecture architecture = DumpArchitecture::arm64;
    DumpVocabulary vocabulary; ///< of the picture's attributes
};

/// Where a table's row is on a map of the report.
struct ReportPlace {
    std::size_t map = 0;
    std::uint64_t start = 0;
    std::uint64_t bytes = 0;
};

struct ReportColumn {
    std::string name;
    bool number = false; ///< aligned to the right
};

struct ReportTable {
    std::string title;
    std::string note;
    bool early = false; ///< in front of the pictures
    std::vector<ReportColumn> columns;
    std::vector<std::vector<std::string>> rows;       ///< as many cells as columns
    std::vector<std::optional<ReportPlace>> places{}; ///< of each row; may be shorter than `rows`
};

/// The state of a map behind a step of a workload.
struct ReportPoint {
    std::string label;
    std::uint64_t milliseconds = 0;
    std::vector<std::uint64_t> leaves; ///< counts, in the order of the series' sizes
    std::uint64_t table_bytes = 0;
    std::uint64_t reach_bytes = 0;              ///< of a TLB; 0: not known
    std::vector<std::uint64_t> further_metrics; ///< in the order of the timeline's
};

/// One policy's course.
struct ReportSeries {
    std::string name;
    std::string detail;
    std::vector<std::uint64_t> sizes; ///< of leaves, in bytes, the largest first
    std::vector<ReportPoint> points;
};

/// Something else that was counted at each step.
struct ReportMetric {
    std::string name;
    bool bytes = false;
};

/// Several policies' courses through the same steps.
struct ReportTimeline {
    std::string title;
    std::string note;
    std::vector<ReportMetric> further_metrics;
    std::vector<ReportSeries> series;
};

struct Report {
    enum class Tone : std::uint8_t { neutral, good, bad };

    std::string kind;     ///< what made it: `analyze`
    std::string title;    ///< what it is about
    std::string subtitle; ///< one line of circumstances
    Tone tone = Tone::neutral;
    std::string verdict;               ///< the sentence that a hurried reader takes away
    std::vector<std::string> verdicts; ///< further ones
    std::vector<ReportFact> facts;
    std::vector<ReportMap> maps;
    std::vector<ReportTimeline> timelines;
    std::vector<ReportTable> tables;
};

/// What a page says about its own origin.
struct ReportOrigin {
    std::string command; ///< as it was typed; command_line() tells
    std::string version; ///< `directmap 0.1.0`
    std::string made;    ///< when; empty: it doesn't say
};

/// This program's command line, quoted so that a shell would read it the same way.
[[nodiscard]] std::string command_line();
/// That, the version, and the time of day, or that of SOURCE_DATE_EPOCH.
[[nodiscard]] ReportOrigin report_origin(std::string_view version);

[[nodiscard]] std::string html_of(const Report& report, const ReportOrigin& origin);
/// Throws InputError when the file can't be written in full.
void write_report(const std::string& path, const Report& report, const ReportOrigin& origin);
/// Fails now and not after an hour's work when `path` can't be written. Throws InputError.
void check_report_path(const std::string& path);

/// What the page calls memory with these attributes: `read-only`. Outlines on the map go by these names.
[[nodiscard]] std::string_view permission_name(DumpAttributes attributes, DumpArchitecture architecture);

/// Series with more points than this are thinned for the page: of neighbours, the one with the most leaves stays.
inline constexpr std::size_t most_report_points = 1000;

} // namespace directmap::tool

// Texts that claim to be page-table dumps. Whatever the text, what is read of it keeps the reader's promises, the
// analysis adds up, a picture of it loses nothing, and the same bytes in other pieces read the same.
#include "analyze.hpp"
#include "analyze_output.hpp"
#include "input_error.hpp"
#include "report_analyze.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace directmap::tool;

void require(bool condition, const char* promise) {
    if (condition) return;
    std::fprintf(stderr, "broken: %s\n", promise);
    std::abort();
}

/// Hands out pieces of a size that depends on nothing but the input.
class PieceSource final : public ByteSource {
public:
    PieceSource(std::string_view text, std::size_t piece) : rest_(text), piece_(piece) {}
    std::size_t read(std::span<char> buffer) override {
        const std::size_t size = std::min({piece_, rest_.size(), buffer.size()});
        std::copy_n(rest_.begin(), size, buffer.begin());
        rest_.remove_prefix(size);
        return size;
    }

private:
    std::string_view rest_;
    std::size_t piece_;
};

/// Everything that a reader says, in a form that compares.
std::string story(std::string_view text, std::size_t piece) {
    PieceSource source(text, piece);
    DumpVocabulary vocabulary;
    DumpReader reader(source, "input", vocabulary);
    const auto lines = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
    std::string told;
    bool any = false;
    std::uint64_t last = 0;
    try {
        for (DumpEvent event = reader.next(); event != DumpEvent::end; event = reader.next()) {
            told += static_cast<char>('0' + static_cast<int>(event));
            switch (event) {
            case DumpEvent::new_dump: any = false; break;
            case DumpEvent::marker:
                for (const char c : reader.marker()) require(c >= ' ' && c <= '~', "markers are fit for a terminal");
                told += reader.marker();
                break;
            case DumpEvent::line: {
                const DumpLine& line = reader.line();
                require(line.start <= line.last, "a line has its ends in order");
                require(line.start % 4096 == 0 && line.last % 4096 == 4095, "a line is made of whole pages");
                require(line.number >= 1 && line.number <= lines, "the line of an entry is one of the input");
                if (line.entry != DumpEntry::table) {
                    require(!any || line.start > last, "addresses ascend");
                    last = line.last;
                    any = true;
                }
                told += std::to_string(line.start) + ',' + std::to_string(line.last) + ',' +
                        std::to_string(line.attributes) + ',' + std::to_string(line.number);
                break;
            }
            case DumpEvent::problem: {
                const DumpProblem& problem = reader.problem();
                require(problem.line <= lines, "the line of a problem is one of the input");
                require(!problem.reason.empty(), "a problem has a reason");
                require(problem.reason.find('\n') == std::string::npos, "a reason is one line");
                told += problem.reason;
                break;
            }
            case DumpEvent::end: break;
            }
        }
    } catch (const InputError& error) {
        require(error.line() <= lines && !error.reason().empty(), "an error says where and why");
        told += error.what();
    }
    return told;
}

void check_map(const DumpAnalysis& analysis) {
    const MapSummary& map = *analysis.map;
    std::uint64_t bytes = 0;
    std::uint64_t units = 0;
    std::uint64_t fewest = 0;
    for (const std::uint64_t size : map.sizes()) {
        bytes += map.bytes(size);
        units += map.count(size);
        fewest += map.minimum_leaves[size_index(size)];
    }
    require(bytes == map.mapped_bytes && units == map.units, "leaves add up to what is mapped");
    require(fewest == map.minimum_units && map.minimum_units <= map.units, "no map is smaller than the smallest");
    require(map.uniform_units <= map.minimum_units, "one permission needs no more leaves than several");
    require(map.tables_reclaimable <= map.tables, "no more tables come back than there are");
    require(map.collapsible_bytes <= map.mapped_bytes, "no more is collapsible than is mapped");
    std::uint64_t drawn = 0;
    std::uint64_t start = 0;
    for (const PictureRun& run : map.picture.runs()) {
        require(run.start >= start && run.bytes <= run.span, "a picture ascends");
        drawn += run.bytes;
        start = run.start;
    }
    require(drawn == map.mapped_bytes, "a picture shows all that is mapped");
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    // The last byte steers, so that files of real dumps are useful inputs as they are.
    const std::uint8_t choice = data[size - 1];
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    require(story(text, size) == story(text, 1 + choice % 61), "the same bytes in other pieces read the same");

    AnalyzeOptions options;
    if (choice % 4 == 1) options.granule = 4096;
    if (choice % 4 == 2) options.granule = 16384;
    if (choice % 4 == 3) options.granule = 65536;
    if (choice % 16 == 15) options.map.max_leaf = std::uint64_t{2} << 20;
    options.map.picture_limit = choice % 32 == 31 ? 8 : 1000;
    const auto source = text_source(text);
    std::vector<ReportedDump> dumps;
    try {
        analyze_dumps(*source, "input", options, [&](DumpAnalysis&& analysis, const DumpVocabulary& vocabulary) {
            if (analysis.map.has_value()) check_map(analysis);
            require(analysis.bad_lines <= analysis.problem_count, "bad lines are problems");
            const auto json =
                nlohmann::json::parse(json_of(analysis, vocabulary, {})
                                          .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
            require(json["partial"].get<bool>() == (analysis.problem_count != 0), "partial results say so");
            (void)text_of(analysis, vocabulary, {}, {.palette = Palette(choice % 2 == 0)});
            if (dumps.size() < 4) dumps.push_back({std::move(analysis), vocabulary});
        });
        const std::string page = html_of(report_of(std::move(dumps), {}), {});
        require(page.find("</html>") != std::string::npos, "a page is whole");
    } catch (const InputError& error) {
        require(error.file() == "input" && error.reason().find('\n') == std::string::npos, "an error is one line");
    }
    return 0;
}

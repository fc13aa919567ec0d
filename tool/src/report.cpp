#include "report.hpp"

#include "embedded.hpp"
#include "input_error.hpp"
#include "output.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

namespace directmap::tool {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view schema = "directmap.report/1";
/// Positions in the page count in these: every granule is a multiple, and 2^52 bytes fit into a double.
constexpr std::uint64_t position_unit = 4096;

std::string_view part_of_page(std::string_view name) {
    const auto files = embedded_files();
    const auto file = std::ranges::find(files, name, &EmbeddedFile::name);
    if (file == files.end()) throw std::logic_error(fmt::format("{} is not embedded", name));
    return file->text;
}

/// The colour of a leaf size, 0 to 4: pages have the last, the largest leaf the first, as in the terminal.
unsigned shade_of(const std::vector<std::uint64_t>& ascending, std::size_t rank) {
    if (rank == 0) return 4;
    const std::size_t from_top = ascending.size() - 1 - rank;
    return static_cast<unsigned>(ascending.size() == 3 ? 2 * from_top : std::min<std::size_t>(from_top, 3));
}

Json sizes_json(const std::vector<std::uint64_t>& ascending) {
    Json list = Json::array();
    for (std::size_t rank = ascending.size(); rank-- > 0;)
        list.push_back(
            {{"name", leaf_name(ascending[rank])}, {"bytes", ascending[rank]}, {"shade", shade_of(ascending, rank)}});
    return list;
}

Json map_json(const ReportMap& map) {
    const std::span<const PictureRun> runs = map.picture.runs();
    const std::uint64_t start = runs.empty() ? 0 : runs.front().start;
    Json kinds = Json::array();
    Json attributes = Json::array();
    std::vector<std::string> known;
    for (const PictureKind& kind : map.picture.kinds()) {
        const auto rank = std::ranges::find(map.sizes, kind.leaf_size) - map.sizes.begin();
        const std::size_t size = map.sizes.size() - 1 - static_cast<std::size_t>(rank);
        const std::string words = map.vocabulary.describe(kind.attributes, map.architecture);
        auto found = std::ranges::find(known, words);
        if (found == known.end()) found = known.insert(known.end(), words);
        kinds.push_back({{"size", size},
                         {"shade", shade_of(map.sizes, static_cast<std::size_t>(rank))},
                         {"attributes", found - known.begin()},
                         {"permission", permission_name(kind.attributes, map.architecture)},
                         {"change", kind.mark}});
    }
    for (const std::string& words : known) attributes.push_back(words);
    Json list = Json::array();
    std::uint64_t before = start;
    for (const PictureRun& run : runs) {
        list.push_back((run.start - before) / position_unit);
        list.push_back(run.span / position_unit);
        list.push_back(run.kind * 2 + (run.exact() ? 0 : 1));
        if (!run.exact()) list.push_back(std::max<std::uint64_t>(run.bytes / position_unit, 1));
        before = run.start;
    }
    return {{"title", map.title},        {"note", map.note},
            {"start", hex(start)},       {"sizes", sizes_json(map.sizes)},
            {"kinds", std::move(kinds)}, {"attributes", std::move(attributes)},
            {"runs", std::move(list)}};
}

std::uint64_t leaves_of(const ReportPoint& point) {
    return std::accumulate(point.leaves.begin(), point.leaves.end(), std::uint64_t{0});
}

Json timeline_json(const ReportTimeline& timeline) {
    Json metrics = Json::array();
    for (std::size_t index = 0; index < timeline.further_metrics.size(); ++index)
        metrics.push_back({{"key", fmt::format("metric{}", index)},
                           {"name", timeline.further_metrics[index].name},
                           {"unit", timeline.further_metrics[index].bytes ? "bytes" : "count"}});
    // All series keep the same steps, or a step of one would stand beside a different one of another.
    std::size_t longest = 0;
    for (const ReportSeries& one : timeline.series) longest = std::max(longest, one.points.size());
    const std::size_t group = (longest + most_report_points - 1) / most_report_points;
    Json series = Json::array();
    for (const ReportSeries& one : timeline.series) {
        Json points = Json::array();
        for (std::size_t first = 0; first < one.points.size(); first += group) {
            const auto from = one.points.begin() + static_cast<std::ptrdiff_t>(first);
            const auto to = from + static_cast<std::ptrdiff_t>(std::min(group, one.points.size() - first));
            const ReportPoint& point = *std::max_element(
                from, to, [](const ReportPoint& a, const ReportPoint& b) { return leaves_of(a) < leaves_of(b); });
            Json json = {{"label", point.label},        {"time", point.milliseconds}, {"leaves", leaves_of(point)},
                         {"tables", point.table_bytes}, {"reach", point.reach_bytes}, {"mix", point.leaves}};
            for (std::size_t index = 0; index < std::min(metrics.size(), point.further_metrics.size()); ++index)
                json[fmt::format("metric{}", index)] = point.further_metrics[index];
            points.push_back(std::move(json));
        }
        const std::vector<std::uint64_t> ascending(one.sizes.rbegin(), one.sizes.rend());
        series.push_back({{"name", one.name},
                          {"detail", one.detail},
                          {"sizes", sizes_json(ascending)},
                          {"points", std::move(points)}});
    }
    std::string note = timeline.note;
    if (group > 1) note += fmt::format(" Of each {} steps the one with the most leaves is shown.", grouped(group));
    return {{"title", timeline.title}, {"note", note}, {"metrics", std::move(metrics)}, {"series", std::move(series)}};
}

Json table_json(const ReportTable& table) {
    Json columns = Json::array();
    for (const ReportColumn& column : table.columns)
        columns.push_back({{"name", column.name}, {"number", column.number}});
    Json places = Json::array();
    for (const auto& place : table.places)
        places.push_back(place ? Json::array({place->map, hex(place->start), place->bytes}) : Json());
    return {{"title", table.title},          {"note", table.note}, {"early", table.early},
            {"columns", std::move(columns)}, {"rows", table.rows}, {"places", std::move(places)}};
}

std::string data_of(const Report& report, const ReportOrigin& origin) {
    constexpr std::array<std::string_view, 3> tones = {"neutral", "good", "bad"};
    Json facts = Json::array();
    for (const ReportFact& fact : report.facts)
        facts.push_back({{"name", fact.name}, {"value", fact.value}, {"note", fact.note}});
    Json json = {{"schema", schema},
                 {"kind", report.kind},
                 {"title", report.title},
                 {"subtitle", report.subtitle},
                 {"command", origin.command},
                 {"version", origin.version},
                 {"made", origin.made},
                 {"verdict",
                  {{"tone", tones[static_cast<std::size_t>(report.tone)]},
                   {"text", report.verdict},
                   {"details", report.verdicts}}},
                 {"facts", std::move(facts)},
                 {"maps", Json::array()},
                 {"timelines", Json::array()},
                 {"tables", Json::array()}};
    for (const ReportMap& map : report.maps) json["maps"].push_back(map_json(map));
    for (const ReportTimeline& timeline : report.timelines) json["timelines"].push_back(timeline_json(timeline));
    for (const ReportTable& table : report.tables) json["tables"].push_back(table_json(table));
    const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
    // Inside a script element nothing may look like the end of it; in JSON a `<` can only be in a string.
    std::string safe;
    safe.reserve(text.size());
    for (const char c : text) {
        if (c == '<')
            safe += "\\u003c";
        else
            safe += c;
    }
    return safe;
}

std::string escaped(std::string_view text) {
    std::string result;
    for (const char c : text) {
        switch (c) {
        case '&': result += "&amp;"; break;
        case '<': result += "&lt;"; break;
        case '>': result += "&gt;"; break;
        default: result += c;
        }
    }
    return result;
}

/// Text with each `@NAME@` of the template replaced, once and in one pass: what is put in is not looked at again.
std::string filled(std::string_view text, const std::vector<std::pair<std::string_view, std::string_view>>& values) {
    std::string result;
    while (!text.empty()) {
        const std::size_t at = text.find('@');
        result += text.substr(0, at);
        if (at == std::string_view::npos) break;
        text.remove_prefix(at);
        const auto value = std::ranges::find_if(values, [&](const auto& each) { return text.starts_with(each.first); });
        if (value == values.end()) {
            result += '@';
            text.remove_prefix(1);
        } else {
            result += value->second;
            text.remove_prefix(value->first.size());
        }
    }
    return result;
}

std::string shell_quoted(std::string_view word) {
    const bool plain = !word.empty() && std::ranges::all_of(word, [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
               std::string_view("-_./:=,+@%#").find(c) != std::string_view::npos;
    });
    if (plain && word[0] != '#') return std::string(word);
    std::string quoted = "'";
    for (const char c : word) {
        if (c == '\'')
            quoted += "'\\''";
        else
            quoted += c;
    }
    return quoted + "'";
}

std::string time_text() {
    std::time_t now = std::time(nullptr);
    if (const char* epoch = std::getenv("SOURCE_DATE_EPOCH"); epoch != nullptr) now = std::strtoll(epoch, nullptr, 10);
    std::tm parts{};
    if (::gmtime_r(&now, &parts) == nullptr) return {};
    return fmt::format("{:%Y-%m-%d %H:%M} UTC", parts);
}

} // namespace

std::string_view permission_name(DumpAttributes attributes, DumpArchitecture architecture) {
    if (is_present_invalid(attributes, architecture)) return "not accessible";
    if (is_writable_executable(attributes, architecture)) return "writable and executable";
    if ((attributes & attribute::realm_shared) != 0) return "shared";
    if ((attributes & attribute::key) != 0) return "key";
    if ((attributes & (attribute::uncached | attribute::device)) != 0) return "not cached";
    if (is_executable(attributes)) return "executable";
    return is_writable(attributes) ? "writable" : "read-only";
}

std::string command_line() {
    std::ifstream file("/proc/self/cmdline", std::ios::binary);
    std::string text = "directmap";
    std::string word;
    for (bool first = true; std::getline(file, word, '\0'); first = false) {
        if (!first) text += ' ' + shell_quoted(word);
    }
    return text;
}

ReportOrigin report_origin(std::string_view version) {
    return {.command = command_line(), .version = std::string(version), .made = time_text()};
}

std::string html_of(const Report& report, const ReportOrigin& origin) {
    const std::string data = data_of(report, origin);
    const std::string title = escaped(report.title);
    return filled(part_of_page("report.html"), {{"@TITLE@", title},
                                                {"@STYLE@", part_of_page("report.css")},
                                                {"@DATA@", data},
                                                {"@SCRIPT@", part_of_page("report.js")}});
}

void check_report_path(const std::string& path) {
    std::ofstream file(path, std::ios::binary | std::ios::app);
    if (!file) throw InputError(path, 0, fmt::format("can't be written: {}", std::strerror(errno)));
}

void write_report(const std::string& path, const Report& report, const ReportOrigin& origin) {
    const std::string html = html_of(report, origin);
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    if (!file.write(html.data(), static_cast<std::streamsize>(html.size())) || !file.flush())
        throw InputError(path, 0, fmt::format("can't be written: {}", std::strerror(errno)));
}

} // namespace directmap::tool

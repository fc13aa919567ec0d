#include "watch.hpp"

#include "input_error.hpp"
#include "output.hpp"
#include "scanner.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <ctime>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <ranges>

namespace directmap::tool {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view schema = "directmap.watch/1";
constexpr std::string_view meminfo_prefix = "DirectMap";
constexpr std::string_view vmstat_prefix = "direct_map_";

/// Calls `line(number, text)` for each line that starts with the prefix.
template <class Line>
void for_lines(std::string_view text, std::string_view prefix, Line line) {
    for (std::size_t number = 1; !text.empty(); ++number) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        if (text.starts_with(prefix)) line(number, text.substr(prefix.size(), end - prefix.size()));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
}

/// `4k`, `2M`, `1G`; kernels differ in the case of the letter.
bool take_leaf_size(Scanner& scanner, std::uint64_t& size) {
    if (!scanner.decimal(size) || !std::has_single_bit(size) || scanner.at_end()) return false;
    constexpr std::string_view units = "kKMGT";
    constexpr std::array<unsigned, 5> shifts = {10, 10, 20, 30, 40};
    const std::size_t unit = units.find(scanner.rest().front());
    if (unit == std::string_view::npos || size >= std::uint64_t{1} << 20) return false;
    size <<= shifts[unit];
    return scanner.accept(scanner.rest().substr(0, 1));
}

/// `4k:       28672 kB`; nothing if that is not what it is, and then `error` says what was expected.
std::optional<MappedBySize> parse_mapped(std::string_view text, std::string& error) {
    MappedBySize mapped;
    Scanner scanner(text);
    std::uint64_t kilobytes = 0;
    if (!take_leaf_size(scanner, mapped.leaf_size) || !scanner.accept(":")) {
        error = "expected a leaf size, as in DirectMap4k:";
        return std::nullopt;
    }
    scanner.skip_blanks();
    if (!scanner.decimal(kilobytes) || kilobytes > UINT64_MAX / 1024 || trimmed(scanner.rest()) != "kB") {
        error = "expected a number of kB";
        return std::nullopt;
    }
    mapped.bytes = kilobytes * 1024;
    return mapped;
}

/// `level2_splits 94`.
std::optional<KernelEvent> parse_event(std::string_view text, std::string& error) {
    const std::size_t blank = std::min(text.find(' '), text.size());
    KernelEvent event{.name = std::string(text.substr(0, blank))};
    Scanner scanner(text.substr(blank));
    scanner.skip_blanks();
    if (event.name.empty())
        error = "expected a name";
    else if (!scanner.decimal(event.count) || !trimmed(scanner.rest()).empty())
        error = "expected a number";
    return error.empty() ? std::optional(event) : std::nullopt;
}

std::string file_text(const std::string& path) {
    std::ifstream file(path);
    if (!file) throw InputError(path, 0, fmt::format("can't be opened: {}", std::strerror(errno)));
    return {std::istreambuf_iterator<char>(file), {}};
}

std::string clock_time(std::chrono::system_clock::time_point time) {
    return fmt::format("{:%H:%M:%S}", fmt::localtime(std::chrono::system_clock::to_time_t(time)));
}

std::string utc_time(std::chrono::system_clock::time_point time) {
    const auto milliseconds =
        std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count() % 1000;
    return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(std::chrono::system_clock::to_time_t(time)),
                       milliseconds);
}

/// `+12`, `-3`, or nothing.
std::string signed_change(std::uint64_t before, std::uint64_t after) {
    if (before == after) return {};
    return after > before ? fmt::format("+{}", grouped(after - before)) : fmt::format("-{}", grouped(before - after));
}

std::string rate_text(double rate) {
    return rate == 0 ? "0/s" : fmt::format("{:.{}f}/s", rate, rate < 10 ? 1 : 0);
}

// ---- The full-screen view

/// A curve of the values, one column for each, scaled from the least to the greatest.
std::string curve(const std::vector<double>& values, std::size_t width, bool unicode) {
    constexpr std::array<std::string_view, 8> blocks = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    constexpr std::array<std::string_view, 8> letters = {"_", ".", ",", "-", "=", "+", "*", "#"};
    const std::size_t first = values.size() > width ? values.size() - width : 0;
    const auto shown = std::span(values).subspan(first);
    if (shown.empty()) return {};
    const auto [least, greatest] = std::ranges::minmax(shown);
    std::string text;
    for (const double value : shown) {
        const double share = greatest > least ? (value - least) / (greatest - least) : 0;
        const auto step = static_cast<std::size_t>(std::lround(share * 7));
        text += (unicode ? blocks : letters)[std::min<std::size_t>(step, 7)];
    }
    return text;
}

std::string bar(double share, std::size_t width, bool unicode) {
    auto filled = static_cast<std::size_t>(std::lround(share * static_cast<double>(width)));
    // What is there is seen.
    if (share > 0) filled = std::max<std::size_t>(filled, 1);
    std::string text;
    for (std::size_t column = 0; column < std::min(filled, width); ++column) text += unicode ? "█" : "#";
    return text;
}

/// The text's first columns. Columns are counted in characters of UTF-8; escape sequences have none.
std::string clipped(const std::string& text, std::size_t width) {
    std::string result;
    std::size_t columns = 0;
    for (std::size_t at = 0; at < text.size();) {
        if (text[at] == '\x1b') {
            const std::size_t end = std::min(text.find('m', at), text.size() - 1) + 1;
            result += text.substr(at, end - at);
            at = end;
            continue;
        }
        std::size_t next = at + 1;
        while (next < text.size() && (static_cast<unsigned char>(text[next]) & 0xc0) == 0x80) ++next;
        if (columns++ < width) result += text.substr(at, next - at);
        at = next;
    }
    return result;
}

std::string trend_text(double units_a_minute) {
    if (std::abs(units_a_minute) < 0.5) return "steady";
    const auto leaves = static_cast<std::uint64_t>(std::llround(std::abs(units_a_minute)));
    return fmt::format("{}{} leaves a minute, {}", units_a_minute > 0 ? '+' : '-', grouped(leaves),
                       units_a_minute > 0 ? "breaking up" : "healing");
}

} // namespace

std::uint64_t WatchCounters::units() const {
    std::uint64_t total = 0;
    for (const MappedBySize& part : mapped) total += part.bytes / part.leaf_size;
    return total;
}

std::uint64_t WatchCounters::bytes() const {
    std::uint64_t total = 0;
    for (const MappedBySize& part : mapped) total += part.bytes;
    return total;
}

std::uint64_t WatchCounters::sum_of(std::string_view ending) const {
    std::uint64_t total = 0;
    for (const KernelEvent& event : events) total += event.name.ends_with(ending) ? event.count : 0;
    return total;
}

WatchCounters parse_counters(std::string_view meminfo, std::string_view vmstat, const WatchFiles& files) {
    WatchCounters counters;
    const auto collect = [](const std::string& file, std::string_view content, std::string_view prefix, auto parse,
                            auto& kept, auto key, std::string_view twice) {
        for_lines(content, prefix, [&](std::size_t number, std::string_view text) {
            std::string error;
            const auto part = parse(text, error);
            if (part && std::ranges::count(kept, std::invoke(key, *part), key) != 0) error = twice;
            if (!error.empty())
                throw InputError(file, number, fmt::format("'{}{}': {}", prefix, printable(text), error));
            kept.push_back(*part);
        });
    };
    collect(files.meminfo, meminfo, meminfo_prefix, parse_mapped, counters.mapped, &MappedBySize::leaf_size,
            "this size was there before");
    collect(files.vmstat, vmstat, vmstat_prefix, parse_event, counters.events, &KernelEvent::name,
            "this name was there before");
    if (counters.mapped.empty())
        throw InputError(files.meminfo, 0,
                         "no DirectMap lines: this kernel doesn't count how its direct map is mapped (x86-64 and s390 "
                         "kernels do; arm64 and "
                         "riscv kernels only with patches). A page-table dump tells more: directmap analyze");
    std::ranges::sort(counters.mapped, {}, &MappedBySize::leaf_size);
    return counters;
}

WatchCounters read_counters(const WatchFiles& files) {
    const std::string meminfo = file_text(files.meminfo);
    return parse_counters(meminfo, file_text(files.vmstat), files);
}

void WatchHistory::add(WatchSample sample) {
    if (samples_.empty()) first_ = sample;
    samples_.push_back(std::move(sample));
    if (samples_.size() > limit_) samples_.pop_front();
}

std::vector<double> WatchHistory::rates() const {
    std::vector<double> rates(latest().counters.events.size());
    if (samples_.size() < 2) return rates;
    const WatchSample& before = samples_[samples_.size() - 2];
    const double seconds = latest().elapsed - before.elapsed;
    for (std::size_t index = 0; index < rates.size() && index < before.counters.events.size(); ++index) {
        const std::uint64_t now = latest().counters.events[index].count;
        const std::uint64_t then = before.counters.events[index].count;
        rates[index] = seconds > 0 && now > then ? static_cast<double>(now - then) / seconds : 0;
    }
    return rates;
}

double WatchHistory::units_a_minute() const {
    double time_sum = 0;
    double units_sum = 0;
    for (const WatchSample& sample : samples_) {
        time_sum += sample.elapsed;
        units_sum += static_cast<double>(sample.counters.units());
    }
    const auto count = static_cast<double>(samples_.size());
    double spread = 0;
    double together = 0;
    for (const WatchSample& sample : samples_) {
        const double time = sample.elapsed - time_sum / count;
        spread += time * time;
        together += time * (static_cast<double>(sample.counters.units()) - units_sum / count);
    }
    return spread > 0 ? together / spread * 60 : 0;
}

std::string event_title(std::string_view name) {
    // x86-64 counts levels from the bottom: 2M leaves are at level 2.
    for (const auto& [level, size] : {std::pair{"level2", "2M"}, {"level3", "1G"}}) {
        if (name == std::string(level) + "_splits") return fmt::format("{} leaves split", size);
        if (name == std::string(level) + "_collapses") return fmt::format("{} leaves healed", size);
    }
    return std::string(name);
}

Json json_of(const WatchHistory& history) {
    const WatchSample& sample = history.latest();
    Json bytes = Json::object();
    for (const MappedBySize& part : sample.counters.mapped | std::views::reverse)
        bytes[leaf_name(part.leaf_size)] = part.bytes;
    Json events = Json::object();
    Json rates = Json::object();
    const std::vector<double> events_a_second = history.rates();
    for (std::size_t index = 0; index < sample.counters.events.size(); ++index) {
        events[sample.counters.events[index].name] = sample.counters.events[index].count;
        rates[sample.counters.events[index].name] = std::round(events_a_second[index] * 1000) / 1000;
    }
    return {{"schema", schema},
            {"time", utc_time(sample.time)},
            {"elapsed", std::round(sample.elapsed * 1000) / 1000},
            {"bytes", std::move(bytes)},
            {"units", sample.counters.units()},
            {"events", std::move(events)},
            {"rates", std::move(rates)},
            {"units_a_minute", std::round(history.units_a_minute() * 10) / 10}};
}

std::string watch_heading(const WatchCounters& counters) {
    std::string text = fmt::format("{:8}", "time");
    for (const MappedBySize& part : counters.mapped | std::views::reverse)
        text += fmt::format("  {:>12}", leaf_name(part.leaf_size) + " leaves");
    return text + fmt::format("  {:>12}  {:>8}  {:>9}  {:>10}\n", "all leaves", "change", "splits", "collapses");
}

std::string watch_line(const WatchHistory& history) {
    const WatchSample& sample = history.latest();
    std::string text = clock_time(sample.time);
    for (const MappedBySize& part : sample.counters.mapped | std::views::reverse)
        text += fmt::format("  {:>12}", human_size(part.bytes));
    const std::string change = signed_change(history.first().counters.units(), sample.counters.units());
    const bool counts_events = !sample.counters.events.empty();
    return text + fmt::format("  {:>12}  {:>8}  {:>9}  {:>10}\n", grouped(sample.counters.units()),
                              change.empty() ? "0" : change, counts_events ? grouped(sample.counters.splits()) : "-",
                              counts_events ? grouped(sample.counters.collapses()) : "-");
}

std::vector<std::string> watch_screen(const WatchHistory& history, const WatchView& view) {
    const Palette palette(view.colour);
    const WatchSample& now = history.latest();
    const WatchCounters& first = history.first().counters;
    std::vector<std::string> lines;
    lines.push_back(fmt::format("{}  {}  every {:g} s{}    {}", palette.bold("directmap watch"), clock_time(now.time),
                                view.interval, view.paused ? palette.yellow("  paused") : "",
                                palette.dim("q quit  space pause  + - interval")));
    lines.emplace_back();

    constexpr std::size_t label_width = 52;
    const std::size_t room = view.width > label_width + 8 ? std::min<std::size_t>(view.width - label_width, 60) : 8;
    lines.push_back(palette.dim(fmt::format("  {:<6} {:>12} {:>9} {:>16}", "leaf", "memory", "share", "since start")));
    for (std::size_t index = now.counters.mapped.size(); index-- > 0;) {
        const MappedBySize& part = now.counters.mapped[index];
        const double share =
            now.counters.bytes() == 0 ? 0 : static_cast<double>(part.bytes) / static_cast<double>(now.counters.bytes());
        std::string change;
        if (index < first.mapped.size() && first.mapped[index].bytes != part.bytes)
            change = part.bytes > first.mapped[index].bytes
                         ? fmt::format("+{}", human_size(part.bytes - first.mapped[index].bytes))
                         : fmt::format("-{}", human_size(first.mapped[index].bytes - part.bytes));
        constexpr std::array<std::string_view, 3> colours = {"31", "36", "32"}; // smallest, between, largest
        const std::size_t colour = index == 0 ? 0 : index + 1 == now.counters.mapped.size() ? 2 : 1;
        lines.push_back(fmt::format("  {:<6} {:>12} {:>8.2f}% {:>16}  {}", leaf_name(part.leaf_size),
                                    human_size(part.bytes), share * 100, change,
                                    palette.wrap(colours[colour], bar(share, room, view.unicode))));
    }
    lines.push_back(fmt::format("  {:<6} {:>12} {:>9} {:>16}", "leaves", grouped(now.counters.units()), "",
                                signed_change(first.units(), now.counters.units())));
    lines.emplace_back();

    const auto series = [&](auto value) {
        std::vector<double> values;
        for (const WatchSample& sample : history.samples()) values.push_back(value(sample.counters));
        return values;
    };
    lines.push_back(
        fmt::format("  {:<36}{:>14}  {}", "all leaves: " + trend_text(history.units_a_minute()), "",
                    curve(series([](const WatchCounters& counters) { return static_cast<double>(counters.units()); }),
                          room, view.unicode)));
    lines.push_back(fmt::format(
        "  {:<36}{:>14}  {}", "memory by the smallest leaves", human_size(now.counters.smallest_bytes()),
        curve(series([](const WatchCounters& counters) { return static_cast<double>(counters.smallest_bytes()); }),
              room, view.unicode)));
    lines.emplace_back();

    if (now.counters.events.empty())
        lines.emplace_back("  This kernel counts no splits (direct_map_* in /proc/vmstat).");
    const std::vector<double> rates = history.rates();
    for (std::size_t index = 0; index < now.counters.events.size(); ++index) {
        const KernelEvent& event = now.counters.events[index];
        std::vector<double> steps;
        for (std::size_t sample = 1; sample < history.samples().size(); ++sample) {
            const auto& later = history.samples()[sample].counters.events;
            const auto& earlier = history.samples()[sample - 1].counters.events;
            steps.push_back(index < later.size() && index < earlier.size() && later[index].count > earlier[index].count
                                ? static_cast<double>(later[index].count - earlier[index].count)
                                : 0);
        }
        const std::uint64_t before = index < first.events.size() ? first.events[index].count : 0;
        lines.push_back(fmt::format("  {:<18}{:>12} {:>9} {:>8}  {}", event_title(event.name), grouped(event.count),
                                    signed_change(before, event.count), rate_text(rates[index]),
                                    curve(steps, room, view.unicode)));
    }
    if (lines.size() > view.height) lines.resize(view.height);
    for (std::string& line : lines) line = clipped(line, view.width);
    return lines;
}

} // namespace directmap::tool

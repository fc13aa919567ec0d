// Texts that claim to be traces or what recorders print. Whatever the text, a reader refuses it with a line that the
// text has, or returns events that keep their promises; and those, written down as a trace, read the same.
#include "input_error.hpp"
#include "range.hpp"
#include "trace.hpp"
#include "trace_convert.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

namespace {

using namespace directmap::tool;

void require(bool condition, const char* promise) {
    if (condition) return;
    std::fprintf(stderr, "broken: %s\n", promise);
    std::abort();
}

std::vector<TraceEvent> read_all(TraceReader& reader, std::size_t lines) {
    std::vector<TraceEvent> events;
    for (TraceEvent event; reader.next(event);) {
        require(event.line >= 1 && event.line <= lines, "an event is on a line of the input");
        require(events.empty() || events.back().nanoseconds <= event.nanoseconds, "time doesn't go back");
        require(event.nanoseconds <= most_nanoseconds, "time can be written down");
        if (names_memory(event.operation)) {
            const std::uint64_t bytes = event.pages * reader.page_bytes();
            require(event.pages != 0 && bytes / reader.page_bytes() == event.pages, "pages can be counted in bytes");
            require(event.address % reader.page_bytes() == 0, "addresses are those of pages");
            require(is_virtual(event.address) ? event.address + bytes == 0 || event.address + bytes > event.address
                                              : event.address + bytes <= std::uint64_t{1} << max_physical_bits,
                    "memory doesn't wrap around");
        }
        for (const char c : event.text) require(c >= ' ' && c <= '~', "notes are fit for a terminal");
        events.push_back(event);
    }
    require(!reader.remarks().partial || !reader.remarks().partial_reason.empty(), "a partial trace says why");
    return events;
}

void check_round_trip(const TraceReader& reader, const std::vector<TraceEvent>& events) {
    std::string text = trace_head(reader.page_bytes(), reader.offset(), true);
    for (const TraceEvent& event : events) text += trace_line(event);
    std::istringstream stream(text);
    const auto again = read_trace(stream, "again");
    std::size_t index = 0;
    for (TraceEvent event; again->next(event); ++index) {
        require(index < events.size(), "no event is new");
        const TraceEvent& before = events[index];
        require(event.nanoseconds == before.nanoseconds && event.operation == before.operation &&
                    event.address == before.address && event.pages == before.pages && event.atomic == before.atomic &&
                    event.text == before.text,
                "what is written down reads the same");
    }
    require(index == events.size(), "no event is lost");
    require(again->page_bytes() == reader.page_bytes() && again->offset() == reader.offset(), "nor a setting");
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    // The last byte steers, so that files as people have them are useful inputs as they are.
    const std::uint8_t choice = data[size - 1];
    const std::string text(reinterpret_cast<const char*>(data), size);
    const auto lines = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
    std::istringstream stream(text);
    ConvertOptions options;
    if (choice % 4 >= 2) options.vmemmap = 0xffffea0000000000;
    if (choice % 16 >= 8) options.page_bytes = 65536;
    try {
        const auto reader = text.starts_with("directmap.trace") ? read_trace(stream, "input")
                            : choice % 2 == 0 ? convert_trace(stream, "input", RecorderFormat::ftrace, options)
                                              : convert_trace(stream, "input", RecorderFormat::bpftrace, options);
        const std::vector<TraceEvent> events = read_all(*reader, lines);
        check_round_trip(*reader, events);
    } catch (const InputError& error) {
        require(error.file() == "input", "what was written down can be read");
        require(error.line() <= lines && !error.reason().empty(), "an error says where and why");
        require(error.reason().find('\n') == std::string::npos, "an error is one line");
    }
    return 0;
}

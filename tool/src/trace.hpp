// Recorded streams of permission changes: the text format that `directmap replay` reads. docs/replay.md describes it.
#pragma once

#include <cstdint>
#include <istream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace directmap::tool {

enum class TraceOperation : std::uint8_t {
    read_only,                ///< ro
    writable,                 ///< rw
    executable,               ///< x
    not_executable,           ///< nx
    read_only_executable,     ///< rox
    writable_not_executable,  ///< rwnx
    read_only_not_executable, ///< ronx
    invalid,                  ///< pages that the kernel itself can't reach
    valid,
    restore, ///< `default`: valid, writable, not executable, as after boot
    shared,  ///< with a host: broken before it is made
    unshared,
    pin,   ///< to be kept by pages from here on
    unpin, //
    // Those below name no memory.
    collapse, ///< everything, where the policy heals on request
    tick,     ///< background collapse takes a step
    note,     ///< a text for the timeline
};

/// The word that traces use.
[[nodiscard]] std::string_view operation_name(TraceOperation operation);
[[nodiscard]] std::optional<TraceOperation> operation_of(std::string_view word);
[[nodiscard]] constexpr bool names_memory(TraceOperation operation) {
    return operation < TraceOperation::collapse;
}

struct TraceEvent {
    std::uint64_t line = 0; ///< of the input
    std::uint64_t nanoseconds = 0;
    TraceOperation operation = TraceOperation::note;
    std::uint64_t address = 0; ///< physical, or virtual if the top bit is set
    std::uint64_t pages = 0;   ///< of TraceReader::page_bytes
    bool atomic = false;       ///< from a context that can't sleep
    std::string text;          ///< of a note
};

/// What there was to say about a trace beside its events.
struct TraceRemarks {
    std::map<std::string, std::uint64_t> skipped; ///< why, how often
    bool partial = false;                         ///< the recorder lost events, or the last line is cut off
    std::string partial_reason;
};

/// A source of events, one at a time: a trace, or what a converter makes of a recorder's output. A trace may be of any
/// length; no more than a line of it is in memory.
class TraceReader {
public:
    TraceReader() = default;
    TraceReader(const TraceReader&) = delete;
    TraceReader& operator=(const TraceReader&) = delete;
    virtual ~TraceReader() = default;

    /// Reads the next event; returns false at the end. Throws InputError at a line that it can't understand.
    virtual bool next(TraceEvent& event) = 0;

    [[nodiscard]] const std::string& source() const { return source_; }
    [[nodiscard]] const TraceRemarks& remarks() const { return remarks_; }
    [[nodiscard]] std::uint64_t line_number() const { return line_; }
    [[nodiscard]] std::uint64_t bytes_read() const { return bytes_read_; }

    // What the lines before the first event said.
    [[nodiscard]] std::uint64_t page_bytes() const { return page_bytes_; }
    [[nodiscard]] std::optional<std::uint64_t> offset() const { return offset_; } ///< VA - PA where it was recorded
    [[nodiscard]] bool ticks_recorded() const { return ticks_recorded_; }

protected:
    TraceReader(std::istream& input, std::string source) : input_(&input), source_(std::move(source)) {}

    /// Reads a line, without its ending, into `text`; returns false at the end. Throws InputError if it isn't text or
    /// longer than any line.
    bool read_line(std::string& text);
    /// Whether the line that was read last had no ending, so that it may be cut off.
    [[nodiscard]] bool is_cut() const { return cut_; }
    [[noreturn]] void fail(const std::string& reason) const;

    [[nodiscard]] TraceRemarks& noted() { return remarks_; }
    void set_page_bytes(std::uint64_t bytes) { page_bytes_ = bytes; }
    void set_offset(std::optional<std::uint64_t> offset) { offset_ = offset; }
    void set_ticks_recorded() { ticks_recorded_ = true; }

private:
    std::istream* input_ = nullptr;
    std::string source_;
    TraceRemarks remarks_;
    std::uint64_t line_ = 0;
    std::uint64_t bytes_read_ = 0;
    std::uint64_t page_bytes_ = 4096;
    std::optional<std::uint64_t> offset_;
    bool ticks_recorded_ = false;
    bool cut_ = false;
};

/// Reads the trace format. `input` must outlive it.
[[nodiscard]] std::unique_ptr<TraceReader> read_trace(std::istream& input, const std::string& source);

/// The first lines of a trace. `offset` and `ticks_recorded` as in TraceReader.
[[nodiscard]] std::string trace_head(std::uint64_t page_bytes, std::optional<std::uint64_t> offset,
                                     bool ticks_recorded);
/// The line of an event, its ending included.
[[nodiscard]] std::string trace_line(const TraceEvent& event);

/// Reads `1.000250` as nanoseconds; anything else is nothing.
[[nodiscard]] std::optional<std::uint64_t> parse_seconds(std::string_view text);

/// Kernel addresses of all three architectures have the top bit set, physical ones don't.
[[nodiscard]] constexpr bool is_virtual(std::uint64_t address) {
    return address >> 63 != 0;
}

/// Longer than any machine has been up (in seconds 10^10), and short of where 64 bits overflow.
inline constexpr std::uint64_t most_nanoseconds = 10'000'000'000 * std::uint64_t{1'000'000'000};
inline constexpr std::string_view trace_format = "directmap.trace/1";

} // namespace directmap::tool

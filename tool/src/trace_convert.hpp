// Makes a trace of what kernel recorders print: ftrace (function arguments, kprobe events; trace-cmd's reports) and
// bpftrace with tool/data/record.bt.
#pragma once

#include "trace.hpp"

#include <cstdint>
#include <istream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace directmap::tool {

enum class RecorderFormat : std::uint8_t { ftrace, bpftrace };

struct ConvertOptions {
    std::uint64_t page_bytes = 4096;
    std::optional<std::uint64_t> offset;  ///< VA - PA of the kernel that was recorded
    std::optional<std::uint64_t> vmemmap; ///< where its array of struct page begins, as if it began with frame 0
    std::uint64_t struct_page_bytes = 64;
};

/// Reads a recorder's output as a trace. Lines that concern no permission are passed over; calls that say too little
/// are counted in the remarks. `input` must outlive it.
[[nodiscard]] std::unique_ptr<TraceReader> convert_trace(std::istream& input, const std::string& source,
                                                         RecorderFormat format, const ConvertOptions& options);

/// The kernel functions whose calls become events.
[[nodiscard]] std::vector<std::string_view> converted_functions();

/// The names in a text like /proc/kallsyms. Throws InputError if it is none.
[[nodiscard]] std::set<std::string> read_symbols(std::istream& input, const std::string& source);

/// A bpftrace script without the probes whose functions a kernel doesn't have.
struct RecordingScript {
    std::string text;
    std::set<std::string> left_out;
};
[[nodiscard]] RecordingScript script_for(std::string_view script, const std::set<std::string>& symbols);

} // namespace directmap::tool

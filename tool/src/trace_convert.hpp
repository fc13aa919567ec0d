// Makes a trace of what kernel recorders print: ftrace (function arguments, kprobe events; trace-cmd's reports) and
// bpftrace with tool/data/record.bt.
#pragma once

#include "trace.hpp"

#include <cstdint>
#include <istream>
#include <memory>
#include <optional>
#include <string>

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

} // namespace directmap::tool

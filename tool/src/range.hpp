// Ranges of physical memory as the tool handles them: half-open, sorted, merged.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace directmap::tool {

/// Bytes [start, end). Kernels print the last byte instead; everything read is converted to this form at once.
struct Range {
    std::uint64_t start = 0;
    std::uint64_t end = 0;

    [[nodiscard]] std::uint64_t size() const { return end - start; }
    [[nodiscard]] bool empty() const { return start >= end; }
    [[nodiscard]] bool contains(std::uint64_t address) const { return start <= address && address < end; }
    [[nodiscard]] bool contains(const Range& other) const { return start <= other.start && other.end <= end; }
    [[nodiscard]] bool overlaps(const Range& other) const { return start < other.end && other.start < end; }
    friend bool operator==(const Range&, const Range&) = default;
};

struct NamedRange {
    Range range;
    std::string name;
    friend bool operator==(const NamedRange&, const NamedRange&) = default;
};

/// Sorts, drops empty ranges, joins what overlaps or touches. The functions below need their arguments in this form.
[[nodiscard]] std::vector<Range> merged(std::vector<Range> ranges);
/// What is in `from` and not in `what`.
[[nodiscard]] std::vector<Range> subtract(const std::vector<Range>& from, const std::vector<Range>& what);
/// What is in both.
[[nodiscard]] std::vector<Range> intersect(const std::vector<Range>& a, const std::vector<Range>& b);
/// The ranges without their names, merged.
[[nodiscard]] std::vector<Range> ranges_of(const std::vector<NamedRange>& named);
[[nodiscard]] std::uint64_t total_size(const std::vector<Range>& ranges);

/// Reads `START-END` (END is the last byte, as in /proc/iomem) or `START+SIZE`. Numbers are hexadecimal, with or
/// without 0x; a SIZE that ends in K, M, G or T is decimal. Returns the range, or sets `error` and returns nothing.
[[nodiscard]] std::optional<Range> parse_range(std::string_view text, std::string& error);

/// No machine has physical addresses of more bits (arm64 and x86-64: 52, riscv: 56); whatever lies beyond is a broken
/// input.
inline constexpr unsigned max_physical_bits = 56;

} // namespace directmap::tool

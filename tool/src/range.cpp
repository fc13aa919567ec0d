#include "range.hpp"

#include "output.hpp"
#include "scanner.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <utility>

namespace directmap::tool {

std::vector<Range> merged(std::vector<Range> ranges) {
    std::erase_if(ranges, [](const Range& range) { return range.empty(); });
    std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.start < b.start; });
    std::vector<Range> result;
    for (const Range& range : ranges) {
        if (!result.empty() && range.start <= result.back().end)
            result.back().end = std::max(result.back().end, range.end);
        else
            result.push_back(range);
    }
    return result;
}

std::vector<Range> subtract(const std::vector<Range>& from, const std::vector<Range>& what) {
    std::vector<Range> result;
    if (from.empty()) return result;
    auto cut = std::lower_bound(what.begin(), what.end(), from.front().start,
                                [](const Range& range, std::uint64_t address) { return range.end <= address; });
    for (Range rest : from) {
        while (cut != what.end() && cut->end <= rest.start) ++cut;
        for (auto next = cut; next != what.end() && next->start < rest.end; ++next) {
            if (rest.start < next->start) result.push_back({rest.start, next->start});
            rest.start = std::min(next->end, rest.end);
        }
        if (!rest.empty()) result.push_back(rest);
    }
    return result;
}

std::vector<Range> intersect(const std::vector<Range>& a, const std::vector<Range>& b) {
    std::vector<Range> result;
    for (auto left = a.begin(), right = b.begin(); left != a.end() && right != b.end();) {
        const Range common{std::max(left->start, right->start), std::min(left->end, right->end)};
        if (!common.empty()) result.push_back(common);
        if (left->end < right->end)
            ++left;
        else
            ++right;
    }
    return result;
}

std::vector<Range> ranges_of(const std::vector<NamedRange>& named) {
    std::vector<Range> ranges;
    for (const NamedRange& one : named) ranges.push_back(one.range);
    return merged(std::move(ranges));
}

std::uint64_t total_size(const std::vector<Range>& ranges) {
    std::uint64_t sum = 0;
    for (const Range& range : ranges) sum += range.size();
    return sum;
}

namespace {

/// `2G` is decimal, `80000000` and `0x80000000` are hexadecimal: a suffix is what people write behind decimal numbers
/// only.
bool parse_size(Scanner& scanner, std::uint64_t& size) {
    Scanner as_decimal = scanner;
    std::uint64_t count = 0;
    if (as_decimal.decimal(count)) {
        constexpr std::string_view suffixes = "KMGT";
        for (std::size_t i = 0; i < suffixes.size(); ++i) {
            const unsigned shift = 10 * static_cast<unsigned>(i + 1);
            if (!as_decimal.accept(suffixes.substr(i, 1))) continue;
            if (count > (UINT64_MAX >> shift)) return false;
            size = count << shift;
            scanner = as_decimal;
            return true;
        }
    }
    return scanner.hex(size);
}

} // namespace

std::optional<Range> parse_range(std::string_view text, std::string& error) {
    constexpr std::uint64_t limit = std::uint64_t{1} << max_physical_bits;
    Scanner scanner(trimmed(text));
    std::uint64_t start = 0;
    if (!scanner.hex(start)) {
        error = "not a range: write START-END or START+SIZE in hexadecimal, END being the last byte";
        return std::nullopt;
    }
    scanner.skip_blanks();
    std::uint64_t size = 0;
    if (scanner.accept("-")) {
        scanner.skip_blanks();
        std::uint64_t last = 0;
        if (!scanner.hex(last)) {
            error = "the end of the range is missing or is not a hexadecimal number of up to 64 bits";
            return std::nullopt;
        }
        if (last < start) {
            error = fmt::format("the end {} lies before the start {}", hex(last), hex(start));
            return std::nullopt;
        }
        if (last >= limit) {
            error = fmt::format("the end {} lies beyond {} bits of physical address", hex(last), max_physical_bits);
            return std::nullopt;
        }
        size = last - start + 1;
    } else if (scanner.accept("+")) {
        scanner.skip_blanks();
        if (!parse_size(scanner, size)) {
            error = "the size of the range is missing or is not a number of up to 64 bits";
            return std::nullopt;
        }
        if (size == 0) {
            error = "the range is empty";
            return std::nullopt;
        }
        if (start >= limit || size > limit - start) {
            error = fmt::format("the range of {} bytes at {} runs beyond {} bits of physical address", hex(size),
                                hex(start), max_physical_bits);
            return std::nullopt;
        }
    } else {
        error = "'-END' or '+SIZE' is missing behind the start";
        return std::nullopt;
    }
    scanner.skip_blanks();
    if (!scanner.at_end()) {
        error = fmt::format("unexpected text behind the range: '{}'", printable(scanner.rest()));
        return std::nullopt;
    }
    return Range{start, start + size};
}

} // namespace directmap::tool

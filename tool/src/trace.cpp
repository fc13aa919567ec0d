#include "trace.hpp"

#include "input_error.hpp"
#include "output.hpp"
#include "range.hpp"
#include "scanner.hpp"

#include <array>
#include <bit>
#include <fmt/format.h>
#include <utility>
#include <vector>

namespace directmap::tool {
namespace {

constexpr std::array<std::pair<TraceOperation, std::string_view>, 17> operations = {{
    {TraceOperation::read_only, "ro"},
    {TraceOperation::writable, "rw"},
    {TraceOperation::executable, "x"},
    {TraceOperation::not_executable, "nx"},
    {TraceOperation::read_only_executable, "rox"},
    {TraceOperation::writable_not_executable, "rwnx"},
    {TraceOperation::read_only_not_executable, "ronx"},
    {TraceOperation::invalid, "invalid"},
    {TraceOperation::valid, "valid"},
    {TraceOperation::restore, "default"},
    {TraceOperation::shared, "shared"},
    {TraceOperation::unshared, "private"},
    {TraceOperation::pin, "pin"},
    {TraceOperation::unpin, "unpin"},
    {TraceOperation::collapse, "collapse"},
    {TraceOperation::tick, "tick"},
    {TraceOperation::note, "note"},
}};

constexpr std::size_t longest_line = 4096;
constexpr std::uint64_t nanoseconds_a_second = 1'000'000'000;

std::vector<std::string_view> words_of(std::string_view line) {
    std::vector<std::string_view> words;
    for (;;) {
        line = trimmed(line);
        if (line.empty()) return words;
        const std::size_t end = std::min(line.find_first_of(" \t"), line.size());
        words.push_back(line.substr(0, end));
        line.remove_prefix(end);
    }
}

class NativeTrace final : public TraceReader {
public:
    NativeTrace(std::istream& input, const std::string& source) : TraceReader(input, source) {}

    bool next(TraceEvent& event) override {
        while (read_line(text_)) {
            std::string_view line = text_;
            line = line.substr(0, line.find('#'));
            const std::vector<std::string_view> words = words_of(line);
            if (words.empty()) continue;
            if (!headed_) {
                if (words.size() != 1 || words[0] != trace_format)
                    fail(fmt::format("a trace begins with a line '{}', not with '{}'; --from reads what recorders "
                                     "print",
                                     trace_format, printable(line)));
                headed_ = true;
                continue;
            }
            if (!began_ && parse_setting(words)) continue;
            began_ = true;
            if (is_cut() && !is_whole(words)) {
                noted().partial = true;
                noted().partial_reason = fmt::format("line {} is cut off", line_number());
                return false;
            }
            parse_event(words, line, event);
            return true;
        }
        if (!headed_)
            throw InputError(source(), 0, fmt::format("it is empty; a trace begins with a line '{}'", trace_format));
        return false;
    }

private:
    /// `page 4K`, `offset 0x...`, `ticks recorded`: before the first event.
    bool parse_setting(const std::vector<std::string_view>& words) {
        if (words[0] == "page") {
            for (const std::uint64_t size : {std::uint64_t{4096}, std::uint64_t{16384}, std::uint64_t{65536}})
                if (words.size() == 2 && words[1] == leaf_name(size)) {
                    set_page_bytes(size);
                    return true;
                }
            fail("pages are 4K, 16K or 64K: 'page 4K'");
        }
        if (words[0] == "offset") {
            std::uint64_t offset = 0;
            Scanner scanner(words.size() == 2 ? words[1] : "");
            if (!scanner.hex(offset) || !scanner.at_end() || offset % 4096 != 0)
                fail("an offset is a hexadecimal number of whole pages: 'offset 0xffff000000000000'");
            set_offset(offset);
            return true;
        }
        if (words[0] == "ticks") {
            if (words.size() != 2 || words[1] != "recorded") fail("there is only 'ticks recorded'");
            set_ticks_recorded();
            return true;
        }
        return false;
    }

    /// Whether an event's line that has no ending can be believed: a count whose last digits are missing can't.
    static bool is_whole(const std::vector<std::string_view>& words) {
        return words.size() == 2 && (words[1] == operation_name(TraceOperation::collapse) ||
                                     words[1] == operation_name(TraceOperation::tick));
    }

    void parse_event(const std::vector<std::string_view>& words, std::string_view line, TraceEvent& event) {
        event = TraceEvent{};
        event.line = line_number();
        const auto time = parse_seconds(words[0]);
        if (!time)
            fail(fmt::format("a line begins with a time in seconds, such as 12.000250, not with '{}'",
                             printable(words[0])));
        event.nanoseconds = *time;
        if (*time < latest_) fail(fmt::format("time goes back, from {} to {}", latest_text_, printable(words[0])));
        latest_ = *time;
        latest_text_ = words[0];
        if (words.size() < 2) fail("an operation is missing behind the time");
        const auto operation = operation_of(words[1]);
        if (!operation) fail(fmt::format("'{}' is no operation; there are {}", printable(words[1]), all_operations()));
        event.operation = *operation;
        if (event.operation == TraceOperation::note) {
            event.text = printable(trimmed(line.substr(line.find(words[1]) + words[1].size())));
            return;
        }
        if (!names_memory(event.operation)) {
            if (words.size() > 2) fail(fmt::format("unexpected '{}'", printable(words[2])));
            if (event.operation == TraceOperation::tick && !ticks_recorded())
                fail("a trace with ticks says 'ticks recorded' before its first event");
            return;
        }
        if (words.size() < 4) fail("an address and a number of pages are missing behind the operation");
        Scanner address(words[2]);
        if (!words[2].starts_with("0x") || !address.hex(event.address) || !address.at_end())
            fail(fmt::format("an address is a hexadecimal number that begins with 0x, not '{}'", printable(words[2])));
        if (event.address % page_bytes() != 0)
            fail(fmt::format("{} is not the address of a page of {}", printable(words[2]), leaf_name(page_bytes())));
        Scanner count(words[3]);
        if (!count.decimal(event.pages) || !count.at_end() || event.pages == 0)
            fail(fmt::format("a number of pages is a number from 1 on, not '{}'", printable(words[3])));
        const std::uint64_t room =
            is_virtual(event.address) ? 0 - event.address : (std::uint64_t{1} << max_physical_bits) - event.address;
        if ((!is_virtual(event.address) && event.address >> max_physical_bits != 0) ||
            event.pages > room / page_bytes())
            fail(fmt::format("{} pages at {} go beyond {}", printable(words[3]), printable(words[2]),
                             is_virtual(event.address) ? "the end of the address space" : "what machines can address"));
        if (words.size() > 4) {
            if (words[4] != "atomic" || words.size() > 5)
                fail(fmt::format("unexpected '{}'", printable(words[words[4] == "atomic" ? 5 : 4])));
            event.atomic = true;
        }
    }

    static std::string all_operations() {
        std::string text;
        for (const auto& [operation, name] : operations) text += fmt::format("{}{}", text.empty() ? "" : ", ", name);
        return text;
    }

    std::string text_;
    bool headed_ = false;
    bool began_ = false;
    std::uint64_t latest_ = 0;
    std::string latest_text_;
};

} // namespace

std::string_view operation_name(TraceOperation operation) {
    return operations[static_cast<std::size_t>(operation)].second;
}

std::optional<TraceOperation> operation_of(std::string_view word) {
    for (const auto& [operation, name] : operations)
        if (name == word) return operation;
    return std::nullopt;
}

bool TraceReader::read_line(std::string& text) {
    text.clear();
    std::streambuf& buffer = *input_->rdbuf();
    constexpr int end = std::char_traits<char>::eof();
    int c = buffer.sbumpc();
    if (c == end) return false;
    ++line_;
    for (; c != end && c != '\n'; c = buffer.sbumpc()) {
        ++bytes_read_;
        if (c == 0) fail("this is not text");
        if (text.size() == longest_line) fail("this line is longer than any of a trace");
        text += static_cast<char>(c);
    }
    ++bytes_read_;
    cut_ = c == end;
    if (text.ends_with('\r')) text.pop_back();
    return true;
}

void TraceReader::fail(const std::string& reason) const {
    throw InputError(source_, line_, reason);
}

std::unique_ptr<TraceReader> read_trace(std::istream& input, const std::string& source) {
    return std::make_unique<NativeTrace>(input, source);
}

std::optional<std::uint64_t> parse_seconds(std::string_view text) {
    Scanner scanner(text);
    std::uint64_t seconds = 0;
    if (!scanner.decimal(seconds) || seconds > most_nanoseconds / nanoseconds_a_second) return std::nullopt;
    std::uint64_t fraction = 0;
    if (scanner.accept(".")) {
        const std::size_t digits = scanner.rest().size();
        if (digits > 9 || !scanner.decimal(fraction)) return std::nullopt;
        for (std::size_t i = digits; i < 9; ++i) fraction *= 10;
    }
    if (!scanner.at_end()) return std::nullopt;
    const std::uint64_t nanoseconds = seconds * nanoseconds_a_second + fraction;
    return nanoseconds <= most_nanoseconds ? std::optional(nanoseconds) : std::nullopt;
}

std::string trace_head(std::uint64_t page_bytes, std::optional<std::uint64_t> offset, bool ticks_recorded) {
    std::string text = fmt::format("{}\npage {}\n", trace_format, leaf_name(page_bytes));
    if (offset) text += fmt::format("offset {:#x}\n", *offset);
    if (ticks_recorded) text += "ticks recorded\n";
    return text + "# seconds operation address pages\n";
}

std::string trace_line(const TraceEvent& event) {
    std::string line =
        fmt::format("{}.{:09}", event.nanoseconds / nanoseconds_a_second, event.nanoseconds % nanoseconds_a_second);
    while (line.ends_with("000")) line.resize(line.size() - 3); // milliseconds stay milliseconds
    if (line.ends_with('.')) line += "000";
    line += fmt::format(" {}", operation_name(event.operation));
    if (event.operation == TraceOperation::note) line += fmt::format(" {}", event.text);
    if (names_memory(event.operation)) line += fmt::format(" {:#x} {}", event.address, event.pages);
    if (event.atomic) line += " atomic";
    return line + '\n';
}

} // namespace directmap::tool

#include "trace_convert.hpp"

#include "input_error.hpp"
#include "output.hpp"
#include "range.hpp"
#include "scanner.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <fmt/format.h>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

namespace directmap::tool {
namespace {

/// What a kernel function does to pages, and which of its arguments say to which. An argument that has no name in the
/// record is found by its place.
struct Function {
    std::string_view name;
    TraceOperation operation;
    std::string_view where; ///< an address, or a `struct page *` if it is called `page`
    std::string_view count; ///< empty: one page
    std::string_view flag;  ///< if it is there and 0, the operation is `otherwise`
    TraceOperation otherwise = TraceOperation::invalid;
};

constexpr std::array functions = {
    Function{"set_memory_ro", TraceOperation::read_only, "addr", "numpages", ""},
    Function{"set_memory_rw", TraceOperation::writable, "addr", "numpages", ""},
    Function{"set_memory_x", TraceOperation::executable, "addr", "numpages", ""},
    Function{"set_memory_nx", TraceOperation::not_executable, "addr", "numpages", ""},
    Function{"set_memory_rox", TraceOperation::read_only_executable, "addr", "numpages", ""},
    Function{"set_memory_rw_nx", TraceOperation::writable_not_executable, "addr", "numpages", ""}, // riscv
    Function{"set_memory_4k", TraceOperation::pin, "addr", "numpages", ""}, // x86-64: splits, and changes nothing else
    Function{"set_memory_np", TraceOperation::invalid, "addr", "numpages", ""},
    Function{"set_memory_p", TraceOperation::valid, "addr", "numpages", ""},
    Function{"set_memory_valid", TraceOperation::valid, "addr", "numpages", "enable"},
    Function{"set_memory_decrypted", TraceOperation::shared, "addr", "numpages", ""},
    Function{"set_memory_encrypted", TraceOperation::unshared, "addr", "numpages", ""},
    Function{"set_direct_map_invalid_noflush", TraceOperation::invalid, "page", "", ""},
    Function{"set_direct_map_default_noflush", TraceOperation::restore, "page", "", ""},
    Function{"set_direct_map_valid_noflush", TraceOperation::valid, "page", "nr", "valid"},
    Function{"__kernel_map_pages", TraceOperation::valid, "page", "numpages", "enable"},
};

/// They change a memory type, for which traces have no operation.
constexpr std::array<std::string_view, 3> memory_type_functions = {"set_memory_uc", "set_memory_wc", "set_memory_wb"};

constexpr bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/// `name=value` pairs, apart by commas or blanks.
using Arguments = std::vector<std::pair<std::string_view, std::string_view>>;

Arguments arguments_of(std::string_view text) {
    Arguments arguments;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find_first_of(", \t"), text.size());
        const std::string_view pair = text.substr(0, end);
        const std::size_t equals = pair.find('=');
        if (equals != std::string_view::npos) arguments.emplace_back(pair.substr(0, equals), pair.substr(equals + 1));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return arguments;
}

std::optional<std::uint64_t> number_of(std::string_view text) {
    if (text == "true") return 1;
    if (text == "false") return 0;
    Scanner scanner(text);
    std::uint64_t value = 0;
    const bool good = text.starts_with("0x") ? scanner.hex(value) : scanner.decimal(value);
    return good && scanner.at_end() ? std::optional(value) : std::nullopt;
}

class Converter final : public TraceReader {
public:
    Converter(std::istream& input, const std::string& source, RecorderFormat format, const ConvertOptions& options)
        : TraceReader(input, source), format_(format), options_(options) {
        set_page_bytes(options.page_bytes);
        set_offset(options.offset);
    }

    bool next(TraceEvent& event) override {
        while (read_line(text_)) {
            event = TraceEvent{};
            event.line = line_number();
            note_losses();
            if (format_ == RecorderFormat::ftrace ? parse_ftrace(event) : parse_bpftrace(event)) {
                found_ = true;
                return true;
            }
        }
        if (!found_ && noted().skipped.empty())
            throw InputError(source(), 0,
                             fmt::format("none of its {} is {}; docs/replay.md shows how to record",
                                         counted(line_number(), "line", "lines"),
                                         format_ == RecorderFormat::ftrace
                                             ? "a call of set_memory_* or set_direct_map_*, as in "
                                               "'set_memory_ro(addr=0xffff888012345000, numpages=4)'"
                                             : "of record.bt, as in 'directmap 1000000 ro pfn=0x12345 count=4'"));
        return false;
    }

private:
    /// Recorders say when they couldn't keep up.
    void note_losses() {
        const std::string_view line = text_;
        const bool lost = format_ == RecorderFormat::ftrace ? line.find("[LOST ") != std::string_view::npos ||
                                                                  line.find("EVENTS DROPPED]") != std::string_view::npos
                                                            : line.starts_with("Lost ") || line.starts_with("Skipped ");
        if (lost) mark_partial(fmt::format("the recorder lost events before line {}", line_number()));
    }
    void mark_partial(std::string reason) {
        if (!noted().partial) noted().partial_reason = std::move(reason);
        noted().partial = true;
    }
    bool skip(const std::string& reason) {
        ++noted().skipped[reason];
        return false;
    }
    /// For a line that is about permissions and makes no sense: a recorder's output may be cut or mixed up anywhere.
    bool misread(std::string_view what) {
        mark_partial(is_cut() ? fmt::format("line {} is cut off", line_number())
                              : fmt::format("line {}: {}: '{}'", line_number(), what, printable(trimmed(text_))));
        return skip("lines that could not be read");
    }

    /// Sets the event's time; buffers of several CPUs are put together without much care, so it may step back a little.
    void set_time(TraceEvent& event, std::optional<std::uint64_t> nanoseconds) {
        if (!nanoseconds) {
            constexpr std::uint64_t millisecond = 1'000'000;
            nanoseconds = latest_ + millisecond;
            ++noted().skipped["times that were missing (1 ms after the line before)"];
        }
        latest_ = std::max(latest_, std::min(*nanoseconds, most_nanoseconds));
        event.nanoseconds = latest_;
    }

    bool set_memory(TraceEvent& event, std::uint64_t address, std::uint64_t pages) {
        event.address = align_down(address, page_bytes());
        event.pages = pages;
        const std::uint64_t end = is_virtual(address) ? UINT64_MAX : (std::uint64_t{1} << max_physical_bits) - 1;
        if (event.address > end) return misread("this is no address");
        if (pages == 0) return skip("calls for no page");
        if (pages - 1 > (end - event.address) / page_bytes()) return misread("so many pages can't be");
        return true;
    }
    bool set_frame(TraceEvent& event, std::uint64_t frame, std::uint64_t pages) {
        if (frame >= (std::uint64_t{1} << max_physical_bits) / page_bytes()) return misread("no page has this number");
        return set_memory(event, frame * page_bytes(), pages);
    }
    bool set_struct_page(TraceEvent& event, std::uint64_t page, std::uint64_t pages) {
        if (!options_.vmemmap) return skip("calls that name a struct page (--vmemmap tells which page that is)");
        const std::uint64_t distance = page - *options_.vmemmap;
        if (page < *options_.vmemmap || distance % options_.struct_page_bytes != 0)
            return misread("no struct page is here (--vmemmap, --struct-page)");
        return set_frame(event, distance / options_.struct_page_bytes, pages);
    }

    static std::uint64_t align_down(std::uint64_t value, std::uint64_t unit) { return value & ~(unit - 1); }

    // ---- ftrace

    bool parse_ftrace(TraceEvent& event) {
        const std::string_view line = text_;
        if (trimmed(line).starts_with('#')) return false;
        for (const Function& function : functions)
            if (const auto end = end_of_call(line, function.name)) return parse_call(event, function, line, *end);
        for (const std::string_view name : memory_type_functions)
            if (end_of_call(line, name)) return skip("calls that change a memory type, which traces don't have");
        return false;
    }

    /// Where the function's name ends in a line about a call of it.
    static std::optional<std::size_t> end_of_call(std::string_view line, std::string_view name) {
        for (std::size_t at = line.find(name); at != std::string_view::npos; at = line.find(name, at + 1)) {
            const std::size_t end = at + name.size();
            const char before = at == 0 ? ' ' : line[at - 1];
            const char behind = end == line.size() ? ' ' : line[end];
            // Not a longer name, nor `<-caller`, nor the comment behind a function's end.
            const bool other = is_word(before) || is_word(behind) || before == '-' ||
                               line.substr(0, at).ends_with("<- ") || line.substr(0, at).ends_with("/* ");
            if (!other) return end;
        }
        return std::nullopt;
    }

    /// `end` is where the function's name ends.
    bool parse_call(TraceEvent& event, const Function& function, std::string_view line, std::size_t end) {
        std::string_view rest = line.substr(end);
        Arguments arguments;
        if (rest.starts_with('(')) { // NAME(addr=0x..., numpages=4)
            const std::size_t close = rest.find(')');
            if (close == std::string_view::npos) return misread("a ')' is missing");
            arguments = arguments_of(rest.substr(1, close - 1));
        } else { // EVENT: (NAME+0x0/0x40) addr=0x... numpages=4, or NAME: (ffff...) addr=...
            const bool named = rest.starts_with(':') && trimmed(rest.substr(1)).starts_with('(');
            if (rest.starts_with('+') || named) {
                const std::size_t close = rest.find(')');
                if (close == std::string_view::npos) return misread("a ')' is missing");
                // A return probe stands at the caller: (CALLER+0x.. <- NAME)
                if (rest.substr(0, close).find("<-") != std::string_view::npos) return false;
                arguments = arguments_of(rest.substr(close + 1));
            }
        }
        if (arguments.empty())
            return skip("calls without arguments (echo 1 > options/func-args, or options/funcgraph-args)");

        const auto argument = [&](std::string_view name, std::size_t place) -> std::optional<std::uint64_t> {
            for (const auto& [key, value] : arguments)
                if (key == name) return number_of(value);
            const std::string by_place = fmt::format("arg{}", place);
            for (const auto& [key, value] : arguments)
                if (key == by_place) return number_of(value);
            return std::nullopt;
        };
        std::size_t place = 1;
        const auto where = argument(function.where, place++);
        const auto pages = function.count.empty() ? std::optional<std::uint64_t>(1) : argument(function.count, place++);
        const auto flag = function.flag.empty() ? std::optional<std::uint64_t>(1) : argument(function.flag, place);
        if (!where || !pages || !flag)
            return misread(fmt::format("{} needs {}{}{}", function.name, function.where,
                                       function.count.empty() ? "" : fmt::format(", {}", function.count),
                                       function.flag.empty() ? "" : fmt::format(", {}", function.flag)));
        event.operation = *flag != 0 ? function.operation : function.otherwise;
        set_time(event, time_in(line));
        return function.where == "page" ? set_struct_page(event, *where, *pages) : set_memory(event, *where, *pages);
    }

    /// A number with six or more digits behind the point; durations have three.
    static std::optional<std::uint64_t> time_in(std::string_view line) {
        for (std::size_t at = 0; at < line.size();) {
            if (std::isdigit(static_cast<unsigned char>(line[at])) == 0) {
                ++at;
                continue;
            }
            const std::size_t end = std::min(line.find_first_not_of("0123456789.", at), line.size());
            const std::string_view word = line.substr(at, end - at);
            const std::size_t point = word.find('.');
            const bool alone = at == 0 || is_blank(line[at - 1]);
            if (alone && point != std::string_view::npos && word.size() - point > 6)
                if (const auto time = parse_seconds(word)) return time;
            at = end;
        }
        return std::nullopt;
    }

    // ---- bpftrace: `directmap NANOSECONDS OPERATION pfn=0x... count=N`; va= and page= instead of pfn=

    bool parse_bpftrace(TraceEvent& event) {
        Scanner scanner(text_);
        if (!scanner.accept("directmap ")) return false;
        std::uint64_t nanoseconds = 0;
        if (!scanner.decimal(nanoseconds) || !scanner.accept(" ")) return misread("a time in nanoseconds is missing");
        const std::string_view word = scanner.rest().substr(0, scanner.rest().find(' '));
        const auto operation = operation_of(word);
        if (!operation || !names_memory(*operation)) return misread("this is no operation of a trace");
        event.operation = *operation;
        const Arguments arguments = arguments_of(scanner.rest().substr(word.size()));
        std::optional<std::uint64_t> frame, page, address, pages;
        for (const auto& [key, value] : arguments) {
            if (key == "pfn") frame = number_of(value);
            if (key == "page") page = number_of(value);
            if (key == "va") address = number_of(value);
            if (key == "count") pages = number_of(value);
        }
        if (!pages || !(frame || page || address)) return misread("it needs pfn, page or va, and count");
        set_time(event, nanoseconds);
        if (frame) return set_frame(event, *frame, *pages);
        if (page) return set_struct_page(event, *page, *pages);
        return set_memory(event, *address, *pages);
    }

    RecorderFormat format_;
    ConvertOptions options_;
    std::string text_;
    bool found_ = false;
    std::uint64_t latest_ = 0;
};

} // namespace

std::vector<std::string_view> converted_functions() {
    std::vector<std::string_view> names;
    for (const Function& function : functions) names.push_back(function.name);
    return names;
}

std::set<std::string> read_symbols(std::istream& input, const std::string& source) {
    std::set<std::string> symbols;
    std::uint64_t number = 0;
    for (std::string line; std::getline(input, line);) {
        ++number;
        std::istringstream words(line);
        std::string kind, name;
        std::uint64_t address = 0;
        if (!(words >> std::hex >> address >> kind >> name) || kind.size() != 1)
            throw InputError(source, number,
                             fmt::format("expected a line of /proc/kallsyms, as in 'ffffffff81347d40 T set_memory_ro', "
                                         "not '{}'",
                                         printable(line)));
        symbols.insert(name);
    }
    if (symbols.empty()) throw InputError(source, 0, "it is empty; expected the lines of /proc/kallsyms");
    return symbols;
}

RecordingScript script_for(std::string_view script, const std::set<std::string>& symbols) {
    RecordingScript result;
    std::vector<std::string> probes; ///< of the block that is being read, those that stay
    bool dropped = false;
    while (!script.empty()) {
        const std::size_t end = std::min(script.find('\n'), script.size());
        std::string_view line = script.substr(0, end);
        script.remove_prefix(std::min(end + 1, script.size()));
        if (line.starts_with("kprobe:") || line.starts_with("kretprobe:")) {
            const bool more_follow = line.ends_with(',');
            if (more_follow) line.remove_suffix(1);
            const std::string function(line.substr(line.find(':') + 1));
            if (symbols.contains(function))
                probes.emplace_back(line);
            else
                result.left_out.insert(function);
            if (more_follow) continue;
            dropped = probes.empty();
            if (!dropped) result.text += fmt::format("{}\n", fmt::join(probes, ",\n"));
            probes.clear();
            continue;
        }
        if (!dropped) result.text.append(line) += '\n';
        if (line == "}") dropped = false;
    }
    return result;
}

std::unique_ptr<TraceReader> convert_trace(std::istream& input, const std::string& source, RecorderFormat format,
                                           const ConvertOptions& options) {
    return std::make_unique<Converter>(input, source, format, options);
}

} // namespace directmap::tool

// The three formats, line by line. Lines come from terminals, mails and bug reports: quote marks, colour codes,
// no-break spaces and log prefixes are expected. What is not expected is an error: half a memory map is worse than
// none.
//
// iomem: `start-end : name`, END being the last byte. RAM is what is named `System RAM`, or `System RAM (kmem)` and the
// like, at any depth; nested inside RAM are the parts of the kernel image and `Crash kernel`. What lies outside RAM and
// is named `reserved` is memory that the kernel was told not to map. `System RAM (boot alias)` is a second address of
// RAM and not part of a direct map.
//
// list: one range a line, in the syntax of parse_range, e.g. `0x80000000-0xffffffff` or `880000000+30G`. An optional `:
// name` may follow: `RAM` (the default), `reserved` or `nomap` (a hole; it may cut RAM). `#` starts a comment, in every
// format.
//
// dmesg: the best description that the log holds, in this order:
//   1. `node 0: [mem 0x...-0x...]` below "Early memory node ranges": what the kernel itself works with;
//   2. the last e820 table: `BIOS-e820: [mem ...] usable`, or the `user` or `modified` one that replaced it;
//   3. `efi: mem12: [Conventional Memory| ...] range=[...]`;
//   4. `OF: fdt: - base , size`.
// Taken out of it are `OF: reserved mem: 0x...0x... nomap` lines and what e820 or EFI say is not usable.
#include "memory_map.hpp"

#include "embedded.hpp"
#include "input_error.hpp"
#include "output.hpp"
#include "scanner.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fmt/format.h>
#include <memory>
#include <optional>
#include <utility>

namespace directmap::tool {
namespace {

constexpr std::uint64_t physical_limit = std::uint64_t{1} << max_physical_bits;

/// A range as kernels print it, with its last byte.
struct Printed {
    std::uint64_t start = 0;
    std::uint64_t last = 0;
};

/// A range, and the line that said so.
struct Entry {
    Range range;
    std::size_t line = 0;
};

/// One line, cleaned of what terminals and mails do to it.
struct Line {
    std::string text;       ///< without indentation
    std::size_t number = 0; ///< from 1
    std::size_t indent = 0;
    bool cut_off = false; ///< the last line, without its newline
};

void sort_by_address(std::vector<NamedRange>& ranges) {
    std::stable_sort(ranges.begin(), ranges.end(), [](const NamedRange& a, const NamedRange& b) {
        // The outer one of nested ranges comes first.
        return a.range.start != b.range.start ? a.range.start < b.range.start : a.range.end > b.range.end;
    });
}

class Parser {
public:
    Parser(std::string_view text, const std::string& source) : source_(source) { split(text); }

    MemoryMap parse(MemoryMapFormat format) {
        map_.source = source_;
        map_.format = format == MemoryMapFormat::automatic ? detect() : format;
        switch (map_.format) {
        case MemoryMapFormat::iomem: parse_iomem(); break;
        case MemoryMapFormat::list: parse_list(); break;
        case MemoryMapFormat::automatic:
        case MemoryMapFormat::dmesg: parse_dmesg(); break;
        }
        finish();
        return std::move(map_);
    }

private:
    [[noreturn]] void fail(std::size_t line, std::string reason) const {
        throw InputError(source_, line, std::move(reason));
    }
    [[noreturn]] void fail_at_end(std::string reason) const {
        fail(std::max<std::size_t>(line_count_, 1), std::move(reason));
    }

    void split(std::string_view text);
    [[nodiscard]] MemoryMapFormat detect() const;
    void parse_iomem();
    void parse_list();
    void parse_dmesg();
    void dmesg_line(const Line& line);
    void finish();

    [[nodiscard]] Range ram_range(Printed printed, std::size_t line) const;
    [[nodiscard]] Range other_range(Printed printed, std::size_t line) const;
    bool mem_range(Scanner& scanner, const Line& line, Printed& printed) const;
    void take_ram(std::vector<Entry> entries);

    struct E820Table {
        std::string tag;
        std::vector<Entry> usable;
        std::vector<NamedRange> others;
    };
    struct DmesgFindings {
        std::vector<Entry> nodes;
        std::vector<E820Table> e820;
        std::vector<NamedRange> e820_edits;
        std::vector<Entry> efi;
        std::vector<NamedRange> efi_others;
        std::vector<Entry> fdt;
    };
    bool dmesg_node(const Line& line);
    bool dmesg_e820(const Line& line);
    bool old_e820_range(Scanner& scanner, const Line& line, Printed& printed) const;
    bool dmesg_efi(const Line& line);
    bool dmesg_fdt(const Line& line);
    bool dmesg_reserved(const Line& line);
    bool dmesg_crash_kernel(const Line& line);

    const std::string& source_;
    std::vector<Line> lines_; ///< those that are not blank or comments
    std::size_t line_count_ = 0;
    MemoryMap map_;
    DmesgFindings dmesg_;
};

/// Quote marks of mails, and the bar that some trackers put in front.
bool is_quote_mark(char c) {
    return c == '>' || c == '|';
}

/// Without colour codes and carriage returns, with spaces for no-break spaces.
std::string cleaned(std::string_view raw) {
    std::string text;
    text.reserve(raw.size());
    for (std::size_t i = 0; i < raw.size(); ++i) {
        if (raw[i] == '\r') continue;
        if (raw[i] == '\x1b' && i + 1 < raw.size() && raw[i + 1] == '[') {
            std::size_t end = i + 2;
            while (end < raw.size() && (raw[end] == ';' || (raw[end] >= '0' && raw[end] <= '9'))) ++end;
            i = std::min(end, raw.size() - 1);
            continue;
        }
        if (raw[i] == '\xc2' && i + 1 < raw.size() && raw[i + 1] == '\xa0') {
            text += ' ';
            ++i;
            continue;
        }
        text += raw[i];
    }
    return text;
}

void Parser::split(std::string_view text) {
    if (text.starts_with("\xef\xbb\xbf")) // a byte order mark
        text.remove_prefix(3);
    while (!text.empty()) {
        ++line_count_;
        const std::size_t newline = text.find('\n');
        const bool cut_off = newline == std::string_view::npos;
        const std::string_view raw = text.substr(0, newline);
        text.remove_prefix(cut_off ? text.size() : newline + 1);
        if (raw.find('\0') != std::string_view::npos) fail(line_count_, "binary data, not a memory map");
        Line line{cleaned(raw), line_count_, 0, cut_off};
        const std::string_view all = line.text;
        std::size_t begin = 0;
        // Quote marks end where the text's own indentation begins; the level of indentation counts from there.
        while (begin < all.size() && (is_blank(all[begin]) || is_quote_mark(all[begin]))) {
            line.indent = is_quote_mark(all[begin]) ? 0 : line.indent + 1;
            ++begin;
        }
        line.text = std::string(trimmed(all.substr(begin)));
        if (!line.text.empty() && line.text.front() != '#') lines_.push_back(std::move(line));
    }
}

struct IomemLine {
    Printed range;
    std::string_view name;
};

/// `start-end : name`; the name may be missing, the colon not.
std::optional<IomemLine> read_iomem_line(std::string_view text) {
    Scanner scanner(text);
    IomemLine line;
    if (!scanner.hex(line.range.start) || !scanner.accept("-") || !scanner.hex(line.range.last)) return std::nullopt;
    scanner.skip_blanks();
    if (!scanner.accept(":")) return std::nullopt;
    line.name = trimmed(scanner.rest());
    return line;
}

bool equal_ignoring_case(std::string_view a, std::string_view b) {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](char x, char y) { return lower(x) == lower(y); });
}

bool is_list_hole(std::string_view name) {
    return equal_ignoring_case(name, "reserved") || equal_ignoring_case(name, "nomap");
}

bool is_list_name(std::string_view name) {
    return equal_ignoring_case(name, "ram") || is_list_hole(name);
}

bool is_system_ram(std::string_view name) {
    return name.starts_with("System RAM") && name != "System RAM (boot alias)";
}

/// What only a kernel log contains.
constexpr std::string_view dmesg_signs[] = {"[mem 0x", "BIOS-e820:", "efi: ", "OF: fdt", "reserved mem:"};

/// Good or bad: what is wrong with it, the parser of lists tells.
bool looks_like_a_range(std::string_view text) {
    Scanner scanner(text);
    std::uint64_t ignored = 0;
    if (!scanner.hex(ignored)) return false;
    scanner.skip_blanks();
    return scanner.accept("-") || scanner.accept("+");
}

MemoryMapFormat Parser::detect() const {
    bool ranges_seen = false;
    for (const Line& line : lines_) {
        if (const auto iomem = read_iomem_line(line.text)) {
            if (!is_list_name(iomem->name) || iomem->range.last == 0) return MemoryMapFormat::iomem;
            ranges_seen = true;
            continue;
        }
        for (const std::string_view sign : dmesg_signs)
            if (line.text.find(sign) != std::string::npos) return MemoryMapFormat::dmesg;
        ranges_seen = ranges_seen || looks_like_a_range(line.text);
    }
    if (ranges_seen) return MemoryMapFormat::list;
    if (lines_.empty()) fail_at_end("the input is empty");
    fail(lines_.front().number,
         "no memory map found here or below: neither /proc/iomem text, nor a list of ranges, nor a "
         "kernel log that shows memory ranges");
}

Range Parser::ram_range(Printed printed, std::size_t line) const {
    if (printed.last < printed.start)
        fail(line, fmt::format("the end {} lies before the start {}", hex(printed.last), hex(printed.start)));
    if (printed.last >= physical_limit)
        fail(line,
             fmt::format("the end {} lies beyond {} bits of physical address", hex(printed.last), max_physical_bits));
    return {printed.start, printed.last + 1};
}

/// What is not RAM may reach to the end of the 64-bit space (`mem=4G` makes x86 print that): it is cut where RAM cannot
/// be.
Range Parser::other_range(Printed printed, std::size_t line) const {
    if (printed.last < printed.start)
        fail(line, fmt::format("the end {} lies before the start {}", hex(printed.last), hex(printed.start)));
    return {std::min(printed.start, physical_limit), std::min(printed.last, physical_limit - 1) + 1};
}

void Parser::parse_iomem() {
    std::vector<Entry> ram;
    std::size_t ram_indent = 0;
    bool all_zero = !lines_.empty();
    for (const Line& line : lines_) {
        const auto found = read_iomem_line(line.text);
        if (!found)
            fail(line.number,
                 line.cut_off
                     ? fmt::format("the text was cut off: '{}' is not a whole line", printable(line.text))
                     : fmt::format("not a line of /proc/iomem ('start-end : name'): '{}'", printable(line.text)));
        constexpr std::string_view whole_name = "System RAM";
        if (line.cut_off && found->name.size() < whole_name.size() && whole_name.starts_with(found->name))
            fail(line.number, fmt::format("the text was cut off: '{}' is not a whole line", printable(line.text)));
        all_zero = all_zero && found->range.start == 0 && found->range.last == 0;
        const std::string name = printable(found->name);
        if (is_system_ram(name)) {
            const Range range = ram_range(found->range, line.number);
            // Some kernels nest RAM in RAM. Twice the same at one level is a broken file.
            if (!ram.empty() && line.indent > ram_indent && ram.back().range.contains(range)) continue;
            ram.push_back({range, line.number});
            ram_indent = line.indent;
            continue;
        }
        const Range range = other_range(found->range, line.number);
        if (name == "Crash kernel")
            map_.crash_kernel.push_back({range, name});
        else if (name.starts_with("Kernel "))
            map_.kernel_image.push_back({range, name});
        else if (equal_ignoring_case(name, "reserved"))
            map_.nomap.push_back({range, name});
        else
            map_.devices.push_back({range, name});
    }
    if (all_zero)
        fail(lines_.front().number,
             "every address is zero: the kernel hides /proc/iomem from users other than root; read it as root, "
             "e.g. 'sudo cat /proc/iomem > FILE'");
    if (ram.empty()) fail_at_end("no 'System RAM' line up to the end of the text");
    take_ram(std::move(ram));
    // `reserved` inside RAM is memory in use, mapped like the rest; only outside RAM it means no-map.
    std::vector<NamedRange> outside;
    for (const NamedRange& named : map_.nomap)
        for (const Range& part : subtract({named.range}, map_.ram)) outside.push_back({part, named.name});
    map_.nomap = std::move(outside);
}

void Parser::parse_list() {
    std::vector<Entry> ram;
    for (const Line& line : lines_) {
        std::string_view text = line.text;
        if (const std::size_t comment = text.find('#'); comment != std::string_view::npos)
            text = text.substr(0, comment);
        std::string_view name = "RAM";
        if (const std::size_t colon = text.find(':'); colon != std::string_view::npos) {
            name = trimmed(text.substr(colon + 1));
            text = text.substr(0, colon);
        }
        if (!is_list_name(name))
            fail(line.number,
                 fmt::format("unknown name '{}': RAM, reserved or nomap is possible here", printable(name)));
        std::string error;
        const auto range = parse_range(text, error);
        if (!range) fail(line.number, error);
        if (is_list_hole(name))
            map_.nomap.push_back({*range, std::string(name)});
        else
            ram.push_back({*range, line.number});
    }
    if (ram.empty()) fail_at_end("no range of RAM up to the end of the list");
    take_ram(std::move(ram));
}

/// `[mem 0xSTART-0xLAST]` at the cursor. False when there is something else; an error when there is only half of it,
/// because a range that is overlooked makes a machine with less memory.
bool Parser::mem_range(Scanner& scanner, const Line& line, Printed& printed) const {
    Scanner ahead = scanner;
    if (!ahead.accept("[mem")) return false;
    ahead.skip_blanks();
    if (!ahead.hex(printed.start) || !ahead.accept("-") || !ahead.hex(printed.last) || !ahead.accept("]"))
        fail(line.number, fmt::format("a memory range was cut off: '{}'", printable(line.text)));
    scanner = ahead;
    return true;
}

/// `node   0: [mem 0x...-0x...]`. "Initmem setup node 0 [mem ..." has no colon: it spans holes.
bool Parser::dmesg_node(const Line& line) {
    Scanner scanner(line.text);
    if (!scanner.skip_past("node ")) return false;
    scanner.skip_blanks();
    std::uint64_t node = 0;
    Printed printed;
    if (!scanner.decimal(node) || !scanner.accept(": ") || !mem_range(scanner, line, printed)) return false;
    dmesg_.nodes.push_back({ram_range(printed, line.number), line.number});
    return true;
}

bool Parser::dmesg_e820(const Line& line) {
    // Edits that the kernel made to the table after it had printed it.
    for (const std::string_view edit : {"update", "remove"}) {
        Scanner scanner(line.text);
        Printed printed;
        if (!scanner.skip_past(fmt::format("e820: {} ", edit)) || !mem_range(scanner, line, printed)) continue;
        if (scanner.rest().find("==> usable") == std::string_view::npos)
            dmesg_.e820_edits.push_back({other_range(printed, line.number), fmt::format("e820 {}", edit)});
        return true;
    }
    for (const std::string_view tag : {"BIOS-e820: ", "user: ", "modified: ", "reserve setup_data: "}) {
        Scanner scanner(line.text);
        if (!scanner.skip_past(tag)) continue;
        Printed printed;
        if (!mem_range(scanner, line, printed) && !(tag == "BIOS-e820: " && old_e820_range(scanner, line, printed)))
            continue;
        const std::string_view type = trimmed(scanner.rest());
        if (dmesg_.e820.empty() || dmesg_.e820.back().tag != tag) dmesg_.e820.push_back({std::string(tag), {}, {}});
        if (type.ends_with("usable") || type == "(usable)" || type.ends_with("System RAM"))
            dmesg_.e820.back().usable.push_back({ram_range(printed, line.number), line.number});
        else
            dmesg_.e820.back().others.push_back({other_range(printed, line.number), printable(type)});
        return true;
    }
    return false;
}

/// Before Linux 3.5: `BIOS-e820: 0000000000000000 - 000000000009fc00 (usable)`, the end being exclusive.
bool Parser::old_e820_range(Scanner& scanner, const Line& line, Printed& printed) const {
    Scanner ahead = scanner;
    if (!ahead.hex(printed.start)) return false;
    if (!ahead.accept(" - ") || !ahead.hex(printed.last) || printed.last <= printed.start ||
        !ahead.rest().ends_with(")"))
        fail(line.number, fmt::format("a memory range was cut off: '{}'", printable(line.text)));
    --printed.last;
    scanner = ahead;
    return true;
}

/// Whether a kernel uses memory of this EFI type as RAM once boot services are gone (UEFI 2.10, table 7.10).
bool efi_type_is_ram(std::string_view type) {
    for (const std::string_view usable : {"Conventional", "Loader", "Boot", "ACPI Reclaim", "Persistent", "Unaccepted"})
        if (type.starts_with(usable)) return true;
    return false;
}

bool efi_type_is_ram(std::uint64_t type) {
    return (type >= 1 && type <= 4) || type == 7 || type == 9 || type == 14 || type == 15;
}

/// `efi: mem10: [Conventional Memory|   | ... |WB|WT|WC|UC] range=[0x...-0x...] (940MB)`, and the older
/// `efi: mem00: type=7, attr=0xf, range=[0x...-0x...) (1MB)`, whose end is exclusive.
bool Parser::dmesg_efi(const Line& line) {
    Scanner scanner(line.text);
    if (!scanner.skip_past("efi: mem")) return false;
    std::uint64_t index = 0;
    if (!scanner.decimal(index) || !scanner.accept(": ")) return false;
    scanner.skip_blanks();
    bool is_ram = false;
    std::string name;
    if (scanner.accept("[")) {
        const std::string_view description = scanner.rest().substr(0, scanner.rest().find(']'));
        const std::string_view type = trimmed(description.substr(0, description.find('|')));
        // Only write-back memory is RAM to a kernel; specific-purpose memory (SP) is left to drivers.
        const auto has = [&](std::string_view attribute) {
            return description.find(attribute) != std::string_view::npos;
        };
        is_ram = efi_type_is_ram(type) && (!has("|") || has("WB")) && !has("|SP|");
        name = "EFI " + printable(type);
    } else if (scanner.accept("type=")) {
        std::uint64_t type = 0;
        if (!scanner.decimal(type))
            fail(line.number, fmt::format("an EFI memory type is missing: '{}'", printable(line.text)));
        is_ram = efi_type_is_ram(type);
        name = fmt::format("EFI type {}", type);
    } else {
        return false;
    }
    if (!scanner.skip_past("range=["))
        fail(line.number, fmt::format("an EFI memory descriptor without its range: '{}'", printable(line.text)));
    Printed printed;
    if (!scanner.hex(printed.start) || !scanner.accept("-") || !scanner.hex(printed.last) ||
        !(scanner.rest().starts_with("]") || scanner.rest().starts_with(")")))
        fail(line.number, fmt::format("an EFI memory range was cut off: '{}'", printable(line.text)));
    if (scanner.accept(")")) {
        if (printed.last <= printed.start)
            fail(line.number,
                 fmt::format("the end {} does not lie behind the start {}", hex(printed.last), hex(printed.start)));
        --printed.last;
    }
    if (is_ram)
        dmesg_.efi.push_back({ram_range(printed, line.number), line.number});
    else
        dmesg_.efi_others.push_back({other_range(printed, line.number), name});
    return true;
}

/// `OF: fdt: - 80000000 ,  7ee00000` below "memory scan node": base and size, both hexadecimal.
bool Parser::dmesg_fdt(const Line& line) {
    Scanner scanner(line.text);
    if (!scanner.skip_past("fdt: - ")) return false;
    std::uint64_t base = 0;
    std::uint64_t size = 0;
    scanner.skip_blanks();
    const bool whole = [&] {
        if (!scanner.hex(base)) return false;
        scanner.skip_blanks();
        if (!scanner.accept(",")) return false;
        scanner.skip_blanks();
        return scanner.hex(size);
    }();
    if (!whole) fail(line.number, fmt::format("not a 'base , size' pair: '{}'", printable(line.text)));
    if (size == 0) fail(line.number, "a range of no bytes");
    if (base >= physical_limit || size > physical_limit - base)
        fail(line.number, fmt::format("{} bytes at {} run beyond {} bits of physical address", hex(size), hex(base),
                                      max_physical_bits));
    dmesg_.fdt.push_back({{base, base + size}, line.number});
    return true;
}

/// `OF: reserved mem: 0x...0..0x... (10240 KiB) nomap non-reusable hyp-region@80000000`; `map` lines are RAM in use.
bool Parser::dmesg_reserved(const Line& line) {
    Scanner scanner(line.text);
    if (!scanner.skip_past("reserved mem: ")) return false;
    Printed printed;
    if (!scanner.rest().starts_with("0x") || !scanner.hex(printed.start) || !scanner.accept(".."))
        return false; // "initialized node ..." and other news about reserved memory
    if (!scanner.hex(printed.last) || !scanner.skip_past(") "))
        fail(line.number, fmt::format("a reserved range was cut off: '{}'", printable(line.text)));
    const Range range = other_range(printed, line.number);
    if (!scanner.accept("nomap")) return true;
    std::string_view name = trimmed(scanner.rest());
    for (const std::string_view word : {"non-reusable", "reusable"})
        if (name.starts_with(word)) name = trimmed(name.substr(word.size()));
    map_.nomap.push_back({range, name.empty() ? "nomap" : printable(name)});
    return true;
}

/// `crashkernel reserved: 0x00000000eee00000 - 0x00000000ffe00000 (272 MB)`, the end being exclusive.
bool Parser::dmesg_crash_kernel(const Line& line) {
    Scanner scanner(line.text);
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    if (!scanner.skip_past("crashkernel ") || !scanner.skip_past("reserved: ") || !scanner.hex(start) ||
        !scanner.accept(" - ") || !scanner.hex(end))
        return false;
    if (end <= start || end > physical_limit)
        fail(line.number, fmt::format("the crash kernel's range {} - {} is none", hex(start), hex(end)));
    map_.crash_kernel.push_back({{start, end}, "Crash kernel"});
    return true;
}

void Parser::dmesg_line(const Line& line) {
    const bool taken = dmesg_node(line) || dmesg_efi(line) || dmesg_fdt(line) || dmesg_reserved(line) ||
                       dmesg_crash_kernel(line) || dmesg_e820(line);
    static_cast<void>(taken); // A log is mostly about other things.
}

/// Consoles replay their first lines, so that logs hold them twice. A range that is there twice is there once.
std::vector<Entry> without_repetitions(std::vector<Entry> entries) {
    std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
        return a.range.start != b.range.start ? a.range.start < b.range.start : a.range.end < b.range.end;
    });
    const auto last =
        std::unique(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.range == b.range; });
    entries.erase(last, entries.end());
    return entries;
}

void Parser::parse_dmesg() {
    for (const Line& line : lines_) dmesg_line(line);
    const auto take_out = [&](const std::vector<NamedRange>& others) {
        map_.nomap.insert(map_.nomap.end(), others.begin(), others.end());
    };
    // A table that lists no RAM is a fragment (of a log that starts in its middle), not a machine without memory.
    std::erase_if(dmesg_.e820, [](const E820Table& table) { return table.usable.empty(); });
    if (!dmesg_.nodes.empty()) {
        // An arm64 kernel lists firmware's memory among its nodes; only EFI's table tells it apart.
        take_out(dmesg_.efi_others);
        take_ram(without_repetitions(std::move(dmesg_.nodes)));
    } else if (!dmesg_.e820.empty()) {
        take_out(dmesg_.e820.back().others);
        take_out(dmesg_.e820_edits);
        take_ram(without_repetitions(std::move(dmesg_.e820.back().usable)));
    } else if (!dmesg_.efi.empty()) {
        take_out(dmesg_.efi_others);
        take_ram(without_repetitions(std::move(dmesg_.efi)));
    } else if (!dmesg_.fdt.empty()) {
        take_ram(without_repetitions(std::move(dmesg_.fdt)));
    } else {
        fail_at_end(
            "no RAM up to the end of the log: it shows no early memory node ranges, no usable e820 range, no EFI "
            "memory map (boot with efi=debug) and no device-tree memory node");
    }
}

void Parser::take_ram(std::vector<Entry> entries) {
    std::stable_sort(entries.begin(), entries.end(),
                     [](const Entry& a, const Entry& b) { return a.range.start < b.range.start; });
    std::vector<Range> ranges;
    ranges.reserve(entries.size());
    for (std::size_t i = 0; i < entries.size(); ++i) {
        if (i > 0 && entries[i].range.start < entries[i - 1].range.end) {
            const Entry& first = entries[i].line < entries[i - 1].line ? entries[i] : entries[i - 1];
            const Entry& second = entries[i].line < entries[i - 1].line ? entries[i - 1] : entries[i];
            fail(second.line,
                 fmt::format("RAM {} overlaps RAM {} of line {}; a memory map is of one machine and one boot",
                             hex(second.range), hex(first.range), first.line));
        }
        ranges.push_back(entries[i].range);
    }
    map_.ram = merged(std::move(ranges));
}

void Parser::finish() {
    sort_by_address(map_.nomap);
    sort_by_address(map_.devices);
    sort_by_address(map_.kernel_image);
    sort_by_address(map_.crash_kernel);
    if (map_.format != MemoryMapFormat::iomem) {
        map_.ram = subtract(map_.ram, ranges_of(map_.nomap));
        if (map_.ram.empty()) fail_at_end("all RAM up to the end of the text is reserved");
    }
}

std::string read_stream(std::FILE* stream, const std::string& source) {
    std::string text;
    char buffer[1 << 16];
    while (const std::size_t count = std::fread(buffer, 1, sizeof buffer, stream)) {
        text.append(buffer, count);
        if (text.size() > largest_memory_map_file)
            throw InputError(source, 0,
                             fmt::format("larger than {}, so not a memory map", human_size(largest_memory_map_file)));
    }
    if (std::ferror(stream) != 0) throw InputError(source, 0, fmt::format("cannot be read: {}", std::strerror(errno)));
    return text;
}

} // namespace

std::string_view format_name(MemoryMapFormat format) {
    switch (format) {
    case MemoryMapFormat::automatic: return "automatic";
    case MemoryMapFormat::iomem: return "iomem";
    case MemoryMapFormat::list: return "list";
    case MemoryMapFormat::dmesg: return "dmesg";
    }
    return "?";
}

MemoryMap parse_memory_map(std::string_view text, const std::string& source, MemoryMapFormat format) {
    return Parser(text, source).parse(format);
}

MemoryMap read_memory_map(const std::string& path, MemoryMapFormat format) {
    constexpr std::string_view builtin = "builtin:";
    if (path.starts_with(builtin)) {
        const std::string name = path.substr(builtin.size());
        std::string known;
        for (const EmbeddedFile& file : embedded_files()) {
            if (!file.name.ends_with(".iomem")) continue;
            const std::string_view stem = file.name.substr(0, file.name.size() - std::string_view(".iomem").size());
            if (stem == name) return parse_memory_map(file.text, path, format);
            known += fmt::format("{}{}", known.empty() ? "" : ", ", stem);
        }
        throw InputError(path, 0, fmt::format("no such map is part of the program; there is {}", known));
    }
    if (path == "-") return parse_memory_map(read_stream(stdin, "standard input"), "standard input", format);
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    if (!file) throw InputError(path, 0, fmt::format("cannot be opened: {}", std::strerror(errno)));
    return parse_memory_map(read_stream(file.get(), path), path, format);
}

} // namespace directmap::tool

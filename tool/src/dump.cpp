#include "dump.hpp"

#include "input_error.hpp"
#include "output.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace directmap::tool {
namespace {

constexpr std::size_t buffer_size = std::size_t{256} << 10;
constexpr std::size_t longest_line = std::size_t{64} << 10;
constexpr unsigned address_digits = 16;
/// Shorter numbers than this are no kernel addresses, whatever surrounds them.
constexpr unsigned fewest_digits = 8;
constexpr std::uint64_t smallest_page = 4096;
constexpr std::string_view expected_text = "expected the text of a page-table dump";
constexpr std::string_view binary_data = "binary data (a zero byte); expected the text of a page-table dump";

class FileSource final : public ByteSource {
public:
    FileSource(int descriptor, std::string name, bool owned)
        : descriptor_(descriptor), name_(std::move(name)), owned_(owned) {}
    FileSource(const FileSource&) = delete;
    FileSource& operator=(const FileSource&) = delete;
    ~FileSource() override {
        if (owned_) ::close(descriptor_);
    }

    std::size_t read(std::span<char> buffer) override {
        for (;;) {
            const ssize_t got = ::read(descriptor_, buffer.data(), buffer.size());
            if (got >= 0) return static_cast<std::size_t>(got);
            if (errno != EINTR) throw InputError(name_, 0, fmt::format("can't be read: {}", std::strerror(errno)));
        }
    }

private:
    int descriptor_;
    std::string name_;
    bool owned_;
};

class TextSource final : public ByteSource {
public:
    explicit TextSource(std::string_view text) : rest_(text) {}

    std::size_t read(std::span<char> buffer) override {
        const std::size_t size = std::min(buffer.size(), rest_.size());
        std::copy_n(rest_.begin(), size, buffer.begin());
        rest_.remove_prefix(size);
        return size;
    }

private:
    std::string_view rest_;
};

constexpr std::array<std::int8_t, 256> make_hex_digits() {
    std::array<std::int8_t, 256> digits{};
    digits.fill(-1);
    for (unsigned digit = 0; digit < 10; ++digit) digits['0' + digit] = static_cast<std::int8_t>(digit);
    for (unsigned digit = 10; digit < 16; ++digit) {
        digits['a' + digit - 10] = static_cast<std::int8_t>(digit);
        digits['A' + digit - 10] = static_cast<std::int8_t>(digit);
    }
    return digits;
}
constexpr std::array<std::int8_t, 256> hex_digits = make_hex_digits();

int digit_value(char c) {
    return hex_digits[static_cast<unsigned char>(c)];
}

/// Between words. Mail programs turn blanks into no-break blanks, whose UTF-8 bytes are above 127 as all bytes are that
/// no dump has.
bool is_blank_byte(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f' || static_cast<unsigned char>(c) >= 0x80;
}

const char* skip_blank_bytes(const char* at, const char* end) {
    while (at != end && is_blank_byte(*at)) ++at;
    return at;
}

bool at_word_end(const char* at, const char* end) {
    return at == end || is_blank_byte(*at);
}

/// Reads at most 16 hexadecimal digits. Returns how many.
unsigned read_digits(const char*& at, const char* end, std::uint64_t& value) {
    const char* const first = at;
    const char* const stop = end - at > static_cast<std::ptrdiff_t>(address_digits) ? at + address_digits : end;
    std::uint64_t result = 0;
    for (; at != stop; ++at) {
        const int digit = digit_value(*at);
        if (digit < 0) break;
        result = result << 4 | static_cast<unsigned>(digit);
    }
    value = result;
    return static_cast<unsigned>(at - first);
}

/// Reads exactly 16 digits with blanks between them, as word processors and hand-made notes leave them.
bool read_scattered_digits(const char*& at, const char* end, std::uint64_t& value) {
    const char* cursor = at;
    std::uint64_t result = 0;
    unsigned count = 0;
    while (cursor != end && count < address_digits) {
        const int digit = digit_value(*cursor);
        if (digit >= 0) {
            result = result << 4 | static_cast<unsigned>(digit);
            ++count;
        } else if (*cursor != ' ') {
            return false;
        }
        ++cursor;
    }
    if (count != address_digits) return false;
    at = cursor;
    value = result;
    return true;
}

bool read_address(const char*& at, const char* end, std::uint64_t& value, bool (*follows)(const char*, const char*)) {
    const char* cursor = at;
    const unsigned digits = read_digits(cursor, end, value);
    if (digits >= fewest_digits && follows(cursor, end)) {
        const char* scattered = at;
        std::uint64_t longer = 0;
        // `0xffff8000 00000000` is one address, `0x80000000  4K` is not: only 16 digits in all make scattered ones an
        // address.
        if (digits < address_digits && read_scattered_digits(scattered, end, longer) && follows(scattered, end)) {
            cursor = scattered;
            value = longer;
        }
        at = cursor;
        return true;
    }
    if (digits == 0 || digits == address_digits || !read_scattered_digits(at, end, value)) return false;
    return follows(at, end);
}

/// Reads `0xFIRST-0xSECOND` at `at`, which is known to point to `0x`.
bool read_range(const char*& at, const char* end, std::uint64_t& first, std::uint64_t& second) {
    const auto separator = [](const char* here, const char* stop) {
        return stop - here > 3 && here[0] == '-' && here[1] == '0' && here[2] == 'x';
    };
    const char* cursor = at + 2;
    if (!read_address(cursor, end, first, separator)) return false;
    cursor += 3;
    if (!read_address(cursor, end, second, at_word_end)) return false;
    at = cursor;
    return true;
}

std::string_view next_word(const char*& at, const char* end) {
    at = skip_blank_bytes(at, end);
    const char* const first = at;
    while (at != end && !is_blank_byte(*at)) ++at;
    return {first, static_cast<std::size_t>(at - first)};
}

bool find_level(std::string_view word, DumpLevel& level, bool& upper_case) {
    if (word.size() != 3) return false;
    for (const DumpLevel candidate :
         {DumpLevel::pte, DumpLevel::pmd, DumpLevel::pud, DumpLevel::p4d, DumpLevel::pgd, DumpLevel::root}) {
        if (word == level_name(candidate, DumpArchitecture::arm64) ||
            word == level_name(candidate, DumpArchitecture::x86_64)) {
            level = candidate;
            upper_case = word == level_name(candidate, DumpArchitecture::arm64);
            return true;
        }
    }
    return false;
}

/// Attributes are letters, digits and little else; a remark behind a line usually starts with something else.
bool could_be_attribute(std::string_view word) {
    constexpr std::size_t longest = 24;
    return word.size() <= longest && std::ranges::all_of(word, [](char c) {
               return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '/' ||
                      c == '(' || c == ')' || c == '_' || c == '-' || c == '.' || c == '+';
           });
}

std::size_t column_hash(std::string_view text) {
    std::uint64_t hash = text.size();
    const auto mix = [&hash](const char* at, std::size_t size) {
        std::uint64_t word = 0;
        std::memcpy(&word, at, size);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    };
    std::size_t at = 0;
    for (; at + 8 <= text.size(); at += 8) mix(text.data() + at, 8);
    if (at < text.size()) mix(text.data() + at, text.size() - at);
    return hash >> 56;
}

/// A line without what mail programs, terminals and kernel logs put before the text of a wrapped rest.
std::string_view without_prefix(std::string_view text) {
    for (;;) {
        while (!text.empty() && (text[0] == '>' || text[0] == '|' || is_blank_byte(text[0]))) text.remove_prefix(1);
        if (text.empty() || text[0] != '[') return text;
        const std::size_t close = text.find(']');
        if (close == std::string_view::npos) return text;
        text.remove_prefix(close + 1);
    }
}

bool names_an_end(std::string_view marker) {
    return marker.ends_with(" end") || marker.ends_with(" End") || marker.starts_with("End ");
}

} // namespace

std::unique_ptr<ByteSource> open_source(const std::string& path) {
    if (path == "-") return std::make_unique<FileSource>(STDIN_FILENO, "standard input", false);
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) throw InputError(path, 0, fmt::format("can't be opened: {}", std::strerror(errno)));
    auto source = std::make_unique<FileSource>(descriptor, path, true);
    struct stat status {};
    if (::fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode)) throw InputError(path, 0, "is a directory");
    return source;
}

std::unique_ptr<ByteSource> text_source(std::string_view text) {
    return std::make_unique<TextSource>(text);
}

DumpReader::DumpReader(ByteSource& source, std::string name, DumpVocabulary& vocabulary)
    : source_(source), name_(std::move(name)), vocabulary_(vocabulary), buffer_(buffer_size) {}

DumpEvent DumpReader::next() {
    for (;;) {
        if (line_ready_ && queue_next_ == line_place_) {
            line_ready_ = false;
            return DumpEvent::line;
        }
        if (queue_next_ < queue_.size()) {
            QueuedEvent& event = queue_[queue_next_++];
            text_ = std::move(event.marker);
            problem_ = std::move(event.problem);
            return event.event;
        }
        queue_.clear();
        queue_next_ = 0;
        if (finished_) return DumpEvent::end;
        std::string_view text;
        if (next_text_line(text))
            take(text);
        else
            finish();
    }
}

// ---- From bytes to lines of text

bool DumpReader::next_text_line(std::string_view& text) {
    std::size_t searched = begin_;
    for (;;) {
        const char* const from = buffer_.data() + searched;
        const auto* const line_end = static_cast<const char*>(std::memchr(from, '\n', end_ - searched));
        if (line_end != nullptr) {
            text = {buffer_.data() + begin_, static_cast<std::size_t>(line_end - buffer_.data()) - begin_};
            begin_ = static_cast<std::size_t>(line_end - buffer_.data()) + 1;
            break;
        }
        searched = end_;
        if (end_ - begin_ > longest_line)
            throw InputError(name_, line_number_ + 1,
                             buffer_has_zeros_
                                 ? std::string(binary_data)
                                 : fmt::format("a line of more than {}; {}", human_size(longest_line), expected_text));
        if (!refill(searched)) {
            if (begin_ == end_) return false;
            text = {buffer_.data() + begin_, end_ - begin_};
            begin_ = end_;
            last_line_open_ = true;
            break;
        }
    }
    ++line_number_;
    return true;
}

/// Reads more behind the unread bytes. `searched` is an index into the buffer and moves with them.
bool DumpReader::refill(std::size_t& searched) {
    if (source_ended_) return false;
    std::copy(buffer_.begin() + static_cast<std::ptrdiff_t>(begin_),
              buffer_.begin() + static_cast<std::ptrdiff_t>(end_), buffer_.begin());
    searched -= begin_;
    end_ -= begin_;
    begin_ = 0;
    const std::size_t got = source_.read(std::span(buffer_).subspan(end_));
    if (got == 0) {
        source_ended_ = true;
        return false;
    }
    const bool first_bytes = bytes_read_ == 0;
    bytes_read_ += got;
    end_ += got;
    if (first_bytes) check_first_bytes();
    buffer_has_zeros_ = std::memchr(buffer_.data(), '\0', end_) != nullptr;
    return true;
}

void DumpReader::check_first_bytes() const {
    const std::string_view text(buffer_.data(), end_);
    const auto starts = [text](std::string_view bytes) { return text.starts_with(bytes); };
    using namespace std::string_view_literals;
    if (starts("\x1f\x8b"sv) || starts("\x28\xb5\x2f\xfd"sv) ||
        starts("\xfd"
               "7zXZ"sv) ||
        starts("BZh"sv) || starts("PK\x03\x04"sv))
        throw InputError(name_, 0, "compressed data; unpack it first, for example: zcat FILE | directmap analyze -");
    if (starts("\xff\xfe"sv) || starts("\xfe\xff"sv))
        throw InputError(name_, 0, "UTF-16 text; convert it to UTF-8 first, for example with iconv");
}

void DumpReader::finish() {
    complete_pending();
    emit_markers(false);
    finished_ = true;
    if (bytes_read_ == 0) throw InputError(name_, 0, fmt::format("empty; {}", expected_text));
}

// ---- From lines of text to entries

void DumpReader::take(std::string_view text) {
    if (buffer_has_zeros_ && text.find('\0') != std::string_view::npos) {
        // Logs that a crash cut off end in zeros; in front of any dump they mean that this isn't text.
        if (dump_lines_ == 0 && !is_pending_) throw InputError(name_, line_number_, std::string(binary_data));
        report(DumpProblem::Kind::missing, line_number_, "zero bytes instead of text: the log was cut off here");
        return;
    }
    if (take_entry(text) || take_continuation(text)) return;
    // A wrapped rest that stops inside a word looks like any other text, but it does belong to an entry that lacks its
    // rest.
    if (last_line_open_ && is_pending_ && pending_.columns.lacks_words()) pending_.last_number = line_number_;
    complete_pending();
    if (take_marker(text) || take_skipped(text)) return;
    if (in_dump_ && last_line_open_ && text.find("0x") != std::string_view::npos)
        report(DumpProblem::Kind::missing, line_number_, "the input ends inside this line");
    other_text_ = true;
}

/// Takes a line that holds an entry, or the first part of one. Returns false when it holds none.
bool DumpReader::take_entry(std::string_view text) {
    const char* at = text.data();
    const char* const end = at + text.size();
    Pending entry;
    for (;; ++at) {
        at = static_cast<const char*>(std::memchr(at, '0', static_cast<std::size_t>(end - at)));
        if (at == nullptr || end - at < 2) return false;
        if (at[1] == 'x' && read_range(at, end, entry.first, entry.second)) break;
    }
    // Kernel logs hold ranges of other kinds. An entry of a dump has a size behind it, on this line or on the next.
    if (!take_size(at, end, entry) && skip_blank_bytes(at, end) != end) return false;

    complete_pending();
    entry.line.number = line_number_;
    entry.last_number = line_number_;
    pending_ = entry;
    is_pending_ = true;
    if (pending_.has_size) take_columns(std::string_view(at, static_cast<std::size_t>(end - at)));
    return true;
}

/// Reads `[0xPHYSICAL] SIZE` into the entry. Without a size it returns false, and the cursor is behind what there was.
bool DumpReader::take_size(const char*& at, const char* end, Pending& entry) {
    const char* cursor = skip_blank_bytes(at, end);
    if (end - cursor > 2 && cursor[0] == '0' && cursor[1] == 'x' && !entry.line.has_physical) {
        cursor += 2;
        if (read_digits(cursor, end, entry.line.physical) < fewest_digits || !at_word_end(cursor, end)) return false;
        entry.line.has_physical = true;
        at = cursor;
        cursor = skip_blank_bytes(cursor, end);
    }
    std::uint64_t size = 0;
    const char* const digits = cursor;
    constexpr std::ptrdiff_t most_digits = 14; // in the smallest unit that is
    while (cursor != end && *cursor >= '0' && *cursor <= '9' && cursor - digits < most_digits)
        size = size * 10 + static_cast<unsigned>(*cursor++ - '0');
    constexpr std::string_view units = "BKMGTPE";
    const std::size_t unit = cursor == end || cursor == digits ? std::string_view::npos : units.find(*cursor);
    if (unit == std::string_view::npos || !at_word_end(cursor + 1, end)) return false;
    // Modulo 2^64 on purpose: the whole address space is 16E long, and its end prints as 0.
    entry.size = size << (10 * unit);
    entry.has_size = true;
    at = cursor + 1;
    return true;
}

/// Takes what stands behind the size of the pending entry, and drops the entry when that is nonsense.
void DumpReader::take_columns(std::string_view text) {
    ++dump_lines_;
    if (!set_range(pending_)) {
        is_pending_ = false;
        return;
    }
    while (!text.empty() && is_blank_byte(text.back())) text.remove_suffix(1);
    // Few different texts stand here, and they come again and again: what they mean is remembered.
    RememberedColumns& remembered = remembered_[column_hash(text)];
    if (!text.empty() && remembered.text == text) {
        pending_.columns = remembered.columns;
        return;
    }
    // Only at the very end can a word be a part of one.
    if (!read_columns(text, pending_.columns, last_line_open_)) {
        const char* at = text.data();
        if (pending_.columns.level_known)
            report_entry("the attributes are cut off");
        else
            report_entry(fmt::format("`{}` where a level was expected: PGD, P4D, PUD, PMD or PTE, in capitals or not",
                                     printable(next_word(at, at + text.size()))));
        is_pending_ = false;
        return;
    }
    constexpr std::size_t longest_remembered = 256;
    if (pending_.columns.level_known && text.size() <= longest_remembered) {
        remembered.text = text;
        remembered.columns = pending_.columns;
    }
}

/// Makes the range of the entry out of the addresses and the size as they were printed. Reports and returns false when
/// they don't agree.
bool DumpReader::set_range(Pending& entry) {
    const std::uint64_t first = entry.first;
    const std::uint64_t second = entry.second;
    // Most kernels print the end, which is 0 at the end of the address space; one vendor's print the last byte. The
    // size tells.
    const bool exclusive = second - first == entry.size && (first != second || first == 0);
    const bool inclusive = second - first + 1 == entry.size && second >= first;
    if (!exclusive && !inclusive) {
        if (first == second)
            report_entry(fmt::format("{} to {} is empty", hex(first), hex(second)));
        else if (second != 0 && second < first)
            report_entry(fmt::format("the range ends at {}, before it starts at {}", hex(second), hex(first)));
        else
            report_entry(fmt::format("{} to {} is {} long, but the line says {}", hex(first), hex(second),
                                     leaf_name(second - first), leaf_name(entry.size)));
        return false;
    }
    entry.line.start = first;
    entry.line.last = exclusive ? second - 1 : second;
    if (first % smallest_page != 0 || entry.line.last % smallest_page != smallest_page - 1) {
        report_entry(fmt::format("{} to {} is not made of whole pages", hex(first), hex(second)));
        return false;
    }
    if (entry.line.last < first) {
        report_entry(fmt::format("{} to {} runs past the end of the address space", hex(first), hex(second)));
        return false;
    }
    return true;
}

/// Adds the words of `text` to the columns. Returns false when a word is none of a dump's; with `known_words_only` that
/// is also a word that only newer kernels may print, because then it isn't sure that the text belongs to a dump at all.
bool DumpReader::read_columns(std::string_view text, Columns& columns, bool known_words_only) {
    std::array<std::string_view, 16> unknown; // words in front of a level: attributes if an x86-64 level follows
    std::size_t unknown_count = 0;
    const bool was_complete = columns.last;
    const char* at = text.data();
    const char* const end = at + text.size();
    for (;;) {
        const std::string_view word = next_word(at, end);
        if (word.empty()) break;
        if (columns.last) {
            // The level is the last word of x86-64; elsewhere a few words may follow. Everything else is a remark.
            const DumpWord* known = columns.upper_case ? DumpVocabulary::find(word) : nullptr;
            if (known == nullptr || !known->trailing) {
                if (known_words_only && was_complete) return false;
                break;
            }
            columns.attributes |= known->attributes;
            columns.has_words = true;
            continue;
        }
        if (!columns.level_known) {
            bool upper_case = false;
            if (find_level(word, columns.level, upper_case) && (!upper_case || !columns.has_words)) {
                columns.level_known = true;
                columns.upper_case = upper_case;
                columns.last = !upper_case;
                continue;
            }
        }
        columns.has_words = true;
        if (word.find_first_not_of('.') == std::string_view::npos) continue; // riscv: an attribute that isn't set
        if (const DumpWord* known = DumpVocabulary::find(word)) {
            columns.attributes |= known->attributes;
            columns.contiguous |= known->shape == DumpShape::contiguous;
            columns.table |= known->shape == DumpShape::table;
            columns.last |= known->last && columns.level_known;
            continue;
        }
        if (known_words_only) return false;
        if (!columns.level_known) {
            if (unknown_count == unknown.size() || !could_be_attribute(word)) return false;
            unknown[unknown_count++] = word;
            continue;
        }
        if (!could_be_attribute(word)) break; // a remark
        const bool is_device = word.starts_with("DEVICE/");
        columns.attributes |= vocabulary_.intern(word) | (is_device ? attribute::device : 0);
        columns.last = is_device || word.starts_with("MEM/");
    }
    if (unknown_count != 0 && !columns.level_known) return false;
    for (const std::string_view word : std::span(unknown).first(unknown_count))
        columns.attributes |= vocabulary_.intern(word);
    return true;
}

/// Takes a line that holds nothing but the wrapped rest of the pending entry.
bool DumpReader::take_continuation(std::string_view text) {
    if (!is_pending_) return false;
    text = without_prefix(text);
    if (!pending_.has_size) {
        const char* at = text.data();
        const char* const end = at + text.size();
        if (!take_size(at, end, pending_)) return false;
        pending_.last_number = line_number_;
        take_columns(std::string_view(at, static_cast<std::size_t>(end - at)));
        return true;
    }
    Columns columns = pending_.columns;
    const bool had_words = columns.has_words;
    columns.has_words = false;
    if (!read_columns(text, columns, true) ||
        (!columns.has_words && columns.level_known == pending_.columns.level_known))
        return false;
    columns.has_words |= had_words;
    pending_.columns = columns;
    pending_.last_number = line_number_;
    return true;
}

bool DumpReader::take_marker(std::string_view text) {
    constexpr std::string_view opening = "---[";
    constexpr std::string_view closing = "]---";
    const std::size_t open = text.find(opening);
    if (open == std::string_view::npos) return false;
    text.remove_prefix(open + opening.size());
    const std::size_t close = text.find(closing);
    if (close == std::string_view::npos) return false;
    text = text.substr(0, close);
    while (!text.empty() && is_blank_byte(text.front())) text.remove_prefix(1);
    while (!text.empty() && is_blank_byte(text.back())) text.remove_suffix(1);
    if (markers_.size() == marker_limit) markers_.erase(markers_.begin());
    markers_.push_back(printable(text));
    return true;
}

/// x86-64: `... 12 entries skipped ...`.
bool DumpReader::take_skipped(std::string_view text) {
    const std::size_t dots = text.find("... ");
    if (!in_dump_ || dots == std::string_view::npos || text.find(" skipped", dots) == std::string_view::npos)
        return false;
    const char* at = text.data() + dots + 4;
    const std::string_view count = next_word(at, text.data() + text.size());
    if (count.empty() || count.find_first_not_of("0123456789") != std::string_view::npos ||
        !next_word(at, text.data() + text.size()).starts_with("entr"))
        return false;
    report(DumpProblem::Kind::skipped, line_number_, fmt::format("the kernel left out {} entries here", count));
    return true;
}

// ---- From entries to dumps

void DumpReader::complete_pending() {
    if (!is_pending_) return;
    const Columns& columns = pending_.columns;
    if (!pending_.has_size && !(in_dump_ && is_cut_off())) {
        // Another kind of range, as kernel logs have them.
        other_text_ = true;
    } else if (!pending_.has_size) {
        report_entry("no size");
    } else if (!columns.level_known) {
        report_entry("no level behind the size; expected PGD, P4D, PUD, PMD or PTE, in capitals or not");
    } else if (columns.lacks_words() && is_cut_off()) {
        report_entry("the attributes are cut off");
    } else {
        DumpLine& line = pending_.line;
        line.attributes = columns.attributes;
        line.contiguous = columns.contiguous;
        line.level = columns.level;
        line.architecture = !columns.upper_case ? DumpArchitecture::x86_64
                            : line.has_physical ? DumpArchitecture::riscv
                                                : DumpArchitecture::arm64;
        line.entry = columns.table ? DumpEntry::table : columns.has_words ? DumpEntry::leaf : DumpEntry::hole;
        emit(line);
    }
    is_pending_ = false;
}

/// Decides whether the entry goes on with the dump or starts another one.
void DumpReader::emit(const DumpLine& line) {
    const bool backwards = in_dump_ && dump_entries_ != 0 && line.start <= previous_last_;
    const bool after_end = previous_last_ == UINT64_MAX;
    const bool repeated_marker = std::ranges::any_of(markers_, [this](const std::string& marker) {
        return !names_an_end(marker) && std::ranges::find(dump_markers_, marker) != dump_markers_.end();
    });
    // Two addresses that aren't in order are an error, unless something else says that a new dump begins.
    const bool from_the_start =
        line.start <= first_start_ && dump_entries_ > 1 && (line.start == first_start_ || other_text_);
    const bool new_dump = !in_dump_ || line.architecture != architecture_ || repeated_marker ||
                          (backwards && (!markers_.empty() || after_end || from_the_start));
    if (new_dump || !markers_.empty()) emit_markers(new_dump);
    if (new_dump) {
        in_dump_ = true;
        dump_entries_ = 0;
        architecture_ = line.architecture;
        first_start_ = line.start;
    } else if (backwards && line.entry != DumpEntry::table) {
        report(DumpProblem::Kind::bad, line.number,
               fmt::format("overlaps line {}, which ends at {}; expected addresses in ascending order",
                           previous_number_, hex(previous_last_ + 1)));
        return;
    }
    other_text_ = false;
    line_ = line;
    line_ready_ = true;
    line_place_ = queue_.size();
    if (line.entry != DumpEntry::table) {
        ++dump_entries_;
        previous_last_ = line.last;
        previous_number_ = line.number;
    }
}

/// Hands out the markers that have been read since the last entry, and before, between or behind them the word that a
/// new dump begins.
void DumpReader::emit_markers(bool new_dump) {
    const auto hand_out = [this](std::string& marker) {
        if (dump_markers_.size() < marker_limit) dump_markers_.push_back(marker);
        queue_.push_back({.event = DumpEvent::marker, .marker = std::move(marker), .problem = {}});
    };
    auto marker = markers_.begin();
    // Names of ends belong to what came before them.
    for (; in_dump_ && marker != markers_.end() && names_an_end(*marker); ++marker) hand_out(*marker);
    if (new_dump) {
        dump_markers_.clear();
        queue_.push_back({.event = DumpEvent::new_dump, .marker = {}, .problem = {}});
    }
    if (new_dump || in_dump_) std::for_each(marker, markers_.end(), hand_out);
    markers_.clear();
}

void DumpReader::report(DumpProblem::Kind kind, std::uint64_t line, std::string reason) {
    queue_.push_back({.event = DumpEvent::problem, .marker = {}, .problem = {kind, line, std::move(reason)}});
}

bool DumpReader::is_cut_off() const {
    return last_line_open_ && pending_.last_number == line_number_;
}

void DumpReader::report_entry(std::string reason) {
    if (is_cut_off())
        report(DumpProblem::Kind::missing, pending_.line.number,
               fmt::format("the input ends inside this line ({})", reason));
    else
        report(DumpProblem::Kind::bad, pending_.line.number, std::move(reason));
}

} // namespace directmap::tool

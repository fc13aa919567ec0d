// Reads page-table dumps of running kernels, as people have them: from debugfs, kernel logs and mails.
//
// The reader streams: its memory doesn't depend on the size of the input. It looks for tokens, not columns, so that log
// prefixes, quote marks, wrapped lines and the formats of many kernel versions need no options. docs/analyze.md lists
// what it understands.
#pragma once

#include "dump_vocabulary.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace directmap::tool {

/// Bytes that come piece by piece.
class ByteSource {
public:
    virtual ~ByteSource() = default;
    /// Reads at most buffer.size() bytes. Returns how many; 0 only at the end. Throws InputError when reading fails.
    virtual std::size_t read(std::span<char> buffer) = 0;
};

/// Reads a file, or standard input when the path is `-`. Throws InputError when it can't be opened or is a directory.
[[nodiscard]] std::unique_ptr<ByteSource> open_source(const std::string& path);
/// Reads text that outlives the source.
[[nodiscard]] std::unique_ptr<ByteSource> text_source(std::string_view text);

enum class DumpEntry : std::uint8_t {
    hole,  ///< nothing is mapped
    leaf,  ///< memory is mapped; the leaf may be present-invalid
    table, ///< a row about a table, as one vendor's kernels print it before the rows of its entries
};

/// One line of a dump. It may cover many leaves: kernels merge neighbours that look the same.
struct DumpLine {
    std::uint64_t start = 0;
    std::uint64_t last = 0; ///< the last byte, because the end of the address space isn't a 64-bit number
    std::uint64_t physical = 0;
    std::uint64_t number = 0; ///< line of the input on which the entry starts; from 1
    DumpAttributes attributes = 0;
    bool has_physical = false; ///< riscv dumps tell the physical address of `start`
    bool contiguous = false;
    DumpArchitecture architecture = DumpArchitecture::arm64;
    DumpLevel level = DumpLevel::pte;
    DumpEntry entry = DumpEntry::hole;
};

struct DumpProblem {
    enum class Kind : std::uint8_t {
        bad,     ///< the input contradicts the format or itself
        missing, ///< the input is sound, but ends too early
        skipped, ///< the kernel says that it left out lines here
    };
    Kind kind = Kind::bad;
    std::uint64_t line = 0; ///< from 1; 0 when the whole input is meant
    std::string reason;
};

enum class DumpEvent : std::uint8_t {
    new_dump, ///< the lines and markers that follow belong to another dump
    marker,   ///< marker(): a name that the kernel prints between `---[` and `]---`
    line,     ///< line(): addresses ascend within a dump; only rows about tables overlap the lines behind them
    problem,  ///< problem(): the line it names is left out
    end,
};

class DumpReader {
public:
    /// `name` is what messages call the input. Reader and caller share the vocabulary, so that attributes can be put
    /// into words again.
    DumpReader(ByteSource& source, std::string name, DumpVocabulary& vocabulary);

    /// The next event. What it brought is valid until the call after. Throws InputError when the input isn't text at
    /// all.
    DumpEvent next();

    [[nodiscard]] const DumpLine& line() const { return line_; }
    [[nodiscard]] std::string_view marker() const { return text_; }
    [[nodiscard]] const DumpProblem& problem() const { return problem_; }
    [[nodiscard]] const std::string& name() const { return name_; }
    /// How far the reader is.
    [[nodiscard]] std::uint64_t line_number() const { return line_number_; }
    [[nodiscard]] std::uint64_t bytes_read() const { return bytes_read_; }
    /// Lines that were entries of a dump, sound or not.
    [[nodiscard]] std::uint64_t dump_lines() const { return dump_lines_; }

private:
    /// What the words behind an entry's size say.
    struct Columns {
        DumpAttributes attributes = 0;
        DumpLevel level = DumpLevel::pte;
        bool level_known = false;
        bool upper_case = false;
        bool contiguous = false;
        bool table = false;
        bool has_words = false; ///< at least one word that isn't the level
        bool last = false;      ///< complete: no wrapped rest can follow

        [[nodiscard]] bool lacks_words() const { return !level_known || (has_words && !last); }
    };
    struct RememberedColumns {
        std::string text;
        Columns columns;
    };
    /// What is known of the entry that was read last. It waits until the next line has shown that it isn't a wrapped
    /// rest.
    struct Pending {
        DumpLine line;
        std::uint64_t first = 0; ///< the two addresses as they were printed
        std::uint64_t second = 0;
        std::uint64_t size = 0;
        std::uint64_t last_number = 0; ///< line of the input on which the entry ends, so far
        bool has_size = false;
        Columns columns;
    };
    struct QueuedEvent {
        DumpEvent event;
        std::string marker;
        DumpProblem problem;
    };

    bool next_text_line(std::string_view& text);
    bool refill(std::size_t& searched);
    void check_first_bytes() const;
    void finish();

    void take(std::string_view text);
    bool take_entry(std::string_view text);
    static bool take_size(const char*& at, const char* end, Pending& entry);
    bool set_range(Pending& entry);
    void take_columns(std::string_view text);
    bool read_columns(std::string_view text, Columns& columns, bool known_words_only);
    bool take_continuation(std::string_view text);
    bool take_marker(std::string_view text);
    bool take_skipped(std::string_view text);

    void complete_pending();
    void emit(const DumpLine& line);
    void emit_markers(bool new_dump);
    void report(DumpProblem::Kind kind, std::uint64_t line, std::string reason);
    /// The pending entry stands on the last line of an input that stops inside that line.
    [[nodiscard]] bool is_cut_off() const;
    /// The pending entry is wrong; or, when it's cut off, only not whole.
    void report_entry(std::string reason);

    ByteSource& source_;
    std::string name_;
    DumpVocabulary& vocabulary_;

    std::vector<char> buffer_;
    std::size_t begin_ = 0; ///< unread bytes of the buffer
    std::size_t end_ = 0;
    bool source_ended_ = false;
    bool buffer_has_zeros_ = false;
    bool last_line_open_ = false; ///< the line just taken had no line end
    bool finished_ = false;
    std::uint64_t line_number_ = 0;
    std::uint64_t bytes_read_ = 0;
    std::uint64_t dump_lines_ = 0;

    bool is_pending_ = false;
    Pending pending_;

    // The dump that the lines belong to.
    bool in_dump_ = false;
    std::uint64_t dump_entries_ = 0;
    std::uint64_t first_start_ = 0;
    std::uint64_t previous_last_ = 0;
    std::uint64_t previous_number_ = 0;
    DumpArchitecture architecture_ = DumpArchitecture::arm64;
    bool other_text_ = false;               ///< since the last entry there was a line that is neither entry nor marker
    std::vector<std::string> markers_;      ///< markers since the last entry: they may already belong to the next dump
    std::vector<std::string> dump_markers_; ///< markers of the dump so far: one that comes again starts another dump
    static constexpr std::size_t marker_limit = 64;

    std::vector<QueuedEvent> queue_;
    std::size_t queue_next_ = 0;
    bool line_ready_ = false;
    std::size_t line_place_ = 0; ///< how many of the queue's events come before the line

    DumpLine line_;
    std::string text_;
    DumpProblem problem_;

    static constexpr std::size_t remembered_count = 256;
    std::array<RememberedColumns, remembered_count> remembered_;
};

} // namespace directmap::tool

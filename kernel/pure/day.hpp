// A day as a file (docs/scenarios.md): what the users of a direct map do, one line each, as `directmap run --day`
// writes it. The kernel gets it as its initial RAM disk.
#pragma once

#include <cstdint>
#include <string_view>

namespace directmap::kernel {

struct DayEvent {
    enum class Kind : std::uint8_t {
        step,     ///< a statement of the scenario begins
        load,     ///< module `number`: text, constants, data in `bytes`
        unload,   ///< module `number`
        places,   ///< the pages that are taken next are spread over so many blocks, in turn
        take,     ///< secret page `number`
        give,     ///< secret page `number`
        share,    ///< buffer `number` of `bytes[0]`
        unshare,  ///< buffer `number`
        add,      ///< piece of code `number` of `bytes[0]`
        remove,   ///< piece of code `number`
        start,    ///< thread `number`, with a shadow stack
        end,      ///< thread `number`
        copy,     ///< of the map: for kexec, or with `number` 1 for hibernation
        prepare,  ///< `bytes[0]` of guard pages
        guard,    ///< page `page` of pool `number`
        unguard,  ///< page `page` of pool `number`
        release,  ///< all guard pages
        wait,     ///< milliseconds: `number`
        collapse, ///< heal whatever can be healed
        evening,  ///< the end of the day, after which everybody goes
    };

    Kind kind = Kind::step;
    std::uint64_t number = 0;
    std::uint64_t page = 0;
    std::uint64_t bytes[3] = {};
};

/// Reads a day line by line. Copyable: a copy goes on from where the original was.
class DayReader {
public:
    explicit DayReader(std::string_view text) : text_{text} {}

    /// Reads the first line. Null, or what is wrong with it. Sizes in the file are multiples of `page_size`.
    [[nodiscard]] const char* open(std::uint64_t page_size);
    /// The next event; false at the end of the file and at a mistake.
    [[nodiscard]] bool next(DayEvent& event);
    /// Null, or what is wrong with the line that was read last.
    [[nodiscard]] const char* mistake() const { return mistake_; }
    [[nodiscard]] std::uint64_t line() const { return line_; }

private:
    [[nodiscard]] bool next_line(std::string_view& line);
    [[nodiscard]] bool read(std::string_view line, DayEvent& event) const;
    [[nodiscard]] bool are_sizes(const std::uint64_t* values, unsigned count) const;

    std::string_view text_;
    std::uint64_t page_size_ = 0;
    std::uint64_t line_ = 0;
    const char* mistake_ = nullptr;
};

} // namespace directmap::kernel

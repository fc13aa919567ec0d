#include "pure/day.hpp"

#include "pure/number.hpp"

namespace directmap::kernel {

namespace {

constexpr std::string_view first_words = "directmap-day 1 ";

constexpr std::uint64_t largest_code = std::uint64_t{2} << 20;

using Kind = DayEvent::Kind;
struct Verb {
    std::string_view name;
    Kind kind;
    unsigned numbers;
};
constexpr Verb verbs[] = {
    {"load", Kind::load, 4},       {"unload", Kind::unload, 1},   {"places", Kind::places, 1},
    {"take", Kind::take, 1},       {"give", Kind::give, 1},       {"share", Kind::share, 2},
    {"unshare", Kind::unshare, 1}, {"add", Kind::add, 2},         {"remove", Kind::remove, 1},
    {"start", Kind::start, 1},     {"end", Kind::end, 1},         {"prepare", Kind::prepare, 1},
    {"guard", Kind::guard, 2},     {"unguard", Kind::unguard, 2}, {"release", Kind::release, 0},
    {"wait", Kind::wait, 1},       {"evening", Kind::evening, 0}, {"collapse", Kind::collapse, 0},
};

/// Cuts the first word off.
std::string_view first_word(std::string_view& rest) {
    const std::size_t end = rest.find(' ');
    const std::string_view word = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    return word;
}

} // namespace

const char* DayReader::open(std::uint64_t page_size) {
    std::string_view line;
    if (!next_line(line) || line.substr(0, first_words.size()) != first_words) return "this is no day";
    line.remove_prefix(first_words.size());
    std::uint64_t pages = 0;
    if (!read_decimal(line, pages) || pages != page_size) return "the day is one of a machine with other pages";
    page_size_ = page_size;
    return nullptr;
}

bool DayReader::next(DayEvent& event) {
    std::string_view line;
    if (mistake_ != nullptr || !next_line(line)) return false;
    event = {};
    if (read(line, event)) return true;
    mistake_ = "a line that can't be understood";
    return false;
}

bool DayReader::next_line(std::string_view& line) {
    if (text_.empty()) return false;
    const std::size_t end = text_.find('\n');
    line = text_.substr(0, end);
    text_.remove_prefix(end == std::string_view::npos ? text_.size() : end + 1);
    ++line_;
    return true;
}

bool DayReader::read(std::string_view line, DayEvent& event) const {
    const std::string_view word = first_word(line);
    if (word == "step") return true;
    if (word == "copy") {
        event.kind = Kind::copy;
        event.number = line == "hibernation" ? 1 : 0;
        return event.number == 1 || line == "kexec";
    }
    for (const Verb& verb : verbs) {
        if (word != verb.name) continue;
        std::uint64_t numbers[4] = {};
        for (unsigned i = 0; i < verb.numbers; ++i) {
            if (!read_decimal(first_word(line), numbers[i])) return false;
        }
        if (!line.empty()) return false;
        event.kind = verb.kind;
        event.number = numbers[0];
        event.page = numbers[1];
        switch (verb.kind) {
        case Kind::load:
            for (unsigned i = 0; i < 3; ++i) event.bytes[i] = numbers[1 + i];
            return are_sizes(event.bytes, 3) && event.bytes[0] != 0;
        case Kind::add: event.bytes[0] = numbers[1]; return numbers[1] != 0 && numbers[1] <= largest_code;
        case Kind::share: event.bytes[0] = numbers[1]; return are_sizes(event.bytes, 1) && event.bytes[0] != 0;
        case Kind::prepare: event.bytes[0] = numbers[0]; return are_sizes(event.bytes, 1) && event.bytes[0] != 0;
        case Kind::places: return numbers[0] != 0;
        default: return true;
        }
    }
    return false;
}

bool DayReader::are_sizes(const std::uint64_t* values, unsigned count) const {
    constexpr std::uint64_t most = std::uint64_t{1} << 30;
    for (unsigned i = 0; i < count; ++i) {
        if (values[i] > most || (values[i] & (page_size_ - 1)) != 0) return false;
    }
    return true;
}

} // namespace directmap::kernel

#include "output.hpp"

#include <array>
#include <cstdlib>
#include <fmt/format.h>
#include <unistd.h>

namespace directmap::tool {
namespace {

constexpr std::array<std::string_view, 7> unit_letters = {"", "K", "M", "G", "T", "P", "E"};

} // namespace

bool colour_wanted(std::FILE* stream) {
    const char* no_color = std::getenv("NO_COLOR");
    const char* terminal = std::getenv("TERM");
    if (no_color != nullptr && *no_color != '\0') return false;
    if (terminal != nullptr && std::string_view(terminal) == "dumb") return false;
    return isatty(fileno(stream)) != 0;
}

std::string Palette::wrap(std::string_view sgr, std::string_view text) const {
    return enabled_ ? fmt::format("\x1b[{}m{}\x1b[0m", sgr, text) : std::string(text);
}

std::string hex(std::uint64_t value) {
    return fmt::format("{:#x}", value);
}

std::string hex(const Range& range) {
    return fmt::format("{:08x}-{:08x}", range.start, range.end - 1);
}

std::string human_size(std::uint64_t bytes) {
    std::size_t unit = 0;
    while (unit + 1 < unit_letters.size() && bytes >> (10 * (unit + 1)) != 0) ++unit;
    if (unit == 0) return fmt::format("{} bytes", bytes);
    std::string text =
        fmt::format("{:.2f}", static_cast<double>(bytes) / static_cast<double>(std::uint64_t{1} << (10 * unit)));
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return fmt::format("{} {}iB", text, unit_letters[unit]);
}

std::string leaf_name(std::uint64_t bytes) {
    std::size_t unit = 0;
    while (unit + 1 < unit_letters.size() && bytes >= 1024 && bytes % 1024 == 0) {
        bytes /= 1024;
        ++unit;
    }
    return fmt::format("{}{}", bytes, unit_letters[unit]);
}

std::string grouped(std::uint64_t number) {
    std::string digits = std::to_string(number);
    for (std::size_t at = digits.size(); at > 3;) {
        at -= 3;
        digits.insert(at, 1, ',');
    }
    return digits;
}

std::string counted(std::uint64_t number, std::string_view singular, std::string_view plural) {
    return fmt::format("{} {}", grouped(number), number == 1 ? singular : plural);
}

std::string printable(std::string_view text) {
    constexpr std::size_t longest = 60;
    std::string result;
    for (const char c : text.substr(0, longest)) {
        const auto byte = static_cast<unsigned char>(c);
        result += byte < 0x20 || byte >= 0x7f ? '?' : c;
    }
    if (text.size() > longest) result += "...";
    return result;
}

} // namespace directmap::tool

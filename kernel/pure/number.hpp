// Numbers in text.
#pragma once

#include <cstdint>
#include <string_view>

namespace directmap::kernel {

/// All of `text` as a decimal number; false if it is none, or too large.
[[nodiscard]] constexpr bool read_decimal(std::string_view text, std::uint64_t& number) {
    if (text.empty()) return false;
    number = 0;
    for (const char c : text) {
        if (c < '0' || c > '9') return false;
        const auto digit = static_cast<std::uint64_t>(c - '0');
        if (number > (~std::uint64_t{0} - digit) / 10) return false;
        number = number * 10 + digit;
    }
    return true;
}

} // namespace directmap::kernel

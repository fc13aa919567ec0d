// A cursor over one line of text, for formats that are read token by token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace directmap::tool {

[[nodiscard]] constexpr bool is_blank(char c) {
    return c == ' ' || c == '\t';
}

[[nodiscard]] constexpr int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

[[nodiscard]] constexpr std::string_view trimmed(std::string_view text) {
    while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
    while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
    return text;
}

/// Every function that returns bool moves the cursor only when it returns true.
class Scanner {
public:
    constexpr explicit Scanner(std::string_view text) : rest_(text) {}

    [[nodiscard]] constexpr std::string_view rest() const { return rest_; }
    [[nodiscard]] constexpr bool at_end() const { return rest_.empty(); }

    constexpr void skip_blanks() {
        while (!rest_.empty() && is_blank(rest_.front())) rest_.remove_prefix(1);
    }

    constexpr bool accept(std::string_view literal) {
        if (!rest_.starts_with(literal)) return false;
        rest_.remove_prefix(literal.size());
        return true;
    }

    /// Moves behind the next occurrence of `literal`.
    constexpr bool skip_past(std::string_view literal) {
        const std::size_t at = rest_.find(literal);
        if (at == std::string_view::npos) return false;
        rest_.remove_prefix(at + literal.size());
        return true;
    }

    /// A hexadecimal number of at most 64 bits, with or without 0x.
    constexpr bool hex(std::uint64_t& value) {
        std::string_view text = rest_;
        if (text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X') && hex_digit(text[2]) >= 0)
            text.remove_prefix(2);
        return number<16>(text, value);
    }

    constexpr bool decimal(std::uint64_t& value) { return number<10>(rest_, value); }

private:
    template <unsigned base>
    constexpr bool number(std::string_view text, std::uint64_t& value) {
        std::uint64_t result = 0;
        std::size_t digits = 0;
        for (; digits < text.size(); ++digits) {
            const int digit = hex_digit(text[digits]);
            if (digit < 0 || static_cast<unsigned>(digit) >= base) break;
            if (result > (UINT64_MAX - static_cast<unsigned>(digit)) / base) return false;
            result = result * base + static_cast<unsigned>(digit);
        }
        if (digits == 0) return false;
        text.remove_prefix(digits);
        rest_ = text;
        value = result;
        return true;
    }

    std::string_view rest_;
};

} // namespace directmap::tool

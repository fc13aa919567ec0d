// Formatting without a library: `{}` is replaced by the next argument, whose type says how it looks.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace directmap::kernel {

/// Where text goes: a function and what it needs to know. Copyable, and usable before the MMU is on, when a virtual
/// table would still hold addresses that don't translate.
struct TextSink {
    void (*write)(void* context, std::string_view text);
    void* context = nullptr;
};

/// An unsigned number as 0x…, with at least `digits` digits.
struct Hex {
    std::uint64_t value;
    unsigned digits = 1;
};
/// A number of bytes in the largest unit that divides it: 4K, 3M, 256G.
struct Size {
    std::uint64_t bytes;
};
/// Text in a column: spaces after it up to `width`.
struct Left {
    std::string_view text;
    unsigned width;
};
/// A number in a column: spaces before it up to `width`.
struct Right {
    std::uint64_t value;
    unsigned width;
};
/// Text between quotes, escaped as JSON asks.
struct Quoted {
    std::string_view text;
};

/// One argument of `format`, whatever its type was.
class TextArgument {
public:
    constexpr TextArgument(std::string_view text) : kind_{Kind::text}, text_{text.data()}, number_{text.size()} {}
    constexpr TextArgument(const char* text) : TextArgument{std::string_view{text}} {}
    constexpr TextArgument(bool value) : TextArgument{std::string_view{value ? "true" : "false"}} {}
    constexpr TextArgument(char value) : kind_{Kind::character}, number_{static_cast<unsigned char>(value)} {}
    template <std::unsigned_integral T>
    constexpr TextArgument(T value) : kind_{Kind::number}, number_{value} {}
    template <std::signed_integral T>
    constexpr TextArgument(T value)
        : kind_{value < 0 ? Kind::negative : Kind::number}, number_{value < 0 ? 0 - static_cast<std::uint64_t>(value)
                                                                              : static_cast<std::uint64_t>(value)} {}
    constexpr TextArgument(Hex hex) : kind_{Kind::hex}, width_{hex.digits}, number_{hex.value} {}
    constexpr TextArgument(Size size) : kind_{Kind::size}, number_{size.bytes} {}
    constexpr TextArgument(Left left) : TextArgument{left.text} { width_ = left.width; }
    constexpr TextArgument(Right right) : kind_{Kind::number}, width_{right.width}, number_{right.value} {}
    constexpr TextArgument(Quoted quoted) : TextArgument{quoted.text} { kind_ = Kind::quoted; }

    void write_to(TextSink sink) const;

private:
    enum class Kind : std::uint8_t { text, quoted, character, number, negative, hex, size };

    Kind kind_;
    unsigned width_ = 0;
    const char* text_ = nullptr;
    std::uint64_t number_;
};

/// Writes `pattern` to `sink`, with each `{}` replaced by the next argument. A placeholder without an argument stays
/// as it is, so that the mistake shows.
void format_arguments(TextSink sink, std::string_view pattern, const TextArgument* arguments, std::size_t count);

template <class... Arguments>
void format(TextSink sink, std::string_view pattern, Arguments... arguments) {
    // One more than there are, because an array can't be empty.
    const TextArgument list[] = {TextArgument{arguments}..., TextArgument{'\0'}};
    format_arguments(sink, pattern, list, sizeof...(Arguments));
}

/// Text of a bounded length; what doesn't fit is cut off.
template <std::size_t capacity>
class TextBuffer {
public:
    [[nodiscard]] TextSink sink() {
        return {[](void* self, std::string_view text) { static_cast<TextBuffer*>(self)->append(text); }, this};
    }
    [[nodiscard]] std::string_view view() const { return {characters_, size_}; }
    void clear() { size_ = 0; }
    void append(std::string_view text) {
        for (const char c : text) {
            if (size_ < capacity) characters_[size_++] = c;
        }
    }

private:
    char characters_[capacity];
    std::size_t size_ = 0;
};

} // namespace directmap::kernel

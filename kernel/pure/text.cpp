#include "pure/text.hpp"

namespace directmap::kernel {

namespace {

/// Digits of `value`, right-aligned at the end of a buffer that holds any 64-bit number.
class Digits {
public:
    Digits(std::uint64_t value, unsigned base, unsigned at_least = 1) {
        do {
            const auto digit = static_cast<char>(value % base);
            characters_[--first_] = static_cast<char>(digit < 10 ? '0' + digit : 'a' + digit - 10);
            value /= base;
        } while (value != 0);
        while (capacity - first_ < at_least && first_ != 0) characters_[--first_] = '0';
    }
    [[nodiscard]] std::string_view view() const { return {characters_ + first_, capacity - first_}; }

private:
    static constexpr unsigned capacity = 20; // 2^64 has 20 decimal digits
    char characters_[capacity];
    unsigned first_ = capacity;
};

void pad(TextSink sink, std::size_t used, unsigned width) {
    for (; used < width; ++used) sink.write(sink.context, " ");
}

void write_quoted(TextSink sink, std::string_view text) {
    sink.write(sink.context, "\"");
    for (const char& c : text) {
        const auto code = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            sink.write(sink.context, "\\");
            sink.write(sink.context, {&c, 1});
        } else if (code < 0x20 || code >= 0x7f) { // bytes that are no ASCII text are shown as Latin-1
            sink.write(sink.context, "\\u");
            sink.write(sink.context, Digits{code, 16, 4}.view());
        } else {
            sink.write(sink.context, {&c, 1});
        }
    }
    sink.write(sink.context, "\"");
}

void write_size(TextSink sink, std::uint64_t bytes) {
    constexpr std::string_view units = "BKMGTPE";
    std::size_t unit = 0;
    while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < units.size()) {
        bytes /= 1024;
        ++unit;
    }
    sink.write(sink.context, Digits{bytes, 10}.view());
    sink.write(sink.context, {&units[unit], 1});
}

} // namespace

void TextArgument::write_to(TextSink sink) const {
    switch (kind_) {
    case Kind::text:
        sink.write(sink.context, {text_, number_});
        pad(sink, number_, width_);
        break;
    case Kind::quoted: write_quoted(sink, {text_, number_}); break;
    case Kind::character: {
        const char c = static_cast<char>(number_);
        sink.write(sink.context, {&c, 1});
        break;
    }
    case Kind::negative: sink.write(sink.context, "-"); [[fallthrough]];
    case Kind::number: {
        const Digits digits{number_, 10};
        pad(sink, digits.view().size(), width_);
        sink.write(sink.context, digits.view());
        break;
    }
    case Kind::hex:
        sink.write(sink.context, "0x");
        sink.write(sink.context, Digits{number_, 16, width_}.view());
        break;
    case Kind::size: write_size(sink, number_); break;
    }
}

void format_arguments(TextSink sink, std::string_view pattern, const TextArgument* arguments, std::size_t count) {
    constexpr std::string_view placeholder = "{}";
    while (count != 0) {
        const std::size_t at = pattern.find(placeholder);
        if (at == std::string_view::npos) break;
        sink.write(sink.context, pattern.substr(0, at));
        arguments->write_to(sink);
        ++arguments;
        --count;
        pattern.remove_prefix(at + placeholder.size());
    }
    sink.write(sink.context, pattern);
}

} // namespace directmap::kernel

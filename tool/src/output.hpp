// What every command's output has in common: when to colour, how sizes and addresses are written.
#pragma once

#include "range.hpp"

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace directmap::tool {

/// Colour is for people at a terminal who did not set NO_COLOR (https://no-color.org) and whose terminal is not `dumb`.
[[nodiscard]] bool colour_wanted(std::FILE* stream);

/// Wraps text in escape sequences, or leaves it alone when the stream wants no colour.
class Palette {
public:
    explicit Palette(bool enabled) : enabled_(enabled) {}
    explicit Palette(std::FILE* stream) : enabled_(colour_wanted(stream)) {}

    [[nodiscard]] bool enabled() const { return enabled_; }
    [[nodiscard]] std::string bold(std::string_view text) const { return wrap("1", text); }
    [[nodiscard]] std::string dim(std::string_view text) const { return wrap("2", text); }
    [[nodiscard]] std::string red(std::string_view text) const { return wrap("31", text); }
    [[nodiscard]] std::string green(std::string_view text) const { return wrap("32", text); }
    [[nodiscard]] std::string yellow(std::string_view text) const { return wrap("33", text); }
    [[nodiscard]] std::string cyan(std::string_view text) const { return wrap("36", text); }
    /// Any SGR code, for commands that need more colours than these.
    [[nodiscard]] std::string wrap(std::string_view sgr, std::string_view text) const;

private:
    bool enabled_;
};

/// `0x80000000`.
[[nodiscard]] std::string hex(std::uint64_t value);
/// `80000000-8fffffff`, END being the last byte: the form in which /proc/iomem shows the same range and in which
/// options take it.
[[nodiscard]] std::string hex(const Range& range);
/// For people: `64 KiB`, `253 GiB`, `8.75 MiB`, rounded to at most two decimals.
[[nodiscard]] std::string human_size(std::uint64_t bytes);
/// The field's names of leaf sizes: `4K`, `2M`, `1G`. `bytes` is a power of two.
[[nodiscard]] std::string leaf_name(std::uint64_t bytes);
/// `1,234,567`.
[[nodiscard]] std::string grouped(std::uint64_t number);
/// `1 table`, `2 tables`.
[[nodiscard]] std::string counted(std::uint64_t number, std::string_view singular, std::string_view plural);
/// Text of unknown origin made fit for one line on a terminal: only printable ASCII stays, long text is cut.
[[nodiscard]] std::string printable(std::string_view text);

} // namespace directmap::tool

#include "pure/command_line.hpp"

#include "pure/boot_information.hpp"
#include "pure/number.hpp"

namespace directmap::kernel {

namespace {

bool read_map_style(std::string_view text, MapStyle& style) {
    if (text == "large") {
        style = MapStyle::large;
    } else if (text == "pages") {
        style = MapStyle::pages;
    } else if (text == "zoned") {
        style = MapStyle::zoned;
    } else {
        return false;
    }
    return true;
}

/// Null, or what is wrong with the word.
const char* read_word(std::string_view key, std::string_view value, bool has_value, CommandLine& line) {
    constexpr const char* unknown = "unknown word";
    constexpr const char* bad_value = "bad value";
    if (!has_value) {
        if (key == "json") {
            line.json = true;
        } else if (key == "dump") {
            line.dump = true;
        } else {
            return unknown;
        }
        return nullptr;
    }
    if (key == "scenario") {
        line.scenario = value;
        return value.empty() ? bad_value : nullptr;
    }
    if (key == "fault") {
        line.fault = value;
        return value.empty() ? bad_value : nullptr;
    }
    if (key == "seed") return read_decimal(value, line.seed) ? nullptr : bad_value;
    if (key == "rounds") return read_decimal(value, line.rounds) ? nullptr : bad_value;
    if (key == "placement") {
        line.scattered = value == "scattered";
        return line.scattered || value == "pooled" ? nullptr : bad_value;
    }
    if (key == "policy") {
        line.never_heal = value == "never";
        return line.never_heal || value == "background" ? nullptr : bad_value;
    }
    if (key == "map") return read_map_style(value, line.map) ? nullptr : bad_value;
    if (key == "assume") {
        line.assume_no_abort = value == "no-abort";
        return line.assume_no_abort ? nullptr : bad_value;
    }
    if (key == "keys") {
        line.emulate_keys = value == "emulated";
        return line.emulate_keys ? nullptr : bad_value;
    }
    if (key == "nolive") {
        std::uint64_t cpu = 0;
        if (!read_decimal(value, cpu) || cpu >= max_cpus) return bad_value;
        line.unable_cpus |= 1u << cpu;
        return nullptr;
    }
    return unknown;
}

} // namespace

CommandLineError read_command_line(std::string_view text, CommandLine& command_line) {
    constexpr std::string_view blanks = " \t\n";
    for (;;) {
        const std::size_t start = text.find_first_not_of(blanks);
        if (start == std::string_view::npos) return {};
        text.remove_prefix(start);
        const std::string_view word = text.substr(0, text.find_first_of(blanks));
        text.remove_prefix(word.size());
        const std::size_t equals = word.find('=');
        const bool has_value = equals != std::string_view::npos;
        std::string_view value = word;
        value.remove_prefix(has_value ? equals + 1 : word.size());
        if (const char* what = read_word(word.substr(0, equals), value, has_value, command_line)) return {what, word};
    }
}

} // namespace directmap::kernel

// The kernel's command line: words that ask for something, each known or refused.
#pragma once

#include <cstdint>
#include <string_view>

namespace directmap::kernel {

/// How RAM is mapped at the start.
enum class MapStyle : std::uint8_t {
    automatic, ///< large where the boot CPU tolerates live resizing, by pages where it doesn't
    large,
    pages,
    zoned, ///< large outside of a zone of pages; for machines that can't resize
};

struct CommandLine {
    std::string_view scenario = "all";
    std::string_view fault = "none";
    std::uint64_t seed = 1;
    std::uint64_t rounds = 0;      ///< of the random soak; 0: the scenario's default
    std::uint32_t unable_cpus = 0; ///< bit N: CPU N is treated as one that doesn't tolerate live resizing
    MapStyle map = MapStyle::automatic;
    bool assume_no_abort = false; ///< treat FEAT_BBM level 2 as level 3: no conflict aborts
    bool emulate_keys = false;    ///< a variable stands in for the key register that the CPU lacks
    bool scattered = false;       ///< of a day: its users' memory lies anywhere, and not in pools
    bool never_heal = false;      ///< of a day: what was split stays so
    bool json = false;
    bool dump = false;
};

/// What was wrong with a command line; `what` is null if nothing was.
struct CommandLineError {
    const char* what = nullptr;
    std::string_view word;
};

/// Reads words separated by spaces. A word that isn't known, or whose value isn't, is an error.
///
///   scenario=NAME   seed=N   rounds=N   nolive=CPU   map=large|pages|zoned   assume=no-abort   keys=emulated
///   fault=NAME   placement=pooled|scattered   policy=background|never   json   dump
[[nodiscard]] CommandLineError read_command_line(std::string_view text, CommandLine& command_line);

} // namespace directmap::kernel

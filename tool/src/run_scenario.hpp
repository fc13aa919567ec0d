// Scenario files: what happens to a direct map, a statement a line. docs/scenarios.md describes the format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace directmap::tool {

enum class Action : std::uint8_t {
    boot,
    modules_load,
    modules_unload,
    secret_take,
    secret_give,
    guard_prepare,
    guard_flip,
    guard_release,
    share,
    unshare,
    code_add,
    code_remove,
    threads_start,
    threads_end,
    copy,
    collapse,
    wait,
    repeat,
};

/// Stands for `all` where a statement takes a count.
inline constexpr std::uint64_t everything = UINT64_MAX;

struct Statement {
    Action action = Action::boot;
    std::size_t line = 0;
    std::string text;        ///< as it was written, comment and surplus blanks removed
    std::uint64_t count = 0; ///< modules, pages, areas, pieces, threads, flips, iterations; `everything` for `all`
    std::uint64_t smallest_size = 0;
    std::uint64_t largest_size =
        0; ///< bytes of each module, area, pool or piece; equal to `smallest_size` unless it is a range
    std::uint64_t places = 0; ///< blocks of 2 MiB to take pages from; 0: as few as look natural
    std::uint64_t within = 0; ///< bytes of the window in which memory is looked for; 0: all RAM
    std::uint64_t milliseconds = 0;
    bool for_hibernation = false; ///< a copy: of everything, instead of what this kernel can reach
    std::vector<Statement> body;  ///< of a repeat
};

struct Scenario {
    std::string name;
    std::string source; ///< for messages: `builtin:NAME`, a path, `standard input`
    std::string text;
    std::string about;
    std::optional<std::uint64_t> seed;
    std::vector<Statement> statements; ///< the first is a boot, the only one
    std::uint64_t steps = 0;           ///< statements that a run executes, iterations counted

    /// The most memory that is in use at once, in bytes, if pages have this size.
    [[nodiscard]] std::uint64_t peak_bytes(std::uint64_t page_size) const;
    /// Whether some statement shares memory with a host.
    [[nodiscard]] bool shares() const;
};

/// Throws InputError (with `source` as its file) at the first statement that is not understood, or that asks for what
/// cannot be: more modules unloaded than loaded, a flip of guard pages that were not prepared.
[[nodiscard]] Scenario parse_scenario(std::string_view text, const std::string& name, const std::string& source);

/// A scenario that is part of the program, a file, or `-` for standard input. Throws InputError also when there is none
/// of that name.
[[nodiscard]] Scenario read_scenario(const std::string& name_or_path);

/// Those that are part of the program; the default one first.
[[nodiscard]] std::vector<Scenario> builtin_scenarios();

inline constexpr const char* default_scenario = "day";
inline constexpr std::uint64_t place_bytes = std::uint64_t{2} << 20;

} // namespace directmap::tool

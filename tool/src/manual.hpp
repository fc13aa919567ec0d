// The manual page and shell completion, made from the same options as --help.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace directmap::tool {

struct OptionHelp {
    std::vector<std::string> names; ///< `-h`, `--help`; of an argument without a dash, one name without dashes
    std::string value;              ///< what stands for its value, such as FILE; empty: it takes none
    std::string description;
    std::string default_value;
    std::vector<std::string> words; ///< all values that it takes, if they are a few words
    bool repeats = false;

    [[nodiscard]] bool positional() const { return !names.front().starts_with('-'); }
    [[nodiscard]] bool takes_files() const { return value.find("FILE") != std::string::npos; }
};

struct CommandHelp {
    std::string name;
    std::string title;       ///< the first line of its description
    std::string description; ///< the rest
    std::string footer;
    std::vector<OptionHelp> options;
};

struct ProgramHelp {
    CommandHelp program;
    std::vector<CommandHelp> commands;
    std::string version;
};

[[nodiscard]] ProgramHelp help_of(const CLI::App& app);

/// directmap(1), in the man macros of roff.
[[nodiscard]] std::string manual_page(const ProgramHelp& help);
[[nodiscard]] std::string bash_completion(const ProgramHelp& help);
[[nodiscard]] std::string zsh_completion(const ProgramHelp& help);
[[nodiscard]] std::string fish_completion(const ProgramHelp& help);

} // namespace directmap::tool

#include "manual.hpp"

#include "options.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <sstream>
#include <string_view>

namespace directmap::tool {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    while (!lines.empty() && lines.back().empty()) lines.pop_back();
    return lines;
}

std::string joined(const std::vector<std::string>& words, std::string_view between) {
    return fmt::format("{}", fmt::join(words, between));
}

std::string one_line(const std::string& text) {
    return joined(lines_of(text), " ");
}

OptionHelp help_of(const CLI::Option& option) {
    OptionHelp help;
    for (const std::string& name : option.get_snames()) help.names.push_back("-" + name);
    for (const std::string& name : option.get_lnames()) help.names.push_back("--" + name);
    if (help.names.empty()) help.names.push_back(option.get_name());
    if (option.get_items_expected_max() != 0)
        help.value = option.get_type_name().empty() ? option.get_name() : option.get_type_name();
    help.value.resize(std::min(help.value.find(':'), help.value.size())); // the rest is what validators say
    help.description = one_line(option.get_description());
    help.default_value = option.get_default_str();
    help.words = words_of(option);
    help.repeats = option.get_expected_max() > 1;
    return help;
}

CommandHelp command_help(const CLI::App& app) {
    CommandHelp help;
    help.name = app.get_name();
    const std::string description = app.get_description();
    const std::size_t end = std::min(description.find('\n'), description.size());
    help.title = description.substr(0, end);
    help.description = description.substr(end);
    help.description.erase(0, help.description.find_first_not_of('\n'));
    help.footer = app.get_footer();
    for (const CLI::Option* option : app.get_options()) help.options.push_back(help_of(*option));
    return help;
}

// ---- roff

/// Text that roff takes as it is.
std::string roff(const std::string& text) {
    std::string result;
    for (const char c : text) {
        if (c == '\\')
            result += "\\e";
        else if (c == '-')
            result += "\\-";
        else if (result.empty() && (c == '.' || c == '\''))
            result += std::string("\\&") + c;
        else
            result += c;
    }
    return result;
}

/// Paragraphs are filled; what is indented, and the heading of it, stays as it is.
std::string roff_text(const std::string& text) {
    const std::vector<std::string> lines = lines_of(text);
    std::string result;
    bool as_is = false;
    bool paragraph = true;
    for (std::size_t i = 0; i < lines.size(); ++i) {
        const std::string& line = lines[i];
        if (line.empty()) {
            if (as_is) result += ".fi\n";
            as_is = false;
            paragraph = true;
            continue;
        }
        if (paragraph) result += ".PP\n";
        paragraph = false;
        const bool indented = line.starts_with(' ');
        if (indented && !as_is) {
            result += ".nf\n";
            as_is = true;
        }
        result += roff(line) + '\n';
    }
    if (as_is) result += ".fi\n";
    return result;
}

std::string roff_options(const std::vector<OptionHelp>& options) {
    std::string text;
    for (const OptionHelp& option : options) {
        text += ".TP\n";
        std::vector<std::string> names;
        for (const std::string& name : option.names)
            names.push_back(option.positional() ? fmt::format("\\fI{}\\fR", roff(name))
                                                : fmt::format("\\fB{}\\fR", roff(name)));
        text += joined(names, ", ");
        if (!option.value.empty() && !option.positional()) text += fmt::format(" \\fI{}\\fR", roff(option.value));
        text += '\n' + roff(option.description);
        if (!option.default_value.empty()) text += fmt::format(" (default: {})", roff(option.default_value));
        text += '\n';
    }
    return text;
}

// ---- Shells

/// Text between single quotes, for bash and zsh.
std::string quoted(const std::string& text) {
    std::string result = "'";
    for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return result + "'";
}

std::string fish_quoted(const std::string& text) {
    std::string result = "'";
    for (const char c : text) {
        if (c == '\'' || c == '\\') result += '\\';
        result += c;
    }
    return result + "'";
}

std::vector<std::string> names_of(const std::vector<OptionHelp>& options) {
    std::vector<std::string> names;
    for (const OptionHelp& option : options)
        if (!option.positional()) names.insert(names.end(), option.names.begin(), option.names.end());
    return names;
}

std::vector<std::string> command_names(const ProgramHelp& help) {
    std::vector<std::string> names;
    for (const CommandHelp& command : help.commands) names.push_back(command.name);
    return names;
}

/// The first sentence, for menus.
std::string brief(const std::string& text) {
    const std::size_t end = text.find_first_of(";:");
    return text.substr(0, end);
}

} // namespace

ProgramHelp help_of(const CLI::App& app) {
    ProgramHelp help;
    help.program = command_help(app);
    help.version = app.version();
    for (const CLI::App* command : app.get_subcommands(nullptr)) help.commands.push_back(command_help(*command));
    return help;
}

std::string manual_page(const ProgramHelp& help) {
    const std::size_t colon = help.program.title.find(": ");
    const std::string purpose = colon == std::string::npos ? help.program.title : help.program.title.substr(colon + 2);
    std::string text =
        fmt::format(".\\\" Made by '{} man'.\n.TH DIRECTMAP 1 \"\" \"{}\" \"User Commands\"\n.ad l\n.nh\n"
                    ".SH NAME\n{} \\- {}\n",
                    help.program.name, roff(help.version), roff(help.program.name), roff(purpose));
    text += ".SH SYNOPSIS\n";
    for (const CommandHelp& command : help.commands) {
        std::string arguments;
        for (const OptionHelp& option : command.options)
            if (option.positional())
                arguments += fmt::format(" [\\fI{}\\fR]{}", roff(option.names.front()), option.repeats ? "..." : "");
        text += fmt::format("\\fB{} {}\\fR [\\fIOPTION\\fR]...{}\n.br\n", roff(help.program.name), roff(command.name),
                            arguments);
    }
    text += ".SH DESCRIPTION\n" + roff_text(help.program.description);
    text += ".SH OPTIONS\n" + roff_options(help.program.options);
    text += ".SH COMMANDS\n";
    for (const CommandHelp& command : help.commands) {
        text += fmt::format(".SS {} {}\n{}.\n", roff(help.program.name), roff(command.name), roff(command.title));
        text += roff_text(command.description) + roff_options(command.options) + roff_text(command.footer);
    }
    return text + ".SH NOTES\n" + roff_text(help.program.footer);
}

std::string bash_completion(const ProgramHelp& help) {
    const std::string name = help.program.name;
    std::string text = fmt::format(
        "# bash completion of {0}, made by '{0} completion bash'\n"
        "_{0}() {{\n"
        "    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} command= word\n"
        "    # '=' is a word of its own: --option=value\n"
        "    if [[ $current == = ]]; then\n"
        "        current=\n"
        "    elif [[ $previous == = && $COMP_CWORD -ge 2 ]]; then\n"
        "        previous=${{COMP_WORDS[COMP_CWORD - 2]}}\n"
        "    fi\n"
        "    for word in \"${{COMP_WORDS[@]:1:COMP_CWORD - 1}}\"; do\n"
        "        case $word in\n"
        "            {1})\n"
        "                command=$word\n"
        "                break\n"
        "                ;;\n"
        "        esac\n"
        "    done\n"
        "    COMPREPLY=()\n"
        "    case $command:$previous in\n",
        name, joined(command_names(help), " | "));
    for (const CommandHelp& command : help.commands) {
        for (const OptionHelp& option : command.options) {
            if (option.positional() || option.value.empty()) continue;
            std::vector<std::string> patterns;
            for (const std::string& option_name : option.names)
                patterns.push_back(fmt::format("{}:{}", command.name, option_name));
            text += fmt::format("        {})\n", joined(patterns, " | "));
            if (!option.words.empty())
                text += fmt::format("            mapfile -t COMPREPLY < <(compgen -W {} -- \"$current\")\n",
                                    quoted(joined(option.words, " ")));
            else if (option.takes_files())
                text += "            compopt -o filenames\n"
                        "            mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n";
            text += "            return\n            ;;\n";
        }
    }
    text += "    esac\n    local options= files=\n    case $command in\n";
    text += fmt::format("        '') options={} ;;\n",
                        quoted(joined(command_names(help), " ") + " " + joined(names_of(help.program.options), " ")));
    for (const CommandHelp& command : help.commands) {
        std::vector<std::string> words = names_of(command.options);
        bool files = false;
        for (const OptionHelp& option : command.options) {
            if (!option.positional()) continue;
            words.insert(words.end(), option.words.begin(), option.words.end());
            files = option.words.empty();
        }
        text += fmt::format("        {}) options={}{} ;;\n", command.name, quoted(joined(words, " ")),
                            files ? " files=yes" : "");
    }
    text += fmt::format("    esac\n"
                        "    if [[ -n $files && $current != -* ]]; then\n"
                        "        compopt -o filenames\n"
                        "        mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n"
                        "    else\n"
                        "        mapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$current\")\n"
                        "    fi\n"
                        "}}\n"
                        "complete -F _{0} {0}\n",
                        name);
    return text;
}

std::string zsh_completion(const ProgramHelp& help) {
    const std::string name = help.program.name;
    const auto bracketed = [](std::string text) {
        std::string result;
        for (const char c : text) {
            if (c == '[' || c == ']' || c == ':' || c == '\\') result += '\\';
            result += c;
        }
        return result;
    };
    const auto spec = [&](const OptionHelp& option, const std::string& option_name) {
        std::string action;
        if (!option.value.empty())
            action = fmt::format(":{}:{}", bracketed(option.value),
                                 !option.words.empty()  ? fmt::format("({})", joined(option.words, " "))
                                 : option.takes_files() ? "_files"
                                                        : "");
        if (option.positional())
            return quoted(fmt::format("{}{}:{}", option.repeats ? "*" : "", "", bracketed(option.names.front())) + ":" +
                          (option.words.empty() ? "_files" : fmt::format("({})", joined(option.words, " "))));
        return quoted(fmt::format("{}{}[{}]{}", option.repeats ? "*" : "", option_name,
                                  bracketed(brief(option.description)), action));
    };
    const auto specs = [&](const CommandHelp& command) {
        std::string text;
        for (const OptionHelp& option : command.options)
            for (const std::string& option_name : option.names)
                text += fmt::format(" \\\n                {}", spec(option, option_name));
        return text;
    };
    std::string text = fmt::format("#compdef {0}\n# zsh completion of {0}, made by '{0} completion zsh'\n_{0}() {{\n"
                                   "    local -a commands=(\n",
                                   name);
    for (const CommandHelp& command : help.commands)
        text += fmt::format("        {}\n", quoted(command.name + ":" + command.title));
    text += fmt::format("    )\n"
                        "    if ((CURRENT == 2)); then\n"
                        "        _describe command commands\n"
                        "        _arguments{}\n"
                        "        return\n"
                        "    fi\n"
                        "    shift words\n"
                        "    ((CURRENT--))\n"
                        "    case $words[1] in\n",
                        specs(help.program));
    for (const CommandHelp& command : help.commands)
        text += fmt::format("        {})\n            _arguments{}\n            ;;\n", command.name, specs(command));
    return text + fmt::format("    esac\n}}\n"
                              "if [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n"
                              "    _{0} \"$@\"\n"
                              "else\n"
                              "    compdef _{0} {0}\n"
                              "fi\n",
                              name);
}

std::string fish_completion(const ProgramHelp& help) {
    const std::string name = help.program.name;
    const std::string all = joined(command_names(help), " ");
    std::string text = fmt::format("# fish completion of {0}, made by '{0} completion fish'\n", name);
    const auto add = [&](const std::string& condition, const OptionHelp& option) {
        std::string line = fmt::format("complete -c {} -n {}", name, fish_quoted(condition));
        if (option.positional()) {
            if (option.words.empty()) return; // files, as everywhere
            line += fmt::format(" -f -a {}", fish_quoted(joined(option.words, " ")));
        }
        for (const std::string& option_name : option.names) {
            if (option_name.starts_with("--"))
                line += fmt::format(" -l {}", option_name.substr(2));
            else if (option_name.starts_with("-"))
                line += fmt::format(" -s {}", option_name.substr(1));
        }
        if (!option.value.empty() && !option.positional()) {
            line += !option.words.empty()  ? fmt::format(" -x -a {}", fish_quoted(joined(option.words, " ")))
                    : option.takes_files() ? " -r -F"
                                           : " -x";
        }
        text += line + fmt::format(" -d {}\n", fish_quoted(brief(option.description)));
    };
    const std::string none = fmt::format("not __fish_seen_subcommand_from {}", all);
    for (const CommandHelp& command : help.commands)
        text += fmt::format("complete -c {} -n {} -f -a {} -d {}\n", name, fish_quoted(none), command.name,
                            fish_quoted(command.title));
    for (const OptionHelp& option : help.program.options) add(none, option);
    for (const CommandHelp& command : help.commands)
        for (const OptionHelp& option : command.options)
            add(fmt::format("__fish_seen_subcommand_from {}", command.name), option);
    return text;
}

} // namespace directmap::tool

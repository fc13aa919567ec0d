#include "commands.hpp"
#include "input_error.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>

namespace {

using namespace directmap::tool;

constexpr const char* description =
    "directmap: plan, play and read a kernel's direct map, the one mapping of all RAM.\n"
    "\n"
    "With large leaves a direct map costs almost no page tables and few TLB entries; permissions that change page by "
    "page\n"
    "split them. This command shows what a machine's memory map allows, what workloads do to it, and what heals it.\n";

constexpr const char* footer =
    "Examples:\n"
    "  directmap plan                              the layout of the machine that this runs on (as root)\n"
    "  directmap plan --memory-map iomem.txt       the layout of another machine, from its /proc/iomem\n"
    "  dmesg | directmap plan --memory-map -       from a kernel log\n"
    "  directmap plan --granule 64k --json         other pages, for other programs\n"
    "\n"
    "Exit codes:\n"
    "  0  success\n"
    "  1  a check or a run failed, a difference or a violation was found\n"
    "  2  bad input or usage; standard error has one line, 'directmap: FILE:LINE: reason'\n"
    "  3  explore: an order was found that breaks a promise\n"
    "\n"
    "NO_COLOR, or an output that is no terminal, means plain text.";

/// The list of commands shows the first line of a command's description; its own help shows all.
class Formatter : public CLI::Formatter {
public:
    Formatter() { column_width(34); }
    std::string make_subcommand(const CLI::App* command) const override {
        const std::string text = command->get_description();
        std::stringstream line;
        CLI::detail::format_help(line, command->get_name(), text.substr(0, text.find('\n')), get_column_width());
        return line.str();
    }
    /// Without the list of options that can't stand beside it: who uses two of them is told.
    std::string make_option_opts(const CLI::Option* option) const override {
        const std::string text = CLI::Formatter::make_option_opts(option);
        return text.substr(0, std::min(text.find(" Excludes:"), text.find(" Needs:")));
    }
    /// A blank line before the usage.
    std::string make_description(const CLI::App* app) const override {
        const std::string text = CLI::Formatter::make_description(app);
        return text.ends_with("\n\n") ? text : text + '\n';
    }
};

int usage_error(const CLI::App& app, const CLI::ParseError& error) {
    std::string command = "directmap";
    for (const CLI::App* sub : app.get_subcommands()) command += " " + sub->get_name();
    std::string what = error.what();
    while (!what.empty() && what.back() == '\n') what.pop_back();
    for (char& c : what)
        if (c == '\n') c = ' ';
    std::cerr << "directmap: " << what << " (see " << command << " --help)\n";
    return exit_bad_input;
}

int run(int argc, char** argv) {
    CLI::App app(description, "directmap");
    app.footer(footer);
    app.set_version_flag("--version", std::string("directmap " DIRECTMAP_VERSION), "Print the version and exit");
    app.require_subcommand(1);
    app.formatter(std::make_shared<Formatter>());
    int exit_code = exit_ok;
    register_commands(app, exit_code);
    try {
        // A misspelt command is not the missing command that CLI11 would call it.
        const std::function<bool(const CLI::App*)> is_named = [&](const CLI::App* command) {
            return command->check_name(argv[1]);
        };
        if (argc == 1) throw CLI::ParseError("a command is missing", exit_bad_input);
        if (argc > 1 && argv[1][0] != '-' && std::as_const(app).get_subcommands(is_named).empty())
            throw CLI::ParseError(std::string("there is no command '") + argv[1] + "'", exit_bad_input);
        app.parse(argc, argv);
        return exit_code;
    } catch (const CLI::ParseError& error) {
        return error.get_exit_code() == 0 ? app.exit(error) : usage_error(app, error);
    } catch (const InputError& error) {
        std::cerr << "directmap: " << error.what() << '\n';
    } catch (const std::exception& error) {
        std::cerr << "directmap: " << error.what() << '\n';
    }
    return exit_bad_input;
}

} // namespace

int main(int argc, char** argv) try {
    // `directmap plan | head` ends quietly, also below a parent that ignores SIGPIPE.
    std::signal(SIGPIPE, SIG_DFL);
    const int exit_code = run(argc, argv);
    // A full disk must not look like success.
    if (!std::cout.flush() || std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
        std::cerr << "directmap: standard output: " << std::strerror(errno) << '\n';
        return exit_bad_input;
    }
    return exit_code;
} catch (...) { // out of memory while telling of an error
    return exit_bad_input;
}

// `directmap man` and `directmap completion`: what packages install, made from the options themselves.
#include "commands.hpp"
#include "input_error.hpp"
#include "manual.hpp"
#include "options.hpp"
#include "output.hpp"

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>

namespace directmap::tool {
namespace {

struct Options {
    std::string shell;
    std::string output;
};

void write(const std::string& text, const std::string& output) {
    if (output.empty()) {
        std::fwrite(text.data(), 1, text.size(), stdout);
        return;
    }
    std::ofstream file(output, std::ios::binary | std::ios::trunc);
    file << text;
    if (!file.flush()) throw InputError(printable(output), 0, std::strerror(errno));
}

} // namespace

void register_man(CLI::App& app, int& exit_code) {
    const auto options = std::make_shared<Options>();
    CLI::App* man = app.add_subcommand("man", "Print the manual page, directmap(1)\n"
                                              "\n"
                                              "Every command's options and examples in one page, as roff.\n");
    man->footer("Examples:\n"
                "  directmap man | man -l -\n"
                "  directmap man --output directmap.1");
    man->add_option("--output", options->output, "Write a file instead of standard output")->type_name("FILE");
    man->callback([options, &app, &exit_code] {
        write(manual_page(help_of(app)), options->output);
        exit_code = exit_ok;
    });
}

void register_completion(CLI::App& app, int& exit_code) {
    const auto options = std::make_shared<Options>();
    CLI::App* completion = app.add_subcommand("completion", "Print completion for a shell\n"
                                                            "\n"
                                                            "An installed package has it in place already.\n");
    completion->footer("Examples:\n"
                       "  source <(directmap completion bash)\n"
                       "  directmap completion zsh --output ~/.zfunc/_directmap\n"
                       "  directmap completion fish | source");
    completion->add_option("SHELL", options->shell, "bash, zsh or fish")
        ->type_name("")
        ->required()
        ->transform(one_of({"bash", "zsh", "fish"}));
    completion->add_option("--output", options->output, "Write a file instead of standard output")->type_name("FILE");
    completion->callback([options, &app, &exit_code] {
        const ProgramHelp help = help_of(app);
        write(options->shell == "bash"  ? bash_completion(help)
              : options->shell == "zsh" ? zsh_completion(help)
                                        : fish_completion(help),
              options->output);
        exit_code = exit_ok;
    });
}

} // namespace directmap::tool

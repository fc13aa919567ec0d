// The commands of `directmap`. Each lives in a file of its own and hangs itself below the application.
#pragma once

namespace CLI {
class App;
}

namespace directmap::tool {

/// What the program's exit codes mean; --help shows the same list.
enum ExitCode : int {
    exit_ok = 0,
    exit_failed = 1,    ///< a check or a run failed, a difference or a violation was found
    exit_bad_input = 2, ///< bad input or usage; one line on standard error says what
    exit_violation = 3, ///< explore: an order was found that breaks a promise
};

// A command parses its options through CLI11, does its work in its callback and leaves its verdict in `exit_code`. Bad
// input is thrown as InputError; main prints it.
void register_run(CLI::App& app, int& exit_code);
void register_plan(CLI::App& app, int& exit_code);
void register_analyze(CLI::App& app, int& exit_code);
void register_diff(CLI::App& app, int& exit_code);
void register_replay(CLI::App& app, int& exit_code);
void register_convert_trace(CLI::App& app, int& exit_code);
void register_watch(CLI::App& app, int& exit_code);
void register_boot(CLI::App& app, int& exit_code);
void register_explore(CLI::App& app, int& exit_code);
void register_man(CLI::App& app, int& exit_code);
void register_completion(CLI::App& app, int& exit_code);

/// Registers every command, in the order in which --help lists them.
void register_commands(CLI::App& app, int& exit_code);

} // namespace directmap::tool

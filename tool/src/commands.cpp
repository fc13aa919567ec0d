#include "commands.hpp"

namespace directmap::tool {

void register_commands(CLI::App& app, int& exit_code) {
    register_run(app, exit_code);
    register_plan(app, exit_code);
    register_analyze(app, exit_code);
    register_diff(app, exit_code);
    register_replay(app, exit_code);
    register_convert_trace(app, exit_code);
    register_watch(app, exit_code);
    register_boot(app, exit_code);
    register_explore(app, exit_code);
    register_man(app, exit_code);
    register_completion(app, exit_code);
}

} // namespace directmap::tool

// The command as a user runs it.
#pragma once

#include "command_path.hpp"

#include <array>
#include <cstdio>
#include <string>
#include <sys/wait.h>

struct Outcome {
    int exit_code = -1; ///< as the shell sees it: 128 + number for a signal
    std::string output;
};

/// Runs a shell command in which `$D` is the tool.
inline Outcome shell(const std::string& command) {
    const std::string line = std::string("D='") + command_path + "'; export LC_ALL=C; " + command;
    std::FILE* pipe = popen(line.c_str(), "r");
    if (pipe == nullptr) return {};
    Outcome outcome;
    std::array<char, 4096> buffer{};
    while (const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), pipe))
        outcome.output.append(buffer.data(), count);
    const int status = pclose(pipe);
    outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return outcome;
}

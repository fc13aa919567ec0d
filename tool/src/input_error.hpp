// The one way in which bad input leaves the tool: an InputError says which file, which line and why.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

namespace directmap::tool {

/// Input that cannot be used. `main` prints it as one line, `directmap: FILE:LINE: REASON`, and exits with 2.
///
/// `file` is a path as the user wrote it, or the option (`--pages`) that carried the bad value. A line of 0 means that
/// the whole input is meant (a file that cannot be opened, an option's value).
class InputError : public std::runtime_error {
public:
    InputError(std::string file, std::size_t line, std::string reason)
        : std::runtime_error(line == 0 ? file + ": " + reason : file + ":" + std::to_string(line) + ": " + reason),
          file_(std::move(file)), line_(line), reason_(std::move(reason)) {}

    [[nodiscard]] const std::string& file() const { return file_; }
    [[nodiscard]] std::size_t line() const { return line_; }
    [[nodiscard]] const std::string& reason() const { return reason_; }

private:
    std::string file_;
    std::size_t line_;
    std::string reason_;
};

} // namespace directmap::tool

// What the commands' options have in common beyond CLI11.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <vector>

namespace directmap::tool {

/// For `transform`: accepts one of a few words in any case, and passes it on as it is written here. (CLI11's own
/// transformers show their tables in help and errors.)
inline CLI::Validator one_of(std::vector<std::string> words) {
    return CLI::Validator(
        [words = std::move(words)](std::string& value) {
            const std::string lower = CLI::detail::to_lower(value);
            const auto word = std::find(words.begin(), words.end(), lower);
            if (word == words.end()) return "'" + value + "' is none of " + CLI::detail::join(words, ", ");
            value = *word;
            return std::string();
        },
        "");
}

} // namespace directmap::tool

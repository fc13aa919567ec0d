// What the commands' options have in common beyond CLI11.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace directmap::tool {

/// Names the validators of `one_of`, so that the words can be found again.
inline constexpr const char* one_of_prefix = "one of ";

/// For `transform`: accepts one of a few words in any case, and passes it on as it is written here. (CLI11's own
/// transformers show their tables in help and errors.)
inline CLI::Validator one_of(std::vector<std::string> words) {
    const std::string name = one_of_prefix + CLI::detail::join(words, " ");
    return CLI::Validator(
        [words = std::move(words)](std::string& value) {
            const std::string lower = CLI::detail::to_lower(value);
            const auto word = std::find(words.begin(), words.end(), lower);
            if (word == words.end()) return "'" + value + "' is none of " + CLI::detail::join(words, ", ");
            value = *word;
            return std::string();
        },
        "", name);
}

/// The words for page sizes.
inline std::vector<std::string> page_size_words() {
    return {"4k", "16k", "64k"};
}
/// The bits of an address within a page of the size that one of them names; `4k` is also the end of `arm64-4k`.
inline unsigned page_shift_of(std::string_view word) {
    return word.ends_with("16k") ? 14 : word.ends_with("64k") ? 16 : 12;
}

/// The words of `one_of`, if the option has such a validator.
inline std::vector<std::string> words_of(const CLI::Option& option) {
    for (int index = 0;; ++index) {
        const CLI::Validator* validator = nullptr;
        try {
            // The const overload is missing in CLI11.
            validator = const_cast<CLI::Option&>(option).get_validator(index);
        } catch (const CLI::OptionNotFound&) {
            return {};
        }
        const std::string& name = validator->get_name();
        if (name.starts_with(one_of_prefix)) return CLI::detail::split(name.substr(std::strlen(one_of_prefix)), ' ');
    }
}

} // namespace directmap::tool

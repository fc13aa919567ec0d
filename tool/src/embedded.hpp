// Files of tool/data that are part of the program, so that an installed tool works without its source tree.
#pragma once

#include <span>
#include <string_view>

namespace directmap::tool {

struct EmbeddedFile {
    std::string_view name; ///< the file's name, without the folders of tool/data
    std::string_view text;
};

/// Generated at build time by embed.cmake.
[[nodiscard]] std::span<const EmbeddedFile> embedded_files();

} // namespace directmap::tool

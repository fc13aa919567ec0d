// What `directmap diff` says, as JSON and as text.
#pragma once

#include "diff.hpp"
#include "output.hpp"

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace directmap::tool {

/// One object, described in docs/schema.md.
[[nodiscard]] nlohmann::ordered_json json_of(const DumpDiff& diff);
/// `listed` entries of each list.
[[nodiscard]] std::string text_of(const DumpDiff& diff, const Palette& palette, std::size_t listed);

/// `split`, `healed`, ...
[[nodiscard]] std::string_view change_name(ChangeKind kind);

} // namespace directmap::tool

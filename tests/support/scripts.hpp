// Random scripts for drivers, by rapidcheck: they shrink when they fail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include <rapidcheck.h>

namespace directmap::test {

/// Every check is the same check; a long one is longer and another each time. RC_PARAMS in the environment overrides
/// both.
inline const bool properties_are_configured = [] {
    (void)setenv("RC_PARAMS", std::getenv("DIRECTMAP_LONG") != nullptr ? "max_success=2000" : "seed=1", 0);
    return true;
}();

[[nodiscard]] inline std::vector<std::uint8_t> random_script(std::size_t longest) {
    // Full-sized bytes from the first case on: a byte isn't an amount.
    const auto byte = rc::gen::resize(rc::kNominalSize, rc::gen::cast<std::uint8_t>(rc::gen::inRange(0, 256)));
    const auto length = *rc::gen::resize(rc::kNominalSize, rc::gen::inRange<std::size_t>(0, longest + 1));
    return *rc::gen::container<std::vector<std::uint8_t>>(length, byte);
}

} // namespace directmap::test

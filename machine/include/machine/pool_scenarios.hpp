// Scenarios with protected tables: two CPUs at the table pool at once.
#pragma once

#include <vector>

#include "machine/scenario.hpp"

namespace directmap::machine {

[[nodiscard]] const std::vector<Scenario>& pool_scenarios();
/// Mistakes of the pool that only a race shows, or that a race shows too.
[[nodiscard]] const std::vector<SeededFault>& pool_faults();

} // namespace directmap::machine

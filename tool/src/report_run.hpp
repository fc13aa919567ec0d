// The report of `directmap run`.
#pragma once

#include "report.hpp"
#include "run_output.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace directmap::tool {

/// Results that kept the dump of their end have a map in it.
[[nodiscard]] Report report_of(const RunSetting& setting, const std::vector<WorkloadResult>& results);

/// Adds the map that `dump`, a dump as the engine writes them, is of. Does nothing when there is no map in it.
void add_map(Report& report, std::string_view dump, const std::string& title, std::uint64_t granule);

} // namespace directmap::tool

// The report of `directmap replay`.
#pragma once

#include "replay_output.hpp"
#include "report.hpp"

namespace directmap::tool {

/// Policies that kept the dump of their end have a map in it.
[[nodiscard]] Report report_of(const ReplaySetting& setting, const ReplayResult& result);

} // namespace directmap::tool

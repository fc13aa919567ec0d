// What `directmap replay` shows: the trace, the map over time under every policy, a comparison and a verdict; or JSON.
#pragma once

#include "memory_map.hpp"
#include "output.hpp"
#include "plan.hpp"
#include "replay.hpp"

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace directmap::tool {

struct ReplaySetting {
    const MemoryMap& map;
    const Plan& plan;
    const ReplayConfig& config;
    std::string trace;   ///< where it came from
    std::string pattern; ///< of accesses; empty: TLB misses were not counted
    std::uint64_t seed = 1;
};

[[nodiscard]] std::string replay_text(const ReplaySetting& setting, const ReplayResult& result, const Palette& palette,
                                      std::size_t width);
/// docs/replay.md describes the keys.
[[nodiscard]] nlohmann::ordered_json replay_json(const ReplaySetting& setting, const ReplayResult& result);

/// The policy that the figures speak for, and why.
struct Verdict {
    std::optional<std::size_t> policy; ///< in the order of the result's policies; nothing if each refused a change
    std::string text;
};
[[nodiscard]] Verdict verdict_of(const ReplaySetting& setting, const ReplayResult& result);

/// What has to be known about the input before the figures are believed, a sentence each; nothing if all is well.
[[nodiscard]] std::vector<std::string> reservations(const ReplaySetting& setting, const ReplayResult& result);

} // namespace directmap::tool

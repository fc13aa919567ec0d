// Replays a trace of permission changes on the modelled machine, under several policies side by side.
#pragma once

#include "access_pattern.hpp"
#include "plan.hpp"
#include "range.hpp"
#include "tlb_model.hpp"
#include "trace.hpp"
#include "workload.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace directmap::tool {

/// The machine is the one that the trace is replayed on, not the one that it was recorded on.
struct ReplayConfig : MachineConfig {
    explicit ReplayConfig(MachineConfig machine) : MachineConfig(std::move(machine)) {}

    std::uint64_t zone_bytes = default_zone_bytes;
    /// Of the kernel that was recorded, for addresses that are virtual; by default what the trace says.
    std::optional<std::uint64_t> trace_offset;
    std::vector<Policy> policies;
    TlbCore core;
    AccessPattern* pattern = nullptr; ///< none: TLB misses are not counted
    std::uint64_t accesses = 0;       ///< counted at each moment, after as many that warm the TLBs up
    std::size_t most_moments = 40;
    bool keep_dump = false; ///< of each map at the end
};

/// What one policy has made of the trace, at one moment of it.
struct PolicyMoment {
    MapState map;
    Counters counters; ///< since boot
    TlbCounts tlb;
};

struct Moment {
    std::uint64_t nanoseconds = 0;      ///< since the first event
    std::uint64_t events = 0;           ///< that have been replayed
    std::uint64_t line = 0;             ///< of the trace; 0: before the first event
    std::string note;                   ///< the latest note
    std::vector<PolicyMoment> policies; ///< in the order of ReplayConfig::policies
};

/// Changes that a policy or the engine answered with an error, all of one kind.
struct Refused {
    std::uint64_t count = 0;
    std::uint64_t line = 0; ///< of the first
    std::string reason;
};

struct PolicyResult {
    Policy policy = Policy::background;
    MapState boot;
    MapState worst; ///< the state with the most leaves
    Counters counters;
    std::uint64_t changes = 0; ///< calls of the engine
    std::uint64_t calls = 0;   ///< platform calls of the engine for them, each of which was checked
    std::vector<std::uint64_t> smallest_cover;
    std::map<std::string, Refused> refused; ///< by error code
    std::vector<std::string> problems;      ///< broken promises; nothing if all is well
    std::string dump;                       ///< of the map at the end, if it was to be kept
    [[nodiscard]] std::uint64_t refused_count() const;
};

struct ReplayResult {
    std::vector<std::uint64_t> leaf_sizes;
    std::uint64_t events = 0; ///< all but notes and ticks
    std::uint64_t pages = 0;  ///< that they named, of the trace's page size, those outside of RAM not counted
    std::uint64_t nanoseconds = 0;
    std::map<TraceOperation, std::uint64_t> operations;
    /// Events that name memory outside of RAM: it isn't mapped, so there is nothing to change.
    struct Outside {
        std::uint64_t events = 0; ///< as a whole
        std::uint64_t partly = 0; ///< the part inside of RAM was changed
        std::uint64_t pages = 0;
        std::uint64_t line = 0; ///< of the first
        std::uint64_t address = 0;
    } outside;
    std::uint64_t widened = 0; ///< events whose pages are smaller than the map's, which changed whole pages of the map
    TraceRemarks remarks;
    std::vector<Moment> moments; ///< the first is right after boot, the last the end
    std::vector<PolicyResult> policies;

    [[nodiscard]] bool kept() const; ///< no promise was broken
};

/// Plays what `trace` says to its end. `progress(line, bytes read)` is called now and then. Throws InputError for a
/// trace that can't be understood, and when nothing of it is in RAM.
[[nodiscard]] ReplayResult replay(TraceReader& trace, const ReplayConfig& config,
                                  const std::function<void(std::uint64_t, std::uint64_t)>& progress);

/// The mean of `value` over all moments: they are equally many changes apart.
template <class Value>
[[nodiscard]] double mean_over(const ReplayResult& result, std::size_t policy, Value value) {
    double sum = 0;
    for (const Moment& moment : result.moments) sum += value(moment.policies[policy]);
    return sum / static_cast<double>(result.moments.size());
}
/// Table walks for each thousand accesses.
[[nodiscard]] double walks_a_thousand(const TlbCounts& counts);

} // namespace directmap::tool

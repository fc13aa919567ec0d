// Plays a scenario on a workbench under one policy.
#pragma once

#include "plan.hpp"
#include "range.hpp"
#include "run_scenario.hpp"
#include "trace.hpp"
#include "workbench.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace directmap::tool {

/// How the map is laid out and when its leaves become large again.
enum class Policy : std::uint8_t {
    pages,      ///< single pages from the start, nothing to split or heal
    zoned,      ///< large leaves that are never resized, and a zone of pages for everything that changes
    never,      ///< large leaves, split on demand, never healed
    on_request, ///< healed by `collapse` statements alone
    on_restore, ///< healed right after the change that made it possible
    background, ///< healed by a thread, where nothing has changed for a while
};

[[nodiscard]] constexpr std::string_view placement_name(Placement placement) {
    return placement == Placement::pooled ? "pooled" : "scattered";
}

/// The name that options and JSON use.
[[nodiscard]] std::string_view policy_name(Policy policy);
[[nodiscard]] std::vector<Policy> all_policies();
[[nodiscard]] Mapping mapping_of(Policy policy);
[[nodiscard]] CollapsePolicy collapse_policy_of(Policy policy);
/// What has happened since `before`.
[[nodiscard]] Counters difference(const Counters& now, const Counters& before);

/// Background collapse leaves alone what changed less than this ago.
inline constexpr std::uint64_t quiet_milliseconds = 5000;
/// Once a second it looks at no more than this many tables.
inline constexpr std::uint64_t background_budget = 1024;
/// The zone of pages of a machine that can't resize, unless the scenario says otherwise.
inline constexpr std::uint64_t default_zone_bytes = std::uint64_t{1} << 30;

struct WorkloadConfig : MachineConfig {
    explicit WorkloadConfig(MachineConfig machine) : MachineConfig(std::move(machine)) {}

    std::uint64_t seed = 1;
    bool protect_tables = false;
    Placement placement = Placement::scattered;
    bool keep_dump = false; ///< of the map at the end
};

/// Where the parts of a workload's memory are.
struct MemoryPlan {
    Range table_pool;          ///< tables come from here, nobody else's memory does
    Range zone;                ///< of pages, where a layout has one
    Range outside;             ///< a page beside the zone that a larger leaf maps; empty if there is none
    std::vector<Range> usable; ///< what the workload's users get their memory from
};
/// Throws InputError if RAM is too small for the map's tables or for the scenario.
[[nodiscard]] MemoryPlan plan_memory(const Scenario& scenario, const WorkloadConfig& config, Policy policy);

/// The engine's answer to something that this machine or policy doesn't allow.
struct Refusal {
    std::string code;
    std::string reason;
};

/// The state of the map behind a statement, and what the statement did.
struct Step {
    const Statement* statement = nullptr;
    std::vector<std::uint64_t> rounds; ///< which iteration of each repeat around it, from 1 on
    std::uint64_t milliseconds = 0;    ///< on the machine's clock, since boot
    std::uint64_t amount = 0;          ///< of what the statement counts (modules, pages, ...), `all` resolved
    MapState map;
    PoolUse pools; ///< of pooled users
    std::optional<MapCopy> copy;
    Counters counters; ///< of this statement alone
    std::uint64_t reach = 0;
    std::optional<Refusal> refusal;
};

struct WorkloadResult {
    Policy policy = Policy::background;
    std::vector<std::uint64_t> leaf_sizes;
    std::vector<Step> steps;
    MapState boot;
    MapState worst; ///< the state with the most leaves
    std::uint64_t worst_reach = 0;
    Counters counters;         ///< of everything after boot
    std::uint64_t changes = 0; ///< operations on the map
    std::uint64_t calls = 0;   ///< platform calls that the engine made for them, each of which was checked
    std::string dump;          ///< of the map at the end, as kernels write theirs, if it was asked for
    std::vector<std::uint64_t> smallest_cover; ///< the fewest leaves that say the same at the end
    std::vector<std::string> problems;         ///< broken promises and unexpected errors; nothing if all is well
    bool finished = false;                     ///< the scenario was played to its end
};

/// Is told about a run while it goes on.
class WorkloadListener {
public:
    WorkloadListener() = default;
    WorkloadListener(const WorkloadListener&) = delete;
    WorkloadListener& operator=(const WorkloadListener&) = delete;
    virtual ~WorkloadListener() = default;

    virtual void on_round(const Statement& /*repeat*/, std::uint64_t /*number*/, std::size_t /*depth*/) {}
    virtual void on_round_end(const Statement& /*repeat*/, std::uint64_t /*number*/, std::size_t /*depth*/) {}
    virtual void on_step(const Step& /*step*/, const std::vector<std::uint64_t>& /*leaf_sizes*/) {}
    virtual void on_progress(std::uint64_t /*done*/, std::uint64_t /*total*/) {}
};

/// Whether every scenario was played to its end and every promise was kept.
[[nodiscard]] bool all_kept(const std::vector<WorkloadResult>& results);

/// Gets every change before it is made, in the words of a trace whose ticks are recorded.
using TraceSink = std::function<void(const TraceEvent&)>;

/// Gets what the users of the map do, a line at a time: the same lines under every policy and placement
/// (docs/scenarios.md, "Days").
using DaySink = std::function<void(const std::string&)>;

/// Plays `scenario`, which must outlive the result. Everything that goes wrong with the map is in the result.
[[nodiscard]] WorkloadResult play(const Scenario& scenario, const WorkloadConfig& config, Policy policy,
                                  WorkloadListener& listener, const machine::EventSink& record = {},
                                  const TraceSink& trace = {}, const DaySink& day = {});

} // namespace directmap::tool

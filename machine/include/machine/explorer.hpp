// The explorer: runs a scenario again and again, each time in another order, until every order (within a bound) has
// been seen or one of them breaks a promise. Stateless: a run is repeated from its beginning, never restored.
// docs/explorer.md has the search, the reductions and why they are sound.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "machine/machine.hpp"
#include "machine/scenario.hpp"
#include "machine/schedule.hpp"

namespace directmap::machine {

/// How the orders are chosen.
struct SearchMode {
    enum class Kind : std::uint8_t {
        bounded,    ///< every schedule with at most `bound` preemptions
        exhaustive, ///< every schedule, up to the order of calls that commute
        random,     ///< `runs` schedules by random priorities (PCT), from `seed`
    };
    Kind kind = Kind::bounded;
    unsigned bound = 2;
    std::uint64_t seed = 1;
    std::uint64_t runs = 1000;
    bool reduce = true; ///< exhaustive: leave out orders that differ in calls that commute
};

/// A point of the search tree at which something was chosen.
struct Branch {
    /// Objects that a step touched, with the lowest bit telling that it wrote them.
    using Footprint = std::vector<std::uint64_t>;

    std::uint8_t taken = 0;
    std::uint8_t alternatives = 0;
    std::vector<Footprint> explored; ///< exhaustive: what the alternatives before `taken` touched
};

/// A part of a search: everything below a path whose last branch still has its later alternatives, or some random runs.
/// Units don't depend on who works on them or how many do, so neither do their results.
struct Unit {
    std::vector<Branch> path;
    std::uint64_t first_run = 0, runs = 0; ///< random only

    [[nodiscard]] std::string serialize() const;
    [[nodiscard]] static Unit parse(const std::string& bytes);
};

struct Failure {
    Schedule schedule;
    std::vector<Violation> violations;
};

/// What has been explored.
struct Tally {
    std::uint64_t executions = 0;
    std::uint64_t states = 0;       ///< points at which there was a choice
    std::uint64_t steps = 0;        ///< platform calls
    std::uint64_t pruned = 0;       ///< runs given up because an equivalent one had been made (exhaustive)
    std::optional<Failure> failure; ///< the first in the order of the search

    void add(const Tally& other);
    [[nodiscard]] std::string serialize() const;
    [[nodiscard]] static Tally parse(const std::string& bytes);
};

/// The result of working on a unit: what was found, and what was left for others, in the order of the search.
struct UnitResult {
    Tally tally;
    std::vector<Unit> rest;
};

/// Runs one scenario, with one fault or none.
class Explorer {
public:
    /// A unit is given back after this many runs.
    static constexpr std::uint64_t unit_runs = 512;
    /// A run of more platform calls than this goes nowhere.
    static constexpr std::uint64_t step_limit = 20'000;

    Explorer(const Scenario& scenario, const SeededFault* fault);
    ~Explorer();
    Explorer(const Explorer&) = delete;
    Explorer& operator=(const Explorer&) = delete;

    /// The units that a search begins with, in its order.
    [[nodiscard]] static std::vector<Unit> first_units(const SearchMode& mode);
    /// Works on a unit until it is done, has made `unit_runs` runs, or has found a violation (then nothing is left of
    /// it).
    [[nodiscard]] UnitResult work(const SearchMode& mode, const Unit& unit);
    /// A whole search, alone.
    [[nodiscard]] Tally search(const SearchMode& mode);

    /// One run as written down. Events go to `sink`; switches that can't be made are passed over.
    [[nodiscard]] std::vector<Violation> replay(const Schedule& schedule, EventSink sink = {});
    /// The smallest part of a schedule's deviations that still ends in the same kind of violation.
    [[nodiscard]] Schedule shrink(const Schedule& schedule);
    /// The run as a story: who did what, what they saw, and where it went wrong.
    [[nodiscard]] std::string story(const Schedule& schedule);

private:
    class Runner;
    std::unique_ptr<Runner> runner_;
};

} // namespace directmap::machine

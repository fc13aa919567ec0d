#include "explore_output.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace directmap::tool {

using machine::Search;
using machine::SearchMode;
using machine::Tally;

std::string words_of(const SearchMode& mode) {
    switch (mode.kind) {
    case SearchMode::Kind::bounded:
        return fmt::format("every order with at most {}", counted(mode.bound, "preemption", "preemptions"));
    case SearchMode::Kind::exhaustive: return "every order, up to calls that commute";
    case SearchMode::Kind::random: break;
    }
    return fmt::format("{} from seed {}", counted(mode.runs, "random run", "random runs"), mode.seed);
}

ExploreTable::ExploreTable(const std::vector<Search>& searches, Palette palette)
    : palette_{palette}, scenario_width_{8},
      fault_width_{0}, pruned_{searches.empty() ? false : searches.front().mode.kind == SearchMode::Kind::exhaustive} {
    for (const Search& search : searches) {
        scenario_width_ = std::max(scenario_width_, search.scenario.size());
        fault_width_ = std::max(fault_width_, search.fault.size());
    }
    if (fault_width_ != 0) fault_width_ = std::max<std::size_t>(fault_width_, 5);
}

std::string ExploreTable::head() const {
    std::string text = fmt::format("{:{}}  ", "scenario", scenario_width_);
    if (fault_width_ != 0) text += fmt::format("{:{}}  ", "fault", fault_width_);
    text += fmt::format("{:>11} {:>11} {:>13} ", "executions", "states", "steps");
    if (pruned_) text += fmt::format("{:>11} ", "left out");
    return palette_.bold(text + " result") + "\n";
}

std::string ExploreTable::row(const std::string& scenario, const std::string& fault, const Tally& tally) const {
    std::string text = fmt::format("{:{}}  ", scenario, scenario_width_);
    if (fault_width_ != 0) text += fmt::format("{:{}}  ", fault, fault_width_);
    text +=
        fmt::format("{:>11} {:>11} {:>13} ", grouped(tally.executions), grouped(tally.states), grouped(tally.steps));
    if (pruned_) text += fmt::format("{:>11} ", grouped(tally.pruned));
    return text;
}

std::string ExploreTable::line(const Search& search, const Tally& tally) const {
    const std::string result =
        tally.failure ? palette_.red(tally.failure->violations.front().promise) : palette_.green("clean");
    return fmt::format("{} {}\n", row(search.scenario, search.fault, tally), result);
}

std::string ExploreTable::foot(const std::vector<Tally>& tallies) const {
    Tally total;
    std::size_t violations = 0;
    for (const Tally& tally : tallies) {
        total.add(tally);
        if (tally.failure) ++violations;
    }
    const std::string result = violations == 0 ? "clean" : counted(violations, "violation", "violations");
    return palette_.bold(fmt::format("{} {}", row("total", "", total), result)) + "\n";
}

nlohmann::ordered_json json_of(const machine::Violation& violation) {
    return {{"promise", violation.promise},
            {"what", violation.what},
            {"cpu", violation.cpu},
            {"event", violation.event},
            {"address", hex(violation.pa)}};
}

nlohmann::ordered_json json_of(const std::vector<Search>& searches, const std::vector<Tally>& tallies) {
    nlohmann::ordered_json json;
    json["schema"] = "directmap.explore/1";
    json["results"] = nlohmann::ordered_json::array();
    Tally total;
    for (std::size_t i = 0; i < searches.size(); ++i) {
        const Search& search = searches[i];
        const Tally& tally = tallies[i];
        nlohmann::ordered_json result;
        result["scenario"] = search.scenario;
        if (!search.fault.empty()) result["fault"] = search.fault;
        switch (search.mode.kind) {
        case SearchMode::Kind::bounded: result["bound"] = search.mode.bound; break;
        case SearchMode::Kind::exhaustive: result["exhaustive"] = true; break;
        case SearchMode::Kind::random: result["seed"] = search.mode.seed; break;
        }
        result["executions"] = tally.executions;
        result["states"] = tally.states;
        result["steps"] = tally.steps;
        result["left_out"] = tally.pruned;
        result["clean"] = !tally.failure;
        if (tally.failure) {
            result["violations"] = nlohmann::ordered_json::array();
            for (const machine::Violation& violation : tally.failure->violations)
                result["violations"].push_back(json_of(violation));
            result["schedule"] = nlohmann::ordered_json::parse(machine::to_json(tally.failure->schedule));
        }
        json["results"].push_back(std::move(result));
        total.add(tally);
    }
    json["executions"] = total.executions;
    json["states"] = total.states;
    json["steps"] = total.steps;
    json["violations"] =
        std::count_if(tallies.begin(), tallies.end(), [](const Tally& t) { return t.failure.has_value(); });
    return json;
}

std::string list_of_scenarios() {
    std::string text;
    for (const machine::Scenario& scenario : machine::scenarios()) {
        text += fmt::format("{}\n    {}\n", scenario.name, scenario.what);
        for (const machine::Agent& agent : scenario.agents) {
            text += fmt::format("    CPU {} {}{}\n", agent.cpu, agent.what,
                                agent.mortal ? ", and may die at any moment" : "");
        }
    }
    return text;
}

std::string list_of_faults() {
    std::string text;
    for (const machine::SeededFault& fault : machine::seeded_faults())
        text += fmt::format("{}\n    {}\n    found by {}\n", fault.name, fault.what, fault.scenario);
    return text;
}

nlohmann::ordered_json scenarios_json() {
    nlohmann::ordered_json json = nlohmann::ordered_json::array();
    for (const machine::Scenario& scenario : machine::scenarios()) {
        nlohmann::ordered_json agents = nlohmann::ordered_json::array();
        for (const machine::Agent& agent : scenario.agents)
            agents.push_back({{"cpu", agent.cpu}, {"what", agent.what}, {"may_die", agent.mortal}});
        json.push_back({{"scenario", scenario.name}, {"what", scenario.what}, {"agents", std::move(agents)}});
    }
    return json;
}

nlohmann::ordered_json faults_json() {
    nlohmann::ordered_json json = nlohmann::ordered_json::array();
    for (const machine::SeededFault& fault : machine::seeded_faults())
        json.push_back({{"fault", fault.name}, {"what", fault.what}, {"scenario", fault.scenario}});
    return json;
}

} // namespace directmap::tool

// What `directmap explore` prints: a table that grows as searches end, or JSON.
#pragma once

#include "machine/search.hpp"
#include "output.hpp"

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace directmap::tool {

/// `bound 2`, `every order`, `1,000 random runs from seed 7`.
[[nodiscard]] std::string words_of(const machine::SearchMode& mode);

/// The table's head, a line for each search, and its foot.
class ExploreTable {
public:
    ExploreTable(const std::vector<machine::Search>& searches, Palette palette);
    [[nodiscard]] std::string head() const;
    [[nodiscard]] std::string line(const machine::Search& search, const machine::Tally& tally) const;
    [[nodiscard]] std::string foot(const std::vector<machine::Tally>& tallies) const;

private:
    Palette palette_;
    std::size_t scenario_width_, fault_width_; ///< 0: there is no fault
    bool pruned_;
    [[nodiscard]] std::string row(const std::string& scenario, const std::string& fault,
                                  const machine::Tally& tally) const;
};

[[nodiscard]] nlohmann::ordered_json json_of(const std::vector<machine::Search>& searches,
                                             const std::vector<machine::Tally>& tallies);
[[nodiscard]] nlohmann::ordered_json json_of(const machine::Violation& violation);

/// The lists of scenarios and of faults.
[[nodiscard]] std::string list_of_scenarios();
[[nodiscard]] std::string list_of_faults();
[[nodiscard]] nlohmann::ordered_json scenarios_json();
[[nodiscard]] nlohmann::ordered_json faults_json();

} // namespace directmap::tool

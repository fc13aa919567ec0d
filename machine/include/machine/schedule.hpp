// A schedule: which CPU runs when, and what hardware does where it has a choice. Written down as deviations from the
// plain run, in which each agent runs until it has to wait or is done and hardware always takes the plain choice.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace directmap::machine {

/// Before its step `step`, agent `agent` is left for `to`. (After its last step: one more than it has.)
struct Switch {
    unsigned agent = 0;
    unsigned step = 0;
    unsigned to = 0;
    friend bool operator==(const Switch&, const Switch&) = default;
};

/// The `count`th choice that hardware has on behalf of `agent`, counted from 0, is `value`.
struct Choice {
    unsigned agent = 0;
    unsigned count = 0;
    unsigned value = 0;
    friend bool operator==(const Choice&, const Choice&) = default;
};

/// Everything that a run of a scenario depends on: it can be replayed.
struct Schedule {
    std::string scenario;
    std::string fault; ///< the seeded one; empty: none
    std::vector<Switch> switches;
    std::vector<Choice> choices;
    std::string violation; ///< what the run ends in; empty: nothing
    friend bool operator==(const Schedule&, const Schedule&) = default;
};

/// As a JSON document, and back. `parse_schedule` throws std::invalid_argument with a reason when `text` is none.
[[nodiscard]] std::string to_json(const Schedule& schedule);
[[nodiscard]] Schedule parse_schedule(const std::string& text);

} // namespace directmap::machine

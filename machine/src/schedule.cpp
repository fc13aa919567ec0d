#include "machine/schedule.hpp"

#include <stdexcept>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace directmap::machine {

namespace {

constexpr const char* format_name = "directmap.schedule/1";

unsigned number(const nlohmann::json& object, const char* key) {
    const auto it = object.find(key);
    if (it == object.end() || !it->is_number_unsigned() || it->get<std::uint64_t>() > 0xffffffff) {
        throw std::invalid_argument(fmt::format("'{}' is missing or is no number", key));
    }
    return it->get<unsigned>();
}

std::string text_of(const nlohmann::json& object, const char* key, bool needed) {
    const auto it = object.find(key);
    if (it == object.end() && !needed) return {};
    if (it == object.end() || !it->is_string())
        throw std::invalid_argument(fmt::format("'{}' is missing or is no text", key));
    return it->get<std::string>();
}

const nlohmann::json& list(const nlohmann::json& object, const char* key) {
    static const nlohmann::json none = nlohmann::json::array();
    const auto it = object.find(key);
    if (it == object.end()) return none;
    if (!it->is_array()) throw std::invalid_argument(fmt::format("'{}' is no list", key));
    for (const auto& entry : *it) {
        if (!entry.is_object()) throw std::invalid_argument(fmt::format("'{}' has an entry that is no object", key));
    }
    return *it;
}

} // namespace

std::string to_json(const Schedule& schedule) {
    nlohmann::ordered_json json;
    json["schema"] = format_name;
    json["scenario"] = schedule.scenario;
    if (!schedule.fault.empty()) json["fault"] = schedule.fault;
    json["switches"] = nlohmann::ordered_json::array();
    for (const Switch& s : schedule.switches)
        json["switches"].push_back({{"agent", s.agent}, {"step", s.step}, {"to", s.to}});
    json["choices"] = nlohmann::ordered_json::array();
    for (const Choice& c : schedule.choices)
        json["choices"].push_back({{"agent", c.agent}, {"count", c.count}, {"value", c.value}});
    if (!schedule.violation.empty()) json["violation"] = schedule.violation;
    return json.dump(2) + "\n";
}

Schedule parse_schedule(const std::string& text) {
    nlohmann::json json;
    try {
        json = nlohmann::json::parse(text);
    } catch (const nlohmann::json::parse_error& error) {
        throw std::invalid_argument(fmt::format("not JSON (byte {})", error.byte));
    }
    if (!json.is_object() || text_of(json, "schema", true) != format_name) {
        throw std::invalid_argument(fmt::format("no schedule: 'schema' is not {}", format_name));
    }
    Schedule schedule;
    schedule.scenario = text_of(json, "scenario", true);
    schedule.fault = text_of(json, "fault", false);
    schedule.violation = text_of(json, "violation", false);
    for (const auto& s : list(json, "switches")) {
        schedule.switches.push_back({number(s, "agent"), number(s, "step"), number(s, "to")});
    }
    for (const auto& c : list(json, "choices")) {
        schedule.choices.push_back({number(c, "agent"), number(c, "count"), number(c, "value")});
    }
    return schedule;
}

} // namespace directmap::machine

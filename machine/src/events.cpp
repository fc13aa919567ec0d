#include "machine/events.hpp"

#include <iterator>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "machine/machine.hpp"

namespace directmap::machine {

namespace {

/// The fields of one line. Millions of them are written, so they aren't put together as a tree first.
class Line {
public:
    void number(const char* key, std::uint64_t value) { fmt::format_to(out(), "\"{}\":{}", separated(key), value); }
    void address(const char* key, std::uint64_t value) {
        fmt::format_to(out(), "\"{}\":\"{:#x}\"", separated(key), value);
    }
    void word(const char* key, std::string_view value) {
        fmt::format_to(out(), "\"{}\":\"{}\"", separated(key), value);
    }
    void truth(const char* key, bool value) { fmt::format_to(out(), "\"{}\":{}", separated(key), value); }
    void json(const char* key, const nlohmann::ordered_json& value) {
        fmt::format_to(out(), "\"{}\":{}", separated(key), value.dump());
    }
    std::string end() { return text_ + "}\n"; }

private:
    std::back_insert_iterator<std::string> out() { return std::back_inserter(text_); }
    const char* separated(const char* key) {
        if (text_.size() > 1) text_ += ',';
        return key;
    }

    std::string text_ = "{";
};

nlohmann::ordered_json hex(std::uint64_t value) {
    return fmt::format("{:#x}", value);
}

nlohmann::ordered_json json_of(const Access& access) {
    return {
        {"valid", bool{access.valid}},   {"writable", bool{access.writable}}, {"executable", bool{access.executable}},
        {"global", bool{access.global}}, {"shared", bool{access.shared}},     {"type", unsigned{access.type}},
        {"key", unsigned{access.key}}};
}

void add_config(Line& line, const Machine& machine) {
    const MachineConfig& config = machine.config();
    const Regime& regime = config.regime;
    line.word("schema", "directmap.events/1");
    line.number("cpus", config.cpus);
    line.json("bbm", machine.bbm());
    line.number("page_shift", regime.page_shift);
    line.number("va_bits", regime.va_bits);
    line.number("pa_bits", regime.pa_bits);
    line.number("index_bits", regime.index_bits);
    line.json("first_block_level", regime.first_block_level);
    line.json("group_shift", regime.group_shift);
    line.address("realm_shared_address", regime.realm_shared_address);
    line.address("offset", config.offset);
    line.truth("range_invalidation", config.range_invalidation);
    line.truth("tables_through_map", config.tables_through_map);
    line.number("table_key", config.table_key);
    line.json("table_pool",
              {{"start", hex(config.table_pool.start.value())}, {"end", hex(config.table_pool.end().value())}});
    nlohmann::ordered_json ram = nlohmann::ordered_json::array();
    for (const auto& [start, pages] : machine.reference().pages()) {
        ram.push_back({{"start", hex(start)}, {"end", hex(pages.end)}, {"attributes", json_of(pages.base.front())}});
    }
    line.json("ram", ram);
}

} // namespace

EventSink json_lines(std::ostream& out) {
    return [&out](const Event& e) {
        Line line;
        line.number("seq", e.sequence);
        line.number("cpu", e.cpu);
        line.word("call", e.call);
        if (e.machine != nullptr) add_config(line, *e.machine);
        if (e.operation != 0) line.number("operation", e.operation);
        if (e.lock != 0) line.number("lock", e.lock);
        if (e.table != 0) line.address("table", e.table);
        if (e.count != 0) {
            line.number("index", e.index);
            if (e.count != 1) line.number("count", e.count);
            line.address("value", e.value);
            if (e.step != 0) line.address("step", e.step);
        }
        if (e.size != 0) {
            line.address("va", e.va);
            line.address("size", e.size);
        }
        if (e.targets != 0) {
            if (e.scope.level != InvalidationScope::any_level) line.json("level", e.scope.level);
            line.truth("leaves_only", e.scope.leaves_only);
            if (e.targets != ~std::uint64_t{0}) line.address("targets", e.targets);
        }
        if (*e.order != '\0') line.word("order", e.order);
        if (!e.change.empty()) line.word("change", e.change);
        if (!e.text.empty()) line.json("text", e.text);
        if (e.where.line() != 0) {
            const std::string_view file = e.where.file_name();
            line.word("at", fmt::format("{}:{}", file.substr(file.rfind('/') + 1), e.where.line()));
        }
        out << line.end();
    };
}

} // namespace directmap::machine

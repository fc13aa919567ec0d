#include "machine/events.hpp"

#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace directmap::machine {

EventSink json_lines(std::ostream& out) {
    return [&out](const Event& e) {
        nlohmann::ordered_json line;
        const auto hex = [](std::uint64_t value) { return fmt::format("0x{:x}", value); };
        line["seq"] = e.sequence;
        line["cpu"] = e.cpu;
        line["call"] = e.call;
        if (e.table != 0) {
            line["table"] = hex(e.table);
            line["index"] = e.index;
            if (e.count != 1) line["count"] = e.count;
            line["value"] = hex(e.value);
            if (e.clear != 0) line["clear"] = hex(e.clear);
            if (e.step != 0) line["step"] = hex(e.step);
        }
        if (e.va != 0 || e.size != 0) {
            line["va"] = hex(e.va);
            line["size"] = hex(e.size);
        }
        if (std::string_view{e.call}.starts_with("invalidate")) {
            if (e.level != -2) line["level"] = e.level;
            line["leaves_only"] = e.leaves_only;
        }
        if (*e.order != '\0') line["order"] = e.order;
        if (!e.text.empty()) line["text"] = e.text;
        const std::string_view file = e.where.file_name();
        line["at"] = fmt::format("{}:{}", file.substr(file.rfind('/') + 1), e.where.line());
        out << line.dump() << '\n';
    };
}

} // namespace directmap::machine

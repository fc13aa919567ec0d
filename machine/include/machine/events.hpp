// What crosses the platform interface, as records. docs/events.md documents the JSON form for independent checkers.
#pragma once

#include <cstdint>
#include <functional>
#include <ostream>
#include <source_location>
#include <string>

namespace directmap::machine {

/// One platform call, or the begin or end of an operation around them.
struct Event {
    std::uint64_t sequence = 0;
    unsigned cpu = 0;
    const char* call = "";     ///< the platform's member function, or "begin" / "end" / "install" / "violation"
    std::uint64_t table = 0;   ///< physical address of the table page, for descriptor accesses
    unsigned index = 0;
    unsigned count = 0;
    std::uint64_t value = 0;   ///< loaded, stored or first filled descriptor; bits set by an update
    std::uint64_t clear = 0;   ///< bits cleared by an update
    std::uint64_t step = 0;    ///< by which filled descriptors advance
    std::uint64_t va = 0;      ///< of an invalidation
    std::uint64_t size = 0;    ///< of an invalidation or an operation, in bytes
    int level = -2;            ///< an invalidation's hint; -2: none
    bool leaves_only = false;
    const char* order = "";    ///< "relaxed" for single-copy-atomic stores, "plain" for fills, a barrier's name
    std::string text;          ///< an operation's name and outcome, a violation's words
    std::source_location where;
};

using EventSink = std::function<void(const Event&)>;

/// Writes events as JSON, one object a line.
[[nodiscard]] EventSink json_lines(std::ostream& out);

} // namespace directmap::machine

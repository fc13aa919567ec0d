// What crosses the platform interface, as records. docs/events.md documents the JSON form for independent checkers.
#pragma once

#include <cstdint>
#include <functional>
#include <ostream>
#include <source_location>
#include <string>

#include "directmap/platform.hpp"

namespace directmap::machine {

class Machine;

/// One platform call, or something that the scenario does around them.
struct Event {
    std::uint64_t sequence = 0;
    unsigned cpu = 0;
    const char* call = ""; ///< the platform's member function, or one of the scenario's: "begin", "end", "install" …
    std::uint64_t table = 0; ///< physical address of the table page
    unsigned index = 0;
    unsigned count = 0;               ///< descriptors accessed; 0: none is
    std::uint64_t value = 0;          ///< loaded, stored, expected or first filled descriptor
    std::uint64_t step = 0;           ///< by which filled and expected descriptors advance
    std::uint64_t va = 0;             ///< of a range; an operation's or an invalidation's
    std::uint64_t size = 0;           ///< its bytes; 0: there is none
    InvalidationScope scope{};        ///< an invalidation's
    std::uint64_t targets = 0;        ///< CPUs that an invalidation reaches; 0: the event is none
    unsigned operation = 0;           ///< 0: not about an operation
    unsigned lock = 0;                ///< 0: not about a lock
    const char* order = "";           ///< "relaxed" for single-copy-atomic stores, "plain" for fills, a barrier's name
    std::string text;                 ///< an operation's name or outcome, a violation's words
    std::string change;               ///< what an operation changes, as `name=value` words
    const Machine* machine = nullptr; ///< of a "config" event: all there is to know
    std::source_location where;
};

using EventSink = std::function<void(const Event&)>;

/// Writes events as JSON, one object a line.
[[nodiscard]] EventSink json_lines(std::ostream& out);

} // namespace directmap::machine

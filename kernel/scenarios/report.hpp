// What a run tells: the machine, the map before and after, what happened to it. For people always, as JSON lines on
// request (each begins with a brace).
#pragma once

#include "boot/machine.hpp"

namespace directmap::kernel {

/// The CPU, the memory, and how the map was built.
void report_machine(const Machine& machine);

/// The map's leaves and tables, and the map itself as a dump unless that would take long. `when` is `before` or
/// `after`.
void report_map(const Machine& machine, const char* when);

/// The counters since the map was built.
void report_counters(const Machine& machine);

} // namespace directmap::kernel

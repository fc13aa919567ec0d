// How a run ends: one verdict line, and an exit code that says the same.
#pragma once

#include "device/console.hpp"

namespace directmap::kernel {

/// The verdict is to be repeated as a JSON line, before the last line.
void report_verdict_as_json();

/// The machine's exit codes.
enum class ExitCode : std::uint8_t {
    passed = 0,
    failed = 1,
    not_understood = 2, ///< the command line asks for what this kernel doesn't know
};

/// Prints `directmap-kernel: PASS` and ends the machine.
[[noreturn]] void pass();

/// Prints `directmap-kernel: FAIL: reason` and ends the machine. Of several CPUs that fail, the first prints: what
/// follows would be its consequences.
[[noreturn]] void fail_with(std::string_view reason, ExitCode exit_code);

template <class... Arguments>
[[noreturn]] void fail(std::string_view reason, Arguments... arguments) {
    TextBuffer<256> text;
    format(text.sink(), reason, arguments...);
    fail_with(text.view(), ExitCode::failed);
}

/// The same for a command line that asks for what this kernel doesn't know.
template <class... Arguments>
[[noreturn]] void refuse(std::string_view reason, Arguments... arguments) {
    TextBuffer<256> text;
    format(text.sink(), reason, arguments...);
    fail_with(text.view(), ExitCode::not_understood);
}

/// For failures that print more than a line first: true for the first caller, and the others never return.
[[nodiscard]] bool claim_verdict();
/// The verdict's lines; then the end. For who claimed it. Takes no lock: its holder may be the one that failed.
[[noreturn]] void end_with_failure(std::string_view reason, ExitCode exit_code);

} // namespace directmap::kernel

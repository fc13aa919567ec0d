// How a run ends: one verdict line, and an exit code that says the same.
#pragma once

#include "device/console.hpp"

namespace directmap::kernel {

/// Prints `directmap-kernel: PASS` and ends the machine with exit code 0.
[[noreturn]] void pass();

/// True for the first caller, who is to print the verdict and call `end_machine`; every later caller never returns,
/// so that one CPU's reason isn't followed by its consequences on another.
[[nodiscard]] bool claim_verdict();
/// By semihosting, which gives an exit code; where nobody listens, by PSCI.
[[noreturn]] void end_machine(unsigned exit_code);

/// Prints `directmap-kernel: FAIL: reason` and ends the machine with exit code 1.
template <class... Arguments>
[[noreturn]] void fail(std::string_view reason, Arguments... arguments) {
    if (claim_verdict()) {
        const SpinGuard guard{console.lock};
        format(console.sink(), "directmap-kernel: FAIL: ");
        format(console.sink(), reason, arguments...);
        format(console.sink(), "\n");
    }
    end_machine(1);
}

} // namespace directmap::kernel

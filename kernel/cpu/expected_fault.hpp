// Accesses that may fault, and what came of them.
#pragma once

#include <cstdint>

#include "pure/syndrome.hpp"

namespace directmap::kernel {

/// Written by the probes (probe.S) before the one instruction that may fault, read by the exception handler.
struct ExpectedFault {
    std::uint64_t instruction = 0; ///< its address, where the exception must come from; 0: nothing is expected
    std::uint64_t resume = 0;      ///< where to go on after a fault
    bool happened = false;
    Syndrome syndrome;
    std::uint64_t address = 0; ///< FAR_EL1
};

/// What an access came to.
struct ProbeResult {
    bool faulted = false;
    Syndrome syndrome;         ///< if it faulted
    std::uint64_t address = 0; ///< if it faulted: where
    std::uint64_t value = 0;   ///< what a load or a called function returned
};

[[nodiscard]] ProbeResult probe_load(std::uint64_t va);
[[nodiscard]] ProbeResult probe_store(std::uint64_t va, std::uint64_t value);
/// Calls the function at `va`, which takes nothing and returns a number.
[[nodiscard]] ProbeResult probe_fetch(std::uint64_t va);

} // namespace directmap::kernel

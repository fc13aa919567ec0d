// Counting instructions with the performance monitors (Arm ARM D13). Under an emulator that counts exactly (QEMU with
// -icount) the figures are the same in every run.
#pragma once

#include <cstdint>
#include <optional>

#include "cpu/barriers.hpp"
#include "cpu/registers.hpp"

namespace directmap::kernel {

/// Counts what this CPU executes, from construction to `read`. Interrupts in between are counted too: mask them.
class InstructionMeter {
public:
    /// Whether the CPU counts the event at all. QEMU does with -icount alone.
    [[nodiscard]] static bool available() {
        const unsigned version = id_field(read_id_aa64dfr0_el1(), 8);
        if (version == 0 || version == 0xf) return false;
        return (read_pmceid0_el0() >> instructions_retired & 1) != 0;
    }

    InstructionMeter() {
        constexpr std::uint64_t enable = 1u << 0, reset_counters = 1u << 1, long_counters = 1u << 7;
        write_pmcntenset_el0(0);
        write_pmcr_el0(enable | reset_counters | long_counters);
        write_pmevtyper0_el0(instructions_retired);
        write_pmcntenset_el0(counter);
        write_pmovsclr_el0(counter);
        isb();
        start_ = read_pmevcntr0_el0();
    }

    /// The instructions since; nothing if a counter of 32 bits overflowed.
    [[nodiscard]] std::optional<std::uint64_t> read() const {
        const std::uint64_t now = read_pmevcntr0_el0();
        isb();
        if ((read_pmovsclr_el0() & counter) != 0) return std::nullopt;
        return now - start_;
    }

private:
    static constexpr unsigned instructions_retired = 0x08;
    static constexpr std::uint64_t counter = 1u << 0;

    std::uint64_t start_;
};

} // namespace directmap::kernel

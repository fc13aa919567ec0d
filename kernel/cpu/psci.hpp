// Power State Coordination Interface (Arm DEN0022): how CPUs are turned on and off.
#pragma once

#include <cstdint>

#include "pure/boot_information.hpp"

namespace directmap::kernel {

class Psci {
public:
    enum class Affinity : std::uint8_t { on, off, pending, unknown };

    void set_conduit(PsciConduit conduit) { conduit_ = conduit; }
    [[nodiscard]] bool available() const { return conduit_ != PsciConduit::none; }

    /// Starts a CPU at a physical address, with `context` in its x0. 0 or a negative PSCI error.
    [[nodiscard]] std::int32_t cpu_on(std::uint64_t affinity, std::uint64_t entry, std::uint64_t context) const;
    /// Turns the calling CPU off. Returns only if that failed.
    void cpu_off() const;
    [[nodiscard]] Affinity affinity_info(std::uint64_t affinity) const;
    /// Turns the machine off. Returns only if that failed.
    void system_off() const;

private:
    [[nodiscard]] std::int64_t call(std::uint32_t function, std::uint64_t a = 0, std::uint64_t b = 0,
                                    std::uint64_t c = 0) const;

    PsciConduit conduit_ = PsciConduit::none;
};

extern Psci psci;

} // namespace directmap::kernel

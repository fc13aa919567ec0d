// The GICv2 interrupt controller (Arm IHI 0048): as much as waking CPUs and ticking needs.
#pragma once

#include <cstdint>

namespace directmap::kernel {

class GicV2 {
public:
    static constexpr unsigned spurious = 1020; ///< and above: nothing is pending

    GicV2() = default;
    GicV2(std::uint64_t distributor_va, std::uint64_t cpu_interface_va)
        : distributor_{distributor_va}, cpu_interface_{cpu_interface_va} {}

    /// Once, by the boot CPU.
    void start_distributor() const { at(distributor_, distributor_control) = 1; }
    /// By each CPU: lets the software interrupt `sgi` and the private interrupt `ppi` through to it. These registers
    /// are the CPU's own.
    void start_cpu(unsigned sgi, unsigned ppi) const {
        at(distributor_, enable_set) = 1u << sgi | 1u << ppi;
        at(cpu_interface_, priority_mask) = 0xff;
        at(cpu_interface_, cpu_control) = 1;
    }
    /// Raises the software interrupt on another CPU.
    void send(unsigned cpu, unsigned sgi) const { at(distributor_, software_interrupt) = 1u << (16 + cpu) | sgi; }

    /// The pending interrupt's word, to be given to `complete`; `id_of` tells which it is.
    [[nodiscard]] std::uint32_t acknowledge() const { return at(cpu_interface_, interrupt_acknowledge); }
    void complete(std::uint32_t acknowledged) const { at(cpu_interface_, end_of_interrupt) = acknowledged; }
    [[nodiscard]] static unsigned id_of(std::uint32_t acknowledged) { return acknowledged & 0x3ff; }

private:
    static constexpr std::uint64_t distributor_control = 0x000, enable_set = 0x100, software_interrupt = 0xf00;
    static constexpr std::uint64_t cpu_control = 0x00, priority_mask = 0x04, interrupt_acknowledge = 0x0c,
                                   end_of_interrupt = 0x10;

    [[nodiscard]] static volatile std::uint32_t& at(std::uint64_t base, std::uint64_t offset) {
        return *reinterpret_cast<volatile std::uint32_t*>(base + offset);
    }

    std::uint64_t distributor_ = 0;
    std::uint64_t cpu_interface_ = 0;
};

} // namespace directmap::kernel

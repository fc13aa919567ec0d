#include "cpu/ending.hpp"

#include "cpu/barriers.hpp"
#include "cpu/cpu.hpp"
#include "cpu/psci.hpp"

extern "C" std::uint64_t probe_semihosting(const void* argument, directmap::kernel::ExpectedFault* expected,
                                           std::uint32_t operation);

namespace directmap::kernel {

namespace {

constinit std::uint32_t verdict_claimed = 0;

} // namespace

bool claim_verdict() {
    if (__atomic_exchange_n(&verdict_claimed, 1u, __ATOMIC_ACQ_REL) == 0) return true;
    for (;;) wfi();
}

void end_machine(unsigned exit_code) {
    constexpr std::uint32_t sys_exit_extended = 0x20;
    constexpr std::uint64_t application_exit = 0x20026;
    const std::uint64_t block[2] = {application_exit, exit_code};
    static_cast<void>(probe_semihosting(block, &this_cpu().expected, sys_exit_extended));
    psci.system_off();
    for (;;) wfi();
}

void pass() {
    if (claim_verdict()) print("directmap-kernel: PASS\n");
    end_machine(0);
}

} // namespace directmap::kernel

#include "cpu/ending.hpp"

#include "cpu/barriers.hpp"
#include "cpu/cpu.hpp"
#include "cpu/psci.hpp"

extern "C" std::uint64_t probe_semihosting(const void* argument, directmap::kernel::ExpectedFault* expected,
                                           std::uint32_t operation);

namespace directmap::kernel {

namespace {

constinit std::uint32_t verdict_claimed = 0;
constinit bool json = false;

/// By semihosting, which gives an exit code; where nobody listens, by PSCI.
[[noreturn]] void end_machine(ExitCode exit_code) {
    constexpr std::uint32_t sys_exit_extended = 0x20;
    constexpr std::uint64_t application_exit = 0x20026;
    const std::uint64_t block[2] = {application_exit, static_cast<std::uint64_t>(exit_code)};
    static_cast<void>(probe_semihosting(block, &this_cpu().expected, sys_exit_extended));
    psci.system_off();
    for (;;) wfi();
}

} // namespace

void report_verdict_as_json() {
    json = true;
}

bool claim_verdict() {
    if (__atomic_exchange_n(&verdict_claimed, 1u, __ATOMIC_ACQ_REL) == 0) return true;
    for (;;) wfi();
}

void end_with_failure(std::string_view reason, ExitCode exit_code) {
    const TextSink sink = console.sink();
    if (json) format(sink, "{\"event\":\"verdict\",\"pass\":false,\"reason\":{}}\n", Quoted{reason});
    format(sink, "directmap-kernel: FAIL: {}\n", reason);
    end_machine(exit_code);
}

void fail_with(std::string_view reason, ExitCode exit_code) {
    if (claim_verdict()) {
        console.lock.acquire(); // not inside of another CPU's line
        end_with_failure(reason, exit_code);
    }
    end_machine(exit_code);
}

void pass() {
    if (claim_verdict()) {
        if (json) print("{\"event\":\"verdict\",\"pass\":true}\n");
        print("directmap-kernel: PASS\n");
    }
    end_machine(ExitCode::passed);
}

} // namespace directmap::kernel

#include "cpu/psci.hpp"

namespace directmap::kernel {

constinit Psci psci;

namespace {

constexpr std::uint32_t function_cpu_off = 0x8400'0002;
constexpr std::uint32_t function_cpu_on = 0xc400'0003;
constexpr std::uint32_t function_affinity_info = 0xc400'0004;
constexpr std::uint32_t function_system_off = 0x8400'0008;

} // namespace

std::int64_t Psci::call(std::uint32_t function, std::uint64_t a, std::uint64_t b, std::uint64_t c) const {
    // SMC calling convention (Arm DEN0028): x0–x17 are not preserved.
    register std::uint64_t x0 asm("x0") = function;
    register std::uint64_t x1 asm("x1") = a;
    register std::uint64_t x2 asm("x2") = b;
    register std::uint64_t x3 asm("x3") = c;
#define DIRECTMAP_SMCCC_CLOBBERS                                                                                       \
    "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "memory"
    if (conduit_ == PsciConduit::hvc) {
        asm volatile("hvc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3)::DIRECTMAP_SMCCC_CLOBBERS);
    } else {
        asm volatile("smc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3)::DIRECTMAP_SMCCC_CLOBBERS);
    }
#undef DIRECTMAP_SMCCC_CLOBBERS
    return static_cast<std::int64_t>(x0);
}

std::int32_t Psci::cpu_on(std::uint64_t affinity, std::uint64_t entry, std::uint64_t context) const {
    return static_cast<std::int32_t>(call(function_cpu_on, affinity, entry, context));
}

void Psci::cpu_off() const {
    static_cast<void>(call(function_cpu_off));
}

Psci::Affinity Psci::affinity_info(std::uint64_t affinity) const {
    switch (static_cast<std::int32_t>(call(function_affinity_info, affinity))) {
    case 0: return Affinity::on;
    case 1: return Affinity::off;
    case 2: return Affinity::pending;
    default: return Affinity::unknown;
    }
}

void Psci::system_off() const {
    if (available()) static_cast<void>(call(function_system_off));
}

} // namespace directmap::kernel

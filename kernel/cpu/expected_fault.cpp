#include "cpu/expected_fault.hpp"

#include "cpu/cpu.hpp"

extern "C" {
std::uint64_t probe_load_at(std::uint64_t va, directmap::kernel::ExpectedFault* expected);
std::uint64_t probe_store_at(std::uint64_t va, directmap::kernel::ExpectedFault* expected, std::uint64_t value);
std::uint64_t probe_call(std::uint64_t va, directmap::kernel::ExpectedFault* expected);
}

namespace directmap::kernel {

namespace {

template <class Access>
ProbeResult probe(Access access) {
    ExpectedFault& expected = this_cpu().expected;
    expected.happened = false;
    const std::uint64_t value = access(&expected);
    if (expected.happened) return {true, expected.syndrome, expected.address, 0};
    return {false, {}, 0, value};
}

} // namespace

ProbeResult probe_load(std::uint64_t va) {
    return probe([va](ExpectedFault* expected) { return probe_load_at(va, expected); });
}
ProbeResult probe_store(std::uint64_t va, std::uint64_t value) {
    return probe([=](ExpectedFault* expected) { return probe_store_at(va, expected, value); });
}
ProbeResult probe_fetch(std::uint64_t va) {
    return probe([va](ExpectedFault* expected) { return probe_call(va, expected); });
}

} // namespace directmap::kernel

// Prints the seeded faults and who catches each. ./check shows it; it fails if one gets away.
#include <cstdio>
#include <string>

#include <fmt/format.h>

#include "fault_cases.hpp"

int main() {
    using namespace directmap;
    fmt::print("Seeded faults and who catches them (tests/machine/faults_test.cpp, one test for each):\n\n");
    fmt::print("{:<24} {:<18} {}\n", "fault", "breaks", "what the machine says first");
    unsigned caught = 0;
    std::string escaped;
    for (const test::FaultCase& c : test::fault_cases()) {
        const test::Verdict verdict = c.play(c.fault);
        const bool clean_without = c.play(machine::Fault::none).clean();
        if (verdict.broke(c.promise) && clean_without) {
            ++caught;
        } else {
            escaped += fmt::format("  {} ({}): {}\n", machine::name_of(c.fault), c.scenario,
                                   clean_without ? "not caught" : "its scenario fails without it");
            continue;
        }
        for (const machine::Violation& v : verdict.violations) {
            if (v.promise != c.promise) continue;
            fmt::print("{:<24} {:<18} {}\n", machine::name_of(c.fault), c.promise, v.what);
            break;
        }
    }
    fmt::print("\n{} of {} faults caught\n", caught, test::fault_cases().size());
    if (!escaped.empty()) fmt::print("\nNot caught:\n{}", escaped);
    return escaped.empty() && caught == machine::all_faults().size() ? 0 : 1;
}

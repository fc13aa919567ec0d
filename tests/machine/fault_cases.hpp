// Which mistake is made in which scenario, and who has to catch it. The tests prove each line; the report prints them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "machine/faults.hpp"

namespace directmap::test {

/// What came of playing a scenario.
struct Verdict {
    std::vector<machine::Violation> violations;
    [[nodiscard]] bool clean() const { return violations.empty(); }
    [[nodiscard]] bool broke(const std::string& promise) const {
        for (const machine::Violation& v : violations) {
            if (v.promise == promise) return true;
        }
        return false;
    }
};

struct FaultCase {
    machine::Fault fault;
    const char* promise;  ///< as the machine names it
    const char* scenario; ///< one line: what is done
    std::function<Verdict(machine::Fault)> play;
};

[[nodiscard]] const std::vector<FaultCase>& fault_cases();

} // namespace directmap::test

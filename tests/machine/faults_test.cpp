// The checker is only worth what it catches: each seeded fault must break the promise that it is about, and the same
// scenario without it must be clean.
#include <ostream>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "fault_cases.hpp"

namespace directmap::test {

void PrintTo(const FaultCase& c, std::ostream* out) {
    *out << machine::name_of(c.fault);
}

namespace {

class SeededFault : public testing::TestWithParam<FaultCase> {};

std::string say(const Verdict& verdict) {
    std::string text;
    for (const machine::Violation& v : verdict.violations) text += v.promise + ": " + v.what + "\n";
    return text;
}

TEST_P(SeededFault, IsCaughtByThePromiseThatItBreaks) {
    const Verdict verdict = GetParam().play(GetParam().fault);
    EXPECT_TRUE(verdict.broke(GetParam().promise)) << "expected " << GetParam().promise << ", got\n" << say(verdict);
}

TEST_P(SeededFault, IsAllThatIsWrongWithItsScenario) {
    const Verdict verdict = GetParam().play(machine::Fault::none);
    EXPECT_TRUE(verdict.clean()) << say(verdict);
}

INSTANTIATE_TEST_SUITE_P(Fault, SeededFault, testing::ValuesIn(fault_cases()),
                         [](const auto& info) { return std::string{machine::name_of(info.param.fault)}; });

TEST(SeededFaults, EachHasACaseThatCatchesIt) {
    std::set<machine::Fault> caught;
    for (const FaultCase& c : fault_cases()) caught.insert(c.fault);
    for (const machine::FaultInfo& info : machine::all_faults()) {
        EXPECT_TRUE(caught.contains(info.fault)) << info.name;
        EXPECT_EQ(machine::fault_named(info.name), info.fault);
        EXPECT_STREQ(machine::name_of(info.fault), info.name);
    }
    EXPECT_EQ(caught.size(), machine::all_faults().size());
    EXPECT_EQ(machine::fault_named("none"), machine::Fault::none);
    EXPECT_EQ(machine::fault_named("drop_everything"), std::nullopt);
}

} // namespace
} // namespace directmap::test

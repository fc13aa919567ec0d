// Two CPUs at the pool at once, in every order within a bound.
#include <cstdlib>
#include <ostream>

#include <gtest/gtest.h>

#include "machine/explorer.hpp"
#include "machine/pool_scenarios.hpp"

namespace directmap::machine {

void PrintTo(const Scenario& scenario, std::ostream* out) {
    *out << scenario.name;
}
void PrintTo(const SeededFault& fault, std::ostream* out) {
    *out << fault.name;
}

namespace {

constexpr SearchMode two_preemptions{.kind = SearchMode::Kind::bounded, .bound = 2};

[[nodiscard]] const Scenario& named(const std::string& name) {
    for (const Scenario& scenario : pool_scenarios()) {
        if (scenario.name == name) return scenario;
    }
    throw std::logic_error("no such scenario: " + name);
}
struct PlainName {
    template <class T>
    std::string operator()(const testing::TestParamInfo<T>& info) const {
        std::string name = info.param.name;
        for (char& c : name) c = c == '-' ? '_' : c;
        return name;
    }
};

class PoolRace : public testing::TestWithParam<Scenario> {};

TEST_P(PoolRace, KeepsEveryPromiseInEveryOrderWithTwoPreemptions) {
    Explorer explorer{GetParam(), nullptr};
    SearchMode mode = two_preemptions;
    if (std::getenv("DIRECTMAP_LONG") != nullptr) mode.bound = 3;
    const Tally tally = explorer.search(mode);
    EXPECT_GT(tally.executions, 100u);
    RecordProperty("orders", static_cast<int>(tally.executions));
    if (tally.failure) FAIL() << explorer.story(explorer.shrink(tally.failure->schedule));
}
INSTANTIATE_TEST_SUITE_P(Of, PoolRace, testing::ValuesIn(pool_scenarios()), PlainName{});

class PoolRaceFault : public testing::TestWithParam<SeededFault> {};

TEST_P(PoolRaceFault, IsFoundByItsScenario) {
    const Scenario& scenario = named(GetParam().scenario);
    const SeededFault fault = GetParam();
    Explorer explorer{scenario, &fault};
    const Tally tally = explorer.search(two_preemptions);
    ASSERT_TRUE(tally.failure) << tally.executions << " orders were tried";
    EXPECT_FALSE(explorer.replay(tally.failure->schedule).empty());
}
INSTANTIATE_TEST_SUITE_P(Of, PoolRaceFault, testing::ValuesIn(pool_faults()), PlainName{});

} // namespace
} // namespace directmap::machine

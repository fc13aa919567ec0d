// `directmap run --protect-tables`: a run whose page tables only the engine can write.
#include "shell.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace {

using testing::HasSubstr;
using testing::Not;
using Json = nlohmann::json;

Outcome run(const std::string& arguments) {
    return shell("printf '40000000+2G\\n100000000+30G\\n' | $D run --memory-map - --scenario tiny " + arguments +
                 " 2>&1");
}

TEST(ProtectTables, KeepsEveryPromiseUnderEveryPolicyWithTheKeyOnEveryTable) {
    const Outcome outcome = run("--policy all --protect-tables on --json");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    const Json json = Json::parse(outcome.output);
    EXPECT_EQ(json["machine"]["protected_tables"], true);
    EXPECT_EQ(json["ok"], true);
    EXPECT_EQ(json["runs"].size(), 5u);
    for (const Json& run : json["runs"]) {
        for (const Json& step : run["steps"]) {
            EXPECT_GE(step["keyed_bytes"].get<std::uint64_t>(), step["table_bytes"].get<std::uint64_t>())
                << run["policy"] << ", " << step["statement"];
        }
    }
}

TEST(ProtectTables, ShowsTheKeyedMemoryInTheTimelineAndTheComparison) {
    const Outcome with = run("--protect-tables on"), without = run("--protect-tables off");
    EXPECT_EQ(with.exit_code, 0);
    EXPECT_THAT(with.output, HasSubstr("TLB reach   keyed\n"));
    EXPECT_THAT(with.output, HasSubstr("memory with the table key"));
    EXPECT_THAT(without.output, Not(HasSubstr("keyed")));
    EXPECT_EQ(without.output, run("").output) << "off is the default";
}

TEST(ProtectTables, WorksWithEveryGranule) {
    for (const char* granule : {"16k", "64k"}) {
        const Outcome outcome = run(std::string("--no-comparison --protect-tables on --json --granule ") + granule);
        EXPECT_EQ(outcome.exit_code, 0) << granule << outcome.output;
    }
}

TEST(ProtectTables, SaysWhyItCantWhereNothingMayBeResized) {
    const Outcome outcome = run("--protect-tables on --bbm 0");
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_THAT(outcome.output, HasSubstr("--protect-tables"));
    EXPECT_THAT(outcome.output, HasSubstr("--bbm 0"));
}

} // namespace

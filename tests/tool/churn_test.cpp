// Pooled users: `directmap run --placement pooled`, and what it is worth.
#include "shell.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using Json = nlohmann::json;

Outcome run(const std::string& arguments) {
    return shell("printf '40000000+2G\\n100000000+30G\\n' | $D run --memory-map - " + arguments);
}

Json only_run(const std::string& arguments) {
    const Outcome outcome = run(arguments + " --no-comparison --json");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return Json::parse(outcome.output)["runs"][0];
}

TEST(Placement, PooledUsersBreakNoPromiseAndLeaveTheMapAsAtBoot) {
    for (const std::string granule : {"4k", "16k", "64k"}) {
        for (const std::string policy : {"on-restore", "background"}) {
            const Json played =
                only_run("--scenario tiny --placement pooled --granule " + granule + " --policy " + policy);
            EXPECT_EQ(played["problems"], Json::array()) << granule << " " << policy;
            EXPECT_EQ(played["healed"], true) << granule << " " << policy;
            EXPECT_EQ(played["end"]["leaves"], played["boot"]["leaves"]) << granule << " " << policy;
        }
    }
}

TEST(Placement, PoolsSplitFewLeavesWhereScatteredUsersSplitMany) {
    const Json pooled = only_run("--scenario tiny --placement pooled --policy never");
    const Json scattered = only_run("--scenario tiny --placement scattered --policy never");
    EXPECT_LT(pooled["counters"]["splits"], scattered["counters"]["splits"]);
    EXPECT_LT(pooled["counters"]["invalidations"], scattered["counters"]["invalidations"]);
}

TEST(Placement, UsersDoTheSameWhereverTheirMemoryLies) {
    const Outcome same =
        shell("d=$(mktemp -d); for p in pooled scattered; do printf '40000000+2G\\n100000000+30G\\n' | "
              "$D run --memory-map - --scenario tiny --placement $p --no-comparison --day $d/$p "
              ">/dev/null || exit 9; done; cmp $d/pooled $d/scattered && cat $d/pooled; rm -r $d");
    EXPECT_EQ(same.exit_code, 0) << same.output;
    EXPECT_THAT(same.output, AllOf(HasSubstr("\nload 0 "), HasSubstr("\nadd 7 "), HasSubstr("\nstart 5\n"),
                                   HasSubstr("\ncopy kexec\n"), HasSubstr("\ncopy hibernation\n")));
}

TEST(Placement, TheDocumentTellsWhatPoolsHold) {
    const Outcome outcome = run("--scenario tiny --placement pooled --no-comparison --json");
    const Json document = Json::parse(outcome.output);
    EXPECT_EQ(document["scenario"]["placement"], "pooled");
    std::uint64_t most = 0;
    for (const Json& step : document["runs"][0]["steps"]) {
        if (step.contains("pools")) most = std::max(most, step["pools"]["owned_bytes"].get<std::uint64_t>());
    }
    EXPECT_GE(most, std::uint64_t{2} << 20);
}

TEST(Placement, WithoutLiveResizingThereAreNoPools) {
    const Outcome outcome = run("--scenario tiny --placement pooled --bbm 0 2>&1 >/dev/null");
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_THAT(outcome.output, HasSubstr("--placement"));
}

TEST(Churn, TheDayIsAScenarioThatCanBePlayed) { // bench/churn plays all of it; here as much as takes a moment
    const Outcome outcome = shell("f=$(mktemp); sed 's/repeat 24/repeat 2/' '" DIRECTMAP_SOURCE_DIR
                                  "/bench/churn.scenario' >$f; printf '40000000+2G\\n100000000+30G\\n' | $D run "
                                  "--memory-map - --scenario $f --placement pooled --no-comparison --json; rm $f");
    const Json played = Json::parse(outcome.output)["runs"][0];
    EXPECT_EQ(played["problems"], Json::array());
    EXPECT_EQ(played["end"]["leaf_count"], played["boot"]["leaf_count"]);
}

/// bench/churn on the machine alone, with 2 GiB of memory and this day.
Outcome churn(const std::string& day) {
    return shell(
        "d=$(mktemp -d); printf '40000000+2G\\n' >$d/map; printf '" + day +
        "' >$d/day; '" DIRECTMAP_SOURCE_DIR
        "/bench/churn' --machine-alone --tool $D --memory-map $d/map --scenario $d/day 2>&1; e=$?; rm -r $d; exit $e");
}

TEST(Churn, ADayThatKeepsTheBudgetsPasses) {
    const Outcome outcome = churn("boot\nrepeat 2 {\nsecret take 4\nwait 10s\n}\nsecret give all\nwait 10s\n");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_THAT(outcome.output, Not(HasSubstr("MISSED")));
}

TEST(Churn, ADayThatEndsInSmallLeavesFails) { // more guard pages than 0.1 % of memory
    const Outcome outcome = churn("boot\nguard prepare 16M\nrepeat 1 {\nwait 10s\n}\nguard release\nwait 10s\n");
    EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("leaves of 2M and more: MISSED"));
    EXPECT_THAT(outcome.output, HasSubstr("all have gone: holds"));
}

TEST(Churn, ADayAfterWhichSomebodyStaysFails) {
    const Outcome outcome = churn("boot\nrepeat 1 {\nsecret take 4\nwait 10s\n}\n");
    EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("leaves of 2M and more: holds"));
    EXPECT_THAT(outcome.output, HasSubstr("all have gone: MISSED"));
}

TEST(Churn, ADayThatIsOverBeforeItHasHealedFails) {
    const Outcome outcome = churn("boot\nrepeat 2 {\nsecret take 4\nwait 10s\n}\nsecret give all\n");
    EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("all have gone: MISSED"));
}

} // namespace

// `directmap explore` as a user runs it: exit codes, the same result from any number of workers, replay.
#include "shell.hpp"

#include <algorithm>
#include <cstdint>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <string>
#include <unistd.h>

namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

/// Runs in an empty folder: what is found is saved there.
Outcome in_a_folder(const std::string& command) {
    return shell("F=$(mktemp -d) && cd \"$F\" || exit 99; trap 'rm -r \"$F\"' EXIT; export NO_COLOR=1 "
                 "ASAN_OPTIONS=detect_leaks=0; " +
                 command);
}

TEST(Explore, AScenarioThatKeepsItsPromisesIsCleanAndExitCode0) {
    const Outcome outcome = in_a_folder("$D explore --scenario split-access 2>/dev/null && ls");
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_THAT(outcome.output, AllOf(StartsWith("every order with at most 2 preemptions\n"), HasSubstr("split-access"),
                                      HasSubstr("executions"), HasSubstr("clean\n")));
    EXPECT_THAT(outcome.output, testing::Not(HasSubstr("json"))) << "nothing is saved";
}

TEST(Explore, AViolationIsToldSavedAndReplayedByOneCommand) {
    const Outcome outcome = in_a_folder("$D explore --fault trust-old-plan 2>/dev/null; echo \"exit $?\"; "
                                        "$D explore --replay explore-split-split-same-leaf-trust-old-plan.json "
                                        "2>/dev/null; echo \"exit $?\"; "
                                        "$D explore --replay *.json --json 2>/dev/null | tail -n 1");
    const std::size_t again = outcome.output.find("exit 3\n");
    ASSERT_NE(again, std::string::npos) << outcome.output;
    const std::string first = outcome.output.substr(0, again), second = outcome.output.substr(again);
    for (const std::string& story : {first, second}) {
        EXPECT_THAT(story, AllOf(HasSubstr("CPU 0\n"), HasSubstr("CPU 1\n"), HasSubstr("becomes"),
                                 HasSubstr("VIOLATION  break-before-make")));
    }
    EXPECT_THAT(first, HasSubstr("directmap explore --replay explore-split-split-same-leaf-trust-old-plan.json\n"));
    const json document = json::parse(second.substr(second.rfind("\n{") + 1));
    EXPECT_EQ(document["schema"], "directmap.explore-replay/1");
    EXPECT_EQ(document["fault"], "trust-old-plan");
    EXPECT_FALSE(document["clean"]);
}

TEST(Explore, JsonHasTheCountsAndTheSchedule) {
    const Outcome outcome =
        in_a_folder("$D explore --fault all --scenario split-split-same-leaf --json --save found.json 2>/dev/null; "
                    "cat found.json");
    const json document = json::parse(outcome.output.substr(0, outcome.output.find('\n')));
    EXPECT_EQ(document["schema"], "directmap.explore/1");
    std::uint64_t executions = 0, violations = 0;
    for (const json& result : document["results"]) {
        executions += result["executions"].get<std::uint64_t>();
        if (result["clean"]) continue;
        ++violations;
        EXPECT_EQ(result["schedule"]["scenario"], result["scenario"]);
        EXPECT_FALSE(result["violations"].empty());
    }
    EXPECT_EQ(document["executions"], executions);
    EXPECT_EQ(document["violations"], violations);
    EXPECT_GE(violations, 2u);
    EXPECT_THAT(outcome.output, HasSubstr("directmap.schedule/1"));
}

TEST(Explore, TheListsNameWhatCanBeAskedFor) {
    const Outcome scenarios = shell("$D explore --list --json"), faults = shell("$D explore --list-faults --json");
    const json all = json::parse(scenarios.output);
    EXPECT_GT(all.size(), 50u);
    for (const json& fault : json::parse(faults.output)) {
        EXPECT_TRUE(
            std::any_of(all.begin(), all.end(), [&](const json& s) { return s["scenario"] == fault["scenario"]; }));
    }
    EXPECT_THAT(shell("$D explore --list").output, HasSubstr("collapse-dump\n    a table is taken away"));
    EXPECT_THAT(shell("$D explore --list-faults").output, HasSubstr("skip-lock\n"));
}

TEST(Explore, BadUsageIsOneLineAndExitCode2) {
    for (const std::string arguments :
         {"--scenario nowhere", "--fault none", "--bound -1", "--bound x", "--bound 2 --exhaustive",
          "--exhaustive --random 1", "--runs 5", "--jobs 0", "--list --list-faults", "--replay missing.json",
          "--replay /dev/null", "extra"}) {
        SCOPED_TRACE(arguments);
        const Outcome outcome = shell("$D explore " + arguments + " 2>&1 >/dev/null");
        EXPECT_EQ(outcome.exit_code, 2);
        EXPECT_THAT(outcome.output, StartsWith("directmap: "));
        EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 1);
    }
}

// ---- any number of workers --------------------------------------------------------------------------------------

const std::string search = "explore --scenario regions-collapse --scenario epoch-stall 2>/dev/null",
                  faulty = "explore --fault lock-wrong-region --save found.json 2>/dev/null";

TEST(Explore, SeveralJobsPrintWhatOnePrints) {
    const Outcome outcome = in_a_folder("for jobs in 1 2 3; do { $D " + search + " --jobs $jobs; $D " + faulty +
                                        " --jobs $jobs; cat found.json; } > out.$jobs; done; "
                                        "cmp out.1 out.2 && cmp out.1 out.3 && grep -c VIOLATION out.3");
    EXPECT_EQ(outcome.output, "1\n");
}

TEST(Explore, ProcessesThatMpirunStartsPrintWhatOnePrints) {
    if (shell("command -v mpirun").exit_code != 0) GTEST_SKIP() << "there is no mpirun here";
    if (shell("ldd $D | grep -q libmpi").exit_code != 0) GTEST_SKIP() << "built without MPI";
    const std::string mpirun = "mpirun -q -n 3 --oversubscribe --allow-run-as-root $D ";
    const Outcome outcome = in_a_folder("{ $D " + search + " --jobs 1; $D " + faulty +
                                        "; echo $?; cat found.json; } > out.1; "
                                        "{ " +
                                        mpirun + search + "; " + mpirun + faulty +
                                        "; echo $?; cat found.json; } | tr -d '\\r' > out.2; "
                                        "diff out.1 out.2 && grep -c VIOLATION out.2");
    EXPECT_EQ(outcome.output, "1\n");
}

} // namespace

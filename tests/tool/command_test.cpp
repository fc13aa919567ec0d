// The command as a user runs it: exit codes, one line for an error, text and JSON.
#include "shell.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

const std::string emag = "--memory-map " DIRECTMAP_SOURCE_DIR "/tests/data/memmaps/iomem-ampere-emag-256g.txt";

TEST(Command, HelpTeachesWithExamplesAndExitCodes) {
    for (const std::string command : {"$D --help", "$D plan --help"}) {
        const Outcome outcome = shell(command);
        EXPECT_EQ(outcome.exit_code, 0);
        EXPECT_THAT(outcome.output,
                    AllOf(HasSubstr("Examples:"), HasSubstr("Exit codes"), HasSubstr("directmap plan")));
    }
}

TEST(Command, VersionIsTheNameAndTheNumber) {
    const Outcome outcome = shell("$D --version");
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_THAT(outcome.output, testing::MatchesRegex("directmap [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

TEST(Command, BadUsageIsOneLineAndExitCode2) {
    for (const std::string arguments :
         {"", "foo", "--bogus", "plan --bogus", "plan extra", "plan --granule 8k", "plan --granule", "plan --va-bits x",
          "plan --va-bits 41", "plan --pages 123", "plan --offset zz", "plan --memory-map-format x",
          "plan --memory-map /nonexistent", "plan --memory-map /", "plan --memory-map builtin:none"}) {
        const Outcome outcome = shell("$D " + arguments + " 2>&1 >/dev/null");
        EXPECT_EQ(outcome.exit_code, 2) << arguments;
        EXPECT_THAT(outcome.output, StartsWith("directmap: ")) << arguments;
        EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 1) << outcome.output;
        EXPECT_EQ(shell("$D " + arguments + " 2>/dev/null").output, "") << arguments;
    }
}

TEST(Command, AMisspeltCommandIsNamed) {
    EXPECT_THAT(shell("$D plam 2>&1").output, HasSubstr("no command 'plam'"));
    EXPECT_EQ(shell("$D 2>&1").output, "directmap: a command is missing (see directmap --help)\n");
}

TEST(Command, TheHelpOfEachCommandIsForPeople) {
    for (const std::string command :
         {"", "run", "plan", "analyze", "diff", "replay", "convert-trace", "watch", "boot", "explore", "man"}) {
        const std::string help = shell("$D " + command + " --help").output;
        // A blank line parts what it is for from its usage, and no types or lists of the parser stand between words.
        EXPECT_THAT(help, HasSubstr("\n\nUsage: directmap")) << command;
        for (const std::string word : {"UINT", "Excludes:", "Needs:", " in ["})
            EXPECT_THAT(help, testing::Not(HasSubstr(word))) << command;
        EXPECT_THAT(help, testing::Not(HasSubstr("\n\n\n"))) << command;
    }
}

TEST(Command, ABadLineIsToldWithFileAndLine) {
    const Outcome outcome = shell("printf '80000000-8fffffff\\n90000000-8fffffff\\n' | $D plan --memory-map - 2>&1");
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_EQ(outcome.output, "directmap: standard input:2: the end 0x8fffffff lies before the start 0x90000000\n");
}

TEST(Command, PlanAloneReadsTheMapOfThisMachine) {
    // As root it is a plan; without, the kernel shows zeroes. Either way it is /proc/iomem that is read.
    const Outcome outcome = shell("$D plan 2>&1");
    EXPECT_TRUE(outcome.exit_code == 0 || outcome.exit_code == 2);
    EXPECT_THAT(outcome.output, HasSubstr("/proc/iomem"));
}

TEST(Command, PlanPrintsTheThreeLayoutsAndWhatWasLost) {
    const Outcome outcome = shell("$D plan " + emag);
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_THAT(outcome.output, AllOf(HasSubstr("large   253   79  102  253 "), HasSubstr("pages"), HasSubstr("zoned"),
                                      HasSubstr("512.39 MiB"), HasSubstr("hole 92000000-928bffff, 8.75 MiB (reserved)"),
                                      HasSubstr("crash kernel"), HasSubstr("--all shows them")));
    EXPECT_THAT(shell("$D plan --all " + emag).output,
                AllOf(Not(HasSubstr("--all shows them")), HasSubstr("928c0000-929fffff  20 x 64K instead of 2M")));
}

TEST(Command, PlanPrintsJsonWithEveryFigure) {
    const auto json = nlohmann::json::parse(shell("$D plan --json --pages 90000000+2M " + emag).output);
    EXPECT_EQ(json["granule"], "4K");
    EXPECT_EQ(json["va_bits"], 48);
    EXPECT_EQ(json["leaves"], nlohmann::json::parse(R"({"1G":253,"32M":79,"2M":102,"64K":253,"4K":0})"));
    EXPECT_EQ(json["bytes"], 274537971712);
    EXPECT_EQ(json["table_bytes"], json["tables"].get<std::uint64_t>() * 4096);
    EXPECT_EQ(json["layouts"]["large"]["leaves"], json["leaves"]);
    EXPECT_EQ(json["layouts"]["large"]["tables"], json["tables"]);
    EXPECT_EQ(json["layouts"]["pages"]["leaves"]["4K"], 274537971712 / 4096);
    EXPECT_EQ(json["layouts"]["zoned"]["leaves"]["4K"], 512);
    ASSERT_FALSE(json["lost"].empty());
    const auto& lost = json["lost"][0];
    EXPECT_EQ(lost["start"], 0x90000000);
    EXPECT_EQ(lost["end"], 0x90200000);
    EXPECT_EQ(lost["size"], "4K");
    EXPECT_EQ(lost["instead_of"], "32M");
    EXPECT_EQ(lost["reason"], "zone");
    EXPECT_EQ(lost["cause"]["name"], "--pages");
}

TEST(Command, EveryGranuleHasItsPlan) {
    EXPECT_EQ(nlohmann::json::parse(shell("$D plan --json --granule 16K " + emag).output)["granule"], "16K");
    EXPECT_EQ(nlohmann::json::parse(shell("$D plan --json --granule 64k --va-bits 52 " + emag).output)["va_bits"], 52);
}

TEST(Command, AnOutputThatIsNoTerminalIsPlainText) {
    EXPECT_THAT(shell("$D plan " + emag).output, Not(HasSubstr("\x1b")));
}

TEST(Command, AFullDiskIsNoSuccess) {
    const Outcome outcome = shell("$D plan " + emag + " 2>&1 >/dev/full");
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_THAT(outcome.output, HasSubstr("standard output"));
    EXPECT_EQ(shell("$D --help 2>/dev/null >/dev/full").exit_code, 2);
}

TEST(Command, AReaderThatGoesAwayEndsItQuietly) {
    // More than a pipe holds, so that the writer meets the closed end; below a parent that ignores the signal, too.
    const std::string list = "awk 'BEGIN { for (i = 1; i < 5000; i++) printf \"%x+1000\\n\", i * 12288 }'";
    for (const std::string before : {"", "trap '' PIPE; "}) {
        const Outcome outcome =
            shell(before + "exec 3>&1; (" + list +
                  " | $D plan --json --memory-map - 2>&3; echo code $? >&3) | head -c 10 >/dev/null");
        EXPECT_EQ(outcome.output, "code 141\n");
    }
}

} // namespace

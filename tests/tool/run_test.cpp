// `directmap run`: scenarios, what is shown of them, and the record of events, judged by a checker of its own.
#include "run_output.hpp"
#include "run_reach.hpp"
#include "run_scenario.hpp"
#include "shell.hpp"
#include "workload.hpp"

#include "input_error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <unistd.h>
#include <utility>
#include <vector>

namespace {

using namespace directmap::tool;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;
using testing::StartsWith;
using Json = nlohmann::json;

constexpr std::uint64_t kib = 1024;
constexpr std::uint64_t mib = 1024 * kib;
constexpr std::uint64_t gib = 1024 * mib;

std::string error_of(const std::string& scenario) {
    try {
        (void)parse_scenario(scenario, "test", "test");
    } catch (const InputError& error) {
        return error.what();
    }
    return "";
}

/// Runs the tool on a small machine.
Outcome run(const std::string& arguments) {
    return shell("printf '40000000+2G\\n100000000+30G\\n' | $D run --memory-map - " + arguments);
}

Json run_json(const std::string& arguments) {
    const Outcome outcome = run(arguments + " --json");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return Json::parse(outcome.output);
}

const Json& run_of(const Json& json, const std::string& policy) {
    for (const Json& run : json["runs"])
        if (run["policy"] == policy) return run;
    throw std::runtime_error("no run under " + policy);
}

// ---- Scenario files

TEST(Scenario, EveryStatementIsUnderstood) {
    const Scenario scenario = parse_scenario("about some text  # and a remark\n"
                                             "seed 7\n"
                                             "\n"
                                             "boot zone 2G\r\n"
                                             "modules load 40 size 64K..512K within 4G\n"
                                             "repeat 3 {\n"
                                             "\tsecret take 1500 in 39 places within 1G\n"
                                             "  repeat 2 { # inner\n"
                                             "    secret give 100\n"
                                             "  }\n"
                                             "}\n"
                                             "guard prepare 32M\n"
                                             "guard flip 10\n"
                                             "guard release\n"
                                             "share 64 x 64K\n"
                                             "unshare all\n"
                                             "code add 5 size 2K within 1G\n"
                                             "code add 6\n"
                                             "code remove 7\n"
                                             "threads start 9 within 2G\n"
                                             "threads end all\n"
                                             "copy for kexec\n"
                                             "copy for hibernation\n"
                                             "modules unload all\n"
                                             "wait 5m\n"
                                             "collapse",
                                             "name", "source");
    EXPECT_EQ(scenario.about, "some text");
    EXPECT_EQ(scenario.seed, 7);
    EXPECT_EQ(scenario.steps, 2 + 3 * (1 + 2) + 15);
    EXPECT_TRUE(scenario.shares());
    EXPECT_EQ(scenario.statements[0].largest_size, 2 * gib);
    EXPECT_EQ(scenario.statements[1].smallest_size, 64 * kib);
    EXPECT_EQ(scenario.statements[1].largest_size, 512 * kib);
    EXPECT_EQ(scenario.statements[1].within, 4 * gib);
    EXPECT_EQ(scenario.statements[2].body[0].places, 39);
    EXPECT_EQ(scenario.statements[2].body[0].text, "secret take 1500 in 39 places within 1G");
    EXPECT_EQ(scenario.statements[2].body[1].body[0].line, 9);
    EXPECT_EQ(scenario.statements[8].action, Action::code_add);
    EXPECT_EQ(scenario.statements[8].largest_size, 2 * kib);
    EXPECT_EQ(scenario.statements[9].smallest_size, kib);
    EXPECT_EQ(scenario.statements[11].within, 2 * gib);
    EXPECT_FALSE(scenario.statements[13].for_hibernation);
    EXPECT_TRUE(scenario.statements[14].for_hibernation);
    EXPECT_EQ(scenario.statements[16].milliseconds, 5 * 60 * 1000);
}

TEST(Scenario, TheMemoryInUseAtOnceIsKnownBeforehand) {
    const Scenario scenario = parse_scenario(
        "boot\nrepeat 3 {\nsecret take 10\n}\nsecret give all\nshare 2 x 6K\nguard prepare 1M\n", "name", "source");
    EXPECT_EQ(scenario.peak_bytes(4 * kib), mib + 16 * kib);
    EXPECT_EQ(scenario.peak_bytes(64 * kib), 30 * 64 * kib);
}

TEST(Scenario, ErrorsNameTheLineAndTheReason) {
    for (const auto& [text, error] : std::vector<std::pair<std::string, std::string>>{
             {"", "test: there is no statement in it"},
             {"# nothing\n", "test: there is no statement in it"},
             {"modules load 1\n", "test:1: the first statement is 'boot'"},
             {"boot\nboot\n", "test:2: a machine boots once, in the first statement"},
             {"repeat 2 {\nboot\n}\n", "test:1: the first statement is 'boot'"},
             {"boot\nfly 3\n", "test:2: 'fly' is no statement; there are about, seed, boot,"},
             {"boot now\n", "test:1: unexpected 'now'"},
             {"boot\nmodules\n", "test:2: modules are loaded or unloaded"},
             {"boot\nmodules load\n", "test:2: how many modules is missing behind 'load'"},
             {"boot\nmodules load x\n", "test:2: how many modules is a number from 1 on, not 'x'"},
             {"boot\nmodules load 0\n", "test:2: how many modules is a number from 1 on, not '0'"},
             {"boot\nmodules load -1\n", "test:2: how many modules is a number from 1 on, not '-1'"},
             {"boot\nmodules load 18446744073709551616\n", "test:2: how many modules is a number from 1 on"},
             {"boot\nmodules load 1000001\n", "test:2: how many modules is at most 1,000,000"},
             {"boot\nmodules load 1 size 64\n", "test:2: a module's size is a number and K, M, G or T"},
             {"boot\nmodules load 1 size 64K..\n", "test:2: a module's size is a number and K, M, G or T"},
             {"boot\nmodules load 1 size 64K..4K\n", "test:2: a module's size 64K..4K ends below its start"},
             {"boot\nmodules load 1 size 2T\n", "test:2: a module's size is at most 1T"},
             {"boot\nmodules load 1 size 99999999999999999T\n", "test:2: a module's size is at most 1T"},
             {"boot\nmodules load 2 within\n", "test:2: the window is missing behind 'within'"},
             {"boot\nmodules load 2 within 1G more\n", "test:2: unexpected 'more'"},
             {"boot\nmodules unload 1\n", "test:2: there are no modules at this point"},
             {"boot\nmodules load 3\nmodules unload 4\n", "test:3: there are only 3 modules at this point"},
             {"boot\nmodules load 3\nrepeat 2 {\nmodules unload 2\n}\n",
              "test:4: there are only 1 modules at this point"},
             {"boot\nsecret take 5 in 3\n", "test:2: 'places' is missing behind '3'"},
             {"boot\nsecret give all\n", "test:2: there are no secret pages at this point"},
             {"boot\nguard flip 5\n", "test:2: no guard pages are prepared at this point"},
             {"boot\nguard release\n", "test:2: no guard pages are prepared at this point"},
             {"boot\nguard\n", "test:2: guard pages are prepared, flipped and released"},
             {"boot\nshare 64 64K\n", "test:2: 'x' is missing behind '64'"},
             {"boot\nunshare 1\n", "test:2: there are no shared areas at this point"},
             {"boot\ncode\n", "test:2: pieces of code are added or removed"},
             {"boot\ncode add 1 size 1K..4M\n", "test:2: a piece of code has 2M at most"},
             {"boot\ncode remove 1\n", "test:2: there are no pieces of code at this point"},
             {"boot\nthreads\n", "test:2: threads start and end"},
             {"boot\nthreads start 2\nthreads end 3\n", "test:3: there are only 2 threads at this point"},
             {"boot\ncopy\n", "test:2: 'for' is missing behind 'copy'"},
             {"boot\ncopy for fun\n", "test:2: a map is copied for somebody"},
             {"boot\nwait 5\n", "test:2: a duration is a number and ms, s, m or h"},
             {"boot\nwait 25h\n", "test:2: nobody waits longer than 24h"},
             {"boot\nrepeat 2\n", "test:2: '{' is missing behind '2'"},
             {"boot\nrepeat 2 {\n", "test:2: the '}' of this 'repeat' is missing"},
             {"boot\nrepeat 2 {\n}\n", "test:3: there is nothing to repeat"},
             {"boot\n}\n", "test:2: there is no 'repeat' to end"},
             {"boot\nrepeat 10001 {\ncollapse\n}\n", "test:2: how many times is at most 10,000"},
             {"boot\nrepeat 10000 {\nrepeat 11 {\ncollapse\n}\n}\n", "test:4: more than 100,000 statements"},
             {"about a\nabout b\nboot\n", "test:2: there is one 'about'"},
             {"seed 1\nseed 2\nboot\n", "test:2: there is one 'seed'"},
             {std::string("boot\n\0\n", 7), "test:2: this is not text"}})
        EXPECT_THAT(error_of(text), StartsWith(error)) << text;
}

TEST(Scenario, ThoseOfTheProgramAreRightAndTheDefaultComesFirst) {
    const std::vector<Scenario> scenarios = builtin_scenarios();
    ASSERT_FALSE(scenarios.empty());
    EXPECT_EQ(scenarios.front().name, default_scenario);
    for (const Scenario& scenario : scenarios) EXPECT_NE(scenario.about, "") << scenario.name;
}

// ---- TLB reach

TEST(TlbReach, IsAllMemoryWhenEveryLeafFits) {
    const std::vector<std::uint64_t> sizes = {gib, 2 * mib, 4 * kib};
    EXPECT_EQ(tlb_reach(sizes, std::vector<std::uint64_t>{3, 4, 3}, 10), 3 * gib + 8 * mib + 12 * kib);
    EXPECT_LT(tlb_reach(sizes, std::vector<std::uint64_t>{3, 4, 4}, 10), 3 * gib + 8 * mib + 16 * kib);
}

TEST(TlbReach, IsEntriesTimesSizeWhenAllLeavesAreAlike) {
    const std::uint64_t reach =
        tlb_reach(std::vector<std::uint64_t>{4 * kib}, std::vector<std::uint64_t>{64 * mib}, 1000);
    EXPECT_NEAR(static_cast<double>(reach), 1000.0 * 4096, 4096);
}

TEST(TlbReach, OfAMixIsWhatASimulatedTlbCovers) {
    // 40 leaves of 64 pages among 4000 single pages, 60 entries, least recently used; every page equally likely.
    const std::vector<std::uint64_t> sizes = {64 * 4 * kib, 4 * kib};
    const std::vector<std::uint64_t> counts = {40, 4000};
    const std::uint64_t pages = 40 * 64 + 4000;
    std::vector<std::uint64_t> recent; // leaves, the last used at the back
    std::uint64_t random = 12345;
    std::uint64_t hits = 0;
    constexpr std::uint64_t warm_up = 20000;
    constexpr std::uint64_t accesses = 200000;
    for (std::uint64_t i = 0; i < warm_up + accesses; ++i) {
        random = random * 6364136223846793005 + 1442695040888963407;
        const std::uint64_t page = (random >> 33) % pages;
        const std::uint64_t leaf = page < 40 * 64 ? page / 64 : page;
        const auto found = std::find(recent.begin(), recent.end(), leaf);
        if (found != recent.end()) {
            recent.erase(found);
            hits += i >= warm_up ? 1 : 0;
        } else if (recent.size() == 60) {
            recent.erase(recent.begin());
        }
        recent.push_back(leaf);
    }
    const double simulated = static_cast<double>(hits) / accesses;
    const double model = static_cast<double>(tlb_reach(sizes, counts, 60)) / static_cast<double>(pages * 4 * kib);
    EXPECT_NEAR(model, simulated, 0.01);
}

// ---- Runs

TEST(Run, TheSameSeedGivesTheSameRunAndAnotherSeedAnother) {
    const Outcome first = run("--scenario tiny --json");
    EXPECT_EQ(first.exit_code, 0);
    EXPECT_EQ(first.output, run("--scenario tiny --json").output);
    EXPECT_NE(first.output, run("--scenario tiny --json --seed 2").output);
}

TEST(Run, TheAccountIsRightAfterEveryStep) {
    const Json json = run_json("--scenario tiny --policy all");
    EXPECT_EQ(json["schema"], "directmap.run/1");
    EXPECT_EQ(json["ok"], true);
    EXPECT_EQ(json["memory_map"]["bytes"], 32 * gib);
    ASSERT_EQ(json["runs"].size(), 5);
    const std::vector<std::pair<std::string, std::uint64_t>> sizes = {
        {"1G", gib}, {"32M", 32 * mib}, {"2M", 2 * mib}, {"64K", 64 * kib}, {"4K", 4 * kib}};
    for (const Json& run : json["runs"]) {
        EXPECT_EQ(run["finished"], true);
        ASSERT_EQ(run["steps"].size(), json["scenario"]["steps"]);
        std::uint64_t splits = 0;
        std::uint64_t most = 0;
        for (const Json& step : run["steps"]) {
            std::uint64_t bytes = 0;
            std::uint64_t leaves = 0;
            for (const auto& [name, size] : sizes) {
                bytes += step["leaves"][name].get<std::uint64_t>() * size;
                leaves += step["leaves"][name].get<std::uint64_t>();
            }
            EXPECT_EQ(bytes, 32 * gib);
            EXPECT_EQ(step["bytes"], bytes);
            EXPECT_EQ(step["leaf_count"], leaves);
            EXPECT_EQ(step["table_bytes"], step["tables"].get<std::uint64_t>() * 4 * kib);
            EXPECT_LE(step["tlb_reach_bytes"], bytes);
            most = std::max(most, leaves);
            splits += step["counters"]["splits"].get<std::uint64_t>();
        }
        EXPECT_EQ(run["counters"]["splits"], splits);
        EXPECT_EQ(run["worst"]["leaf_count"], most);
        EXPECT_EQ(run["end"]["leaves"], run["steps"].back()["leaves"]);
    }
}

TEST(Run, PoliciesDifferAsTheirNamesSay) {
    const Json json = run_json("--scenario tiny --policy all");
    const Json& pages = run_of(json, "pages");
    EXPECT_EQ(pages["boot"]["leaf_count"], 32 * gib / (4 * kib));
    EXPECT_EQ(pages["counters"]["splits"], 0);
    EXPECT_NE(pages["healed"], true);

    const Json& never = run_of(json, "never");
    EXPECT_GT(never["counters"]["splits"], 0);
    EXPECT_EQ(never["counters"]["collapses"], 0);
    EXPECT_EQ(never["healed"], false);
    EXPECT_EQ(never["end"]["leaf_count"], never["worst"]["leaf_count"]);
    EXPECT_EQ(never["steps"].back()["refused"]["code"], "unsupported");

    for (const std::string policy : {"explicit", "on-restore", "background"}) {
        const Json& run = run_of(json, policy);
        EXPECT_EQ(run["healed"], true) << policy;
        EXPECT_EQ(run["boot"], run["end"]) << policy;
        EXPECT_GT(run["worst"]["leaf_count"], run["end"]["leaf_count"]) << policy;
        EXPECT_GT(run["counters"]["collapses"], 0) << policy;
        EXPECT_EQ(run["counters"]["tables_taken"], run["counters"]["tables_returned"]) << policy;
    }
    // Healed before anybody asks for it: after the last wait at the latest, or right after the last change.
    const auto before_the_end = [&](const std::string& policy, std::size_t from_end) {
        const Json& run = run_of(json, policy);
        return run["steps"][run["steps"].size() - from_end]["leaf_count"] == run["boot"]["leaf_count"];
    };
    EXPECT_TRUE(before_the_end("background", 2));
    EXPECT_FALSE(before_the_end("background", 3));
    EXPECT_TRUE(before_the_end("on-restore", 3));
    EXPECT_FALSE(before_the_end("explicit", 2));
}

TEST(Run, EveryGranuleAndAddressSizeIsPlayed) {
    for (const std::string arguments :
         {"--va-bits 39", "--va-bits 48", "--va-bits 52", "--granule 16k --va-bits 47", "--granule 16K",
          "--granule 16k --va-bits 52", "--granule 64k --va-bits 42", "--granule 64k", "--granule 64k --va-bits 52"}) {
        const Json json = run_json("--scenario tiny --no-comparison --cpus 1 " + arguments);
        ASSERT_EQ(json["runs"].size(), 1);
        EXPECT_EQ(json["runs"][0]["policy"], "background");
        EXPECT_EQ(json["runs"][0]["healed"], true) << arguments;
    }
}

TEST(Run, CpusThatDoNotTolerateResizingGetAZoneAndAClearRefusal) {
    for (const std::string level : {"0", "1", "2"}) {
        const Json json = run_json("--scenario tiny --bbm " + level);
        ASSERT_EQ(json["runs"].size(), 2);
        EXPECT_EQ(json["machine"]["live_resize"], false);
        for (const Json& run : json["runs"]) {
            EXPECT_EQ(run["finished"], true);
            EXPECT_EQ(run["counters"]["splits"], 0);
            EXPECT_EQ(run["counters"]["collapses"], 0);
            EXPECT_EQ(run["boot"]["leaves"], run["worst"]["leaves"]);
        }
        const Json& zoned = run_of(json, "zoned");
        EXPECT_EQ(zoned["boot"]["leaves"]["4K"], 64 * mib / (4 * kib));
        EXPECT_GT(zoned["changes"], 90);
        EXPECT_EQ(zoned["steps"].front()["refused"]["code"], "unsupported");
        EXPECT_THAT(zoned["steps"].front()["refused"]["reason"].get<std::string>(), HasSubstr("must be resized"));
        EXPECT_EQ(zoned["steps"].back()["refused"]["code"], "unsupported");
    }
    const Outcome text = run("--scenario tiny --bbm 1");
    EXPECT_THAT(text.output, AllOf(HasSubstr("nothing is split or collapsed"), HasSubstr("a page outside the zone"),
                                   HasSubstr("no promise was broken")));
}

TEST(Run, AZoneWorksOnCpusThatTolerateResizingToo) {
    const Json json = run_json("--scenario tiny --policy zoned --no-comparison");
    EXPECT_EQ(json["runs"][0]["counters"]["splits"], 0);
    EXPECT_EQ(json["runs"][0]["boot"]["leaves"], json["runs"][0]["end"]["leaves"]);
}

TEST(Run, TheTextExplainsItselfAndFitsItsWidth) {
    const Outcome outcome = run("--scenario tiny");
    EXPECT_EQ(outcome.exit_code, 0);
    std::string words = outcome.output;
    std::replace(words.begin(), words.end(), '\n', ' ');
    EXPECT_THAT(words, AllOf(HasSubstr("direct map"), HasSubstr("policy    background: "), HasSubstr("boot "),
                             HasSubstr("20 secret pages"), HasSubstr("round 2 of 2"), HasSubstr("kernels of today"),
                             HasSubstr("TLB reach is"),
                             HasSubstr("Healed, it ends with 32 leaves as after boot and every table given back"),
                             HasSubstr("no promise was broken"), Not(HasSubstr("\x1b"))));
    std::istringstream lines(outcome.output);
    std::size_t rows = 0;
    for (std::string line; std::getline(lines, line);) {
        EXPECT_LE(line.size(), 100) << line;
        if (line.ends_with("iB") && line.find("  -  ") != std::string::npos) {
            EXPECT_EQ(line.size(), 100) << line; // rows of the timeline are aligned
            ++rows;
        }
    }
    EXPECT_GE(rows, 10);
}

TEST(Run, FlipsOfGuardPagesAreInItsAccount) {
    const Json json = run_json("--scenario tiny --policy never --no-comparison");
    for (const Json& step : json["runs"][0]["steps"]) {
        if (step["statement"] != "guard flip 10") continue;
        EXPECT_EQ(step["counters"]["stores"], 10);
        EXPECT_GE(step["counters"]["invalidations"], 1);
        EXPECT_EQ(step["counters"]["splits"], 0);
        return;
    }
    FAIL() << "no guard was flipped";
}

TEST(Run, ACopyForKexecLeavesOutWhatThisKernelCannotReachAndOneForHibernationHasItAll) {
    const Json json = run_json("--scenario tiny --policy never --no-comparison");
    std::vector<Json> copies;
    for (const Json& step : json["runs"][0]["steps"])
        if (step.contains("copy")) copies.push_back(step["copy"]);
    ASSERT_THAT(copies, SizeIs(2));
    const std::uint64_t hidden = copies[0]["left_out_bytes"];
    EXPECT_GE(hidden, 20 * 4 * kib); // the secret pages, and guards
    EXPECT_EQ(copies[0]["made_valid_bytes"], 0);
    EXPECT_EQ(copies[1]["made_valid_bytes"], hidden);
    EXPECT_EQ(copies[1]["left_out_bytes"], 0);
    EXPECT_EQ(copies[0]["bytes"], 32 * gib - hidden);
    EXPECT_EQ(copies[1]["bytes"], 32 * gib);
    EXPECT_LT(copies[1]["leaf_count"], copies[0]["leaf_count"]) << "what is hidden cuts leaves";
}

TEST(Run, OnePolicyAloneIsNotComparedWithAnything) {
    const std::string alone = run("--scenario tiny --no-comparison").output;
    EXPECT_THAT(alone, AllOf(HasSubstr("What the scenario came to\n"), Not(HasSubstr("every policy"))));
    EXPECT_THAT(alone, Not(HasSubstr("- directmap -")));
    EXPECT_THAT(alone, Not(HasSubstr(" (background)")));
    EXPECT_THAT(run("--scenario tiny").output, HasSubstr("The same scenario under every policy\n"));
}

TEST(Run, ScenariosComeFromFilesAndStandardInputToo) {
    const std::string map = "--memory-map " DIRECTMAP_SOURCE_DIR "/tests/data/memmaps/iomem-broadcom-stingray.txt ";
    const Outcome piped = shell("printf 'boot\\nmodules load 3\\nmodules unload all\\ncollapse\\n' | $D run --json "
                                "--no-comparison --scenario - " +
                                map);
    EXPECT_EQ(piped.exit_code, 0);
    EXPECT_EQ(Json::parse(piped.output)["scenario"]["source"], "standard input");
    const std::string path = DIRECTMAP_SOURCE_DIR "/tool/data/scenarios/tiny.scenario";
    EXPECT_EQ(
        Json::parse(shell("$D run --json --no-comparison --scenario " + path + " " + map).output)["runs"][0]["healed"],
        true);
}

class ScenarioOfTheProgram : public testing::TestWithParam<std::string> {};

TEST_P(ScenarioOfTheProgram, EndsAsItBegan) {
    const Json json = run_json("--no-comparison --scenario " + GetParam());
    EXPECT_EQ(json["runs"][0]["healed"], true);
    EXPECT_EQ(json["runs"][0]["boot"], json["runs"][0]["end"]);
}

std::vector<std::string> names_of_scenarios() {
    std::vector<std::string> names;
    for (const Scenario& scenario : builtin_scenarios()) names.push_back(scenario.name);
    return names;
}

INSTANTIATE_TEST_SUITE_P(, ScenarioOfTheProgram, testing::ValuesIn(names_of_scenarios()),
                         [](const testing::TestParamInfo<std::string>& name) { return name.param; });

TEST(Run, ListNamesTheScenarios) {
    EXPECT_THAT(shell("$D run --list").output,
                AllOf(StartsWith("day "), HasSubstr("(the default)"), HasSubstr("\ntiny ")));
    const Json list = Json::parse(shell("$D run --list --json").output);
    EXPECT_EQ(list[0]["name"], "day");
    EXPECT_THAT(list[0]["text"].get<std::string>(), HasSubstr("\nboot\n"));
}

TEST(Run, BadInputIsOneLineAndExitCode2) {
    for (const std::string arguments :
         {"--scenario none", "--scenario /", "--scenario " DIRECTMAP_SOURCE_DIR "/LICENSE", "--policy worst", "--bbm 4",
          "--bbm 0 --policy never", "--cpus 0", "--cpus 65", "--seed 0", "--seed -1", "--seed x", "--granule 8k",
          "--va-bits 40", "--record /nonexistent/file", "--policy all --record x", "--scenario tiny --record",
          "extra"}) {
        const Outcome outcome = run(arguments + " 2>&1 >/dev/null");
        EXPECT_EQ(outcome.exit_code, 2) << arguments;
        EXPECT_THAT(outcome.output, StartsWith("directmap: ")) << arguments;
        EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 1) << outcome.output;
        EXPECT_EQ(run(arguments + " 2>/dev/null").output, "") << arguments;
    }
}

TEST(Run, AMachineThatIsTooSmallIsBadInput) {
    const auto with = [](const std::string& map, const std::string& arguments) {
        return shell("printf '" + map + "' | $D run --memory-map - --scenario tiny " + arguments + " 2>&1");
    };
    EXPECT_THAT(with("40000000+1M", "").output, HasSubstr("builtin:tiny: it uses up to"));
    EXPECT_EQ(with("40000000+1M", "").exit_code, 2);
    EXPECT_THAT(with("40000000+4K", "").output,
                HasSubstr("standard input: its largest piece of RAM, 4 KiB, has no room for the 4 tables"));
    EXPECT_THAT(with("7fff00000000+1T", "").output, HasSubstr("reaches into bit 47 of the address"));
    EXPECT_EQ(with("40000000+16M", "").exit_code, 0);
}

TEST(Run, AProblemIsToldAndIsAFailure) {
    WorkloadResult good;
    good.finished = true;
    good.calls = 5;
    EXPECT_TRUE(all_kept({good}));
    WorkloadResult broken = good;
    broken.problems = {"day:3: P2 tightening at 0x1000: too late"};
    EXPECT_FALSE(all_kept({good, broken}));
    WorkloadResult unfinished = good;
    unfinished.finished = false;
    EXPECT_FALSE(all_kept({unfinished}));
    const Palette plain(false);
    EXPECT_THAT(verdict_text({good, broken}, plain, 100),
                AllOf(HasSubstr("This must not happen"), HasSubstr("P2 tightening at 0x1000")));
    EXPECT_THAT(verdict_text({good}, plain, 100), HasSubstr("5 platform calls of the engine were checked, in 1 run"));
}

// ---- The record of events

/// A file that goes away again.
class TemporaryFile {
public:
    TemporaryFile() {
        const int file = mkstemp(path_.data());
        if (file >= 0) close(file);
    }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    ~TemporaryFile() { std::remove(path_.c_str()); }
    [[nodiscard]] const std::string& path() const { return path_; }

private:
    std::string path_ = testing::TempDir() + "directmap-events-XXXXXX";
};

using Lines = std::vector<std::string>;

Lines recorded(const std::string& arguments) {
    const TemporaryFile file;
    EXPECT_EQ(run("--scenario tiny --no-comparison " + arguments + " --record " + file.path()).exit_code, 0);
    std::ifstream stream(file.path());
    Lines lines;
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
}

Outcome judged(const Lines& lines) {
    const TemporaryFile file;
    {
        std::ofstream stream(file.path());
        for (const std::string& line : lines) stream << line << '\n';
    }
    return shell("python3 " DIRECTMAP_SOURCE_DIR "/tests/tool/check_events.py " + file.path() + " 2>&1");
}

bool is(const std::string& line, std::string_view call) {
    return line.find("\"call\":\"" + std::string(call) + "\"") != std::string::npos;
}

TEST(Record, IsRightUnderEveryPolicyInTheEyesOfAnIndependentChecker) {
    for (const std::string arguments :
         {"--policy background", "--policy on-restore", "--policy never", "--policy explicit", "--policy zoned",
          "--granule 64k", "--granule 16k --va-bits 52", "--bbm 0", "--placement pooled"}) {
        const Outcome outcome = judged(recorded(arguments));
        EXPECT_EQ(outcome.exit_code, 0) << arguments << '\n' << outcome.output;
        EXPECT_THAT(outcome.output,
                    AllOf(StartsWith("right: "), Not(HasSubstr(" 0 stores")), Not(HasSubstr(" 0 flushed"))))
            << arguments;
    }
}

TEST(Record, StartsWithTheMachineAndNamesStatementsAndChanges) {
    const Lines lines = recorded("");
    const Json config = Json::parse(lines.front());
    EXPECT_EQ(config["call"], "config");
    EXPECT_EQ(config["schema"], "directmap.events/1");
    EXPECT_EQ(config["cpus"], 4);
    EXPECT_EQ(config["ram"][0]["start"], "0x40000000");
    const auto some = [&](const std::string& text) {
        return std::any_of(lines.begin(), lines.end(),
                           [&](const std::string& line) { return line.find(text) != std::string::npos; });
    };
    EXPECT_TRUE(some("builtin:tiny:7: share 2 x 64K") || some("builtin:tiny:8: share 2 x 64K"));
    EXPECT_TRUE(some("\"change\":\"writable=0\",\"text\":\"protect\""));
    EXPECT_TRUE(some("\"change\":\"executable=1\",\"text\":\"area protect\""));
    EXPECT_TRUE(some("\"call\":\"host\""));
    EXPECT_TRUE(some("\"text\":\"background collapse\""));
}

/// A fault, as a change of a record that was right, and what the checker says to it.
struct Fault {
    std::string name;
    std::function<bool(Lines&)> seed; ///< false: there is no place for it
    std::string finding;
};

/// Removes the first line of `call` behind the first line that has `mark`.
std::function<bool(Lines&)> without(const std::string& call, const std::string& mark) {
    return [call, mark](Lines& lines) {
        const auto start = std::find_if(lines.begin(), lines.end(),
                                        [&](const std::string& line) { return line.find(mark) != std::string::npos; });
        const auto found = std::find_if(start, lines.end(), [&](const std::string& line) { return is(line, call); });
        if (found == lines.end()) return false;
        lines.erase(found);
        return true;
    };
}

/// Replaces `from` by `to` in the first line of `call` that has it, behind the first line that has `mark`.
std::function<bool(Lines&)> altered(const std::string& call, const std::string& from, const std::string& to,
                                    const std::string& mark) {
    return [=](Lines& lines) {
        auto line = std::find_if(lines.begin(), lines.end(),
                                 [&](const std::string& l) { return l.find(mark) != std::string::npos; });
        for (; line != lines.end(); ++line) {
            const std::size_t at = line->find(from);
            if (!is(*line, call) || at == std::string::npos) continue;
            line->replace(at, from.size(), to);
            return true;
        }
        return false;
    };
}

TEST(Record, EveryFaultThatIsPutIntoItIsFound) {
    const Lines right = recorded("--policy background");
    const std::string first_change = "modules load";
    const std::string first_secret = "secret take";
    const std::string first_share = "share 2 x";
    const auto free_early = [](Lines& lines) {
        // A table that a collapse unlinks comes back before the invalidation.
        const auto freed = std::find_if(lines.begin(), lines.end(), [](const std::string& line) {
            return is(line, "give_table") && line.find("reclaim.hpp") != std::string::npos;
        });
        if (freed == lines.end()) return false;
        auto flush = freed;
        while (flush != lines.begin() && flush->find("\"leaves_only\":false") == std::string::npos) --flush;
        std::rotate(flush, freed, freed + 1);
        return true;
    };
    const auto link_early = [](Lines& lines) {
        // The barrier between the last fill and the store that publishes it.
        auto fill = std::find_if(lines.begin(), lines.end(), [&](const std::string& line) {
            return line.find("secret take") != std::string::npos;
        });
        fill = std::find_if(fill, lines.end(), [](const std::string& line) { return is(line, "fill"); });
        const auto barrier =
            std::find_if(fill, lines.end(), [](const std::string& line) { return is(line, "barrier_publish"); });
        if (barrier == lines.end()) return false;
        lines.erase(barrier);
        return true;
    };
    const auto no_lock = [](Lines& lines) {
        // The one under which the first live descriptor is stored.
        const auto store =
            std::find_if(lines.begin(), lines.end(), [](const std::string& line) { return is(line, "store"); });
        auto lock = store;
        while (lock != lines.begin() && !is(*lock, "acquire")) --lock;
        if (lock == lines.begin()) return false;
        lines.erase(lock);
        return true;
    };
    /// Exchanges the first event of `first` behind `mark` that `second` follows, with that one.
    const auto swapped = [](const std::string& first, const std::string& second, const std::string& mark) {
        return [=](Lines& lines) {
            auto line = std::find_if(lines.begin(), lines.end(),
                                     [&](const std::string& l) { return l.find(mark) != std::string::npos; });
            for (; line != lines.end() && line + 1 != lines.end(); ++line) {
                if (!is(*line, first) || !is(line[1], second)) continue;
                std::swap(line[0], line[1]);
                return true;
            }
            return false;
        };
    };
    /// Where the first secret is taken, and the first invalidation behind that.
    const auto first_flush = [&](Lines& lines) {
        const auto mark = std::find_if(lines.begin(), lines.end(), [&](const std::string& line) {
            return line.find(first_secret) != std::string::npos;
        });
        return std::pair{
            mark, std::find_if(mark, lines.end(), [](const std::string& line) { return is(line, "invalidate"); })};
    };
    const auto early = [&](Lines& lines) {
        // The invalidation goes before the barrier that makes walks see what it is about.
        const auto [mark, flush] = first_flush(lines);
        if (flush == lines.end()) return false;
        auto barrier = flush;
        while (barrier != mark && !is(*barrier, "barrier_publish")) --barrier;
        if (barrier == mark) return false;
        std::rotate(barrier, flush, flush + 1);
        return true;
    };
    const auto relied_on = [&](Lines& lines) {
        // Between a store and its flush the change says that it defers that; another one changes the same pages, finds
        // nothing to do, and returns. (Then the first one goes on.)
        const auto [mark, flush] = first_flush(lines);
        auto begin = flush;
        while (begin != mark && !is(*begin, "begin")) --begin;
        if (flush == lines.end() || begin == mark) return false;
        const std::string resumed = *begin;
        Json first = Json::parse(resumed), second = first;
        first["call"] = second["call"] = "end";
        first["text"] = "deferred";
        second["text"] = "done";
        second["operation"] = 1'000'000;
        Json other = Json::parse(resumed);
        other["operation"] = 1'000'000;
        lines.insert(flush, {first.dump(), other.dump(), second.dump(), resumed});
        return true;
    };
    for (const Fault& fault : std::vector<Fault>{
             {"an invalidation behind the barrier that completes it",
              swapped("invalidate", "barrier_complete", first_secret), "is not flushed"},
             {"an invalidation before the store is published", early, "is not flushed"},
             {"a table linked before its last store is published", swapped("barrier_publish", "store", first_change),
              "is linked while stores"},
             {"a change that relies on one whose flush is still owed", relied_on, "the deferred change of event"},
             {"a lock that nobody releases", without("release", first_secret), "lock held"},
             {"no invalidation after a tightening", without("invalidate", first_secret), "is not flushed"},
             {"no barrier after an invalidation", without("barrier_complete", first_secret), "is not flushed"},
             {"a wrong level hint", altered("invalidate", "\"level\":3", "\"level\":2", first_secret),
              "is not flushed"},
             {"an invalidation of one CPU only",
              altered("invalidate", "\"leaves_only\":true", "\"leaves_only\":true,\"targets\":\"0x1\"", first_secret),
              "is not flushed"},
             {"walk caches left out",
              altered("invalidate_range", "\"leaves_only\":false", "\"leaves_only\":true", first_change),
              "before the flush that its unlinking owes"},
             {"publishing before the barrier", link_early, "is linked while stores"},
             {"freeing before the flush", free_early, "is freed before the flush"},
             {"no flush between break and make", without("barrier_complete", first_share), "is not flushed"},
             {"no lock", no_lock, "without a lock"},
             {"no write section", without("begin_table_writes", first_secret), "outside of a write section"},
             {"a machine that doesn't tolerate resizing",
              altered("config", "\"bbm\":[3,3,3,3]", "\"bbm\":[3,3,2,3]", "config"), "don't tolerate it"},
             {"a load that sees what was never stored",
              altered("load", "\"value\":\"0x", "\"value\":\"0x1", first_secret), "a load returns"},
         }) {
        Lines lines = right;
        ASSERT_TRUE(fault.seed(lines)) << fault.name;
        const Outcome outcome = judged(lines);
        EXPECT_EQ(outcome.exit_code, 1) << fault.name;
        EXPECT_THAT(outcome.output, HasSubstr(fault.finding)) << fault.name;
    }
}

TEST(Record, EveryCallAndFieldIsDocumented) {
    std::ifstream stream(DIRECTMAP_SOURCE_DIR "/docs/events.md");
    std::stringstream text;
    text << stream.rdbuf();
    const std::string documentation = text.str();
    for (const std::string arguments : {"--policy background", "--bbm 0"}) {
        std::set<std::string> words;
        for (const std::string& line : recorded(arguments)) {
            const Json event = Json::parse(line);
            words.insert(event["call"]);
            for (const auto& field : event.items()) words.insert(field.key());
        }
        EXPECT_GT(words.size(), 30U);
        for (const std::string& word : words)
            EXPECT_NE(documentation.find('`' + word + '`'), std::string::npos) << word;
    }
}

TEST(Record, IsRightForAScenarioOfOnesOwn) {
    const TemporaryFile scenario;
    std::ofstream(scenario.path()) << "about both\nseed 7\nboot\nguard prepare 1M\n"
                                      "repeat 2 {\n  secret take 20\n  share 2 x 64K\n  guard flip 5\n"
                                      "  modules load 2 size 16K..200K\n  secret give all\n  unshare all\n"
                                      "  modules unload all\n  collapse\n}\nguard release\ncollapse\n";
    const TemporaryFile record;
    const Outcome run_outcome =
        run("--scenario " + scenario.path() + " --policy explicit --no-comparison --record " + record.path() + " 2>&1");
    ASSERT_EQ(run_outcome.exit_code, 0) << run_outcome.output;
    const Outcome outcome =
        shell("python3 " DIRECTMAP_SOURCE_DIR "/tests/tool/check_events.py " + record.path() + " 2>&1");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
}

TEST(Record, TheCheckerRejectsWhatIsNoRecord) {
    EXPECT_EQ(judged({}).exit_code, 2);
    EXPECT_EQ(judged({"{}"}).exit_code, 2);
    EXPECT_EQ(judged({"hello"}).exit_code, 2);
    EXPECT_EQ(judged({R"({"seq":1,"cpu":0,"call":"config","schema":"directmap.events/2"})"}).exit_code, 2);
}

TEST(Record, AFullDiskIsNoSuccess) {
    const Outcome outcome = run("--scenario tiny --no-comparison --record /dev/full 2>&1 >/dev/null");
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_THAT(outcome.output, HasSubstr("/dev/full"));
}

} // namespace

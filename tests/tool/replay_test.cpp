// `directmap replay`: what a run did comes again from its trace; memory that isn't RAM, other page sizes, zones, TLB
// misses; what is said about all that.
#include "replay.hpp"
#include "replay_output.hpp"
#include "shell.hpp"

#include "input_error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

namespace {

using namespace directmap::tool;
using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;
using Json = nlohmann::json;

constexpr std::uint64_t mib = 1024 * 1024;
constexpr std::string_view head = "directmap.trace/1\npage 4K\n";

class Folder {
public:
    Folder() {
        std::string pattern = (std::filesystem::temp_directory_path() / "directmap-replay-XXXXXX").string();
        path_ = ::mkdtemp(pattern.data());
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    ~Folder() { std::filesystem::remove_all(path_); }
    [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

private:
    std::string path_;
};

/// 2 GiB from 1 GiB on and 6 GiB from 4 GiB on.
ReplayConfig config_of(std::vector<Policy> policies, unsigned granule_shift = 12) {
    MemoryMap map = parse_memory_map("40000000+2G\n100000000+6G\n", "test");
    PlanRequest request;
    request.translation.granule_shift = granule_shift;
    const Plan plan = make_plan(map, request);
    ReplayConfig config(machine_of(map, plan, 4, 3));
    config.policies = std::move(policies);
    config.core = read_tlb_core(default_tlb_core);
    return config;
}

ReplayResult replay_text_under(const ReplayConfig& config, const std::string& events) {
    std::istringstream stream(std::string(head) + events);
    const auto trace = read_trace(stream, "FILE");
    return replay(*trace, config, [](std::uint64_t, std::uint64_t) {});
}

std::string error_of(const ReplayConfig& config, const std::string& events) {
    try {
        (void)replay_text_under(config, events);
    } catch (const InputError& error) {
        return error.what();
    }
    return "";
}

std::vector<std::uint64_t> end_leaves(const ReplayResult& result, std::size_t policy = 0) {
    return result.moments.back().policies[policy].map.leaves;
}

// ---- The same again

TEST(Replay, ARunsTraceMakesTheSameMapUnderEveryPolicy) {
    const Folder folder;
    const std::string ram = "printf '40000000+2G\\n100000000+6G\\n' | ";
    for (const std::string scenario : {"tiny", "mine"}) {
        if (scenario == "mine")
            std::ofstream(folder.file("mine"))
                << "boot\n"
                   "modules load 9 size 4K..3M\nwait 2500ms\nsecret take 300 in 9 places\n"
                   "repeat 3 {\nmodules unload 2\nsecret give 80\nwait 4s\n"
                   "guard prepare 4M\nguard flip 40\nwait 700ms\nguard release\n"
                   "share 3 x 300K\n}\nunshare 5\ncollapse\nwait 20s\n";
        const std::string name = scenario == "mine" ? folder.file("mine") : scenario;
        const std::string trace = folder.file("trace");
        const Outcome run =
            shell(ram + "$D run --memory-map - --policy background --json --scenario " + name + " --trace " + trace);
        ASSERT_EQ(run.exit_code, 0) << run.output;
        std::string all;
        for (const char* policy : {"pages", "never", "explicit", "on-restore", "background"})
            all += std::string(" --policy ") + policy;
        // `explicit` is not among those that a run compares.
        const Outcome asked = shell(ram + "$D run --memory-map - --policy explicit --json --scenario " + name);
        const Outcome again = shell(ram + "$D replay --memory-map - --accesses none --json " + trace + all);
        ASSERT_EQ(again.exit_code, 0) << again.output;
        std::map<std::string, Json> runs;
        for (const std::string& text : {run.output, asked.output}) {
            const Json json = Json::parse(text);
            for (const Json& each : json["runs"]) runs[each["policy"]] = each;
        }
        Json replayed = Json::parse(again.output);
        ASSERT_THAT(replayed["policies"], SizeIs(5));
        for (Json& policy : replayed["policies"]) {
            Json& original = runs[policy["policy"]];
            // What an area asks of the direct map, and it says already, is no change, and in no trace.
            for (Json* each : {&policy, &original}) (*each)["counters"].erase("splits_avoided");
            EXPECT_EQ(policy["counters"], original["counters"]) << policy["policy"];
            EXPECT_EQ(policy["end"]["leaves"], original["end"]["leaves"]) << policy["policy"];
            // A run has an area for its users' code beside the map, whose tables a replay doesn't need.
            EXPECT_LE(policy["end"]["tables"], original["end"]["tables"]) << policy["policy"];
            EXPECT_EQ(policy["worst"]["leaf_count"], original["worst"]["leaf_count"]) << policy["policy"];
            EXPECT_EQ(policy["smallest_cover"], original["smallest_cover"]) << policy["policy"];
        }
        EXPECT_TRUE(replayed["ok"]);
        EXPECT_GT(runs["background"]["counters"]["collapses"], 0);
    }
}

TEST(Replay, TheExampleIsTheTraceOfTheRunThatItNames) {
    std::ifstream file(DIRECTMAP_SOURCE_DIR "/tool/data/example.trace");
    const std::string example((std::istreambuf_iterator<char>(file)), {});
    const std::size_t end = example.find('\n');
    // The first line says how it was made.
    const std::string comment = example.substr(0, end);
    ASSERT_TRUE(comment.starts_with("# directmap run ")) << comment;
    const Outcome made = shell("$D " + comment.substr(std::string("# directmap ").size()));
    EXPECT_EQ(made.exit_code, 0);
    EXPECT_EQ(made.output, example.substr(end + 1));
}

TEST(Replay, BackgroundCollapseWakesUpEverySecondUnlessTicksAreRecorded) {
    const std::string change = "10.5 ro 0x40200000 1\n10.6 rw 0x40200000 1\n";
    const auto at = [&](const std::string& later) {
        return replay_text_under(config_of({Policy::background}), change + later + " note end\n").policies[0];
    };
    EXPECT_EQ(at("12").counters.collapses, 0u);
    EXPECT_GT(at("17").counters.collapses, 0u);
    EXPECT_GT(at("1000000").counters.collapses, 0u); // and doesn't take a million wake-ups
    std::istringstream stream(std::string(head) + "ticks recorded\n" + change + "17 note end\n");
    const auto trace = read_trace(stream, "FILE");
    EXPECT_EQ(replay(*trace, config_of({Policy::background}), [](auto, auto) {}).policies[0].counters.collapses, 0u);
}

// ---- Operations

TEST(Replay, EveryOperationDoesWhatItSays) {
    // 2 GiB and 6 GiB in 1G leaves; a page in the first 2M of one breaks a 1G, a 32M, a 2M and a 64K leaf.
    const std::vector<std::uint64_t> untouched = {8, 0, 0, 0, 0};
    const std::vector<std::uint64_t> broken = {7, 31, 15, 31, 16};
    const std::map<std::string, std::string> undo = {{"ro", "rw"},        {"x", "nx"},          {"rox", "rwnx"},
                                                     {"ronx", "default"}, {"invalid", "valid"}, {"shared", "private"}};
    for (const auto& [operation, undoing] : undo) {
        const std::string there = fmt::format("1 {} 0x40200000 1\n", operation);
        const std::string back = fmt::format("2 {} 0x40200000 1\n", undoing);
        const ReplayConfig config = config_of({Policy::on_restore});
        EXPECT_EQ(end_leaves(replay_text_under(config, there)), broken) << operation;
        const ReplayResult undone = replay_text_under(config, there + back);
        EXPECT_EQ(end_leaves(undone), untouched) << operation;
        EXPECT_TRUE(undone.kept());
    }
    const ReplayConfig config = config_of({Policy::on_restore});
    EXPECT_EQ(end_leaves(replay_text_under(config, "1 pin 0x40200000 1\n")), broken);
    EXPECT_EQ(end_leaves(replay_text_under(config, "1 pin 0x40200000 1\n2 unpin 0x40200000 1\n")), untouched);
    const ReplayConfig explicitly = config_of({Policy::on_request});
    const std::string flips = "1 ro 0x40200000 1\n2 rw 0x40200000 1\n";
    EXPECT_EQ(end_leaves(replay_text_under(explicitly, flips)), broken);
    EXPECT_EQ(end_leaves(replay_text_under(explicitly, flips + "3 collapse\n")), untouched);
}

TEST(Replay, VirtualAddressesAreThoseOfTheRecordedKernel) {
    const auto leaves = [](const std::string& settings, const std::string& address, ReplayConfig config) {
        return end_leaves(replay_text_under(config, settings + "1 ro " + address + " 1\n"));
    };
    const auto expected = leaves("", "0x40200000", config_of({Policy::never}));
    EXPECT_EQ(leaves("offset 0xffff888000000000\n", "0xffff888040200000", config_of({Policy::never})), expected);
    ReplayConfig config = config_of({Policy::never});
    EXPECT_EQ(leaves("", fmt::format("{:#x}", config.offset + 0x40200000), config), expected);
    config.trace_offset = 0xff11000000000000;
    EXPECT_EQ(leaves("offset 0xffff888000000000\n", "0xff11000040200000", config), expected);
}

TEST(Replay, WhatIsOutsideOfRamIsSaid) {
    const ReplayResult result = replay_text_under(config_of({Policy::never}), "1 ro 0x40200000 1\n"
                                                                              "2 ro 0x1000 3\n"
                                                                              "3 ro 0xbffff000 2\n"
                                                                              "4 ro 0xffffffffc0000000 5\n");
    EXPECT_EQ(result.outside.events, 2u);
    EXPECT_EQ(result.outside.partly, 1u);
    EXPECT_EQ(result.outside.pages, 3u + 1u + 5u);
    EXPECT_EQ(result.outside.line, 4u);
    EXPECT_EQ(result.events, 2u);
    EXPECT_EQ(result.pages, 2u);
    EXPECT_EQ(
        error_of(config_of({Policy::never}), "2 ro 0x1000 3\n"),
        "FILE:3: 0x1000 is not in the RAM of test, and there is no other change; --memory-map says whose RAM it is");
    EXPECT_EQ(
        error_of(config_of({Policy::never}), "1 ro 0xffff888012345000 1\n2 ro 0xffff888012345000 1\n"),
        "FILE:3: 0xffff888012345000 (physical 0x888052345000 with the offset 0xfffeffffc0000000) is not in the RAM "
        "of test, and neither is any other of its 2 changes; --memory-map says whose RAM it is, --offset where the "
        "direct map of the recorded kernel begins");
    EXPECT_THAT(error_of(config_of({Policy::never}), "1 ro 0x1000 1\n2 collapse\n"),
                HasSubstr("FILE:3: 0x1000 is not in the RAM of test"));
    EXPECT_EQ(error_of(config_of({Policy::never}), "1 note nothing\n"), "FILE: there is no change in it");
}

TEST(Replay, SmallerPagesThanTheMapsAreWidened) {
    const ReplayResult result =
        replay_text_under(config_of({Policy::never}, 16), "1 ro 0x40201000 1\n2 ro 0x40210000 16\n");
    EXPECT_EQ(result.widened, 1u);
    EXPECT_TRUE(result.kept());
}

TEST(Replay, AZoneTakesInWhatChangesAndGivesItsPlacesBack) {
    ReplayConfig config = config_of({Policy::zoned});
    config.bbm = 0;
    config.zone_bytes = 2 * mib; // 512 pages
    const ReplayResult fits = replay_text_under(config, "1 ro 0x100000000 400\n"
                                                        "2 rw 0x100000000 400\n"
                                                        "3 invalid 0x140000000 512\n");
    EXPECT_EQ(fits.policies[0].refused_count(), 0u);
    EXPECT_EQ(fits.policies[0].counters.splits, 0u);
    EXPECT_TRUE(fits.kept());
    const ReplayResult full = replay_text_under(config, "1 ro 0x100000000 400\n2 invalid 0x140000000 113\n");
    EXPECT_EQ(full.policies[0].refused_count(), 1u);
    EXPECT_EQ(full.policies[0].refused.at("zone_full").line, 4u);
}

TEST(Replay, TablesAreNoPartOfWhatATraceMayChange) {
    // All of RAM becomes invalid, the last page of it too.
    const ReplayResult result =
        replay_text_under(config_of({Policy::never, Policy::background}), "1 invalid 0x40000000 524288\n"
                                                                          "2 invalid 0x100000000 1572864\n"
                                                                          "3 valid 0x27ffff000 1\n");
    EXPECT_TRUE(result.kept()) << result.policies[0].problems.front();
    EXPECT_EQ(result.outside.pages, 0u);
}

// ---- Other granules

/// What an architecture lets a map consist of: the sizes of leaves, and how much the tables of each level below the
/// root map, the largest first. Written down from the manual, not taken from the engine.
struct Granule {
    const char* format;
    unsigned va_bits;
    std::vector<std::uint64_t> leaves, tables;
};
constexpr std::uint64_t kib = 1024;
constexpr std::uint64_t gib = 1024 * mib;
constexpr std::uint64_t tib = 1024 * gib;

/// A map's leaves by size and its tables, worked out from where its permissions change and nothing else.
struct ExpectedMap {
    std::vector<std::uint64_t> leaves;
    std::uint64_t tables = 1; ///< the root
};

/// `cuts` are the places that no leaf may reach across, beside the ends of RAM: the ends of what has been changed by
/// itself. VA = PA + offset.
ExpectedMap expected_map(const Granule& granule, const std::vector<std::pair<std::uint64_t, std::uint64_t>>& ram,
                         const std::set<std::uint64_t>& cuts, std::uint64_t offset, bool pages_alone) {
    ExpectedMap map{.leaves = std::vector<std::uint64_t>(granule.leaves.size())};
    std::vector<std::set<std::uint64_t>> tables(granule.tables.size());
    for (const auto& [start, end] : ram) {
        for (std::uint64_t at = start; at < end;) {
            const auto cut = cuts.upper_bound(at);
            const std::uint64_t limit = cut == cuts.end() ? end : std::min(*cut, end);
            std::size_t size = pages_alone ? granule.leaves.size() - 1 : 0;
            while (at % granule.leaves[size] != 0 || granule.leaves[size] > limit - at) ++size;
            ++map.leaves[size];
            for (std::size_t level = 0; level < tables.size(); ++level)
                if (granule.leaves[size] < granule.tables[level])
                    tables[level].insert((at + offset) / granule.tables[level]);
            at += granule.leaves[size];
        }
    }
    for (const auto& level : tables) map.tables += level.size();
    return map;
}

TEST(ReplayCommand, EveryGranuleEndsWithTheLeavesAndTablesThatItsArchitectureAllows) {
    const std::vector<Granule> granules = {
        {"arm64-4k", 48, {gib, 32 * mib, 2 * mib, 64 * kib, 4 * kib}, {512 * gib, gib, 2 * mib}},
        {"arm64-4k", 39, {gib, 32 * mib, 2 * mib, 64 * kib, 4 * kib}, {gib, 2 * mib}},
        {"arm64-16k", 48, {gib, 32 * mib, 2 * mib, 16 * kib}, {128 * tib, 64 * gib, 32 * mib}},
        {"arm64-16k", 47, {gib, 32 * mib, 2 * mib, 16 * kib}, {64 * gib, 32 * mib}},
        {"arm64-64k", 48, {16 * gib, 512 * mib, 2 * mib, 64 * kib}, {4 * tib, 512 * mib}},
        {"arm64-64k", 42, {16 * gib, 512 * mib, 2 * mib, 64 * kib}, {512 * mib}},
    };
    // Pages of 64K. What is restored: one page within a block, a part of a contiguous group, a range across 1G leaves.
    const Folder folder;
    std::ofstream(folder.file("trace")) << "directmap.trace/1\npage 64K\n"
                                           "1 ro 0x40210000 1\n"         // one page
                                           "2 invalid 0x102000000 512\n" // one block of 32M
                                           "3 rox 0x17fff0000 3\n"       // across the end of a 1G leaf
                                           "4 ronx 0x500000000 65536\n"  // 4 GiB within a 16G leaf
                                           "5 x 0x800000000 262144\n"    // 16 GiB as a whole
                                           "6 rw 0x40210000 1\n"
                                           "7 rwnx 0x17fff0000 3\n";
    const std::set<std::uint64_t> left = {0x102000000, 0x104000000, 0x500000000, 0x600000000, 0x800000000, 0xc00000000};
    std::set<std::uint64_t> ever = left;
    ever.insert({0x40210000, 0x40220000, 0x17fff0000, 0x180020000});
    for (const Granule& granule : granules) {
        SCOPED_TRACE(fmt::format("{}, {} bits", granule.format, granule.va_bits));
        std::string ram = "40000000+2G\\n100000000+6G\\n";
        std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges = {{gib, 3 * gib}, {4 * gib, 10 * gib}};
        if (granule.leaves.front() > gib) { // memory that is worth such a leaf, where the last changes are
            ram += "400000000+32G\\n";
            ranges.emplace_back(16 * gib, 48 * gib);
        }
        const Outcome outcome = shell(fmt::format(
            "printf '{}' | $D replay {} --memory-map - --format {} --va-bits {} --accesses none --json --policy pages "
            "--policy never --policy on-restore",
            ram, folder.file("trace"), granule.format, granule.va_bits));
        ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
        const Json json = Json::parse(outcome.output);
        EXPECT_EQ(json["trace"]["widened"], 0);
        const std::uint64_t offset = std::stoull(json["machine"]["offset"].get<std::string>(), nullptr, 16);
        const auto check = [&](const Json& map, const std::set<std::uint64_t>& cuts, bool pages_alone) {
            const ExpectedMap expected = expected_map(granule, ranges, cuts, offset, pages_alone);
            ASSERT_EQ(map.at("leaves").size(), granule.leaves.size());
            for (std::size_t i = 0; i < granule.leaves.size(); ++i)
                EXPECT_EQ(map.at("leaves").at(leaf_name(granule.leaves[i])), expected.leaves[i])
                    << leaf_name(granule.leaves[i]);
            EXPECT_EQ(map["tables"], expected.tables);
            EXPECT_EQ(map["table_bytes"], expected.tables * granule.leaves.back());
        };
        for (const Json& policy : json["policies"]) {
            SCOPED_TRACE(policy["policy"].get<std::string>());
            const bool by_pages = policy["policy"] == "pages";
            check(policy["boot"], {}, by_pages);
            check(policy["end"], policy["policy"] == "never" ? ever : left, by_pages);
            const ExpectedMap fewest = expected_map(granule, ranges, left, offset, false);
            for (std::size_t i = 0; i < granule.leaves.size(); ++i)
                EXPECT_EQ(policy["smallest_cover"].at(leaf_name(granule.leaves[i])), fewest.leaves[i]);
        }
        EXPECT_TRUE(json["ok"]);
    }
}

// ---- Moments and TLBs

TEST(Replay, MomentsAreEvenlySpreadHoweverLongTheTraceIs) {
    std::string events;
    for (int i = 0; i < 1000; ++i)
        events += fmt::format("{} {} {:#x} 1\n", i, i % 2 == 0 ? "ro" : "rw", 0x40000000 + i / 2 * 4096);
    ReplayConfig config = config_of({Policy::never});
    config.most_moments = 10;
    const ReplayResult result = replay_text_under(config, events);
    EXPECT_GE(result.moments.size(), 5u);
    EXPECT_LE(result.moments.size(), 12u);
    EXPECT_EQ(result.moments.front().events, 0u);
    EXPECT_EQ(result.moments.back().events, 1000u);
    const std::uint64_t step = result.moments[1].events;
    for (std::size_t i = 0; i + 1 < result.moments.size(); ++i) EXPECT_EQ(result.moments[i].events, i * step);
}

TEST(Replay, WalksFollowTheLeaves) {
    ReplayConfig config = config_of({Policy::pages, Policy::never});
    const auto pattern = uniform_pattern(config.ram, 1);
    config.pattern = pattern.get();
    config.accesses = 2000;
    const ReplayResult result = replay_text_under(config, "1 ro 0x40200000 1\n");
    const auto& boot = result.moments.front().policies;
    // Eight leaves of 1G are always in a TLB; of two million pages one in 1,500 is.
    EXPECT_EQ(boot[1].tlb.walks(), 0u);
    EXPECT_GT(walks_a_thousand(boot[0].tlb), 990);
    EXPECT_EQ(boot[0].tlb.accesses, 2000u);
    // A page that is invalid is not accessed.
    const ReplayResult secret = replay_text_under(config, "1 invalid 0x40000000 262144\n");
    EXPECT_LT(secret.moments.back().policies[1].tlb.accesses, 2000u);
    EXPECT_EQ(secret.moments.back().policies[0].tlb.accesses, secret.moments.back().policies[1].tlb.accesses);
}

// ---- What is said

TEST(ReplayCommand, EndsWithAVerdictThatTheFiguresBear) {
    const Outcome text = shell("$D replay builtin:example --access-count 2000 2>&1");
    EXPECT_EQ(text.exit_code, 0) << text.output;
    EXPECT_THAT(text.output, AllOf(HasSubstr("Leaves over time"), HasSubstr("TLB invalidations"),
                                   HasSubstr("walks of 1,000"), HasSubstr("\nVerdict\nFor this trace: ")));
    EXPECT_THAT(text.output, Not(HasSubstr("\x1b")));
    const Outcome outcome = shell("$D replay builtin:example --access-count 2000 --json");
    const Json json = Json::parse(outcome.output);
    EXPECT_EQ(json["schema"], "directmap.replay/1");
    ASSERT_THAT(json["policies"], SizeIs(4));
    std::string best;
    double fewest = 1e9;
    std::map<std::string, double> walks;
    for (const Json& policy : json["policies"]) {
        double sum = 0;
        for (const Json& moment : policy["moments"])
            sum += 1000 * moment["tlb"]["walks"].get<double>() / moment["tlb"]["accesses"].get<double>();
        walks[policy["policy"]] = sum / static_cast<double>(policy["moments"].size());
        EXPECT_NEAR(walks[policy["policy"]], policy["walks_per_1000_accesses"].get<double>(), 1e-6);
        fewest = std::min(fewest, walks[policy["policy"]]);
        EXPECT_EQ(policy["moments"].size(), json["policies"][0]["moments"].size());
    }
    EXPECT_LE(walks[json["verdict"]["policy"]], fewest * 1.05 + 0.5);
    EXPECT_THAT(text.output,
                HasSubstr(fmt::format("For this trace: {} (", json["verdict"]["policy"].get<std::string>())));
}

TEST(ReplayCommand, PoliciesThatCostTheSameAreCalledJustAsGood) {
    const std::string replay = "printf 'directmap.trace/1\n1 ro 0x40200000 1\n' > \"$T\"; printf '40000000+1G\n' | $D "
                               "replay \"$T\" --memory-map - "
                               "--accesses none --policy never --policy on-restore";
    const Folder folder;
    const auto verdict_of = [&](const std::string& more) {
        return shell("T='" + folder.file("trace") + "'; " + replay + more).output;
    };
    EXPECT_THAT(verdict_of(""), AllOf(HasSubstr("For this trace: never ("), HasSubstr(" Just as good: on-restore"),
                                      Not(HasSubstr("more invalidations"))));
    // Pages need as few invalidations, but more leaves.
    EXPECT_THAT(verdict_of(" --policy pages"), HasSubstr("Behind: pages"));
}

TEST(ReplayCommand, ARecordersOutputIsReadAsItIs) {
    const Folder folder;
    std::ofstream(folder.file("recorded"))
        << " 1.000001 |  0)  0.2 us  |  set_memory_ro(addr=0xffff888040200000, numpages=1);\nCPU:1 [LOST 12 EVENTS]\n";
    const Outcome outcome =
        shell("printf '40000000+2G\\n' | $D replay " + folder.file("recorded") +
              " --memory-map - --from ftrace --offset 0xffff888000000000 --accesses none --policy never 2>&1");
    EXPECT_THAT(outcome.output, AllOf(HasSubstr("1 change in 0 ms (1 ro), 1 page in all"),
                                      HasSubstr("The trace is partial: the recorder lost events before line 2.")));
}

TEST(ReplayCommand, BadInputIsOneLineAndExitCodeTwo) {
    for (const auto& [arguments, error] : std::map<std::string, std::string>{
             {"", "directmap: TRACE: a trace is missing"},
             {"/nonexistent", "directmap: /nonexistent: No such file or directory"},
             {"/", "directmap: /: Is a directory"},
             {"builtin:none", "directmap: builtin:none: no trace of this name"},
             {"builtin:example --policy sometimes", "directmap: --policy: 'sometimes' is none of pages,"},
             {"builtin:example --bbm 0 --policy never", "directmap: --policy: with --bbm 0 no leaf is resized"},
             {"builtin:example --format x86", "directmap: --format: 'x86' is none of arm64-4k"},
             {"builtin:example --core 8086", "directmap: 8086: No such file or directory; cores that are part"},
             {"builtin:example --accesses /nonexistent", "--accesses takes uniform, zipf, sequential, none or a file"},
             {"builtin:example --zone 12", "directmap: --zone: '12' is not a number and K, M, G or T"},
             {"builtin:example --offset x", "directmap: --offset: 'x' is not a hexadecimal number"},
         }) {
        const Outcome outcome = shell("$D replay " + arguments + " 2>&1");
        EXPECT_EQ(outcome.exit_code, 2) << arguments;
        EXPECT_THAT(outcome.output, HasSubstr(error));
        EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 1) << outcome.output;
    }
}

TEST(ReplayCommand, ARunWritesItsTraceAloneToStandardOutput) {
    const Outcome outcome = shell("$D run --scenario tiny --trace - 2>&1");
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_TRUE(outcome.output.starts_with("directmap.trace/1\n"));
    EXPECT_THAT(shell("$D run --scenario tiny --trace - --json 2>&1").output, HasSubstr("would be mixed up"));
    EXPECT_THAT(shell("$D run --scenario tiny --trace /nonexistent/x 2>&1").output,
                HasSubstr("directmap: /nonexistent/x: No such file or directory"));
    EXPECT_THAT(shell("$D run --scenario tiny --policy all --trace x 2>&1").output,
                HasSubstr("--policy all are several"));
}

TEST(ReplayCommand, EveryCoreIsListed) {
    const Outcome outcome = shell("$D replay --list-cores");
    EXPECT_EQ(outcome.exit_code, 0);
    for (const TlbCore& core : builtin_tlb_cores()) EXPECT_THAT(outcome.output, HasSubstr(core.name));
}

} // namespace

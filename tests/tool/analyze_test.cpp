#include "analyze.hpp"

#include "analyze_output.hpp"
#include "dump_support.hpp"

#include <algorithm>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <nlohmann/json.hpp>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <set>
#include <tuple>

namespace directmap::tool {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

constexpr std::string_view rw = "RW NX SHD AF            UXN    MEM/NORMAL";
constexpr std::string_view ro = "ro NX SHD AF            UXN    MEM/NORMAL";
constexpr std::string_view rw_block = "RW NX SHD AF        BLK UXN    MEM/NORMAL";
constexpr std::string_view start_marker = "---[ Linear Mapping start ]---\n";
constexpr std::string_view end_marker = "---[ Linear Mapping end ]---\n";
constexpr std::uint64_t base = 0xffff000000000000;

/// Entries in a direct map that ends properly.
std::string direct_map(const std::string& entries) {
    return std::string(start_marker) + entries + std::string(end_marker);
}

std::string x86_entry(std::uint64_t start, std::uint64_t bytes, std::string_view attributes, std::string_view level) {
    return fmt::format("0x{:016x}-0x{:016x} {:>11} {:<31}{}\n", start, start + bytes, kernel_size(bytes), attributes,
                       level);
}

std::vector<json> analyze_as_json(std::string_view text) {
    const auto source = text_source(text);
    std::vector<json> results;
    analyze_dumps(*source, "FILE", {}, [&](const DumpAnalysis& analysis, const DumpVocabulary& vocabulary) {
        results.push_back(json::parse(json_of(analysis, vocabulary, {}).dump()));
    });
    return results;
}

/// Everything that `wanted` holds is in `found`; `found` may hold more.
void expect_contains(const json& wanted, const json& found, const std::string& where) {
    if (wanted.is_object() && found.is_object()) {
        for (const auto& [key, value] : wanted.items()) {
            if (found.contains(key))
                expect_contains(value, found[key], where + "." + key);
            else
                ADD_FAILURE() << where << " has no " << key;
        }
    } else if (wanted.is_array() && found.is_array() && wanted.size() == found.size()) {
        for (std::size_t i = 0; i < wanted.size(); ++i)
            expect_contains(wanted[i], found[i], fmt::format("{}[{}]", where, i));
    } else {
        EXPECT_EQ(wanted, found) << where;
    }
}

// ---- Real dumps

TEST(Analyze, RealDumpsGiveWhatAnIndependentScriptWorkedOut) {
    const json golden = json::parse(file_text(DIRECTMAP_SOURCE_DIR "/tests/golden/analyze.json"));
    ASSERT_THAT(golden, SizeIs(11));
    for (json wanted : golden) {
        const std::string file = wanted["file"];
        wanted.erase("file");
        const std::vector<json> results = analyze_as_json(file_text(dump_path(file)));
        const std::size_t index = wanted["dump"].get<std::size_t>() - 1;
        ASSERT_LT(index, results.size()) << file;
        expect_contains(wanted, results[index], fmt::format("{}, dump {}", file, index + 1));
    }
}

TEST(Analyze, TheGoldenResultsAreWhatTheScriptWorksOut) {
    const int status = std::system("python3 " DIRECTMAP_SOURCE_DIR "/tests/golden/work_out.py --check");
    EXPECT_EQ(status, 0);
}

// Worked out by hand, step by step, in tests/golden/README.md.
TEST(Analyze, TheBoardWith2GiBIsAsWorkedOutByHand) {
    const std::vector<DumpAnalysis> results = analyze_text(file_text(dump_path("arm64-4k-39bit-2g.txt")));
    ASSERT_THAT(results, SizeIs(1));
    const MapSummary& map = results[0].map.value();
    EXPECT_EQ(map.count(4 * kib), 864u);
    EXPECT_EQ(map.count(64 * kib), 10u);
    EXPECT_EQ(map.count(2 * mib), 14u);
    EXPECT_EQ(map.count(32 * mib), 31u);
    EXPECT_EQ(map.count(gib), 1u);
    EXPECT_EQ(map.units, 920u);
    EXPECT_EQ(map.minimum_units, 110u);
    EXPECT_EQ(map.collapsible_bytes, 864 * 4 * kib);
    EXPECT_EQ(map.tables, 3u);
    EXPECT_EQ(map.tables_reclaimable, 0u);
}

TEST(Analyze, SumsOfLeavesAreTheBytesMapped) {
    for (const auto& file : std::filesystem::directory_iterator(dump_path(""))) {
        if (file.path().filename() == "meminfo-directmap-samples.txt") continue;
        for (const DumpAnalysis& analysis : analyze_text(file_text(file.path().string()))) {
            if (!analysis.map) continue;
            std::uint64_t bytes = 0;
            std::uint64_t units = 0;
            for (const std::uint64_t size : analysis.map->sizes()) {
                bytes += analysis.map->bytes(size);
                units += analysis.map->count(size);
            }
            EXPECT_EQ(bytes, analysis.map->mapped_bytes) << file;
            EXPECT_EQ(units, analysis.map->units) << file;
        }
    }
}

// ---- Where the direct map is

TEST(Analyze, AnX86DirectMapIsFoundByItsShapeWhereMarkersLie) {
    const std::vector<DumpAnalysis> results = analyze_text(file_text(dump_path("x86-64-desktop-32g.txt")));
    ASSERT_THAT(results, SizeIs(1));
    EXPECT_EQ(results[0].found_by, DumpAnalysis::FoundBy::shape);
    EXPECT_EQ(results[0].map.value().start, 0xffff999900000000u);
    EXPECT_FALSE(results[0].partial());
}

TEST(Analyze, AnX86DirectMapUnderItsMarkerMayHaveAnyHoles) {
    const std::string text =
        "---[ Low Kernel Mapping ]---\n" + x86_entry(0xffff888000000000, gib, "    RW         PSE     GLB NX", "pud") +
        x86_entry(0xffff98b000000000, gib, "    RW         PSE     GLB NX", "pud") + "---[ vmalloc() Area ]---\n" +
        x86_entry(0xffffc90000000000, 16 * gib, "    RW                 GLB NX", "pte");
    const std::vector<DumpAnalysis> results = analyze_text(text);
    ASSERT_THAT(results, SizeIs(1));
    EXPECT_EQ(results[0].found_by, DumpAnalysis::FoundBy::marker);
    EXPECT_EQ(results[0].map.value().mapped_bytes, 2 * gib);
}

TEST(Analyze, AnArm64DirectMapIsFoundWithoutAnyMarkers) {
    // `grep 0x` of a dump: user of a device, vmalloc, the direct map.
    const std::string text = arm64_entry(0xffff000000000000, 4 * gib, "PUD", rw_block) +
                             arm64_entry(0xffff800008000000, 4 * kib, "PTE", "ro x  SHD AF UXN MEM/NORMAL") +
                             arm64_entry(0xffff80000a000000, 64 * mib, "PTE", "RW NX SHD AF UXN DEVICE/nGnRE") +
                             arm64_entry(0xfffffc0000000000, 64 * mib, "PMD", rw_block);
    const std::vector<DumpAnalysis> results = analyze_text(text);
    ASSERT_THAT(results, SizeIs(1));
    EXPECT_EQ(results[0].found_by, DumpAnalysis::FoundBy::shape);
    EXPECT_EQ(results[0].map.value().mapped_bytes, 4 * gib);
}

TEST(Analyze, AnEndMarkerAloneIsEnough) {
    const std::vector<DumpAnalysis> results = analyze_text(file_text(dump_path("arm64-4k-phone-pages.txt")));
    ASSERT_THAT(results, SizeIs(1));
    EXPECT_EQ(results[0].found_by, DumpAnalysis::FoundBy::end_marker);
}

TEST(Analyze, ADumpWithoutADirectMapSaysWhatItHasAndWhatWasExpected) {
    for (const char* file : {"arm64-64k-efi.txt", "x86-64-dmesg.txt", "x86-64-holes.txt"}) {
        const std::vector<DumpAnalysis> results = analyze_text(file_text(dump_path(file)));
        ASSERT_THAT(results, SizeIs(1));
        EXPECT_FALSE(results[0].map.has_value()) << file;
        EXPECT_TRUE(results[0].partial());
        ASSERT_THAT(results[0].problems, SizeIs(1));
        EXPECT_THAT(results[0].problems[0].reason, HasSubstr("expected"));
    }
}

// ---- Geometry

TEST(Analyze, TheGranuleComesFromTheAlignmentOfWhatIsMapped) {
    const auto granule = [](const std::string& entries) {
        const std::vector<DumpAnalysis> results = analyze_text(direct_map(entries));
        return std::pair(results.at(0).map.value().geometry.granule(), results.at(0).granule_is_certain);
    };
    EXPECT_EQ(granule(arm64_entry(base, 12 * kib, "PTE", rw)), std::pair(4 * kib, true));
    EXPECT_EQ(granule(arm64_entry(base, 2 * mib, "PTE", rw) + arm64_entry(base + 2 * mib, 2 * mib, "PMD", rw_block)),
              std::pair(4 * kib, true));
    EXPECT_EQ(granule(arm64_entry(base, 512 * mib - 64 * kib, "PTE", rw) +
                      arm64_entry(base + 512 * mib - 64 * kib, 64 * kib, "PTE", ro) +
                      arm64_entry(base + 512 * mib, 512 * mib, "PMD", rw_block)),
              std::pair(64 * kib, true));
    EXPECT_EQ(granule(arm64_entry(base, 32 * mib - 16 * kib, "PTE", rw) +
                      arm64_entry(base + 32 * mib - 16 * kib, 16 * kib, "PTE", ro) +
                      arm64_entry(base + 32 * mib, 32 * mib, "PMD", rw_block)),
              std::pair(16 * kib, true));
    // Nothing but whole gigabytes by pages: nothing to tell by.
    EXPECT_EQ(granule(arm64_entry(base, gib, "PTE", rw)), std::pair(4 * kib, false));
}

TEST(Analyze, AGivenGranuleIsTakenAtItsWord) {
    AnalyzeOptions options;
    options.granule = 64 * kib;
    const std::vector<DumpAnalysis> results = analyze_text(direct_map(arm64_entry(base, gib, "PTE", rw)), options);
    const MapSummary& map = results.at(0).map.value();
    EXPECT_EQ(map.count(64 * kib), gib / (64 * kib));
    EXPECT_EQ(map.minimum_units, 2u); // 512M each
    EXPECT_EQ(map.tables_reclaimable, 2u);
}

TEST(Analyze, ContiguousGroupsAreOneLeafEach) {
    const auto leaves = [](std::uint64_t granule, std::uint64_t bytes, std::string_view level, std::string_view shape) {
        AnalyzeOptions options;
        options.granule = granule;
        const auto results = analyze_text(
            direct_map(arm64_entry(base, bytes, level, fmt::format("RW NX SHD AF {} UXN MEM/NORMAL", shape))), options);
        return results.at(0).map.value().units;
    };
    EXPECT_EQ(leaves(4 * kib, 512 * kib, "PTE", "CON"), 8u);
    EXPECT_EQ(leaves(4 * kib, gib, "PMD", "CON BLK"), 32u);
    EXPECT_EQ(leaves(4 * kib, 32 * gib, "PUD", "CON BLK"), 2u); // 16G, which only our engine makes
    EXPECT_EQ(leaves(16 * kib, 4 * mib, "PTE", "CON"), 2u);
    EXPECT_EQ(leaves(16 * kib, 2 * gib, "PMD", "CON BLK"), 2u);
    EXPECT_EQ(leaves(64 * kib, 4 * mib, "PTE", "CON"), 2u);
    EXPECT_EQ(leaves(64 * kib, 32 * gib, "PMD", "CON BLK"), 2u);
}

TEST(Analyze, APgdLeafIsOneGigabyteWhereThereAreThreeLevels) {
    const auto leaf = [](std::uint64_t start) {
        return analyze_text(direct_map(arm64_entry(start, gib, "PGD", rw_block))).at(0).map.value().units;
    };
    EXPECT_EQ(leaf(0xffffffc000000000), 1u);
}

TEST(Analyze, PhysicalAddressesLimitWhatALeafCanBe) {
    // VA is aligned to 1G, PA only to 2M: the 29998M of the real dump can't be healed.
    const std::vector<DumpAnalysis> results = analyze_text(file_text(dump_path("riscv-sv48.txt")));
    const MapSummary& map = results.at(0).map.value();
    EXPECT_EQ(map.units, 14999u);
    EXPECT_EQ(map.minimum_units, 14999u);
    EXPECT_EQ(map.collapsible_bytes, 0u);
}

TEST(Analyze, AStepInPhysicalAddressesIsNotInsideALeaf) {
    const std::string text =
        "---[ Linear mapping ]---\n"
        "0xffffffc000000000-0xffffffc000100000    0x0000000080000000         1M PTE     D A G . . W R V\n"
        "0xffffffc000100000-0xffffffc000200000    0x0000000080200000         1M PTE     D A G . . W R V\n"
        "0xffffffc000200000-0xffffffc000400000    0x0000000080400000         2M PTE     D A G . . W R V\n";
    const MapSummary map = analyze_text(text).at(0).map.value();
    EXPECT_EQ(map.units, 1024u);
    EXPECT_EQ(map.minimum_units, 256u + 256u + 1u);
    EXPECT_EQ(map.tables_reclaimable, 1u);
}

// ---- What is wrong with an input

TEST(Analyze, AnOverlapMakesTheResultsPartialAndTheInputBad) {
    const auto results = analyze_text(direct_map(arm64_entry(base, 4 * mib, "PMD", rw_block) +
                                                 arm64_entry(base + 2 * mib, 4 * mib, "PMD", rw_block) +
                                                 arm64_entry(base + 4 * mib, 2 * mib, "PMD", rw_block)));
    ASSERT_THAT(results, SizeIs(1));
    EXPECT_EQ(results[0].bad_lines, 1u);
    EXPECT_TRUE(results[0].partial());
    EXPECT_EQ(results[0].problems.at(0).line, 3u);
    EXPECT_EQ(results[0].map.value().mapped_bytes, 6 * mib);
}

TEST(Analyze, ALeafThatIsNoMultipleOfItsLevelIsBad) {
    const auto results = analyze_text(direct_map(arm64_entry(base, 4 * mib, "PMD", rw_block) +
                                                 arm64_entry(base + 4 * mib, 64 * kib, "PMD", rw_block)));
    EXPECT_EQ(results.at(0).bad_lines, 1u);
    EXPECT_EQ(results.at(0).problems.at(0).reason,
              "0xffff000000400000 to 0xffff000000410000 isn't made of whole PMD leaves of 2M");
}

TEST(Analyze, ADumpThatStopsInsideTheDirectMapIsPartialButNotBad) {
    const auto results = analyze_text(std::string(start_marker) + arm64_entry(base, 4 * mib, "PMD", rw_block));
    EXPECT_TRUE(results.at(0).partial());
    EXPECT_EQ(results.at(0).bad_lines, 0u);
    EXPECT_THAT(results.at(0).problems.at(0).reason, HasSubstr("no end marker"));
}

TEST(Analyze, LinesThatAreMissingAreNoticedWhereTheDumpShowsHoles) {
    const std::string first = arm64_entry(base, 4 * mib, "PMD", rw_block);
    const std::string third = arm64_entry(base + 8 * mib, 4 * mib, "PMD", rw_block);
    const std::string hole = arm64_entry(base + 4 * mib, 4 * mib, "PMD");
    EXPECT_FALSE(analyze_text(direct_map(first + third)).at(0).partial()); // older kernels print no holes
    EXPECT_FALSE(analyze_text(direct_map(first + hole + third)).at(0).partial());
    const auto cut =
        analyze_text(direct_map(first + hole + third + arm64_entry(base + 16 * mib, 4 * mib, "PMD", rw_block)));
    EXPECT_TRUE(cut.at(0).partial());
    EXPECT_EQ(cut.at(0).problems.at(0).line, 5u);
    EXPECT_EQ(cut.at(0).bad_lines, 0u);
}

TEST(Analyze, AnInputWithoutAnyDumpSaysWhatWasExpected) {
    const auto error = [](std::string_view text) { return error_of([&] { static_cast<void>(analyze_text(text)); }); };
    EXPECT_THAT(error(file_text(dump_path("meminfo-directmap-samples.txt"))), HasSubstr("expected lines like"));
    EXPECT_EQ(error("0xffff000000200000-0xffff000000000000   2M PMD\n"),
              "FILE:1: the range ends at 0xffff000000000000, before it starts at 0xffff000000200000");
}

TEST(Analyze, LinesSkippedOutsideTheDirectMapDoNotMatter) {
    const std::string map =
        "---[ Low Kernel Mapping ]---\n" + x86_entry(0xffff888000000000, gib, "    RW         PSE     GLB NX", "pud");
    const std::string rest = "---[ ESPfix Area ]---\n" + x86_entry(0xffffff0000000000, 512 * gib, "", "pgd");
    EXPECT_FALSE(
        analyze_text(map + rest + "... 65 entries skipped ... \n" + x86_entry(0xffffff8000000000, 512 * gib, "", "pgd"))
            .at(0)
            .partial());
    EXPECT_TRUE(analyze_text(map + "... 65 entries skipped ... \n" + rest).at(0).partial());
}

// ---- What is reported

TEST(Analyze, IslandsNameTheLeafThatTheyBroke) {
    // One read-only page in each of two gigabytes, one of them in a gigabyte that has a hole.
    const auto results = analyze_text(
        direct_map(arm64_entry(base, 4 * kib, "PTE", ro) + arm64_entry(base + 4 * kib, gib - 4 * kib, "PTE", rw) +
                   arm64_entry(base + gib, 3 * mib, "PTE", rw) + arm64_entry(base + gib + 3 * mib, 4 * kib, "PTE", ro) +
                   arm64_entry(base + gib + 3 * mib + 4 * kib, 33 * mib - 4 * kib, "PTE", rw)));
    const MapSummary& map = results.at(0).map.value();
    ASSERT_EQ(map.islands, 2u);
    EXPECT_EQ(map.island_bytes, 8 * kib);
    ASSERT_THAT(map.island_list, SizeIs(2));
    EXPECT_EQ(map.island_list[0].broke_size, gib);
    EXPECT_EQ(map.island_list[1].broke_size, 32 * mib);
    EXPECT_EQ(map.island_list[1].broke_start, base + gib);
    ASSERT_THAT(map.island_groups, SizeIs(1));
    EXPECT_EQ(map.island_groups[0].count, 2u);
}

TEST(Analyze, AnIslandAcrossTwoGigabytesIsOne) {
    const auto results =
        analyze_text(direct_map(arm64_entry(base, gib - 2 * mib, "PMD", rw_block) +
                                arm64_entry(base + gib - 2 * mib, 4 * mib, "PMD", "ro NX SHD AF BLK UXN MEM/NORMAL") +
                                arm64_entry(base + gib + 2 * mib, gib - 2 * mib, "PMD", rw_block)));
    EXPECT_EQ(results.at(0).map.value().islands, 1u);
    EXPECT_EQ(results.at(0).map.value().broken_leaves[size_index(gib)], 2u);
}

TEST(Analyze, WritableAndExecutableMemoryIsFoundEverywhere) {
    const auto results = analyze_text(file_text(dump_path("arm64-64k-efi.txt")));
    EXPECT_EQ(results.at(0).writable_executable.bytes, 64 * kib);
    EXPECT_EQ(results.at(0).writable_executable.list.at(0).start, 0x43ff10000u);
    const auto invalid = analyze_text(direct_map(arm64_entry(base, 4 * kib, "PTE", "F RW x  SHD AF UXN MEM/NORMAL")));
    EXPECT_EQ(invalid.at(0).writable_executable.bytes, 0u);
}

TEST(Analyze, TheDemandForTlbEntriesIsExactAtItsEnds) {
    CountBySize leaves{};
    leaves[size_index(2 * mib)] = 100;
    leaves[size_index(4 * kib)] = 512;
    const std::uint64_t all = 202 * mib;
    EXPECT_NEAR(tlb_demand(leaves, 4 * kib, 4 * kib).dense, 1, 1e-9);
    EXPECT_NEAR(tlb_demand(leaves, 4 * kib, 4 * kib).scattered, 1, 1e-2);
    EXPECT_NEAR(tlb_demand(leaves, 4 * kib, all).dense, 612, 1e-9);
    EXPECT_NEAR(tlb_demand(leaves, 4 * kib, all).scattered, 612, 1e-9);
    EXPECT_NEAR(tlb_demand(leaves, 4 * kib, 2 * all).scattered, 612, 1e-9);
}

TEST(Analyze, AMaximumLeafIsNeverExceeded) {
    AnalyzeOptions options;
    options.map.max_leaf = 2 * mib;
    const auto results = analyze_text(
        direct_map(arm64_entry(base, gib, "PUD", rw_block) + arm64_entry(base + gib, gib, "PTE", rw)), options);
    EXPECT_EQ(results.at(0).map.value().minimum_units, 1u + 512u); // what is larger already stays
}

// ---- Text

TEST(AnalyzeText, TheMapFitsTheWidthAndIsPlainWithoutColour) {
    AnalyzeOptions options;
    options.map.picture_limit = 1000;
    for (const char* file : {"arm64-4k-ampereone-12g-repainted.txt", "x86-64-desktop-32g.txt", "riscv-sv48.txt"}) {
        const auto results = analyze_text(file_text(dump_path(file)), options);
        for (const std::size_t width : {40u, 80u, 100u, 200u}) {
            const std::string picture = text_picture(results.at(0).map.value(), Palette(false), width, 10);
            std::istringstream lines(picture);
            std::string line;
            std::getline(lines, line); // the legend may be longer
            std::getline(lines, line);
            std::size_t count = 0;
            for (; std::getline(lines, line); ++count) EXPECT_LE(line.size(), width) << line;
            EXPECT_GT(count, 0u);
            EXPECT_LE(count, 12u);
            EXPECT_THAT(picture, Not(HasSubstr("\x1b")));
        }
    }
}

TEST(AnalyzeText, APictureOfAMillionRunsStaysSmallAndExactInSum) {
    MapPicture picture(1000);
    std::uint64_t at = base;
    for (int i = 0; i < 1000000; ++i) {
        picture.add(at, 4 * kib, {4 * kib, static_cast<DumpAttributes>(i % 2 + 1)});
        at += (i % 7 == 0 ? 8 : 4) * kib;
    }
    EXPECT_LE(picture.runs().size(), 1000u);
    std::uint64_t bytes = 0;
    std::uint64_t last_start = 0;
    for (const PictureRun& run : picture.runs()) {
        EXPECT_GE(run.start, last_start);
        EXPECT_LE(run.bytes, run.span);
        last_start = run.start;
        bytes += run.bytes;
    }
    EXPECT_EQ(bytes, 1000000 * 4 * kib);
}

// ---- Against a second implementation that walks page by page

struct Stretch {
    std::uint64_t pages;
    unsigned attributes;   ///< 0: a hole
    std::uint64_t largest; ///< the map as it is uses no larger leaves here
};

struct ExpectedMap {
    std::map<std::uint64_t, std::uint64_t> leaves;
    std::uint64_t minimum = 0;
    std::uint64_t tables = 0;
    std::uint64_t reclaimable = 0;
    std::uint64_t collapsible = 0;
};

constexpr std::array<std::uint64_t, 5> sizes_4k = {gib, 32 * mib, 2 * mib, 64 * kib, 4 * kib};

unsigned depth_of(std::uint64_t size) {
    return size < 2 * mib ? 0 : size < gib ? 1 : 2;
}

std::vector<std::pair<std::uint64_t, std::uint64_t>> greedy_cover(std::uint64_t start, std::uint64_t end,
                                                                  std::uint64_t largest) {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> leaves;
    while (start < end) {
        const auto size = *std::ranges::find_if(sizes_4k, [&](std::uint64_t candidate) {
            return candidate <= largest && start % candidate == 0 && start + candidate <= end;
        });
        leaves.emplace_back(start, size);
        start += size;
    }
    return leaves;
}

using Tables = std::set<std::pair<unsigned, std::uint64_t>>;

void add_tables(Tables& tables, std::uint64_t start, std::uint64_t size) {
    constexpr std::array<std::uint64_t, 3> reach = {2 * mib, gib, 512 * gib};
    for (unsigned depth = depth_of(size); depth < reach.size(); ++depth) tables.emplace(depth, start / reach[depth]);
}

RC_GTEST_PROP(Analyze, RandomMapsAreCountedAsAPageByPageWalkCountsThem, ()) {
    // Long stretches of small leaves would only take time.
    const auto any_attributes = rc::gen::weightedElement<unsigned>({{1, 0}, {4, 1}, {2, 2}, {1, 3}});
    const auto stretches = *rc::gen::container<std::vector<Stretch>>(rc::gen::oneOf(
        rc::gen::construct<Stretch>(rc::gen::inRange<std::uint64_t>(1, 40), any_attributes, rc::gen::just(4 * kib)),
        rc::gen::construct<Stretch>(rc::gen::inRange<std::uint64_t>(1, 2000), any_attributes,
                                    rc::gen::element(4 * kib, 64 * kib, 2 * mib)),
        rc::gen::construct<Stretch>(rc::gen::element<std::uint64_t>(512, 8192, 40000, 262144, 300000), any_attributes,
                                    rc::gen::element(2 * mib, 32 * mib, gib))));
    constexpr std::array<std::string_view, 3> words = {
        "RW NX SHD AF {} UXN MEM/NORMAL", "ro NX SHD AF {} UXN MEM/NORMAL", "F RW NX SHD AF {} UXN MEM/NORMAL-TAGGED"};
    std::uint64_t at = base + *rc::gen::inRange<std::uint64_t>(0, 600) * 4 * kib;

    std::string text(start_marker);
    ExpectedMap expected;
    std::vector<std::tuple<std::uint64_t, std::uint64_t, unsigned>> runs; // start, end, attributes
    std::vector<std::pair<std::uint64_t, std::uint64_t>> current;
    for (const Stretch& stretch : stretches) {
        const std::uint64_t end = at + stretch.pages * 4 * kib;
        if (stretch.attributes != 0) {
            for (const auto& [start, size] : greedy_cover(at, end, stretch.largest)) {
                current.emplace_back(start, size);
                ++expected.leaves[size];
                const std::string_view shape = size == 64 * kib   ? "CON    "
                                               : size == 32 * mib ? "CON BLK"
                                               : size == 4 * kib  ? "       "
                                                                  : "    BLK";
                text += arm64_entry(start, size,
                                    size < 2 * mib ? "PTE"
                                    : size < gib   ? "PMD"
                                                   : "PUD",
                                    fmt::format(fmt::runtime(words[stretch.attributes - 1]), shape));
            }
            if (!runs.empty() && std::get<1>(runs.back()) == at && std::get<2>(runs.back()) == stretch.attributes)
                std::get<1>(runs.back()) = end;
            else
                runs.emplace_back(at, end, stretch.attributes);
        }
        at = end;
    }
    text += end_marker;
    if (current.empty()) RC_DISCARD("nothing mapped");

    Tables now;
    Tables then;
    const std::set<std::pair<std::uint64_t, std::uint64_t>> is_there(current.begin(), current.end());
    for (const auto& [start, size] : current) add_tables(now, start, size);
    for (const auto& [start, end, attributes] : runs) {
        for (const auto& leaf : greedy_cover(start, end, gib)) {
            ++expected.minimum;
            add_tables(then, leaf.first, leaf.second);
            if (!is_there.contains(leaf)) expected.collapsible += leaf.second;
        }
    }
    AnalyzeOptions options;
    options.granule = 4 * kib;
    const auto results = analyze_text(text, options);
    RC_ASSERT(results.size() == 1u);
    RC_ASSERT(results[0].bad_lines == 0u);
    const MapSummary& map = results[0].map.value();
    for (const std::uint64_t size : sizes_4k) RC_ASSERT(map.count(size) == expected.leaves[size]);
    RC_ASSERT(map.minimum_units == expected.minimum);
    RC_ASSERT(map.tables == now.size());
    RC_ASSERT(map.tables_reclaimable == now.size() - then.size());
    RC_ASSERT(map.collapsible_bytes == expected.collapsible);
    std::uint64_t made = 0;
    std::uint64_t minimum = 0;
    for (const std::uint64_t size : sizes_4k) {
        made += map.collapsible_into[size_index(size)] * size;
        minimum += map.minimum_leaves[size_index(size)];
    }
    RC_ASSERT(made == map.collapsible_bytes);
    RC_ASSERT(minimum == map.minimum_units);
    RC_ASSERT(map.uniform_units <= map.minimum_units);
    RC_ASSERT(map.minimum_units <= map.units);
}

} // namespace
} // namespace directmap::tool

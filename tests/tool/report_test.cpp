// The pages that --report writes, as far as they can be judged without a browser: tests/report/browser_test.py does the
// rest.
#include "report.hpp"

#include "dump_support.hpp"
#include "report_analyze.hpp"
#include "report_run.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>

namespace directmap::tool {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

const ReportOrigin origin{.command = "directmap analyze x", .version = "directmap 1", .made = "today"};

/// The data that a page carries.
json data_in(const std::string& html) {
    const std::string_view opening = R"(<script type="application/json" id="data">)";
    const std::size_t start = html.find(opening) + opening.size();
    return json::parse(html.substr(start, html.find("</script>", start) - start));
}

Report report_of_text(std::string_view text, std::size_t picture_limit = report_picture_limit) {
    AnalyzeOptions options;
    options.map.picture_limit = picture_limit;
    const auto source = text_source(text);
    std::vector<ReportedDump> dumps;
    analyze_dumps(*source, "FILE", options, [&](DumpAnalysis&& analysis, const DumpVocabulary& vocabulary) {
        dumps.push_back({std::move(analysis), vocabulary});
    });
    return report_of(std::move(dumps), {});
}

/// What a page says about each page of memory, decoded as its script does it.
struct DecodedRun {
    std::uint64_t start;
    std::uint64_t span;
    std::uint64_t bytes;
    json kind;
};
std::vector<DecodedRun> decoded(const json& map) {
    std::vector<DecodedRun> result;
    std::uint64_t at = std::stoull(map["start"].get<std::string>(), nullptr, 16);
    const json& runs = map["runs"];
    for (std::size_t index = 0; index < runs.size();) {
        at += runs[index++].get<std::uint64_t>() * 4096;
        const std::uint64_t span = runs[index++].get<std::uint64_t>() * 4096;
        const auto coded = runs[index++].get<std::size_t>();
        const std::uint64_t bytes = coded % 2 != 0 ? runs[index++].get<std::uint64_t>() * 4096 : span;
        result.push_back({at, span, bytes, map["kinds"][coded / 2]});
    }
    return result;
}

TEST(Report, CarriesEveryLeafOfADump) {
    const std::string text = file_text(dump_path("arm64-4k-39bit-2g.txt"));
    const json data = data_in(html_of(report_of_text(text), origin));
    ASSERT_EQ(data["maps"].size(), 1u);
    const json& map = data["maps"][0];
    // As worked out by hand in tests/golden/README.md: offset, length, leaf size, attributes.
    struct Line {
        std::uint64_t offset;
        std::uint64_t bytes;
        const char* size;
        const char* permission;
    };
    const std::vector<Line> expected = {
        {0x0, 512 * kib, "64K", "writable"},       {0x80000, 1536 * kib, "4K", "read-only"},
        {0x200000, 14 * mib, "2M", "read-only"},   {0x1000000, 1920 * kib, "4K", "read-only"},
        {0x11e0000, 128 * kib, "64K", "writable"}, {0x1200000, 14 * mib, "2M", "writable"},
        {0x2000000, 992 * mib, "32M", "writable"}, {0x40000000, gib, "1G", "writable"},
    };
    const std::vector<DecodedRun> runs = decoded(map);
    ASSERT_EQ(runs.size(), expected.size());
    for (std::size_t index = 0; index < runs.size(); ++index) {
        EXPECT_EQ(runs[index].start, 0xffffffc000000000 + expected[index].offset) << index;
        EXPECT_EQ(runs[index].span, expected[index].bytes) << index;
        EXPECT_EQ(runs[index].bytes, expected[index].bytes) << index;
        EXPECT_EQ(map["sizes"][runs[index].kind["size"].get<std::size_t>()]["name"], expected[index].size) << index;
        EXPECT_EQ(runs[index].kind["permission"], expected[index].permission) << index;
    }
    EXPECT_EQ(map["sizes"][0], (json{{"name", "1G"}, {"bytes", gib}, {"shade", 0}}));
    EXPECT_EQ(map["sizes"][4]["shade"], 4);
}

TEST(Report, TextFromOutsideCannotLeaveItsPlace) {
    Report report;
    report.title = "</script><script>alert(1)</script>@DATA@@SCRIPT@ & \"'";
    report.verdict = "<!--<script>";
    report.facts = {{"</SCRIPT >", "\xff\xfe", ""}};
    const std::string html = html_of(report, origin);
    const json data = data_in(html);
    EXPECT_EQ(data["title"], report.title);
    EXPECT_EQ(data["verdict"]["text"], report.verdict);
    EXPECT_THAT(html, HasSubstr("<title>&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;@DATA@@SCRIPT@ &amp;"));
    // Two script elements: the data and the page's own.
    const std::regex opening("<script", std::regex::icase);
    const std::regex closing("</script", std::regex::icase);
    EXPECT_EQ(std::distance(std::sregex_iterator(html.begin(), html.end(), opening), std::sregex_iterator()), 2);
    EXPECT_EQ(std::distance(std::sregex_iterator(html.begin(), html.end(), closing), std::sregex_iterator()), 2);
}

TEST(Report, NamesNothingThatWouldBeFetched) {
    const std::string html = html_of(report_of_text(file_text(dump_path("x86-64-desktop-32g.txt"))), origin);
    EXPECT_THAT(html, HasSubstr("default-src 'none'"));
    EXPECT_FALSE(std::regex_search(html, std::regex(R"((src|href)\s*=\s*["']?(https?:|//|/))")));
    EXPECT_THAT(html, Not(HasSubstr("@import")));
    EXPECT_THAT(html, Not(HasSubstr("url(")));
}

TEST(Report, APageOfALargeBrokenMapStaysSmall) {
    // 256 GiB in which 100,000 single pages are read-only.
    std::string text = "---[ Linear Mapping start ]---\n";
    std::mt19937_64 random(1);
    constexpr std::uint64_t pages = 256 * gib / 4096;
    constexpr std::uint64_t islands = 100000;
    std::uint64_t at = 0;
    for (std::uint64_t island = 0; island < islands; ++island) {
        const std::uint64_t page = island * (pages / islands) + 1 + random() % (pages / islands - 2);
        text += arm64_entry(0xffff000000000000 + at * 4096, (page - at) * 4096, "PTE", "RW NX SHD AF UXN MEM/NORMAL");
        text += arm64_entry(0xffff000000000000 + page * 4096, 4096, "PTE", "ro NX SHD AF UXN MEM/NORMAL");
        at = page + 1;
    }
    text += arm64_entry(0xffff000000000000 + at * 4096, (pages - at) * 4096, "PTE", "RW NX SHD AF UXN MEM/NORMAL");
    text += "---[ Linear Mapping end ]---\n";
    const std::string html = html_of(report_of_text(text), origin);
    EXPECT_LT(html.size(), 2 * mib);
    std::uint64_t bytes = 0;
    std::uint64_t read_only = 0;
    for (const DecodedRun& run : decoded(data_in(html)["maps"][0])) {
        bytes += run.bytes;
        if (run.kind["permission"] == "read-only") read_only += run.bytes;
        EXPECT_LE(run.bytes, run.span);
    }
    EXPECT_EQ(bytes, 256 * gib);
    EXPECT_EQ(read_only, islands * 4096);
}

TEST(Report, LongTimelinesAreThinnedToTheirWorstMoments) {
    Report report;
    ReportTimeline timeline{.title = "t", .note = {}, .further_metrics = {{"misses"}}, .series = {}};
    for (const char* name : {"a", "b"}) {
        ReportSeries series{.name = name, .detail = {}, .sizes = {gib, 4096}, .points = {}};
        for (std::uint64_t step = 0; step < 4500; ++step)
            series.points.push_back({.label = std::to_string(step),
                                     .milliseconds = step,
                                     .leaves = {1, step == 4321 ? 999 : step % 5},
                                     .table_bytes = 4096,
                                     .reach_bytes = 1,
                                     .further_metrics = {step}});
        timeline.series.push_back(std::move(series));
    }
    report.timelines.push_back(std::move(timeline));
    const json data = data_in(html_of(report, origin));
    for (const json& series : data["timelines"][0]["series"]) {
        EXPECT_EQ(series["points"].size(), 900u); // five steps each
        EXPECT_EQ(series["points"][864]["leaves"], 1000);
        EXPECT_EQ(series["points"][864]["metric0"], 4321);
    }
    EXPECT_THAT(data["timelines"][0]["note"].get<std::string>(), HasSubstr("Of each 5 steps"));
}

TEST(Report, EveryPermissionHasTheNameOfWhatMattersMost) {
    using namespace attribute;
    constexpr auto arm64 = DumpArchitecture::arm64;
    EXPECT_EQ(permission_name(writable, arm64), "writable");
    EXPECT_EQ(permission_name(0, arm64), "read-only");
    EXPECT_EQ(permission_name(executable, arm64), "executable");
    EXPECT_EQ(permission_name(executable | writable, arm64), "writable and executable");
    EXPECT_EQ(permission_name(executable | writable | invalid, arm64), "not accessible");
    EXPECT_EQ(permission_name(writable | realm_shared, arm64), "shared");
    EXPECT_EQ(permission_name(writable | key, arm64), "key");
    EXPECT_EQ(permission_name(writable | uncached, arm64), "not cached");
    EXPECT_EQ(permission_name(writable, DumpArchitecture::riscv), "not accessible");
    EXPECT_EQ(permission_name(writable | riscv_valid, DumpArchitecture::riscv), "writable");
}

// ---- The option

TEST(ReportOption, ThePageNamesTheCommandThatMadeItQuotedForAShell) {
    const TemporaryFolder folder;
    const std::string dump = folder.write("it's a dump.txt", file_text(dump_path("arm64-4k-39bit-2g.txt")));
    std::string quoted = dump;
    quoted.replace(quoted.find('\''), 1, "'\\''");
    const CommandResult result =
        run_command(fmt::format("analyze '{}' --report '{}'", quoted, folder.path("page.html")));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr("Healing would gain")); // the usual output is there all the same
    const json data = data_in(file_text(folder.path("page.html")));
    EXPECT_EQ(data["command"], fmt::format("directmap analyze '{}' --report {}", quoted, folder.path("page.html")));
    EXPECT_THAT(data["version"].get<std::string>(), StartsWith("directmap "));
    EXPECT_EQ(data["schema"], "directmap.report/1");
}

TEST(ReportOption, TheSameInputAndTimeGiveTheSamePage) {
    const TemporaryFolder folder;
    std::vector<std::string> pages;
    for (int round = 0; round < 2; ++round) {
        const CommandResult result = run_command(
            fmt::format("analyze --json '{}' --report '{}'", dump_path("riscv-sv48.txt"), folder.path("page.html")),
            "SOURCE_DATE_EPOCH=86400");
        EXPECT_EQ(result.exit_code, 0) << result.err;
        EXPECT_TRUE(json::accept(result.out)) << result.out;
        pages.push_back(file_text(folder.path("page.html")));
    }
    EXPECT_EQ(pages[0], pages[1]);
    EXPECT_EQ(data_in(pages[0])["made"], "1970-01-02 00:00 UTC");
}

TEST(ReportOption, APageThatCannotBeWrittenIsKnownBeforeTheWork) {
    for (const std::string& command : {std::string("run"), "analyze " + dump_path("riscv-sv48.txt"),
                                       fmt::format("diff {0} {0}", dump_path("riscv-sv48.txt"))}) {
        const CommandResult result = run_command(command + " --report /nonexistent/page.html");
        EXPECT_EQ(result.exit_code, 2) << command;
        EXPECT_EQ(result.err, "directmap: /nonexistent/page.html: can't be written: No such file or directory\n");
        EXPECT_EQ(result.out, "") << command;
    }
}

TEST(ReportOption, OneInputIsAPageAndManyAreNot) {
    const CommandResult result =
        run_command(fmt::format("analyze {0} {0} --report /nonexistent/page.html", dump_path("riscv-sv48.txt")));
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_EQ(result.err, "directmap: --report: a page shows one input, and these are 2; --json is for many\n");
}

TEST(ReportOption, EachDumpOfAnInputIsAMapOfItsOwn) {
    const TemporaryFolder folder;
    const CommandResult result = run_command(
        fmt::format("analyze {} --report '{}'", dump_path("arm64-16k-and-4k-kasan.txt"), folder.path("page.html")));
    const json data = data_in(file_text(folder.path("page.html")));
    ASSERT_EQ(data["maps"].size(), 2u) << result.err;
    // The one with the most memory comes first, and the figures are about it.
    EXPECT_EQ(data["maps"][0]["title"], "dump 2");
    EXPECT_THAT(data["title"].get<std::string>(), HasSubstr(", dump 2"));
    EXPECT_THAT(data["verdict"]["details"].dump(), HasSubstr("partial"));
}

TEST(ReportOption, APageOfADiffSaysWhatChangedOfEachRun) {
    const TemporaryFolder folder;
    const std::string whole = "---[ Linear Mapping start ]---\n" +
                              arm64_entry(0xffff000000000000, gib, "PUD", "RW NX SHD AF BLK UXN MEM/NORMAL") +
                              "---[ Linear Mapping end ]---\n";
    const std::string split = "---[ Linear Mapping start ]---\n" +
                              arm64_entry(0xffff000000000000, 4 * kib, "PTE", "ro NX SHD AF UXN MEM/NORMAL") +
                              arm64_entry(0xffff000000001000, 2 * mib - 4 * kib, "PTE", "RW NX SHD AF UXN MEM/NORMAL") +
                              arm64_entry(0xffff000000200000, gib - 2 * mib, "PMD", "RW NX SHD AF BLK UXN MEM/NORMAL") +
                              "---[ Linear Mapping end ]---\n";
    const CommandResult result = run_command(fmt::format("diff '{}' '{}' --report '{}'", folder.write("a", whole),
                                                         folder.write("b", split), folder.path("page.html")));
    EXPECT_EQ(result.exit_code, 1);
    const json data = data_in(file_text(folder.path("page.html")));
    EXPECT_THAT(data["verdict"]["text"].get<std::string>(), StartsWith("1 leaf split, 0 leaves healed; 4 KiB changed"));
    for (const DecodedRun& run : decoded(data["maps"][0]))
        EXPECT_EQ(run.kind["change"], static_cast<int>(ChangeKind::split)) << run.start;
}

TEST(ReportOption, APageOfAReplayHasTheVerdictAndEveryPolicysCourseAndMap) {
    const TemporaryFolder folder;
    const CommandResult result =
        run_command(fmt::format("replay builtin:example --json --report '{}'", folder.path("page.html")));
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const json replay = json::parse(result.out);
    const json data = data_in(file_text(folder.path("page.html")));
    EXPECT_EQ(data["verdict"]["text"], replay["verdict"]["text"]);
    const json& series = data["timelines"][0]["series"];
    ASSERT_EQ(series.size(), replay["policies"].size());
    EXPECT_EQ(data["maps"].size(), series.size());
    for (std::size_t index = 0; index < series.size(); ++index) {
        const json& moments = replay["policies"][index]["moments"];
        ASSERT_EQ(series[index]["points"].size(), moments.size());
        for (std::size_t moment = 0; moment < moments.size(); ++moment) {
            EXPECT_EQ(series[index]["points"][moment]["leaves"], moments[moment]["leaf_count"]);
            EXPECT_EQ(series[index]["points"][moment]["tables"], moments[moment]["table_bytes"]);
        }
    }
}

TEST(ReportOption, OneCpuIsNotCalledCpus) {
    const TemporaryFolder folder;
    const std::string map = folder.write("iomem", "80000000-bfffffff : System RAM\n");
    const std::string trace = folder.write("trace", "directmap.trace/1\n1 ro 0x80000000 1\n");
    for (const std::string& command :
         {fmt::format("run --scenario tiny --no-comparison"), fmt::format("replay '{}' --accesses none", trace)}) {
        const CommandResult result = run_command(
            fmt::format("{} --cpus 1 --memory-map '{}' --report '{}'", command, map, folder.path("page.html")));
        ASSERT_EQ(result.exit_code, 0) << result.err;
        const std::string data = data_in(file_text(folder.path("page.html"))).dump();
        EXPECT_THAT(data, HasSubstr("1 CPU\"")) << command;
    }
}

TEST(ReportOption, APageOfARunHasEveryPolicysCourseAndMap) {
    const TemporaryFolder folder;
    const std::string map = folder.write("map", "80000000-bfffffff : System RAM\n");
    const CommandResult result = run_command(
        fmt::format("run --json --scenario tiny --memory-map '{}' --report '{}'", map, folder.path("page.html")));
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const json run = json::parse(result.out);
    const json data = data_in(file_text(folder.path("page.html")));
    const json& series = data["timelines"][0]["series"];
    ASSERT_EQ(series.size(), run["runs"].size());
    ASSERT_EQ(data["maps"].size(), run["runs"].size());
    for (std::size_t index = 0; index < series.size(); ++index) {
        const json& steps = run["runs"][index]["steps"];
        ASSERT_EQ(series[index]["points"].size(), steps.size());
        for (std::size_t step = 0; step < steps.size(); ++step) {
            const json& point = series[index]["points"][step];
            EXPECT_EQ(point["leaves"], steps[step]["leaf_count"]);
            EXPECT_EQ(point["tables"], steps[step]["table_bytes"]);
            EXPECT_EQ(point["reach"], steps[step]["tlb_reach_bytes"]);
            EXPECT_EQ(point["label"], steps[step]["label"]);
        }
    }
    // The maps at the end are what the runs' own counts say, leaf size by leaf size; the one by pages comes last.
    for (std::size_t index = 0; index < data["maps"].size(); ++index) {
        const json& shown = data["maps"][index];
        const json& end = run["runs"][(index + 1) % run["runs"].size()]["end"];
        std::map<std::string, std::uint64_t> bytes;
        for (const DecodedRun& part : decoded(shown))
            bytes[shown["sizes"][part.kind["size"].get<std::size_t>()]["name"]] += part.bytes;
        for (const json& size : shown["sizes"])
            EXPECT_EQ(bytes[size["name"]] / size["bytes"].get<std::uint64_t>(), end["leaves"][size["name"]])
                << shown["title"] << " " << size["name"];
    }
}

} // namespace
} // namespace directmap::tool

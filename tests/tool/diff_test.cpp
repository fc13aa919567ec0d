#include "diff.hpp"

#include "diff_output.hpp"
#include "dump_support.hpp"

#include <algorithm>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <set>

namespace directmap::tool {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr std::uint64_t base = 0xffff000000000000;
constexpr std::string_view rw = "RW NX SHD AF            UXN    MEM/NORMAL";
constexpr std::string_view ro = "ro NX SHD AF            UXN    MEM/NORMAL";
constexpr std::string_view rw_block = "RW NX SHD AF        BLK UXN    MEM/NORMAL";

std::string direct_map(const std::string& entries) {
    return "---[ Linear Mapping start ]---\n" + entries + "---[ Linear Mapping end ]---\n";
}

/// 4 GiB by 1G blocks.
std::string whole(std::uint64_t start = base) {
    return direct_map(arm64_entry(start, 4 * gib, "PUD", rw_block));
}

/// The same with one read-only page in the second gigabyte.
std::string with_page(std::string_view attributes = ro, std::uint64_t start = base) {
    const std::uint64_t page = start + gib + 5 * mib;
    return direct_map(arm64_entry(start, gib, "PUD", rw_block) + arm64_entry(start + gib, 4 * mib, "PMD", rw_block) +
                      arm64_entry(start + gib + 4 * mib, mib, "PTE", rw) +
                      arm64_entry(page, 4 * kib, "PTE", attributes) +
                      arm64_entry(page + 4 * kib, mib - 4 * kib, "PTE", rw) +
                      arm64_entry(start + gib + 6 * mib, gib - 6 * mib, "PMD", rw_block) +
                      arm64_entry(start + 2 * gib, 2 * gib, "PUD", rw_block));
}

DumpDiff diff_of(const std::string& before, const std::string& after) {
    const TemporaryFolder folder;
    RereadableInput a(folder.write("before", before));
    RereadableInput b(folder.write("after", after));
    return diff_dumps(a, b, {});
}

std::string error_of_diff(const std::string& before, const std::string& after) {
    return error_of([&] { static_cast<void>(diff_of(before, after)); });
}

TEST(Diff, ADumpDoesNotDifferFromItself) {
    for (const char* name :
         {"arm64-4k-39bit-2g.txt", "arm64-4k-ampereone-12g-repainted.txt", "arm64-4k-phone-pages.txt",
          "arm64-vendor-variant-tbl.txt", "riscv-sv48.txt", "x86-64-desktop-32g.txt"}) {
        RereadableInput a(dump_path(name));
        RereadableInput b(dump_path(name));
        const DumpDiff diff = diff_dumps(a, b, {});
        EXPECT_TRUE(diff.same()) << name;
        EXPECT_EQ(diff.unchanged_bytes, diff.after.map.value().mapped_bytes) << name;
    }
}

TEST(Diff, ASplitLeafIsReportedWithThePageThatSplitIt) {
    const DumpDiff diff = diff_of(whole(), with_page());
    EXPECT_FALSE(diff.same());
    ASSERT_THAT(diff.split.list, SizeIs(1));
    const LeafChange& split = diff.split.list[0];
    EXPECT_EQ(split.start, base + gib);
    EXPECT_EQ(split.size, gib);
    EXPECT_EQ(split.parts[size_index(4 * kib)], 512u);
    EXPECT_EQ(split.parts[size_index(2 * mib)], 511u);
    EXPECT_EQ(split.cause_start, base + gib + 5 * mib);
    EXPECT_EQ(split.cause_bytes, 4 * kib);
    EXPECT_EQ(split.permission_changes, 1u);
    EXPECT_EQ(diff.split.bytes, gib);
    EXPECT_EQ(diff.permission_bytes, 4 * kib);
    EXPECT_EQ(diff.unchanged_bytes, 3 * gib);
}

TEST(Diff, TheOtherWayRoundTheLeafHealed) {
    const DumpDiff diff = diff_of(with_page(), whole());
    EXPECT_EQ(diff.split.bytes, 0u);
    ASSERT_THAT(diff.healed.list, SizeIs(1));
    EXPECT_EQ(diff.healed.list[0].start, base + gib);
    EXPECT_EQ(diff.healed.list[0].parts[size_index(2 * mib)], 511u);
    EXPECT_EQ(diff.permission_bytes, 4 * kib);
}

TEST(Diff, APageThatWasTakenOutOfTheMapSplitItsLeaf) {
    std::string after = with_page();
    const std::size_t line = after.find(" ro NX");
    after.erase(line, after.find('\n', line) - line); // the page is a hole now
    const DumpDiff diff = diff_of(whole(), after);
    EXPECT_EQ(diff.unmapped.bytes, 4 * kib);
    EXPECT_EQ(diff.split.bytes, gib - 4 * kib);
    ASSERT_THAT(diff.split.list, SizeIs(1));
    EXPECT_EQ(diff.split.list[0].permission_changes, 1u);
    EXPECT_EQ(diff.split.list[0].cause_start, base + gib + 5 * mib);
    EXPECT_EQ(diff.split.list[0].cause_after, 0u);
    EXPECT_EQ(diff.split.count(), 1u);
}

TEST(Diff, WholeLeavesThatAreGoneAreNoSplits) {
    const DumpDiff diff = diff_of(whole(), direct_map(arm64_entry(base, 3 * gib, "PUD", rw_block)));
    EXPECT_EQ(diff.split.count(), 0u);
    EXPECT_EQ(diff.unmapped.bytes, gib);
    ASSERT_THAT(diff.unmapped.list, SizeIs(1));
    EXPECT_EQ(diff.unmapped.list[0].start, base + 3 * gib);
}

TEST(Diff, AMapThatMovedIsComparedByDistance) {
    const DumpDiff diff = diff_of(whole(), with_page(ro, base + 40 * gib));
    EXPECT_TRUE(diff.moved);
    EXPECT_EQ(diff.split.list.at(0).start, base + gib);                      // where the large leaf was
    EXPECT_EQ(diff.split.list.at(0).cause_start, base + 41 * gib + 5 * mib); // where the page is
    EXPECT_EQ(diff.mapped.bytes, 0u);
    EXPECT_EQ(diff.unchanged_bytes, 3 * gib);
}

TEST(Diff, ManyLeavesAreCountedInFullWhenTheListIsFull) {
    const TemporaryFolder folder;
    RereadableInput a(folder.write("before", direct_map(arm64_entry(base, 64 * gib, "PUD", rw_block))));
    RereadableInput b(folder.write("after", direct_map(arm64_entry(base, 64 * gib, "PMD", rw_block))));
    DiffOptions options;
    options.listed = 3;
    const DumpDiff diff = diff_dumps(a, b, options);
    EXPECT_EQ(diff.split.count(), 64u);
    EXPECT_THAT(diff.split.list, SizeIs(3));
    EXPECT_EQ(diff.split.list[2].parts[size_index(2 * mib)], 512u);
}

TEST(Diff, TheDumpOfAFileIsChosenByNumber) {
    const TemporaryFolder folder;
    const std::string both = folder.write("both", whole() + with_page());
    const std::string error = error_of([&] {
        RereadableInput a(both);
        RereadableInput b(both);
        static_cast<void>(diff_dumps(a, b, {}));
    });
    EXPECT_EQ(error, fmt::format("{0}: holds 2 dumps with a direct map; say which one: {0}#1", both));
    RereadableInput a(both + "#1");
    RereadableInput b(both + "#2");
    EXPECT_EQ(diff_dumps(a, b, {}).split.count(), 1u);
    const std::string text = run_command(fmt::format("diff '{0}#1' '{0}#2'", both)).out;
    EXPECT_THAT(text, HasSubstr(fmt::format("{0}#1 -> {0}#2\n", both)));
    const std::string of_two_hosts = dump_path("arm64-16k-and-4k-kasan.txt");
    const std::string refused = run_command(fmt::format("diff '{0}#1' '{0}#2'", of_two_hosts)).err;
    EXPECT_THAT(refused, HasSubstr("kasan.txt#2: is a dump of arm64 with 4K pages, but "));
    EXPECT_THAT(refused, HasSubstr("kasan.txt#1 is one of arm64 with 16K pages"));
    EXPECT_EQ(error_of([&] {
                  RereadableInput c(both + "#3");
                  RereadableInput d(both + "#2");
                  static_cast<void>(diff_dumps(c, d, {}));
              }),
              fmt::format("{}: has no dump 3; it has 2 dumps", both));
}

TEST(Diff, DumpsThatCannotBeOfOneHostAreRefused) {
    RereadableInput a(dump_path("x86-64-desktop-32g.txt"));
    RereadableInput b(dump_path("arm64-4k-39bit-2g.txt"));
    EXPECT_THAT(error_of([&] { static_cast<void>(diff_dumps(a, b, {})); }),
                HasSubstr("is a dump of arm64 with 4K pages, but"));
}

TEST(Diff, ABadLineIsRefusedNotComparedAround) {
    const std::string overlapping =
        direct_map(arm64_entry(base, 4 * gib, "PUD", rw_block) + arm64_entry(base + gib, gib, "PUD", rw_block));
    EXPECT_THAT(error_of_diff(whole(), overlapping), HasSubstr("after:3: overlaps line 2"));
    EXPECT_THAT(error_of_diff("nothing\n", whole()), HasSubstr("no line of a page-table dump"));
    EXPECT_THAT(error_of_diff(whole(), file_text(dump_path("x86-64-holes.txt"))), HasSubstr("no direct map"));
}

TEST(DiffCommand, ReadsOneOfItsInputsFromAPipe) {
    const TemporaryFolder folder;
    const std::string before = folder.write("before", whole());
    const std::string after = folder.write("after", with_page());
    const CommandResult same = run_command(fmt::format("diff '{}' -", before), fmt::format("cat '{}' |", before));
    EXPECT_EQ(same.exit_code, 0) << same.err;
    EXPECT_THAT(same.out, HasSubstr("No difference"));
    const CommandResult result =
        run_command(fmt::format("diff '{}' - --json", before), fmt::format("cat '{}' |", after));
    EXPECT_EQ(result.exit_code, 1) << result.err;
    const json found = json::parse(result.out);
    EXPECT_EQ(found["schema"], "directmap.diff/1");
    EXPECT_EQ(found["split"]["leaves"]["1G"], 1);
    EXPECT_EQ(found["split"]["list"][0]["into"]["2M"], 511);
    EXPECT_EQ(found["split"]["list"][0]["cause"]["after"], "ro NX SHD AF UXN MEM/NORMAL");
    EXPECT_EQ(found["permissions"]["bytes"], 4096);
    EXPECT_EQ(found["same"], false);
}

TEST(DiffCommand, TellsPeopleWhatSplitAndWhy) {
    const TemporaryFolder folder;
    const std::string before = folder.write("before", whole());
    const std::string after = folder.write("after", with_page());
    const CommandResult result = run_command(fmt::format("diff '{}' '{}'", before, after));
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.out, HasSubstr("Split: 1 leaf (1 x 1G), 1 GiB of memory"));
    EXPECT_THAT(result.out, HasSubstr("1G leaf at 0xffff000040000000 is now 511 x 2M, 512 x 4K"));
    EXPECT_THAT(result.out, HasSubstr("4 KiB at 0xffff000040500000: ro instead of RW"));
    EXPECT_EQ(result.err, "");
}

TEST(DiffCommand, BadInputIsExitCode2AndOneLine) {
    const CommandResult result = run_command("diff /no/such/file " + dump_path("riscv-sv48.txt"));
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_EQ(result.err, "directmap: /no/such/file: can't be opened: No such file or directory\n");
    EXPECT_EQ(result.out, "");
    // By the names that the usage has.
    EXPECT_EQ(run_command("diff").err, "directmap: A is required (see directmap diff --help)\n");
    EXPECT_EQ(run_command("diff one.txt").err, "directmap: B is required (see directmap diff --help)\n");
    EXPECT_THAT(run_command("diff --help").out, HasSubstr("Usage: directmap diff [OPTIONS] A B\n"));
}

// ---- Against a comparison page by page

struct Page {
    unsigned attributes = 0; ///< 0: not mapped
    std::uint64_t leaf_size = 0;
    friend bool operator==(const Page&, const Page&) = default;
};

constexpr std::array<std::string_view, 3> words = {"RW NX SHD AF {} UXN MEM/NORMAL", "ro NX SHD AF {} UXN MEM/NORMAL",
                                                   "F RW NX SHD AF {} UXN MEM/NORMAL"};

/// Random pages, and the text of a dump that maps them.
std::pair<std::vector<Page>, std::string> random_map(std::size_t page_count) {
    std::vector<Page> pages(page_count);
    std::string text;
    for (std::size_t page = 0; page < page_count;) {
        const auto length = *rc::gen::element<std::size_t>(1, 5, 16, 100, 512, 1024, 8192);
        const auto attributes = *rc::gen::weightedElement<unsigned>({{1, 0}, {6, 1}, {2, 2}, {1, 3}});
        const auto largest = *rc::gen::element<std::uint64_t>(4 * kib, 64 * kib, 2 * mib, 32 * mib);
        const std::size_t end = std::min(page_count, page + length);
        while (page < end) {
            std::uint64_t size = 4 * kib;
            for (const std::uint64_t candidate : {64 * kib, 2 * mib, 32 * mib}) {
                const std::size_t pages_of_it = candidate / (4 * kib);
                if (candidate <= largest && page % pages_of_it == 0 && page + pages_of_it <= end) size = candidate;
            }
            const std::size_t count = size / (4 * kib);
            const std::string_view shape = size == 64 * kib   ? "CON    "
                                           : size == 32 * mib ? "CON BLK"
                                           : size == 2 * mib  ? "    BLK"
                                                              : "       ";
            if (attributes != 0) {
                text += arm64_entry(base + page * 4 * kib, size, size < 2 * mib ? "PTE" : "PMD",
                                    fmt::format(fmt::runtime(words[attributes - 1]), shape));
                std::fill_n(pages.begin() + static_cast<std::ptrdiff_t>(page), count, Page{attributes, size});
            }
            page += count;
        }
    }
    return {pages, direct_map(text)};
}

RC_GTEST_PROP(Diff, RandomMapsDifferAsTheirPagesDo, ()) {
    constexpr std::size_t page_count = 12000;
    const auto [before, before_text] = random_map(page_count);
    const auto [after, after_text] = random_map(page_count);
    const auto is_mapped = [](const Page& page) { return page.attributes != 0; };
    if (std::ranges::none_of(before, is_mapped) || std::ranges::none_of(after, is_mapped)) RC_DISCARD("nothing mapped");

    std::uint64_t split = 0, healed = 0, permission = 0, mapped = 0, unmapped = 0, unchanged = 0;
    std::set<std::pair<std::uint64_t, std::uint64_t>> split_leaves, healed_leaves;
    for (std::size_t page = 0; page < page_count; ++page) {
        const Page& a = before[page];
        const Page& b = after[page];
        const std::uint64_t at = page * 4 * kib;
        if (a.attributes == 0 || b.attributes == 0) {
            mapped += b.attributes != 0;
            unmapped += a.attributes != 0;
            continue;
        }
        permission += a.attributes != b.attributes;
        split += b.leaf_size < a.leaf_size;
        healed += a.leaf_size < b.leaf_size;
        unchanged += a == b;
        if (b.leaf_size < a.leaf_size) split_leaves.emplace(at / a.leaf_size, a.leaf_size);
        if (a.leaf_size < b.leaf_size) healed_leaves.emplace(at / b.leaf_size, b.leaf_size);
    }
    const TemporaryFolder folder;
    RereadableInput a(folder.write("before", before_text));
    RereadableInput b(folder.write("after", after_text));
    DiffOptions options;
    options.analyze.granule = 4 * kib;
    const DumpDiff diff = diff_dumps(a, b, options);
    RC_ASSERT(diff.split.bytes == split * 4 * kib);
    RC_ASSERT(diff.healed.bytes == healed * 4 * kib);
    RC_ASSERT(diff.permission_bytes == permission * 4 * kib);
    RC_ASSERT(diff.mapped.bytes == mapped * 4 * kib);
    RC_ASSERT(diff.unmapped.bytes == unmapped * 4 * kib);
    RC_ASSERT(diff.unchanged_bytes == unchanged * 4 * kib);
    RC_ASSERT(diff.split.count() == split_leaves.size());
    RC_ASSERT(diff.healed.count() == healed_leaves.size());
    RC_ASSERT(diff.same() == (before == after));
}

} // namespace
} // namespace directmap::tool

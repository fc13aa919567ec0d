#include "dump.hpp"

#include "dump_support.hpp"

#include <algorithm>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

namespace directmap::tool {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr std::string_view two_lines =
    "0xffff000000000000-0xffff000000200000           2M PTE       RW NX SHD AF            UXN    MEM/NORMAL\n"
    "0xffff000000200000-0xffff000000400000           2M PMD       ro NX SHD AF        BLK UXN    MEM/NORMAL\n";

/// Every line of the text with something in front.
std::string prefixed(std::string_view text, std::string_view prefix) {
    std::string result;
    while (!text.empty()) {
        const std::size_t end = text.find('\n') + 1;
        result += prefix;
        result += text.substr(0, end);
        text.remove_prefix(end);
    }
    return result;
}

void expect_two_lines(const ReadDump& dump) {
    ASSERT_THAT(dump.lines, SizeIs(2));
    EXPECT_THAT(dump.problems, IsEmpty());
    EXPECT_EQ(dump.lines[0].start, 0xffff000000000000);
    EXPECT_EQ(dump.lines[0].last, 0xffff0000001fffff);
    EXPECT_EQ(dump.lines[0].level, DumpLevel::pte);
    EXPECT_EQ(dump.lines[1].level, DumpLevel::pmd);
    EXPECT_THAT(dump.attributes, ElementsAre("RW NX SHD AF UXN MEM/NORMAL", "ro NX SHD AF UXN MEM/NORMAL"));
}

// ---- What people put in front of lines, and what mail programs do to them

TEST(DumpReader, ReadsTheKernelsOwnFormat) {
    expect_two_lines(read_dump(two_lines));
}

TEST(DumpReader, LooksBehindLogTimesQuoteMarksAndGrepsFileNames) {
    for (const std::string_view prefix :
         {"[    0.009704] ", "[   11.543186][    T0] ", "> ", ">> > ", "| ",
          "kernel_page_tables:", "a/b.txt:17:", "Mar  3 12:00:01 host kernel: [    5.000000] ", "<6>[    5.000000] ",
          "    ", "\t", "01-01 00:00:00.000  0  0 I "})
        expect_two_lines(read_dump(prefixed(two_lines, prefix)));
}

TEST(DumpReader, ReadsLinesThatEndAsWindowsEndsThem) {
    std::string text(two_lines);
    for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos; at += 2) text.insert(at, 1, '\r');
    expect_two_lines(read_dump(text));
}

TEST(DumpReader, TakesNoBreakBlanksForBlanks) {
    std::string text;
    for (const char c : two_lines) text += c == ' ' ? "\xc2\xa0" : std::string(1, c);
    expect_two_lines(read_dump(text));
}

TEST(DumpReader, JoinsLinesThatAMailProgramWrappedAtAnyBlank) {
    // Each blank of the first line in turn becomes a line end, with and without a quote mark behind it.
    const std::string text(two_lines);
    const std::size_t first_end = text.find('\n');
    for (std::size_t at = text.find(' '); at < first_end; at = text.find(' ', at + 1)) {
        if (text[at + 1] == ' ') continue;
        for (const std::string_view wrap : {"\n", "\n> ", "\r\n"}) {
            std::string wrapped = text;
            wrapped.replace(at, 1, wrap);
            SCOPED_TRACE(wrapped);
            expect_two_lines(read_dump(wrapped));
        }
    }
}

TEST(DumpReader, DoesNotTakeProseForAWrappedRest) {
    const ReadDump dump =
        read_dump("0xffff000000000000-0xffff000000200000           2M PMD\nNX of these pages is what puzzles me.\n" +
                  std::string(two_lines.substr(two_lines.find('\n') + 1)));
    ASSERT_THAT(dump.lines, SizeIs(2));
    EXPECT_EQ(dump.lines[0].entry, DumpEntry::hole);
}

TEST(DumpReader, JoinsTheDigitsOfAnAddressThatWasTakenApart) {
    const ReadDump dump = read_dump("0xffff80 00 0000 0000-0xffff8000 00210000        2112K PTE       RW NX SHD AF\n");
    ASSERT_THAT(dump.lines, SizeIs(1));
    EXPECT_EQ(dump.lines[0].start, 0xffff800000000000);
    EXPECT_EQ(dump.lines[0].last, 0xffff80000020ffff);
}

TEST(DumpReader, IgnoresRemarksBehindALine) {
    const ReadDump dump =
        read_dump("0xffff000000000000-0xffff000000200000 2M PMD RW NX SHD AF BLK UXN MEM/NORMAL <-- here\n"
                  "0xffff000000200000-0xffff000000400000 2M PMD RW NX SHD AF BLK UXN MEM/NORMAL ok?\n");
    EXPECT_THAT(dump.attributes, ElementsAre("RW NX SHD AF UXN MEM/NORMAL", "RW NX SHD AF UXN MEM/NORMAL"));
}

TEST(DumpReader, PassesOverOtherRangesThatKernelLogsHave) {
    const ReadDump dump =
        read_dump("[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable\n"
                  "[    0.000000] NODE_DATA(0) allocated [mem 0x43dfd5000-0x43dffffff]\n"
                  "[    0.000000] 0x0000000000000000-0x0000000000001000\n"
                  "0xffffb0e240000000-0xffffb0e240005000   20480 bpf_prog_alloc_no_stats+0x34/0x188 pages=4 vmalloc\n" +
                  prefixed(two_lines, "[    1.000000] "));
    expect_two_lines(dump);
}

// ---- Formats

TEST(DumpReader, KnowsTheShapeOfLeavesFromTheirAttributes) {
    const ReadDump dump = read_dump(
        "0xffffff8008080000-0xffffff8008200000        1536K PTE       ro x  SHD AF NG CON     UXN MEM/NORMAL\n"
        "0xffffff8008200000-0xffffff8008c00000          10M PMD       ro x  SHD AF NG     BLK UXN DEVICE/nGnRE\n"
        "0xffffff8008c00000-0xffffff8008e00000           2M PMD\n"
        "0xffffff8008e00000-0xffffff8008e01000           4K PTE F     RW NX SHD AF            UXN    "
        "MEM/NORMAL-TAGGED\n");
    ASSERT_THAT(dump.lines, SizeIs(4));
    EXPECT_TRUE(dump.lines[0].contiguous);
    EXPECT_FALSE(dump.lines[1].contiguous);
    EXPECT_EQ(dump.lines[2].entry, DumpEntry::hole);
    EXPECT_TRUE(is_executable(dump.lines[0].attributes));
    EXPECT_FALSE(is_writable(dump.lines[0].attributes));
    EXPECT_NE(dump.lines[1].attributes & attribute::device, 0u);
    EXPECT_TRUE(is_present_invalid(dump.lines[3].attributes, DumpArchitecture::arm64));
    EXPECT_THAT(dump.attributes, ElementsAre("ro x SHD AF NG UXN MEM/NORMAL", "ro x SHD AF NG UXN DEVICE/nGnRE", "",
                                             "F RW NX SHD AF UXN MEM/NORMAL-TAGGED"));
}

TEST(DumpReader, ReadsWhatOurEngineSaysBeyondKernels) {
    const ReadDump dump = read_dump(
        "0xffff000000000000-0xffff000000200000   2M PMD RW NX SHD AF     BLK UXN    MEM/NORMAL SHARED KEY3\n");
    EXPECT_THAT(dump.attributes, ElementsAre("RW NX SHD AF UXN MEM/NORMAL SHARED KEY3"));
}

TEST(DumpReader, KeepsWordsItDoesNotKnowApart) {
    const ReadDump dump =
        read_dump("0xffff000000000000-0xffff000000001000 4K PTE RW NX NEW SHD AF UXN MEM/NORMAL\n"
                  "0xffff000000001000-0xffff000000002000 4K PTE RW NX SHD AF UXN MEM/NORMAL\n"
                  "0xffff000000002000-0xffff000000003000 4K PTE RW NX NEW SHD AF UXN MEM/NORMAL-XL\n");
    ASSERT_THAT(dump.lines, SizeIs(3));
    EXPECT_NE(dump.lines[0].attributes, dump.lines[1].attributes);
    EXPECT_THAT(dump.attributes, ElementsAre("RW NX SHD AF UXN MEM/NORMAL NEW", "RW NX SHD AF UXN MEM/NORMAL",
                                             "RW NX SHD AF UXN NEW MEM/NORMAL-XL"));
}

TEST(DumpReader, ReadsX86WhereTheLevelComesLast) {
    const ReadDump dump =
        read_dump("0xffff999900000000-0xffff999900200000           2M     RW                 GLB NX pte\n"
                  "0xffff999900200000-0xffff999909c00000         154M     RW         PSE     GLB NX pmd\n"
                  "0xffff999909c00000-0xffff999909c00200         512B                               pte\n"
                  "0xffff999909d00000-0xffff999909e00000           1M                               pte\n");
    ASSERT_THAT(dump.lines, SizeIs(3));
    EXPECT_EQ(dump.lines[1].architecture, DumpArchitecture::x86_64);
    EXPECT_EQ(dump.lines[1].level, DumpLevel::pmd);
    EXPECT_EQ(dump.lines[2].entry, DumpEntry::hole);
    EXPECT_THAT(dump.attributes, ElementsAre("RW GLB NX", "RW GLB NX", ""));
    ASSERT_THAT(dump.problems, SizeIs(1)); // half a page
    EXPECT_EQ(dump.problems[0].line, 3u);
}

TEST(DumpReader, ReadsTheExtraColumnOfRiscv) {
    const ReadDump dump = read_dump(file_text(dump_path("riscv-sv48.txt")));
    ASSERT_THAT(dump.lines, SizeIs(12));
    EXPECT_THAT(dump.problems, IsEmpty());
    const DumpLine& line = dump.lines.back();
    EXPECT_EQ(line.architecture, DumpArchitecture::riscv);
    EXPECT_EQ(line.start, 0xffffc00000000000);
    EXPECT_EQ(line.physical, 0x80200000u);
    EXPECT_TRUE(line.has_physical);
    EXPECT_TRUE(is_writable_executable(line.attributes, line.architecture));
    EXPECT_EQ(dump.attributes.back(), "D A X W R V");
}

TEST(DumpReader, TellsInclusiveEndsFromExclusiveOnesByTheSize) {
    const ReadDump dump = read_dump(file_text(dump_path("arm64-vendor-variant-tbl.txt")));
    ASSERT_THAT(dump.lines, SizeIs(13));
    EXPECT_THAT(dump.problems, IsEmpty());
    EXPECT_EQ(dump.lines[1].entry, DumpEntry::table);
    EXPECT_EQ(dump.lines[1].last, UINT64_MAX);
    EXPECT_EQ(dump.lines[5].last, 0xffff1b39801fffffu);
    EXPECT_EQ(dump.attributes[8], "ro NX SHD AF NG UXN MEM/NORMAL"); // printed as RO
}

TEST(DumpReader, TakesAnEndOfZeroForTheEndOfTheAddressSpace) {
    const ReadDump dump = read_dump("0xffffffffff800000-0x0000000000000000           8M PMD\n");
    ASSERT_THAT(dump.lines, SizeIs(1));
    EXPECT_EQ(dump.lines[0].last, UINT64_MAX);
}

TEST(DumpReader, ReadsALineThatCoversNearlyAllAddresses) {
    const ReadDump dump = read_dump(file_text(dump_path("arm64-4k-phone-pages.txt")));
    ASSERT_THAT(dump.lines, SizeIs(25));
    EXPECT_THAT(dump.problems, IsEmpty());
    EXPECT_EQ(dump.lines[0].start, 0u);
    EXPECT_EQ(dump.lines[0].last, 0xffff607fffffffffu);
}

TEST(DumpReader, HandsOutMarkersAsTheyArePrinted) {
    const ReadDump dump = read_dump("> ---[ Linear Mapping start ]---\n" + prefixed(two_lines, "> ") +
                                    "> ---[ Linear Mapping end ]---\n");
    EXPECT_THAT(dump.markers, ElementsAre("Linear Mapping start", "Linear Mapping end"));
}

TEST(DumpReader, ReportsLinesThatTheKernelSkipped) {
    const ReadDump dump = read_dump("0xffff999900000000-0xffff999900200000   2M     RW     GLB NX pte\n"
                                    "... 12 entries skipped ... \n");
    ASSERT_THAT(dump.problems, SizeIs(1));
    EXPECT_EQ(dump.problems[0].kind, DumpProblem::Kind::skipped);
    EXPECT_THAT(dump.problems[0].reason, HasSubstr("12"));
}

// ---- Several dumps in one input

TEST(DumpReader, FindsTheSecondDumpOfAFile) {
    const ReadDump dump = read_dump(file_text(dump_path("arm64-16k-and-4k-kasan.txt")));
    EXPECT_THAT(dump.lines, SizeIs(61));
    EXPECT_THAT(dump.dump_starts, ElementsAre(0u, 29u));
    EXPECT_THAT(dump.problems, IsEmpty());
}

TEST(DumpReader, StartsAnotherDumpWhenAMarkerComesAgainAtHigherAddresses) {
    const std::string first =
        "---[ Linear Mapping start ]---\n" + std::string(two_lines) + "---[ Linear Mapping end ]---\n";
    const std::string second = "---[ Linear Mapping start ]---\n" +
                               arm64_entry(0xffff700000000000, 2 * mib, "PMD", "RW NX SHD AF BLK UXN MEM/NORMAL");
    EXPECT_THAT(read_dump(first + second).dump_starts, ElementsAre(0u, 2u));
}

TEST(DumpReader, StartsAnotherDumpWhereTheSameOneBeginsAgain) {
    EXPECT_THAT(read_dump(std::string(two_lines) + std::string(two_lines)).dump_starts, ElementsAre(0u, 2u));
}

// ---- Bad input

TEST(DumpReader, SaysWhichLinesOverlap) {
    const ReadDump dump = read_dump(arm64_entry(0xffff000000000000, 4 * mib, "PMD", "RW NX SHD AF BLK UXN MEM/NORMAL") +
                                    arm64_entry(0xffff000000200000, 4 * mib, "PMD", "RW NX SHD AF BLK UXN MEM/NORMAL"));
    EXPECT_THAT(dump.lines, SizeIs(1));
    ASSERT_THAT(dump.problems, SizeIs(1));
    EXPECT_EQ(dump.problems[0].kind, DumpProblem::Kind::bad);
    EXPECT_EQ(dump.problems[0].line, 2u);
    EXPECT_EQ(dump.problems[0].reason,
              "overlaps line 1, which ends at 0xffff000000400000; expected addresses in ascending order");
}

TEST(DumpReader, TakesALineThatComesTwiceForAnOverlap) {
    const std::string line = arm64_entry(0xffff000000000000, 4 * mib, "PMD", "RW NX SHD AF BLK UXN MEM/NORMAL");
    EXPECT_THAT(read_dump(line + line).problems, SizeIs(1));
}

TEST(DumpReader, SaysWhatIsWrongWithARange) {
    const auto reason = [](std::string_view text) {
        const ReadDump dump = read_dump(text);
        return dump.problems.size() == 1 ? dump.problems[0].reason : fmt::format("{} problems", dump.problems.size());
    };
    EXPECT_EQ(reason("0xffff000000200000-0xffff000000000000   2M PMD\n"),
              "the range ends at 0xffff000000000000, before it starts at 0xffff000000200000");
    EXPECT_EQ(reason("0xffff000000000000-0xffff000000200000   4M PMD\n"),
              "0xffff000000000000 to 0xffff000000200000 is 2M long, but the line says 4M");
    EXPECT_EQ(reason("0xffff000000000000-0xffff000000000000   2M PMD\n"),
              "0xffff000000000000 to 0xffff000000000000 is empty");
    EXPECT_EQ(reason("0xffff000000000800-0xffff000000001800   4K PTE\n"),
              "0xffff000000000800 to 0xffff000000001800 is not made of whole pages");
    EXPECT_EQ(reason("0xffff000000000000-0xffff000000200000   2M XYZ   RW NX\n"),
              "`XYZ` where a level was expected: PGD, P4D, PUD, PMD or PTE, in capitals or not");
    EXPECT_EQ(reason("0xffff000000000000-0xffff000000200000   2M\nand then nothing\n"),
              "no level behind the size; expected PGD, P4D, PUD, PMD or PTE, in capitals or not");
}

TEST(DumpReader, AnInputThatStopsInsideALineIsCutOffNotWrong) {
    const std::string whole = std::string(two_lines.substr(0, two_lines.size() - 1));
    const std::size_t second = whole.find('\n') + 1;
    for (std::size_t size = second + 3; size < whole.size(); ++size) {
        SCOPED_TRACE(whole.substr(0, size));
        const ReadDump dump = read_dump(std::string_view(whole).substr(0, size));
        for (const DumpProblem& problem : dump.problems) EXPECT_EQ(problem.kind, DumpProblem::Kind::missing);
        // Up to the level, the second line could be a hole; before that and behind it something is missing.
        const std::size_t attributes = whole.find("ro NX", second);
        const bool could_be_hole = size >= whole.find("PMD", second) + 3 && size <= attributes;
        EXPECT_EQ(dump.lines.size(), could_be_hole ? 2u : 1u);
        EXPECT_EQ(dump.problems.size(), could_be_hole ? 0u : 1u);
    }
    expect_two_lines(read_dump(whole));
}

TEST(DumpReader, RefusesWhatIsNotText) {
    using namespace std::string_view_literals;
    const auto error = [](std::string_view text) { return error_of([&] { static_cast<void>(read_dump(text)); }); };
    EXPECT_EQ(error(""), "FILE: empty; expected the text of a page-table dump");
    EXPECT_EQ(error("ab\0cd\n"sv), "FILE:1: binary data (a zero byte); expected the text of a page-table dump");
    EXPECT_THAT(error("\x1f\x8b\x08\0"sv), HasSubstr("compressed data; unpack it first"));
    EXPECT_THAT(error("\x28\xb5\x2f\xfd\0"sv), HasSubstr("compressed data"));
    EXPECT_THAT(error("\xff\xfe"
                      "a\0"sv),
                HasSubstr("UTF-16"));
    EXPECT_THAT(error(std::string(200000, 'x')), HasSubstr("FILE:1: a line of more than 64 KiB"));
    EXPECT_THAT(error(std::string(200000, '\0')), HasSubstr("binary data"));
}

TEST(DumpReader, AcceptsALogThatACrashCutOffWithZeros) {
    const ReadDump dump = read_dump(std::string(two_lines) + std::string(100, '\0') + "\n");
    EXPECT_THAT(dump.lines, SizeIs(2));
    ASSERT_THAT(dump.problems, SizeIs(1));
    EXPECT_EQ(dump.problems[0].kind, DumpProblem::Kind::missing);
}

TEST(DumpReader, SaysWhyAFileCannotBeOpened) {
    const auto error = [](const std::string& path) { return error_of([&] { static_cast<void>(open_source(path)); }); };
    EXPECT_EQ(error("/no/such/file"), "/no/such/file: can't be opened: No such file or directory");
    EXPECT_EQ(error("/"), "/: is a directory");
}

// ---- Properties

/// A source that hands out pieces of any size.
class PieceSource final : public ByteSource {
public:
    PieceSource(std::string_view text, std::vector<std::uint8_t> sizes) : rest_(text), sizes_(std::move(sizes)) {}
    std::size_t read(std::span<char> buffer) override {
        const std::size_t wish = sizes_.empty() ? 1 : 1u + sizes_[next_++ % sizes_.size()];
        const std::size_t size = std::min({wish, rest_.size(), buffer.size()});
        std::copy_n(rest_.begin(), size, buffer.begin());
        rest_.remove_prefix(size);
        return size;
    }

private:
    std::string_view rest_;
    std::vector<std::uint8_t> sizes_;
    std::size_t next_ = 0;
};

RC_GTEST_PROP(DumpReader, ReadsTheSameInWhateverPiecesTheBytesCome, (const std::vector<std::uint8_t>& sizes)) {
    const std::string text = file_text(dump_path("arm64-4k-phone-pages.txt"));
    const ReadDump whole = read_dump(text);
    PieceSource source(text, sizes);
    DumpVocabulary vocabulary;
    DumpReader reader(source, "FILE", vocabulary);
    std::size_t lines = 0;
    for (DumpEvent event = reader.next(); event != DumpEvent::end; event = reader.next()) {
        if (event != DumpEvent::line) continue;
        RC_ASSERT(lines < whole.lines.size());
        RC_ASSERT(reader.line().start == whole.lines[lines].start);
        RC_ASSERT(reader.line().attributes == whole.lines[lines].attributes);
        RC_ASSERT(reader.line().number == whole.lines[lines].number);
        ++lines;
    }
    RC_ASSERT(lines == whole.lines.size());
}

RC_GTEST_PROP(DumpReader, SurvivesAnyDamageToADump, (const std::vector<std::pair<std::uint16_t, char>>& damages)) {
    std::string text = file_text(dump_path("x86-64-desktop-32g.txt"));
    for (const auto& [where, what] : damages) text[where % text.size()] = what;
    try {
        std::uint64_t last = 0;
        std::size_t index = 0;
        const ReadDump dump = read_dump(text);
        for (const DumpLine& line : dump.lines) {
            RC_ASSERT(line.start <= line.last);
            const bool starts_dump = std::ranges::find(dump.dump_starts, index++) != dump.dump_starts.end();
            RC_ASSERT(starts_dump || line.entry == DumpEntry::table || line.start > last);
            if (line.entry != DumpEntry::table) last = line.last;
        }
    } catch (const InputError&) {
        // Zero bytes can make it no text at all.
    }
}

} // namespace
} // namespace directmap::tool

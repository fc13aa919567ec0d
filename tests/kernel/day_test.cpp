// A day as a file: what the reference kernel reads.
#include "pure/day.hpp"

#include <gtest/gtest.h>
#include <string>

namespace directmap::kernel {
namespace {

using Kind = DayEvent::Kind;
constexpr std::uint64_t page = 0x1000;

/// The only event of a day with this line.
std::string mistake_in(const std::string& line, DayEvent* event = nullptr) {
    const std::string text = "directmap-day 1 4096\n" + line + "\n";
    DayReader reader{text};
    EXPECT_EQ(reader.open(page), nullptr);
    DayEvent unused;
    const bool read = reader.next(event != nullptr ? *event : unused);
    EXPECT_EQ(read, reader.mistake() == nullptr) << line;
    EXPECT_EQ(reader.line(), 2u);
    return reader.mistake() != nullptr ? reader.mistake() : "";
}

TEST(Day, EventsComeInOrderWithTheirNumbers) {
    DayReader reader{"directmap-day 1 4096\nstep modules load 1\nload 7 8192 4096 0\nplaces 400\ntake 3\n"
                     "guard 1 12\nshare 2 65536\nadd 4 1088\nend 5\ncopy kexec\ncopy hibernation\nwait 20000\nevening\n"
                     "release"};
    ASSERT_EQ(reader.open(page), nullptr);
    DayEvent event;
    ASSERT_TRUE(reader.next(event));
    EXPECT_EQ(event.kind, Kind::step);
    ASSERT_TRUE(reader.next(event));
    EXPECT_EQ(event.kind, Kind::load);
    EXPECT_EQ(event.number, 7u);
    EXPECT_EQ(event.bytes[0], 8192u);
    EXPECT_EQ(event.bytes[1], 4096u);
    EXPECT_EQ(event.bytes[2], 0u);
    ASSERT_TRUE(reader.next(event));
    EXPECT_EQ(event.kind, Kind::places);
    EXPECT_EQ(event.number, 400u);
    ASSERT_TRUE(reader.next(event));
    EXPECT_EQ(event.kind, Kind::take);
    ASSERT_TRUE(reader.next(event));
    EXPECT_EQ(event.kind, Kind::guard);
    EXPECT_EQ(event.number, 1u);
    EXPECT_EQ(event.page, 12u);
    ASSERT_TRUE(reader.next(event));
    EXPECT_EQ(event.bytes[0], 65536u);
    ASSERT_TRUE(reader.next(event));
    EXPECT_EQ(event.kind, Kind::add);
    EXPECT_EQ(event.bytes[0], 1088u); // code isn't rounded to pages
    ASSERT_TRUE(reader.next(event));
    EXPECT_EQ(event.kind, Kind::end);
    ASSERT_TRUE(reader.next(event));
    EXPECT_EQ(event.kind, Kind::copy);
    EXPECT_EQ(event.number, 0u);
    ASSERT_TRUE(reader.next(event));
    EXPECT_EQ(event.number, 1u);
    ASSERT_TRUE(reader.next(event));
    EXPECT_EQ(event.number, 20000u);
    ASSERT_TRUE(reader.next(event));
    EXPECT_EQ(event.kind, Kind::evening);
    ASSERT_TRUE(reader.next(event)); // the last line needs no end
    EXPECT_EQ(event.kind, Kind::release);
    EXPECT_FALSE(reader.next(event));
    EXPECT_EQ(reader.mistake(), nullptr);
}

TEST(Day, WhatIsNoDayOrOneOfOtherPagesIsRefused) {
    for (const char* text : {"", "\n", "boot\n", "directmap-day 2 4096\n", "directmap-day 1 \n", "directmap-day 1 x\n"})
        EXPECT_NE(DayReader{text}.open(page), nullptr) << text;
    EXPECT_EQ(DayReader{"directmap-day 1 16384"}.open(0x4000), nullptr);
    EXPECT_NE(DayReader{"directmap-day 1 16384"}.open(page), nullptr);
}

TEST(Day, ALineThatCantBeUnderstoodEndsItAndTellsWhere) {
    for (const char* line : {"",
                             "fly 1",
                             "load 1 4096 0",
                             "load 1 0 4096 0",
                             "load 1 4095 0 0",
                             "load 1 4096 0 0 0",
                             "take",
                             "take -1",
                             "take 99999999999999999999",
                             "take 1 2",
                             "share 1 0",
                             "share 1 4097",
                             "share 1 2147483648",
                             "add 1",
                             "add 1 0",
                             "add 1 2097153",
                             "copy",
                             "copy all",
                             "copy kexec 1",
                             "guard 1",
                             "places 0",
                             "prepare 5",
                             "release 1",
                             "take  1"})
        EXPECT_EQ(mistake_in(line), "a line that can't be understood") << line;
    DayEvent event;
    EXPECT_EQ(mistake_in("prepare 16777216", &event), "");
    EXPECT_EQ(event.bytes[0], std::uint64_t{16} << 20);
}

TEST(Day, ACopyGoesOnFromWhereTheOriginalWas) {
    DayReader reader{"directmap-day 1 4096\ntake 1\ntake 2\n"};
    ASSERT_EQ(reader.open(page), nullptr);
    DayEvent event;
    ASSERT_TRUE(reader.next(event));
    DayReader copy = reader;
    ASSERT_TRUE(reader.next(event));
    ASSERT_TRUE(copy.next(event));
    EXPECT_EQ(event.number, 2u);
}

} // namespace
} // namespace directmap::kernel

// The kernel's small language: formatting, the command line, the words for exceptions, the names of functions.
#include "pure/command_line.hpp"
#include "pure/no_abort_cpus.hpp"
#include "pure/symbols.hpp"
#include "pure/syndrome.hpp"
#include "pure/text.hpp"

#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>
#include <string>

namespace directmap::kernel {
namespace {

template <class... Arguments>
std::string formatted(std::string_view pattern, Arguments... arguments) {
    TextBuffer<512> text;
    format(text.sink(), pattern, arguments...);
    return std::string(text.view());
}

TEST(Text, PlaceholdersAreReplacedInOrder) {
    EXPECT_EQ(formatted("{} and {}", 1, "two"), "1 and two");
    EXPECT_EQ(formatted("{}", std::numeric_limits<std::int64_t>::min()), "-9223372036854775808");
    EXPECT_EQ(formatted("{}", std::numeric_limits<std::uint64_t>::max()), "18446744073709551615");
    EXPECT_EQ(formatted("{}{}", true, 'c'), "truec");
    EXPECT_EQ(formatted("{\"key\":{}}", 5), "{\"key\":5}");
}

TEST(Text, APlaceholderWithoutAnArgumentShows) {
    EXPECT_EQ(formatted("{} {}", 1), "1 {}");
}

TEST(Text, AnArgumentWithoutAPlaceholderIsDropped) {
    EXPECT_EQ(formatted("x", 1), "x");
}

TEST(Text, NumbersTakeTheForms) {
    EXPECT_EQ(formatted("{}", Hex{0xbeef}), "0xbeef");
    EXPECT_EQ(formatted("{}", Hex{0xbeef, 8}), "0x0000beef");
    EXPECT_EQ(formatted("{}", Hex{0}), "0x0");
    EXPECT_EQ(formatted("{}|{}|", Left{"ab", 4}, Right{42, 5}), "ab  |   42|");
    EXPECT_EQ(formatted("{} {} {} {}", Size{4096}, Size{3u << 20}, Size{std::uint64_t{1} << 40}, Size{1000}),
              "4K 3M 1T 1000B");
    EXPECT_EQ(formatted("{}", Size{0}), "0B");
}

TEST(Text, QuotedTextIsJson) {
    EXPECT_EQ(formatted("{}", Quoted{"a\"b\\c\n\x80"}), "\"a\\\"b\\\\c\\u000a\\u0080\"");
}

TEST(Text, ABufferCutsOffWhatDoesNotFit) {
    TextBuffer<4> text;
    format(text.sink(), "{}", "abcdef");
    EXPECT_EQ(text.view(), "abcd");
}

CommandLineError error_in(std::string_view text) {
    CommandLine line;
    return read_command_line(text, line);
}

TEST(CommandLine, WordsAreRead) {
    CommandLine line;
    ASSERT_EQ(read_command_line("  scenario=soak seed=18446744073709551615\trounds=3 nolive=1 nolive=7 map=zoned "
                                "assume=no-abort keys=emulated "
                                "fault=x json dump\n",
                                line)
                  .what,
              nullptr);
    EXPECT_EQ(line.scenario, "soak");
    EXPECT_EQ(line.seed, std::numeric_limits<std::uint64_t>::max());
    EXPECT_EQ(line.rounds, 3u);
    EXPECT_EQ(line.unable_cpus, 0x82u);
    EXPECT_EQ(line.map, MapStyle::zoned);
    EXPECT_TRUE(line.assume_no_abort);
    EXPECT_TRUE(line.emulate_keys);
    EXPECT_EQ(line.fault, "x");
    EXPECT_TRUE(line.json);
    EXPECT_TRUE(line.dump);
}

TEST(CommandLine, AnEmptyOneAsksForNothing) {
    EXPECT_EQ(error_in("").what, nullptr);
    EXPECT_EQ(error_in(" \n").what, nullptr);
}

TEST(CommandLine, UnknownWordsAndBadValuesAreNamed) {
    for (const char* word : {"quiet", "json=1", "root=/dev/vda", "seed", "=", "=x", "Seed=1"}) {
        EXPECT_STREQ(error_in(word).what, "unknown word") << word;
        EXPECT_EQ(error_in(word).word, word);
    }
    for (const char* word : {"seed=", "seed=-1", "seed=1x", "seed=18446744073709551616", "nolive=8",
                             "nolive=", "map=huge", "assume=all", "keys=real", "scenario=", "fault="}) {
        EXPECT_STREQ(error_in(word).what, "bad value") << word;
    }
    EXPECT_EQ(error_in("seed=1 json oops dump").word, "oops");
}

std::string described(std::uint64_t esr) {
    TextBuffer<128> text;
    Syndrome{esr}.describe(text.sink());
    return std::string(text.view());
}

TEST(Syndrome, AbortsAreToldApart) {
    EXPECT_EQ(described(0x9600004f), "store: permission fault at level 3");
    EXPECT_EQ(described(0x96000006), "load: translation fault at level 2");
    EXPECT_EQ(described(0x8600000d), "instruction fetch: permission fault at level 1");
    EXPECT_EQ(described(0x96000009), "load: access flag fault at level 1");
    EXPECT_EQ(described(0x96000003), "load: address size fault at level 3");
    EXPECT_EQ(described(0x96000021), "load: alignment fault");
    EXPECT_EQ(described(0x96000070), "store: TLB conflict");
    EXPECT_EQ(described(0x96000010), "load: external abort: nothing answers there");
    EXPECT_EQ(described(0x02000000), "undefined instruction");
    EXPECT_EQ(described(0xfe000000), "exception of class 0x3f");
    EXPECT_EQ(Syndrome{0xfe00000f}.fault(), FaultKind::none);
}

TEST(Symbols, AnAddressBelongsToTheFunctionBeforeIt) {
    // As image/make_symbols.awk lays it out: two functions at 0x10 and 0x40.
    struct {
        std::uint32_t count = 2;
        std::uint32_t entries[4] = {0x10, 0, 0x40, 6};
        char names[12] = "first\0other";
    } const bytes;
    SymbolTable table;
    static_assert(sizeof(table) == 12);
    const auto& symbols = reinterpret_cast<const SymbolTable&>(bytes);
    EXPECT_EQ(symbols.find(0x10).function, "first");
    EXPECT_EQ(symbols.find(0x3f).function, "first");
    EXPECT_EQ(symbols.find(0x3f).offset, 0x2fu);
    EXPECT_EQ(symbols.find(0x40).function, "other");
    EXPECT_EQ(symbols.find(0x9999).function, "other");
    EXPECT_EQ(symbols.find(0xf).function, "");
}

TEST(NoAbortCpus, ARevisionCountsFromTheOneListedOn) {
    EXPECT_FALSE(is_no_abort_cpu(0x000f0510)); // QEMU's max
    EXPECT_FALSE(is_no_abort_cpu(0x410fd840)); // Neoverse-V3 r0p0
    EXPECT_TRUE(is_no_abort_cpu(0x410fd842));
    EXPECT_TRUE(is_no_abort_cpu(0x411fd840));
    EXPECT_FALSE(is_no_abort_cpu(0x411fd8c0)); // C1-Ultra r1p0
    EXPECT_TRUE(is_no_abort_cpu(0x411fd8c1));
    EXPECT_FALSE(is_no_abort_cpu(0x420fd842)); // another implementer
}

} // namespace
} // namespace directmap::kernel

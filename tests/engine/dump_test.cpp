// The dump in the field's format: every leaf of the map is in it once, under the attributes that it has, and nothing is
// hidden between the lines (hazard 27).
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "support/leaves.hpp"
#include "support/operations.hpp"
#include "support/scenario.hpp"
#include "support/scripts.hpp"

namespace directmap::test {
namespace {

constexpr std::uint64_t start = 4 * gib;

struct Line {
    std::uint64_t start = 0, end = 0;
    std::uint64_t size = 0;
    std::string level;
    std::vector<std::string> attributes;

    [[nodiscard]] bool has(const std::string& word) const {
        return std::find(attributes.begin(), attributes.end(), word) != attributes.end();
    }
};

template <class Map>
std::string text_of(Map& map) {
    std::string text;
    map.dump([&](const char* line, unsigned size) { text.append(line, size); });
    return text;
}

/// As a tool would read it: by words, not by columns.
std::vector<Line> parse(const std::string& text) {
    std::vector<Line> lines;
    std::istringstream in{text};
    for (std::string row; std::getline(in, row);) {
        if (row.rfind("---[", 0) == 0) continue;
        Line line;
        std::istringstream words{row};
        std::string range, size;
        words >> range >> size >> line.level;
        const std::size_t dash = range.find('-');
        line.start = std::stoull(range.substr(0, dash), nullptr, 16);
        line.end = std::stoull(range.substr(dash + 1), nullptr, 16);
        const std::uint64_t unit = std::string{"KMGTPE"}.find(size.back());
        line.size = std::stoull(size) << (10 * (unit + 1));
        for (std::string word; words >> word;) line.attributes.push_back(word);
        lines.push_back(line);
    }
    return lines;
}

TEST(Dump, ALineReadsAsTheFieldsToolsExpect) {
    machine::RigConfig config = ram(start, 2 * gib);
    Rig4K rig{config};
    ASSERT_TRUE(rig.protect(at(start + gib, 4 * kib), Change{}.writable(false).executable(true)));
    ASSERT_TRUE(rig.protect(at(start + gib + 64 * kib, 4 * kib), Change{}.valid(false)));
    EXPECT_EQ(text_of(rig.map()),
              "---[ Linear Mapping start ]---\n"
              "0xffff000100000000-0xffff000140000000           1G PUD       RW NX SHD AF        BLK UXN    MEM/NORMAL\n"
              "0xffff000140000000-0xffff000140001000           4K PTE       ro x  SHD AF            UXN    MEM/NORMAL\n"
              "0xffff000140001000-0xffff000140010000          60K PTE       RW NX SHD AF            UXN    MEM/NORMAL\n"
              "0xffff000140010000-0xffff000140011000           4K PTE F     RW NX SHD AF            UXN    MEM/NORMAL\n"
              "0xffff000140011000-0xffff000140020000          60K PTE       RW NX SHD AF            UXN    MEM/NORMAL\n"
              "0xffff000140020000-0xffff000140200000        1920K PTE       RW NX SHD AF    CON     UXN    MEM/NORMAL\n"
              "0xffff000140200000-0xffff000142000000          30M PMD       RW NX SHD AF        BLK UXN    MEM/NORMAL\n"
              "0xffff000142000000-0xffff000180000000         992M PMD       RW NX SHD AF    CON BLK UXN    MEM/NORMAL\n"
              "---[ Linear Mapping end ]---\n");
}

TEST(Dump, AHoleIsALineOfItsOwnBetweenWhatItParts) { // hazard 27
    machine::RigConfig config = ram(start, gib);
    config.ram.push_back({at(start + 2 * gib, gib), {}});
    config.zones = {{.range = at(start + 512 * mib, 4 * kib), .kind = ZoneKind::excluded}};
    Rig4K rig{config};
    const auto lines = parse(text_of(rig.map()));
    std::uint64_t expected = start + config.offset;
    std::vector<std::uint64_t> holes;
    for (const Line& line : lines) {
        EXPECT_EQ(line.start, expected) << "lines adjoin";
        EXPECT_EQ(line.size, line.end - line.start);
        if (line.attributes.empty()) holes.push_back(line.start - config.offset);
        expected = line.end;
    }
    EXPECT_EQ(expected, start + 3 * gib + config.offset);
    EXPECT_EQ(holes, (std::vector<std::uint64_t>{start + 512 * mib, start + gib}));
}

TEST(Dump, AnInvalidLeafIsShownAndNotTakenForAHole) {
    Rig4K rig{ram(start, 2 * gib)};
    ASSERT_TRUE(rig.protect(at(start, gib), Change{}.valid(false)));
    const auto lines = parse(text_of(rig.map()));
    ASSERT_EQ(lines.size(), 2U);
    EXPECT_TRUE(lines[0].has("F") && lines[0].has("RW") && lines[0].has("MEM/NORMAL"));
    EXPECT_FALSE(lines[1].has("F"));
}

TEST(Dump, EveryAttributeIsToldApart) {
    machine::RigConfig config = ram(start, 2 * gib);
    config.realm_shared_address = std::uint64_t{1} << 47;
    const Change changes[] = {Change{}.writable(false),
                              Change{}.executable(true),
                              Change{}.valid(false),
                              Change{}.global(false),
                              Change{}.key(4),
                              Change{}.shared(true),
                              Change{}.memory_type(MemoryType::normal_tagged),
                              Change{}.memory_type(MemoryType::normal_noncacheable),
                              Change{}.memory_type(MemoryType::device_nGnRnE),
                              Change{}.memory_type(MemoryType::device_nGnRE)};
    for (const Change change : changes) {
        Rig4K rig{config};
        ASSERT_TRUE(rig.protect(at(start, gib), change));
        const auto lines = parse(text_of(rig.map()));
        ASSERT_EQ(lines.size(), 2U);
        EXPECT_NE(lines[0].attributes, lines[1].attributes);
    }
}

TEST(Dump, LevelsHaveTheNamesThatKernelsPrint) {
    const auto level_of = [](auto& rig, std::uint64_t pa) {
        for (const Line& line : parse(text_of(rig.map()))) {
            if (line.start - rig.config().offset <= pa && pa < line.end - rig.config().offset) return line.level;
        }
        return std::string{};
    };
    machine::RigConfig config = ram(start, 2 * gib);
    Rig4K four{config};
    ASSERT_TRUE(four.protect(at(start + gib, 4 * kib), Change{}.writable(false)));
    EXPECT_EQ(level_of(four, start), "PUD");
    EXPECT_EQ(level_of(four, start + gib), "PTE");
    EXPECT_EQ(level_of(four, start + gib + 4 * mib), "PMD");
    config.offset = 0xffffff8000000000;
    machine::Rig<arm64::Format4K39> three{config};
    EXPECT_EQ(level_of(three, start), "PGD") << "with three levels, a 1G block is an entry of the root";
}

template <class F>
void a_dump_accounts_for_every_byte() {
    const auto script = random_script(200);
    Driver<F> driver{Script{script.data(), script.size()}, {.compare_leaves = false}};
    RC_ASSERT(driver.run() == "");
    auto& rig = driver.rig();
    const std::uint64_t offset = rig.config().offset;
    const auto leaves = leaves_of(rig.map());
    std::size_t next = 0;
    std::uint64_t at_va = rig.whole().start.value() + offset;
    for (const Line& line : parse(text_of(rig.map()))) {
        RC_ASSERT(line.start == at_va);
        RC_ASSERT(line.size == line.end - line.start);
        at_va = line.end;
        if (line.attributes.empty()) {
            RC_ASSERT(next == leaves.size() || leaves[next].start + offset - line.start >= line.size);
            continue;
        }
        std::uint64_t inside = line.start;
        // (The end of the address space is 0.)
        for (; next < leaves.size() && leaves[next].start + offset - line.start < line.size; ++next) {
            const LeafItem& leaf = leaves[next];
            RC_ASSERT(leaf.start + offset == inside);
            RC_ASSERT(line.has("F") == !leaf.access.valid);
            RC_ASSERT(line.has("RW") == bool{leaf.access.writable});
            RC_ASSERT(line.has("x") == bool{leaf.access.executable});
            RC_ASSERT(line.has("NG") == !leaf.access.global);
            RC_ASSERT(line.has("SHARED") == bool{leaf.access.shared});
            RC_ASSERT(line.has("KEY" + std::to_string(leaf.access.key)) == (leaf.access.key != 0));
            RC_ASSERT(line.has("MEM/NORMAL") == (leaf.access.type == 0));
            inside += leaf.size;
        }
        RC_ASSERT(inside == line.end);
    }
    RC_ASSERT(at_va == rig.whole().end().value() + offset);
    RC_ASSERT(next == leaves.size());
}

RC_GTEST_PROP(ADump, AccountsForEveryByteOfTheMap, ()) {
    a_dump_accounts_for_every_byte<SmallFormat>();
}
RC_GTEST_PROP(ADump, AccountsForEveryByteOfAMapWithTwoLevelsOfLeaves, ()) {
    a_dump_accounts_for_every_byte<SmallTwoLevelFormat>();
}

} // namespace
} // namespace directmap::test

// Dumps that the engine writes are read back to the very leaves that it has.
#include "analyze.hpp"
#include "dump_support.hpp"

#include <directmap/arm64/format.hpp>
#include <machine/rig.hpp>

#include <gtest/gtest.h>
#include <random>
#include <tuple>

namespace directmap::tool {
namespace {

constexpr std::uint64_t high_half = 0xffff000000000000;

/// Start, size, and what the words of a dump can say of the attributes.
using ReadLeaf = std::tuple<std::uint64_t, std::uint64_t, bool, bool, bool, bool, unsigned>;

unsigned key_of(const DumpVocabulary& vocabulary, DumpAttributes attributes) {
    const std::string words = vocabulary.describe(attributes, DumpArchitecture::arm64);
    const std::size_t at = words.find("KEY");
    return at == std::string::npos ? 0 : static_cast<unsigned>(words[at + 3] - '0');
}

/// All leaves of a dump, expanded from its lines.
std::vector<ReadLeaf> leaves_of(std::string_view text, const DumpGeometry& geometry) {
    const auto source = text_source(text);
    DumpVocabulary vocabulary;
    DumpReader reader(*source, "DUMP", vocabulary);
    LevelNames levels;
    std::vector<ReadLeaf> leaves;
    for (DumpEvent event = reader.next(); event != DumpEvent::end; event = reader.next()) {
        EXPECT_NE(event, DumpEvent::problem) << reader.problem().reason;
        if (event != DumpEvent::line) continue;
        const DumpLine& line = reader.line();
        levels.see(line);
        if (line.entry != DumpEntry::leaf) continue;
        const LeafRuns runs = leaf_runs(line, geometry, levels);
        EXPECT_NE(runs.count, 0u) << line.number;
        for (const LeafRun& run : std::span(runs.runs).first(runs.count)) {
            for (std::uint64_t at = run.start; at - run.start <= run.last - run.start; at += run.leaf_size)
                leaves.emplace_back(at, run.leaf_size, is_writable(run.attributes), is_executable(run.attributes),
                                    (run.attributes & attribute::invalid) != 0,
                                    (run.attributes & attribute::realm_shared) != 0,
                                    key_of(vocabulary, run.attributes));
        }
    }
    return leaves;
}

template <class Rig>
std::vector<ReadLeaf> leaves_of(Rig& rig) {
    std::vector<ReadLeaf> leaves;
    rig.map().walk(rig.whole(), [&](const Leaf& leaf) {
        if (leaf.mapped)
            leaves.emplace_back(rig.map().virt(leaf.range.start).value(), leaf.range.size, leaf.attributes.writable(),
                                leaf.attributes.executable(), !leaf.attributes.valid(), leaf.attributes.shared(),
                                leaf.attributes.key());
        return true;
    });
    return leaves;
}

/// Plays random changes on a map with holes, and reads its dump after each few.
template <class Format>
void play(const DumpGeometry& geometry, std::uint64_t offset, std::uint64_t seed) {
    using Rig = machine::Rig<Format>;
    const std::uint64_t page = geometry.granule();
    constexpr std::uint64_t start = 0x80000000;
    const std::uint64_t bytes = 2 * gib;
    machine::RigConfig config;
    config.ram = {{phys_range(start, start + bytes / 2), {}},
                  {phys_range(start + bytes / 2 + 16 * mib, start + bytes), {}}};
    config.offset = offset;
    Rig rig(config);
    ASSERT_TRUE(rig.built());
    std::mt19937_64 random(seed);
    const auto below = [&](std::uint64_t limit) { return random() % limit; };
    const std::vector<Change> changes = {Change{}.writable(false),   Change{}.writable(true), Change{}.executable(true),
                                         Change{}.executable(false), Change{}.valid(false),   Change{}.valid(true)};
    for (int round = 0; round < 12; ++round) {
        for (int change = 0; change < 8; ++change) {
            const std::uint64_t length = page * (1 + below(change % 4 == 0 ? 40000 * 4096 / page : 40));
            const std::uint64_t at = start + below((bytes / 2 - length) / page) * page;
            ASSERT_TRUE(rig.protect(phys_range(at, at + length), changes[below(changes.size())], {}));
        }
        if (round % 4 == 3) {
            ASSERT_TRUE(rig.collapse(rig.whole()));
        }
        std::string text;
        rig.map().dump([&](const char* line, unsigned size) { text.append(line, size); });
        const std::vector<ReadLeaf> expected = leaves_of(rig);
        const std::vector<ReadLeaf> found = leaves_of(text, geometry);
        ASSERT_EQ(found.size(), expected.size()) << text;
        for (std::size_t index = 0; index < found.size(); ++index)
            ASSERT_EQ(found[index], expected[index]) << "leaf " << index;

        // And the analysis of the dump agrees with the engine's account and with the independent cover.
        AnalyzeOptions options;
        options.granule = page;
        const auto analyses = analyze_text(text, options);
        ASSERT_EQ(analyses.size(), 1u);
        const MapSummary& map = analyses[0].map.value();
        EXPECT_EQ(analyses[0].problem_count, 0u);
        EXPECT_EQ(map.mapped_bytes, bytes - 16 * mib);
        EXPECT_EQ(map.tables, rig.machine().tables_in_use() - 1); // all but the top-level one
        const auto cover = rig.smallest_cover();
        std::uint64_t fewest = 0;
        for (const std::uint64_t count : cover) fewest += count;
        EXPECT_EQ(map.minimum_units, fewest);
        if (round % 4 == 3) {
            EXPECT_EQ(map.units, map.minimum_units);
        }
    }
}

TEST(RoundTrip, DumpsOfA4KMapReadBackToItsLeaves) {
    play<arm64::Format4K48>(DumpGeometry::arm64_4k(), high_half, 1);
    play<arm64::Format4K39>(DumpGeometry::arm64_4k(), 0xffffff8000000000, 2); // 39 bits: one level fewer
}

TEST(RoundTrip, DumpsOfA16KMapReadBackToItsLeaves) {
    play<arm64::Format16K48>(DumpGeometry::arm64_16k(), high_half, 3);
}

TEST(RoundTrip, DumpsOfA64KMapReadBackToItsLeaves) {
    play<arm64::Format64K48>(DumpGeometry::arm64_64k(), high_half, 4);
}

} // namespace
} // namespace directmap::tool

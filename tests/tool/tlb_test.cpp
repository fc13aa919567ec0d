// The TLB model against a sequence worked by hand and against a naive model, and the patterns that feed it.
#include "access_pattern.hpp"
#include "tlb_model.hpp"

#include "input_error.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

using namespace directmap::tool;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::uint64_t kib = 1024, mib = 1024 * kib, gib = 1024 * mib;

TlbCore core_of(std::vector<std::vector<TlbPart>> levels, bool contiguous = true) {
    TlbCore core{"test", "", "", contiguous, {}};
    for (auto& parts : levels) core.levels.push_back({fmt::format("L{}", core.levels.size() + 1), std::move(parts)});
    return core;
}

TlbLeaf leaf(std::uint64_t va, std::uint64_t size, std::uint64_t descriptor = 0) {
    return {va & ~(size - 1), size, descriptor == 0 ? size : descriptor};
}

// ---- The model

TEST(Tlb, ASequenceWorkedByHand) {
    // L1: two entries, fully associative. L2: two sets of two ways.
    TlbModel tlb(core_of({{{2, 2, {4 * kib}}}, {{4, 2, {4 * kib}}}}));
    std::vector<std::vector<std::uint64_t>> misses;
    for (const std::uint64_t page : std::vector<std::uint64_t>{0, 2, 0, 4, 2, 0, 1, 4, 4}) {
        tlb.access(page * 4 * kib, [&] { return leaf(page * 4 * kib, 4 * kib); });
        misses.push_back(tlb.counts().misses);
    }
    // Even pages share set 0 of L2, odd ones set 1; brackets are {L1} {L2 set 0 | set 1}, the oldest first.
    EXPECT_THAT(misses, ElementsAre(ElementsAre(1, 1),   // 0: walk        {0}   {0 |}
                                    ElementsAre(2, 2),   // 2: walk        {0 2} {0 2 |}
                                    ElementsAre(2, 2),   // 0: L1 hit      {2 0} {0 2 |}
                                    ElementsAre(3, 3),   // 4: walk        {0 4} {2 4 |}: L2 didn't see 0 used again
                                    ElementsAre(4, 3),   // 2: L2 hit      {4 2} {4 2 |}
                                    ElementsAre(5, 4),   // 0: walk        {2 0} {2 0 |}
                                    ElementsAre(6, 5),   // 1: walk        {0 1} {2 0 | 1}
                                    ElementsAre(7, 6),   // 4: walk        {1 4} {0 4 | 1}
                                    ElementsAre(7, 6))); // 4: L1 hit
    EXPECT_EQ(tlb.counts().accesses, 9u);
    EXPECT_EQ(tlb.counts().walks(), 6u);
}

TEST(Tlb, AContiguousGroupIsOneEntryWhereTheCoreCoalesces) {
    for (const bool contiguous : {true, false}) {
        TlbModel tlb(core_of({{{4, 4, {4 * kib, 64 * kib}}}}, contiguous));
        for (std::uint64_t page = 0; page < 16; ++page)
            tlb.access(page * 4 * kib, [] { return leaf(0, 64 * kib, 4 * kib); });
        EXPECT_EQ(tlb.counts().walks(), contiguous ? 1u : 16u);
    }
}

TEST(Tlb, ALeafThatIsTooLargeForALevelIsKeptInPieces) {
    // 1G leaves in a level that holds 512M at most: two entries cover one leaf.
    TlbModel tlb(core_of({{{4, 4, {4 * kib, 512 * mib}}}, {{4, 4, {4 * kib, gib}}}}));
    const auto access = [&](std::uint64_t va) {
        tlb.access(va, [&] { return leaf(va, gib); });
        return tlb.counts().misses;
    };
    EXPECT_THAT(access(0), ElementsAre(1, 1));
    EXPECT_THAT(access(511 * mib), ElementsAre(1, 1));
    EXPECT_THAT(access(512 * mib), ElementsAre(2, 1)); // L2 knows the leaf
    EXPECT_THAT(access(1023 * mib), ElementsAre(2, 1));
    EXPECT_THAT(access(gib), ElementsAre(3, 2));
}

TEST(Tlb, PartsOfALevelDoNotTakeEachOthersRoom) {
    TlbModel tlb(core_of({{{2, 2, {4 * kib}}, {1, 1, {2 * mib}}}}));
    tlb.access(0, [] { return leaf(0, 4 * kib); });
    for (std::uint64_t i = 1; i < 10; ++i) tlb.access(i * 2 * mib, [&] { return leaf(i * 2 * mib, 2 * mib); });
    EXPECT_EQ(tlb.counts().walks(), 10u);
    tlb.access(0, [] { return leaf(0, 4 * kib); });
    EXPECT_EQ(tlb.counts().walks(), 10u);
}

TEST(Tlb, AnAccessThatNobodyCanMakeIsNotCounted) {
    TlbModel tlb(core_of({{{2, 2, {4 * kib}}}}));
    tlb.access(0, [] { return TlbLeaf{}; });
    EXPECT_EQ(tlb.counts(), (TlbCounts{0, {0}}));
}

/// A list of everything that every level has ever been given, searched from end to end.
class NaiveTlb {
public:
    explicit NaiveTlb(const TlbCore& core) : core_(core), kept_(core.levels.size()) {}

    void access(std::uint64_t va, const TlbLeaf& truth) {
        ++accesses;
        const std::uint64_t time = ++time_;
        std::size_t level = 0;
        for (; level < kept_.size(); ++level) {
            const auto hit = std::find_if(kept_[level].begin(), kept_[level].end(), [&](const Kept& kept) {
                return kept.start <= va && va - kept.start < kept.size;
            });
            if (hit == kept_[level].end()) {
                ++misses[level];
                continue;
            }
            hit->time = time;
            break;
        }
        for (std::size_t above = 0; above < level; ++above) keep(above, va, truth, time);
    }

    std::uint64_t accesses = 0;
    std::map<std::size_t, std::uint64_t> misses;

private:
    struct Kept {
        std::uint64_t start, size, time;
        std::size_t part;
        std::uint64_t set;
    };

    void keep(std::size_t level, std::uint64_t va, const TlbLeaf& truth, std::uint64_t time) {
        const std::uint64_t whole = core_.contiguous ? truth.size : truth.descriptor_size;
        Kept kept{0, 0, time, 0, 0};
        for (std::size_t part = 0; part < core_.levels[level].parts.size(); ++part)
            for (const std::uint64_t size : core_.levels[level].parts[part].sizes)
                if (size <= whole && size > kept.size) kept = {va / size * size, size, time, part, 0};
        const TlbPart& part = core_.levels[level].parts[kept.part];
        kept.set = va / kept.size % (part.entries / part.ways);
        auto& list = kept_[level];
        const auto beside = [&](const Kept& other) { return other.part == kept.part && other.set == kept.set; };
        if (static_cast<std::uint64_t>(std::count_if(list.begin(), list.end(), beside)) == part.ways) {
            auto oldest = list.end();
            for (auto it = list.begin(); it != list.end(); ++it)
                if (beside(*it) && (oldest == list.end() || it->time < oldest->time)) oldest = it;
            list.erase(oldest);
        }
        list.push_back(kept);
    }

    const TlbCore& core_;
    std::vector<std::vector<Kept>> kept_;
    std::uint64_t time_ = 0;
};

RC_GTEST_PROP(Tlb, AgreesWithANaiveModel, ()) {
    std::vector<TlbCore> cores = builtin_tlb_cores();
    cores.push_back(core_of({{{3, 3, {4 * kib, 2 * mib}}}, {{6, 2, {4 * kib, 64 * kib}}, {2, 1, {2 * mib}}}}));
    cores.push_back(core_of({{{4, 1, {4 * kib, 64 * kib, gib}}}}, false));
    const TlbCore core = *rc::gen::elementOf(cores);
    // A map of 8 GiB whose leaves are of any size, decided by where they are.
    const auto salt = *rc::gen::inRange<std::uint64_t>(1, 1'000'000);
    const auto leaf_of = [&](std::uint64_t va) {
        const auto roll = [&](std::uint64_t unit) { return (va / unit + salt) * 0x9e3779b97f4a7c15 >> 62; };
        if (roll(gib) == 0) return leaf(va, gib);
        if (roll(32 * mib) == 0) return leaf(va, 32 * mib, 2 * mib);
        if (roll(2 * mib) == 0) return leaf(va, 2 * mib);
        if (roll(64 * kib) == 0) return leaf(va, 64 * kib, 4 * kib);
        return leaf(va, 4 * kib);
    };
    TlbModel tlb(core);
    NaiveTlb naive(core);
    std::mt19937_64 random(salt);
    std::uint64_t va = 0;
    for (int i = 0; i < 1200; ++i) {
        // Far away now and then, nearby mostly.
        va = random() % 8 == 0 ? random() % (8 * gib) : (va + random() % (64 * kib)) % (8 * gib);
        tlb.access(va, [&] { return leaf_of(va); });
        naive.access(va, leaf_of(va));
    }
    RC_ASSERT(tlb.counts().accesses == naive.accesses);
    for (std::size_t level = 0; level < core.levels.size(); ++level)
        RC_ASSERT(tlb.counts().misses[level] == naive.misses[level]);
}

// ---- Cores

TEST(TlbCores, ThoseOfTheProgramCanBeRead) {
    const std::vector<TlbCore> cores = builtin_tlb_cores();
    ASSERT_FALSE(cores.empty());
    EXPECT_EQ(cores.front().name, default_tlb_core);
    const TlbCore core = read_tlb_core("neoverse-n1");
    ASSERT_EQ(core.levels.size(), 2u);
    EXPECT_EQ(core.levels[1].parts[0].entries, 1280u);
    EXPECT_EQ(core.levels[1].parts[0].ways, 5u);
    EXPECT_TRUE(core.contiguous);
    for (const TlbCore& each : cores) EXPECT_FALSE(each.source.empty());
}

TEST(TlbCores, ErrorsSayWhatIsWrong) {
    const auto error = [](const std::string& json) -> std::string {
        try {
            (void)parse_tlb_cores(json, "FILE");
        } catch (const InputError& wrong) {
            return wrong.what();
        }
        return "";
    };
    const auto with = [&](const std::string& part) {
        return error(R"({"cores":[{"name":"x","about":"","source":"","levels":[{"name":"L1","parts":[)" + part +
                     "]}]}]}");
    };
    EXPECT_EQ(error("{"), "FILE: this is not JSON");
    EXPECT_EQ(error("{}"), "FILE: the file has no 'cores'");
    EXPECT_EQ(error("[]"), "FILE: the file has no 'cores'");
    EXPECT_EQ(error(R"({"cores":[]})"), "FILE: 'cores' is a list of at least one core");
    EXPECT_EQ(error(R"({"cores":[{"name":1}]})"), "FILE: 'name' of a core is not text");
    EXPECT_EQ(with(R"({"entries":48,"ways":5,"sizes":["4K"]})"),
              "FILE: L1 of x has 48 entries in 5 ways, which leaves some over");
    EXPECT_THAT(with(R"({"entries":0,"ways":1,"sizes":["4K"]})"), HasSubstr("'entries' of L1 of x is not a number"));
    EXPECT_THAT(with(R"({"entries":4,"ways":4,"sizes":["3K"]})"), HasSubstr("is not a size such as 4K, 2M or 1G"));
    EXPECT_EQ(with(R"({"entries":4,"ways":4,"sizes":["4K","4K"]})"), "FILE: L1 of x names 4K twice");
    EXPECT_THAT(with(R"({"entries":4,"ways":4,"sizes":["2M"]})"), HasSubstr("can't hold 4K"));
    EXPECT_EQ(with(R"({"entries":4,"ways":4,"sizes":["4K"]})"), "");
    EXPECT_THROW((void)read_tlb_core("no-such-core"), InputError);
}

// ---- Patterns

const std::vector<Range> ram = {{gib, gib + 100 * mib}, {4 * gib, 4 * gib + 28 * mib}};

bool in_ram(std::uint64_t address) {
    return std::any_of(ram.begin(), ram.end(), [&](const Range& range) { return range.contains(address); });
}

TEST(Accesses, EveryPatternStaysInRamAndComesAgain) {
    for (const auto& make : {uniform_pattern, zipf_pattern, sequential_pattern}) {
        const auto pattern = make(ram, 7);
        std::vector<std::uint64_t> first, second;
        for (int i = 0; i < 5000; ++i) first.push_back(pattern->next());
        EXPECT_TRUE(std::all_of(first.begin(), first.end(), in_ram));
        pattern->restart();
        for (int i = 0; i < 5000; ++i) second.push_back(pattern->next());
        EXPECT_EQ(first, second);
    }
}

TEST(Accesses, ZipfUsesTheKthPageOneKthAsOften) {
    const auto pattern = zipf_pattern(ram, 7);
    std::map<std::uint64_t, double> uses;
    constexpr int count = 400'000;
    for (int i = 0; i < count; ++i) ++uses[pattern->next() / 4096];
    std::vector<double> sorted;
    for (const auto& [page, times] : uses) sorted.push_back(times);
    std::sort(sorted.rbegin(), sorted.rend());
    double harmonic = 0;
    for (int k = 1; k <= 32768; ++k) harmonic += 1.0 / k; // 128 MiB of pages
    for (const int k : {1, 2, 3, 5, 10, 30})
        EXPECT_NEAR(sorted[static_cast<std::size_t>(k) - 1], count / harmonic / k, 0.05 * count / harmonic / k) << k;
}

TEST(Accesses, ZipfPutsEachRankOntoAPageOfItsOwnAllOverRam) {
    // One page after the other is drawn often enough to be seen: a rank that shared a page would leave one out.
    const std::vector<Range> small = {{0, 64 * 4096}, {mib, mib + 36 * 4096}};
    const auto pattern = zipf_pattern(small, 7);
    std::set<std::uint64_t> pages;
    for (int i = 0; i < 20000; ++i) pages.insert(pattern->next());
    EXPECT_EQ(pages.size(), 100u);
}

TEST(Accesses, SequentialGoesLineByLine) {
    const auto pattern = sequential_pattern({{gib, gib + 64 * mib}}, 7);
    const std::uint64_t first = pattern->next();
    EXPECT_EQ(pattern->next(), first + 64);
    EXPECT_EQ(pattern->next(), first + 128);
}

TEST(Accesses, RecordedOnesAreReadAndRepeated) {
    std::istringstream text("# address\n40000000\n0xffff000040001000 # virtual\n\n10\n");
    RecordedAccesses accesses = read_accesses(text, "FILE", ram, 0xffff000000000000);
    EXPECT_THAT(accesses.addresses, ElementsAre(0x40000000, 0x40001000));
    EXPECT_EQ(accesses.outside, 1u);
    const auto pattern = recorded_pattern(accesses.addresses);
    EXPECT_EQ(pattern->next(), 0x40000000u);
    EXPECT_EQ(pattern->next(), 0x40001000u);
    EXPECT_EQ(pattern->next(), 0x40000000u);
    for (const auto& [wrong, error] :
         std::map<std::string, std::string>{{"40000000\nhello\n", "FILE:2: 'hello' is not an address"},
                                            {"", "FILE: there is no address in it"},
                                            {"10\n", "FILE: none of its 1 addresses is in RAM"}}) {
        std::istringstream bad(wrong);
        try {
            (void)read_accesses(bad, "FILE", ram, 0);
            ADD_FAILURE() << wrong;
        } catch (const InputError& e) {
            EXPECT_THAT(e.what(), HasSubstr(error));
        }
    }
}

} // namespace

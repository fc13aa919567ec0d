// The explorer: what it enumerates, what it may leave out, that it finds every seeded fault, and that every scenario
// keeps every promise in every order within the bound.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "machine/search.hpp"

namespace directmap::machine {

void PrintTo(const Scenario& scenario, std::ostream* out) {
    *out << scenario.name;
}
void PrintTo(const SeededFault& fault, std::ostream* out) {
    *out << fault.name;
}

namespace {

using testing::Each;
using testing::HasSubstr;
using testing::Ne;

constexpr SearchMode bounded(unsigned bound) {
    return {.kind = SearchMode::Kind::bounded, .bound = bound};
}
constexpr SearchMode exhaustive(bool reduce) {
    return {.kind = SearchMode::Kind::exhaustive, .reduce = reduce};
}
constexpr SearchMode random_runs(std::uint64_t seed, std::uint64_t runs) {
    return {.kind = SearchMode::Kind::random, .seed = seed, .runs = runs};
}

std::string words(const Tally& tally) {
    std::string text;
    if (!tally.failure) return text;
    for (const Violation& v : tally.failure->violations) text += v.promise + ": " + v.what + "\n";
    return text + to_json(tally.failure->schedule);
}

struct PlainName {
    template <class T>
    std::string operator()(const testing::TestParamInfo<T>& info) const {
        std::string name = info.param.name;
        std::replace(name.begin(), name.end(), '-', '_');
        return name;
    }
};

// ---- the scenarios and the faults -----------------------------------------------------------------------------------

class EveryScenario : public testing::TestWithParam<Scenario> {};

TEST_P(EveryScenario, KeepsEveryPromiseInEveryOrderWithTwoPreemptions) {
    const Tally tally = Explorer{GetParam(), nullptr}.search(bounded(2));
    EXPECT_FALSE(tally.failure) << words(tally);
    EXPECT_GT(tally.executions, 10u) << "nothing races here";
}
INSTANTIATE_TEST_SUITE_P(Of, EveryScenario, testing::ValuesIn(scenarios()), PlainName{});

class EverySeededFault : public testing::TestWithParam<SeededFault> {};

TEST_P(EverySeededFault, IsFoundByItsScenarioAndReplaysFromItsFile) {
    const SeededFault& fault = GetParam();
    const Scenario* const scenario = find_scenario(fault.scenario);
    ASSERT_NE(scenario, nullptr);
    Explorer explorer{*scenario, &fault};
    const Tally tally = explorer.search(bounded(2));
    ASSERT_TRUE(tally.failure);
    const Schedule& found = tally.failure->schedule;
    EXPECT_EQ(found.violation, tally.failure->violations.front().promise);

    const Schedule shortest = explorer.shrink(found);
    EXPECT_LE(shortest.switches.size() + shortest.choices.size(), found.switches.size() + found.choices.size());
    const Schedule saved = parse_schedule(to_json(shortest));
    EXPECT_EQ(saved, shortest);
    const auto violations = explorer.replay(saved);
    ASSERT_FALSE(violations.empty());
    EXPECT_EQ(violations.front().promise, found.violation);
    EXPECT_THAT(explorer.story(saved), HasSubstr("VIOLATION  " + found.violation));
    // The schedule alone breaks nothing: it is the fault.
    EXPECT_THAT(Explorer(*scenario, nullptr).replay(saved), testing::IsEmpty());
}
INSTANTIATE_TEST_SUITE_P(Of, EverySeededFault, testing::ValuesIn(seeded_faults()), PlainName{});

TEST(SeededFaults, AnEnumerationUpToCallsThatCommuteFindsThemToo) {
    // What a reduction wrongly leaves out would most likely be missed here.
    for (const SeededFault& fault : seeded_faults()) {
        const Scenario& scenario = *find_scenario(fault.scenario);
        if (scenario.hidden_state || fault.name == "trust-old-leaf") continue; // not reduced; takes long
        SCOPED_TRACE(fault.name);
        EXPECT_TRUE((Explorer{scenario, &fault}.search(exhaustive(true)).failure));
    }
}

TEST(Documentation, NamesEveryScenarioAndEveryFault) {
    std::ifstream file(DIRECTMAP_SOURCE_DIR "/docs/explorer.md");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    for (const Scenario& scenario : scenarios()) EXPECT_THAT(text, HasSubstr("`" + scenario.name + "`"));
    for (const SeededFault& fault : seeded_faults())
        EXPECT_THAT(text, HasSubstr("| `" + fault.name + "` | `" + fault.scenario + "` |"));
}

// ---- what is enumerated ---------------------------------------------------------------------------------------------

/// A scenario whose agents make `calls[i]` calls each and note who ran: no call depends on another.
Scenario counting(std::vector<unsigned> calls, std::string& order) {
    Scenario scenario = *find_scenario("split-access");
    scenario.name = "counting";
    scenario.agents.clear();
    for (unsigned i = 0; i < calls.size(); ++i) {
        scenario.agents.push_back({i % 2, "looks at a page a few times", [i, n = calls[i], &order](World& w) {
                                       order.push_back(static_cast<char>('a' + i));
                                       for (unsigned call = 0; call < n; ++call) {
                                           w.access(w.pages(i).start, true, false);
                                           order.push_back(static_cast<char>('a' + i));
                                       }
                                   }});
    }
    scenario.prepare = [&order](World&) { order.clear(); };
    scenario.finish = {};
    return scenario;
}

/// The orders of steps, `left[i]` of them for each agent, with at most `bound` preemptions, counted one by one.
std::uint64_t count_orders(std::vector<unsigned> left, int current, unsigned bound) {
    if (std::all_of(left.begin(), left.end(), [](unsigned n) { return n == 0; })) return 1;
    std::uint64_t orders = 0;
    for (int next = 0; next < static_cast<int>(left.size()); ++next) {
        if (left[static_cast<std::size_t>(next)] == 0) continue;
        const bool preempts = current >= 0 && next != current && left[static_cast<std::size_t>(current)] != 0;
        if (preempts && bound == 0) continue;
        std::vector<unsigned> rest = left;
        --rest[static_cast<std::size_t>(next)];
        orders += count_orders(rest, next, bound - (preempts ? 1 : 0));
    }
    return orders;
}

TEST(Enumeration, EveryOrderWithinTheBoundIsMadeExactlyOnce) {
    for (const std::vector<unsigned>& calls : {std::vector<unsigned>{3, 4}, {0, 5}, {2, 2, 2}}) {
        for (const unsigned bound : {0u, 1u, 2u, 3u}) {
            std::string order;
            Scenario scenario = counting(calls, order);
            std::multiset<std::string> made;
            scenario.finish = [&](World&) { made.insert(order); };
            const Tally tally = Explorer{scenario, nullptr}.search(bounded(bound));
            std::vector<unsigned> steps = calls; // and one before the first call
            for (unsigned& n : steps) ++n;
            EXPECT_EQ(tally.executions, count_orders(steps, -1, bound));
            EXPECT_EQ(made.size(), tally.executions);
            EXPECT_EQ((std::set<std::string>{made.begin(), made.end()}.size()), made.size()) << "an order twice";
        }
    }
}

TEST(Enumeration, WithoutABoundAndAReductionItIsEveryInterleaving) {
    std::string order;
    const Scenario scenario = counting({4, 5}, order);
    EXPECT_EQ((Explorer{scenario, nullptr}.search(exhaustive(false)).executions), 462u); // 11 over 5
}

TEST(Enumeration, OfCallsThatCommuteOneOrderIsEnough) {
    std::string order;
    const Scenario scenario = counting({4, 5}, order);
    EXPECT_EQ((Explorer{scenario, nullptr}.search(exhaustive(true)).executions), 1u);
}

/// What the agents of a scenario can come to know, over all orders: what walks saw, and the tables at the end.
std::set<std::string> outcomes(Scenario scenario, std::string& seen, bool reduce, Tally& tally) {
    std::set<std::string> all;
    const auto before = scenario.prepare;
    scenario.prepare = [&seen, before](World& w) {
        seen.clear();
        if (before) before(w);
    };
    scenario.finish = [&](World& w) {
        std::string outcome = seen;
        w.rig.machine().for_each_word([&](std::uint64_t table, unsigned, std::uint64_t word) {
            outcome += w.rig.machine().explain(table, word) + ",";
        });
        all.insert(outcome);
    };
    tally = Explorer{scenario, nullptr}.search(exhaustive(reduce));
    EXPECT_FALSE(tally.failure) << words(tally);
    return all;
}

TEST(SleepSets, LeaveOutNoOutcome) {
    const Change read_only = Change{}.writable(false);
    std::string seen;
    const auto note = [&seen](char who, const Attributes& a) {
        seen += who;
        seen += a.writable() ? 'w' : 'r';
        seen += a.executable() ? 'x' : '-';
    };
    Scenario base = *find_scenario("split-access");
    base.config.tables_through_map = false;
    const auto pages = [](World& w) { w.prepare(w.pages(0, 8)); };

    std::vector<Scenario> small;
    base.heals = false;
    // A large leaf changes, and somebody looks it up.
    base.agents = {{0, "", [&](World& w) { w.protect(w.region(0), read_only); }},
                   {1, "", [&](World& w) { note('1', w.translate(w.pages(5).start)); }}};
    small.push_back(base);
    // A page changes, an MMU walks to it, and somebody looks what may be used.
    base.prepare = pages;
    base.agents = {{0, "", [&](World& w) { w.protect(w.pages(5), read_only); }},
                   {1, "", [&](World& w) {
                        w.walk_in_hardware(w.pages(5).start);
                        w.access(w.pages(6).start, true, false);
                        w.rig.machine().touch_expectations(w.pages(5), true);
                        seen += w.rig.machine().reach(1, w.pages(5).start, true, false).may_succeed ? 'w' : '-';
                    }}};
    small.push_back(base);
    if (std::getenv("DIRECTMAP_LONG") != nullptr) { // 77,520 orders and more
        base.agents[1] = {1, "", [&](World& w) { note('1', w.translate(w.pages(5).start)); }};
        small.push_back(base);
    }
    for (const Scenario& scenario : small) {
        Tally every, reduced;
        const auto all = outcomes(scenario, seen, false, every);
        EXPECT_EQ(outcomes(scenario, seen, true, reduced), all);
        EXPECT_LT(reduced.executions, every.executions / 2);
        EXPECT_GT(all.size(), 1u) << "nothing depends on the order here";
    }
}

TEST(RandomSearch, IsTheSameForTheSameSeedAndFindsWhatABoundedSearchFinds) {
    const SeededFault& fault = *find_fault("skip-lock");
    const Scenario& scenario = *find_scenario(fault.scenario);
    Explorer explorer{scenario, &fault};
    const Tally first = explorer.search(random_runs(7, 2000)), again = explorer.search(random_runs(7, 2000));
    ASSERT_TRUE(first.failure);
    EXPECT_EQ(first.serialize(), again.serialize());
    EXPECT_NE(first.serialize(), explorer.search(random_runs(8, 2000)).serialize());
    EXPECT_FALSE(explorer.replay(first.failure->schedule).empty());
}

TEST(RandomSearch, GoesBeyondTheBoundAndFindsNothingWithoutAFault) {
    const std::uint64_t runs = std::getenv("DIRECTMAP_LONG") != nullptr ? 20'000 : 150;
    for (const Scenario& scenario : scenarios()) {
        const Tally tally = Explorer{scenario, nullptr}.search(random_runs(1, runs));
        EXPECT_FALSE(tally.failure) << scenario.name << "\n" << words(tally);
        EXPECT_EQ(tally.executions, runs);
    }
}

TEST(LongSearch, EveryScenarioIsCleanWithThreePreemptions) {
    if (std::getenv("DIRECTMAP_LONG") == nullptr) GTEST_SKIP() << "takes minutes: ./check --long";
    for (const Scenario& scenario : scenarios()) {
        if (scenario.agents.size() > 2) continue;
        const Tally tally = Explorer{scenario, nullptr}.search(bounded(3));
        EXPECT_FALSE(tally.failure) << scenario.name << "\n" << words(tally);
    }
}

// ---- many workers ---------------------------------------------------------------------------------------------------

TEST(Workers, HoweverManyThereAreTheResultIsTheSame) {
    const std::vector<Search> searches = {{"regions-collapse", "", bounded(2)},
                                          {"split-access", "", exhaustive(true)},
                                          {"epoch-stall", "", exhaustive(true)},
                                          {"gate-failed-admission", "admit-reopens", bounded(2)},
                                          {"reserve-exhausted", "", random_runs(3, 1500)},
                                          {"collapse-protect", "lock-wrong-region", bounded(2)}};
    std::vector<std::string> alone;
    for (const Search& search : searches) {
        Explorer explorer{*find_scenario(search.scenario), search.fault.empty() ? nullptr : find_fault(search.fault)};
        alone.push_back(explorer.search(search.mode).serialize());
    }
    for (const unsigned jobs : {1u, 2u, 5u}) {
        std::size_t finished = 0;
        const auto workers = local_workers(jobs);
        const auto tallies = search_all(searches, *workers, [&](const Progress& progress) {
            EXPECT_GE(progress.finished, finished);
            finished = progress.finished;
        });
        EXPECT_EQ(finished, searches.size());
        for (std::size_t i = 0; i < searches.size(); ++i)
            EXPECT_EQ(tallies[i].serialize(), alone[i]) << searches[i].scenario << ", " << jobs << " jobs";
    }
}

TEST(Workers, OneThatIsLostIsAnErrorAndNoResult) {
    for (const unsigned jobs : {1u, 2u}) {
        const auto workers = local_workers(jobs);
        EXPECT_THROW((void)search_all({{"no-such-scenario", "", bounded(2)}}, *workers), std::runtime_error);
    }
}

// ---- who waits for whom ---------------------------------------------------------------------------------------------

/// Another CPU holds every lock in `held`. A machine without a scheduler reports whoever would wait for one.
std::vector<Violation> while_locked(std::vector<unsigned> held, const std::function<void(World&)>& what) {
    RigConfig config = find_scenario("split-access")->config;
    World world{config, nullptr};
    Machine& machine = world.rig.machine();
    machine.run_on(1);
    for (const unsigned region : held) world.rig.platform().acquire(world.rig.regions()[region].lock);
    machine.run_on(0);
    what(world);
    return machine.violations();
}

TEST(Waiting, AWalkerWaitsForNoLock) { // P7
    EXPECT_THAT(while_locked({0, 1, 2},
                             [](World& w) {
                                 (void)w.translate(w.pages(5).start);
                                 w.walk(w.region(0));
                                 w.dump();
                             }),
                testing::IsEmpty());
}

TEST(Waiting, AChangeWaitsForNoOtherRegion) { // P11
    const auto work_in_region_1 = [](World& w) {
        w.protect(w.pages(70), Change{}.writable(false));
        w.protect(w.pages(70), Change{}.writable(true));
        w.prepare(w.pages(72, 8));
        w.release(w.pages(72, 8));
        w.collapse(w.region(1));
    };
    EXPECT_THAT(while_locked({0, 2}, work_in_region_1), testing::IsEmpty());
    EXPECT_THAT(while_locked({1}, work_in_region_1), testing::Not(testing::IsEmpty())) << "this test can't fail";
}

TEST(Waiting, AChangeOfManyRegionsReservesEverythingBeforeItTakesALock) {
    World world{find_scenario("split-access")->config, nullptr};
    std::vector<std::string> calls;
    world.rig.machine().record_to([&](const Event& e) { calls.emplace_back(e.call); });
    world.protect(world.pages(60, 10), Change{}.writable(false));
    const auto first_lock = std::find(calls.begin(), calls.end(), "acquire");
    ASSERT_NE(first_lock, calls.end());
    EXPECT_NE(std::find(calls.begin(), first_lock, "take_table"), first_lock);
    EXPECT_THAT(std::vector<std::string>(first_lock, calls.end()), Each(Ne("take_table")));
}

} // namespace
} // namespace directmap::machine

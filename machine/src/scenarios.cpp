// The list of scenarios, and of faults with the scenario that notices each. docs/explorer.md shows them with their
// counts.
#include "machine/scenario.hpp"

#include <utility>

#include "machine/pool_scenarios.hpp"
#include "races/races.hpp"

namespace directmap::machine {

namespace {

constexpr CpuCapabilities tolerant{.tolerates_live_resize = true};
constexpr CpuCapabilities intolerant{};

using races::executable;
using races::read_only;
using races::writable;

/// Two regions to play with, a third for tables.
RigConfig small_map(unsigned cpus = 2, unsigned cpus_outside = 0) {
    RigConfig config;
    config.ram = {{phys_range(World::base, World::base + 3 * World::region_size), {}}};
    config.table_pool = World::region(2);
    config.cpus = cpus;
    config.cpus_outside = cpus_outside;
    return config;
}
/// One region, tables somewhere else: a repaint is short.
RigConfig tiny_map(unsigned cpus, unsigned cpus_outside) {
    RigConfig config = small_map(cpus, cpus_outside);
    config.ram = {{World::region(0), {}}};
    config.tables_through_map = false;
    return config;
}
/// Two regions, tables somewhere else.
RigConfig two_regions() {
    RigConfig config = tiny_map(2, 0);
    config.ram = {{phys_range(World::base, World::base + 2 * World::region_size), {}}};
    return config;
}
RigConfig with_hole(RigConfig config, PhysRange range) {
    config.zones = {{.range = range, .kind = ZoneKind::excluded}};
    return config;
}
/// Two blocks: a repaint takes two tables.
RigConfig two_blocks(unsigned cpus, unsigned cpus_outside) {
    return with_hole(tiny_map(cpus, cpus_outside), World::pages(16, 48));
}
/// Two blocks on each side of the line between two regions.
RigConfig four_blocks_in_two_regions(unsigned cpus, unsigned cpus_outside) {
    RigConfig config = tiny_map(cpus, cpus_outside);
    config.ram = {{World::pages(48, 32), {}}};
    return config;
}
RigConfig with_policy(RigConfig config, CollapsePolicy policy) {
    config.policy = policy;
    return config;
}
/// The tables come from the region that is being changed.
RigConfig tables_inside() {
    RigConfig config = small_map();
    config.ram = {{World::region(0), {}}};
    config.table_pool = World::pages(48, 16);
    return config;
}
RigConfig realm() {
    RigConfig config = small_map(3, 1);
    config.realm_shared_address = std::uint64_t{1} << 40;
    return config;
}

void split_and_restore(World& w) {
    races::split_and_restore(w);
}

/// The races that the reference kernel runs too.
void add_races(std::vector<Scenario>& all) {
    races::for_each<World>([&all](const races::Race<World>& race) {
        Scenario scenario{.name = race.name,
                          .what = race.what,
                          .config = race.repaints ? tiny_map(race.cpus, 0) : small_map(race.cpus),
                          .prepare = race.prepare};
        for (const races::Agent<World>& agent : race.agents) {
            if (agent.run != nullptr) scenario.agents.push_back({agent.cpu, agent.what, agent.run});
        }
        all.push_back(std::move(scenario));
    });
}

void add_splits(std::vector<Scenario>& all) {
    all.push_back({.name = "own-tables-split",
                   .what = "two CPUs split the leaf through which they reach its own tables",
                   .config = tables_inside(),
                   .agents = {{0, "makes page 5 read-only", [](World& w) { w.protect(w.pages(5), read_only); }},
                              {1, "makes page 40 read-only", [](World& w) { w.protect(w.pages(40), read_only); }}}});
    all.push_back({.name = "own-tables-collapse",
                   .what = "one CPU collapses the leaf through which the other one reaches the table that it edits",
                   .config = tables_inside(),
                   .prepare = split_and_restore,
                   .agents = {{0, "collapses region 0", [](World& w) { w.collapse(w.region(0)); }},
                              {1, "makes page 6 read-only", [](World& w) { w.protect(w.pages(6), read_only); }}}});
}

void add_collapses(std::vector<Scenario>& all) {
    all.push_back({.name = "collapse-dump",
                   .what = "a table is taken away and used anew while another CPU dumps the map",
                   .config = small_map(),
                   .prepare = split_and_restore,
                   .agents = {{0, "collapses region 0, then splits region 1",
                               [](World& w) {
                                   w.collapse(w.region(0));
                                   w.protect(w.pages(70), read_only);
                               }},
                              {1, "walks over region 0", [](World& w) { w.walk(w.region(0)); }}}});
    all.push_back({.name = "collapse-dump-lines",
                   .what = "a dump is written while pages change and are merged: each line was true at some moment",
                   .config = two_regions(),
                   .prepare = [](World& w) { w.protect(w.pages(5), read_only); },
                   .agents = {{0, "makes page 5 writable again, collapses",
                               [](World& w) {
                                   w.protect(w.pages(5), writable);
                                   w.collapse(w.region(0));
                               }},
                              {1, "dumps the map", [](World& w) { w.dump(); }}}});
    all.push_back({.name = "collapse-translate",
                   .what = "the same with one look-up",
                   .config = small_map(),
                   .prepare = split_and_restore,
                   .agents = {{0, "collapses region 0, then splits region 1",
                               [](World& w) {
                                   w.collapse(w.region(0));
                                   w.protect(w.pages(70), read_only);
                               }},
                              {1, "looks page 5 up", [](World& w) { (void)w.translate(w.pages(5).start); }}}});
    all.push_back({.name = "collapse-reclaim",
                   .what = "one CPU collapses, another one reclaims what was unlinked",
                   .config = small_map(),
                   .prepare = split_and_restore,
                   .agents = {{0, "collapses region 0", [](World& w) { w.collapse(w.region(0)); }},
                              {1, "reclaims twice", [](World& w) {
                                   w.rig.map().reclaim();
                                   w.rig.map().reclaim();
                               }}}});
    all.push_back({.name = "heal-protect",
                   .what = "a change that heals the map at once, and a change nearby",
                   .config = with_policy(small_map(), CollapsePolicy::on_restore),
                   .prepare = [](World& w) { w.protect(w.pages(5), read_only); },
                   .agents = {{0, "makes page 5 writable", [](World& w) { w.protect(w.pages(5), writable); }},
                              {1, "makes page 6 read-only", [](World& w) { w.protect(w.pages(6), read_only); }}}});
    all.push_back({.name = "background-protect",
                   .what = "background collapse, and a change where it works",
                   .config = with_policy(small_map(), CollapsePolicy::background),
                   .prepare = split_and_restore,
                   .agents = {{0, "takes two steps of background collapse",
                               [](World& w) {
                                   w.background_step();
                                   w.background_step();
                               }},
                              {1, "makes page 6 read-only and writable again",
                               [](World& w) {
                                   w.protect(w.pages(6), read_only);
                                   w.protect(w.pages(6), writable);
                               }}},
                   .finish = [](World& w) { w.background_step(); },
                   .hidden_state = true});
    all.push_back({.name = "epoch-stall",
                   .what = "a walker stays long: tables wait for it, and nobody else does",
                   .config = small_map(),
                   .prepare = split_and_restore,
                   .agents = {{0, "collapses, splits and collapses again, then lets the walker go",
                               [](World& w) {
                                   w.collapse(w.region(0));
                                   w.protect(w.pages(9), read_only);
                                   w.protect(w.pages(9), writable);
                                   w.collapse(w.region(0));
                                   w.flags[0] = 1;
                               }},
                              {1, "walks for as long as that", [](World& w) {
                                   w.rig.platform().walker_enter();
                                   (void)w.translate(w.pages(5).start);
                                   w.await("agent 0 to be done", [&w] { return w.flags[0] != 0; });
                                   (void)w.translate(w.pages(5).start);
                                   w.rig.platform().walker_exit();
                               }}}});
}

void add_shortages(std::vector<Scenario>& all) {
    all.push_back({.name = "reserve-exhausted",
                   .what = "two CPUs split with too few tables for both",
                   .config = small_map(),
                   .prepare = [](World& w) { w.leave_tables(w.choose("tables", 5)); },
                   .agents = {{0, "makes page 5 read-only",
                               [](World& w) { w.protect(w.pages(5), read_only, {}, {ErrorCode::no_tables}); }},
                              {1, "makes page 70 read-only",
                               [](World& w) { w.protect(w.pages(70), read_only, {}, {ErrorCode::no_tables}); }}},
                   .finish = [](World& w) { w.leave_tables(100); }});
    all.push_back({.name = "no-tables-regions",
                   .what = "a change of two regions runs out of tables while another CPU splits one of them",
                   .config = small_map(),
                   .prepare = [](World& w) { w.leave_tables(w.choose("tables", 8)); },
                   .agents = {{0, "makes pages 60-69 read-only",
                               [](World& w) { w.protect(w.pages(60, 10), read_only, {}, {ErrorCode::no_tables}); }},
                              {1, "makes page 62 executable",
                               [](World& w) { w.protect(w.pages(62), executable, {}, {ErrorCode::no_tables}); }}},
                   .finish = [](World& w) { w.leave_tables(100); }});
    all.push_back({.name = "no-tables-prepare",
                   .what = "pinning runs out of tables while another CPU changes a page",
                   .config = small_map(),
                   .prepare = [](World& w) { w.leave_tables(w.choose("tables", 7)); },
                   .agents = {{0, "prepares pages 4-20",
                               [](World& w) {
                                   if (w.prepare(w.pages(4, 17), {ErrorCode::no_tables})) w.release(w.pages(4, 17));
                               }},
                              {1, "makes page 6 read-only",
                               [](World& w) { w.protect(w.pages(6), read_only, {}, {ErrorCode::no_tables}); }}},
                   .finish = [](World& w) { w.leave_tables(100); }});
    all.push_back(
        {.name = "no-tables-admission",
         .what = "a repaint for a newcomer runs out of tables while another CPU splits: nobody is admitted, nothing is "
                 "lost",
         .config = small_map(3, 1),
         .prepare = [](World& w) { w.leave_tables(2 + w.choose("tables", 6)); },
         .agents = {{0, "admits CPU 2, which doesn't tolerate resizing",
                     [](World& w) { w.admit(2, intolerant, AdmissionPolicy::repaint, {ErrorCode::no_tables}); }},
                    {1, "makes pages 4-7 read-only",
                     [](World& w) { w.protect(w.pages(4, 4), read_only, {}, {ErrorCode::no_tables}); }}},
         .finish =
             [](World& w) {
                 w.leave_tables(100);
                 w.protect(w.pages(6), writable);
                 w.protect(w.pages(4, 4), writable);
             },
         .hidden_state = true});
    all.push_back(
        {.name = "atomic-callers",
         .what = "two callers that can't sleep share what is set aside",
         .config = small_map(),
         .prepare =
             [](World& w) {
                 if (!w.rig.map().set_aside(3)) w.fail("tables can't be set aside");
                 w.leave_tables(0);
             },
         .agents = {{0, "makes page 5 read-only",
                     [](World& w) { w.protect(w.pages(5), read_only, {.atomic = true}, {ErrorCode::would_block}); }},
                    {1, "makes page 70 read-only",
                     [](World& w) { w.protect(w.pages(70), read_only, {.atomic = true}, {ErrorCode::would_block}); }}},
         .finish = [](World& w) { w.leave_tables(100); }});
    all.push_back(
        {.name = "atomic-caller-sleeper",
         .what = "a caller that sleeps for tables may never wake up: one that can't sleep doesn't wait for it",
         .config = small_map(),
         .prepare =
             [](World& w) {
                 w.prepare(w.pages(64, 8));
                 if (!w.rig.map().set_aside(2)) w.fail("tables can't be set aside");
             },
         .agents = {{0, "makes pages 5-70 read-only", [](World& w) { w.protect(w.pages(5, 66), read_only); }, true},
                    {1, "from atomic context: makes page 6 executable, then page 66 in prepared pages",
                     [](World& w) {
                         w.protect(w.pages(6), executable, {.atomic = true});
                         w.protect(w.pages(66), executable, {.atomic = true});
                     }}},
         .finish = [](World& w) { w.release(w.pages(64, 8)); }});
}

/// Once a CPU that doesn't tolerate resizing is inside, everything is by pages: every change works.
void changes_without_resizing(World& w) {
    w.leave_tables(0);
    if (w.rig.map().gate_mode() != Gate::Mode::closed) return;
    for (const unsigned page : {1u, 9u, 41u, 66u}) {
        if (w.rig.machine().reference().find(w.pages(page).start) != nullptr) w.protect(w.pages(page), executable);
    }
}

void add_gates(std::vector<Scenario>& all) {
    all.push_back(
        {.name = "gate-split-admission",
         .what = "one CPU splits while a CPU that doesn't tolerate it is admitted",
         .config = tiny_map(3, 1),
         .agents = {{0, "makes page 5 read-only", [](World& w) { w.protect(w.pages(5), read_only); }},
                    {1, "admits CPU 2, which doesn't tolerate resizing", [](World& w) { w.admit(2, intolerant); }}},
         .finish = changes_without_resizing,
         .hidden_state = true,
         .heals = false});
    all.push_back(
        {.name = "gate-collapse-admission",
         .what = "one CPU collapses while a CPU that doesn't tolerate it is admitted",
         .config = tiny_map(3, 1),
         .prepare =
             [](World& w) {
                 split_and_restore(w);
                 w.protect(w.pages(40), read_only); // so that no more than pages 0-7 can be merged
             },
         .agents = {{0, "collapses region 0", [](World& w) { w.collapse(w.region(0), {ErrorCode::unsupported}); }},
                    {1, "admits CPU 2, which doesn't tolerate resizing", [](World& w) { w.admit(2, intolerant); }}},
         .finish = changes_without_resizing,
         .hidden_state = true,
         .heals = false});
    all.push_back(
        {.name = "gate-group-admission",
         .what = "one CPU changes whole groups while a CPU that doesn't tolerate resizing is admitted",
         .config = tiny_map(3, 1),
         .prepare = split_and_restore,
         .agents = {{0, "makes pages 0-15 read-only, then page 9 writable",
                     [](World& w) {
                         w.protect(w.pages(0, 16), read_only);
                         w.protect(w.pages(9), writable);
                     }},
                    {1, "admits CPU 2, which doesn't tolerate resizing", [](World& w) { w.admit(2, intolerant); }}},
         .finish = changes_without_resizing,
         .hidden_state = true,
         .heals = false});
    all.push_back(
        {.name = "gate-repaint-access",
         .what = "the map is repainted for a newcomer while another CPU uses it",
         .config = tiny_map(3, 1),
         .agents = {{0, "admits CPU 2, which doesn't tolerate resizing", [](World& w) { w.admit(2, intolerant); }},
                    {1, "writes, looks up and walks to page 5",
                     [](World& w) {
                         w.access(w.pages(5).start, true, false);
                         w.walk_in_hardware(w.pages(5).start);
                         (void)w.translate(w.pages(5).start);
                         w.access(w.pages(5).start, true, false);
                     }}},
         .finish = changes_without_resizing,
         .hidden_state = true,
         .heals = false});
    all.push_back(
        {.name = "gate-two-admissions",
         .what = "two CPUs admit a newcomer each, while neither newcomer tolerates resizing and tables are few",
         .config = two_blocks(4, 2),
         .prepare = [](World& w) { w.leave_tables(w.choose("tables", 5)); },
         .agents = {{0, "admits CPU 2",
                     [](World& w) { w.admit(2, intolerant, AdmissionPolicy::repaint, {ErrorCode::no_tables}); }},
                    {1, "admits CPU 3, then collapses",
                     [](World& w) {
                         w.admit(3, intolerant, AdmissionPolicy::repaint, {ErrorCode::no_tables});
                         w.collapse(w.region(0), {ErrorCode::unsupported});
                     }}},
         .finish = changes_without_resizing,
         .hidden_state = true,
         .heals = false});
    all.push_back(
        {.name = "gate-failed-admission",
         .what = "one of two admissions runs out of tables while the other one repaints and a third CPU collapses",
         .config = two_blocks(5, 2),
         .prepare = [](World& w) { w.leave_tables(2); },
         .agents = {{0, "admits CPU 3",
                     [](World& w) { w.admit(3, intolerant, AdmissionPolicy::repaint, {ErrorCode::no_tables}); }},
                    {1, "admits CPU 4",
                     [](World& w) { w.admit(4, intolerant, AdmissionPolicy::repaint, {ErrorCode::no_tables}); }},
                    {2, "collapses region 0", [](World& w) { w.collapse(w.region(0), {ErrorCode::unsupported}); }}},
         .finish = changes_without_resizing,
         .hidden_state = true,
         .heals = false});
    all.push_back({.name = "gate-hotplug-storm",
                   .what = "CPUs come in both kinds, one leaves, and a page changes meanwhile",
                   .config = tiny_map(4, 2),
                   .agents = {{0, "admits CPU 2, which tolerates resizing, and makes page 5 read-only",
                               [](World& w) {
                                   w.admit(2, tolerant);
                                   w.protect(w.pages(5), read_only);
                               }},
                              {1, "admits CPU 3, which doesn't; CPU 3 leaves again",
                               [](World& w) {
                                   w.admit(3, intolerant);
                                   w.rig.machine().leave(3);
                               }}},
                   .finish = changes_without_resizing,
                   .hidden_state = true,
                   .heals = false});
    all.push_back(
        {.name = "gate-add-admission",
         .what = "one CPU adds a bank and changes a page of it while a CPU that doesn't tolerate resizing is admitted",
         .config = with_hole(tiny_map(3, 1), World::pages(32, 32)),
         .prepare = [](World& w) { w.expect_bank(w.pages(32, 32)); },
         .agents = {{0, "adds pages 32-63, then makes page 40 read-only",
                     [](World& w) {
                         w.add(World::pages(32, 32));
                         w.protect(w.pages(40), read_only, {}, {ErrorCode::unsupported});
                     }},
                    {1, "admits CPU 2, which doesn't tolerate resizing", [](World& w) { w.admit(2, intolerant); }}},
         .hidden_state = true,
         .heals = false});
    all.push_back(
        {.name = "gate-refuse",
         .what = "the policy is to refuse: a newcomer stays outside, and the map goes on as if nothing had been",
         .config = tiny_map(3, 1),
         .agents = {{0, "makes page 5 read-only", [](World& w) { w.protect(w.pages(5), read_only); }},
                    {1, "refuses CPU 2, which doesn't tolerate resizing",
                     [](World& w) {
                         if (w.admit(2, intolerant, AdmissionPolicy::refuse, {ErrorCode::unsupported})) {
                             w.fail("a CPU that must be refused is admitted");
                         }
                         w.collapse(w.region(0));
                     }}},
         .hidden_state = true});
    all.push_back(
        {.name = "gate-capability-lost",
         .what = "a change of two regions has found the gate open, and a CPU that doesn't tolerate resizing comes",
         .config = four_blocks_in_two_regions(3, 1),
         .agents = {{0, "makes pages 60-69 read-only", [](World& w) { w.protect(w.pages(60, 10), read_only); }},
                    {1, "admits CPU 2, which doesn't tolerate resizing", [](World& w) { w.admit(2, intolerant); }}},
         .finish = changes_without_resizing,
         .hidden_state = true,
         .heals = false});
    all.push_back(
        {.name = "gate-newcomer-walks",
         .what = "the newcomer that doesn't tolerate resizing walks at once, while a change from before still runs",
         .config = two_blocks(3, 1),
         .agents = {{0, "makes page 5 read-only, collapses",
                     [](World& w) {
                         w.protect(w.pages(5), read_only);
                         w.collapse(w.region(0), {ErrorCode::unsupported});
                     }},
                    {1, "admits CPU 2, which doesn't tolerate resizing",
                     [](World& w) {
                         w.admit(2, intolerant);
                         w.flags[0] = 1;
                     }},
                    {2, "once it is inside, walks to pages 5 and 6",
                     [](World& w) {
                         w.await("its admission", [&w] { return w.flags[0] != 0; });
                         w.walk_in_hardware(w.pages(5).start);
                         w.walk_in_hardware(w.pages(6).start);
                         w.access(w.pages(6).start, true, false);
                     }}},
         .finish = changes_without_resizing,
         .hidden_state = true,
         .heals = false});
    all.push_back({.name = "gate-leave-and-return",
                   .what = "a CPU leaves the map, and comes back, while a page is tightened and the map collapses",
                   .config = small_map(3),
                   .prepare = split_and_restore,
                   .agents = {{0, "makes page 5 read-only, then collapses",
                               [](World& w) {
                                   w.protect(w.pages(5), read_only);
                                   w.collapse(w.region(0));
                               }},
                              {1, "takes CPU 2 off the map and admits it again",
                               [](World& w) {
                                   w.rig.machine().leave(2);
                                   w.admit(2, tolerant);
                                   w.flags[0] = 1;
                               }},
                              {2, "once it is back, uses page 6",
                               [](World& w) {
                                   w.await("its return", [&w] { return w.flags[0] != 0; });
                                   w.walk_in_hardware(w.pages(6).start);
                                   w.access(w.pages(6).start, true, false);
                               }}},
                   .hidden_state = true});
    all.push_back({.name = "gate-never-arrives",
                   .what = "a CPU is admitted and never comes: the others go on",
                   .config = tiny_map(3, 1),
                   .agents = {{0, "makes CPU 2 welcome",
                               [](World& w) {
                                   if (!w.rig.map().admit(intolerant)) w.fail("the admission fails");
                               }},
                              {1, "makes page 5 read-only, then writable",
                               [](World& w) {
                                   w.protect(w.pages(5), read_only);
                                   w.protect(w.pages(5), writable);
                               }}},
                   .finish = changes_without_resizing,
                   .hidden_state = true,
                   .heals = false});
    all.push_back({.name = "gate-dies-half-way",
                   .what = "the CPU that repaints dies half-way: others change pages and admit CPUs all the same",
                   .config = tiny_map(4, 2),
                   .agents = {{0, "admits CPU 2, which doesn't tolerate resizing",
                               [](World& w) { w.admit(2, intolerant); }, true},
                              {1, "makes page 5 read-only, admits CPU 3, which doesn't tolerate resizing",
                               [](World& w) {
                                   w.protect(w.pages(5), read_only);
                                   w.admit(3, intolerant);
                               }}},
                   .finish = changes_without_resizing,
                   .hidden_state = true,
                   .heals = false});
    all.push_back({.name = "collapse-dies-half-way",
                   .what = "a CPU dies while it collapses: others change pages all the same",
                   .config = small_map(),
                   .prepare = split_and_restore,
                   .agents = {{0, "collapses region 0", [](World& w) { w.collapse(w.region(0)); }, true},
                              {1, "makes page 6 read-only, collapses", [](World& w) {
                                   w.protect(w.pages(6), read_only);
                                   w.collapse(w.region(0));
                               }}}});
    all.push_back({.name = "walker-dies-half-way",
                   .what = "a CPU dies while it walks: tables wait for ever, changes don't",
                   .config = small_map(),
                   .prepare = split_and_restore,
                   .agents = {{0, "collapses region 0, splits it and collapses it again",
                               [](World& w) {
                                   w.collapse(w.region(0));
                                   w.protect(w.pages(5), read_only);
                                   w.protect(w.pages(5), writable);
                                   w.collapse(w.region(0));
                               }},
                              {1, "looks page 5 up", [](World& w) { (void)w.translate(w.pages(5).start); }, true}}});
    all.push_back({.name = "realm-early-share",
                   .what = "a realm shares a page before its second CPU is inside, while that one is being admitted",
                   .config = realm(),
                   .agents = {{0, "shares page 5 with the host",
                               [](World& w) {
                                   const PhysRange page = w.pages(5);
                                   w.protect(page, Change{}.valid(false));
                                   w.rig.machine().set_granules(page, true);
                                   w.protect(page, Change{}.shared(true));
                                   w.protect(page, Change{}.valid(true));
                               }},
                              {1, "admits CPU 2, which tolerates resizing",
                               [](World& w) {
                                   w.admit(2, tolerant);
                                   w.walk_in_hardware(w.pages(6).start);
                               }}},
                   .hidden_state = true});
}

} // namespace

const std::vector<Scenario>& scenarios() {
    static const std::vector<Scenario> all = [] {
        std::vector<Scenario> list;
        add_races(list);
        add_splits(list);
        add_collapses(list);
        add_shortages(list);
        add_gates(list);
        list.insert(list.end(), pool_scenarios().begin(), pool_scenarios().end());
        return list;
    }();
    return all;
}

const std::vector<SeededFault>& seeded_faults() {
    using Outside = SeededFault::Outside;
    static const std::vector<SeededFault> all = {
        {"skip-lock", "region locks exclude nobody", "split-split-same-leaf", Omission::nothing, Outside::skip_lock},
        {"lock-wrong-region", "every other CPU takes the lock of the next region", "collapse-protect",
         Omission::nothing, Outside::neighbours_lock},
        {"trust-old-plan", "after the reserve was filled, the plan from before is committed without a second look",
         "split-split-same-leaf", Omission::second_plan},
        {"trust-old-leaf",
         "a leaf is split as it was seen before a table was asked for, although it has changed meanwhile",
         "repaint-protect-leaf", Omission::second_look},
        {"free-before-grace", "an unlinked table is reused while walkers may still read it", "collapse-translate",
         Omission::nothing, Outside::no_grace},
        {"walk-unannounced", "walkers don't say that they walk", "collapse-dump", Omission::nothing,
         Outside::no_walker_sections},
        {"free-before-flush", "the grace period of a table begins before its flush", "collapse-reclaim",
         Omission::flush_to_reclaim},
        {"walks-in-flight-ignored",
         "a barrier after an invalidation doesn't wait for walks in flight (hardware's mistake)",
         "collapse-hardware-walk", Omission::nothing, Outside::no_wait_for_walks},
        {"hint-after-split", "an invalidation carries a level hint although larger entries may linger",
         "split-lingers-tighten", Omission::unhinted_flush},
        {"repaint-without-invalidation", "a repaint forgets that larger entries linger", "gate-split-admission",
         Omission::lingering_note},
        {"merge-unflushed", "a collapse merges pages whose older entries may still be cached",
         "deferred-flush-collapse", Omission::flush_to_merge},
        {"collapse-into-prepare", "a collapse merges what is just being pinned to pages", "prepare-collapse",
         Omission::prepare_check},
        {"admit-unchecked", "a CPU is admitted without a look at what it tolerates", "gate-split-admission",
         Omission::admission_check},
        {"admit-without-wait", "a CPU enters while a change that saw the gate open still splits", "gate-add-admission",
         Omission::admission_wait},
        {"admit-reopens", "an admission that fails opens the gate although another one is repainting",
         "gate-failed-admission", Omission::repaint_count},
    };
    return all;
}

} // namespace directmap::machine

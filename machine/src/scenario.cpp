#include "machine/scenario.hpp"

#include <algorithm>
#include <sstream>
#include <utility>

#include <fmt/format.h>

namespace directmap::machine {

// ---- faults
// ------------------------------------------------------------------------------------------------------------

const SeededFault* find_fault(const std::string& name) {
    const auto& all = seeded_faults();
    const auto it = std::find_if(all.begin(), all.end(), [&](const SeededFault& fault) { return fault.name == name; });
    return it == all.end() ? nullptr : &*it;
}

ExploredPlatform::Lock& ExploredPlatform::taken_for(Lock& lock) {
    if (fault_ == nullptr || regions_ == nullptr) return lock;
    for (std::size_t i = 0; i < regions_->size(); ++i) {
        if (&(*regions_)[i].lock != &lock) continue;
        if (outside(SeededFault::Outside::skip_lock)) return own_[machine().cpu()];
        // Every other CPU is one off.
        if (outside(SeededFault::Outside::neighbours_lock))
            return (*regions_)[(i + machine().cpu()) % regions_->size()].lock;
    }
    return lock;
}

// ---- the world
// -----------------------------------------------------------------------------------------------------------

namespace {

RigConfig with_fault(RigConfig config, const SeededFault* fault) {
    if (fault == nullptr) return config;
    using Outside = SeededFault::Outside;
    config.invalidation_waits_for_walks = fault->outside != Outside::no_wait_for_walks;
    config.check_region_locks = fault->outside != Outside::skip_lock && fault->outside != Outside::neighbours_lock;
    return config;
}

} // namespace

World::World(const RigConfig& config, const SeededFault* fault)
    : rig{with_fault(config, fault), [fault](Machine& machine) {
              return ExploredPlatform{machine, fault};
          }} {
    if (!rig.built()) {
        fail(fmt::format("the map can't be built: {}", rig.built().error().reason()));
        return;
    }
    rig.platform().know_regions(rig.regions());
}

/// What a walk says of a page must have been true at some moment of the walk: when it began, now, or in between, after
/// one of the changes that ended meanwhile.
class World::Walk {
public:
    explicit Walk(World& world) : world_{world} {
        world.rig.machine().touch_expectations(world.rig.whole(), false);
        note();
        world.walks_.push_back(this);
    }
    Walk(const Walk&) = delete;
    Walk& operator=(const Walk&) = delete;
    ~Walk() { std::erase(world_.walks_, this); }

    void note() { states_.push_back(world_.rig.machine().reference()); }
    [[nodiscard]] bool allows(PhysRange page, const Access& seen) const {
        const auto allowed = [&](const Reference& states) { return !states.forbids(page, seen); };
        return allowed(world_.rig.machine().reference()) || std::any_of(states_.begin(), states_.end(), allowed);
    }

private:
    World& world_;
    std::vector<Reference> states_;
};

void World::changed() {
    for (Walk* walk : walks_) walk->note();
}

bool World::accept(const char* what, const Result<void>& result, std::initializer_list<ErrorCode> or_fails) {
    changed();
    if (result) return true;
    const Error& error = result.error();
    if (std::find(or_fails.begin(), or_fails.end(), error.code()) == or_fails.end()) {
        fail(fmt::format("{} fails: {}, {}", what, name(error.code()), error.reason()), error.where());
    }
    return false;
}

bool World::protect(PhysRange range, Change change, ChangeOptions options, std::initializer_list<ErrorCode> or_fails) {
    return accept("protect", rig.protect(range, change, options), or_fails);
}

bool World::protect_deferred(unsigned which, PhysRange range, Change change) {
    const unsigned id =
        rig.machine().begin_change(range, effect_of(change), false, "protect deferred", words_of(change));
    auto result = rig.map().protect_deferred(range, change);
    rig.machine().end_change(id, result ? Machine::Outcome::deferred : Machine::Outcome::failed);
    if (!accept("protect deferred", result ? Result<void>{} : Result<void>{result.error()}, {})) return false;
    owed[which] = std::move(result.value());
    owed_ranges_[which] = range;
    return true;
}

void World::complete(unsigned which) {
    if (!owed[which]) return;
    owed[which]->complete();
    owed[which].reset();
    rig.machine().deferred_flushed(owed_ranges_[which]);
}

bool World::collapse(PhysRange range, std::initializer_list<ErrorCode> or_fails) {
    const auto result = rig.collapse(range);
    return accept("collapse", result ? Result<void>{} : Result<void>{result.error()}, or_fails);
}
bool World::prepare(PhysRange range, std::initializer_list<ErrorCode> or_fails) {
    return accept("prepare", rig.prepare(range), or_fails);
}
bool World::release(PhysRange range) {
    return accept("release", rig.release(range), {});
}
bool World::repaint(std::initializer_list<ErrorCode> or_fails) {
    return accept("repaint", rig.repaint(), or_fails);
}

bool World::add(PhysRange range) {
    return accept("add", rig.add(range), {});
}

bool World::admit(unsigned cpu, CpuCapabilities capabilities, AdmissionPolicy policy,
                  std::initializer_list<ErrorCode> or_fails) {
    Machine& machine = rig.machine();
    const unsigned id =
        machine.begin_change(rig.whole(), effect_of(Change{}), false, fmt::format("admit CPU {} into", cpu));
    const Result<void> result = rig.map().admit(capabilities, policy);
    machine.end_change(id, result ? Machine::Outcome::done : Machine::Outcome::failed);
    if (!accept("admit", result, or_fails)) return false;
    machine.set_bbm(cpu, capabilities.tolerates_live_resize ? 3 : 0);
    machine.enter(cpu, rig.map().root().value());
    return true;
}

Attributes World::translate(PhysAddr pa) {
    const Walk walk{*this};
    const auto result = rig.map().translate(pa);
    if (!result) {
        fail(fmt::format("translate fails: {}", result.error().reason()), pa);
        return {};
    }
    const Translation& to = result.value();
    if (to.pa != pa) fail(fmt::format("{:#x} is said to lead to {:#x}", pa.value(), to.pa.value()), pa);
    check_seen({pa, page_size}, to.attributes, walk);
    return to.attributes;
}

void World::check_seen(PhysRange range, Attributes attributes, const Walk& walk) {
    const Access seen = access_of(attributes);
    rig.machine().touch_expectations(range, false);
    for (std::uint64_t pa = range.start.value(); pa < range.end().value(); pa += page_size) {
        if (walk.allows({PhysAddr{pa}, page_size}, seen)) continue;
        fail(fmt::format("a walk says '{}' of {:#x}", describe(seen), pa), PhysAddr{pa});
        return;
    }
}

void World::walk(PhysRange range) {
    const Walk walk{*this};
    std::uint64_t at = range.start.value();
    rig.map().walk(range, [&](const Leaf& leaf) {
        const std::uint64_t start = std::max(leaf.range.start.value(), range.start.value());
        const std::uint64_t end = std::min(leaf.range.end().value(), range.end().value());
        if (start > at || !leaf.mapped) fail(fmt::format("a walk finds nothing at {:#x}", at), PhysAddr{at});
        check_seen(phys_range(start, end), leaf.attributes, walk);
        at = end;
        return true;
    });
    if (at != range.end().value()) fail(fmt::format("a walk ends at {:#x}", at), PhysAddr{at});
}

void World::dump() {
    const Walk walk{*this};
    const PhysRange whole = rig.whole();
    std::uint64_t at = whole.start.value();
    rig.map().dump([&](const char* text, unsigned size) {
        std::istringstream line{std::string(text, size)};
        std::uint64_t start = 0, end = 0;
        char dash = 0;
        std::string word;
        if (!(line >> std::hex >> start >> dash >> end >> word >> word)) return; // a marker
        Attributes attributes = Attributes{}.with_valid(true);
        bool mapped = false;
        while (line >> word) {
            mapped = true;
            if (word == "F") attributes = attributes.with_valid(false);
            if (word == "RW" || word == "ro") attributes = attributes.with_writable(word == "RW");
            if (word == "NX" || word == "x") attributes = attributes.with_executable(word == "x");
        }
        start -= rig.config().offset;
        end -= rig.config().offset;
        // A leaf that was merged meanwhile may begin before the line: true, too.
        if (start > at || !mapped) fail(fmt::format("a dump has nothing at {:#x}", at), PhysAddr{at});
        check_seen(phys_range(start, end), attributes, walk);
        at = std::max(at, end);
    });
    if (at != whole.end().value()) fail(fmt::format("a dump ends at {:#x}", at), PhysAddr{at});
}

void World::access(PhysAddr pa, bool write, bool must_fault) {
    Machine& machine = rig.machine();
    if (scheduler_ != nullptr) scheduler_->before_call("access");
    machine.touch_expectations({pa, page_size}, true);
    const Machine::Reach reach = machine.reach(machine.cpu(), pa, write, false);
    const char* kind = write ? "write" : "read";
    if (must_fault && reach.may_succeed)
        fail(fmt::format("a {} of {:#x} by CPU {} may still succeed", kind, pa.value(), machine.cpu()), pa);
    if (!must_fault && reach.may_fault)
        fail(fmt::format("a {} of {:#x} by CPU {} may fault", kind, pa.value(), machine.cpu()), pa);
}

void World::await(const char* why, const std::function<bool()>& ready) {
    if (scheduler_ != nullptr) scheduler_->wait(why, ready);
}

unsigned World::choose(const char* what, unsigned alternatives) {
    return scheduler_ == nullptr ? 0 : scheduler_->choose(what, alternatives);
}

void World::schedule_with(Scheduler* scheduler) {
    scheduler_ = scheduler;
    rig.machine().schedule_with(scheduler);
}

void World::finish(bool heals) {
    Machine& machine = rig.machine();
    for (unsigned which = 0; which < 4; ++which) complete(which);
    // Marks that live only while a change is being committed.
    constexpr std::uint64_t marks = SmallFormat::regroup_mask.bits() | SmallFormat::broken_mask.bits();
    machine.for_each_word([&](std::uint64_t table, unsigned index, std::uint64_t word) {
        if ((word & marks) != 0 && !machine.is_table(table, word))
            fail(fmt::format("{:#x}[{}] still has the mark of a change", table, index), PhysAddr{table});
    });
    if (const std::string problem = rig.check(); !problem.empty() && machine.violations().empty()) fail(problem);
    if (!heals || !machine.violations().empty()) return;
    // Not pinned, nothing deferred, all CPUs tolerant: the map must come back to the fewest leaves, and its tables
    // home.
    rig.map().reclaim();
    const auto collapsed = rig.collapse(rig.whole());
    if (!collapsed || !collapsed.value().finished) return fail("the map doesn't collapse");
    rig.map().reclaim();
    if (const std::string problem = rig.check(); !problem.empty()) return fail(problem);
    if (rig.leaves() != rig.smallest_cover()) fail("the map doesn't collapse to the fewest leaves");
    std::size_t linked = 1;
    machine.for_each_word([&](std::uint64_t table, unsigned, std::uint64_t word) {
        if (machine.is_table(table, word)) ++linked;
    });
    const std::size_t kept = linked + rig.map().statistics().set_aside;
    if (machine.tables_in_use() != kept)
        fail(fmt::format("{} tables are in use, {} by the map", machine.tables_in_use(), kept));
}

// ---- the list
// ------------------------------------------------------------------------------------------------------------

const Scenario* find_scenario(const std::string& name) {
    const auto& all = scenarios();
    const auto it =
        std::find_if(all.begin(), all.end(), [&](const Scenario& scenario) { return scenario.name == name; });
    return it == all.end() ? nullptr : &*it;
}

} // namespace directmap::machine

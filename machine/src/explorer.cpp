#include "machine/explorer.hpp"

#include <algorithm>
#include <cstring>
#include <random>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "machine/fiber.hpp"
#include "machine/message.hpp"

namespace directmap::machine {

namespace {

using Footprint = Branch::Footprint;

void normalize(Footprint& footprint) {
    std::sort(footprint.begin(), footprint.end());
    footprint.erase(std::unique(footprint.begin(), footprint.end()), footprint.end());
}

/// In a footprint: it isn't known what else was touched.
constexpr std::uint64_t anything = ~std::uint64_t{0};

/// Steps commute unless both touch something that one of them writes.
bool commute(const Footprint& a, const Footprint& b) {
    for (const Footprint* footprint : {&a, &b}) {
        if (!footprint->empty() && footprint->back() == anything) return false; // they are sorted
    }
    for (auto i = a.begin(), j = b.begin(); i != a.end() && j != b.end();) {
        if ((*i >> 1) == (*j >> 1)) {
            // The same object: every entry for it, in both.
            const std::uint64_t object = *i >> 1;
            bool writes = false;
            for (; i != a.end() && (*i >> 1) == object; ++i) writes = writes || (*i & 1) != 0;
            for (; j != b.end() && (*j >> 1) == object; ++j) writes = writes || (*j & 1) != 0;
            if (writes) return false;
        } else if (*i < *j) {
            ++i;
        } else {
            ++j;
        }
    }
    return true;
}

/// Where a decision about who runs next is due.
struct Decision {
    unsigned current = 0;              ///< who ran last
    unsigned step = 0;                 ///< how many steps it has begun
    bool free = false;                 ///< leaving it is no preemption
    const unsigned* enabled = nullptr; ///< who can run; the first is the plain choice
    unsigned count = 0;
};

/// Decides.
class Strategy {
public:
    static constexpr unsigned give_up = ~0u; ///< instead of an index: the rest of the run is of no interest

    virtual ~Strategy() = default;
    virtual void begin() {}
    /// An index into `decision.enabled`.
    virtual unsigned next(const Decision& decision) = 0;
    /// What hardware does on behalf of `agent`, the `count`th time. `fatal`: all but the plain choice end the agent,
    /// which counts as a preemption.
    virtual unsigned choose(unsigned agent, unsigned count, unsigned alternatives, bool fatal) = 0;
    /// What `agent` did since it was chosen.
    virtual void stepped([[maybe_unused]] unsigned agent, [[maybe_unused]] Footprint& footprint) {}
    /// Whether `stepped` wants to know.
    [[nodiscard]] virtual bool watches() const { return false; }
};

/// Follows what is written down.
class Replay final : public Strategy {
public:
    explicit Replay(const Schedule& schedule) : schedule_{schedule} {}

    unsigned next(const Decision& decision) override {
        for (const Switch& s : schedule_.switches) {
            if (s.agent != decision.current || s.step != decision.step) continue;
            for (unsigned i = 0; i < decision.count; ++i) {
                if (decision.enabled[i] == s.to) return i;
            }
        }
        return 0;
    }
    unsigned choose(unsigned agent, unsigned count, unsigned alternatives, bool) override {
        for (const Choice& c : schedule_.choices) {
            if (c.agent == agent && c.count == count && c.value < alternatives) return c.value;
        }
        return 0;
    }

private:
    const Schedule& schedule_;
};

/// Depth-first search over the choices of a run, bounded by preemptions or reduced by sleep sets (never both: an order
/// that a sleep set leaves out because an equivalent one was seen may have been the one within the bound).
class DepthFirst final : public Strategy {
public:
    DepthFirst(const SearchMode& mode, bool reduce, const Unit& unit)
        : bounded_{mode.kind == SearchMode::Kind::bounded}, bound_{mode.bound}, reduce_{reduce && !bounded_},
          path_{unit.path}, fixed_{unit.path.empty() ? 0 : unit.path.size() - 1} {}

    void begin() override {
        depth_ = 0;
        preemptions_ = 0;
        asleep_.clear();
        followed_ = no_branch;
    }
    unsigned next(const Decision& decision) override {
        const bool spent = bounded_ && !decision.free && preemptions_ == bound_;
        unsigned candidates[16];
        unsigned count = 0;
        for (unsigned i = 0; i < (spent ? 1 : decision.count); ++i) {
            if (!asleep(decision.enabled[i])) candidates[count++] = i;
        }
        if (count == 0) return give_up;
        unsigned taken = 0;
        followed_ = no_branch;
        if (count > 1) {
            followed_ = depth_;
            taken = branch(count);
            if (reduce_) {
                Branch& here = path_[followed_];
                for (unsigned i = 0; i < taken; ++i)
                    asleep_.push_back({decision.enabled[candidates[i]], here.explored[i]});
            }
        }
        if (!decision.free && candidates[taken] != 0) ++preemptions_;
        return candidates[taken];
    }
    unsigned choose(unsigned, unsigned, unsigned alternatives, bool fatal) override {
        if (!fatal) return branch(alternatives);
        if (bounded_ && preemptions_ == bound_) return 0;
        const unsigned taken = branch(alternatives);
        if (taken != 0) ++preemptions_;
        return taken;
    }
    void stepped(unsigned agent, Footprint& footprint) override {
        normalize(footprint);
        if (followed_ != no_branch) {
            Branch& here = path_[followed_];
            here.explored.resize(std::max<std::size_t>(here.explored.size(), here.taken + 1u));
            Footprint& known = here.explored[here.taken];
            known.insert(known.end(), footprint.begin(), footprint.end());
            normalize(known);
        }
        std::erase_if(asleep_, [&](const auto& s) { return s.first == agent || !commute(s.second, footprint); });
    }
    [[nodiscard]] bool watches() const override { return reduce_; }

    /// Goes to the next run; false if the unit is done.
    bool advance() {
        for (;;) {
            if (path_.size() == fixed_) return false;
            Branch& last = path_.back();
            if (last.taken + 1u < last.alternatives) {
                ++last.taken;
                return true;
            }
            path_.pop_back();
        }
    }
    /// Everything that `advance` would still go through, as units in that order.
    [[nodiscard]] std::vector<Unit> rest() const {
        std::vector<Unit> units;
        for (std::size_t depth = path_.size(); depth > fixed_; --depth) {
            const Branch& last = path_[depth - 1];
            if (last.taken + 1u >= last.alternatives) continue;
            Unit unit;
            unit.path.assign(path_.begin(), path_.begin() + static_cast<std::ptrdiff_t>(depth));
            Branch& varied = unit.path.back();
            // The alternative is left while hardware still has other choices in it: what the step would touch then
            // isn't known yet.
            if (varied.explored.size() > varied.taken && depth < path_.size() && path_[depth].explored.empty())
                varied.explored[varied.taken].push_back(anything);
            ++varied.taken;
            units.push_back(std::move(unit));
        }
        return units;
    }
    [[nodiscard]] std::uint64_t states() const { return states_; }

private:
    static constexpr std::size_t no_branch = ~std::size_t{0};

    [[nodiscard]] bool asleep(unsigned agent) const {
        return std::any_of(asleep_.begin(), asleep_.end(), [&](const auto& s) { return s.first == agent; });
    }
    unsigned branch(unsigned alternatives) {
        if (alternatives > 255) throw std::logic_error("a choice of more than 255");
        if (depth_ == path_.size()) {
            path_.emplace_back();
            ++states_;
        }
        Branch& here = path_[depth_++];
        if (here.alternatives == 0) here.alternatives = static_cast<std::uint8_t>(alternatives);
        if (here.alternatives != alternatives)
            throw std::logic_error("a scenario doesn't repeat itself: it must depend on nothing but its schedule");
        return here.taken;
    }

    bool bounded_;
    unsigned bound_;
    bool reduce_;
    std::vector<Branch> path_;
    std::size_t fixed_; ///< branches that the unit doesn't vary
    std::size_t depth_ = 0;
    unsigned preemptions_ = 0;
    std::vector<std::pair<unsigned, Footprint>> asleep_;
    std::size_t followed_ = no_branch; ///< the branch that the current step was chosen at
    std::uint64_t states_ = 0;
};

/// Random priorities: the enabled agent with the highest runs; at a few random moments it falls below all others
/// (Burckhardt et al., "A randomized scheduler with probabilistic guarantees of finding bugs", ASPLOS 2010).
class RandomPriorities final : public Strategy {
public:
    RandomPriorities(std::uint64_t seed, std::uint64_t run, unsigned agents, std::uint64_t expected_steps)
        : random_{seed * 0x9e3779b97f4a7c15u + run} {
        for (unsigned i = 0; i < agents; ++i) priorities_.push_back(static_cast<int>(i));
        std::shuffle(priorities_.begin(), priorities_.end(), random_);
        const unsigned falls = 1 + static_cast<unsigned>(random_() % 4);
        for (unsigned i = 0; i < falls; ++i) falls_.push_back(random_() % (expected_steps + 1));
    }

    unsigned next(const Decision& decision) override {
        if (std::find(falls_.begin(), falls_.end(), decisions_++) != falls_.end())
            priorities_[decision.current] = --lowest_;
        unsigned best = 0;
        for (unsigned i = 1; i < decision.count; ++i) {
            if (priorities_[decision.enabled[i]] > priorities_[decision.enabled[best]]) best = i;
        }
        return best;
    }
    unsigned choose(unsigned, unsigned, unsigned alternatives, bool fatal) override {
        if (fatal) return random_() % 256 == 0 ? 1 : 0;
        return static_cast<unsigned>(random_() % alternatives);
    }

private:
    std::mt19937_64 random_;
    std::vector<int> priorities_;
    std::vector<std::uint64_t> falls_;
    std::uint64_t decisions_ = 0;
    int lowest_ = 0;
};

} // namespace

// ---- units and tallies between processes ---------------------------------------------------------------------------

std::string Unit::serialize() const {
    MessageWriter out;
    out.number(first_run);
    out.number(runs);
    out.number(path.size());
    for (const Branch& branch : path) {
        out.number(branch.taken);
        out.number(branch.alternatives);
        out.number(branch.explored.size());
        for (const Footprint& footprint : branch.explored) {
            out.number(footprint.size());
            for (const std::uint64_t object : footprint) out.number(object);
        }
    }
    return out.take();
}

Unit Unit::parse(const std::string& bytes) {
    MessageReader in{bytes};
    Unit unit;
    unit.first_run = in.number();
    unit.runs = in.number();
    unit.path.resize(in.count());
    for (Branch& branch : unit.path) {
        branch.taken = static_cast<std::uint8_t>(in.number());
        branch.alternatives = static_cast<std::uint8_t>(in.number());
        branch.explored.resize(in.count());
        for (Footprint& footprint : branch.explored) {
            footprint.resize(in.count());
            for (std::uint64_t& object : footprint) object = in.number();
        }
    }
    return unit;
}

void Tally::add(const Tally& other) {
    executions += other.executions;
    states += other.states;
    steps += other.steps;
    pruned += other.pruned;
    if (!failure) failure = other.failure;
}

std::string Tally::serialize() const {
    MessageWriter out;
    for (const std::uint64_t count : {executions, states, steps, pruned}) out.number(count);
    out.number(failure ? 1 : 0);
    if (failure) {
        out.text(to_json(failure->schedule));
        out.number(failure->violations.size());
        for (const Violation& v : failure->violations) {
            out.text(v.promise);
            out.text(v.what);
            for (const std::uint64_t number : {std::uint64_t{v.cpu}, v.event, v.pa}) out.number(number);
        }
    }
    return out.take();
}

Tally Tally::parse(const std::string& bytes) {
    MessageReader in{bytes};
    Tally tally;
    for (std::uint64_t* count : {&tally.executions, &tally.states, &tally.steps, &tally.pruned}) *count = in.number();
    if (in.number() == 0) return tally;
    tally.failure.emplace();
    tally.failure->schedule = parse_schedule(in.text());
    tally.failure->violations.resize(in.count());
    for (Violation& v : tally.failure->violations) {
        v.promise = in.text();
        v.what = in.text();
        v.cpu = static_cast<unsigned>(in.number());
        v.event = in.number();
        v.pa = in.number();
    }
    return tally;
}

// ---- one run -------------------------------------------------------------------------------------------------------

/// Runs a scenario under a strategy: the machine's scheduler.
class Explorer::Runner final : public Scheduler {
public:
    Runner(const Scenario& scenario, const SeededFault* fault) : scenario_{scenario}, fault_{fault} {
        for (std::size_t i = 0; i < scenario.agents.size(); ++i)
            fibers_.push_back(std::make_unique<Fiber>(std::size_t{256} << 10));
        agents_.resize(scenario.agents.size());
    }

    struct Outcome {
        std::vector<Violation> violations;
        Schedule schedule;
        std::uint64_t steps = 0;
        bool given_up = false;
    };

    Outcome run(Strategy& strategy, const EventSink& sink = {}) {
        strategy_ = &strategy;
        strategy.begin();
        outcome_ = {};
        outcome_.schedule.scenario = scenario_.name;
        if (fault_ != nullptr) outcome_.schedule.fault = fault_->name;
        racing_ = false;
        stopped_ = false;
        current_ = 0;
        first_violations_ = 0;
        for (AgentState& agent : agents_) agent = {};

        World world{scenario_.config, fault_};
        world_ = &world;
        world.schedule_with(this); // for what is chosen before the race; nobody else runs yet
        Machine& machine = world.rig.machine();
        if (scenario_.prepare) scenario_.prepare(world);
        if (sink) machine.record_to(sink);
        for (std::size_t i = 0; i < agents_.size(); ++i) {
            fibers_[i]->start([this, i] { scenario_.agents[i].run(*world_); }, [this] { return after_end(); });
        }
        watching_ = strategy.watches();
        footprint_.clear();
        racing_ = true;
        decide(false);
        if (!stopped_) resume_chosen(thread_);
        racing_ = false;
        stopped_ = false;
        machine.run_on(0);
        world.schedule_with(nullptr);
        if (!outcome_.given_up && machine.violations().empty()) {
            if (scenario_.finish) scenario_.finish(world);
            if (machine.violations().empty()) world.finish(scenario_.heals);
            first_violations_ = machine.violations().size();
        }
        if (!outcome_.given_up) {
            const auto& found = machine.violations();
            outcome_.violations.assign(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(first_violations_));
        }
        if (!outcome_.violations.empty()) outcome_.schedule.violation = outcome_.violations.front().promise;
        world_ = nullptr;
        return std::move(outcome_);
    }

    [[nodiscard]] const Scenario& scenario() const { return scenario_; }

    // Scheduler.
    void before_call(const char* call) override {
        if (!racing_ || stopped_) return;
        // Waits for nothing, changes nothing that another agent could tell: the next call is as good a place.
        if (std::strcmp(call, "barrier_context") == 0) return;
        point(false, nullptr);
    }
    void wait(const char* why, const std::function<bool()>& ready) override {
        if (!racing_) return;
        if (stopped_) return clear_up(ready);
        agents_[current_].why = why;
        point(false, &ready);
    }
    void pause() override {
        if (!racing_ || stopped_) return;
        point(true, nullptr);
    }
    unsigned choose(const char*, unsigned alternatives) override { return choose(alternatives, false); }
    unsigned choose(unsigned alternatives, bool fatal) {
        if (stopped_) return 0;
        AgentState& agent = agents_[current_];
        const unsigned count = agent.choices++;
        const unsigned value = strategy_->choose(current_, count, alternatives, fatal);
        if (value != 0) outcome_.schedule.choices.push_back({current_, count, value});
        return value;
    }
    void touch(std::uint64_t object, bool writes) override {
        if (watching_) footprint_.push_back(object << 1 | (writes ? 1 : 0));
    }

private:
    struct AgentState {
        bool begun = false;
        unsigned steps = 0;
        unsigned choices = 0;
        bool done = false;
        bool dead = false; ///< will not go on before the others have ended
        const char* why = "";
        const std::function<bool()>* ready = nullptr; ///< what it waits for
    };

    [[nodiscard]] bool enabled(unsigned agent) const {
        const AgentState& a = agents_[agent];
        if (a.done || (a.dead && !over() && !stopped_)) return false;
        return a.ready == nullptr || (*a.ready)();
    }
    /// Whoever lives has ended. Then the dead do, too, so that the run has an end.
    [[nodiscard]] bool over() const {
        return std::all_of(agents_.begin(), agents_.end(), [](const AgentState& a) { return a.done || a.dead; });
    }

    /// The current agent stands before its next step.
    void point(bool pausing, const std::function<bool()>* ready) {
        if (++outcome_.steps > step_limit) {
            world_->rig.machine().report("progress", fmt::format("no end after {} platform calls", step_limit), 0);
            return stop();
        }
        const unsigned here = current_;
        if (watching_) {
            strategy_->stepped(here, footprint_);
            footprint_.clear();
        }
        ++agents_[here].steps;
        agents_[here].ready = ready;
        const bool may_die =
            scenario_.agents[here].mortal && !agents_[here].dead && !world_->rig.machine().holds_a_lock();
        if (may_die && choose(2, true) == 1) {
            agents_[here].dead = true;
            agents_[here].why = "nothing: it is dead";
        }
        decide(pausing);
        if (!stopped_ && current_ != here) resume_chosen(*fibers_[here]);
        if (stopped_ && ready != nullptr) clear_up(*ready);
        agents_[here].ready = nullptr;
    }

    /// After the race: nobody is interrupted any more, but whoever has to wait still lets those go on that can, so
    /// that nobody enters where another one still is. Where nobody can, it goes on as it is.
    void clear_up(const std::function<bool()>& ready) {
        const unsigned here = current_;
        agents_[here].ready = &ready;
        while (!ready()) {
            unsigned other = 0;
            while (other < agents_.size() && (other == here || !agents_[other].begun || !enabled(other))) ++other;
            if (other == agents_.size()) break;
            current_ = other;
            resume_chosen(*fibers_[here]);
        }
        agents_[here].ready = nullptr;
    }

    /// Chooses who runs next, as `current_`; stops the race if nobody can.
    void decide(bool pausing) {
        if (!world_->rig.machine().violations().empty()) return stop();
        unsigned list[16];
        unsigned count = 0;
        const bool can_go_on = enabled(current_);
        if (can_go_on) list[count++] = current_;
        for (unsigned i = 0; i < agents_.size(); ++i) {
            if (i != current_ && enabled(i)) list[count++] = i;
        }
        if (count == 0) {
            std::string who;
            for (unsigned i = 0; i < agents_.size(); ++i) {
                if (!agents_[i].done)
                    who += fmt::format("{}agent {} waits for {}", who.empty() ? "" : ", ", i, agents_[i].why);
            }
            world_->rig.machine().report("progress", "nobody can go on: " + who, 0);
            return stop();
        }
        const unsigned first = pausing && can_go_on && count > 1 ? 1 : 0; // others first
        const bool free = pausing || !can_go_on || !agents_[current_].begun;
        const Decision decision{current_, agents_[current_].steps, free, list + first, count - first};
        const unsigned index = strategy_->next(decision);
        if (index == Strategy::give_up) {
            outcome_.given_up = true;
            return stop();
        }
        const unsigned chosen = decision.enabled[index];
        if (index != 0) outcome_.schedule.switches.push_back({current_, decision.step, chosen});
        current_ = chosen;
    }

    void resume_chosen(Fiber& from) {
        agents_[current_].begun = true;
        world_->rig.machine().run_on(scenario_.agents[current_].cpu);
        from.switch_to(*fibers_[current_]);
    }

    /// The race is over, with a violation or without interest: whoever has begun runs to the end, so that nothing is
    /// left on any stack.
    void stop() {
        first_violations_ = world_->rig.machine().violations().size();
        stopped_ = true;
    }

    /// Where control goes when an agent has ended.
    Fiber* after_end() {
        AgentState& ended = agents_[current_];
        ended.done = true;
        ++ended.steps;
        ++outcome_.steps;
        if (watching_ && !stopped_) {
            strategy_->stepped(current_, footprint_);
            footprint_.clear();
        }
        const auto left = [&] {
            return std::any_of(agents_.begin(), agents_.end(), [](const AgentState& a) { return !a.done; });
        };
        if (!stopped_ && !left() && !world_->rig.machine().violations().empty()) stop();
        if (!stopped_ && left()) decide(false);
        if (stopped_) {
            const auto first = [&](const auto& wanted) {
                unsigned agent = 0;
                while (agent < agents_.size() && (agents_[agent].done || !agents_[agent].begun || !wanted(agent)))
                    ++agent;
                return agent;
            };
            current_ = first([&](unsigned agent) { return enabled(agent); });
            if (current_ == agents_.size()) current_ = first([](unsigned) { return true; });
            if (current_ == agents_.size()) return &thread_;
        } else if (!left()) {
            return &thread_;
        }
        agents_[current_].begun = true;
        world_->rig.machine().run_on(scenario_.agents[current_].cpu);
        return fibers_[current_].get();
    }

    const Scenario& scenario_;
    const SeededFault* fault_;
    Fiber thread_;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    std::vector<AgentState> agents_;
    Strategy* strategy_ = nullptr;
    World* world_ = nullptr;
    Outcome outcome_;
    Footprint footprint_;
    std::size_t first_violations_ = 0; ///< how many there were when the race was stopped
    unsigned current_ = 0;
    bool racing_ = false;
    bool stopped_ = false;
    bool watching_ = false;
};

// ---- the story
// ---------------------------------------------------------------------------------------------------------

namespace {

/// Turns events into sentences. Reads that follow one another are told as one.
class Storyteller {
public:
    explicit Storyteller(std::string& text) : text_{text} {}

    void hear(const Event& e) {
        const std::string_view call = e.call;
        if (call == "config") {
            machine_ = e.machine;
            return;
        }
        if (call == "load" || call == "summarize") {
            if (cpu_ != e.cpu || !reading_) flush(e.cpu);
            ++reads_;
            reading_ = true;
            last_ = call == "load"
                        ? fmt::format("{:#x}[{}] is {}", e.table, e.index, machine_->explain(e.table, e.value))
                        : fmt::format("{} entries of {:#x}", e.count, e.table);
            return;
        }
        flush(e.cpu);
        const std::string what = sentence(e, call);
        if (!what.empty()) line(what);
    }
    void end() { flush(cpu_); }

private:
    void flush(unsigned cpu) {
        if (reading_) line(reads_ == 1 ? "reads: " + last_ : fmt::format("reads {} times, last: {}", reads_, last_));
        reads_ = 0;
        reading_ = false;
        cpu_ = cpu;
    }
    void line(std::string what) {
        while (what.ends_with(' ')) what.pop_back();
        if (told_cpu_ != static_cast<int>(cpu_)) text_ += fmt::format("CPU {}\n", cpu_);
        told_cpu_ = static_cast<int>(cpu_);
        text_ += "    " + what + "\n";
    }
    [[nodiscard]] std::string range(const Event& e) const {
        return e.size == 0 ? "everything" : fmt::format("{:#x}+{:#x}", e.va - machine_->config().offset, e.size);
    }
    [[nodiscard]] std::string lock(const Event& e) const {
        const auto region = machine_->region_of_lock(e.lock);
        return region ? fmt::format("the lock of region {:#x}", region->value()) : fmt::format("lock {}", e.lock);
    }
    [[nodiscard]] std::string sentence(const Event& e, std::string_view call) const {
        if (call == "begin") return fmt::format("begins #{}: {} {} {}", e.operation, e.text, range(e), e.change);
        if (call == "end") return fmt::format("ends #{}: {}", e.operation, e.text);
        if (call == "violation") return "VIOLATION  " + e.text;
        if (call == "install") return "enters the map";
        if (call == "acquire") return "takes " + lock(e);
        if (call == "release") return "gives back " + lock(e);
        if (call == "store" || call == "update") {
            return fmt::format("stores: {:#x}[{}] becomes {}", e.table, e.index, machine_->explain(e.table, e.value));
        }
        if (call == "fill") return fmt::format("fills {} entries of {:#x}", e.count, e.table);
        if (call == "barrier_publish") return "barrier: its stores are visible to walks";
        if (call == "barrier_complete") return "barrier: its invalidations have finished everywhere";
        if (call == "barrier_context" || call == "begin_table_writes" || call == "end_table_writes") return {};
        if (e.targets != 0) {
            return fmt::format(
                "invalidates {}{}{}", range(e), e.scope.leaves_only ? ", leaves only" : ", walk caches too",
                e.scope.level == InvalidationScope::any_level ? "" : fmt::format(", only level {}", e.scope.level));
        }
        if (call == "take_table")
            return e.table == 0 ? "gets no table: there is none" : fmt::format("takes {:#x} for a table", e.table);
        if (call == "give_table") return fmt::format("gives {:#x} back", e.table);
        if (call == "walker_enter") return "begins to walk without a lock";
        if (call == "walker_exit") return "has walked";
        if (call == "hardware_walk") {
            return fmt::format("its MMU walks: {:#x}[{}] is {}", e.table, e.index, machine_->explain(e.table, e.value));
        }
        if (call == "grace_stamp") return "begins a grace period";
        if (call == "grace_elapsed") return "asks whether all walkers have gone";
        return fmt::format("{} {}", call, e.text);
    }

    std::string& text_;
    const Machine* machine_ = nullptr;
    unsigned cpu_ = 0;
    int told_cpu_ = -1;
    unsigned reads_ = 0;
    bool reading_ = false;
    std::string last_;
};

} // namespace

// ---- the face
// ------------------------------------------------------------------------------------------------------------

Explorer::Explorer(const Scenario& scenario, const SeededFault* fault)
    : runner_{std::make_unique<Runner>(scenario, fault)} {}
Explorer::~Explorer() = default;

std::vector<Unit> Explorer::first_units(const SearchMode& mode) {
    if (mode.kind != SearchMode::Kind::random) return {Unit{}};
    std::vector<Unit> units;
    for (std::uint64_t first = 0; first < mode.runs; first += unit_runs) {
        units.push_back({{}, first, std::min(unit_runs, mode.runs - first)});
    }
    return units;
}

UnitResult Explorer::work(const SearchMode& mode, const Unit& unit) {
    UnitResult result;
    Tally& tally = result.tally;
    const auto count = [&](Runner::Outcome outcome) { // false: there is nothing left to look for
        tally.steps += outcome.steps;
        ++(outcome.given_up ? tally.pruned : tally.executions);
        if (outcome.violations.empty()) return true;
        tally.failure = Failure{std::move(outcome.schedule), std::move(outcome.violations)};
        return false;
    };
    if (mode.kind == SearchMode::Kind::random) {
        const Schedule plain;
        Replay plainly{plain};
        const std::uint64_t expected_steps = runner_->run(plainly).steps;
        const auto agents = static_cast<unsigned>(runner_->scenario().agents.size());
        for (std::uint64_t i = 0; i < unit.runs; ++i) {
            RandomPriorities strategy{mode.seed, unit.first_run + i, agents, expected_steps};
            if (!count(runner_->run(strategy))) break;
        }
        return result;
    }
    DepthFirst strategy{mode, mode.reduce && !runner_->scenario().hidden_state, unit};
    for (;;) {
        const bool clean = count(runner_->run(strategy));
        tally.states = strategy.states();
        if (!clean) break;
        if (tally.executions + tally.pruned >= unit_runs) {
            result.rest = strategy.rest();
            break;
        }
        if (!strategy.advance()) break;
    }
    return result;
}

Tally Explorer::search(const SearchMode& mode) {
    std::vector<Unit> todo = first_units(mode);
    std::reverse(todo.begin(), todo.end());
    Tally total;
    while (!todo.empty() && !total.failure) {
        const Unit unit = std::move(todo.back());
        todo.pop_back();
        UnitResult result = work(mode, unit);
        total.add(result.tally);
        for (auto it = result.rest.rbegin(); it != result.rest.rend(); ++it) todo.push_back(std::move(*it));
    }
    return total;
}

std::vector<Violation> Explorer::replay(const Schedule& schedule, EventSink sink) {
    Replay strategy{schedule};
    return runner_->run(strategy, sink).violations;
}

Schedule Explorer::shrink(const Schedule& schedule) {
    // Delta debugging over all deviations: drop runs of them, first long ones, as long as the same promise is broken.
    struct Deviation {
        bool is_switch;
        Switch s;
        Choice c;
    };
    std::vector<Deviation> kept;
    for (const Switch& s : schedule.switches) kept.push_back({true, s, {}});
    for (const Choice& c : schedule.choices) kept.push_back({false, {}, c});
    Schedule best = schedule;
    const auto try_without = [&](std::size_t first, std::size_t count) {
        Schedule candidate;
        candidate.scenario = schedule.scenario;
        candidate.fault = schedule.fault;
        for (std::size_t i = 0; i < kept.size(); ++i) {
            if (i >= first && i < first + count) continue;
            if (kept[i].is_switch) {
                candidate.switches.push_back(kept[i].s);
            } else {
                candidate.choices.push_back(kept[i].c);
            }
        }
        Replay strategy{candidate};
        const Runner::Outcome outcome = runner_->run(strategy);
        if (outcome.violations.empty() || outcome.schedule.violation != schedule.violation) return false;
        best = std::move(candidate);
        best.violation = schedule.violation;
        kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(first),
                   kept.begin() + static_cast<std::ptrdiff_t>(first + count));
        return true;
    };
    for (std::size_t size = std::max<std::size_t>(kept.size(), 1); size != 0; size /= 2) {
        for (bool again = true; again;) {
            again = false;
            for (std::size_t first = 0; first < kept.size();) {
                if (try_without(first, std::min(size, kept.size() - first))) {
                    again = true;
                } else {
                    first += size;
                }
            }
        }
    }
    return best;
}

std::string Explorer::story(const Schedule& schedule) {
    const Scenario& scenario = runner_->scenario();
    std::string text = fmt::format("{}: {}\n", scenario.name, scenario.what);
    for (std::size_t i = 0; i < scenario.agents.size(); ++i) {
        text += fmt::format("agent {}, CPU {}: {}\n", i, scenario.agents[i].cpu, scenario.agents[i].what);
    }
    text += "\n";
    Storyteller teller{text};
    bool over = false; // what happens after the violation is only clearing up
    (void)replay(schedule, [&](const Event& e) {
        if (over) return;
        teller.hear(e);
        over = std::string_view{e.call} == "violation";
    });
    teller.end();
    return text;
}

} // namespace directmap::machine

#include "workload.hpp"

#include "input_error.hpp"
#include "output.hpp"
#include "page_source.hpp"
#include "run_reach.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <memory>
#include <random>
#include <set>
#include <utility>

namespace directmap::tool {
namespace {

/// Tables that splits may take beside those that a map by pages consists of.
constexpr std::uint64_t spare_tables = 4096;
/// Room for the first chunks of the pool of protected tables, beside early tables.
constexpr std::uint64_t chunk_bytes = std::uint64_t{16} << 20;
/// Maps with more leaves are compared with the reference once, at the end.
constexpr std::uint64_t most_leaves_to_check_often = 1'000'000;
/// How densely a workload may fill its memory, so that random places are found.
constexpr std::uint64_t sparsity = 4;
constexpr std::size_t most_problems = 20;
constexpr std::uint64_t tick_milliseconds = 1000;
constexpr std::uint64_t nanoseconds_a_millisecond = 1'000'000;

struct PolicyFacts {
    Policy policy;
    std::string_view name;
    Mapping mapping;
    CollapsePolicy collapse;
};
constexpr PolicyFacts policies[] = {
    {Policy::pages, "pages", Mapping::pages, CollapsePolicy::never},
    {Policy::zoned, "zoned", Mapping::largest, CollapsePolicy::on_request},
    {Policy::never, "never", Mapping::largest, CollapsePolicy::never},
    {Policy::on_request, "explicit", Mapping::largest, CollapsePolicy::on_request},
    {Policy::on_restore, "on-restore", Mapping::largest, CollapsePolicy::on_restore},
    {Policy::background, "background", Mapping::largest, CollapsePolicy::background},
};

const PolicyFacts& facts_of(Policy policy) {
    return *std::find_if(std::begin(policies), std::end(policies),
                         [&](const PolicyFacts& facts) { return facts.policy == policy; });
}

PhysRange phys(const Range& range) {
    return phys_range(range.start, range.end);
}

/// Whatever comes and goes. Each has a small number that nobody else has meanwhile.
template <class T>
class Crowd {
public:
    [[nodiscard]] std::uint64_t size() const { return present_.size(); }

    /// The lowest number that is free.
    std::uint64_t come(T who) {
        const std::uint64_t number = free_.empty() ? present_.size() : free_.extract(free_.begin()).value();
        present_.emplace_back(std::move(who), number);
        return number;
    }
    /// The one at an index from 0 to `size` - 1, and its number.
    std::pair<T, std::uint64_t> leave(std::uint64_t index) {
        std::swap(present_[index], present_.back());
        auto who = std::move(present_.back());
        present_.pop_back();
        free_.insert(who.second);
        return who;
    }

private:
    std::vector<std::pair<T, std::uint64_t>> present_;
    std::set<std::uint64_t> free_;
};

class Player final : public ChangeListener {
public:
    Player(const Scenario& scenario, const WorkloadConfig& config, Policy policy, WorkloadListener& listener,
           const machine::EventSink& record, const TraceSink& trace, const DaySink& day)
        : scenario_(scenario), config_(config), policy_(policy), listener_(listener), trace_(trace), day_(day),
          page_size_(config.page_bytes()), random_(config.seed), choices_(~config.seed),
          memory_(plan_memory(scenario, config, policy)), source_(memory_.usable, page_size_, random_),
          bench_(make_workbench(bench_config(record))) {}

    WorkloadResult play();

private:
    /// Thrown when the map is not what it must be: nothing after that can be believed.
    struct Failed {};

    [[nodiscard]] WorkbenchConfig bench_config(const machine::EventSink& record) const;
    void play(const std::vector<Statement>& statements);
    void play(const Statement& statement);
    void do_boot(Step& step);
    void do_modules_load(const Statement& statement);
    void do_modules_unload(std::uint64_t count);
    void do_secret_take(const Statement& statement);
    void do_secret_give(std::uint64_t count);
    void do_guard_prepare(const Statement& statement);
    void do_guard_flip(std::uint64_t count);
    void do_guard_release();
    void do_share(const Statement& statement);
    void do_unshare(std::uint64_t count);
    void do_code_add(const Statement& statement);
    void do_code_remove(std::uint64_t count);
    void do_threads_start(const Statement& statement);
    void do_threads_end(std::uint64_t count);
    void do_copy(Step& step);
    void do_collapse(Step& step);
    void do_wait(std::uint64_t milliseconds);

    [[nodiscard]] bool is_zoned() const { return policy_ == Policy::zoned; }
    [[nodiscard]] std::vector<PhysRange> pinned() const;
    [[nodiscard]] MapState state() const;
    void on_change(PhysRange range, Change change) override;
    void on_flip(PhysAddr page, bool valid) override;
    void on_pin(PhysRange range, bool pinned) override;
    /// Who is served next takes memory where the statement says, single pages from some place there on.
    void look_where(const Statement& statement);
    void settle_anywhere() { source_.settle_at(source_.random_place(page_size_)); }
    void next_operation();
    void tell(TraceOperation operation, PhysRange range = {}, bool atomic = false, const std::string& text = {});
    void problem(const std::string& text);
    void must(const Result<void>& result, std::string_view what);
    template <class T>
    [[nodiscard]] static Result<void> outcome(const Result<T>& result) {
        return result ? Result<void>{} : Result<void>{result.error()};
    }
    void check();
    void keep_dump();
    /// A number from 0 to `limit` - 1, for what users do.
    [[nodiscard]] std::uint64_t choose(std::uint64_t limit) { return choices_() % limit; }
    template <class... Arguments>
    void day(fmt::format_string<Arguments...> pattern, Arguments&&... arguments) {
        if (day_) day_(fmt::format(pattern, std::forward<Arguments>(arguments)...));
    }
    /// One more has come, unless the component refused. Its number.
    template <class T>
    std::uint64_t arrive(Crowd<T>& crowd, const Result<T>& answer, std::string_view what) {
        must(outcome(answer), what);
        return crowd.come(answer.value());
    }
    /// One at random goes; `verb` and its number are a line of the day.
    template <class T>
    T pick(Crowd<T>& from, std::string_view verb) {
        auto [who, number] = from.leave(choose(from.size()));
        day("{} {}", verb, number);
        return who;
    }

    const Scenario& scenario_;
    const WorkloadConfig& config_;
    Policy policy_;
    WorkloadListener& listener_;
    const TraceSink& trace_;
    const DaySink& day_;
    std::uint64_t page_size_;
    std::mt19937_64 random_;  ///< where memory is
    std::mt19937_64 choices_; ///< what users do, which doesn't depend on where memory is
    MemoryPlan memory_;
    PageSource source_;
    bool checking_ = false; ///< the map is being compared with the reference, which is no part of the workload
    std::uint64_t calls_of_checks_ = 0;
    std::unique_ptr<Workbench> bench_;
    WorkloadResult result_;
    std::vector<std::uint64_t> rounds_;
    const Statement* current_ = nullptr;

    Crowd<clients::Module> modules_;
    Crowd<PhysAddr> secrets_, stacks_;
    Crowd<SharedArea> areas_;
    Crowd<Code> code_;
    std::vector<PhysRange> guards_;
    std::set<PhysAddr> invalid_guards_;
    Counters flips_;         ///< what they cost
    PhysRange being_shared_; ///< with the host, or no longer, and not valid again yet

    std::unique_ptr<ClientSet> clients_;
};

WorkbenchConfig Player::bench_config(const machine::EventSink& record) const {
    WorkbenchConfig bench(config_);
    if (policy_ == Policy::zoned) bench.zones = {memory_.zone};
    bench.mapping = facts_of(policy_).mapping;
    bench.policy = facts_of(policy_).collapse;
    bench.quiet_time = quiet_milliseconds;
    bench.realm = scenario_.shares();
    bench.table_pool = memory_.table_pool;
    bench.protect_tables = config_.protect_tables;
    if (record)
        bench.record = [this, record](const machine::Event& event) {
            if (!checking_) record(event);
        };
    return bench;
}

WorkloadResult Player::play() {
    result_.policy = policy_;
    result_.leaf_sizes = bench_->leaf_sizes();
    try {
        play(scenario_.statements);
        if (result_.steps.back().map.leaf_count > most_leaves_to_check_often) check();
        result_.smallest_cover = bench_->smallest_cover(pinned());
        if (config_.keep_dump) keep_dump();
        result_.finished = true;
    } catch (const Failed&) {
    }
    if (!result_.steps.empty()) result_.counters = difference(state().counters, result_.boot.counters);
    result_.calls = bench_->machine().events() - calls_of_checks_;
    return std::move(result_);
}

void Player::play(const std::vector<Statement>& statements) {
    for (const Statement& statement : statements) {
        if (statement.action != Action::repeat) {
            play(statement);
            continue;
        }
        const std::size_t depth = rounds_.size();
        for (std::uint64_t round = 1; round <= statement.count; ++round) {
            rounds_.push_back(round);
            listener_.on_round(statement, round, depth);
            play(statement.body);
            listener_.on_round_end(statement, round, depth);
            rounds_.pop_back();
        }
        if (depth == 0) day("evening");
    }
}

void Player::play(const Statement& statement) {
    current_ = &statement;
    tell(TraceOperation::note, {}, false, statement.text);
    day("step {}", statement.text);
    bench_->machine().note(fmt::format("{}:{}: {}", scenario_.source, statement.line, statement.text));
    Step step;
    step.statement = &statement;
    step.rounds = rounds_;
    const Counters before = state().counters;
    const auto resolve = [&](std::size_t present) { return statement.count == everything ? present : statement.count; };
    step.amount = statement.count;
    switch (statement.action) {
    case Action::boot: do_boot(step); break;
    case Action::modules_load: do_modules_load(statement); break;
    case Action::modules_unload: do_modules_unload(step.amount = resolve(modules_.size())); break;
    case Action::secret_take: do_secret_take(statement); break;
    case Action::secret_give: do_secret_give(step.amount = resolve(secrets_.size())); break;
    case Action::guard_prepare: do_guard_prepare(statement); break;
    case Action::guard_flip: do_guard_flip(statement.count); break;
    case Action::guard_release: do_guard_release(); break;
    case Action::share: do_share(statement); break;
    case Action::unshare: do_unshare(step.amount = resolve(areas_.size())); break;
    case Action::code_add: do_code_add(statement); break;
    case Action::code_remove: do_code_remove(step.amount = resolve(code_.size())); break;
    case Action::threads_start: do_threads_start(statement); break;
    case Action::threads_end: do_threads_end(step.amount = resolve(stacks_.size())); break;
    case Action::copy: do_copy(step); break;
    case Action::collapse: do_collapse(step); break;
    case Action::wait: do_wait(statement.milliseconds); break;
    case Action::repeat: break; // played by the other overload
    }
    step.map = state();
    step.pools = clients_->use();
    step.counters = difference(step.map.counters, before);
    step.milliseconds = bench_->machine().clock;
    step.reach = tlb_reach(result_.leaf_sizes, step.map.leaves);
    if (statement.action == Action::boot) result_.boot = step.map;
    if (step.map.leaf_count > result_.worst.leaf_count) {
        result_.worst = step.map;
        result_.worst_reach = step.reach;
    }
    result_.steps.push_back(step);
    if (step.map.leaf_count <= most_leaves_to_check_often) check();
    listener_.on_step(step, result_.leaf_sizes);
    listener_.on_progress(result_.steps.size(), scenario_.steps);
}

void Player::do_boot(Step& step) {
    must(bench_->built(), "building the map");
    clients_ = bench_->make_clients(config_.placement, source_, *this);
    must(clients_->ready(), "opening the area of code");
    if (!is_zoned() || config_.resizes_live()) return;
    // What becomes of a change that would need a resize: a clear answer, and nothing has changed.
    if (memory_.outside.empty()) return;
    const Result<void> answer = bench_->protect(phys(memory_.outside), Change{}.writable(false), {});
    if (answer) {
        problem("a page outside the zone became read-only: a leaf was resized on CPUs that don't tolerate it");
        throw Failed{};
    }
    step.refusal = {name(answer.error().code()), answer.error().reason()};
}

void Player::do_modules_load(const Statement& statement) {
    look_where(statement);
    for (std::uint64_t i = 0; i < statement.count; ++i) {
        const std::uint64_t least = align_up(statement.smallest_size, page_size_) / page_size_;
        const std::uint64_t most = align_up(statement.largest_size, page_size_) / page_size_;
        const std::uint64_t pages = least + choose(most - least + 1);
        // Three fifths are text, a quarter constants, the rest data; a small module lacks data first.
        const std::uint64_t text = std::max<std::uint64_t>(pages * 3 / 5, 1);
        const std::uint64_t constants = std::min(std::max<std::uint64_t>(pages / 4, 1), pages - text);
        const clients::ModuleSizes sizes{text * page_size_, constants * page_size_,
                                         (pages - text - constants) * page_size_};
        next_operation();
        settle_anywhere();
        const std::uint64_t number = arrive(modules_, clients_->load_module(sizes), "loading a module");
        day("load {} {} {} {}", number, sizes.text, sizes.constants, sizes.data);
    }
}

void Player::do_modules_unload(std::uint64_t count) {
    for (; count != 0; --count) {
        clients::Module module = pick(modules_, "unload");
        next_operation();
        if (!clients_->unload_module(module)) problem("a loaded module can't be unloaded");
        must({}, "unloading a module");
    }
}

void Player::do_secret_take(const Statement& statement) {
    constexpr std::uint64_t pages_of_a_place = 40;
    const std::uint64_t wanted =
        statement.places != 0 ? statement.places : (statement.count + pages_of_a_place - 1) / pages_of_a_place;
    day("places {}", wanted);
    look_where(statement);
    std::vector<std::uint64_t> places;
    for (std::uint64_t i = 0; i < wanted; ++i) places.push_back(source_.random_place(place_bytes));
    for (std::uint64_t i = 0; i < statement.count; ++i) {
        next_operation();
        source_.settle_at(places[i % wanted] + source_.below(place_bytes / page_size_) * page_size_);
        const std::uint64_t number = arrive(secrets_, clients_->take_secret(), "taking a secret page");
        day("take {}", number);
    }
}

void Player::do_secret_give(std::uint64_t count) {
    for (; count != 0; --count) {
        const PhysAddr page = pick(secrets_, "give");
        next_operation();
        if (!clients_->give_secret(page)) problem("a secret page is nobody's");
        must({}, "giving a secret page back");
    }
}

void Player::do_guard_prepare(const Statement& statement) {
    const std::uint64_t bytes = align_up(statement.largest_size, page_size_);
    day("prepare {}", bytes);
    look_where(statement);
    next_operation();
    const auto prepared = clients_->prepare_guards(bytes);
    must(outcome(prepared), "preparing guard pages");
    guards_.push_back(prepared.value());
}

void Player::do_guard_flip(std::uint64_t count) {
    for (; count != 0; --count) {
        const std::uint64_t which = choose(guards_.size());
        const std::uint64_t index = choose(guards_[which].size / page_size_);
        const PhysAddr page = guards_[which].start + index * page_size_;
        const bool was_invalid = invalid_guards_.erase(page) != 0;
        if (!was_invalid) invalid_guards_.insert(page);
        day("{} {} {}", was_invalid ? "unguard" : "guard", which, index);
        next_operation();
        must(clients_->flip_guard(page, was_invalid), "flipping a guard page");
    }
}

void Player::do_guard_release() {
    day("release");
    next_operation();
    clients_->release_guards();
    must({}, "releasing guard pages");
    invalid_guards_.clear();
    guards_.clear();
}

void Player::do_share(const Statement& statement) {
    const std::uint64_t bytes = align_up(statement.largest_size, page_size_);
    look_where(statement);
    for (std::uint64_t i = 0; i < statement.count; ++i) {
        next_operation();
        settle_anywhere();
        const std::uint64_t number = arrive(areas_, clients_->share(bytes), "sharing memory with the host");
        day("share {} {}", number, bytes);
    }
}

void Player::do_unshare(std::uint64_t count) {
    for (; count != 0; --count) {
        const SharedArea area = pick(areas_, "unshare");
        next_operation();
        must(clients_->unshare(area), "taking shared memory back");
    }
}

void Player::do_code_add(const Statement& statement) {
    constexpr std::uint64_t unit = clients::CodeChunk::granule;
    look_where(statement);
    for (std::uint64_t i = 0; i < statement.count; ++i) {
        const std::uint64_t bytes =
            statement.smallest_size + choose((statement.largest_size - statement.smallest_size) / unit + 1) * unit;
        next_operation();
        settle_anywhere();
        const std::uint64_t number = arrive(code_, clients_->add_code(bytes), "adding a piece of code");
        day("add {} {}", number, bytes);
    }
}

void Player::do_code_remove(std::uint64_t count) {
    for (; count != 0; --count) {
        Code code = pick(code_, "remove");
        next_operation();
        must(clients_->remove_code(code), "removing a piece of code");
    }
}

void Player::do_threads_start(const Statement& statement) {
    look_where(statement);
    for (std::uint64_t i = 0; i < statement.count; ++i) {
        next_operation();
        settle_anywhere();
        const std::uint64_t number = arrive(stacks_, clients_->create_stack(), "creating a shadow stack");
        day("start {}", number);
    }
}

void Player::do_threads_end(std::uint64_t count) {
    for (; count != 0; --count) {
        const PhysAddr stack = pick(stacks_, "end");
        next_operation();
        if (!clients_->destroy_stack(stack)) problem("a shadow stack is nobody's");
        must({}, "destroying a shadow stack");
    }
}

void Player::do_copy(Step& step) {
    const bool all = step.statement->for_hibernation;
    day("copy {}", all ? "hibernation" : "kexec");
    const auto copied = bench_->copy(all ? clients::InvalidLeaves::make_valid : clients::InvalidLeaves::leave_out);
    must(outcome(copied), "copying the map");
    step.copy = copied.value();
    if (!step.copy->problem.empty()) problem("the copy of the map: " + step.copy->problem);
}

void Player::do_collapse(Step& step) {
    day("collapse");
    next_operation();
    tell(TraceOperation::collapse);
    const Result<CollapseProgress> answer = bench_->collapse(bench_->whole());
    if (!answer) {
        const bool may_refuse = facts_of(policy_).collapse == CollapsePolicy::never || !config_.resizes_live();
        if (!may_refuse) problem(fmt::format("collapse: {}: {}", name(answer.error().code()), answer.error().reason()));
        step.refusal = {name(answer.error().code()), answer.error().reason()};
        return;
    }
    const std::vector<std::uint64_t> fewest = bench_->smallest_cover(pinned());
    if (bench_->state().leaves != fewest)
        problem(fmt::format("P10 optimal: after a collapse there are {} leaves, and {} could say the same",
                            fmt::join(bench_->state().leaves, "/"), fmt::join(fewest, "/")));
}

void Player::do_wait(std::uint64_t milliseconds) {
    day("wait {}", milliseconds);
    if (config_.placement == Placement::pooled) { // memory is wanted elsewhere: what pools don't use goes back
        next_operation();
        clients_->shrink();
        must({}, "shrinking the pools");
    }
    while (milliseconds != 0) {
        const std::uint64_t tick = std::min(milliseconds, tick_milliseconds);
        bench_->machine().clock += tick;
        milliseconds -= tick;
        tell(TraceOperation::tick);
        if (policy_ == Policy::background && config_.resizes_live()) (void)bench_->background_step(background_budget);
    }
}

std::vector<PhysRange> Player::pinned() const {
    if (is_zoned()) return {phys(memory_.zone)};
    return guards_;
}

void Player::on_change(PhysRange range, Change change) {
    ++result_.changes;
    if (change.names_shared()) { // a realm's order is break, tell the host, make; a trace has one line for the three
        being_shared_ = range;
        return tell(change.values().shared() ? TraceOperation::shared : TraceOperation::unshared, range);
    }
    if (change.names_valid()) {
        if (change.values().valid() && std::exchange(being_shared_, {}) == range) return;
        return tell(change.values().valid() ? TraceOperation::valid : TraceOperation::invalid, range);
    }
    tell(change.values().writable() ? TraceOperation::writable : TraceOperation::read_only, range);
}

/// The engine doesn't count flips (see flip_page), and a run does.
void Player::on_flip(PhysAddr page, bool valid) {
    ++result_.changes;
    ++flips_.stores;
    ++flips_.barriers;
    if (!valid) flips_.add(FlushCost{.invalidations = 1, .barriers = 1});
    tell(valid ? TraceOperation::valid : TraceOperation::invalid, {page, page_size_}, true);
}

MapState Player::state() const {
    MapState state = bench_->state();
    state.counters += flips_;
    return state;
}

void Player::on_pin(PhysRange range, bool pinned) {
    tell(pinned ? TraceOperation::pin : TraceOperation::unpin, range);
}

void Player::tell(TraceOperation operation, PhysRange range, bool atomic, const std::string& text) {
    if (!trace_) return;
    TraceEvent event;
    event.nanoseconds = bench_->machine().clock * nanoseconds_a_millisecond;
    event.operation = operation;
    event.address = range.start.value();
    event.pages = range.size / page_size_;
    event.atomic = atomic;
    event.text = text;
    trace_(event);
}

void Player::look_where(const Statement& statement) {
    source_.look_within(config_.placement == Placement::scattered ? statement.within : 0);
}

void Player::next_operation() {
    machine::Machine& machine = bench_->machine();
    machine.run_on(static_cast<unsigned>(source_.below(config_.cpus)));
    ++machine.clock;
    source_.expect_room();
}

void Player::problem(const std::string& text) {
    if (result_.problems.size() < most_problems)
        result_.problems.push_back(fmt::format("{}:{}: {}", scenario_.source, current_->line, text));
}

void Player::must(const Result<void>& result, std::string_view what) {
    if (!result) {
        if (source_.missing() != 0)
            throw InputError(scenario_.source, current_->line,
                             fmt::format("there is no free piece of {} left", human_size(source_.missing())));
        const Error& error = result.error();
        problem(fmt::format("{}: {} at {}: {}", what, name(error.code()), hex(error.where().value()), error.reason()));
        throw Failed{};
    }
    if (!bench_->machine().violations().empty()) {
        check();
        throw Failed{};
    }
}

void Player::check() {
    const std::uint64_t before = bench_->machine().events();
    checking_ = true;
    clients_->check();
    const std::string wrong = bench_->check();
    checking_ = false;
    calls_of_checks_ += bench_->machine().events() - before;
    if (wrong.empty()) return;
    for (std::size_t at = 0; at < wrong.size();) {
        const std::size_t end = std::min(wrong.find('\n', at), wrong.size());
        problem(wrong.substr(at, end - at));
        at = end + 1;
    }
    throw Failed{};
}

void Player::keep_dump() {
    const std::uint64_t before = bench_->machine().events();
    checking_ = true;
    result_.dump = bench_->dump();
    checking_ = false;
    calls_of_checks_ += bench_->machine().events() - before;
}

} // namespace

std::string_view policy_name(Policy policy) {
    return facts_of(policy).name;
}

std::vector<Policy> all_policies() {
    std::vector<Policy> result;
    for (const PolicyFacts& facts : policies) result.push_back(facts.policy);
    return result;
}

Mapping mapping_of(Policy policy) {
    return facts_of(policy).mapping;
}

CollapsePolicy collapse_policy_of(Policy policy) {
    return facts_of(policy).collapse;
}

Counters difference(const Counters& now, const Counters& before) {
    Counters result;
    result.splits = now.splits - before.splits;
    result.splits_avoided = now.splits_avoided - before.splits_avoided;
    result.groups_opened = now.groups_opened - before.groups_opened;
    result.groups_closed = now.groups_closed - before.groups_closed;
    result.collapses = now.collapses - before.collapses;
    result.stores = now.stores - before.stores;
    result.filled = now.filled - before.filled;
    result.barriers = now.barriers - before.barriers;
    result.invalidations = now.invalidations - before.invalidations;
    result.rounds = now.rounds - before.rounds;
    result.tables_taken = now.tables_taken - before.tables_taken;
    result.tables_returned = now.tables_returned - before.tables_returned;
    return result;
}

MemoryPlan plan_memory(const Scenario& scenario, const WorkloadConfig& config, Policy policy) {
    const std::uint64_t page = config.page_bytes();
    const Range& largest = *std::max_element(config.ram.begin(), config.ram.end(),
                                             [](const Range& a, const Range& b) { return a.size() < b.size(); });
    MemoryPlan plan;
    const std::uint64_t wanted = align_up((config.tables_by_pages + spare_tables) * page, place_bytes) +
                                 (config.protect_tables ? chunk_bytes : 0);
    plan.table_pool = {largest.end - std::min(wanted, align_down(largest.size() / 2, page)), largest.end};
    plan.usable = subtract(config.ram, {plan.table_pool});
    if (policy == Policy::zoned) {
        const std::uint64_t asked = scenario.statements.front().largest_size;
        const std::uint64_t start = align_up(largest.start, place_bytes);
        const std::uint64_t size = align_up(asked != 0 ? asked : default_zone_bytes, page);
        // Half of the room at most, so that there is something outside.
        const std::uint64_t room = plan.table_pool.start > start ? plan.table_pool.start - start : 0;
        plan.zone = {start, start + std::min(size, align_down(room / 2, page))};
        plan.usable = {plan.zone};
        const std::uint64_t block = align_up(plan.zone.end, place_bytes);
        if (block + place_bytes <= plan.table_pool.start) plan.outside = {block + page, block + 2 * page};
    }
    const std::uint64_t needed = policy == Policy::pages ? config.tables_by_pages : config.tables_large;
    if (plan.table_pool.size() / page < needed)
        throw InputError(config.source, 0,
                         fmt::format("its largest piece of RAM, {}, has no room for the {} of the map",
                                     human_size(largest.size()), counted(needed, "table", "tables")));
    const std::uint64_t peak = scenario.peak_bytes(page);
    if (peak > total_size(plan.usable) / sparsity)
        throw InputError(
            scenario.source, 0,
            fmt::format("it uses up to {} at once, more than a quarter of the {} {}", human_size(peak),
                        human_size(total_size(plan.usable)),
                        policy == Policy::zoned ? "in the zone of pages" : "that are not kept for tables"));
    return plan;
}

bool all_kept(const std::vector<WorkloadResult>& results) {
    return std::all_of(results.begin(), results.end(),
                       [](const WorkloadResult& result) { return result.finished && result.problems.empty(); });
}

WorkloadResult play(const Scenario& scenario, const WorkloadConfig& config, Policy policy, WorkloadListener& listener,
                    const machine::EventSink& record, const TraceSink& trace, const DaySink& day) {
    return Player(scenario, config, policy, listener, record, trace, day).play();
}

} // namespace directmap::tool

#include "workload.hpp"

#include "input_error.hpp"
#include "output.hpp"
#include "run_reach.hpp"

#include <algorithm>
#include <bit>
#include <fmt/format.h>
#include <map>
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

/// Free memory. Where it hands out pages is random but for the seed: what a page allocator has free on a machine that
/// has been up for a while lies anywhere.
class PageSource {
public:
    PageSource(std::vector<Range> usable, std::uint64_t page_size, std::mt19937_64& random)
        : usable_(std::move(usable)), page_size_(page_size), random_(random) {}

    /// A part of the usable memory, of `bytes` if there is one that large; 0: all.
    [[nodiscard]] std::vector<Range> window(std::uint64_t bytes) {
        if (bytes == 0 || bytes >= total_size(usable_)) return usable_;
        const Range& range = usable_[index_by_size(usable_)];
        if (range.size() <= bytes) return {range};
        const std::uint64_t start = range.start + below((range.size() - bytes) / page_size_ + 1) * page_size_;
        return {{start, start + bytes}};
    }

    /// `bytes` in one piece, aligned to `alignment`, in the window if there is room, else anywhere.
    [[nodiscard]] std::optional<Range> take(std::uint64_t bytes, std::uint64_t alignment,
                                            const std::vector<Range>& window) {
        for (unsigned attempt = 0; attempt < 64; ++attempt) {
            const Range& range = window[index_by_size(window)];
            const std::uint64_t first = align_up(range.start, alignment);
            if (first + bytes > range.end) continue;
            const std::uint64_t start = first + below((range.end - first - bytes) / alignment + 1) * alignment;
            if (is_free({start, start + bytes})) return use({start, start + bytes});
        }
        for (const std::vector<Range>* area : {&window, static_cast<const std::vector<Range>*>(&usable_)})
            for (const Range& range : *area)
                for (std::uint64_t start = align_up(range.start, alignment); start + bytes <= range.end;
                     start += alignment)
                    if (is_free({start, start + bytes})) return use({start, start + bytes});
        return std::nullopt;
    }

    void give(const Range& range) { used_.erase(range.start); }

    /// A number from 0 to `limit` - 1. (The standard's distributions differ between libraries.)
    [[nodiscard]] std::uint64_t below(std::uint64_t limit) { return random_() % limit; }

private:
    [[nodiscard]] std::size_t index_by_size(const std::vector<Range>& ranges) {
        std::uint64_t at = below(total_size(ranges));
        for (std::size_t i = 0;; ++i) {
            if (at < ranges[i].size()) return i;
            at -= ranges[i].size();
        }
    }
    [[nodiscard]] bool is_free(const Range& range) const {
        auto after = used_.lower_bound(range.end);
        return after == used_.begin() || std::prev(after)->second <= range.start;
    }
    Range use(const Range& range) {
        used_[range.start] = range.end;
        return range;
    }

    std::vector<Range> usable_;
    std::uint64_t page_size_;
    std::mt19937_64& random_;
    std::map<std::uint64_t, std::uint64_t> used_; ///< start to end
};

/// Small numbers for whatever comes and goes, the lowest free one first.
class Numbers {
public:
    std::uint64_t take() {
        if (free_.empty()) return next_++;
        return free_.extract(free_.begin()).value();
    }
    void give(std::uint64_t number) { free_.insert(number); }

private:
    std::set<std::uint64_t> free_;
    std::uint64_t next_ = 0;
};

/// A loaded module: text, constants, data, in this order in one piece of memory, or wherever a pool has them.
struct Module {
    Range memory;
    Range text;
    Range constants;
    clients::Module pooled;
    std::uint64_t number = 0;
};

/// What a guest shares with its host: one piece, or pages out of clusters.
struct SharedArea {
    Range range;
    std::vector<PhysAddr> pages;
    std::uint64_t number = 0;
};

struct SecretPage {
    Range page;
    std::uint64_t number = 0;
};

/// The page allocator as pools see it.
class PoolSupply final : public PageSupply {
public:
    explicit PoolSupply(PageSource& source) : source_(source) {}

    [[nodiscard]] bool take(PhysAddr& pa, std::uint64_t bytes) override {
        const auto range = source_.take(bytes, bytes, source_.window(0));
        if (range) pa = PhysAddr{range->start};
        return range.has_value();
    }
    void give(PhysAddr pa, std::uint64_t bytes) override { source_.give({pa.value(), pa.value() + bytes}); }

private:
    PageSource& source_;
};

class Player {
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
    void add_secret(const Range& page);
    void do_secret_give(std::uint64_t count);
    void do_guard_prepare(const Statement& statement);
    void do_guard_flip(std::uint64_t count);
    void do_guard_release();
    void do_share(const Statement& statement);
    void share_pooled(std::uint64_t bytes);
    void add_area(SharedArea area);
    void do_unshare(std::uint64_t count);
    void do_collapse(Step& step);
    void do_wait(std::uint64_t milliseconds);

    [[nodiscard]] bool is_pooled() const { return clients_ != nullptr; }
    [[nodiscard]] bool is_zoned() const { return policy_ == Policy::zoned; }
    [[nodiscard]] std::vector<PhysRange> pinned() const;
    [[nodiscard]] Range take(const Statement& statement, std::uint64_t bytes, std::uint64_t alignment,
                             const std::vector<Range>& window);
    void protect(const Range& range, Change change, ChangeOptions options = {});
    void next_operation();
    /// Writes the operation that comes next into the trace.
    void tell(TraceOperation operation, const Range& range = {}, bool atomic = false);
    void tell_at(std::uint64_t milliseconds, TraceOperation operation, const Range& range = {}, bool atomic = false,
                 const std::string& text = {});
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
    /// Removes and returns one at random.
    template <class T>
    T pick(std::vector<T>& from) {
        std::swap(from[choose(from.size())], from.back());
        T picked = std::move(from.back());
        from.pop_back();
        return picked;
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

    std::vector<Module> modules_;
    std::vector<SecretPage> secrets_;
    std::vector<Range> guards_;
    std::set<std::uint64_t> invalid_guards_;
    std::vector<SharedArea> areas_;
    Numbers module_numbers_, secret_numbers_, area_numbers_;

    PoolSupply supply_{source_};
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
    if (!result_.steps.empty()) result_.counters = difference(bench_->state().counters, result_.boot.counters);
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
    tell_at(bench_->machine().clock, TraceOperation::note, {}, false, statement.text);
    day("step {}", statement.text);
    bench_->machine().note(fmt::format("{}:{}: {}", scenario_.source, statement.line, statement.text));
    Step step;
    step.statement = &statement;
    step.rounds = rounds_;
    const Counters before = bench_->state().counters;
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
    case Action::collapse: do_collapse(step); break;
    case Action::wait: do_wait(statement.milliseconds); break;
    case Action::repeat: break; // played by the other overload
    }
    step.map = bench_->state();
    if (is_pooled()) step.pools = clients_->use();
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
    if (config_.placement == Placement::pooled) {
        clients_ = bench_->make_clients(supply_);
        must(clients_->ready(), "opening the area of modules");
    }
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
    const std::vector<Range> window = source_.window(statement.within);
    for (std::uint64_t i = 0; i < statement.count; ++i) {
        const std::uint64_t least = align_up(statement.smallest_size, page_size_) / page_size_;
        const std::uint64_t most = align_up(statement.largest_size, page_size_) / page_size_;
        const std::uint64_t pages = least + choose(most - least + 1);
        // Three fifths are text, a quarter constants, the rest data; a small module lacks data first.
        const std::uint64_t text = std::max<std::uint64_t>(pages * 3 / 5, 1);
        const std::uint64_t constants = std::min(std::max<std::uint64_t>(pages / 4, 1), pages - text);
        Module module;
        module.number = module_numbers_.take();
        day("load {} {} {} {}", module.number, text * page_size_, constants * page_size_,
            (pages - text - constants) * page_size_);
        if (is_pooled()) {
            next_operation();
            auto loaded = clients_->load_module(
                {text * page_size_, constants * page_size_, (pages - text - constants) * page_size_});
            must(outcome(loaded), "loading a module");
            module.pooled = loaded.value();
            modules_.push_back(module);
            continue;
        }
        module.memory = take(statement, pages * page_size_, page_size_, window);
        module.text = {module.memory.start, module.memory.start + text * page_size_};
        module.constants = {module.text.end, module.text.end + constants * page_size_};
        // Written while it was ordinary memory. No moment is both writable and executable.
        tell(TraceOperation::read_only_executable, module.text);
        protect(module.text, Change{}.writable(false).executable(true));
        if (!module.constants.empty()) {
            tell(TraceOperation::read_only, module.constants);
            protect(module.constants, Change{}.writable(false));
        }
        modules_.push_back(module);
    }
}

void Player::do_modules_unload(std::uint64_t count) {
    for (; count != 0; --count) {
        Module module = pick(modules_);
        module_numbers_.give(module.number);
        day("unload {}", module.number);
        if (is_pooled()) {
            next_operation();
            if (!clients_->unload_module(module.pooled)) problem("a loaded module can't be unloaded");
            must({}, "unloading a module");
            continue;
        }
        tell(TraceOperation::writable_not_executable, module.text);
        protect(module.text, Change{}.writable(true).executable(false));
        if (!module.constants.empty()) {
            tell(TraceOperation::writable, module.constants);
            protect(module.constants, Change{}.writable(true));
        }
        source_.give(module.memory);
    }
}

void Player::do_secret_take(const Statement& statement) {
    constexpr std::uint64_t pages_of_a_place = 40;
    const std::uint64_t wanted =
        statement.places != 0 ? statement.places : (statement.count + pages_of_a_place - 1) / pages_of_a_place;
    day("places {}", wanted);
    for (std::uint64_t i = 0; is_pooled() && i < statement.count; ++i) {
        next_operation();
        const auto page = clients_->take_secret();
        must(outcome(page), "taking a secret page");
        add_secret({page.value().value(), page.value().value() + page_size_});
    }
    if (is_pooled()) return;
    const std::vector<Range> window = source_.window(statement.within);
    // Whole blocks that lie in the window; the same one twice if there are too few.
    std::vector<std::vector<Range>> places;
    std::vector<Range> blocks;
    for (const Range& range : window) {
        const Range whole{align_up(range.start, place_bytes), align_down(range.end, place_bytes)};
        if (!whole.empty()) blocks.push_back(whole);
    }
    std::set<std::uint64_t> chosen;
    for (std::uint64_t attempt = 0; !blocks.empty() && attempt < 4 * wanted && places.size() < wanted; ++attempt) {
        std::uint64_t at = source_.below(total_size(blocks) / place_bytes) * place_bytes;
        std::size_t i = 0;
        for (; at >= blocks[i].size(); ++i) at -= blocks[i].size();
        const std::uint64_t start = blocks[i].start + at;
        if (chosen.insert(start).second) places.push_back({{start, start + place_bytes}});
    }
    if (places.empty()) places.push_back(window);
    for (std::uint64_t i = 0; i < statement.count; ++i) {
        const Range page = take(statement, page_size_, page_size_, places[i % places.size()]);
        tell(TraceOperation::invalid, page);
        protect(page, Change{}.valid(false));
        add_secret(page);
    }
}

void Player::add_secret(const Range& page) {
    secrets_.push_back({page, secret_numbers_.take()});
    day("take {}", secrets_.back().number);
}

void Player::do_secret_give(std::uint64_t count) {
    for (; count != 0; --count) {
        const auto [page, number] = pick(secrets_);
        secret_numbers_.give(number);
        day("give {}", number);
        if (is_pooled()) {
            next_operation();
            if (!clients_->give_secret(PhysAddr{page.start})) problem("a secret page is nobody's");
            must({}, "giving a secret page back");
            continue;
        }
        tell(TraceOperation::valid, page);
        protect(page, Change{}.valid(true));
        source_.give(page);
    }
}

void Player::do_guard_prepare(const Statement& statement) {
    const std::uint64_t bytes = align_up(statement.largest_size, page_size_);
    day("prepare {}", bytes);
    if (is_pooled()) {
        next_operation();
        const auto prepared = clients_->prepare_guards(std::bit_ceil(bytes));
        must(outcome(prepared), "preparing guard pages");
        guards_.push_back({prepared.value().start.value(), prepared.value().end().value()});
        return;
    }
    const std::uint64_t alignment = std::max(page_size_, std::min(std::bit_floor(bytes), place_bytes));
    const Range pool = take(statement, bytes, alignment, source_.window(statement.within));
    tell(TraceOperation::pin, pool);
    next_operation();
    must(bench_->prepare(phys(pool)), "preparing guard pages");
    guards_.push_back(pool);
}

void Player::do_guard_flip(std::uint64_t count) {
    ChangeOptions atomic;
    atomic.atomic = true;
    for (; count != 0; --count) {
        const std::uint64_t which = choose(guards_.size());
        const Range& pool = guards_[which];
        const std::uint64_t index = choose(pool.size() / page_size_);
        const std::uint64_t page = pool.start + index * page_size_;
        const bool was_invalid = invalid_guards_.erase(page) != 0;
        day("{} {} {}", was_invalid ? "unguard" : "guard", which, index);
        if (!was_invalid) invalid_guards_.insert(page);
        if (is_pooled()) {
            next_operation();
            must(clients_->flip_guard(PhysAddr{page}, was_invalid), "flipping a guard page");
            continue;
        }
        tell(was_invalid ? TraceOperation::valid : TraceOperation::invalid, {page, page + page_size_}, true);
        protect({page, page + page_size_}, Change{}.valid(was_invalid), atomic);
    }
}

void Player::do_guard_release() {
    day("release");
    if (is_pooled()) {
        next_operation();
        clients_->release_guards();
        must({}, "releasing guard pages");
        invalid_guards_.clear();
        guards_.clear();
        return;
    }
    for (const std::uint64_t page : invalid_guards_) {
        tell(TraceOperation::valid, {page, page + page_size_});
        protect({page, page + page_size_}, Change{}.valid(true));
    }
    invalid_guards_.clear();
    for (const Range& pool : guards_) {
        tell(TraceOperation::unpin, pool);
        next_operation();
        if (!is_zoned()) must(bench_->release(phys(pool)), "releasing guard pages"); // a zone stays one
        source_.give(pool);
    }
    guards_.clear();
}

void Player::do_share(const Statement& statement) {
    const std::uint64_t bytes = align_up(statement.largest_size, page_size_);
    const std::uint64_t alignment = std::max(page_size_, std::min(std::bit_floor(bytes), place_bytes));
    for (std::uint64_t i = 0; is_pooled() && i < statement.count; ++i) share_pooled(bytes);
    if (is_pooled()) return;
    const std::vector<Range> window = source_.window(statement.within);
    for (std::uint64_t i = 0; i < statement.count; ++i) {
        const Range area = take(statement, bytes, alignment, window);
        // A realm's order: break, tell the host, make. While the host changes its view nobody can use either.
        tell(TraceOperation::shared, area);
        protect(area, Change{}.valid(false).shared(true));
        bench_->machine().set_granules(phys(area), true);
        protect(area, Change{}.valid(true));
        add_area({area, {}});
    }
}

void Player::add_area(SharedArea area) {
    area.number = area_numbers_.take();
    std::uint64_t bytes = area.range.size();
    if (area.range.empty()) bytes = area.pages.size() * page_size_;
    day("share {} {}", area.number, bytes);
    areas_.push_back(std::move(area));
}

/// Buffers of a cluster's size and more are pieces of their own; smaller ones are pages out of clusters.
void Player::share_pooled(std::uint64_t bytes) {
    next_operation();
    SharedArea area;
    if (bytes >= place_bytes) {
        const auto buffer = clients_->take_shared_buffer(std::bit_ceil(bytes));
        must(outcome(buffer), "sharing a buffer");
        area.range = {buffer.value().start.value(), buffer.value().end().value()};
    }
    for (std::uint64_t done = 0; area.range.empty() && done < bytes; done += page_size_) {
        const auto page = clients_->take_shared();
        must(outcome(page), "sharing a page");
        area.pages.push_back(page.value());
    }
    add_area(std::move(area));
}

void Player::do_unshare(std::uint64_t count) {
    for (; count != 0; --count) {
        const SharedArea picked = pick(areas_);
        const Range& area = picked.range;
        area_numbers_.give(picked.number);
        day("unshare {}", picked.number);
        if (is_pooled()) {
            next_operation();
            if (!area.empty()) must(clients_->give_shared_buffer(phys(area)), "giving a shared buffer back");
            for (const PhysAddr page : picked.pages)
                if (!clients_->give_shared(page)) problem("a shared page is nobody's");
            must({}, "giving shared pages back");
            continue;
        }
        tell(TraceOperation::unshared, area);
        protect(area, Change{}.valid(false).shared(false));
        bench_->machine().set_granules(phys(area), false);
        protect(area, Change{}.valid(true));
        source_.give(area);
    }
}

void Player::do_collapse(Step& step) {
    tell(TraceOperation::collapse);
    day("collapse");
    next_operation();
    const Result<CollapseProgress> answer = bench_->collapse();
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
    if (is_pooled()) { // memory is wanted elsewhere: what pools don't use goes back
        next_operation();
        clients_->shrink();
        must({}, "shrinking the pools");
    }
    while (milliseconds != 0) {
        const std::uint64_t tick = std::min(milliseconds, tick_milliseconds);
        bench_->machine().clock += tick;
        milliseconds -= tick;
        tell_at(bench_->machine().clock, TraceOperation::tick);
        if (policy_ == Policy::background && config_.resizes_live()) (void)bench_->background_step(background_budget);
    }
}

std::vector<PhysRange> Player::pinned() const {
    std::vector<PhysRange> ranges;
    if (is_zoned()) return {phys(memory_.zone)};
    for (const Range& pool : guards_) ranges.push_back(phys(pool));
    return ranges;
}

Range Player::take(const Statement& statement, std::uint64_t bytes, std::uint64_t alignment,
                   const std::vector<Range>& window) {
    if (const auto range = source_.take(bytes, alignment, window)) return *range;
    throw InputError(scenario_.source, statement.line,
                     fmt::format("there is no free piece of {} left", human_size(bytes)));
}

void Player::protect(const Range& range, Change change, ChangeOptions options) {
    next_operation();
    must(bench_->protect(phys(range), change, options), hex(range));
    ++result_.changes;
}

void Player::tell(TraceOperation operation, const Range& range, bool atomic) {
    tell_at(bench_->machine().clock + 1, operation, range, atomic); // see next_operation
}

void Player::tell_at(std::uint64_t milliseconds, TraceOperation operation, const Range& range, bool atomic,
                     const std::string& text) {
    if (!trace_) return;
    TraceEvent event;
    event.nanoseconds = milliseconds * nanoseconds_a_millisecond;
    event.operation = operation;
    event.address = range.start;
    event.pages = range.size() / page_size_;
    event.atomic = atomic;
    event.text = text;
    trace_(event);
}

void Player::next_operation() {
    machine::Machine& machine = bench_->machine();
    machine.run_on(static_cast<unsigned>(source_.below(config_.cpus)));
    ++machine.clock;
}

void Player::problem(const std::string& text) {
    if (result_.problems.size() < most_problems)
        result_.problems.push_back(fmt::format("{}:{}: {}", scenario_.source, current_->line, text));
}

void Player::must(const Result<void>& result, std::string_view what) {
    if (!result) {
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

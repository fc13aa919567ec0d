#include "replay.hpp"

#include "input_error.hpp"
#include "output.hpp"
#include "workbench.hpp"

#include <algorithm>
#include <deque>
#include <fmt/format.h>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>

namespace directmap::tool {
namespace {

constexpr std::uint64_t spare_tables = 4096; ///< beside those that a map by pages consists of
constexpr std::uint64_t tick_milliseconds = 1000;
constexpr std::size_t most_problems = 20;
constexpr std::uint64_t nanoseconds_a_millisecond = 1'000'000;
constexpr std::uint64_t most_leaves_to_check = 4'000'000;

PhysRange phys(const Range& range) {
    return phys_range(range.start, range.end);
}

/// Memory for tables outside of RAM: a trace may change any page of RAM, that of tables included.
Range table_pool(const ReplayConfig& config) {
    const std::uint64_t bytes = (config.tables_by_pages + spare_tables) * config.page_bytes();
    const std::uint64_t limit = std::uint64_t{1} << config.sharing_bit();
    std::uint64_t at = 0;
    if (config.ram.back().end <= limit && limit - config.ram.back().end >= bytes) {
        at = config.ram.back().end;
    } else {
        for (const Range& range : config.ram) {
            if (range.start - at >= bytes) break;
            at = range.end;
        }
        if (at == config.ram.back().end)
            throw InputError(config.source, 0,
                             fmt::format("no hole between its RAM has room for {} of tables", human_size(bytes)));
    }
    return {at, at + bytes};
}

/// What has become of a page since boot, as bits; 0: nothing.
enum PageState : unsigned {
    state_read_only = 1,
    state_executable = 2,
    state_invalid = 4,
    state_shared = 8,
    state_pinned = 16,
};

unsigned state_after(unsigned state, TraceOperation operation) {
    switch (operation) {
    case TraceOperation::read_only: return state | state_read_only;
    case TraceOperation::writable: return state & ~state_read_only;
    case TraceOperation::executable: return state | state_executable;
    case TraceOperation::not_executable: return state & ~state_executable;
    case TraceOperation::read_only_executable: return state | state_read_only | state_executable;
    case TraceOperation::writable_not_executable: return state & ~(state_read_only | state_executable);
    case TraceOperation::read_only_not_executable: return (state | state_read_only) & ~state_executable;
    case TraceOperation::invalid: return state | state_invalid;
    case TraceOperation::valid: return state & ~state_invalid;
    case TraceOperation::restore: return state & (state_shared | state_pinned);
    case TraceOperation::shared: return state | state_shared;
    case TraceOperation::unshared: return state & ~state_shared;
    case TraceOperation::pin: return state | state_pinned;
    case TraceOperation::unpin: return state & ~state_pinned;
    default: return state;
    }
}

Change change_of(TraceOperation operation) {
    switch (operation) {
    case TraceOperation::read_only: return Change{}.writable(false);
    case TraceOperation::writable: return Change{}.writable(true);
    case TraceOperation::executable: return Change{}.executable(true);
    case TraceOperation::not_executable: return Change{}.executable(false);
    case TraceOperation::read_only_executable: return Change{}.writable(false).executable(true);
    case TraceOperation::writable_not_executable: return Change{}.writable(true).executable(false);
    case TraceOperation::read_only_not_executable: return Change{}.writable(false).executable(false);
    case TraceOperation::invalid: return Change{}.valid(false);
    case TraceOperation::valid: return Change{}.valid(true);
    case TraceOperation::restore: return Change{}.valid(true).writable(true).executable(false);
    default: return Change{};
    }
}

/// The zone of pages of kernels that never resize. There what changes is allocated from the zone, wherever the recorded
/// kernel had it: each page gets a place in the zone with its first change, and gives it back when all is as after
/// boot.
class Zone {
public:
    Zone(const Range& range, std::uint64_t page) : range_(range), page_(page) {}

    /// The zone's pages for `range`, joined where they are neighbours; nothing if the zone is full.
    [[nodiscard]] std::optional<std::vector<Range>> places(const Range& range, TraceOperation operation) {
        std::vector<Range> places;
        for (std::uint64_t address = range.start; address < range.end; address += page_) {
            const auto known = pages_.find(address);
            const unsigned before = known == pages_.end() ? 0 : known->second.state;
            const unsigned after = state_after(before, operation);
            if (known == pages_.end() && after == 0) continue; // as it was
            std::uint64_t place = 0;
            if (known != pages_.end()) {
                place = known->second.place;
            } else if (!free_.empty()) {
                place = *free_.begin();
                free_.erase(free_.begin());
            } else if ((never_used_ + 1) * page_ <= range_.size()) {
                place = range_.start + never_used_++ * page_;
            } else {
                return std::nullopt; // the event is not done; places that it has got stay its pages'
            }
            if (after == 0) {
                pages_.erase(address);
                free_.insert(place);
            } else {
                pages_[address] = {place, after};
            }
            if (!places.empty() && places.back().end == place)
                places.back().end += page_;
            else
                places.push_back({place, place + page_});
        }
        return places;
    }

private:
    struct Page {
        std::uint64_t place = 0;
        unsigned state = 0;
    };
    Range range_;
    std::uint64_t page_;
    std::uint64_t never_used_ = 0;
    std::set<std::uint64_t> free_;
    std::unordered_map<std::uint64_t, Page> pages_;
};

/// One policy's map.
class Lane {
public:
    Lane(const ReplayConfig& config, Policy policy) : config_(config), page_(config.page_bytes()) {
        result_.policy = policy;
        WorkbenchConfig bench(config);
        if (policy == Policy::zoned) {
            const Range& largest =
                *std::max_element(config.ram.begin(), config.ram.end(),
                                  [](const Range& a, const Range& b) { return a.size() < b.size(); });
            const std::uint64_t start = std::min((largest.start + place_bytes - 1) & ~(place_bytes - 1), largest.end);
            const std::uint64_t size = std::min(config.zone_bytes, largest.end - start) & ~(page_ - 1);
            if (size == 0)
                throw InputError(config.source, 0, "its largest piece of RAM has no room for a zone of pages");
            zone_range_ = {start, start + size};
            bench.zones = {zone_range_};
            zone_.emplace(zone_range_, page_);
        }
        bench.mapping = mapping_of(policy);
        bench.policy = collapse_policy_of(policy);
        bench.quiet_time = quiet_milliseconds;
        bench.realm = config.can_share();
        bench.table_pool = table_pool(config);
        bench.tables_in_ram = false;
        bench_ = make_workbench(bench);
        must(bench_->built(), "building the map");
        result_.boot = result_.worst = bench_->state();
    }

    [[nodiscard]] std::vector<std::uint64_t> leaf_sizes() const { return bench_->leaf_sizes(); }
    [[nodiscard]] bool broken() const { return !result_.problems.empty(); }

    void set_clock(std::uint64_t milliseconds) {
        machine::Machine& machine = bench_->machine();
        machine.clock = std::max(machine.clock, milliseconds);
    }

    /// Returns whether there is more to look at than the step could.
    bool tick() {
        if (result_.policy != Policy::background || !config_.resizes_live() || broken()) return false;
        const CollapseProgress progress = bench_->background_step(background_budget);
        look_for_violations();
        return !progress.finished;
    }

    /// Where the policy is never to heal, or not by request, a request means nothing.
    void collapse(std::uint64_t line) {
        if (broken() || !config_.resizes_live() || collapse_policy_of(result_.policy) == CollapsePolicy::never) return;
        line_ = line;
        begin_operation();
        const Result<CollapseProgress> answer = bench_->collapse(bench_->whole());
        if (!answer) refuse(name(answer.error().code()), answer.error().reason());
        look_for_violations();
    }

    /// `range` is in RAM and consists of whole pages.
    void apply(const TraceEvent& event, const Range& range) {
        if (broken()) return;
        line_ = event.line;
        std::vector<Range> ranges{range};
        if (zone_) {
            auto places = zone_->places(range, event.operation);
            if (!places)
                return refuse("zone_full", fmt::format("the zone of {} is full", human_size(zone_range_.size())));
            ranges = std::move(*places);
        }
        for (const Range& part : ranges) {
            if (!apply_to(event, part)) break;
        }
        const MapState state = bench_->state();
        if (state.leaf_count > result_.worst.leaf_count) result_.worst = state;
    }

    [[nodiscard]] PolicyMoment moment() {
        PolicyMoment moment;
        moment.map = bench_->state();
        moment.counters = difference(moment.map.counters, result_.boot.counters);
        if (config_.pattern == nullptr) return moment;
        // The same accesses meet the same map: the same comes out.
        if (tlb_ && measured_at_ == moment.map.counters.stores + moment.map.counters.filled)
            moment.tlb = *tlb_;
        else
            moment.tlb = measure();
        tlb_ = moment.tlb;
        measured_at_ = moment.map.counters.stores + moment.map.counters.filled;
        return moment;
    }

    [[nodiscard]] PolicyResult finish() {
        if (!broken() && bench_->state().leaf_count <= most_leaves_to_check) check();
        result_.calls = bench_->machine().events() - calls_of_ours_;
        result_.counters = difference(bench_->state().counters, result_.boot.counters);
        std::vector<PhysRange> pinned;
        if (zone_)
            pinned = {phys(zone_range_)};
        else
            for (const Range& pin : pins_) pinned.push_back(phys(pin));
        result_.smallest_cover = bench_->smallest_cover(pinned);
        if (config_.keep_dump) result_.dump = bench_->dump();
        return std::move(result_);
    }

private:
    void begin_operation() {
        machine::Machine& machine = bench_->machine();
        machine.run_on(next_cpu_);
        next_cpu_ = (next_cpu_ + 1) % config_.cpus;
        ++result_.changes;
    }

    bool protect(const Range& range, Change change, ChangeOptions options = {}) {
        begin_operation();
        return answered(bench_->protect(phys(range), change, options));
    }

    bool apply_to(const TraceEvent& event, const Range& range) {
        ChangeOptions options;
        options.atomic = event.atomic;
        switch (event.operation) {
        case TraceOperation::pin:
        case TraceOperation::unpin: {
            const bool pin = event.operation == TraceOperation::pin;
            if (pin) {
                begin_operation();
                if (!answered(bench_->prepare(phys(range)))) return false;
                pins_.push_back(range);
                pins_ = merged(std::move(pins_));
                return true;
            }
            pins_ = subtract(pins_, {range});
            if (zone_) return true; // a zone stays one
            begin_operation();
            if (!answered(bench_->release(phys(range)))) return false;
            (void)bench_->collapse(phys(range)); // heals now, unless the policy says otherwise
            return !broken();
        }
        case TraceOperation::shared:
        case TraceOperation::unshared: {
            // A realm's order: break, tell the host, make. While the host changes its view nobody can use either.
            const bool shared = event.operation == TraceOperation::shared;
            if (!protect(range, Change{}.valid(false).shared(shared), options)) return false;
            bench_->machine().set_granules(phys(range), shared);
            ++bench_->machine().clock;
            return protect(range, Change{}.valid(true), options);
        }
        default: return protect(range, change_of(event.operation), options);
        }
    }

    bool answered(const Result<void>& result) {
        look_for_violations();
        if (result) return !broken();
        refuse(name(result.error().code()), result.error().reason());
        return false;
    }
    void refuse(const std::string& code, const std::string& reason) {
        Refused& refused = result_.refused[code];
        if (refused.count++ == 0) {
            refused.line = line_;
            refused.reason = reason;
        }
    }

    [[nodiscard]] TlbCounts measure() {
        const std::uint64_t before = bench_->machine().events();
        TlbModel model(config_.core);
        config_.pattern->restart();
        const auto play = [&] {
            for (std::uint64_t i = 0; i < config_.accesses; ++i) {
                const std::uint64_t address = config_.pattern->next();
                model.access(address + config_.offset, [&] {
                    const LeafAt leaf = bench_->leaf_at(address);
                    return leaf.valid ? TlbLeaf{leaf.va, leaf.size, leaf.descriptor_size} : TlbLeaf{};
                });
            }
        };
        play();
        model.start_counting();
        play();
        calls_of_ours_ += bench_->machine().events() - before;
        return model.counts();
    }

    void check() {
        const std::uint64_t before = bench_->machine().events();
        add_problems(bench_->check());
        calls_of_ours_ += bench_->machine().events() - before;
    }
    void look_for_violations() {
        if (!bench_->machine().violations().empty()) check();
    }
    void must(const Result<void>& result, std::string_view what) {
        if (!result)
            throw InputError(config_.source, 0,
                             fmt::format("{}: {} at {}: {}", what, name(result.error().code()),
                                         hex(result.error().where().value()), result.error().reason()));
    }
    void add_problems(const std::string& text) {
        for (std::size_t at = 0; at < text.size() && result_.problems.size() < most_problems;) {
            const std::size_t end = std::min(text.find('\n', at), text.size());
            result_.problems.push_back(fmt::format("line {}: {}", line_, text.substr(at, end - at)));
            at = end + 1;
        }
    }

    const ReplayConfig& config_;
    std::uint64_t page_;
    std::unique_ptr<Workbench> bench_;
    PolicyResult result_;
    Range zone_range_;
    std::optional<Zone> zone_;
    std::vector<Range> pins_;
    unsigned next_cpu_ = 0;
    std::uint64_t line_ = 0;
    std::uint64_t calls_of_ours_ = 0; ///< platform calls that no change made
    std::optional<TlbCounts> tlb_;
    std::uint64_t measured_at_ = 0;
};

class Replay {
public:
    Replay(TraceReader& trace, const ReplayConfig& config) : trace_(trace), config_(config) {
        for (const Policy policy : config.policies) lanes_.push_back(std::make_unique<Lane>(config, policy));
        result_.leaf_sizes = lanes_.front()->leaf_sizes();
    }

    ReplayResult play(const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
        add_moment();
        TraceEvent event;
        constexpr std::uint64_t lines_between_reports = 64;
        while (trace_.next(event)) {
            if (trace_.line_number() % lines_between_reports == 0) progress(trace_.line_number(), trace_.bytes_read());
            play(event);
        }
        result_.remarks = trace_.remarks();
        // Collapses alone are nothing to compare policies by.
        if (result_.pages == 0 && result_.outside.events != 0)
            throw InputError(trace_.source(), result_.outside.line, nothing_in_ram());
        if (result_.events == 0) throw InputError(trace_.source(), 0, "there is no change in it");
        if (result_.moments.back().events != result_.events || result_.moments.back().line != line_) add_moment();
        for (const auto& lane : lanes_) result_.policies.push_back(lane->finish());
        return std::move(result_);
    }

private:
    void play(const TraceEvent& event) {
        line_ = event.line;
        if (!first_) first_ = event.nanoseconds;
        result_.nanoseconds = event.nanoseconds - *first_;
        // Boot is at 0.
        const std::uint64_t now = 1 + result_.nanoseconds / nanoseconds_a_millisecond;
        if (!trace_.ticks_recorded()) tick_until(now);
        for (const auto& lane : lanes_) lane->set_clock(now);
        switch (event.operation) {
        case TraceOperation::note: note_ = event.text; return;
        case TraceOperation::tick:
            for (const auto& lane : lanes_) lane->tick();
            return;
        case TraceOperation::collapse:
            for (const auto& lane : lanes_) lane->collapse(event.line);
            break;
        default:
            if (!change(event)) return;
        }
        ++result_.operations[event.operation];
        if (++result_.events % step_ == 0) add_moment();
    }

    /// The background thread wakes up every second. A step is a change of everything to the machine, which checks
    /// everything after it: where nothing can have become quiet since the last one, it is left out.
    void tick_until(std::uint64_t now) {
        for (; next_tick_ <= now; next_tick_ += tick_milliseconds) {
            if (!work_left_ && changed_.empty()) { // for however long
                next_tick_ = now / tick_milliseconds * tick_milliseconds;
                continue;
            }
            bool due = work_left_;
            for (; !changed_.empty() && changed_.front().first + quiet_milliseconds <= next_tick_;
                 changed_.pop_front()) {
                const auto latest = latest_change_.find(changed_.front().second);
                if (latest == latest_change_.end() || latest->second != changed_.front().first) continue;
                latest_change_.erase(latest);
                due = true;
            }
            if (!due) continue;
            work_left_ = false;
            for (const auto& lane : lanes_) {
                lane->set_clock(next_tick_);
                work_left_ = lane->tick() || work_left_;
            }
        }
    }

    /// For tick_until: the engine goes by regions, which no format has smaller than 1 GiB of virtual addresses.
    void note_change(const Range& range) {
        constexpr unsigned block_shift = 30;
        const std::uint64_t now = 2 + result_.nanoseconds / nanoseconds_a_millisecond; // sharing takes two changes
        const std::uint64_t last = (range.end - 1 + config_.offset) >> block_shift;
        for (std::uint64_t block = (range.start + config_.offset) >> block_shift; block <= last; ++block) {
            std::uint64_t& latest = latest_change_[block];
            if (latest == now) continue;
            latest = now;
            changed_.emplace_back(now, block);
        }
    }

    /// Why nothing of the trace could be replayed, and what to try.
    [[nodiscard]] std::string nothing_in_ram() const {
        const std::uint64_t address = result_.outside.address;
        const bool by_offset = is_virtual(address);
        std::string text = hex(address);
        if (by_offset)
            text +=
                fmt::format(" (physical {} with the offset {})", hex(address - trace_offset()), hex(trace_offset()));
        text += fmt::format(" is not in the RAM of {}, and ", config_.source);
        text += result_.outside.events == 1
                    ? "there is no other change"
                    : fmt::format("neither is any other of its {} changes", grouped(result_.outside.events));
        text += "; --memory-map says whose RAM it is";
        if (by_offset) text += ", --offset where the direct map of the recorded kernel begins";
        return text;
    }

    /// VA - PA of the kernel that was recorded.
    [[nodiscard]] std::uint64_t trace_offset() const {
        return config_.trace_offset.value_or(trace_.offset().value_or(config_.offset));
    }

    /// Returns whether anything of it is in RAM.
    bool change(const TraceEvent& event) {
        std::uint64_t start = event.address;
        if (is_virtual(start)) start -= trace_offset();
        const std::uint64_t bytes = event.pages * trace_.page_bytes();
        const std::uint64_t page = config_.page_bytes();
        Range wanted{start, start + bytes};
        const bool is_physical = start < std::uint64_t{1} << max_physical_bits && wanted.end > start &&
                                 wanted.end <= std::uint64_t{1} << max_physical_bits;
        std::vector<Range> inside;
        std::uint64_t found = 0;
        if (is_physical) {
            found = total_size(intersect(config_.ram, {wanted}));
            const Range whole{wanted.start & ~(page - 1), (wanted.end + page - 1) & ~(page - 1)};
            if (found != 0) inside = intersect(config_.ram, {whole});
            if (found != 0 && whole != wanted) ++result_.widened;
        }
        if (found != bytes) {
            ReplayResult::Outside& outside = result_.outside;
            if (outside.pages == 0) {
                outside.line = event.line;
                outside.address = event.address;
            }
            ++(found == 0 ? outside.events : outside.partly);
            outside.pages += (bytes - found) / trace_.page_bytes();
            if (found == 0) return false;
        }
        result_.pages += found / trace_.page_bytes();
        for (const auto& lane : lanes_)
            for (const Range& range : inside) lane->apply(event, range);
        if (!trace_.ticks_recorded())
            for (const Range& range : inside) note_change(range);
        return true;
    }

    void add_moment() {
        Moment moment;
        moment.nanoseconds = result_.nanoseconds;
        moment.events = result_.events;
        moment.line = line_;
        moment.note = note_;
        for (const auto& lane : lanes_) moment.policies.push_back(lane->moment());
        result_.moments.push_back(std::move(moment));
        if (result_.moments.size() <= config_.most_moments) return;
        // Every other one goes, the first after boot stays; from now on they are twice as far apart.
        step_ *= 2;
        std::erase_if(result_.moments, [&](const Moment& m) { return m.events % step_ != 0; });
    }

    TraceReader& trace_;
    const ReplayConfig& config_;
    std::vector<std::unique_ptr<Lane>> lanes_;
    ReplayResult result_;
    std::optional<std::uint64_t> first_;
    std::uint64_t line_ = 0;
    std::uint64_t step_ = 1;
    std::uint64_t next_tick_ = tick_milliseconds;
    bool work_left_ = false;                                      ///< the last step ran out of its budget
    std::deque<std::pair<std::uint64_t, std::uint64_t>> changed_; ///< when and which block, the oldest first
    std::unordered_map<std::uint64_t, std::uint64_t> latest_change_;
    std::string note_;
};

} // namespace

std::uint64_t PolicyResult::refused_count() const {
    std::uint64_t count = 0;
    for (const auto& [code, refusals] : refused) count += refusals.count;
    return count;
}

bool ReplayResult::kept() const {
    return std::all_of(policies.begin(), policies.end(), [](const PolicyResult& p) { return p.problems.empty(); });
}

double walks_a_thousand(const TlbCounts& counts) {
    return counts.accesses == 0 ? 0
                                : 1000.0 * static_cast<double>(counts.walks()) / static_cast<double>(counts.accesses);
}

ReplayResult replay(TraceReader& trace, const ReplayConfig& config,
                    const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    return Replay(trace, config).play(progress);
}

} // namespace directmap::tool

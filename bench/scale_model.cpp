// 64 CPUs in the machine's model: who waits for which lock, and how many invalidations there are. Each CPU has a clock
// of its own; the one that is furthest behind makes the next call. What a call costs is an assumption, printed with
// the result; how often it is made, and who waits, is the engine's doing.
//
// usage: directmap_bench_scale_model; prints one JSON object.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "machine/fiber.hpp"
#include "machine/rig.hpp"

namespace directmap::machine {
namespace {

using Rig4K = Rig<arm64::Format4K48>;

constexpr unsigned cpus = 64, changes = 16;
constexpr std::uint64_t GiB = std::uint64_t{1} << 30, ram_start = 64 * GiB;

/// Nanoseconds.
constexpr std::uint64_t call_cost = 2, barrier_cost = 50, invalidation_cost = 500;

/// Runs a function for each CPU, by virtual time.
class ByTime final : public Scheduler {
public:
    explicit ByTime(Machine& machine) : machine_{machine} {}

    void run(const std::vector<std::function<void()>>& work) {
        cpus_.resize(work.size());
        for (std::size_t i = 0; i < work.size(); ++i) {
            cpus_[i].fiber = std::make_unique<Fiber>(std::size_t{256} << 10);
            cpus_[i].fiber->start(work[i], [this] {
                cpus_[current_].done = true;
                const std::size_t next = earliest();
                if (next == cpus_.size()) return &thread_;
                return &go_on(next);
            });
        }
        thread_.switch_to(go_on(earliest()));
    }
    [[nodiscard]] std::uint64_t finished_at() const {
        std::uint64_t last = 0;
        for (const Cpu& cpu : cpus_) last = std::max(last, cpu.now);
        return last;
    }
    [[nodiscard]] std::uint64_t waited() const { return waited_; }
    [[nodiscard]] std::uint64_t acquisitions() const { return acquisitions_; }
    [[nodiscard]] std::uint64_t contended() const { return contended_; }

    void before_call(const char* call) override {
        const bool barrier = std::strncmp(call, "barrier", 7) == 0;
        spend(barrier ? barrier_cost : call_cost);
    }
    void wait(const char* why, const std::function<bool()>& ready) override {
        const bool lock = std::strcmp(why, "acquire") == 0;
        spend(lock ? call_cost : invalidation_cost); // otherwise a barrier that completes invalidations
        if (lock) ++acquisitions_;
        if (ready()) return;
        if (lock) ++contended_;
        const std::size_t here = current_;
        const std::uint64_t since = cpus_[here].now;
        cpus_[here].ready = &ready;
        while (!ready()) leave();
        cpus_[here].ready = nullptr;
        waited_ += cpus_[here].now - since;
    }
    void pause() override { spend(call_cost); }
    unsigned choose(const char*, unsigned) override { return 0; }
    void touch(std::uint64_t, bool) override {}

private:
    struct Cpu {
        std::unique_ptr<Fiber> fiber;
        std::uint64_t now = 0;
        bool done = false;
        const std::function<bool()>* ready = nullptr;
    };

    /// Who is furthest behind of those that can go on.
    [[nodiscard]] std::size_t earliest() const {
        std::size_t best = cpus_.size();
        for (std::size_t i = 0; i < cpus_.size(); ++i) {
            const Cpu& cpu = cpus_[i];
            if (cpu.done || (cpu.ready != nullptr && !(*cpu.ready)())) continue;
            if (best == cpus_.size() || cpu.now < cpus_[best].now) best = i;
        }
        return best;
    }
    Fiber& go_on(std::size_t cpu) {
        // Whoever waited goes on no earlier than whoever let it.
        if (cpus_[cpu].ready != nullptr) cpus_[cpu].now = std::max(cpus_[cpu].now, cpus_[current_].now);
        current_ = cpu;
        machine_.run_on(static_cast<unsigned>(cpu));
        return *cpus_[cpu].fiber;
    }
    void leave() {
        const std::size_t here = current_, next = earliest();
        if (next == here) return;
        cpus_[here].fiber->switch_to(go_on(next));
    }
    void spend(std::uint64_t nanoseconds) {
        cpus_[current_].now += nanoseconds;
        leave();
    }

    Machine& machine_;
    Fiber thread_;
    std::vector<Cpu> cpus_;
    std::size_t current_ = 0;
    std::uint64_t waited_ = 0, acquisitions_ = 0, contended_ = 0;
};

/// Every CPU of `count` makes its changes: splits a page out of a large leaf and restores it.
nlohmann::ordered_json simulate(unsigned count, bool one_region, bool batched) {
    RigConfig config;
    config.ram = {{phys_range(ram_start, ram_start + cpus * GiB), {}}};
    config.cpus = count;
    config.tables_through_map = false;
    Rig4K rig{config};
    Machine& machine = rig.machine();
    std::uint64_t invalidations = 0, barriers = 0;
    machine.record_to([&](const Event& e) {
        if (std::strncmp(e.call, "invalidate", 10) == 0) ++invalidations;
        if (std::strcmp(e.call, "barrier_publish") == 0 || std::strcmp(e.call, "barrier_complete") == 0) ++barriers;
    });
    ByTime time{machine};
    machine.schedule_with(&time);
    std::vector<std::function<void()>> work;
    for (unsigned cpu = 0; cpu < count; ++cpu) {
        work.emplace_back([&, cpu] {
            const std::uint64_t first = ram_start + (one_region ? cpu * (GiB / cpus) : cpu * GiB);
            const auto page = [first](unsigned i) { return PhysRange{PhysAddr{first + i / 2 * 0x3000}, 0x1000}; };
            Rig4K::Map::DeferredFlush owed;
            for (unsigned i = 0; i < changes; ++i) {
                const Change change = Change{}.writable(i % 2 != 0);
                if (!batched) {
                    (void)rig.protect(page(i), change);
                    continue;
                }
                const unsigned id = machine.begin_change(page(i), effect_of(change), false, "protect deferred");
                auto flush = rig.map().protect_deferred(page(i), change);
                machine.end_change(id, flush ? Machine::Outcome::deferred : Machine::Outcome::failed);
                if (flush) owed.merge(std::move(flush.value()));
            }
            owed.complete();
            for (unsigned i = 0; batched && i < changes; ++i) machine.deferred_flushed(page(i));
        });
    }
    time.run(work);
    machine.schedule_with(nullptr);
    if (const std::string problems = rig.check(); !problems.empty()) {
        std::fprintf(stderr, "bench: a promise is broken: %s\n", problems.c_str());
        std::exit(1);
    }
    const double made = static_cast<double>(count) * changes;
    nlohmann::ordered_json json;
    json["cpus"] = count;
    json["ns_per_change"] = static_cast<double>(time.finished_at()) / changes;
    json["lock_acquisitions_per_change"] = static_cast<double>(time.acquisitions()) / made;
    json["contended_share"] = static_cast<double>(time.contended()) / static_cast<double>(time.acquisitions());
    json["waited_share"] =
        static_cast<double>(time.waited()) / (static_cast<double>(time.finished_at()) * static_cast<double>(count));
    json["invalidations_per_change"] = static_cast<double>(invalidations) / made;
    json["barriers_per_change"] = static_cast<double>(barriers) / made;
    return json;
}

} // namespace
} // namespace directmap::machine

int main() {
    using directmap::machine::simulate;
    nlohmann::ordered_json json;
    json["assumed_ns"] = {{"call", directmap::machine::call_cost},
                          {"barrier", directmap::machine::barrier_cost},
                          {"barrier_after_invalidation", directmap::machine::invalidation_cost}};
    for (const unsigned count : {1u, 8u, 64u}) {
        json["own_region"].push_back(simulate(count, false, false));
        json["one_region"].push_back(simulate(count, true, false));
        json["one_region_batched"].push_back(simulate(count, true, true));
    }
    std::printf("%s\n", json.dump().c_str());
    return 0;
}

// Scenarios: a small map and a few CPUs that do something to it at once. The explorer tries every order; the machine
// judges.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "directmap/directmap.hpp"
#include "directmap/omissions.hpp"
#include "machine/platform.hpp"
#include "machine/rig.hpp"

namespace directmap::machine {

/// A mistake made on purpose, to see that somebody notices.
struct SeededFault {
    std::string name;
    std::string what;                    ///< the mistake, in words
    std::string scenario;                ///< that notices it
    Omission engine = Omission::nothing; ///< made inside the engine
    enum class Outside : std::uint8_t {
        none,
        skip_lock,          ///< region locks exclude nobody
        neighbours_lock,    ///< the lock of the next region is taken
        no_grace,           ///< every grace period is over at once
        no_walker_sections, ///< walkers don't say that they walk
        no_wait_for_walks, ///< a barrier after an invalidation doesn't wait for walks in flight (a mistake of hardware)
    };
    Outside outside = Outside::none; ///< made around it
};

[[nodiscard]] const std::vector<SeededFault>& seeded_faults();
/// Null if there is none of that name.
[[nodiscard]] const SeededFault* find_fault(const std::string& name);

/// The machine's platform, with a fault.
class ExploredPlatform : public Platform {
public:
    ExploredPlatform(Machine& machine, const SeededFault* fault) : Platform{machine}, fault_{fault} {}

    [[nodiscard]] bool omits(Omission step) const { return fault_ != nullptr && fault_->engine == step; }

    void acquire(Lock& lock, Where where = Where::current()) { Platform::acquire(taken_for(lock), where); }
    void release(Lock& lock, Where where = Where::current()) { Platform::release(taken_for(lock), where); }
    bool grace_elapsed(std::uint64_t stamp, Where where = Where::current()) {
        return Platform::grace_elapsed(stamp, where) || outside(SeededFault::Outside::no_grace);
    }
    void walker_enter(Where where = Where::current()) {
        if (!outside(SeededFault::Outside::no_walker_sections)) Platform::walker_enter(where);
    }
    void walker_exit(Where where = Where::current()) {
        if (!outside(SeededFault::Outside::no_walker_sections)) Platform::walker_exit(where);
    }

    /// Where tables come from and go to instead of the machine's own source.
    class TableSource {
    public:
        virtual ~TableSource() = default;
        virtual bool take(PhysAddr& pa, bool atomic) = 0;
        virtual bool give(PhysAddr pa) = 0;
        [[nodiscard]] virtual bool owns(PhysAddr pa) const = 0;
    };
    void use(TableSource* source) { source_ = source; }
    bool take_table(PhysAddr& pa, bool atomic, Where where = Where::current()) {
        if (source_ == nullptr) return Platform::take_table(pa, atomic, where);
        if (!source_->take(pa, atomic)) return false;
        machine().own_table(pa.value(), where);
        return true;
    }
    void give_table(PhysAddr pa, Where where = Where::current()) {
        if (source_ == nullptr || !source_->owns(pa)) return Platform::give_table(pa, where);
        machine().disown_table(pa.value(), where);
        source_->give(pa);
    }

    /// Regions in address order, for the faults that confuse their locks.
    void know_regions(std::vector<Region<Lock>>& regions) { regions_ = &regions; }

private:
    [[nodiscard]] bool outside(SeededFault::Outside outside) const {
        return fault_ != nullptr && fault_->outside == outside;
    }
    [[nodiscard]] Lock& taken_for(Lock& lock);

    const SeededFault* fault_;
    std::vector<Region<Lock>>* regions_ = nullptr;
    TableSource* source_ = nullptr;
    Lock own_[8]; ///< one for each CPU
};

static_assert(directmap::Platform<ExploredPlatform>);

/// A geometry small enough to enumerate, with everything that a large one has: tables of eight entries, leaves of
/// 256K, 128K (contiguous), 32K, 16K (contiguous) and 4K.
inline constexpr Shape small_shape{12, 24, 48, 3, 1, {0, 0, 2, 2}};
using SmallFormat = arm64::Format<small_shape>;
using SmallRig = Rig<SmallFormat, ExploredPlatform>;

/// One run of a scenario: the map, and what its agents tell one another.
class World {
public:
    using G = SmallRig::G;
    using Map = SmallRig::Map;

    World(const RigConfig& config, const SeededFault* fault);

    SmallRig rig;
    int flags[8] = {};                         ///< signals between agents
    std::optional<Map::DeferredFlush> owed[4]; ///< deferred flushes that somebody completes later
    std::shared_ptr<void> annex;               ///< what a scenario brings along: a table pool

    // Places, as physical memory: the map is two regions of 256K; a third holds the tables.
    static constexpr std::uint64_t base = 0x100000;
    static constexpr std::uint64_t page_size = 0x1000, block_size = 0x8000, region_size = 0x40000;
    [[nodiscard]] static PhysRange pages(unsigned first, unsigned count = 1) {
        return {PhysAddr{base + first * page_size}, count * page_size};
    }
    [[nodiscard]] static PhysRange region(unsigned index) {
        return {PhysAddr{base + index * region_size}, region_size};
    }

    /// The operations, each of which must succeed, or fail with one of the codes given.
    bool protect(PhysRange range, Change change, ChangeOptions options = {},
                 std::initializer_list<ErrorCode> or_fails = {});
    bool protect_deferred(unsigned which, PhysRange range, Change change);
    void complete(unsigned which);
    bool collapse(PhysRange range, std::initializer_list<ErrorCode> or_fails = {});
    bool prepare(PhysRange range, std::initializer_list<ErrorCode> or_fails = {});
    bool release(PhysRange range);
    bool repaint(std::initializer_list<ErrorCode> or_fails = {});
    /// Adds a bank of memory where the map has a hole, which the machine was told of before the race.
    bool add(PhysRange range);
    void expect_bank(PhysRange range) { rig.machine().reference().map(range, hole()); }
    void background_step() { (void)rig.background_step(~std::uint64_t{0}); }
    /// The table source will hand out this many more.
    void leave_tables(std::uint64_t count) { rig.machine().tables_left = count; }
    /// Admits a CPU and, if it may, lets it enter.
    bool admit(unsigned cpu, CpuCapabilities capabilities, AdmissionPolicy policy = AdmissionPolicy::repaint,
               std::initializer_list<ErrorCode> or_fails = {});
    /// A lock-free look at one page; it must lead where it should, with attributes that some state allows.
    Attributes translate(PhysAddr pa);
    /// The current CPU's MMU walks for one page.
    void walk_in_hardware(PhysAddr pa) { (void)rig.machine().hardware_walk(pa); }
    /// Every leaf of `range`, without a lock: no page may be missing or lead elsewhere.
    void walk(PhysRange range);
    /// The map as a dump, read back: no page may be missing, and each line must have been true while it was taken.
    void dump();
    /// An access by the current CPU now. `must_fault`: no translation that it may use allows the access; otherwise all
    /// do.
    void access(PhysAddr pa, bool write, bool must_fault);
    /// Waits for another agent.
    void await(const char* why, const std::function<bool()>& ready);
    [[nodiscard]] unsigned choose(const char* what, unsigned alternatives);
    void schedule_with(Scheduler* scheduler);

    void fail(const std::string& what, PhysAddr where = {}) { rig.machine().report("scenario", what, where.value()); }
    /// The run is over: everything must agree. If it `heals`, collapsing must lead to the smallest cover, with every
    /// table that isn't part of it back where it came from.
    void finish(bool heals);

private:
    bool accept(const char* what, const Result<void>& result, std::initializer_list<ErrorCode> or_fails);
    /// A walk without a lock: what its pages may have been since it began.
    class Walk;
    void check_seen(PhysRange range, Attributes attributes, const Walk& walk);
    void changed();
    std::vector<Walk*> walks_;
    PhysRange owed_ranges_[4] = {};
    Scheduler* scheduler_ = nullptr;
};

/// What one agent does. Several agents may belong to one CPU: its software and its MMU.
struct Agent {
    unsigned cpu = 0;
    std::string what;
    std::function<void(World&)> run;
    /// It may stop for good at any moment at which it holds no lock; the others must get along without it.
    bool mortal = false;
};

struct Scenario {
    std::string name{};
    std::string what{}; ///< in words
    RigConfig config{};
    std::function<void(World&)> prepare{}; ///< before the race; may be empty
    std::vector<Agent> agents{};
    std::function<void(World&)> finish{}; ///< after it, before the map is healed and checked; may be empty
    /// The race goes through state that no platform call touches and no lock guards (the gate's mode, the notes of
    /// background collapse), so calls that touch no common memory may still not commute.
    bool hidden_state = false;
    /// Afterwards the map collapses to the fewest leaves. Not so when the gate is closed or pages are pinned.
    bool heals = true;
};

[[nodiscard]] const std::vector<Scenario>& scenarios();
[[nodiscard]] const Scenario* find_scenario(const std::string& name);

} // namespace directmap::machine

// Scenarios: what is done with the map, and checked, once every CPU runs on it.
#pragma once

#include "boot/machine.hpp"
#include "cpu/ending.hpp"
#include "memory/kernel_map.hpp"
#include "memory/require.hpp"
#include "pure/random.hpp"

namespace directmap::kernel {

/// What a scenario counts; CPUs add to it at the same time.
struct Tally {
    std::uint64_t changes = 0;         ///< calls that changed the map, or should have been refused
    std::uint64_t accesses = 0;        ///< probed accesses that had to work, and did
    std::uint64_t expected_faults = 0; ///< probed accesses that had to fault, and did, in the right way

    void count_change() { __atomic_fetch_add(&changes, 1, __ATOMIC_RELAXED); }
    void count_access() { __atomic_fetch_add(&accesses, 1, __ATOMIC_RELAXED); }
    void count_fault() { __atomic_fetch_add(&expected_faults, 1, __ATOMIC_RELAXED); }
};

/// What a scenario works with.
struct Stage {
    const Machine& machine;
    KernelMap& map;
    Random random;
    PhysRange arena; ///< RAM that nobody uses, where every page can be changed
    Tally tally;

    [[nodiscard]] std::uint64_t va(PhysAddr pa) const { return map.virt(pa).value(); }
    /// Leaves may become smaller and larger while CPUs run.
    [[nodiscard]] bool can_resize() const { return map.gate_mode() == Gate::Mode::open; }
    /// `rounds` of the command line, or this scenario's own.
    [[nodiscard]] std::uint64_t rounds(std::uint64_t otherwise) const {
        return machine.command_line.rounds != 0 ? machine.command_line.rounds : otherwise;
    }
};

/// What a scenario can't do without.
enum class Needs : std::uint8_t {
    nothing,
    pages,    ///< an arena whose pages can be changed one by one
    resizing, ///< leaves that can be split and collapsed live
    others,   ///< pages, and other CPUs
    racing,   ///< resizing, and other CPUs
    keys,     ///< protected page tables
};

struct Scenario {
    const char* name;
    const char* proves; ///< one line
    void (*play)(Stage& stage);
    Needs needs;
    bool on_request = false; ///< not among `all`
};

/// Ends the run if the command line names a scenario that there isn't.
void check_scenario_name(const CommandLine& command_line);

/// Plays the scenarios that the command line asks for, and after each checks that the map's account is right and that
/// it healed. A broken promise ends the run.
void play_scenarios(const Machine& machine);

/// Brings up the CPUs that `nolive` names, which the map must be repainted for.
void admit_unable_cpus(const Machine& machine);

/// Collapses all of `range` that agrees. Nobody may be walking the map for long: what a walker might still read can't
/// be given back, and a collapse stops when there is too much of it.
void heal(Stage& stage, PhysRange range);

/// Ends the run unless a call of the engine failed with `code`.
template <class T>
void require_error(const Result<T>& result, ErrorCode code, const char* what) {
    if (result.ok()) fail("{}: succeeded, but should have failed with {}", what, name(code));
    if (result.error().code() != code)
        fail("{}: failed with {}, but should have with {}", what, name(result.error().code()), name(code));
}

// The scenarios; each in a file of its name.
void play_errors(Stage& stage);
void play_permissions(Stage& stage);
void play_resizes(Stage& stage);
void play_parallel(Stage& stage);
void play_walkers(Stage& stage);
void play_deferred(Stage& stage);
void play_memory_types(Stage& stage);
void play_atomic(Stage& stage);
void play_exhaustion(Stage& stage);
void play_hotplug(Stage& stage);
void play_clients(Stage& stage);
void play_day(Stage& stage);
void play_admission(Stage& stage);
void play_keys(Stage& stage);
void play_races(Stage& stage);
[[nodiscard]] bool room_for_races(const Stage& stage);
void play_soak(Stage& stage);
void play_measure(Stage& stage);
// crashes.cpp
void play_crash_store(Stage& stage);
void play_crash_store_elsewhere(Stage& stage);
void play_crash_null(Stage& stage);
void play_crash_jump(Stage& stage);
void play_crash_instruction(Stage& stage);
void play_crash_stack(Stage& stage);
void play_crash_handler(Stage& stage);
void play_crash_handler_stack(Stage& stage);

} // namespace directmap::kernel

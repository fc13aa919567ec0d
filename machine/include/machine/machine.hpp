// The machine: CPUs, MMUs, TLBs and memory as unkind as the architecture allows. It doesn't choose what a TLB holds or
// when a store becomes visible; it keeps everything that may be, and checks all of it after every platform call.
//
// What may be seen of a page at a moment:
//   fresh walks      every path through the tables, where a word that was stored but not yet published by a barrier
//                    counts with its old and its new value;
//   cached leaves    every leaf that a walk could have returned since the last invalidation that covers it completed;
//   cached tables    every table pointer likewise (walk caches, and walks in progress), with whatever the table
//                    behind it holds by now.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <source_location>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "directmap/descriptor.hpp"
#include "directmap/epochs.hpp"
#include "directmap/platform.hpp"
#include "machine/events.hpp"
#include "machine/reference.hpp"
#include "machine/regime.hpp"
#include "machine/words.hpp"

namespace directmap::machine {

struct MachineConfig {
    Regime regime;
    std::uint64_t offset = 0xffff000000000000; ///< VA − PA of the map under test
    unsigned cpus = 2;
    /// FEAT_BBM level: below 3, a resize that some CPU could still have cached at its old size is a conflict.
    unsigned bbm = 3;
    bool range_invalidation = true;
    /// The engine reaches its tables through the map itself; every access must be translated.
    bool tables_through_map = true;
    unsigned table_key = 0; ///< protection key that only a write section may write through; 0: none
    /// A barrier after an invalidation waits for walks in flight on other CPUs, as the architecture has it. Off: to see
    /// that somebody notices.
    bool invalidation_waits_for_walks = true;
    /// Report who writes below a region without its lock. Off where a broken lock is to be noticed by what comes of it.
    bool check_region_locks = true;
    PhysRange table_pool{}; ///< where table pages come from, handed out from the top down
};

/// A broken promise.
struct Violation {
    std::string promise; ///< "P1 translation", "BBM conflict", …
    std::string what;
    unsigned cpu = 0;
    std::uint64_t event = 0;
    std::uint64_t pa = 0;
};

/// Who runs when, and what hardware does where it has a choice: for explorers. Without one, a CPU that has to wait
/// would wait for ever, and every choice is the first.
class Scheduler {
public:
    virtual ~Scheduler() = default;
    /// Called before every platform call.
    virtual void before_call(const char* call) = 0;
    /// Called instead where a CPU may have to wait; returns once `ready` holds.
    virtual void wait(const char* why, const std::function<bool()>& ready) = 0;
    /// A busy-wait loop goes round: others first.
    virtual void pause() = 0;
    /// One of `alternatives` things that hardware may do, the plain one being 0.
    virtual unsigned choose(const char* what, unsigned alternatives) = 0;
    /// What the current call reads or writes, as an opaque number: two calls commute unless both touch something
    /// and one of them writes it.
    virtual void touch(std::uint64_t object, bool writes) = 0;
};

class Machine {
public:
    using Where = std::source_location;
    struct Lock {
        unsigned id = 0; ///< for the record, by order of first use; 0: not used yet
        bool held = false;
        unsigned owner = 0;
    };

    explicit Machine(const MachineConfig& config);

    // ---- the scenario's side ------------------------------------------------------------------------------------

    [[nodiscard]] const MachineConfig& config() const { return config_; }
    [[nodiscard]] const Regime& regime() const { return config_.regime; }
    [[nodiscard]] Reference& reference() { return reference_; }
    [[nodiscard]] const Reference& reference() const { return reference_; }
    [[nodiscard]] const std::vector<unsigned>& bbm() const { return bbm_; } ///< by CPU

    /// The CPU on whose behalf platform calls are made from now on.
    void run_on(unsigned cpu) { cpu_ = cpu; }
    [[nodiscard]] unsigned cpu() const { return cpu_; }
    /// Whether the current CPU holds a lock.
    [[nodiscard]] bool holds_a_lock() const { return !locks_held_[cpu_].empty(); }
    /// CPU `cpu` loads its translation table base register: from here on it may cache what it can reach. The first CPU
    /// to do so makes `root` the map's root.
    void enter(unsigned cpu, std::uint64_t root);
    /// CPU `cpu` leaves the map and loses its TLB.
    void leave(unsigned cpu);
    void set_bbm(unsigned cpu, unsigned level) { bbm_[cpu] = level; }
    /// No CPU translates through the map until `end_quiescence`, and tables are reached some other way.
    void begin_quiescence();
    void end_quiescence();

    /// The reference learns that an operation begins; returns its name for `end_change`. `change` are the attributes
    /// that are changed, as `name=value` words: for the record, and because whoever changes some promises that nobody
    /// uses older ones afterwards (promise P2), unless the end is `deferred`.
    unsigned begin_change(PhysRange range, Effect effect, bool breaks, const std::string& name,
                          const std::string& change = {});
    enum class Outcome : std::uint8_t { done, deferred, failed };
    void end_change(unsigned id, Outcome outcome);
    /// Deferred changes of `range` have been flushed.
    void deferred_flushed(PhysRange range);

    /// The host's view of memory sharing (realms): a translation's `shared` must agree with it.
    void set_granules(PhysRange range, bool shared);

    /// An area maps physical memory beside the direct map: the VAs of `home` (VA − offset, as everywhere here) lead to
    /// the memory from `pa` on. Told before the first leaf is stored, and until the last is gone from every TLB. From
    /// then on no page may be writable through one alias while it is executable through the same or another one,
    /// whatever may be cached (W^X). A `window` is reached by one CPU alone and doesn't count.
    void add_alias(PhysRange home, PhysAddr pa, bool window = false);
    void remove_alias(PhysRange home);

    /// From here on every table page must be mapped with the table key before it is linked (P9).
    void enforce_keys();
    /// Whether a write to `page` from outside of a write section faults, whatever translation a CPU uses.
    [[nodiscard]] bool stray_write_faults(PhysAddr page) const;
    /// The current CPU takes an exception: its key register has the value from outside of sections until the handler
    /// returns what this gave it.
    [[nodiscard]] std::uint64_t enter_exception();
    void leave_exception(std::uint64_t interrupted);
    /// Whether the current CPU is inside a write section.
    [[nodiscard]] bool may_write_tables() const { return (key_registers_[cpu_] & write_bit()) != 0; }
    /// How often a key register has been written, which costs a barrier each time.
    [[nodiscard]] std::uint64_t key_register_writes() const { return key_register_writes_; }
    /// For table sources that aren't the machine's own: `pa` becomes a table, with the worst contents; it stops being
    /// one.
    void own_table(std::uint64_t pa, Where where = Where::current());
    void disown_table(std::uint64_t pa, Where where = Where::current());

    /// Compares every page of `range` with the reference, attributes of invalid leaves included.
    void verify(PhysRange range);
    /// The scenario looks at the reference, or (`cached`) at what may be cached: calls that change these don't commute
    /// with that.
    void touch_expectations(PhysRange range, bool cached) const {
        touch_regions(Touched::reference, range.start.value() + config_.offset, range.size, false);
        if (cached) touch_regions(Touched::region, range.start.value() + config_.offset, range.size, false);
    }
    /// Whether some translation that `cpu` may use now allows the access.
    struct Reach {
        bool may_succeed = false;
        bool may_fault = false;
    };
    [[nodiscard]] Reach reach(unsigned cpu, PhysAddr pa, bool write, bool execute) const;
    /// A table walk by the current CPU's MMU for `pa`'s alias, one descriptor at a time, each before a scheduling
    /// point: what the sets above stand for, made visible. What it returns is checked as everything else is.
    Entry hardware_walk(PhysAddr pa, Where where = Where::current());
    /// Tells which lock is a region's; from then on changes below the region are checked for it.
    void name_region_lock(const Lock* lock, PhysAddr inside) {
        region_locks_[region_of(inside.value() + config_.offset)] = lock;
    }
    /// The start of the region whose lock has this id in events; nothing if it is another lock.
    [[nodiscard]] std::optional<PhysAddr> region_of_lock(unsigned id) const;
    /// A descriptor in a table, in words: "RW NX page", "table 0x…". For stories.
    [[nodiscard]] std::string explain(std::uint64_t table, std::uint64_t word) const;
    /// Whether it leads to another table.
    [[nodiscard]] bool is_table(std::uint64_t table, std::uint64_t word) const;
    /// Calls `visit(table, index, word)` for every word that a walk can reach from the root.
    void for_each_word(const std::function<void(std::uint64_t, unsigned, std::uint64_t)>& visit) const;

    [[nodiscard]] const std::vector<Violation>& violations() const { return violations_; }
    void report(const std::string& promise, const std::string& what, std::uint64_t pa);
    /// Every event from now on goes to `sink`, after one that describes the machine; docs/events.md.
    void record_to(EventSink sink);
    /// Puts a remark into the record.
    void note(const std::string& text) { scenario_event("note", {}, text); }
    void schedule_with(Scheduler* scheduler) { scheduler_ = scheduler; }
    [[nodiscard]] std::uint64_t events() const { return sequence_; }

    /// Tables that the source will still hand out; for out-of-memory tests.
    std::uint64_t tables_left = ~std::uint64_t{0};
    [[nodiscard]] std::size_t tables_in_use() const { return tables_in_use_; }
    /// Sum over CPUs of translations that may be cached although a fresh walk wouldn't return them.
    [[nodiscard]] std::size_t stale_entries() const;
    [[nodiscard]] std::size_t memory_pages() const { return pages_.size(); }
    std::uint64_t clock = 0;

    // ---- the platform's side: called by machine::Platform ---------------------------------------------------------

    [[nodiscard]] std::uint64_t load(std::uint64_t table, unsigned index, Where where);
    void store(std::uint64_t table, unsigned index, std::uint64_t value, Where where);
    void fill(std::uint64_t table, unsigned first, unsigned count, std::uint64_t value, std::uint64_t step,
              Where where);
    void update(std::uint64_t table, unsigned first, unsigned count, std::uint64_t clear, std::uint64_t set,
                Where where);
    void summarize(std::uint64_t table, unsigned first, unsigned count, std::uint64_t expected, std::uint64_t step,
                   std::uint64_t& any, std::uint64_t& all, Where where);
    void barrier(const char* name, bool completes_invalidations, Where where);
    void context_barrier(Where where);
    /// `targets`: CPUs that it reaches; broadcast is all of them. `size` 0: the whole map.
    void invalidate(std::uint64_t va, std::uint64_t size, InvalidationScope scope, std::uint64_t targets, Where where);
    void acquire(Lock& lock, Where where);
    void release(Lock& lock, Where where);
    [[nodiscard]] bool take_table(std::uint64_t& pa, bool atomic, Where where);
    void give_table(std::uint64_t pa, Where where);
    /// A write section begins on the current CPU: the key register lets tables be written. Returns whether it did
    /// already (then nothing is written to it); `end_table_writes` takes that.
    [[nodiscard]] bool begin_table_writes(Where where);
    void end_table_writes(bool was_open, Where where);
    void walker(bool enter, Where where);
    [[nodiscard]] std::uint64_t grace_stamp(Where where);
    [[nodiscard]] bool grace_elapsed(std::uint64_t stamp, Where where);
    void relax(Where where);
    [[nodiscard]] bool quiescent() const { return quiescent_; }

private:
    /// A place in the tree where a table page is used: covers VAs from `va` on, its entries are of `level`.
    struct Ref {
        std::uint64_t va = 0;
        int level = 0;
        bool live = true; ///< reachable from the root; otherwise only through cached table pointers
        friend bool operator==(const Ref&, const Ref&) = default;
    };
    struct Page {
        Words words;
        Words older;                      ///< the words at the last barrier, while stores are unpublished
        std::uint64_t unpublished_by = 0; ///< CPUs
        /// Whose store of a word is unpublished (CPU + 1), kept while several CPUs have some in this page.
        std::vector<std::uint8_t> writers;
        std::uint64_t released_by = 0; ///< CPUs whose stores have been handed on with a lock: loads see them
        std::vector<std::pair<unsigned, std::uint64_t>>
            seen; ///< unpublished words and the CPUs that have loaded the new value
        std::vector<Ref> refs;
        bool owned = false;  ///< handed out as a table
        bool linked = false; ///< since then, at some time
        unsigned taker = 0;  ///< the CPU that took it, or fills it: one may set aside what another uses
        bool filled = false; ///< since it was taken
    };
    /// Leaves of one size that may be cached although a fresh walk wouldn't return them.
    struct StaleLeaves {
        std::uint64_t va = 0, size = 0;
        unsigned unit_shift = 0;       ///< log2 of a leaf (a contiguous group counts as one)
        unsigned descriptor_shift = 0; ///< log2 of a descriptor's part of it
        int level = 0;
        Access access;
        std::uint64_t cpus = 0;
        int unpublished_by = -1;   ///< the store that replaced it is not published: walks may still return it
        std::uint64_t settled = 0; ///< when it was: later invalidations remove it
    };
    /// A table pointer that may be cached.
    struct StaleTable {
        std::uint64_t va = 0, size = 0;
        int level = 0; ///< of the entries of the table behind it
        std::uint64_t table = 0;
        std::uint64_t cpus = 0;
        int unpublished_by = -1;
        std::uint64_t settled = 0;
    };
    struct RegionStale {
        std::vector<StaleLeaves> leaves;
        std::vector<StaleTable> tables;
    };
    struct PendingInvalidation {
        std::uint64_t va = 0, size = 0; ///< size 0: everything
        InvalidationScope scope;
        std::uint64_t targets = 0;
        std::uint64_t issued = 0;
    };
    struct WalkInFlight {
        unsigned cpu = 0;
        std::uint64_t began = 0;
    };
    /// Neighbouring leaves that agree, as they are collected.
    struct LeafRun {
        std::uint64_t va = 0, size = 0;
        unsigned unit_shift = 0, descriptor_shift = 0;
        int level = 0;
        Access access;
    };

    /// VAs beside the direct map, by home address.
    struct Alias {
        std::uint64_t home = 0, size = 0, pa = 0;
        bool window = false;
    };
    /// What may be done to a page through one of its aliases.
    struct Rights {
        bool write = false, execute = false;
    };
    /// Where `home` must lead.
    [[nodiscard]] std::uint64_t leads_to(std::uint64_t home) const;
    void check_aliases(const LeafRun& run);
    void check_page_aliases(std::uint64_t pa);
    /// Calls `visit(alias)` for those that overlap a range of home addresses, or of physical ones.
    template <class Visit>
    void each_alias_at(std::uint64_t home, std::uint64_t size, Visit&& visit) const;
    template <class Visit>
    void each_alias_of(std::uint64_t pa, std::uint64_t size, Visit&& visit) const;
    void collect_rights(std::uint64_t va, Rights& rights);
    void collect_rights(std::uint64_t table, int level, std::uint64_t va, Rights& rights);

    [[nodiscard]] std::uint64_t pa_of(std::uint64_t va) const { return va - config_.offset; }
    /// That of the table key in a key register. With no table key it is key 0's, which is always set: no section writes
    /// the register.
    [[nodiscard]] std::uint64_t write_bit() const { return std::uint64_t{4} << (4 * config_.table_key); }
    [[nodiscard]] std::uint64_t closed_keys() const { return 7 | std::uint64_t{1} << (4 * config_.table_key); }
    void write_key_register(std::uint64_t value);
    [[nodiscard]] std::uint64_t region_of(std::uint64_t va) const { return va >> config_.regime.region_shift(); }
    [[nodiscard]] std::uint64_t all_cpus() const { return (std::uint64_t{2} << (config_.cpus - 1)) - 1; }
    [[nodiscard]] bool any_intolerant(std::uint64_t cpus) const;

    Page& page(std::uint64_t pa);
    Page& own_page(std::uint64_t pa, bool write);
    void event(Event& e, Where where);
    void scenario_event(const char* call, PhysRange range = {}, const std::string& text = {});
    void yield(const char* call);
    void check_lock(std::uint64_t va);
    [[nodiscard]] unsigned fresh_unit_shift(std::uint64_t va);
    [[nodiscard]] bool unpublished_by_other(const Page& page, unsigned index) const;
    [[nodiscard]] bool walks_in_flight_since(std::uint64_t issued) const;
    void publish_words(Page& page);

    // What a call touches, for Scheduler::touch: the kind in the low three bits.
    enum class Touched : unsigned { word, region, reference, lock, source, walkers, page };
    static constexpr std::uint64_t current_epoch = 0, hardware_walks = 1, walker_slots = 2; // of `walkers`
    void touch(Touched kind, std::uint64_t which, bool writes) const {
        if (scheduler_ != nullptr) scheduler_->touch(which << 3 | static_cast<unsigned>(kind), writes);
    }
    void touch_word(std::uint64_t table, unsigned index, bool writes) const {
        touch(Touched::word, (table >> 3) + index, writes);
    }
    void touch_lock(const Lock& lock) const;
    void touch_invalidation(const PendingInvalidation& invalidation) const;
    void touch_regions(Touched kind, std::uint64_t va, std::uint64_t size, bool writes) const {
        for (std::uint64_t r = region_of(va); r <= region_of(va + size - 1); ++r) touch(kind, r, writes);
    }

    void mark_unpublished(std::uint64_t table, Page& page);
    void write_word(std::uint64_t table, Page& page, unsigned index, std::uint64_t value);
    void changed(const Ref& ref, std::uint64_t table, unsigned index, std::uint64_t old_word, std::uint64_t new_word);
    void check_group(const Ref& ref, std::uint64_t table, unsigned index);
    void check_leaves(const LeafRun& run, const Entry& first, std::uint64_t first_va);
    void check_visible(const Entry& entry, std::uint64_t va, int level);
    void check_conflicts(const LeafRun& run);
    void check_merge(const LeafRun& run);
    void check_stale(PhysRange range);
    void check_table_key(std::uint64_t table);
    void link(std::uint64_t table, std::uint64_t va, int level);
    void retire(const Entry& old, std::uint64_t va, int level);
    void add_stale(const LeafRun& run, bool published);
    void add_stale_table(std::uint64_t table, std::uint64_t va, int level);
    void drop_stale_table(const StaleTable& stale);
    [[nodiscard]] LeafRun run_of(const Entry& entry, std::uint64_t va, int level) const;
    [[nodiscard]] bool is_one_run(const Words& words, std::uint64_t va, int level) const;
    template <class Visit>
    void for_each_run(const Entry& entry, std::uint64_t va, int level, bool older_too, Visit&& visit);
    void apply(const PendingInvalidation& invalidation);

    MachineConfig config_;
    Reference reference_;
    std::vector<unsigned> bbm_;
    unsigned cpu_ = 0;
    std::uint64_t root_ = 0;
    bool installed_ = false;
    bool quiescent_ = false;
    bool keys_in_force_ = false;
    std::uint64_t on_map_ = 0;
    std::unordered_map<std::uint64_t, Page> pages_;
    std::unordered_map<std::uint64_t, RegionStale> stale_;
    std::vector<std::vector<std::uint64_t>> unpublished_pages_;   // by CPU
    std::vector<std::vector<std::uint64_t>> unpublished_regions_; // by CPU
    std::vector<std::vector<PendingInvalidation>> invalidations_; // by CPU
    std::uint64_t key_register_writes_ = 0;
    std::vector<std::uint64_t> key_registers_;         ///< by CPU, as arm64 POR_EL1
    std::vector<std::vector<const void*>> locks_held_; // by CPU
    std::unordered_map<std::uint64_t, const Lock*> region_locks_;
    std::vector<WalkInFlight> walks_;
    std::vector<EpochSlot> epoch_slots_;
    Epochs epochs_;
    std::map<std::uint64_t, std::uint64_t> shared_granules_;    // start → end
    std::map<std::uint64_t, Alias> aliases_;                    ///< by home address
    std::multimap<std::uint64_t, std::uint64_t> aliases_by_pa_; ///< pa → home
    std::uint64_t largest_alias_ = 0;
    std::vector<std::uint64_t> free_tables_;
    std::uint64_t next_table_ = 0;
    std::size_t tables_in_use_ = 0;
    unsigned next_operation_ = 1;
    unsigned next_lock_ = 1;
    std::unordered_map<unsigned, PhysRange> operation_ranges_;
    std::vector<Violation> violations_;
    EventSink sink_;
    Scheduler* scheduler_ = nullptr;
    std::uint64_t sequence_ = 0;
};

} // namespace directmap::machine

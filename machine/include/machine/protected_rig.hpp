// A map whose tables are protected by a key: early tables, the table pool, and a page allocator for its chunks.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "directmap/chunk_pool.hpp"
#include "directmap/early_tables.hpp"
#include "machine/rig.hpp"

namespace directmap::machine {

/// The machine's platform with another table source.
class PooledPlatform : public Platform {
public:
    using Platform::Platform;

    [[nodiscard]] bool omits(Omission step) const { return step == omission; }

    bool take_table(PhysAddr& pa, bool atomic, Where where = Where::current()) {
        if (!source.take) return Platform::take_table(pa, atomic, where); // the machine's own
        if (lent_on[machine().cpu()] != 0)
            machine().report("P9 protected tables", "the pool's own change asks the pool for a table", 0);
        if (!source.take(pa, atomic)) return false;
        machine().own_table(pa.value());
        return true;
    }
    void give_table(PhysAddr pa, Where where = Where::current()) {
        if (!source.give) return Platform::give_table(pa, where);
        machine().disown_table(pa.value());
        source.give(pa);
    }

    struct Source {
        std::function<bool(PhysAddr&, bool)> take;
        std::function<void(PhysAddr)> give;
    };
    Source source;
    Omission omission = Omission::nothing; ///< a mistake that the pool makes on purpose
    unsigned lent_on[64] = {};             ///< changes under way whose tables are lent, by CPU
};

static_assert(directmap::Platform<PooledPlatform>);

/// What the early source keeps in pages that are no tables at that moment: memory that the machine doesn't watch.
class UnwatchedPages : public Platform {
public:
    using Platform::Platform;

    Descriptor load(Table t, unsigned, Where = Where::current()) { return words_[t.pa]; }
    void fill(Table t, unsigned, unsigned, Descriptor value, std::uint64_t, Where = Where::current()) {
        words_[t.pa] = value;
    }

private:
    std::map<std::uint64_t, Descriptor> words_;
};

static_assert(directmap::Platform<UnwatchedPages>);

/// A first-fit page allocator over one range, the chunk source of the tests. Calls are counted, and any may fail.
class RangeAllocator {
public:
    explicit RangeAllocator(PhysRange range) { free_[range.start.value()] = range.end().value(); }

    bool take_chunk(PhysAddr& pa, std::uint64_t bytes) {
        if (on_call) on_call();
        const std::uint64_t call = calls++;
        if (call != fails && call < fails_from && bytes <= largest && find(pa, bytes)) return true;
        last_refused = bytes;
        ++refusals;
        return false;
    }
    void give_chunk(PhysAddr pa, std::uint64_t bytes) {
        if (on_call) on_call();
        taken_ -= bytes;
        std::uint64_t start = pa.value(), end = start + bytes;
        auto next = free_.lower_bound(start);
        if (next != free_.end() && next->first == end) {
            end = next->second;
            next = free_.erase(next);
        }
        if (next != free_.begin() && std::prev(next)->second == start) {
            std::prev(next)->second = end;
        } else {
            free_[start] = end;
        }
    }
    [[nodiscard]] std::uint64_t taken() const { return taken_; }

    static constexpr std::uint64_t none = ~std::uint64_t{0};
    std::uint64_t largest = none;       ///< larger requests fail: a fragmented machine
    std::uint64_t calls = 0;            ///< of take_chunk
    std::uint64_t fails = none;         ///< the call of this number fails
    std::uint64_t fails_from = none;    ///< all calls from this number on fail
    std::uint64_t refusals = 0;         ///< calls that failed
    std::uint64_t last_refused = 0;     ///< bytes that the last of them wanted
    std::function<void()> on_call = {}; ///< at the beginning of every call

private:
    [[nodiscard]] bool find(PhysAddr& pa, std::uint64_t bytes) {
        for (auto it = free_.begin(); it != free_.end(); ++it) {
            const std::uint64_t start = align_up(it->first, bytes), end = it->second;
            if (start + bytes > end || start < it->first) continue;
            const std::uint64_t from = it->first;
            free_.erase(it);
            if (from < start) free_[from] = start;
            if (start + bytes < end) free_[start + bytes] = end;
            taken_ += bytes;
            pa = PhysAddr{start};
            return true;
        }
        return false;
    }

    std::map<std::uint64_t, std::uint64_t> free_;
    std::uint64_t taken_ = 0;
};

/// A map that tells the machine of every change, whoever makes it: the pool's own ones too.
template <class F>
class ObservedMap : public DirectMap<F, PooledPlatform> {
public:
    using Base = DirectMap<F, PooledPlatform>;

    ObservedMap(PooledPlatform& platform, const Config& config, Span<typename Base::RegionState> regions)
        : Base{platform, config, regions}, platform_{platform}, machine_{platform.machine()} {}

    Result<void> protect(PhysRange range, Change change, ChangeOptions options = {}) {
        const unsigned id =
            machine_.begin_change(range, effect_of(change), change.names_memory_type(), "protect", words_of(change));
        for (unsigned i = 0; options.loan != nullptr && i < options.loan->count; ++i) {
            machine_.own_table(options.loan->pages[i].value());
        }
        unsigned& lent = platform_.lent_on[machine_.cpu()];
        if (options.loan != nullptr) ++lent;
        auto r = Base::protect(range, change, options);
        if (options.loan != nullptr) --lent;
        for (unsigned i = 0; options.loan != nullptr && i < options.loan->count; ++i) {
            machine_.disown_table(options.loan->pages[i].value());
        }
        machine_.end_change(id, r ? Machine::Outcome::done : Machine::Outcome::failed);
        return r;
    }

private:
    PooledPlatform& platform_;
    Machine& machine_;
};

/// A rig's map as a pool of pages uses it: the machine is told of the pool's own changes, and of the tables lent to
/// them.
template <class RigType>
class PoolMap {
public:
    using G = typename RigType::G;
    using PlatformType = typename RigType::Map::PlatformType;

    explicit PoolMap(RigType& rig) : rig_{rig} {}

    Result<void> protect(PhysRange range, Change change, ChangeOptions options = {}) {
        Machine& machine = rig_.machine();
        const unsigned id = machine.begin_change(range, effect_of(change), change.names_memory_type(),
                                                 "protect for the pool", words_of(change));
        const unsigned lent = options.loan != nullptr ? options.loan->count : 0;
        for (unsigned i = 0; i < lent; ++i) machine.own_table(options.loan->pages[i].value());
        auto result = rig_.map().protect(range, change, options);
        const unsigned left = options.loan != nullptr ? options.loan->count : 0;
        for (unsigned i = 0; i < left; ++i) machine.disown_table(options.loan->pages[i].value());
        tables_lent += lent - left;
        machine.end_change(id, result ? Machine::Outcome::done : Machine::Outcome::failed);
        return result;
    }
    Result<CollapseProgress> collapse(PhysRange range) { return rig_.collapse(range); }

    std::uint64_t tables_lent = 0; ///< and used by the change

private:
    RigType& rig_;
};

/// Protects the tables of a rig that has just been built: early tables are those that the build took from the top of
/// `memory`; the pool's chunks come from what is below them.
template <class F>
class TableProtection {
public:
    using RigType = Rig<F, PooledPlatform>;
    using G = typename F::geometry;
    using Pool = ChunkPool<PoolMap<RigType>, RangeAllocator>;

    TableProtection(RigType& rig, PhysRange memory, unsigned table_key)
        : rig_{rig}, early_{early_part(rig, memory)}, map_{rig}, memory_{phys_range(
                                                                     align_up(memory.start.value(), Pool::frame_bytes),
                                                                     early_.start.value())},
          frames_(memory.size / Pool::frame_bytes * 2 + 8),
          magazines_(rig.config().cpus), pool_{map_,
                                               rig.platform(),
                                               memory_,
                                               table_pool_config<Pool>(table_key),
                                               Span<ChunkFrame>{frames_.data(), frames_.size()},
                                               Span<Magazine<Machine::Lock>>{magazines_.data(), magazines_.size()}} {
        while (ready_ && pool_.available() < G::worst_tables + Pool::chunk_tables) ready_ = pool_.refill();
        if (ready_) ready_ = pool_.become_table_source();
        if (!ready_) return;
        Machine& machine = rig.machine();
        rig.platform().source = {
            [this, &machine](PhysAddr& pa, bool atomic) { return pool_.take_table(pa, atomic, machine.cpu()); },
            [this, &machine](PhysAddr pa) {
                if (!pool_.give(pa, machine.cpu()))
                    machine.report("P4 all or nothing", "a table that nobody owns", pa.value());
            }};
        std::set<std::uint64_t> in_use{rig.map().root().value()};
        machine.for_each_word([&](std::uint64_t, unsigned, std::uint64_t word) {
            const Descriptor d = Descriptor::from_bits(word); // a table's descriptor looks the same at every level
            if (F::is_table(G::root_level, d)) in_use.insert(F::table_address(d).value());
        });
        ready_ = pool_.adopt(early_, [&](PhysAddr pa) { return in_use.contains(pa.value()); });
        if (ready_) machine.enforce_keys();
    }

    [[nodiscard]] const Result<void>& ready() const { return ready_; }
    [[nodiscard]] Pool& pool() { return pool_; }

private:
    /// With a few pages for the tables of the first chunks.
    static PhysRange early_part(RigType& rig, PhysRange memory) {
        const std::uint64_t pages = rig.machine().tables_in_use() + 4 * G::worst_tables;
        const std::uint64_t wanted = memory.end().value() - pages * G::page_size;
        return phys_range(align_down(wanted, Pool::frame_bytes), memory.end().value());
    }

    RigType& rig_;
    PhysRange early_;
    PoolMap<RigType> map_;
    RangeAllocator memory_;
    std::vector<ChunkFrame> frames_;
    std::vector<Magazine<Machine::Lock>> magazines_;
    Pool pool_;
    Result<void> ready_;
};

struct ProtectedRigConfig {
    PhysRange ram;
    PhysRange early;  ///< part of RAM: tables before keys work
    PhysRange chunks; ///< part of RAM: the pool's chunks
    unsigned cpus = 2;
    unsigned table_key = 1;
    CollapsePolicy policy = CollapsePolicy::on_restore;
    std::size_t frames = 64;
    std::uint64_t offset = 0xffff000000000000;
    bool tolerates_resize = true;                       ///< of the boot CPU
    std::uint64_t largest_chunk = RangeAllocator::none; ///< that there is memory for, to begin with
    Omission omission = Omission::nothing;
    std::function<void(Machine&)> before_build = {}; ///< to record, for instance
    PhysRange split_early = {};                      ///< changed and left so while tables are still early ones
};

template <class F>
class ProtectedRig {
public:
    using G = typename F::geometry;
    using Map = ObservedMap<F>;
    using Pool = ChunkPool<Map, RangeAllocator>;

    /// Builds from early tables, admits all CPUs, fills the pool, protects every table and puts keys in force. Look at
    /// `ready`.
    explicit ProtectedRig(const ProtectedRigConfig& config)
        : config_{config}, machine_{machine_config(config)}, platform_{machine_},
          allocator_{config.chunks}, early_{early_pages_, {&config_.early, 1}, G::page_size}, frames_(config.frames),
          magazines_(config.cpus) {
        machine_.reference().map(config.ram, access_of(Attributes{}));
        platform_.omission = config.omission;
        allocator_.largest = config.largest_chunk;
        allocator_.on_call = [this] {
            if (machine_.holds_a_lock()) machine_.report("lock protocol", "memory is asked for with a lock held", 0);
        };
        platform_.source.take = [this](PhysAddr& pa, bool) { return early_.take(pa); };
        platform_.source.give = [this](PhysAddr pa) { early_.give(pa); };
        const std::uint64_t first = config.ram.start.value() + config.offset, last = first + config.ram.size - 1;
        regions_.resize((last >> G::region_shift) - (first >> G::region_shift) + 1);
        map_ = std::make_unique<Map>(
            platform_, Config{.offset = config.offset, .policy = config.policy, .table_key = config.table_key},
            Span<Region<Machine::Lock>>{regions_.data(), regions_.size()});
        pool_ = std::make_unique<Pool>(*map_, platform_, allocator_, table_pool_config<Pool>(config.table_key),
                                       Span<ChunkFrame>{frames_.data(), frames_.size()},
                                       Span<Magazine<Machine::Lock>>{magazines_.data(), magazines_.size()});
        if (config.before_build) config.before_build(machine_);
        const RamRange ram{config.ram, {}};
        if (ready_ = map_->build({{&ram, 1}, {}}, Mapping::largest); !ready_) return;
        for (unsigned cpu = 0; cpu < config.cpus; ++cpu) machine_.enter(cpu, map_->root().value());
        if (ready_ = map_->admit({.tolerates_live_resize = config.tolerates_resize}); !ready_) return;
        if (!config.split_early.empty()) ready_ = map_->protect(config.split_early, Change{}.writable(false));
        if (!ready_) return;
        start();
    }

    [[nodiscard]] const Result<void>& ready() const { return ready_; }
    [[nodiscard]] Machine& machine() { return machine_; }
    [[nodiscard]] Map& map() { return *map_; }
    [[nodiscard]] PooledPlatform& map_platform() { return platform_; }
    [[nodiscard]] Pool& pool() { return *pool_; }
    [[nodiscard]] RangeAllocator& allocator() { return allocator_; }
    [[nodiscard]] EarlyTableSource<UnwatchedPages>& early() { return early_; }

    Result<void> protect(PhysRange range, Change change, ChangeOptions options = {}) {
        return map_->protect(range, change, options);
    }
    /// A page for somebody else's tables, as a kernel's own page tables would take it.
    Result<PhysAddr> take(PageUse use) { return pool_->take(use, machine_.cpu()); }
    bool give(PhysAddr page) { return pool_->give(page, machine_.cpu()); }
    Result<void> refill() { return pool_->refill(); }
    std::uint64_t shrink(std::uint64_t pages) { return pool_->shrink(pages); }
    /// Pages of RAM that belonged to nobody become the pool's.
    template <class InUse>
    Result<void> adopt(PhysRange range, InUse in_use) {
        auto r = pool_->adopt(range, in_use);
        if (r) adopted_ += range.size;
        return r;
    }

    /// What must hold between operations: every page as the reference says, every table page with the key and accounted
    /// for, the reserve complete, no page lost. `outside`: pages that the caller took and still holds.
    [[nodiscard]] std::string check(std::uint64_t outside) {
        machine_.verify(map_->span());
        const PoolStatistics s = pool_->statistics();
        const std::uint64_t tables = machine_.tables_in_use();
        if (s.owned != s.free + tables + outside) {
            return fmt::format("{} pages are owned, but {} are free, {} are tables and {} are outside", s.owned, s.free,
                               tables, outside);
        }
        if (pool_->available() < Pool::chunk_tables)
            return fmt::format("{} free pages don't suffice for a refill", pool_->available());
        if (machine_.may_write_tables()) return "a write section was left open";
        const std::uint64_t adopted = adopted_ >> G::page_shift;
        const std::uint64_t chunked = allocator_.taken() >> G::page_shift;
        if (s.owned != adopted + chunked)
            return fmt::format("{} pages are owned of {} that were handed over", s.owned, adopted + chunked);
        std::string text;
        for (const Violation& v : machine_.violations())
            text += fmt::format("{} at {:#x}: {}\n", v.promise, v.pa, v.what);
        return text;
    }

private:
    static MachineConfig machine_config(const ProtectedRigConfig& config) {
        MachineConfig m;
        m.regime = regime_of<F>();
        m.offset = config.offset;
        m.cpus = config.cpus;
        m.table_key = config.table_key;
        return m;
    }

    void start() {
        // The pool's first chunks, their tables still early ones.
        while (ready_ && pool_->available() < Pool::G::worst_tables + Pool::chunk_tables) ready_ = refill();
        if (ready_) ready_ = pool_->become_table_source();
        if (!ready_) return;
        platform_.source.take = [this](PhysAddr& pa, bool atomic) {
            return pool_->take_table(pa, atomic, machine_.cpu());
        };
        platform_.source.give = [this](PhysAddr pa) {
            if (!pool_->give(pa, machine_.cpu()))
                machine_.report("P4 all or nothing", "a table that nobody owns", pa.value());
        };
        ready_ = adopt(config_.early, [this](PhysAddr pa) { return early_.in_use(pa); });
        early_.retire();
        if (ready_) machine_.enforce_keys();
    }

    ProtectedRigConfig config_;
    Machine machine_;
    PooledPlatform platform_;
    RangeAllocator allocator_;
    UnwatchedPages early_pages_{machine_};
    EarlyTableSource<UnwatchedPages> early_;
    std::vector<ChunkFrame> frames_;
    std::vector<Magazine<Machine::Lock>> magazines_;
    std::vector<Region<Machine::Lock>> regions_;
    std::unique_ptr<Map> map_;
    std::unique_ptr<Pool> pool_;
    std::uint64_t adopted_ = 0; ///< bytes
    Result<void> ready_;
};

} // namespace directmap::machine

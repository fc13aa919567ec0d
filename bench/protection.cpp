// What protected page tables cost: instructions of a change (between callgrind's client requests), stores to the key
// register, and what a long life leaves of the map's large leaves. Run by bench/protection.
#include <valgrind/callgrind.h>

#include <deque>
#include <set>
#include <string>
#include <string_view>

#include "directmap/chunk_pool.hpp"
#include "scenarios.hpp"

using namespace directmap;
using namespace directmap::bench;

namespace {

constexpr std::uint64_t MiB = std::uint64_t{1} << 20;
constexpr unsigned table_key = 1;

/// Where tables come from and go to; the map asks through this in every variant.
class TableSource {
public:
    virtual ~TableSource() = default;
    virtual bool take(PhysAddr& pa, bool atomic) = 0;
    virtual void give(PhysAddr pa) = 0;
};

/// Tables are memory of the machine itself, as they are in a kernel; what isn't touched costs nothing.
class MachinePlatform : public DefaultTableMemory<> {
public:
    using Lock = SpinLock;

    /// Memory for physical addresses in `backed`.
    explicit MachinePlatform(PhysRange backed) : bytes_{backed.size} {
        memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        require(memory_ != MAP_FAILED, "no address space for the modelled machine");
        virtual_minus_physical_ = reinterpret_cast<std::uintptr_t>(memory_) - backed.start.value();
    }
    MachinePlatform(const MachinePlatform&) = delete;
    MachinePlatform& operator=(const MachinePlatform&) = delete;
    ~MachinePlatform() { munmap(memory_, bytes_); }

    Table table(PhysAddr pa) { return reinterpret_cast<std::uint64_t*>(pa.value() + virtual_minus_physical_); }
    void barrier_publish() { ++barriers; }
    void barrier_complete() { ++barriers; }
    void barrier_context() { ++context_barriers; }
    [[nodiscard]] bool range_invalidation() const { return true; }
    void invalidate(VirtAddr, InvalidationScope) { ++invalidations; }
    void invalidate_range(VirtAddr, std::uint64_t, InvalidationScope) { ++invalidations; }
    void invalidate_all() { ++invalidations; }
    void acquire(Lock& lock) { lock.acquire(); }
    void release(Lock& lock) { lock.release(); }
    bool take_table(PhysAddr& pa, bool atomic) { return source->take(pa, atomic); }
    void give_table(PhysAddr pa) { source->give(pa); }
    [[nodiscard]] bool tables_mapped_here() const { return true; }
    /// The register is a variable here: a read, a test, a store, as arm64/key_register.hpp has them. Its barrier is
    /// counted.
    bool begin_table_writes() {
        if (!sections) return true;
        const bool was_open = (key_register & 0x40) != 0;
        if (!was_open) write_key(key_register | 0x40);
        return was_open;
    }
    void end_table_writes(bool was_open) {
        if (!was_open) write_key(key_register & ~std::uint64_t{0x40});
    }
    void walker_enter() {}
    void walker_exit() {}
    std::uint64_t grace_stamp() { return 0; }
    bool grace_elapsed(std::uint64_t) { return true; }
    std::uint64_t now() { return 0; }
    void relax() {}

    TableSource* source = nullptr;
    bool sections = false;
    std::uint64_t key_register = 0x17;
    std::uint64_t key_writes = 0, barriers = 0, context_barriers = 0, invalidations = 0;

private:
    void write_key(std::uint64_t value) {
        key_register = value;
        ++key_writes;
    }

    std::size_t bytes_;
    void* memory_ = nullptr;
    std::uint64_t virtual_minus_physical_ = 0;
};

using BenchMap = DirectMap<arm64::Format4K48, MachinePlatform>;

/// Hands a range out from its beginning; what came back first.
class PageList final : public TableSource {
public:
    explicit PageList(PhysRange range) : range_{range} {}
    bool take(PhysAddr& pa, bool) override {
        if (!free_.empty()) {
            pa = free_.back();
            free_.pop_back();
            return true;
        }
        if (used_ == range_.size) return false;
        pa = range_.start + used_;
        used_ += page_size;
        return true;
    }
    void give(PhysAddr pa) override { free_.push_back(pa); }

private:
    PhysRange range_;
    std::uint64_t used_ = 0;
    std::vector<PhysAddr> free_;
};

/// Chunks in a row.
class ChunkList {
public:
    explicit ChunkList(PhysRange range) : range_{range} {}
    bool take_chunk(PhysAddr& pa, std::uint64_t bytes) {
        if (!free_.empty() && bytes == 2 * MiB) {
            pa = free_.back();
            free_.pop_back();
            return true;
        }
        if (range_.size - used_ < bytes) return false;
        pa = range_.start + used_;
        used_ += bytes;
        return true;
    }
    void give_chunk(PhysAddr pa, std::uint64_t) { free_.push_back(pa); }

private:
    PhysRange range_;
    std::uint64_t used_ = 0;
    std::vector<PhysAddr> free_;
};

enum class Protection : std::uint8_t { none, chunks, pages_in_a_row, scattered_pages };

/// A machine whose last GiB of RAM is where early tables, chunks and lone pages come from, unless they are scattered.
class ProtectedBed final : public TableSource {
public:
    ProtectedBed(std::uint64_t ram_bytes, Protection protection, CollapsePolicy policy, Mapping mapping,
                 bool back_everything)
        : ram_{phys_range(ram_base, ram_base + ram_bytes), {}}, tables_{ram_.range.end() + (std::uint64_t{0} - GiB),
                                                                        GiB},
          platform{back_everything ? ram_.range : tables_}, early_{{tables_.start, 64 * MiB}},
          lone_{{tables_.start + 64 * MiB, 448 * MiB}}, chunks_{{tables_.start + 512 * MiB, 512 * MiB}},
          protection_{protection}, regions_(ram_bytes / GiB), frames_(512), magazines_(1) {
        platform.source = &early_;
        map.emplace(
            platform,
            Config{.offset = map_offset, .policy = policy, .table_key = protection == Protection::none ? 0 : table_key},
            Span<BenchMap::RegionState>{regions_.data(), regions_.size()});
        must(map->build({{&ram_, 1}, {}}, mapping));
        must(map->admit({.tolerates_live_resize = true}));
        if (protection == Protection::none) return;
        platform.sections = true;
        if (protection == Protection::chunks) {
            pool.emplace(*map, platform, chunks_, table_pool_config<Pool>(table_key),
                         Span<ChunkFrame>{frames_.data(), frames_.size()},
                         Span<Magazine<SpinLock>>{magazines_.data(), magazines_.size()});
            must(pool->refill());
            must(pool->become_table_source());
        }
        platform.source = this;
    }

    bool take(PhysAddr& pa, bool atomic) override {
        return protection_ == Protection::chunks ? pool->take_table(pa, atomic, 0) : take_lone(pa);
    }
    void give(PhysAddr pa) override {
        if (protection_ == Protection::chunks) {
            if (!pool->give(pa, 0)) early_.give(pa);
        } else {
            given_.push_back(pa);
        }
    }

    void protect(PhysRange range, Change change) {
        must(map->protect(range, change));
        settle();
    }

    [[nodiscard]] std::uint64_t user_pages() const { return (ram_.range.size - GiB) / page_size; }
    [[nodiscard]] bool is_lone_table(PhysAddr pa) const { return taken_.contains(pa.value()); }
    [[nodiscard]] std::uint64_t settled() const { return settled_; }

private:
    using Pool = ChunkPool<BenchMap, ChunkList>;

    /// Apart from `take`, so that the pool's way isn't weighed with what this one saves and restores.
    [[gnu::noinline]] bool take_lone(PhysAddr& pa) {
        if (protection_ == Protection::pages_in_a_row) {
            if (!lone_.take(pa, false)) return false;
        } else {
            do pa = PhysAddr{ram_base + random_() % ((ram_.range.size - GiB) / page_size) * page_size};
            while (!taken_.insert(pa.value()).second);
        }
        unprotected_.push_back(pa);
        return true;
    }
    /// Page by page: each new table gets its key, which may take tables, which get their keys, ... And each that came
    /// back loses it.
    void settle() {
        const ChangeOptions mine{.owns_tables = true};
        while (!unprotected_.empty() || !given_.empty()) {
            auto& queue = unprotected_.empty() ? given_ : unprotected_;
            const PhysAddr pa = queue.front();
            const bool protects = !unprotected_.empty();
            queue.pop_front();
            must(map->protect({pa, page_size}, Change{}.key(protects ? table_key : 0), mine));
            ++settled_;
            if (protects) continue;
            if (protection_ == Protection::pages_in_a_row) lone_.give(pa);
            taken_.erase(pa.value());
        }
    }

    RamRange ram_;
    PhysRange tables_;

public:
    MachinePlatform platform;

private:
    PageList early_, lone_;
    ChunkList chunks_;
    Protection protection_;
    std::vector<BenchMap::RegionState> regions_;
    std::vector<ChunkFrame> frames_;
    std::vector<Magazine<SpinLock>> magazines_;
    std::mt19937_64 random_{3};
    std::set<std::uint64_t> taken_;
    std::deque<PhysAddr> unprotected_, given_;
    std::uint64_t settled_ = 0;

public:
    std::optional<BenchMap> map;
    std::optional<Pool> pool;
};

// ---- instructions ---------------------------------------------------------------------------------------------------

template <class Operation>
void count(const std::string& name, Operation operation) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
    operation();
    CALLGRIND_DUMP_STATS_AT(name.c_str());
    CALLGRIND_STOP_INSTRUMENTATION;
}

void count_instructions(Protection protection, const std::string& name) {
    {
        ProtectedBed bed{64 * GiB, protection, CollapsePolicy::on_request, Mapping::largest, false};
        std::vector<std::uint64_t> pages = choose_pages(63 * GiB, random_pages);
        count(name + "_split", [&] {
            for (const std::uint64_t page : pages)
                must(bed.map->protect({PhysAddr{ram_base + page * page_size}, page_size}, Change{}.writable(false)));
        });
    }
    ProtectedBed bed{3 * GiB, protection, CollapsePolicy::on_request, Mapping::largest, false};
    const PhysRange one{PhysAddr{ram_base + 12345 * page_size}, page_size};
    const PhysRange range{PhysAddr{ram_base}, 512 * page_size};
    must(bed.map->protect(one, Change{}.writable(false)));
    must(bed.map->prepare(range));
    count(name + "_hot", [&] {
        for (unsigned i = 0; i < 1000; ++i) must(bed.map->protect(one, Change{}.writable((i & 1) == 0)));
    });
    count(name + "_batch", [&] {
        for (unsigned i = 0; i < 100; ++i) must(bed.map->protect(range, Change{}.writable((i & 1) != 0)));
    });
}

/// Stores to the key register and barriers of one operation.
struct Costs {
    std::uint64_t key_writes, barriers, context_barriers, invalidations;
};
template <class Operation>
Costs costs_of(ProtectedBed& bed, Operation operation) {
    const MachinePlatform& p = bed.platform;
    const Costs before{p.key_writes, p.barriers, p.context_barriers, p.invalidations};
    operation();
    return {p.key_writes - before.key_writes, p.barriers - before.barriers,
            p.context_barriers - before.context_barriers, p.invalidations - before.invalidations};
}
void print_barriers(Protection protection, const char* name, const char* end) {
    ProtectedBed bed{3 * GiB, protection, CollapsePolicy::on_request, Mapping::largest, false};
    const PhysRange one{PhysAddr{ram_base + 12345 * page_size}, page_size};
    const PhysRange range{PhysAddr{ram_base}, 512 * page_size};
    const auto print = [](const char* what, Costs c, const char* comma) {
        std::printf("    \"%s\": {\"key_register_writes\": %llu, \"barriers\": %llu, \"context_barriers\": %llu, "
                    "\"invalidations\": %llu}%s\n",
                    what, static_cast<unsigned long long>(c.key_writes), static_cast<unsigned long long>(c.barriers),
                    static_cast<unsigned long long>(c.context_barriers),
                    static_cast<unsigned long long>(c.invalidations), comma);
    };
    std::printf("  \"%s\": {\n", name);
    const auto set = [&](PhysRange where, bool on) { must(bed.map->protect(where, Change{}.writable(on))); };
    print("split", costs_of(bed, [&] { set(one, false); }), ",");
    print("no_split", costs_of(bed, [&] { set(one, true); }), ",");
    must(bed.map->prepare(range));
    print("batch", costs_of(bed, [&] { set(range, false); }), "");
    std::printf("  }%s\n", end);
}

// ---- layout ---------------------------------------------------------------------------------------------------------

constexpr std::uint64_t big_ram = 256 * GiB;
constexpr unsigned live_changes = 64;

/// What a workload leaves of the map.
void print_layout(const char* name, ProtectedBed& bed, const char* end) {
    const Statistics s = bed.map->statistics();
    using G = BenchMap::G;
    std::uint64_t count = 0, large = 0;
    for (unsigned i = 0; i < G::leaf_sizes.count; ++i) {
        count += s.leaves[i];
        if (G::leaf_sizes.of[i].bytes() >= 2 * MiB) large += s.leaves[i] << G::leaf_sizes.of[i].shift;
    }
    std::uint64_t tables = 2; // the root and one for each 512 GiB: RAM begins at 2 GiB
    for (std::uint64_t pa = ram_base; pa < ram_base + big_ram; pa += GiB) {
        std::uint64_t in_region = 0;
        bed.map->walk({PhysAddr{pa}, GiB}, [&](const Leaf& leaf) { // tables by the leaves that are in them
            if (leaf.level >= 2 && in_region++ == 0) ++tables;
            if (leaf.level == 3 && leaf.range.start.value() % (2 * MiB) == 0) ++tables;
            return true;
        });
    }
    const std::uint64_t idle = bed.pool ? bed.pool->statistics().free * page_size : 0;
    std::printf("    \"%s\": {\"table_bytes\": %llu, \"idle_pool_bytes\": %llu, \"leaves\": %llu, "
                "\"share_in_2M_or_larger\": %.6f, \"key_changes\": %llu}%s\n",
                name, static_cast<unsigned long long>(tables * page_size), static_cast<unsigned long long>(idle),
                static_cast<unsigned long long>(count), static_cast<double>(large) / static_cast<double>(s.bytes),
                static_cast<unsigned long long>(bed.pool ? bed.pool->statistics().refills : bed.settled()), end);
    std::fflush(stdout);
}

void live(ProtectedBed& bed, bool undo) {
    std::mt19937_64 random{1};
    std::deque<PhysRange> changed;
    for (unsigned i = 0; i < random_pages; ++i) {
        PhysAddr pa{ram_base + random() % bed.user_pages() * page_size};
        while (bed.is_lone_table(pa)) pa = pa + page_size; // not a user's
        changed.push_back({pa, page_size});
        bed.protect(changed.back(), Change{}.writable(false));
        if (!undo || changed.size() <= live_changes) continue;
        bed.protect(changed.front(), Change{}.writable(true));
        changed.pop_front();
    }
}

void print_layouts(bool undo, const char* name, const char* end) {
    std::printf("  \"%s\": {\n", name);
    const struct {
        Protection protection;
        const char* name;
    } variants[] = {{Protection::none, "unprotected"},
                    {Protection::chunks, "chunks"},
                    {Protection::pages_in_a_row, "pages_in_a_row"},
                    {Protection::scattered_pages, "scattered_pages"}};
    for (const auto& variant : variants) {
        // Where nothing is undone nothing heals but the tables' own pages: once, at the end.
        const CollapsePolicy policy = undo ? CollapsePolicy::on_restore : CollapsePolicy::on_request;
        ProtectedBed bed{big_ram, variant.protection, policy, Mapping::largest, true};
        live(bed, undo);
        if (!undo) must(bed.map->collapse(bed.map->span()));
        print_layout(variant.name, bed, ",");
    }
    const RamRange ram{phys_range(ram_base, ram_base + big_ram), {}};
    const Measure pages = measure<BenchMap::G>({{&ram, 1}, {}}, map_offset, Mapping::pages);
    std::printf("    \"pages_only\": {\"table_bytes\": %llu, \"idle_pool_bytes\": 0, \"leaves\": %llu, "
                "\"share_in_2M_or_larger\": 0, \"key_changes\": 0}\n  }%s\n",
                static_cast<unsigned long long>(pages.tables * page_size),
                static_cast<unsigned long long>(big_ram / page_size), end);
}

} // namespace

int main(int argc, char** argv) {
    if (argc == 2 && std::string_view{argv[1]} == "--layout") {
        std::printf("{\n");
        print_layouts(true, "undone", ",");
        print_layouts(false, "in_force", ",");
        print_barriers(Protection::none, "unprotected", ",");
        print_barriers(Protection::chunks, "protected", "");
        std::printf("}\n");
        return 0;
    }
    count("empty", [] {});
    count_instructions(Protection::none, "unprotected");
    count_instructions(Protection::chunks, "protected");
    return 0;
}

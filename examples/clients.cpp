// The users of a direct map, each in about ten lines, around a platform that a host can run. The pages of docs/clients/
// quote the parts between the marks; a test compares them.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "directmap/area.hpp"
#include "directmap/directmap.hpp"
#include "directmap_clients/executable_cache.hpp"
#include "directmap_clients/guard_pages.hpp"
#include "directmap_clients/map_copy.hpp"
#include "directmap_clients/module_area.hpp"
#include "directmap_clients/secret_memory.hpp"
#include "directmap_clients/shadow_stacks.hpp"
#include "directmap_clients/shared_buffers.hpp"

namespace {

using directmap::AliasRun;
using directmap::Area;
using directmap::Attributes;
using directmap::Change;
using directmap::ChunkFrame;
using directmap::ChunkPool;
using directmap::DirectMap;
using directmap::Magazine;
using directmap::Mapping;
using directmap::phys_range;
using directmap::PhysAddr;
using directmap::PhysRange;
using directmap::RamRange;
using directmap::Region;
using directmap::VirtAddr;
using Format = directmap::arm64::Format4K48;
namespace clients = directmap::clients;

/// A kernel on host memory, as in embedding.cpp: the last 16 MiB of an imaginary RAM hold the tables, nobody
/// translates.
class MyKernel : public directmap::DefaultTableMemory<> {
public:
    using Table = std::uint64_t*;
    struct Lock {};

    Table table(PhysAddr pa) { return memory_.data() + (pa.value() - first_) / sizeof(std::uint64_t); }
    void barrier_publish() {}
    void barrier_complete() {}
    void barrier_context() {}
    [[nodiscard]] bool range_invalidation() const { return true; }
    void invalidate(VirtAddr, directmap::InvalidationScope) {}
    void invalidate_range(VirtAddr, std::uint64_t, directmap::InvalidationScope) {}
    void invalidate_all() {}
    void acquire(Lock&) {}
    void release(Lock&) {}
    bool take_table(PhysAddr& pa, bool) {
        if (!free_.empty()) {
            pa = free_.back();
            free_.pop_back();
            return true;
        }
        if (next_ == first_) return false;
        pa = PhysAddr{next_ -= 4096};
        return true;
    }
    void give_table(PhysAddr pa) { free_.push_back(pa); }
    [[nodiscard]] bool tables_mapped_here() const { return true; }
    void begin_table_writes() {}
    void end_table_writes() {}
    void walker_enter() {}
    void walker_exit() {}
    std::uint64_t grace_stamp() { return 0; }
    bool grace_elapsed(std::uint64_t) { return true; }
    std::uint64_t now() { return 0; }
    void relax() {}

private:
    std::uint64_t first_ = 0xff000000, next_ = 0x100000000;
    std::vector<std::uint64_t> memory_ = std::vector<std::uint64_t>((16 << 20) / sizeof(std::uint64_t));
    std::vector<PhysAddr> free_;
};

/// A page allocator that only ever hands out more.
struct PageAllocator {
    bool take_chunk(PhysAddr& pa, std::uint64_t bytes) {
        next = directmap::align_up(next, bytes);
        pa = PhysAddr{next};
        next += bytes;
        return next <= 0xf0000000;
    }
    void give_chunk(PhysAddr, std::uint64_t) {}
    std::uint64_t next = 0x80000000;
};

/// What memory holds: nothing, here.
struct Memory {
    void zero(PhysRange) {}
    void write(VirtAddr, const void*, std::size_t) {}
    void fill(VirtAddr, std::uint32_t, std::size_t) {}
};

struct Host {
    bool share(PhysRange) { return true; } // the realm's monitor, or the hypervisor
    bool unshare(PhysRange) { return true; }
};

using Map = DirectMap<Format, MyKernel>;
using Pool = ChunkPool<Map, PageAllocator>;
using ModuleSpace = Area<Format, Map>;

/// Everything that the examples stand on.
struct Machine {
    MyKernel kernel;
    Region<MyKernel::Lock> regions[4];
    Map map{kernel, {.offset = 0xffff000000000000}, regions};
    PageAllocator pages;
    Memory memory;
    Host host;

    bool boot() {
        const RamRange ram[] = {{phys_range(0x80000000, 0x100000000), {}}};
        return map.build({ram, {}}, Mapping::largest).ok() && map.admit({.tolerates_live_resize = true}).ok();
    }
};

constexpr std::size_t cpu = 0;

bool guard_pages(Machine& m) {
    auto& map = m.map;
    auto& pages = m.pages;
    // [guard-pages]
    static PhysRange storage[4]; // one for each pool
    clients::GuardPages guards{map, pages, storage};

    auto pool = guards.prepare(2 << 20); // 512 pages; may sleep, and splits what it must, once
    if (!pool) return false;
    const PhysAddr page = pool.value().start + 7 * 4096;
    if (!guards.guard(page)) return false;   // any context: every access faults from here on
    if (!guards.unguard(page)) return false; // and may be made again
    guards.release_all();                    // all valid, unpinned, and one large leaf again
    // [guard-pages]
    return guards.statistics().flips == 2;
}

bool secret_memory(Machine& m) {
    auto& map = m.map;
    auto& kernel = m.kernel;
    auto& pages = m.pages;
    auto& memory = m.memory;
    // [secret-memory]
    using Secrets = clients::SecretMemory<Map, Pool, Memory>;
    static ChunkFrame frames[64];            // one for each 2 MiB that the pool may hold a part of
    static Magazine<MyKernel::Lock> cpus[8]; // one for each CPU
    Pool pool{map, kernel, pages, Secrets::pool_config(), frames, cpus};
    Secrets secrets{map, pool, memory};

    auto page = secrets.take(cpu); // unmapped, and flushed on every CPU
    if (!page) return false;
    secrets.give(page.value(), cpu); // zeroed; still unmapped
    secrets.shrink(~0ull);           // the chunk is mapped again, and heals
    // [secret-memory]
    return pool.statistics().owned == 0;
}

bool shared_buffers(Machine& m) {
    auto& map = m.map;
    auto& kernel = m.kernel;
    auto& pages = m.pages;
    auto& host = m.host;
    // [shared-buffers]
    static ChunkFrame frames[64];
    static Magazine<MyKernel::Lock> cpus[8];
    static PhysRange lost[16]; // as many changes may fail half-way before sharing is refused
    clients::SharedBuffers shared{map, kernel, pages, host, {frames, cpus, lost}};

    auto page = shared.take(cpu); // out of a cluster of shared pages
    auto buffer = shared.take_buffer(1 << 20);
    if (!page || !buffer) return false; // outside of a realm: unsupported
    shared.give(page.value(), cpu);
    if (!shared.give_buffer(buffer.value())) return false;
    shared.shrink(~0ull); // clusters are private again
    // [shared-buffers]
    return shared.statistics().shared == 0;
}

bool shadow_stacks(Machine& m) {
    auto& map = m.map;
    auto& kernel = m.kernel;
    auto& pages = m.pages;
    auto& memory = m.memory;
    // [shadow-stacks]
    using Stacks = clients::ShadowStacks<Pool, Memory>;
    static ChunkFrame frames[64];
    static Magazine<MyKernel::Lock> cpus[8];
    Pool pool{map, kernel, pages, Stacks::pool_config(2), frames, cpus}; // protection key 2
    Stacks stacks{pool, memory};

    auto stack = stacks.create(cpu); // zeroed, with its key: the map isn't touched
    if (!stack) return false;
    stacks.destroy(stack.value(), cpu); // the page keeps its key for the next thread
    stacks.shrink(~0ull);
    // [shadow-stacks]
    return pool.statistics().owned == 0;
}

bool area(Machine& m) {
    auto& map = m.map;
    auto& kernel = m.kernel;
    // [area]
    static Region<MyKernel::Lock> regions[1]; // one for each GiB of the area
    static std::uint64_t bits[(1 << 30) / 4096 / 64];
    static AliasRun aliases[1024]; // one for each piece of memory that is mapped
    Area<Format, Map> area{map, kernel, {VirtAddr{0xffff800000000000}, 1 << 30}, {regions, bits, aliases}};
    if (!area.open()) return false; // once, at boot

    const PhysRange scattered[] = {{PhysAddr{0xc0005000}, 4096}, {PhysAddr{0xc8000000}, 2 << 20}};
    auto range = area.map(scattered, Attributes{}); // side by side, the block as a block
    if (!range) return false;
    if (!area.protect(range.value(), Change{}.executable(true))) return false; // read-only everywhere first
    area.unmap(range.value());                                                 // needs no memory, can't fail
    // [area]
    return area.statistics().mappings == 0;
}

bool module_area(Machine& m) {
    auto& map = m.map;
    auto& kernel = m.kernel;
    auto& pages = m.pages;
    static Region<MyKernel::Lock> regions[1];
    static std::uint64_t bits[(1 << 30) / 4096 / 64];
    static AliasRun aliases[1024];
    ModuleSpace space{map, kernel, {VirtAddr{0xffff900000000000}, 1 << 30}, {regions, bits, aliases}};
    if (!space.open()) return false;
    // [module-area]
    using Modules = clients::ModuleArea<ModuleSpace, Pool, PageAllocator>;
    static ChunkFrame frames[64];
    static Magazine<MyKernel::Lock> cpus[8];
    static PhysRange scratch[4096];                                      // the pages of the largest module
    Pool text{map, kernel, pages, Modules::pool_config(), frames, cpus}; // read-only in the direct map
    Modules modules{space, kernel, text, pages, scratch};

    auto module = modules.load({40000, 9000, 5000}, cpu); // text, constants, data: writable, executable nowhere
    if (!module) return false;                            // … relocate through module.value().text.start …
    if (!modules.seal(module.value())) return false;      // read-only, flushed, then executable
    modules.unload(module.value(), cpu);                  // needs no memory, can't fail
    // [module-area]
    return modules.lost_pages() == 0;
}

bool executable_cache(Machine& m) {
    auto& map = m.map;
    auto& kernel = m.kernel;
    auto& pages = m.pages;
    auto& memory = m.memory;
    static Region<MyKernel::Lock> regions[2];
    static std::uint64_t bits[2][(1 << 30) / 4096 / 64];
    static AliasRun aliases[2][64];
    ModuleSpace space{map, kernel, {VirtAddr{0xffffa00000000000}, 1 << 30}, {{regions, 1}, bits[0], aliases[0]}};
    ModuleSpace windows{map, kernel, {VirtAddr{0xffffb00000000000}, 1 << 30}, {{regions + 1, 1}, bits[1], aliases[1]}};
    if (!space.open() || !windows.open()) return false;
    // [executable-cache]
    static clients::CodeChunk chunks[16];
    clients::ExecutableCache cache{map, kernel, space, windows, pages, memory, chunks};

    const std::uint32_t code[] = {0xd2800540, 0xd65f03c0}; // mov x0, #42; ret
    auto piece = cache.allocate(sizeof code);              // out of a 2 MiB leaf that is executable already
    if (!piece) return false;
    if (!cache.write(piece.value(), 0, code, sizeof code)) return false; // through a window that is gone again
    // … call piece.value().va …
    if (!cache.free(piece.value())) return false; // poisoned first
    cache.shrink(~0ull);
    // [executable-cache]
    return cache.statistics().bytes == 0;
}

bool map_copy(Machine& m) {
    auto& map = m.map;
    MyKernel other;
    static Region<MyKernel::Lock> regions[4];
    Map copy{other, {.offset = 0xffff000000000000}, regions};
    const RamRange ram[] = {{phys_range(0x80000000, 0x100000000), {}}};
    // [map-copy]
    if (!copy.build({ram, {}}, Mapping::largest)) return false; // nobody translates through it yet

    // Secret pages, guards, what is being shared: present, but invalid. The copy says what becomes of them.
    auto report = clients::copy_map(map, copy, clients::InvalidLeaves::leave_out); // or make_valid, to hibernate
    if (!report) return false;
    std::printf("%llu bytes are out of the copy's reach\n", static_cast<unsigned long long>(report.value().left_out));
    // [map-copy]
    return report.value().left_out == 0;
}

} // namespace

int main() {
    Machine machine;
    if (!machine.boot()) return EXIT_FAILURE;
    const struct {
        const char* name;
        bool (*run)(Machine&);
        bool expected;
    } examples[] = {{"guard pages", guard_pages, true},
                    {"secret memory", secret_memory, true},
                    {"shared buffers", shared_buffers, false}, // this machine is no realm
                    {"shadow stacks", shadow_stacks, true},
                    {"area", area, true},
                    {"module area", module_area, true},
                    {"executable cache", executable_cache, true},
                    {"map copy", map_copy, true}};
    for (const auto& example : examples) {
        const bool done = example.run(machine);
        std::printf("%s: %s\n", example.name, done ? "done" : "refused");
        if (done != example.expected) return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}

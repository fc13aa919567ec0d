// Users of the map on real translations: code that is executed out of the cache, secret pages that nobody can read,
// guards that flip while other CPUs run into them.
#include <new>

#include "cpu/barriers.hpp"
#include "cpu/cpu.hpp"
#include "cpu/expected_fault.hpp"
#include "directmap_clients/executable_cache.hpp"
#include "directmap_clients/guard_pages.hpp"
#include "directmap_clients/secret_memory.hpp"
#include "memory/kernel_map.hpp"
#include "scenarios/client_memory.hpp"
#include "scenarios/crew.hpp"
#include "scenarios/scenario.hpp"

namespace directmap::kernel {

namespace {

/// Chunks out of the arena, and what was given back on top.
class ArenaSource {
public:
    explicit ArenaSource(PhysRange arena) : arena_{arena}, next_{arena.start} {}
    bool take_chunk(PhysAddr& pa, std::uint64_t bytes) {
        const PhysAddr start{align_up(next_.value(), bytes)};
        if (start.value() < next_.value() || start + bytes > arena_.end()) return false;
        pa = start;
        next_ = start + bytes;
        ++out_;
        return true;
    }
    void give_chunk(PhysAddr, std::uint64_t) {
        if (--out_ == 0) next_ = arena_.start;
    }
    [[nodiscard]] unsigned out() const { return out_; }

private:
    PhysRange arena_;
    PhysAddr next_;
    unsigned out_ = 0;
};

using Pool = ChunkPool<KernelMap, ArenaSource>;
using Secrets = clients::SecretMemory<KernelMap, Pool, KernelMemory>;
using Cache = clients::ExecutableCache<KernelMap, ClientArea, ClientArea, ArenaSource, KernelMemory>;
using Guards = clients::GuardPages<KernelMap, ArenaSource>;

// Storage, as an embedder brings it.
constinit Region<SpinLock> area_regions[2] = {};
constinit std::uint64_t area_bits[2][area_bits_count] = {};
constinit AliasRun area_aliases[2][64] = {};
constinit ChunkFrame frames[64] = {};
constinit Magazine<SpinLock> magazines[max_cpus] = {};
constinit clients::CodeChunk chunks[2] = {};
constinit PhysRange guard_storage[1] = {};

void run_code(Stage& stage, Crew& crew, ClientArea& area, ClientArea& windows, ArenaSource& source,
              KernelMemory& contents) {
    Cache cache{stage.map, *memory.platform, area, windows, source, contents, chunks};
    for (std::uint32_t round = 1; round <= stage.rounds(4); ++round) {
        const std::uint32_t code[] = {0x52800000 | round << 5, 0xd65f03c0}; // mov w0, #round; ret
        const auto piece = cache.allocate(sizeof code);
        require(piece, "room in the executable cache");
        require(cache.write(piece.value(), 0, code, sizeof code), "writing code through a window");
        stage.tally.changes += 2;
        crew.everyone([&](unsigned) {
            const std::uint64_t at = piece.value().va.value();
            const ProbeResult called = probe_fetch(at);
            if (called.faulted || called.value != round) fail("code in the cache at {} doesn't run", Hex{at});
            stage.tally.count_access();
            must_fault(stage, probe_store(at, 0), FaultKind::permission, "a store to the executable alias");
            must_fault(stage, probe_store(stage.va(piece.value().pa), 0), FaultKind::permission,
                       "a store to code through the direct map");
            must_fault(stage, probe_fetch(stage.va(piece.value().pa)), FaultKind::permission,
                       "a fetch of code through the direct map");
        });
        if (round % 2 == 0) require(cache.free(piece.value()), "freeing code");
    }
    for (auto& chunk : chunks) { // what is left
        for (std::uint64_t i = 0; i < chunk.phys.size / clients::CodeChunk::granule; ++i) {
            if ((chunk.used[i / 64] >> (i % 64) & 1) == 0) continue;
            const std::uint64_t offset = i * clients::CodeChunk::granule;
            require(cache.free({chunk.va.start + offset, chunk.phys.start + offset, clients::CodeChunk::granule}),
                    "freeing code");
        }
    }
    cache.shrink(~std::uint64_t{0});
    if (source.out() != 0) fail("the executable cache kept a chunk");
}

void keep_secrets(Stage& stage, Crew& crew, ArenaSource& source, KernelMemory& contents) {
    Pool pool{stage.map, *memory.platform, source, Secrets::pool_config(), frames, magazines};
    Secrets secrets{stage.map, pool, contents};
    for (std::uint64_t round = 0; round < stage.rounds(8); ++round) {
        const auto page = secrets.take(0);
        require(page, "a secret page");
        stage.tally.count_change();
        const std::uint64_t at = stage.va(page.value());
        crew.everyone([&](unsigned) {
            must_fault(stage, probe_load(at), FaultKind::translation, "a load of a secret page");
            must_fault(stage, probe_store(at, 1), FaultKind::translation, "a store to a secret page");
        });
        if (!secrets.give(page.value(), 0)) fail("a secret page isn't the pool's");
        crew.everyone([&](unsigned) {
            must_fault(stage, probe_load(at), FaultKind::translation, "a load of a page that was secret");
        });
    }
    secrets.shrink(~std::uint64_t{0});
    if (source.out() != 0) fail("the pool of secret pages kept a chunk");
}

/// The boot CPU flips; the others load from the page all the time: each load works or faults, and once the flip has
/// returned there is no doubt.
void flip_under_fire(Stage& stage, Crew& crew, ArenaSource& source) {
    Guards guards{stage.map, source, guard_storage};
    const auto pool = guards.prepare(16 * page_size);
    require(pool, "preparing guard pages");
    for (std::uint64_t round = 0; round < stage.rounds(32); ++round) {
        const PhysAddr page = pool.value().start + round % 16 * page_size;
        const std::uint64_t at = stage.va(page);
        require(guards.guard(page), "guarding a page");
        crew.everyone([&](unsigned) {
            must_fault(stage, probe_load(at), FaultKind::translation, "a load of a guarded page");
            if (probe_load(at ^ page_size).faulted) fail("the page next to a guard faulted");
        });
        require(guards.unguard(page), "opening a guard");
        crew.everyone([&](unsigned cpu) {
            if (probe_store(at + 8 * cpu, round).faulted) fail("a page that is no guard any more faulted");
            stage.tally.count_access();
        });
        stage.tally.changes += 2;
    }
    guards.release_all();
}

} // namespace

void play_clients(Stage& stage) {
    ArenaSource source{stage.arena};
    ClientArea area{stage.map,
                    *memory.platform,
                    {code_area, Geometry::region_bytes},
                    {{area_regions, 1}, area_bits[0], area_aliases[0]}};
    ClientArea windows{stage.map,
                       *memory.platform,
                       {window_area, Geometry::region_bytes},
                       {{area_regions + 1, 1}, area_bits[1], area_aliases[1]}};
    require(area.open(), "opening an area for code");
    require(windows.open(), "opening an area for windows");
    KernelMemory contents{windows};

    Field field{stage};
    field.add_neighbours_of({stage.arena.start + (std::uint64_t{16} << 20), page_size});
    {
        Crew crew{field};
        run_code(stage, crew, area, windows, source, contents);
        keep_secrets(stage, crew, source, contents);
        flip_under_fire(stage, crew, source);
    }
    (void)area.reclaim_tables();
    (void)windows.reclaim_tables();
    area.close();
    windows.close();
    heal(stage, stage.arena);
}

} // namespace directmap::kernel

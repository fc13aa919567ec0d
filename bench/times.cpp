// Times each operation and, in the same run, the floor that it is compared with: the same tables filled with wide
// stores, or read once. Run by bench/run.
#include <benchmark/benchmark.h>

#include <chrono>

#include "scenarios.hpp"

using namespace directmap;
using namespace directmap::bench;

namespace {

using Clock = std::chrono::steady_clock;

/// Times `operation` and divides by `parts`: what Google Benchmark reports is the time of one part.
template <class Operation>
void time_of(benchmark::State& state, double parts, Operation operation) {
    const auto start = Clock::now();
    operation();
    state.SetIterationTime(std::chrono::duration<double>(Clock::now() - start).count() / parts);
}

void split_1g_to_page(benchmark::State& state) {
    constexpr unsigned blocks = 64;
    Bed<> bed{blocks * GiB, 2 + 2 * blocks};
    for (auto _ : state) {
        bed.start(Mapping::largest);
        time_of(state, blocks, [&] {
            for (unsigned b = 0; b < blocks; ++b) {
                must(bed.map().protect(bed.page(b * (GiB / page_size) + 12345), Change{}.writable(false)));
            }
        });
    }
}

void protect_split(benchmark::State& state) {
    Bed<> bed{64 * GiB, tables_by_pages(64 * GiB)};
    const auto pages = choose_pages(64 * GiB, random_pages);
    for (auto _ : state) {
        bed.start(Mapping::largest);
        time_of(state, random_pages, [&] {
            for (const std::uint64_t page : pages) must(bed.map().protect(bed.page(page), Change{}.writable(false)));
        });
    }
}

void protect_hot(benchmark::State& state) {
    constexpr unsigned calls = 10'000;
    Bed<> bed{2 * GiB, 16};
    bed.start(Mapping::largest);
    const PhysRange page = bed.page(12345);
    must(bed.map().protect(page, Change{}.writable(false)));
    for (auto _ : state) {
        time_of(state, calls, [&] {
            for (unsigned i = 0; i < calls; ++i) must(bed.map().protect(page, Change{}.writable((i & 1) == 0)));
        });
    }
}

void protect_pages(benchmark::State& state) {
    Bed<> bed{2 * GiB, tables_by_pages(2 * GiB)};
    bed.start(Mapping::pages);
    bool writable = false;
    for (auto _ : state) {
        time_of(state, static_cast<double>(GiB / page_size), [&] {
            must(bed.map().protect({PhysAddr{ram_base}, GiB}, Change{}.writable(writable)));
        });
        writable = !writable;
    }
}

void build_pages(benchmark::State& state) {
    Bed<> bed{64 * GiB, tables_by_pages(64 * GiB)};
    for (auto _ : state) {
        bed.clear();
        time_of(state, 1, [&] { bed.build(Mapping::pages); });
    }
}

void repaint(benchmark::State& state) {
    Bed<> bed{16 * GiB, tables_by_pages(16 * GiB)};
    for (auto _ : state) {
        bed.start(Mapping::largest);
        time_of(state, 1, [&] { must(bed.map().repaint()); });
    }
}

void collapse(benchmark::State& state) {
    Bed<> bed{64 * GiB, tables_by_pages(64 * GiB)};
    for (auto _ : state) {
        bed.start(Mapping::pages);
        time_of(state, 1, [&] { must(bed.map().collapse(bed.map().span())); });
        require(bed.map().statistics().leaves[0] == 64, "everything is one gigabyte blocks again");
    }
}

// ---- floors
// -----------------------------------------------------------------------------------------------------------------

typedef std::uint64_t Wide __attribute__((vector_size(32), aligned(8), may_alias));

/// Fills as many last-level tables as `ram` takes, each entry 4 KiB further, with stores as wide as the compiler has.
void fill_floor(benchmark::State& state) {
    const std::uint64_t ram = static_cast<std::uint64_t>(state.range(0)) * GiB;
    const std::size_t words = ram / page_size;
    BenchPlatform<> platform{tables_by_pages(ram)};
    std::uint64_t* const memory = platform.memory();
    for (auto _ : state) {
        time_of(state, 1, [&] {
            Wide next = {0x703, 0x1703, 0x2703, 0x3703};
            for (std::size_t i = 0; i < words; i += 4) {
                *reinterpret_cast<Wide*>(memory + i) = next;
                next += 0x4000;
            }
            benchmark::ClobberMemory();
        });
    }
}

/// Reads the tables of 64 GiB by pages once and compares each entry with what a uniform table holds.
void read_floor(benchmark::State& state) {
    const std::size_t words = 64 * GiB / page_size;
    BenchPlatform<> platform{tables_by_pages(64 * GiB)};
    std::uint64_t* const memory = platform.memory();
    for (std::size_t i = 0; i < words; ++i) memory[i] = 0x703 + i * page_size;
    for (auto _ : state) {
        time_of(state, 1, [&] {
            Wide next = {0x703, 0x1703, 0x2703, 0x3703}, differences = {};
            for (std::size_t i = 0; i < words; i += 4) {
                differences |= *reinterpret_cast<const Wide*>(memory + i) ^ next;
                next += 0x4000;
            }
            const std::uint64_t all = differences[0] | differences[1] | differences[2] | differences[3];
            require(all == 0, "the tables are uniform");
        });
    }
}

// Fixed numbers of iterations: each needs a map of its own, which costs more than what is timed.
BENCHMARK(split_1g_to_page)->Iterations(20)->UseManualTime()->Unit(benchmark::kNanosecond);
BENCHMARK(protect_split)->Iterations(3)->UseManualTime()->Unit(benchmark::kNanosecond);
BENCHMARK(protect_hot)->Iterations(20)->UseManualTime()->Unit(benchmark::kNanosecond);
BENCHMARK(protect_pages)->Iterations(5)->UseManualTime()->Unit(benchmark::kNanosecond);
// Each beside its floor, so that both meet the same machine.
BENCHMARK(fill_floor)->Arg(64)->Iterations(3)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(build_pages)->Iterations(3)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(fill_floor)->Arg(16)->Iterations(3)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(repaint)->Iterations(3)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(read_floor)->Iterations(3)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(collapse)->Iterations(3)->UseManualTime()->Unit(benchmark::kMillisecond);

} // namespace

BENCHMARK_MAIN();

// How the engine scales with CPUs: changes in regions of their own, in one region, and look-ups while the map splits
// and collapses all the time. Real threads, real locks; barriers and invalidations are counted and not executed.
//
// What is taken is the time that a thread has had on a core, so that a machine which is busy with other things
// measures the same: what threads cost one another (cache lines that move, spinning) is in it, waiting for a core
// isn't.
#include <atomic>
#include <ctime>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>

#include "directmap/epochs.hpp"
#include "scenarios.hpp"

namespace directmap::bench {
namespace {

constexpr unsigned most_threads = 8;

/// BenchPlatform for several CPUs: a locked table source, epochs, counters for each CPU.
template <class LockType>
class SharedPlatform : public BenchPlatform<LockType> {
public:
    using BenchPlatform<LockType>::BenchPlatform;

    static unsigned& cpu() {
        thread_local unsigned cpu = 0;
        return cpu;
    }
    void barrier_publish() { std::atomic_thread_fence(std::memory_order_release); }
    void barrier_complete() { std::atomic_thread_fence(std::memory_order_seq_cst); }
    void invalidate(VirtAddr, InvalidationScope) {}
    void invalidate_range(VirtAddr, std::uint64_t, InvalidationScope) {}
    void invalidate_all() {}
    bool take_table(PhysAddr& pa, bool atomic) {
        const std::lock_guard guard{mutex_};
        return BenchPlatform<LockType>::take_table(pa, atomic);
    }
    void give_table(PhysAddr pa) {
        const std::lock_guard guard{mutex_};
        BenchPlatform<LockType>::give_table(pa);
    }
    void walker_enter() { epochs_.enter(cpu()); }
    void walker_exit() { epochs_.exit(cpu()); }
    std::uint64_t grace_stamp() { return epochs_.stamp(); }
    bool grace_elapsed(std::uint64_t stamp) { return epochs_.elapsed(stamp); }

private:
    std::mutex mutex_;
    EpochSlot slots_[most_threads];
    Epochs epochs_{{slots_, most_threads}};
};

/// A map of one region for each thread.
template <class LockType>
struct SharedBed {
    using Platform = SharedPlatform<LockType>;
    using Map = DirectMap<arm64::Format4K48, Platform>;

    explicit SharedBed(Mapping mapping) : platform{tables_by_pages(most_threads * GiB)} {
        const RamRange ram{phys_range(ram_base, ram_base + most_threads * GiB), {}};
        must(map.build({{&ram, 1}, {}}, mapping));
        must(map.admit({.tolerates_live_resize = true}));
    }
    [[nodiscard]] static PhysRange page(unsigned region, unsigned index) {
        return {PhysAddr{ram_base + region * GiB + index * page_size}, page_size};
    }

    Platform platform;
    std::vector<Region<LockType>> regions = std::vector<Region<LockType>>(most_threads);
    Map map{platform, {.offset = map_offset}, {regions.data(), regions.size()}};
};

std::uint64_t thread_nanoseconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

/// Runs `work(thread, iteration)` on every thread and reports the mean time of one, on its core.
template <class Work>
void measure(benchmark::State& state, const Work& work) {
    const auto thread = static_cast<unsigned>(state.thread_index());
    SharedPlatform<NoLock>::cpu() = SharedPlatform<SpinLock>::cpu() = thread;
    std::uint64_t count = 0;
    const std::uint64_t begin = thread_nanoseconds();
    for (auto step : state) {
        (void)step;
        work(thread, static_cast<unsigned>(count++));
    }
    const auto spent = static_cast<double>(thread_nanoseconds() - begin);
    state.counters["ns"] = benchmark::Counter(spent / static_cast<double>(count), benchmark::Counter::kAvgThreads);
}

/// One bed for all threads of a benchmark, made by the first one that comes.
template <class Bed>
Bed& bed_of(Mapping mapping) {
    static std::mutex mutex;
    static std::unique_ptr<Bed> beds[2];
    const std::lock_guard guard{mutex};
    auto& bed = beds[mapping == Mapping::pages ? 1 : 0];
    if (!bed) bed = std::make_unique<Bed>(mapping);
    return *bed;
}

template <class LockType>
void change_pages(benchmark::State& state, bool one_region) {
    auto& bed = bed_of<SharedBed<LockType>>(Mapping::pages);
    measure(state, [&](unsigned thread, unsigned i) {
        // In one region the threads' pages lie in tables of their own: what they share is the lock.
        const unsigned region = one_region ? 0 : thread, first = one_region ? thread * 4096 : 0;
        must(bed.map.protect(bed.page(region, first + i % 512), Change{}.writable(i / 512 % 2 != 0)));
    });
}
void change_without_locks(benchmark::State& state) {
    change_pages<NoLock>(state, false);
}
void change_own_region(benchmark::State& state) {
    change_pages<SpinLock>(state, false);
}
void change_one_region(benchmark::State& state) {
    change_pages<SpinLock>(state, true);
}

/// A page is split out of 1 GiB, restored, and the region collapses.
void split_own_region(benchmark::State& state) {
    auto& bed = bed_of<SharedBed<SpinLock>>(Mapping::largest);
    measure(state, [&](unsigned thread, unsigned i) {
        const PhysRange page = bed.page(thread, i * 7919 % 262'144);
        must(bed.map.protect(page, Change{}.writable(false)));
        must(bed.map.protect(page, Change{}.writable(true)));
        must(bed.map.collapse(page));
    });
}

/// Looks pages up, while nobody or somebody splits and collapses just these.
void translate(benchmark::State& state, bool disturbed) {
    auto& bed = bed_of<SharedBed<SpinLock>>(Mapping::largest);
    std::atomic<bool> enough = false;
    std::uint64_t collapses = 0;
    std::thread other;
    if (disturbed) {
        other = std::thread([&] {
            SharedPlatform<SpinLock>::cpu() = 1;
            for (unsigned i = 0; !enough; ++i, ++collapses) {
                const PhysRange page = bed.page(0, i % 512);
                must(bed.map.protect(page, Change{}.writable(false)));
                must(bed.map.protect(page, Change{}.writable(true)));
                must(bed.map.collapse(page));
            }
        });
    }
    measure(state, [&](unsigned, unsigned i) {
        const auto found = bed.map.translate(bed.page(0, i % 512).start);
        benchmark::DoNotOptimize(found);
    });
    enough = true;
    if (other.joinable()) other.join();
    state.counters["collapses"] = static_cast<double>(collapses);
}
void translate_undisturbed(benchmark::State& state) {
    translate(state, false);
}
void translate_under_collapse(benchmark::State& state) {
    translate(state, true);
}

BENCHMARK(change_without_locks)->UseRealTime();
BENCHMARK(change_own_region)->Threads(1)->Threads(2)->UseRealTime();
BENCHMARK(change_one_region)->Threads(1)->Threads(2)->UseRealTime();
BENCHMARK(split_own_region)->Threads(1)->Threads(2)->UseRealTime();
BENCHMARK(translate_undisturbed)->UseRealTime();
BENCHMARK(translate_under_collapse)->UseRealTime();

} // namespace
} // namespace directmap::bench

BENCHMARK_MAIN();

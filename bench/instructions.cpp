// Runs each operation once between callgrind's client requests. Run by bench/run under valgrind --tool=callgrind.
#include <valgrind/callgrind.h>

#include <string_view>

#include "directmap_clients/guard_pages.hpp"
#include "scenarios.hpp"

using namespace directmap;
using namespace directmap::bench;

namespace {

/// Counts what `operation` executes, as one profile called `name`.
template <class Operation>
void count(const char* name, Operation operation) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
    operation();
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}

constexpr unsigned hot_calls = 1000;

/// Toggles one page; the split has been made before.
template <class Lock>
void count_hot_protect(const char* name) {
    Bed<Lock> bed{2 * GiB, 16};
    bed.start(Mapping::largest);
    auto& map = bed.map();
    const PhysRange page = bed.page(12345);
    const Change changes[] = {Change{}.writable(true), Change{}.writable(false)};
    must(map.protect(page, changes[1]));
    count(name, [&] {
        for (unsigned i = 0; i < hot_calls; ++i) must(map.protect(page, changes[i & 1]));
    });
}

/// Guards a page and opens it again, out of a pool that was prepared before.
void count_guard_flips() {
    Bed<> bed{2 * GiB, 16};
    bed.start(Mapping::largest);
    struct {
        PhysAddr at;
        bool take_chunk(PhysAddr& pa, std::uint64_t) {
            pa = at;
            return true;
        }
        void give_chunk(PhysAddr, std::uint64_t) {}
    } source{PhysAddr{ram_base + (std::uint64_t{64} << 20)}};
    PhysRange storage[1];
    clients::GuardPages guards{bed.map(), source, storage};
    const auto pool = guards.prepare(std::uint64_t{2} << 20);
    if (!pool) must(Result<void>{pool.error()});
    count("guard_flip", [&] {
        for (unsigned i = 0; i < hot_calls; ++i) {
            const PhysAddr page = pool.value().start + (i / 2 % 512) * 4096;
            must(i % 2 == 0 ? guards.guard(page) : guards.unguard(page));
        }
    });
}

/// Invalidation rounds of one change of a GiB of pages.
std::uint64_t rounds_of_a_range() {
    Bed<> bed{2 * GiB, tables_by_pages(2 * GiB)};
    bed.start(Mapping::pages);
    const std::uint64_t before = bed.map().statistics().counters.rounds;
    must(bed.map().protect({PhysAddr{ram_base}, GiB}, Change{}.writable(false)));
    return bed.map().statistics().counters.rounds - before;
}

} // namespace

int main(int argc, char** argv) {
    if (argc == 2 && std::string_view{argv[1]} == "--rounds") {
        std::printf("%llu\n", static_cast<unsigned long long>(rounds_of_a_range()));
        return 0;
    }
    count("empty", [] {});
    {
        Bed<> bed{64 * GiB, 2};
        count("build_64g_large", [&] { bed.build(Mapping::largest); });
    }
    {
        Bed<> bed{2 * GiB, 16};
        bed.start(Mapping::largest);
        count("split_1g_to_page", [&] { must(bed.map().protect(bed.page(12345), Change{}.writable(false))); });
    }
    {
        Bed<> bed{64 * GiB, tables_by_pages(64 * GiB)};
        const auto pages = choose_pages(64 * GiB, random_pages);
        bed.start(Mapping::largest);
        count("protect_split", [&] {
            for (const std::uint64_t page : pages) must(bed.map().protect(bed.page(page), Change{}.writable(false)));
        });
        const Statistics s = bed.map().statistics();
        std::fprintf(stderr, "splits per op %.3f\n", double(s.counters.splits) / random_pages);
        count("protect_again", [&] {
            for (const std::uint64_t page : pages) must(bed.map().protect(bed.page(page), Change{}.writable(true)));
        });
    }
    count("hot_loop", [&] {
        Result<void> ok;
        for (unsigned i = 0; i < hot_calls; ++i) {
            asm volatile("" : "+m"(ok));
            must(ok);
        }
    });
    count_hot_protect<NoLock>("protect");
    count_hot_protect<SpinLock>("protect_locked");
    count_guard_flips();
    {
        Bed<> bed{2 * GiB, tables_by_pages(2 * GiB)};
        bed.start(Mapping::pages);
        const PhysRange range{PhysAddr{ram_base}, GiB};
        count("protect_pages", [&] { must(bed.map().protect(range, Change{}.writable(false))); });
    }
    return 0;
}

// A day that was written down on the modelled machine (`directmap run --day`), played on real translations: the same
// users, in the same order, on the components of clients/. Memory lies in pools, or wherever a page allocator that has
// been up for a while would have it.
#include <new>
#include <type_traits>

#include "cpu/expected_fault.hpp"
#include "device/console.hpp"
#include "directmap_clients/executable_cache.hpp"
#include "directmap_clients/guard_pages.hpp"
#include "directmap_clients/module_area.hpp"
#include "directmap_clients/scattered_pages.hpp"
#include "directmap_clients/secret_memory.hpp"
#include "directmap_clients/shadow_stacks.hpp"
#include "directmap_clients/shared_buffers.hpp"
#include "memory/kernel_map.hpp"
#include "pure/day.hpp"
#include "scenarios/client_memory.hpp"
#include "scenarios/copied_map.hpp"
#include "scenarios/scenario.hpp"

namespace directmap::kernel {

namespace {

constexpr std::uint64_t place_bytes = std::uint64_t{2} << 20;
constexpr std::uint64_t large_bytes = std::uint64_t{2} << 20;
/// What there may be at once.
constexpr std::size_t most_modules = 1024, most_secrets = 1 << 16, most_buffers = 1 << 13, most_pools = 16,
                      most_places = 4096, most_code = 1 << 13, most_threads = 1 << 14, most_chunks = 64;
/// A buffer is out of clusters, or a piece of its own.
constexpr std::size_t most_pages_of_a_buffer = 32;
constexpr std::size_t most_scratch = 1 << 14, most_aliases = 1 << 16, most_frames = 2048;
constexpr unsigned tables_a_second = 1024; ///< that background collapse looks at, as on the machine

/// For what the users' components keep, and who has which page; for the tables of a copy of the map.
constexpr std::uint64_t books_bytes = std::uint64_t{64} << 20, copy_bytes = std::uint64_t{64} << 20;

/// Storage at the start of the arena, as large as it has to be.
class Room {
public:
    Room(Stage& stage, PhysRange memory) : stage_{stage}, memory_{memory}, next_{memory.start} {}

    template <class T>
    [[nodiscard]] Span<T> array(std::size_t count) {
        const PhysAddr start{align_up(next_.value(), alignof(T))};
        next_ = start + count * sizeof(T);
        if (next_ > memory_.end()) fail("a day keeps more than {} MiB of books", memory_.size >> 20);
        T* const first = reinterpret_cast<T*>(stage_.va(start));
        for (std::size_t i = 0; i < count; ++i) new (first + i) T();
        return {first, count};
    }

private:
    Stage& stage_;
    PhysRange memory_;
    PhysAddr next_;
};

/// The page allocator: pieces lie anywhere; single pages side by side in a place that somebody has chosen.
class PageSource {
public:
    PageSource(PhysRange memory, Span<std::uint64_t> used, Random& random)
        : memory_{memory}, used_{used}, random_{random} {
        new_place();
    }

    void new_place() { use_place(random_place()); }
    void use_place(PhysAddr place) { next_ = place; }
    [[nodiscard]] PhysAddr random_place() {
        return memory_.start + random_.below(memory_.size / place_bytes) * place_bytes;
    }

    bool take_chunk(PhysAddr& pa, std::uint64_t bytes) {
        if (bytes == page_size) {
            for (std::uint64_t tried = 0; tried < memory_.size; tried += page_size) {
                if (!memory_.contains(next_)) next_ = memory_.start;
                pa = next_;
                next_ = next_ + page_size;
                if (use({pa, page_size})) return true;
            }
            return false;
        }
        if (bytes > memory_.size) return false;
        // Aligned to their size, as buddies are.
        const std::uint64_t first = align_up(memory_.start.value(), bytes);
        const std::uint64_t count = (memory_.end().value() - first) / bytes;
        for (unsigned attempt = 0; count != 0 && attempt < 4096; ++attempt) {
            pa = PhysAddr{first + random_.below(count) * bytes};
            if (use({pa, bytes})) return true;
        }
        return false;
    }
    void give_chunk(PhysAddr pa, std::uint64_t bytes) {
        mark({pa, bytes}, false);
        out_ -= bytes;
    }
    [[nodiscard]] std::uint64_t out() const { return out_; }
    [[nodiscard]] PhysAddr end() const { return memory_.end(); }

private:
    [[nodiscard]] bool is_used(std::uint64_t page) const {
        return (used_[static_cast<std::size_t>(page / 64)] >> (page % 64) & 1) != 0;
    }
    bool use(PhysRange range) {
        for (std::uint64_t at = 0; at < range.size; at += page_size)
            if (is_used(page_of(range.start + at))) return false;
        mark(range, true);
        out_ += range.size;
        return true;
    }
    void mark(PhysRange range, bool on) {
        for (std::uint64_t at = 0; at < range.size; at += page_size) {
            const std::uint64_t page = page_of(range.start + at), bit = std::uint64_t{1} << (page % 64);
            std::uint64_t& word = used_[static_cast<std::size_t>(page / 64)];
            if (((word & bit) != 0) == on) fail("the page at {} is given back twice", Hex{(range.start + at).value()});
            word ^= bit;
        }
    }
    [[nodiscard]] std::uint64_t page_of(PhysAddr pa) const { return (pa - memory_.start) / page_size; }

    PhysRange memory_;
    Span<std::uint64_t> used_; ///< one bit for each page
    Random& random_;
    PhysAddr next_;
    std::uint64_t out_ = 0; ///< bytes
};

/// Nobody is asked here; but while a host is, no CPU may reach what it is asked about.
struct AbsentHost {
    Stage& stage;
    bool share(PhysRange range) { return look(range); }
    bool unshare(PhysRange range) { return look(range); }
    [[nodiscard]] bool look(PhysRange range) const {
        must_fault(stage, probe_load(stage.va(range.start)), FaultKind::translation, "a load of what a host changes");
        return true;
    }
};

/// Of all sizes together.
std::uint64_t sum_of(const std::uint64_t (&leaves)[6]) {
    std::uint64_t count = 0;
    for (const std::uint64_t of_size : leaves) count += of_size;
    return count;
}

/// The map, read entry by entry.
struct Figures {
    std::uint64_t leaves[6] = {};
    std::uint64_t bytes = 0;
    std::uint64_t large = 0; ///< bytes in leaves of 2M and more
    std::uint64_t tables = 0;
    std::uint64_t pools = 0, idle = 0; ///< bytes

    [[nodiscard]] static Figures read(Stage& stage) {
        static_cast<void>(stage.map.reclaim());
        Figures f;
        stage.map.walk(stage.map.span(), [&](const Leaf& leaf) {
            if (!leaf.mapped) return true;
            ++f.leaves[Geometry::leaf_size_index(leaf.level, leaf.contiguous)];
            f.bytes += leaf.range.size;
            if (leaf.range.size >= large_bytes) f.large += leaf.range.size;
            return true;
        });
        const Statistics account = stage.map.statistics();
        for (unsigned i = 0; i < Geometry::leaf_sizes.count; ++i) {
            if (f.leaves[i] != account.leaves[i])
                fail("the map has {} leaves of {}, and its account {}", f.leaves[i],
                     Size{Geometry::leaf_sizes.of[i].bytes()}, account.leaves[i]);
        }
        f.tables = memory.tables.in_use();
        return f;
    }
};

template <bool scattered>
class Users {
public:
    /// `flips` gets what flips of guard pages cost: the engine doesn't count them (see flip_page).
    Users(Stage& stage, Room& room, PageSource& source, Counters& flips)
        : stage_{stage}, source_{source}, flips_{flips}, area_{stage.map,
                                                               *memory.platform,
                                                               {code_area, Geometry::region_bytes},
                                                               storage(room),
                                                               memory.format},
          windows_{stage.map, *memory.platform, {window_area, Geometry::region_bytes}, storage(room), memory.format},
          contents_{windows_}, host_{stage}, secret_pool_{make_pool<Pool>(room, Secrets::pool_config())},
          text_pool_{make_pool<Pool>(room, Modules::pool_config())}, stack_pool_{make_pool<Pool>(
                                                                         room, Stacks::read_only_pool_config())},
          secrets_{stage.map, secret_pool_, contents_}, modules_{area_, *memory.platform, text_pool_, source,
                                                                 room.array<PhysRange>(most_scratch)},
          cache_{stage.map,
                 *memory.platform,
                 area_,
                 windows_,
                 source,
                 contents_,
                 room.array<clients::CodeChunk>(most_chunks)},
          stacks_{stack_pool_, contents_}, guards_{stage.map, source, room.array<PhysRange>(most_pools)},
          shared_{stage.map,
                  *memory.platform,
                  source,
                  host_,
                  {room.array<ChunkFrame>(most_frames), room.array<Magazine<SpinLock>>(max_cpus),
                   room.array<PhysRange>(4)}},
          module_of_{room.array<clients::Module>(most_modules)}, secret_of_{room.array<PhysAddr>(most_secrets)},
          buffer_of_{room.array<Buffer>(most_buffers)}, code_of_{room.array<Code>(most_code)},
          stack_of_{room.array<PhysAddr>(most_threads)}, pools_{room.array<PhysRange>(most_pools)},
          places_{room.array<PhysAddr>(most_places)}, copied_{stage,
                                                              {source.end(), copy_bytes},
                                                              room.array<CopiedMap::Map::RegionState>(
                                                                  CopiedMap::regions_of(stage))} {
        require(area_.open(), "opening an area for modules");
        require(windows_.open(), "opening an area for windows");
    }
    Users(const Users&) = delete;
    Users& operator=(const Users&) = delete;
    ~Users() {
        static_cast<void>(area_.reclaim_tables());
        static_cast<void>(windows_.reclaim_tables());
        area_.close();
        windows_.close();
    }

    void play(const DayEvent& event) {
        using Kind = DayEvent::Kind;
        switch (event.kind) {
        case Kind::load: return load(entry(module_of_, event.number), event);
        case Kind::unload:
            if (!modules_.unload(entry(module_of_, event.number), 0)) fail("module {} isn't loaded", event.number);
            return;
        case Kind::places: return choose_places(event.number);
        case Kind::take: return take(entry(secret_of_, event.number));
        case Kind::give: {
            PhysAddr& page = entry(secret_of_, event.number);
            if (page == PhysAddr{} || !secrets_.give(page, 0)) fail("secret page {} is nobody's", event.number);
            page = {};
            return;
        }
        case Kind::share: return share(entry(buffer_of_, event.number), event.bytes[0]);
        case Kind::unshare: return unshare(entry(buffer_of_, event.number));
        case Kind::add: return add(entry(code_of_, event.number), event);
        case Kind::remove: return remove(entry(code_of_, event.number), event.number);
        case Kind::start: return start(entry(stack_of_, event.number));
        case Kind::end: {
            PhysAddr& stack = entry(stack_of_, event.number);
            if (stack == PhysAddr{} || !stacks_.destroy(stack, 0)) fail("thread {} has no stack", event.number);
            stack = {};
            return;
        }
        case Kind::copy:
            return copied_.make(event.number == 1 ? clients::InvalidLeaves::make_valid
                                                  : clients::InvalidLeaves::leave_out);
        case Kind::prepare: {
            const auto pool = guards_.prepare(power_of_two(event.bytes[0]));
            require(pool, "preparing guard pages");
            entry(pools_, pool_count_++) = pool.value();
            return;
        }
        case Kind::guard: return flip(event, false);
        case Kind::unguard: return flip(event, true);
        case Kind::release:
            guards_.release_all();
            pool_count_ = 0;
            return;
        case Kind::wait: return wait(event.number);
        case Kind::collapse:
            if (memory.policy != CollapsePolicy::never) heal(stage_, stage_.map.span());
            return;
        case Kind::step:
        case Kind::evening: return;
        }
    }

    [[nodiscard]] Figures figures() {
        Figures f = Figures::read(stage_);
        if (scattered) return f;
        for (const PoolStatistics& s : {secret_pool_.statistics(), text_pool_.statistics(), stack_pool_.statistics(),
                                        shared_.pool_statistics()}) {
            f.pools += s.owned * page_size;
            f.idle += s.free * page_size;
        }
        const clients::CodeStatistics code = cache_.statistics();
        f.pools += code.bytes;
        f.idle += code.bytes - code.used;
        return f;
    }

private:
    using Pool =
        std::conditional_t<scattered, clients::ScatteredPages<KernelMap, PageSource>, ChunkPool<KernelMap, PageSource>>;
    using Secrets = clients::SecretMemory<KernelMap, Pool, KernelMemory>;
    using Modules = clients::ModuleArea<ClientArea, Pool, PageSource>;
    using Cache = clients::ExecutableCache<KernelMap, ClientArea, ClientArea, PageSource, KernelMemory>;
    using Stacks = clients::ShadowStacks<Pool, KernelMemory>;

    struct Buffer {
        PhysRange range; ///< a piece of its own
        std::size_t count = 0;
        PhysAddr pages[most_pages_of_a_buffer];
    };
    struct Code {
        clients::CodePiece piece;
        clients::Module pages; ///< of its own, where memory is scattered
    };

    [[nodiscard]] static AreaStorage<SpinLock> storage(Room& room) {
        return {room.array<Region<SpinLock>>(1), room.array<std::uint64_t>(area_bits_count),
                room.array<AliasRun>(most_aliases)};
    }
    template <class T>
    [[nodiscard]] T make_pool(Room& room, const typename T::Config& config) {
        if constexpr (scattered) {
            return T{stage_.map, *memory.platform, source_, config};
        } else {
            return T{stage_.map,
                     *memory.platform,
                     source_,
                     config,
                     room.array<ChunkFrame>(most_frames),
                     room.array<Magazine<SpinLock>>(max_cpus)};
        }
    }
    template <class T>
    [[nodiscard]] static T& entry(Span<T> of, std::uint64_t number) {
        if (number >= of.size()) fail("a day with more than {} of one kind at once", of.size());
        return of[static_cast<std::size_t>(number)];
    }
    [[nodiscard]] static std::uint64_t power_of_two(std::uint64_t bytes) {
        std::uint64_t power = page_size;
        while (power < bytes) power *= 2;
        return power;
    }

    void load(clients::Module& module, const DayEvent& event) {
        source_.new_place();
        auto loaded = modules_.load({event.bytes[0], event.bytes[1], event.bytes[2]}, 0);
        require(loaded, "loading a module");
        module = loaded.value();
        require(modules_.seal(module), "sealing a module");
        const std::uint64_t text = module.text.start.value();
        must_fault(stage_, probe_store(text, 0), FaultKind::permission, "a store to a module's text");
        const auto at = area_.translate(module.text.start);
        require(at, "finding a module's text");
        must_fault(stage_, probe_store(stage_.va(at.value().pa), 0), FaultKind::permission,
                   "a store to a module's text through the direct map");
    }
    /// Code that tells its number: out of the cache, or in pages of its own.
    void add(Code& code, const DayEvent& event) {
        const std::uint32_t number = event.number & 0xffff;
        const std::uint32_t text[] = {0x52800000 | number << 5, 0xd65f03c0}; // mov w0, #number; ret
        if constexpr (scattered) {
            source_.new_place();
            auto pages = modules_.load({event.bytes[0], 0, 0}, 0);
            require(pages, "pages for a piece of code");
            code.pages = pages.value();
            contents_.write(code.pages.text.start, text, sizeof text);
            require(modules_.seal(code.pages), "sealing a piece of code");
            code.piece.va = code.pages.text.start;
        } else {
            const auto piece = cache_.allocate(event.bytes[0]);
            require(piece, "room in the executable cache");
            code.piece = piece.value();
            require(cache_.write(code.piece, 0, text, sizeof text), "writing code through a window");
        }
        const std::uint64_t at = code.piece.va.value();
        const ProbeResult called = probe_fetch(at);
        if (called.faulted || called.value != number) fail("code at {} doesn't run", Hex{at});
        must_fault(stage_, probe_store(at, 0), FaultKind::permission, "a store to code");
    }
    void remove(Code& code, std::uint64_t number) {
        if constexpr (scattered) {
            if (!modules_.unload(code.pages, 0)) fail("there is no piece of code {}", number);
        } else {
            require(cache_.free(code.piece), "removing a piece of code");
        }
        code = {};
    }
    void start(PhysAddr& stack) {
        source_.new_place();
        const auto page = stacks_.create(0);
        require(page, "a shadow stack");
        stack = page.value();
        must_fault(stage_, probe_store(stage_.va(stack), 0), FaultKind::permission, "a store to a shadow stack");
    }
    void choose_places(std::uint64_t count) {
        place_count_ = count < most_places ? count : most_places;
        place_ = 0;
        for (std::uint64_t i = 0; i < place_count_; ++i) entry(places_, i) = source_.random_place();
    }
    void take(PhysAddr& secret) {
        if (place_count_ != 0) source_.use_place(entry(places_, place_++ % place_count_));
        const auto page = secrets_.take(0);
        require(page, "taking a secret page");
        secret = page.value();
        must_fault(stage_, probe_load(stage_.va(secret)), FaultKind::translation, "a load of a secret page");
    }
    /// As on the machine: buffers of a cluster's size are pieces of their own, smaller ones are out of clusters.
    void share(Buffer& buffer, std::uint64_t bytes) {
        if (scattered || bytes >= place_bytes) {
            if constexpr (scattered) {
                buffer.range.size = power_of_two(bytes);
                if (!source_.take_chunk(buffer.range.start, buffer.range.size)) fail("no memory for a buffer");
                require(shared_.share(buffer.range), "sharing a buffer");
            } else {
                const auto taken = shared_.take_buffer(power_of_two(bytes));
                require(taken, "sharing a buffer");
                buffer.range = taken.value();
            }
            return;
        }
        for (std::uint64_t done = 0; done < bytes; done += page_size) {
            if (buffer.count == most_pages_of_a_buffer) fail("a shared buffer of {} bytes is too large", bytes);
            const auto page = shared_.take(0);
            require(page, "sharing a page");
            buffer.pages[buffer.count++] = page.value();
        }
    }
    void unshare(Buffer& buffer) {
        if (!buffer.range.empty()) require(shared_.unshare(buffer.range), "taking a buffer back");
        if (!buffer.range.empty()) source_.give_chunk(buffer.range.start, buffer.range.size);
        for (; buffer.count != 0; --buffer.count)
            if (!shared_.give(buffer.pages[buffer.count - 1], 0)) fail("a shared page is nobody's");
        buffer.range = {};
    }
    void flip(const DayEvent& event, bool valid) {
        const PhysRange pool = entry(pools_, event.number);
        const PhysAddr page = pool.start + event.page * page_size;
        require(valid ? guards_.unguard(page) : guards_.guard(page), "flipping a guard page");
        ++flips_.stores;
        if (!valid) flips_.add(FlushCost{.invalidations = 1});
        const ProbeResult load = probe_load(stage_.va(page));
        if (!valid) must_fault(stage_, load, FaultKind::translation, "a load of a guarded page");
        if (valid && load.faulted) fail("a page that is no guard any more faulted");
    }
    /// Memory is wanted elsewhere, and what has been quiet heals. Nobody sits the time out: each second is a step.
    void wait(std::uint64_t milliseconds) {
        secrets_.shrink(~std::uint64_t{0});
        text_pool_.shrink(~std::uint64_t{0});
        stacks_.shrink(~std::uint64_t{0});
        cache_.shrink(~std::uint64_t{0});
        shared_.shrink(~std::uint64_t{0});
        for (std::uint64_t seconds = (milliseconds + 999) / 1000; seconds != 0; --seconds) {
            static_cast<void>(stage_.map.background_step(tables_a_second));
            static_cast<void>(stage_.map.reclaim());
        }
    }

    Stage& stage_;
    PageSource& source_;
    Counters& flips_;
    ClientArea area_, windows_;
    KernelMemory contents_;
    AbsentHost host_;
    Pool secret_pool_, text_pool_, stack_pool_;
    Secrets secrets_;
    Modules modules_;
    Cache cache_;
    Stacks stacks_;
    clients::GuardPages<KernelMap, PageSource> guards_;
    clients::SharedBuffers<KernelMap, PageSource, AbsentHost> shared_;
    Span<clients::Module> module_of_;
    Span<PhysAddr> secret_of_;
    Span<Buffer> buffer_of_;
    Span<Code> code_of_;
    Span<PhysAddr> stack_of_;
    Span<PhysRange> pools_;
    std::uint64_t pool_count_ = 0;
    Span<PhysAddr> places_;
    std::uint64_t place_count_ = 0, place_ = 0;
    CopiedMap copied_;
};

void print_figures(const char* when, const Figures& f, bool json) {
    if (!json) {
        print("    {} {} leaves, {} tables, {} MiB in leaves of less than 2M, pools hold {} KiB\n", Left{when, 8},
              Right{sum_of(f.leaves), 8}, Right{f.tables, 6}, (f.bytes - f.large) >> 20, f.pools >> 10);
        return;
    }
    print(",\"{}\":{\"leaf_count\":{},\"bytes\":{},\"large_bytes\":{},\"tables\":{},\"pool_bytes\":{},"
          "\"pool_idle_bytes\":{},\"leaves\":{",
          when, sum_of(f.leaves), f.bytes, f.large, f.tables, f.pools, f.idle);
    for (unsigned i = 0; i < Geometry::leaf_sizes.count; ++i)
        print("{}\"{}\":{}", i == 0 ? "" : ",", Size{Geometry::leaf_sizes.of[i].bytes()}, f.leaves[i]);
    print("}}");
}

template <bool scattered>
void play(Stage& stage, DayReader reader, Room& room, PageSource& source) {
    const Figures boot = Figures::read(stage);
    const Counters before = stage.map.statistics().counters;
    Counters flips;
    Figures evening;
    std::uint64_t worst = sum_of(boot.leaves), events = 0;
    {
        Users<scattered> users{stage, room, source, flips};
        for (DayEvent event; reader.next(event); ++events) {
            if (event.kind == DayEvent::Kind::step || event.kind == DayEvent::Kind::evening) {
                const std::uint64_t now = sum_of(stage.map.statistics().leaves);
                if (now > worst) worst = now;
                if (event.kind == DayEvent::Kind::evening) evening = users.figures();
                continue;
            }
            users.play(event);
            stage.tally.count_change();
        }
        if (reader.mistake() != nullptr) fail("the day, line {}: {}", reader.line(), reader.mistake());
    }
    if (source.out() != 0) fail("{} KiB are somebody's when all have gone", source.out() >> 10);
    const Figures end = Figures::read(stage);
    Counters now = stage.map.statistics().counters;
    now += flips;
    const bool json = stage.machine.command_line.json;
    const char* const placement = scattered ? "scattered" : "pooled";
    const char* const policy = memory.policy == CollapsePolicy::never ? "never" : "background";
    if (json) {
        print("{\"event\":\"day\",\"placement\":\"{}\",\"policy\":\"{}\",\"events\":{},\"worst_leaf_count\":{},"
              "\"splits\":{},\"collapses\":{},\"invalidations\":{},\"stores\":{}",
              placement, policy, events, worst, now.splits - before.splits, now.collapses - before.collapses,
              now.invalidations - before.invalidations, now.stores - before.stores);
    } else {
        print("  a day, {}, {}: {} events, {} splits, {} collapses, {} invalidations, {} leaves at the worst moment\n",
              placement, policy, events, now.splits - before.splits, now.collapses - before.collapses,
              now.invalidations - before.invalidations, worst);
    }
    print_figures("boot", boot, json);
    print_figures("evening", evening, json);
    print_figures("end", end, json);
    if (json) print("}\n");
}

} // namespace

void play_day(Stage& stage) {
    const PhysRange file = stage.machine.information.initrd;
    if (file.empty()) refuse("a day is played from a file: {}", Quoted{"-initrd"});
    DayReader reader{{reinterpret_cast<const char*>(stage.va(file.start)), static_cast<std::size_t>(file.size)}};
    if (const char* wrong = reader.open(page_size)) refuse("the file of the day: {}", Quoted{wrong});
    // Books at the start of the arena, the users' memory behind them, and that of copies at its end.
    if (stage.arena.size < 4 * (books_bytes + copy_bytes))
        refuse("{} for a day", Quoted{"too little memory in one piece"});
    Room room{stage, {stage.arena.start, books_bytes}};
    const PhysRange users = phys_range(align_up((stage.arena.start + books_bytes).value(), place_bytes),
                                       align_down(stage.arena.end().value() - copy_bytes, place_bytes));
    PageSource source{users, room.array<std::uint64_t>(users.size / page_size / 64 + 1), stage.random};
    if (stage.machine.command_line.scattered) {
        play<true>(stage, reader, room, source);
    } else {
        play<false>(stage, reader, room, source);
    }
}

} // namespace directmap::kernel

// Mappings beside the direct map: physical pages, scattered or in runs, one after another in a range of virtual
// addresses of their own, as a kernel's vmalloc or module space has them.
//
//     direct map   …|  A  |…|  B  |…|   C   |…            every page where VA = PA + offset
//     area         |  C   |  A  |  B  | guard |  …         the same pages again, in the order that somebody asked for
//
// An area lives in the tables of its map's root and is changed by the same operations: an entry's place says where it
// is (its home address), the leaf in it says where it leads. Every mapping is followed by an unmapped page, so no leaf
// ever belongs to two mappings, and taking one away never has to split anything: it needs no memory and can't fail.
//
// Pages of an area have an alias in the direct map, and may have more in the area. The area knows all of these (those
// in another area it doesn't): a permission is taken away from every alias before one of them gets what must not meet
// it (promise W^X).
#pragma once

#include <cstddef>
#include <cstdint>

#include "directmap/direct_map.hpp"
#include "directmap/mapping.hpp"
#include "directmap/table_list.hpp"

namespace directmap {

/// The bytes [start, start + size) of virtual memory.
struct VirtRange {
    VirtAddr start;
    std::uint64_t size = 0;

    [[nodiscard]] constexpr VirtAddr end() const { return start + size; }
    [[nodiscard]] constexpr bool empty() const { return size == 0; }
    [[nodiscard]] constexpr bool contains(VirtAddr a) const { return a - start < size; }
    friend constexpr bool operator==(VirtRange, VirtRange) = default;
};

/// One piece of physical memory that an area maps in one piece. Storage is the embedder's, default-constructed, one for
/// each piece (and for each multiple of Geometry::region_bytes that a piece crosses).
struct AliasRun {
    VirtAddr va;
    PhysRange phys; ///< empty: not in use
    AliasRun* next = nullptr;
};

struct AreaStatistics {
    std::uint64_t leaves[6] = {}; ///< by leaf size, in the order of Geometry::leaf_sizes
    std::uint64_t mappings = 0;
    std::uint64_t bytes = 0;
    Counters counters;
    std::uint64_t alias_failures = 0; ///< changes of an area that failed on another alias, and were reported
};

/// Everything that an area keeps, provided by the embedder.
template <class Lock>
struct AreaStorage {
    Span<Region<Lock>> regions; ///< one for each Geometry::region_bytes of the range
    Span<std::uint64_t> pages;  ///< one bit for each page of the range
    Span<AliasRun> aliases;
};

/// `Map` is a DirectMap<F, …>, or what wraps one; the two share the root. A map with a member `on_alias(VirtAddr,
/// PhysRange, Attributes)` is told of every piece before it is mapped, one with `on_unmapped(VirtRange)` when nobody
/// reaches a mapping any more, before its memory and its addresses are free.
///
/// Locks: the area's own, for addresses and aliases, is held alone; region locks are those of the engine, one for each
/// region of the area. Functions may be called on any CPU once `open` has returned; but one at a time maps, protects,
/// pins or unmaps the same pages, by whichever of their aliases.
template <Format F, class Map>
class Area {
public:
    using G = typename F::geometry;
    using P = typename Map::PlatformType;
    using PlatformType = P;
    using Lock = typename P::Lock;

    /// `range` is aligned to Geometry::region_bytes and lies in the half of the address space that the root covers,
    /// away from the direct map.
    Area(Map& map, P& platform, VirtRange range, const AreaStorage<Lock>& storage, F format = {})
        : map_{map}, platform_{platform}, range_{range}, pages_{storage.pages}, core_{.platform = platform,
                                                                                      .format = format} {
        core_.offset = range.start.value() - home_base;
        core_.span = {PhysAddr{home_base}, range.size};
        core_.first_region = core_.va_of(core_.span.start) >> G::region_shift;
        core_.regions = storage.regions;
        for (AliasRun& run : storage.aliases) {
            run.next = free_aliases_;
            free_aliases_ = &run;
        }
    }
    Area(const Area&) = delete;
    Area& operator=(const Area&) = delete;

    /// Links the tables that the area's regions share with their surroundings, once, after the map's `build` and before
    /// another CPU changes the map. Errors: invalid_argument (the range, or too little storage), no_tables.
    [[nodiscard]] Result<void> open() {
        const std::uint64_t regions = range_.size >> G::region_shift;
        if (range_.size == 0 || ((range_.start.value() | range_.size) & (G::region_bytes - 1)) != 0)
            return fail(reasons::misaligned_area, range_.start);
        if (core_.regions.size() < regions || pages_.size() * 64 < range_.size >> G::page_shift)
            return fail(reasons::small_area_storage, range_.start);
        core_.root = map_.root();
        core_.regions = {core_.regions.data(), static_cast<std::size_t>(regions)};
        sync_gate();
        for (std::uint64_t done = 0; done < range_.size; done += G::region_bytes) {
            if (auto r = link_upper(core_.span.start + done); !r) return r;
        }
        return {};
    }

    /// Gives back what `open` took, once nothing is mapped and nobody uses the area any more. Another `open` may
    /// follow.
    void close() {
        trim();
        for (std::uint64_t done = 0; done < range_.size; done += G::region_bytes)
            while (unlink_upper(core_.span.start + done)) {
            }
        (void)reclaim(core_);
    }

    /// Maps `runs` one after another and returns where. Takes the largest leaves that the addresses allow; the first
    /// run decides how the range is aligned. May sleep. Errors: invalid_argument (a run that is empty or misaligned),
    /// no_tables (tables, addresses or storage for aliases are exhausted; nothing is mapped then).
    [[nodiscard]] Result<VirtRange> map(Span<const PhysRange> runs, Attributes attributes) {
        return map_sections({&runs, 1}, attributes);
    }
    /// The same for several sections that will get different permissions: no leaf belongs to two of them, so that
    /// changing one never splits.
    [[nodiscard]] Result<VirtRange> map_sections(Span<const Span<const PhysRange>> sections, Attributes attributes) {
        std::uint64_t size = 0, needed = 0;
        for (const Span<const PhysRange>& runs : sections) {
            for (const PhysRange& run : runs) {
                if (run.empty() || ((run.start.value() | run.size) & (G::page_size - 1)) != 0) {
                    return Error{reasons::misaligned_run, run.start};
                }
                size += run.size;
                needed += ((run.end() - 1).value() >> G::region_shift) - (run.start.value() >> G::region_shift) + 1;
            }
        }
        if (size == 0) return Error{reasons::nothing_to_map, PhysAddr{}};
        const PhysRange first = first_run(sections);
        VirtRange range{VirtAddr{}, size};
        AliasRun* nodes = nullptr;
        if (auto r = reserve(range, first, needed, nodes); !r) return r.error();
        VirtAddr va = range.start;
        Result<void> result;
        for (const Span<const PhysRange>& runs : sections) {
            for (const PhysRange& run : runs) {
                nodes = remember(nodes, va, run);
                if constexpr (requires { map_.on_alias(va, run, attributes); }) map_.on_alias(va, run, attributes);
                // By runs of its own: a leaf never reaches into the next section, wherever its memory comes from.
                if (result) result = map_range(core_, {home(va), run.size}, run.start, attributes);
                va = va + run.size;
            }
        }
        if (result) {
            count(1, size);
            if (sections.size() == 1) { // what runs on from one piece to the next
                heal_range(core_, {home(range.start), size});
            }
            return range;
        }
        const Error error = result.error();
        take_away(range, [](PhysRange) {});
        return in_area(error);
    }

    /// Changes permissions of `range`, which is mapped, and of every alias of its pages. What is given is given to this
    /// alias; what must not meet it is taken from all of them before: a page that becomes executable here is read-only
    /// everywhere first, one that becomes writable is not executable anywhere. Taking the right to write away holds for
    /// every alias, and so does giving it. Each step is flushed before the next begins.
    ///
    /// All or nothing across aliases (P4): what each of them would answer is asked, and the tables that all of them can
    /// use at worst are taken, before the first one changes; what wasn't used goes back. That holds whatever other CPUs
    /// do to the leaves around these pages meanwhile, and while CPUs are admitted; but a CPU that can't tolerate
    /// resizing isn't admitted to the direct map while pages of a static zone are changed here.
    ///
    /// May sleep, unless `options.atomic`: then all tables, those of this area too, come from what the map has set
    /// aside. Errors: unsupported (memory type and sharing can't differ between aliases), not_mapped, no_tables or
    /// would_block (and how many tables all aliases want together), busy (atomic, and the area's gate is being closed),
    /// and whatever `protect` of the direct map says about an alias. `where` is a physical address if the direct map
    /// refuses, otherwise the virtual address of the alias that does. After an error every alias has the attributes
    /// that it had before.
    [[nodiscard]] Result<void> protect(VirtRange range, Change change, ChangeOptions options = {}) {
        if (change.names_memory_type() || change.names_shared()) {
            return fail(reasons::alias_type, range.start);
        }
        if (auto r = check(range); !r) return r;
        if (change.names_writable() && change.values().writable() && change.names_executable() &&
            change.values().executable())
            return fail(reasons::writable_executable, range.start);
        const GateHold gate{*this, options.atomic};
        if (!gate.held()) return fail(reasons::area_gate_closing, range.start);
        const Steps steps = steps_of(change);
        Tables tables{map_, platform_, options};
        if (auto r = prepare(range, steps, options, tables); !r) return r;
        // Nothing is left that could fail.
        Result<void> result;
        if (!steps.take_everywhere.empty()) result = change_aliases(range, steps.take_everywhere, options, tables);
        if (result && !steps.take.empty()) result = change_here(range, steps.take, options, tables);
        if (result && !steps.give.empty()) result = change_here(range, steps.give, options, tables);
        if (result && !steps.give_everywhere.empty())
            result = change_aliases(range, steps.give_everywhere, options, tables);
        return result;
    }
    /// Changes this alias alone, for callers that have seen to the others (a pool whose pages are read-only in the
    /// direct map for good). Errors: as `protect`.
    [[nodiscard]] Result<void> protect_here(VirtRange range, Change change, ChangeOptions options = {}) {
        if (auto r = check(range); !r) return r;
        const GateHold gate{*this, options.atomic};
        if (!gate.held()) return fail(reasons::area_gate_closing, range.start);
        Tables tables{map_, platform_, options};
        auto result = plan_here(range, change, options, tables);
        if (result) result = take_tables(range, tables);
        if (result) result = change_here(range, change, options, tables);
        return result;
    }

    /// Takes a mapping away: `range` is what `map` returned. Calls `visit(PhysRange)` for the physical memory, piece by
    /// piece, once no CPU can reach it through this mapping any more. Other aliases stay as they are. Needs no memory
    /// and can't fail; a range that isn't a mapping's is left alone and gives false.
    template <class Visit>
    bool unmap(VirtRange range, Visit visit) {
        if (!check(range) || !is_mapping(range)) return false;
        take_away(range, visit);
        count(~std::uint64_t{0}, 0 - range.size);
        return true;
    }
    bool unmap(VirtRange range) {
        return unmap(range, [](PhysRange) {});
    }

    /// Where `va` leads. Errors: invalid_argument, not_mapped.
    [[nodiscard]] Result<Translation> translate(VirtAddr va) {
        if (!range_.contains(va)) return fail(reasons::not_in_area, va);
        const PhysAddr page{align_down(home(va).value(), G::page_size)};
        WalkerSection<P> walker{platform_};
        const auto run = find_run(core_, page, page + G::page_size);
        if (!F::is_leaf(run.level, run.value)) return fail(reasons::not_mapped, va);
        const bool group = G::has_groups(run.level) && run.value.any_of(F::contiguous_mask);
        return Translation{core_.format.leaf_address(run.level, run.value) + (home(va) - run.start),
                           core_.format.attributes(run.value),
                           {run.level, group, G::shift(run.level) + (group ? G::group_shift(run.level) : 0)}};
    }
    /// Calls `visit(VirtAddr, PhysRange)` for the physical memory behind `range`, in pieces as large as they run.
    template <class Visit>
    void each_piece(VirtRange range, Visit visit) {
        VirtAddr start = range.start;
        PhysRange open;
        for (VirtAddr va = range.start; va - range.start < range.size;) {
            const auto at = translate(va);
            const std::uint64_t inside =
                at ? (std::uint64_t{1} << at.value().leaf.shift) - (va.value() & (at.value().leaf.bytes() - 1))
                   : G::page_size;
            const std::uint64_t left = range.end() - va, size = inside < left ? inside : left;
            if (at && !open.empty() && open.end() == at.value().pa) {
                open.size += size;
            } else {
                if (!open.empty()) visit(start, open);
                open = at ? PhysRange{at.value().pa, size} : PhysRange{};
                start = va;
            }
            va = va + size;
        }
        if (!open.empty()) visit(start, open);
    }
    /// Calls `visit(VirtAddr, PhysRange)` for every place in this area that maps a part of `phys`.
    template <class Visit>
    void each_alias(PhysRange phys, Visit visit) {
        // Copied out, a few at a time, so that the visitor may do what it likes.
        const std::uint64_t first = phys.start.value() >> G::region_shift,
                            last = (phys.end() - 1).value() >> G::region_shift;
        for (VirtAddr after{};;) {
            constexpr unsigned batch = 8;
            AliasRun found[batch];
            unsigned n = 0;
            platform_.acquire(lock_);
            for (std::uint64_t region = first; region <= last && region - first < bucket_count; ++region) {
                for (const AliasRun* run = buckets_[region % bucket_count]; run != nullptr; run = run->next) {
                    if (!run->phys.overlaps(phys) || run->va < after) continue;
                    // The smallest addresses so far, in order.
                    unsigned i = n < batch ? n++ : batch;
                    if (i == batch) {
                        if (found[batch - 1].va < run->va) continue;
                        i = batch - 1;
                    }
                    for (; i != 0 && run->va < found[i - 1].va; --i) found[i] = found[i - 1];
                    found[i] = *run;
                }
            }
            platform_.release(lock_);
            for (unsigned i = 0; i < n; ++i) {
                const AliasRun& run = found[i];
                const PhysAddr from = run.phys.start < phys.start ? phys.start : run.phys.start;
                const PhysAddr to = run.phys.end() < phys.end() ? run.phys.end() : phys.end();
                visit(run.va + (from - run.phys.start), PhysRange{from, to - from});
            }
            if (n < batch) return;
            after = found[n - 1].va + 1;
        }
    }

    /// A CPU is about to enter (see DirectMap::admit, which comes first). An area is never repainted: where a CPU can't
    /// tolerate resizing, leaves keep their sizes from now on, and a change that would have to split one is refused.
    /// Waits for changes under way, which may sleep. Errors: unsupported (the CPU mishandles contiguous groups, and the
    /// area holds some).
    [[nodiscard]] Result<void> admit(CpuCapabilities cpu) {
        if (cpu.invalidate_twice) core_.gate.require_twice();
        const bool tolerates = cpu.tolerates_live_resize && !cpu.no_contiguous;
        if (cpu.no_contiguous) core_.gate.forbid_contiguous();
        if (!tolerates) close_gate();
        for (auto& region : core_.regions) RegionGuard<F, P> guard{core_, region}; // who saw the old gate is through
        if (tolerates) {
            decide_gate(Gate::Mode::open);
            return {};
        }
        StaleSet everything;
        everything.add({range_.start, range_.size, G::page_shift, {InvalidationScope::any_level, false}});
        (void)flush(platform_, everything, core_.flush_ceiling, core_.gate.invalidate_twice());
        for (unsigned i = 0; cpu.no_contiguous && i < G::leaf_sizes.count; ++i) {
            if (G::leaf_sizes.of[i].contiguous && statistics().leaves[i] != 0)
                return fail(reasons::area_groups, range_.start);
        }
        return {};
    }

    /// Frees tables that are empty but were left because too many others waited for walkers. May be called at any time.
    void trim() { free_empty_tables(core_, core_.span); }
    unsigned reclaim_tables() { return reclaim(core_); }

    [[nodiscard]] VirtRange range() const { return range_; }
    [[nodiscard]] AreaStatistics statistics() {
        AreaStatistics s;
        for (const auto& region : core_.regions) {
            for (unsigned i = 0; i < G::leaf_sizes.count; ++i) s.leaves[i] += region.leaves[i];
            s.counters += region.counters;
        }
        platform_.acquire(lock_);
        s.mappings = mappings_;
        s.bytes = bytes_;
        s.alias_failures = alias_failures_;
        platform_.release(lock_);
        return s;
    }

private:
    using Tables = TableList<F, Map>;

    /// Home addresses lie above every physical address, so that none is taken for one.
    static constexpr std::uint64_t home_base = std::uint64_t{1} << 56;
    static constexpr unsigned bucket_count = 64;

    [[nodiscard]] PhysAddr home(VirtAddr va) const { return PhysAddr{va.value() - core_.offset}; }
    [[nodiscard]] VirtAddr virt(PhysAddr home) const { return core_.virt(home); }
    /// Errors of an area tell virtual addresses.
    [[nodiscard]] Error in_area(Error error) const { return error.at(PhysAddr{virt(error.where()).value()}); }
    [[nodiscard]] static Error fail(const Reason& reason, VirtAddr where) { return {reason, PhysAddr{where.value()}}; }
    [[nodiscard]] Result<void> check(VirtRange range) const {
        if (((range.start.value() | range.size) & (G::page_size - 1)) != 0 || range.size == 0)
            return fail(reasons::misaligned_in_area, range.start);
        const std::uint64_t before = range.start - range_.start;
        if (before >= range_.size || range.size > range_.size - before) return fail(reasons::beyond_area, range.start);
        return {};
    }
    // The gate is changed under the area's lock.
    void decide_gate(Gate::Mode mode) {
        if (core_.gate.mode() != Gate::Mode::undecided) return;
        platform_.acquire(lock_);
        if (core_.gate.mode() == Gate::Mode::undecided) core_.gate.set(mode);
        platform_.release(lock_);
    }
    void sync_gate() { decide_gate(map_.gate_mode()); }
    /// Once every change that may have planned to resize is through; those that come meanwhile wait.
    void close_gate() {
        platform_.acquire(lock_);
        closing_ = true;
        while (changing_ != 0 && core_.gate.mode() != Gate::Mode::closed) {
            platform_.release(lock_);
            platform_.relax();
            platform_.acquire(lock_);
        }
        core_.gate.set(Gate::Mode::closed);
        closing_ = false;
        platform_.release(lock_);
    }
    /// Keeps the gate from being closed between a change's plan and its end. While it is being closed, waits, or isn't
    /// held.
    class [[nodiscard]] GateHold {
    public:
        GateHold(Area& area, bool atomic) : area_{area} {
            area.sync_gate();
            while (!enter() && !atomic) area.platform_.relax();
        }
        GateHold(const GateHold&) = delete;
        GateHold& operator=(const GateHold&) = delete;
        ~GateHold() {
            if (!held_) return;
            area_.platform_.acquire(area_.lock_);
            --area_.changing_;
            area_.platform_.release(area_.lock_);
        }
        [[nodiscard]] bool held() const { return held_; }

    private:
        [[nodiscard]] bool enter() {
            area_.platform_.acquire(area_.lock_);
            held_ = !area_.closing_;
            if (held_) ++area_.changing_;
            area_.platform_.release(area_.lock_);
            return held_;
        }

        Area& area_;
        bool held_ = false;
    };

    [[nodiscard]] Result<void> link_upper(PhysAddr at) {
        PhysAddr table_pa = core_.root;
        for (int level = G::root_level; level < G::first_leaf_level;) {
            const unsigned index = G::index(level, core_.va_of(at));
            const Descriptor d = platform_.load(platform_.table(table_pa), index);
            if (F::is_table(level, d)) {
                table_pa = F::table_address(d);
                ++level;
                continue;
            }
            PhysAddr child;
            if (!platform_.take_table(child, false)) return Error::needing(reasons::no_tables, 1);
            RegionGuard<F, P> guard{core_, core_.region_of(at)};
            WriteSection<P> writable{platform_};
            platform_.fill(platform_.table(child), 0, G::table_entries, Descriptor{}, 0);
            platform_.barrier_publish();
            platform_.store(platform_.table(table_pa), index, F::table(child));
            platform_.barrier_publish();
            platform_.barrier_context();
        }
        return {};
    }

    /// Unlinks the lowest upper table above `at` if it is empty; false if there is nothing to unlink.
    bool unlink_upper(PhysAddr at) {
        auto& region = core_.region_of(at);
        RegionGuard<F, P> guard{core_, region};
        auto parent = platform_.table(core_.root);
        unsigned index = 0;
        PhysAddr table_pa;
        int level = G::root_level;
        for (auto table = parent; level < G::first_leaf_level; ++level) {
            const unsigned i = G::index(level, core_.va_of(at));
            const Descriptor d = platform_.load(table, i);
            if (!F::is_table(level, d)) break;
            parent = table;
            index = i;
            table_pa = F::table_address(d);
            table = platform_.table(table_pa);
        }
        if (level == G::root_level) return false;
        for (unsigned i = 0; i < G::table_entries; ++i)
            if (!platform_.load(platform_.table(table_pa), i).empty()) return false;
        if (!detail::retire(core_, table_pa, level, &region)) return false;
        {
            WriteSection<P> writable{platform_};
            platform_.store(parent, index, Descriptor{});
        }
        detail::publish(core_, region);
        StaleSet stale;
        stale.add({virt(at), G::region_bytes, G::page_shift, {InvalidationScope::any_level, false}});
        detail::flush_now(core_, region, stale);
        detail::retired_flushed(core_, &region);
        return true;
    }

    [[nodiscard]] static PhysRange first_run(Span<const Span<const PhysRange>> sections) {
        for (const Span<const PhysRange>& runs : sections) {
            if (!runs.empty()) return runs[0];
        }
        return {};
    }

    // Addresses: a bit for each page, set while a mapping, or the guard behind one, has it.
    [[nodiscard]] bool taken(std::uint64_t page) const {
        return (pages_[static_cast<std::size_t>(page / 64)] >> (page % 64) & 1) != 0;
    }
    void mark(std::uint64_t page, std::uint64_t count, bool on) {
        for (std::uint64_t i = page; i < page + count; ++i) {
            const std::uint64_t bit = std::uint64_t{1} << (i % 64);
            std::uint64_t& word = pages_[static_cast<std::size_t>(i / 64)];
            word = on ? word | bit : word & ~bit;
        }
    }
    /// Finds addresses for `range.size` bytes and a guard, aligned so that `first` can have large leaves, and takes
    /// storage for `needed` aliases.
    [[nodiscard]] Result<void> reserve(VirtRange& range, PhysRange first, std::uint64_t needed, AliasRun*& nodes) {
        std::uint64_t alignment = G::page_size;
        for (unsigned i = G::leaf_sizes.count; i-- != 0;) {
            const std::uint64_t bytes = G::leaf_sizes.of[i].bytes();
            const std::uint64_t lost = (0 - first.start.value()) & (bytes - 1);
            if (lost + bytes <= first.size && bytes <= range_.size / 4) alignment = bytes;
        }
        const std::uint64_t phase = (first.start.value() & (alignment - 1)) >> G::page_shift;
        const std::uint64_t step = alignment >> G::page_shift, all = range_.size >> G::page_shift;
        const std::uint64_t count = (range.size >> G::page_shift) + 1;
        platform_.acquire(lock_);
        std::uint64_t got = 0;
        for (const AliasRun* node = free_aliases_; node != nullptr && got < needed; node = node->next) ++got;
        Result<void> result;
        if (got < needed) result = fail(reasons::no_alias_storage, range_.start);
        std::uint64_t page = phase;
        bool found = false;
        while (result && page + count <= all) {
            std::uint64_t used = page;
            while (used < page + count && !taken(used)) ++used;
            found = used == page + count;
            if (found) break;
            page = used + 1 <= phase ? phase : phase + (used + 1 - phase + step - 1) / step * step;
        }
        if (result && !found) result = fail(reasons::no_room, range_.start);
        if (result) {
            mark(page, count, true);
            range.start = range_.start + (page << G::page_shift);
            for (std::uint64_t i = 0; i < needed; ++i) {
                AliasRun* const node = free_aliases_;
                free_aliases_ = node->next;
                node->next = nodes;
                nodes = node;
            }
        }
        platform_.release(lock_);
        return result;
    }

    // Aliases: hashed by the region of physical memory that they lie in.
    [[nodiscard]] static unsigned bucket_of(PhysAddr pa) {
        return static_cast<unsigned>(pa.value() >> G::region_shift) % bucket_count;
    }
    /// Uses as many of `nodes` as `run` needs; returns the others.
    AliasRun* remember(AliasRun* nodes, VirtAddr va, PhysRange run) {
        platform_.acquire(lock_);
        while (!run.empty()) {
            const std::uint64_t room = G::region_bytes - (run.start.value() & (G::region_bytes - 1));
            const std::uint64_t size = run.size < room ? run.size : room;
            AliasRun* const node = nodes;
            nodes = node->next;
            node->va = va;
            node->phys = {run.start, size};
            AliasRun*& bucket = buckets_[bucket_of(run.start)];
            node->next = bucket;
            bucket = node;
            va = va + size;
            run = {run.start + size, run.size - size};
        }
        platform_.release(lock_);
        return nodes;
    }
    /// A mapping begins behind a page that isn't taken, or a guard, and ends at its own guard.
    [[nodiscard]] bool is_mapping(VirtRange range) {
        const bool before = range.start == range_.start || !translate(range.start - G::page_size);
        const bool after = range.end() - range_.start < range_.size && !translate(range.end());
        return before && after && translate(range.start) && translate(range.end() - G::page_size);
    }
    void count(std::uint64_t mappings, std::uint64_t bytes) {
        platform_.acquire(lock_);
        mappings_ += mappings;
        bytes_ += bytes;
        platform_.release(lock_);
    }

    /// The pieces in `range`, out of the buckets, in the order of their addresses.
    [[nodiscard]] AliasRun* detach(VirtRange range) {
        AliasRun* list = nullptr;
        platform_.acquire(lock_);
        for (AliasRun*& bucket : buckets_) {
            for (AliasRun** link = &bucket; *link != nullptr;) {
                AliasRun* const run = *link;
                if (!range.contains(run->va)) {
                    link = &run->next;
                    continue;
                }
                *link = run->next;
                run->next = list;
                list = run;
            }
        }
        platform_.release(lock_);
        return sorted(list);
    }
    /// A merge sort, which needs no memory.
    [[nodiscard]] static AliasRun* sorted(AliasRun* list) {
        if (list == nullptr || list->next == nullptr) return list;
        AliasRun* middle = list;
        for (AliasRun* end = list->next; end != nullptr && end->next != nullptr; end = end->next->next)
            middle = middle->next;
        AliasRun* upper = sorted(middle->next);
        middle->next = nullptr;
        AliasRun* lower = sorted(list);
        AliasRun* merged = nullptr;
        for (AliasRun** link = &merged; lower != nullptr || upper != nullptr; link = &(*link)->next) {
            AliasRun*& from = upper == nullptr || (lower != nullptr && lower->va < upper->va) ? lower : upper;
            *link = from;
            from = from->next;
        }
        return merged;
    }

    template <class Visit>
    void take_away(VirtRange range, Visit visit) {
        unmap_range(core_, {home(range.start), range.size}, [](PhysRange, PhysAddr) {});
        if constexpr (requires { map_.on_unmapped(range); }) map_.on_unmapped(range);
        AliasRun* list = detach(range);
        for (const AliasRun* run = list; run != nullptr; run = run->next) visit(run->phys);
        platform_.acquire(lock_);
        while (list != nullptr) {
            AliasRun* const run = list;
            list = run->next;
            run->phys = {};
            run->next = free_aliases_;
            free_aliases_ = run;
        }
        mark((range.start - range_.start) >> G::page_shift, (range.size >> G::page_shift) + 1, false);
        platform_.release(lock_);
    }

    /// What a change means for this alias and for the others. No step undoes another.
    struct Steps {
        Change take_everywhere; ///< first from the others
        Change take;            ///< and then from this alias, with what is taken from it alone
        Change give;            ///< to this alias
        Change give_everywhere; ///< to the others, what holds for all
    };
    [[nodiscard]] static Steps steps_of(Change change) {
        const Attributes to = change.values();
        const bool gives_write = change.names_writable() && to.writable();
        const bool gives_execute = change.names_executable() && to.executable();
        Steps steps;
        if ((change.names_writable() && !gives_write) || gives_execute)
            steps.take_everywhere = Change{}.writable(false);
        if (gives_write) steps.take_everywhere = Change{}.executable(false);
        steps.take = steps.take_everywhere;
        if (change.names_executable() && !gives_execute) steps.take = steps.take.executable(false);
        if (change.names_valid() && !to.valid()) steps.take = steps.take.valid(false);
        if (change.names_key()) steps.take = steps.take.key(to.key());
        if (gives_write) steps.give = steps.give_everywhere = Change{}.writable(true);
        if (gives_execute) steps.give = steps.give.executable(true);
        if (change.names_valid() && to.valid()) steps.give = steps.give.valid(true);
        return steps;
    }
    [[nodiscard]] static Change together(Change take, Change give) {
        if (give.names_writable()) take = take.writable(true);
        if (give.names_executable()) take = take.executable(true);
        if (give.names_valid()) take = take.valid(true);
        return take;
    }

    /// Finds out what the steps would be refused for, and takes the tables that they can use. An error on another alias
    /// is counted.
    [[nodiscard]] Result<void> prepare(VirtRange range, const Steps& steps, const ChangeOptions& options,
                                       Tables& tables) {
        auto result = plan_aliases(range, steps, options, tables);
        if (!result) count_alias_failure();
        if (!result) return result;
        const unsigned for_aliases = tables.wanted();
        result = plan_here(range, together(steps.take, steps.give), options, tables);
        if (!result) return result;
        result = take_tables(range, tables);
        if (!result && tables.count() < for_aliases) count_alias_failure();
        return result;
    }
    /// A table in a page that is being changed would lose its own mapping.
    [[nodiscard]] Result<void> take_tables(VirtRange range, Tables& tables) {
        return tables.take([&](PhysAddr table) {
            bool usable = true;
            if (!platform_.tables_mapped_here()) return usable;
            each_alias({table, G::page_size}, [&](VirtAddr va, PhysRange) { usable = usable && !range.contains(va); });
            return usable;
        });
    }
    /// Nobody merges leaves of an area once they are mapped, so what a change would take now is the most that it can.
    [[nodiscard]] Result<void> plan_here(VirtRange range, Change change, const ChangeOptions& options, Tables& tables) {
        if (change.empty()) return {};
        const auto planned = plan_tables(core_, {home(range.start), range.size}, change, options);
        if (!planned) return in_area(planned.error());
        if (may_resize(core_.gate.mode(), options)) tables.want(planned.value(), crosses_regions(range));
        return {};
    }
    [[nodiscard]] Result<void> plan_aliases(VirtRange range, const Steps& steps, const ChangeOptions& options,
                                            Tables& tables) {
        Result<void> result;
        if (steps.take_everywhere.empty()) return result; // nor is anything given to them then
        each_piece(range, [&](VirtAddr here, PhysRange phys) {
            if (result) result = plan_direct(phys, steps.take_everywhere, options, tables);
            if (result) result = plan_direct(phys, steps.give_everywhere, options, tables);
            each_alias(phys, [&](VirtAddr va, PhysRange part) {
                if (!result || va - here == part.start - phys.start) return;
                result =
                    plan_here({va, part.size}, together(steps.take_everywhere, steps.give_everywhere), options, tables);
            });
        });
        return result;
    }
    /// In the direct map leaves may merge at any time, also between two steps: as many tables as the ends can need,
    /// whatever leaves they lie in by then.
    [[nodiscard]] Result<void> plan_direct(PhysRange phys, Change change, const ChangeOptions& options,
                                           Tables& tables) {
        if (change.empty()) return {};
        if (const auto planned = map_.tables_needed(phys, change, options); !planned) return planned.error();
        if (!may_resize(map_.gate_mode(), options)) return {};
        const VirtRange range{map_.virt(phys.start), phys.size};
        const std::uint64_t start = range.start.value(), end = range.end().value();
        const bool cuts_start = can_cut(phys.start, change), cuts_end = can_cut(phys.end() - G::page_size, change);
        unsigned most = 0;
        for (int level = G::first_leaf_level; level != G::last_level; ++level) {
            const std::uint64_t inside = G::bytes(level) - 1;
            const bool at_start = cuts_start && (start & inside) != 0, at_end = cuts_end && (end & inside) != 0;
            const bool one_table = at_start && at_end && (start | inside) == (end | inside);
            most += one_table ? 1u : unsigned{at_start} + unsigned{at_end};
        }
        tables.want(most, crosses_regions(range));
        return {};
    }
    /// A closed gate stays closed.
    [[nodiscard]] static bool may_resize(Gate::Mode mode, const ChangeOptions& options) {
        return mode != Gate::Mode::closed || options.quiescent;
    }
    /// Whether the leaf around an end page is ever cut: it isn't if it agrees with the change, or is pinned.
    [[nodiscard]] bool can_cut(PhysAddr page, Change change) {
        const auto at = map_.translate(page);
        if (!at) return false;
        const Attributes attributes = at.value().attributes;
        return !attributes.fixed() && change.apply_to(attributes) != attributes;
    }
    /// Whether parts of `range` lie in several regions, and not all of them fill theirs.
    [[nodiscard]] static bool crosses_regions(VirtRange range) {
        const std::uint64_t start = range.start.value(), end = range.end().value();
        return start >> G::region_shift != (end - 1) >> G::region_shift && ((start | end) & (G::region_bytes - 1)) != 0;
    }
    void count_alias_failure() {
        platform_.acquire(lock_);
        ++alias_failures_;
        platform_.release(lock_);
    }

    [[nodiscard]] Result<void> change_here(VirtRange range, Change change, ChangeOptions options, Tables& tables) {
        options.deferred = nullptr;
        const auto r = tables.lend(options, [&](const ChangeOptions& with_loan) {
            return change_range(core_, {home(range.start), range.size}, change, with_loan);
        });
        if (r) return r;
        return in_area(r.error());
    }
    /// Every other place that maps the pages behind `range`: those in this area, and the direct map. It has been
    /// prepared; an error all the same is the caller's to know.
    [[nodiscard]] Result<void> change_aliases(VirtRange range, Change change, const ChangeOptions& options,
                                              Tables& tables) {
        Result<void> result;
        typename Map::DeferredFlush flush; // of the direct map: one for all pieces, done when this returns
        const bool gives = change.names_writable() && change.values().writable();
        const auto change_direct = [&](PhysRange phys, const ChangeOptions& with_loan) -> Result<void> {
            if (gives) return map_.protect(phys, change, with_loan); // which heals, if that is the policy
            auto changed = map_.protect_deferred(phys, change, with_loan);
            if (!changed) return changed.error();
            flush.merge(static_cast<typename Map::DeferredFlush&&>(changed.value()));
            return {};
        };
        each_piece(range, [&](VirtAddr here, PhysRange phys) {
            if (!result) return;
            result =
                tables.lend(options, [&](const ChangeOptions& with_loan) { return change_direct(phys, with_loan); });
            if (!result) return;
            each_alias(phys, [&](VirtAddr va, PhysRange part) {
                if (!result || va - here == part.start - phys.start) return;
                result = change_here({va, part.size}, change, options, tables);
            });
        });
        flush.complete();
        if (!result) count_alias_failure();
        return result;
    }

    Map& map_;
    P& platform_;
    VirtRange range_;
    Lock lock_{};
    Span<std::uint64_t> pages_;
    AliasRun* free_aliases_ = nullptr;
    AliasRun* buckets_[bucket_count] = {};
    std::uint64_t mappings_ = 0;
    std::uint64_t bytes_ = 0;
    std::uint64_t alias_failures_ = 0;
    unsigned changing_ = 0; ///< changes under way
    bool closing_ = false;  ///< the gate is about to be closed
    Core<F, P> core_;
};

} // namespace directmap

// Filling holes with leaves and taking leaves away again, while CPUs run on the map: hot-added memory, removed banks,
// and the areas of area.hpp.
//
// A home address is VA − offset, as everywhere in the engine. In a direct map it is also the physical address; in an
// area the leaves lead elsewhere, and nothing but this file has to know.
#pragma once

#include <cstdint>

#include "directmap/collapse.hpp"
#include "directmap/core.hpp"
#include "directmap/protect.hpp"
#include "directmap/reclaim.hpp"
#include "directmap/split.hpp"
#include "directmap/walk.hpp"

namespace directmap {

namespace detail {

/// Puts leaves into a hole of one region.
///
/// Empty entries need no break: a walk finds nothing or the leaf. A table that is new is filled before it is linked,
/// contiguous groups included. Each step finds its way from the root again, so that another CPU may meanwhile free a
/// table that was linked and is still empty. In a table that is live already, leaves are stored one by one without a
/// group bit (a group must never cover an entry that is still empty); a collapse closes the groups afterwards, if the
/// caller wants one.
template <Format F, Platform P>
class HoleFiller {
public:
    using G = typename F::geometry;
    using CoreType = Core<F, P>;
    using RegionState = typename CoreType::RegionState;
    using Table = typename P::Table;

    HoleFiller(CoreType& core, Attributes attributes, bool by_pages)
        : core_{core}, attributes_{attributes}, by_pages_{by_pages} {}

    /// `home` lies in one region and is empty; its first byte gets `pa`. Moves `at`, which starts at home.start, behind
    /// what is mapped. Errors: no_tables, busy (a hole is filled by two at once).
    [[nodiscard]] Result<void> run(PhysRange home, PhysAddr pa, PhysAddr& at) {
        RegionState& region = core_.region_of(home.start);
        Result<void> result;
        while (result && at < home.end()) {
            bool missing = false;
            {
                RegionGuard<F, P> guard{core_, region};
                WriteSection<P> writable{core_.platform};
                result = step(region, at, home.end(), pa + (at - home.start), missing);
            }
            if (!result || !missing) continue;
            has_spare_ = core_.platform.take_table(spare_, false);
            if (!has_spare_) result = Error::needing(reasons::no_tables, 1);
        }
        if (has_spare_) core_.platform.give_table(spare_);
        has_spare_ = false;
        RegionGuard<F, P> guard{core_, region};
        publish(core_, region);
        core_.platform.barrier_context();
        return result;
    }

private:
    [[nodiscard]] bool fits(int level, PhysAddr home, PhysAddr pa, std::uint64_t left) const {
        if (level == G::last_level) return true;
        if (level < G::first_leaf_level || by_pages_ || left < G::bytes(level)) return false;
        return ((core_.va_of(home) | pa.value()) & (G::bytes(level) - 1)) == 0;
    }

    /// Leaves of one table, or one new table. `missing` tells that a table has to be brought.
    [[nodiscard]] Result<void> step(RegionState& region, PhysAddr& at, PhysAddr end, PhysAddr pa, bool& missing) {
        P& platform = core_.platform;
        PhysAddr table_pa = core_.root;
        for (int level = G::root_level;; ++level) {
            const Table table = platform.table(table_pa);
            unsigned index = G::index(level, core_.va_of(at));
            const Descriptor d = platform.load(table, index);
            if (F::is_table(level, d)) {
                table_pa = F::table_address(d);
                continue;
            }
            if (!d.empty()) return skip_own(table, level, index, at, end, pa);
            if (fits(level, at, pa, end - at)) {
                for (; index != G::entries(level) && at < end && fits(level, at, pa, end - at); ++index) {
                    if (!platform.load(table, index).empty()) break;
                    platform.store(table, index, core_.format.leaf(level, pa, attributes_));
                    ++region.counters.stores;
                    count_leaves<G>(region, level, false, 1);
                    at = at + G::bytes(level);
                    pa = pa + G::bytes(level);
                }
                return {};
            }
            missing = !has_spare_;
            if (missing) return {};
            add_table(region, table, level, index, at, end, pa);
            return {};
        }
    }

    /// Leaves that the table got before it was linked. Anything else was there before.
    [[nodiscard]] Result<void> skip_own(Table table, int level, unsigned index, PhysAddr& at, PhysAddr end,
                                        PhysAddr pa) {
        for (; index != G::entries(level) && at < end; ++index) {
            const Descriptor d = core_.platform.load(table, index).without(F::contiguous_mask);
            if (d != core_.format.leaf(level, pa, attributes_) || !fits(level, at, pa, end - at)) break;
            at = at + G::bytes(level);
            pa = pa + G::bytes(level);
            skipped_ = true;
        }
        if (skipped_) {
            skipped_ = false;
            return {};
        }
        return Error{reasons::filled_by_another, at};
    }

    void add_table(RegionState& region, Table parent, int parent_level, unsigned index, PhysAddr at, PhysAddr end,
                   PhysAddr pa) {
        P& platform = core_.platform;
        const PhysAddr entry_end = core_.entry_start(at, G::shift(parent_level)) + G::bytes(parent_level);
        const std::uint64_t size = end - at < entry_end - at ? end - at : entry_end - at;
        fill_new(region, parent_level + 1, at, size, pa);
        publish(core_, region);
        // What lies above a region's own entries belongs to several regions.
        const bool shared = parent_level < G::first_leaf_level;
        if (shared) platform.acquire(core_.reclaim_lock);
        if (!shared || platform.load(parent, index).empty()) {
            platform.store(parent, index, F::table(spare_));
            has_spare_ = false;
            ++region.counters.stores;
            ++region.counters.tables_taken;
        }
        if (shared) platform.release(core_.reclaim_lock);
        publish(core_, region);
    }

    /// The spare table's contents: leaves wherever they fit, the rest empty.
    void fill_new(RegionState& region, int level, PhysAddr at, std::uint64_t size, PhysAddr pa) {
        P& platform = core_.platform;
        const Table table = platform.table(spare_);
        platform.fill(table, 0, G::table_entries, Descriptor{}, 0);
        region.counters.filled += G::table_entries;
        const unsigned shift = G::shift(level);
        const std::uint64_t va = core_.va_of(at), inside = G::bytes(level) - 1;
        const bool agrees = ((va ^ pa.value()) & inside) == 0;
        // (What is shared between regions is left empty: another CPU may link its own table first.)
        if (level <= G::first_leaf_level || !agrees || (by_pages_ && level != G::last_level)) return;
        const std::uint64_t first = (0 - va) & inside; // bytes before the first whole leaf
        if (size < first + G::bytes(level)) return;
        const unsigned count = static_cast<unsigned>((size - first) >> shift);
        const unsigned start = G::index(level, va + first);
        const bool groups = !by_pages_ && G::has_groups(level) && core_.gate.contiguous_allowed() &&
                            ((va ^ pa.value()) & (G::group_bytes(level) - 1)) == 0;
        const unsigned group = G::group_entries(level);
        unsigned done = 0;
        const auto until = [&](unsigned stop, bool contiguous) {
            for (; done < stop; ++done) {
                const PhysAddr to = pa + first + (std::uint64_t{done} << shift);
                const Descriptor leaf = core_.format.leaf(level, to, attributes_);
                platform.fill(table, start + done, 1, contiguous ? leaf | F::contiguous_mask : leaf, 0);
                if (!contiguous || done % group == (0u - start) % group)
                    count_leaves<G>(region, level, contiguous, contiguous ? group : 1);
            }
        };
        if (groups) {
            const unsigned head = (0u - start) & (group - 1);
            until(head < count ? head : count, false);
            until(done + ((count - done) & ~(group - 1)), true);
        }
        until(count, false);
    }

    CoreType& core_;
    Attributes attributes_;
    bool by_pages_;
    bool has_spare_ = false;
    bool skipped_ = false;
    PhysAddr spare_;
};

/// Takes the leaves of one region's part away. Needs no memory and can't fail: break, unlink what is empty by then,
/// one flush, and only then let the entries forget what they led to.
template <Format F, Platform P>
class Unmapper {
public:
    using G = typename F::geometry;
    using CoreType = Core<F, P>;
    using RegionState = typename CoreType::RegionState;
    using Table = typename P::Table;

    explicit Unmapper(CoreType& core) : core_{core} {}

    /// `part` holds whole leaves, or nothing. Calls `visit(PhysRange home, PhysAddr pa)` for each leaf, before the
    /// flush: the memory is free once this has returned.
    template <class Visit>
    void run(PhysRange part, Visit visit) {
        RegionState& region = core_.region_of(part.start);
        RegionGuard<F, P> guard{core_, region};
        WriteSection<P> writable{core_.platform};
        each_leaf(part, [&](const Run<Table>& run, unsigned index, Descriptor d) {
            const PhysAddr home = run.start + (std::uint64_t{index - run.first} << G::shift(run.level));
            visit(PhysRange{home, G::bytes(run.level)}, core_.format.leaf_address(run.level, d));
            const bool grouped = d.any_of(F::contiguous_mask);
            if (!grouped) count_leaves<G>(region, run.level, false, -1);
            if (grouped && (index & (G::group_entries(run.level) - 1)) == 0)
                count_leaves<G>(region, run.level, true, -static_cast<std::int64_t>(G::group_entries(run.level)));
            core_.platform.store(run.table, index, d.without(F::valid_mask | F::contiguous_mask) | F::broken_mask);
            ++region.counters.stores;
        });
        publish(core_, region);
        unlink_empty(region, part);
        const StaleRange stale{
            core_.virt(part.start), part.size, G::page_shift, {InvalidationScope::any_level, !unlinked_}};
        if (unlinked_) publish(core_, region);
        flush_now(core_, region, {&stale, 1});
        if (unlinked_) retired_flushed(core_, &region);
        each_leaf(part, [&](const Run<Table>& run, unsigned index, Descriptor) {
            core_.platform.store(run.table, index, Descriptor{});
            ++region.counters.stores;
        });
        publish(core_, region);
        core_.platform.barrier_context();
    }

    /// Frees the tables that serve nothing in `part`: those for which there was no place among the retired.
    void sweep(PhysRange part) {
        RegionState& region = core_.region_of(part.start);
        RegionGuard<F, P> guard{core_, region};
        WriteSection<P> writable{core_.platform};
        unlink_empty(region, part);
        if (!unlinked_) return;
        publish(core_, region);
        const StaleRange stale{core_.virt(part.start), part.size, G::page_shift, {InvalidationScope::any_level, false}};
        flush_now(core_, region, {&stale, 1});
        retired_flushed(core_, &region);
    }

private:
    template <class Visit>
    void each_leaf(PhysRange part, Visit visit) {
        for (PhysAddr pa = part.start; pa < part.end();) {
            const auto run = find_run(core_, pa, part.end());
            for (unsigned i = run.first; i < run.first + run.count; ++i) {
                const Descriptor d = core_.platform.load(run.table, i);
                if (F::is_leaf(run.level, d)) visit(run, i, d);
            }
            pa = run_end<F>(run, part.end());
        }
    }

    void unlink_empty(RegionState& region, PhysRange part) {
        const PhysAddr base = core_.entry_start(part.start, G::region_shift);
        int level = G::root_level;
        Table table = core_.platform.table(core_.root);
        for (; level != G::first_leaf_level; ++level) {
            const Descriptor d = core_.platform.load(table, G::index(level, core_.va_of(base)));
            if (!F::is_table(level, d)) return;
            table = core_.platform.table(F::table_address(d));
        }
        unlink_children(region, table, level, G::index(level, core_.va_of(base)), G::region_entries, base, part);
    }
    void unlink_children(RegionState& region, Table table, int level, unsigned first, unsigned count, PhysAddr base,
                         PhysRange part) {
        const std::uint64_t size = G::bytes(level);
        for (unsigned i = 0; i < count; ++i) {
            const PhysRange covers{base + i * size, size};
            const Descriptor d = core_.platform.load(table, first + i);
            if (!covers.overlaps(part) || !F::is_table(level, d)) continue;
            const PhysAddr child_pa = F::table_address(d);
            const Table child = core_.platform.table(child_pa);
            if (level + 1 != G::last_level)
                unlink_children(region, child, level + 1, 0, G::table_entries, covers.start, part);
            bool empty = true;
            for (unsigned e = 0; empty && e < G::table_entries; ++e) {
                const Descriptor entry = core_.platform.load(child, e);
                empty = entry.empty() || (F::is_leaf(level + 1, entry) && entry.any_of(F::broken_mask));
            }
            if (!empty || !retire(core_, child_pa, level + 1, &region)) continue;
            core_.platform.store(table, first + i, Descriptor{});
            ++region.counters.stores;
            ++region.counters.tables_returned;
            unlinked_ = true;
        }
    }

    CoreType& core_;
    bool unlinked_ = false;
};

/// The first table of the map that lies in `range`, if any: memory that holds tables can't be taken away.
template <Format F, Platform P>
[[nodiscard]] bool find_table_in(Core<F, P>& core, PhysAddr table_pa, int level, PhysRange range, PhysAddr& found) {
    using G = typename F::geometry;
    if (range.contains(table_pa)) {
        found = table_pa;
        return true;
    }
    if (level == G::last_level) return false;
    const auto table = core.platform.table(table_pa);
    for (unsigned i = 0; i < G::entries(level); ++i) {
        const Descriptor d = core.platform.load(table, i);
        if (F::is_table(level, d) && find_table_in(core, F::table_address(d), level + 1, range, found)) return true;
    }
    return false;
}

} // namespace detail

/// Takes all leaves in `range` away; every leaf lies wholly inside. Holes are fine. Calls `visit(PhysRange home,
/// PhysAddr pa)` for each leaf. Once this returns no CPU uses any of them, and what they led to may be reused. Needs no
/// memory and can't fail; tables that became empty come back after the grace period, by this or by `reclaim`.
template <Format F, Platform P, class Visit>
void unmap_range(Core<F, P>& core, PhysRange range, Visit visit) {
    for (PhysAddr pa = range.start; pa < range.end();) {
        const PhysAddr end = core.region_end(pa, range.end());
        detail::Unmapper<F, P>{core}.run({pa, end - pa}, visit);
        (void)reclaim(core);
        pa = end;
    }
}

/// Frees tables in `range` that map nothing.
template <Format F, Platform P>
void free_empty_tables(Core<F, P>& core, PhysRange range) {
    for (PhysAddr pa = range.start; pa < range.end();) {
        const PhysAddr end = core.region_end(pa, range.end());
        detail::Unmapper<F, P>{core}.sweep({pa, end - pa});
        (void)reclaim(core);
        pa = end;
    }
}

/// Maps `home`, a hole that the caller owns, to the physical memory from `pa` on, with the largest leaves that both
/// alignments allow, or `by_pages`. Errors: invalid_argument (something is mapped there), no_tables. After an error the
/// range is the hole that it was.
template <Format F, Platform P>
[[nodiscard]] Result<void> map_range(Core<F, P>& core, PhysRange home, PhysAddr pa, Attributes attributes,
                                     bool by_pages = false) {
    Result<void> result;
    walk(core, home, [&](const Leaf& leaf) {
        if (leaf.mapped) result = Error{reasons::occupied, leaf.range.start};
        return !leaf.mapped;
    });
    if (!result) return result;
    PhysAddr at = home.start;
    while (result && at < home.end()) {
        const PhysAddr start = at, end = core.region_end(at, home.end());
        detail::HoleFiller<F, P> filler{core, attributes, by_pages};
        result = filler.run({start, end - start}, pa + (start - home.start), at);
    }
    if (!result) unmap_range(core, home, [](PhysRange, PhysAddr) {});
    return result;
}

/// Whether `range` can be taken away: wholly mapped by leaves that don't reach beyond it, and home of no table of the
/// map. Errors: not_mapped (a hole), incompatible (the leaf, or the table).
template <Format F, Platform P>
[[nodiscard]] Result<void> check_removable(Core<F, P>& core, PhysRange range) {
    Result<void> result;
    walk(core, range, [&](const Leaf& leaf) {
        if (!leaf.mapped) {
            result = Error{reasons::hole, leaf.range.start};
        } else if (leaf.range.start < range.start || range.end() < leaf.range.end()) {
            result = Error{reasons::leaf_beyond_range, leaf.range.start};
        }
        return result.ok();
    });
    if (!result) return result;
    WalkerSection<P> walker{core.platform};
    PhysAddr table;
    if (core.platform.tables_mapped_here() &&
        detail::find_table_in(core, core.root, F::geometry::root_level, range, table)) {
        return Error{reasons::table_in_range, table};
    }
    return {};
}

} // namespace directmap

// Collapsing: pages → group → block → group of blocks → larger block, wherever addresses run and every attribute and
// the validity agree. Each table is read once; a subtree that agrees as a whole becomes one leaf with one store.
#pragma once

#include <cstdint>

#include "directmap/core.hpp"
#include "directmap/protect.hpp"
#include "directmap/reclaim.hpp"
#include "directmap/split.hpp"

namespace directmap {

/// How far a collapse came.
struct CollapseProgress {
    bool finished = true; ///< the whole range has been looked at
    PhysAddr next;        ///< otherwise: where to go on
    std::uint64_t tables_read = 0;
    std::uint64_t tables_freed = 0; ///< unlinked; they reach the table source after the grace period
};

namespace detail {

/// The collapse of one region, with its lock held and nothing in it unflushed.
template <Format F, Platform P>
class RegionCollapse {
public:
    using G = typename F::geometry;
    using CoreType = Core<F, P>;
    using Table = typename P::Table;
    static_assert(G::leaf_levels <= 3);

    RegionCollapse(CoreType& core, typename CoreType::RegionState& region, PhysRange scope, std::uint64_t budget,
                   CollapseProgress& progress)
        : core_{core}, region_{region}, scope_{scope}, budget_{budget}, progress_{progress} {}

    /// Returns what is left of the budget.
    std::uint64_t run() {
        const PhysAddr base = core_.entry_start(scope_.start, G::region_shift);
        int level = G::root_level;
        Table table = core_.platform.table(core_.root);
        for (; level != G::first_leaf_level; ++level) { // down to the region's largest entries
            const Descriptor d = core_.platform.load(table, G::index(level, core_.va_of(base)));
            if (!F::is_table(level, d)) return budget_; // nothing is mapped here
            table = core_.platform.table(F::table_address(d));
        }
        WriteSection<P> writable{core_.platform};
        read_top(table, G::index(level, core_.va_of(base)), base);
        settle();
        return budget_;
    }

private:
    /// What a table amounts to that is the same as one leaf.
    struct Whole {
        Descriptor leaf; ///< one level up
        std::uint32_t leaves[6] = {};
        std::uint32_t tables = 0;
    };
    [[nodiscard]] bool in_scope(PhysAddr start, std::uint64_t size) const {
        return start < scope_.end() && scope_.start < start + size;
    }

    /// Whether entries of `level` that continue `first` may become one leaf of the level above.
    [[nodiscard]] bool may_rise(int level, Descriptor first) const {
        return level > G::first_leaf_level && F::is_leaf(level, first) && !first.any_of(F::fixed_mask) &&
               core_.aligned_for(G::shift(level - 1)) &&
               core_.format.leaf_address(level, first).aligned(G::bytes(level - 1));
    }

    void stop_at(PhysAddr where) {
        if (!scope_.contains(where)) where = scope_.start;
        if (progress_.finished || where < progress_.next) progress_.next = where;
        progress_.finished = false;
    }

    /// Reads a last-level table: true if it amounts to a leaf, which `pages_` then describes. Otherwise closes what
    /// groups agree.
    [[nodiscard, gnu::noinline]] bool read_pages(Table table, PhysAddr base) {
        constexpr int level = G::last_level;
        constexpr unsigned entries = G::table_entries, chunk = entries < 64 ? entries : 64;
        P& platform = core_.platform;
        ++progress_.tables_read;
        if (budget_ != 0) --budget_;
        const Descriptor first = platform.load(table, 0);
        const Descriptor expected = first.without(F::contiguous_mask);
        bool uniform = may_rise(level, first);
        RunSummary differences;
        for (unsigned i = 0; uniform && i < entries; i += chunk) {
            const RunSummary s = platform.summarize(table, i, chunk, expected.advanced(i * G::page_size), G::page_size);
            uniform = s.any.without(F::contiguous_mask).empty();
            differences.any = differences.any | s.any;
            differences.all = differences.all & s.all;
        }
        if (!uniform) {
            close_groups(table, level, 0, entries, base);
            return false;
        }
        pages_ = {};
        pages_.leaf = F::parent_of(level - 1, expected);
        unsigned grouped = differences.all.any_of(F::contiguous_mask) ? entries : 0;
        if (grouped == 0 && differences.any.any_of(F::contiguous_mask)) {
            for (unsigned i = 0; i < entries; ++i)
                grouped += platform.load(table, i).any_of(F::contiguous_mask) ? 1u : 0u;
        }
        if (grouped != 0) pages_.leaves[G::leaf_size_index(level, true)] = grouped >> G::group_shift(level);
        pages_.leaves[G::leaf_size_index(level, false)] = entries - grouped;
        pages_.tables = 1;
        return true;
    }

    /// Null if the table doesn't amount to a leaf.
    [[nodiscard]] const Whole* read_child(PhysAddr child, int level, PhysAddr base) {
        const Table table = core_.platform.table(child);
        if constexpr (G::leaf_levels > 2) {
            if (level != G::last_level) return read_middle(table, base) ? &middle_ : nullptr;
        }
        return read_pages(table, base) ? &pages_ : nullptr;
    }

    /// The region's own entries: a child table that amounts to a leaf becomes one, then groups are closed.
    void read_top(Table table, unsigned first, PhysAddr base) {
        constexpr int level = G::first_leaf_level;
        constexpr std::uint64_t size = G::bytes(level);
        for (unsigned i = 0; i < G::region_entries; ++i) {
            const PhysAddr start = base + i * size;
            if (!in_scope(start, size)) continue;
            const Descriptor d = core_.platform.load(table, first + i);
            if (!F::is_table(level, d)) continue;
            if (budget_ == 0) {
                stop_at(start);
                break;
            }
            const Whole* const child = read_child(F::table_address(d), level + 1, start);
            if (child != nullptr) replace(table, level, first + i, start, *child);
        }
        close_all_groups(table, level, first, G::region_entries, base);
    }

    /// Reads a table between the region's own and the last level. True if it amounts to one larger leaf, which
    /// `middle_` then describes: nothing is stored. Otherwise replaces each child table that amounts to a leaf, and
    /// closes what groups agree.
    [[nodiscard, gnu::noinline]] bool read_middle(Table table, PhysAddr base) {
        constexpr int level = G::last_level - 1;
        constexpr unsigned count = G::table_entries;
        constexpr std::uint64_t size = G::bytes(level);
        P& platform = core_.platform;
        std::uint64_t marks[(count + 63) / 64] = {}; // children that amount to a leaf
        middle_ = {};
        bool uniform = true;
        bool spent = false;  // out of budget: what has been read must not have to be read again
        Descriptor expected; // of entry 0
        // In scope first: where a change has just been made the answer is usually no. Then the rest, if it matters.
        for (unsigned pass = 0; pass < 2 && (pass == 0 || uniform); ++pass) {
            for (unsigned i = 0; i < count && (pass == 0 || uniform); ++i) {
                const PhysAddr start = base + i * size;
                if (in_scope(start, size) != (pass == 0)) continue;
                const Descriptor d = platform.load(table, i);
                Descriptor value = d.without(F::contiguous_mask);
                if (F::is_table(level, d)) {
                    if (budget_ == 0) {
                        stop_at(start);
                        uniform = false;
                        spent = true;
                        break;
                    }
                    if (read_pages(core_.platform.table(F::table_address(d)), start)) {
                        marks[i / 64] |= std::uint64_t{1} << (i % 64);
                        for (unsigned s = 0; s < G::leaf_sizes.count; ++s) middle_.leaves[s] += pages_.leaves[s];
                        ++middle_.tables;
                        value = pages_.leaf;
                    } else {
                        uniform = false;
                    }
                } else if (!d.any_of(F::contiguous_mask)) {
                    ++middle_.leaves[G::leaf_size_index(level, false)];
                } else if ((i & (G::group_entries(level) - 1)) == 0) {
                    ++middle_.leaves[G::leaf_size_index(level, true)];
                }
                if (!uniform) continue;
                const Descriptor zeroth = value.advanced(std::uint64_t{0} - i * size);
                if (expected.empty()) {
                    uniform = F::is_leaf(level, value) && may_rise(level, zeroth);
                    expected = zeroth;
                } else {
                    uniform = zeroth == expected;
                }
            }
        }
        if (uniform) {
            middle_.leaf = F::parent_of(level - 1, expected);
            ++middle_.tables;
            return true;
        }
        for (unsigned i = 0; i < count; ++i) {
            if ((marks[i / 64] >> (i % 64) & 1) == 0) continue;
            const PhysAddr child = F::table_address(platform.load(table, i)), start = base + i * size;
            if (!spent && !in_scope(start, size)) continue;
            read_again(child);
            replace(table, level, i, start, pages_);
        }
        close_all_groups(table, level, 0, count, base);
        return false;
    }

    [[gnu::noinline]] void close_all_groups(Table table, int level, unsigned first, unsigned count, PhysAddr base) {
        complete_groups(table, level, first, count, base);
        if (unlinked_) publish(core_, region_); // a group bit must not cover an entry that still is a table somewhere
        close_groups(table, level, first, count, base);
    }

    /// A last-level table that is known to be uniform and has been paid for.
    void read_again(PhysAddr child) {
        const std::uint64_t budget = budget_, read = progress_.tables_read;
        (void)read_pages(core_.platform.table(child), PhysAddr{});
        budget_ = budget;
        progress_.tables_read = read;
    }

    /// Groups that reach beyond the scope: what is left of them outside may still be tables. Those become leaves too,
    /// as long as they agree with what is inside, so that the group can be closed.
    void complete_groups(Table table, int level, unsigned first, unsigned count, PhysAddr base) {
        if (!core_.groups_allowed(level)) return;
        const unsigned group = G::group_entries(level);
        const std::uint64_t size = G::bytes(level), group_size = G::group_bytes(level);
        for (unsigned i = 0; i + group <= count; i += group) {
            const PhysAddr start = base + i * size;
            const bool partly =
                in_scope(start, group_size) && (start < scope_.start || scope_.end() < start + group_size);
            if (partly) complete_group(table, level, first + i, start);
        }
    }
    [[gnu::noinline]] void complete_group(Table table, int level, unsigned first, PhysAddr start) {
        P& platform = core_.platform;
        const unsigned group = G::group_entries(level);
        const std::uint64_t size = G::bytes(level);
        Descriptor expected; // of the group's first entry
        bool tables = false;
        const auto agrees = [&](unsigned i, Descriptor leaf) {
            const Descriptor zeroth = leaf.advanced(std::uint64_t{0} - i * size);
            if (expected.empty()) expected = zeroth;
            return zeroth == expected;
        };
        for (unsigned i = 0; i < group; ++i) {
            const Descriptor d = platform.load(table, first + i);
            if (F::is_table(level, d)) {
                if (in_scope(start + i * size, size)) return;
                tables = true;
            } else if (!F::is_leaf(level, d) || d.any_of(F::fixed_mask | F::contiguous_mask) || !agrees(i, d)) {
                return;
            }
        }
        if (!tables || !core_.format.leaf_address(level, expected).aligned(G::group_bytes(level))) return;
        for (unsigned i = 0; i < group; ++i) {
            const Descriptor d = platform.load(table, first + i);
            if (!F::is_table(level, d)) continue;
            if (budget_ == 0) return stop_at(scope_.start);
            const Whole* const child = read_child(F::table_address(d), level + 1, start + i * size);
            if (child == nullptr || !agrees(i, child->leaf)) return;
            replace(table, level, first + i, start + i * size, *child);
        }
    }

    /// One store puts the leaf over the table, which is kept until flush and grace period are over.
    void replace(Table table, int level, unsigned index, PhysAddr start, const Whole& child) {
        const PhysAddr child_pa = F::table_address(core_.platform.load(table, index));
        if (!retire(core_, child_pa, level + 1, &region_)) {
            stop_at(start);
            return;
        }
        core_.platform.store(table, index, child.leaf);
        unlinked_ = true;
        ++region_.counters.stores;
        ++region_.counters.collapses;
        region_.counters.tables_returned += child.tables;
        progress_.tables_freed += child.tables;
        for (unsigned s = 0; s < G::leaf_sizes.count; ++s) region_.leaves[s] -= child.leaves[s];
        ++region_.leaves[G::leaf_size_index(level, false)];
        stale_.add({core_.virt(start), G::bytes(level), G::page_shift, {InvalidationScope::any_level, false}});
    }

    [[gnu::noinline]] void close_groups(Table table, int level, unsigned first, unsigned count, PhysAddr base) {
        if (!core_.groups_allowed(level)) return;
        const unsigned group = G::group_entries(level);
        const std::uint64_t size = G::bytes(level);
        for (unsigned i = 0; i + group <= count; i += group) {
            const PhysAddr start = base + i * size;
            if (!in_scope(start, G::group_bytes(level))) continue;
            const Descriptor d = core_.platform.load(table, first + i);
            if (!F::is_leaf(level, d) || d.any_of(F::fixed_mask | F::contiguous_mask)) continue;
            if (!core_.format.leaf_address(level, d).aligned(G::group_bytes(level))) continue;
            if (!core_.platform.summarize(table, first + i, group, d, size).any.empty()) continue;
            core_.platform.update(table, first + i, group, {Descriptor{}, F::contiguous_mask});
            region_.counters.stores += group;
            ++region_.counters.groups_closed;
            count_leaves<G>(region_, level, false, -static_cast<std::int64_t>(group));
            count_leaves<G>(region_, level, true, group);
            stale_.add(
                {core_.virt(start), G::group_bytes(level), G::shift(level), {InvalidationScope::any_level, true}});
        }
    }

    /// One flush for everything that was merged; only then may the tables be reclaimed.
    void settle() {
        if (stale_.empty()) return;
        publish(core_, region_);
        if (unlinked_ && omits(core_.platform, Omission::flush_to_reclaim)) retired_flushed(core_, &region_);
        flush_now(core_, region_, stale_);
        if (unlinked_) retired_flushed(core_, &region_);
    }

    CoreType& core_;
    typename CoreType::RegionState& region_;
    PhysRange scope_;
    std::uint64_t budget_;
    CollapseProgress& progress_;
    bool unlinked_ = false;
    Whole pages_, middle_; ///< the last table of each kind that amounted to a leaf
    StaleSet stale_;
};

/// Collapses within one region; `scope` doesn't leave it. Returns what is left of `budget`.
template <Format F, Platform P>
std::uint64_t collapse_region(Core<F, P>& core, PhysRange scope, std::uint64_t budget, CollapseProgress& progress) {
    auto& region = core.region_of(scope.start);
    RegionGuard<F, P> guard{core, region};
    if (!core.gate.may_merge()) return budget;
    if (region.preparing != 0 && !omits(core.platform, Omission::prepare_check)) return budget;
    const bool unflushed = region.unflushed != 0 || region.deferred;
    if (unflushed && !omits(core.platform, Omission::flush_to_merge)) flush_region(core, region, scope.start);
    return RegionCollapse<F, P>{core, region, scope, budget, progress}.run();
}

} // namespace detail

/// Makes leaves as large as they can be wherever a larger one would overlap `range`, reading at most `budget` tables,
/// and adds to `progress`. Errors: busy / unsupported by the gate. If it isn't `finished`, the caller goes on at
/// `next`.
template <Format F, Platform P>
[[nodiscard, gnu::noinline]] Result<void> collapse_range(Core<F, P>& core, PhysRange range, std::uint64_t budget,
                                                         CollapseProgress& progress) {
    if (!core.gate.may_merge()) return detail::gate_refusal(core, range.start);
    progress.next = range.end();
    for (PhysAddr pa = range.start; pa < range.end();) {
        const PhysAddr end = core.region_end(pa, range.end());
        if (budget == 0) {
            progress.finished = false;
            progress.next = pa;
            break;
        }
        const std::uint64_t freed = progress.tables_freed;
        budget = detail::collapse_region(core, {pa, end - pa}, budget, progress);
        const bool reclaimed = reclaim(core) == 0;
        if (!progress.finished) {
            // Out of budget, or out of places for retired tables: the latter are free again unless a walker stalls.
            if (budget == 0 || !reclaimed || progress.tables_freed == freed) break;
            progress.finished = true;
            pa = progress.next;
            progress.next = range.end();
            continue;
        }
        pa = end;
    }
    return {};
}

/// Collapse after a change. A gate that doesn't allow it, or a walker in the way, is no error of the change.
template <Format F, Platform P>
[[gnu::noinline]] void heal_range(Core<F, P>& core, PhysRange range) {
    CollapseProgress progress;
    (void)collapse_range(core, range, ~std::uint64_t{0}, progress);
}

/// Background collapse: continues through the regions that were touched since they were last looked at and have been
/// quiet for long enough, reading at most `budget` tables.
template <Format F, Platform P>
CollapseProgress background_step(Core<F, P>& core, std::uint64_t budget) {
    using G = typename F::geometry;
    CollapseProgress total;
    const std::uint64_t now = core.platform.now();
    for (std::size_t looked = 0; looked < core.regions.size() && budget != 0; ++looked) {
        const std::size_t index = core.background_region % core.regions.size();
        auto& region = core.regions[index];
        const bool touched = __atomic_load_n(&region.touched, __ATOMIC_RELAXED);
        const bool quiet = now - __atomic_load_n(&region.last_change, __ATOMIC_RELAXED) >= core.quiet_time;
        if (!touched || !quiet) {
            core.background_region = index + 1;
            continue;
        }
        const PhysAddr base{((core.first_region + index) << G::region_shift) - core.offset};
        const PhysAddr start = base < core.span.start || base > core.span.end() ? core.span.start : base;
        const PhysAddr end = core.region_end(start, core.span.end());
        __atomic_store_n(&region.touched, false, __ATOMIC_RELAXED); // before reading: a change meanwhile sets it again
        const std::uint64_t left = budget + total.tables_read;
        if (!collapse_range(core, {start, end - start}, budget, total) || !total.finished) {
            __atomic_store_n(&region.touched, true, __ATOMIC_RELAXED);
            break;
        }
        budget = left > total.tables_read ? left - total.tables_read : 0;
        core.background_region = index + 1;
    }
    return total;
}

} // namespace directmap

// Bringing leaves to single pages: what `prepare` does to a range and `repaint` to the whole map.
#pragma once

#include <cstdint>

#include "directmap/collapse.hpp"
#include "directmap/core.hpp"
#include "directmap/protect.hpp"
#include "directmap/reclaim.hpp"

namespace directmap {

namespace detail {

/// A table, and all tables below it, that say the same as one leaf, by pages. Built with no lock held and nothing
/// pointing to it.
template <Format F, Platform P>
class PagesBuilder {
public:
    using G = typename F::geometry;

    explicit PagesBuilder(Core<F, P>& core) : core_{core} {}

    /// False if the table source ran out; then nothing is left behind. Tables are writable while they are filled, not
    /// while the source, which may sleep, is asked for the next one.
    [[nodiscard, gnu::noinline]] bool build(int level, Descriptor leaf, PhysAddr& pa) {
        P& platform = core_.platform;
        if (!platform.take_table(pa, false)) return false;
        const int child_level = level + 1;
        const auto table = platform.table(pa);
        if (child_level == G::last_level) {
            WriteSection<P> writable{platform};
            platform.fill(table, 0, G::table_entries, F::child_of(level, leaf), G::page_size);
            return true;
        }
        const std::uint64_t step = G::bytes(child_level);
        const Descriptor child = F::child_of(level, leaf);
        for (unsigned i = 0; i < G::table_entries; ++i) {
            PhysAddr below;
            const bool built = build(child_level, child.advanced(i * step), below);
            {
                WriteSection<P> writable{platform};
                platform.fill(table, i, built ? 1 : G::table_entries - i, built ? F::table(below) : Descriptor{}, 0);
            }
            if (!built) {
                free_subtree(core_, pa, child_level);
                return false;
            }
        }
        return true;
    }

    /// The same tables for another leaf at the same place: its attributes changed while they were built.
    [[gnu::noinline]] void refill(int level, Descriptor leaf, PhysAddr pa) {
        P& platform = core_.platform;
        const int child_level = level + 1;
        const auto table = platform.table(pa);
        const std::uint64_t step = G::bytes(child_level);
        const Descriptor child = F::child_of(level, leaf);
        if (child_level == G::last_level) {
            platform.fill(table, 0, G::table_entries, child, step);
            return;
        }
        for (unsigned i = 0; i < G::table_entries; ++i) {
            refill(child_level, child.advanced(i * step), F::table_address(platform.load(table, i)));
        }
    }

    /// Tables in a subtree below a leaf of `level`.
    [[nodiscard]] static constexpr unsigned tables(int level) {
        return level + 1 == G::last_level ? 1 : 1 + G::table_entries * tables(level + 1);
    }

private:
    Core<F, P>& core_;
};

/// Leaves that fill more than a page and lie wholly in `part` (one region, no fixed leaves counted) become pages.
/// `missing` tells what to do about holes and fixed leaves: repaint skips them, prepare refuses.
enum class Obstacle : std::uint8_t { skip, refuse };

template <Format F, Platform P>
class ToPages {
public:
    using G = typename F::geometry;
    using CoreType = Core<F, P>;
    using TableRun = Run<typename P::Table>;
    static constexpr unsigned batch = 16;

    ToPages(CoreType& core, ChangeOptions options, Obstacle obstacle)
        : core_{core}, options_{options}, obstacle_{obstacle} {}

    /// One region's part. Errors: not_mapped and unsupported (if refusing), no_tables, busy and unsupported by the
    /// gate. What was split before an error stays split: no attribute has changed.
    Result<void> run(PhysRange part) {
        for (PhysAddr pa = part.start; pa < part.end();) {
            TableRun run;
            Descriptor leaves[batch];
            Result<void> hole;
            {
                // Everything that is read without the lock is read here: a collapse may take the table away afterwards.
                WalkerSection<P> walker{core_.platform};
                run = find_run(core_, pa, part.end());
                if (run.level == G::last_level) {
                    if (obstacle_ == Obstacle::refuse) hole = look_for_holes(run, part);
                } else {
                    leaves[0] = run.value;
                    for (unsigned i = 1; i < batch && i < run.count; ++i) {
                        leaves[i] = core_.platform.load(run.table, run.first + i);
                    }
                }
            }
            if (!hole) return hole;
            const PhysAddr end = run_end<F>(run, part.end());
            if (run.level == G::last_level) {
                if (auto r = open_groups(part, pa); !r) return r;
                pa = end;
                continue;
            }
            if (!F::is_leaf(run.level, run.value) || run.value.any_of(F::fixed_mask)) {
                if (obstacle_ == Obstacle::refuse) {
                    if (F::is_leaf(run.level, run.value)) return static_leaf<F>(pa);
                    return Error{ErrorCode::not_mapped, pa, 0, "a hole in the range"};
                }
                const PhysAddr next = run.start + G::bytes(run.level);
                pa = next - pa < part.end() - pa ? next : part.end();
                continue;
            }
            if (auto r = split_leaves(run, leaves, part, pa); !r) return r;
        }
        return {};
    }

private:
    Result<void> look_for_holes(const TableRun& run, PhysRange part) {
        for (unsigned i = 0; i < run.count; ++i) {
            if (F::is_leaf(run.level, core_.platform.load(run.table, run.first + i))) continue;
            const PhysAddr where = run.start + (std::uint64_t{i} << G::page_shift);
            return Error{ErrorCode::not_mapped, where < part.start ? part.start : where, 0, "a hole in the range"};
        }
        return {};
    }

    [[nodiscard]] Result<void> check(PhysAddr where) const {
        return options_.quiescent ? Result<void>{} : check_gate(core_, where);
    }

    /// The groups of last-level entries that overlap the run around `pa`.
    Result<void> open_groups(PhysRange part, PhysAddr pa) {
        if constexpr (!G::has_groups(G::last_level)) return {};
        auto& region = core_.region_of(pa);
        RegionGuard<F, P> guard{core_, region};
        const auto run = find_run(core_, pa, part.end());
        if (run.level != G::last_level) return {}; // collapsed meanwhile; a fixed page can't be, others come again
        const unsigned group = G::group_entries(run.level);
        bool opened = false;
        Result<void> result;
        WriteSection<P> writable{core_.platform};
        for (unsigned i = run.first & ~(group - 1); i < run.first + run.count; i += group) {
            const Descriptor d = core_.platform.load(run.table, i);
            if (!d.any_of(F::contiguous_mask)) continue;
            if (d.any_of(F::fixed_mask)) {
                if (obstacle_ == Obstacle::skip) continue;
                result = static_leaf<F>(pa);
                break;
            }
            if (result = check(pa); !result) break;
            set_group(core_, region, run.table, run.level, i, false);
            opened = true;
        }
        if (!opened) return result;
        publish(core_, region); // also what an error left opened: the next change of a page relies on it
        core_.platform.barrier_context();
        leave_behind(region, pa);
        return result;
    }

    /// Larger entries may linger in TLBs: right while everyone tolerates it, flushed where nobody must.
    void leave_behind(typename CoreType::RegionState& region, PhysAddr inside) {
        if (!omits(core_.platform, Omission::lingering_note)) {
            region.deferred = true;
            if (options_.quiescent) flush_region(core_, region, inside);
        }
        __atomic_store_n(&region.touched, true, __ATOMIC_RELAXED);
        __atomic_store_n(&region.last_change, core_.platform.now(), __ATOMIC_RELAXED);
    }

    /// Up to a batch of neighbouring leaves from `pa` on; moves `pa` behind them.
    Result<void> split_leaves(const TableRun& seen, const Descriptor* values, PhysRange part, PhysAddr& pa) {
        P& platform = core_.platform;
        PagesBuilder<F, P> builder{core_};
        const std::uint64_t size = G::bytes(seen.level);
        PhysAddr links[batch];
        unsigned built = 0;
        bool exhausted = false;
        const unsigned most = seen.level + 1 == G::last_level ? batch : 1;
        while (built < most && built < seen.count) {
            const Descriptor d = values[built];
            if (!F::is_leaf(seen.level, d) || d.any_of(F::fixed_mask)) break;
            if (!builder.build(seen.level, d.without(F::contiguous_mask), links[built])) {
                exhausted = true;
                break;
            }
            ++built;
        }
        Result<void> result;
        if (exhausted && built == 0) {
            return Error{ErrorCode::no_tables, pa, builder.tables(seen.level), "the table source is exhausted"};
        }
        unsigned linked = 0;
        {
            auto& region = core_.region_of(pa);
            RegionGuard<F, P> guard{core_, region};
            if (result = check(pa); result.ok()) {
                WriteSection<P> writable{platform};
                linked = link(region, seen, part, links, values, built, builder);
            }
        }
        for (unsigned i = linked; i < built; ++i) free_subtree(core_, links[i], seen.level + 1);
        const PhysAddr next = seen.start + linked * size;
        if (linked != 0) pa = next - pa < part.end() - pa ? next : part.end();
        return result;
    }

    /// Under the lock: whatever still is the leaf that was seen, or one of the same size, is replaced.
    unsigned link(typename CoreType::RegionState& region, const TableRun& seen, PhysRange part, const PhysAddr* links,
                  const Descriptor* values, unsigned built, PagesBuilder<F, P>& builder) {
        P& platform = core_.platform;
        const int level = seen.level;
        const auto now = find_run(core_, seen.start, part.end());
        if (now.level != level || now.start != seen.start) return 0; // split or collapsed meanwhile: look again
        unsigned n = 0;
        for (; n < built && n < now.count; ++n) {
            const Descriptor d = platform.load(now.table, now.first + n);
            if (!F::is_leaf(level, d) || d.any_of(F::fixed_mask)) break;
            if (d.without(F::contiguous_mask) != values[n].without(F::contiguous_mask) &&
                !omits(platform, Omission::second_look)) {
                builder.refill(level, d.without(F::contiguous_mask), links[n]);
            }
            if (d.any_of(F::contiguous_mask)) set_group(core_, region, now.table, level, now.first + n, false);
        }
        if (n == 0) return 0;
        flush_before_change(core_, region, seen.start);
        publish(core_, region); // every new table, and every opened group, before the first link
        for (unsigned i = 0; i < n; ++i) platform.store(now.table, now.first + i, F::table(links[i]));
        publish(core_, region);
        platform.barrier_context();
        region.counters.stores += n;
        for (unsigned i = 0; i < n; ++i) account(region, level);
        leave_behind(region, seen.start);
        return n;
    }

    void account(typename CoreType::RegionState& region, int level) {
        const unsigned pages = 1u << (G::index_bits * static_cast<unsigned>(G::last_level - level));
        const unsigned tables = PagesBuilder<F, P>::tables(level);
        count_leaves<G>(region, level, false, -1);
        count_leaves<G>(region, G::last_level, false, pages);
        region.counters.splits += tables;
        region.counters.tables_taken += tables;
        region.counters.filled += tables * G::table_entries;
    }

    CoreType& core_;
    ChangeOptions options_;
    Obstacle obstacle_;
};

} // namespace detail

/// Pins `range` to pages: splits what is larger and marks every page as fixed. Later changes inside never resize.
/// On an error no page is pinned; leaves may have become smaller, with the same attributes.
template <Format F, Platform P>
[[nodiscard]] Result<void> prepare_range(Core<F, P>& core, PhysRange range, ChangeOptions options) {
    if (options.atomic) {
        return Error{ErrorCode::would_block, range.start, 0, "preparing takes tables from a source that may sleep"};
    }
    const auto each_region = [&](auto visit) {
        for (PhysAddr pa = range.start; pa < range.end();) {
            const PhysAddr end = core.region_end(pa, range.end());
            visit(PhysRange{pa, end - pa}, core.region_of(pa));
            pa = end;
        }
    };
    // Collapse stays out of these regions until the pages are pinned: it would merge what has just been split.
    each_region([&](PhysRange, auto& region) {
        RegionGuard<F, P> guard{core, region};
        ++region.preparing;
    });
    Result<void> result;
    each_region([&](PhysRange part, auto&) {
        if (result) result = detail::RangeChange<F, P>{core, Change{}.fixed(true), options}.cut(part);
        if (result) result = detail::ToPages<F, P>{core, options, detail::Obstacle::refuse}.run(part);
    });
    each_region([&](PhysRange part, auto& region) {
        RegionGuard<F, P> guard{core, region};
        --region.preparing;
        if (!result) return;
        WriteSection<P> writable{core.platform};
        for (PhysAddr pa = part.start; pa < part.end();) {
            const auto run = find_run(core, pa, part.end());
            core.platform.update(run.table, run.first, run.count, core.format.spell(run.level, Change{}.fixed(true)));
            region.counters.stores += run.count;
            pa = run_end<F>(run, part.end());
        }
        detail::publish(core, region);
    });
    return result;
}

/// Undoes `prepare`: the pages may be collapsed again. Nothing else changes. Errors: not_mapped; unsupported for a
/// static leaf.
template <Format F, Platform P>
[[nodiscard]] Result<void> release_range(Core<F, P>& core, PhysRange range) {
    for (PhysAddr pa = range.start; pa < range.end();) {
        WalkerSection<P> walker{core.platform};
        const auto run = find_run(core, pa, range.end());
        const RunSummary summary = core.platform.summarize(run.table, run.first, run.count, Descriptor{}, 0);
        const bool pages = run.level == F::geometry::last_level && !summary.any.any_of(F::contiguous_mask);
        for (unsigned i = 0; !pages && i < run.count; ++i) {
            const Descriptor d = core.platform.load(run.table, run.first + i);
            const bool large = run.level != F::geometry::last_level || d.any_of(F::contiguous_mask);
            if (large && d.any_of(F::fixed_mask)) return detail::static_leaf<F>(pa);
        }
        pa = run_end<F>(run, range.end());
    }
    return change_range(core, range, Change{}.fixed(false), {});
}

/// Brings everything that isn't fixed to pages. Errors: no_tables (some leaves remain large; call again with more),
/// busy / unsupported by the gate.
template <Format F, Platform P>
[[nodiscard]] Result<void> repaint_all(Core<F, P>& core, ChangeOptions options) {
    for (PhysAddr pa = core.span.start; pa < core.span.end();) {
        const PhysAddr end = core.region_end(pa, core.span.end());
        auto r = detail::ToPages<F, P>{core, options, detail::Obstacle::skip}.run({pa, end - pa});
        if (!r) return r;
        pa = end;
    }
    return {};
}

} // namespace directmap

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
/// pointing to it. False if the table source ran out; then nothing is left behind. Tables are writable while they are
/// filled, not while the source, which may sleep, is asked for the next one.
template <Format F, Platform P>
[[nodiscard, gnu::noinline]] bool build_pages(Core<F, P>& core, int level, Descriptor leaf, PhysAddr& pa) {
    using G = typename F::geometry;
    P& platform = core.platform;
    if (!platform.take_table(pa, false)) return false;
    const int child_level = level + 1;
    const bool pages = child_level == G::last_level;
    const auto table = platform.table(pa);
    const Descriptor child = F::child_of(level, leaf);
    {
        WriteSection<P> writable{platform};
        platform.fill(table, 0, G::table_entries, pages ? child : Descriptor{}, pages ? G::page_size : 0);
    }
    for (unsigned i = 0; !pages && i < G::table_entries; ++i) {
        PhysAddr below;
        if (!build_pages(core, child_level, child.advanced(i * G::bytes(child_level)), below)) {
            free_subtree(core, pa, child_level);
            return false;
        }
        WriteSection<P> writable{platform};
        platform.fill(table, i, 1, F::table(below), 0);
    }
    return true;
}

/// Tables in a subtree below a leaf of `level`.
template <class G>
[[nodiscard]] constexpr unsigned tables_to_pages(int level) {
    return level + 1 == G::last_level ? 1 : 1 + G::table_entries * tables_to_pages<G>(level + 1);
}

/// What to do about fixed leaves: repaint leaves them alone, prepare refuses.
enum class Obstacle : std::uint8_t { skip, refuse };

/// Leaves that fill more than a page become pages. Holes are passed over.
template <Format F, Platform P>
class ToPages {
public:
    using G = typename F::geometry;
    using CoreType = Core<F, P>;
    using RegionState = typename CoreType::RegionState;
    using TableRun = Run<typename P::Table>;

    ToPages(CoreType& core, const ChangeOptions& options, Obstacle obstacle)
        : core_{core}, options_{options}, obstacle_{obstacle} {}

    /// One region's part. Errors: unsupported (a fixed leaf, if refusing; the gate), no_tables, busy. What was split
    /// before an error stays split: no attribute has changed.
    [[nodiscard, gnu::noinline]] Result<void> run(PhysRange part) {
        Result<void> result;
        for (PhysAddr pa = part.start; result && pa < part.end();) {
            Leaves seen;
            {
                // All that is read without the lock is read here: afterwards a collapse may take the table away.
                WalkerSection<P> walker{core_.platform};
                look(pa, part.end(), seen);
            }
            if (seen.run.level == G::last_level) {
                result = open_groups(part, pa);
                pa = run_end<F>(seen.run, part.end());
            } else if (seen.count != 0) {
                result = split(seen, part.end(), pa);
            } else if (obstacle_ == Obstacle::refuse && F::is_leaf(seen.run.level, seen.run.value)) {
                result = Error{reasons::fixed_leaf, pa};
            } else {
                pass(seen, 1, part.end(), pa);
            }
        }
        return result;
    }

private:
    /// Neighbouring leaves that may be split, as they were seen.
    struct Leaves {
        static constexpr unsigned most = 4; ///< share the barriers of one commit
        TableRun run;
        Descriptor values[most]; ///< not contiguous
        unsigned count = 0;
    };

    void look(PhysAddr pa, PhysAddr end, Leaves& seen) {
        seen.run = find_run(core_, pa, end);
        const unsigned most = seen.run.level == G::last_level - 1 ? Leaves::most : 1;
        for (; seen.count < most && seen.count < seen.run.count; ++seen.count) {
            // (What the run says of its first entry counts: another CPU may have put a table there since.)
            const Descriptor d =
                seen.count == 0 ? seen.run.value : core_.platform.load(seen.run.table, seen.run.first + seen.count);
            if (!F::is_leaf(seen.run.level, d) || d.any_of(F::fixed_mask)) break;
            seen.values[seen.count] = d.without(F::contiguous_mask);
        }
    }

    /// Moves `pa` behind the first `count` entries.
    static void pass(const Leaves& seen, unsigned count, PhysAddr end, PhysAddr& pa) {
        const PhysAddr next = seen.run.start + count * G::bytes(seen.run.level);
        pa = next - pa < end - pa ? next : end;
    }

    [[nodiscard]] Result<void> check(PhysAddr where) const {
        return options_.quiescent ? Result<void>{} : check_gate(core_, where);
    }

    /// Moves `pa` behind those that were split: none, if somebody else has changed them meanwhile.
    [[nodiscard, gnu::noinline]] Result<void> split(const Leaves& seen, PhysAddr end, PhysAddr& pa) {
        const int level = seen.run.level;
        PhysAddr tables[Leaves::most];
        unsigned built = 0, linked = 0;
        while (built < seen.count && build_pages(core_, level, seen.values[built], tables[built])) ++built;
        if (built == 0) return Error::needing(reasons::no_tables, tables_to_pages<G>(level));
        RegionState& region = core_.region_of(pa);
        core_.platform.acquire(region.lock);
        const Result<void> result = check(pa);
        if (result) linked = link(region, seen, tables, built);
        core_.platform.release(region.lock);
        if (linked != 0) pass(seen, linked, end, pa);
        for (; linked != built; ++linked) free_subtree(core_, tables[linked], level + 1);
        return result;
    }

    /// Under the lock: as many of the leaves as still are what was seen are replaced.
    [[nodiscard]] unsigned link(RegionState& region, const Leaves& seen, const PhysAddr* tables, unsigned built) {
        P& platform = core_.platform;
        const int level = seen.run.level;
        const auto now = find_run(core_, seen.run.start, seen.run.start + built * G::bytes(level));
        if (now.level != level) return 0;
        WriteSection<P> writable{platform};
        unsigned n = 0;
        for (; n < built && n < now.count; ++n) {
            const Descriptor d = platform.load(now.table, now.first + n);
            if (d.without(F::contiguous_mask) != seen.values[n] && !omits(platform, Omission::second_look)) break;
            if (d.any_of(F::contiguous_mask)) set_group(core_, region, now.table, level, now.first + n, false);
        }
        if (n == 0) return 0;
        flush_before_change(core_, region, seen.run.start);
        publish(core_, region); // every new table, and every opened group, before the first link
        for (unsigned i = 0; i < n; ++i) platform.store(now.table, now.first + i, F::table(tables[i]));
        leave_behind(region, seen.run.start);
        const unsigned made = n * tables_to_pages<G>(level);
        count_leaves<G>(region, level, false, -static_cast<std::int64_t>(n));
        count_leaves<G>(region, G::last_level, false,
                        std::int64_t{n} << (G::index_bits * static_cast<unsigned>(G::last_level - level)));
        region.counters.stores += n;
        region.counters.splits += made;
        region.counters.tables_taken += made;
        region.counters.filled += made * G::table_entries;
        return n;
    }

    /// The groups of last-level entries that overlap the run around `pa`.
    [[nodiscard, gnu::noinline]] Result<void> open_groups(PhysRange part, PhysAddr pa) {
        if constexpr (!G::has_groups(G::last_level)) return {};
        RegionState& region = core_.region_of(pa);
        RegionGuard<F, P> guard{core_, region};
        const auto run = find_run(core_, pa, part.end());
        if (run.level != G::last_level) return {}; // collapsed meanwhile; a fixed page can't be, others come again
        const unsigned group = G::group_entries(run.level);
        bool opened = false;
        Result<void> result;
        WriteSection<P> writable{core_.platform};
        for (unsigned i = run.first & ~(group - 1); result && i < run.first + run.count; i += group) {
            const Descriptor d = core_.platform.load(run.table, i);
            if (!d.any_of(F::contiguous_mask)) continue;
            if (d.any_of(F::fixed_mask)) {
                if (obstacle_ == Obstacle::refuse) result = Error{reasons::fixed_leaf, pa};
                continue;
            }
            result = check(pa);
            if (!result) break;
            set_group(core_, region, run.table, run.level, i, false);
            opened = true;
        }
        if (opened) leave_behind(region, pa); // also what an error left opened: the next change of a page relies on it
        return result;
    }

    /// Publishes what became smaller. Larger entries may linger in TLBs: right while everyone tolerates it, flushed
    /// where nobody must.
    void leave_behind(RegionState& region, PhysAddr inside) {
        publish(core_, region);
        core_.platform.barrier_context();
        if (!omits(core_.platform, Omission::lingering_note)) {
            region.deferred = true;
            if (options_.quiescent) flush_region(core_, region, inside);
        }
        note_change(core_, region);
    }

    CoreType& core_;
    const ChangeOptions& options_;
    Obstacle obstacle_;
};

/// Errors: see ToPages::run.
template <Format F, Platform P>
[[nodiscard, gnu::noinline]] Result<void> to_pages(Core<F, P>& core, PhysRange range, const ChangeOptions& options,
                                                   Obstacle obstacle) {
    Result<void> result;
    for (PhysAddr pa = range.start; result && pa < range.end();) {
        const PhysAddr end = core.region_end(pa, range.end());
        result = ToPages<F, P>{core, options, obstacle}.run({pa, end - pa});
        pa = end;
    }
    return result;
}

/// Marks every page of one region's part as fixed, with the region's lock held.
template <Format F, Platform P>
void pin_pages(Core<F, P>& core, typename Core<F, P>::RegionState& region, PhysRange part) {
    const DescriptorChange pinned = core.format.spell(F::geometry::last_level, Change{}.fixed(true));
    WriteSection<P> writable{core.platform};
    for (PhysAddr pa = part.start; pa < part.end();) {
        const auto run = find_run(core, pa, part.end());
        core.platform.update(run.table, run.first, run.count, pinned);
        region.counters.stores += run.count;
        pa = run_end<F>(run, part.end());
    }
    publish(core, region);
}

/// Before and after a preparation, which collapse stays out of; `pin` ends one that succeeded.
template <Format F, Platform P>
[[gnu::noinline]] void note_preparing(Core<F, P>& core, PhysRange range, bool begins, bool pin) {
    for (PhysAddr pa = range.start; pa < range.end();) {
        const PhysAddr end = core.region_end(pa, range.end());
        auto& region = core.region_of(pa);
        RegionGuard<F, P> guard{core, region};
        region.preparing += begins ? 1u : ~0u;
        if (pin) pin_pages(core, region, {pa, end - pa});
        pa = end;
    }
}

} // namespace detail

/// Pins `range` to pages: splits what is larger and marks every page as fixed. Later changes inside never resize.
/// On an error no page is pinned; leaves may have become smaller, with the same attributes.
template <Format F, Platform P>
[[nodiscard]] Result<void> prepare_range(Core<F, P>& core, PhysRange range, const ChangeOptions& options) {
    if (options.atomic) return Error{reasons::prepare_sleeps, range.start};
    detail::note_preparing(core, range, true, false); // a collapse would merge what has just been split
    Result<void> result = change_range(core, range, Change{}.fixed(true), options, true);
    if (result) result = detail::to_pages(core, range, options, detail::Obstacle::refuse);
    detail::note_preparing(core, range, false, result.ok());
    return result;
}

/// Undoes `prepare`: the pages may be collapsed again. Nothing else changes. Errors: not_mapped; unsupported for a
/// static leaf.
template <Format F, Platform P>
[[nodiscard]] Result<void> release_range(Core<F, P>& core, PhysRange range) {
    for (PhysAddr pa = range.start; pa < range.end();) {
        WalkerSection<P> walker{core.platform};
        const auto run = find_run(core, pa, range.end());
        for (unsigned i = 0; i < run.count; ++i) {
            const Descriptor d = core.platform.load(run.table, run.first + i);
            const bool large = run.level != F::geometry::last_level || d.any_of(F::contiguous_mask);
            if (large && d.any_of(F::fixed_mask)) return Error{reasons::fixed_leaf, pa};
        }
        pa = run_end<F>(run, range.end());
    }
    return change_range(core, range, Change{}.fixed(false), default_options);
}

/// Brings everything that isn't fixed to pages. Errors: no_tables (some leaves remain large; call again with more),
/// busy / unsupported by the gate.
template <Format F, Platform P>
[[nodiscard]] Result<void> repaint_all(Core<F, P>& core, const ChangeOptions& options) {
    return detail::to_pages(core, core.span, options, detail::Obstacle::skip);
}

} // namespace directmap

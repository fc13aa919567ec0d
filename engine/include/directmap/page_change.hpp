// Changing one page, which most changes do: one descent serves plan and commit. Whatever isn't as simple, and every
// error, is left to the general way (protect.hpp).
#pragma once

#include <cstdint>

#include "directmap/core.hpp"
#include "directmap/plan.hpp"
#include "directmap/reserve.hpp"
#include "directmap/split.hpp"

namespace directmap::detail {

/// What is common to both: a page, and how its entry is stored.
template <Format F, Platform P>
class PageChangeBase {
public:
    using G = typename F::geometry;
    using CoreType = Core<F, P>;
    using RegionState = typename CoreType::RegionState;
    using Table = typename P::Table;

    /// `page` lies in a region of the map.
    PageChangeBase(CoreType& map, PhysAddr pa, Change wanted)
        : core{map}, region{map.region_of(pa)}, page{pa}, change{wanted} {}

protected:
    /// Whether a leaf holds protected table pages, or would pass for them: only their owner may change it.
    [[nodiscard]] bool is_of_tables(Descriptor leaf) const {
        return holds_tables(core, leaf) || gives_table_key(core, change);
    }

    /// Whether something has to be flushed before anything else changes in the region: the general way does that.
    [[nodiscard]] bool owes_a_flush_first() const {
        return F::flush_owed_after_resize && (region.deferred || region.unflushed != 0);
    }

    /// Stores the page's entry and publishes it, under the lock and inside a write section.
    [[gnu::always_inline]] void store(Table table, unsigned index, Descriptor made) {
        core.platform.store(table, index, made);
        publish(core, region);
        ++region.counters.stores;
    }

    /// Then flushes if anybody may have cached the old `value`, or an older one.
    [[gnu::always_inline]] void settle(Descriptor value, bool resized, StaleSet* deferred) {
        P& platform = core.platform;
        note_change(core, region);

        // An entry that was split may still be cached at its old level, by this change or by one that isn't flushed
        // yet; and a page as it was before it was made invalid.
        const bool lingers = region.deferred || region.unflushed != 0;
        const bool stale = value.any_of(F::valid_mask) || region.may_be_outdated();
        const bool any_level = resized || (lingers && !omits(platform, Omission::unhinted_flush));
        const InvalidationScope scope{any_level ? InvalidationScope::any_level : G::last_level, true};
        if (deferred != nullptr) {
            if (stale) deferred->add({core.virt(page), G::page_size, G::page_shift, scope});
            if (stale || resized) region.defer(stale);
            return;
        }
        if (stale) {
            flush(scope);
            if (core.gate.invalidate_twice()) [[unlikely]]
                flush(scope);
            ++region.counters.rounds;
        } else if (resized) {
            region.defer(false);
        }
        platform.barrier_context();
    }

private:
    void flush(InvalidationScope scope) {
        core.platform.invalidate(core.virt(page), scope);
        core.platform.barrier_complete();
        ++region.counters.invalidations;
        ++region.counters.barriers;
    }

protected:
    CoreType& core;
    RegionState& region;
    PhysAddr page;
    Change change;
};

/// The hot path: a page that is a leaf of its own already.
template <Format F, Platform P>
class PageChange : PageChangeBase<F, P> {
public:
    using Base = PageChangeBase<F, P>;
    using Base::Base;
    using typename Base::G;

    /// False: nothing was touched, there is more to think of.
    [[nodiscard, gnu::always_inline]] bool run() {
        P& platform = this->core.platform;
        if (this->change.names_memory_type() || this->change.names_shared()) return false; // may have to break
        if (platform.tables_mapped_here() && !keeps_tables(this->core, this->change)) return false;
        RegionGuard<F, P> guard{this->core, this->region};
        PhysAddr table_pa = this->region.table;
        if (table_pa == PhysAddr{} || this->owes_a_flush_first()) return false;
        const std::uint64_t va = this->core.va_of(this->page);
#pragma GCC unroll 3
        for (int level = G::first_leaf_level; level != G::last_level; ++level) {
            const Descriptor d = platform.load(platform.table(table_pa), G::index(level, va));
            if (!F::is_table(level, d)) return false;
            table_pa = F::table_address(d);
        }
        const auto table = platform.table(table_pa);
        const unsigned index = G::index(G::last_level, va);
        const Descriptor value = platform.load(table, index);
        if ((value & (F::present_mask | F::contiguous_mask)) != F::present_mask) return false;
        const Descriptor made = this->core.format.spell(G::last_level, this->change).apply_to(value);
        if (made == value) return !this->region.may_be_outdated();
        if (this->is_of_tables(value)) return false;
        {
            WriteSection<P> writable{platform};
            this->store(table, index, made);
        }
        this->settle(value, false, nullptr);
        return true;
    }
};

/// A page that may be part of a larger leaf, and becomes one of its own.
template <Format F, Platform P>
class PageSplit : PageChangeBase<F, P> {
public:
    using Base = PageChangeBase<F, P>;
    using typename Base::G;
    using typename Base::Table;
    using TableReserve = typename Base::CoreType::TableReserve;

    PageSplit(typename Base::CoreType& map, PhysAddr pa, Change wanted, const ChangeOptions& options)
        : Base{map, pa, wanted}, options_{options} {}

    /// False: nothing was touched, this is for the general way. Tables are taken with no lock held; what was found
    /// before holds as long as nothing is stored in the region.
    [[nodiscard, gnu::always_inline]] bool run() {
        P& platform = this->core.platform;
        if (this->change.names_memory_type() || this->change.names_shared()) return false; // may have to break
        TableReserve reserve{this->core, options_.atomic, options_.loan};
        Found found;
        constexpr std::uint64_t never = ~std::uint64_t{0};
        for (std::uint64_t found_at = never;;) {
            {
                RegionGuard<F, P> guard{this->core, this->region};
                const bool trusted = found_at != never && omits(platform, Omission::second_plan);
                if (this->region.counters.stores != found_at && !trusted) {
                    if (!find(found)) return false;
                    if (!alters(found)) {
                        if (this->region.may_be_outdated()) return false;
                        note_avoided(found);
                        return true;
                    }
                    found_at = this->region.counters.stores;
                }
                if (this->owes_a_flush_first()) return false;
                if (found.tables() <= reserve.count()) {
                    const bool resizes = found.is_larger();
                    if (resizes) {
                        // A flush may be owed in between, the leaf be fixed, or the gate shut.
                        if (F::flush_owed_after_resize || options_.quiescent) return false;
                        if (found.value.any_of(F::fixed_mask) || !this->core.gate.may_split()) return false;
                    }
                    Descriptor made;
                    {
                        WriteSection<P> writable{platform}; // one for the split and the change
                        if (resizes) cut(found, reserve);
                        made = this->core.format.spell(G::last_level, this->change).apply_to(found.value);
                        this->store(found.table, found.index, made);
                    }
                    this->settle(found.value, resizes, options_.deferred);
                    return true;
                }
            }
            if (!reserve.fill(found.tables())) return false;
            for (unsigned i = 0; platform.tables_mapped_here() && i < reserve.count(); ++i) {
                if (reserve[i] == this->page) return false;
            }
        }
    }

private:
    /// The leaf that holds the page.
    struct Found {
        Table table{};
        int level = 0;
        unsigned index = 0;
        Descriptor value;

        [[nodiscard]] bool is_larger() const { return level != G::last_level || value.any_of(F::contiguous_mask); }
        [[nodiscard]] unsigned tables() const { return static_cast<unsigned>(G::last_level - level); }
    };

    /// False if there is no leaf, or it may not be changed.
    [[nodiscard]] bool find(Found& found) {
        P& platform = this->core.platform;
        const bool keeps = !platform.tables_mapped_here() || keeps_tables(this->core, this->change);
        if (!keeps && is_upper_table(this->page)) return false;
        const std::uint64_t va = this->core.va_of(this->page);
        PhysAddr table = this->region.table;
        if (table == PhysAddr{}) return false;
#pragma GCC unroll 3
        for (int level = G::first_leaf_level; level <= G::last_level; ++level) {
            if (!keeps && table == this->page) return false;
            found.level = level;
            found.table = platform.table(table);
            found.index = G::index(level, va);
            found.value = platform.load(found.table, found.index);
            if (!F::is_table(level, found.value)) break;
            table = F::table_address(found.value);
        }
        if (!F::is_leaf(found.level, found.value)) return false;
        return options_.owns_tables || !this->is_of_tables(found.value);
    }

    /// Whether the change makes a difference to the leaf.
    [[nodiscard]] bool alters(const Found& found) const {
        return this->core.format.spell(found.level, this->change).apply_to(found.value) != found.value;
    }
    /// It makes none: ends that would have had to be split needn't be.
    void note_avoided(const Found& found) {
        const bool grouped = found.value.any_of(F::contiguous_mask);
        const std::uint64_t inside = (grouped ? G::group_bytes(found.level) : G::bytes(found.level)) - 1;
        const std::uint64_t va = this->core.va_of(this->page);
        this->region.counters.splits_avoided +=
            ((va & inside) != 0 ? 1u : 0u) + (((va + G::page_size) & inside) != 0 ? 1u : 0u);
    }

    /// Whether a page is one of the tables above its own region.
    [[nodiscard, gnu::noinline]] bool is_upper_table(PhysAddr pa) const {
        PhysAddr table = this->core.root;
        for (int level = G::root_level; level < G::first_leaf_level; ++level) {
            if (table == pa) return true;
            const auto upper = this->core.platform.table(table);
            table = F::table_address(this->core.platform.load(upper, G::index(level, this->core.va_of(pa))));
        }
        return false;
    }

    /// Makes the page a leaf of its own; each step is visible to walkers before the next.
    [[gnu::always_inline]] void cut(Found& found, TableReserve& reserve) {
        P& platform = this->core.platform;
        if (found.value.any_of(F::contiguous_mask)) {
            set_group(this->core, this->region, found.table, found.level, found.index, false);
            found.value = found.value.without(F::contiguous_mask);
        }
        if (found.level != G::last_level) {
            const auto table = found.table;
            const unsigned index = found.index;
            const Descriptor link = build(found, reserve);
            publish(this->core, this->region);
            platform.store(table, index, link);
            ++this->region.counters.stores;
        }
        publish(this->core, this->region);
        platform.barrier_context();
    }

    /// The tables from the leaf down to the page: contiguous but for the group that the page is in. Nothing points to
    /// them yet. `found` becomes the page.
    [[nodiscard, gnu::always_inline]] Descriptor build(Found& found, TableReserve& reserve) {
        P& platform = this->core.platform;
        auto& own = this->region;
        const std::uint64_t va = this->core.va_of(this->page);
        const bool may_group = this->core.gate.may_merge();
        const unsigned tables = found.tables();
        own.counters.splits += tables;
        own.counters.tables_taken += tables;
        own.counters.filled += tables * G::table_entries;
        Descriptor top;
        for (int level = G::first_leaf_level + 1; level <= G::last_level; ++level) {
            if (level <= found.level) continue;
            const PhysAddr pa = reserve.use();
            const auto table = platform.table(pa);
            const unsigned shift = G::shift(level), index = G::index(level, va);
            const Descriptor first = F::child_of(level - 1, found.value);
            unsigned start = 0, end = G::table_entries; // of what can't be contiguous
            if (may_group && this->core.groups_allowed(level)) {
                start = index & ~(G::group_entries(level) - 1);
                end = start + G::group_entries(level);
                const auto after = first.advanced(std::uint64_t{end} << shift) | F::contiguous_mask;
                platform.fill(table, 0, start, first | F::contiguous_mask, G::bytes(level));
                platform.fill(table, end, G::table_entries - end, after, G::bytes(level));
                count_leaves<G>(own, level, true, G::table_entries - G::group_entries(level));
            }
            platform.fill(table, start, end - start, first.advanced(std::uint64_t{start} << shift), G::bytes(level));
            count_leaves<G>(own, level, false, end - start);
            count_leaves<G>(own, level - 1, false, -1);
            if (top.empty()) {
                top = F::table(pa);
            } else {
                platform.fill(found.table, found.index, 1, F::table(pa), 0);
            }
            found = {table, level, index, first.advanced(std::uint64_t{index} << shift)};
        }
        return top;
    }

    const ChangeOptions& options_;
};

} // namespace directmap::detail

// A machine for millions of operations: tables on plain host memory, one CPU whose TLB caches every translation as soon
// as an operation ends and keeps each until an invalidation removes it, and checks that cost next to nothing at every
// store, barrier and invalidation. What it can't see (several CPUs, stores that walkers see late, translations cached
// in the middle of an operation) the machine in machine/ does.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "directmap/directmap.hpp"
#include "machine/access.hpp"
#include "machine/regime.hpp"
#include "machine/rig.hpp"

namespace directmap::test {

/// Ends the process loudly: a fuzzer takes that for a finding.
inline void require(bool condition, const char* promise) {
    if (condition) return;
    std::fprintf(stderr, "broken: %s\n", promise);
    std::abort();
}

/// A page as the tables or a TLB have it.
struct PageView {
    machine::Access access{};
    std::uint8_t log2_pages = 0; ///< of the leaf that it belongs to, contiguous groups counted as one
    std::int8_t level = 0;
    bool contiguous = false;
    bool mapped = false;

    friend bool operator==(const PageView&, const PageView&) = default;
};

/// Satisfies Platform, for maps of at most `most_pages` pages in tables of a few entries (Geometry F::geometry).
template <class F>
class LightMachine : public DefaultTableMemory<> {
public:
    using G = typename F::geometry;
    using Table = std::uint64_t*;
    struct Lock {
        bool held = false;
    };
    static constexpr unsigned most_pages = 512, most_tables = 384;
    static_assert(G::table_entries <= 16 && G::root_entries <= G::table_entries);

    LightMachine() {
        words_.fill(garbage);
        for (unsigned i = most_tables; i != 0; --i) free_.push_back(i - 1);
    }

    // ---- the scenario's side ------------------------------------------------------------------------------------

    /// What the map is to hold: its first page's physical address, how many pages, VA − PA.
    void describe(std::uint64_t first_page, unsigned pages, std::uint64_t offset, std::uint64_t realm_shared_address) {
        require(pages <= most_pages, "the scenario fits the machine");
        regime_.realm_shared_address = realm_shared_address;
        first_ = first_page;
        pages_ = pages;
        offset_ = offset;
        tlb_.assign(pages, {});
        truth_.assign(pages, {});
        after_.assign(pages, {});
    }
    /// The attributes that each page has, and would have after the operation that begins.
    std::vector<PageView>& truth() { return truth_; }
    [[nodiscard]] const std::vector<PageView>& truth() const { return truth_; }
    std::vector<machine::Access>& after() { return after_; }

    void install(PhysAddr root) {
        root_ = root;
        link(number_of(root), G::root_level, 0);
        refill();
    }
    void begin_operation(bool breaks) {
        in_operation_ = true;
        breaks_ = breaks;
    }
    void end_operation() {
        in_operation_ = false;
        require(unpublished_ == 0, "every store is published when an operation returns");
        require(write_sections_ == 0, "no write section is left open");
        require(locks_ == 0, "no lock is left held");
        require(walkers_ == 0, "no walk is left open");
    }
    /// The whole map as a walk finds it now.
    void read(std::vector<PageView>& views) {
        views.assign(pages_, {});
        tables_reached_ = 0;
        read_table(number_of(root_), G::root_level, 0, views);
    }
    /// Caches every translation that isn't cached yet; the older one wins.
    void refill() {
        read(fresh_);
        for (unsigned i = 0; i < pages_; ++i) {
            if (!tlb_[i].mapped && fresh_[i].mapped && fresh_[i].access.valid) tlb_[i] = fresh_[i];
        }
    }
    [[nodiscard]] const std::vector<PageView>& tlb() const { return tlb_; }
    [[nodiscard]] unsigned tables_reached() const { return tables_reached_; }
    [[nodiscard]] unsigned tables_in_use() const { return most_tables - static_cast<unsigned>(free_.size()); }

    bool ranges = true;         ///< range invalidation
    bool twice = false;         ///< an invalidation counts once it has been completed twice in a row
    bool walker_stalls = false; ///< no grace period ends
    std::uint64_t tables_left = ~std::uint64_t{0} >> 1;
    std::uint64_t clock = 0;
    unsigned taken = 0; ///< by the operation under way

    // ---- the platform's side ------------------------------------------------------------------------------------

    Table table(PhysAddr pa) { return &words_[std::size_t{number_of(pa)} * G::table_entries]; }
    void store(Table t, unsigned index, Descriptor value) {
        about_to_write(t, index, 1);
        const std::uint64_t old = t[index];
        DefaultTableMemory::store(t, index, value);
        if (meta(t).linked) written(t, index, old);
    }
    void fill(Table t, unsigned first, unsigned count, Descriptor value, std::uint64_t step) {
        if (count == 0) return;
        about_to_write(t, first, count);
        require(!meta(t).linked, "a table that walkers reach is not filled with plain stores");
        DefaultTableMemory::fill(t, first, count, value, step);
        meta(t).unpublished = true;
        filled_.push_back(index_of(t));
    }
    void update(Table t, unsigned first, unsigned count, DescriptorChange change) {
        about_to_write(t, first, count);
        std::array<std::uint64_t, 16> old{};
        for (unsigned i = 0; i < count; ++i) old[i] = t[first + i];
        DefaultTableMemory::update(t, first, count, change);
        if (!meta(t).linked) return;
        for (unsigned i = 0; i < count; ++i) {
            if (old[i] != t[first + i]) written(t, first + i, old[i]);
        }
    }
    void barrier_publish() {
        for (const unsigned table : filled_) meta_[table].unpublished = false;
        filled_.clear();
        unpublished_ = 0;
        for (Unlinked& u : unlinked_) u.published = true;
    }
    void barrier_complete() {
        barrier_publish();
        for (const Invalidation& inv : pending_) {
            if (!twice || std::find(last_round_.begin(), last_round_.end(), inv) != last_round_.end()) apply(inv);
        }
        last_round_ = std::move(pending_);
        pending_.clear();
    }
    void barrier_context() {}
    [[nodiscard]] bool range_invalidation() const { return ranges; }
    void invalidate(VirtAddr va, InvalidationScope scope) { issue(va, G::page_size, scope); }
    void invalidate_range(VirtAddr va, std::uint64_t bytes, InvalidationScope scope) {
        require(ranges, "no range invalidation is used where there is none");
        issue(va, bytes, scope);
    }
    void invalidate_all() {
        issue(VirtAddr{first_ + offset_}, std::uint64_t{pages_} << G::page_shift,
              {InvalidationScope::any_level, false});
    }
    void acquire(Lock& lock) {
        require(!lock.held, "no lock is taken twice");
        lock.held = true;
        ++locks_;
    }
    void release(Lock& lock) {
        require(lock.held, "no lock is released that isn't held");
        lock.held = false;
        --locks_;
    }
    bool take_table(PhysAddr& pa, bool) {
        require(locks_ == 0, "no table is taken with a lock held");
        if (free_.empty() || tables_left == 0) return false;
        --tables_left;
        ++taken;
        const unsigned number = free_.back();
        free_.pop_back();
        meta_[number] = {.owned = true};
        pa = address_of(number);
        return true;
    }
    void give_table(PhysAddr pa) {
        const unsigned number = number_of(pa);
        require(meta_[number].owned, "no table is given back that isn't out");
        require(!meta_[number].linked, "no table is given back that walkers reach");
        for (const Unlinked& u : unlinked_) {
            require(u.table != number, "no table is given back before the flush that its unlinking owes");
        }
        meta_[number] = {};
        std::fill_n(&words_[std::size_t{number} * G::table_entries], G::table_entries, garbage);
        free_.push_back(number);
        ++tables_left;
    }
    [[nodiscard]] bool tables_mapped_here() const { return false; }
    void begin_table_writes() { ++write_sections_; }
    void end_table_writes() { --write_sections_; }
    void walker_enter() { ++walkers_; }
    void walker_exit() { --walkers_; }
    std::uint64_t grace_stamp() { return 0; }
    bool grace_elapsed(std::uint64_t) { return !walker_stalls; }
    std::uint64_t now() { return clock; }
    void relax() {}

private:
    /// Neither empty nor a leaf nor a table of any format here.
    static constexpr std::uint64_t garbage = 0x0060'0000'feed'0002;
    /// Apart from any RAM, with bits in both parts of a split address field.
    static constexpr std::uint64_t first_table =
        G::pa_bits == 52 ? std::uint64_t{1} << 50 | std::uint64_t{1} << 49 : std::uint64_t{1} << 40;

    struct Meta {
        bool owned = false, linked = false, unpublished = false;
        std::int8_t level = 0;
        std::int32_t page = 0; ///< that its first entry maps, counted from the map's first; may lie before it
    };
    struct Unlinked {
        unsigned table = 0;
        std::int32_t page = 0;
        unsigned pages = 0;
        bool published = false;
    };
    struct Invalidation {
        std::uint64_t va = 0, bytes = 0;
        InvalidationScope scope;
        friend bool operator==(const Invalidation&, const Invalidation&) = default;
    };

    static PhysAddr address_of(unsigned number) {
        return PhysAddr{first_table + (std::uint64_t{number} << G::page_shift)};
    }
    static unsigned number_of(PhysAddr pa) {
        const std::uint64_t number = (pa.value() - first_table) >> G::page_shift;
        require(number < most_tables && pa.aligned(G::page_size), "a table lies where tables come from");
        return static_cast<unsigned>(number);
    }
    unsigned index_of(Table t) { return static_cast<unsigned>((t - words_.data()) / G::table_entries); }
    Meta& meta(Table t) { return meta_[index_of(t)]; }
    [[nodiscard]] static constexpr unsigned pages_of(int level) { return 1U << (G::shift(level) - G::page_shift); }
    [[nodiscard]] machine::Entry decode(int level, std::uint64_t word) const { return regime_.decode(level, word); }
    /// The page whose number counts from the map's first virtual address.
    [[nodiscard]] std::int64_t page_of(std::uint64_t va) const {
        return static_cast<std::int64_t>(va - first_ - offset_) >> G::page_shift;
    }
    [[nodiscard]] std::int32_t first_page_of_root() const {
        const std::uint64_t va = first_ + offset_;
        return -static_cast<std::int32_t>((va & ((std::uint64_t{1} << G::va_bits) - 1)) >> G::page_shift);
    }

    void about_to_write(Table t, unsigned first, unsigned count) {
        require(meta(t).owned, "nothing is written but tables");
        require(first + count <= G::table_entries, "nothing is written beyond a table's end");
        require(write_sections_ > 0, "tables are written in write sections alone");
        require(!meta(t).linked || locks_ > 0, "a live table is changed with a lock held");
    }

    void link(unsigned number, int level, std::int32_t page) {
        if (level == G::root_level) page = first_page_of_root();
        Meta& m = meta_[number];
        require(m.owned, "only a table is linked");
        require(!m.linked, "a table is linked once");
        require(!m.unpublished, "a table is linked only once its stores are published");
        m.linked = true;
        m.level = static_cast<std::int8_t>(level);
        m.page = page;
        for (unsigned i = 0; level != G::last_level && i < G::entries(level); ++i) {
            const machine::Entry e = decode(level, words_[std::size_t{number} * G::table_entries + i]);
            require(e.kind != machine::Entry::Kind::malformed, "every descriptor is well formed");
            const auto below = page + static_cast<std::int32_t>(i * pages_of(level));
            if (e.kind == machine::Entry::Kind::table) link(number_of(PhysAddr{e.pa}), level + 1, below);
        }
    }
    void unlink(unsigned number, int level) {
        Meta& m = meta_[number];
        m.linked = false;
        unlinked_.push_back({number, m.page, G::table_entries * pages_of(level), false});
        for (unsigned i = 0; level != G::last_level && i < G::entries(level); ++i) {
            const machine::Entry e = decode(level, words_[std::size_t{number} * G::table_entries + i]);
            if (e.kind == machine::Entry::Kind::table) unlink(number_of(PhysAddr{e.pa}), level + 1);
        }
    }

    /// A live descriptor has changed: every page below it must be as it was, or as the operation is to make it.
    void written(Table t, unsigned index, std::uint64_t old_word) {
        const Meta m = meta(t);
        const machine::Entry old = decode(m.level, old_word), now = decode(m.level, t[index]);
        const auto page = m.page + static_cast<std::int32_t>(index * pages_of(m.level));
        ++unpublished_;
        if (old.kind == machine::Entry::Kind::table) unlink(number_of(PhysAddr{old.pa}), m.level + 1);
        if (now.kind == machine::Entry::Kind::table) link(number_of(PhysAddr{now.pa}), m.level + 1, page);
        require(in_operation_, "nothing is stored between operations");
        look(now, m.level, page);
    }
    void look(const machine::Entry& e, int level, std::int32_t page) {
        if (e.kind == machine::Entry::Kind::table) {
            const unsigned number = number_of(PhysAddr{e.pa});
            for (unsigned i = 0; i < G::table_entries; ++i) {
                look(decode(level + 1, words_[std::size_t{number} * G::table_entries + i]), level + 1,
                     page + static_cast<std::int32_t>(i * pages_of(level + 1)));
            }
            return;
        }
        require(e.kind != machine::Entry::Kind::malformed, "every descriptor is well formed");
        const unsigned count = pages_of(level);
        for (unsigned i = 0; i < count; ++i) {
            const std::int64_t at = std::int64_t{page} + i;
            const bool inside = at >= 0 && at < std::int64_t{pages_};
            const auto n = static_cast<std::size_t>(at);
            if (!inside || !truth_[n].mapped) {
                require(!e.is_leaf(), "nothing is mapped where there is no RAM");
                continue;
            }
            require(e.is_leaf(), "RAM stays mapped at every moment (P1)");
            require(e.pa + (std::uint64_t{i} << G::page_shift) ==
                        first_ + (static_cast<std::uint64_t>(at) << G::page_shift),
                    "a page leads to itself at every moment (P1)");
            machine::Access broken = truth_[n].access;
            broken.valid = false;
            require(e.access == truth_[n].access || e.access == after_[n] ||
                        (breaks_ && e.access == broken && !(after_[n] == truth_[n].access)),
                    "a page is as before or as after at every moment (P1, P3)");
            if (!e.access.valid || !tlb_[n].mapped) continue;
            const unsigned log2 = G::shift(level) - G::page_shift + (e.contiguous ? G::group_shift(level) : 0);
            require(!regime_.breaks_before_makes || !e.access.must_break_for(tlb_[n].access),
                    "the old memory type is gone everywhere before there is a new one");
            require(!regime_.sizes_mix_if_alike || log2 == tlb_[n].log2_pages || e.access == tlb_[n].access,
                    "a flush comes between a change of size and one of attributes");
        }
    }

    void read_table(unsigned number, int level, std::int32_t page, std::vector<PageView>& views) {
        if (level == G::root_level) page = first_page_of_root();
        require(meta_[number].linked, "walks reach linked tables alone");
        ++tables_reached_;
        const unsigned group = level < G::first_leaf_level ? 1 : G::group_entries(level);
        PageView open{}; // of the contiguous group at hand
        for (unsigned i = 0; i < G::entries(level); ++i) {
            const machine::Entry e = decode(level, words_[std::size_t{number} * G::table_entries + i]);
            const auto from = std::int64_t{page} + i * pages_of(level);
            if (e.kind == machine::Entry::Kind::table) {
                require(i % group == 0 || !open.contiguous, "a contiguous group holds no table");
                read_table(number_of(PhysAddr{e.pa}), level + 1, static_cast<std::int32_t>(from), views);
                open = {};
                continue;
            }
            require(e.kind != machine::Entry::Kind::malformed, "every descriptor is well formed");
            PageView view{};
            if (e.is_leaf()) {
                const unsigned log2 = G::shift(level) - G::page_shift + (e.contiguous ? G::group_shift(level) : 0);
                view = {e.access, static_cast<std::uint8_t>(log2), static_cast<std::int8_t>(level), e.contiguous, true};
            }
            require(i % group == 0 || (open.contiguous == view.contiguous && (!open.contiguous || open == view)),
                    "a contiguous group agrees");
            open = view;
            for (unsigned n = 0; view.mapped && n < pages_of(level); ++n) {
                const std::int64_t at = from + n;
                require(at >= 0 && at < std::int64_t{pages_}, "nothing is mapped outside of the map");
                require(e.pa + (std::uint64_t{n} << G::page_shift) ==
                            first_ + (static_cast<std::uint64_t>(at) << G::page_shift),
                        "a page leads to itself");
                views[static_cast<std::size_t>(at)] = view;
            }
        }
    }

    void issue(VirtAddr va, std::uint64_t bytes, InvalidationScope scope) {
        require(unpublished_ == 0, "stores are published before what they replace is invalidated");
        pending_.push_back({va.value(), bytes, scope});
    }
    void apply(const Invalidation& inv) {
        const std::int64_t low = page_of(inv.va), high = page_of(inv.va + inv.bytes - 1);
        const auto first = static_cast<std::size_t>(std::clamp<std::int64_t>(low, 0, pages_));
        const auto last = static_cast<std::size_t>(std::clamp<std::int64_t>(high + 1, 0, pages_));
        for (std::size_t i = first; i < last; ++i) {
            const PageView hit = tlb_[i];
            if (!hit.mapped || (inv.scope.level != InvalidationScope::any_level && inv.scope.level != hit.level))
                continue;
            // A block goes as a whole; a group may be cached descriptor by descriptor.
            const std::int64_t size = pages_of(hit.level);
            const std::int64_t base = first_page_of_root();
            const std::int64_t start = (static_cast<std::int64_t>(i) - base) / size * size + base;
            for (std::int64_t n = std::max<std::int64_t>(start, 0); n < std::min<std::int64_t>(start + size, pages_);
                 ++n) {
                PageView& view = tlb_[static_cast<std::size_t>(n)];
                if (view.mapped && view.level == hit.level) view = {};
            }
        }
        if (inv.scope.leaves_only || inv.scope.level != InvalidationScope::any_level) return;
        std::erase_if(unlinked_, [&](const Unlinked& u) {
            return u.published && low < std::int64_t{u.page} + u.pages && u.page <= high;
        });
    }

    machine::Regime regime_ = machine::regime_of<F>();
    std::array<std::uint64_t, std::size_t{most_tables} * G::table_entries> words_{};
    std::array<Meta, most_tables> meta_{};
    std::vector<unsigned> free_;
    std::vector<unsigned> filled_;
    std::vector<Unlinked> unlinked_;
    std::vector<Invalidation> pending_, last_round_;
    std::vector<PageView> tlb_, truth_, fresh_;
    std::vector<machine::Access> after_;
    std::uint64_t first_ = 0, offset_ = 0;
    unsigned pages_ = 0;
    PhysAddr root_{};
    unsigned unpublished_ = 0, tables_reached_ = 0;
    int write_sections_ = 0, locks_ = 0, walkers_ = 0;
    bool in_operation_ = false, breaks_ = false;
};

} // namespace directmap::test

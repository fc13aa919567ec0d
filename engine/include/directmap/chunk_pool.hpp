// Pages with given attributes, taken and returned in chunks, so that few leaves are cut and every cut can heal.
//
//   frame (2M)   |################################|   one leaf if wholly the pool's; the first choice
//   16 pages     |....|####|....|..##|............|   when no frame is to be had: a 64K group with 4K pages
//   4 pages      |.##.|                               at worst
//
// Attributes are given to whole chunks and stay on free pages, so taking and giving a page never touches the map and is
// allowed in any context. The pool that holds page tables themselves is this with reserves for splits and for its own
// refill (table_pool_config).
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "directmap/direct_map.hpp"

namespace directmap {

/// Where chunks come from: the embedder's page allocator. Both calls come with no lock held and may sleep. Neither may
/// need a table of a map that the pool serves: a refill waits for `take_chunk`, and whoever needs a table then waits
/// for the refill.
/// - `take_chunk(pa, bytes)`: memory of that size, aligned to it, mapped by the map with default attributes; false if
///   there is none.
/// - `give_chunk(pa, bytes)`: takes it back, with default attributes.
template <class S>
concept ChunkSource = requires(S& s, PhysAddr pa, PhysAddr& taken, std::uint64_t bytes) {
    { s.take_chunk(taken, bytes) } -> std::same_as<bool>;
    { s.give_chunk(pa, bytes) } -> std::same_as<void>;
};

/// What the pool knows of one frame. Storage is the embedder's, default-constructed.
struct ChunkFrame {
    static constexpr unsigned most_pages = 512;

    std::uint64_t number = 0; ///< physical address / frame size
    static constexpr std::uint8_t unused = 0, used = 1, deleted = 2;
    std::uint8_t state = unused;
    std::uint16_t free_count = 0;
    std::uint16_t owned_count = 0;
    std::uint8_t pins = 0;       ///< refills that are about to add pages: it must not be forgotten meanwhile
    bool whole = false;          ///< taken from the source as one chunk
    std::uint32_t sixteens = 0;  ///< which groups of 16 pages were taken as one chunk
    std::uint64_t fours[2] = {}; ///< which groups of 4 pages were
    std::uint64_t owned[8] = {}; ///< pages that belong to the pool
    std::uint64_t free[8] = {};  ///< those of them that nobody has taken
    ChunkFrame* next = nullptr;  ///< in the list of frames with free pages
    ChunkFrame* previous = nullptr;
};

/// One CPU's share of free pages, so that CPUs don't queue on the pool's lock.
template <class Lock>
struct alignas(64) Magazine {
    static constexpr unsigned capacity = 31; ///< with a small lock four cache lines
    Lock lock{};
    unsigned count = 0;
    PhysAddr pages[capacity];
};

/// Who asks for a page.
enum class PageUse : std::uint8_t {
    normal, ///< leaves the reserve alone; may refill
    split,  ///< may use the reserve, except what a refill needs for itself; may refill
    atomic, ///< as split, but never refills
};

struct PoolStatistics {
    std::uint64_t owned = 0;                                       ///< pages
    std::uint64_t free = 0;                                        ///< pages, magazines included
    std::uint64_t refills = 0, failed_refills = 0, given_back = 0; ///< chunks
    std::uint64_t low_water = ~std::uint64_t{0};                   ///< the fewest free pages outside of magazines
    std::uint64_t chunks[3] = {}; ///< frames, sixteens and fours taken from the source so far
};

/// A pool of pages that all have one change of attributes applied. `Map` is a DirectMap, or what wraps one.
///
/// Locks: a magazine's, and inside of it the pool's; no map lock is ever taken with one of them held.
template <class Map, ChunkSource Source>
class ChunkPool {
public:
    using G = typename Map::G;
    using P = typename Map::PlatformType;
    using Lock = typename P::Lock;

    static constexpr unsigned frame_shift = G::shift(2) < 21 ? G::shift(2) : 21;
    static constexpr std::uint64_t frame_bytes = std::uint64_t{1} << frame_shift;
    static constexpr unsigned frame_pages = 1u << (frame_shift - G::page_shift);
    /// Pages in a chunk, by class; 0 where the class doesn't exist.
    static constexpr unsigned chunk_pages[3] = {frame_pages, frame_pages > 16 ? 16u : 0u, frame_pages > 4 ? 4u : 0u};
    /// Tables that giving a chunk its attributes can take: its ends lie in one leaf, or at the edge of one.
    static constexpr unsigned chunk_tables = static_cast<unsigned>(G::leaf_levels - 1);
    static_assert(frame_pages <= ChunkFrame::most_pages);
    static_assert(frame_pages <= 4 || 4 > chunk_tables, "even the smallest chunk gains more than it uses");

    struct Config {
        Change give;                 ///< what the pool's pages have
        Change restore;              ///< what makes them ordinary again
        bool own_tables = false;     ///< the map's tables come from this pool; see become_table_source
        unsigned split_reserve = 0;  ///< pages that normal requests leave
        unsigned refill_reserve = 0; ///< pages that everybody but a refill leaves
    };

    ChunkPool(Map& map, P& platform, Source& source, const Config& config, Span<ChunkFrame> frames,
              Span<Magazine<Lock>> magazines)
        : map_{map}, platform_{platform}, source_{source}, config_{config}, frames_{frames}, magazines_{magazines} {}
    ChunkPool(const ChunkPool&) = delete;
    ChunkPool& operator=(const ChunkPool&) = delete;

    /// A page for `use`, on CPU `cpu`. Only `atomic` may be asked for from a context that can't sleep.
    /// Errors: no_tables (the source has no memory in any chunk size), would_block (atomic, and the reserve is at its
    /// floor).
    [[nodiscard]] Result<PhysAddr> take(PageUse use, std::size_t cpu) {
        PhysAddr pa;
        if (!from_magazine(cpu, pa)) [[unlikely]] {
            PhysAddr found; // another one, so that `pa` can stay in a register
            if (const auto taken = take_from_pool(use, cpu, found); !taken) return taken.error();
            pa = found;
        }
        return pa;
    }

    /// A page for a table of the map, as Platform::take_table is asked for one.
    [[nodiscard]] bool take_table(PhysAddr& pa, bool atomic, std::size_t cpu) {
        if (from_magazine(cpu, pa)) [[likely]]
            return true;
        return take_from_pool(atomic ? PageUse::atomic : PageUse::split, cpu, pa).ok();
    }

    /// Gives a page back; false if it isn't the pool's, or lies free already. Any context; the map isn't touched, and
    /// while the reserve is complete nor is anything that CPUs share.
    bool give(PhysAddr pa, std::size_t cpu) {
        if (!is_out(pa)) return false;
        if (available() < reserves()) {
            platform_.acquire(lock_);
            push(pa);
            platform_.release(lock_);
            return true;
        }
        Magazine<Lock>& magazine = magazines_[cpu];
        platform_.acquire(magazine.lock);
        if (magazine.count == Magazine<Lock>::capacity) {
            platform_.acquire(lock_);
            while (magazine.count > Magazine<Lock>::capacity / 2) push(magazine.pages[--magazine.count]);
            platform_.release(lock_);
        }
        magazine.pages[magazine.count++] = pa;
        platform_.release(magazine.lock);
        return true;
    }

    /// Takes a chunk from the source, the largest to be had, and gives it the pool's attributes. No map lock is held,
    /// and the tables for it are the pool's own if it is the map's table source: nothing re-enters it. A failure leaves
    /// the reserve as it was. Errors: no_tables, busy (another refill is under way), whatever `protect` says.
    [[nodiscard]] Result<void> refill() {
        bool other = false;
        return try_refill(other);
    }

    /// Gives wholly free chunks back to the source until `pages` are given or none is left above the reserve; returns
    /// how many pages went. The chunk's attributes are restored, and collapse heals what it had cut. Takes no table: a
    /// chunk that lies inside a larger leaf of the pool's own goes with its whole frame or stays. May sleep.
    std::uint64_t shrink(std::uint64_t pages) {
        drain_magazines();
        std::uint64_t given = 0;
        for (ChunkFrame& frame : frames_) {
            FreePart part;
            if (given < pages && detach_frame(frame, part)) given += give_back(frame, part);
            for (unsigned next = 0; given < pages && detach_chunk(frame, next, part); next = part.first + part.pages) {
                given += give_back(frame, part);
            }
        }
        return given;
    }

    /// Makes `range` the pool's: pages for which `in_use(pa)` holds are taken already, the others are free. For memory
    /// that was in use before the pool existed (early tables); it stays with the pool. `range` need not be aligned to
    /// chunks. May sleep. Errors, nothing changed: invalid_argument (a page is the pool's already), no_tables (frame
    /// storage is full, or no memory to refill the reserve), whatever `protect` says.
    template <class InUse>
    [[nodiscard]] Result<void> adopt(PhysRange range, InUse in_use) {
        TableLoan loan;
        if (auto r = begin_adoption(loan); !r) return r;
        Result<void> result = pin_frames(range);
        if (result) {
            ChangeOptions options{.owns_tables = true};
            if (config_.own_tables) options.loan = &loan;
            result = map_.protect(range, config_.give, options);
            platform_.acquire(lock_);
            for (std::uint64_t done = 0; result && done < range.size; done += G::page_size) {
                const PhysAddr pa = range.start + done;
                if (ChunkFrame* const frame = find(pa)) own(*frame, index_of(pa), 1); // it is there: pinned
                if (!in_use(pa)) push(pa);
            }
            platform_.release(lock_);
            unpin_frames(range, range.size);
        }
        end_refill(loan);
        return result;
    }

    /// From here on the pool is the map's table source, and lends the tables for its own changes. Before (the pool's
    /// first chunks), they come from the platform, which still asks an early source. Errors: no_tables if the pool
    /// doesn't hold its reserve yet: refill first.
    [[nodiscard]] Result<void> become_table_source() {
        platform_.acquire(lock_);
        const bool ready = free_ >= reserves();
        if (ready) config_.own_tables = true;
        platform_.release(lock_);
        if (ready) return {};
        return Error::needing(reasons::reserve_unfilled, reserves());
    }

    /// Free pages outside of magazines.
    [[nodiscard]] std::uint64_t available() const { return __atomic_load_n(&free_, __ATOMIC_RELAXED); }
    /// Whether the page belongs to the pool, free or not. Any context, no lock.
    [[nodiscard]] bool owns(PhysAddr pa) const {
        const ChunkFrame* const frame = find(pa);
        return frame != nullptr && bit(frame->owned, index_of(pa));
    }
    [[nodiscard]] PoolStatistics statistics() {
        std::uint64_t waiting = 0;
        for (Magazine<Lock>& magazine : magazines_) {
            platform_.acquire(magazine.lock);
            waiting += magazine.count;
            platform_.release(magazine.lock);
        }
        platform_.acquire(lock_);
        PoolStatistics s = statistics_;
        s.free = free_ + waiting;
        if (s.low_water > free_) s.low_water = free_;
        platform_.release(lock_);
        return s;
    }
    /// Brings what magazines hold back to the pool.
    void drain_magazines() {
        for (Magazine<Lock>& magazine : magazines_) {
            platform_.acquire(magazine.lock);
            platform_.acquire(lock_);
            while (magazine.count != 0) push(magazine.pages[--magazine.count]);
            platform_.release(lock_);
            platform_.release(magazine.lock);
        }
    }

private:
    /// A free part of a frame that goes back: a chunk, or the frame as a whole.
    struct FreePart {
        PhysAddr start;
        unsigned first = 0, pages = 0;
    };

    // Words of a frame are written with the lock held, and read without it by who gives a page back.
    [[nodiscard]] static bool bit(const std::uint64_t* map, unsigned i) {
        return (__atomic_load_n(&map[i / 64], __ATOMIC_RELAXED) >> (i % 64) & 1) != 0;
    }
    /// Sets or clears the bits of neighbouring pages. Parts are aligned to their size: whole words, or inside of one.
    static void assign(std::uint64_t* map, unsigned first, unsigned pages, bool on) {
        const std::uint64_t ones = pages < 64 ? (std::uint64_t{1} << pages) - 1 : ~std::uint64_t{0};
        const std::uint64_t mask = ones << (first % 64);
        for (unsigned i = first / 64; i * 64 < first + pages; ++i)
            __atomic_store_n(&map[i], on ? map[i] | mask : map[i] & ~mask, __ATOMIC_RELAXED);
    }
    [[nodiscard]] static unsigned index_of(PhysAddr pa) {
        return static_cast<unsigned>(pa.value() >> G::page_shift) & (frame_pages - 1);
    }
    [[nodiscard]] static constexpr std::uint64_t bytes_of(unsigned pages) {
        return std::uint64_t{pages} << G::page_shift;
    }
    [[nodiscard]] bool omits(Omission step) const { return detail::omits(platform_, step); }
    [[nodiscard]] unsigned reserves() const { return config_.split_reserve + config_.refill_reserve; }
    [[nodiscard]] unsigned floor_for(PageUse use) const {
        const bool splits = use != PageUse::normal || omits(Omission::pool_split_reserve);
        if (!splits) return reserves();
        return omits(Omission::pool_refill_reserve) ? 0 : config_.refill_reserve;
    }

    // Frames are found by open addressing over the embedder's storage; a pointer to one stays good while one of its
    // pages is out, while a part of it is detached, and while it is pinned.
    [[nodiscard]] const ChunkFrame* find(PhysAddr pa) const {
        const std::uint64_t number = pa.value() >> frame_shift;
        std::size_t slot = number % frames_.size();
        for (std::size_t probe = 0; probe < frames_.size(); ++probe) {
            const ChunkFrame& frame = frames_[slot];
            const auto state = __atomic_load_n(&frame.state, __ATOMIC_ACQUIRE);
            if (state == ChunkFrame::unused) return nullptr;
            if (state == ChunkFrame::used && __atomic_load_n(&frame.number, __ATOMIC_RELAXED) == number) return &frame;
            if (++slot == frames_.size()) slot = 0;
        }
        return nullptr;
    }
    [[nodiscard]] ChunkFrame* find(PhysAddr pa) {
        return const_cast<ChunkFrame*>(static_cast<const ChunkPool*>(this)->find(pa)); // frames_ is ours to write
    }
    /// With the lock held: the frame, kept from being forgotten until `unpin`. Null if there is no storage for it.
    [[nodiscard]] ChunkFrame* pin(PhysAddr pa) {
        ChunkFrame* frame = find(pa);
        const std::uint64_t number = pa.value() >> frame_shift;
        for (std::size_t probe = 0; frame == nullptr && probe < frames_.size(); ++probe) {
            ChunkFrame& candidate = frames_[(number + probe) % frames_.size()];
            if (candidate.state != ChunkFrame::used) frame = &candidate;
        }
        if (frame == nullptr) return nullptr;
        if (frame->state != ChunkFrame::used) {
            __atomic_store_n(&frame->number, number, __ATOMIC_RELAXED);
            __atomic_store_n(&frame->state, ChunkFrame::used, __ATOMIC_RELEASE);
        }
        ++frame->pins;
        return frame;
    }
    void unpin(ChunkFrame& frame) {
        --frame.pins;
        forget_if_empty(frame);
    }
    void forget_if_empty(ChunkFrame& frame) {
        const bool pinned = frame.pins != 0 && !omits(Omission::pool_frame_pin);
        if (frame.owned_count == 0 && !pinned) __atomic_store_n(&frame.state, ChunkFrame::deleted, __ATOMIC_RELEASE);
    }
    [[nodiscard]] bool is_out(PhysAddr pa) const {
        const ChunkFrame* const frame = find(pa);
        return frame != nullptr && bit(frame->owned, index_of(pa)) && !bit(frame->free, index_of(pa));
    }
    void own(ChunkFrame& frame, unsigned first, unsigned pages) {
        assign(frame.owned, first, pages, true);
        count(frame, 0, static_cast<int>(pages));
    }
    /// Neighbouring pages of a frame, none of which is free, become free.
    void attach(ChunkFrame& frame, unsigned first, unsigned pages) {
        assign(frame.free, first, pages, true);
        count(frame, static_cast<int>(pages), 0);
    }
    void set_free(std::uint64_t count) { __atomic_store_n(&free_, count, __ATOMIC_RELAXED); }

    // Frames with free pages are in one of two lists. The partly taken come first: what is wholly free stays so.
    [[nodiscard]] ChunkFrame** list_of(const ChunkFrame& frame) {
        if (frame.free_count == 0) return nullptr;
        return frame.free_count == frame.owned_count ? &free_frames_ : &partial_frames_;
    }
    void link_frame(ChunkFrame& frame, ChunkFrame*& head) {
        frame.previous = nullptr;
        frame.next = head;
        if (head != nullptr) head->previous = &frame;
        head = &frame;
    }
    void unlink_frame(ChunkFrame& frame, ChunkFrame*& head) {
        (frame.previous != nullptr ? frame.previous->next : head) = frame.next;
        if (frame.next != nullptr) frame.next->previous = frame.previous;
    }
    /// Accounts for pages that became free and the pool's (or, below 0, ceased to be), and keeps the frame in its list.
    void count(ChunkFrame& frame, int free, int owned) {
        ChunkFrame** const before = list_of(frame);
        frame.free_count = static_cast<std::uint16_t>(frame.free_count + free);
        frame.owned_count = static_cast<std::uint16_t>(frame.owned_count + owned);
        ChunkFrame** const after = list_of(frame);
        if (before != after) {
            if (before != nullptr) unlink_frame(frame, *before);
            if (after != nullptr) link_frame(frame, *after);
        }
        set_free(free_ + static_cast<std::uint64_t>(std::int64_t{free}));
        statistics_.owned += static_cast<std::uint64_t>(std::int64_t{owned});
    }

    /// Up to `most` pages of the frame that is next to be used up; returns how many.
    unsigned pop(PhysAddr* pages, unsigned most) {
        ChunkFrame* const frame = partial_frames_ != nullptr ? partial_frames_ : free_frames_;
        if (frame == nullptr) return 0;
        const unsigned taken = most < frame->free_count ? most : frame->free_count;
        PhysAddr of_word{frame->number << frame_shift};
        unsigned found = 0;
        for (std::uint64_t* word = frame->free; found != taken; ++word, of_word = of_word + bytes_of(64)) {
            std::uint64_t left = *word;
            if (left == 0) continue;
            for (; left != 0 && found != taken; left &= left - 1)
                pages[found++] = of_word + bytes_of(static_cast<unsigned>(__builtin_ctzll(left)));
            __atomic_store_n(word, left, __ATOMIC_RELAXED);
        }
        count(*frame, -static_cast<int>(taken), 0);
        if (free_ < statistics_.low_water) statistics_.low_water = free_;
        return taken;
    }
    void push(PhysAddr pa) {
        ChunkFrame* const frame = find(pa);
        const unsigned index = index_of(pa);
        if (frame == nullptr || bit(frame->free, index)) return; // given twice by somebody; the first time counts
        attach(*frame, index, 1);
    }

    /// One refill or adoption at a time: it takes the tables that its own change may need out of the pool first, and
    /// lends them to that change. `other` tells that nothing was done because another CPU is at it.
    [[nodiscard]] Result<void> begin_refill(TableLoan& loan, bool& other) {
        platform_.acquire(lock_);
        other = refilling_;
        if (!other) {
            refilling_ = true;
            if (config_.own_tables) loan.count = pop_loan(loan, chunk_tables);
        }
        platform_.release(lock_);
        if (other) return Error{reasons::refilling, PhysAddr{}};
        return {};
    }
    void end_refill(TableLoan& loan) {
        platform_.acquire(lock_);
        while (loan.count != 0) push(loan.pages[--loan.count]);
        refilling_ = false;
        platform_.release(lock_);
    }
    [[nodiscard]] unsigned pop_loan(TableLoan& loan, unsigned wanted) {
        unsigned count = 0;
        while (count < wanted && pop(&loan.pages[count], 1) != 0) ++count;
        return count;
    }

    [[nodiscard]] Result<void> try_refill(bool& other) {
        TableLoan loan;
        if (auto r = begin_refill(loan, other); !r) return r;
        Result<void> result = Error::needing(reasons::no_chunk, 1);
        for (unsigned c = 0; c < 3 && !result; ++c) {
            PhysAddr pa;
            if (chunk_pages[c] == 0 || !source_.take_chunk(pa, bytes_of(chunk_pages[c]))) continue;
            result = admit_chunk(pa, c, loan);
            if (!result) source_.give_chunk(pa, bytes_of(chunk_pages[c]));
        }
        if (!result && omits(Omission::pool_repay)) loan.count = 0;
        platform_.acquire(lock_);
        ++(result ? statistics_.refills : statistics_.failed_refills);
        platform_.release(lock_);
        end_refill(loan);
        return result;
    }

    /// As a refill begins, with tables for a range of any size. A reserve that splits have drawn on is refilled first.
    [[nodiscard]] Result<void> begin_adoption(TableLoan& loan) {
        for (bool drained = false;;) {
            platform_.acquire(lock_);
            const bool ready = !config_.own_tables || free_ >= G::worst_tables + config_.refill_reserve;
            const bool refilling = refilling_, mine = !refilling && ready;
            if (mine) {
                refilling_ = true;
                if (config_.own_tables) loan.count = pop_loan(loan, G::worst_tables);
            }
            platform_.release(lock_);
            if (mine) return {};
            if (refilling) { // by another CPU; it always ends
                platform_.relax();
                continue;
            }
            bool other = false;
            const auto refilled = try_refill(other);
            if (refilled || other) continue;
            if (drained) return refilled;
            drain_magazines(); // free pages may still wait there
            drained = true;
        }
    }
    [[nodiscard]] Result<void> pin_frames(PhysRange range) {
        Result<void> result;
        std::uint64_t done = 0;
        platform_.acquire(lock_);
        for (; done < range.size && result; done += result ? G::page_size : 0) {
            const PhysAddr pa = range.start + done;
            if (owns(pa)) {
                result = Error{reasons::owned_page, pa};
            } else if ((done == 0 || index_of(pa) == 0) && pin(pa) == nullptr) {
                result = Error::needing(reasons::no_frame, 1);
            }
        }
        platform_.release(lock_);
        if (!result) unpin_frames(range, done);
        return result;
    }
    /// Those of the first `bytes` of `range`.
    void unpin_frames(PhysRange range, std::uint64_t bytes) {
        platform_.acquire(lock_);
        for (std::uint64_t done = 0; done < bytes; done += G::page_size) {
            if (done != 0 && index_of(range.start + done) != 0) continue;
            if (ChunkFrame* const frame = find(range.start + done)) unpin(*frame);
        }
        platform_.release(lock_);
    }

    [[nodiscard]] bool from_magazine(std::size_t cpu, PhysAddr& pa) {
        Magazine<Lock>& magazine = magazines_[cpu];
        platform_.acquire(magazine.lock);
        const bool got = magazine.count != 0;
        if (got) [[likely]]
            pa = magazine.pages[--magazine.count];
        platform_.release(magazine.lock);
        return got;
    }
    /// The same out of the pool's lists. A few pages more, of those above the reserve, are set aside for this CPU's
    /// next requests. `refilling` tells whether another CPU is at it.
    [[nodiscard]] bool load_magazine(std::size_t cpu, unsigned floor, PhysAddr& pa, bool& refilling) {
        constexpr unsigned batch = Magazine<Lock>::capacity / 2;
        Magazine<Lock>& magazine = magazines_[cpu];
        platform_.acquire(magazine.lock);
        platform_.acquire(lock_);
        if (magazine.count == 0 && free_ > floor) {
            const std::uint64_t half = free_ > reserves() ? (free_ - reserves()) / 2 : 0; // for others there is as much
            magazine.count = pop(magazine.pages, 1 + (half < batch ? static_cast<unsigned>(half) : batch));
        }
        refilling = refilling_;
        platform_.release(lock_);
        const bool got = magazine.count != 0;
        if (got) pa = magazine.pages[--magazine.count];
        platform_.release(magazine.lock);
        return got;
    }
    [[nodiscard, gnu::noinline]] Result<void> take_from_pool(PageUse use, std::size_t cpu, PhysAddr& pa) {
        const unsigned floor = floor_for(use);
        for (bool drained = omits(Omission::pool_drain);;) {
            bool refilling = false;
            if (load_magazine(cpu, floor, pa, refilling)) return {};
            bool other = false;
            Result<void> refilled = Error::needing(reasons::reserve_at_floor, 1);
            if (use != PageUse::atomic) {
                if (refilling) { // by another CPU; it always ends
                    platform_.relax();
                    continue;
                }
                refilled = try_refill(other);
                if (refilled || other) continue;
            }
            if (drained) return refilled;
            drain_magazines(); // free pages may still wait there
            drained = true;
        }
    }

    /// A chunk from the source gets its attributes, then its pages are free.
    Result<void> admit_chunk(PhysAddr pa, unsigned c, TableLoan& loan) {
        platform_.acquire(lock_);
        ChunkFrame* const frame = pin(pa);
        platform_.release(lock_);
        if (frame == nullptr) return Error::needing(reasons::no_frame, 1);
        ChangeOptions options{.owns_tables = true};
        if (config_.own_tables) options.loan = &loan;
        Result<void> result;
        if (!omits(Omission::pool_attributes))
            result = map_.protect({pa, bytes_of(chunk_pages[c])}, config_.give, options);
        platform_.acquire(lock_);
        if (result) {
            mark_chunk(*frame, index_of(pa), c, true);
            own(*frame, index_of(pa), chunk_pages[c]);
            attach(*frame, index_of(pa), chunk_pages[c]);
            ++statistics_.chunks[c];
        }
        unpin(*frame);
        platform_.release(lock_);
        return result;
    }

    static void mark_chunk(ChunkFrame& frame, unsigned index, unsigned c, bool on) {
        if (c == 0) {
            frame.whole = on;
        } else if (c == 1) {
            frame.sixteens = on ? frame.sixteens | 1u << (index / 16) : frame.sixteens & ~(1u << (index / 16));
        } else {
            assign(frame.fours, index / 4, 1, on);
        }
    }
    /// The class of the chunk that page `index` of the frame was taken with; 3: none, it was adopted or isn't ours.
    [[nodiscard]] static unsigned class_of(const ChunkFrame& frame, unsigned index) {
        if (frame.whole) return 0;
        if ((frame.sixteens >> (index / 16) & 1) != 0) return 1;
        return bit(frame.fours, index / 4) ? 2 : 3;
    }
    [[nodiscard]] static bool all_free(const ChunkFrame& frame, unsigned first, unsigned count) {
        for (unsigned i = first; i < first + count; ++i) {
            if (!bit(frame.free, i)) return false;
        }
        return true;
    }

    /// Takes a frame that consists of free chunks out of circulation. False if there is more to it, or the reserve
    /// needs it.
    bool detach_frame(ChunkFrame& frame, FreePart& part) {
        platform_.acquire(lock_);
        bool chunks = frame.state == ChunkFrame::used && frame.free_count == frame_pages;
        for (unsigned i = 0; chunks && i < frame_pages; i += 4) chunks = class_of(frame, i) != 3;
        const bool found = chunks && free_ >= frame_pages + reserves();
        if (found) detach(frame, 0, frame_pages, part);
        platform_.release(lock_);
        return found;
    }
    /// The same for the first wholly free chunk from page `from` of the frame on.
    bool detach_chunk(ChunkFrame& frame, unsigned from, FreePart& part) {
        platform_.acquire(lock_);
        bool found = false;
        for (unsigned i = from; frame.state == ChunkFrame::used && i < frame_pages && !found;) {
            const unsigned c = class_of(frame, i);
            const unsigned pages = c == 3 ? 4 : chunk_pages[c], first = i / pages * pages;
            found = c != 3 && i == first && all_free(frame, first, pages) && free_ >= pages + reserves();
            if (found) detach(frame, first, pages, part);
            i = first + pages;
        }
        platform_.release(lock_);
        return found;
    }
    void detach(ChunkFrame& frame, unsigned first, unsigned pages, FreePart& part) {
        part = {PhysAddr{frame.number << frame_shift} + bytes_of(first), first, pages};
        assign(frame.free, first, pages, false);
        count(frame, -static_cast<int>(pages), 0);
    }
    /// A detached part gets ordinary attributes and goes, chunk by chunk as it came; or it is attached again. Returns
    /// how many pages went.
    unsigned give_back(ChunkFrame& frame, const FreePart& part) {
        TableLoan none;
        ChangeOptions options{.owns_tables = true, .loan = &none};
        if (omits(Omission::pool_shrink_loan)) options.loan = nullptr;
        const PhysRange range{part.start, bytes_of(part.pages)};
        if (!map_.protect(range, config_.restore, options)) {
            platform_.acquire(lock_);
            attach(frame, part.first, part.pages);
            platform_.release(lock_);
            return 0;
        }
        (void)map_.collapse(range); // heals now, unless the policy or the gate says otherwise
        for (unsigned i = part.first; i < part.first + part.pages;) {
            platform_.acquire(lock_);
            const unsigned c = class_of(frame, i), pages = chunk_pages[c];
            mark_chunk(frame, i, c, false);
            assign(frame.owned, i, pages, false);
            count(frame, 0, -static_cast<int>(pages)); // the rest of it may now be wholly free
            forget_if_empty(frame);
            ++statistics_.given_back;
            platform_.release(lock_);
            source_.give_chunk(part.start + bytes_of(i - part.first), bytes_of(pages));
            i += pages;
        }
        return part.pages;
    }

    Map& map_;
    P& platform_;
    Source& source_;
    Config config_;
    Lock lock_{};
    Span<ChunkFrame> frames_;
    Span<Magazine<Lock>> magazines_;
    ChunkFrame* partial_frames_ = nullptr;
    ChunkFrame* free_frames_ = nullptr;
    std::uint64_t free_ = 0;
    bool refilling_ = false;
    PoolStatistics statistics_{};
};

/// The pool as the source of the map's own tables: pages with the table key, and a reserve that is kept back for
/// splits. The bound, for every geometry: a split takes at most `worst_tables` (both ends, all levels), a refill's own
/// change at most `chunk_tables`, and the smallest chunk brings more than that. So with both kept back a split finds
/// its tables, and a refill always can run and always gains (docs/protected-tables.md has the argument).
template <class Pool>
[[nodiscard]] constexpr typename Pool::Config table_pool_config(unsigned table_key) {
    typename Pool::Config config;
    config.give = Change{}.key(table_key);
    config.restore = Change{}.key(0);
    config.split_reserve = Pool::G::worst_tables;
    config.refill_reserve = Pool::chunk_tables;
    return config;
}

} // namespace directmap

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

/// Where chunks come from: the embedder's page allocator. Both calls come with no lock held and may sleep.
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
    enum class State : std::uint8_t { unused, used, deleted } state = State::unused;
    std::uint16_t free_count = 0;
    std::uint16_t owned_count = 0;
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
    static constexpr unsigned capacity = 16;
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
/// Locks, each held alone: a magazine's, then the pool's; no map lock is ever taken with one of them held.
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
        if (from_magazine(cpu, pa)) return pa;
        const unsigned floor = floor_for(use);
        for (bool drained = false;;) {
            platform_.acquire(lock_);
            const bool got = free_ > floor && pop(pa);
            if (got && use == PageUse::normal) load_magazine(cpu);
            const bool refilling = refilling_;
            platform_.release(lock_);
            if (got) return pa;
            if (use == PageUse::atomic) {
                return Error{ErrorCode::would_block, PhysAddr{}, 1,
                             "the reserve is at its floor, and the caller can't sleep"};
            }
            if (refilling) { // by another CPU; it always ends
                platform_.relax();
                continue;
            }
            bool other = false;
            const auto refilled = try_refill(other);
            if (refilled || other) continue;
            if (drained) return refilled.error();
            drain_magazines(); // free pages may still wait there
            drained = true;
        }
    }

    /// Gives a page back; false if it isn't the pool's. Any context; the map isn't touched.
    bool give(PhysAddr pa, std::size_t cpu) {
        platform_.acquire(lock_);
        const ChunkFrame* const frame = find(pa);
        const bool ours = frame != nullptr && bit(frame->owned, index_of(pa));
        const bool reserve_first = free_ < config_.split_reserve + config_.refill_reserve;
        if (ours && reserve_first) push(pa);
        platform_.release(lock_);
        if (!ours || reserve_first) return ours;
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
    /// chunk that lies inside a larger leaf of the pool's own stays. May sleep.
    std::uint64_t shrink(std::uint64_t pages) {
        drain_magazines();
        std::uint64_t given = 0;
        for (std::size_t i = 0; i < frames_.size() && given < pages; ++i) {
            for (PhysAddr pa{}; given < pages;) {
                unsigned c = 0;
                if (!detach_free_chunk(frames_[i], pa, c)) break;
                const std::uint64_t bytes = std::uint64_t{chunk_pages[c]} << G::page_shift;
                TableLoan none;
                const ChangeOptions options{.owns_tables = true, .loan = &none};
                const PhysRange chunk{pa, bytes};
                if (!map_.protect(chunk, config_.restore, options)) {
                    attach_chunk(frames_[i], pa, c);
                    pa = pa + bytes;
                    continue;
                }
                forget_chunk(frames_[i], pa, c);
                (void)map_.collapse(chunk); // heals now, unless the policy or the gate says otherwise
                source_.give_chunk(pa, bytes);
                given += chunk_pages[c];
                pa = pa + bytes;
            }
        }
        return given;
    }

    /// Makes `range` the pool's: pages for which `in_use(pa)` holds are taken already, the others are free. For memory
    /// that was in use before the pool existed (early tables); it stays with the pool. `range` need not be aligned to
    /// chunks. Errors: no_tables (frame storage is full; nothing changed), whatever `protect` says.
    template <class InUse>
    [[nodiscard]] Result<void> adopt(PhysRange range, InUse in_use) {
        TableLoan loan;
        platform_.acquire(lock_);
        while (config_.own_tables && loan.count < G::worst_tables && pop(loan.pages[loan.count])) ++loan.count;
        platform_.release(lock_);
        ChangeOptions options{.owns_tables = true};
        if (config_.own_tables) options.loan = &loan;
        Result<void> result = map_.protect(range, config_.give, options);
        platform_.acquire(lock_);
        while (loan.count != 0) push(loan.pages[--loan.count]);
        for (std::uint64_t done = 0; result && done < range.size; done += G::page_size) {
            ChunkFrame* const frame = find_or_insert(range.start + done);
            if (frame == nullptr) {
                result = Error{ErrorCode::no_tables, range.start + done, 1, "no storage for another frame"};
                break;
            }
            set(frame->owned, index_of(range.start + done));
            ++frame->owned_count;
            ++statistics_.owned;
            if (!in_use(range.start + done)) push(range.start + done);
        }
        platform_.release(lock_);
        return result;
    }

    /// From here on the pool is the map's table source, and lends the tables for its own changes. Before (the pool's
    /// first chunks), they come from the platform, which still asks an early source. Errors: no_tables if the pool
    /// doesn't hold its reserve yet: refill first.
    [[nodiscard]] Result<void> become_table_source() {
        platform_.acquire(lock_);
        const bool ready = free_ >= config_.split_reserve + config_.refill_reserve;
        if (ready) config_.own_tables = true;
        platform_.release(lock_);
        if (ready) return {};
        return Error{ErrorCode::no_tables, PhysAddr{}, config_.split_reserve + config_.refill_reserve,
                     "the reserve is not filled yet"};
    }

    /// Free pages outside of magazines.
    [[nodiscard]] std::uint64_t available() const { return free_; }
    [[nodiscard]] PoolStatistics statistics() {
        platform_.acquire(lock_);
        PoolStatistics s = statistics_;
        s.free = free_;
        if (s.low_water > free_) s.low_water = free_;
        platform_.release(lock_);
        for (const Magazine<Lock>& magazine : magazines_) s.free += magazine.count;
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
    [[nodiscard]] static bool bit(const std::uint64_t* map, unsigned i) { return (map[i / 64] >> (i % 64) & 1) != 0; }
    static void set(std::uint64_t* map, unsigned i) { map[i / 64] |= std::uint64_t{1} << (i % 64); }
    static void clear(std::uint64_t* map, unsigned i) { map[i / 64] &= ~(std::uint64_t{1} << (i % 64)); }
    [[nodiscard]] static unsigned index_of(PhysAddr pa) {
        return static_cast<unsigned>(pa.value() >> G::page_shift) & (frame_pages - 1);
    }
    [[nodiscard]] unsigned floor_for(PageUse use) const {
        return config_.refill_reserve + (use == PageUse::normal ? config_.split_reserve : 0);
    }

    // Frames are found by open addressing over the embedder's storage; a pointer to one stays good while it is used.
    [[nodiscard]] ChunkFrame* find(PhysAddr pa) {
        const std::uint64_t number = pa.value() >> frame_shift;
        for (std::size_t probe = 0; probe < frames_.size(); ++probe) {
            ChunkFrame& frame = frames_[(number + probe) % frames_.size()];
            if (frame.state == ChunkFrame::State::unused) return nullptr;
            if (frame.state == ChunkFrame::State::used && frame.number == number) return &frame;
        }
        return nullptr;
    }
    [[nodiscard]] ChunkFrame* find_or_insert(PhysAddr pa) {
        if (ChunkFrame* const frame = find(pa)) return frame;
        const std::uint64_t number = pa.value() >> frame_shift;
        for (std::size_t probe = 0; probe < frames_.size(); ++probe) {
            ChunkFrame& frame = frames_[(number + probe) % frames_.size()];
            if (frame.state == ChunkFrame::State::used) continue;
            frame = {};
            frame.number = number;
            frame.state = ChunkFrame::State::used;
            return &frame;
        }
        return nullptr;
    }

    // The list of frames with free pages. Frames that are partly taken come first: what is wholly free stays so.
    void link_frame(ChunkFrame& frame) {
        ChunkFrame*& head = frame.free_count == frame.owned_count ? free_frames_ : partial_frames_;
        frame.previous = nullptr;
        frame.next = head;
        if (head != nullptr) head->previous = &frame;
        head = &frame;
    }
    void unlink_frame(ChunkFrame& frame) {
        if (frame.previous != nullptr) {
            frame.previous->next = frame.next;
        } else {
            (partial_frames_ == &frame ? partial_frames_ : free_frames_) = frame.next;
        }
        if (frame.next != nullptr) frame.next->previous = frame.previous;
        frame.next = frame.previous = nullptr;
    }

    [[nodiscard]] bool pop(PhysAddr& pa) {
        ChunkFrame* const frame = partial_frames_ != nullptr ? partial_frames_ : free_frames_;
        if (frame == nullptr) return false;
        unlink_frame(*frame);
        unsigned word = 0;
        while (frame->free[word] == 0) ++word;
        const unsigned index = word * 64 + static_cast<unsigned>(__builtin_ctzll(frame->free[word]));
        clear(frame->free, index);
        --frame->free_count;
        if (frame->free_count != 0) link_frame(*frame);
        if (--free_ < statistics_.low_water) statistics_.low_water = free_;
        pa = PhysAddr{(frame->number << frame_shift) + (std::uint64_t{index} << G::page_shift)};
        return true;
    }
    void push(PhysAddr pa) {
        ChunkFrame* const frame = find(pa);
        if (frame->free_count != 0) unlink_frame(*frame);
        set(frame->free, index_of(pa));
        ++frame->free_count;
        ++free_;
        link_frame(*frame);
    }

    /// `other` tells that nothing was done because another CPU is at it.
    [[nodiscard]] Result<void> try_refill(bool& other) {
        TableLoan loan;
        platform_.acquire(lock_);
        if (refilling_) {
            other = true;
            platform_.release(lock_);
            return Error{ErrorCode::busy, PhysAddr{}, 0, "another refill is under way"};
        }
        refilling_ = true;
        if (config_.own_tables) {
            while (loan.count < chunk_tables && pop(loan.pages[loan.count])) ++loan.count;
        }
        platform_.release(lock_);

        Result<void> result = Error{ErrorCode::no_tables, PhysAddr{}, 1, "no memory for another chunk"};
        for (unsigned c = 0; c < 3 && !result; ++c) {
            const std::uint64_t bytes = std::uint64_t{chunk_pages[c]} << G::page_shift;
            PhysAddr pa;
            if (bytes == 0 || !source_.take_chunk(pa, bytes)) continue;
            result = admit_chunk(pa, c, loan);
            if (!result) source_.give_chunk(pa, bytes);
        }

        platform_.acquire(lock_);
        while (loan.count != 0) push(loan.pages[--loan.count]);
        ++(result ? statistics_.refills : statistics_.failed_refills);
        refilling_ = false;
        platform_.release(lock_);
        return result;
    }

    [[nodiscard]] bool from_magazine(std::size_t cpu, PhysAddr& pa) {
        Magazine<Lock>& magazine = magazines_[cpu];
        platform_.acquire(magazine.lock);
        const bool got = magazine.count != 0;
        if (got) pa = magazine.pages[--magazine.count];
        platform_.release(magazine.lock);
        return got;
    }
    /// With the pool's lock held: sets a few pages aside for the next requests of this CPU, if there are plenty.
    void load_magazine(std::size_t cpu) {
        constexpr unsigned batch = Magazine<Lock>::capacity / 2;
        if (free_ < config_.split_reserve + config_.refill_reserve + 2 * batch) return;
        PhysAddr pages[batch];
        for (PhysAddr& page : pages) (void)pop(page);
        platform_.release(lock_); // lock order: a magazine's before the pool's
        Magazine<Lock>& magazine = magazines_[cpu];
        platform_.acquire(magazine.lock);
        unsigned n = batch;
        while (n != 0 && magazine.count != Magazine<Lock>::capacity) magazine.pages[magazine.count++] = pages[--n];
        platform_.release(magazine.lock);
        platform_.acquire(lock_);
        while (n != 0) push(pages[--n]);
    }

    /// A chunk from the source gets its attributes, then its pages are free.
    Result<void> admit_chunk(PhysAddr pa, unsigned c, TableLoan& loan) {
        platform_.acquire(lock_);
        ChunkFrame* const frame = find_or_insert(pa);
        platform_.release(lock_);
        if (frame == nullptr) return Error{ErrorCode::no_tables, pa, 1, "no storage for another frame"};
        ChangeOptions options{.owns_tables = true};
        if (config_.own_tables) options.loan = &loan;
        const std::uint64_t bytes = std::uint64_t{chunk_pages[c]} << G::page_shift;
        auto result = map_.protect({pa, bytes}, config_.give, options);
        platform_.acquire(lock_);
        if (result) {
            mark_chunk(*frame, index_of(pa), c, true);
            for (unsigned i = 0; i < chunk_pages[c]; ++i) {
                set(frame->owned, index_of(pa) + i);
                ++frame->owned_count;
                push(pa + (std::uint64_t{i} << G::page_shift));
            }
            statistics_.owned += chunk_pages[c];
            ++statistics_.chunks[c];
        } else if (frame->owned_count == 0) {
            frame->state = ChunkFrame::State::deleted;
        }
        platform_.release(lock_);
        return result;
    }

    static void mark_chunk(ChunkFrame& frame, unsigned index, unsigned c, bool on) {
        if (c == 0) {
            frame.whole = on;
        } else if (c == 1) {
            frame.sixteens = on ? frame.sixteens | 1u << (index / 16) : frame.sixteens & ~(1u << (index / 16));
        } else if (on) {
            set(frame.fours, index / 4);
        } else {
            clear(frame.fours, index / 4);
        }
    }
    [[nodiscard]] static bool all_free(const ChunkFrame& frame, unsigned first, unsigned count) {
        for (unsigned i = first; i < first + count; ++i) {
            if (!bit(frame.free, i)) return false;
        }
        return true;
    }
    /// Takes a wholly free chunk at or after `from` out of circulation. False if the frame has none, or the reserve
    /// needs it.
    bool detach_free_chunk(ChunkFrame& frame, PhysAddr& from, unsigned& c) {
        platform_.acquire(lock_);
        bool found = false;
        const PhysAddr base{frame.number << frame_shift};
        const unsigned start = from.value() == 0 ? 0 : static_cast<unsigned>((from - base) >> G::page_shift);
        for (unsigned i = start; frame.state == ChunkFrame::State::used && i < frame_pages && !found;) {
            if (frame.whole) {
                c = 0;
            } else if ((frame.sixteens >> (i / 16) & 1) != 0) {
                c = 1;
            } else if (bit(frame.fours, i / 4)) {
                c = 2;
            } else {
                i = (i / 4 + 1) * 4;
                continue;
            }
            const unsigned pages = chunk_pages[c], first = i / pages * pages;
            if (i == first && all_free(frame, first, pages) &&
                free_ >= pages + config_.split_reserve + config_.refill_reserve) {
                from = base + (std::uint64_t{first} << G::page_shift);
                found = true;
                unlink_frame(frame);
                for (unsigned p = first; p < first + pages; ++p) clear(frame.free, p);
                frame.free_count = static_cast<std::uint16_t>(frame.free_count - pages);
                free_ -= pages;
                if (frame.free_count != 0) link_frame(frame);
            }
            i = first + pages;
        }
        platform_.release(lock_);
        return found;
    }
    void attach_chunk(ChunkFrame&, PhysAddr pa, unsigned c) {
        platform_.acquire(lock_);
        for (unsigned i = 0; i < chunk_pages[c]; ++i) push(pa + (std::uint64_t{i} << G::page_shift));
        platform_.release(lock_);
    }
    void forget_chunk(ChunkFrame& frame, PhysAddr pa, unsigned c) {
        platform_.acquire(lock_);
        const unsigned first = index_of(pa);
        mark_chunk(frame, first, c, false);
        for (unsigned i = 0; i < chunk_pages[c]; ++i) clear(frame.owned, first + i);
        if (frame.free_count != 0) unlink_frame(frame); // it may now be wholly free
        frame.owned_count = static_cast<std::uint16_t>(frame.owned_count - chunk_pages[c]);
        if (frame.free_count != 0) link_frame(frame);
        if (frame.owned_count == 0) frame.state = ChunkFrame::State::deleted;
        statistics_.owned -= chunk_pages[c];
        ++statistics_.given_back;
        platform_.release(lock_);
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

// Tables set aside before a change, so that the change can't fail (promise P6).
#pragma once

#include <cstdint>

#include "directmap/error.hpp"
#include "directmap/platform.hpp"
#include "directmap/reasons.hpp"
#include "directmap/units.hpp"

namespace directmap {

/// Table pages that survive between changes, for callers that can't wait for an allocator. Filled by whoever may sleep
/// (DirectMap::set_aside), drained by atomic callers. Fixed capacity: the worst case of four changes at once.
template <Platform P, unsigned worst_tables>
class TableStock {
public:
    static constexpr unsigned capacity = 4 * worst_tables;

    [[nodiscard, gnu::noinline]] bool take(P& platform, PhysAddr& pa) {
        platform.acquire(lock_);
        const bool got = count_ != 0;
        if (got) {
            pa = pages_[count_ - 1];
            set_count(count_ - 1);
            if (count_ < low_water_) low_water_ = count_;
        }
        platform.release(lock_);
        return got;
    }
    /// False if the stock is full.
    [[nodiscard, gnu::noinline]] bool put(P& platform, PhysAddr pa) {
        platform.acquire(lock_);
        const bool room = count_ != capacity;
        if (room) {
            pages_[count_] = pa;
            set_count(count_ + 1);
        }
        platform.release(lock_);
        return room;
    }
    /// As it is at the moment; needs no lock.
    [[nodiscard]] unsigned count() const { return __atomic_load_n(&count_, __ATOMIC_RELAXED); }
    /// The fewest pages that it ever held since `reset_low_water`.
    [[nodiscard]] unsigned low_water() const { return low_water_; }
    void reset_low_water(P& platform) {
        platform.acquire(lock_);
        low_water_ = count_;
        platform.release(lock_);
    }

private:
    void set_count(unsigned count) { __atomic_store_n(&count_, count, __ATOMIC_RELAXED); }

    typename P::Lock lock_{};
    PhysAddr pages_[capacity];
    unsigned count_ = 0;
    unsigned low_water_ = 0;
};

/// Tables that a caller brings along for its own change, so that the change asks nobody: the table pool's refill, which
/// must not re-enter the pool. What isn't used stays in the loan.
struct TableLoan {
    static constexpr unsigned capacity = 4; ///< the worst case of any geometry with three leaf levels
    PhysAddr pages[capacity];
    unsigned count = 0;
};

/// Where a change takes its tables from, with no lock held, and where those go that it doesn't use: the caller's loan,
/// the stock (atomic callers), or the platform's source.
template <class Core>
class TableSupply {
public:
    TableSupply(Core& core, bool atomic, TableLoan* loan) : core_{core}, loan_{loan}, atomic_{atomic} {}

    [[nodiscard]] bool take(PhysAddr& pa) {
        if (loan_ == nullptr) {
            return atomic_ ? core_.stock.take(core_.platform, pa) : core_.platform.take_table(pa, false);
        }
        if (loan_->count == 0) return false;
        pa = loan_->pages[--loan_->count];
        return true;
    }
    void give(PhysAddr pa) {
        if (loan_ != nullptr) {
            loan_->pages[loan_->count++] = pa;
        } else if (!atomic_ || !core_.stock.put(core_.platform, pa)) { // what came from the stock has room there
            core_.platform.give_table(pa);
        }
    }
    /// What a change answers that would have taken `wanted` tables.
    [[nodiscard]] Error exhausted(unsigned wanted) const {
        return Error::needing(atomic_ ? reasons::nothing_set_aside : reasons::no_tables, wanted);
    }

private:
    Core& core_;
    TableLoan* loan_;
    bool atomic_;
};

/// The tables of one change. Taken with no lock held; what the change didn't use goes back when the reserve goes out of
/// scope, on success and on error alike (promise P4).
template <class Core>
class Reserve {
public:
    Reserve(Core& core, bool atomic, TableLoan* loan = nullptr) : supply_{core, atomic, loan} {}
    Reserve(const Reserve&) = delete;
    Reserve& operator=(const Reserve&) = delete;
    ~Reserve() {
        if (count_ != 0) give_back();
    }

    /// Brings the reserve to `wanted` tables, at most `worst_tables`. False if the supply is short; what was taken
    /// stays until the reserve ends.
    [[nodiscard, gnu::noinline]] bool fill(unsigned wanted) {
        for (; count_ < wanted; ++count_) {
            if (!supply_.take(pages_[count_])) return false;
        }
        return true;
    }
    [[nodiscard]] Error exhausted(unsigned wanted) const { return supply_.exhausted(wanted); }
    [[nodiscard]] unsigned count() const { return count_; }
    [[nodiscard]] PhysAddr operator[](unsigned i) const { return pages_[i]; }
    /// A table for the commit; the plan has made sure that there is one.
    [[nodiscard]] PhysAddr use() { return pages_[--count_]; }

private:
    static_assert(Core::G::worst_tables <= TableLoan::capacity);

    [[gnu::noinline]] void give_back() {
        while (count_ != 0) supply_.give(use());
    }

    [[no_unique_address]] TableSupply<Core> supply_; // (the count fills its last word)
    unsigned count_ = 0;
    PhysAddr pages_[Core::G::worst_tables];
};

} // namespace directmap

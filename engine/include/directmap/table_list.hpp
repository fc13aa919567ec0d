// Tables for a change of many parts, taken before the first part changes, so that none of them can fail (P4, P6).
#pragma once

#include "directmap/core.hpp"
#include "directmap/plan.hpp"
#include "directmap/reserve.hpp"

namespace directmap {

/// As many tables as the parts can use together; what they don't use goes back when the list goes out of scope. They
/// come from where a change with these options takes its own: the caller's loan, the map's stock (atomic), or the table
/// source. The list is linked through the tables' first entries, which nobody else reads: nothing points to them yet.
template <Format F, class Map>
class TableList {
public:
    using G = typename F::geometry;
    using P = typename Map::PlatformType;

    TableList(Map& map, P& platform, const ChangeOptions& options)
        : map_{map}, platform_{platform}, loan_{options.loan}, atomic_{options.atomic} {}
    TableList(const TableList&) = delete;
    TableList& operator=(const TableList&) = delete;
    ~TableList() {
        while (count_ != 0) give(pop());
    }

    /// Another part uses up to `most` tables. One that crosses regions has the worst case in hand before it looks.
    void want(unsigned most, bool several_regions) {
        wanted_ += most;
        if (several_regions && G::worst_tables - most > spare_) spare_ = G::worst_tables - most;
    }
    [[nodiscard]] unsigned wanted() const { return wanted_ + spare_; }
    [[nodiscard]] unsigned count() const { return count_; }

    /// Takes what is wanted, with no lock held. `usable(pa)` may refuse a table. Errors: no_tables, would_block,
    /// incompatible (refused: which).
    template <class Usable>
    [[nodiscard]] Result<void> take(Usable usable) {
        while (count_ < wanted()) {
            PhysAddr pa;
            if (!take_one(pa))
                return Error::needing(atomic_ ? reasons::nothing_set_aside : reasons::no_tables, wanted());
            if (!usable(pa)) {
                give(pa);
                return Error{reasons::table_from_range, pa};
            }
            push(pa);
        }
        return {};
    }

    /// Makes a part's change, `run(options)`, with tables of the list.
    template <class Run>
    [[nodiscard]] auto lend(ChangeOptions options, Run run) {
        TableLoan loan;
        while (count_ != 0 && loan.count < G::worst_tables) loan.pages[loan.count++] = pop();
        options.loan = &loan;
        auto result = run(options);
        while (loan.count != 0) push(loan.pages[--loan.count]);
        return result;
    }

private:
    [[nodiscard]] bool take_one(PhysAddr& pa) {
        if (loan_ == nullptr) return atomic_ ? map_.take_set_aside(pa) : platform_.take_table(pa, false);
        if (loan_->count == 0) return false;
        pa = loan_->pages[--loan_->count];
        return true;
    }
    void give(PhysAddr pa) {
        if (loan_ != nullptr) {
            loan_->pages[loan_->count++] = pa;
        } else if (atomic_) {
            map_.give_set_aside(pa);
        } else {
            platform_.give_table(pa);
        }
    }
    void push(PhysAddr pa) {
        WriteSection<P> writable{platform_};
        platform_.fill(platform_.table(pa), 0, 1, F::table(first_), 0);
        first_ = pa;
        ++count_;
    }
    [[nodiscard]] PhysAddr pop() {
        const PhysAddr pa = first_;
        first_ = F::table_address(platform_.load(platform_.table(pa), 0));
        --count_;
        return pa;
    }

    Map& map_;
    P& platform_;
    TableLoan* loan_;
    bool atomic_;
    PhysAddr first_{}; ///< meaningless when the list is empty
    unsigned count_ = 0;
    unsigned wanted_ = 0;
    unsigned spare_ = 0;
};

} // namespace directmap

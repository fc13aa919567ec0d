// Tables for a change of many parts, taken before the first part changes, so that none of them can fail (P4, P6).
#pragma once

#include "directmap/core.hpp"
#include "directmap/plan.hpp"
#include "directmap/reserve.hpp"

namespace directmap {

/// As many tables as the parts can use together; what they don't use goes back when the list goes out of scope. They
/// come from where a change with these options takes its own. The list is linked through the tables' first entries,
/// which nobody else reads: nothing points to them yet.
template <Format F, class Map>
class TableList {
public:
    using G = typename F::geometry;
    using P = typename Map::PlatformType;

    TableList(Map& map, P& platform, const ChangeOptions& options)
        : platform_{platform}, supply_{map.supply(options)} {}
    TableList(const TableList&) = delete;
    TableList& operator=(const TableList&) = delete;
    ~TableList() {
        while (count_ != 0) supply_.give(pop());
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
            if (!supply_.take(pa)) return supply_.exhausted(wanted());
            if (!usable(pa)) {
                supply_.give(pa);
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

    P& platform_;
    decltype(std::declval<Map&>().supply(default_options)) supply_;
    PhysAddr first_{}; ///< meaningless when the list is empty
    unsigned count_ = 0;
    unsigned wanted_ = 0;
    unsigned spare_ = 0;
};

} // namespace directmap

// Pages full of numbers that somebody keeps rewriting and checking while the map changes around them.
#pragma once

#include "scenarios/scenario.hpp"

namespace directmap::kernel {

/// Each page belongs to one tender, who alone writes it: what it reads back must be what it wrote last. A page that
/// loses a store, that shows another page's memory, or that faults, ends the run.
class Field {
public:
    static constexpr unsigned capacity = 48;

    explicit Field(const Stage& stage) : stage_{stage} {}

    /// Adds a page, which nobody else may write; ignored when the field is full or has it already.
    void add(PhysAddr page);
    /// Adds the pages that `range` doesn't reach but whose leaves it may share: on both sides, near and farther away.
    void add_neighbours_of(PhysRange range);
    [[nodiscard]] unsigned size() const { return size_; }

    /// Checks and rewrites the pages of one of `tenders` tenders.
    void tend(unsigned tender, unsigned tenders);
    /// Checks all pages; nobody may be tending.
    void check_all() const;

private:
    struct Plot {
        PhysAddr page;
        std::uint64_t season = 0; ///< how often it was rewritten
    };

    void check(const Plot& plot) const;
    void sow(Plot& plot) const;

    const Stage& stage_;
    Plot plots_[capacity];
    unsigned size_ = 0;
};

} // namespace directmap::kernel

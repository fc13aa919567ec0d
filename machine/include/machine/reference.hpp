// The truth: which attributes each page may have right now. A deliberately simple map of page ranges, independent of
// any page table.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "directmap/units.hpp"
#include "machine/access.hpp"

namespace directmap::machine {

/// What an operation does to a page, as the reference understands it.
using Effect = std::function<Access(Access)>;

/// Physical pages and what they may look like.
///
/// A page has a set of possible states. Normally one; while a change is in flight on it, each with and without the
/// change applied, for the change takes effect at some moment between its begin and its end. With several in flight
/// that gives every order in which they can take effect; when one ends, the states without it (if it failed, those with
/// it) are gone. While a change must break before it makes, each state also with the valid bit clear; while a flush is
/// deferred, the older ones stay possible too.
class Reference {
public:
    /// What a page may be, and which of the changes in flight it has already seen (by index in `in_flight`).
    struct State {
        Access access;
        std::uint32_t applied = 0;
        friend bool operator==(const State&, const State&) = default;
    };
    struct Pages {
        std::uint64_t end = 0; ///< exclusive
        std::vector<State> states;
        std::vector<Access> base;        ///< what the tables may say: the states' attributes
        std::vector<Access> older;       ///< still possible until a deferred flush completes
        std::vector<unsigned> beside;    ///< of `in_flight`: those that may have flushed before `older` came about
        std::vector<unsigned> in_flight; ///< operations
        std::vector<Access> allowed;     ///< the closure: what hardware may show
    };

    /// RAM that is mapped from the start. Ranges don't overlap.
    void map(PhysRange range, const Access& access);

    /// Operation `id` starts to change `range`. With `breaks`, the pages may fault meanwhile. One that `settles` leaves
    /// nothing older behind when it ends well (promise P2), also not what a deferred change has left before it.
    void begin(unsigned id, PhysRange range, Effect effect, bool breaks, bool settles);
    /// It ended well; with `deferred` what was before stays possible until `flushed`, or until a change that settles.
    void succeed(unsigned id, bool deferred);
    /// It failed: nothing may have changed (P4).
    void fail(unsigned id);
    /// Deferred flushes of `range` have completed.
    void flushed(PhysRange range);

    /// Whether every page of `range` may look like `access`; otherwise the first that may not.
    /// An invalid translation is allowed wherever some state is invalid: its other bits mean nothing to hardware.
    [[nodiscard]] std::optional<PhysAddr> forbids(PhysRange range, const Access& access) const;
    /// The first page of `range` that is mapped, if any.
    [[nodiscard]] std::optional<PhysAddr> mapped_in(PhysRange range) const;
    /// The first page of `range` that must be mapped, if any: every one that is known, except where a hole is allowed.
    [[nodiscard]] std::optional<PhysAddr> present_in(PhysRange range) const;
    /// Whether every possible state of the page allows a write (or read) by the engine.
    [[nodiscard]] bool accessible(PhysAddr page, bool write, unsigned writable_keys) const;

    /// Page ranges with their states, by start address; what lies between is not mapped.
    [[nodiscard]] const std::map<std::uint64_t, Pages>& pages() const { return pages_; }
    [[nodiscard]] const Pages* find(PhysAddr page) const;
    /// When changes raced, several states may be left; `settle` keeps the one that the tables really hold.
    void settle(PhysRange range, const Access& access);

private:
    struct Operation {
        PhysRange range;
        Effect effect;
        bool breaks = false;
        bool settles = false;
    };
    using Iterator = std::map<std::uint64_t, Pages>::iterator;

    void cut(std::uint64_t at);
    void for_each(PhysRange range, const std::function<void(Pages&)>& visit);
    void close(Pages& pages) const;
    static void end(Pages& pages, unsigned id, bool applied);
    void merge(PhysRange range);

    std::map<std::uint64_t, Pages> pages_;
    std::map<unsigned, Operation> operations_;
};

} // namespace directmap::machine

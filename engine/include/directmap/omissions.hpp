// Mistakes that the engine makes on purpose, when a platform for tests asks for one: each leaves out a step that only a
// race makes necessary, so nothing but a race can show that the step is there for a reason (docs/explorer.md lists
// which scenario does). A platform opts in with a member `bool omits(Omission) const`; for all others the question is a
// constant and costs nothing.
#pragma once

#include <concepts>
#include <cstdint>

namespace directmap {

/// A step that can be left out.
enum class Omission : std::uint8_t {
    nothing,
    second_plan,      ///< after the reserve was filled, to plan again what another CPU has changed meanwhile
    second_look,      ///< to look at a leaf again under the lock once there is a table for its pages
    unhinted_flush,   ///< to invalidate without a level hint while larger entries may linger
    lingering_note,   ///< to note that a repaint leaves larger entries behind
    flush_to_merge,   ///< to flush what was left unflushed before a collapse
    prepare_check,    ///< to keep a collapse away from what is just being pinned
    flush_to_reclaim, ///< to flush before the grace period of an unlinked table begins
    admission_check,  ///< to look at what a newcomer tolerates
    admission_wait,   ///< to wait for resizes that saw the gate open before a newcomer enters
    repaint_count,    ///< to leave the gate alone after a failed admission while another one is repainting
    // The chunk pool's.
    pool_attributes,     ///< to give a chunk its attributes before its pages are free
    pool_split_reserve,  ///< to keep normal requests away from what splits may need
    pool_refill_reserve, ///< to keep everybody away from what a refill needs for itself
    pool_repay,          ///< to pay the loan back after a refill that failed
    pool_frame_pin,      ///< to keep a frame that a refill is about to add to from being forgotten
    pool_shrink_loan,    ///< to refuse a shrink that would take a table
    pool_drain,          ///< to look into the magazines before saying that there is nothing
};

namespace detail {

template <class P>
[[nodiscard]] constexpr bool omits([[maybe_unused]] const P& platform, [[maybe_unused]] Omission step) {
    if constexpr (requires {
                      { platform.omits(step) } -> std::same_as<bool>;
                  })
        return platform.omits(step);
    return false;
}

} // namespace detail

} // namespace directmap

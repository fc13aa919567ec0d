// What attributes allow, tried out on the CPU.
#pragma once

#include "scenarios/scenario.hpp"

namespace directmap::kernel {

/// Makes a page ready for `check_access`: fills it with functions that a fetch can call. The page is writable.
void prepare_page_for_access(const Stage& stage, PhysAddr page);

/// Whether somebody may resize the leaf around a page while it is tried out.
enum class Surroundings : std::uint8_t { quiet, changing };

/// Loads from, stores to, and fetches from a prepared page, on this CPU. What `attributes` allow must work; what they
/// don't must fault, with the right syndrome, at the right address, and in quiet surroundings from a leaf of the level
/// that `translate` shows.
void check_access(Stage& stage, PhysAddr page, Attributes attributes, Surroundings surroundings = Surroundings::quiet);

/// `translate` must say that all pages of `range` have these attributes.
void check_attributes(Stage& stage, PhysRange range, Attributes attributes);

} // namespace directmap::kernel

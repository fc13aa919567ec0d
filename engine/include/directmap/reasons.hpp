// Every reason that the engine gives for an error. Who prints none of the sentences links none of them.
#pragma once

#include "directmap/error.hpp"

namespace directmap::reasons {

// A range or a layout that makes no sense.
inline constexpr Reason misaligned_range{ErrorCode::invalid_argument, "the range is not aligned to pages"};
inline constexpr Reason empty_range{ErrorCode::invalid_argument, "the range is empty"};
inline constexpr Reason foreign_range{ErrorCode::invalid_argument, "the range is not inside the map, or wraps around"};
inline constexpr Reason foreign_address{ErrorCode::invalid_argument, "an address outside the map"};
inline constexpr Reason foreign_page{ErrorCode::invalid_argument, "not a page of the map"};
inline constexpr Reason occupied{ErrorCode::invalid_argument, "something is mapped there already"};
inline constexpr Reason no_ram{ErrorCode::invalid_argument, "no RAM"};
inline constexpr Reason misaligned_offset{ErrorCode::invalid_argument, "the offset is not aligned to pages"};
inline constexpr Reason empty_entry{ErrorCode::invalid_argument, "an empty range"};
inline constexpr Reason misaligned_entry{ErrorCode::invalid_argument, "a range that is not aligned to pages"};
inline constexpr Reason wrapping_entry{ErrorCode::invalid_argument, "a range that wraps around"};
inline constexpr Reason unaddressable_entry{ErrorCode::invalid_argument, "a range beyond the map's address space"};
inline constexpr Reason unsorted_ram{ErrorCode::invalid_argument, "RAM ranges overlap or are not sorted"};
inline constexpr Reason unsorted_zones{ErrorCode::invalid_argument, "zones overlap or are not sorted"};
inline constexpr Reason too_wide{ErrorCode::invalid_argument, "RAM does not fit the virtual address space"};
inline constexpr Reason too_few_regions{ErrorCode::invalid_argument,
                                        "the map spans more regions than there is storage for", Reason::counts_needed};

// Nothing is there.
inline constexpr Reason hole{ErrorCode::not_mapped, "a hole in the range"};
inline constexpr Reason not_mapped{ErrorCode::not_mapped, "not mapped"};

// Tables.
inline constexpr Reason no_tables{ErrorCode::no_tables, "the table source is exhausted", Reason::counts_needed};
inline constexpr Reason nothing_set_aside{ErrorCode::would_block, "more tables are needed than are set aside",
                                          Reason::counts_needed};
inline constexpr Reason prepare_sleeps{ErrorCode::would_block, "preparing takes tables from a source that may sleep"};
inline constexpr Reason own_tables{ErrorCode::incompatible, "the range maps page tables that the change has to edit"};
inline constexpr Reason table_from_range{ErrorCode::incompatible,
                                         "the table source handed out memory that is being changed"};
inline constexpr Reason table_key{ErrorCode::incompatible, "the table key is for page tables alone"};
inline constexpr Reason protected_tables{ErrorCode::incompatible, "the range holds protected page tables"};
inline constexpr Reason table_in_range{ErrorCode::incompatible, "the range holds a page table of the map"};
inline constexpr Reason leaf_beyond_range{ErrorCode::incompatible, "a leaf reaches beyond the range"};

// Resizing.
inline constexpr Reason gate_undecided{ErrorCode::busy, "a leaf must be resized, and the gate has not decided yet"};
inline constexpr Reason gate_closed{ErrorCode::unsupported,
                                    "a leaf must be resized, and a CPU on the map can't tolerate that"};
inline constexpr Reason fixed_leaf{ErrorCode::unsupported, "a leaf of fixed size would have to be resized"};
inline constexpr Reason not_prepared{ErrorCode::unsupported, "only a page that was prepared can be flipped"};
inline constexpr Reason never_collapses{ErrorCode::unsupported, "the policy is never to collapse"};

// What this machine can't do.
inline constexpr Reason no_realm{ErrorCode::unsupported, "sharing needs a realm"};
inline constexpr Reason intolerant_cpu{ErrorCode::unsupported,
                                       "the CPU can't tolerate resizing, and the map still needs it"};
inline constexpr Reason fixed_groups{ErrorCode::unsupported,
                                     "the CPU mishandles contiguous groups, and fixed leaves consist of them"};

// Somebody else was there.
inline constexpr Reason filled_by_another{ErrorCode::busy, "somebody else maps something there"};

// The chunk pool.
inline constexpr Reason reserve_at_floor{
    ErrorCode::would_block, "the reserve is at its floor, and the caller can't sleep", Reason::counts_needed};
inline constexpr Reason reserve_unfilled{ErrorCode::no_tables, "the reserve is not filled yet", Reason::counts_needed};
inline constexpr Reason refilling{ErrorCode::busy, "another refill is under way"};
inline constexpr Reason no_chunk{ErrorCode::no_tables, "no memory for another chunk", Reason::counts_needed};
inline constexpr Reason owned_page{ErrorCode::invalid_argument, "the page is the pool's already"};
inline constexpr Reason no_frame{ErrorCode::no_tables, "no storage for another frame", Reason::counts_needed};

// Areas. Their errors tell virtual addresses.
inline constexpr Reason misaligned_area{ErrorCode::invalid_argument, "the area is not aligned to regions"};
inline constexpr Reason small_area_storage{ErrorCode::invalid_argument, "there is too little storage for the area"};
inline constexpr Reason misaligned_run{ErrorCode::invalid_argument, "a run is empty or not aligned to pages"};
inline constexpr Reason nothing_to_map{ErrorCode::invalid_argument, "there is nothing to map"};
inline constexpr Reason not_in_area{ErrorCode::invalid_argument, "not in the area"};
inline constexpr Reason misaligned_in_area{ErrorCode::invalid_argument, "the range is empty or not aligned to pages"};
inline constexpr Reason beyond_area{ErrorCode::invalid_argument, "the range is not inside the area"};
inline constexpr Reason alias_type{ErrorCode::unsupported, "an alias can't change its memory type or sharing alone"};
inline constexpr Reason writable_executable{ErrorCode::unsupported, "a page can't become writable and executable"};
inline constexpr Reason area_gate_closing{ErrorCode::busy, "a CPU is being admitted to the area"};
inline constexpr Reason area_groups{ErrorCode::unsupported, "the area holds contiguous groups"};
inline constexpr Reason no_alias_storage{ErrorCode::no_tables, "the storage for aliases is full"};
inline constexpr Reason no_room{ErrorCode::no_tables, "no room is left in the area"};

} // namespace directmap::reasons

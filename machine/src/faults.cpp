#include "machine/faults.hpp"

#include <algorithm>

namespace directmap::machine {

namespace {

// The bits that the faults meddle with; arm64 descriptors, as machine/regime.cpp reads them.
constexpr std::uint64_t valid_bit = 1, type_bit = 2, read_only_bit = 1u << 7;
constexpr std::uint64_t contiguous_bit = std::uint64_t{1} << 52;

/// No leaf is of this level: what hardware makes of a hint that means another granule.
constexpr int foreign_level = -3;

constexpr FaultInfo faults[] = {
    {Fault::drop_publish_barrier, "drop_publish_barrier", "no barrier after descriptor stores"},
    {Fault::late_publish_barrier, "late_publish_barrier",
     "the barrier after descriptor stores comes one step too late"},
    {Fault::drop_completion_barrier, "drop_completion_barrier", "nobody waits for invalidations to complete"},
    {Fault::weak_completion_barrier, "weak_completion_barrier", "a store barrier where invalidations must complete"},
    {Fault::drop_invalidation, "drop_invalidation", "no invalidation at all"},
    {Fault::narrow_invalidation, "narrow_invalidation", "an invalidation by range misses the last page"},
    {Fault::wrong_level_hint, "wrong_level_hint", "the level hint is one level off"},
    {Fault::stale_level_hint, "stale_level_hint", "a level hint although a larger entry may still be cached"},
    {Fault::unmasked_address, "unmasked_address",
     "the address isn't masked: its top bits become a hint for another granule"},
    {Fault::leaves_only_collapse, "leaves_only_collapse", "a collapse leaves walk caches alone"},
    {Fault::local_invalidation, "local_invalidation", "invalidations reach the CPU alone that issues them"},
    {Fault::half_group, "half_group", "the contiguous bit is cleared or set on half a group"},
    {Fault::unopened_group, "unopened_group", "members of a group change while the contiguous bit is set"},
    {Fault::unaligned_group, "unaligned_group", "the contiguous bit without a look at the physical address"},
    {Fault::publish_before_fill, "publish_before_fill", "a table is linked first and filled afterwards"},
    {Fault::short_fill, "short_fill", "the last entry of a new table is not filled"},
    {Fault::forgotten_attribute, "forgotten_attribute", "a split loses the read-only bit"},
    {Fault::wrong_leaf_type, "wrong_leaf_type", "last-level leaves with the type of a block (0b01)"},
    {Fault::two_step_parent, "two_step_parent", "a parent entry is written in two halves"},
    {Fault::emptied_invalid_leaf, "emptied_invalid_leaf", "an invalid leaf loses its address and attributes"},
    {Fault::wide_update, "wide_update", "a change goes on for one page more"},
    {Fault::missing_break, "missing_break", "memory type or sharing changes without a break"},
    {Fault::missing_break_flush, "missing_break_flush", "a break without the invalidation between its halves"},
    {Fault::free_before_flush, "free_before_flush", "a table is given back before the invalidation"},
    {Fault::free_before_grace, "free_before_grace", "a table is given back while a walker may still read it"},
    {Fault::double_free, "double_free", "a table is given back twice"},
    {Fault::lost_table, "lost_table", "a table is never given back"},
    {Fault::drop_lock, "drop_lock", "descriptors are written without the region's lock"},
    {Fault::drop_write_section, "drop_write_section", "protected tables are written outside of a write section"},
};

} // namespace

Span<const FaultInfo> all_faults() {
    return faults;
}

std::optional<Fault> fault_named(std::string_view name) {
    if (name == "none") return Fault::none;
    const auto* found =
        std::find_if(std::begin(faults), std::end(faults), [&](const FaultInfo& f) { return f.name == name; });
    if (found == std::end(faults)) return std::nullopt;
    return found->fault;
}

const char* name_of(Fault fault) {
    const auto* found =
        std::find_if(std::begin(faults), std::end(faults), [&](const FaultInfo& f) { return f.fault == fault; });
    return found == std::end(faults) ? "none" : found->name;
}

void FaultyPlatform::run(std::vector<std::function<void()>>& calls) {
    const auto now = std::move(calls);
    calls.clear();
    for (const auto& call : now) call();
}

void FaultyPlatform::store(Table table, unsigned index, Descriptor value, Where where) {
    const std::uint64_t old = armed_ ? Platform::load(table, index, where).bits() : 0, now = value.bits();
    const bool breaks = (old & valid_bit) != 0 && (now & valid_bit) == 0;
    if (is(Fault::missing_break) && breaks) return;
    breaking_ = breaks || (breaking_ && (now & valid_bit) == 0);
    if (is(Fault::emptied_invalid_leaf) && breaks) value = Descriptor{};
    const bool links = (old & type_bit) == 0 && (old & valid_bit) != 0 && (now & type_bit) != 0;
    if (is(Fault::two_step_parent) && links) {
        constexpr std::uint64_t low_half = 0xffffffff;
        Platform::store(table, index, Descriptor::from_bits((old & ~low_half) | (now & low_half)), where);
    }
    Platform::store(table, index, value, where);
    if (is(Fault::late_publish_barrier) && std::exchange(barrier_owed_, false)) Platform::barrier_publish(where);
    run(fills_);
}

void FaultyPlatform::fill(Table table, unsigned first, unsigned count, Descriptor value, std::uint64_t step,
                          Where where) {
    const std::uint64_t page_size = std::uint64_t{1} << machine().regime().page_shift;
    if (is(Fault::wrong_leaf_type) && step == page_size) value = value.without(Descriptor::from_bits(type_bit));
    if (is(Fault::forgotten_attribute) && step != 0) value = value.without(Descriptor::from_bits(read_only_bit));
    if (is(Fault::unaligned_group) && step == page_size && count > 1)
        value = value | Descriptor::from_bits(contiguous_bit);
    if (is(Fault::short_fill) && count != 0 && first + count == machine().regime().entries(3)) --count;
    if (is(Fault::publish_before_fill)) {
        fills_.push_back([=, this] { Platform::fill(table, first, count, value, step, where); });
        return;
    }
    Platform::fill(table, first, count, value, step, where);
}

void FaultyPlatform::update(Table table, unsigned first, unsigned count, DescriptorChange change, Where where) {
    const bool regroups = (change.clear | change.set).any_of(Descriptor::from_bits(contiguous_bit));
    if (is(Fault::unopened_group) && regroups) return;
    if (is(Fault::half_group) && regroups) count = (count + 1) / 2;
    if (is(Fault::wide_update) && !regroups && first + count < machine().regime().entries(3)) ++count;
    Platform::update(table, first, count, change, where);
    if (!is(Fault::emptied_invalid_leaf) || !change.clear.any_of(Descriptor::from_bits(valid_bit))) return;
    for (unsigned i = first; i < first + count; ++i) Platform::store(table, i, Descriptor{}, where);
}

void FaultyPlatform::barrier_publish(Where where) {
    if (is(Fault::drop_publish_barrier)) return;
    if (is(Fault::late_publish_barrier)) {
        barrier_owed_ = true;
        return;
    }
    Platform::barrier_publish(where);
}

void FaultyPlatform::barrier_complete(Where where) {
    if (is(Fault::drop_completion_barrier)) return;
    if (is(Fault::weak_completion_barrier)) return Platform::barrier_publish(where);
    if (is(Fault::free_before_flush)) {
        flushes_.push_back([=, this] { Platform::barrier_complete(where); });
        return;
    }
    Platform::barrier_complete(where);
}

/// `bytes` 0: everything.
void FaultyPlatform::issue(std::uint64_t va, std::uint64_t bytes, InvalidationScope scope, Where where) {
    const std::uint64_t page_size = std::uint64_t{1} << machine().regime().page_shift;
    std::uint64_t targets = everyone;
    if (is(Fault::drop_invalidation) || (is(Fault::missing_break_flush) && breaking_)) return;
    if (is(Fault::narrow_invalidation) && bytes > page_size) bytes -= page_size;
    if (is(Fault::wrong_level_hint) && scope.level != InvalidationScope::any_level) scope.level -= 1;
    if (is(Fault::stale_level_hint)) scope.level = 3;
    if (is(Fault::unmasked_address)) scope.level = foreign_level;
    if (is(Fault::leaves_only_collapse)) scope.leaves_only = true;
    if (is(Fault::local_invalidation)) targets = std::uint64_t{1} << machine().cpu();
    if (is(Fault::free_before_flush)) {
        flushes_.push_back([=, this] { machine().invalidate(va, bytes, scope, targets, where); });
        return;
    }
    machine().invalidate(va, bytes, scope, targets, where);
    if (is(Fault::late_publish_barrier) && std::exchange(barrier_owed_, false)) Platform::barrier_publish(where);
}

void FaultyPlatform::invalidate(VirtAddr va, InvalidationScope scope, Where where) {
    issue(va.value(), page_size(), scope, where);
}
void FaultyPlatform::invalidate_range(VirtAddr va, std::uint64_t bytes, InvalidationScope scope, Where where) {
    issue(va.value(), bytes, scope, where);
}
void FaultyPlatform::invalidate_all(Where where) {
    issue(0, 0, {InvalidationScope::any_level, false}, where);
}

void FaultyPlatform::acquire(Lock& lock, Where where) {
    if (!is(Fault::drop_lock)) Platform::acquire(lock, where);
}
void FaultyPlatform::release(Lock& lock, Where where) {
    if (!is(Fault::drop_lock)) Platform::release(lock, where);
}

void FaultyPlatform::give_table(PhysAddr pa, Where where) {
    if (is(Fault::lost_table)) return;
    Platform::give_table(pa, where);
    if (is(Fault::double_free)) Platform::give_table(pa, where);
    run(flushes_);
}

bool FaultyPlatform::begin_table_writes(Where where) {
    return !is(Fault::drop_write_section) && Platform::begin_table_writes(where);
}
void FaultyPlatform::end_table_writes(bool was_open, Where where) {
    if (!is(Fault::drop_write_section)) Platform::end_table_writes(was_open, where);
}

bool FaultyPlatform::grace_elapsed(std::uint64_t stamp, Where where) {
    return is(Fault::free_before_grace) || Platform::grace_elapsed(stamp, where);
}

} // namespace directmap::machine

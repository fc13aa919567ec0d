// The platform with a mistake in it, chosen on the command line (`fault=NAME`), to prove that the scenarios notice.
// Without one (`fault=none`) it is ArmPlatform and a few untaken branches.
#pragma once

#include <optional>
#include <string_view>

#include "memory/platform.hpp"

namespace directmap::kernel {

enum class Fault : std::uint8_t {
    none,
    no_invalidation,    ///< translations are never invalidated
    local_invalidation, ///< only this CPU's are
    wrong_operand,      ///< the address isn't shifted into place
    narrow_range,       ///< only the first page of a range is invalidated
    invalid_leaves,     ///< leaves in new tables lack their valid bit
    wrong_leaf_type,    ///< last-level leaves in new tables have a block's type
    skipped_update,     ///< the last descriptor of a run keeps its old attributes
    open_interrupts,    ///< locks don't keep interrupts away
};

class SeededPlatform : public ArmPlatform {
public:
    /// The fault with this name; nothing if there is none.
    [[nodiscard]] static std::optional<Fault> fault_named(std::string_view name);

    SeededPlatform(TablePool& pool, Features features, Fault fault) : ArmPlatform{pool, features}, fault_{fault} {}

    void fill(Table table, unsigned first, unsigned count, Descriptor value, std::uint64_t step) {
        if (fault_ == Fault::invalid_leaves && step != 0) value = value.without(Format::valid_mask);
        if (fault_ == Fault::wrong_leaf_type && step == page_size) value = value.without(Descriptor::from_bits(0b10));
        ArmPlatform::fill(table, first, count, value, step);
    }
    void update(Table table, unsigned first, unsigned count, DescriptorChange change) {
        if (fault_ == Fault::skipped_update && count > 1) --count;
        ArmPlatform::update(table, first, count, change);
    }
    void invalidate(VirtAddr va, InvalidationScope scope) {
        switch (fault_) {
        case Fault::no_invalidation: return;
        case Fault::local_invalidation: asm volatile("tlbi vmalle1" ::: "memory"); return;
        case Fault::wrong_operand: tlb::invalidate(va.value() & 0xfff'ffff'ffff, scope.leaves_only); return;
        default: ArmPlatform::invalidate(va, scope);
        }
    }
    void invalidate_range(VirtAddr va, std::uint64_t bytes, InvalidationScope scope) {
        switch (fault_) {
        case Fault::no_invalidation: return;
        case Fault::local_invalidation: asm volatile("tlbi vmalle1" ::: "memory"); return;
        case Fault::wrong_operand: tlb::invalidate(va.value() & 0xfff'ffff'ffff, scope.leaves_only); return;
        case Fault::narrow_range: ArmPlatform::invalidate(va, scope); return;
        default: ArmPlatform::invalidate_range(va, bytes, scope);
        }
    }
    void invalidate_all() {
        if (fault_ == Fault::no_invalidation) return;
        if (fault_ == Fault::local_invalidation) {
            asm volatile("tlbi vmalle1" ::: "memory");
            return;
        }
        ArmPlatform::invalidate_all();
    }
    void acquire(Lock& lock) {
        lock.acquire();
        if (fault_ == Fault::open_interrupts) unmask_interrupts();
    }
    void release(Lock& lock) { lock.release(); }

private:
    const Fault fault_;
};

static_assert(Platform<SeededPlatform>);

} // namespace directmap::kernel

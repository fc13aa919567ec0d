// The platform with a mistake in it, chosen on the command line (`fault=NAME`), to prove that the scenarios notice.
// Without one (`fault=none`) it is ArmPlatform and a few untaken branches.
#pragma once

#include <optional>
#include <string_view>

#include "cpu/ending.hpp"
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
    no_write_sections,  ///< the key register isn't raised for writes to tables
    open_sections,      ///< nor lowered afterwards
};

class SeededPlatform : public ArmPlatform {
public:
    /// The fault with this name; nothing if there is none.
    [[nodiscard]] static std::optional<Fault> fault_named(std::string_view name);

    SeededPlatform(Features features, Fault fault) : ArmPlatform{features}, fault_{fault} {}

    void store(Table table, unsigned index, Descriptor value) {
        check_section();
        ArmPlatform::store(table, index, value);
    }
    void fill(Table table, unsigned first, unsigned count, Descriptor value, std::uint64_t step) {
        check_section();
        if (fault_ == Fault::invalid_leaves && step != 0) value = value.without(Format::valid_mask);
        if (fault_ == Fault::wrong_leaf_type && step == page_size) value = value.without(Descriptor::from_bits(0b10));
        ArmPlatform::fill(table, first, count, value, step);
    }
    void update(Table table, unsigned first, unsigned count, DescriptorChange change) {
        check_section();
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
    [[gnu::always_inline]] bool begin_table_writes() {
        return fault_ == Fault::no_write_sections || ArmPlatform::begin_table_writes();
    }
    [[gnu::always_inline]] void end_table_writes(bool was_open) {
        if (fault_ != Fault::open_sections) ArmPlatform::end_table_writes(was_open);
    }

private:
    /// A CPU with overlays faults by itself.
    static void check_section() {
        if (overlays::mode == Overlays::emulated && !overlays::may_write_tables())
            fail("a page table is written outside of a write section");
    }

    const Fault fault_;
};

static_assert(Platform<SeededPlatform>);

} // namespace directmap::kernel

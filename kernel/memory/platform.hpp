// The engine's platform on arm64: what platform.hpp of the engine asks for, with real instructions. This is the file
// that a port to another kernel rewrites.
#pragma once

#include <cstdint>

#include "cpu/barriers.hpp"
#include "cpu/cpu.hpp"
#include "cpu/overlays.hpp"
#include "cpu/spin_lock.hpp"
#include "cpu/tlb.hpp"
#include "directmap/epochs.hpp"
#include "directmap/platform.hpp"
#include "directmap/table_memory.hpp"
#include "memory/table_source.hpp"

namespace directmap::kernel {

class ArmPlatform : public DefaultTableMemory<> {
public:
    using Lock = SpinLock;

    /// What the CPUs of this machine have in common.
    struct Features {
        bool range_invalidation = false; ///< FEAT_TLBIRANGE
        bool level_hints = false;        ///< FEAT_TTL
    };

    explicit ArmPlatform(Features features) : features_{features} {}

    void take_tables_from(TableSource& source) { source_ = &source; }
    /// What turns a table's physical address into one that this CPU can use.
    void reach_tables_at(std::uint64_t va_offset) { va_offset_ = va_offset; }
    /// The map is live: tables are reached through it from now on.
    void set_live(std::uint64_t va_offset) {
        va_offset_ = va_offset;
        live_ = true;
    }

    // Table memory: the rest comes from DefaultTableMemory.
    Table table(PhysAddr pa) { return reinterpret_cast<Table>(pa.value() + va_offset_); }
    /// Nobody reads these tables yet, so plain stores will do, which the compiler pairs.
    void fill(Table table, unsigned first, unsigned count, Descriptor value, std::uint64_t step) {
        std::uint64_t* word = table + first;
        std::uint64_t bits = value.bits();
        for (; count >= 8; count -= 8, word += 8) {
            word[0] = bits;
            word[1] = bits += step;
            word[2] = bits += step;
            word[3] = bits += step;
            word[4] = bits += step;
            word[5] = bits += step;
            word[6] = bits += step;
            word[7] = bits += step;
            bits += step;
        }
        for (; count != 0; --count, ++word, bits += step) *word = bits;
    }

    // Ordering.
    void barrier_publish() { dsb_ishst(); }
    void barrier_complete() { dsb_ish(); }
    void barrier_context() { isb(); }

    // Invalidation.
    [[nodiscard]] bool range_invalidation() const { return features_.range_invalidation; }
    void invalidate(VirtAddr va, InvalidationScope scope) {
        tlb::invalidate(tlb::address_operand(va.value(), scope.level, features_.level_hints), scope.leaves_only);
    }
    void invalidate_range(VirtAddr va, std::uint64_t bytes, InvalidationScope scope) {
        std::uint64_t pages = bytes >> Geometry::page_shift, at = va.value();
        while (pages >= 2) {
            const tlb::RangeStep step = tlb::RangeStep::at_most(pages);
            tlb::invalidate_range(tlb::range_operand(at, step, scope.level), scope.leaves_only);
            at += step.pages() << Geometry::page_shift;
            pages -= step.pages();
        }
        if (pages == 1) invalidate(VirtAddr{at}, scope);
    }
    void invalidate_all() { tlb::invalidate_all(); }

    // Exclusion.
    void acquire(Lock& lock) { lock.acquire(); }
    void release(Lock& lock) { lock.release(); }

    // Table pages.
    [[nodiscard]] bool take_table(PhysAddr& pa, bool atomic) { return source_->take(pa, atomic); }
    void give_table(PhysAddr pa) { source_->give(pa); }
    [[nodiscard]] bool tables_mapped_here() const { return live_; }

    // Protected tables.
    [[gnu::always_inline]] bool begin_table_writes() { return overlays::Sections::begin(); }
    [[gnu::always_inline]] void end_table_writes(bool was_open) { overlays::Sections::end(was_open); }

    // Lock-free walkers. An interrupt between reading the slot and entering it nests properly: it leaves as it came.
    void walker_enter() { epochs_.enter(this_cpu().index); }
    void walker_exit() { epochs_.exit(this_cpu().index); }
    std::uint64_t grace_stamp() { return epochs_.stamp(); }
    [[nodiscard]] bool grace_elapsed(std::uint64_t stamp) { return epochs_.elapsed(stamp); }

    // Time, in ticks of the system counter.
    std::uint64_t now() { return read_cntvct_el0(); }
    void relax() { asm volatile("yield"); }

private:
    TableSource* source_ = nullptr;
    std::uint64_t va_offset_ = 0;
    Features features_;
    bool live_ = false;
    EpochSlot slots_[max_cpus];
    Epochs epochs_{slots_};
};

static_assert(Platform<ArmPlatform>);

} // namespace directmap::kernel

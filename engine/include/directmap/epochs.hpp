// Grace periods for lock-free walkers, for platforms that have no read-copy-update of their own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "directmap/span.hpp"

namespace directmap {

/// One CPU's place in the epoch scheme. Storage is the embedder's, one for each CPU that may walk.
struct alignas(64) EpochSlot {
    std::uint64_t epoch = 0; ///< 0: not walking; otherwise the epoch in which the outermost walk began
    std::uint32_t depth = 0; ///< nesting: an interrupt may walk inside a walk
};

/// A walker publishes the epoch in which it began; a table that was unlinked in epoch e may be reused once no slot
/// shows an epoch ≤ e. Entering and leaving are two stores and a fence; nobody ever waits for a walker.
///
/// Why the fence: CPU A stores its slot and loads a table descriptor; CPU B unlinks that table, then reads A's slot.
/// Without a store-load fence on both sides, A may read the old descriptor while B reads the old slot, and B would
/// reuse the table under A. Here B's fence lies between the unlinking store (and its invalidation) and `elapsed`.
class Epochs {
public:
    Epochs() = default;
    explicit Epochs(Span<EpochSlot> slots) : slots_{slots} {}

    /// Begins a walk on `cpu`; must run on that CPU and not migrate until `exit`.
    void enter(std::size_t cpu) {
        EpochSlot& slot = slots_[cpu];
        if (slot.depth++ != 0) return;
        __atomic_store_n(&slot.epoch, __atomic_load_n(&epoch_, __ATOMIC_ACQUIRE), __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
    void exit(std::size_t cpu) {
        EpochSlot& slot = slots_[cpu];
        if (--slot.depth != 0) return;
        __atomic_store_n(&slot.epoch, std::uint64_t{0}, __ATOMIC_RELEASE);
    }

    /// Closes the current epoch and returns it: what was unlinked before this call is stamped with it. One caller at a
    /// time (the engine calls it under its reclaim lock): a late store of an older epoch by a second closer would let
    /// a walker of the newer one look younger than it is.
    std::uint64_t stamp() {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        const std::uint64_t closed = __atomic_load_n(&epoch_, __ATOMIC_ACQUIRE);
        __atomic_store_n(&epoch_, closed + 1, __ATOMIC_RELEASE);
        return closed;
    }
    /// Every walk that began in epoch `stamp` or before has ended.
    [[nodiscard]] bool elapsed(std::uint64_t stamp) const {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        for (const EpochSlot& slot : slots_) {
            const std::uint64_t epoch = __atomic_load_n(&slot.epoch, __ATOMIC_ACQUIRE);
            if (epoch != 0 && epoch <= stamp) return false;
        }
        return true;
    }

private:
    Span<EpochSlot> slots_;
    std::uint64_t epoch_ = 1;
};

} // namespace directmap

// A platform on plain host memory: tables live in one arena, barriers and invalidations are counted, not executed.
// For unit tests that look at results, and for the bench. The machine (machine/) is the one that judges.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "directmap/directmap.hpp"

namespace directmap::test {

template <unsigned page_shift = 12, bool shared_readers = false>
class HostPlatform : public DefaultTableMemory<shared_readers> {
public:
    using Table = std::uint64_t*;
    struct Lock {};

    /// Tables get the physical addresses [base, base + pages × page size).
    HostPlatform(std::uint64_t base, std::size_t pages)
        : base_{base}, pages_{pages}, memory_{static_cast<std::uint64_t*>(::operator new[](bytes(), alignment)), {}} {
        for (std::size_t i = pages; i != 0; --i) free_.push_back(base + ((i - 1) << page_shift));
    }

    Table table(PhysAddr pa) { return memory_.get() + (pa.value() - base_) / sizeof(std::uint64_t); }
    void barrier_publish() { ++barriers; }
    void barrier_complete() { ++barriers; }
    void barrier_context() {}
    [[nodiscard]] bool range_invalidation() const { return has_range_invalidation; }
    void invalidate(VirtAddr, InvalidationScope) { ++invalidations; }
    void invalidate_range(VirtAddr, std::uint64_t, InvalidationScope) { ++invalidations; }
    void invalidate_all() { ++invalidations; }
    void acquire(Lock&) {}
    void release(Lock&) {}
    bool take_table(PhysAddr& pa, bool) {
        if (free_.empty() || limit == 0) return false;
        --limit;
        pa = PhysAddr{free_.back()};
        free_.pop_back();
        return true;
    }
    void give_table(PhysAddr pa) {
        ++limit;
        free_.push_back(pa.value());
    }
    [[nodiscard]] bool tables_mapped_here() const { return false; }
    void begin_table_writes() {}
    void end_table_writes() {}
    void walker_enter() {}
    void walker_exit() {}
    std::uint64_t grace_stamp() { return 0; }
    bool grace_elapsed(std::uint64_t) { return true; }
    std::uint64_t now() { return clock; }
    void relax() {}

    [[nodiscard]] std::size_t tables_in_use() const { return pages_ - free_.size(); }

    bool has_range_invalidation = true;
    std::uint64_t barriers = 0, invalidations = 0, clock = 0;
    std::uint64_t limit = ~std::uint64_t{0} >> 1; ///< tables that may still be taken

private:
    static constexpr std::align_val_t alignment{4096};
    struct Free {
        void operator()(std::uint64_t* p) const { ::operator delete[](p, alignment); }
    };
    [[nodiscard]] std::size_t bytes() const { return pages_ << page_shift; }

    std::uint64_t base_;
    std::size_t pages_;
    std::unique_ptr<std::uint64_t[], Free> memory_;
    std::vector<std::uint64_t> free_;
};

} // namespace directmap::test

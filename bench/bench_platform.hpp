// The platform that the benchmarks run on: tables in one piece of host memory, barriers and invalidations counted and
// not executed, so that what is measured is the engine's own work on tables.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

#include "directmap/directmap.hpp"

namespace directmap::bench {

/// A lock that costs nothing: one CPU.
struct NoLock {
    void acquire() {}
    void release() {}
};

/// A spin lock as a kernel has it.
class SpinLock {
public:
    void acquire() {
        while (__atomic_exchange_n(&held_, 1u, __ATOMIC_ACQUIRE) != 0) {
            while (__atomic_load_n(&held_, __ATOMIC_RELAXED) != 0) {
            }
        }
    }
    void release() { __atomic_store_n(&held_, 0u, __ATOMIC_RELEASE); }

private:
    std::uint32_t held_ = 0;
};

template <class LockType = NoLock>
class BenchPlatform : public DefaultTableMemory<> {
public:
    using Lock = LockType;
    static constexpr std::size_t table_bytes = 4096;
    static constexpr std::uint64_t tables_base = 0x80'0000'0000; ///< physical address of the first table

    /// Room for `tables` tables, every page of it touched, so that no measurement pays for a page fault.
    explicit BenchPlatform(std::size_t tables) : capacity_{tables}, free_(tables) {
        constexpr std::size_t huge = std::size_t{2} << 20;
        bytes_ = (tables * table_bytes + 2 * huge - 1) & ~(huge - 1);
        mapping_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapping_ == MAP_FAILED) throw std::bad_alloc{};
        madvise(mapping_, bytes_, MADV_HUGEPAGE);
        memory_ =
            reinterpret_cast<std::uint64_t*>((reinterpret_cast<std::uintptr_t>(mapping_) + huge - 1) & ~(huge - 1));
        for (std::size_t page = 0; page < tables; ++page) memory_[page * (table_bytes / 8)] = 1;
        virtual_minus_physical_ = reinterpret_cast<std::uintptr_t>(memory_) - tables_base;
        reset();
    }
    BenchPlatform(const BenchPlatform&) = delete;
    BenchPlatform& operator=(const BenchPlatform&) = delete;
    ~BenchPlatform() { munmap(mapping_, bytes_); }

    /// Every table is free again; the next ones are handed out in address order.
    void reset() {
        for (std::size_t i = 0; i < capacity_; ++i) free_[i] = tables_base + (capacity_ - 1 - i) * table_bytes;
        free_count_ = capacity_;
    }
    [[nodiscard]] std::size_t tables_in_use() const { return capacity_ - free_count_; }
    [[nodiscard]] std::uint64_t* memory() { return memory_; }

    // The concept.
    Table table(PhysAddr pa) { return reinterpret_cast<std::uint64_t*>(pa.value() + virtual_minus_physical_); }
    void barrier_publish() { ++barriers; }
    void barrier_complete() { ++barriers; }
    void barrier_context() {}
    [[nodiscard]] bool range_invalidation() const { return true; }
    void invalidate(VirtAddr, InvalidationScope) { ++invalidations; }
    void invalidate_range(VirtAddr, std::uint64_t, InvalidationScope) { ++invalidations; }
    void invalidate_all() { ++invalidations; }
    void acquire(Lock& lock) { lock.acquire(); }
    void release(Lock& lock) { lock.release(); }
    bool take_table(PhysAddr& pa, bool) {
        if (free_count_ == 0) return false;
        pa = PhysAddr{free_[--free_count_]};
        return true;
    }
    void give_table(PhysAddr pa) { free_[free_count_++] = pa.value(); }
    [[nodiscard]] bool tables_mapped_here() const { return false; }
    void begin_table_writes() {}
    void end_table_writes() {}
    void walker_enter() {}
    void walker_exit() {}
    std::uint64_t grace_stamp() { return 0; }
    bool grace_elapsed(std::uint64_t) { return true; }
    std::uint64_t now() { return 0; }
    void relax() {}

    std::uint64_t barriers = 0;

private:
    std::uint64_t virtual_minus_physical_ = 0;
    std::size_t capacity_;
    std::size_t bytes_ = 0;
    void* mapping_ = nullptr;
    std::uint64_t* memory_ = nullptr;
    std::vector<std::uint64_t> free_;
    std::size_t free_count_ = 0;

public:
    std::uint64_t invalidations = 0;
};

} // namespace directmap::bench

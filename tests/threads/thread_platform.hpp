// A platform for real threads: a thread is a CPU, locks are spin locks, tables are host memory that all threads share.
// What the engine promises about races is thereby put before a race detector that knows nothing of the engine.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "directmap/directmap.hpp"
#include "directmap/epochs.hpp"

namespace directmap::test {

class ThreadPlatform : public DefaultTableMemory<true> {
public:
    using Table = std::uint64_t*;
    static constexpr std::size_t words = 512;
    static constexpr std::uint64_t tables_base = std::uint64_t{1} << 40;
    static constexpr unsigned most_cpus = 16;

    class Lock { // copyable as a kernel's is: a word
    public:
        void acquire() {
            while (__atomic_exchange_n(&held_, true, __ATOMIC_ACQUIRE)) std::this_thread::yield();
        }
        void release() { __atomic_store_n(&held_, false, __ATOMIC_RELEASE); }

    private:
        bool held_ = false;
    };

    /// `locks` false: nobody is excluded from anything, to see that somebody notices.
    ThreadPlatform(std::size_t tables, bool locks)
        : locks_{locks}, memory_{std::make_unique<std::uint64_t[]>(tables * words)} {
        for (std::size_t i = tables; i != 0; --i) free_.push_back(tables_base + (i - 1) * page_bytes);
    }

    /// Which CPU the calling thread is.
    static unsigned& cpu() {
        thread_local unsigned cpu = 0;
        return cpu;
    }

    Table table(PhysAddr pa) { return memory_.get() + (pa.value() - tables_base) / sizeof(std::uint64_t); }
    // On hardware an address dependency orders what is read through a descriptor after the descriptor, and the barrier
    // before the store that publishes a table orders its contents before that. A race detector knows neither.
    [[nodiscard]] Descriptor load(Table table, unsigned index) const {
        linger();
        return Descriptor::from_bits(__atomic_load_n(table + index, __ATOMIC_ACQUIRE));
    }
    void store(Table table, unsigned index, Descriptor value) const {
        __atomic_store_n(table + index, value.bits(), __ATOMIC_RELEASE);
    }
    void barrier_publish() { std::atomic_thread_fence(std::memory_order_seq_cst); }
    void barrier_complete() { std::atomic_thread_fence(std::memory_order_seq_cst); }
    void barrier_context() {}
    [[nodiscard]] bool range_invalidation() const { return true; }
    void invalidate(VirtAddr, InvalidationScope) {}
    void invalidate_range(VirtAddr, std::uint64_t, InvalidationScope) {}
    void invalidate_all() {}
    void acquire(Lock& lock) {
        if (locks_) lock.acquire();
    }
    void release(Lock& lock) {
        if (locks_) lock.release();
    }
    bool take_table(PhysAddr& pa, bool) {
        linger();
        const std::lock_guard guard{mutex_};
        if (free_.empty()) return false;
        pa = PhysAddr{free_.back()};
        free_.pop_back();
        return true;
    }
    /// Plain stores: whoever still reads the table races with them. What they leave leads elsewhere.
    void give_table(PhysAddr pa) {
        constexpr std::uint64_t poison = 0x0060'0000'dead'0703;
        Table const table = this->table(pa);
        for (std::size_t i = 0; i < words; ++i) table[i] = poison;
        const std::lock_guard guard{mutex_};
        free_.push_back(pa.value());
    }
    [[nodiscard]] bool tables_mapped_here() const { return false; }
    void begin_table_writes() {}
    void end_table_writes() {}
    void walker_enter() { epochs_.enter(cpu()); }
    void walker_exit() { epochs_.exit(cpu()); }
    std::uint64_t grace_stamp() { return epochs_.stamp(); }
    bool grace_elapsed(std::uint64_t stamp) {
        linger();
        return epochs_.elapsed(stamp);
    }
    std::uint64_t now() { return now_.fetch_add(1, std::memory_order_relaxed); }
    void relax() { std::this_thread::yield(); }

    [[nodiscard]] std::size_t free_tables() {
        const std::lock_guard guard{mutex_};
        return free_.size();
    }

private:
    static constexpr std::size_t page_bytes = words * sizeof(std::uint64_t);

    /// Gives the core away now and then, in the middle of whatever is done: there are more threads than cores.
    static void linger() {
        thread_local std::uint32_t calls = cpu() * 7;
        if (++calls % 32 == 0) std::this_thread::yield();
    }

    bool locks_;
    std::unique_ptr<std::uint64_t[]> memory_;
    std::mutex mutex_;
    std::vector<std::uint64_t> free_;
    EpochSlot slots_[most_cpus];
    Epochs epochs_{{slots_, most_cpus}};
    std::atomic<std::uint64_t> now_ = 0;
};

static_assert(directmap::Platform<ThreadPlatform>);

} // namespace directmap::test

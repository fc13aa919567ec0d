// A spin lock that also keeps this CPU's interrupts away.
#pragma once

#include <cstdint>

#include "cpu/interrupts.hpp"

namespace directmap::kernel {

/// Test-and-set, not fair: under an emulator there are often fewer host threads than CPUs, and a fair lock would then
/// wait for whichever CPU isn't running. Acquire and release order everything that the lock protects.
class SpinLock {
public:
    void acquire() {
        mask_interrupts_nested();
        while (__atomic_exchange_n(&taken_, 1u, __ATOMIC_ACQUIRE) != 0) {
            // Only read while it is taken: the line stays shared until it changes.
            while (__atomic_load_n(&taken_, __ATOMIC_RELAXED) != 0) asm volatile("yield");
        }
    }
    void release() {
        __atomic_store_n(&taken_, 0u, __ATOMIC_RELEASE);
        unmask_interrupts_nested();
    }

private:
    std::uint32_t taken_ = 0;
};

/// Holds a lock for a scope.
class [[nodiscard]] SpinGuard {
public:
    explicit SpinGuard(SpinLock& lock) : lock_{lock} { lock_.acquire(); }
    SpinGuard(const SpinGuard&) = delete;
    SpinGuard& operator=(const SpinGuard&) = delete;
    ~SpinGuard() { lock_.release(); }

private:
    SpinLock& lock_;
};

} // namespace directmap::kernel

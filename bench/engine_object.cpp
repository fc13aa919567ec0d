// The whole engine for one granule as a kernel would compile it, freestanding for arm64: bench/run measures its size
// and the depth of its stack. Every operation is in it; what a caller passes to `walk` and `dump` is a plain function.
#include "directmap/arm64/key_register.hpp"
#include "directmap/directmap.hpp"

// A kernel's own parts are elsewhere and aren't counted; here their names are enough.
extern "C" {
bool kernel_take_table(directmap::PhysAddr* pa, bool atomic);
void kernel_give_table(directmap::PhysAddr pa);
void kernel_lock(std::uint32_t* lock);
void kernel_unlock(std::uint32_t* lock);
void kernel_invalidate(std::uint64_t start, std::uint64_t bytes, int level, bool leaves_only);
std::uint64_t kernel_clock();
void kernel_walker_enter();
void kernel_walker_exit();
std::uint64_t kernel_grace_stamp();
bool kernel_grace_elapsed(std::uint64_t stamp);
}

namespace directmap::bench {

/// A kernel on arm64 that reaches its tables through the map that is edited.
class KernelPlatform : public DefaultTableMemory<> {
public:
    struct Lock {
        std::uint32_t word = 0;
    };

    Table table(PhysAddr pa) { return reinterpret_cast<std::uint64_t*>(pa.value() + 0xffff'0000'0000'0000); }
    void barrier_publish() { asm volatile("dsb ishst" ::: "memory"); }
    void barrier_complete() { asm volatile("dsb ish" ::: "memory"); }
    void barrier_context() { asm volatile("isb" ::: "memory"); }
    [[nodiscard]] bool range_invalidation() const { return has_range_invalidation; }
    void invalidate(VirtAddr va, InvalidationScope scope) {
        kernel_invalidate(va.value(), 0, scope.level, scope.leaves_only);
    }
    void invalidate_range(VirtAddr va, std::uint64_t bytes, InvalidationScope scope) {
        kernel_invalidate(va.value(), bytes, scope.level, scope.leaves_only);
    }
    void invalidate_all() { asm volatile("tlbi vmalle1is" ::: "memory"); }
    void acquire(Lock& lock) { kernel_lock(&lock.word); }
    void release(Lock& lock) { kernel_unlock(&lock.word); }
    bool take_table(PhysAddr& pa, bool atomic) { return kernel_take_table(&pa, atomic); }
    void give_table(PhysAddr pa) { kernel_give_table(pa); }
    [[nodiscard]] bool tables_mapped_here() const { return true; }
    [[gnu::always_inline]] bool begin_table_writes() { return arm64::TableSections<1>::begin(); }
    [[gnu::always_inline]] void end_table_writes(bool was_open) {
#ifdef SECTIONS_NEVER_NEST // tests/checks/key_register: then every path closes what it opened, whatever it remembers
        was_open = false;
#endif
        arm64::TableSections<1>::end(was_open);
    }
    void walker_enter() {
        kernel_walker_enter();
    }
    void walker_exit() {
        kernel_walker_exit();
    }
    std::uint64_t grace_stamp() {
        return kernel_grace_stamp();
    }
    bool grace_elapsed(std::uint64_t stamp) {
        return kernel_grace_elapsed(stamp);
    }
    std::uint64_t now() {
        return kernel_clock();
    }
    void relax() {
        asm volatile("yield");
    }

    bool has_range_invalidation = false;
};

using KernelMap = DirectMap<arm64::Format4K48, KernelPlatform>;

} // namespace directmap::bench

#ifdef PARTS // what a kernel links that calls only so much: each part with those before it

namespace directmap::bench {

Result<void> build(KernelMap& map, const Layout& layout) {
    return map.build(layout, Mapping::largest);
}
#if PARTS > 1 // changes, and healing after them
Result<void> protect(KernelMap& map, PhysRange range, Change change, const ChangeOptions& options) {
    return map.protect(range, change, options);
}
#endif
#if PARTS > 2 // many changes with one flush, healing later
bool protect_deferred(KernelMap& map, PhysRange range, Change change) {
    return map.protect_deferred(range, change).ok();
}
bool collapse(KernelMap& map, PhysRange range) {
    return map.collapse(range).ok() && map.background_step(1).finished && map.reclaim() == 0;
}
#endif
#if PARTS > 3 // CPUs of all kinds, look-ups
Result<void> admit(KernelMap& map, CpuCapabilities cpu) {
    return map.admit(cpu);
}
bool translate(KernelMap& map, PhysAddr pa) {
    return map.translate(pa).ok();
}
#endif
#if PARTS > 4 // atomic context, flips, accounts
Result<void> prepare(KernelMap& map, PhysRange range) {
    if (auto r = map.prepare(range); !r) return r;
    if (auto r = map.flip(range.start, false); !r) return r;
    return map.release(range);
}
Statistics statistics(KernelMap& map) {
    (void)map.set_aside();
    return map.statistics();
}
#endif

} // namespace directmap::bench

#else

template class directmap::DirectMap<directmap::arm64::Format4K48, directmap::bench::KernelPlatform>;

template void directmap::bench::KernelMap::walk(directmap::PhysRange, bool (*)(const directmap::Leaf&));
template void directmap::bench::KernelMap::dump(void (*)(const char*, unsigned));

#endif

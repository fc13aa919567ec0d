// The ten lines that put the engine into a kernel, around a platform that a host can run. README.md and
// docs/embedding.md quote the part between the marks; a test compares them.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "directmap/directmap.hpp"

namespace {

using directmap::CpuCapabilities;
using directmap::DirectMap;
using directmap::Mapping;
using directmap::phys_range;
using directmap::PhysAddr;
using directmap::RamRange;
using directmap::Region;

/// What a kernel brings: tables by pointer, barriers, invalidations, a table allocator. Here on host memory, where the
/// last 16 MiB of an imaginary RAM hold the tables and nobody translates.
class MyKernel : public directmap::DefaultTableMemory<> {
public:
    using Table = std::uint64_t*;
    struct Lock {};

    Table table(PhysAddr pa) { return memory_.data() + (pa.value() - first_) / sizeof(std::uint64_t); }
    void barrier_publish() {}                                             // dsb ishst
    void barrier_complete() {}                                            // dsb ish
    void barrier_context() {}                                             // isb
    [[nodiscard]] bool range_invalidation() const { return true; }        // ID_AA64ISAR0_EL1.TLB >= 2
    void invalidate(directmap::VirtAddr, directmap::InvalidationScope) {} // tlbi vaale1is
    void invalidate_range(directmap::VirtAddr, std::uint64_t, directmap::InvalidationScope) {} // tlbi rvaale1is
    void invalidate_all() {}                                                                   // tlbi vmalle1is
    void acquire(Lock&) {}                                                                     // spin_lock_irqsave
    void release(Lock&) {}                                                                     // spin_unlock_irqrestore
    bool take_table(PhysAddr& pa, bool) {
        if (next_ == first_) return false;
        pa = PhysAddr{next_ -= 4096};
        return true;
    }
    void give_table(PhysAddr) {}
    [[nodiscard]] bool tables_mapped_here() const { return true; }
    void begin_table_writes() {}
    void end_table_writes() {}
    void walker_enter() {}
    void walker_exit() {}
    std::uint64_t grace_stamp() { return 0; }
    bool grace_elapsed(std::uint64_t) { return true; }
    std::uint64_t now() { return 0; }
    void relax() {}

private:
    std::uint64_t first_ = 0xff000000, next_ = 0x100000000;
    std::vector<std::uint64_t> memory_ = std::vector<std::uint64_t>((16 << 20) / sizeof(std::uint64_t));
};

void install(PhysAddr root) {
    std::printf("TTBR1_EL1 = %#llx\n", static_cast<unsigned long long>(root.value()));
}

bool embed() {
    MyKernel kernel;
    const PhysAddr page{0x81234000};
    // [example]
    static Region<MyKernel::Lock> regions[4];                           // one for each GiB that RAM spans
    const RamRange ram[] = {{phys_range(0x80000000, 0x100000000), {}}}; // 2 GiB, read-write, not executable
    DirectMap<directmap::arm64::Format4K48, MyKernel> map{kernel, {.offset = 0xffff000000000000}, regions};

    if (!map.build({ram, {}}, Mapping::largest)) return false; // two 1 GiB blocks, from boot memory
    install(map.root());
    if (!map.admit({.tolerates_live_resize = true})) return false; // the boot CPU: leaves may be resized now

    if (!map.set_read_only({page, 4096})) return false; // splits 1G -> 32M -> 2M -> 64K -> 4K, live
    if (!map.set_writable({page, 4096})) return false;  // the same page again: no split, one flush
    if (!map.collapse({page, 4096})) return false;      // and the 1 GiB block is back
    // [example]
    return map.statistics().leaves[0] == 2;
}

} // namespace

int main() {
    if (!embed()) return EXIT_FAILURE;
    std::puts("two 1 GiB blocks, as before");
    return EXIT_SUCCESS;
}

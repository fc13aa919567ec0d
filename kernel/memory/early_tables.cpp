#include "memory/early_tables.hpp"

#include "cpu/barriers.hpp"

#define EARLY [[gnu::section(".early_tables,\"aw\",@nobits//")]]

extern "C" {
EARLY directmap::kernel::EarlyTable identity_root;
EARLY directmap::kernel::EarlyTable image_root;
EARLY directmap::kernel::EarlyTable table_pool_root;
}

namespace directmap::kernel {

namespace {

// Enough for the image, the device window, and RAM banks whose ends are aligned to blocks but for a few.
constexpr unsigned pool_size = 40;
EARLY EarlyTable pool[pool_size];
EARLY unsigned pool_used;

} // namespace

bool EarlyMapper::map(std::uint64_t va, PhysAddr pa, std::uint64_t size, Attributes attributes) {
    constexpr Format arm_format;
    while (size != 0) {
        EarlyTable* table = &root_;
        for (int level = Geometry::root_level;; ++level) {
            const std::uint64_t bytes = Geometry::bytes(level);
            std::uint64_t& descriptor = table->descriptors[Geometry::index(level, va)];
            const bool block = level >= Geometry::first_leaf_level && size >= bytes &&
                               ((va | pa.value()) & (bytes - 1)) == 0 && descriptor == 0;
            if (block) {
                descriptor = arm_format.leaf(level, pa, attributes).bits();
                va += bytes;
                pa = pa + bytes;
                size -= bytes;
                break;
            }
            table = table_below(descriptor);
            if (table == nullptr) return false;
        }
    }
    dsb_ishst(); // the stores are visible to walks; what was invalid is in no TLB
    isb();
    return true;
}

EarlyTable* EarlyMapper::table_below(std::uint64_t& descriptor) {
    if (descriptor == 0) {
        if (pool_used == pool_size) return nullptr;
        EarlyTable& table = pool[pool_used++];
        for (std::uint64_t& entry : table.descriptors) entry = 0;
        dsb_ishst(); // empty before it is reachable
        const PhysAddr pa{reinterpret_cast<std::uint64_t>(&table) + pa_offset_};
        descriptor = Format::table(pa).bits();
    }
    const PhysAddr pa = Format::table_address(Descriptor::from_bits(descriptor));
    return reinterpret_cast<EarlyTable*>(pa.value() - pa_offset_);
}

void reset_early_tables() {
    const auto clear = [](EarlyTable& table) {
        for (std::uint64_t& entry : table.descriptors) entry = 0;
    };
    clear(identity_root);
    clear(image_root);
    clear(table_pool_root);
    pool_used = 0;
}

unsigned early_tables_used() {
    return pool_used;
}

} // namespace directmap::kernel

// The memory of the engine's tables: one range of RAM, handed out page by page.
#pragma once

#include <cstdint>

#include "cpu/spin_lock.hpp"
#include "directmap/units.hpp"

namespace directmap::kernel {

/// Pages that came back are linked through their first words; the others haven't been touched yet, so that a large pool
/// costs nothing until it is used.
class TablePool {
public:
    /// `va_offset` is what turns a physical address of the range into one that this CPU can use.
    void use(PhysRange range, std::uint64_t va_offset);
    /// The pool is reached through another mapping from now on. Called while nobody else uses it.
    void move(std::uint64_t va_offset) { va_offset_ = va_offset; }

    /// For running out on purpose: hands out no more than `pages` from now on.
    void allow(std::uint64_t pages) { allowed_ = pages; }
    void allow_all() { allowed_ = ~std::uint64_t{0}; }

    [[nodiscard]] bool take(PhysAddr& pa);
    void give(PhysAddr pa);

    [[nodiscard]] std::uint64_t* pointer(PhysAddr pa) const {
        return reinterpret_cast<std::uint64_t*>(pa.value() + va_offset_);
    }
    [[nodiscard]] PhysRange range() const { return range_; }
    /// Pages handed out and not given back.
    [[nodiscard]] std::uint64_t in_use() const { return in_use_; }
    /// The most that there ever were.
    [[nodiscard]] std::uint64_t most_in_use() const { return most_in_use_; }

private:
    SpinLock lock_;
    PhysRange range_;
    std::uint64_t va_offset_ = 0;
    PhysAddr untouched_;
    PhysAddr first_free_; ///< 0: none
    std::uint64_t allowed_ = ~std::uint64_t{0};
    std::uint64_t in_use_ = 0;
    std::uint64_t most_in_use_ = 0;
};

} // namespace directmap::kernel

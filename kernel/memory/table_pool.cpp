#include "memory/table_pool.hpp"

#include "memory/granule.hpp"

namespace directmap::kernel {

void TablePool::use(PhysRange range, std::uint64_t va_offset) {
    range_ = range;
    va_offset_ = va_offset;
    untouched_ = range.start;
    first_free_ = PhysAddr{};
    in_use_ = most_in_use_ = 0;
}

bool TablePool::take(PhysAddr& pa) {
    const SpinGuard guard{lock_};
    if (allowed_ == 0) return false;
    if (first_free_.value() != 0) {
        pa = first_free_;
        first_free_ = PhysAddr{*pointer(pa)};
    } else if (untouched_ < range_.end()) {
        pa = untouched_;
        untouched_ = untouched_ + page_size;
    } else {
        return false;
    }
    if (allowed_ != ~std::uint64_t{0}) --allowed_;
    ++in_use_;
    if (in_use_ > most_in_use_) most_in_use_ = in_use_;
    return true;
}

void TablePool::give(PhysAddr pa) {
    const SpinGuard guard{lock_};
    *pointer(pa) = first_free_.value();
    first_free_ = pa;
    --in_use_;
}

} // namespace directmap::kernel

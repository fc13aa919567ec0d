// Table memory reached through plain pointers: what most kernels have. A platform inherits it and adds `table(pa)`.
#pragma once

#include <cstdint>

#include "directmap/descriptor.hpp"

namespace directmap {

/// Runs of descriptors are read and written as vectors. Each word is aligned, so each 64-bit lane is
/// single-copy atomic on every CPU that has a direct map (Arm ARM B2.2.1; Intel SDM 3A 9.1.1), which a table walker
/// and a lock-free reader rely on. `shared_readers` trades the vectors for relaxed atomic words, for builds whose
/// race detector can't know that.
template <bool shared_readers = false>
class DefaultTableMemory {
public:
    using Table = std::uint64_t*;

    [[nodiscard]] Descriptor load(Table table, unsigned index) const {
        return Descriptor::from_bits(__atomic_load_n(table + index, __ATOMIC_RELAXED));
    }
    void store(Table table, unsigned index, Descriptor value) const {
        __atomic_store_n(table + index, value.bits(), __ATOMIC_RELAXED);
    }

    void fill(Table table, unsigned first, unsigned count, Descriptor value, std::uint64_t step) const {
        std::uint64_t* const words = table + first;
        const std::uint64_t start = value.bits();
        unsigned i = 0;
        if constexpr (!shared_readers) {
            Words next = progression(start, step);
            const Words stride = splat(lanes * step);
            for (; i + 2 * lanes <= count; i += 2 * lanes) {
                put(words + i, next);
                next += stride;
                put(words + i + lanes, next);
                next += stride;
            }
        }
        for (; i < count; ++i) put(words + i, start + i * step);
    }

    void update(Table table, unsigned first, unsigned count, DescriptorChange change) const {
        std::uint64_t* const words = table + first;
        const std::uint64_t keep = ~change.clear.bits(), set = change.set.bits();
        unsigned i = 0;
        if constexpr (!shared_readers) {
            const Words keeps = splat(keep), sets = splat(set);
            for (; i + 2 * lanes <= count; i += 2 * lanes) {
                put(words + i, (get(words + i) & keeps) | sets);
                put(words + i + lanes, (get(words + i + lanes) & keeps) | sets);
            }
        }
        for (; i < count; ++i) put(words + i, (get_one(words + i) & keep) | set);
    }

    [[nodiscard]] RunSummary summarize(Table table, unsigned first, unsigned count, Descriptor expected,
                                       std::uint64_t step) const {
        const std::uint64_t* const words = table + first;
        const std::uint64_t start = expected.bits();
        std::uint64_t any = 0, all = ~std::uint64_t{0};
        unsigned i = 0;
        if constexpr (!shared_readers) {
            if (count >= 2 * lanes) {
                Words next = progression(start, step);
                const Words stride = splat(lanes * step);
                Words anys = splat(0), alls = splat(all);
                for (; i + 2 * lanes <= count; i += 2 * lanes) {
                    const Words first_half = get(words + i) ^ next;
                    next += stride;
                    const Words second_half = get(words + i + lanes) ^ next;
                    next += stride;
                    anys |= first_half | second_half;
                    alls &= first_half & second_half;
                }
                for (unsigned lane = 0; lane < lanes; ++lane) {
                    any |= anys[lane];
                    all &= alls[lane];
                }
            }
        }
        for (; i < count; ++i) {
            const std::uint64_t difference = get_one(words + i) ^ (start + i * step);
            any |= difference;
            all &= difference;
        }
        return {Descriptor::from_bits(any), Descriptor::from_bits(all)};
    }

private:
#ifdef __AVX2__
    static constexpr unsigned lanes = 4;
#else
    static constexpr unsigned lanes = 2; // SSE2, Advanced SIMD; pairs of words where the kernel forbids vectors
#endif
    typedef std::uint64_t Words __attribute__((vector_size(lanes * sizeof(std::uint64_t)), aligned(8), may_alias));

    static Words splat(std::uint64_t word) { return Words{} + word; }
    static Words progression(std::uint64_t start, std::uint64_t step) {
        Words words{};
        for (unsigned lane = 0; lane < lanes; ++lane) words[lane] = start + lane * step;
        return words;
    }
    static Words get(const std::uint64_t* words) { return *reinterpret_cast<const Words*>(words); }
    static void put(std::uint64_t* words, const Words& value) { *reinterpret_cast<Words*>(words) = value; }
    static std::uint64_t get_one(const std::uint64_t* word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
    static void put(std::uint64_t* word, std::uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }
};

} // namespace directmap

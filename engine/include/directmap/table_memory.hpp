// Table memory reached through plain pointers: what most kernels have. A platform inherits it and adds `table(pa)`.
#pragma once

#include <cstdint>

#include "directmap/descriptor.hpp"

namespace directmap {

/// Runs of descriptors are read and written as vectors, or word by word where the compiler was told to leave the vector
/// registers alone, as kernels do. Each word is aligned, so each 64-bit lane is single-copy atomic on every CPU that
/// has a direct map (Arm ARM B2.2.1; Intel SDM 3A 9.1.1), which a table walker and a lock-free reader rely on.
/// `shared_readers` asks for relaxed atomic words throughout, for builds whose race detector can't know that.
template <bool shared_readers = false>
class DefaultTableMemory {
public:
    using Table = std::uint64_t*;

    [[nodiscard]] Descriptor load(Table table, unsigned index) const {
        return Descriptor::from_bits(get_word(table + index));
    }
    void store(Table table, unsigned index, Descriptor value) const { put_word(table + index, value.bits()); }

    [[gnu::noinline]] void fill(Table table, unsigned first, unsigned count, Descriptor value,
                                std::uint64_t step) const {
        std::uint64_t* words = table + first;
        std::uint64_t* const end = words + count;
        std::uint64_t next = value.bits();
        if (count >= block) {
            const Words stride = splat(lanes * step);
            Words nexts = progression(next, step);
            const auto fill_block = [&] {
#pragma GCC unroll 8
                for (unsigned i = 0; i < block; i += lanes) {
                    put(words + i, nexts);
                    nexts += stride;
                }
                words += block;
            };
            if constexpr (lanes == 1) {
                for (unsigned blocks = count / block; blocks != 0; --blocks) fill_block();
            } else {
                if ((count & block) != 0) fill_block();
                for (unsigned pairs = count / (2 * block); pairs != 0; --pairs) {
                    fill_block();
                    fill_block();
                }
            }
            if (words == end) return;
            next += (count & ~(block - 1)) * step;
        }
        for (; words != end; ++words, next += step) put_word(words, next);
    }

    [[gnu::noinline]] void update(Table table, unsigned first, unsigned count, DescriptorChange change) const {
        std::uint64_t* words = table + first;
        std::uint64_t* const end = words + count;
        std::uint64_t* const blocks_end = words + (count & ~(block - 1));
        const std::uint64_t keep = ~change.clear.bits(), set = change.set.bits();
        if (words != blocks_end) {
            const Words keeps = splat(keep), sets = splat(set);
            do {
#pragma GCC unroll 8
                for (unsigned i = 0; i < block; i += lanes) put(words + i, (get(words + i) & keeps) | sets);
                words += block;
            } while (words != blocks_end);
        }
        for (; words != end; ++words) put_word(words, (get_word(words) & keep) | set);
    }

    [[gnu::noinline, nodiscard]] RunSummary summarize(Table table, unsigned first, unsigned count, Descriptor expected,
                                                      std::uint64_t step) const {
        const std::uint64_t* words = table + first;
        const std::uint64_t* const end = words + count;
        const std::uint64_t* const blocks_end = words + (count & ~(block - 1));
        std::uint64_t next = expected.bits(), any = 0, all = ~std::uint64_t{0};
        if (words != blocks_end) {
            const Words stride = splat(lanes * step);
            Words nexts = progression(next, step), anys = splat(any), alls = splat(all);
            // The expected words cost as much as the rest; most callers expect nothing.
            const auto scan = [&](auto differences) {
                do {
#pragma GCC unroll 8
                    for (unsigned i = 0; i < block; i += lanes) {
                        const Words d = differences(get(words + i));
                        anys |= d;
                        alls &= d;
                    }
                    words += block;
                } while (words != blocks_end);
            };
            if (next == 0 && step == 0) {
                scan([](Words found) { return found; });
            } else {
                scan([&](Words found) {
                    found ^= nexts;
                    nexts += stride;
                    return found;
                });
            }
            for (unsigned lane = 0; lane < lanes; ++lane) {
                any |= lane_of(anys, lane);
                all &= lane_of(alls, lane);
            }
            next += (count & ~(block - 1)) * step;
        }
        for (; words != end; ++words, next += step) {
            const std::uint64_t difference = get_word(words) ^ next;
            any |= difference;
            all &= difference;
        }
        return {Descriptor::from_bits(any), Descriptor::from_bits(all)};
    }

private:
    static std::uint64_t get_word(const std::uint64_t* word) {
        return __atomic_load_n(word, __ATOMIC_RELAXED);
    }
    static void put_word(std::uint64_t* word, std::uint64_t value) {
        __atomic_store_n(word, value, __ATOMIC_RELAXED);
    }

#if defined(__AVX2__)
    static constexpr unsigned lanes = 4;
#elif defined(__SSE2__) || defined(__ARM_NEON)
    static constexpr unsigned lanes = 2;
#else
    static constexpr unsigned lanes = 1;
#endif
    /// Words that one pass of a loop handles. (Word by word, four keep the loop's own cost small enough.)
    static constexpr unsigned block = lanes == 1 ? 4 : 8 * lanes;

#if defined(__AVX2__) || defined(__SSE2__) || defined(__ARM_NEON)
    typedef std::uint64_t Words __attribute__((vector_size(lanes * sizeof(std::uint64_t)), aligned(8), may_alias));

    static Words splat(std::uint64_t word) {
        return Words{} + word;
    }
    static Words progression(std::uint64_t start, std::uint64_t step) {
        Words words{};
        for (unsigned lane = 0; lane < lanes; ++lane) words[lane] = start + lane * step;
        return words;
    }
    static std::uint64_t lane_of(Words words, unsigned lane) {
        return words[lane];
    }
    static Words get(const std::uint64_t* words) {
        if constexpr (!shared_readers) return *reinterpret_cast<const Words*>(words);
        Words got{};
        for (unsigned lane = 0; lane < lanes; ++lane) got[lane] = get_word(words + lane);
        return got;
    }
    static void put(std::uint64_t* words, const Words& value) {
        if constexpr (!shared_readers) {
            *reinterpret_cast<Words*>(words) = value;
        } else {
            for (unsigned lane = 0; lane < lanes; ++lane) put_word(words + lane, value[lane]);
        }
    }
#else
    using Words = std::uint64_t;

    static Words splat(std::uint64_t word) {
        return word;
    }
    static Words progression(std::uint64_t start, std::uint64_t) {
        return start;
    }
    static std::uint64_t lane_of(Words word, unsigned) {
        return word;
    }
    static Words get(const std::uint64_t* words) {
        return get_word(words);
    }
    static void put(std::uint64_t* words, Words value) {
        put_word(words, value);
    }
#endif
};

} // namespace directmap

// A small pseudo-random generator: the same seed gives the same run, here and on the host.
#pragma once

#include <cstdint>

namespace directmap::kernel {

/// SplitMix64: one addition and one mixing function. Its whole state is the seed plus a count, so that seeds that
/// differ by one give unrelated sequences.
class Random {
public:
    explicit constexpr Random(std::uint64_t seed) : state_{seed} {}

    constexpr std::uint64_t next() { return mix(state_ += 0x9e37'79b9'7f4a'7c15); }
    /// A number below `limit`, which must not be 0. (The bias of the remainder is below 2^-32 for the limits here.)
    constexpr std::uint64_t below(std::uint64_t limit) { return next() % limit; }
    constexpr bool one_in(std::uint64_t n) { return below(n) == 0; }

    /// Spreads a number over all 64 bits; also the checksum pattern of the scenarios.
    [[nodiscard]] static constexpr std::uint64_t mix(std::uint64_t z) {
        z = (z ^ (z >> 30)) * 0xbf58'476d'1ce4'e5b9;
        z = (z ^ (z >> 27)) * 0x94d0'49bb'1331'11eb;
        return z ^ (z >> 31);
    }

private:
    std::uint64_t state_;
};

} // namespace directmap::kernel

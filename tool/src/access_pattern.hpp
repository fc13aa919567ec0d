// Streams of addresses that a kernel might use through its direct map: for comparing maps under the same accesses.
#pragma once

#include "range.hpp"

#include <cstdint>
#include <istream>
#include <memory>
#include <string>
#include <vector>

namespace directmap::tool {

class AccessPattern {
public:
    AccessPattern() = default;
    AccessPattern(const AccessPattern&) = delete;
    AccessPattern& operator=(const AccessPattern&) = delete;
    virtual ~AccessPattern() = default;

    /// Starts over: the same addresses come again.
    virtual void restart() = 0;
    /// The next physical address, in RAM.
    [[nodiscard]] virtual std::uint64_t next() = 0;
};

/// Every page of RAM equally often.
[[nodiscard]] std::unique_ptr<AccessPattern> uniform_pattern(const std::vector<Range>& ram, std::uint64_t seed);
/// The k-th most used page is used 1/k times as often as the first (Zipf's law); which pages those are is random.
[[nodiscard]] std::unique_ptr<AccessPattern> zipf_pattern(const std::vector<Range>& ram, std::uint64_t seed);
/// Runs of 1 MiB from random places on, a cache line of 64 bytes at a time.
[[nodiscard]] std::unique_ptr<AccessPattern> sequential_pattern(const std::vector<Range>& ram, std::uint64_t seed);

/// Recorded addresses, again and again.
struct RecordedAccesses {
    std::vector<std::uint64_t> addresses; ///< physical, in RAM
    std::uint64_t outside = 0;            ///< those that were left out because they are not in RAM
    bool cut = false;                     ///< there were more than `most_recorded_accesses`
};
/// Reads a hexadecimal address a line, physical or virtual; `#` starts a comment. Throws InputError.
[[nodiscard]] RecordedAccesses read_accesses(std::istream& input, const std::string& source,
                                             const std::vector<Range>& ram, std::uint64_t offset);
[[nodiscard]] std::unique_ptr<AccessPattern> recorded_pattern(std::vector<std::uint64_t> addresses);

inline constexpr std::size_t most_recorded_accesses = 1'000'000;

/// Numbers 1 to `count` by Zipf's law with exponent 1, each in constant time and memory (rejection from the integral of
/// 1/x, after Hörmann and Derflinger).
class ZipfNumbers {
public:
    explicit ZipfNumbers(std::uint64_t count);
    /// `random()` returns numbers from 0 to 1, without 1.
    template <class Random>
    [[nodiscard]] std::uint64_t draw(Random random) const {
        for (;;) {
            const double at = high_ + random() * (low_ - high_);
            const std::uint64_t k = nearest(at);
            if (accepts(k, at)) return k;
        }
    }

private:
    [[nodiscard]] std::uint64_t nearest(double at) const;
    [[nodiscard]] bool accepts(std::uint64_t k, double at) const;

    std::uint64_t count_;
    double low_;
    double high_;
};

} // namespace directmap::tool

#include "run_reach.hpp"

#include <cmath>
#include <cstddef>

namespace directmap::tool {

std::uint64_t tlb_reach(std::span<const std::uint64_t> sizes, std::span<const std::uint64_t> counts,
                        std::uint64_t entries) {
    std::uint64_t leaves = 0;
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        leaves += counts[i];
        bytes += counts[i] * sizes[i];
    }
    if (leaves <= entries) return bytes;
    const auto sum = [&](double t, bool weigh) {
        double result = 0;
        for (std::size_t i = 0; i < sizes.size(); ++i) {
            const auto size = static_cast<double>(sizes[i]);
            result += static_cast<double>(counts[i]) * -std::expm1(-t * size) * (weigh ? size : 1.0);
        }
        return result;
    };
    // The number of cached leaves grows with t, from none to all.
    double low = 0;
    double high = 1 / static_cast<double>(bytes);
    const auto wanted = static_cast<double>(entries);
    while (sum(high, false) < wanted) high *= 2;
    for (int i = 0; i < 100; ++i) {
        const double middle = (low + high) / 2;
        (sum(middle, false) < wanted ? low : high) = middle;
    }
    return static_cast<std::uint64_t>(sum(high, true));
}

} // namespace directmap::tool

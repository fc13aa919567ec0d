#include "access_pattern.hpp"

#include "input_error.hpp"
#include "output.hpp"
#include "scanner.hpp"
#include "trace.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <random>
#include <string_view>
#include <utility>

namespace directmap::tool {
namespace {

/// Of the patterns: what a kernel hands out at least.
constexpr std::uint64_t page_size = 4096;
constexpr std::uint64_t cache_line = 64;
constexpr std::uint64_t run_length = std::uint64_t{1} << 20;

/// RAM as one line of pages, and random numbers that are the same everywhere (the standard's distributions are not).
class RandomPages {
public:
    RandomPages(const std::vector<Range>& ram, std::uint64_t seed) : ram_(ram), seed_(seed), random_(seed) {
        for (const Range& range : ram_) {
            first_pages_.push_back(pages_);
            pages_ += range.size() / page_size;
        }
    }

    void restart() { random_.seed(seed_); }
    [[nodiscard]] std::uint64_t pages() const { return pages_; }
    [[nodiscard]] std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
    [[nodiscard]] double fraction() { return static_cast<double>(random_() >> 11) * 0x1p-53; }
    [[nodiscard]] std::uint64_t address_of(std::uint64_t page) const {
        const auto after = std::upper_bound(first_pages_.begin(), first_pages_.end(), page);
        const auto index = static_cast<std::size_t>(after - first_pages_.begin()) - 1;
        return ram_[index].start + (page - first_pages_[index]) * page_size;
    }

private:
    std::vector<Range> ram_;
    std::vector<std::uint64_t> first_pages_;
    std::uint64_t pages_ = 0;
    std::uint64_t seed_;
    std::mt19937_64 random_;
};

class Uniform final : public AccessPattern {
public:
    Uniform(const std::vector<Range>& ram, std::uint64_t seed) : pages_(ram, seed) {}
    void restart() override { pages_.restart(); }
    std::uint64_t next() override { return pages_.address_of(pages_.below(pages_.pages())); }

private:
    RandomPages pages_;
};

class Zipf final : public AccessPattern {
public:
    Zipf(const std::vector<Range>& ram, std::uint64_t seed) : pages_(ram, seed), numbers_(pages_.pages()) {}
    void restart() override { pages_.restart(); }
    std::uint64_t next() override {
        return pages_.address_of(scatter(numbers_.draw([this] { return pages_.fraction(); }) - 1));
    }

private:
    /// Makes a place of a rank, each of another: four rounds of a Feistel network over the next even number of bits,
    /// repeated until the result is a page.
    [[nodiscard]] std::uint64_t scatter(std::uint64_t page) const {
        unsigned half = 1;
        while ((pages_.pages() - 1) >> (2 * half) != 0) ++half;
        const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
        do {
            std::uint64_t left = page >> half;
            std::uint64_t right = page & mask;
            for (std::uint64_t round = 1; round <= 4; ++round) {
                const std::uint64_t mixed = (right + round) * 0x9e3779b97f4a7c15;
                left = std::exchange(right, (left ^ (mixed >> 32)) & mask);
            }
            page = left << half | right;
        } while (page >= pages_.pages());
        return page;
    }

    RandomPages pages_;
    ZipfNumbers numbers_;
};

class Sequential final : public AccessPattern {
public:
    Sequential(const std::vector<Range>& ram, std::uint64_t seed) : ram_(ram), pages_(ram, seed) {}
    void restart() override {
        pages_.restart();
        at_ = end_ = 0;
    }
    std::uint64_t next() override {
        if (at_ == end_) {
            at_ = pages_.address_of(pages_.below(pages_.pages()));
            const auto range = std::find_if(ram_.begin(), ram_.end(), [&](const Range& r) { return r.contains(at_); });
            end_ = std::min(at_ + run_length, range->end);
        }
        return std::exchange(at_, at_ + cache_line);
    }

private:
    std::vector<Range> ram_;
    RandomPages pages_;
    std::uint64_t at_ = 0;
    std::uint64_t end_ = 0;
};

class Recorded final : public AccessPattern {
public:
    explicit Recorded(std::vector<std::uint64_t> addresses) : addresses_(std::move(addresses)) {}
    void restart() override { at_ = 0; }
    std::uint64_t next() override {
        if (at_ == addresses_.size()) at_ = 0;
        return addresses_[at_++];
    }

private:
    std::vector<std::uint64_t> addresses_;
    std::size_t at_ = 0;
};

/// The integral of 1/x, and back.
double integral(double x) {
    return std::log(x);
}
double inverse_integral(double y) {
    return std::exp(y);
}

} // namespace

ZipfNumbers::ZipfNumbers(std::uint64_t count)
    : count_(count), low_(integral(1.5) - 1), high_(integral(static_cast<double>(count) + 0.5)) {}

std::uint64_t ZipfNumbers::nearest(double at) const {
    const double x = inverse_integral(at) + 0.5;
    return x < 1 ? 1 : std::min(static_cast<std::uint64_t>(x), count_);
}

bool ZipfNumbers::accepts(std::uint64_t k, double at) const {
    // The bar of k, of height 1/k and width 1, lies under the hyperbola as far as its right end.
    const auto x = static_cast<double>(k);
    return at >= integral(x + 0.5) - 1 / x;
}

std::unique_ptr<AccessPattern> uniform_pattern(const std::vector<Range>& ram, std::uint64_t seed) {
    return std::make_unique<Uniform>(ram, seed);
}

std::unique_ptr<AccessPattern> zipf_pattern(const std::vector<Range>& ram, std::uint64_t seed) {
    return std::make_unique<Zipf>(ram, seed);
}

std::unique_ptr<AccessPattern> sequential_pattern(const std::vector<Range>& ram, std::uint64_t seed) {
    return std::make_unique<Sequential>(ram, seed);
}

std::unique_ptr<AccessPattern> recorded_pattern(std::vector<std::uint64_t> addresses) {
    return std::make_unique<Recorded>(std::move(addresses));
}

RecordedAccesses read_accesses(std::istream& input, const std::string& source, const std::vector<Range>& ram,
                               std::uint64_t offset) {
    RecordedAccesses accesses;
    std::size_t number = 0;
    for (std::string line; std::getline(input, line);) {
        ++number;
        const std::string_view text = trimmed(std::string_view(line).substr(0, line.find_first_of("#\r")));
        if (text.empty()) continue;
        Scanner scanner(text);
        std::uint64_t address = 0;
        if (!scanner.hex(address) || !scanner.at_end())
            throw InputError(source, number,
                             fmt::format("'{}' is not an address: a hexadecimal number, one a line", printable(text)));
        if (is_virtual(address)) address -= offset;
        const bool inside =
            std::any_of(ram.begin(), ram.end(), [&](const Range& range) { return range.contains(address); });
        if (!inside) {
            ++accesses.outside;
            continue;
        }
        if (accesses.addresses.size() == most_recorded_accesses) {
            accesses.cut = true;
            break;
        }
        accesses.addresses.push_back(address);
    }
    if (accesses.addresses.empty())
        throw InputError(source, 0,
                         accesses.outside == 0 ? "there is no address in it"
                                               : fmt::format("none of its {} addresses is in RAM", accesses.outside));
    return accesses;
}

} // namespace directmap::tool

// Live counters of the running kernel's direct map, and what they did over time.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace directmap::tool {

/// DirectMap* of /proc/meminfo: how much memory is mapped by leaves of a size.
struct MappedBySize {
    std::uint64_t leaf_size = 0;
    std::uint64_t bytes = 0;
    friend bool operator==(const MappedBySize&, const MappedBySize&) = default;
};

/// direct_map_* of /proc/vmstat: how often something has happened since boot.
struct KernelEvent {
    std::string name; ///< without the prefix: `level2_splits`
    std::uint64_t count = 0;
    friend bool operator==(const KernelEvent&, const KernelEvent&) = default;
};

struct WatchCounters {
    std::vector<MappedBySize> mapped; ///< the smallest leaf first
    std::vector<KernelEvent>
        events; ///< in the kernel's order; older kernels and other architectures than x86-64 have none

    /// Leaves of all sizes.
    [[nodiscard]] std::uint64_t units() const;
    [[nodiscard]] std::uint64_t bytes() const;
    /// Mapped by the smallest leaves.
    [[nodiscard]] std::uint64_t smallest_bytes() const { return mapped.empty() ? 0 : mapped.front().bytes; }
    [[nodiscard]] std::uint64_t splits() const { return sum_of("_splits"); }
    [[nodiscard]] std::uint64_t collapses() const { return sum_of("_collapses"); }

private:
    [[nodiscard]] std::uint64_t sum_of(std::string_view ending) const;
};

/// Where the counters are read.
struct WatchFiles {
    std::string meminfo = "/proc/meminfo";
    std::string vmstat = "/proc/vmstat";
};

/// Picks the counters out of the texts of both files. Throws InputError when a line of theirs is malformed or says
/// again what another one has said, or when /proc/meminfo has none: then this kernel doesn't count, and the message
/// says which do.
[[nodiscard]] WatchCounters parse_counters(std::string_view meminfo, std::string_view vmstat,
                                           const WatchFiles& files = {});
[[nodiscard]] WatchCounters read_counters(const WatchFiles& files);

struct WatchSample {
    std::chrono::system_clock::time_point time;
    double elapsed = 0; ///< seconds since the first sample
    WatchCounters counters;
};

/// The samples so far, the oldest dropped when there are many, and the first one always.
class WatchHistory {
public:
    explicit WatchHistory(std::size_t limit) : limit_(limit) {}

    void add(WatchSample sample);

    [[nodiscard]] bool empty() const { return samples_.empty(); }
    [[nodiscard]] const WatchSample& first() const { return first_; }
    [[nodiscard]] const WatchSample& latest() const { return samples_.back(); }
    [[nodiscard]] const std::deque<WatchSample>& samples() const { return samples_; }

    /// Events a second between the last two samples, in the order of the counters' events.
    [[nodiscard]] std::vector<double> rates() const;
    /// Leaves gained a minute over the samples at hand: the slope of a line through them.
    [[nodiscard]] double units_a_minute() const;

private:
    std::size_t limit_;
    WatchSample first_;
    std::deque<WatchSample> samples_;
};

/// One sample on one line, described in docs/watch.md.
[[nodiscard]] nlohmann::ordered_json json_of(const WatchHistory& history);

/// One line for each sample, and the heading above them.
[[nodiscard]] std::string watch_heading(const WatchCounters& counters);
[[nodiscard]] std::string watch_line(const WatchHistory& history);

struct WatchView {
    std::size_t width = 80;
    std::size_t height = 24;
    double interval = 1;
    bool paused = false;
    bool colour = true;
    bool unicode = true;
};

/// The full-screen view: at most `height` lines that are at most `width` columns wide.
[[nodiscard]] std::vector<std::string> watch_screen(const WatchHistory& history, const WatchView& view);

/// `2M leaves split`, for `level2_splits` of x86-64; the name itself for others.
[[nodiscard]] std::string event_title(std::string_view name);

} // namespace directmap::tool

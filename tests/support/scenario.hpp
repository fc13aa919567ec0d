// Words that the tests share: sizes, machines, records of what happened.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "directmap/directmap.hpp"
#include "machine/rig.hpp"

namespace directmap::test {

inline constexpr std::uint64_t kib = std::uint64_t{1} << 10, mib = kib << 10, gib = mib << 10, tib = gib << 10;

using Format4K = arm64::Format4K48;
using Rig4K = machine::Rig<Format4K>;

/// Leaf sizes of the 4K granule, as indices into Statistics::leaves.
enum LeafOf4K : unsigned { of_1g, of_32m, of_2m, of_64k, of_4k };

[[nodiscard]] constexpr PhysRange at(std::uint64_t start, std::uint64_t size) {
    return {PhysAddr{start}, size};
}

/// One range of RAM; its end holds the tables.
[[nodiscard]] inline machine::RigConfig ram(std::uint64_t start, std::uint64_t size) {
    machine::RigConfig config;
    config.ram = {{at(start, size), {}}};
    return config;
}

/// What happened, call by call. Give `sink()` to the machine or to a RigConfig; it must not outlive the log.
class EventLog {
public:
    [[nodiscard]] machine::EventSink sink() {
        return [this](const machine::Event& e) { events_.push_back(e); };
    }
    [[nodiscard]] const std::vector<machine::Event>& events() const { return events_; }
    [[nodiscard]] std::size_t count(std::string_view call) const {
        std::size_t n = 0;
        for (const machine::Event& e : events_) n += call == e.call ? 1 : 0;
        return n;
    }
    /// The calls in order, without those that only read.
    [[nodiscard]] std::string order() const {
        std::string text;
        for (const machine::Event& e : events_) {
            const std::string_view call = e.call;
            if (call == "load" || call == "summarize" || call == "walker_enter" || call == "walker_exit") continue;
            text += text.empty() ? "" : " ";
            text += call;
        }
        return text;
    }
    void clear() { events_.clear(); }

private:
    std::vector<machine::Event> events_;
};

/// Every table reachable from `root`, word by word, by the page's address.
template <class F, class P>
[[nodiscard]] std::map<std::uint64_t, std::vector<std::uint64_t>> words_of_tree(P& platform, PhysAddr root) {
    using G = typename F::geometry;
    std::map<std::uint64_t, std::vector<std::uint64_t>> words;
    const auto visit = [&](auto& self, PhysAddr pa, int level) -> void {
        auto& page = words[pa.value()];
        const auto table = platform.table(pa);
        for (unsigned i = 0; i < G::entries(level); ++i) {
            const Descriptor d = platform.load(table, i);
            page.push_back(d.bits());
            if (F::is_table(level, d)) self(self, F::table_address(d), level + 1);
        }
    };
    visit(visit, root, G::root_level);
    return words;
}

} // namespace directmap::test

// What the tests of the clients share: a map on the machine, a page allocator, memory with contents, a host.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "directmap/arm64/format.hpp"
#include "machine/area_rig.hpp"
#include "machine/protected_rig.hpp"

namespace directmap::clients {}

namespace directmap::client_tests {

using namespace directmap::clients;

using Format = arm64::Format4K48;
using machine::RangeAllocator;
using TestMap = machine::RigMap<Format>;
using TestArea = machine::RigArea<Format>;
using TestPool = ChunkPool<TestMap, RangeAllocator>;

inline constexpr std::uint64_t page = 0x1000, block = 0x200000, gib = 0x40000000;
inline constexpr PhysRange ram = phys_range(0x80000000, 0x100000000);
/// What the page allocator has; the tables come from the top of RAM.
inline constexpr PhysRange usable = phys_range(0x80000000, 0xc0000000);
inline constexpr VirtRange area_range{VirtAddr{0xffff800000000000}, 2 * gib};

[[nodiscard]] inline machine::RigConfig rig_config(CollapsePolicy policy = CollapsePolicy::on_restore) {
    machine::RigConfig config;
    config.ram = {{ram, {}}};
    config.policy = policy;
    return config;
}

/// Counts what an operation makes the engine do.
struct Calls {
    std::map<std::string, unsigned> by_name;
    [[nodiscard]] machine::EventSink sink() {
        return [this](const machine::Event& event) { ++by_name[event.call]; };
    }
    [[nodiscard]] unsigned of(const char* name) const {
        const auto it = by_name.find(name);
        return it == by_name.end() ? 0 : it->second;
    }
};

struct ClientRig {
    explicit ClientRig(const machine::RigConfig& config = rig_config())
        : rig{config}, map{rig}, allocator{usable}, frames(256), magazines(config.cpus) {
        EXPECT_TRUE(rig.built());
        start_leaves = rig.leaves();
        start_tables = rig.machine().tables_in_use();
    }

    [[nodiscard]] machine::Machine& machine() { return rig.machine(); }
    [[nodiscard]] Span<ChunkFrame> frame_span() { return {frames.data(), frames.size()}; }
    [[nodiscard]] Span<Magazine<machine::Machine::Lock>> magazine_span() {
        return {magazines.data(), magazines.size()};
    }
    /// Whether some CPU may reach a page, by home address, whatever it has cached.
    [[nodiscard]] bool reachable(PhysAddr home, bool write = false, bool execute = false) {
        for (unsigned cpu = 0; cpu < rig.config().cpus; ++cpu) {
            if (machine().reach(cpu, home, write, execute).may_succeed) return true;
        }
        return false;
    }
    [[nodiscard]] bool reachable(VirtAddr va, bool write = false, bool execute = false) {
        return reachable(map.home({va, page}).start, write, execute);
    }
    /// Everything agrees with the reference, and the map is what it was after boot, table for table.
    void expect_as_at_start() {
        EXPECT_EQ(rig.check(), "");
        EXPECT_EQ(rig.leaves(), start_leaves);
        (void)rig.map().reclaim();
        EXPECT_EQ(machine().tables_in_use(), start_tables);
        EXPECT_EQ(allocator.taken(), 0u);
    }

    machine::Rig<Format> rig;
    TestMap map;
    RangeAllocator allocator;
    std::vector<ChunkFrame> frames;
    std::vector<Magazine<machine::Machine::Lock>> magazines;
    std::array<std::uint64_t, 6> start_leaves{};
    std::size_t start_tables = 0;
};

/// What memory holds, as the last thing written to each place.
class TestMemory {
public:
    void zero(PhysRange range) {
        if (before_zero) before_zero(range);
        writes_.push_back({range, 0, {}});
        zeroed += range.size;
    }
    void write(VirtAddr va, const void* from, std::size_t bytes) {
        const auto* data = static_cast<const std::uint8_t*>(from);
        if (before_write) before_write(va, bytes);
        writes_.push_back({{phys(va), bytes}, 0, {data, data + bytes}});
    }
    void fill(VirtAddr va, std::uint32_t word, std::size_t bytes) {
        if (before_write) before_write(va, bytes);
        writes_.push_back({{phys(va), bytes}, word, {}});
    }
    [[nodiscard]] std::uint32_t word_at(PhysAddr pa) const {
        for (auto w = writes_.rbegin(); w != writes_.rend(); ++w) {
            if (!w->range.contains(pa)) continue;
            if (w->bytes.empty()) return w->word;
            std::uint32_t word = 0;
            for (unsigned i = 0; i < 4; ++i) {
                const std::uint64_t at = pa - w->range.start + i;
                word |= (at < w->bytes.size() ? std::uint32_t{w->bytes[at]} : 0u) << (8 * i);
            }
            return word;
        }
        return 0xffffffff;
    }

    std::function<PhysAddr(VirtAddr)> phys = [](VirtAddr va) { return PhysAddr{va.value() - 0xffff000000000000}; };
    std::function<void(PhysRange)> before_zero;
    std::function<void(VirtAddr, std::uint64_t)> before_write;
    std::uint64_t zeroed = 0;

private:
    struct Write {
        PhysRange range;
        std::uint32_t word;
        std::vector<std::uint8_t> bytes;
    };
    std::vector<Write> writes_;
};

} // namespace directmap::client_tests

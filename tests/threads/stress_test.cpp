// Everything at once, by real threads on shared tables: changes, deferred and atomic ones, pinning, collapse, walks,
// dumps, and the admission of a CPU for which the map is repainted. ./check runs this under ThreadSanitizer.
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "thread_platform.hpp"

namespace directmap::test {
namespace {

constexpr std::uint64_t page = 4096, gib = std::uint64_t{1} << 30, start = 4 * gib;
constexpr unsigned regions = 3, owners = 3, slot_pages = 32;

using Map = DirectMap<arm64::Format4K48, ThreadPlatform>;

/// Pages that one thread alone changes, so that it knows at every moment what they must be.
struct Slot {
    std::uint64_t first = 0; ///< page, counted from the start of RAM
    unsigned owner = 0;
    std::array<Attributes, slot_pages> attributes{};

    [[nodiscard]] PhysAddr at(unsigned index) const { return PhysAddr{start + (first + index) * page}; }
    [[nodiscard]] PhysRange range(unsigned from, unsigned to) const { return {at(from), (to - from) * page}; }
};

std::string words(Attributes attributes) {
    std::string text = attributes.valid() ? "valid " : "invalid ";
    text += attributes.writable() ? "RW " : "ro ";
    text += attributes.executable() ? "x" : "NX";
    return text + (attributes.memory_type() == MemoryType::normal ? "" : " NC");
}

/// One map, and what happens to it.
class Stress {
public:
    Stress() {
        const RamRange ram{{PhysAddr{start}, regions * gib}, {}};
        EXPECT_TRUE(map_.build({{&ram, 1}, {}}, Mapping::largest));
        EXPECT_TRUE(map_.admit({.tolerates_live_resize = true}));
        // Next to each other in two blocks of each region, and one across each edge between regions.
        for (unsigned region = 0; region < regions; ++region) {
            for (unsigned i = 1; i <= 24; ++i) add(region * pages_of_region + i * slot_pages);
            if (region != 0) add(region * pages_of_region - slot_pages / 2);
        }
    }

    /// Runs `steps` rounds of each role on a thread of its own. `newcomer`: half-way a CPU is admitted that doesn't
    /// tolerate resizing.
    void run(unsigned steps, bool newcomer) {
        std::vector<std::thread> threads;
        unsigned cpu = 0;
        const auto add_thread = [&](auto role) {
            threads.emplace_back([role, cpu] {
                ThreadPlatform::cpu() = cpu;
                std::mt19937 random{cpu + 1};
                role(random);
            });
            ++cpu;
        };
        std::atomic<unsigned> changing = owners;
        for (unsigned owner = 0; owner < owners; ++owner) {
            add_thread([this, owner, steps, newcomer, &changing](std::mt19937& random) {
                for (unsigned i = 0; i < steps; ++i) {
                    change(owner, random);
                    if (newcomer && owner == 0 && i == steps / 2) admit_intolerant();
                }
                --changing;
            });
        }
        // The others go on for as long as somebody changes something.
        const auto while_changing = [&](auto role) {
            add_thread([&changing, role](std::mt19937& random) {
                while (changing != 0) role(random);
            });
        };
        for (int i = 0; i < 2; ++i) while_changing([this](std::mt19937& random) { collapse(random); });
        while_changing([this](std::mt19937& random) { pin(random); });
        while_changing([this](std::mt19937& random) { look(random); });
        while_changing([this](std::mt19937&) { dump(); });
        while_changing([this](std::mt19937&) { EXPECT_TRUE(map_.admit({.tolerates_live_resize = true})); });
        for (std::thread& thread : threads) thread.join();
    }

    /// Nothing runs any more: every page, the account, and, while the gate is open, the fewest leaves and tables.
    void verify() {
        for (const Slot& slot : slots_) {
            for (unsigned i = 0; i < slot_pages; ++i) expect_page(slot, i);
        }
        const auto mapped = [&] { return map_.statistics().bytes; };
        EXPECT_EQ(mapped(), regions * gib);
        if (map_.gate_mode() != Gate::Mode::open) return;
        for (Slot& slot : slots_) {
            const Change plain = Change{}.writable(true).executable(false).valid(true).memory_type(MemoryType::normal);
            EXPECT_TRUE(map_.protect(slot.range(0, slot_pages), plain));
        }
        const auto collapsed = map_.collapse(map_.span());
        EXPECT_TRUE(collapsed && collapsed.value().finished);
        EXPECT_EQ(map_.reclaim(), 0u);
        EXPECT_EQ(map_.statistics().leaves[0], regions) << "the map is not back at one leaf a region";
        EXPECT_EQ(mapped(), regions * gib);
        // The root and one table of 1 GiB entries, and what is set aside.
        EXPECT_EQ(tables - platform_.free_tables(), 2 + map_.statistics().set_aside);
    }

private:
    static constexpr std::uint64_t pages_of_region = gib / page;
    static constexpr std::size_t tables = 2048;

    void add(std::uint64_t first) { slots_.push_back({first, static_cast<unsigned>(slots_.size()) % owners, {}}); }
    [[nodiscard]] Slot& any_slot(std::mt19937& random) { return slots_[random() % slots_.size()]; }

    /// What the owner of a page sees is what it has set.
    void expect_page(const Slot& slot, unsigned index) {
        const auto found = map_.translate(slot.at(index));
        ASSERT_TRUE(found);
        EXPECT_EQ(found.value().pa, slot.at(index));
        // Somebody may be pinning the page.
        EXPECT_TRUE(found.value().attributes.with_fixed(false) == slot.attributes[index])
            << "page " << slot.first + index << " is " << words(found.value().attributes) << ", not "
            << words(slot.attributes[index]) << " as its owner made it";
    }

    void change(unsigned owner, std::mt19937& random) {
        Slot* slot = &any_slot(random);
        while (slot->owner != owner) slot = &any_slot(random);
        const bool whole = random() % 4 == 0;
        const unsigned from = whole ? 0 : random() % slot_pages;
        const unsigned to = whole ? slot_pages : from + 1 + random() % (slot_pages - from);
        const bool on = random() % 2 == 0;
        const std::array<Change, 4> changes = {
            Change{}.writable(on), Change{}.executable(on), Change{}.valid(on),
            Change{}.memory_type(on ? MemoryType::normal : MemoryType::normal_noncacheable)};
        const Change change = changes[random() % changes.size()];
        const PhysRange range = slot->range(from, to);
        bool changed = false;
        Map::DeferredFlush owed;
        switch (random() % 4) {
        case 0: { // atomic: works with what is set aside, or says so at once
            const auto result = map_.protect(range, change, {.atomic = true});
            changed = result.ok();
            if (!changed) EXPECT_EQ(result.error().code(), ErrorCode::would_block);
            if (!changed && map_.gate_mode() == Gate::Mode::open) (void)map_.set_aside(4);
            break;
        }
        case 1: {
            auto result = map_.protect_deferred(range, change);
            changed = result.ok();
            if (changed) owed = std::move(result.value());
            break;
        }
        default:
            changed = map_.protect(range, change).ok();
            EXPECT_TRUE(changed);
            break;
        }
        if (changed) {
            for (unsigned i = from; i < to; ++i) slot->attributes[i] = change.apply_to(slot->attributes[i]);
        }
        for (unsigned i = 0; i < 4; ++i) expect_page(*slot, random() % slot_pages);
    }

    void collapse(std::mt19937& random) {
        const PhysRange region{PhysAddr{start + random() % regions * gib}, gib};
        const auto result = map_.collapse(random() % 2 == 0 ? region : map_.span());
        if (!result) EXPECT_EQ(result.error().code(), ErrorCode::unsupported);
        (void)map_.reclaim();
    }
    void pin(std::mt19937& random) {
        const Slot& slot = any_slot(random);
        const PhysRange range = slot.range(0, slot_pages);
        if (!map_.prepare(range)) return;
        EXPECT_TRUE(map_.release(range));
    }
    /// Somebody else's pages: they lead where they must.
    void look(std::mt19937& random) {
        const Slot& slot = any_slot(random);
        const PhysAddr pa = slot.at(random() % slot_pages);
        const auto found = map_.translate(pa);
        EXPECT_TRUE(found && found.value().pa == pa);
    }
    void dump() {
        std::uint64_t at = start;
        map_.walk(map_.span(), [&](const Leaf& leaf) {
            EXPECT_TRUE(leaf.mapped && leaf.range.start.value() <= at);
            at = leaf.range.end().value();
            return true;
        });
        EXPECT_EQ(at, start + regions * gib);
        std::size_t lines = 0;
        map_.dump([&](const char*, unsigned) { ++lines; });
        EXPECT_GE(lines, 3u);
    }
    void admit_intolerant() {
        EXPECT_TRUE(map_.admit({.tolerates_live_resize = false}));
        EXPECT_EQ(map_.gate_mode(), Gate::Mode::closed);
    }

    ThreadPlatform platform_{tables, std::getenv("DIRECTMAP_DROP_LOCKS") == nullptr};
    std::vector<Region<ThreadPlatform::Lock>> region_states_ = std::vector<Region<ThreadPlatform::Lock>>(regions);
    Map map_{platform_, {.offset = 0xffff000000000000}, {region_states_.data(), regions}};
    std::vector<Slot> slots_;
};

/// What a check has time for; DIRECTMAP_LONG takes its time.
unsigned steps(unsigned usual) {
    return std::getenv("DIRECTMAP_LONG") != nullptr ? 40 * usual : usual;
}

TEST(Threads, EveryPageIsWhatItsOwnerMadeItWhileTheMapSplitsAndHeals) {
    Stress stress;
    stress.run(steps(250), false);
    stress.verify();
}

TEST(Threads, ACpuThatDoesNotTolerateResizingIsAdmittedInTheMiddleOfEverything) {
    Stress stress;
    stress.run(steps(150), true);
    stress.verify();
}

} // namespace
} // namespace directmap::test

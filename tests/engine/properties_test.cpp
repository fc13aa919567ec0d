// Random lives of a direct map on the machine, every shape and granule: whatever is done to it, every page is what an
// independent map of pages says, leaves are split as little and merged as far as can be, and the account is right.
//
// The driver (support/operations.hpp) chooses layouts with holes and zones, changes of all attributes now, deferred and
// from atomic context, prepare and release, collapses with and without a budget, repaints, admissions, and table
// sources that run out; it compares each answer of the engine with its own calculations. Here a witness is added that
// shares no code with the engine: it reads the tables as hardware does and counts the fewest leaves by trying them all.
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "support/operations.hpp"
#include "support/scenario.hpp"
#include "support/scripts.hpp"
#include "support/x86_format.hpp"

namespace directmap::test {
namespace {

/// What the tables say, read word by word.
class Witness {
public:
    void begin(const machine::RigConfig& config, const machine::Regime& regime) {
        regime_ = regime;
        offset_ = config.offset;
        for (const RamRange& r : config.ram) mark(r.range, Hold::none);
        for (const Zone& z : config.zones) {
            if (z.kind == ZoneKind::pages) mark(z.range, Hold::pages);
            if (z.kind == ZoneKind::fixed_size) mark(z.range, Hold::size);
        }
    }
    /// Follows the record: who pins what, and what a change takes before it touches anything.
    void operator()(const machine::Event& e) {
        const std::string_view call = e.call;
        if (call == "begin") {
            operation_ = e.text;
            range_ = {PhysAddr{e.va - offset_}, e.size};
            taken_ = 0;
            touched_ = false;
        } else if (call == "take_table" && e.table != 0 && operation_.starts_with("protect")) {
            if (touched_) complain("a table is taken after something was changed (P6)");
            if (++taken_ > 2 * static_cast<unsigned>(3 - regime_.first_block_level))
                complain("more tables are reserved than the bound (P6)");
        } else if (call == "store" || call == "update" || call == "fill") {
            touched_ = true;
        } else if (call == "end") {
            if (e.text == "done" && operation_ == "prepare") mark(range_, Hold::pages);
            if (e.text == "done" && operation_ == "release") mark(range_, Hold::none);
            operation_.clear();
        }
    }

    /// Leaves by size, as a hardware walk finds them; every page must say what the reference says.
    std::map<std::uint64_t, std::uint64_t> read(machine::Machine& machine, std::uint64_t root) {
        std::map<std::uint64_t, std::map<unsigned, std::uint64_t>> words;
        machine.for_each_word([&](std::uint64_t table, unsigned i, std::uint64_t word) { words[table][i] = word; });
        std::map<std::uint64_t, std::uint64_t> leaves;
        const std::uint64_t top = regime_.va_bits == 64 ? 0 : ~std::uint64_t{0} << regime_.va_bits;
        std::uint64_t bytes = 0;
        const auto visit = [&](auto& self, std::uint64_t table, int level, std::uint64_t va) -> void {
            std::map<unsigned, unsigned> groups;
            for (const auto& [index, word] : words[table]) {
                const machine::Entry e = regime_.decode(level, word);
                const std::uint64_t at = va + (std::uint64_t{index} << regime_.shift(level));
                if (e.kind == machine::Entry::Kind::table) self(self, e.pa, level + 1, at);
                if (e.kind == machine::Entry::Kind::malformed) complain(e.problem);
                if (!e.is_leaf()) continue;
                const std::uint64_t size = regime_.bytes(level), pa = at - offset_;
                if (e.pa != pa) complain(fmt::format("{:#x} leads to {:#x} (P1)", pa, e.pa));
                look(machine, {PhysAddr{pa}, size}, e.access);
                bytes += size;
                if (e.contiguous) {
                    ++groups[index / regime_.group(level)];
                } else {
                    ++leaves[size];
                }
            }
            for (const auto& [group, members] : groups) {
                if (members != regime_.group(level)) complain("a contiguous group is not whole");
                ++leaves[regime_.bytes(level) * regime_.group(level)];
            }
        };
        // The first address that the root translates in the half that the map uses.
        visit(visit, root, regime_.root_level(), offset_of_root(top, machine));
        std::uint64_t ram = 0;
        for (const auto& [start, pages] : machine.reference().pages()) ram += pages.end - start;
        if (bytes != ram) complain(fmt::format("{:#x} bytes are mapped, {:#x} are RAM (P12)", bytes, ram));
        return leaves;
    }

    /// The fewest leaves that can say what the reference says: for each page, the best of all leaves that could end
    /// there. What is pinned is by pages; static zones are counted as they lie.
    std::uint64_t fewest_leaves(machine::Machine& machine) {
        const std::uint64_t page = regime_.bytes(3);
        std::vector<std::uint64_t> sizes;
        for (int level = regime_.first_block_level; level <= 3; ++level) {
            sizes.push_back(regime_.bytes(level));
            if (regime_.group(level) > 1) sizes.push_back(regime_.bytes(level) * regime_.group(level));
        }
        std::vector<std::uint64_t> fewest{0}; // for the first n pages
        std::vector<std::uint64_t> alike;     // since when pages say the same
        std::uint64_t last = 0;
        machine::Access last_access{};
        Hold last_hold = Hold::none;
        for (const auto& [start, pages] : machine.reference().pages()) {
            if (pages.base.size() != 1) complain("a page is in two states between operations");
            for (std::uint64_t pa = start; pa < pages.end; pa += page) {
                const Hold hold = hold_[pa];
                const bool runs_on = pa == last + page && pages.base.front() == last_access && hold == last_hold;
                alike.push_back(runs_on && !alike.empty() ? alike.back() : pa);
                std::uint64_t best = ~std::uint64_t{0};
                for (const std::uint64_t size : sizes) {
                    const std::uint64_t end = pa + page;
                    if (hold == Hold::pages && size != page) continue;
                    if (end % size != 0 || (end + offset_) % size != 0 || end - size < alike.back() || end < size)
                        continue;
                    best = std::min(best, fewest[fewest.size() - size / page] + 1);
                }
                fewest.push_back(best);
                last = pa;
                last_access = pages.base.front();
                last_hold = hold;
            }
        }
        return fewest.back();
    }
    [[nodiscard]] bool has_static_zones() const {
        for (const auto& [pa, hold] : hold_)
            if (hold == Hold::size) return true;
        return false;
    }
    [[nodiscard]] const std::string& problem() const { return problem_; }

private:
    enum class Hold : std::uint8_t { none, pages, size };

    void mark(PhysRange range, Hold hold) {
        for (std::uint64_t pa = range.start.value(); pa < range.end().value(); pa += regime_.bytes(3)) {
            Hold& was = hold_[pa];
            if (was != Hold::size) was = hold;
        }
    }
    static std::uint64_t offset_of_root(std::uint64_t top, const machine::Machine& machine) {
        const std::uint64_t first = machine.reference().pages().begin()->first + machine.config().offset;
        return first & top;
    }
    void look(machine::Machine& machine, PhysRange range, const machine::Access& access) {
        for (std::uint64_t pa = range.start.value(); pa < range.end().value();) {
            const auto* pages = machine.reference().find(PhysAddr{pa});
            if (pages == nullptr) return complain(fmt::format("{:#x} is mapped but is no RAM", pa));
            if (!(pages->base.front() == access)) {
                return complain(fmt::format("{:#x} is '{}', not '{}'", pa, machine::describe(access),
                                            machine::describe(pages->base.front())));
            }
            pa = pages->end;
        }
    }
    void complain(std::string what) {
        if (problem_.empty()) problem_ = std::move(what);
    }

    machine::Regime regime_;
    std::uint64_t offset_ = 0;
    std::map<std::uint64_t, Hold> hold_;
    std::string operation_;
    PhysRange range_;
    unsigned taken_ = 0;
    bool touched_ = false;
    std::string problem_;
};

/// A life on small tables, with everything looked at after every operation.
template <class F>
void a_life_keeps_every_promise() {
    using G = typename F::geometry;
    const auto script = random_script(240);
    Witness witness;
    DriverOptions options;
    options.before_build = [&](machine::RigConfig& config) {
        machine::Regime regime = machine::regime_of<F>();
        regime.realm_shared_address = config.realm_shared_address;
        witness.begin(config, regime);
        config.record = [&](const machine::Event& e) { witness(e); };
    };
    Driver<F>* playing = nullptr;
    const auto read = [&] { return witness.read(playing->rig().machine(), playing->rig().map().root().value()); };
    options.after_operation = [&] { // P12, from the tables themselves
        const auto leaves = read();
        const Statistics s = playing->rig().map().statistics();
        for (unsigned i = 0; i < G::leaf_sizes.count && witness.problem().empty(); ++i) {
            const auto found = leaves.find(G::leaf_sizes.of[i].bytes());
            const std::uint64_t count = found == leaves.end() ? 0 : found->second;
            if (count != s.leaves[i])
                return fmt::format("{} leaves of {:#x} bytes are counted, the tables have {} (P12)", s.leaves[i],
                                   G::leaf_sizes.of[i].bytes(), count);
        }
        return witness.problem();
    };
    Driver<F> driver{Script{script.data(), script.size()}, options};
    playing = &driver;
    RC_ASSERT(driver.play() == "");
    if (driver.rig().map().gate_mode() == Gate::Mode::open && !witness.has_static_zones()) {
        const auto r = driver.rig().collapse(driver.rig().whole());
        RC_ASSERT(r.ok());
        std::uint64_t leaves = 0;
        for (const auto& [size, count] : read()) leaves += count;
        RC_ASSERT(leaves == witness.fewest_leaves(driver.rig().machine())); // P10
    }
    RC_ASSERT(driver.heal() == "");
    RC_ASSERT(witness.problem() == "");
}

RC_GTEST_PROP(ARandomLife, KeepsEveryPromiseWithThreeLevelsOfLeaves, ()) {
    a_life_keeps_every_promise<SmallFormat>();
}
RC_GTEST_PROP(ARandomLife, KeepsEveryPromiseWithGroupsOfTheLargestBlock, ()) {
    a_life_keeps_every_promise<SmallTopGroupsFormat>();
}
RC_GTEST_PROP(ARandomLife, KeepsEveryPromiseWithTwoLevelsOfLeaves, ()) {
    a_life_keeps_every_promise<SmallTwoLevelFormat>();
}
RC_GTEST_PROP(ARandomLife, KeepsEveryPromiseWithoutGroupsAndWithoutBreaks, ()) { // x86-64
    a_life_keeps_every_promise<SmallX86Format>();
}

/// The same with tables of full size: terabytes can't be looked at page by page after every operation, but the driver
/// compares leaves, and the machine looks at every store.
template <class F>
void a_life_of_full_size_keeps_every_promise() {
    const auto script = random_script(70);
    Driver<F> driver{Script{script.data(), script.size()}};
    RC_ASSERT(driver.run() == "");
}

#define FULL_SIZE(Name)                                                                                                \
    RC_GTEST_PROP(ARandomLifeOfFullSize, KeepsEveryPromiseOf##Name, ()) {                                              \
        a_life_of_full_size_keeps_every_promise<arm64::Name>();                                                        \
    }                                                                                                                  \
    static_assert(true)
FULL_SIZE(Format4K48TopGroups);
FULL_SIZE(Format4K52);
FULL_SIZE(Format16K48);
FULL_SIZE(Format64K52);

TEST(TheWitness, SeesALeafTooManyAPageGoneWrongAndATableTakenLate) {
    // The judge itself: the same small machine, with what it must find.
    machine::RigConfig config;
    constexpr std::uint64_t base = 0x80000, large = SmallFormat::geometry::bytes(1);
    config.ram = {{at(base, 2 * large), {}}, {at(base + 2 * large, 2 * large), {}}};
    Witness witness;
    witness.begin(config, machine::regime_of<SmallFormat>());
    config.record = [&](const machine::Event& e) { witness(e); };
    machine::Rig<SmallFormat> rig{config};
    const auto count = [&] {
        std::uint64_t leaves = 0;
        for (const auto& [size, n] : witness.read(rig.machine(), rig.map().root().value())) leaves += n;
        return leaves;
    };
    EXPECT_EQ(count(), 4U);
    EXPECT_EQ(witness.fewest_leaves(rig.machine()), 4U);
    ASSERT_TRUE(rig.protect(at(base + 0x5000, 0x1000), Change{}.writable(false)));
    EXPECT_EQ(count(), witness.fewest_leaves(rig.machine()));
    ASSERT_TRUE(rig.protect(at(base + 0x5000, 0x1000), Change{}.writable(true)));
    EXPECT_GT(count(), witness.fewest_leaves(rig.machine())) << "not collapsed yet";
    EXPECT_EQ(witness.fewest_leaves(rig.machine()), 4U);
    EXPECT_EQ(witness.problem(), "");
    machine::Event late;
    late.call = "begin";
    late.text = "protect";
    witness(late);
    late.call = "fill";
    witness(late);
    late.call = "take_table";
    late.table = 1;
    witness(late);
    EXPECT_NE(witness.problem().find("P6"), std::string::npos);
}

} // namespace
} // namespace directmap::test

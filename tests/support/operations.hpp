// Random lives of a direct map: bytes become a machine, a layout and a sequence of operations, every answer of the
// engine is compared with what independent calculations say. Fuzzer and property tests share it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "directmap/directmap.hpp"
#include "machine/rig.hpp"
#include "support/leaves.hpp"

namespace directmap::test {

// Small tables, so that everything that can happen at 48 bits happens within a few hundred pages. Shapes like those of
// the 4K granule, of the same with groups of the largest block, and of the 16K and 64K granules (two levels of leaves).
inline constexpr Shape small_shape{12, 24, 48, 3, 1, {0, 0, 2, 2}};
inline constexpr Shape small_top_groups_shape{12, 24, 48, 3, 1, {0, 1, 2, 2}};
inline constexpr Shape small_two_level_shape{12, 24, 48, 3, 2, {0, 0, 2, 1}};
using SmallFormat = arm64::Format<small_shape>;
using SmallTopGroupsFormat = arm64::Format<small_top_groups_shape>;
using SmallTwoLevelFormat = arm64::Format<small_two_level_shape>;

[[nodiscard]] inline std::string describe(Change change) {
    const Attributes to = change.values();
    std::string text;
    const auto say = [&](bool named, std::string_view on, std::string_view off, bool value) {
        if (named) text += fmt::format("{} ", value ? on : off);
    };
    say(change.names_valid(), "valid", "invalid", to.valid());
    say(change.names_writable(), "RW", "ro", to.writable());
    say(change.names_executable(), "x", "NX", to.executable());
    say(change.names_global(), "G", "nG", to.global());
    say(change.names_shared(), "shared", "private", to.shared());
    say(change.names_fixed(), "fixed", "movable", to.fixed());
    if (change.names_key()) text += fmt::format("key {} ", to.key());
    if (change.names_memory_type()) text += fmt::format("type {} ", static_cast<unsigned>(to.memory_type()));
    return text;
}

/// Bytes that decide; zeros once they have run out.
class Script {
public:
    Script(const std::uint8_t* bytes, std::size_t size) : next_{bytes}, end_{bytes + size} {}

    [[nodiscard]] bool ended() const { return next_ == end_; }
    [[nodiscard]] std::uint8_t byte() { return ended() ? std::uint8_t{0} : *next_++; }
    /// A number in [0, n).
    [[nodiscard]] std::uint64_t below(std::uint64_t n) {
        std::uint64_t value = 0;
        for (std::uint64_t covered = 1; covered < n; covered <<= 8) value = value << 8 | byte();
        return n == 0 ? 0 : value % n;
    }
    [[nodiscard]] bool one_in(unsigned n) { return byte() % n == n - 1; }

private:
    const std::uint8_t* next_;
    const std::uint8_t* end_;
};

/// How closely a driver looks after each operation.
struct DriverOptions {
    bool compare_leaves = true; ///< P5 and P10 after every change and collapse; otherwise at the end alone
    bool verbose = false;       ///< keeps the story of what was done
    /// What the scenario may choose to have; everything by default.
    bool closed_gates = true;
    bool tables_run_out = true;
    std::size_t most_operations = ~std::size_t{0};
    /// Called with the scenario's choice before the machine is built; may ask for a record.
    std::function<void(machine::RigConfig&)> before_build{};
    /// Called after every operation; returns what is wrong, or nothing.
    std::function<std::string()> after_operation{};
};

template <class F>
class Driver {
public:
    using G = typename F::geometry;
    using RigType = machine::Rig<F>;
    static constexpr bool small = G::table_entries <= 16;

    Driver(Script script, DriverOptions options = {}) : script_{script}, options_{options} {
        choose_config();
        if (options_.before_build) options_.before_build(config_);
        rig_ = std::make_unique<RigType>(config_);
        if (!rig_->built()) fail(fmt::format("build: {}", rig_->built().error().reason()));
    }

    [[nodiscard]] RigType& rig() { return *rig_; }
    [[nodiscard]] const std::string& story() const { return story_; }
    [[nodiscard]] std::size_t operations() const { return operations_; }

    /// Runs until the script ends, then undoes everything. Returns what went wrong first, or nothing.
    std::string run() {
        (void)play();
        return heal();
    }
    /// The operations alone; no flush is owed afterwards.
    std::string play() {
        if (problem_.empty()) inspect("build");
        while (problem_.empty() && !script_.ended() && operations_ < options_.most_operations) step();
        rig_->machine().run_on(0);
        if (problem_.empty()) complete();
        return problem_;
    }
    /// Undoes everything; the map must be what it was.
    std::string heal() {
        if (problem_.empty() && operations_ != 0) undo();
        return problem_;
    }

private:
    // ---- what there is
    // -----------------------------------------------------------------------------------------------

    void choose_config() {
        constexpr std::uint64_t page = G::page_size, region = G::region_bytes;
        const std::uint8_t kind = script_.byte();
        config_.range_invalidation = (kind & 1) != 0;
        config_.tables_through_map = (kind & 2) != 0;
        config_.cpus = 1 + (kind >> 2) % 3;
        const bool closed = options_.closed_gates && (kind >> 4 & 7) == 7;
        config_.bbm = closed ? (kind >> 2) % 3 : 3;
        config_.policy = script_.one_in(5)   ? CollapsePolicy::on_restore
                         : script_.one_in(5) ? CollapsePolicy::background
                                             : CollapsePolicy::on_request;
        config_.mapping = script_.one_in(8) && small ? Mapping::pages : Mapping::largest;
        config_.realm_shared_address = script_.one_in(4) ? std::uint64_t{1} << (G::pa_bits - 1) : 0;

        // Offsets that share all alignment, some, or next to none with physical addresses.
        std::uint64_t skew = 0;
        if (script_.one_in(4) && small) skew = (1 + script_.below(region / page - 1)) * page; // else: millions of pages
        if (script_.one_in(6)) skew = G::bytes(G::last_level - 1) * (1 + script_.below(7));
        config_.offset = 0xffff'0000'0000'0000 + skew;
        if constexpr (G::va_bits > 48) config_.offset = 0xfff0'0000'0000'0000 + skew;
        if (F::break_mask.empty()) config_.realm_shared_address = 0; // an architecture without realms

        std::uint64_t at = 2 * region + (script_.one_in(3) ? script_.below(region / page) * page : 0);
        const unsigned ranges = 1 + static_cast<unsigned>(script_.below(3));
        for (unsigned i = 0; i < ranges; ++i) {
            const std::uint64_t pages = script_.one_in(2) ? region / page : 1 + script_.below(2 * region / page);
            const Attributes attributes = script_.one_in(4) ? Attributes{}.with_executable(true) : Attributes{};
            config_.ram.push_back({phys_range(at, at + pages * page), attributes});
            at += pages * page + (script_.one_in(2) ? script_.below(region / page) * page : 0);
        }
        const std::uint64_t playground = at;
        // Zones, in address order.
        for (std::uint64_t from = config_.ram.front().range.start.value(); script_.one_in(3);) {
            from += script_.below(region / page) * page;
            const std::uint64_t size = (1 + script_.below(region / page / 2)) * page;
            if (from + size > playground) break;
            Zone zone{.range = phys_range(from, from + size), .kind = static_cast<ZoneKind>(script_.below(3))};
            if (zone.kind == ZoneKind::pages && !small && size > (std::uint64_t{1} << 26))
                zone.kind = ZoneKind::excluded;
            if (script_.one_in(3)) zone.has_attributes = true, zone.attributes = Attributes{}.with_writable(false);
            if (zone.kind == ZoneKind::fixed_size) static_zones_.push_back(zone.range);
            config_.zones.push_back(zone);
            from += size;
        }
        // Tables live in RAM of their own, whose access nothing here restricts.
        at = align_up(at, G::bytes(G::last_level - 1));
        const std::uint64_t pool =
            small ? 2 * region + 32 * page : align_up(std::uint64_t{1} << 26, G::bytes(G::last_level - 1));
        config_.table_pool = phys_range(at, at + pool);
        config_.ram.push_back({*config_.table_pool, {}});
        if (script_.one_in(8) && small) config_.offset = 0 - config_.ram.back().range.end().value(); // to the last byte
        play_ = phys_range(config_.ram.front().range.start.value(), playground);
        if (options_.verbose) {
            story_ += fmt::format(
                "offset {:#x} cpus {} bbm {} policy {} {}{}{}\n", config_.offset, config_.cpus, config_.bbm,
                static_cast<int>(config_.policy), config_.mapping == Mapping::pages ? "pages " : "",
                config_.tables_through_map ? "tables through map " : "", config_.range_invalidation ? "ranges" : "");
            for (const RamRange& r : config_.ram)
                story_ += fmt::format("ram {:#x}+{:#x}\n", r.range.start.value(), r.range.size);
            for (const Zone& z : config_.zones) {
                story_ += fmt::format("zone {:#x}+{:#x} kind {}\n", z.range.start.value(), z.range.size,
                                      static_cast<int>(z.kind));
            }
        }
    }

    // ---- what is done
    // ------------------------------------------------------------------------------------------------

    template <class... Args>
    void tell(fmt::format_string<Args...> text, Args&&... args) {
        if (!options_.verbose) return;
        story_ += fmt::format("{}: CPU {} ", operations_, rig_->machine().cpu());
        story_ += fmt::format(text, std::forward<Args>(args)...);
        story_ += '\n';
    }
    void fail(std::string what) {
        if (problem_.empty()) problem_ = std::move(what);
    }

    PhysRange choose_range() {
        constexpr std::uint64_t page = G::page_size;
        const std::uint64_t pages = play_.size / page;
        std::uint64_t first = script_.below(pages), count = 1;
        const std::uint8_t how = script_.byte();
        if ((how & 3) != 0) { // near an edge of a leaf size
            const unsigned shift = G::leaf_sizes.of[(how >> 2) % G::leaf_sizes.count].shift;
            const std::uint64_t unit = std::uint64_t{1} << (shift - G::page_shift);
            first = (align_down(play_.start.value() + first * page, unit * page) - play_.start.value()) / page;
            if (first >= pages) first = 0;
            count = unit * (1 + (how >> 5) % 3);
            if ((how & 3) == 2) first += script_.below(3), count -= count > 1 ? script_.below(2) : 0;
            if ((how & 3) == 3) count = 1 + script_.below(4);
        } else {
            count = 1 + script_.below((how & 4) != 0 ? pages : 8);
        }
        if (first >= pages) first = pages - 1;
        count = std::min(count, pages - first);
        return {play_.start + first * page, count * page};
    }

    Change choose_change() {
        if (script_.one_in(4)) return restoring();
        Change change;
        const std::uint8_t which = script_.byte();
        const auto choose = [&](unsigned attribute) {
            switch (attribute) {
            case 0: change = change.writable((which & 1) != 0); break;
            case 1: change = change.executable((which & 1) != 0); break;
            case 2: change = change.valid((which & 1) != 0); break;
            case 3: change = change.key(which & 7u); break;
            case 4: change = change.memory_type(static_cast<MemoryType>((which & 7) % 5)); break;
            case 5: change = change.global((which & 1) != 0); break;
            case 6:
                if (config_.realm_shared_address != 0) change = change.shared((which & 1) != 0);
                break;
            default: change = change.valid(false).writable(false); break;
            }
        };
        choose(which >> 3 & 7);
        if ((which & 0xc0) == 0xc0) choose(which & 7);
        return change;
    }
    Change restoring() const {
        Change change =
            Change{}.writable(true).executable(false).valid(true).key(0).memory_type(MemoryType::normal).global(true);
        if (config_.realm_shared_address != 0) change = change.shared(false);
        return change;
    }

    void step() {
        ++operations_;
        machine::Machine& m = rig_->machine();
        m.run_on(static_cast<unsigned>(script_.below(config_.cpus)));
        m.clock += 1;
        bool scarce = false;
        if (options_.tables_run_out && script_.one_in(12)) {
            m.tables_left = script_.below(6);
            scarce = true;
        }
        const std::uint8_t what = script_.byte() % 32;
        if (what < 12) {
            change(false, scarce);
        } else if (what < 15) {
            change(true, scarce);
        } else if (what < 16) {
            complete();
        } else if (what < 21) {
            collapse();
        } else if (what < 23) {
            prepare(scarce);
        } else if (what < 25) {
            release(scarce);
        } else if (what == 25) {
            bad_range();
        } else if (what == 26) {
            set_aside(scarce);
        } else if (what == 27) {
            walk_while_collapsing();
        } else if (what == 28) {
            background();
        } else if (what == 29) {
            translate();
        } else if (what == 30) {
            script_.one_in(3) ? admit(scarce) : repaint(scarce);
        } else {
            (void)rig_->map().reclaim();
            tell("reclaim");
        }
        if (scarce) m.tables_left = ~std::uint64_t{0} / 2; // what comes back is added
        if (const std::string problems = rig_->problems(); !problems.empty()) fail(problems);
        if (problem_.empty() && options_.after_operation) problem_ = options_.after_operation();
        if (small && problem_.empty() && operations_ % 16 == 0) inspect("operation");
    }

    [[nodiscard]] bool resizable() const { return rig_->map().gate_mode() == Gate::Mode::open; }

    /// The error that an operation on the range has to give whatever else holds, from the reference alone.
    [[nodiscard]] bool has_hole(PhysRange range) {
        std::uint64_t at = range.start.value();
        while (at < range.end().value()) {
            const auto* pages = rig_->machine().reference().find(PhysAddr{at});
            if (pages == nullptr) return true;
            at = pages->end;
        }
        return false;
    }
    [[nodiscard]] bool overlaps_static_zone(PhysRange range) const {
        for (const PhysRange& zone : static_zones_) {
            if (zone.overlaps(range)) return true;
        }
        return false;
    }
    /// Whether the range holds or cuts a leaf of a static zone that is larger than a page.
    [[nodiscard]] bool straddles_static_leaf(PhysRange range) {
        if (!overlaps_static_zone(range)) return false;
        for (const LeafItem& leaf : leaves_of(rig_->map())) {
            const bool cut = leaf.start < range.start.value() || range.end().value() < leaf.end();
            const bool apart = leaf.end() <= range.start.value() || range.end().value() <= leaf.start;
            if (leaf.fixed && leaf.size != G::page_size && !apart && (cut || pinning_)) return true;
        }
        return false;
    }
    /// Whether an answer can be explained; complains if not.
    void judge(const char* operation, const Result<void>& result, PhysRange range, bool scarce, bool atomic,
               bool hole) {
        if (result) {
            if (hole) fail(fmt::format("{} succeeded on a range with a hole", operation));
            return;
        }
        const Error& error = result.error();
        bool explained = false;
        switch (error.code()) {
        case ErrorCode::not_mapped:
            explained =
                hole && range.contains(error.where()) && rig_->machine().reference().find(error.where()) == nullptr;
            break;
        case ErrorCode::no_tables: explained = scarce && !atomic && !needs_no_tables_; break;
        case ErrorCode::would_block: explained = atomic && !needs_no_tables_; break;
        case ErrorCode::unsupported:
            // Behind a gate that an admission has closed everything is by pages, but for static zones, whose groups
            // can't be opened to be changed.
            explained = (!resizable() && (!repainted_ || overlaps_static_zone(range))) || straddles_static_leaf(range);
            break;
        case ErrorCode::invalid_argument:
        case ErrorCode::busy:
        case ErrorCode::incompatible: break;
        }
        if (!explained) {
            fail(fmt::format("{} of {:#x}+{:#x} failed without a reason: {} at {:#x}: {}", operation,
                             range.start.value(), range.size, name(error.code()), error.where().value(),
                             error.reason()));
        }
    }

    /// Whether a change may ask for tables: leaves straddle an end, or could while other regions are being changed.
    [[nodiscard]] bool needs_tables(const std::vector<LeafItem>& leaves, PhysRange range, Change change) const {
        const machine::Effect effect = machine::effect_of(change);
        const std::uint64_t low = range.start.value(), high = range.end().value();
        const auto region = [&](std::uint64_t pa) { return (pa + config_.offset) >> G::region_shift; };
        const bool one_region = region(low) == region(high - 1);
        for (const LeafItem& leaf : leaves) {
            if (leaf.end() <= low || high <= leaf.start) continue;
            const bool cut = leaf.start < low || high < leaf.end();
            if (cut && !(effect(leaf.access) == leaf.access)) return true;
            if (!one_region && !leaf.fixed) return true; // another CPU might resize it meanwhile
        }
        return false;
    }

    void change(bool deferred, bool scarce) {
        const PhysRange range = choose_range();
        const Change change = choose_change();
        const ChangeOptions options{.atomic = script_.one_in(8)};
        const bool hole = has_hole(range);
        tell("{} {:#x}+{:#x}{}", deferred ? "protect deferred" : "protect", range.start.value(), range.size,
             options.atomic ? " atomic" : "");
        if (options_.verbose) story_ += fmt::format("   {}\n", describe(change));
        std::vector<LeafItem> before;
        const std::size_t tables_before = rig_->machine().tables_in_use();
        const unsigned aside_before = rig_->map().statistics().set_aside;
        if (options_.compare_leaves) {
            before = leaves_of(rig_->map());
            needs_no_tables_ = !needs_tables(before, range, change);
        }
        Result<void> result;
        if (deferred) {
            auto r = rig_->protect_deferred(range, change, options);
            if (r) {
                owed_.merge(std::move(r.value()));
                owing_ = true;
            } else {
                result = r.error();
            }
        } else {
            result = rig_->protect(range, change, options);
        }
        const bool ok = result.ok();
        judge("protect", result, range, scarce, options.atomic, hole);
        needs_no_tables_ = false;
        const std::size_t tables = rig_->machine().tables_in_use();
        const bool heals = config_.policy == CollapsePolicy::on_restore && !deferred;
        if (ok && !heals && tables > tables_before + G::worst_tables)
            fail("a change took more tables than its bound (P6)");
        if (!ok && (tables != tables_before || rig_->map().statistics().set_aside != aside_before)) {
            fail("a failed change kept tables (P4)");
        }
        if (!options_.compare_leaves) return;
        const std::vector<LeafItem> after = leaves_of(rig_->map());
        if (!ok) {
            if (after != before) fail("a failed change left other leaves behind (P4)");
        } else if (heals) {
            if (resizable()) expect_smallest_around(range, after);
        } else {
            const auto expected = after_change<G>(before, range, machine::effect_of(change), config_.offset);
            if (after != expected && resizable()) fail("not the least splitting (P5): " + difference(after, expected));
        }
    }

    void complete() {
        tell("complete");
        if (owing_) rig_->complete(owed_);
        owing_ = false;
    }

    /// After a collapse of `range`: no larger leaf that overlaps it could be made.
    void expect_smallest_around(PhysRange range, const std::vector<LeafItem>& after) {
        const auto expected = after_collapse<G>(after, config_.offset);
        for (const LeafItem& leaf : expected) {
            if (leaf.end() <= range.start.value() || range.end().value() <= leaf.start) continue;
            bool found = false;
            for (const LeafItem& made : after) found = found || made == leaf;
            if (!found) {
                fail(fmt::format("not the smallest cover (P10): {:#x}+{:#x} could be one leaf", leaf.start, leaf.size));
                return;
            }
        }
    }

    void collapse() {
        const PhysRange range = script_.one_in(3) ? rig_->whole() : choose_range();
        std::uint64_t budget = script_.one_in(3) ? 1 + script_.below(20) : ~std::uint64_t{0};
        tell("collapse {:#x}+{:#x} budget {}", range.start.value(), range.size, budget);
        PhysRange rest = range;
        for (unsigned rounds = 0;; ++rounds) {
            auto r = rig_->collapse(rest, budget);
            if (!r) {
                if (resizable() || r.error().code() != ErrorCode::unsupported)
                    fail(fmt::format("collapse: {}", r.error().reason()));
                return;
            }
            if (r.value().finished) break;
            if (r.value().next < rest.start || r.value().next >= rest.end()) {
                fail("a collapse is to go on outside of its range");
                return;
            }
            rest = {r.value().next, rest.end() - r.value().next};
            budget += 1 + rounds; // a budget may be too small for one large leaf's tables, never for long
            if (rounds > 2000) {
                fail("a collapse doesn't come to an end");
                return;
            }
        }
        if (!resizable()) fail("collapsed behind a closed gate");
        if (options_.compare_leaves) expect_smallest_around(range, leaves_of(rig_->map()));
    }

    void prepare(bool scarce) {
        PhysRange range = choose_range();
        if (!small && range.size > (std::uint64_t{1} << 24)) range.size = G::page_size * 4;
        tell("prepare {:#x}+{:#x}", range.start.value(), range.size);
        const bool hole = has_hole(range);
        auto r = rig_->prepare(range);
        pinning_ = true;
        judge("prepare", r, range, scarce, false, hole);
        pinning_ = false;
        if (!options_.compare_leaves) return;
        for (const LeafItem& leaf : leaves_of(rig_->map())) {
            if (leaf.end() <= range.start.value() || range.end().value() <= leaf.start) continue;
            if (r && (!leaf.fixed || leaf.size != G::page_size)) fail("a prepared page is not pinned");
        }
    }

    void release(bool scarce) {
        const PhysRange range = choose_range();
        tell("release {:#x}+{:#x}", range.start.value(), range.size);
        if (overlaps_static_zone(range)) return; // a static zone's own pages look like prepared ones
        const bool hole = has_hole(range);
        auto r = rig_->release(range);
        judge("release", r, range, scarce, false, hole);
    }

    void bad_range() {
        constexpr std::uint64_t page = G::page_size;
        const PhysRange whole = rig_->whole();
        PhysRange range = choose_range();
        switch (script_.below(6)) {
        case 0: range.size = 0; break;
        case 1: range.size += 1 + script_.below(page - 1); break;
        case 2: range.start = range.start + (1 + script_.below(page - 1)); break;
        case 3: range = {whole.end() - page, 2 * page}; break;
        case 4: range = {whole.start - page, page}; break;
        default: range = {range.start, ~std::uint64_t{0} - page + 1}; break;
        }
        tell("bad {:#x}+{:#x}", range.start.value(), range.size);
        const auto before = leaves_of(rig_->map());
        bool refused = true;
        const auto expect = [&](const auto& r) {
            refused = refused && !r && r.error().code() == ErrorCode::invalid_argument;
        };
        expect(rig_->map().protect(range, Change{}.writable(false)));
        expect(rig_->map().prepare(range));
        expect(rig_->map().release(range));
        if (config_.policy != CollapsePolicy::never) expect(rig_->map().collapse(range));
        if (!refused) fail("a bad range was accepted (P13)");
        if (leaves_of(rig_->map()) != before) fail("a bad range changed something (P13)");
    }

    void set_aside(bool scarce) {
        tell("set aside");
        auto r = rig_->map().set_aside(static_cast<unsigned>(1 + script_.below(16)));
        if (!r && !scarce) fail("set_aside failed with tables to be had");
    }

    /// A walker on one CPU is in the middle of the map while another CPU collapses it and wants the tables back.
    void walk_while_collapsing() {
        machine::Machine& m = rig_->machine();
        const unsigned walker = m.cpu(), other = (walker + 1) % config_.cpus;
        const PhysRange range = choose_range();
        std::uint64_t steps = script_.below(40);
        tell("walk while CPU {} collapses", other);
        std::uint64_t last = 0;
        rig_->map().walk(rig_->whole(), [&](const Leaf& leaf) {
            if (leaf.range.end().value() <= last) fail("a walk goes backwards");
            last = leaf.range.end().value();
            if (steps-- != 0 || other == walker) return true;
            m.run_on(other);
            (void)rig_->protect(range, restoring(), {.atomic = true});
            if (resizable()) (void)rig_->collapse(range);
            (void)rig_->map().reclaim();
            m.run_on(walker);
            return true;
        });
        (void)rig_->map().reclaim();
    }

    void background() {
        tell("background");
        rig_->machine().clock += script_.below(10);
        if (config_.policy != CollapsePolicy::background || !resizable()) {
            (void)rig_->map().background_step(8);
            return;
        }
        const unsigned id = rig_->machine().begin_change(rig_->whole(), machine::effect_of({}), false, "background");
        (void)rig_->map().background_step(1 + script_.below(20));
        rig_->machine().end_change(id, machine::Machine::Outcome::done);
    }

    void translate() {
        const PhysAddr pa = play_.start + script_.below(play_.size);
        auto r = rig_->map().translate(pa);
        const auto* pages = rig_->machine().reference().find(pa);
        if (pages == nullptr) {
            if (r || r.error().code() != ErrorCode::not_mapped) fail("translate found what isn't there");
            return;
        }
        if (!r) return fail("translate found nothing");
        if (r.value().pa != pa) fail("translate leads elsewhere");
        if (pages->base.size() == 1 && !(machine::access_of(r.value().attributes) == pages->base.front())) {
            fail("translate tells other attributes");
        }
    }

    /// A CPU that doesn't tolerate resizing asks to be let in.
    void admit(bool scarce) {
        if (!small || config_.cpus < 2 || !options_.closed_gates || !resizable()) return;
        machine::Machine& m = rig_->machine();
        const unsigned newcomer = config_.cpus - 1;
        if (left_ || m.cpu() == newcomer) return;
        m.leave(newcomer); // it wasn't there
        left_ = true;
        tell("admits CPU {}", newcomer);
        const bool refuse = script_.one_in(4);
        const unsigned id = m.begin_change(rig_->whole(), machine::effect_of({}), false, "admit");
        auto r = rig_->map().admit({.tolerates_live_resize = false},
                                   refuse ? AdmissionPolicy::refuse : AdmissionPolicy::repaint);
        m.end_change(id, machine::Machine::Outcome::done);
        if (!r) {
            const bool explained = refuse ? r.error().code() == ErrorCode::unsupported
                                          : scarce && r.error().code() == ErrorCode::no_tables;
            if (!explained) fail(fmt::format("admit: {}", r.error().reason()));
            if (!resizable()) fail("a failed admission closed the gate");
            config_.cpus -= 1; // it stays out
            return;
        }
        if (refuse) fail("a CPU was admitted that should be refused");
        repainted_ = true;
        m.set_bbm(newcomer, 0);
        m.enter(newcomer, rig_->map().root().value());
        for (const LeafItem& leaf : leaves_of(rig_->map())) {
            if (!leaf.fixed && leaf.size != G::page_size) fail("an admission left a large leaf");
        }
    }

    void repaint(bool scarce) {
        if (!small || script_.byte() % 4 != 0) return;
        const ChangeOptions options{.quiescent = script_.one_in(3)};
        tell("repaint{}", options.quiescent ? " quiescent" : "");
        auto r = rig_->repaint(options);
        if (!r && !scarce && (resizable() || options.quiescent)) fail(fmt::format("repaint: {}", r.error().reason()));
        if (!r && !scarce && !resizable() && r.error().code() != ErrorCode::unsupported)
            fail("repaint behind a closed gate");
        if (!r) return;
        for (const LeafItem& leaf : leaves_of(rig_->map())) {
            if (!leaf.fixed && leaf.size != G::page_size) fail("repaint left a large leaf");
        }
    }

    // ---- what must hold
    // ----------------------------------------------------------------------------------------------

    void inspect(const char* when) {
        if (const std::string s = rig_->check(); !s.empty()) return fail(fmt::format("after {}: {}", when, s));
        const Statistics s = rig_->map().statistics();
        if (s.retired == 0) {
            const auto leaves = leaves_of(rig_->map());
            const std::size_t expected = tables_for<G>(leaves, config_.offset) + s.set_aside;
            if (rig_->machine().tables_in_use() != expected) {
                fail(fmt::format("{} tables are in use, the leaves need {} (P12)", rig_->machine().tables_in_use(),
                                 expected));
            }
        }
    }

    void undo() {
        const auto all = [&](auto&& apply) {
            std::uint64_t at = play_.start.value();
            while (at < play_.end().value()) {
                const auto* pages = rig_->machine().reference().find(PhysAddr{at});
                if (pages == nullptr) {
                    const auto next = rig_->machine().reference().mapped_in(phys_range(at, play_.end().value()));
                    at = next ? next->value() : play_.end().value();
                    continue;
                }
                const std::uint64_t end = std::min(pages->end, play_.end().value());
                apply(phys_range(at, end));
                at = end;
            }
        };
        if (!resizable()) return inspect("the end");
        if (config_.zones.empty()) {
            all([&](PhysRange range) {
                if (auto r = rig_->release(range); !r) fail(fmt::format("the last release: {}", r.error().reason()));
            });
        }
        all([&](PhysRange range) {
            if (auto r = rig_->protect(range, restoring()); !r && !overlaps_static_zone(range)) {
                fail(fmt::format("the last change: {}", r.error().reason()));
            }
        });
        auto r = rig_->collapse(rig_->whole());
        if (!r || !r.value().finished) return fail("the last collapse didn't finish");
        if (rig_->map().reclaim() != 0) fail("tables wait for nobody");
        const auto leaves = leaves_of(rig_->map());
        const auto expected = after_collapse<G>(leaves, config_.offset);
        if (leaves != expected) fail("not healed (P10): " + difference(leaves, expected));
        if (problem_.empty()) inspect("the end");
    }

    Script script_;
    DriverOptions options_;
    machine::RigConfig config_;
    PhysRange play_;
    std::vector<PhysRange> static_zones_;
    std::unique_ptr<RigType> rig_;
    typename RigType::Map::DeferredFlush owed_; // after the rig: a flush that is owed at the end still reaches it
    bool owing_ = false;
    bool repainted_ = false;       ///< by an admission that closed the gate
    bool left_ = false;            ///< a CPU has left, to be admitted again
    bool pinning_ = false;         ///< what is judged is a `prepare`
    bool needs_no_tables_ = false; ///< what is judged could be done without any
    std::size_t operations_ = 0;
    std::string problem_;
    std::string story_;
};

} // namespace directmap::test

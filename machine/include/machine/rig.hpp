// A map under test: machine, platform, engine and the bookkeeping that tells the machine what each operation intends.
// Shared by the tests, the fuzzers and the tool's scenarios.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "directmap/directmap.hpp"
#include "machine/platform.hpp"

namespace directmap::machine {

/// The regime that a format's descriptors are for; only the sizes are taken over, decoding is the machine's own.
template <class F>
[[nodiscard]] Regime regime_of() {
    using G = typename F::geometry;
    Regime r = Regime::arm64(G::page_shift, G::va_bits);
    r.pa_bits = G::pa_bits;
    r.index_bits = G::index_bits;
    r.first_block_level = G::first_leaf_level;
    for (int level = 0; level <= 3; ++level) r.group_shift[level] = G::group_shift(level);
    if constexpr (requires { F::describe_to(r); }) F::describe_to(r); // another architecture's
    return r;
}

/// What a change does, as the reference understands it: spelled out attribute by attribute, not taken from the engine.
[[nodiscard]] inline Effect effect_of(Change change) {
    return [change](Access a) {
        const Attributes to = change.values();
        if (change.names_valid()) a.valid = to.valid();
        if (change.names_writable()) a.writable = to.writable();
        if (change.names_executable()) a.executable = to.executable();
        if (change.names_global()) a.global = to.global();
        if (change.names_shared()) a.shared = to.shared();
        if (change.names_memory_type()) a.type = static_cast<unsigned>(to.memory_type()) & 7u;
        if (change.names_key()) a.key = to.key() & 7u;
        return a;
    };
}

/// The same for a record of events: `name=value` words.
[[nodiscard]] inline std::string words_of(Change change) {
    const Attributes to = change.values();
    std::string words;
    const auto add = [&](bool named, const char* name, unsigned value) {
        if (named) words += fmt::format("{}{}={}", words.empty() ? "" : " ", name, value);
    };
    add(change.names_valid(), "valid", to.valid());
    add(change.names_writable(), "writable", to.writable());
    add(change.names_executable(), "executable", to.executable());
    add(change.names_global(), "global", to.global());
    add(change.names_shared(), "shared", to.shared());
    add(change.names_memory_type(), "type", static_cast<unsigned>(to.memory_type()));
    add(change.names_key(), "key", to.key());
    return words;
}

struct RigConfig {
    std::vector<RamRange> ram;
    std::vector<Zone> zones;
    Mapping mapping = Mapping::largest;
    std::uint64_t offset = 0xffff000000000000;
    unsigned cpus = 2;
    unsigned cpus_outside = 0; ///< how many of them, the last ones, don't enter the map yet
    unsigned bbm = 3;
    bool range_invalidation = true;
    bool tables_through_map = true;
    CollapsePolicy policy = CollapsePolicy::on_request;
    std::uint64_t quiet_time = 0;
    std::uint64_t realm_shared_address = 0;
    /// Protection key of table pages; the table pool's memory must have it from the start. 0: tables aren't protected.
    unsigned table_key = 0;
    /// Table pages come from here, from the top down; by default from the last RAM range.
    std::optional<PhysRange> table_pool;
    std::uint64_t tables = ~std::uint64_t{0}; ///< how many the source may hand out
    bool invalidation_waits_for_walks = true; ///< see MachineConfig
    bool check_region_locks = true;
    EventSink record{}; ///< gets every event, those of the build included
};

template <class F, class PlatformType = Platform>
class Rig {
public:
    using G = typename F::geometry;
    using Map = DirectMap<F, PlatformType>;

    explicit Rig(const RigConfig& config) : Rig(config, [](Machine& m) { return PlatformType{m}; }) {}

    /// Builds the map, enters all CPUs and admits them; look at `built()`.
    template <class MakePlatform>
    Rig(const RigConfig& config, MakePlatform make)
        : config_{config}, machine_{machine_config(config)}, platform_{make(machine_)} {
        machine_.tables_left = config.tables;
        for (std::size_t i = 0; i < config_.ram.size(); ++i) map_reference(config_.ram[i]);
        if (config_.record) machine_.record_to(config_.record);
        const std::uint64_t first = config_.ram.front().range.start.value() + config_.offset;
        const std::uint64_t last = config_.ram.back().range.end().value() - 1 + config_.offset;
        regions_.resize((last >> G::region_shift) - (first >> G::region_shift) + 1);
        F format{};
        format.realm_shared_address = config.realm_shared_address;
        map_ = std::make_unique<Map>(platform_,
                                     Config{.offset = config.offset,
                                            .policy = config.policy,
                                            .quiet_time = config.quiet_time,
                                            .table_key = config.table_key},
                                     Span<Region<Machine::Lock>>{regions_.data(), regions_.size()}, format);
        built_ = map_->build({{config_.ram.data(), config_.ram.size()}, {config_.zones.data(), config_.zones.size()}},
                             config.mapping);
        if (!built_) return;
        for (std::size_t i = 0; i < regions_.size(); ++i) {
            const std::uint64_t va = ((first >> G::region_shift) + i) << G::region_shift;
            machine_.name_region_lock(&regions_[i].lock, PhysAddr{va - config.offset});
        }
        initial_tables_ = machine_.tables_in_use();
        machine_.enter(0, map_->root().value());
        (void)map_->admit({.tolerates_live_resize = config.bbm >= 3});
        for (unsigned cpu = 1; cpu < config.cpus - config.cpus_outside; ++cpu)
            machine_.enter(cpu, map_->root().value());
    }

    [[nodiscard]] const Result<void>& built() const { return built_; }
    [[nodiscard]] Machine& machine() { return machine_; }
    [[nodiscard]] PlatformType& platform() { return platform_; }
    [[nodiscard]] Map& map() { return *map_; }
    [[nodiscard]] const RigConfig& config() const { return config_; }
    [[nodiscard]] std::vector<Region<Machine::Lock>>& regions() { return regions_; }
    [[nodiscard]] std::size_t initial_tables() const { return initial_tables_; }

    Result<void> protect(PhysRange range, Change change, ChangeOptions options = {}) {
        const unsigned id = begin(range, change, "protect");
        auto r = map_->protect(range, change, options);
        machine_.end_change(id, r ? Machine::Outcome::done : Machine::Outcome::failed);
        return r;
    }
    /// The flush stays owed; give it to `complete`.
    Result<typename Map::DeferredFlush> protect_deferred(PhysRange range, Change change, ChangeOptions options = {}) {
        const unsigned id = begin(range, change, "protect deferred");
        auto r = map_->protect_deferred(range, change, options);
        machine_.end_change(id, r ? Machine::Outcome::deferred : Machine::Outcome::failed);
        if (r) deferred_.push_back(range);
        return r;
    }
    void complete(typename Map::DeferredFlush& flush) {
        flush.complete();
        for (const PhysRange range : deferred_) machine_.deferred_flushed(range);
        deferred_.clear();
    }
    Result<void> prepare(PhysRange range, ChangeOptions options = {}) {
        const unsigned id = begin(range, Change{}, "prepare");
        auto r = map_->prepare(range, options);
        machine_.end_change(id, r ? Machine::Outcome::done : Machine::Outcome::failed);
        return r;
    }
    Result<void> flip(PhysAddr page, bool valid) {
        const Change change = Change{}.valid(valid);
        // Only of invalid pages it promises that nobody uses them as they were.
        const unsigned id = machine_.begin_change({page, G::page_size}, effect_of(change), false, "flip",
                                                  valid ? std::string{} : words_of(change));
        auto r = map_->flip(page, valid);
        machine_.end_change(id, r ? Machine::Outcome::done : Machine::Outcome::failed);
        return r;
    }
    /// A bank of memory; the reference knows the hole that it fills.
    Result<void> add(PhysRange range, Attributes attributes = {}) {
        const Access access = access_of(attributes);
        const unsigned id = machine_.begin_change(
            range, [access](Access) { return access; }, false, "add");
        auto r = map_->add(range, attributes);
        machine_.end_change(id, r ? Machine::Outcome::done : Machine::Outcome::failed);
        return r;
    }
    Result<void> release(PhysRange range) {
        const unsigned id = begin(range, Change{}, "release");
        auto r = map_->release(range);
        machine_.end_change(id, r ? Machine::Outcome::done : Machine::Outcome::failed);
        return r;
    }
    Result<CollapseProgress> collapse(PhysRange range, std::uint64_t budget = ~std::uint64_t{0}) {
        const unsigned id = begin(range, Change{}, "collapse");
        auto r = map_->collapse(range, budget);
        machine_.end_change(id, r ? Machine::Outcome::done : Machine::Outcome::failed);
        return r;
    }
    /// A step of background collapse.
    CollapseProgress background_step(std::uint64_t budget) {
        const unsigned id = begin(map_->span(), Change{}, "background collapse");
        const CollapseProgress progress = map_->background_step(budget);
        machine_.end_change(id, Machine::Outcome::done);
        return progress;
    }
    Result<void> repaint(ChangeOptions options = {}) {
        if (options.quiescent) machine_.begin_quiescence();
        const unsigned id = begin(map_->span(), Change{}, "repaint");
        auto r = map_->repaint(options);
        machine_.end_change(id, r ? Machine::Outcome::done : Machine::Outcome::failed);
        if (options.quiescent) machine_.end_quiescence();
        return r;
    }

    [[nodiscard]] PhysRange whole() const { return map_->span(); }

    /// Everything that must hold between operations: every page as the reference says, leaves × size = bytes mapped,
    /// counted leaves = leaves found by a walk. Returns what doesn't, or nothing.
    [[nodiscard]] std::string check() {
        machine_.verify(map_->span());
        const Statistics s = map_->statistics();
        std::array<std::uint64_t, 6> found{};
        std::uint64_t bytes = 0, ram = 0;
        map_->walk(map_->span(), [&](const Leaf& leaf) {
            if (!leaf.mapped) return true;
            ++found[G::leaf_size_index(leaf.level, leaf.contiguous)];
            bytes += leaf.range.size;
            return true;
        });
        for (const auto& [start, pages] : machine_.reference().pages()) {
            if (in_map(start) && !pages.base.front().absent) ram += pages.end - start;
        }
        for (unsigned i = 0; i < G::leaf_sizes.count; ++i) {
            if (found[i] != s.leaves[i]) {
                return fmt::format("{} leaves of {} bytes are counted, {} are found", s.leaves[i],
                                   G::leaf_sizes.of[i].bytes(), found[i]);
            }
        }
        if (bytes != ram || s.bytes != ram)
            return fmt::format("{:#x} bytes are counted, {:#x} found, {:#x} are RAM", s.bytes, bytes, ram);
        return problems();
    }
    /// The machine's violations, one a line.
    [[nodiscard]] std::string problems() const {
        std::string text;
        for (const Violation& v : machine_.violations()) {
            text += fmt::format("{} at {:#x} (CPU {}, event {}): {}\n", v.promise, v.pa, v.cpu, v.event, v.what);
        }
        return text;
    }

    /// The fewest leaves that say what the reference says, found by trying every size at every address; by leaf size.
    /// `pinned` ranges are by pages whatever they say.
    [[nodiscard]] std::array<std::uint64_t, 6> smallest_cover(const std::vector<PhysRange>& pinned = {}) {
        std::array<std::uint64_t, 6> leaves{};
        struct Piece {
            std::uint64_t start, end;
            Access access;
            bool pinned;
        };
        std::vector<Piece> pieces;
        const auto add = [&](std::uint64_t start, std::uint64_t end, const Access& access, bool fixed) {
            if (start >= end) return;
            if (!pieces.empty() && pieces.back().end == start && pieces.back().access == access &&
                pieces.back().pinned == fixed) {
                pieces.back().end = end;
            } else {
                pieces.push_back({start, end, access, fixed});
            }
        };
        for (const auto& [start, pages] : machine_.reference().pages()) {
            if (!in_map(start) || pages.base.front().absent) continue;
            std::uint64_t at = start;
            while (at < pages.end) { // cut at the edges of pinned ranges
                std::uint64_t next = pages.end;
                bool fixed = false;
                for (const PhysRange& pin : pinned) {
                    if (pin.contains(PhysAddr{at})) {
                        fixed = true;
                        next = std::min(next, pin.end().value());
                    } else if (pin.start.value() > at) {
                        next = std::min(next, pin.start.value());
                    }
                }
                add(at, next, pages.base.front(), fixed);
                at = next;
            }
        }
        for (const Piece& piece : pieces) {
            for (std::uint64_t at = piece.start; at < piece.end;) {
                for (unsigned i = 0; i < G::leaf_sizes.count; ++i) {
                    const std::uint64_t size = G::leaf_sizes.of[i].bytes();
                    const bool page = i + 1 == G::leaf_sizes.count;
                    if (piece.pinned && !page) continue;
                    if (at % size != 0 || (at + config_.offset) % size != 0 || at + size > piece.end) continue;
                    ++leaves[i];
                    at += size;
                    break;
                }
            }
        }
        return leaves;
    }
    [[nodiscard]] std::array<std::uint64_t, 6> leaves() const {
        const Statistics s = map_->statistics();
        std::array<std::uint64_t, 6> leaves{};
        for (unsigned i = 0; i < 6; ++i) leaves[i] = s.leaves[i];
        return leaves;
    }

private:
    static MachineConfig machine_config(const RigConfig& config) {
        MachineConfig m;
        m.regime = regime_of<F>();
        m.regime.realm_shared_address = config.realm_shared_address;
        m.offset = config.offset;
        m.cpus = config.cpus;
        m.bbm = config.bbm;
        m.range_invalidation = config.range_invalidation;
        m.tables_through_map = config.tables_through_map;
        m.table_key = config.table_key;
        m.invalidation_waits_for_walks = config.invalidation_waits_for_walks;
        m.check_region_locks = config.check_region_locks;
        m.table_pool = config.table_pool ? *config.table_pool : config.ram.back().range;
        return m;
    }

    /// Not a place in an area beside the map.
    [[nodiscard]] bool in_map(std::uint64_t start) const { return map_->span().contains(PhysAddr{start}); }

    unsigned begin(PhysRange range, Change change, const char* name) {
        return machine_.begin_change(range, effect_of(change), change.names_memory_type() || change.names_shared(),
                                     name, words_of(change));
    }

    /// RAM minus excluded zones, with the zones' own attributes.
    void map_reference(const RamRange& ram) {
        std::uint64_t at = ram.range.start.value();
        const std::uint64_t end = ram.range.end().value();
        for (const Zone& zone : config_.zones) {
            const std::uint64_t from = std::max(at, zone.range.start.value()),
                                to = std::min(end, zone.range.end().value());
            if (from >= to) continue;
            if (at < from) machine_.reference().map(phys_range(at, from), access_of(ram.attributes));
            if (zone.kind != ZoneKind::excluded) {
                machine_.reference().map(phys_range(from, to),
                                         access_of(zone.has_attributes ? zone.attributes : ram.attributes));
            }
            at = to;
        }
        if (at < end) machine_.reference().map(phys_range(at, end), access_of(ram.attributes));
    }

    RigConfig config_;
    Machine machine_;
    PlatformType platform_;
    std::vector<Region<Machine::Lock>> regions_;
    std::unique_ptr<Map> map_;
    Result<void> built_;
    std::size_t initial_tables_ = 0;
    std::vector<PhysRange> deferred_;
};

} // namespace directmap::machine

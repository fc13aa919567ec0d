// A rig as the map that users of a direct map see, and an area beside it: every change that they make, on their own
// account or through a pool, is told to the machine.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "directmap/area.hpp"
#include "machine/rig.hpp"

namespace directmap::machine {

/// A rig's map under the engine's names.
template <class F, class Platform_ = Platform>
class RigMap {
public:
    using RigType = Rig<F, Platform_>;
    using Base = DirectMap<F, Platform_>;
    using G = typename F::geometry;
    using PlatformType = Platform_;

    explicit RigMap(RigType& rig) : rig_{&rig}, aliases_(rig.config().cpus), unmapping_(rig.config().cpus) {}

    /// A flush that is owed, and for which ranges.
    class [[nodiscard]] DeferredFlush {
    public:
        DeferredFlush() = default;
        DeferredFlush(Machine& machine, PhysRange range, typename Base::DeferredFlush&& flush)
            : machine_{&machine}, flush_{std::move(flush)}, ranges_{range} {}
        DeferredFlush(DeferredFlush&& other) noexcept
            : machine_{std::exchange(other.machine_, nullptr)}, flush_{std::move(other.flush_)}, ranges_{std::move(
                                                                                                     other.ranges_)} {}
        DeferredFlush& operator=(DeferredFlush&& other) noexcept {
            complete();
            machine_ = std::exchange(other.machine_, nullptr);
            flush_ = std::move(other.flush_);
            ranges_ = std::move(other.ranges_);
            return *this;
        }
        ~DeferredFlush() { complete(); }

        void merge(DeferredFlush&& other) {
            if (other.machine_ == nullptr) return;
            machine_ = std::exchange(other.machine_, nullptr);
            flush_.merge(std::move(other.flush_));
            ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
        }
        void complete() {
            if (machine_ == nullptr) return;
            flush_.complete();
            Machine& machine = *std::exchange(machine_, nullptr);
            for (const PhysRange range : std::exchange(ranges_, {})) machine.deferred_flushed(range);
        }

    private:
        Machine* machine_ = nullptr;
        typename Base::DeferredFlush flush_;
        std::vector<PhysRange> ranges_;
    };

    Result<void> protect(PhysRange range, Change change, ChangeOptions options = {}) {
        return rig_->protect(range, change, options);
    }
    Result<DeferredFlush> protect_deferred(PhysRange range, Change change, ChangeOptions options = {}) {
        Machine& machine = rig_->machine();
        const unsigned id = machine.begin_change(range, effect_of(change), false, "protect deferred", words_of(change));
        auto r = rig_->map().protect_deferred(range, change, options);
        machine.end_change(id, r ? Machine::Outcome::deferred : Machine::Outcome::failed);
        if (!r) return r.error();
        return DeferredFlush{machine, range, std::move(r.value())};
    }
    Result<unsigned> tables_needed(PhysRange range, Change change, const ChangeOptions& options = {}) {
        return rig_->map().tables_needed(range, change, options);
    }
    auto supply(const ChangeOptions& options) { return rig_->map().supply(options); }
    Result<void> prepare(PhysRange range, ChangeOptions options = {}) { return rig_->prepare(range, options); }
    Result<void> release(PhysRange range) { return rig_->release(range); }
    Result<CollapseProgress> collapse(PhysRange range) { return rig_->collapse(range); }
    Result<void> flip(PhysAddr page, bool valid) { return rig_->flip(page, valid); }
    Result<void> add(PhysRange range, Attributes attributes = {}) {
        if (rig_->machine().reference().find(range.start) == nullptr) rig_->machine().reference().map(range, hole());
        return rig_->add(range, attributes);
    }
    Result<void> remove(PhysRange range) {
        return told(
            range, [](Access) { return hole(); }, "remove", [&] { return rig_->map().remove(range); });
    }

    [[nodiscard]] PhysAddr root() const { return rig_->map().root(); }
    [[nodiscard]] VirtAddr virt(PhysAddr pa) const { return rig_->map().virt(pa); }
    [[nodiscard]] Gate::Mode gate_mode() const { return rig_->map().gate_mode(); }
    [[nodiscard]] PhysRange span() const { return rig_->map().span(); }
    [[nodiscard]] Result<Translation> translate(PhysAddr pa) { return rig_->map().translate(pa); }
    template <class Visit>
    void walk(PhysRange range, Visit visit) {
        rig_->map().walk(range, visit);
    }
    [[nodiscard]] Statistics statistics() const { return rig_->map().statistics(); }
    [[nodiscard]] RigType& rig() { return *rig_; }

    // What an area tells of its aliases (see Area).
    void on_alias(VirtAddr va, PhysRange phys, Attributes attributes) {
        const PhysRange range = home({va, phys.size});
        rig_->machine().add_alias(range, phys.start, window);
        const Access access = access_of(attributes);
        const unsigned id = rig_->machine().begin_change(
            range, [access](Access) { return access; }, false, "map");
        aliases_[rig_->machine().cpu()].push_back({range, id});
    }
    void end_aliases(bool mapped) {
        for (const auto& [range, id] : std::exchange(aliases_[rig_->machine().cpu()], {})) {
            rig_->machine().end_change(id, mapped ? Machine::Outcome::done : Machine::Outcome::failed);
            if (!mapped) rig_->machine().remove_alias(range);
        }
    }
    void begin_unmap(VirtRange range) {
        Machine& machine = rig_->machine();
        unmapping_[machine.cpu()] = machine.begin_change(
            home(range), [](Access) { return hole(); }, false, "unmap");
    }
    /// It was no mapping.
    void give_up_unmap() {
        std::optional<unsigned>& id = unmapping_[rig_->machine().cpu()];
        if (id) rig_->machine().end_change(*std::exchange(id, {}), Machine::Outcome::failed);
    }
    /// Before the addresses are anybody else's. Also behind a mapping that failed half-way.
    void on_unmapped(VirtRange range) {
        std::optional<unsigned>& id = unmapping_[rig_->machine().cpu()];
        if (!id) return end_aliases(false);
        rig_->machine().end_change(*std::exchange(id, {}), Machine::Outcome::done);
        rig_->machine().remove_alias(home(range));
    }
    [[nodiscard]] PhysRange home(VirtRange range) const {
        return {PhysAddr{range.start.value() - rig_->config().offset}, range.size};
    }

    bool window = false; ///< aliases to come are reached by one CPU alone

private:
    template <class Run>
    Result<void> told(PhysRange range, Effect effect, const char* name, Run run) {
        Machine& machine = rig_->machine();
        const unsigned id = machine.begin_change(range, std::move(effect), false, name);
        auto r = run();
        machine.end_change(id, r ? Machine::Outcome::done : Machine::Outcome::failed);
        return r;
    }

    RigType* rig_;
    std::vector<std::vector<std::pair<PhysRange, unsigned>>> aliases_; ///< being mapped, by CPU
    std::vector<std::optional<unsigned>> unmapping_;                   ///< operations, by CPU
};

/// An area on a rig, with its storage.
template <class F, class Platform_ = Platform>
class RigArea {
public:
    using MapType = RigMap<F, Platform_>;
    using AreaType = Area<F, MapType>;
    using G = typename F::geometry;
    using PlatformType = Platform_;

    RigArea(MapType& map, VirtRange range, std::size_t aliases = 4096)
        : map_{map}, regions_(range.size >> G::region_shift), pages_((range.size >> G::page_shift) / 64 + 1),
          aliases_(aliases), area_{map,
                                   map.rig().platform(),
                                   range,
                                   {{regions_.data(), regions_.size()},
                                    {pages_.data(), pages_.size()},
                                    {aliases_.data(), aliases_.size()}}} {
        machine().reference().map(map_.home(range), hole());
        for (std::size_t i = 0; i < regions_.size(); ++i) {
            const VirtAddr va = range.start + i * G::region_bytes;
            machine().name_region_lock(&regions_[i].lock, map_.home({va, 1}).start);
        }
        opened_ = area_.open();
    }

    [[nodiscard]] const Result<void>& opened() const { return opened_; }
    [[nodiscard]] AreaType& area() { return area_; }

    Result<VirtRange> map(Span<const PhysRange> runs, Attributes attributes) {
        return map_sections({&runs, 1}, attributes);
    }
    Result<VirtRange> map_sections(Span<const Span<const PhysRange>> sections, Attributes attributes) {
        auto r = area_.map_sections(sections, attributes);
        map_.end_aliases(r.ok());
        return r;
    }
    Result<void> protect(VirtRange range, Change change, ChangeOptions options = {}) {
        const Attributes to = change.values();
        const bool gives_write = change.names_writable() && to.writable();
        Change take, others;
        if ((change.names_writable() && !to.writable()) || (change.names_executable() && to.executable()))
            take = others = Change{}.writable(false);
        if (gives_write) take = Change{}.executable(false);
        std::vector<unsigned> ids;
        const auto begin = [&](VirtRange r, Change c) {
            ids.push_back(machine().begin_change(map_.home(r), effect_of(c), false, "area protect", words_of(c)));
        };
        if (!take.empty()) begin(range, take);
        begin(range, change);
        area_.each_piece(range, [&](VirtAddr here, PhysRange phys) {
            area_.each_alias(phys, [&](VirtAddr va, PhysRange part) {
                if (va - here == part.start - phys.start) return;
                if (!take.empty()) begin({va, part.size}, take);
                if (gives_write) begin({va, part.size}, Change{}.writable(true));
            });
        });
        auto r = area_.protect(range, change, options);
        for (const unsigned id : ids) machine().end_change(id, r ? Machine::Outcome::done : Machine::Outcome::failed);
        return r;
    }
    Result<void> protect_here(VirtRange range, Change change, ChangeOptions options = {}) {
        const unsigned id =
            machine().begin_change(map_.home(range), effect_of(change), false, "area protect", words_of(change));
        auto r = area_.protect_here(range, change, options);
        machine().end_change(id, r ? Machine::Outcome::done : Machine::Outcome::failed);
        return r;
    }
    template <class Visit>
    bool unmap(VirtRange range, Visit visit) {
        map_.begin_unmap(range);
        const bool done = area_.unmap(range, visit);
        if (!done) map_.give_up_unmap();
        return done;
    }
    bool unmap(VirtRange range) {
        return unmap(range, [](PhysRange) {});
    }
    [[nodiscard]] Result<Translation> translate(VirtAddr va) { return area_.translate(va); }
    template <class Visit>
    void each_piece(VirtRange range, Visit visit) {
        area_.each_piece(range, visit);
    }
    [[nodiscard]] AreaStatistics statistics() { return area_.statistics(); }
    [[nodiscard]] VirtRange range() const { return area_.range(); }
    void trim() { area_.trim(); }
    /// Compares every page of the area with the reference.
    void verify() { machine().verify(map_.home(area_.range())); }

private:
    [[nodiscard]] Machine& machine() { return map_.rig().machine(); }

    MapType& map_;
    std::vector<Region<typename Platform_::Lock>> regions_;
    std::vector<std::uint64_t> pages_;
    std::vector<AliasRun> aliases_;
    AreaType area_;
    Result<void> opened_;
};

} // namespace directmap::machine

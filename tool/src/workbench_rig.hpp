// Workbench for one format. Included by one source file for each granule: the engine takes long to compile.
#pragma once

#include "clients_rig.hpp"
#include "workbench.hpp"

#include <directmap/arm64/format.hpp>
#include <machine/protected_rig.hpp>
#include <machine/rig.hpp>

#include <fmt/format.h>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace directmap::tool {

template <class F>
class RigWorkbench final : public Workbench {
public:
    using G = typename F::geometry;

    explicit RigWorkbench(const WorkbenchConfig& config) : rig_(rig_config(config)) {
        if (config.protect_tables && rig_.built())
            protection_.emplace(rig_, phys_range(config.table_pool.start, config.table_pool.end), table_key);
    }

    [[nodiscard]] const Result<void>& built() const override {
        return rig_.built() && protection_ ? protection_->ready() : rig_.built();
    }
    [[nodiscard]] std::vector<std::uint64_t> leaf_sizes() const override {
        std::vector<std::uint64_t> sizes;
        for (unsigned i = 0; i < G::leaf_sizes.count; ++i) sizes.push_back(G::leaf_sizes.of[i].bytes());
        return sizes;
    }
    [[nodiscard]] machine::Machine& machine() override { return rig_.machine(); }

    Result<void> protect(PhysRange range, Change change, ChangeOptions options) override {
        return rig_.protect(range, change, options);
    }
    Result<void> prepare(PhysRange range) override { return rig_.prepare(range); }
    Result<void> release(PhysRange range) override { return rig_.release(range); }
    Result<CollapseProgress> collapse(PhysRange range) override { return rig_.collapse(range); }
    [[nodiscard]] PhysRange whole() const override { return rig_.whole(); }
    CollapseProgress background_step(std::uint64_t budget) override { return rig_.background_step(budget); }
    [[nodiscard]] std::unique_ptr<ClientSet> make_clients(Placement placement, PageSupply& supply,
                                                          ChangeListener& listener) override {
        if (placement == Placement::pooled)
            return std::make_unique<RigClients<F, Placement::pooled>>(rig_, supply, listener);
        return std::make_unique<RigClients<F, Placement::scattered>>(rig_, supply, listener);
    }
    [[nodiscard]] Result<MapCopy> copy(clients::InvalidLeaves invalid) override {
        machine::RigConfig config = rig_.config();
        config.cpus = config.cpus_outside = 1; // nobody translates through it
        config.mapping = Mapping::largest;
        config.zones.clear();
        config.table_key = 0;
        config.record = {};
        Rig next(config);
        if (!next.built()) return next.built().error();
        next.machine().begin_quiescence();
        machine::RigMap<F, machine::PooledPlatform> map(next);
        const auto report = clients::copy_map(rig_.map(), map, invalid);
        share_with_host(next);
        next.machine().end_quiescence();
        if (!report) return report.error();
        MapCopy copy{report.value(), 0, next.machine().tables_in_use(), next.check()};
        for (const std::uint64_t count : next.leaves()) copy.leaf_count += count;
        if (copy.problem.empty()) copy.problem = compare(next, invalid);
        return copy;
    }

    [[nodiscard]] MapState state() const override {
        const Statistics statistics = rig_.map().statistics();
        MapState state;
        state.leaves.assign(statistics.leaves, statistics.leaves + G::leaf_sizes.count);
        for (const std::uint64_t count : state.leaves) state.leaf_count += count;
        state.bytes = statistics.bytes;
        state.tables = rig_.machine().tables_in_use();
        if (protection_) state.keyed_pages = protection_->pool().statistics().owned;
        state.counters = statistics.counters;
        return state;
    }
    [[nodiscard]] LeafAt leaf_at(std::uint64_t address) override {
        const auto found = rig_.map().translate(PhysAddr{address});
        if (!found) return {};
        const LeafSize leaf = found.value().leaf;
        const std::uint64_t va = rig_.map().virt(PhysAddr{address}).value();
        return {va & ~(leaf.bytes() - 1), leaf.bytes(), G::bytes(leaf.level), found.value().attributes.valid()};
    }
    [[nodiscard]] std::string dump() override {
        std::string text;
        rig_.map().dump([&](const char* line, unsigned size) { text.append(line, size); });
        return text;
    }
    [[nodiscard]] std::string check() override { return rig_.check(); }
    [[nodiscard]] std::vector<std::uint64_t> smallest_cover(const std::vector<PhysRange>& pinned) override {
        const auto cover = rig_.smallest_cover(pinned);
        return {cover.begin(), cover.begin() + G::leaf_sizes.count};
    }

private:
    static machine::RigConfig rig_config(const WorkbenchConfig& config) {
        machine::RigConfig rig;
        for (const Range& range : config.ram) rig.ram.push_back({phys_range(range.start, range.end), {}});
        for (const Range& range : config.zones)
            rig.zones.push_back({phys_range(range.start, range.end), ZoneKind::pages, false, {}});
        rig.mapping = config.mapping;
        rig.offset = config.offset;
        rig.cpus = config.cpus;
        rig.bbm = config.bbm;
        rig.policy = config.policy;
        rig.quiet_time = config.quiet_time;
        if (config.realm) rig.realm_shared_address = std::uint64_t{1} << (G::pa_bits - 1);
        rig.table_pool = phys_range(config.table_pool.start, config.table_pool.end);
        rig.tables_through_map = config.tables_in_ram;
        rig.record = config.record;
        if (config.protect_tables) rig.table_key = table_key;
        return rig;
    }

    using Rig = machine::Rig<F, machine::PooledPlatform>;

    /// Says where the copy's reference doesn't follow from this map's, or nothing.
    [[nodiscard]] std::string compare(Rig& next, clients::InvalidLeaves invalid) {
        for (const auto& [start, pages] : rig_.machine().reference().pages()) {
            machine::Access expected = pages.base.front();
            if (!rig_.whole().contains(PhysAddr{start}) || expected.absent) continue;
            expected.key = 0;
            if (invalid == clients::InvalidLeaves::make_valid) expected.valid = true;
            for (std::uint64_t at = start; at < pages.end;) {
                const auto* there = next.machine().reference().find(PhysAddr{at});
                if (there == nullptr || there->base.front() != expected)
                    return fmt::format("the copy says something else of the page at {:#x}", at);
                at = there->end;
            }
        }
        return {};
    }
    /// The host's view is the same on both machines.
    void share_with_host(Rig& next) {
        for (const auto& [start, pages] : rig_.machine().reference().pages())
            if (pages.base.front().shared) next.machine().set_granules({PhysAddr{start}, pages.end - start}, true);
    }

    static constexpr unsigned table_key = 1;

    // Their statistics are reads that aren't marked as such.
    mutable Rig rig_;
    mutable std::optional<machine::TableProtection<F>> protection_;
};

} // namespace directmap::tool

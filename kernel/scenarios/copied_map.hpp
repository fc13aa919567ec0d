// A copy of the kernel's map as kexec and hibernation would get it: tables beside the live ones that nothing translates
// through, compared with the map that they are a copy of.
#pragma once

#include <new>
#include <optional>

#include "directmap/early_tables.hpp"
#include "directmap_clients/map_copy.hpp"
#include "memory/address_space.hpp"
#include "memory/kernel_map.hpp"
#include "memory/require.hpp"
#include "scenarios/scenario.hpp"

namespace directmap::kernel {

class CopiedMap {
public:
    using Map = DirectMap<Format, ArmPlatform>;

    /// `tables` is free memory, as much as the copies may take; `regions` one for each region that RAM touches.
    CopiedMap(Stage& stage, PhysRange tables, Span<Map::RegionState> regions)
        : stage_{stage}, memory_{tables}, regions_{regions}, platform_{{true, true}} {
        platform_.reach_tables_at(direct_map_offset);
    }

    [[nodiscard]] static std::size_t regions_of(const Stage& stage) {
        const PhysRange span = stage.map.span();
        return static_cast<std::size_t>(((span.end() - 1).value() >> Geometry::region_shift) -
                                        (span.start.value() >> Geometry::region_shift) + 1);
    }

    /// Makes a copy and ends the run unless it says of every leaf what it should. The copy before is forgotten.
    void make(clients::InvalidLeaves invalid) {
        platform_.take_tables_from(tables_.emplace(platform_, memory_));
        for (auto& region : regions_) region = {};
        Map copy{platform_, {.offset = direct_map_offset}, regions_, memory.format};
        require(copy.build(memory.plan.layout(), Mapping::largest), "building a copy of the map");
        const auto copied = clients::copy_map(stage_.map, copy, invalid);
        require(copied, "copying the map");
        std::uint64_t bytes = 0;
        stage_.map.walk(stage_.map.span(), [&](const Leaf& leaf) {
            if (!leaf.mapped) return true;
            Attributes expected = leaf.attributes.with_fixed(false).with_key(0);
            if (invalid == clients::InvalidLeaves::make_valid) expected = expected.with_valid(true);
            for (const PhysAddr page : {leaf.range.start, leaf.range.end() - page_size}) {
                const auto found = copy.translate(page);
                require(found, "finding a page in the copy");
                if (found.value().attributes.with_fixed(false) != expected)
                    fail("the copy of the map says something else of {}", Hex{page.value()});
            }
            if (expected.valid()) bytes += leaf.range.size;
            return true;
        });
        if (bytes != copied.value().bytes) fail("a copy of {} bytes reaches {}", copied.value().bytes, bytes);
    }

private:
    Stage& stage_;
    PhysRange memory_;
    Span<Map::RegionState> regions_;
    ArmPlatform platform_;
    std::optional<EarlySource<ArmPlatform>> tables_;
};

} // namespace directmap::kernel

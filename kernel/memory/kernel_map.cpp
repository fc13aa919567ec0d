#include "memory/kernel_map.hpp"

#include <new>

#include "cpu/ending.hpp"
#include "cpu/features.hpp"
#include "cpu/instruction_meter.hpp"
#include "cpu/overlays.hpp"
#include "cpu/translation.hpp"
#include "memory/early_tables.hpp"
#include "memory/image.hpp"

namespace directmap::kernel {

constinit Memory memory;

namespace {

// The engine's storage, for a span of 1 TiB whatever the region size.
constexpr std::uint64_t max_span = std::uint64_t{1} << 40;
constexpr std::size_t max_regions = max_span / Geometry::region_bytes;
constinit KernelMap::RegionState regions[max_regions];

// Objects that begin to live when their arguments are known.
template <class T>
struct alignas(T) Storage {
    unsigned char bytes[sizeof(T)];
};
constinit Storage<SeededPlatform> platform_storage;
constinit Storage<KernelMap> map_storage;

constexpr std::uint64_t page_zone_size = std::uint64_t{64} << 20;
/// During a day, what a realm would have: shared memory is that of another address. No device answers there.
constexpr std::uint64_t realm_bit = direct_map_size >> 1;
/// Tables beyond what the map consists of: what is set aside, what is on its way back.
constexpr std::uint64_t spare_tables = 128;

/// Large leaves if the boot CPU can resize them later; pages if it can't, because then nothing could be changed.
Mapping choose_mapping(const CommandLine& command_line, bool tolerates) {
    switch (command_line.map) {
    case MapStyle::large:
    case MapStyle::zoned: return Mapping::largest;
    case MapStyle::pages: return Mapping::pages;
    case MapStyle::automatic: break;
    }
    return tolerates ? Mapping::largest : Mapping::pages;
}

void plan_memory(const Machine& machine, bool tolerates) {
    MemoryPlan& plan = memory.plan;
    const Occupied occupied{{image_pa, image_size()}, machine.device_tree};
    if (const char* wrong = plan.make(machine.information, occupied, page_size))
        fail("can't map this machine: {}", wrong);
    // Before anything is taken from memory that can't be mapped.
    const std::uint64_t span = plan.span_bytes(Geometry::region_bytes);
    if (span > max_span)
        fail("can't map this machine: from its first to its last memory it is {} GiB, and this kernel maps {} GiB",
             span >> 30, max_span >> 30);
    memory.mapping = choose_mapping(machine.command_line, tolerates);

    // Enough tables for every state that the map can get into: all of it by pages.
    const Measure worst = measure<Geometry>(plan.layout(), direct_map_offset, Mapping::pages);
    const std::uint64_t table_bytes = (worst.tables + spare_tables) * page_size;
    const std::uint64_t block = Geometry::bytes(Geometry::last_level - 1); // few early tables map it
    PhysRange pool = plan.take(align_up(table_bytes, block), block);
    if (pool.empty()) pool = plan.take(table_bytes, page_size);
    if (pool.empty())
        fail("no {} KiB in one piece for page tables, with {} KiB free", table_bytes >> 10, plan.free_bytes() >> 10);
    const PhysRange notes = plan.take(align_up(MapTables::notes_for(pool.size), page_size), page_size);
    if (notes.empty()) fail("no memory for what the table pool notes");
    memory.tables.use(pool, notes);
    // All tables there will ever be have their key from the start: none is linked without it, and none splits the map.
    if (overlays::enabled() && !plan.give_key(pool, overlays::table_key))
        fail("no room to note the key of page tables");

    if (machine.command_line.map == MapStyle::zoned) {
        memory.page_zone = plan.take_page_zone(page_zone_size, page_size);
        if (memory.page_zone.empty()) fail("no {} KiB in one piece for the zone of pages", page_zone_size >> 10);
    }
}

/// Tables are reached at their physical address in the lower half until the direct map is live.
void map_table_pool() {
    EarlyMapper mapper{table_pool_root, image_pa.value() - image_base};
    const PhysRange pool = memory.tables.range();
    if (!mapper.map(pool.start.value(), pool.start, pool.size, data_attributes)) {
        fail("too few early tables for {} KiB of page tables", pool.size >> 10);
    }
    use_lower_tables(pa_in_image(&table_pool_root));
}

/// The image and the device window are seen through the new root as well: their root entries are copied. They lie in
/// the half that the direct map doesn't use.
void link_image_into(PhysAddr root) {
    std::uint64_t* const table = memory.platform->table(root);
    for (unsigned i = 0; i < Geometry::root_entries; ++i) {
        if (image_root.descriptors[i] != 0) table[i] = image_root.descriptors[i];
    }
    dsb_ishst();
}

} // namespace

void start_direct_map(const Machine& machine) {
    const CpuCapabilities capabilities = capabilities_of_this_cpu(machine.command_line);
    const CpuFeatures features = read_cpu_features();
    if (features.permission_overlays) {
        overlays::mode = Overlays::on;
    } else if (machine.command_line.emulate_keys) {
        overlays::mode = Overlays::emulated;
    }
    if (!overlays::start_on_this_cpu()) fail("the boot CPU has no permission overlays");
    plan_memory(machine, capabilities.tolerates_live_resize);
    map_table_pool();

    const auto fault = SeededPlatform::fault_named(machine.command_line.fault);
    if (!fault) refuse("unknown fault: {}", Quoted{machine.command_line.fault});
    auto* const platform =
        new (platform_storage.bytes) SeededPlatform{{features.range_invalidation, features.level_hints}, *fault};
    memory.platform = platform;
    memory.tables.start_early(*platform);
    const unsigned table_key = overlays::enabled() ? overlays::table_key : 0;
    const bool day = machine.command_line.scenario == "day";
    memory.policy = !day                              ? CollapsePolicy::on_request
                    : machine.command_line.never_heal ? CollapsePolicy::never
                                                      : CollapsePolicy::background;
    if (day) memory.format.realm_shared_address = realm_bit;
    memory.map = new (map_storage.bytes)
        KernelMap{*platform,
                  {.offset = direct_map_offset, .policy = memory.policy, .table_key = table_key},
                  {regions, max_regions},
                  memory.format};

    std::optional<InstructionMeter> meter;
    if (InstructionMeter::available()) meter.emplace();
    const auto built = memory.map->build(memory.plan.layout(), memory.mapping);
    if (meter) memory.build_instructions = meter->read();
    if (!built) {
        const Error& error = built.error();
        fail("building the map: {} at {}, needs {}", error.reason(), Hex{error.where().value()}, error.needed());
    }
    link_image_into(memory.map->root());
    use_upper_tables(memory.map->root());
    platform->set_live(direct_map_offset);
    drop_lower_tables();

    if (const auto admitted = memory.map->admit(capabilities); !admitted) {
        fail("the boot CPU was not admitted: {}", admitted.error().reason());
    }
    memory.tables.start_pool(*memory.map, *platform, table_key);
}

void enter_direct_map() {
    use_upper_tables(memory.map->root());
}

CpuCapabilities capabilities_of_this_cpu(const CommandLine& command_line) {
    const CpuFeatures features = read_cpu_features();
    const bool assumed = command_line.assume_no_abort && features.break_before_make_level >= 2;
    const bool declared_unable = (command_line.unable_cpus >> this_cpu().index & 1) != 0;
    CpuCapabilities capabilities;
    capabilities.tolerates_live_resize = (features.resizes_without_aborts || assumed) && !declared_unable;
    return capabilities;
}

} // namespace directmap::kernel

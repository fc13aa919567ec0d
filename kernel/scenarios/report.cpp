#include "scenarios/report.hpp"

#include "cpu/features.hpp"
#include "cpu/overlays.hpp"
#include "device/console.hpp"
#include "memory/address_space.hpp"
#include "memory/kernel_map.hpp"

namespace directmap::kernel {

namespace {

/// A walk over more leaves than this takes an emulated CPU many seconds.
constexpr std::uint64_t leaves_to_dump = std::uint64_t{1} << 20;

const char* mode_name(Gate::Mode mode) {
    switch (mode) {
    case Gate::Mode::undecided: return "undecided";
    case Gate::Mode::open: return "open";
    case Gate::Mode::splitting: return "splitting";
    case Gate::Mode::closed: return "closed";
    }
    return "";
}

const char* resize_tolerance(const CpuFeatures& features, const CommandLine& line) {
    if ((line.unable_cpus & 1) != 0) return "declared unable (nolive=0)";
    if (features.resizes_without_aborts) return "resizes without aborts";
    if (features.break_before_make_level < 2) return "can't resize live";
    return line.assume_no_abort ? "taken for free of aborts, by assume=no-abort" : "may abort, so it doesn't count";
}

const char* overlays_in_words() {
    switch (overlays::mode) {
    case Overlays::on: return "FEAT_S1POE: page tables are read-only outside of write sections";
    case Overlays::emulated: return "no FEAT_S1POE: the key register is emulated, and checked at each write of a table";
    case Overlays::off: break;
    }
    return "no FEAT_S1POE: page tables are plain memory";
}

void report_tables(std::string_view what, std::uint64_t tables) {
    print("  {} {} tables, {} KiB\n", Left{what, 22}, Right{tables, 8}, tables * page_size >> 10);
}

} // namespace

void report_machine(const Machine& machine) {
    const CpuFeatures features = read_cpu_features();
    const BootInformation& information = machine.information;
    print("directmap reference kernel: {} pages, 48-bit addresses, VA = PA + {}\n", Size{page_size},
          Hex{direct_map_offset});
    print("  CPU        MIDR {}, FEAT_BBM level {}: {}\n", Hex{features.midr, 8}, features.break_before_make_level,
          resize_tolerance(features, machine.command_line));
    print("             invalidation by {}, {} level hints; {}\n", features.range_invalidation ? "range" : "address",
          features.level_hints ? "with" : "without", overlays_in_words());
    print("  CPUs       {}, started by {}\n", information.cpu_count,
          information.psci == PsciConduit::hvc   ? "PSCI (hvc)"
          : information.psci == PsciConduit::smc ? "PSCI (smc)"
                                                 : "nobody");
    for (const PhysRange& bank : information.memory) {
        print("  memory     {}-{}  {}\n", Hex{bank.start.value(), 12}, Hex{bank.end().value(), 12}, Size{bank.size});
    }
    const PhysRange tables = memory.tables.range();
    print("  tables     {}-{}  {} KiB, of which {} used\n", Hex{tables.start.value(), 12},
          Hex{tables.end().value(), 12}, tables.size >> 10, memory.tables.in_use() * page_size >> 10);
    print("  seed       {}\n", machine.command_line.seed);
    if (!machine.command_line.json) return;
    print("{\"event\":\"machine\",\"granule\":\"{}\",\"cpus\":{},\"memory_bytes\":{},\"midr\":{},\"bbm\":{},"
          "\"range_invalidation\":{},\"permission_overlays\":{},\"seed\":{}}\n",
          Size{page_size}, information.cpu_count, information.memory.bytes(), features.midr,
          features.break_before_make_level, features.range_invalidation, features.permission_overlays,
          machine.command_line.seed);
}

void report_map(const Machine& machine, const char* when) {
    const Statistics statistics = memory.map->statistics();
    const Measure large = measure<Geometry>(memory.plan.layout(), direct_map_offset, Mapping::largest);
    const Measure pages = measure<Geometry>(memory.plan.layout(), direct_map_offset, Mapping::pages);
    std::uint64_t leaves = 0;
    print("map {}: {} MiB, built {}, gate {}\n", when, statistics.bytes >> 20,
          memory.mapping == Mapping::largest ? "large" : "by pages", mode_name(memory.map->gate_mode()));
    for (unsigned i = 0; i < Geometry::leaf_sizes.count; ++i) {
        leaves += statistics.leaves[i];
        TextBuffer<16> size;
        format(size.sink(), "{}", Size{Geometry::leaf_sizes.of[i].bytes()});
        print("  leaves of {}       {}\n", Left{size.view(), 5}, Right{statistics.leaves[i], 8});
    }
    if (memory.build_instructions)
        print("  built in            {} instructions\n", Right{*memory.build_instructions, 9});
    report_tables("tables", memory.tables.in_use());
    report_tables("  as large as can be", large.tables);
    report_tables("  by pages", pages.tables);
    if (machine.command_line.json) {
        print("{\"event\":\"map\",\"when\":\"{}\",\"bytes\":{},\"gate\":\"{}\",\"tables\":{},\"table_bytes\":{},"
              "\"leaves\":{",
              when, statistics.bytes, mode_name(memory.map->gate_mode()), memory.tables.in_use(),
              memory.tables.in_use() * page_size);
        for (unsigned i = 0; i < Geometry::leaf_sizes.count; ++i) {
            print("{}\"{}\":{}", i == 0 ? "" : ",", Size{Geometry::leaf_sizes.of[i].bytes()}, statistics.leaves[i]);
        }
        print("}");
        if (memory.build_instructions) print(",\"build_instructions\":{}", *memory.build_instructions);
        print("}\n");
    }
    if (leaves > leaves_to_dump && !machine.command_line.dump) {
        print("  (the word `dump` prints it: {} leaves take a while)\n", leaves);
        return;
    }
    memory.map->dump([&](const char* text, unsigned size) { print("{}", std::string_view{text, size}); });
}

void report_counters(const Machine& machine) {
    const Counters c = memory.map->statistics().counters;
    const struct {
        const char* name;
        std::uint64_t value;
    } list[] = {{"splits", c.splits},
                {"splits_avoided", c.splits_avoided},
                {"groups_opened", c.groups_opened},
                {"groups_closed", c.groups_closed},
                {"collapses", c.collapses},
                {"stores", c.stores},
                {"filled", c.filled},
                {"barriers", c.barriers},
                {"invalidations", c.invalidations},
                {"rounds", c.rounds},
                {"tables_taken", c.tables_taken},
                {"tables_returned", c.tables_returned}};
    print("counters\n");
    for (const auto& counter : list) print("  {} {}\n", Left{counter.name, 16}, Right{counter.value, 10});
    if (!machine.command_line.json) return;
    print("{\"event\":\"counters\"");
    for (const auto& counter : list) print(",\"{}\":{}", counter.name, counter.value);
    print("}\n");
}

} // namespace directmap::kernel

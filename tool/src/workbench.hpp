// A direct map on the modelled machine, whatever its granule: the engine's formats are types, a run names one.
#pragma once

#include "clients.hpp"
#include "memory_map.hpp"
#include "plan.hpp"
#include "range.hpp"

#include <directmap/direct_map.hpp>
#include <directmap_clients/map_copy.hpp>
#include <machine/machine.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace directmap::tool {

/// A machine and where its RAM is mapped: the same for whatever is played on it, under whatever policy.
struct MachineConfig {
    Translation translation; ///< one that `make_plan` accepts, without contiguous_top
    std::uint64_t offset = 0;
    std::string source;                ///< of the memory map, for messages
    std::vector<Range> ram;            ///< whole pages, sorted, disjoint
    std::uint64_t tables_large = 0;    ///< that a map with large leaves takes
    std::uint64_t tables_by_pages = 0; ///< that a map by pages takes
    unsigned cpus = 4;
    unsigned bbm = 3; ///< FEAT_BBM level of every CPU; from 3 on leaves may be resized while it runs

    [[nodiscard]] bool resizes_live() const { return bbm >= 3; }
    [[nodiscard]] std::uint64_t page_bytes() const { return std::uint64_t{1} << translation.granule_shift; }
    /// The bit of a confidential guest's addresses that says that memory is shared with a host.
    [[nodiscard]] unsigned sharing_bit() const { return translation.va_bits > 48 ? 51 : 47; }
    /// No address of RAM has that bit.
    [[nodiscard]] bool can_share() const { return ram.back().end <= std::uint64_t{1} << sharing_bit(); }
};

/// The machine of a plan.
[[nodiscard]] MachineConfig machine_of(const MemoryMap& map, const Plan& plan, unsigned cpus, unsigned bbm);

struct WorkbenchConfig : MachineConfig {
    explicit WorkbenchConfig(MachineConfig machine) : MachineConfig(std::move(machine)) {}

    std::vector<Range> zones; ///< to be mapped by pages, and to stay so
    Mapping mapping = Mapping::largest;
    CollapsePolicy policy = CollapsePolicy::on_request;
    std::uint64_t quiet_time = 0; ///< of background collapse, in units of the machine's clock
    bool realm = false;           ///< memory can be shared with a host
    Range table_pool;             ///< where tables are taken from
    bool tables_in_ram = true;    ///< the pool is part of RAM, and the engine reaches its tables through the map
    bool protect_tables = false;  ///< once all CPUs are in: by a key of their own
    machine::EventSink record;    ///< gets every event, if it is not empty
};

/// What the map consists of, and what has happened to it.
struct MapState {
    std::vector<std::uint64_t> leaves; ///< by leaf size, in the order of Workbench::leaf_sizes
    std::uint64_t leaf_count = 0;
    std::uint64_t bytes = 0;
    std::uint64_t tables = 0;      ///< that the source has handed out
    std::uint64_t keyed_pages = 0; ///< with the table key: tables, and pages that wait to become one
    Counters counters;
};

/// A copy of the map, compared page by page with what it is a copy of.
struct MapCopy {
    clients::CopyReport report;
    std::uint64_t leaf_count = 0;
    std::uint64_t tables = 0;
    std::string problem; ///< what is wrong with it, or nothing
};

/// Where an address leads.
struct LeafAt {
    std::uint64_t va = 0;              ///< where the leaf starts
    std::uint64_t size = 0;            ///< of the leaf, a contiguous group counted as one
    std::uint64_t descriptor_size = 0; ///< of one descriptor of it
    bool valid = false;
};

/// The members do what those of machine::Rig of the same names do: the machine knows what each operation is meant to
/// do, and checks every state in between.
class Workbench {
public:
    Workbench() = default;
    Workbench(const Workbench&) = delete;
    Workbench& operator=(const Workbench&) = delete;
    virtual ~Workbench() = default;

    [[nodiscard]] virtual const Result<void>& built() const = 0;
    [[nodiscard]] virtual std::vector<std::uint64_t> leaf_sizes() const = 0; ///< in bytes, the largest first
    [[nodiscard]] virtual machine::Machine& machine() = 0;

    virtual Result<void> protect(PhysRange range, Change change, ChangeOptions options) = 0;
    virtual Result<void> prepare(PhysRange range) = 0;
    virtual Result<void> release(PhysRange range) = 0;
    virtual Result<CollapseProgress> collapse(PhysRange range) = 0; ///< to the end
    [[nodiscard]] virtual PhysRange whole() const = 0;              ///< from the first byte of RAM to the last
    virtual CollapseProgress background_step(std::uint64_t budget) = 0;
    /// The users from clients/ with an area and maybe pools; the workbench, `supply` and `listener` outlive them.
    [[nodiscard]] virtual std::unique_ptr<ClientSet> make_clients(Placement placement, PageSupply& supply,
                                                                  ChangeListener& listener) = 0;
    /// A copy of the map as it is for whoever leaves this kernel behind, on a machine of its own.
    [[nodiscard]] virtual Result<MapCopy> copy(clients::InvalidLeaves invalid) = 0;

    [[nodiscard]] virtual MapState state() const = 0;
    /// The leaf that maps a byte of RAM.
    [[nodiscard]] virtual LeafAt leaf_at(std::uint64_t address) = 0;
    /// The map in the kernels' dump format.
    [[nodiscard]] virtual std::string dump() = 0;
    /// Compares the map with the reference, page by page and leaf by leaf. Says what is wrong, or nothing.
    [[nodiscard]] virtual std::string check() = 0;
    /// The fewest leaves that say the same, by leaf size, found without the engine; `pinned` ranges stay at pages.
    [[nodiscard]] virtual std::vector<std::uint64_t> smallest_cover(const std::vector<PhysRange>& pinned) = 0;
};

/// Builds the map and lets all CPUs in; look at `built`.
[[nodiscard]] std::unique_ptr<Workbench> make_workbench(const WorkbenchConfig& config);

// Its parts, one source file for each granule.
[[nodiscard]] std::unique_ptr<Workbench> make_workbench_4k(const WorkbenchConfig& config);
[[nodiscard]] std::unique_ptr<Workbench> make_workbench_16k(const WorkbenchConfig& config);
[[nodiscard]] std::unique_ptr<Workbench> make_workbench_64k(const WorkbenchConfig& config);

} // namespace directmap::tool

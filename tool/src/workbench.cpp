#include "workbench.hpp"

#include "output.hpp"

namespace directmap::tool {

MachineConfig machine_of(const MemoryMap& map, const Plan& plan, unsigned cpus, unsigned bbm) {
    MachineConfig machine;
    machine.translation = plan.translation;
    machine.offset = plan.offset;
    machine.source = printable(map.source);
    machine.ram = plan.ram;
    machine.tables_large = plan.large.tables;
    machine.tables_by_pages = plan.pages.tables;
    machine.cpus = cpus;
    machine.bbm = bbm;
    return machine;
}

std::unique_ptr<Workbench> make_workbench(const WorkbenchConfig& config) {
    switch (config.translation.granule_shift) {
    case 12: return make_workbench_4k(config);
    case 14: return make_workbench_16k(config);
    default: return make_workbench_64k(config);
    }
}

} // namespace directmap::tool

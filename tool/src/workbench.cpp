#include "workbench.hpp"

namespace directmap::tool {

std::unique_ptr<Workbench> make_workbench(const WorkbenchConfig& config) {
    switch (config.translation.granule_shift) {
    case 12: return make_workbench_4k(config);
    case 14: return make_workbench_16k(config);
    default: return make_workbench_64k(config);
    }
}

} // namespace directmap::tool

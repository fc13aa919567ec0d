#include "workbench_rig.hpp"

namespace directmap::tool {

std::unique_ptr<Workbench> make_workbench_64k(const WorkbenchConfig& config) {
    switch (config.translation.va_bits) {
    case 42: return std::make_unique<RigWorkbench<arm64::Format64K42>>(config);
    case 48: return std::make_unique<RigWorkbench<arm64::Format64K48>>(config);
    case 52: return std::make_unique<RigWorkbench<arm64::Format64K52>>(config);
    default: return nullptr;
    }
}

} // namespace directmap::tool

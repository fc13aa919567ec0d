#include "workbench_rig.hpp"

namespace directmap::tool {

std::unique_ptr<Workbench> make_workbench_4k(const WorkbenchConfig& config) {
    switch (config.translation.va_bits) {
    case 39: return std::make_unique<RigWorkbench<arm64::Format4K39>>(config);
    case 48: return std::make_unique<RigWorkbench<arm64::Format4K48>>(config);
    case 52: return std::make_unique<RigWorkbench<arm64::Format4K52>>(config);
    default: return nullptr;
    }
}

} // namespace directmap::tool

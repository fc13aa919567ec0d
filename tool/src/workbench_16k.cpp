#include "workbench_rig.hpp"

namespace directmap::tool {

std::unique_ptr<Workbench> make_workbench_16k(const WorkbenchConfig& config) {
    switch (config.translation.va_bits) {
    case 47: return std::make_unique<RigWorkbench<arm64::Format16K47>>(config);
    case 48: return std::make_unique<RigWorkbench<arm64::Format16K48>>(config);
    case 52: return std::make_unique<RigWorkbench<arm64::Format16K52>>(config);
    default: return nullptr;
    }
}

} // namespace directmap::tool

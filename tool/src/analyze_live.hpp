// Finds the page-table dump of the kernel that this runs on, or says what is missing.
#pragma once

#include <string>

namespace directmap::tool {

/// Where a system keeps what is asked here; other places than the usual ones are for tests.
struct LiveSystem {
    std::string debugfs = "/sys/kernel/debug";
    std::string mounts = "/proc/self/mounts";
    std::string lockdown = "/sys/kernel/security/lockdown";
    std::string kernel_config = usual_kernel_config();
    bool is_root = running_as_root();

    static std::string usual_kernel_config();
    static bool running_as_root();
};

/// The path of the running kernel's dump. Throws InputError that names everything that is missing and how to get it.
[[nodiscard]] std::string live_dump(const LiveSystem& system);

} // namespace directmap::tool

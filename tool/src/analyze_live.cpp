#include "analyze_live.hpp"

#include "input_error.hpp"

#include <array>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fstream>
#include <string_view>
#include <sys/utsname.h>
#include <unistd.h>
#include <vector>

namespace directmap::tool {
namespace {

/// Below the debugfs folder: arm64 and riscv, then x86-64.
constexpr std::array<std::string_view, 2> dump_names = {"kernel_page_tables", "page_tables/kernel"};

bool exists(const std::string& path) {
    return ::access(path.c_str(), F_OK) == 0;
}

bool is_mounted(const LiveSystem& system) {
    std::ifstream mounts(system.mounts);
    for (std::string line; std::getline(mounts, line);) {
        const std::size_t place = line.find(' ');
        if (place != std::string::npos && line.compare(place + 1, system.debugfs.size() + 1, system.debugfs + " ") == 0)
            return true;
    }
    return false;
}

enum class Configured { yes, no, unknown };

Configured is_configured(const LiveSystem& system) {
    std::ifstream config(system.kernel_config);
    if (!config) return Configured::unknown;
    for (std::string line; std::getline(config, line);) {
        // CONFIG_PTDUMP_DEBUGFS, and what it was called before: CONFIG_ARM64_PTDUMP_DEBUGFS, CONFIG_X86_PTDUMP.
        const bool names_it = line.starts_with("CONFIG_") && line.find("PTDUMP") != std::string::npos &&
                              line.find("_HAS_") == std::string::npos && line.find("_CORE=") == std::string::npos &&
                              line.find("_DEBUG_WX") == std::string::npos;
        if (names_it && (line.ends_with("=y") || line.ends_with("=m"))) return Configured::yes;
    }
    return Configured::no;
}

bool is_locked_down(const LiveSystem& system) {
    std::ifstream file(system.lockdown);
    std::string line;
    return std::getline(file, line) && line.find('[') != std::string::npos && line.find("[none]") == std::string::npos;
}

} // namespace

std::string LiveSystem::usual_kernel_config() {
    utsname name{};
    if (::uname(&name) != 0) return {};
    const std::array places = {fmt::format("/boot/config-{}", name.release),
                               fmt::format("/lib/modules/{}/config", name.release),
                               fmt::format("/usr/lib/modules/{}/config", name.release)};
    for (const std::string& place : places) {
        if (exists(place)) return place;
    }
    return places.front();
}

bool LiveSystem::running_as_root() {
    return ::geteuid() == 0;
}

std::string live_dump(const LiveSystem& system) {
    for (const std::string_view name : dump_names) {
        const std::string path = fmt::format("{}/{}", system.debugfs, name);
        if (::access(path.c_str(), R_OK) == 0) return path;
    }
    std::vector<std::string> missing;
    if (!system.is_root) missing.emplace_back("only root can read it (run this with sudo)");
    if (is_locked_down(system))
        missing.emplace_back(
            "the kernel is locked down and keeps debugfs closed (boot without lockdown=, or without secure boot)");
    const bool mounted = is_mounted(system);
    const std::string mount_command = fmt::format("mount -t debugfs none {}", system.debugfs);
    if (!mounted) missing.push_back(fmt::format("debugfs isn't mounted ({})", mount_command));
    // Without root the files can't be seen even when they are there.
    const bool would_be_seen = mounted && system.is_root;
    switch (is_configured(system)) {
    case Configured::no:
        missing.emplace_back("this kernel was built without CONFIG_PTDUMP_DEBUGFS (build it with that option)");
        break;
    case Configured::unknown:
        if (would_be_seen)
            missing.emplace_back("there is no such file: the kernel was probably built without CONFIG_PTDUMP_DEBUGFS "
                                 "(zgrep PTDUMP /proc/config.gz tells)");
        else
            missing.emplace_back(
                "the kernel must be built with CONFIG_PTDUMP_DEBUGFS (zgrep PTDUMP /proc/config.gz tells)");
        break;
    case Configured::yes:
        if (would_be_seen)
            missing.emplace_back("there is no such file although the kernel's configuration has CONFIG_PTDUMP_DEBUGFS "
                                 "(modprobe debug_pagetables, where it is a module)");
        break;
    }
    throw InputError(
        fmt::format("{}/{}", system.debugfs, dump_names.front()), 0,
        fmt::format(
            "no page-table dump of the running kernel: {}; `directmap watch` needs none of this, and a dump from "
            "elsewhere is read with `directmap analyze FILE`, or `-` for standard input",
            fmt::join(missing, "; ")));
}

} // namespace directmap::tool

// Any bytes as a device tree, and any text as the kernel's command line: refused or read, never a read outside of them.
#include "pure/boot_information.hpp"
#include "pure/command_line.hpp"
#include "pure/memory_plan.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

using namespace directmap;
using namespace directmap::kernel;

namespace {

/// Touches every node and property once.
std::size_t visit(const DeviceTreeNode& node, unsigned depth) {
    if (depth > DeviceTree::depth_limit) std::abort(); // `check` promised otherwise
    std::size_t seen = node.name().size();
    for (auto child = node.first_child(); child; child = child->next_sibling()) seen += visit(*child, depth + 1);
    return seen;
}

void plan_memory(const BootInformation& information) {
    MemoryPlan plan;
    if (plan.make(information, {phys_range(0x4020'0000, 0x4040'0000), phys_range(0x4800'0000, 0x4810'0000)}, 4096) !=
        nullptr)
        return;
    std::uint64_t end = 0;
    plan.for_each_free([&](PhysRange range) {
        if (range.empty() || range.start.value() < end) std::abort();
        end = range.end().value();
    });
    if (const PhysRange taken = plan.take(1 << 20, 4096); !taken.empty() && information.reserved.overlaps(taken))
        std::abort();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // A copy of exactly this size, so that the sanitizer sees the first byte too many.
    const std::unique_ptr<std::uint8_t[]> blob{new std::uint8_t[size]};
    std::memcpy(blob.get(), data, size);

    DeviceTree tree;
    if (tree.check(blob.get(), size) == nullptr) {
        if (visit(tree.root(), 1) > size * (DeviceTree::depth_limit + 1)) std::abort();
        BootInformation information;
        if (read_boot_information(tree, information) == nullptr) plan_memory(information);
    }
    CommandLine line;
    const CommandLineError error = read_command_line({reinterpret_cast<const char*>(blob.get()), size}, line);
    if (error.what == nullptr && (line.unable_cpus >> max_cpus) != 0) std::abort();
    return 0;
}

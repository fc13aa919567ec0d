#include "pure/boot_information.hpp"

namespace directmap::kernel {

namespace {

constexpr std::uint64_t address_limit = std::uint64_t{1} << 52; // the most that arm64 has

const char* read_ranges(const DeviceTreeNode& parent, const DeviceTreeNode& node,
                        RangeList<BootInformation::max_ranges>& ranges) {
    RegCursor reg{parent, node};
    for (std::uint64_t address = 0, size = 0; reg.next(address, size);) {
        if (address >= address_limit || size > address_limit - address) return "a range beyond the address space";
        if (!ranges.insert({PhysAddr{address}, size})) return "more memory ranges than this kernel can hold";
    }
    return reg.malformed() ? "a malformed reg property" : nullptr;
}

void read_uart(const DeviceTree& tree, const DeviceTreeNode& chosen, BootInformation& information) {
    std::optional<DeviceTreeNode> uart;
    if (const auto stdout_path = chosen.property("stdout-path")) {
        const std::string_view path = stdout_path->text(); // options may follow a colon
        uart = tree.find(path.substr(0, path.find(':')));
    }
    if (!uart || !uart->compatible("arm,pl011")) {
        for (uart = tree.root().first_child(); uart; uart = uart->next_sibling()) {
            if (uart->compatible("arm,pl011") && uart->enabled()) break;
        }
    }
    if (!uart) return;
    RegCursor reg{tree.root(), *uart};
    std::uint64_t address = 0, size = 0;
    if (!reg.next(address, size) || address >= address_limit) return;
    information.uart = PhysAddr{address};
    information.has_uart = true;
}

void read_gic(const DeviceTree& tree, BootInformation& information) {
    for (auto node = tree.root().first_child(); node; node = node->next_sibling()) {
        if (!node->compatible("arm,cortex-a15-gic") && !node->compatible("arm,gic-400")) continue;
        RegCursor reg{tree.root(), *node};
        std::uint64_t distributor = 0, cpu_interface = 0, size = 0;
        if (!reg.next(distributor, size) || !reg.next(cpu_interface, size)) return;
        if (distributor >= address_limit || cpu_interface >= address_limit) return;
        information.gic_distributor = PhysAddr{distributor};
        information.gic_cpu_interface = PhysAddr{cpu_interface};
        information.has_gic = true;
        return;
    }
}

const char* read_memory(const DeviceTree& tree, BootInformation& information) {
    const DeviceTreeNode root = tree.root();
    for (auto node = root.first_child(); node; node = node->next_sibling()) {
        const auto type = node->property("device_type");
        if (!type || type->text() != "memory" || !node->enabled()) continue;
        if (const char* wrong = read_ranges(root, *node, information.memory)) return wrong;
    }
    information.memory.merge();
    if (information.memory.empty()) return "no memory";

    std::uint64_t address = 0, size = 0;
    for (std::size_t i = 0; tree.reservation(i, address, size); ++i) {
        if (address >= address_limit || size > address_limit - address) return "a reservation beyond the address space";
        if (!information.reserved.insert({PhysAddr{address}, size}))
            return "more reservations than this kernel can hold";
    }
    if (const auto reserved = root.child("reserved-memory")) {
        for (auto node = reserved->first_child(); node; node = node->next_sibling()) {
            if (!node->enabled()) continue;
            auto& list = node->property("no-map") ? information.no_map : information.reserved;
            if (const char* wrong = read_ranges(*reserved, *node, list)) return wrong;
        }
    }
    information.reserved.merge();
    information.no_map.merge();
    return nullptr;
}

const char* read_cpus(const DeviceTree& tree, BootInformation& information) {
    const auto cpus = tree.root().child("cpus");
    if (!cpus) return "no CPUs";
    for (auto node = cpus->first_child(); node; node = node->next_sibling()) {
        const auto type = node->property("device_type");
        if (!type || type->text() != "cpu" || !node->enabled()) continue;
        if (information.cpu_count == max_cpus) return "more than 8 CPUs, which is all that this kernel supports";
        const auto affinity = node->property("reg");
        if (!affinity || !affinity->number()) return "a CPU without an affinity";
        information.cpus[information.cpu_count++] = *affinity->number();
    }
    return information.cpu_count == 0 ? "no CPUs" : nullptr;
}

const char* read_psci(const DeviceTree& tree, BootInformation& information) {
    const auto psci = tree.root().child("psci");
    if (!psci) return nullptr;
    const auto method = psci->property("method");
    const std::string_view conduit = method ? method->text() : std::string_view{};
    if (conduit == "hvc") {
        information.psci = PsciConduit::hvc;
    } else if (conduit == "smc") {
        information.psci = PsciConduit::smc;
    } else {
        return "a PSCI node without a known method";
    }
    return nullptr;
}

const char* read_chosen(const DeviceTreeNode& chosen, BootInformation& information) {
    if (const auto bootargs = chosen.property("bootargs")) information.command_line = bootargs->text();
    const auto start = chosen.property("linux,initrd-start"), end = chosen.property("linux,initrd-end");
    if (!start && !end) return nullptr;
    const auto from = start ? start->number() : std::nullopt, to = end ? end->number() : std::nullopt;
    if (!from || !to || *to < *from || *to > address_limit) return "a malformed initrd range";
    information.initrd = phys_range(*from, *to);
    return nullptr;
}

} // namespace

const char* read_boot_information(const DeviceTree& tree, BootInformation& information) {
    const auto chosen = tree.root().child("chosen");
    read_uart(tree, chosen ? *chosen : tree.root(), information);
    read_gic(tree, information);
    if (chosen) {
        if (const char* wrong = read_chosen(*chosen, information)) return wrong;
    }
    if (const char* wrong = read_memory(tree, information)) return wrong;
    if (const char* wrong = read_cpus(tree, information)) return wrong;
    return read_psci(tree, information);
}

} // namespace directmap::kernel

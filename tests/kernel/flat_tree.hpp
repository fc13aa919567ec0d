// Builds flattened device trees for the tests: right ones, and ones whose header or bytes a test then spoils.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace directmap::kernel::test {

class FlatTree {
public:
    /// Fields of the header, by their place in it.
    enum Field : std::size_t {
        magic,
        total_size,
        structure_offset,
        strings_offset,
        reservations_offset,
        version,
        last_compatible_version,
        boot_cpu,
        strings_size,
        structure_size,
    };

    FlatTree& begin(std::string_view name) {
        cell(structure_, 1);
        text(structure_, name);
        align();
        return *this;
    }
    FlatTree& end() {
        cell(structure_, 2);
        return *this;
    }
    FlatTree& nothing() {
        cell(structure_, 4);
        return *this;
    }
    FlatTree& cells(std::string_view name, std::initializer_list<std::uint32_t> values) {
        std::vector<unsigned char> bytes;
        for (const std::uint32_t value : values) cell(bytes, value);
        return property(name, bytes);
    }
    /// Each number as two cells.
    FlatTree& numbers(std::string_view name, std::initializer_list<std::uint64_t> values) {
        std::vector<unsigned char> bytes;
        for (const std::uint64_t value : values) {
            cell(bytes, static_cast<std::uint32_t>(value >> 32));
            cell(bytes, static_cast<std::uint32_t>(value));
        }
        return property(name, bytes);
    }
    FlatTree& strings(std::string_view name, std::initializer_list<std::string_view> values) {
        std::vector<unsigned char> bytes;
        for (const std::string_view value : values) text(bytes, value);
        return property(name, bytes);
    }
    FlatTree& flag(std::string_view name) { return property(name, {}); }
    FlatTree& property(std::string_view name, const std::vector<unsigned char>& value) {
        cell(structure_, 3);
        cell(structure_, static_cast<std::uint32_t>(value.size()));
        cell(structure_, string_offset(name));
        structure_.insert(structure_.end(), value.begin(), value.end());
        align();
        return *this;
    }
    FlatTree& reserve(std::uint64_t address, std::uint64_t size) {
        reservations_.emplace_back(address, size);
        return *this;
    }
    /// A token of the test's choosing.
    FlatTree& token(std::uint32_t value) {
        cell(structure_, value);
        return *this;
    }

    /// The blob: header, reservations, structure, strings. `closed` adds the structure's end token.
    [[nodiscard]] std::vector<unsigned char> blob(bool closed = true) const {
        std::vector<unsigned char> structure = structure_;
        if (closed) cell(structure, 9);
        std::vector<unsigned char> bytes(header_size, 0);
        const auto reservations_at = bytes.size();
        for (const auto& [address, size] : reservations_) {
            for (const std::uint64_t number : {address, size}) {
                cell(bytes, static_cast<std::uint32_t>(number >> 32));
                cell(bytes, static_cast<std::uint32_t>(number));
            }
        }
        bytes.insert(bytes.end(), 16, 0);
        const auto structure_at = bytes.size();
        bytes.insert(bytes.end(), structure.begin(), structure.end());
        const auto strings_at = bytes.size();
        bytes.insert(bytes.end(), strings_.begin(), strings_.end());
        set(bytes, magic, 0xd00dfeed);
        set(bytes, total_size, static_cast<std::uint32_t>(bytes.size()));
        set(bytes, structure_offset, static_cast<std::uint32_t>(structure_at));
        set(bytes, strings_offset, static_cast<std::uint32_t>(strings_at));
        set(bytes, reservations_offset, static_cast<std::uint32_t>(reservations_at));
        set(bytes, version, 17);
        set(bytes, last_compatible_version, 16);
        set(bytes, strings_size, static_cast<std::uint32_t>(strings_.size()));
        set(bytes, structure_size, static_cast<std::uint32_t>(structure.size()));
        return bytes;
    }

    /// Overwrites a field of a blob's header.
    static void set(std::vector<unsigned char>& blob, Field field, std::uint32_t value) {
        std::vector<unsigned char> bytes;
        cell(bytes, value);
        std::copy(bytes.begin(), bytes.end(), blob.begin() + static_cast<std::ptrdiff_t>(4 * field));
    }

private:
    static constexpr std::size_t header_size = 40;

    static void cell(std::vector<unsigned char>& bytes, std::uint32_t value) {
        for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<unsigned char>(value >> shift));
    }
    static void text(std::vector<unsigned char>& bytes, std::string_view value) {
        bytes.insert(bytes.end(), value.begin(), value.end());
        bytes.push_back(0);
    }
    void align() {
        while (structure_.size() % 4 != 0) structure_.push_back(0);
    }
    std::uint32_t string_offset(std::string_view name) {
        const auto at = static_cast<std::uint32_t>(strings_.size());
        text(strings_, name);
        return at;
    }

    std::vector<unsigned char> structure_;
    std::vector<unsigned char> strings_;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> reservations_;
};

/// What a test's machine has; the rest is as on QEMU virt.
struct TreeOfAMachine {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> memory = {{0x4000'0000, 0x2000'0000}};
    unsigned cpus = 1;
    std::string psci_method = "hvc";
    std::string command_line = {};

    [[nodiscard]] FlatTree tree() const {
        FlatTree tree;
        tree.begin("").cells("#address-cells", {2}).cells("#size-cells", {2});
        for (const auto& [start, size] : memory) {
            tree.begin("memory").strings("device_type", {"memory"}).numbers("reg", {start, size}).end();
        }
        tree.begin("psci").strings("compatible", {"arm,psci-1.0", "arm,psci"}).strings("method", {psci_method}).end();
        tree.begin("cpus").cells("#address-cells", {1}).cells("#size-cells", {0});
        for (std::uint32_t cpu = 0; cpu < cpus; ++cpu) {
            tree.begin("cpu@" + std::to_string(cpu)).strings("device_type", {"cpu"}).cells("reg", {cpu}).end();
        }
        tree.end();
        tree.begin("pl011@9000000")
            .strings("compatible", {"arm,pl011", "arm,primecell"})
            .numbers("reg", {0x900'0000, 0x1000})
            .end();
        tree.begin("chosen").strings("bootargs", {command_line}).strings("stdout-path", {"/pl011@9000000"}).end();
        tree.end();
        return tree;
    }
};

} // namespace directmap::kernel::test

// Reader of flattened device trees (Devicetree Specification 0.4, chapter 5).
//
// A tree is checked once, from end to end, by `DeviceTree::check`. Afterwards navigation can neither fail nor leave
// the blob, so the code that uses it is free of error paths.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace directmap::kernel {

/// Bytes somewhere in the blob.
struct Bytes {
    const unsigned char* data = nullptr;
    std::size_t size = 0;
};

/// A property's value. The interpretations answer nothing if the length doesn't fit.
class DeviceTreeValue {
public:
    explicit DeviceTreeValue(Bytes bytes) : bytes_{bytes} {}

    [[nodiscard]] std::size_t size() const { return bytes_.size; }
    /// One big-endian cell.
    [[nodiscard]] std::optional<std::uint32_t> cell() const;
    /// A number of one or two cells.
    [[nodiscard]] std::optional<std::uint64_t> number() const;
    /// Text up to its first zero byte; whatever is not terminated is not text.
    [[nodiscard]] std::string_view text() const;
    /// Whether one of the value's zero-terminated strings is `wanted` (`compatible` is such a list).
    [[nodiscard]] bool lists(std::string_view wanted) const;

private:
    friend class RegCursor;
    Bytes bytes_;
};

class DeviceTree;

/// A node of a checked tree.
class DeviceTreeNode {
public:
    /// Name with unit address, as in `memory@40000000`; the root's is empty.
    [[nodiscard]] std::string_view name() const;
    /// The name without its unit address.
    [[nodiscard]] std::string_view base_name() const;
    [[nodiscard]] std::optional<DeviceTreeValue> property(std::string_view name) const;
    [[nodiscard]] std::optional<DeviceTreeNode> first_child() const;
    [[nodiscard]] std::optional<DeviceTreeNode> next_sibling() const;
    /// The first child with this name, with or without its unit address.
    [[nodiscard]] std::optional<DeviceTreeNode> child(std::string_view name) const;

    /// Whether `status` leaves the node in use.
    [[nodiscard]] bool enabled() const;
    [[nodiscard]] bool compatible(std::string_view with) const;

private:
    friend class DeviceTree;
    DeviceTreeNode(const DeviceTree& tree, std::uint32_t at) : tree_{&tree}, at_{at} {}

    const DeviceTree* tree_;
    std::uint32_t at_; ///< offset of the node's FDT_BEGIN_NODE token in the structure block
};

/// The (address, size) pairs of a `reg` property, each of as many cells as the parent node says.
class RegCursor {
public:
    /// The pairs of `node`'s `reg`, read with the `#address-cells` and `#size-cells` of its `parent` (default 2 and 1).
    RegCursor(const DeviceTreeNode& parent, const DeviceTreeNode& node);

    /// False at the end. A value that is not a whole number of pairs, or whose numbers don't fit 64 bits, ends early
    /// and is `malformed`.
    [[nodiscard]] bool next(std::uint64_t& address, std::uint64_t& size);
    [[nodiscard]] bool malformed() const { return malformed_; }

private:
    [[nodiscard]] bool take(std::uint32_t cells, std::uint64_t& number);

    Bytes rest_;
    std::uint32_t address_cells_;
    std::uint32_t size_cells_;
    bool malformed_ = false;
};

class DeviceTree {
public:
    /// The size of a header, which must be readable before anything else is known.
    static constexpr std::size_t header_size = 40;
    static constexpr unsigned depth_limit = 32;
    /// The arm64 boot protocol allows no larger one.
    static constexpr std::uint32_t size_limit = 2u << 20;

    /// The blob's size as its header says, or 0 if this is no device tree. Reads `header_size` bytes at `blob`.
    [[nodiscard]] static std::uint32_t claimed_size(const void* blob);

    /// Checks the whole blob, of which `available` bytes are readable. Returns null if it can be used, otherwise what
    /// is wrong with it.
    [[nodiscard]] const char* check(const void* blob, std::size_t available);

    /// The following are for checked trees.
    [[nodiscard]] DeviceTreeNode root() const { return {*this, 0}; }
    /// The node at an absolute path such as `/soc/serial@9000000`.
    [[nodiscard]] std::optional<DeviceTreeNode> find(std::string_view path) const;
    /// Entry `index` of the memory reservation block; false past the end.
    [[nodiscard]] bool reservation(std::size_t index, std::uint64_t& address, std::uint64_t& size) const;
    [[nodiscard]] std::uint32_t total_size() const { return total_size_; }

private:
    friend class DeviceTreeNode;
    enum class Token : std::uint32_t { begin_node = 1, end_node = 2, property = 3, nothing = 4, end = 9 };
    struct Event {
        Token token{};
        std::string_view name; ///< of a node or property
        Bytes value;           ///< of a property
        std::uint32_t next = 0;
    };

    /// The token at offset `at` of the structure block. False if it's malformed or reaches out of its block.
    [[nodiscard]] bool read(std::uint32_t at, Event& event) const;
    [[nodiscard]] const char* check_structure() const;
    /// A property of the node that begins at `node`.
    [[nodiscard]] std::optional<DeviceTreeValue> find_property(std::uint32_t node, std::string_view name) const;
    /// The first node that begins at or after `at`, skipping properties; nothing if the parent ends first.
    [[nodiscard]] std::optional<DeviceTreeNode> node_from(std::uint32_t at) const;
    /// Behind the end of the node that begins at `node`.
    [[nodiscard]] std::uint32_t end_of(std::uint32_t node) const;

    Bytes structure_;
    Bytes strings_;
    Bytes reservations_;
    std::uint32_t total_size_ = 0;
};

} // namespace directmap::kernel

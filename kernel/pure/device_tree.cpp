#include "pure/device_tree.hpp"

namespace directmap::kernel {

namespace {

constexpr std::uint32_t magic = 0xd00dfeed;
constexpr std::uint32_t understood_version = 17;
constexpr std::size_t cell_size = 4;
constexpr std::size_t reservation_size = 16;

/// Device trees are big-endian; bytes one by one need no alignment.
std::uint32_t read_cell(const unsigned char* at) {
    return std::uint32_t{at[0]} << 24 | std::uint32_t{at[1]} << 16 | std::uint32_t{at[2]} << 8 | std::uint32_t{at[3]};
}
std::uint64_t read_number(const unsigned char* at) {
    return std::uint64_t{read_cell(at)} << 32 | read_cell(at + cell_size);
}

/// The zero-terminated string that starts at `offset`; false if the block ends before it does.
bool read_string(Bytes block, std::size_t offset, std::string_view& text) {
    const auto* const start = reinterpret_cast<const char*>(block.data) + offset;
    for (std::size_t length = 0; offset + length < block.size; ++length) {
        if (start[length] == '\0') {
            text = {start, length};
            return true;
        }
    }
    return false;
}

constexpr std::uint32_t align_to_cell(std::size_t offset) {
    return static_cast<std::uint32_t>((offset + cell_size - 1) & ~(cell_size - 1));
}

} // namespace

// --- values

std::optional<std::uint32_t> DeviceTreeValue::cell() const {
    if (bytes_.size != cell_size) return std::nullopt;
    return read_cell(bytes_.data);
}

std::optional<std::uint64_t> DeviceTreeValue::number() const {
    if (bytes_.size == cell_size) return read_cell(bytes_.data);
    if (bytes_.size == 2 * cell_size) return read_number(bytes_.data);
    return std::nullopt;
}

std::string_view DeviceTreeValue::text() const {
    std::string_view text;
    return read_string(bytes_, 0, text) ? text : std::string_view{};
}

bool DeviceTreeValue::lists(std::string_view wanted) const {
    std::string_view text;
    for (std::size_t offset = 0; read_string(bytes_, offset, text); offset += text.size() + 1) {
        if (text == wanted) return true;
    }
    return false;
}

// --- nodes

std::string_view DeviceTreeNode::name() const {
    DeviceTree::Event event;
    return tree_->read(at_, event) ? event.name : std::string_view{};
}

std::string_view DeviceTreeNode::base_name() const {
    const std::string_view whole = name();
    return whole.substr(0, whole.find('@'));
}

std::optional<DeviceTreeValue> DeviceTreeNode::property(std::string_view name) const {
    return tree_->find_property(at_, name);
}

std::optional<DeviceTreeNode> DeviceTreeNode::first_child() const {
    DeviceTree::Event event;
    return tree_->read(at_, event) ? tree_->node_from(event.next) : std::nullopt;
}

std::optional<DeviceTreeNode> DeviceTreeNode::next_sibling() const {
    return tree_->node_from(tree_->end_of(at_));
}

std::optional<DeviceTreeNode> DeviceTreeNode::child(std::string_view name) const {
    for (auto node = first_child(); node; node = node->next_sibling()) {
        if (node->name() == name || node->base_name() == name) return node;
    }
    return std::nullopt;
}

bool DeviceTreeNode::enabled() const {
    const auto status = property("status");
    return !status || status->text() == "okay" || status->text() == "ok";
}

bool DeviceTreeNode::compatible(std::string_view with) const {
    const auto value = property("compatible");
    return value && value->lists(with);
}

// --- reg

RegCursor::RegCursor(const DeviceTreeNode& parent, const DeviceTreeNode& node) {
    const auto cells_of = [&](std::string_view name, std::uint32_t otherwise) {
        const auto value = parent.property(name);
        return value ? value->cell().value_or(otherwise) : otherwise;
    };
    address_cells_ = cells_of("#address-cells", 2);
    size_cells_ = cells_of("#size-cells", 1);
    if (const auto reg = node.property("reg")) rest_ = reg->bytes_;
}

bool RegCursor::next(std::uint64_t& address, std::uint64_t& size) {
    if (rest_.size == 0 || malformed_) return false;
    // Without cells the cursor would never move on.
    malformed_ = address_cells_ == 0 || !take(address_cells_, address) || !take(size_cells_, size);
    return !malformed_;
}

bool RegCursor::take(std::uint32_t cells, std::uint64_t& number) {
    if (rest_.size / cell_size < cells) return false;
    number = 0;
    for (std::uint32_t i = 0; i < cells; ++i) {
        if (number >> 32 != 0) return false; // the next shift would lose bits
        number = number << 32 | read_cell(rest_.data);
        rest_.data += cell_size;
        rest_.size -= cell_size;
    }
    return true;
}

// --- the tree

std::uint32_t DeviceTree::claimed_size(const void* blob) {
    const auto* const header = static_cast<const unsigned char*>(blob);
    return read_cell(header) == magic ? read_cell(header + cell_size) : 0;
}

const char* DeviceTree::check(const void* blob, std::size_t available) {
    if (available < header_size) return "shorter than its header";
    const auto* const base = static_cast<const unsigned char*>(blob);
    const auto field = [&](unsigned index) { return read_cell(base + index * cell_size); };
    if (field(0) != magic) return "wrong magic number";
    total_size_ = field(1);
    if (total_size_ > size_limit) return "larger than 2 MiB";
    if (total_size_ < header_size || total_size_ > available) return "its size is not what its header says";
    // A reader of version 17 understands every blob whose last compatible version isn't newer.
    if (field(5) < understood_version || field(6) > understood_version) return "its version is not supported";

    // Offset and size of the structure and strings blocks; sums can't overflow in 64 bits.
    const auto block = [&](std::uint64_t offset, std::uint64_t size, Bytes& bytes) {
        if (offset < header_size || offset + size > total_size_) return false;
        bytes = {base + offset, static_cast<std::size_t>(size)};
        return true;
    };
    if (field(2) % cell_size != 0 || !block(field(2), field(9), structure_)) return "its structure block lies outside";
    if (!block(field(3), field(8), strings_)) return "its strings block lies outside";

    // The reservation block has no size; it ends with a pair of zeros.
    if (field(4) < header_size || field(4) > total_size_) return "its reservation block lies outside";
    Bytes rest{base + field(4), total_size_ - field(4)};
    reservations_ = {rest.data, 0};
    for (;;) {
        if (rest.size < reservation_size) return "its reservation block has no end";
        if (read_number(rest.data) == 0 && read_number(rest.data + 8) == 0) break;
        rest.data += reservation_size;
        rest.size -= reservation_size;
        reservations_.size += reservation_size;
    }
    return check_structure();
}

const char* DeviceTree::check_structure() const {
    unsigned depth = 0;
    bool had_root = false;
    bool properties_allowed = false; // they come before a node's children
    Event event;
    for (std::uint32_t at = 0;; at = event.next) {
        if (!read(at, event)) return "its structure block is malformed";
        switch (event.token) {
        case Token::begin_node:
            if (depth == 0 && had_root) return "it has two roots";
            if (depth == 0 && at != 0) return "its root is not at the start";
            if (++depth > depth_limit) return "its nodes nest too deep";
            had_root = true;
            properties_allowed = true;
            break;
        case Token::end_node:
            if (depth-- == 0) return "a node ends that never began";
            properties_allowed = false;
            break;
        case Token::property:
            if (!properties_allowed) return "a property stands outside of its node";
            break;
        case Token::nothing: break;
        case Token::end: return had_root && depth == 0 ? nullptr : "it ends inside a node";
        }
    }
}

bool DeviceTree::read(std::uint32_t at, Event& event) const {
    if (at > structure_.size || structure_.size - at < cell_size) return false;
    const std::uint32_t after = at + static_cast<std::uint32_t>(cell_size);
    event.token = static_cast<Token>(read_cell(structure_.data + at));
    event.next = after;
    switch (event.token) {
    case Token::begin_node:
        if (!read_string(structure_, after, event.name)) return false;
        event.next = align_to_cell(after + event.name.size() + 1);
        return true;
    case Token::property: {
        if (structure_.size - after < 2 * cell_size) return false;
        const std::uint32_t length = read_cell(structure_.data + after);
        const std::uint32_t name = read_cell(structure_.data + after + cell_size);
        const std::uint32_t value = after + static_cast<std::uint32_t>(2 * cell_size);
        if (length > structure_.size - value || !read_string(strings_, name, event.name)) return false;
        event.value = {structure_.data + value, length};
        event.next = align_to_cell(std::size_t{value} + length);
        return true;
    }
    case Token::end_node:
    case Token::nothing:
    case Token::end: return true;
    }
    return false;
}

std::optional<DeviceTreeValue> DeviceTree::find_property(std::uint32_t node, std::string_view name) const {
    Event event;
    bool inside = read(node, event);
    while (inside && read(event.next, event)) {
        if (event.token == Token::property && event.name == name) return DeviceTreeValue{event.value};
        inside = event.token == Token::property || event.token == Token::nothing;
    }
    return std::nullopt;
}

std::optional<DeviceTreeNode> DeviceTree::node_from(std::uint32_t at) const {
    Event event;
    for (; read(at, event); at = event.next) {
        if (event.token == Token::begin_node) return DeviceTreeNode{*this, at};
        if (event.token == Token::end_node || event.token == Token::end) break;
    }
    return std::nullopt;
}

std::uint32_t DeviceTree::end_of(std::uint32_t node) const {
    unsigned depth = 0;
    Event event;
    for (std::uint32_t at = node; read(at, event) && event.token != Token::end; at = event.next) {
        if (event.token == Token::begin_node) ++depth;
        if (event.token == Token::end_node && --depth == 0) return event.next;
    }
    return static_cast<std::uint32_t>(structure_.size);
}

std::optional<DeviceTreeNode> DeviceTree::find(std::string_view path) const {
    std::optional<DeviceTreeNode> node = root();
    while (node && !path.empty()) {
        if (path.front() != '/') return std::nullopt;
        path.remove_prefix(1);
        const std::string_view step = path.substr(0, path.find('/'));
        path.remove_prefix(step.size());
        if (!step.empty()) node = node->child(step);
    }
    return node;
}

bool DeviceTree::reservation(std::size_t index, std::uint64_t& address, std::uint64_t& size) const {
    if (index >= reservations_.size / reservation_size) return false;
    const unsigned char* const entry = reservations_.data + index * reservation_size;
    address = read_number(entry);
    size = read_number(entry + 8);
    return true;
}

} // namespace directmap::kernel

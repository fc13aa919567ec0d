#include "memory/seeded_platform.hpp"

namespace directmap::kernel {

std::optional<Fault> SeededPlatform::fault_named(std::string_view name) {
    if (name == "none") return Fault::none;
    if (name == "no-invalidation") return Fault::no_invalidation;
    if (name == "local-invalidation") return Fault::local_invalidation;
    if (name == "wrong-operand") return Fault::wrong_operand;
    if (name == "narrow-range") return Fault::narrow_range;
    if (name == "invalid-leaves") return Fault::invalid_leaves;
    if (name == "wrong-leaf-type") return Fault::wrong_leaf_type;
    if (name == "skipped-update") return Fault::skipped_update;
    if (name == "open-interrupts") return Fault::open_interrupts;
    if (name == "no-write-sections") return Fault::no_write_sections;
    if (name == "open-sections") return Fault::open_sections;
    return std::nullopt;
}

} // namespace directmap::kernel

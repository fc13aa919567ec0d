// A copy of the map for whoever leaves this kernel behind: kexec, hibernation. And nothing is left to chance about
// pages that are present but invalid: the caller says what they are in the copy.
#pragma once

#include <cstdint>

#include "directmap/direct_map.hpp"

namespace directmap::clients {

/// What becomes of leaves that are present but invalid (secret memory, guards, what is being shared).
enum class InvalidLeaves : std::uint8_t {
    make_valid, ///< valid in the copy: it must read all memory (hibernation, a crash dump of everything)
    leave_out,  ///< unreachable in the copy too: it must not read what this kernel can't (kexec into another)
};

/// What a copy consists of.
struct CopyReport {
    std::uint64_t bytes = 0;      ///< reachable in the copy
    std::uint64_t made_valid = 0; ///< bytes that this map can't reach and the copy can
    std::uint64_t left_out = 0;   ///< bytes that neither can
    std::uint64_t attributes = 0; ///< runs of leaves whose attributes had to be set apart from the rest
};

/// Gives `to`, a map of the same RAM at the same or another offset that was just built and that nothing translates
/// through, the attributes of `from`. Protection keys aren't copied unless `keys`: the next kernel has none yet.
/// Nothing may change `from` meanwhile. Errors: whatever `protect` of the copy says (it is of no use then).
template <class From, class To>
[[nodiscard]] Result<CopyReport> copy_map(From& from, To& to, InvalidLeaves invalid, bool keys = false) {
    CopyReport report;
    Result<void> result;
    const Attributes plain{};
    PhysRange open;
    Attributes open_attributes;
    const auto settle = [&] {
        if (open.empty() || !result || open_attributes == plain) return;
        const Attributes& a = open_attributes;
        Change change = Change{}.valid(a.valid()).writable(a.writable()).executable(a.executable()).global(a.global());
        if (a.memory_type() != plain.memory_type()) change = change.memory_type(a.memory_type());
        if (a.shared()) change = change.shared(true);
        if (a.key() != 0) change = change.key(a.key());
        result = to.protect(open, change, {.quiescent = true});
        ++report.attributes;
    };
    from.walk(from.span(), [&](const Leaf& leaf) {
        if (!leaf.mapped) return true;
        Attributes a = leaf.attributes.with_fixed(false);
        if (!keys) a = a.with_key(0);
        if (!a.valid()) {
            (invalid == InvalidLeaves::make_valid ? report.made_valid : report.left_out) += leaf.range.size;
            if (invalid == InvalidLeaves::make_valid) a = a.with_valid(true);
        }
        if (a.valid()) report.bytes += leaf.range.size;
        if (!open.empty() && open.end() == leaf.range.start && open_attributes == a) {
            open.size += leaf.range.size;
        } else {
            settle();
            open = leaf.range;
            open_attributes = a;
        }
        return result.ok();
    });
    settle();
    if (!result) return result.error();
    return report;
}

} // namespace directmap::clients

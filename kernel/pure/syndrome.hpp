// What ESR_EL1 says about an exception (Arm ARM D17.2.37).
#pragma once

#include <cstdint>

#include "pure/text.hpp"

namespace directmap::kernel {

/// The kinds of memory fault that the kernel tells apart.
enum class FaultKind : std::uint8_t {
    none,
    address_size,
    translation,
    access_flag,
    permission,
    alignment,
    conflict,
    external,
    other
};

class Syndrome {
public:
    Syndrome() = default;
    explicit constexpr Syndrome(std::uint64_t esr) : esr_{esr} {}

    /// A load, store or instruction fetch of the kernel itself failed.
    [[nodiscard]] constexpr bool data_abort() const { return exception_class() == 0x25; }
    [[nodiscard]] constexpr bool instruction_abort() const { return exception_class() == 0x21; }
    /// Of a data abort: a store.
    [[nodiscard]] constexpr bool write() const { return (esr_ & 1u << 6) != 0; }
    /// Of an abort.
    [[nodiscard]] constexpr FaultKind fault() const {
        if (!data_abort() && !instruction_abort()) return FaultKind::none;
        const auto status = static_cast<unsigned>(esr_ & 0x3f);
        switch (status >> 2) {
        case 0b0000: return FaultKind::address_size;
        case 0b0001: return FaultKind::translation;
        case 0b0010: return FaultKind::access_flag;
        case 0b0011: return FaultKind::permission;
        default: break;
        }
        if (status == 0b010000 || status >> 2 == 0b0101) return FaultKind::external;
        if (status == 0b100001) return FaultKind::alignment;
        if (status == 0b110000) return FaultKind::conflict;
        return FaultKind::other;
    }
    /// Of a translation, permission, access flag or address size fault: the level of the descriptor.
    [[nodiscard]] constexpr unsigned level() const { return static_cast<unsigned>(esr_ & 3); }
    [[nodiscard]] constexpr std::uint64_t value() const { return esr_; }

    /// Writes what happened, as in `store: permission fault at level 3`.
    void describe(TextSink sink) const;

private:
    [[nodiscard]] constexpr unsigned exception_class() const { return static_cast<unsigned>(esr_ >> 26) & 0x3f; }

    std::uint64_t esr_ = 0;
};

} // namespace directmap::kernel

// Attributes as the machine sees them: what a translation allows, independent of the engine's own types.
#pragma once

#include <compare>
#include <cstdint>
#include <string>

#include "directmap/attributes.hpp"

namespace directmap::machine {

/// What hardware would do with an access. Sixteen bits that compare as a whole.
struct Access {
    bool valid : 1 = true;
    bool writable : 1 = true;
    bool executable : 1 = false;
    bool global : 1 = true;
    bool shared : 1 = false; ///< with the host (realms)
    unsigned type : 3 = 0;   ///< MAIR index
    unsigned key : 3 = 0;
    bool absent : 1 = false; ///< no leaf at all: a hole that somebody may fill, in an area or for added memory

    friend constexpr bool operator==(const Access&, const Access&) = default;

    /// Whether a live change from one to the other has to break before it makes (memory type or address space).
    [[nodiscard]] constexpr bool must_break_for(const Access& other) const {
        return type != other.type || shared != other.shared;
    }
};

/// What a hole looks like that is known to the reference.
[[nodiscard]] constexpr Access hole() {
    Access access;
    access.valid = access.writable = access.global = false;
    access.absent = true;
    return access;
}

[[nodiscard]] Access access_of(const Attributes& attributes);
/// "RW NX", "ro x key 3", "invalid (RW NX)" …
[[nodiscard]] std::string describe(const Access& access);

} // namespace directmap::machine

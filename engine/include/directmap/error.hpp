// Errors as values: what went wrong and where. Nothing in the engine logs, throws or panics.
#pragma once

#include <cstdint>

#include "directmap/units.hpp"

namespace directmap {

/// What a caller can act on. After any error the attributes of every page are as before the call (promise P4).
enum class ErrorCode : std::uint32_t {
    invalid_argument, ///< misaligned, empty, overflowing, unsorted or foreign range; `where` is the first offender
    not_mapped,       ///< the range has a hole; `where` is its first page
    busy,             ///< the gate has not decided yet, or reclaim must advance first: try again later
    unsupported,      ///< never possible on this machine or for this leaf (resizing without tolerance, a static leaf)
    no_tables,        ///< the table source ran out; `needed` tells how many tables the operation wants
    would_block,      ///< an atomic caller needs more tables than are set aside; `needed` tells how many
    incompatible,     ///< the range maps page tables that the change itself would have to reach
};

/// An error, with the physical address it is about.
struct Error {
    constexpr Error() = default;
    constexpr Error(ErrorCode error_code, PhysAddr address, std::uint32_t tables, const char* sentence)
        : where{address}, reason{sentence}, needed{tables}, code{error_code} {}

    PhysAddr where;
    /// One sentence for people; a literal, never null.
    const char* reason = "";
    std::uint32_t needed = 0;
    ErrorCode code{};
};

/// The code's name as it is written in this header.
[[nodiscard]] constexpr const char* name(ErrorCode code) {
    switch (code) {
    case ErrorCode::invalid_argument: return "invalid_argument";
    case ErrorCode::not_mapped: return "not_mapped";
    case ErrorCode::busy: return "busy";
    case ErrorCode::unsupported: return "unsupported";
    case ErrorCode::no_tables: return "no_tables";
    case ErrorCode::would_block: return "would_block";
    case ErrorCode::incompatible: return "incompatible";
    }
    return "unknown";
}

/// A value or an error. Looking at the absent one is a caller's bug; test first. (An error always has a reason; none
/// means success, which keeps results small: most of them are never looked at again.)
template <class T>
class [[nodiscard]] Result {
public:
    constexpr Result(T value) : value_{static_cast<T&&>(value)} {}
    constexpr Result(Error error) : error_{error} {}

    [[nodiscard]] constexpr bool ok() const { return error_.reason == nullptr; }
    explicit constexpr operator bool() const { return ok(); }
    [[nodiscard]] constexpr T& value() { return value_; }
    [[nodiscard]] constexpr const T& value() const { return value_; }
    [[nodiscard]] constexpr const Error& error() const { return error_; }
    /// For results that are too large to be made anew.
    constexpr void fail(const Error& error) { error_ = error; }

private:
    T value_{};
    Error error_{ErrorCode{}, PhysAddr{}, 0, nullptr};
};

template <>
class [[nodiscard]] Result<void> {
public:
    constexpr Result() = default;
    constexpr Result(Error error) : error_{error} {}

    [[nodiscard]] constexpr bool ok() const { return error_.reason == nullptr; }
    explicit constexpr operator bool() const { return ok(); }
    [[nodiscard]] constexpr const Error& error() const { return error_; }

private:
    Error error_{ErrorCode{}, PhysAddr{}, 0, nullptr};
};

} // namespace directmap

// Errors as values: what went wrong and where. Nothing in the engine logs, throws or panics.
#pragma once

#include <cstdint>

#include "directmap/units.hpp"

namespace directmap {

/// What a caller can act on. After any error the attributes of every page are as before the call (promise P4).
enum class ErrorCode : std::uint32_t {
    invalid_argument, ///< misaligned, empty, overflowing, unsorted or foreign range; `where()` is the first offender
    not_mapped,       ///< the range has a hole; `where()` is its first page
    busy,             ///< the gate has not decided yet, or reclaim must advance first: try again later
    unsupported,      ///< never possible on this machine or for this leaf (resizing without tolerance, a static leaf)
    no_tables,        ///< the table source ran out; `needed()` tells how many tables the operation wants
    would_block,      ///< an atomic caller needs more tables than are set aside; `needed()` tells how many
    incompatible,     ///< the range maps page tables that the change itself would have to reach
};

/// Why something failed: what a caller can act on, and a sentence for people. Each error refers to a constant of this
/// type (reasons.hpp has the engine's): a result then fits two registers, and a kernel that never prints a sentence
/// doesn't carry it.
struct Reason {
    ErrorCode code;
    const char* sentence;
    enum Subject : std::uint8_t { address, counts_needed } subject = address; ///< what its errors tell besides
};

/// An error: a reason, and the physical address that it is about or how many (tables, mostly) are needed.
class Error {
public:
    constexpr Error(const Reason& reason, PhysAddr where) : reason_{&reason}, subject_{where.value()} {}
    /// For a reason that counts.
    [[nodiscard]] static constexpr Error needing(const Reason& reason, std::uint64_t count) {
        return Error{reason, PhysAddr{count}};
    }
    /// The same error, about another address: of a component's own space, say. One that counts stays as it is.
    [[nodiscard]] constexpr Error at(PhysAddr other) const { return {*reason_, counts() ? PhysAddr{subject_} : other}; }

    [[nodiscard]] constexpr ErrorCode code() const { return reason_->code; }
    /// One sentence for people; a literal, never null.
    [[nodiscard]] constexpr const char* reason() const { return reason_->sentence; }
    /// The first offender; 0 where the reason counts.
    [[nodiscard]] constexpr PhysAddr where() const { return counts() ? PhysAddr{} : PhysAddr{subject_}; }
    /// How many the operation wants; 0 where the reason doesn't count.
    [[nodiscard]] constexpr std::uint64_t needed() const { return counts() ? subject_ : 0; }

private:
    template <class T>
    friend class Result;
    constexpr Error() = default;
    [[nodiscard]] constexpr bool counts() const { return reason_->subject == Reason::counts_needed; }

    const Reason* reason_ = nullptr; ///< null only inside a result that is no error
    std::uint64_t subject_ = 0;
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

/// Makes the value where it stays.
struct InPlace {};

/// A value or an error. Looking at the absent one is a caller's bug; test first.
template <class T>
class [[nodiscard]] Result {
public:
    constexpr Result(T value) : value_{static_cast<T&&>(value)} {}
    constexpr Result(Error error) : error_{error} {}
    explicit constexpr Result(InPlace) {}

    [[nodiscard]] constexpr bool ok() const { return error_.reason_ == nullptr; }
    explicit constexpr operator bool() const { return ok(); }
    [[nodiscard]] constexpr T& value() { return value_; }
    [[nodiscard]] constexpr const T& value() const { return value_; }
    [[nodiscard]] constexpr const Error& error() const { return error_; }
    /// For results that are too large to be made anew.
    constexpr void fail(Error error) { error_ = error; }

private:
    T value_{};
    Error error_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    constexpr Result() = default;
    constexpr Result(Error error) : error_{error} {}

    [[nodiscard]] constexpr bool ok() const { return error_.reason_ == nullptr; }
    explicit constexpr operator bool() const { return ok(); }
    [[nodiscard]] constexpr const Error& error() const { return error_; }

private:
    Error error_;
};

} // namespace directmap

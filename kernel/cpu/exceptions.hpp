// Exceptions: the expected ones are recorded and skipped, all others end the run with a cause.
#pragma once

#include <cstdint>

namespace directmap::kernel {

/// What the vectors (exception_vectors.S) save.
struct ExceptionFrame {
    std::uint64_t x[31];
    std::uint64_t sp;
    std::uint64_t pc;
    std::uint64_t pstate;
    std::uint64_t esr;
    std::uint64_t far;
};
static_assert(sizeof(ExceptionFrame) == 36 * 8);

/// Makes this CPU use the vectors.
void use_exception_vectors();

} // namespace directmap::kernel

// What the engine is asked for and can't fail here.
#pragma once

#include "cpu/ending.hpp"
#include "directmap/error.hpp"

namespace directmap::kernel {

/// Ends the run unless a call of the engine succeeded. `what` says what was tried.
template <class T>
void require(const Result<T>& result, const char* what) {
    if (result.ok()) return;
    const Error& error = result.error();
    fail("{}: {} at {} ({})", what, error.reason(), Hex{error.where().value()}, name(error.code()));
}

} // namespace directmap::kernel

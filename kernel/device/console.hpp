// The console: whole messages, one CPU at a time.
#pragma once

#include "cpu/spin_lock.hpp"
#include "device/pl011.hpp"
#include "pure/text.hpp"

namespace directmap::kernel {

class Console {
public:
    void use(Pl011 uart) { uart_ = uart; }
    [[nodiscard]] TextSink sink() {
        return {[](void* self, std::string_view text) { static_cast<Console*>(self)->uart_.write(text); }, this};
    }

    SpinLock lock;

private:
    Pl011 uart_;
};

extern Console console;

/// Prints one message; messages of several CPUs don't mix.
template <class... Arguments>
void print(std::string_view pattern, Arguments... arguments) {
    const SpinGuard guard{console.lock};
    format(console.sink(), pattern, arguments...);
}

} // namespace directmap::kernel

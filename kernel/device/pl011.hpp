// The PL011 UART (Arm DDI 0183), output only.
#pragma once

#include <cstdint>
#include <string_view>

namespace directmap::kernel {

class Pl011 {
public:
    explicit constexpr Pl011(std::uint64_t registers_va = 0) : registers_{registers_va} {}

    void write(std::string_view text) const {
        for (const char c : text) {
            while ((at(flags) & transmit_full) != 0) {
            }
            at(data) = static_cast<unsigned char>(c);
        }
    }

private:
    static constexpr std::uint64_t data = 0x00, flags = 0x18;
    static constexpr std::uint32_t transmit_full = 1u << 5;

    [[nodiscard]] volatile std::uint32_t& at(std::uint64_t offset) const {
        return *reinterpret_cast<volatile std::uint32_t*>(registers_ + offset);
    }

    std::uint64_t registers_;
};

} // namespace directmap::kernel

// The key register of arm64 CPUs (FEAT_S1POE): what the protection key of a page allows this CPU at this moment, and
// the write sections that raise it for page tables.
//
//   POR_EL1   63                    7    4 3    0        a field of four bits for each key: write 4, execute 2, read 1
//             |        ...         | key 1 | key 0 |
//   closed                           0 0 0 1 0 1 1 1     0x17: tables (key 1) may be read, all else is as the leaf says
//   open                             0 1 0 1 0 1 1 1     0x57: and written
//
// A section differs from its surroundings in one bit of the register, a constant. Opening and closing are inlined into
// whoever stores: there is no function that an attacker could call, or return into, to be left with writable tables
// (tests/checks/key_register looks for one in the compiled object).
#pragma once

#include <cstdint>

namespace directmap::arm64 {

/// POR_EL1 and the enabling bit, as this CPU has them. Tests have another.
struct CpuKeyRegister {
    [[gnu::always_inline]] static std::uint64_t read() {
        std::uint64_t value;
        asm volatile("mrs %0, s3_0_c10_c2_4" : "=r"(value)::"memory");
        return value;
    }
    /// Later instructions run with the new value: an ISB comes with it (Arm ARM, POR_EL1 is a context register).
    [[gnu::always_inline]] static void write(std::uint64_t value) {
        asm volatile("msr s3_0_c10_c2_4, %0\n\tisb" ::"r"(value) : "memory");
    }
    /// Sets TCR2_EL1.POE: from here on keys are in force on this CPU.
    [[gnu::always_inline]] static void enable() {
        std::uint64_t control;
        asm volatile("mrs %0, s3_0_c2_c0_3" : "=r"(control)::"memory");
        control |= std::uint64_t{1} << 3;
        asm volatile("msr s3_0_c2_c0_3, %0\n\tisb" ::"r"(control) : "memory");
    }
};

/// Write sections for tables with this key, by a level that is known at compile time.
template <unsigned table_key, class Register = CpuKeyRegister>
struct TableSections {
    static_assert(table_key >= 1 && table_key <= 7, "key 0 is everything else; a leaf has three bits for keys");

    static constexpr std::uint64_t write_bit = std::uint64_t{4} << (4 * table_key);
    /// The register outside of sections: key 0 restricts nothing, tables may be read, no other key gives anything.
    static constexpr std::uint64_t closed = std::uint64_t{7} | std::uint64_t{1} << (4 * table_key);
    static constexpr std::uint64_t open = closed | write_bit;

    /// On each CPU, before it translates through a map that has keys: first the value, then the enabling bit.
    [[gnu::always_inline]] static void enable() {
        Register::write(closed);
        Register::enable();
    }

    /// Opens a section on this CPU, unless one is open: then nothing is written and no barrier is paid. Returns whether
    /// one was; hand that to `end`. A context switch takes the register along.
    [[nodiscard, gnu::always_inline]] static bool begin() {
        const std::uint64_t before = Register::read();
        const bool was_open = (before & write_bit) != 0;
        if (!was_open) Register::write(before | write_bit);
        return was_open;
    }
    /// Closes it, unless it was open before. What is written comes from the register and a constant, never from memory.
    [[gnu::always_inline]] static void end(bool was_open) {
        if (!was_open) Register::write(Register::read() & ~write_bit);
    }

    /// An exception handler: the register has its value from outside of sections, and gets the interrupted one's back.
    class [[nodiscard]] Exception {
    public:
        [[gnu::always_inline]] Exception() : interrupted_{Register::read()} {
            if (interrupted_ != closed) Register::write(closed);
        }
        Exception(const Exception&) = delete;
        Exception& operator=(const Exception&) = delete;
        [[gnu::always_inline]] ~Exception() {
            if (interrupted_ != closed) Register::write(interrupted_);
        }

    private:
        std::uint64_t interrupted_;
    };
};

static_assert(TableSections<1>::closed == 0x17 && TableSections<1>::open == 0x57);

} // namespace directmap::arm64

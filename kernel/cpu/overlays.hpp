// Permission overlays (FEAT_S1POE): a page has a key, and this CPU's key register says what each key's pages may be
// used for. Page tables have a key of their own, whose pages are read-only except inside of a write section; the
// sections are the engine's (directmap/arm64/key_register.hpp).
//
// On a CPU without the feature a section is always open; or, with `keys=emulated`, a variable stands in for the
// register, so that everything but the two instructions is the same: who raises it, who lowers it, what an exception
// does to it.
#pragma once

#include "cpu/cpu.hpp"
#include "directmap/arm64/key_register.hpp"

namespace directmap::kernel {

enum class Overlays : std::uint8_t { off, emulated, on };

namespace overlays {

/// The protection key of page tables.
inline constexpr unsigned table_key = 1;

/// Decided once by the boot CPU, before there are others.
extern Overlays mode;

[[nodiscard]] inline bool enabled() {
    return mode != Overlays::off;
}

/// This CPU's key register, or what stands in for it.
struct KeyRegister {
    [[nodiscard, gnu::always_inline]] static std::uint64_t read() {
        return mode == Overlays::on ? arm64::CpuKeyRegister::read() : this_cpu().key_register;
    }
    [[gnu::always_inline]] static void write(std::uint64_t value) {
        if (mode == Overlays::on) {
            arm64::CpuKeyRegister::write(value);
        } else {
            this_cpu().key_register = value;
        }
    }
    [[gnu::always_inline]] static void enable() {
        if (mode == Overlays::on) arm64::CpuKeyRegister::enable();
    }
};
using Sections = arm64::TableSections<table_key, KeyRegister>;

/// Turns overlays on on this CPU, or says that it can't. Nothing has a key other than 0 in what it translates through
/// yet.
[[nodiscard]] bool start_on_this_cpu();

/// Whether this CPU may write page tables now.
[[nodiscard]] inline bool may_write_tables() {
    return (KeyRegister::read() & Sections::write_bit) != 0;
}

} // namespace overlays
} // namespace directmap::kernel

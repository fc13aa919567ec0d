// Permission overlays (FEAT_S1POE): a page has a key, and this CPU's key register says what each key's pages may be
// used for. Page tables have a key of their own, whose pages are read-only except inside of a write section.
//
// On a CPU without the feature nothing happens here; or, with `keys=emulated`, a variable stands in for the register,
// so that everything but the two instructions is the same: who raises it, who lowers it, what an exception does to it.
#pragma once

#include "cpu/barriers.hpp"
#include "cpu/cpu.hpp"

namespace directmap::kernel {

enum class Overlays : std::uint8_t { off, emulated, on };

namespace overlays {

/// The protection key of page tables.
inline constexpr unsigned table_key = 1;
/// Values of POR_EL1: four bits a key, 1 read, 2 execute, 4 write. Key 0, everything else's, allows all.
inline constexpr std::uint64_t reading = 0x17, writing = 0x57;

/// Decided once by the boot CPU, before there are others.
extern Overlays mode;

[[nodiscard]] inline bool enabled() {
    return mode != Overlays::off;
}

[[nodiscard]] inline std::uint64_t key_register() {
    return mode == Overlays::on ? read_por_el1() : this_cpu().key_register;
}
inline void set_key_register(std::uint64_t value) {
    if (mode == Overlays::on) {
        write_por_el1(value);
        isb(); // no access after this is checked against the older value
    } else {
        this_cpu().key_register = value;
    }
}

/// Turns overlays on on this CPU, or says that it can't. Nothing has a key other than 0 in what it translates through
/// yet.
[[nodiscard]] bool start_on_this_cpu();

/// Whether this CPU may write page tables now.
[[nodiscard]] inline bool may_write_tables() {
    return (key_register() >> (4 * table_key) & 4) != 0;
}

/// Write sections nest: only the outermost pays for the register.
inline void begin_writing() {
    if (enabled() && this_cpu().write_sections++ == 0) set_key_register(writing);
}
inline void end_writing() {
    if (enabled() && --this_cpu().write_sections == 0) set_key_register(reading);
}

/// What an exception does while it is handled: it may interrupt a write section, but isn't part of it.
class [[nodiscard]] OutsideOfSections {
public:
    OutsideOfSections() {
        if (!enabled()) return;
        sections_ = this_cpu().write_sections;
        this_cpu().write_sections = 0;
        if (sections_ != 0) set_key_register(reading);
    }
    OutsideOfSections(const OutsideOfSections&) = delete;
    OutsideOfSections& operator=(const OutsideOfSections&) = delete;
    ~OutsideOfSections() {
        if (!enabled()) return;
        this_cpu().write_sections = sections_;
        if (sections_ != 0) set_key_register(writing);
    }

private:
    unsigned sections_ = 0;
};

} // namespace overlays
} // namespace directmap::kernel

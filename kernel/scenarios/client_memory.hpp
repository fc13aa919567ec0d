// What users of the map stand on in this kernel: an area each, and memory that can be written.
#pragma once

#include "cpu/cpu.hpp"
#include "cpu/expected_fault.hpp"
#include "cpu/registers.hpp"
#include "directmap/area.hpp"
#include "memory/kernel_map.hpp"
#include "scenarios/scenario.hpp"

namespace directmap::kernel {

using ClientArea = Area<Format, KernelMap>;

/// In the direct map's half, far beyond all RAM: there the upper tables are the engine's, for every granule.
inline constexpr VirtAddr code_area{0xffff'4000'0000'0000}, window_area{0xffff'6000'0000'0000};
inline constexpr std::uint64_t area_bits_count = Geometry::region_bytes / page_size / 64;

/// Memory as this kernel writes it. New instructions go out of the data cache, then out of every instruction cache.
struct KernelMemory {
    /// Who zeroes while nothing maps the page: here a window of its own.
    ClientArea& windows;

    void zero(PhysRange range) {
        auto window = windows.map({&range, 1}, Attributes{});
        require(window, "a window for zeroing");
        auto* words = reinterpret_cast<volatile std::uint64_t*>(window.value().start.value());
        for (std::uint64_t i = 0; i < range.size / sizeof(*words); ++i) words[i] = 0;
        if (!windows.unmap(window.value())) fail("a window that can't be closed");
    }
    void write(VirtAddr va, const void* from, std::size_t bytes) {
        auto* to = reinterpret_cast<volatile std::uint32_t*>(va.value());
        for (std::size_t i = 0; i < bytes / sizeof(*to); ++i) to[i] = static_cast<const std::uint32_t*>(from)[i];
        sync(va.value(), bytes);
    }
    void fill(VirtAddr va, std::uint32_t word, std::size_t bytes) {
        auto* to = reinterpret_cast<volatile std::uint32_t*>(va.value());
        for (std::size_t i = 0; i < bytes / sizeof(*to); ++i) to[i] = word;
        sync(va.value(), bytes);
    }
    static void sync(std::uint64_t va, std::uint64_t bytes) {
        const std::uint64_t line = std::uint64_t{4} << (read_ctr_el0() >> 16 & 0xf);
        for (std::uint64_t at = va; at < va + bytes; at += line) asm volatile("dc cvau, %0" ::"r"(at) : "memory");
        asm volatile("dsb ish\n\tic ialluis\n\tdsb ish\n\tisb" ::: "memory");
    }
};

/// Ends the run unless an access faulted, and so.
inline void must_fault(Stage& stage, const ProbeResult& result, FaultKind kind, const char* what) {
    if (!result.faulted) fail("{} on CPU {} must fault, but worked", what, this_cpu().index);
    if (result.syndrome.fault() != kind) fail("{} on CPU {} faulted, but wrongly", what, this_cpu().index);
    stage.tally.count_fault();
}

} // namespace directmap::kernel

// What this CPU can do, as far as the direct map cares.
#pragma once

#include "cpu/registers.hpp"
#include "directmap/gate.hpp"
#include "pure/no_abort_cpus.hpp"

namespace directmap::kernel {

struct CpuFeatures {
    unsigned break_before_make_level; ///< FEAT_BBM: 0–3
    bool resizes_without_aborts;      ///< by that level, or by its model
    bool range_invalidation;          ///< FEAT_TLBIRANGE
    bool level_hints;                 ///< FEAT_TTL
    bool permission_overlays;         ///< FEAT_S1POE
    std::uint64_t midr;
};

[[nodiscard]] inline CpuFeatures read_cpu_features() {
    const std::uint64_t mmfr2 = read_id_aa64mmfr2_el1();
    CpuFeatures features{};
    features.midr = read_midr_el1();
    features.break_before_make_level = id_field(mmfr2, 52);
    features.resizes_without_aborts = features.break_before_make_level >= 3 || is_no_abort_cpu(features.midr);
    features.range_invalidation = id_field(read_id_aa64isar0_el1(), 56) >= 2;
    features.level_hints = id_field(mmfr2, 48) >= 1;
    features.permission_overlays = id_field(read_id_aa64mmfr3_el1(), 16) >= 1;
    return features;
}

} // namespace directmap::kernel

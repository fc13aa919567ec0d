#include "cpu/overlays.hpp"

#include "cpu/features.hpp"
#include "cpu/translation.hpp"

namespace directmap::kernel::overlays {

constinit Overlays mode = Overlays::off;

bool start_on_this_cpu() {
    constexpr std::uint64_t overlays_enabled = 1u << 3; // TCR2_EL1.POE
    if (mode == Overlays::on) {
        if (!read_cpu_features().permission_overlays) return false;
        // First what each key allows, then that it counts: in the other order every access in between would be checked
        // against whatever the register held.
        write_por_el1(reading);
        isb();
        write_tcr2_el1(read_tcr2_el1() | overlays_enabled);
        isb();
        invalidate_local_tlb(); // the bit may be cached in TLB entries
    } else {
        this_cpu().key_register = reading;
    }
    return true;
}

} // namespace directmap::kernel::overlays

#include "cpu/overlays.hpp"

#include "cpu/features.hpp"
#include "cpu/translation.hpp"

namespace directmap::kernel::overlays {

constinit Overlays mode = Overlays::off;

bool start_on_this_cpu() {
    if (mode == Overlays::off) {
        this_cpu().key_register = Sections::open;
        return true;
    }
    if (mode == Overlays::on && !read_cpu_features().permission_overlays) return false;
    Sections::enable();
    invalidate_local_tlb(); // TCR2_EL1.POE may be cached in TLB entries
    return true;
}

} // namespace directmap::kernel::overlays

// Bringing the other CPUs up, and down again.
#pragma once

#include "boot/machine.hpp"
#include "directmap/gate.hpp"

namespace directmap::kernel {

/// Starts a CPU by PSCI and admits it to the direct map through the engine's gate; it is idle afterwards. False if the
/// gate refused it: then it is off again. By the boot CPU. Whatever else goes wrong ends the run.
[[nodiscard]] bool bring_up(unsigned cpu, const Machine& machine, AdmissionPolicy policy = AdmissionPolicy::repaint);

/// Turns an idle CPU off.
void bring_down(unsigned cpu);

/// `bring_up` for the machine's CPUs, but for those that the command line declares unable to tolerate live resizing:
/// they come late (scenarios/admission.cpp).
void bring_up_able(const Machine& machine);

} // namespace directmap::kernel

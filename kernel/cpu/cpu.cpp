#include "cpu/cpu.hpp"

namespace directmap::kernel {

constinit Cpu cpus[max_cpus];

} // namespace directmap::kernel

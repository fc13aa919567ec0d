#include "memory/image.hpp"

namespace directmap::kernel {

constinit PhysAddr image_pa;

} // namespace directmap::kernel

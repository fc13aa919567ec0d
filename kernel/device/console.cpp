#include "device/console.hpp"

namespace directmap::kernel {

constinit Console console;

} // namespace directmap::kernel

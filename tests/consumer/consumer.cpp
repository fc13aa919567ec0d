// What somebody else's project does with the engine, in the three ways in which it can be found.
#include "directmap/geometry.hpp"
#include "directmap/units.hpp"

#include <cstdio>

int main() {
    std::puts("consumer: built");
}

// Everything an embedder needs.
#pragma once

#include "directmap/arm64/format.hpp"
#include "directmap/direct_map.hpp"
#include "directmap/epochs.hpp"
#include "directmap/platform.hpp"
#include "directmap/table_memory.hpp"

// Who works on a search beyond this process: the processes that `mpirun` has started, on as many hosts as there are.
#pragma once

#include "machine/search.hpp"

#include <memory>

namespace directmap::tool {

/// What this process is among those that were started together.
struct Crew {
    std::unique_ptr<machine::Workers> workers; ///< null: nobody else was started
    bool served = false;                       ///< this process was one of the workers; all is done
};

/// Joins the other processes of `mpirun`, if there are any. The first one gets the others as workers; in them the call
/// returns when there is nothing left to do. Throws InputError if this program was built without MPI and yet started
/// by it: each process would do everything.
[[nodiscard]] Crew join_crew();

} // namespace directmap::tool

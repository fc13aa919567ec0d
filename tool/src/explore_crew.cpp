#include "explore_crew.hpp"

#include "input_error.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string>

#ifdef DIRECTMAP_MPI
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>
#include <unistd.h>
#endif

namespace directmap::tool {

namespace {

/// How many processes were started together, as the starters of Open MPI and of MPICH say.
int processes() {
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
        if (const char* const size = std::getenv(name)) return std::atoi(size);
    }
    return 1;
}

#ifdef DIRECTMAP_MPI

/// Waits for a message without keeping a core busy: whoever computes may need it.
int wait_for_message(MPI_Status& status) {
    constexpr useconds_t microseconds = 100;
    for (int there = 0;;) {
        MPI_Iprobe(MPI_ANY_SOURCE, 0, MPI_COMM_WORLD, &there, &status);
        if (there != 0) break;
        usleep(microseconds);
    }
    int size = 0;
    MPI_Get_count(&status, MPI_CHAR, &size);
    return size;
}

std::string receive_message(int& from) {
    MPI_Status status;
    std::string message(static_cast<std::size_t>(wait_for_message(status)), '\0');
    from = status.MPI_SOURCE;
    MPI_Recv(message.data(), static_cast<int>(message.size()), MPI_CHAR, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return message;
}

void send_message(const std::string& message, int to) {
    MPI_Send(message.data(), static_cast<int>(message.size()), MPI_CHAR, to, 0, MPI_COMM_WORLD);
}

/// The processes but the first, as it sees them. An empty request sends them home.
class Others final : public machine::Workers {
public:
    explicit Others(int processes) : processes_{processes} {}
    Others(const Others&) = delete;
    Others& operator=(const Others&) = delete;
    ~Others() override {
        for (int rank = 1; rank < processes_; ++rank) send_message({}, rank);
        MPI_Finalize();
    }
    [[nodiscard]] unsigned count() const override { return static_cast<unsigned>(processes_ - 1); }
    void send(unsigned worker, const std::string& request) override {
        send_message(request, static_cast<int>(worker) + 1);
    }
    [[nodiscard]] unsigned receive(std::string& answer) override {
        int from = 0;
        answer = receive_message(from);
        return static_cast<unsigned>(from - 1);
    }

private:
    int processes_;
};

#endif

} // namespace

Crew join_crew() {
    if (processes() <= 1) return {};
#ifdef DIRECTMAP_MPI
    int rank = 0, size = 1;
    if (MPI_Init(nullptr, nullptr) != MPI_SUCCESS) throw std::runtime_error("MPI_Init fails");
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (rank == 0) return {std::make_unique<Others>(size), false};
    machine::Worker worker;
    for (;;) {
        int from = 0;
        const std::string request = receive_message(from);
        if (request.empty()) break;
        send_message(worker.answer(request), from);
    }
    MPI_Finalize();
    return {nullptr, true};
#else
    throw InputError("mpirun", 0, "this directmap was built without MPI; install libopenmpi-dev and build it again");
#endif
}

} // namespace directmap::tool

// Searches by any number of workers. A search is cut into units, always the same ones; who works on which, and in what
// order they end, changes nothing: results are put together in the order of the search, and what comes after its first
// violation doesn't count.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "machine/explorer.hpp"

namespace directmap::machine {

/// What is searched, by name: it goes to other processes.
struct Search {
    std::string scenario;
    std::string fault; ///< empty: none
    SearchMode mode;
};

/// Works on units, one message after the other.
class Worker {
public:
    Worker();
    ~Worker();
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    /// The answer to a request of `search_all`. What goes wrong is part of the answer.
    [[nodiscard]] std::string answer(const std::string& request);

private:
    std::string scenario_, fault_;
    std::unique_ptr<Explorer> explorer_; ///< kept while requests are about the same search
};

/// Those who work: this process, its children, or processes on other hosts.
class Workers {
public:
    virtual ~Workers() = default;
    [[nodiscard]] virtual unsigned count() const = 0;
    /// Gives `worker`, who has nothing to do, a request.
    virtual void send(unsigned worker, const std::string& request) = 0;
    /// Waits for the next answer and tells whose it is. Throws std::runtime_error when a worker is lost.
    [[nodiscard]] virtual unsigned receive(std::string& answer) = 0;
};

/// `jobs` child processes; with one job, this process itself.
[[nodiscard]] std::unique_ptr<Workers> local_workers(unsigned jobs);

/// How far the searches are: called after every answer.
struct Progress {
    const std::vector<Tally>& tallies; ///< what is certain, in the order of the searches
    std::size_t finished = 0;          ///< how many of them, from the first on, are complete
};
using Watcher = std::function<void(const Progress&)>;

/// All of the searches. Throws std::runtime_error when a worker fails.
[[nodiscard]] std::vector<Tally> search_all(const std::vector<Search>& searches, Workers& workers,
                                            const Watcher& watcher = {});

} // namespace directmap::machine

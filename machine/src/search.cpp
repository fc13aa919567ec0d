#include "machine/search.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <list>
#include <optional>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "machine/message.hpp"

namespace directmap::machine {

// ---- requests and answers ------------------------------------------------------------------------------------------

namespace {

std::string request_of(const Search& search, const Unit& unit) {
    MessageWriter out;
    out.text(search.scenario);
    out.text(search.fault);
    out.number(static_cast<std::uint64_t>(search.mode.kind));
    out.number(search.mode.bound);
    out.number(search.mode.seed);
    out.number(search.mode.runs);
    out.number(search.mode.reduce ? 1 : 0);
    out.text(unit.serialize());
    return out.take();
}

std::string answer_of(const UnitResult& result) {
    MessageWriter out;
    out.number(1);
    out.text(result.tally.serialize());
    out.number(result.rest.size());
    for (const Unit& unit : result.rest) out.text(unit.serialize());
    return out.take();
}

std::string failure_of(const std::string& what) {
    MessageWriter out;
    out.number(0);
    out.text(what);
    return out.take();
}

UnitResult parse_answer(const std::string& answer) {
    MessageReader in{answer};
    if (in.number() == 0) throw std::runtime_error(in.text());
    UnitResult result;
    result.tally = Tally::parse(in.text());
    result.rest.resize(in.count());
    for (Unit& unit : result.rest) unit = Unit::parse(in.text());
    return result;
}

} // namespace

Worker::Worker() = default;
Worker::~Worker() = default;

std::string Worker::answer(const std::string& request) {
    try {
        MessageReader in{request};
        const std::string scenario = in.text(), fault = in.text();
        SearchMode mode;
        mode.kind = static_cast<SearchMode::Kind>(in.number());
        mode.bound = static_cast<unsigned>(in.number());
        mode.seed = in.number();
        mode.runs = in.number();
        mode.reduce = in.number() != 0;
        const Unit unit = Unit::parse(in.text());
        if (!explorer_ || scenario != scenario_ || fault != fault_) {
            const Scenario* const found = find_scenario(scenario);
            const SeededFault* const seeded = fault.empty() ? nullptr : find_fault(fault);
            if (found == nullptr || (!fault.empty() && seeded == nullptr))
                return failure_of(
                    fmt::format("a worker doesn't know {} {}: it is of another version", scenario, fault));
            explorer_ = std::make_unique<Explorer>(*found, seeded);
            scenario_ = scenario;
            fault_ = fault;
        }
        return answer_of(explorer_->work(mode, unit));
    } catch (const std::exception& error) {
        return failure_of(error.what());
    }
}

// ---- workers on this host ------------------------------------------------------------------------------------------

namespace {

/// This process.
class Alone final : public Workers {
public:
    [[nodiscard]] unsigned count() const override { return 1; }
    void send(unsigned, const std::string& request) override { request_ = request; }
    [[nodiscard]] unsigned receive(std::string& answer) override {
        answer = worker_.answer(request_);
        return 0;
    }

private:
    Worker worker_;
    std::string request_;
};

[[nodiscard]] bool read_all(int socket, char* to, std::size_t size) {
    while (size != 0) {
        const ssize_t got = recv(socket, to, size, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        to += got;
        size -= static_cast<std::size_t>(got);
    }
    return true;
}

[[nodiscard]] bool write_all(int socket, const char* from, std::size_t size) {
    while (size != 0) {
        // A reader that is gone must be an error here, not the end of this process.
        const ssize_t put = ::send(socket, from, size, MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        from += put;
        size -= static_cast<std::size_t>(put);
    }
    return true;
}

[[nodiscard]] bool read_message(int socket, std::string& message) {
    std::uint64_t size = 0;
    if (!read_all(socket, reinterpret_cast<char*>(&size), sizeof size)) return false;
    message.resize(size);
    return read_all(socket, message.data(), size);
}

[[nodiscard]] bool write_message(int socket, const std::string& message) {
    const std::uint64_t size = message.size();
    return write_all(socket, reinterpret_cast<const char*>(&size), sizeof size) &&
           write_all(socket, message.data(), message.size());
}

/// Processes forked from this one, each at the other end of a socket; they end when it closes.
class Children final : public Workers {
public:
    explicit Children(unsigned jobs) {
        std::fflush(nullptr); // a child must not print again what waits to be printed
        for (unsigned i = 0; i < jobs; ++i) {
            int ends[2];
            if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) fail("socketpair");
            const pid_t pid = fork();
            if (pid < 0) fail("fork");
            if (pid == 0) {
                close(ends[0]);
                for (const pollfd& other : sockets_) close(other.fd);
                serve(ends[1]);
            }
            close(ends[1]);
            sockets_.push_back({ends[0], POLLIN, 0});
            pids_.push_back(pid);
        }
    }
    Children(const Children&) = delete;
    Children& operator=(const Children&) = delete;
    ~Children() override {
        for (const pollfd& socket : sockets_) close(socket.fd);
        for (const pid_t pid : pids_) {
            while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
            }
        }
    }

    [[nodiscard]] unsigned count() const override { return static_cast<unsigned>(sockets_.size()); }
    void send(unsigned worker, const std::string& request) override {
        if (!write_message(sockets_[worker].fd, request)) lost(worker);
    }
    [[nodiscard]] unsigned receive(std::string& answer) override {
        while (poll(sockets_.data(), sockets_.size(), -1) < 0) {
            if (errno != EINTR) fail("poll");
        }
        for (unsigned worker = 0; worker < sockets_.size(); ++worker) {
            if (sockets_[worker].revents == 0) continue;
            if (!read_message(sockets_[worker].fd, answer)) lost(worker);
            return worker;
        }
        throw std::logic_error("poll returns, and nobody has anything to say");
    }

private:
    [[noreturn]] static void serve(int socket) {
        {
            Worker worker;
            for (std::string request; read_message(socket, request);) {
                if (!write_message(socket, worker.answer(request))) break;
            }
        }
        _exit(0);
    }
    [[noreturn]] static void fail(const char* call) {
        throw std::runtime_error(fmt::format("{}: {}", call, std::strerror(errno)));
    }
    [[noreturn]] void lost(unsigned worker) const {
        throw std::runtime_error(fmt::format("worker process {} has died", pids_[worker]));
    }

    std::vector<pollfd> sockets_;
    std::vector<pid_t> pids_;
};

} // namespace

std::unique_ptr<Workers> local_workers(unsigned jobs) {
    if (jobs <= 1) return std::make_unique<Alone>();
    return std::make_unique<Children>(jobs);
}

// ---- putting it together -------------------------------------------------------------------------------------------

namespace {

/// A search under way: its units in the order of the search.
class UnderWay {
public:
    struct Part {
        Unit unit;
        std::optional<Tally> tally; ///< once it has been worked on
        bool given_out = false;
        bool of_no_interest = false; ///< comes after a violation
    };

    explicit UnderWay(const Search& search) {
        for (Unit& unit : Explorer::first_units(search.mode))
            parts_.push_back(std::make_shared<Part>(Part{std::move(unit), {}, false, false}));
    }

    /// The first unit that nobody works on; null if there is none at the moment.
    [[nodiscard]] std::shared_ptr<Part> next() {
        for (const auto& part : parts_) {
            if (part->given_out) continue;
            part->given_out = true;
            return part;
        }
        return nullptr;
    }
    void answered(const std::shared_ptr<Part>& part, UnitResult result) {
        if (part->of_no_interest) return;
        auto after = parts_.begin();
        while (*after != part) ++after;
        ++after;
        part->unit = {};
        for (Unit& unit : result.rest)
            parts_.insert(after, std::make_shared<Part>(Part{std::move(unit), {}, false, false}));
        if (result.tally.failure) {
            for (auto it = after; it != parts_.end(); ++it) (*it)->of_no_interest = true;
            parts_.erase(after, parts_.end());
        }
        part->tally = std::move(result.tally);
        for (; !parts_.empty() && parts_.front()->tally; parts_.pop_front()) total_.add(*parts_.front()->tally);
    }
    [[nodiscard]] bool finished() const { return parts_.empty(); }
    [[nodiscard]] const Tally& total() const { return total_; }

private:
    std::list<std::shared_ptr<Part>> parts_; ///< not yet part of the total
    Tally total_;
};

} // namespace

std::vector<Tally> search_all(const std::vector<Search>& searches, Workers& workers, const Watcher& watcher) {
    std::vector<UnderWay> under_way(searches.begin(), searches.end());
    std::vector<Tally> tallies(searches.size());
    std::size_t finished = 0;
    struct Task {
        std::size_t search = 0;
        std::shared_ptr<UnderWay::Part> part;
    };
    std::vector<Task> tasks(workers.count()); // of each worker
    unsigned busy = 0;
    while (finished != searches.size()) {
        for (unsigned worker = 0; worker < workers.count(); ++worker) {
            if (tasks[worker].part) continue;
            for (std::size_t i = finished; i < searches.size() && !tasks[worker].part; ++i) {
                if (auto part = under_way[i].next()) tasks[worker] = {i, std::move(part)};
            }
            if (!tasks[worker].part) break; // nothing to do at the moment, for anybody
            workers.send(worker, request_of(searches[tasks[worker].search], tasks[worker].part->unit));
            ++busy;
        }
        if (busy == 0) throw std::logic_error("a search has no end");
        std::string answer;
        const unsigned worker = workers.receive(answer);
        --busy;
        const Task task = std::exchange(tasks[worker], {});
        under_way[task.search].answered(task.part, parse_answer(answer));
        tallies[task.search] = under_way[task.search].total();
        while (finished != searches.size() && under_way[finished].finished()) ++finished;
        if (watcher) watcher({tallies, finished});
    }
    // Whoever still works does so in vain, on what comes after a violation.
    for (; busy != 0; --busy) {
        std::string answer;
        (void)workers.receive(answer);
    }
    return tallies;
}

} // namespace directmap::machine

// Many inputs at once: all cores, bounded memory, results in the order of the inputs.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>

namespace directmap::tool {

/// Puts the output of jobs that run side by side into the order of the jobs. The job whose turn it is writes through;
/// the others wait with what they have, and when that becomes much, they wait altogether.
class OrderedOutput {
public:
    using Write = std::function<void(const std::string&)>;

    /// At most `window` jobs are under way at a time, counted from the one whose turn it is.
    OrderedOutput(Write write, std::size_t window) : write_(std::move(write)), window_(window) {}

    /// A job under way. Waits until it may begin; however it ends, the next one gets its turn.
    class Turn {
    public:
        Turn(OrderedOutput& output, std::uint64_t job) : output_(output), job_(job) { output_.begin(job_); }
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;
        ~Turn() { output_.finish(job_); }

    private:
        OrderedOutput& output_;
        std::uint64_t job_;
    };

    void write(std::uint64_t job, const std::string& text);

private:
    void begin(std::uint64_t job);
    void finish(std::uint64_t job);

    struct Waiting {
        std::string text;
        bool finished = false;
    };

    void write_through();

    Write write_;
    std::size_t window_;
    std::mutex mutex_;
    std::condition_variable turn_;
    std::uint64_t next_ = 0;
    std::map<std::uint64_t, Waiting> waiting_;
};

/// Runs `job(0)` to `job(count - 1)` on `threads` threads, in ascending order. What a job throws ends the whole after
/// the jobs under way, and is thrown here.
void run_jobs(std::uint64_t count, std::size_t threads, const std::function<void(std::uint64_t)>& job);

/// How many threads the machine has room for; at least one.
[[nodiscard]] std::size_t usable_threads();

} // namespace directmap::tool

#include "analyze_fleet.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <sched.h>
#include <thread>
#include <vector>

namespace directmap::tool {
namespace {

/// What a job may hold back before it waits for its turn.
constexpr std::size_t most_text_waiting = std::size_t{1} << 20;

} // namespace

void OrderedOutput::begin(std::uint64_t job) {
    std::unique_lock lock(mutex_);
    turn_.wait(lock, [&] { return job < next_ + window_; });
}

void OrderedOutput::write(std::uint64_t job, const std::string& text) {
    std::unique_lock lock(mutex_);
    if (job != next_) {
        Waiting& waiting = waiting_[job];
        waiting.text += text;
        if (waiting.text.size() < most_text_waiting) return;
        // The job whose turn it is never waits, so the turn comes.
        turn_.wait(lock, [&] { return job == next_; });
        write_through();
        return;
    }
    write_through();
    write_(text);
}

void OrderedOutput::finish(std::uint64_t job) {
    const std::unique_lock lock(mutex_);
    waiting_[job].finished = true;
    while (true) {
        const auto front = waiting_.find(next_);
        if (front == waiting_.end()) return;
        write_through();
        if (!front->second.finished) return;
        waiting_.erase(front);
        ++next_;
        turn_.notify_all();
    }
}

/// Writes what the job whose turn it is has held back.
void OrderedOutput::write_through() {
    const auto front = waiting_.find(next_);
    if (front != waiting_.end() && !front->second.text.empty()) {
        write_(front->second.text);
        front->second.text.clear();
    }
}

void run_jobs(std::uint64_t count, std::size_t threads, const std::function<void(std::uint64_t)>& job) {
    std::atomic<std::uint64_t> next = 0;
    std::atomic<bool> failed = false;
    std::exception_ptr failure;
    const auto work = [&] {
        while (!failed) {
            const std::uint64_t index = next++;
            if (index >= count) return;
            try {
                job(index);
            } catch (...) {
                if (!failed.exchange(true)) failure = std::current_exception();
                return;
            }
        }
    };
    std::vector<std::thread> crew;
    for (std::size_t index = 1; index < std::min<std::uint64_t>(threads, count); ++index) crew.emplace_back(work);
    work();
    for (std::thread& thread : crew) thread.join();
    if (failure != nullptr) std::rethrow_exception(failure);
}

std::size_t usable_threads() {
    cpu_set_t usable;
    if (::sched_getaffinity(0, sizeof usable, &usable) == 0)
        return static_cast<std::size_t>(std::max(1, CPU_COUNT(&usable)));
    return std::max(1u, std::thread::hardware_concurrency());
}

} // namespace directmap::tool

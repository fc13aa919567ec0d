// The other CPUs, as hands that the boot CPU gives work to.
#pragma once

#include "device/interrupts.hpp"
#include "pure/boot_information.hpp"

namespace directmap::kernel {

/// What a CPU does next. Each CPU has one; every field is written by one side at a time, and `state` hands over.
struct alignas(128) Worker {
    enum class State : std::uint8_t {
        off,      ///< PSCI's
        arrived,  ///< its MMU is on, outside of the direct map; it has said what it can do
        admitted, ///< may enter the map
        refused,  ///< must turn itself off again
        idle,
        busy,
    };

    State state = State::off;
    bool stop = false; ///< with `busy`: turn yourself off
    void (*job)(void* context, unsigned cpu) = nullptr;
    void* context = nullptr;
};

extern Worker workers[max_cpus];

[[nodiscard]] Worker::State state_of(unsigned cpu);
/// Hands over to the other side and wakes it.
void set_state(unsigned cpu, Worker::State state);

/// What an admitted CPU does until it is told to stop.
void work();

/// CPUs that take jobs, the boot CPU not among them.
[[nodiscard]] inline bool is_idle(unsigned cpu) {
    return state_of(cpu) == Worker::State::idle;
}

/// Starts `job(context, cpu)` on a CPU that is idle.
void start_job(unsigned cpu, void (*job)(void* context, unsigned cpu), void* context);
/// Waits until it has finished.
void finish_job(unsigned cpu);

/// Runs `body(cpu)` on every idle CPU and on this one, all at once, and waits for all.
template <class Body>
void on_all_cpus(Body body) {
    const auto job = [](void* context, unsigned cpu) { (*static_cast<Body*>(context))(cpu); };
    bool started[max_cpus] = {};
    for (unsigned cpu = 1; cpu < max_cpus; ++cpu) {
        if (!is_idle(cpu)) continue;
        start_job(cpu, job, &body);
        started[cpu] = true;
    }
    body(0u);
    for (unsigned cpu = 1; cpu < max_cpus; ++cpu) {
        if (started[cpu]) finish_job(cpu);
    }
}

/// Runs `body(cpu)` on every idle CPU in the background, as long as this object lives; `body` must return soon after
/// its second argument (a `const bool&`) became true.
template <class Body>
class BackgroundWork {
public:
    explicit BackgroundWork(Body body) : body_{body} {
        for (unsigned cpu = 1; cpu < max_cpus; ++cpu) {
            if (!is_idle(cpu)) continue;
            start_job(cpu, run, this);
            started_[cpu] = true;
        }
    }
    BackgroundWork(const BackgroundWork&) = delete;
    BackgroundWork& operator=(const BackgroundWork&) = delete;
    ~BackgroundWork() { finish(); }

    /// Ends the work and waits for it.
    void finish() {
        __atomic_store_n(&stop_, true, __ATOMIC_RELEASE);
        for (unsigned cpu = 1; cpu < max_cpus; ++cpu) {
            if (started_[cpu]) finish_job(cpu);
            started_[cpu] = false;
        }
    }

private:
    static void run(void* self, unsigned cpu) {
        auto& work = *static_cast<BackgroundWork*>(self);
        work.body_(cpu, [&work] { return __atomic_load_n(&work.stop_, __ATOMIC_ACQUIRE); });
    }

    Body body_;
    bool stop_ = false;
    bool started_[max_cpus] = {};
};

} // namespace directmap::kernel

#include "cpu/workers.hpp"

#include "cpu/cpu.hpp"
#include "cpu/ending.hpp"
#include "cpu/psci.hpp"

namespace directmap::kernel {

constinit Worker workers[max_cpus];

Worker::State state_of(unsigned cpu) {
    return __atomic_load_n(&workers[cpu].state, __ATOMIC_ACQUIRE);
}

void set_state(unsigned cpu, Worker::State state) {
    __atomic_store_n(&workers[cpu].state, state, __ATOMIC_RELEASE);
    nudge(this_cpu().index == cpu ? 0 : cpu); // a CPU tells the boot CPU, the boot CPU tells it
}

void work() {
    const unsigned cpu = this_cpu().index;
    for (;;) {
        set_state(cpu, Worker::State::idle);
        wait_until([cpu] { return state_of(cpu) == Worker::State::busy; });
        Worker& worker = workers[cpu];
        if (worker.stop) return;
        worker.job(worker.context, cpu);
    }
}

void start_job(unsigned cpu, void (*job)(void* context, unsigned cpu), void* context) {
    workers[cpu].job = job;
    workers[cpu].context = context;
    set_state(cpu, Worker::State::busy);
}

void finish_job(unsigned cpu) {
    wait_until([cpu] { return state_of(cpu) == Worker::State::idle; });
}

} // namespace directmap::kernel

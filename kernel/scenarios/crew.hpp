// The other CPUs at work in a field, who look up when they are asked.
#pragma once

#include "cpu/workers.hpp"
#include "scenarios/field.hpp"

namespace directmap::kernel {

/// As long as a crew exists, every CPU but the boot CPU tends its part of the field, without pause: while the boot CPU
/// is inside of the engine too. `everyone` interrupts them for a question.
class Crew {
public:
    explicit Crew(Field& field) : field_{field} {
        for (unsigned cpu = 1; cpu < max_cpus; ++cpu) {
            if (is_idle(cpu)) tender_[cpu] = tenders_++;
        }
        for (unsigned cpu = 1; cpu < max_cpus; ++cpu) {
            if (is_idle(cpu)) {
                present_[cpu] = true;
                start_job(cpu, tend, this);
            }
        }
    }
    Crew(const Crew&) = delete;
    Crew& operator=(const Crew&) = delete;
    ~Crew() { dismiss(); }

    /// Runs `body(cpu)` on every CPU, the boot CPU included, and waits until all have.
    template <class Body>
    void everyone(Body body) {
        question_context_ = &body;
        question_ = [](void* context, unsigned cpu) { (*static_cast<Body*>(context))(cpu); };
        const unsigned asked = __atomic_add_fetch(&asked_, 1, __ATOMIC_RELEASE);
        wake_all();
        body(0u);
        for (unsigned cpu = 1; cpu < max_cpus; ++cpu) {
            if (!present_[cpu]) continue;
            wait_until([&] { return __atomic_load_n(&answered_[cpu], __ATOMIC_ACQUIRE) == asked; });
        }
    }

    /// Where there is no other CPU, the boot CPU tends the field between two changes.
    void tend_alone() {
        if (tenders_ == 0) field_.tend(0, 1);
    }

    /// Sends the others home and looks the field over.
    void dismiss() {
        if (dismissed()) return;
        __atomic_store_n(&dismissed_, true, __ATOMIC_RELEASE);
        wake_all();
        for (unsigned cpu = 1; cpu < max_cpus; ++cpu) {
            if (present_[cpu]) finish_job(cpu);
        }
        field_.check_all();
    }

private:
    static constexpr unsigned restless_tenders = 2;

    static void tend(void* self, unsigned cpu) {
        Crew& crew = *static_cast<Crew*>(self);
        unsigned answered = 0;
        const auto called = [&] { return crew.dismissed() || crew.asked() != answered; };
        while (!crew.dismissed()) {
            crew.field_.tend(crew.tender_[cpu], crew.tenders_);
            if (crew.tenders_ > restless_tenders) sleep_unless(called);
            if (const unsigned asked = crew.asked(); asked != answered) {
                crew.question_(crew.question_context_, cpu);
                answered = asked;
                __atomic_store_n(&crew.answered_[cpu], answered, __ATOMIC_RELEASE);
                nudge(0);
            }
        }
    }

    [[nodiscard]] bool dismissed() const { return __atomic_load_n(&dismissed_, __ATOMIC_ACQUIRE); }
    [[nodiscard]] unsigned asked() const { return __atomic_load_n(&asked_, __ATOMIC_ACQUIRE); }
    void wake_all() const {
        for (unsigned cpu = 1; cpu < max_cpus; ++cpu) {
            if (present_[cpu]) nudge(cpu);
        }
    }

    Field& field_;
    unsigned tenders_ = 0;
    unsigned tender_[max_cpus] = {};
    bool present_[max_cpus] = {};
    bool dismissed_ = false;
    unsigned asked_ = 0;
    unsigned answered_[max_cpus] = {};
    void (*question_)(void* context, unsigned cpu) = nullptr;
    void* question_context_ = nullptr;
};

} // namespace directmap::kernel

#include "machine/fiber.hpp"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <new>
#include <utility>

// The sanitizers follow stacks, so they must be told when the stack changes.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DIRECTMAP_ADDRESS_SANITIZER 1
#endif
#if __has_feature(thread_sanitizer)
#define DIRECTMAP_THREAD_SANITIZER 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define DIRECTMAP_ADDRESS_SANITIZER 1
#endif
#if defined(__SANITIZE_THREAD__)
#define DIRECTMAP_THREAD_SANITIZER 1
#endif
#ifdef DIRECTMAP_ADDRESS_SANITIZER
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef DIRECTMAP_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
#endif

namespace directmap::machine {

struct Fiber::Context {
    ucontext_t registers{};
    void* stack = nullptr;
    std::size_t mapped = 0;
    std::function<void()> body;
    std::function<Fiber*()> next;
    Fiber* self = nullptr;
    const void* bounds = nullptr; ///< of the stack, as AddressSanitizer wants to know
    std::size_t bytes = 0;
    void* fake_stack = nullptr;
    void* thread = nullptr; ///< ThreadSanitizer's idea of it

    void enter_sanitizers([[maybe_unused]] Context& from) {
#ifdef DIRECTMAP_ADDRESS_SANITIZER
        const void* old_bounds = nullptr;
        std::size_t old_bytes = 0;
        __sanitizer_finish_switch_fiber(fake_stack, &old_bounds, &old_bytes);
        if (from.stack == nullptr) { // the thread's own stack: only now is it known
            from.bounds = old_bounds;
            from.bytes = old_bytes;
        }
#endif
    }
    void leave_sanitizers([[maybe_unused]] Context& to) {
#ifdef DIRECTMAP_ADDRESS_SANITIZER
        __sanitizer_start_switch_fiber(&fake_stack, to.bounds, to.bytes);
#endif
#ifdef DIRECTMAP_THREAD_SANITIZER
        __tsan_switch_to_fiber(to.thread, 0);
#endif
    }
};

namespace {

thread_local Fiber::Context* leaving = nullptr; // who switched last, for whoever arrives

/// A fiber's life: a body, then another one, for ever.
void live(unsigned high, unsigned low) {
    auto* context = reinterpret_cast<Fiber::Context*>((std::uintptr_t{high} << 32) | low);
    context->enter_sanitizers(*leaving);
    for (;;) {
        context->body();
        context->self->switch_to(*context->next());
    }
}

} // namespace

Fiber::Fiber() : context_{std::make_unique<Context>()} {
    context_->self = this;
#ifdef DIRECTMAP_THREAD_SANITIZER
    context_->thread = __tsan_get_current_fiber();
#endif
}

Fiber::Fiber(std::size_t stack_bytes) : Fiber() {
    // A page that faults below the stack: an overflow must not go into somebody else's memory.
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    context_->mapped = stack_bytes + page;
    void* const memory = mmap(nullptr, context_->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) throw std::bad_alloc{};
    context_->stack = memory;
    context_->bounds = static_cast<char*>(memory) + page;
    context_->bytes = stack_bytes;
#ifdef DIRECTMAP_THREAD_SANITIZER
    context_->thread = __tsan_create_fiber(0);
#endif
    getcontext(&context_->registers);
    context_->registers.uc_stack.ss_sp = static_cast<char*>(memory) + page;
    context_->registers.uc_stack.ss_size = stack_bytes;
    const auto address = reinterpret_cast<std::uintptr_t>(context_.get());
    makecontext(&context_->registers, reinterpret_cast<void (*)()>(live), 2, static_cast<unsigned>(address >> 32),
                static_cast<unsigned>(address));
}

Fiber::~Fiber() {
    if (context_->stack == nullptr) return;
#ifdef DIRECTMAP_THREAD_SANITIZER
    __tsan_destroy_fiber(context_->thread);
#endif
    munmap(context_->stack, context_->mapped);
}

void Fiber::start(std::function<void()> body, std::function<Fiber*()> next) {
    context_->body = std::move(body);
    context_->next = std::move(next);
}

void Fiber::switch_to(Fiber& to) {
    if (&to == this) return;
    Context& here = *context_;
    leaving = &here;
    here.leave_sanitizers(*to.context_);
    swapcontext(&here.registers, &to.context_->registers);
    here.enter_sanitizers(*leaving);
}

} // namespace directmap::machine

// Threads of control that switch by hand, on stacks of their own: how the explorer runs several CPUs in one thread.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace directmap::machine {

/// A fiber, or the thread that created a `Fiber{}` without a stack. Exceptions must not leave the body.
class Fiber {
public:
    /// The current thread of control itself: what others switch back to.
    Fiber();
    /// A fiber that `start` gives something to do.
    explicit Fiber(std::size_t stack_bytes);
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;
    ~Fiber();

    /// The next switch here runs `body`, which must end by switching away for good and be started anew, never by being
    /// destroyed half-way. After it returns, control goes to whatever `next` returns.
    void start(std::function<void()> body, std::function<Fiber*()> next);
    /// Leaves `this`, which is running, and continues `to`.
    void switch_to(Fiber& to);

    struct Context; ///< how it is done; in fiber.cpp

private:
    std::unique_ptr<Context> context_;
};

} // namespace directmap::machine

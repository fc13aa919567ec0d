#include "cpu/exceptions.hpp"

#include "boot/stacks.hpp"
#include "cpu/barriers.hpp"
#include "cpu/cpu.hpp"
#include "cpu/ending.hpp"
#include "cpu/overlays.hpp"
#include "memory/image.hpp"
#include "pure/symbols.hpp"

extern "C" {
extern const char exception_vectors[];
extern const directmap::kernel::SymbolTable symbol_table;
}

namespace directmap::kernel {

namespace {

/// Prints an address as `function+0x12`, or as a number if it is none of ours.
void print_place(TextSink sink, std::uint64_t pc) {
    if (pc < image_base || pc >= text_end_va()) {
        format(sink, "{}", Hex{pc});
        return;
    }
    const SymbolTable::Place place = symbol_table.find(pc - image_base);
    format(sink, "{}+{}", place.function, Hex{place.offset});
}

void print_caller(TextSink sink, std::uint64_t return_address) {
    format(sink, "  called from ");
    print_place(sink, return_address - 4);
    format(sink, "\n");
}

/// Where a function that has no frame of its own returns to; 0 if x30 is left over from a call that the function made.
std::uint64_t caller_without_frame(const ExceptionFrame& frame) {
    const auto in_text = [](std::uint64_t pc) { return pc >= image_base && pc < text_end_va(); };
    if (!in_text(frame.x[30])) return 0;
    const auto function = [](std::uint64_t pc) { return symbol_table.find(pc - image_base).function.data(); };
    return in_text(frame.pc) && function(frame.pc) == function(frame.x[30] - 4) ? 0 : frame.x[30];
}

/// Return addresses: the one in x30 if it isn't in a frame yet, then by the frame pointers; stops at the first that
/// doesn't lie in this CPU's stacks.
void print_backtrace(TextSink sink, const ExceptionFrame& frame) {
    constexpr unsigned most = 16;
    const std::uint64_t first = caller_without_frame(frame);
    std::uint64_t fp = frame.x[29];
    for (unsigned i = 0; i < most && in_stacks_of(this_cpu().index, fp); ++i) {
        const auto* const link = reinterpret_cast<const std::uint64_t*>(fp);
        if (link[1] == 0) break;
        if (i == 0 && first != 0 && first != link[1]) print_caller(sink, first);
        print_caller(sink, link[1]);
        if (link[0] <= fp) break;
        fp = link[0];
    }
}

void print_registers(TextSink sink, const ExceptionFrame& frame) {
    for (unsigned i = 0; i < 31; ++i) {
        format(sink, "  x{}{}", i, i < 10 ? "  " : " ");
        format(sink, "{}{}", Hex{frame.x[i], 16}, i % 4 == 3 ? "\n" : "");
    }
    format(sink, "  sp   {}\n", Hex{frame.sp, 16});
    format(sink, "  pc   {}  pstate {}  esr {}  far {}\n", Hex{frame.pc, 16}, Hex{frame.pstate, 8}, Hex{frame.esr, 8},
           Hex{frame.far, 16});
}

[[noreturn]] void report(const ExceptionFrame& frame, std::string_view what) {
    TextBuffer<256> cause;
    if (claim_verdict()) {
        // Without the console's lock: whoever holds it may be the one that failed.
        const TextSink sink = console.sink();
        format(sink, "\n");
        print_registers(sink, frame);
        print_backtrace(sink, frame);
        const Syndrome syndrome{frame.esr};
        format(cause.sink(), "{}", what);
        syndrome.describe(cause.sink());
        if (syndrome.data_abort() || syndrome.instruction_abort()) {
            format(cause.sink(), " at {}{}", Hex{frame.far}, in_guard_page(frame.far) ? " (stack guard page)" : "");
        }
        format(cause.sink(), ", in ");
        print_place(cause.sink(), frame.pc);
        format(cause.sink(), " on CPU {}", this_cpu().index);
    }
    end_with_failure(cause.view(), ExitCode::failed);
}

/// Whether the fault is the one that a probe waits for; if so, records it and skips to where the probe goes on.
bool take_expected_fault(ExceptionFrame& frame) {
    ExpectedFault& expected = this_cpu().expected;
    if (expected.instruction == 0 || frame.pc != expected.instruction) return false;
    expected.happened = true;
    expected.syndrome = Syndrome{frame.esr};
    expected.address = frame.far;
    frame.pc = expected.resume;
    return true;
}

} // namespace

void use_exception_vectors() {
    asm volatile("msr vbar_el1, %0" ::"r"(exception_vectors) : "memory");
    isb();
}

} // namespace directmap::kernel

using namespace directmap::kernel;

extern "C" void handle_synchronous(ExceptionFrame& frame, unsigned) {
    const overlays::Sections::Exception outside_of_sections;
    if (!take_expected_fault(frame)) report(frame, "unexpected ");
}

extern "C" void handle_unexpected(ExceptionFrame& frame, unsigned vector) {
    static constexpr const char* kinds[] = {"synchronous exception", "interrupt", "fast interrupt", "SError"};
    static constexpr const char* sources[] = {"", " inside of an exception handler", " from a lower level",
                                              " from a 32-bit level"};
    TextBuffer<96> what;
    format(what.sink(), "{}{}: ", kinds[vector % 4], sources[vector / 4 % 4]);
    report(frame, what.view());
}

#include "pure/syndrome.hpp"

namespace directmap::kernel {

namespace {

const char* class_name(unsigned exception_class) {
    switch (exception_class) {
    case 0x00: return "undefined instruction";
    case 0x07: return "floating point is not available";
    case 0x0e: return "illegal execution state";
    case 0x15: return "supervisor call";
    case 0x18: return "trapped system register access";
    case 0x22: return "misaligned program counter";
    case 0x26: return "misaligned stack pointer";
    case 0x2f: return "SError";
    case 0x3c: return "breakpoint instruction";
    default: return nullptr;
    }
}

} // namespace

void Syndrome::describe(TextSink sink) const {
    if (!data_abort() && !instruction_abort()) {
        if (const char* name = class_name(exception_class())) {
            format(sink, name);
        } else {
            format(sink, "exception of class {}", Hex{exception_class()});
        }
        return;
    }
    format(sink, instruction_abort() ? "instruction fetch: " : write() ? "store: " : "load: ");
    switch (fault()) {
    case FaultKind::address_size: format(sink, "address size fault at level {}", level()); break;
    case FaultKind::translation: format(sink, "translation fault at level {}", level()); break;
    case FaultKind::access_flag: format(sink, "access flag fault at level {}", level()); break;
    case FaultKind::permission: format(sink, "permission fault at level {}", level()); break;
    case FaultKind::alignment: format(sink, "alignment fault"); break;
    case FaultKind::conflict: format(sink, "TLB conflict"); break;
    case FaultKind::external: format(sink, "external abort: nothing answers there"); break;
    case FaultKind::none:
    case FaultKind::other: format(sink, "fault with status {}", Hex{esr_ & 0x3f}); break;
    }
}

} // namespace directmap::kernel

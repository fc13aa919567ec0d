// The exception vectors (Arm ARM D1.3.1.5). Code runs on SP_EL0; an exception switches to SP_EL1, the exception stack,
// so a fault on the first half's entries ("current EL with SP_EL0") can always save its registers. An exception while
// one is being handled ("current EL with SP_EL1") is never right and is only reported: on the other stack, because it may
// be the exception stack that has run into its guard page.

#define FRAME_SIZE (36 * 8)                 // struct ExceptionFrame

    .macro save_frame stack_pointer
    sub     sp, sp, #FRAME_SIZE
    stp     x0, x1, [sp, #0x00]
    stp     x2, x3, [sp, #0x10]
    stp     x4, x5, [sp, #0x20]
    stp     x6, x7, [sp, #0x30]
    stp     x8, x9, [sp, #0x40]
    stp     x10, x11, [sp, #0x50]
    stp     x12, x13, [sp, #0x60]
    stp     x14, x15, [sp, #0x70]
    stp     x16, x17, [sp, #0x80]
    stp     x18, x19, [sp, #0x90]
    stp     x20, x21, [sp, #0xa0]
    stp     x22, x23, [sp, #0xb0]
    stp     x24, x25, [sp, #0xc0]
    stp     x26, x27, [sp, #0xd0]
    stp     x28, x29, [sp, #0xe0]
    .ifc \stack_pointer, sp_el0
    mrs     x0, sp_el0
    .else
    add     x0, sp, #FRAME_SIZE
    .endif
    mrs     x1, elr_el1
    mrs     x2, spsr_el1
    mrs     x3, esr_el1
    mrs     x4, far_el1
    stp     x30, x0, [sp, #0xf0]
    stp     x1, x2, [sp, #0x100]
    stp     x3, x4, [sp, #0x110]
    .endm

    .macro vector handler, kind
    .balign 0x80
    save_frame sp_el0
    mov     x0, sp
    mov     x1, #\kind
    bl      \handler
    b       return_from_exception
    .endm

    .macro nested_vector kind
    .balign 0x80
    msr     spsel, #0
    save_frame sp
    mov     x0, sp
    mov     x1, #\kind
    bl      handle_unexpected               // doesn't return
    .endm

    .text
    .balign 0x800
    .global exception_vectors
exception_vectors:
    vector  handle_synchronous, 0           // current EL with SP_EL0: what the kernel itself does
    vector  handle_interrupt, 1
    vector  handle_unexpected, 2            // FIQ
    vector  handle_unexpected, 3            // SError
    nested_vector 4                         // current EL with SP_EL1: inside a handler
    nested_vector 5
    nested_vector 6
    nested_vector 7
    vector  handle_unexpected, 8            // lower EL, AArch64: there is none
    vector  handle_unexpected, 9
    vector  handle_unexpected, 10
    vector  handle_unexpected, 11
    vector  handle_unexpected, 12           // lower EL, AArch32
    vector  handle_unexpected, 13
    vector  handle_unexpected, 14
    vector  handle_unexpected, 15

return_from_exception:
    ldp     x30, x0, [sp, #0xf0]
    ldp     x1, x2, [sp, #0x100]
    msr     sp_el0, x0
    msr     elr_el1, x1
    msr     spsr_el1, x2
    ldp     x0, x1, [sp, #0x00]
    ldp     x2, x3, [sp, #0x10]
    ldp     x4, x5, [sp, #0x20]
    ldp     x6, x7, [sp, #0x30]
    ldp     x8, x9, [sp, #0x40]
    ldp     x10, x11, [sp, #0x50]
    ldp     x12, x13, [sp, #0x60]
    ldp     x14, x15, [sp, #0x70]
    ldp     x16, x17, [sp, #0x80]
    ldp     x18, x19, [sp, #0x90]
    ldp     x20, x21, [sp, #0xa0]
    ldp     x22, x23, [sp, #0xb0]
    ldp     x24, x25, [sp, #0xc0]
    ldp     x26, x27, [sp, #0xd0]
    ldp     x28, x29, [sp, #0xe0]
    add     sp, sp, #FRAME_SIZE
    eret

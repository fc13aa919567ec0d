// Accesses that may fault. Each tells the CPU's ExpectedFault where the one instruction that may fault is and where to
// go on if it does; the handler records syndrome and address there. Without a fault the record stays empty.
//
//   x0: address   x1: struct ExpectedFault*   (x2: value to store)

#define EXPECTED_INSTRUCTION 0              // struct ExpectedFault
#define EXPECTED_RESUME 8

    .macro expect instruction, resume
    adr     x3, \resume
    adr     x4, \instruction
    stp     x4, x3, [x1, #EXPECTED_INSTRUCTION]
    .endm
    .macro expect_nothing
    stp     xzr, xzr, [x1, #EXPECTED_INSTRUCTION]
    .endm

    .text
    .global probe_load_at
probe_load_at:                              // returns what was loaded
    expect  1f, 2f
1:  ldr     x0, [x0]
2:  expect_nothing
    ret

    .global probe_store_at
probe_store_at:
    expect  1f, 2f
1:  str     x2, [x0]
2:  expect_nothing
    ret

    .global probe_call
probe_call:                                 // calls the function at x0, whose first fetch may fault
    stp     x30, x1, [sp, #-16]!
    adr     x3, 2f
    stp     x0, x3, [x1, #EXPECTED_INSTRUCTION] // a failing fetch faults at its target
    blr     x0
    b       3f
2:  mov     x0, xzr
3:  ldp     x30, x1, [sp], #16
    expect_nothing
    ret

    .global probe_semihosting
probe_semihosting:                          // w2: operation, x0: its argument; undefined if nobody listens
    expect  1f, 2f
    mov     x5, x0
    mov     w0, w2
    mov     x6, x1
    mov     x1, x5
1:  hlt     #0xf000
2:  mov     x1, x6
    expect_nothing
    ret

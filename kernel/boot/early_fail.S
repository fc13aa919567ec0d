// Failure before there is anything: no console, no stack, perhaps not even the right place in memory. Uses only
// addresses relative to the program counter by bytes (`adr`), which are right wherever the image was loaded.

// QEMU virt's console. Before the device tree is read there is no better place for an error.
    .equ    uart_physical, 0x09000000
    .equ    uart_flags, 0x18
    .equ    uart_transmit_full_bit, 5

    .section .head, "ax"

// Prints `directmap-kernel: FAIL: <x0: text> <x1: number>` and ends the machine. MMU off, or on with the identity map
// (which has the console too). Doesn't return.
    .global early_fail
early_fail:
    mov     x20, x0
    mov     x21, x1
    movz    x22, #(uart_physical >> 16), lsl #16
    adr     x0, verdict
    bl      put_text
    mov     x0, x20
    bl      put_text
    adr     x0, number_prefix
    bl      put_text
    mov     x23, #60                        // the lowest bit of the digit to print
1:  lsr     x0, x21, x23
    and     x0, x0, #0xf
    add     x1, x0, #'0'
    add     x0, x0, #('a' - 10)
    cmp     x0, #'a'
    csel    x0, x0, x1, hs
    bl      put_character
    subs    x23, x23, #4
    b.pl    1b
    mov     x0, #'\n'
    bl      put_character
    b       end_machine

put_text:                                   // x0: zero-terminated
    mov     x24, x0
    mov     x25, x30
1:  ldrb    w0, [x24], #1
    cbz     w0, 2f
    bl      put_character
    b       1b
2:  ret     x25

put_character:                              // w0
1:  ldr     w2, [x22, #uart_flags]
    tbnz    w2, #uart_transmit_full_bit, 1b
    strb    w0, [x22]
    ret

end_machine:                                // by semihosting (SYS_EXIT_EXTENDED), which gives an exit code
    mov     w0, #0x20
    adr     x1, exit_block
    hlt     #0xf000
1:  wfe                                     // nobody listens: the console has said it all
    b       1b

    .balign 8
exit_block:
    .quad   0x20026                         // ADP_Stopped_ApplicationExit
    .quad   1                               // the exit code
verdict:
    .asciz  "directmap-kernel: FAIL: "
number_prefix:
    .asciz  " 0x"
    .balign 4

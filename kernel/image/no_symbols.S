// The table of functions (pure/symbols.hpp) for the first link, when nobody knows them yet.
    .section .symbols, "a"
    .balign 8
    .global symbol_table
symbol_table:
    .long   0

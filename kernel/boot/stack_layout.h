// The stacks of one CPU, from low to high addresses. Shared by assembly and C++.
//
//   guard page │ exception stack │ guard page │ stack
//
// A guard page is not mapped, so that a stack that grows too far faults instead of overwriting its neighbour.
#pragma once

#define GUARD_SIZE DIRECTMAP_PAGE_SIZE
#define EXCEPTION_STACK_SIZE 0x10000
#define STACK_SIZE 0x10000

#define EXCEPTION_STACK_BOTTOM GUARD_SIZE
#define EXCEPTION_STACK_TOP (EXCEPTION_STACK_BOTTOM + EXCEPTION_STACK_SIZE)
#define STACK_BOTTOM (EXCEPTION_STACK_TOP + GUARD_SIZE)
#define STACK_TOP (STACK_BOTTOM + STACK_SIZE)
#define STACKS_OF_A_CPU STACK_TOP

// Barriers. Each is also one for the compiler.
#pragma once

namespace directmap::kernel {

/// Earlier stores are visible to every CPU's walks.
inline void dsb_ishst() {
    asm volatile("dsb ishst" ::: "memory");
}
/// Earlier accesses and TLB maintenance have finished on every CPU.
inline void dsb_ish() {
    asm volatile("dsb ish" ::: "memory");
}
inline void dsb_sy() {
    asm volatile("dsb sy" ::: "memory");
}
/// This CPU's later instructions see what happened before.
inline void isb() {
    asm volatile("isb" ::: "memory");
}
/// Waits for an event; wakes the others that wait.
inline void wfe() {
    asm volatile("wfe" ::: "memory");
}
inline void sev() {
    asm volatile("dsb ish\n\tsev" ::: "memory");
}
/// Waits for an interrupt, masked or not.
inline void wfi() {
    asm volatile("dsb sy\n\twfi" ::: "memory");
}

} // namespace directmap::kernel

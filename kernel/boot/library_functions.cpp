// The functions of a C library that a compiler calls on its own, and the two that <string_view> uses.
// Plain word loops; the image uses no vector registers.
#include <cstddef>
#include <cstdint>

namespace {

using Word = std::uint64_t __attribute__((may_alias));

bool words_possible(const void* a, const void* b) {
    return ((reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b)) % sizeof(Word)) == 0;
}

} // namespace

extern "C" {

void* memcpy(void* to, const void* from, std::size_t size) {
    auto* target = static_cast<unsigned char*>(to);
    const auto* source = static_cast<const unsigned char*>(from);
    if (words_possible(to, from)) {
        for (; size >= 4 * sizeof(Word);
             size -= 4 * sizeof(Word), target += 4 * sizeof(Word), source += 4 * sizeof(Word)) {
            const auto* const in = reinterpret_cast<const Word*>(source);
            auto* const out = reinterpret_cast<Word*>(target);
            const Word a = in[0], b = in[1], c = in[2], d = in[3];
            out[0] = a;
            out[1] = b;
            out[2] = c;
            out[3] = d;
        }
        for (; size >= sizeof(Word); size -= sizeof(Word), target += sizeof(Word), source += sizeof(Word)) {
            *reinterpret_cast<Word*>(target) = *reinterpret_cast<const Word*>(source);
        }
    }
    for (; size != 0; --size) *target++ = *source++;
    return to;
}

void* memmove(void* to, const void* from, std::size_t size) {
    auto* target = static_cast<unsigned char*>(to);
    const auto* source = static_cast<const unsigned char*>(from);
    if (target <= source) return memcpy(to, from, size);
    while (size-- != 0) target[size] = source[size];
    return to;
}

void* memset(void* to, int value, std::size_t size) {
    auto* target = static_cast<unsigned char*>(to);
    const auto byte = static_cast<unsigned char>(value);
    if (words_possible(to, nullptr)) {
        const Word word = 0x0101'0101'0101'0101 * byte;
        for (; size >= 4 * sizeof(Word); size -= 4 * sizeof(Word), target += 4 * sizeof(Word)) {
            auto* const out = reinterpret_cast<Word*>(target);
            out[0] = out[1] = out[2] = out[3] = word;
        }
        for (; size >= sizeof(Word); size -= sizeof(Word), target += sizeof(Word))
            *reinterpret_cast<Word*>(target) = word;
    }
    for (; size != 0; --size) *target++ = byte;
    return to;
}

int memcmp(const void* a, const void* b, std::size_t size) {
    const auto* left = static_cast<const unsigned char*>(a);
    const auto* right = static_cast<const unsigned char*>(b);
    for (; size != 0; --size, ++left, ++right) {
        if (*left != *right) return *left - *right;
    }
    return 0;
}

std::size_t strlen(const char* text) {
    std::size_t length = 0;
    while (text[length] != '\0') ++length;
    return length;
}

void* memchr(const void* in, int wanted, std::size_t size) {
    const auto* byte = static_cast<const unsigned char*>(in);
    for (; size != 0; --size, ++byte) {
        if (*byte == static_cast<unsigned char>(wanted)) return const_cast<unsigned char*>(byte);
    }
    return nullptr;
}

/// In place of a function that a class was to have: nobody calls one.
void __cxa_pure_virtual() {
    __builtin_trap();
}

} // extern "C"

// The map as text, in the format that arm64 kernels print and that people have tools for:
//
//   0xffff000000000000-0xffff000000210000        2112K PTE       RW NX SHD AF        CON     UXN    MEM/NORMAL
//
// A line covers neighbouring leaves of one level that agree in everything printed; holes are lines without attributes.
#pragma once

#include <cstdint>

#include "directmap/core.hpp"
#include "directmap/walk.hpp"

namespace directmap {

namespace detail {

/// A line under construction. Appends what fits; the longest line does.
class LineBuffer {
public:
    void text(const char* s) {
        while (*s != '\0') put(*s++);
    }
    void hex(std::uint64_t value) {
        text("0x");
        for (int shift = 60; shift >= 0; shift -= 4) put("0123456789abcdef"[value >> shift & 15]);
    }
    void decimal(std::uint64_t value, unsigned width) {
        char digits[20];
        unsigned n = 0;
        do digits[n++] = static_cast<char>('0' + value % 10);
        while ((value /= 10) != 0);
        for (unsigned i = n; i < width; ++i) put(' ');
        while (n != 0) put(digits[--n]);
    }
    void put(char c) {
        if (size_ < sizeof text_) text_[size_++] = c;
    }
    [[nodiscard]] const char* data() const { return text_; }
    [[nodiscard]] unsigned size() const { return size_; }
    void clear() { size_ = 0; }

private:
    char text_[160];
    unsigned size_ = 0;
};

[[nodiscard]] constexpr const char* memory_type_name(MemoryType type) {
    switch (type) {
    case MemoryType::normal: return "MEM/NORMAL";
    case MemoryType::normal_tagged: return "MEM/NORMAL-TAGGED";
    case MemoryType::normal_noncacheable: return "MEM/NORMAL-NC";
    case MemoryType::device_nGnRnE: return "DEVICE/nGnRnE";
    case MemoryType::device_nGnRE: return "DEVICE/nGnRE";
    }
    return "";
}

/// The name that kernels give a level: the root of a map with fewer levels is still the PGD.
template <class G>
[[nodiscard]] constexpr const char* level_name(int level) {
    if (level == G::root_level) return "PGD";
    constexpr const char* names[] = {"P4D", "PUD", "PMD", "PTE"};
    return names[level];
}

} // namespace detail

/// Writes the map between two markers, one line at a time: `sink(const char* text, unsigned size)`. Takes no lock;
/// every line was true at some moment between start and end (promise P7).
template <Format F, Platform P, class Sink>
void dump(Core<F, P>& core, Sink sink) {
    using G = typename F::geometry;
    detail::LineBuffer line;
    const auto emit = [&] {
        line.put('\n');
        sink(line.data(), line.size());
        line.clear();
    };
    const auto print = [&](const Leaf& leaf) {
        std::uint64_t size = leaf.range.size >> 10;
        const char* unit = "KMGTPE";
        for (; (size & 1023) == 0 && unit[1] != '\0'; size >>= 10) ++unit;
        line.hex(core.va_of(leaf.range.start));
        line.put('-');
        line.hex(core.va_of(leaf.range.end()));
        line.text("   ");
        line.decimal(size, 9);
        line.put(*unit);
        line.put(' ');
        line.text(detail::level_name<G>(leaf.level));
        if (leaf.mapped) {
            const Attributes a = leaf.attributes;
            const bool block = leaf.level != G::last_level;
            line.text(a.valid() ? "  " : " F");
            line.text("    ");
            line.text(a.writable() ? " RW" : " ro");
            line.text(a.executable() ? " x " : " NX");
            line.text(" SHD AF");
            line.text(a.global() ? "   " : " NG");
            line.text(leaf.contiguous ? " CON" : "    ");
            line.text(block ? " BLK" : "    ");
            line.text(" UXN    ");
            line.text(detail::memory_type_name(a.memory_type()));
            if (a.shared()) line.text(" SHARED");
            if (a.key() != 0) {
                line.text(" KEY");
                line.decimal(a.key(), 0);
            }
        }
        emit();
    };
    line.text("---[ Linear Mapping start ]---");
    emit();
    Leaf open;
    bool has_open = false;
    walk(core, core.span, [&](const Leaf& leaf) {
        Leaf next = leaf;
        // A hole is reported by the entry that is empty, which may reach beyond the map.
        if (!next.mapped) {
            const PhysAddr end = next.range.end() < core.span.end() ? next.range.end() : core.span.end();
            if (next.range.start < core.span.start) next.range.start = core.span.start;
            next.range.size = end - next.range.start;
        }
        next.attributes = next.attributes.with_fixed(false); // not printed
        if (has_open && open.range.end() == next.range.start && open.level == next.level &&
            open.mapped == next.mapped && open.contiguous == next.contiguous &&
            (!open.mapped || open.attributes == next.attributes)) {
            open.range.size += next.range.size;
            return true;
        }
        if (has_open) print(open);
        open = next;
        has_open = true;
        return true;
    });
    if (has_open) print(open);
    line.text("---[ Linear Mapping end ]---");
    emit();
}

} // namespace directmap

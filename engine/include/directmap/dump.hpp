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
    [[gnu::noinline]] void text(const char* s) {
        while (*s != '\0') put(*s++);
    }
    [[gnu::noinline]] void hex(std::uint64_t value) {
        text("0x");
        for (int shift = 60; shift >= 0; shift -= 4) put("0123456789abcdef"[value >> shift & 15]);
    }
    [[gnu::noinline]] void decimal(std::uint64_t value, unsigned width) {
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

namespace detail {

/// Gathers leaves into lines and hands each to `sink` when it is complete.
template <Format F, Platform P>
class Dumper {
public:
    using G = typename F::geometry;
    using Sink = void (*)(void* context, const char* text, unsigned size);

    Dumper(Core<F, P>& core, Sink sink, void* context) : core_{core}, sink_{sink}, context_{context} {}

    [[gnu::noinline]] void run() {
        emit("---[ Linear Mapping start ]---");
        walk(core_, core_.span, [this](const Leaf& leaf) {
            add(leaf);
            return true;
        });
        if (has_open_) print();
        emit("---[ Linear Mapping end ]---");
    }

private:
    void add(const Leaf& leaf) {
        Leaf next = leaf;
        // A hole is reported by the entry that is empty, which may reach beyond the map.
        if (!next.mapped) {
            const PhysAddr end = next.range.end() < core_.span.end() ? next.range.end() : core_.span.end();
            if (next.range.start < core_.span.start) next.range.start = core_.span.start;
            next.range.size = end - next.range.start;
        }
        next.attributes = next.attributes.with_fixed(false); // not printed
        if (has_open_ && open_.range.end() == next.range.start && open_.level == next.level &&
            open_.mapped == next.mapped && open_.contiguous == next.contiguous &&
            (!open_.mapped || open_.attributes == next.attributes)) {
            open_.range.size += next.range.size;
            return;
        }
        if (has_open_) print();
        open_ = next;
        has_open_ = true;
    }

    void print() {
        std::uint64_t size = open_.range.size >> 10;
        const char* unit = "KMGTPE";
        for (; (size & 1023) == 0 && unit[1] != '\0'; size >>= 10) ++unit;
        line_.hex(core_.va_of(open_.range.start));
        line_.put('-');
        line_.hex(core_.va_of(open_.range.end()));
        line_.text("   ");
        line_.decimal(size, 9);
        line_.put(*unit);
        line_.put(' ');
        line_.text(level_name<G>(open_.level));
        if (open_.mapped) {
            const Attributes a = open_.attributes;
            const struct {
                bool first;
                const char *yes, *no;
            } words[] = {{a.valid(), "      ", " F    "},
                         {a.writable(), " RW", " ro"},
                         {a.executable(), " x  SHD AF", " NX SHD AF"},
                         {a.global(), "   ", " NG"},
                         {open_.contiguous, " CON", "    "},
                         {open_.level != G::last_level, " BLK", "    "}};
            for (const auto& word : words) line_.text(word.first ? word.yes : word.no);
            line_.text(" UXN    ");
            line_.text(memory_type_name(a.memory_type()));
            if (a.shared()) line_.text(" SHARED");
            if (a.key() != 0) {
                line_.text(" KEY");
                line_.decimal(a.key(), 0);
            }
        }
        emit("");
    }
    [[gnu::noinline]] void emit(const char* rest) {
        line_.text(rest);
        line_.put('\n');
        sink_(context_, line_.data(), line_.size());
        line_.clear();
    }

    Core<F, P>& core_;
    Sink sink_;
    void* context_;
    LineBuffer line_;
    Leaf open_;
    bool has_open_ = false;
};

} // namespace detail

/// Writes the map between two markers, one line at a time: `sink(const char* text, unsigned size)`. Takes no lock;
/// every line was true at some moment between start and end (promise P7).
template <Format F, Platform P, class Sink>
void dump(Core<F, P>& core, Sink sink) {
    const auto call = [](void* context, const char* text, unsigned size) {
        (*static_cast<Sink*>(context))(text, size);
    };
    detail::Dumper<F, P>{core, call, &sink}.run();
}

} // namespace directmap

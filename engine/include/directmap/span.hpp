// A pointer and a count. (The standard one is not among the headers that a freestanding compiler promises.)
#pragma once

#include <cstddef>

namespace directmap {

template <class T>
class Span {
public:
    constexpr Span() = default;
    constexpr Span(T* data, std::size_t size) : data_{data}, size_{size} {}
    template <std::size_t n>
    constexpr Span(T (&array)[n]) : data_{array}, size_{n} {}

    [[nodiscard]] constexpr T& operator[](std::size_t i) const { return data_[i]; }
    [[nodiscard]] constexpr T* data() const { return data_; }
    [[nodiscard]] constexpr std::size_t size() const { return size_; }
    [[nodiscard]] constexpr bool empty() const { return size_ == 0; }
    [[nodiscard]] constexpr T* begin() const { return data_; }
    [[nodiscard]] constexpr T* end() const { return data_ + size_; }

private:
    T* data_ = nullptr;
    std::size_t size_ = 0;
};

} // namespace directmap

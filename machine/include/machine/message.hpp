// Numbers and texts in a string of bytes, for messages between the processes that share a search.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace directmap::machine {

class MessageWriter {
public:
    void number(std::uint64_t value) {
        for (; value >= 0x80; value >>= 7) bytes_.push_back(static_cast<char>((value & 0x7f) | 0x80));
        bytes_.push_back(static_cast<char>(value));
    }
    void text(const std::string& text) {
        number(text.size());
        bytes_ += text;
    }
    [[nodiscard]] std::string take() { return std::move(bytes_); }

private:
    std::string bytes_;
};

/// Reads in the same order. Throws std::invalid_argument where the bytes can't be such a message.
class MessageReader {
public:
    explicit MessageReader(const std::string& bytes) : bytes_{bytes} {}
    [[nodiscard]] std::uint64_t number() {
        std::uint64_t value = 0;
        for (unsigned shift = 0;; shift += 7) {
            if (at_ == bytes_.size() || shift > 63) throw std::invalid_argument("a message of another version");
            const auto byte = static_cast<unsigned char>(bytes_[at_++]);
            value |= std::uint64_t{byte & 0x7fu} << shift;
            if ((byte & 0x80) == 0) return value;
        }
    }
    [[nodiscard]] std::string text() {
        const std::uint64_t size = number();
        if (size > bytes_.size() - at_) throw std::invalid_argument("a message of another version");
        std::string text = bytes_.substr(at_, size);
        at_ += size;
        return text;
    }
    /// A number of things that follow, each of which takes a byte at least.
    [[nodiscard]] std::uint64_t count() {
        const std::uint64_t count = number();
        if (count > bytes_.size() - at_) throw std::invalid_argument("a message of another version");
        return count;
    }

private:
    const std::string& bytes_;
    std::size_t at_ = 0;
};

} // namespace directmap::machine

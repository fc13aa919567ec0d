// The contents of a table page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace directmap::machine {

/// The words of a page. As long as they are an arithmetic progression, as those of most tables of a direct map are, two
/// numbers stand for all of them: a machine costs memory for what is irregular only.
class Words {
public:
    Words() = default;
    Words(unsigned count, std::uint64_t first, std::uint64_t step) : count_{count}, first_{first}, step_{step} {}

    [[nodiscard]] unsigned size() const { return count_; }
    [[nodiscard]] bool empty() const { return count_ == 0; }
    [[nodiscard]] std::uint64_t operator[](unsigned index) const {
        return each_.empty() ? first_ + index * step_ : each_[index];
    }
    void set(unsigned index, std::uint64_t value) {
        if (each_.empty()) {
            if ((*this)[index] == value) return;
            each_.reserve(count_);
            for (unsigned i = 0; i < count_; ++i) each_.push_back(first_ + i * step_);
        }
        each_[index] = value;
    }
    /// Whether the words are known to differ by `step` from each to the next.
    [[nodiscard]] bool advance_by(std::uint64_t step) const { return each_.empty() && step_ == step; }

private:
    unsigned count_ = 0;
    std::uint64_t first_ = 0, step_ = 0; ///< of the progression, while `each_` is empty
    std::vector<std::uint64_t> each_;
};

} // namespace directmap::machine

// What a map ought to consist of, calculated page by page and size by size, without any of the engine's own reasoning.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "directmap/directmap.hpp"
#include "machine/access.hpp"
#include "machine/rig.hpp"

namespace directmap::test {

/// A leaf as a walk reports it.
struct LeafItem {
    std::uint64_t start = 0;
    std::uint64_t size = 0;
    machine::Access access;
    bool fixed = false;

    [[nodiscard]] std::uint64_t end() const { return start + size; }
    friend bool operator==(const LeafItem&, const LeafItem&) = default;
};

[[nodiscard]] inline std::string describe(const std::vector<LeafItem>& leaves) {
    std::string text;
    for (const LeafItem& leaf : leaves) {
        text += fmt::format("{:#x}+{:#x} {}{}\n", leaf.start, leaf.size, machine::describe(leaf.access),
                            leaf.fixed ? " fixed" : "");
    }
    return text;
}

/// The first line in which two lists of leaves differ; empty if they don't.
[[nodiscard]] inline std::string difference(const std::vector<LeafItem>& found, const std::vector<LeafItem>& expected) {
    for (std::size_t i = 0; i < std::max(found.size(), expected.size()); ++i) {
        if (i < found.size() && i < expected.size() && found[i] == expected[i]) continue;
        return fmt::format("found {}expected {}", i < found.size() ? describe({found[i]}) : "nothing more, ",
                           i < expected.size() ? describe({expected[i]}) : "nothing more\n");
    }
    return {};
}

template <class Map>
[[nodiscard]] std::vector<LeafItem> leaves_of(Map& map) {
    std::vector<LeafItem> leaves;
    map.walk(map.span(), [&](const Leaf& leaf) {
        if (!leaf.mapped) return true;
        leaves.push_back(
            {leaf.range.start.value(), leaf.range.size, machine::access_of(leaf.attributes), leaf.attributes.fixed()});
        return true;
    });
    return leaves;
}

/// Appends the fewest leaves that map [start, end) alike, if sizes up to `largest` exist: at every address the largest
/// that both addresses are aligned to and that doesn't reach beyond the end. (Sizes are powers of two, so that is
/// minimal.)
template <class G>
void append_cover(std::vector<LeafItem>& leaves, std::uint64_t start, std::uint64_t end, std::uint64_t offset,
                  std::uint64_t largest, LeafItem like, bool groups = true) {
    while (start < end) {
        for (unsigned i = 0; i < G::leaf_sizes.count; ++i) {
            if (!groups && G::leaf_sizes.of[i].contiguous) continue;
            const std::uint64_t size = std::uint64_t{1} << G::leaf_sizes.of[i].shift;
            if (size > largest || start % size != 0 || (start + offset) % size != 0 || size > end - start) continue;
            like.start = start;
            like.size = size;
            leaves.push_back(like);
            start += size;
            break;
        }
    }
}

/// The leaves after a change of `range` that splits as little as can be (promise P5): whatever lies wholly inside or
/// outside stays as it is; what straddles an end and would change is cut there, into pieces that are as large as can
/// be.
template <class G>
[[nodiscard]] std::vector<LeafItem> after_change(const std::vector<LeafItem>& before, PhysRange range,
                                                 const machine::Effect& effect, std::uint64_t offset) {
    std::vector<LeafItem> after;
    const std::uint64_t low = range.start.value(), high = range.end().value();
    for (const LeafItem& leaf : before) {
        LeafItem changed = leaf;
        changed.access = effect(leaf.access);
        if (leaf.end() <= low || high <= leaf.start || changed.access == leaf.access) {
            after.push_back(leaf);
        } else if (low <= leaf.start && leaf.end() <= high) {
            after.push_back(changed);
        } else {
            const std::uint64_t from = std::max(low, leaf.start), to = std::min(high, leaf.end()),
                                below = leaf.size / 2;
            append_cover<G>(after, leaf.start, from, offset, below, leaf);
            append_cover<G>(after, from, to, offset, below, changed);
            append_cover<G>(after, to, leaf.end(), offset, below, leaf);
        }
    }
    return after;
}

/// The smallest cover of what the leaves say (promise P10): fixed leaves stay, everything else is merged as far as it
/// agrees.
template <class G>
[[nodiscard]] std::vector<LeafItem> after_collapse(const std::vector<LeafItem>& before, std::uint64_t offset) {
    std::vector<LeafItem> after;
    for (std::size_t i = 0; i < before.size();) {
        if (before[i].fixed) {
            after.push_back(before[i++]);
            continue;
        }
        std::size_t next = i + 1;
        while (next < before.size() && !before[next].fixed && before[next].access == before[i].access &&
               before[next].start == before[next - 1].end()) {
            ++next;
        }
        append_cover<G>(after, before[i].start, before[next - 1].end(), offset, ~std::uint64_t{0}, before[i]);
        i = next;
    }
    return after;
}

/// Tables that a map of these leaves needs: the root, and one for everything that any leaf must be reached through.
template <class G>
[[nodiscard]] std::size_t tables_for(const std::vector<LeafItem>& leaves, std::uint64_t offset) {
    std::set<std::pair<int, std::uint64_t>> tables;
    for (const LeafItem& leaf : leaves) {
        int level = G::last_level;
        for (unsigned i = 0; i < G::leaf_sizes.count; ++i) {
            if (G::leaf_sizes.of[i].bytes() == leaf.size) level = G::leaf_sizes.of[i].level;
        }
        for (; level > G::root_level; --level) tables.insert({level, (leaf.start + offset) >> G::shift(level - 1)});
    }
    return tables.size() + 1;
}

} // namespace directmap::test

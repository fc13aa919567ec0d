// Names of the functions in the image, from the table that the build puts into it.
#pragma once

#include <cstdint>
#include <string_view>

namespace directmap::kernel {

/// The table as image/make_symbols.awk writes it: functions in address order.
struct SymbolTable {
    struct Entry {
        std::uint32_t offset; ///< from the start of the image
        std::uint32_t name;   ///< offset in the names that follow the entries, zero-terminated
    };

    std::uint32_t count;
    Entry entries[1]; ///< `count` of them

    struct Place {
        std::string_view function;
        std::uint64_t offset;
    };
    /// The function that contains the byte at `offset` of the image; an empty name if none begins before it.
    [[nodiscard]] Place find(std::uint64_t offset) const {
        std::uint32_t first = 0, behind = count;
        while (first != behind) { // the first entry that begins after `offset`
            const std::uint32_t middle = first + (behind - first) / 2;
            if (entries[middle].offset <= offset) {
                first = middle + 1;
            } else {
                behind = middle;
            }
        }
        if (first == 0) return {{}, offset};
        const Entry& entry = entries[first - 1];
        const auto* const names = reinterpret_cast<const char*>(entries + count);
        return {names + entry.name, offset - entry.offset};
    }
};

} // namespace directmap::kernel

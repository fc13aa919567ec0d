// A machine's RAM as its kernel or firmware described it: /proc/iomem, a kernel log, or a plain list of ranges.
#pragma once

#include "range.hpp"

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace directmap::tool {

enum class MemoryMapFormat {
    automatic, ///< look at the text
    iomem,     ///< /proc/iomem: `start-end : name`, nested by indentation, END being the last byte
    list,      ///< one range a line, `START-END` or `START+SIZE`, with holes named `reserved` or `nomap`
    dmesg,     ///< a kernel log of arm64 or x86-64, whole or an excerpt
};

[[nodiscard]] std::string_view format_name(MemoryMapFormat format);

/// All lists are sorted by address. `ram` is disjoint, its neighbours do not touch, and what is `nomap` is not in it.
struct MemoryMap {
    std::string source; ///< for messages: the path as it was given, `builtin:NAME`, or `standard input`
    MemoryMapFormat format = MemoryMapFormat::automatic; ///< the format that was read; never `automatic` after reading
    std::vector<Range> ram;                              ///< what a kernel's direct map covers
    std::vector<NamedRange> nomap;        ///< memory that firmware keeps for itself; a direct map must leave it out
    std::vector<NamedRange> devices;      ///< what else the source names outside RAM; may be nested
    std::vector<NamedRange> kernel_image; ///< inside RAM
    std::vector<NamedRange> crash_kernel; ///< inside RAM, mapped unless the caller takes it out
};

/// Reads a memory map out of `text`. Throws InputError (with `source` as its file) when the text is not in the format,
/// holds no RAM, or contradicts itself: overlapping, wrapping or reversed ranges, addresses that are all zero because
/// the reader was not root, binary data, a line that was cut off.
[[nodiscard]] MemoryMap parse_memory_map(std::string_view text, const std::string& source,
                                         MemoryMapFormat format = MemoryMapFormat::automatic);

/// Reads `path`: a file, `-` for standard input, or `builtin:NAME` for a map that is part of the program. Throws
/// InputError as parse_memory_map does, and when the file cannot be read or is larger than any memory map.
[[nodiscard]] MemoryMap read_memory_map(const std::string& path, MemoryMapFormat format = MemoryMapFormat::automatic);

inline constexpr std::size_t largest_memory_map_file = std::size_t{16} << 20;

} // namespace directmap::tool

// Texts that claim to be memory maps. Whatever the text, the parser either refuses it with a line number that the text
// has, or returns a map that keeps its promises and that survives being written down and read again; and a plan of that
// map accounts for it.
#include "input_error.hpp"
#include "memory_map.hpp"
#include "plan.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace directmap::tool;

void require(bool condition, const char* promise) {
    if (condition) return;
    std::fprintf(stderr, "broken: %s\n", promise);
    std::abort();
}

void check_map(const MemoryMap& map) {
    require(!map.ram.empty(), "a map has RAM");
    require(map.format != MemoryMapFormat::automatic, "the format is known");
    require(merged(map.ram) == map.ram, "RAM is sorted, disjoint and merged");
    require(map.ram.back().end <= std::uint64_t{1} << max_physical_bits, "RAM is addressable");
    require(intersect(map.ram, ranges_of(map.nomap)).empty(), "nomap memory is not RAM");
    for (const auto* names : {&map.nomap, &map.devices, &map.kernel_image, &map.crash_kernel}) {
        require(std::is_sorted(names->begin(), names->end(),
                               [](const auto& a, const auto& b) { return a.range.start < b.range.start; }),
                "named ranges are sorted");
        for (const NamedRange& named : *names)
            for (const char c : named.name) require(c >= ' ' && c <= '~', "names are fit for a terminal");
    }
    // One byte at address 0 would read as a listing that hides its addresses.
    if (map.ram == std::vector<Range>{{0, 1}}) return;
    std::string iomem;
    for (const Range& range : map.ram) iomem += fmt::format("{:x}-{:x} : System RAM\n", range.start, range.end - 1);
    require(parse_memory_map(iomem, "again").ram == map.ram, "a map that is written down reads the same");
}

void check_plan(const MemoryMap& map, std::uint8_t choice) {
    PlanRequest request;
    constexpr Translation translations[] = {{12, 52, false}, {14, 52, false}, {16, 52, false}, {12, 52, true}};
    request.translation = translations[choice % 4];
    request.exclude_crash_kernel = choice % 8 >= 4 && !map.crash_kernel.empty();
    Plan plan;
    try {
        plan = make_plan(map, request);
    } catch (const InputError&) {
        return; // too far apart, or nothing but parts of pages
    }
    require(plan.large.bytes == total_size(plan.ram) && plan.pages.bytes == plan.large.bytes, "every byte is mapped");
    require(plan.large.bytes + total_size(plan.rounded) + total_size(plan.excluded) == total_size(map.ram),
            "every byte of RAM is mapped, rounded off or excluded");
    std::uint64_t explained = 0;
    for (const LostLeaf& lost : plan.lost) explained += lost.leaf_count();
    require(explained == plan.zoned.leaf_count - plan.zoned.leaves.front(), "every smaller leaf is explained");
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    // The last byte steers, so that files of real maps are useful inputs as they are.
    const std::uint8_t choice = data[size - 1];
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    constexpr MemoryMapFormat formats[] = {MemoryMapFormat::automatic, MemoryMapFormat::automatic,
                                           MemoryMapFormat::iomem, MemoryMapFormat::list, MemoryMapFormat::dmesg};
    try {
        const MemoryMap map = parse_memory_map(text, "input", formats[choice % 5]);
        check_map(map);
        check_plan(map, choice);
    } catch (const InputError& error) {
        const auto lines = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
        require(error.line() >= 1 && error.line() <= lines, "the line of an error is a line of the input");
        require(error.file() == "input" && !error.reason().empty(), "an error says where and why");
        require(error.reason().find('\n') == std::string::npos, "an error is one line");
    }
    return 0;
}

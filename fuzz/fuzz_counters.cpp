// Texts that claim to be /proc/meminfo and /proc/vmstat. Each is refused with a line that it has, or gives counters
// that are what its lines say.
#include "input_error.hpp"
#include "watch.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>

namespace {

using namespace directmap::tool;

void require(bool condition, const char* promise) {
    if (condition) return;
    std::fprintf(stderr, "broken: %s\n", promise);
    std::abort();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    // A blank line parts the two files.
    const std::size_t part = std::min(text.find("\n\n"), text.size());
    const std::string_view meminfo = text.substr(0, part);
    const std::string_view vmstat = text.substr(std::min(part + 2, text.size()));
    try {
        const WatchCounters counters = parse_counters(meminfo, vmstat);
        require(!counters.mapped.empty(), "counters without a size are refused");
        std::uint64_t before = 0;
        for (const MappedBySize& mapped : counters.mapped) {
            require(mapped.leaf_size > before, "sizes ascend");
            require((mapped.leaf_size & (mapped.leaf_size - 1)) == 0, "a leaf size is a power of two");
            before = mapped.leaf_size;
        }
        require(counters.smallest_bytes() == counters.mapped.front().bytes, "the smallest comes first");
        std::set<std::string> names;
        for (const KernelEvent& event : counters.events)
            require(!event.name.empty() && names.insert(event.name).second, "an event has a name of its own");
        (void)counters.units();
        (void)counters.splits();
        (void)counters.collapses();
    } catch (const InputError& error) {
        const std::string_view file = error.file() == "/proc/vmstat" ? vmstat : meminfo;
        const auto lines = static_cast<std::size_t>(std::count(file.begin(), file.end(), '\n')) + 1;
        require(error.line() <= lines, "the line of an error is a line of the file");
        require(!error.reason().empty() && error.reason().find('\n') == std::string::npos, "an error is one line");
    }
    return 0;
}

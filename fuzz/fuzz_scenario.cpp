// Texts that claim to be scenarios of `directmap run`. Each is refused with a line that it has, or is one that can be
// played: it begins with its only boot, and what it takes is known before it starts.
#include "input_error.hpp"
#include "run_scenario.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace {

using namespace directmap::tool;

void require(bool condition, const char* promise) {
    if (condition) return;
    std::fprintf(stderr, "broken: %s\n", promise);
    std::abort();
}

void check(const std::vector<Statement>& block, std::size_t lines) {
    std::size_t before = 0;
    for (const Statement& statement : block) {
        require(statement.line > before && statement.line <= lines, "statements ascend, on lines of the input");
        before = statement.line;
        require(statement.smallest_size <= statement.largest_size, "a range of sizes has its ends in order");
        require(statement.body.empty() || statement.action == Action::repeat, "only a repeat has a body");
        check(statement.body, lines);
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto lines = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
    try {
        const Scenario scenario = parse_scenario(text, "input", "input");
        require(!scenario.statements.empty() && scenario.statements.front().action == Action::boot, "boot comes first");
        require(scenario.steps >= 1, "there is at least the boot");
        check(scenario.statements, lines);
        if (scenario.steps < 10000) (void)scenario.peak_bytes(4096);
    } catch (const InputError& error) {
        require(error.file() == "input" && error.line() <= lines, "an error says where");
        require(!error.reason().empty() && error.reason().find('\n') == std::string::npos, "an error is one line");
    }
    return 0;
}

// What the tests of dump readers share: reading a whole text, writing entries as kernels do, and running the command.
#pragma once

#include "analyze.hpp"
#include "command_path.hpp"
#include "dump.hpp"
#include "input_error.hpp"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace directmap::tool {

inline constexpr std::uint64_t kib = 1024, mib = 1024 * kib, gib = 1024 * mib;

inline std::string dump_path(const std::string& name) {
    return DIRECTMAP_SOURCE_DIR "/tests/data/ptdumps/" + name;
}

inline std::string file_text(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("can't open " + path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

/// What a reader said about a text: everything, in order.
struct ReadDump {
    std::vector<DumpLine> lines;
    std::vector<std::string> markers;
    std::vector<DumpProblem> problems;
    std::vector<std::string> attributes;  ///< of each line, in words
    std::vector<std::size_t> dump_starts; ///< how many lines there were when a dump began
};

inline ReadDump read_dump(std::string_view text) {
    const auto source = text_source(text);
    DumpVocabulary vocabulary;
    DumpReader reader(*source, "FILE", vocabulary);
    ReadDump result;
    for (;;) {
        switch (reader.next()) {
        case DumpEvent::new_dump: result.dump_starts.push_back(result.lines.size()); break;
        case DumpEvent::marker: result.markers.emplace_back(reader.marker()); break;
        case DumpEvent::line:
            result.lines.push_back(reader.line());
            result.attributes.push_back(vocabulary.describe(reader.line().attributes, reader.line().architecture));
            break;
        case DumpEvent::problem: result.problems.push_back(reader.problem()); break;
        case DumpEvent::end: return result;
        }
    }
}

inline std::vector<DumpAnalysis> analyze_text(std::string_view text, const AnalyzeOptions& options = {}) {
    const auto source = text_source(text);
    std::vector<DumpAnalysis> results;
    analyze_dumps(*source, "FILE", options,
                  [&](DumpAnalysis&& analysis, const DumpVocabulary&) { results.push_back(std::move(analysis)); });
    return results;
}

/// The message that main prints behind `directmap: `.
template <class Work>
std::string error_of(Work work) {
    try {
        work();
    } catch (const InputError& error) {
        return error.what();
    }
    return "no error";
}

/// `2M`, as kernels write sizes.
inline std::string kernel_size(std::uint64_t bytes) {
    std::size_t unit = 0;
    constexpr std::string_view units = "KMGTPE";
    for (bytes /= 1024; bytes % 1024 == 0 && unit + 1 < units.size(); bytes /= 1024) ++unit;
    return fmt::format("{}{}", bytes, units[unit]);
}

/// An entry as arm64 kernels print it. Without attributes it is a hole.
inline std::string arm64_entry(std::uint64_t start, std::uint64_t bytes, std::string_view level,
                               std::string_view attributes = "") {
    return fmt::format("0x{:016x}-0x{:016x} {:>11} {}       {}\n", start, start + bytes, kernel_size(bytes), level,
                       attributes);
}

struct CommandResult {
    int exit_code = 0;
    std::string out;
    std::string err;
};

/// A folder that is there for one test.
class TemporaryFolder {
public:
    TemporaryFolder() {
        std::string name = (std::filesystem::temp_directory_path() / "directmap-test-XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
        path_ = name;
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    ~TemporaryFolder() {
        std::error_code error;
        std::filesystem::remove_all(path_, error);
    }

    [[nodiscard]] std::string path(const std::string& name) const { return (path_ / name).string(); }
    std::string write(const std::string& name, std::string_view text) const {
        std::ofstream(path(name), std::ios::binary) << text;
        return path(name);
    }

private:
    std::filesystem::path path_;
};

/// Runs `directmap ARGUMENTS` through the shell.
inline CommandResult run_command(const std::string& arguments, const std::string& before = "") {
    const TemporaryFolder folder;
    const std::string command =
        fmt::format("{} '{}' {} >'{}' 2>'{}'", before, command_path, arguments, folder.path("out"), folder.path("err"));
    const int status = std::system(command.c_str());
    CommandResult result;
    result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    result.out = file_text(folder.path("out"));
    result.err = file_text(folder.path("err"));
    return result;
}

} // namespace directmap::tool

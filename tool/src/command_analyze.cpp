// `directmap analyze`: what broke direct maps up, and what healing would gain.
#include "analyze_fleet.hpp"
#include "analyze_live.hpp"
#include "analyze_output.hpp"
#include "commands.hpp"
#include "input_error.hpp"
#include "options.hpp"
#include "report_analyze.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <sys/ioctl.h>
#include <unistd.h>
#include <vector>

namespace directmap::tool {
namespace {

constexpr const char* description =
    "Say what broke a kernel's direct map up, and what healing would gain\n"
    "\n"
    "Reads page-table dumps of arm64, x86-64 and riscv kernels as people have them: from debugfs, kernel logs and "
    "mails. Finds\n"
    "the direct map and reports its leaves by size, the fewest leaves that could say the same, what could be collapsed "
    "now and\n"
    "how many tables would come back, which permissions broke which leaves, and the worst regions.\n"
    "\n"
    "Without a DUMP it reads the dump of the kernel that it runs on (as root).";

constexpr const char* footer =
    "A DUMP is a file, a folder of them, or '-' for standard input. One input is shown in full; of several, each dump "
    "gets a line.\n"
    "\n"
    "Examples:\n"
    "  directmap analyze                                  the kernel that this runs on (as root, with debugfs)\n"
    "  directmap analyze kernel_page_tables.txt           a dump from another machine\n"
    "  dmesg | directmap analyze -                        a kernel log\n"
    "  directmap analyze dump.txt --report map.html       also a page with pictures, to look at and to share\n"
    "  directmap analyze dump.txt --json | jq .direct_map.collapsible\n"
    "  directmap analyze --json dumps/ > fleet.ndjson     many dumps, one line each, on all cores\n"
    "\n"
    "Exit codes: 0 success; 2 bad input: a file that can't be used, or that contradicts itself (then the results are "
    "partial,\n"
    "and say so), or a dump without a direct map.";

struct Options {
    std::vector<std::string> dumps;
    std::string files_from;
    std::string granule = "auto";
    std::uint64_t max_leaf = 0;
    WorkingSets working_sets;
    std::optional<std::size_t> islands;
    std::size_t worst = 10;
    std::size_t jobs = 0;
    std::string report;
    std::string version;
    bool json = false;
};

constexpr std::size_t islands_in_text = 10;
constexpr std::size_t islands_in_json = 1000;

AnalyzeOptions analyze_options(const Options& options) {
    AnalyzeOptions result;
    if (options.granule != "auto") result.granule = std::uint64_t{1} << page_shift_of(options.granule);
    if (options.max_leaf != 0) result.map.max_leaf = options.max_leaf;
    result.map.worst_regions = options.worst;
    result.map.islands = options.islands.value_or(islands_in_json);
    return result;
}

std::size_t terminal_width() {
    winsize size{};
    if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col != 0) return size.ws_col;
    return 100;
}

/// Folders become the files in them, in the order of their names.
std::vector<std::string> expanded(const Options& options) {
    std::vector<std::string> names = options.dumps;
    if (!options.files_from.empty()) {
        std::ifstream file;
        if (options.files_from != "-") {
            file.open(options.files_from);
            if (!file) throw InputError(options.files_from, 0, "can't be opened");
        }
        std::istream& lines = options.files_from == "-" ? std::cin : file;
        for (std::string line; std::getline(lines, line);) {
            if (!line.empty()) names.push_back(line);
        }
    }
    std::vector<std::string> files;
    for (const std::string& name : names) {
        std::error_code error;
        if (name == "-" || !std::filesystem::is_directory(name, error)) {
            files.push_back(name);
            continue;
        }
        const std::size_t first = files.size();
        std::filesystem::recursive_directory_iterator entry(name, error);
        if (error) throw InputError(name, 0, fmt::format("can't be read: {}", error.message()));
        while (entry != std::filesystem::recursive_directory_iterator()) {
            if (entry->is_regular_file(error)) files.push_back(entry->path().string());
            entry.increment(error);
            if (error) throw InputError(name, 0, fmt::format("can't be read: {}", error.message()));
        }
        std::sort(files.begin() + static_cast<std::ptrdiff_t>(first), files.end());
        if (files.size() == first) throw InputError(name, 0, "a folder without files");
    }
    return files;
}

/// What the user is told on standard error while many inputs are read: at a terminal one line that changes, elsewhere a
/// line now and then.
class Progress {
public:
    explicit Progress(std::uint64_t total) : total_(total), terminal_(::isatty(STDERR_FILENO) != 0) {}

    void count(bool bad) {
        const std::lock_guard lock(mutex_);
        ++done_;
        bad_ += bad ? 1 : 0;
        const auto now = Clock::now();
        const std::chrono::milliseconds pause =
            terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000);
        if (now - shown_ < pause) return;
        shown_ = now;
        const double seconds = std::chrono::duration<double>(now - started_).count();
        const double left = seconds / static_cast<double>(done_) * static_cast<double>(total_ - done_);
        fmt::print(stderr, "{}directmap: {} of {} inputs, {} bad, about {:.0f} s left{}", terminal_ ? "\r" : "",
                   grouped(done_), grouped(total_), grouped(bad_), left, terminal_ ? "\x1b[K" : "\n");
        visible_ = terminal_;
    }

    /// A message, on a line of its own.
    void say(const std::string& message) {
        const std::lock_guard lock(mutex_);
        clear();
        fmt::print(stderr, "directmap: {}\n", message);
    }

    void end() {
        const std::lock_guard lock(mutex_);
        clear();
    }

private:
    using Clock = std::chrono::steady_clock;

    void clear() {
        if (visible_) std::fputs("\r\x1b[K", stderr);
        visible_ = false;
    }

    std::mutex mutex_;
    std::uint64_t total_;
    std::uint64_t done_ = 0;
    std::uint64_t bad_ = 0;
    bool terminal_;
    bool visible_ = false;
    Clock::time_point started_ = Clock::now();
    Clock::time_point shown_ = started_;
};

std::string json_line(const nlohmann::ordered_json& json) {
    // File names and attribute words may be any bytes.
    return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + '\n';
}

/// Analyzes one input and hands its results out as text. Returns whether the input was sound; says on standard error
/// when it wasn't.
class InputAnalysis {
public:
    InputAnalysis(const Options& options, const TextOptions& text_options, bool single)
        : options_(options), analyze_options_(analyze_options(options)), text_options_(text_options), single_(single) {
        if (single && (!options.json || !options.report.empty()))
            analyze_options_.map.picture_limit = report_picture_limit;
    }

    bool run(const std::string& input, const std::function<void(const std::string&)>& write, Progress& progress) const {
        const std::string name = input == "-" ? "standard input" : input;
        try {
            return analyze(*open_source(input), name, write, progress);
        } catch (const InputError& error) {
            progress.say(error.what());
            if (options_.json) write(json_line(json_of_failure(name, error.line(), error.reason())));
            return false;
        }
    }

private:
    bool analyze(ByteSource& source, const std::string& name, const std::function<void(const std::string&)>& write,
                 Progress& progress) const {
        bool sound = true;
        bool any_map = false;
        std::string without_map;
        std::vector<ReportedDump> reported;
        analyze_dumps(source, name, analyze_options_, [&](DumpAnalysis&& analysis, const DumpVocabulary& vocabulary) {
            if (analysis.bad_lines != 0) {
                sound = false;
                const auto bad = std::ranges::find(analysis.problems, DumpProblem::Kind::bad, &DumpProblem::kind);
                const std::string others =
                    analysis.bad_lines == 1 ? "" : fmt::format(" (and {} more)", grouped(analysis.bad_lines - 1));
                progress.say(bad == analysis.problems.end()
                                 ? fmt::format("{}: {}", name, counted(analysis.bad_lines, "bad line", "bad lines"))
                                 : InputError(name, bad->line, bad->reason + others).what());
            }
            if (analysis.map.has_value())
                any_map = true;
            else if (without_map.empty() && !analysis.problems.empty())
                without_map = analysis.problems.back().reason;
            if (options_.json) {
                write(json_line(json_of(analysis, vocabulary, options_.working_sets)));
            } else if (single_) {
                TextOptions text_options = text_options_;
                text_options.name_dump = analysis.index > 1;
                write((analysis.index > 1 ? "\n" : "") +
                      text_of(analysis, vocabulary, options_.working_sets, text_options));
            } else {
                write(fleet_line(analysis));
            }
            if (!options_.report.empty() && reported.size() < most_reported_dumps)
                reported.push_back({std::move(analysis), vocabulary});
        });
        if (!options_.report.empty())
            write_report(options_.report, report_of(std::move(reported), options_.working_sets),
                         report_origin(options_.version));
        if (!any_map && sound) progress.say(InputError(name, 0, without_map).what());
        return sound && any_map;
    }

    /// A page with more maps than this would be of no use.
    static constexpr std::size_t most_reported_dumps = 16;

    const Options& options_;
    AnalyzeOptions analyze_options_;
    const TextOptions& text_options_;
    bool single_;
};

void print(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
}

int run_analyze(const Options& options) {
    std::vector<std::string> inputs = expanded(options);
    if (inputs.empty()) {
        if (!options.files_from.empty()) throw InputError(options.files_from, 0, "no file names in it");
        inputs.push_back(live_dump(LiveSystem()));
    }
    if (!options.report.empty()) {
        if (inputs.size() != 1)
            throw InputError(
                "--report", 0,
                fmt::format("a page shows one input, and these are {}; --json is for many", grouped(inputs.size())));
        check_report_path(options.report);
    }
    const TextOptions text_options{
        .palette = Palette(stdout), .width = terminal_width(), .islands = options.islands.value_or(islands_in_text)};
    const bool single = inputs.size() == 1;
    const InputAnalysis analysis(options, text_options, single);
    Progress progress(inputs.size());
    if (single) return analysis.run(inputs.front(), print, progress) ? exit_ok : exit_bad_input;

    if (!options.json) print(fleet_heading());
    const std::size_t threads = options.jobs != 0 ? options.jobs : usable_threads();
    constexpr std::size_t inputs_ahead = 16; // of the slowest, for each thread
    OrderedOutput output(print, threads * inputs_ahead);
    std::atomic<std::uint64_t> bad = 0;
    run_jobs(inputs.size(), threads, [&](std::uint64_t index) {
        const OrderedOutput::Turn turn(output, index);
        const bool sound = analysis.run(
            inputs[index], [&](const std::string& text) { output.write(index, text); }, progress);
        bad += sound ? 0 : 1;
        progress.count(!sound);
    });
    progress.end();
    if (bad != 0)
        progress.say(fmt::format("{} of {} could not be used in full; what was wrong is said above", grouped(bad),
                                 counted(inputs.size(), "input", "inputs")));
    return bad == 0 ? exit_ok : exit_bad_input;
}

} // namespace

void register_analyze(CLI::App& app, int& exit_code) {
    const auto options = std::make_shared<Options>();
    CLI::App* analyze = app.add_subcommand("analyze", description);
    analyze->footer(footer);
    analyze->add_option("dumps", options->dumps, "Page-table dumps; none: of the running kernel")->type_name("DUMP");
    analyze
        ->add_option("--files-from", options->files_from,
                     "Also the dumps named in FILE, one a line; '-' is standard input")
        ->type_name("FILE");
    analyze->add_option("--granule", options->granule, "Page size of arm64 dumps: 4k, 16k, 64k; auto infers it")
        ->type_name("SIZE")
        ->transform(one_of({"auto", "4k", "16k", "64k"}))
        ->capture_default_str();
    analyze->add_option("--max-leaf", options->max_leaf, "Assume no larger leaves possible than these (2M, 1G)")
        ->type_name("SIZE")
        ->transform(CLI::AsSizeValue(false));
    analyze
        ->add_option("--working-set", options->working_sets,
                     "Show the TLB entries that so much memory in use needs; can be repeated")
        ->type_name("SIZE")
        ->transform(CLI::AsSizeValue(false));
    analyze->add_option("--islands", options->islands, "List so many permission islands (text 10, JSON 1000)")
        ->type_name("N");
    analyze->add_option("--worst", options->worst, "List so many of the worst regions")
        ->type_name("N")
        ->capture_default_str();
    analyze->add_option("--report", options->report, "Also write a page with pictures (HTML, docs/report.md)")
        ->type_name("FILE");
    analyze->add_option("--jobs", options->jobs, "Inputs to read at a time; 0 means as many as there are CPUs")
        ->type_name("N")
        ->check(CLI::Range(0, 1024).description(""))
        ->capture_default_str();
    analyze->add_flag("--json", options->json,
                      "Print JSON: one object a line, one line for each dump (docs/schema.md)");
    options->version = app.version();
    analyze->callback([options, &exit_code] { exit_code = run_analyze(*options); });
}

} // namespace directmap::tool

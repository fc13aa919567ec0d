// `directmap replay` and `directmap convert-trace`: recorded permission changes, under other policies than the recorded
// kernel's.
#include "commands.hpp"
#include "embedded.hpp"
#include "input_error.hpp"
#include "memory_map.hpp"
#include "options.hpp"
#include "output.hpp"
#include "plan.hpp"
#include "replay.hpp"
#include "replay_output.hpp"
#include "report.hpp"
#include "report_replay.hpp"
#include "run_output.hpp"
#include "scanner.hpp"
#include "trace_convert.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace directmap::tool {
namespace {

constexpr const char* replay_description =
    "Replay recorded permission changes under several policies\n"
    "\n"
    "Plays a trace - when which pages became read-only, executable, secret, shared - on a modelled\n"
    "machine, under each policy, and compares what becomes of the map: splits, collapses, leaves over\n"
    "time, page tables, TLB invalidations, and table walks on the TLBs of a real core. Ends with the\n"
    "policy that the figures speak for. docs/replay.md describes traces and how to record them.\n";

constexpr const char* replay_footer =
    "Policies (--policy, any number of them; by default pages, never, on-restore and background, or\n"
    "pages and zoned where --bbm forbids to resize)\n"
    "  pages       single pages from the start, as kernels do that can't or won't split\n"
    "  never       split on demand, never heal, as kernels do that split\n"
    "  explicit    heal where the trace says 'collapse'\n"
    "  on-restore  heal right after a change that makes it possible\n"
    "  background  a thread heals what has been quiet for 5 s\n"
    "  zoned       large leaves that are never resized, and a zone of pages for all that changes\n"
    "\n"
    "Examples:\n"
    "  directmap replay builtin:example                        a small trace on a server\n"
    "  directmap replay trace.txt --memory-map iomem.txt       a trace on the machine of a memory map\n"
    "  directmap replay trace.txt --policy never --policy background --format arm64-64k\n"
    "  directmap replay trace.dat.txt --from ftrace --offset 0xffff888000000000\n"
    "  directmap replay trace.txt --accesses addresses.txt --core cortex-a72\n"
    "  directmap run --scenario modules --trace - | directmap replay -\n"
    "  directmap replay trace.txt --report policies.html       a page with pictures (docs/report.md)\n"
    "  directmap replay builtin:example --json | jq .verdict\n"
    "\n"
    "Exit codes: 0 success, 1 a promise was broken (it says which), 2 bad input or usage.";

constexpr const char* convert_description =
    "Make a trace for replay of what a kernel's recorder printed\n"
    "\n"
    "Reads the output of ftrace (function arguments or kprobe events, raw or by trace-cmd report) or of\n"
    "bpftrace with the script that --script prints, and prints a trace. What could not be converted is\n"
    "counted on standard error. docs/replay.md shows how to record.\n";

constexpr const char* convert_footer =
    "Examples:\n"
    "  directmap convert-trace --script > record.bt; sudo bpftrace record.bt > recorded.txt\n"
    "  directmap convert-trace --script --symbols /proc/kallsyms > record.bt     bpftrace before 0.21\n"
    "  directmap convert-trace --from bpftrace recorded.txt > trace.txt\n"
    "  trace-cmd report | directmap convert-trace --from ftrace --offset 0xffff888000000000 - > trace.txt\n"
    "\n"
    "Exit codes: 0 success, 2 bad input or usage.";

struct RecorderOptions {
    std::string from;
    std::string offset;
    std::string vmemmap;
    std::uint64_t struct_page = 64;
    std::string page = "4k";
};

struct ReplayOptions {
    std::string trace;
    std::string memory_map = "builtin:ampere-emag-256g";
    std::vector<std::string> policies;
    std::string format = "arm64-4k";
    unsigned va_bits = 48;
    unsigned bbm = 3;
    unsigned cpus = 4;
    std::string zone = "1G";
    RecorderOptions recorder;
    std::string core = default_tlb_core;
    std::string accesses = "zipf";
    std::uint64_t access_count = 10000;
    std::uint64_t seed = 1;
    std::string report;
    std::string version;
    bool json = false;
    bool list_cores = false;
};

struct ConvertCommandOptions {
    std::string input;
    RecorderOptions recorder{.from = "ftrace", .offset = "", .vmemmap = "", .struct_page = 64, .page = "4k"};
    bool script = false;
    std::string symbols;
};

void print(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
}

std::optional<std::uint64_t> hex_option(const char* option, const std::string& text) {
    if (text.empty()) return std::nullopt;
    Scanner scanner(text);
    std::uint64_t value = 0;
    if (!scanner.hex(value) || !scanner.at_end())
        throw InputError(option, 0, fmt::format("'{}' is not a hexadecimal number of up to 64 bits", printable(text)));
    return value;
}

std::uint64_t size_option(const char* option, const std::string& text) {
    Scanner scanner(text);
    std::uint64_t value = 0;
    const bool counted = scanner.decimal(value) && value != 0 && value < 1 << 20;
    const std::size_t unit =
        scanner.rest().size() == 1 ? std::string_view("KMGT").find(scanner.rest()) : std::string_view::npos;
    if (!counted || unit == std::string_view::npos)
        throw InputError(option, 0,
                         fmt::format("'{}' is not a number and K, M, G or T, such as 512M", printable(text)));
    return value << (10 * (unit + 1));
}

ConvertOptions convert_options(const RecorderOptions& options) {
    ConvertOptions convert;
    convert.page_bytes = std::uint64_t{1} << page_shift_of(options.page);
    convert.offset = hex_option("--offset", options.offset);
    convert.vmemmap = hex_option("--vmemmap", options.vmemmap);
    convert.struct_page_bytes = options.struct_page;
    return convert;
}

/// A file, standard input, or a trace that is part of the program.
class TraceInput {
public:
    explicit TraceInput(const std::string& path) {
        constexpr std::string_view builtin = "builtin:";
        if (path == "-") {
            source_ = "standard input";
            return;
        }
        source_ = printable(path);
        if (path.starts_with(builtin)) {
            for (const EmbeddedFile& file : embedded_files())
                if (file.name == path.substr(builtin.size()) + ".trace") {
                    text_.str(std::string(file.text));
                    stream_ = &text_;
                    size_ = file.text.size();
                    return;
                }
            throw InputError(source_, 0, "no trace of this name is part of the program; there is builtin:example");
        }
        file_.open(path, std::ios::binary);
        if (!file_) throw InputError(source_, 0, std::strerror(errno));
        std::error_code error;
        if (std::filesystem::is_directory(path, error)) throw InputError(source_, 0, std::strerror(EISDIR));
        size_ = std::filesystem::file_size(path, error);
        if (error) size_ = 0;
        stream_ = &file_;
    }
    [[nodiscard]] std::istream& stream() { return *stream_; }
    [[nodiscard]] const std::string& source() const { return source_; }
    [[nodiscard]] std::uint64_t size() const { return size_; } ///< 0: unknown

private:
    std::istringstream text_;
    std::ifstream file_;
    std::istream* stream_ = &std::cin;
    std::string source_;
    std::uint64_t size_ = 0;
};

std::unique_ptr<TraceReader> open_trace(TraceInput& input, const RecorderOptions& options) {
    if (options.from.empty() || options.from == "trace") return read_trace(input.stream(), input.source());
    return convert_trace(input.stream(), input.source(),
                         options.from == "ftrace" ? RecorderFormat::ftrace : RecorderFormat::bpftrace,
                         convert_options(options));
}

std::vector<Policy> policies_of(const ReplayOptions& options) {
    const bool resizes = options.bbm >= 3;
    std::vector<Policy> policies;
    for (const Policy policy : all_policies()) {
        const bool chosen =
            std::find(options.policies.begin(), options.policies.end(), policy_name(policy)) != options.policies.end();
        const bool possible = resizes || policy == Policy::pages || policy == Policy::zoned;
        const bool usual = resizes ? policy != Policy::zoned && policy != Policy::on_request : possible;
        if (chosen && !possible)
            throw InputError(
                "--policy", 0,
                fmt::format("with --bbm {} no leaf is resized, so there is only pages and zoned", options.bbm));
        if (chosen || (options.policies.empty() && usual)) policies.push_back(policy);
    }
    return policies;
}

void list_cores(bool json) {
    if (json) {
        for (const EmbeddedFile& file : embedded_files())
            if (file.name == "tlb-cores.json") print(std::string(file.text));
        return;
    }
    const Palette palette(stdout);
    for (const TlbCore& core : builtin_tlb_cores()) {
        print(fmt::format("{}  {} ({})\n", palette.bold(fmt::format("{:<12}", core.name)), core.about, core.source));
        for (const TlbLevel& level : core.levels) {
            std::string parts;
            for (const TlbPart& part : level.parts) {
                std::string sizes;
                for (const std::uint64_t size : part.sizes)
                    sizes += fmt::format("{}{}", sizes.empty() ? "" : " ", leaf_name(size));
                parts += fmt::format(
                    "{}{} entries, {}: {}", parts.empty() ? "" : "; ", part.entries,
                    part.ways == part.entries ? "fully associative" : fmt::format("{} ways", part.ways), sizes);
            }
            print(fmt::format("{:14}{}: {}\n", "", level.name, parts));
        }
    }
}

bool run_replay(const ReplayOptions& options) {
    if (options.trace.empty())
        throw InputError("TRACE", 0, "a trace is missing; 'builtin:example' is one (see directmap replay --help)");
    const MemoryMap map = read_memory_map(options.memory_map);
    PlanRequest request;
    request.translation = {page_shift_of(options.format), options.va_bits, false};
    const Plan plan = make_plan(map, request);

    ReplayConfig config(machine_of(map, plan, options.cpus, options.bbm));
    config.zone_bytes = size_option("--zone", options.zone);
    config.trace_offset = hex_option("--offset", options.recorder.offset);
    config.policies = policies_of(options);
    config.core = read_tlb_core(options.core);
    config.accesses = options.access_count;
    config.keep_dump = !options.report.empty();
    if (!options.report.empty()) check_report_path(options.report);

    std::unique_ptr<AccessPattern> pattern;
    std::string pattern_name = options.accesses;
    RecordedAccesses recorded;
    if (options.accesses == "uniform") {
        pattern = uniform_pattern(plan.ram, options.seed);
    } else if (options.accesses == "zipf") {
        pattern = zipf_pattern(plan.ram, options.seed);
    } else if (options.accesses == "sequential") {
        pattern = sequential_pattern(plan.ram, options.seed);
    } else if (options.accesses == "none") {
        pattern_name.clear();
    } else {
        pattern_name = printable(options.accesses);
        std::ifstream file(options.accesses, std::ios::binary);
        if (!file)
            throw InputError(
                pattern_name, 0,
                fmt::format("{}; --accesses takes uniform, zipf, sequential, none or a file", std::strerror(errno)));
        recorded = read_accesses(file, pattern_name, plan.ram, config.trace_offset.value_or(plan.offset));
        if (recorded.outside != 0)
            std::fprintf(stderr, "directmap: %s: %s outside of RAM left out\n", pattern_name.c_str(),
                         counted(recorded.outside, "address", "addresses").c_str());
        if (recorded.cut)
            std::fprintf(stderr, "directmap: %s: only the first %s addresses are used\n", pattern_name.c_str(),
                         grouped(most_recorded_accesses).c_str());
        pattern = recorded_pattern(std::move(recorded.addresses));
    }
    config.pattern = pattern.get();

    TraceInput input(options.trace);
    const std::unique_ptr<TraceReader> trace = open_trace(input, options.recorder);
    ProgressLine progress;
    const ReplayResult result = replay(*trace, config, [&](std::uint64_t line, std::uint64_t bytes) {
        progress.show(input.size() == 0 ? fmt::format("{}: line {}", input.source(), grouped(line))
                                        : fmt::format("{}: line {}, {} %", input.source(), grouped(line),
                                                      std::min<std::uint64_t>(100 * bytes / input.size(), 100)));
    });
    progress.clear();
    const ReplaySetting setting{map, plan, config, input.source(), pattern_name, options.seed};
    if (options.json)
        print(replay_json(setting, result).dump(2) + '\n');
    else
        print(replay_text(setting, result, Palette(stdout), output_width()));
    if (!options.report.empty())
        write_report(options.report, report_of(setting, result), report_origin(options.version));
    return result.kept();
}

/// The script that records; without what a kernel doesn't have if `symbols_path` says what it has.
void print_script(const std::string& symbols_path) {
    const auto files = embedded_files();
    const auto script =
        std::find_if(files.begin(), files.end(), [](const auto& file) { return file.name == "record.bt"; });
    if (symbols_path.empty()) return print(std::string(script->text));
    TraceInput symbols(symbols_path);
    const RecordingScript result = script_for(script->text, read_symbols(symbols.stream(), symbols.source()));
    print(result.text);
    if (!result.left_out.empty())
        std::fprintf(stderr, "directmap: left out, since %s doesn't have them: %s\n", symbols.source().c_str(),
                     fmt::format("{}", fmt::join(result.left_out, ", ")).c_str());
}

void run_convert(const ConvertCommandOptions& options) {
    if (options.script) return print_script(options.symbols);
    if (!options.symbols.empty()) throw InputError("--symbols", 0, "it is for --script");
    if (options.input.empty()) throw InputError("FILE", 0, "a recorder's output is missing; '-' is standard input");
    TraceInput input(options.input);
    const std::unique_ptr<TraceReader> trace = open_trace(input, options.recorder);
    ProgressLine progress;
    std::uint64_t events = 0;
    TraceEvent event;
    bool more = trace->next(event); // an input that can't be used leaves no half of a trace behind
    print(trace_head(trace->page_bytes(), trace->offset(), false));
    for (; more; more = trace->next(event), ++events) {
        print(trace_line(event));
        if (events % 1024 == 0)
            progress.show(fmt::format("{}: line {}", input.source(), grouped(trace->line_number())));
    }
    progress.clear();
    const TraceRemarks& remarks = trace->remarks();
    if (remarks.partial) print(fmt::format("# partial: {}\n", remarks.partial_reason));
    std::fprintf(stderr, "directmap: %s of %s\n", counted(events, "change", "changes").c_str(),
                 counted(trace->line_number(), "line", "lines").c_str());
    for (const auto& [what, count] : remarks.skipped)
        std::fprintf(stderr, "directmap: not converted: %s: %s\n", what.c_str(), grouped(count).c_str());
    if (remarks.partial) std::fprintf(stderr, "directmap: partial: %s\n", remarks.partial_reason.c_str());
}

void add_recorder_options(CLI::App* app, RecorderOptions& options) {
    app->add_option("--offset", options.offset,
                    "VA - PA of the direct map of the kernel that was recorded, for\naddresses that are virtual")
        ->type_name("HEX");
    app->add_option("--vmemmap", options.vmemmap,
                    "Where the recorded kernel's struct pages are: what a page frame's\nnumber times the size of "
                    "one is added to")
        ->type_name("HEX");
    app->add_option("--struct-page", options.struct_page, "Bytes of a struct page")
        ->type_name("N")
        ->check(CLI::Range(8u, 4096u).description(""))
        ->capture_default_str();
    app->add_option("--page", options.page, "Page size of the kernel that was recorded: 4k, 16k or 64k")
        ->type_name("SIZE")
        ->transform(one_of(page_size_words()))
        ->capture_default_str();
}

} // namespace

void register_replay(CLI::App& app, int& exit_code) {
    const auto options = std::make_shared<ReplayOptions>();
    CLI::App* replay = app.add_subcommand("replay", replay_description);
    replay->footer(replay_footer);
    replay
        ->add_option("TRACE", options->trace,
                     "The trace; '-' is standard input, 'builtin:example' is part of the\nprogram")
        ->type_name("");
    replay
        ->add_option("--memory-map", options->memory_map,
                     "The machine's memory map, as for plan; '-' is standard\ninput, 'builtin:NAME' one that is part "
                     "of the program")
        ->type_name("FILE")
        ->capture_default_str();
    std::vector<std::string> words;
    for (const Policy policy : all_policies()) words.emplace_back(policy_name(policy));
    replay->add_option("--policy", options->policies, "A policy to replay the trace under; may be repeated; see below")
        ->type_name("POLICY")
        ->take_all()
        ->allow_extra_args(false)
        ->transform(one_of(words));
    replay->add_option("--format", options->format, "Format of the page tables: arm64-4k, arm64-16k or arm64-64k")
        ->type_name("FORMAT")
        ->transform(one_of({"arm64-4k", "arm64-16k", "arm64-64k"}))
        ->capture_default_str();
    replay->add_option("--va-bits", options->va_bits, "Bits of virtual addresses")
        ->type_name("N")
        ->capture_default_str();
    replay
        ->add_option("--bbm", options->bbm,
                     "FEAT_BBM level of the CPUs; from 3 on (level 2 without\nconflict aborts) leaves may be resized "
                     "while they run")
        ->type_name("0..3")
        ->check(CLI::Range(0u, 3u).description(""))
        ->capture_default_str();
    replay->add_option("--cpus", options->cpus, "CPUs that run on the map")
        ->type_name("N")
        ->check(CLI::Range(1u, 64u).description(""))
        ->capture_default_str();
    replay->add_option("--zone", options->zone, "Size of the zone of pages under the policy zoned")
        ->type_name("SIZE")
        ->capture_default_str();
    replay
        ->add_option("--from", options->recorder.from,
                     "What TRACE is: trace, or what a recorder printed: ftrace or\nbpftrace (see convert-trace)")
        ->type_name("KIND")
        ->transform(one_of({"trace", "ftrace", "bpftrace"}));
    add_recorder_options(replay, options->recorder);
    replay
        ->add_option("--accesses", options->accesses,
                     "What accesses memory, for TLB misses: uniform, zipf,\nsequential, none, or a file with an "
                     "address a line")
        ->type_name("PATTERN|FILE")
        ->capture_default_str();
    replay->add_option("--access-count", options->access_count, "Accesses that are counted at each moment")
        ->type_name("N")
        ->check(CLI::Range(1u, 10'000'000u).description(""))
        ->capture_default_str();
    replay->add_option("--core", options->core, "Whose TLBs: one of --list-cores, or a JSON file")
        ->type_name("NAME|FILE")
        ->capture_default_str();
    replay->add_option("--seed", options->seed, "Which random accesses")->type_name("N")->capture_default_str();
    replay->add_flag("--list-cores", options->list_cores, "List the cores whose TLBs are part of the program");
    replay->add_option("--report", options->report, "Also write a page with pictures (HTML, docs/report.md)")
        ->type_name("FILE");
    replay->add_flag("--json", options->json, "Print JSON: all that the text says and every moment");
    options->version = app.version();
    replay->callback([options, &exit_code] {
        if (options->list_cores) {
            list_cores(options->json);
            exit_code = exit_ok;
            return;
        }
        exit_code = run_replay(*options) ? exit_ok : exit_failed;
    });
}

void register_convert_trace(CLI::App& app, int& exit_code) {
    const auto options = std::make_shared<ConvertCommandOptions>();
    CLI::App* convert = app.add_subcommand("convert-trace", convert_description);
    convert->footer(convert_footer);
    convert->add_option("FILE", options->input, "What the recorder printed; '-' is standard input")->type_name("");
    convert->add_option("--from", options->recorder.from, "The recorder: ftrace or bpftrace")
        ->type_name("KIND")
        ->transform(one_of({"ftrace", "bpftrace"}))
        ->capture_default_str();
    add_recorder_options(convert, options->recorder);
    convert->add_flag("--script", options->script, "Print the bpftrace script that records");
    convert
        ->add_option("--symbols", options->symbols,
                     "With --script: leave out functions that this /proc/kallsyms\ndoesn't have; bpftrace before 0.21 "
                     "refuses a script with them")
        ->type_name("FILE");
    convert->callback([options, &exit_code] {
        run_convert(*options);
        exit_code = exit_ok;
    });
}

} // namespace directmap::tool

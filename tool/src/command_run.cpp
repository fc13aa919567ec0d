// `directmap run`: a scenario on the modelled machine.
#include "commands.hpp"
#include "input_error.hpp"
#include "memory_map.hpp"
#include "options.hpp"
#include "output.hpp"
#include "plan.hpp"
#include "report.hpp"
#include "report_run.hpp"
#include "run_output.hpp"
#include "run_scenario.hpp"
#include "scanner.hpp"
#include "trace.hpp"
#include "workload.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <iostream>
#include <machine/events.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace directmap::tool {
namespace {

constexpr const char* description =
    "Play a workload on a modelled machine and watch its direct map\n"
    "\n"
    "Builds the direct map of a machine, lets modules, secret memory, guard pages and shared buffers\n"
    "change it, and shows what becomes of its leaves, step by step and under several policies. The\n"
    "engine is the one that kernels embed; the machine checks every state that its CPUs could see.\n"
    "Without arguments: a day of a 256 GiB server.\n";

constexpr const char* footer =
    "Policies (--policy)\n"
    "  pages       single pages from the start, as kernels do that can't or won't split\n"
    "  never       split on demand, never heal, as kernels do that split\n"
    "  explicit    heal where the scenario says 'collapse'\n"
    "  on-restore  heal right after a change that makes it possible\n"
    "  background  a thread heals what has been quiet for 5 s (the default)\n"
    "  zoned       large leaves that are never resized, and a zone of pages for all that changes\n"
    "              (the default with --bbm 0, 1 or 2: nothing may be resized, so there is only\n"
    "              this and pages)\n"
    "\n"
    "Examples:\n"
    "  directmap run                                        the default machine and scenario\n"
    "  directmap run --memory-map /proc/iomem               this machine's RAM (as root)\n"
    "  directmap run --scenario modules --policy never      how another scenario ends unhealed\n"
    "  directmap run --scenario mine.txt                    one of your own (docs/scenarios.md)\n"
    "  directmap run --granule 64k --cpus 8                 other pages, more CPUs\n"
    "  directmap run --placement pooled                     users share pools (docs/clients.md)\n"
    "  directmap run --bbm 0                                CPUs that don't tolerate resizing\n"
    "  directmap run --protect-tables on                    page tables that nobody can write by accident\n"
    "  directmap run --scenario tiny --record events.jsonl  every platform call (docs/events.md)\n"
    "  directmap run --trace changes.txt                    its changes, for replay (docs/replay.md)\n"
    "  directmap run --report day.html                      a page with pictures (docs/report.md)\n"
    "  directmap run --json | jq '.runs[] | [.policy, .end.leaf_count]'\n"
    "\n"
    "Exit codes: 0 success, 1 a promise was broken (it says which), 2 bad input or usage.";

struct Options {
    std::string memory_map = "builtin:ampere-emag-256g";
    std::string scenario = default_scenario;
    std::string policy;
    std::string placement = "scattered";
    std::string granule = "4k";
    unsigned va_bits = 48;
    unsigned bbm = 3;
    unsigned cpus = 4;
    std::uint64_t seed = 0;
    std::string record;
    std::string trace;
    std::string day;
    std::string protect_tables = "off";
    std::string report;
    std::string version;
    bool no_comparison = false;
    bool json = false;
    bool list = false;
};

std::vector<std::string> policy_words() {
    std::vector<std::string> words;
    for (const Policy policy : all_policies()) words.emplace_back(policy_name(policy));
    words.emplace_back("all");
    return words;
}

/// The policies of a run: those that get a timeline first, then those that are only compared.
struct PolicyChoice {
    std::vector<Policy> shown;
    std::vector<Policy> compared;
};

PolicyChoice choose_policies(const Options& options) {
    const bool resizes = options.bbm >= 3;
    PolicyChoice choice;
    for (const Policy policy : all_policies()) {
        const bool chosen = options.policy.empty() ? policy == (resizes ? Policy::background : Policy::zoned)
                                                   : options.policy == policy_name(policy);
        const bool suits = resizes ? policy != Policy::zoned : policy == Policy::pages || policy == Policy::zoned;
        if (chosen && !resizes && !suits)
            throw InputError(
                "--policy", 0,
                fmt::format("with --bbm {} no leaf is resized, so there is only pages and zoned", options.bbm));
        if (chosen || (options.policy == "all" && suits))
            choice.shown.push_back(policy);
        else if (suits && policy != Policy::on_request && !options.no_comparison)
            choice.compared.push_back(policy);
    }
    return choice;
}

void print(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
}

void list_scenarios(bool json) {
    if (json) {
        nlohmann::ordered_json list = nlohmann::ordered_json::array();
        for (const Scenario& scenario : builtin_scenarios())
            list.push_back({{"name", scenario.name},
                            {"about", scenario.about},
                            {"steps", scenario.steps},
                            {"text", scenario.text}});
        print(list.dump(2) + '\n');
        return;
    }
    const Palette palette(stdout);
    for (const Scenario& scenario : builtin_scenarios())
        print(fmt::format("{}  {}{}\n", palette.bold(fmt::format("{:<10}", scenario.name)), scenario.about,
                          scenario.name == default_scenario ? " (the default)" : ""));
}

bool run_scenario(const Options& options) {
    const Scenario scenario = read_scenario(options.scenario);
    PolicyChoice choice = choose_policies(options);
    if (options.protect_tables == "on" && options.bbm < 3)
        throw InputError(
            "--protect-tables", 0,
            fmt::format("giving tables their key resizes leaves, which --bbm {} doesn't allow", options.bbm));
    if (!options.record.empty() && choice.shown.size() != 1)
        throw InputError("--record", 0, "the events of one policy are recorded; --policy all are several");
    if (!options.trace.empty() && choice.shown.size() != 1)
        throw InputError("--trace", 0, "the changes of one policy are written; --policy all are several");
    if (!options.day.empty() && choice.shown.size() != 1)
        throw InputError("--day", 0, "the day of one run is written; --policy all are several");
    const bool trace_alone = options.trace == "-";
    if (trace_alone && options.json)
        throw InputError("--trace", 0, "a trace on standard output and --json would be mixed up");
    if (trace_alone) choice.compared.clear();
    const bool pooled = options.placement == placement_name(Placement::pooled);
    if (pooled && !options.trace.empty())
        throw InputError("--trace", 0, "pools change the map on their own; a trace needs --placement scattered");
    if (pooled && options.bbm < 3)
        throw InputError("--placement", 0,
                         fmt::format("pools resize leaves, which --bbm {} doesn't allow", options.bbm));
    const MemoryMap map = read_memory_map(options.memory_map);
    PlanRequest request;
    request.translation = {page_shift_of(options.granule), options.va_bits, false};
    const Plan plan = make_plan(map, request);

    WorkloadConfig config(machine_of(map, plan, options.cpus, options.bbm));
    config.protect_tables = options.protect_tables == "on";
    config.placement = pooled ? Placement::pooled : Placement::scattered;
    config.seed = options.seed != 0 ? options.seed : scenario.seed.value_or(1);
    config.keep_dump = !options.report.empty();
    if (scenario.shares() && !config.can_share())
        throw InputError(
            printable(map.source), 0,
            fmt::format("RAM at {} reaches into bit {} of the address, which marks memory that is shared with a host",
                        hex(plan.ram.back()), config.sharing_bit()));
    // Whatever the memory is too small for is found before anything is played.
    for (const auto& policies : {choice.shown, choice.compared})
        for (const Policy policy : policies) (void)plan_memory(scenario, config, policy);

    if (!options.report.empty()) check_report_path(options.report);
    std::ofstream recording;
    machine::EventSink record;
    if (!options.record.empty()) {
        recording.open(options.record, std::ios::binary | std::ios::trunc);
        if (!recording) throw InputError(printable(options.record), 0, std::strerror(errno));
        record = machine::json_lines(recording);
    }

    std::ofstream trace_file;
    TraceSink trace;
    if (!options.trace.empty()) {
        if (!trace_alone) {
            trace_file.open(options.trace, std::ios::binary | std::ios::trunc);
            if (!trace_file) throw InputError(printable(options.trace), 0, std::strerror(errno));
        }
        std::ostream& output = trace_alone ? std::cout : trace_file;
        output << trace_head(plan.leaf_sizes.back(), std::nullopt, true);
        trace = [&output](const TraceEvent& event) { output << trace_line(event); };
    }

    std::ofstream day_file;
    DaySink day;
    if (!options.day.empty()) {
        day_file.open(options.day, std::ios::binary | std::ios::trunc);
        if (!day_file) throw InputError(printable(options.day), 0, std::strerror(errno));
        day_file << fmt::format("directmap-day 1 {}\n", plan.leaf_sizes.back());
        day = [&day_file](const std::string& line) { day_file << line << '\n'; };
    }

    const RunSetting setting{map, plan, scenario, config};
    const Palette palette(stdout);
    const std::size_t width = output_width();
    ProgressLine progress;
    std::vector<WorkloadResult> results;
    if (!options.json && !trace_alone) print(introduction_text(setting, palette, width));
    for (const Policy policy : choice.shown) {
        if (options.json || trace_alone) {
            QuietListener listener(policy, progress);
            results.push_back(play(scenario, config, policy, listener, record, trace, day));
        } else {
            Timeline listener(setting, policy, progress, palette, width);
            results.push_back(play(scenario, config, policy, listener, record, trace, day));
            listener.finish();
        }
    }
    if (!options.record.empty() && !recording.flush())
        throw InputError(printable(options.record), 0, std::strerror(errno));
    if (trace_file.is_open() && !trace_file.flush())
        throw InputError(printable(options.trace), 0, std::strerror(errno));
    if (day_file.is_open() && !day_file.flush()) throw InputError(printable(options.day), 0, std::strerror(errno));
    for (const Policy policy : choice.compared) {
        QuietListener listener(policy, progress);
        results.push_back(play(scenario, config, policy, listener));
    }
    progress.clear();
    std::sort(results.begin(), results.end(),
              [](const WorkloadResult& a, const WorkloadResult& b) { return a.policy < b.policy; });
    if (options.json)
        print(run_json(setting, results).dump(2) + '\n');
    else if (!trace_alone)
        print(comparison_text(setting, results, palette, width) + verdict_text(results, palette, width));
    if (!options.report.empty())
        write_report(options.report, report_of(setting, results), report_origin(options.version));
    return all_kept(results);
}

} // namespace

void register_run(CLI::App& app, int& exit_code) {
    const auto options = std::make_shared<Options>();
    CLI::App* run = app.add_subcommand("run", description);
    run->footer(footer);
    run->add_option("--memory-map", options->memory_map,
                    "The machine's memory map, as for plan; '-' is standard\ninput, 'builtin:NAME' one that is part of "
                    "the program")
        ->type_name("FILE")
        ->capture_default_str();
    run->add_option("--scenario", options->scenario, "What happens: one of --list, a file, or '-'")
        ->type_name("NAME|FILE")
        ->capture_default_str();
    run->add_option("--policy", options->policy, "The policy whose timeline is shown, or all; see below")
        ->type_name("POLICY")
        ->transform(one_of(policy_words()));
    run->add_option("--placement", options->placement,
                    "Where memory lies whose permissions change: scattered over\nRAM, as a page allocator has it, or "
                    "pooled by permission")
        ->type_name("HOW")
        ->transform(one_of({"scattered", "pooled"}))
        ->capture_default_str();
    run->add_option("--granule", options->granule, "Page size: 4k, 16k or 64k")
        ->type_name("SIZE")
        ->transform(one_of(page_size_words()))
        ->capture_default_str();
    run->add_option("--va-bits", options->va_bits,
                    "Bits of virtual address:\n39, 48, 52 (4k), 47, 48, 52 (16k), 42, 48, 52 (64k)")
        ->type_name("N")
        ->capture_default_str();
    run->add_option("--bbm", options->bbm,
                    "FEAT_BBM level of the CPUs; from 3 on (level 2 without\nconflict aborts) leaves may be resized "
                    "while they run")
        ->type_name("0..3")
        ->check(CLI::Range(0u, 3u).description(""))
        ->capture_default_str();
    run->add_option("--cpus", options->cpus, "CPUs that run on the map")
        ->type_name("N")
        ->check(CLI::Range(1u, 64u).description(""))
        ->capture_default_str();
    run->add_option("--seed", options->seed, "Where memory happens to be free; by default the scenario's")
        ->type_name("N")
        ->check(CLI::Validator(
            [](std::string& word) {
                Scanner scanner(word);
                std::uint64_t value = 0;
                const bool good = scanner.decimal(value) && scanner.at_end() && value != 0;
                return good ? std::string() : "'" + printable(word) + "' is not a number from 1 to 2^64 - 1";
            },
            ""));
    run->add_option("--protect-tables", options->protect_tables,
                    "on: page tables have a protection key, and are writable\nonly while the engine writes them "
                    "(docs/protected-tables.md)")
        ->type_name("on|off")
        ->transform(one_of({"on", "off"}))
        ->capture_default_str();
    run->add_option("--record", options->record, "Write every event of the shown policy's run, as JSON lines")
        ->type_name("FILE");
    run->add_option("--trace", options->trace,
                    "Write the changes of the shown policy's run as a trace for\nreplay; '-' is standard output, "
                    "and nothing else is shown")
        ->type_name("FILE");
    run->add_option("--day", options->day,
                    "Write what the users do as a file that the reference kernel\nplays too: boot --day")
        ->type_name("FILE");
    run->add_option("--report", options->report, "Also write a page with pictures (HTML, docs/report.md)")
        ->type_name("FILE");
    run->add_flag("--no-comparison", options->no_comparison, "Play the scenario under the shown policy alone");
    run->add_flag("--json", options->json, "Print JSON: all that the text says and every step");
    run->add_flag("--list", options->list, "List the scenarios that are part of the program");
    options->version = app.version();
    run->callback([options, &exit_code] {
        if (options->list) {
            list_scenarios(options->json);
            exit_code = exit_ok;
            return;
        }
        exit_code = run_scenario(*options) ? exit_ok : exit_failed;
    });
}

} // namespace directmap::tool

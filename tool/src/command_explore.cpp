// `directmap explore`: every order in which several CPUs can run on the map, and a story of the one that goes wrong.
#include "commands.hpp"
#include "explore_crew.hpp"
#include "explore_output.hpp"
#include "input_error.hpp"
#include "options.hpp"
#include "output.hpp"

#include "machine/search.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fmt/format.h>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

namespace directmap::tool {
namespace {

using machine::Search;
using machine::SearchMode;
using machine::Tally;

constexpr const char* description =
    "Try every order in which several CPUs can run on the map, and tell the one that breaks a promise\n"
    "\n"
    "A scenario is a small map and a few CPUs that do something to it at once. Each is run again and again, in every "
    "order of the\n"
    "engine's platform calls and with everything that hardware may do in between, up to a number of preemptions. After "
    "every call\n"
    "the machine checks what every CPU may see. A violation is shrunk, told as a story and saved, so that it can be "
    "replayed.";

constexpr const char* footer =
    "Examples:\n"
    "  directmap explore                                   all scenarios, as a table\n"
    "  directmap explore --scenario collapse-protect --exhaustive\n"
    "  directmap explore --scenario gate-failed-admission --random 7 --runs 100000\n"
    "  directmap explore --fault skip-lock                 leave the locks out, and see what comes of it\n"
    "  directmap explore --fault all                       every seeded fault, by the scenario that finds it\n"
    "  directmap explore --replay explore-split-split-same-leaf-skip-lock.json\n"
    "  mpirun -n 64 --hostfile hosts directmap explore --bound 3\n"
    "\n"
    "The result is the same whatever the number of workers. Under mpirun the first process hands out work and the "
    "others do it.\n"
    "\n"
    "Exit codes: 0 clean, 2 bad usage or input, 3 a promise was broken. With --fault all: 0 each fault was found, 1 "
    "one was not.";

constexpr const char* every = "all";

struct Options {
    bool list = false;
    bool list_faults = false;
    std::vector<std::string> scenarios;
    std::string fault;
    unsigned bound = 2;
    bool exhaustive = false;
    std::uint64_t seed = 1;
    std::uint64_t runs = 1000;
    unsigned jobs = 0;
    std::string replay;
    std::string save;
    bool json = false;
};

void print(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
}

std::string line_of(const nlohmann::ordered_json& json) {
    return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + '\n';
}

const machine::Scenario& scenario_called(const std::string& name, const std::string& where) {
    const machine::Scenario* const found = machine::find_scenario(name);
    if (found == nullptr)
        throw InputError(where, 0, "there is no scenario '" + printable(name) + "'; --list shows them");
    return *found;
}

const machine::SeededFault* fault_called(const std::string& name, const std::string& where) {
    if (name.empty()) return nullptr;
    const machine::SeededFault* const found = machine::find_fault(name);
    if (found == nullptr)
        throw InputError(where, 0, "there is no fault '" + printable(name) + "'; --list-faults shows them");
    return found;
}

/// What the options ask for.
std::vector<Search> searches_of(const Options& options, const SearchMode& mode) {
    std::vector<std::string> faults = {options.fault};
    if (options.fault == every) {
        faults.clear();
        for (const machine::SeededFault& fault : machine::seeded_faults()) faults.push_back(fault.name);
    }
    std::vector<Search> searches;
    for (const std::string& fault : faults) {
        const machine::SeededFault* const seeded = fault_called(fault, "--fault");
        std::vector<std::string> names = options.scenarios;
        if (names.empty() && seeded != nullptr) names = {seeded->scenario};
        if (names.empty() || names.front() == every) {
            names.clear();
            for (const machine::Scenario& scenario : machine::scenarios()) names.push_back(scenario.name);
        }
        for (const std::string& name : names)
            searches.push_back({scenario_called(name, "--scenario").name, fault, mode});
    }
    return searches;
}

/// Says now and then how far a long run is: on standard error, so that the result stays what it is.
class Clock {
public:
    explicit Clock(std::size_t searches) : searches_{searches}, terminal_{isatty(STDERR_FILENO) != 0} {}
    Clock(const Clock&) = delete;
    Clock& operator=(const Clock&) = delete;
    ~Clock() { clear(); }

    void tell(const machine::Progress& progress) {
        const auto now = std::chrono::steady_clock::now();
        if (now - told_ < (terminal_ ? std::chrono::milliseconds(500) : std::chrono::milliseconds(30'000))) return;
        told_ = now;
        std::uint64_t executions = 0;
        for (const Tally& tally : progress.tallies) executions += tally.executions + tally.pruned;
        const double seconds = std::chrono::duration<double>(now - began_).count();
        std::fprintf(stderr, "%sdirectmap: %zu of %zu searches, %s executions, %.0f s%s", terminal_ ? "\r\033[K" : "",
                     progress.finished, searches_, grouped(executions).c_str(), seconds, terminal_ ? "" : "\n");
        shown_ = true;
    }
    /// Makes room on a terminal for something else.
    void clear() {
        if (shown_ && terminal_) std::fputs("\r\033[K", stderr);
        shown_ = false;
    }

private:
    std::size_t searches_;
    bool terminal_, shown_ = false;
    std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now(), told_ = began_;
};

void write_file(const std::string& path, const std::string& text) {
    std::ofstream file(path, std::ios::binary);
    if (!(file << text) || !file.flush()) throw InputError(path, 0, "can't be written");
}

/// The first violation, as short as it gets: told, saved and ready to be replayed.
void tell_failure(const Options& options, const Search& search, const machine::Failure& failure) {
    const machine::Scenario& scenario = scenario_called(search.scenario, "--scenario");
    machine::Explorer explorer(scenario, fault_called(search.fault, "--fault"));
    const machine::Schedule shortest = explorer.shrink(failure.schedule);
    std::string path = options.save;
    if (path.empty()) path = "explore-" + search.scenario + (search.fault.empty() ? "" : "-" + search.fault) + ".json";
    write_file(path, machine::to_json(shortest));
    if (options.json) return;
    print("\n" + explorer.story(shortest) +
          fmt::format("\nShrunk to {} and {}, from {} and {}. Replay it: directmap explore --replay {}\n",
                      counted(shortest.switches.size(), "switch", "switches"),
                      counted(shortest.choices.size(), "choice of hardware", "choices of hardware"),
                      failure.schedule.switches.size(), failure.schedule.choices.size(), path));
}

int run_replay(const Options& options) {
    std::ifstream file(options.replay, std::ios::binary);
    if (!file) throw InputError(options.replay, 0, "can't be read");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    machine::Schedule schedule;
    try {
        schedule = machine::parse_schedule(text);
    } catch (const std::invalid_argument& error) {
        throw InputError(options.replay, 0, error.what());
    }
    machine::Explorer explorer(scenario_called(schedule.scenario, options.replay),
                               fault_called(schedule.fault, options.replay));
    const auto violations = explorer.replay(schedule);
    if (options.json) {
        nlohmann::ordered_json json;
        json["schema"] = "directmap.explore-replay/1";
        json["scenario"] = schedule.scenario;
        if (!schedule.fault.empty()) json["fault"] = schedule.fault;
        json["clean"] = violations.empty();
        json["violations"] = nlohmann::ordered_json::array();
        for (const machine::Violation& violation : violations) json["violations"].push_back(json_of(violation));
        print(line_of(json));
    } else {
        print(explorer.story(schedule));
        if (violations.empty()) print("\nclean\n");
        if (violations.empty() && !schedule.violation.empty())
            print(fmt::format("The schedule was saved for '{}': it has been repaired, or belongs to another version.\n",
                              printable(schedule.violation)));
    }
    return violations.empty() ? exit_ok : exit_violation;
}

int run_search(const Options& options, const SearchMode& mode) {
    const std::vector<Search> searches = searches_of(options, mode);
    Crew crew = join_crew();
    if (crew.served) return exit_ok;
    const bool crew_is_here = crew.workers != nullptr;
    if (!crew_is_here) {
        const unsigned jobs = options.jobs != 0 ? options.jobs : std::max(1u, std::thread::hardware_concurrency());
        crew.workers = machine::local_workers(jobs);
    }
    // What mpirun passes on isn't a terminal, though it looks like one.
    const ExploreTable table(searches, crew_is_here ? Palette(false) : Palette(stdout));
    Clock clock(searches.size());
    if (!options.json) print(words_of(mode) + "\n" + table.head());
    std::size_t printed = 0;
    const auto tallies = machine::search_all(searches, *crew.workers, [&](const machine::Progress& progress) {
        if (printed != progress.finished && !options.json) clock.clear();
        for (; printed != progress.finished; ++printed) {
            if (options.json) continue;
            print(table.line(searches[printed], progress.tallies[printed]));
            std::fflush(stdout);
        }
        clock.tell(progress);
    });
    crew.workers.reset();
    clock.clear();
    const auto found =
        std::find_if(tallies.begin(), tallies.end(), [](const Tally& t) { return t.failure.has_value(); });
    if (options.json) {
        print(line_of(json_of(searches, tallies)));
    } else if (searches.size() > 1) {
        print(table.foot(tallies));
    }
    if (options.fault == every && options.scenarios.empty()) {
        const auto missed = std::find_if(tallies.begin(), tallies.end(), [](const Tally& t) { return !t.failure; });
        return missed == tallies.end() ? exit_ok : exit_failed;
    }
    if (found == tallies.end()) return exit_ok;
    tell_failure(options, searches[static_cast<std::size_t>(found - tallies.begin())], *found->failure);
    return exit_violation;
}

int run_explore(const Options& options, const SearchMode& mode) {
    if (options.list || options.list_faults) {
        if (options.json) {
            print(line_of(options.list_faults ? faults_json() : scenarios_json()));
        } else {
            print(options.list_faults ? list_of_faults() : list_of_scenarios());
        }
        return exit_ok;
    }
    return options.replay.empty() ? run_search(options, mode) : run_replay(options);
}

} // namespace

void register_explore(CLI::App& app, int& exit_code) {
    const auto options = std::make_shared<Options>();
    CLI::App* explore = app.add_subcommand("explore", description);
    explore->footer(footer);
    CLI::Option* list = explore->add_flag("--list", options->list, "List the scenarios, with what each CPU does");
    CLI::Option* list_faults = explore->add_flag("--list-faults", options->list_faults,
                                                 "List the seeded faults, with the scenario that finds each");
    list->excludes(list_faults);
    explore->add_option("--scenario", options->scenarios, "Search this one; may be repeated; 'all' is the default")
        ->type_name("NAME")
        ->take_all()
        ->expected(1)
        ->delimiter(',');
    explore
        ->add_option("--fault", options->fault,
                     "Seed a fault and search the scenario that finds it, or --scenario; 'all' for each of them")
        ->type_name("NAME");
    CLI::Option* bound = explore->add_option("--bound", options->bound, "Every order with at most N preemptions")
                             ->type_name("N")
                             ->check(CLI::Range(0u, 100u).description(""))
                             ->capture_default_str();
    CLI::Option* exhaustive = explore
                                  ->add_flag("--exhaustive", options->exhaustive,
                                             "Every order; of those that differ only in calls that "
                                             "commute, one")
                                  ->excludes(bound);
    CLI::Option* random = explore->add_option("--random", options->seed, "Random orders (PCT) from a seed")
                              ->type_name("SEED")
                              ->excludes(bound)
                              ->excludes(exhaustive);
    explore->add_option("--runs", options->runs, "How many random orders")
        ->type_name("N")
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 40).description(""))
        ->needs(random)
        ->default_str("1000");
    explore->add_option("--jobs", options->jobs, "Processes that search; the number of CPUs by default")
        ->type_name("N")
        ->check(CLI::Range(1u, 1024u).description(""));
    CLI::Option* replay =
        explore->add_option("--replay", options->replay, "Run one saved schedule and tell it as a story")
            ->type_name("FILE");
    for (CLI::Option* other : {bound, exhaustive, random, list, list_faults}) replay->excludes(other);
    explore
        ->add_option("--save", options->save,
                     "Where to save the first schedule that breaks a promise (default: explore-NAME.json)")
        ->type_name("FILE");
    explore->add_flag("--json", options->json, "Print one JSON object on one line (docs/explorer.md)");
    explore->callback([options, exhaustive, random, &exit_code] {
        SearchMode mode;
        mode.kind = random->count() != 0       ? SearchMode::Kind::random
                    : exhaustive->count() != 0 ? SearchMode::Kind::exhaustive
                                               : SearchMode::Kind::bounded;
        mode.bound = options->bound;
        mode.seed = options->seed;
        mode.runs = options->runs;
        exit_code = run_explore(*options, mode);
    });
}

} // namespace directmap::tool

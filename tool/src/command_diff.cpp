// `directmap diff`: what split, what healed and what changed permission between two dumps of one host.
#include "commands.hpp"
#include "diff.hpp"
#include "diff_output.hpp"
#include "options.hpp"
#include "output.hpp"
#include "report_analyze.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

namespace directmap::tool {
namespace {

constexpr const char* description =
    "Show what split, healed or changed permission between two page-table dumps of one host\n"
    "\n"
    "Reads the same dumps as 'directmap analyze'. Where the direct map starts elsewhere after a reboot, memory is "
    "compared by its\n"
    "distance from the start.";

constexpr const char* footer = "A or B may be '-' for standard input, or FILE#2 for the second dump of a file.\n"
                               "\n"
                               "Examples:\n"
                               "  directmap diff monday.txt tuesday.txt\n"
                               "  directmap diff monday.txt tuesday.txt --report week.html\n"
                               "  directmap diff console.log#1 console.log#2 --json | jq .split.leaves\n"
                               "  sudo cat /sys/kernel/debug/kernel_page_tables | directmap diff before.txt -\n"
                               "\n"
                               "Exit codes: 0 no difference, 1 differences, 2 bad input.";

struct Options {
    std::string before;
    std::string after;
    std::string granule = "auto";
    std::string report;
    std::string version;
    std::size_t listed = 10;
    bool json = false;
};

constexpr std::size_t listed_in_json = 1000;

int run_diff(const Options& options, bool listed_is_given) {
    DiffOptions diff_options;
    if (options.granule != "auto") diff_options.analyze.granule = std::uint64_t{1} << page_shift_of(options.granule);
    diff_options.listed = options.json && !listed_is_given ? listed_in_json : options.listed;
    if (!options.report.empty()) {
        check_report_path(options.report);
        diff_options.picture_limit = report_picture_limit;
        if (!listed_is_given) diff_options.listed = listed_in_json;
    }
    RereadableInput before(options.before);
    RereadableInput after(options.after);
    const DumpDiff diff = diff_dumps(before, after, diff_options);
    const std::string text =
        options.json ? json_of(diff).dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + '\n'
                     : text_of(diff, Palette(stdout), options.listed);
    std::fwrite(text.data(), 1, text.size(), stdout);
    if (!options.report.empty()) write_report(options.report, report_of(diff), report_origin(options.version));
    return diff.same() ? exit_ok : exit_failed;
}

} // namespace

void register_diff(CLI::App& app, int& exit_code) {
    const auto options = std::make_shared<Options>();
    CLI::App* diff = app.add_subcommand("diff", description);
    diff->footer(footer);
    diff->add_option("A", options->before, "The earlier dump")->type_name("")->required();
    diff->add_option("B", options->after, "The later dump")->type_name("")->required();
    diff->add_option("--granule", options->granule, "Page size of arm64 dumps: 4k, 16k, 64k; auto infers it")
        ->type_name("SIZE")
        ->transform(one_of({"auto", "4k", "16k", "64k"}))
        ->capture_default_str();
    CLI::Option* list = diff->add_option("--list", options->listed, "Entries of each list (JSON: 1000)")
                            ->type_name("N")
                            ->capture_default_str();
    diff->add_option("--report", options->report, "Also write a page with pictures (HTML, docs/report.md)")
        ->type_name("FILE");
    diff->add_flag("--json", options->json, "Print one JSON object on one line (docs/schema.md)");
    options->version = app.version();
    diff->callback([options, list, &exit_code] { exit_code = run_diff(*options, list->count() != 0); });
}

} // namespace directmap::tool

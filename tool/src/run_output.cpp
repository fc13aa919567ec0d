#include "run_output.hpp"

#include "run_reach.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <sys/ioctl.h>
#include <unistd.h>

namespace directmap::tool {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view schema = "directmap.run/1";
constexpr std::size_t narrowest = 80;
constexpr std::size_t default_width = 100;
constexpr std::size_t widest = 120;

} // namespace

// ---- Words and numbers

std::string wrapped(std::string_view text, std::size_t width, std::size_t indent) {
    std::istringstream stream{std::string(text)};
    std::string result;
    std::string line;
    for (std::string word; stream >> word;) {
        const std::size_t start = result.empty() ? 0 : indent;
        if (!line.empty() && start + line.size() + 1 + word.size() > width) {
            result += (result.empty() ? "" : std::string(indent, ' ')) + line + '\n';
            line.clear();
        }
        line += (line.empty() ? "" : " ") + word;
    }
    return result + (result.empty() ? "" : std::string(indent, ' ')) + line + '\n';
}

std::string short_count(std::uint64_t number) {
    if (number < 1'000'000) return grouped(number);
    const auto millions = static_cast<double>(number) / 1e6;
    return fmt::format("{:.{}f}M", millions, millions < 10 ? 2 : millions < 100 ? 1 : 0);
}

std::string short_size(std::uint64_t bytes) {
    constexpr std::array<std::string_view, 6> units = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    for (; value >= 999.5 && unit + 1 < units.size(); ++unit) value /= 1024;
    const bool whole = value == std::floor(value);
    return fmt::format("{:.{}f} {}", value, whole || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2, units[unit]);
}

std::string_view short_name(Policy policy) {
    switch (policy) {
    case Policy::pages: return "pages only";
    case Policy::never: return "never heal";
    case Policy::on_request: return "on request";
    case Policy::on_restore: return "on restore";
    case Policy::background: return "background";
    case Policy::zoned: return "zoned";
    }
    return "";
}

namespace {

std::string explanation_of(Policy policy, const RunSetting& setting) {
    switch (policy) {
    case Policy::pages: return "all RAM in single pages from the start";
    case Policy::never: return "split on demand, never heal";
    case Policy::on_request: return "split on demand, heal where a collapse statement asks for it";
    case Policy::on_restore: return "split on demand, heal right after the change that makes it possible";
    case Policy::background:
        return fmt::format("split on demand; a thread heals what has not changed for {} s", quiet_milliseconds / 1000);
    case Policy::zoned:
        return fmt::format("large leaves that are never resized, and a zone of {} in pages for everything that changes",
                           human_size(plan_memory(setting.scenario, setting.config, policy).zone.size()));
    }
    return "";
}

std::string label_of(const Step& step, std::uint64_t page_size) {
    const Statement& statement = *step.statement;
    const std::string count = grouped(step.amount);
    const bool one = step.amount == 1;
    switch (statement.action) {
    case Action::boot: return "boot";
    case Action::modules_load: return fmt::format("{} module{} loaded", count, one ? "" : "s");
    case Action::modules_unload: return fmt::format("{} module{} unloaded", count, one ? "" : "s");
    case Action::secret_take: return fmt::format("{} secret page{}", count, one ? "" : "s");
    case Action::secret_give: return fmt::format("{} page{} restored", count, one ? "" : "s");
    case Action::guard_prepare:
        return fmt::format("guard pool of {}", human_size(align_up(statement.largest_size, page_size)));
    case Action::guard_flip: return fmt::format("{} guard flip{}", count, one ? "" : "s");
    case Action::guard_release: return "guard pages released";
    case Action::share:
        return fmt::format("{} x {} shared", count, leaf_name(align_up(statement.largest_size, page_size)));
    case Action::unshare: return fmt::format("{} area{} unshared", count, one ? "" : "s");
    case Action::code_add: return fmt::format("{} piece{} of code", count, one ? "" : "s");
    case Action::code_remove: return fmt::format("{} piece{} removed", count, one ? "" : "s");
    case Action::threads_start: return fmt::format("{} thread{} started", count, one ? "" : "s");
    case Action::threads_end: return fmt::format("{} thread{} ended", count, one ? "" : "s");
    case Action::copy: return statement.for_hibernation ? "copy for hibernation" : "copy for kexec";
    case Action::collapse: return "collapse";
    case Action::wait: return fmt::format("{} later", statement.text.substr(statement.text.find(' ') + 1));
    case Action::repeat: break;
    }
    return "";
}

// ---- Bars

/// A colour of 256, and the letter that stands where there is no colour; the same as in pictures of dumps.
struct Shade {
    char letter;
    unsigned colour;
};
constexpr std::array<Shade, 4> large_shades = {{{'g', 71}, {'m', 79}, {'b', 74}, {'c', 215}}};
constexpr Shade page_shade = {'p', 203};

Shade shade_of(std::size_t index, std::size_t sizes) {
    return index + 1 == sizes ? page_shade : large_shades[std::min(index, large_shades.size() - 1)];
}

std::string paint(Shade shade, std::size_t cells, const Palette& palette) {
    if (cells == 0) return {};
    return palette.enabled() ? palette.wrap(fmt::format("48;5;{}", shade.colour), std::string(cells, ' '))
                             : std::string(cells, shade.letter);
}

/// How many of `cells` each leaf size gets. A share's width goes with its fourth root, so that one page in a terabyte
/// shows, and every size that is there gets a cell.
std::vector<std::size_t> cells_of(const std::vector<std::uint64_t>& sizes, const std::vector<std::uint64_t>& leaves,
                                  std::size_t cells) {
    std::vector<double> weights;
    for (std::size_t i = 0; i < sizes.size(); ++i)
        weights.push_back(std::pow(static_cast<double>(leaves[i]) * static_cast<double>(sizes[i]), 0.25));
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    std::vector<std::size_t> result;
    std::size_t given = 0;
    for (const double weight : weights) {
        const auto width = static_cast<std::size_t>(std::lround(weight / sum * static_cast<double>(cells)));
        result.push_back(weight == 0 ? 0 : std::max<std::size_t>(width, 1));
        given += result.back();
    }
    // Rounding is settled with the widest.
    auto& most = *std::max_element(result.begin(), result.end());
    most = most + cells - given;
    return result;
}

} // namespace

std::string bar_of(const std::vector<std::uint64_t>& sizes, const std::vector<std::uint64_t>& leaves, std::size_t cells,
                   const Palette& palette) {
    const std::vector<std::size_t> widths = cells_of(sizes, leaves, cells);
    std::string bar;
    for (std::size_t i = 0; i < widths.size(); ++i) bar += paint(shade_of(i, widths.size()), widths[i], palette);
    return bar;
}

std::string legend_of(const std::vector<std::uint64_t>& sizes, const Palette& palette) {
    std::string legend;
    for (std::size_t i = 0; i < sizes.size(); ++i)
        legend += "  " + paint(shade_of(i, sizes.size()), 2, palette) + " " + leaf_name(sizes[i]);
    return legend;
}

// ---- Text around the tables

std::string fact(std::string_view name, std::string_view text, const Palette& palette, std::size_t width) {
    constexpr std::size_t fact_indent = 10;
    const std::string lines = wrapped(std::string(fact_indent - 1, '.') + " " + std::string(text), width, fact_indent);
    return palette.bold(fmt::format("{:<{}}", name, fact_indent)) + lines.substr(fact_indent);
}

namespace {

std::string sizes_of(const std::vector<std::uint64_t>& sizes) {
    std::vector<std::string> names;
    for (const std::uint64_t size : sizes) names.push_back(leaf_name(size));
    return fmt::format("{}", fmt::join(names, ", "));
}

std::string resizing_of(unsigned bbm) {
    switch (bbm) {
    case 0: return "a leaf that changes size must be taken away for a moment (FEAT_BBM level 0)";
    case 1: return "a leaf that changes size must be marked or taken away for a moment (FEAT_BBM level 1)";
    case 2: return "a leaf that changes size under them may raise a conflict abort (FEAT_BBM level 2)";
    default: return "leaves may change size while they run (FEAT_BBM level 2 without aborts)";
    }
}

bool is_healed(const WorkloadResult& result) {
    return result.steps.back().map.leaves == result.smallest_cover;
}

std::uint64_t sum_of(const std::vector<std::uint64_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
}

const WorkloadResult* find(const std::vector<WorkloadResult>& results, Policy policy) {
    for (const WorkloadResult& result : results)
        if (result.policy == policy && result.finished) return &result;
    return nullptr;
}

/// What the comparison says, in sentences.
std::string conclusion(const RunSetting& setting, const std::vector<WorkloadResult>& results) {
    std::string text;
    const std::uint64_t page = setting.plan.leaf_sizes.back();
    const auto tables = [&](const MapState& map) { return short_size(map.tables * page); };
    if (const WorkloadResult* pages = find(results, Policy::pages))
        text += fmt::format("By pages, the map takes {} of page tables, and a TLB of {} entries reaches {} of RAM. ",
                            tables(pages->boot), grouped(tlb_entries), short_size(pages->steps.back().reach));
    if (const WorkloadResult* zoned = find(results, Policy::zoned))
        text += fmt::format(
            "With large leaves and a zone of pages it takes {}, and the TLB reaches {}; that holds for as long as "
            "everything that changes fits into the zone. ",
            tables(zoned->boot), short_size(zoned->steps.back().reach));
    const WorkloadResult* never = find(results, Policy::never);
    if (never != nullptr) {
        const Step& last = never->steps.back();
        const std::string reach = short_size(last.reach);
        const std::string reach_after_boot = short_size(never->steps.front().reach);
        if (is_healed(*never)) {
            text += "Split and never healed, it did not suffer here. ";
        } else {
            text += fmt::format(
                "Split and never healed, it ends with {} leaves where {} would say the same{}; the next day "
                "starts there. ",
                grouped(last.map.leaf_count), grouped(sum_of(never->smallest_cover)),
                reach == reach_after_boot
                    ? ""
                    : fmt::format(", and the reach has gone from {} to {}", reach_after_boot, reach));
        }
    }
    std::vector<std::string> prices;
    const WorkloadResult* healed = nullptr;
    for (const WorkloadResult& result : results) {
        const bool heals = result.policy == Policy::on_request || result.policy == Policy::on_restore ||
                           result.policy == Policy::background;
        if (!heals || !result.finished || !is_healed(result)) continue;
        healed = &result;
        prices.push_back(fmt::format("{} ({})", grouped(result.counters.invalidations), short_name(result.policy)));
    }
    if (healed != nullptr) {
        const Step& last = healed->steps.back();
        const bool as_begun = last.map.leaves == healed->boot.leaves && last.map.tables == healed->boot.tables;
        text += fmt::format("Healed, it ends with {} leaves{}; fewer could not say the same.",
                            grouped(last.map.leaf_count), as_begun ? " as after boot and every table given back" : "");
        if (healed->counters.invalidations != 0) {
            text += fmt::format(" That took {} TLB invalidations", results.size() == 1
                                                                       ? grouped(healed->counters.invalidations)
                                                                       : fmt::format("{}", fmt::join(prices, " or ")));
            text += never != nullptr
                        ? fmt::format(", against {} without healing.", grouped(never->counters.invalidations))
                        : ".";
        }
    }
    return text;
}

} // namespace

// ---- JSON

Json counters_json(const Counters& counters) {
    return {{"splits", counters.splits},
            {"splits_avoided", counters.splits_avoided},
            {"groups_opened", counters.groups_opened},
            {"groups_closed", counters.groups_closed},
            {"collapses", counters.collapses},
            {"stores", counters.stores},
            {"filled", counters.filled},
            {"barriers", counters.barriers},
            {"invalidations", counters.invalidations},
            {"rounds", counters.rounds},
            {"tables_taken", counters.tables_taken},
            {"tables_returned", counters.tables_returned}};
}

Json leaves_json(const std::vector<std::uint64_t>& sizes, const std::vector<std::uint64_t>& leaves) {
    Json json = Json::object();
    for (std::size_t i = 0; i < leaves.size(); ++i) json[leaf_name(sizes[i])] = leaves[i];
    return json;
}

namespace {

/// Puts the state of a map into `json`.
void add_map(Json& json, const std::vector<std::uint64_t>& sizes, const MapState& map, std::uint64_t reach) {
    json["leaves"] = leaves_json(sizes, map.leaves);
    json["leaf_count"] = map.leaf_count;
    json["tables"] = map.tables;
    json["table_bytes"] = map.tables * sizes.back();
    if (map.keyed_pages != 0) json["keyed_bytes"] = map.keyed_pages * sizes.back();
    json["tlb_reach_bytes"] = reach;
}

Json json_of(const Step& step, const std::vector<std::uint64_t>& sizes) {
    Json json = {{"line", step.statement->line},          {"statement", step.statement->text},
                 {"label", label_of(step, sizes.back())}, {"rounds", step.rounds},
                 {"milliseconds", step.milliseconds},     {"bytes", step.map.bytes}};
    add_map(json, sizes, step.map, step.reach);
    json["counters"] = counters_json(step.counters);
    if (step.pools.owned != 0) json["pools"] = {{"owned_bytes", step.pools.owned}, {"idle_bytes", step.pools.idle}};
    if (step.copy)
        json["copy"] = {{"leaf_count", step.copy->leaf_count},
                        {"tables", step.copy->tables},
                        {"bytes", step.copy->report.bytes},
                        {"made_valid_bytes", step.copy->report.made_valid},
                        {"left_out_bytes", step.copy->report.left_out}};
    if (step.refusal) json["refused"] = {{"code", step.refusal->code}, {"reason", step.refusal->reason}};
    return json;
}

Json json_of(const WorkloadResult& result) {
    Json json = {{"policy", policy_name(result.policy)}, {"finished", result.finished},
                 {"problems", result.problems},          {"changes", result.changes},
                 {"platform_calls", result.calls},       {"counters", counters_json(result.counters)}};
    if (result.steps.empty()) return json;
    add_map(json["boot"], result.leaf_sizes, result.boot, result.steps.front().reach);
    add_map(json["worst"], result.leaf_sizes, result.worst, result.worst_reach);
    add_map(json["end"], result.leaf_sizes, result.steps.back().map, result.steps.back().reach);
    if (result.finished) {
        json["smallest_cover"] = leaves_json(result.leaf_sizes, result.smallest_cover);
        json["healed"] = is_healed(result);
    }
    Json& steps = json["steps"] = Json::array();
    for (const Step& step : result.steps) steps.push_back(json_of(step, result.leaf_sizes));
    return json;
}

} // namespace

std::size_t output_width() {
    winsize size{};
    if (isatty(STDOUT_FILENO) == 0 || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return default_width;
    return std::clamp<std::size_t>(size.ws_col, narrowest, widest);
}

std::string introduction_text(const RunSetting& setting, const Palette& palette, std::size_t width) {
    const WorkloadConfig& config = setting.config;
    const std::size_t text_width = std::min(width, default_width);
    std::string text = palette.bold("directmap: the life of a direct map") + "\n\n";
    text += wrapped(
        "A kernel maps all of its RAM once, at a fixed offset: its direct map. In large leaves that costs next to "
        "nothing. But modules, secret memory, guard pages and confidential guests change permissions page by "
        "page, and every such change breaks a large leaf up. Kernels of today map everything by pages from the "
        "start, or split and never heal. directmap's engine splits while all CPUs run, and puts the large "
        "leaves back.",
        text_width);
    text += '\n';
    text +=
        wrapped("Here it runs on a model of an arm64 machine that checks, after every store, barrier and invalidation, "
                "that no CPU could see anything but what was asked for.",
                text_width);
    text += '\n';
    text += fact("machine",
                 fmt::format("{} of RAM in {} ({}); {}: {}", human_size(setting.plan.large.bytes),
                             counted(setting.plan.ram.size(), "range", "ranges"), printable(setting.map.source),
                             counted(config.cpus, "CPU", "CPUs"), resizing_of(config.bbm)),
                 palette, text_width);
    text += fact("map",
                 fmt::format("{} pages, {}-bit VA; leaves of {}", leaf_name(setting.plan.leaf_sizes.back()),
                             config.translation.va_bits, sizes_of(setting.plan.leaf_sizes)),
                 palette, text_width);
    text += fact("scenario",
                 fmt::format("{}{}{} ({}, seed {})", printable(setting.scenario.name),
                             setting.scenario.about.empty() ? "" : ": ", setting.scenario.about,
                             printable(setting.scenario.source), config.seed),
                 palette, text_width);
    if (config.placement == Placement::pooled) {
        text += fact("placement",
                     "pooled: who changes permissions takes memory from pools, a chunk of 2M at a time, and so meets "
                     "its like",
                     palette, text_width);
    }
    if (!config.resizes_live()) {
        text += '\n';
        text += wrapped(
            "CPUs like these can't run on a map whose leaves change size, so nothing is split or collapsed: what is "
            "to change page by page has to be mapped by pages at boot, all of RAM or a zone of it. A change that "
            "would need a resize is refused with a clear error, and nothing has changed.",
            text_width);
    }
    return text;
}

// ---- Progress

ProgressLine::ProgressLine() {
    const char* terminal = std::getenv("TERM");
    enabled_ = isatty(STDERR_FILENO) != 0 && (terminal == nullptr || std::string_view(terminal) != "dumb");
}

void ProgressLine::show(const std::string& text) {
    using namespace std::chrono_literals;
    const auto now = std::chrono::steady_clock::now();
    if (!enabled_ || now - last_ < 100ms) return;
    last_ = now;
    shown_ = true;
    std::fprintf(stderr, "\r\x1b[K%s", text.c_str());
    std::fflush(stderr);
}

void ProgressLine::clear() {
    if (!shown_) return;
    shown_ = false;
    std::fputs("\r\x1b[K", stderr);
    std::fflush(stderr);
}

void QuietListener::on_progress(std::uint64_t done, std::uint64_t total) {
    progress_.show(fmt::format("{}: statement {} of {}", short_name(policy_), grouped(done), grouped(total)));
}

// ---- Timeline

namespace {

// The numbers behind the bar, a blank before each: leaves, tables, splits, collapses, invalidations, reach.
constexpr std::array<std::size_t, 6> number_widths = {7, 7, 6, 6, 6, 9};
constexpr std::size_t numbers_width = 7 + 7 + 6 + 6 + 6 + 9 + 6;

std::string numbers_line(const std::array<std::string, 6>& cells) {
    std::string line;
    for (std::size_t i = 0; i < cells.size(); ++i) line += fmt::format(" {:>{}}", cells[i], number_widths[i]);
    return line;
}

/// A column more where tables are protected.
constexpr std::size_t keyed_width = 7;
std::string keyed_cell(const RunSetting& setting, const std::string& text) {
    return setting.config.protect_tables ? fmt::format(" {:>{}}", text, keyed_width) : "";
}

} // namespace

Timeline::Timeline(const RunSetting& setting, Policy policy, ProgressLine& progress, const Palette& palette,
                   std::size_t width)
    : QuietListener(policy, progress), setting_(setting), policy_(policy), progress_line_(progress), palette_(palette),
      width_(width) {
    label_width_ = width < default_width ? 22 : 26;
    bar_width_ = width - label_width_ - 1 - numbers_width - keyed_cell(setting, "").size();
}

void Timeline::print(const std::string& text) {
    progress_line_.clear();
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
}

void Timeline::print_head(const std::vector<std::uint64_t>& leaf_sizes) {
    std::string text =
        '\n' + fact("policy", fmt::format("{}: {}", policy_name(policy_), explanation_of(policy_, setting_)), palette_,
                    std::min(width_, default_width));
    text += fmt::format("\n{:<{}} RAM by leaf size:{}\n", "", label_width_, legend_of(leaf_sizes, palette_));
    text += palette_.dim(fmt::format("{:<{}} {:<{}}{}", "", label_width_, "", bar_width_,
                                     numbers_line({"leaves", "tables", "splits", "heals", "TLBIs", "TLB reach"})) +
                         keyed_cell(setting_, "keyed")) +
            '\n';
    print(text);
}

void Timeline::print_row(const std::string& label, const Step& step) {
    std::string text = fmt::format("{:<{}} ", label.substr(0, label_width_), label_width_);
    text += bar_of(leaf_sizes_, step.map.leaves, bar_width_, palette_);
    const auto done = [](std::uint64_t number) { return number == 0 ? std::string("-") : short_count(number); };
    text += numbers_line({short_count(step.map.leaf_count), short_count(step.map.tables), done(step.counters.splits),
                          done(step.counters.collapses), done(step.counters.invalidations), short_size(step.reach)});
    text += keyed_cell(setting_, short_size(step.map.keyed_pages * leaf_sizes_.back()));
    text += '\n';
    if (step.copy) {
        const clients::CopyReport& report = step.copy->report;
        text +=
            palette_.dim("  " + wrapped(fmt::format("the copy: {}, {}; {} of pages that this kernel can't reach are {}",
                                                    counted(step.copy->leaf_count, "leaf", "leaves"),
                                                    counted(step.copy->tables, "table", "tables"),
                                                    human_size(report.made_valid + report.left_out),
                                                    report.made_valid != 0 ? "valid in it" : "left out of it"),
                                        std::min(width_, default_width) - 2, 2));
    }
    if (step.refusal) {
        const bool at_boot = step.statement->action == Action::boot;
        text += palette_.yellow(
            "  " + wrapped(fmt::format("{}refused: {} ({})", at_boot ? "a page outside the zone, to read-only: " : "",
                                       step.refusal->reason, step.refusal->code),
                           std::min(width_, default_width) - 2, 2));
    }
    print(text);
}

void Timeline::on_round(const Statement& repeat, std::uint64_t number, std::size_t depth) {
    if (folded_depth_ != 0) return;
    if (number == 1) {
        print(palette_.dim(fmt::format("{:{}}round 1 of {}", "", 2 * depth, grouped(repeat.count))) + '\n');
        return;
    }
    folded_depth_ = depth + 1;
    folded_ = Step{};
}

void Timeline::on_round_end(const Statement& repeat, std::uint64_t number, std::size_t depth) {
    if (folded_depth_ != depth + 1) return;
    folded_depth_ = 0;
    print_row(fmt::format("{:{}}round {} of {}", "", 2 * depth, grouped(number), grouped(repeat.count)), folded_);
}

void Timeline::on_step(const Step& step, const std::vector<std::uint64_t>& leaf_sizes) {
    if (leaf_sizes_.empty()) {
        leaf_sizes_ = leaf_sizes;
        print_head(leaf_sizes);
    }
    if (folded_depth_ != 0) {
        Counters sum = folded_.counters;
        sum += step.counters;
        folded_ = step;
        folded_.counters = sum;
        return;
    }
    print_row(std::string(2 * step.rounds.size(), ' ') + label_of(step, leaf_sizes.back()), step);
}

void Timeline::finish() {
    if (leaf_sizes_.empty()) return;
    print('\n' +
          palette_.dim(wrapped(
              fmt::format(
                  "The wider a size in a bar, the more RAM it maps: widths go with the fourth root, so that "
                  "small shares show. Splits, heals (collapses: one leaf put over all tables below it) and TLBIs "
                  "(invalidations) "
                  "are those of the step. TLB reach is the RAM that {} TLB entries cover on average if all RAM is "
                  "equally likely to be used.{}",
                  grouped(tlb_entries),
                  setting_.config.protect_tables
                      ? " Keyed is the memory that only the engine can write: page tables, and pages that wait in "
                        "chunks to become one."
                      : ""),
              std::min(width_, default_width))));
}

// ---- The end

namespace {

/// A line above the policies' names: which of them kernels have, and which directmap adds.
std::string groups_line(const std::vector<const WorkloadResult*>& shown, std::size_t name_width, std::size_t column) {
    const auto group = [&](std::string_view name, std::size_t columns) {
        if (columns == 0) return std::string();
        const std::size_t cells = columns * column - 2; // two blanks before it
        const std::string text = name.size() + 4 > cells ? std::string(name) : fmt::format(" {} ", name);
        return fmt::format("  {:-^{}}", text, cells);
    };
    const auto known =
        static_cast<std::size_t>(std::count_if(shown.begin(), shown.end(), [](const WorkloadResult* result) {
            return result->policy == Policy::pages || result->policy == Policy::never ||
                   result->policy == Policy::zoned;
        }));
    return std::string(name_width, ' ') + group("kernels of today", known) + group("directmap", shown.size() - known);
}

} // namespace

std::string comparison_text(const RunSetting& setting, const std::vector<WorkloadResult>& results,
                            const Palette& palette, std::size_t width) {
    std::vector<const WorkloadResult*> shown;
    for (const WorkloadResult& result : results)
        if (result.finished) shown.push_back(&result);
    if (shown.empty()) return {};
    constexpr std::size_t name_width = 26;
    const std::uint64_t page = setting.plan.leaf_sizes.back();
    const std::size_t column = std::min<std::size_t>((std::min(width, default_width) - name_width) / shown.size(), 16);
    std::string text =
        '\n' + palette.bold(shown.size() == 1 ? "What the scenario came to" : "The same scenario under every policy") +
        "\n\n";
    const auto row = [&](std::string_view name, auto value, bool head = false) {
        std::string line = fmt::format("{:<{}}", name, name_width);
        for (const WorkloadResult* result : shown) line += fmt::format("{:>{}}", value(*result), column);
        text += (head ? palette.dim(line) : line) + '\n';
    };
    if (setting.config.resizes_live() && shown.size() > 1)
        text += palette.dim(groups_line(shown, name_width, column)) + '\n';
    row(
        "", [](const WorkloadResult& r) { return std::string(short_name(r.policy)); }, true);
    row("leaves after boot", [](const WorkloadResult& r) { return short_count(r.boot.leaf_count); });
    row("  at the worst moment", [](const WorkloadResult& r) { return short_count(r.worst.leaf_count); });
    row("  at the end", [](const WorkloadResult& r) { return short_count(r.steps.back().map.leaf_count); });
    row("page tables after boot", [&](const WorkloadResult& r) { return short_size(r.boot.tables * page); });
    row("  at the worst moment", [&](const WorkloadResult& r) { return short_size(r.worst.tables * page); });
    row("  at the end", [&](const WorkloadResult& r) { return short_size(r.steps.back().map.tables * page); });
    if (setting.config.protect_tables) {
        row("memory with the table key",
            [&](const WorkloadResult& r) { return short_size(r.steps.back().map.keyed_pages * page); });
    }
    row("TLB reach after boot", [](const WorkloadResult& r) { return short_size(r.steps.front().reach); });
    row("  at the worst moment", [](const WorkloadResult& r) { return short_size(r.worst_reach); });
    row("  at the end", [](const WorkloadResult& r) { return short_size(r.steps.back().reach); });
    row("splits", [](const WorkloadResult& r) { return short_count(r.counters.splits); });
    row("collapses", [](const WorkloadResult& r) { return short_count(r.counters.collapses); });
    row("tables given back", [](const WorkloadResult& r) { return short_count(r.counters.tables_returned); });
    row("descriptors stored",
        [](const WorkloadResult& r) { return short_count(r.counters.stores + r.counters.filled); });
    row("TLB invalidations", [](const WorkloadResult& r) { return short_count(r.counters.invalidations); });
    std::string explanations;
    for (const WorkloadResult* result : shown)
        explanations += fmt::format("{}{}: {}", explanations.empty() ? "" : ". ", short_name(result->policy),
                                    explanation_of(result->policy, setting));
    const std::size_t text_width = std::min(width, default_width);
    text += '\n' + palette.dim(wrapped(explanations + ".", text_width));
    text += '\n' + wrapped(conclusion(setting, results), text_width);
    return text;
}

std::string verdict_text(const std::vector<WorkloadResult>& results, const Palette& palette, std::size_t width) {
    std::uint64_t calls = 0;
    std::string problems;
    for (const WorkloadResult& result : results) {
        calls += result.calls;
        for (const std::string& problem : result.problems)
            problems += fmt::format("  {}: {}\n", policy_name(result.policy), problem);
    }
    if (!problems.empty()) return '\n' + palette.red("This must not happen:") + '\n' + problems;
    return '\n' + palette.green(
                      wrapped(fmt::format("{} platform calls of the engine were checked, in {}; no promise was broken.",
                                          grouped(calls), counted(results.size(), "run", "runs")),
                              std::min(width, default_width)));
}

std::string policy_title(Policy policy) {
    return std::string(short_name(policy));
}

std::string policy_explanation(Policy policy, const RunSetting& setting) {
    return explanation_of(policy, setting);
}

std::string step_label(const Step& step, std::uint64_t page_size) {
    return label_of(step, page_size);
}

std::string conclusion_text(const RunSetting& setting, const std::vector<WorkloadResult>& results) {
    return conclusion(setting, results);
}

nlohmann::ordered_json run_json(const RunSetting& setting, const std::vector<WorkloadResult>& results) {
    const WorkloadConfig& config = setting.config;
    Json json = {{"schema", schema}};
    json["memory_map"] = {{"source", printable(setting.map.source)},
                          {"format", format_name(setting.map.format)},
                          {"bytes", setting.plan.large.bytes},
                          {"ranges", setting.plan.ram.size()}};
    json["machine"] = {{"granule", leaf_name(setting.plan.leaf_sizes.back())},
                       {"va_bits", config.translation.va_bits},
                       {"offset", hex(config.offset)},
                       {"cpus", config.cpus},
                       {"bbm", config.bbm},
                       {"live_resize", config.resizes_live()},
                       {"protected_tables", config.protect_tables},
                       {"tlb_entries", tlb_entries}};
    json["scenario"] = {{"name", printable(setting.scenario.name)},
                        {"source", printable(setting.scenario.source)},
                        {"about", setting.scenario.about},
                        {"seed", config.seed},
                        {"placement", placement_name(config.placement)},
                        {"steps", setting.scenario.steps}};
    Json& runs = json["runs"] = Json::array();
    for (const WorkloadResult& result : results) runs.push_back(json_of(result));
    json["ok"] = all_kept(results);
    return json;
}

} // namespace directmap::tool

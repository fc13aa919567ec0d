// What `directmap run` shows: a timeline while a scenario is played, a comparison of policies at its end, or JSON.
#pragma once

#include "memory_map.hpp"
#include "output.hpp"
#include "plan.hpp"
#include "run_scenario.hpp"
#include "workload.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace directmap::tool {

/// Everything that is the same for all policies of a run.
struct RunSetting {
    const MemoryMap& map;
    const Plan& plan;
    const Scenario& scenario;
    WorkloadConfig config;
};

/// Columns of the terminal that standard output is, within what the tables can use; the default for files and pipes.
[[nodiscard]] std::size_t output_width();

// ---- What other commands show in the same form

/// Breaks `text` into lines of at most `width` columns; all but the first start with `indent` blanks.
[[nodiscard]] std::string wrapped(std::string_view text, std::size_t width, std::size_t indent = 0);
/// Seven columns at most: `131,081`, `67.0M`.
[[nodiscard]] std::string short_count(std::uint64_t number);
/// Eight columns at most: `256 GiB`, `5.19 MiB`.
[[nodiscard]] std::string short_size(std::uint64_t bytes);
/// A policy as a column's heading.
[[nodiscard]] std::string_view short_name(Policy policy);
/// RAM by leaf size, the largest first: as colours, or as letters where there is no colour.
[[nodiscard]] std::string bar_of(const std::vector<std::uint64_t>& sizes, const std::vector<std::uint64_t>& leaves,
                                 std::size_t cells, const Palette& palette);
/// What the colours or letters of bars stand for.
[[nodiscard]] std::string legend_of(const std::vector<std::uint64_t>& sizes, const Palette& palette);
/// `machine.. 256 GiB of RAM ...`, wrapped.
[[nodiscard]] std::string fact(std::string_view name, std::string_view text, const Palette& palette, std::size_t width);
[[nodiscard]] nlohmann::ordered_json counters_json(const Counters& counters);
[[nodiscard]] nlohmann::ordered_json leaves_json(const std::vector<std::uint64_t>& sizes,
                                                 const std::vector<std::uint64_t>& leaves);

// ---- `directmap run`

[[nodiscard]] std::string introduction_text(const RunSetting& setting, const Palette& palette, std::size_t width);

/// A line on standard error that says how far a run is, if that is a terminal. Goes away when it is cleared.
class ProgressLine {
public:
    ProgressLine();
    void show(const std::string& text);
    void clear();

private:
    bool enabled_;
    bool shown_ = false;
    std::chrono::steady_clock::time_point last_{};
};

/// Shows progress alone.
class QuietListener : public WorkloadListener {
public:
    QuietListener(Policy policy, ProgressLine& progress) : policy_(policy), progress_(progress) {}
    void on_progress(std::uint64_t done, std::uint64_t total) override;

private:
    Policy policy_;
    ProgressLine& progress_;
};

/// Prints a row for each step as it is played. The first round of a repeat is shown step by step, the others in a row
/// each.
class Timeline : public QuietListener {
public:
    Timeline(const RunSetting& setting, Policy policy, ProgressLine& progress, const Palette& palette,
             std::size_t width);

    void on_round(const Statement& repeat, std::uint64_t number, std::size_t depth) override;
    void on_round_end(const Statement& repeat, std::uint64_t number, std::size_t depth) override;
    void on_step(const Step& step, const std::vector<std::uint64_t>& leaf_sizes) override;
    /// What the columns mean, below them.
    void finish();

private:
    void print_head(const std::vector<std::uint64_t>& leaf_sizes);
    void print_row(const std::string& label, const Step& step);
    void print(const std::string& text);

    const RunSetting& setting_;
    Policy policy_;
    ProgressLine& progress_line_;
    const Palette& palette_;
    std::size_t width_;
    std::size_t label_width_ = 0;
    std::size_t bar_width_ = 0;
    std::vector<std::uint64_t> leaf_sizes_;
    std::size_t folded_depth_ = 0; ///< of the repeat whose rounds are summed up now, from 1 on; 0: none
    Step folded_;                  ///< the sum so far
};

/// The results side by side, and what they mean. Results of runs that did not finish are left out.
[[nodiscard]] std::string comparison_text(const RunSetting& setting, const std::vector<WorkloadResult>& results,
                                          const Palette& palette, std::size_t width);
/// Whether every promise was kept.
[[nodiscard]] std::string verdict_text(const std::vector<WorkloadResult>& results, const Palette& palette,
                                       std::size_t width);

// The words of the tables, for other forms of output.
[[nodiscard]] std::string policy_title(Policy policy);
[[nodiscard]] std::string policy_explanation(Policy policy, const RunSetting& setting);
/// `3 modules loaded`.
[[nodiscard]] std::string step_label(const Step& step, std::uint64_t page_size);
/// What the comparison says, in sentences.
[[nodiscard]] std::string conclusion_text(const RunSetting& setting, const std::vector<WorkloadResult>& results);

/// docs/scenarios.md describes the keys.
[[nodiscard]] nlohmann::ordered_json run_json(const RunSetting& setting, const std::vector<WorkloadResult>& results);

} // namespace directmap::tool

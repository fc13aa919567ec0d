// `directmap watch`: the running kernel's direct map as it changes.
#include "commands.hpp"
#include "output.hpp"
#include "watch.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <langinfo.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <string>
#include <string_view>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

namespace directmap::tool {
namespace {

constexpr const char* description = "Watch the running kernel's direct map split and heal\n"
                                    "\n"
                                    "Shows how much memory is mapped by leaves of each size (DirectMap* of "
                                    "/proc/meminfo) and how often leaves were split or\n"
                                    "put together again (direct_map_* of /proc/vmstat, where the kernel counts that), "
                                    "with history and rates. Needs no root. At a\n"
                                    "terminal it fills the screen; elsewhere it prints a line for each sample.";

constexpr const char* footer =
    "Keys: q quit, space pause, + and - change the interval.\n"
    "\n"
    "Examples:\n"
    "  directmap watch\n"
    "  directmap watch --interval 60 --json >> directmap.ndjson      a record for later\n"
    "  directmap watch --count 1                                     the state right now\n"
    "  directmap watch --count 1 --proc sosreport/proc               that of another machine\n"
    "\n"
    "Exit codes: 0 ended by q, ^C or --count; 2 this kernel has no such counters.";

struct Options {
    double interval = 1;
    std::uint64_t count = 0;
    std::string proc = "/proc";
    bool json = false;
    bool lines = false;
};

constexpr double shortest_interval = 0.02;
constexpr double longest_interval = 86400;
constexpr std::size_t samples_kept = 600;

volatile std::sig_atomic_t interrupted = 0;

void note_interrupt(int) {
    interrupted = 1;
}

/// A signal that is ignored, as this one is by default, would not end the wait for the next sample.
void note_resize(int) {}

/// While it lives, ^C and the like, and a window of another size, only end the wait for the next sample. They are let
/// in nowhere else: one that came just before the wait would be noticed after it.
class InterruptGuard {
public:
    InterruptGuard() {
        interrupted = 0;
        sigset_t signals;
        ::sigemptyset(&signals);
        for (const int signal : {SIGINT, SIGTERM, SIGWINCH}) ::sigaddset(&signals, signal);
        ::sigprocmask(SIG_BLOCK, &signals, &outside_);
        struct sigaction action {};
        action.sa_handler = note_interrupt;
        ::sigaction(SIGINT, &action, &old_interrupt_);
        ::sigaction(SIGTERM, &action, &old_terminate_);
        action.sa_handler = note_resize;
        ::sigaction(SIGWINCH, &action, &old_resize_);
    }
    InterruptGuard(const InterruptGuard&) = delete;
    InterruptGuard& operator=(const InterruptGuard&) = delete;
    ~InterruptGuard() {
        ::sigaction(SIGINT, &old_interrupt_, nullptr);
        ::sigaction(SIGTERM, &old_terminate_, nullptr);
        ::sigaction(SIGWINCH, &old_resize_, nullptr);
        ::sigprocmask(SIG_SETMASK, &outside_, nullptr);
    }

    /// As ::poll, and ended by these signals.
    int wait(pollfd* file, nfds_t files, int milliseconds) const {
        const timespec limit{.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1'000'000L};
        return ::ppoll(file, files, &limit, &outside_);
    }

private:
    sigset_t outside_{};
    struct sigaction old_interrupt_ {};
    struct sigaction old_terminate_ {};
    struct sigaction old_resize_ {};
};

/// A screen of its own for the time of its life; keys come one by one.
class Terminal {
public:
    Terminal() {
        ::tcgetattr(STDIN_FILENO, &old_);
        termios raw = old_;
        raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
        // A stopped program would leave this screen behind.
        raw.c_cc[VSUSP] = _POSIX_VDISABLE;
        ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
        write("\x1b[?1049h\x1b[?25l");
    }
    Terminal(const Terminal&) = delete;
    Terminal& operator=(const Terminal&) = delete;
    ~Terminal() {
        write("\x1b[?25h\x1b[?1049l");
        ::tcsetattr(STDIN_FILENO, TCSANOW, &old_);
    }

    static void draw(const std::vector<std::string>& lines) {
        std::string text = "\x1b[H";
        for (std::size_t index = 0; index < lines.size(); ++index)
            text += (index == 0 ? "" : "\r\n") + lines[index] + "\x1b[K";
        write(text + "\x1b[J");
    }

    static void measure(WatchView& view) {
        winsize size{};
        if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col != 0 && size.ws_row != 0) {
            view.width = size.ws_col;
            view.height = size.ws_row;
        }
    }

private:
    static void write(std::string_view text) {
        std::fwrite(text.data(), 1, text.size(), stdout);
        std::fflush(stdout);
    }

    termios old_{};
};

class Watch {
public:
    Watch(const Options& options, const InterruptGuard& interrupts)
        : options_(options), interrupts_(interrupts), history_(samples_kept) {}

    /// A line for each sample.
    void print_lines() {
        for (std::uint64_t number = 1;; ++number) {
            take_sample();
            if (options_.json) {
                fmt::print("{}\n", json_of(history_).dump());
            } else {
                constexpr std::uint64_t lines_between_headings = 20;
                if (number % lines_between_headings == 1) fmt::print("{}", watch_heading(history_.latest().counters));
                fmt::print("{}", watch_line(history_));
            }
            std::fflush(stdout);
            if (number == options_.count || !wait_without_keys()) return;
        }
    }

    void fill_screen() {
        std::setlocale(LC_CTYPE, "");
        view_.unicode = std::string_view(::nl_langinfo(CODESET)) == "UTF-8";
        view_.colour = colour_wanted(stdout);
        view_.interval = options_.interval;
        take_sample();
        const Terminal terminal;
        for (std::uint64_t number = 1;; ++number) {
            if (!view_.paused && number != 1) take_sample();
            if (number == options_.count || !wait_with_keys()) return;
        }
    }

private:
    using Clock = std::chrono::steady_clock;

    void take_sample() {
        const std::filesystem::path proc(options_.proc);
        history_.add({std::chrono::system_clock::now(), std::chrono::duration<double>(Clock::now() - started_).count(),
                      read_counters({(proc / "meminfo").string(), (proc / "vmstat").string()})});
    }

    /// Milliseconds until the next sample is due. Samples keep to their times however long they take themselves.
    [[nodiscard]] int milliseconds_left(Clock::time_point due) const {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(due - Clock::now()).count();
        return static_cast<int>(std::clamp<std::int64_t>(left, 0, 86400000));
    }

    void set_next_due(double interval) {
        const auto step = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(interval));
        due_ = std::max(due_ + step, Clock::now());
    }

    /// Returns false when the program is to end.
    bool wait_without_keys() {
        set_next_due(options_.interval);
        while (interrupted == 0) {
            const int left = milliseconds_left(due_);
            if (left == 0) return true;
            interrupts_.wait(nullptr, 0, left);
        }
        return false;
    }

    bool wait_with_keys() {
        set_next_due(view_.interval);
        while (interrupted == 0) {
            // Also after a signal: the window may have another size now.
            Terminal::measure(view_);
            Terminal::draw(watch_screen(history_, view_));
            const int left = milliseconds_left(due_);
            if (left == 0) return true;
            pollfd keys{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
            if (interrupts_.wait(&keys, 1, left) > 0 && !take_key()) return false;
        }
        return false;
    }

    bool take_key() {
        char key = 0;
        if (::read(STDIN_FILENO, &key, 1) <= 0) return false; // the terminal is gone
        switch (key) {
        case 'q':
        case 'Q': return false;
        case ' ': view_.paused = !view_.paused; break;
        case '+':
        case '=': view_.interval = std::min(view_.interval * 2, longest_interval); break;
        case '-': view_.interval = std::max(view_.interval / 2, shortest_interval); break;
        default: break;
        }
        return true;
    }

    const Options& options_;
    const InterruptGuard& interrupts_;
    WatchHistory history_;
    WatchView view_;
    Clock::time_point started_ = Clock::now();
    Clock::time_point due_ = started_;
};

int run_watch(const Options& options) {
    const InterruptGuard interrupts;
    Watch watch(options, interrupts);
    const bool at_terminal = ::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0;
    const char* terminal = std::getenv("TERM");
    if (options.json || options.lines || !at_terminal || terminal == nullptr || std::string_view(terminal) == "dumb")
        watch.print_lines();
    else
        watch.fill_screen();
    return exit_ok;
}

} // namespace

void register_watch(CLI::App& app, int& exit_code) {
    const auto options = std::make_shared<Options>();
    CLI::App* watch = app.add_subcommand("watch", description);
    watch->footer(footer);
    watch->add_option("--interval", options->interval, "Seconds between samples")
        ->type_name("S")
        ->check(CLI::Range(shortest_interval, longest_interval).description(""))
        ->capture_default_str();
    watch->add_option("--count", options->count, "End after N samples")->type_name("N");
    watch
        ->add_option("--proc", options->proc,
                     "Where meminfo and vmstat are; with --count 1 also of another\nmachine, as support archives have "
                     "them")
        ->type_name("FOLDER")
        ->capture_default_str();
    watch->add_flag("--lines", options->lines, "Print lines, also at a terminal");
    watch->add_flag("--json", options->json, "Print JSON: one object a line for each sample (docs/watch.md)");
    watch->callback([options, &exit_code] { exit_code = run_watch(*options); });
}

} // namespace directmap::tool

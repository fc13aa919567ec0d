#include "watch.hpp"

#include "dump_support.hpp"

#include <array>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <pty.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

namespace directmap::tool {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

constexpr std::string_view x86_meminfo = "MemTotal:       24628164 kB\n"
                                         "DirectMap4k:       28672 kB\n"
                                         "DirectMap2M:     2068480 kB\n"
                                         "DirectMap1G:    25165824 kB\n";
constexpr std::string_view x86_vmstat = "nr_free_pages 1\n"
                                        "direct_map_level2_splits 94\n"
                                        "direct_map_level3_splits 4\n"
                                        "direct_map_level2_collapses 0\n";

TEST(Watch, ReadsTheCountersOfX86) {
    const WatchCounters counters = parse_counters(x86_meminfo, x86_vmstat);
    EXPECT_THAT(counters.mapped, ElementsAre(MappedBySize{4 * kib, 28672 * kib}, MappedBySize{2 * mib, 2068480 * kib},
                                             MappedBySize{gib, 24 * gib}));
    EXPECT_THAT(counters.events, ElementsAre(KernelEvent{"level2_splits", 94}, KernelEvent{"level3_splits", 4},
                                             KernelEvent{"level2_collapses", 0}));
    EXPECT_EQ(counters.units(), 7168u + 1010u + 24u);
    EXPECT_EQ(counters.splits(), 98u);
    EXPECT_EQ(counters.collapses(), 0u);
}

TEST(Watch, ReadsTheCountersThatArm64KernelsWouldHave) {
    // Capitals, tabs and all: copied from a proposed patch.
    const WatchCounters counters = parse_counters(file_text(dump_path("meminfo-directmap-samples.txt")), "");
    ASSERT_THAT(counters.mapped, SizeIs(5));
    EXPECT_EQ(counters.mapped[1], (MappedBySize{64 * kib, 134208 * kib}));
    EXPECT_EQ(counters.mapped[4], (MappedBySize{gib, 529530880 * kib}));
    EXPECT_THAT(counters.events, IsEmpty());
}

TEST(Watch, AKernelThatDoesNotCountIsToldFromABrokenFile) {
    const auto error = [](std::string_view meminfo, std::string_view vmstat) {
        return error_of([&] { static_cast<void>(parse_counters(meminfo, vmstat)); });
    };
    EXPECT_THAT(error("MemTotal: 1 kB\n", x86_vmstat), HasSubstr("/proc/meminfo: no DirectMap lines"));
    EXPECT_EQ(error("DirectMap4k:  x kB\n", ""), "/proc/meminfo:1: 'DirectMap4k:  x kB': expected a number of kB");
    EXPECT_EQ(error("a\nDirectMap:  1 kB\n", ""),
              "/proc/meminfo:2: 'DirectMap:  1 kB': expected a leaf size, as in DirectMap4k:");
    EXPECT_EQ(error("DirectMap3k:  1 kB\n", ""),
              "/proc/meminfo:1: 'DirectMap3k:  1 kB': expected a leaf size, as in DirectMap4k:");
    EXPECT_EQ(error(x86_meminfo, "direct_map_level2_splits\n"),
              "/proc/vmstat:1: 'direct_map_level2_splits': expected a number");
    EXPECT_EQ(error(x86_meminfo, "direct_map_ 5\n"), "/proc/vmstat:1: 'direct_map_ 5': expected a name");
}

TEST(Watch, ACounterThatIsThereTwiceIsRefused) {
    // It would be counted twice, under one name in JSON: of which the last would be seen.
    const auto error = [](std::string_view meminfo, std::string_view vmstat) {
        return error_of([&] { static_cast<void>(parse_counters(meminfo, vmstat)); });
    };
    EXPECT_EQ(error("DirectMap4k:  1 kB\nDirectMap2M:  1 kB\nDirectMap4K:  2 kB\n", ""),
              "/proc/meminfo:3: 'DirectMap4K:  2 kB': this size was there before");
    // The same size by another name.
    EXPECT_THAT(error("DirectMap1G:  1 kB\nDirectMap1024M:  1 kB\n", ""), HasSubstr("this size was there before"));
    EXPECT_EQ(error(x86_meminfo, "direct_map_level2_splits 1\nx 1\ndirect_map_level2_splits 1\n"),
              "/proc/vmstat:3: 'direct_map_level2_splits 1': this name was there before");
}

TEST(WatchCommand, ReadsAnotherMachinesCountersFromItsFolder) {
    const TemporaryFolder folder;
    folder.write("meminfo", x86_meminfo);
    folder.write("vmstat", x86_vmstat);
    const std::string watch = "watch --count 1 --json --proc " + folder.path("");
    const json sample = json::parse(run_command(watch).out);
    EXPECT_EQ(sample["bytes"]["1G"], 24 * gib);
    EXPECT_EQ(sample["events"]["level2_splits"], 94);
    folder.write("meminfo", "MemTotal: 1 kB\n");
    const CommandResult broken = run_command(watch);
    EXPECT_EQ(broken.exit_code, 2);
    EXPECT_THAT(broken.err,
                AllOf(HasSubstr("directmap: " + folder.path("")), HasSubstr("/meminfo: no DirectMap lines")));
    EXPECT_THAT(run_command("watch --count 1 --proc /nonexistent").err,
                HasSubstr("directmap: /nonexistent/meminfo: can't be opened"));
}

RC_GTEST_PROP(Watch, SurvivesAnyText, (const std::string& meminfo, const std::string& vmstat)) {
    try {
        static_cast<void>(parse_counters("DirectMap" + meminfo, "direct_map_" + vmstat));
    } catch (const InputError&) {
    }
}

WatchHistory history_of(std::initializer_list<std::uint64_t> split_counts) {
    WatchHistory history(100);
    double elapsed = 0;
    for (const std::uint64_t splits : split_counts) {
        WatchCounters counters = parse_counters(x86_meminfo, x86_vmstat);
        counters.events[0].count = splits;
        counters.mapped[0].bytes += splits * 2 * mib;
        counters.mapped[1].bytes -= splits * 2 * mib;
        history.add({std::chrono::system_clock::time_point(std::chrono::seconds(1700000000)), elapsed, counters});
        elapsed += 2;
    }
    return history;
}

TEST(Watch, RatesAndTrendsComeFromTheSamples) {
    const WatchHistory history = history_of({10, 10, 14});
    EXPECT_THAT(history.rates(), ElementsAre(2, 0, 0)); // 4 in 2 s
    // Each split makes 512 leaves of one: 0, 0, 4 splits at 0, 2, 4 s.
    EXPECT_NEAR(history.units_a_minute(), 4 * 511 / 4.0 * 60, 1e-6);
    EXPECT_EQ(history_of({10}).units_a_minute(), 0);
    EXPECT_THAT(history_of({10}).rates(), Each(0));
}

TEST(Watch, ASampleIsOneJsonObject) {
    const json sample = json::parse(json_of(history_of({10, 14})).dump());
    EXPECT_EQ(sample["schema"], "directmap.watch/1");
    EXPECT_EQ(sample["time"], "2023-11-14T22:13:20.000Z");
    EXPECT_EQ(sample["elapsed"], 2);
    EXPECT_EQ(sample["bytes"]["1G"], 24 * gib);
    EXPECT_EQ(sample["events"]["level2_splits"], 14);
    EXPECT_EQ(sample["rates"]["level2_splits"], 2);
    EXPECT_EQ(sample["units"], 7168u + 1010u + 24u + 14u * 511u);
}

std::size_t columns_of(const std::string& line) {
    std::size_t columns = 0;
    bool escape = false;
    for (const char c : line) {
        if (c == '\x1b') escape = true;
        if (!escape && (static_cast<unsigned char>(c) & 0xc0) != 0x80) ++columns;
        if (c == 'm') escape = false;
    }
    return columns;
}

TEST(Watch, TheScreenFitsEveryWindow) {
    const WatchHistory history = history_of({1, 2, 3, 50, 400});
    for (const std::size_t width : {1u, 20u, 40u, 80u, 300u}) {
        for (const std::size_t height : {1u, 5u, 24u, 100u}) {
            for (const bool unicode : {false, true}) {
                const std::vector<std::string> lines = watch_screen(history, {.width = width,
                                                                              .height = height,
                                                                              .interval = 1,
                                                                              .paused = true,
                                                                              .colour = unicode,
                                                                              .unicode = unicode});
                EXPECT_LE(lines.size(), height);
                for (const std::string& line : lines) EXPECT_LE(columns_of(line), width) << line;
            }
        }
    }
}

TEST(Watch, TheScreenShowsWhatHappened) {
    const std::vector<std::string> lines = watch_screen(
        history_of({1, 2, 3, 50, 400}), {.width = 100, .height = 40, .interval = 2, .colour = false, .unicode = false});
    const std::string text = fmt::format("{}", fmt::join(lines, "\n"));
    EXPECT_THAT(text, AllOf(HasSubstr("2M leaves split"), HasSubstr("400"), HasSubstr("+399"), HasSubstr("175/s"),
                            HasSubstr("breaking up"), HasSubstr("every 2 s")));
    EXPECT_THAT(text, Not(HasSubstr("\x1b")));
}

// ---- The kernel that the tests run on

bool kernel_counts() {
    try {
        static_cast<void>(read_counters(WatchFiles()));
        return true;
    } catch (const InputError&) {
        return false;
    }
}

TEST(WatchCommand, PrintsALineForEachSampleOfThisKernel) {
    const CommandResult result = run_command("watch --interval 0.02 --count 3");
    if (!kernel_counts()) {
        EXPECT_EQ(result.exit_code, 2);
        EXPECT_THAT(result.err, HasSubstr("this kernel doesn't count"));
        return;
    }
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr("all leaves"));
    EXPECT_EQ(std::ranges::count(result.out, '\n'), 4);
}

TEST(WatchCommand, RejectsAnIntervalOfNothing) {
    EXPECT_EQ(run_command("watch --interval 0").exit_code, 2);
    EXPECT_EQ(run_command("watch --interval nothing").exit_code, 2);
}

/// Pages that the kernel takes out of its direct map for as long as this lives.
class SecretPages {
public:
    SecretPages() {
#ifdef SYS_memfd_secret
        descriptor_ = static_cast<int>(::syscall(SYS_memfd_secret, 0));
        if (descriptor_ >= 0 && ::ftruncate(descriptor_, static_cast<off_t>(bytes)) == 0)
            memory_ = static_cast<char*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0));
#endif
        if (memory_ == MAP_FAILED) memory_ = nullptr;
    }
    SecretPages(const SecretPages&) = delete;
    SecretPages& operator=(const SecretPages&) = delete;
    ~SecretPages() {
        if (memory_ != nullptr) ::munmap(memory_, bytes);
        if (descriptor_ >= 0) ::close(descriptor_);
    }

    [[nodiscard]] bool possible() const {
        return memory_ != nullptr;
    }
    /// The kernel sets a page aside when it is touched.
    void touch(std::size_t page) {
        memory_[page * 4096] = 1;
    }
    static constexpr std::size_t page_count = 4096;

private:
    static constexpr std::size_t bytes = page_count * 4096;
    int descriptor_ = -1;
    char* memory_ = nullptr;
};

TEST(WatchCommand, SeesSecretMemorySplitTheDirectMapOfThisKernel) {
    if (!kernel_counts()) GTEST_SKIP() << "this kernel has no DirectMap counters";
    const WatchCounters at_first = read_counters(WatchFiles());
    if (at_first.events.empty()) GTEST_SKIP() << "this kernel counts no splits";
    SecretPages pages;
    if (!pages.possible()) GTEST_SKIP() << "memfd_secret is not possible here: " << std::strerror(errno);

    const TemporaryFolder folder;
    const std::string output = folder.path("samples");
    const pid_t watcher = ::fork();
    if (watcher == 0) {
        const int file = ::open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        ::dup2(file, STDOUT_FILENO);
        ::execl(command_path, command_path, "watch", "--json", "--interval", "0.02", nullptr);
        ::_exit(127);
    }
    const auto samples = [&] {
        std::vector<json> result;
        std::istringstream lines(file_text(output));
        for (std::string line; std::getline(lines, line) && !lines.eof();) result.push_back(json::parse(line));
        return result;
    };
    const auto wait_for_samples = [&](std::size_t count) {
        for (int tries = 0; tries < 1000; ++tries, ::usleep(10000)) {
            if (std::filesystem::exists(output) && samples().size() >= count) return true;
        }
        return false;
    };
    ASSERT_TRUE(wait_for_samples(2));
    // One page is enough where it comes out of a large leaf; memory that is mapped by pages already goes first.
    bool split = false;
    for (std::size_t page = 0; page < SecretPages::page_count && !split; ++page) {
        pages.touch(page);
        split = read_counters(WatchFiles()).splits() > at_first.splits();
    }
    const std::size_t before = samples().size();
    EXPECT_TRUE(wait_for_samples(before + 3));
    ::kill(watcher, SIGINT);
    int status = 0;
    ::waitpid(watcher, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    if (!split) GTEST_SKIP() << "16 MiB of secret memory split nothing: this kernel had enough memory mapped by pages";

    const std::vector<json> seen = samples();
    const auto splits = [](const json& sample) {
        std::uint64_t total = 0;
        for (const auto& [name, count] : sample["events"].items())
            if (name.ends_with("_splits")) total += count.get<std::uint64_t>();
        return total;
    };
    EXPECT_GT(splits(seen.back()), splits(seen.front()));
    EXPECT_GT(seen.back()["units"], seen.front()["units"]);
    const bool any_rate = std::ranges::any_of(seen, [](const json& sample) {
        for (const auto& [name, rate] : sample["rates"].items())
            if (rate.get<double>() > 0) return true;
        return false;
    });
    EXPECT_TRUE(any_rate);
}

/// The command at a terminal of its own.
class WatchAtTerminal {
public:
    explicit WatchAtTerminal(const char* interval) {
        winsize size{.ws_row = 24, .ws_col = 100, .ws_xpixel = 0, .ws_ypixel = 0};
        child_ = ::forkpty(&terminal_, nullptr, nullptr, &size);
        if (child_ != 0) return;
        ::setenv("TERM", "xterm", 1);
        ::execl(command_path, command_path, "watch", "--interval", interval, nullptr);
        ::_exit(127);
    }
    WatchAtTerminal(const WatchAtTerminal&) = delete;
    WatchAtTerminal& operator=(const WatchAtTerminal&) = delete;
    ~WatchAtTerminal() {
        if (terminal_ >= 0) ::close(terminal_); // it ends if it hasn't yet
    }

    [[nodiscard]] bool possible() const { return child_ > 0; }
    [[nodiscard]] bool shows(std::string_view text) {
        for (int tries = 0; tries < 500 && shown.find(text) == std::string::npos; ++tries) read_some(20);
        return shown.find(text) != std::string::npos;
    }
    void type(std::string_view keys) const {
        EXPECT_EQ(::write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
    }
    void resize(unsigned short rows, unsigned short columns) const {
        winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
        EXPECT_EQ(::ioctl(terminal_, TIOCSWINSZ, &size), 0);
    }
    [[nodiscard]] bool is_raw() const {
        termios mode{};
        EXPECT_EQ(::tcgetattr(terminal_, &mode), 0);
        return (mode.c_lflag & (ICANON | ECHO)) == 0;
    }
    /// The exit code, once it has ended by itself.
    [[nodiscard]] int end() {
        while (read_some(5000)) {
        }
        int status = 0;
        ::waitpid(child_, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }

    std::string shown;

private:
    bool read_some(int milliseconds) {
        pollfd output{.fd = terminal_, .events = POLLIN, .revents = 0};
        std::array<char, 4096> buffer{};
        if (::poll(&output, 1, milliseconds) <= 0) return false;
        const ssize_t got = ::read(terminal_, buffer.data(), buffer.size());
        if (got > 0) shown.append(buffer.data(), static_cast<std::size_t>(got));
        return got > 0;
    }

    int terminal_ = -1;
    pid_t child_ = -1;
};

constexpr std::string_view screen_of_its_own = "\x1b[?1049h";
constexpr std::string_view screen_as_before = "\x1b[?25h\x1b[?1049l";

TEST(WatchCommand, FillsATerminalAndLeavesItAsItWas) {
    if (!kernel_counts()) GTEST_SKIP() << "this kernel has no DirectMap counters";
    WatchAtTerminal watch("0.05");
    if (!watch.possible()) GTEST_SKIP() << "no pseudo-terminal: " << std::strerror(errno);
    EXPECT_TRUE(watch.shows("directmap watch"));
    EXPECT_TRUE(watch.shows("all leaves"));
    EXPECT_TRUE(watch.is_raw());
    watch.type(" ");
    EXPECT_TRUE(watch.shows("paused"));
    watch.type(" +");
    EXPECT_TRUE(watch.shows("every 0.1 s"));
    watch.type("q");
    EXPECT_EQ(watch.end(), 0);
    EXPECT_FALSE(watch.is_raw());
    EXPECT_TRUE(watch.shown.starts_with(screen_of_its_own)) << watch.shown.substr(0, 40);
    EXPECT_TRUE(watch.shown.ends_with(screen_as_before));
}

TEST(WatchCommand, AnInterruptEndsItAsCleanly) {
    if (!kernel_counts()) GTEST_SKIP() << "this kernel has no DirectMap counters";
    WatchAtTerminal watch("60");
    if (!watch.possible()) GTEST_SKIP() << "no pseudo-terminal: " << std::strerror(errno);
    EXPECT_TRUE(watch.shows("all leaves"));
    watch.type("\x03"); // ^C
    EXPECT_EQ(watch.end(), 0);
    EXPECT_FALSE(watch.is_raw());
    EXPECT_TRUE(watch.shown.ends_with(screen_as_before));
}

TEST(WatchCommand, AWindowOfAnotherSizeIsFilledAtOnce) {
    if (!kernel_counts()) GTEST_SKIP() << "this kernel has no DirectMap counters";
    WatchAtTerminal watch("60"); // the next sample is far away
    if (!watch.possible()) GTEST_SKIP() << "no pseudo-terminal: " << std::strerror(errno);
    EXPECT_TRUE(watch.shows("all leaves"));
    watch.shown.clear();
    watch.resize(5, 20);
    EXPECT_TRUE(watch.shows("directmap watch"));
    EXPECT_THAT(watch.shown, Not(HasSubstr("all leaves"))); // further down than five lines
    watch.type("q");
    EXPECT_EQ(watch.end(), 0);
}

} // namespace
} // namespace directmap::tool

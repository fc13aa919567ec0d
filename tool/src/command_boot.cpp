// `directmap boot`: boots the reference kernel under QEMU and returns its verdict.
#include "commands.hpp"
#include "input_error.hpp"
#include "options.hpp"
#include "output.hpp"

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <poll.h>
#include <string>
#include <string_view>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace directmap::tool {
namespace {

namespace fs = std::filesystem;

constexpr const char* description =
    "Boot the reference kernel on an emulated arm64 machine\n"
    "\n"
    "The kernel hands all memory of the machine to the engine, brings the other CPUs up through the admission gate, "
    "and "
    "plays\n"
    "scenarios: changes of permissions that every CPU tries out at once, while others use the pages next door. Builds "
    "nothing:\n"
    "QEMU (qemu-system-aarch64) and the kernel's images must be there (scripts/setup run, scripts/build release).\n";

constexpr const char* footer =
    "Scenarios: errors, permissions, resizes, parallel, races, walkers, deferred, memory-types, atomic, exhaustion, "
    "hotplug,\n"
    "keys, clients, soak; 'all' is all of them, 'none' only boots, 'measure' counts instructions of each operation;\n"
    "crash-store, crash-store-elsewhere, crash-null, crash-jump, crash-instruction, crash-stack, crash-handler,\n"
    "crash-handler-stack end the run with a cause.\n"
    "Faults: no-invalidation, local-invalidation, wrong-operand, narrow-range, skipped-update, invalid-leaves, "
    "wrong-leaf-type,\n"
    "open-interrupts; with --emulate-keys also no-write-sections and open-sections.\n"
    "\n"
    "Examples:\n"
    "  directmap boot                                   one CPU, 512 MiB, everything\n"
    "  directmap boot --cpus 4 --memory 16G             more of both\n"
    "  directmap boot --cpus 2 --nolive 1               CPU 1 can't tolerate live resizing: it comes late, the map is "
    "repainted\n"
    "  directmap boot --cpu cortex-a57 --map zoned      a machine that can't resize at all\n"
    "  directmap boot --scenario measure --memory 256G  what a map of 256 GiB costs, large and by pages\n"
    "  directmap boot --day day.txt --memory 256G       a day that `directmap run --day day.txt` has written\n"
    "  directmap boot --fault no-invalidation           a mistake in the platform; the boot must fail\n"
    "\n"
    "Exit codes: 0 the verdict is PASS, 1 it is FAIL or didn't come in time, 2 bad input or usage.";

struct Options {
    unsigned cpus = 1;
    std::string memory = "512M";
    std::string cpu = "max";
    std::string granule = "4k";
    std::string map = "automatic";
    std::vector<unsigned> nolive;
    std::string scenario = "all";
    std::string day;
    std::string placement = "pooled";
    std::string policy = "background";
    std::uint64_t seed = 1;
    std::uint64_t rounds = 0;
    std::string fault = "none";
    bool no_assume = false;
    bool emulate_keys = false;
    bool el2 = false;
    bool dump = false;
    bool json = false;
    bool dry_run = false;
    std::string qemu = "qemu-system-aarch64";
    std::string kernel;
    unsigned timeout = 600;
};

constexpr std::string_view verdict_prefix = "directmap-kernel: ";
constexpr std::string_view pass_line = "directmap-kernel: PASS";
constexpr int kernel_exit_not_understood = 2; ///< of kernel/cpu/ending.hpp

/// Where the images are: beside the build's bin folder, or where they are installed.
fs::path find_image(const Options& options) {
    if (!options.kernel.empty()) {
        if (!fs::is_regular_file(options.kernel)) throw InputError(options.kernel, 0, "there is no such kernel image");
        return options.kernel;
    }
    const std::string name = "directmap-kernel-" + options.granule + ".img";
    std::error_code error;
    const fs::path bin = fs::read_symlink("/proc/self/exe", error).parent_path();
    const std::array places = {bin / ".." / "kernel", bin / ".." / "lib" / "directmap"};
    for (const fs::path& place : places) {
        if (const fs::path image = place / name; fs::is_regular_file(image)) return fs::weakly_canonical(image);
    }
    throw InputError(name, 0,
                     "the kernel's image is not in " + places[0].lexically_normal().string() +
                         "; scripts/build release builds it, --kernel names another");
}

void check_memory(const std::string& text) {
    const bool digits = text.size() > 1 && text.find_first_not_of("0123456789") == text.size() - 1;
    if (!digits || text.size() > 7 || (text.back() != 'M' && text.back() != 'G'))
        throw InputError("--memory", 0, fmt::format("'{}' is no size such as 512M or 256G", printable(text)));
}

/// The words of the kernel's command line (kernel/pure/command_line.hpp).
std::string kernel_words(const Options& options) {
    std::string words =
        fmt::format("scenario={} seed={}", options.day.empty() ? options.scenario : "day", options.seed);
    if (options.rounds != 0) words += fmt::format(" rounds={}", options.rounds);
    if (options.map != "automatic") words += " map=" + options.map;
    if (options.fault != "none") words += " fault=" + options.fault;
    for (const unsigned cpu : options.nolive) words += fmt::format(" nolive={}", cpu);
    if (!options.no_assume) words += " assume=no-abort";
    if (options.emulate_keys) words += " keys=emulated";
    if (!options.day.empty()) words += fmt::format(" placement={} policy={}", options.placement, options.policy);
    if (options.dump) words += " dump";
    if (options.json) words += " json";
    return words;
}

std::vector<std::string> qemu_command(const Options& options) {
    const std::string machine = options.el2 ? "virt,virtualization=on" : "virt";
    std::vector<std::string> command = {options.qemu, "-machine", machine + ",memory-backend=ram", "-cpu", options.cpu,
                                        "-smp", std::to_string(options.cpus), "-m", options.memory, "-object",
                                        // Memory that the host need not have until it is used.
                                        "memory-backend-ram,id=ram,size=" + options.memory + ",reserve=off",
                                        "-nodefaults", "-display", "none", "-serial", "stdio", "-semihosting-config",
                                        "enable=on,target=native", "-kernel", find_image(options).string(), "-append",
                                        kernel_words(options)};
    if (!options.day.empty()) command.insert(command.end(), {"-initrd", options.day});
    // Then time is a count of instructions, the same in every run.
    if (options.scenario == "measure") command.insert(command.end(), {"-icount", "shift=0"});
    return command;
}

/// A child process whose output is read line by line.
class Child {
public:
    explicit Child(const std::vector<std::string>& command) {
        std::array<int, 2> out{}, err{}, failed{};
        if (pipe2(out.data(), O_CLOEXEC) != 0 || pipe2(err.data(), O_CLOEXEC) != 0 ||
            pipe2(failed.data(), O_CLOEXEC) != 0)
            throw std::runtime_error(std::string("can't make a pipe: ") + std::strerror(errno));
        std::vector<char*> arguments;
        for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
        arguments.push_back(nullptr);
        pid_ = fork();
        if (pid_ < 0) throw std::runtime_error(std::string("can't start a process: ") + std::strerror(errno));
        if (pid_ == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL); // no emulator is left behind
            const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
            dup2(nothing, STDIN_FILENO);
            dup2(out[1], STDOUT_FILENO);
            dup2(err[1], STDERR_FILENO);
            execvp(arguments[0], arguments.data());
            const int why = errno;
            if (write(failed[1], &why, sizeof why) != sizeof why) _exit(126);
            _exit(127);
        }
        close(out[1]);
        close(err[1]);
        close(failed[1]);
        out_ = out[0];
        err_ = err[0];
        // The write end closes by itself when the program starts.
        if (int why = 0; read(failed[0], &why, sizeof why) == sizeof why) {
            close(failed[0]);
            wait();
            throw InputError(command[0], 0, std::string("can't be run: ") + std::strerror(why));
        }
        close(failed[0]);
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    ~Child() {
        if (pid_ > 0) kill(pid_, SIGKILL);
        wait();
        close(out_);
        close(err_);
    }

    /// Calls `line(text)` for each line of output as it comes, until the program closes it. False if it hasn't at the
    /// deadline.
    template <class Line>
    bool read_lines(std::chrono::steady_clock::time_point deadline, Line line) {
        std::string rest;
        std::array<pollfd, 2> polled = {{{out_, POLLIN, 0}, {err_, POLLIN, 0}}};
        while (polled[0].fd >= 0 || polled[1].fd >= 0) {
            const auto left =
                std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
            if (left.count() <= 0) return false;
            if (poll(polled.data(), polled.size(), static_cast<int>(left.count())) < 0 && errno != EINTR) return false;
            std::string* const texts[] = {&rest, &errors_};
            for (std::size_t i = 0; i < polled.size(); ++i) {
                if ((polled[i].revents & (POLLIN | POLLHUP)) == 0) continue;
                std::array<char, 4096> buffer{};
                const ssize_t size = read(polled[i].fd, buffer.data(), buffer.size());
                if (size <= 0) {
                    polled[i].fd = -1;
                } else {
                    texts[i]->append(buffer.data(), static_cast<std::size_t>(size));
                }
            }
            for (std::size_t end = 0; (end = rest.find('\n')) != std::string::npos; rest.erase(0, end + 1))
                line(std::string_view(rest).substr(0, end));
        }
        if (!rest.empty()) line(std::string_view(rest));
        return true;
    }

    /// The exit code; 128 + the signal that ended it.
    int wait() {
        if (pid_ > 0) {
            int status = 0;
            while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
            }
            exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            pid_ = -1;
        }
        return exit_code_;
    }
    /// What it wrote to standard error.
    [[nodiscard]] const std::string& errors() const { return errors_; }

private:
    pid_t pid_ = -1;
    int out_ = -1;
    int err_ = -1;
    int exit_code_ = -1;
    std::string errors_;
};

/// Shows the console as it comes: all of it, or as JSON only the lines that are meant for programs.
class Console {
public:
    explicit Console(bool json) : json_(json), palette_(stdout) {}

    void show(std::string_view line) {
        if (line.starts_with(verdict_prefix)) verdict_ = line;
        if (json_) {
            if (line.starts_with('{')) put(nlohmann::json::accept(line) ? std::string(line) : broken(line));
        } else if (line == pass_line) {
            put(palette_.green(line));
        } else {
            put(line.starts_with(verdict_prefix) ? palette_.red(line) : std::string(line));
        }
    }
    /// A failure that the kernel could not tell of itself.
    void fail(const std::string& reason) {
        put(json_ ? nlohmann::ordered_json{{"event", "verdict"}, {"pass", false}, {"reason", reason}}.dump()
                  : palette_.red(fmt::format("directmap: boot: {}", reason)));
    }
    [[nodiscard]] const std::string& verdict() const { return verdict_; }

private:
    static std::string broken(std::string_view line) {
        return nlohmann::ordered_json{{"event", "garbled"}, {"line", printable(line)}}.dump();
    }
    static void put(const std::string& line) {
        fmt::print("{}\n", line);
        std::fflush(stdout);
    }

    bool json_;
    Palette palette_;
    std::string verdict_;
};

/// The command as a shell would be given it.
std::string shell_words(const std::vector<std::string>& command) {
    std::string text;
    for (const std::string& word : command) {
        const bool plain =
            word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=,./:") ==
            std::string::npos;
        if (!text.empty()) text += ' ';
        if (plain && !word.empty()) {
            text += word;
            continue;
        }
        text += '\'';
        for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
        text += '\'';
    }
    return text;
}

int boot(const Options& options) {
    check_memory(options.memory);
    if (!options.day.empty() && !fs::is_regular_file(options.day))
        throw InputError(options.day, 0, "there is no such file");
    if (options.dry_run) {
        fmt::print("{}\n", shell_words(qemu_command(options)));
        return exit_ok;
    }
    Console console(options.json);
    Child qemu(qemu_command(options));
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(options.timeout);
    const bool ended = qemu.read_lines(deadline, [&](std::string_view line) { console.show(line); });
    if (!ended) {
        console.fail(fmt::format("no end after {} s", options.timeout));
        return exit_failed;
    }
    const int exit_code = qemu.wait();
    if (console.verdict().empty()) {
        // The emulator said no: a model, a size or a number of CPUs that it doesn't have.
        const std::string why = qemu.errors().substr(0, qemu.errors().find('\n'));
        if (exit_code == 1 && !why.empty()) throw InputError("boot", 0, printable(why));
        console.fail(fmt::format("the machine ended without a verdict, exit code {}{}{}", exit_code,
                                 why.empty() ? "" : ": ", printable(why)));
        return exit_failed;
    }
    // What was said and what was returned must agree.
    if (console.verdict() == pass_line && exit_code == 0) return exit_ok;
    if (exit_code == kernel_exit_not_understood)
        throw InputError("boot", 0, printable(console.verdict().substr(verdict_prefix.size())));
    if (console.verdict() == pass_line) console.fail(fmt::format("PASS, but exit code {}", exit_code));
    return exit_failed;
}

} // namespace

void register_boot(CLI::App& app, int& exit_code) {
    const auto options = std::make_shared<Options>();
    CLI::App* command = app.add_subcommand("boot", description);
    command->footer(footer);
    command->add_option("--cpus", options->cpus, "How many CPUs the machine has, 1 to 8")
        ->type_name("N")
        ->check(CLI::Range(1u, 8u).description(""))
        ->capture_default_str();
    command->add_option("--memory", options->memory, "How much memory, in M or G")
        ->type_name("SIZE")
        ->capture_default_str();
    command->add_option("--cpu", options->cpu, "QEMU's name of the CPU: max, neoverse-n1,\ncortex-a57, a64fx, ...")
        ->type_name("MODEL")
        ->capture_default_str();
    command->add_option("--granule", options->granule, "Page size: 4k, 16k or 64k")
        ->type_name("SIZE")
        ->transform(one_of(page_size_words()))
        ->capture_default_str();
    command
        ->add_option("--map", options->map,
                     "How memory is mapped: automatic (large where the\nCPU can resize, pages where it can't), large, "
                     "pages or\nzoned (large, with a zone of pages)")
        ->type_name("STYLE")
        ->transform(one_of({"automatic", "large", "pages", "zoned"}))
        ->capture_default_str();
    command->add_option("--nolive", options->nolive, "CPU N doesn't tolerate live resizing; may be\nrepeated")
        ->type_name("N")
        ->check(CLI::Range(0u, 7u).description(""))
        ->allow_extra_args(false);
    command->add_option("--scenario", options->scenario, "What is played, see below")
        ->type_name("NAME")
        ->capture_default_str();
    command
        ->add_option("--day", options->day,
                     "Play what run --day has written, on the components of\ndocs/clients.md; instead of --scenario")
        ->type_name("FILE")
        ->excludes("--scenario");
    command->add_option("--placement", options->placement, "Where the memory of a day lies: pooled or scattered")
        ->type_name("HOW")
        ->transform(one_of({"pooled", "scattered"}))
        ->needs("--day")
        ->capture_default_str();
    command->add_option("--policy", options->policy, "When a day's leaves heal: background or never")
        ->type_name("POLICY")
        ->transform(one_of({"background", "never"}))
        ->needs("--day")
        ->capture_default_str();
    command->add_option("--seed", options->seed, "Of everything random")->type_name("S")->capture_default_str();
    command->add_option("--rounds", options->rounds, "Rounds of each scenario; 0: its own number")
        ->type_name("N")
        ->capture_default_str();
    command->add_option("--fault", options->fault, "A mistake in the kernel's platform, to see it found")
        ->type_name("NAME")
        ->capture_default_str();
    command->add_flag("--no-assume", options->no_assume,
                      "Believe a CPU that reports FEAT_BBM level 2 that it\nmay abort; without it, such CPUs are taken "
                      "for free\nof aborts, as QEMU's are");
    command->add_flag("--emulate-keys", options->emulate_keys,
                      "Protect page tables by a key although the CPU lacks\nFEAT_S1POE: a variable stands in for the "
                      "key register,\nand each write of a table is checked against it");
    command->add_flag("--el2", options->el2, "Enter the kernel at EL2, as a hypervisor would be");
    command->add_flag("--dump", options->dump, "Print the map even if it has millions of leaves");
    command->add_flag("--json", options->json, "Print JSON lines only");
    command->add_flag("--dry-run", options->dry_run, "Print QEMU's command line instead of running it");
    command->add_option("--qemu", options->qemu, "The emulator")->type_name("PROGRAM")->capture_default_str();
    command->add_option("--kernel", options->kernel, "Another kernel image")->type_name("FILE");
    command->add_option("--timeout", options->timeout, "The machine is stopped after this long")
        ->type_name("SECONDS")
        ->check(CLI::Range(1u, 86400u).description(""))
        ->capture_default_str();
    command->callback([options, &exit_code] { exit_code = boot(*options); });
}

} // namespace directmap::tool

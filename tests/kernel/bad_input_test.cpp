// Machines, device trees and command lines that the kernel can't use: a clear line on the console, a failing exit,
// never silence. QEMU is run directly, because the command refuses most of this before it starts one.
#include "flat_tree.hpp"
#include "kernel_paths.hpp"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <stdexcept>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace directmap::kernel {
namespace {

using test::FlatTree;
using test::TreeOfAMachine;

struct Ending {
    int exit_code;
    std::string output;
    std::string last_line;
};

Ending run(const std::string& command) {
    std::FILE* pipe = popen(("timeout 60 " + command + " 2>&1 </dev/null").c_str(), "r");
    if (pipe == nullptr) throw std::runtime_error("can't run " + command);
    Ending ending;
    std::array<char, 4096> buffer{};
    while (const std::size_t size = std::fread(buffer.data(), 1, buffer.size(), pipe))
        ending.output.append(buffer.data(), size);
    const int status = pclose(pipe);
    ending.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    std::string text = ending.output;
    while (!text.empty() && text.back() == '\n') text.pop_back();
    ending.last_line = text.substr(text.rfind('\n') + 1);
    return ending;
}

std::string image() {
    return std::string(kernel_images) + "/directmap-kernel-4k.img";
}

const std::string qemu = "qemu-system-aarch64 -cpu max -nodefaults -display none -serial stdio "
                         "-semihosting-config enable=on,target=native ";

/// Files that last as long as a test.
class Files : public testing::Test {
protected:
    Files() { std::filesystem::create_directories(folder_); }
    ~Files() override { std::filesystem::remove_all(folder_); }

    std::string file(const std::string& name, const std::vector<unsigned char>& bytes) {
        const std::string path = folder_ / name;
        std::ofstream{path, std::ios::binary}.write(reinterpret_cast<const char*>(bytes.data()),
                                                    static_cast<std::streamsize>(bytes.size()));
        return path;
    }

    /// Starts the image by hand: at `image_at`, with `tree` at `tree_at` and that address in x0. QEMU's own loader
    /// would look at the tree, and put things right.
    Ending start(const std::vector<unsigned char>& tree, std::uint64_t tree_at = 0x4800'0000,
                 std::uint64_t image_at = 0x4020'0000, const std::string& more = "-machine virt -m 512M") {
        // ldr x0, tree; ldr x1, image; br x1; nop; tree: .quad; image: .quad
        std::vector<unsigned char> code;
        const auto word = [&](std::uint32_t value) {
            for (int shift = 0; shift < 32; shift += 8) code.push_back(static_cast<unsigned char>(value >> shift));
        };
        for (const std::uint32_t instruction : {0x58000080u, 0x580000a1u, 0xd61f0020u, 0xd503201fu}) word(instruction);
        for (const std::uint64_t address : {tree_at, image_at}) {
            word(static_cast<std::uint32_t>(address));
            word(static_cast<std::uint32_t>(address >> 32));
        }
        const auto device = [](const std::string& path, std::uint64_t at) {
            return "-device loader,file=" + path + ",addr=" + std::to_string(at) + ",force-raw=on ";
        };
        std::string command = qemu + more + ' ' + device(image(), image_at) + device(file("start", code), 0x4a00'0000) +
                              "-device loader,addr=0x4a000000,cpu-num=0 ";
        if (!tree.empty()) command += device(file("tree", tree), tree_at);
        return run(command);
    }

private:
    std::filesystem::path folder_ =
        std::filesystem::temp_directory_path() / ("directmap-bad-input-" + std::to_string(getpid()));
};

using BadInput = Files;

void expect_failure(const Ending& ending, const std::string& reason, int exit_code = 1) {
    EXPECT_EQ(ending.last_line, "directmap-kernel: FAIL: " + reason) << ending.output;
    EXPECT_EQ(ending.exit_code, exit_code);
}

/// A machine that QEMU itself starts.
Ending boot(const std::string& machine, const std::string& words = "scenario=none") {
    return run(qemu + machine + " -kernel " + image() + " -append '" + words + "'");
}

TEST_F(BadInput, ATreeMadeByHandBootsSoTheFollowingFailForTheirReasonAlone) {
    TreeOfAMachine machine;
    machine.command_line = "scenario=errors";
    const Ending ending = start(machine.tree().blob());
    EXPECT_EQ(ending.last_line, "directmap-kernel: PASS") << ending.output;
    EXPECT_EQ(ending.exit_code, 0);
}

TEST_F(BadInput, NoDeviceTree) {
    expect_failure(start({}, 0), "no device tree was given");
}

TEST_F(BadInput, ADeviceTreeThatIsNotThere) {
    expect_failure(start({}, 0x4800'0000), "there is no device tree at 0x48000000");
    expect_failure(start({}, 0x4800'0004), "the device tree at 0x48000004 is not aligned to 8 bytes");
    expect_failure(start({}, 0xffff'0000'0000'0000),
                   "the device tree at 0xffff000000000000 lies beyond the address space");
}

TEST_F(BadInput, ACorruptDeviceTree) {
    const auto good = TreeOfAMachine{}.tree().blob();
    auto larger = good;
    FlatTree::set(larger, FlatTree::total_size, 0x4000'0000);
    expect_failure(start(larger), "the device tree at 0x48000000 claims 1073741824 bytes");
    auto newer = good;
    FlatTree::set(newer, FlatTree::last_compatible_version, 99);
    expect_failure(start(newer), "the device tree at 0x48000000 can't be used: its version is not supported");
    auto outside = good;
    FlatTree::set(outside, FlatTree::structure_offset, 0xffff'fff0);
    expect_failure(start(outside), "the device tree at 0x48000000 can't be used: its structure block lies outside");
    auto garbled = good;
    for (std::size_t i = 60; i < garbled.size(); ++i) garbled[i] = static_cast<unsigned char>(i * 37);
    const Ending ending = start(garbled);
    EXPECT_TRUE(ending.last_line.starts_with("directmap-kernel: FAIL: the device tree at 0x48000000 can't be used: "))
        << ending.output;
    EXPECT_EQ(ending.exit_code, 1);
}

TEST_F(BadInput, NoMemory) {
    expect_failure(start(TreeOfAMachine{.memory = {}}.tree().blob()), "the device tree describes no memory");
}

TEST_F(BadInput, TooLittleMemory) {
    expect_failure(start(TreeOfAMachine{.memory = {{0x4000'0000, 0x1000}}}.tree().blob()),
                   "no 528 KiB in one piece for page tables, with 4 KiB free");
}

TEST_F(BadInput, MoreMemoryThanTheMapCanSpan) {
    expect_failure(
        start(TreeOfAMachine{.memory = {{0x4000'0000, 0x2000'0000}, {0x100'4000'0000, 0x2000'0000}}}.tree().blob()),
        "can't map this machine: from its first to its last memory it is 1025 GiB, and this kernel maps 1024 GiB");
}

TEST_F(BadInput, MoreCpusThanSupported) {
    expect_failure(boot("-machine virt,gic-version=3 -m 512M -smp 9"),
                   "the device tree describes more than 8 CPUs, which is all that this kernel supports");
}

TEST_F(BadInput, SeveralCpusAndNobodyToStartThem) {
    TreeOfAMachine machine;
    machine.cpus = 2;
    machine.psci_method = "smoke signals";
    expect_failure(start(machine.tree().blob()), "the device tree describes a PSCI node without a known method");
}

TEST_F(BadInput, ACpuThatIsNotThere) {
    TreeOfAMachine machine;
    machine.cpus = 2; // QEMU has one
    expect_failure(start(machine.tree().blob()), "PSCI can't start CPU 1: error -2");
}

TEST_F(BadInput, UnknownWordsOnTheCommandLine) {
    expect_failure(boot("-machine virt -m 512M", "quiet"), "unknown word on the command line: \"quiet\"", 2);
    expect_failure(boot("-machine virt -m 512M", "seed=many"), "bad value on the command line: \"seed=many\"", 2);
    expect_failure(boot("-machine virt -m 512M", "scenario=nope"), "unknown scenario: \"nope\"", 2);
    expect_failure(boot("-machine virt -m 512M", "fault=nope"), "unknown fault: \"nope\"", 2);
}

TEST_F(BadInput, AnImageAtAnOddPlace) {
    const auto tree = TreeOfAMachine{}.tree().blob();
    expect_failure(start(tree, 0x4800'0000, 0x4028'1000),
                   "the image must lie at a 2 MiB boundary, but is at 0x0000000040281000");
    expect_failure(start(tree, 0x4800'0000, 0x4020'0004),
                   "the image must lie at a 2 MiB boundary, but is at 0x0000000040200004");
}

TEST_F(BadInput, ACpuWithoutTheImagesPageSize) {
    const Ending ending =
        run("qemu-system-aarch64 -machine virt -m 512M -cpu cortex-a57 -nodefaults -display none -serial stdio "
            "-semihosting-config enable=on,target=native -kernel " +
            std::string(kernel_images) + "/directmap-kernel-16k.img");
    expect_failure(ending, "this CPU lacks the image's page size, in KiB 0x0000000000000010");
}

TEST_F(BadInput, AMachineWithoutAnInterruptControllerThatTheKernelKnowsStillPasses) {
    const Ending ending =
        boot("-machine virt,gic-version=3 -m 512M -smp 2", "scenario=permissions assume=no-abort rounds=2");
    EXPECT_EQ(ending.last_line, "directmap-kernel: PASS") << ending.output;
}

TEST_F(BadInput, SeveralBanksAndAHoleAreMappedAsTheyAre) {
    FlatTree tree;
    tree.begin("").cells("#address-cells", {2}).cells("#size-cells", {2});
    for (const std::uint64_t start : {0x4000'0000u, 0x5000'0000u, 0x5a00'0000u}) {
        tree.begin("memory").strings("device_type", {"memory"}).numbers("reg", {start, 0x500'0000}).end();
    }
    tree.begin("reserved-memory").cells("#address-cells", {2}).cells("#size-cells", {2});
    tree.begin("secure@50800000").numbers("reg", {0x5080'0000, 0x10'0000}).flag("no-map").end().end();
    tree.begin("psci").strings("method", {"hvc"}).end();
    tree.begin("cpus").cells("#address-cells", {1}).cells("#size-cells", {0});
    tree.begin("cpu@0").strings("device_type", {"cpu"}).cells("reg", {0}).end().end();
    tree.begin("pl011@9000000").strings("compatible", {"arm,pl011"}).numbers("reg", {0x900'0000, 0x1000}).end();
    tree.begin("chosen").strings("bootargs", {"assume=no-abort"}).end().end();
    const Ending ending = start(tree.blob(), 0x4400'0000);
    EXPECT_EQ(ending.last_line, "directmap-kernel: PASS") << ending.output;
    // The dump shows the three banks and nothing of the hole.
    EXPECT_NE(ending.output.find("0xffff000050000000-"), std::string::npos) << ending.output;
    EXPECT_NE(ending.output.find("-0xffff000050800000 "), std::string::npos) << ending.output;
    EXPECT_NE(ending.output.find("0xffff000050900000-"), std::string::npos) << ending.output;
    EXPECT_NE(ending.output.find("-0xffff00005f000000 "), std::string::npos) << ending.output;
}

TEST_F(BadInput, TheCommandTellsUsageFromFailure) {
    const std::string command = std::string(directmap_command) + " boot --kernel " + image() + ' ';
    EXPECT_EQ(run(command + "--memory 12").exit_code, 2);
    EXPECT_EQ(run(command + "--cpus 9").exit_code, 2);
    EXPECT_EQ(run(command + "--cpu no-such-cpu").last_line,
              "directmap: boot: qemu-system-aarch64: unable to find CPU model 'no-such-cpu'");
    EXPECT_EQ(run(command + "--scenario nope").last_line, "directmap: boot: FAIL: unknown scenario: \"nope\"");
    EXPECT_EQ(run(command + "--scenario nope").exit_code, 2);
    EXPECT_EQ(run(command + "--qemu no-such-program").last_line,
              "directmap: no-such-program: can't be run: No such file or directory");
    EXPECT_EQ(run(std::string(directmap_command) + " boot --kernel no-such-image").exit_code, 2);
    const Ending late = run(command + "--cpus 4 --rounds 100000 --timeout 1");
    EXPECT_EQ(late.last_line, "directmap: boot: no end after 1 s");
    EXPECT_EQ(late.exit_code, 1);
}

TEST_F(BadInput, ADryRunPrintsACommandThatBoots) {
    const Ending dry =
        run(std::string(directmap_command) + " boot --dry-run --scenario errors --cpus 2 --kernel " + image());
    EXPECT_EQ(dry.exit_code, 0);
    ASSERT_TRUE(dry.output.starts_with("qemu-system-aarch64 -machine ")) << dry.output;
    const Ending ending = run(dry.last_line);
    EXPECT_EQ(ending.last_line, "directmap-kernel: PASS") << ending.output;
}

TEST_F(BadInput, ACrashShowsRegistersAndABacktraceByName) {
    const Ending ending = run(std::string(directmap_command) + " boot --scenario crash-store --kernel " + image());
    for (const char* const part :
         {"  x0  0xffff0000", "  pc   0xffff8000", "  called from play_crash_store+0x", "  called from start+0x"}) {
        EXPECT_NE(ending.output.find(part), std::string::npos) << part << " in\n" << ending.output;
    }
}

TEST_F(BadInput, JsonIsOneObjectALineAndEndsWithTheVerdict) {
    const Ending ending = run(std::string(directmap_command) + " boot --json --scenario errors --kernel " + image());
    EXPECT_EQ(ending.exit_code, 0);
    EXPECT_EQ(ending.last_line, "{\"event\":\"verdict\",\"pass\":true}");
    EXPECT_EQ(ending.output.find("garbled"), std::string::npos) << ending.output;
    const Ending failing =
        run(std::string(directmap_command) + " boot --json --fault no-invalidation --kernel " + image());
    EXPECT_EQ(failing.exit_code, 1);
    EXPECT_TRUE(failing.last_line.starts_with("{\"event\":\"verdict\",\"pass\":false,\"reason\":\"")) << failing.output;
}

} // namespace
} // namespace directmap::kernel

// What the kernel takes from a device tree, and what it says when something is missing.
#include "pure/boot_information.hpp"

#include "flat_tree.hpp"

#include <gtest/gtest.h>
#include <string>

namespace directmap::kernel {
namespace {

using test::FlatTree;
using test::TreeOfAMachine;

struct Reading {
    BootInformation information;
    std::string missing; ///< empty: nothing
    std::string command_line;
};

Reading read(const FlatTree& builder) {
    const auto blob = builder.blob();
    DeviceTree tree;
    EXPECT_EQ(tree.check(blob.data(), blob.size()), nullptr);
    Reading reading;
    const char* missing = read_boot_information(tree, reading.information);
    if (missing != nullptr) reading.missing = missing;
    reading.command_line = reading.information.command_line;
    return reading;
}

TEST(BootInformation, AMachineIsReadAsItIs) {
    const auto [information, missing, command_line] = read(
        TreeOfAMachine{{{0x8000'0000, 0x1000'0000}, {0x4000'0000, 0x4000'0000}}, 4, "smc", "seed=3"}.tree().reserve(
            0x4800'0000, 0x1000));
    EXPECT_EQ(missing, "");
    ASSERT_EQ(information.memory.size(), 1u); // the banks touch
    EXPECT_EQ(information.memory[0], phys_range(0x4000'0000, 0x9000'0000));
    ASSERT_EQ(information.reserved.size(), 1u);
    EXPECT_EQ(information.reserved[0], phys_range(0x4800'0000, 0x4800'1000));
    EXPECT_EQ(information.cpu_count, 4u);
    EXPECT_EQ(information.cpus[3], 3u);
    EXPECT_EQ(information.psci, PsciConduit::smc);
    EXPECT_EQ(information.uart, PhysAddr{0x900'0000});
    EXPECT_EQ(command_line, "seed=3");
}

TEST(BootInformation, SeparateBanksStaySeparate) {
    const auto reading = read(TreeOfAMachine{{{0x1'0000'0000, 0x1000}, {0x4000'0000, 0x1000}}}.tree());
    ASSERT_EQ(reading.information.memory.size(), 2u);
    EXPECT_EQ(reading.information.memory[0].start, PhysAddr{0x4000'0000});
    EXPECT_EQ(reading.information.memory[1].start, PhysAddr{0x1'0000'0000});
}

TEST(BootInformation, ReservedMemoryIsMappedOrNotAsItSays) {
    FlatTree builder;
    builder.begin("").cells("#address-cells", {2}).cells("#size-cells", {2});
    builder.begin("memory@0").strings("device_type", {"memory"}).numbers("reg", {0, 0x1000'0000}).end();
    builder.begin("reserved-memory").cells("#address-cells", {2}).cells("#size-cells", {2}).flag("ranges");
    builder.begin("secure@1000").numbers("reg", {0x1000, 0x1000}).flag("no-map").end();
    builder.begin("firmware@4000").numbers("reg", {0x4000, 0x2000}).end();
    builder.begin("pool").numbers("size", {0x10000}).end(); // placed by whoever needs it
    builder.begin("off@8000").strings("status", {"disabled"}).numbers("reg", {0x8000, 0x1000}).end();
    builder.end();
    builder.begin("cpus").cells("#address-cells", {1}).cells("#size-cells", {0});
    builder.begin("cpu@0").strings("device_type", {"cpu"}).cells("reg", {0}).end().end().end();
    const auto reading = read(builder);
    EXPECT_EQ(reading.missing, "");
    ASSERT_EQ(reading.information.no_map.size(), 1u);
    EXPECT_EQ(reading.information.no_map[0], phys_range(0x1000, 0x2000));
    ASSERT_EQ(reading.information.reserved.size(), 1u);
    EXPECT_EQ(reading.information.reserved[0], phys_range(0x4000, 0x6000));
    EXPECT_EQ(reading.information.psci, PsciConduit::none);
    EXPECT_FALSE(reading.information.has_uart);
}

TEST(BootInformation, TheInitialRamDiskIsFound) {
    FlatTree builder;
    builder.begin("").cells("#address-cells", {2}).cells("#size-cells", {2});
    builder.begin("chosen")
        .numbers("linux,initrd-start", {0x4800'0000})
        .cells("linux,initrd-end", {0x4810'0000})
        .end()
        .end();
    EXPECT_EQ(read(builder).information.initrd, phys_range(0x4800'0000, 0x4810'0000));
}

TEST(BootInformation, WhatIsMissingOrTooMuchIsSaid) {
    EXPECT_EQ(read(TreeOfAMachine{.memory = {}}.tree()).missing, "no memory");
    EXPECT_EQ(read(TreeOfAMachine{.memory = {{0x4000'0000, 0}}}.tree()).missing, "no memory");
    EXPECT_EQ(read(TreeOfAMachine{.memory = {{0xffff'ffff'ffff'0000, 0x2'0000}}}.tree()).missing,
              "a range beyond the address space");
    EXPECT_EQ(read(TreeOfAMachine{.cpus = 0}.tree()).missing, "no CPUs");
    EXPECT_EQ(read(TreeOfAMachine{.cpus = 9}.tree()).missing,
              "more than 8 CPUs, which is all that this kernel supports");
    EXPECT_EQ(read(TreeOfAMachine{.psci_method = "rpc"}.tree()).missing, "a PSCI node without a known method");
    std::vector<std::pair<std::uint64_t, std::uint64_t>> banks;
    for (std::uint64_t i = 0; i < 40; ++i) banks.emplace_back(i << 30, 0x1000);
    EXPECT_EQ(read(TreeOfAMachine{.memory = banks}.tree()).missing, "more memory ranges than this kernel can hold");
}

TEST(BootInformation, TheUartIsKnownEvenIfTheRestIsMissing) {
    const auto reading = read(TreeOfAMachine{.memory = {}}.tree());
    EXPECT_TRUE(reading.information.has_uart); // so that the complaint can be printed
}

} // namespace
} // namespace directmap::kernel

#include "memory_map.hpp"

#include "embedded.hpp"
#include "input_error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <map>
#include <sstream>

namespace directmap::tool {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Property;
using testing::SizeIs;
using testing::Throws;

constexpr std::uint64_t k = 1024, m = 1024 * k, g = 1024 * m;

std::string data_path(const std::string& name) {
    return DIRECTMAP_SOURCE_DIR "/tests/data/memmaps/" + name;
}

std::string text_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

MemoryMap parse(std::string_view text, MemoryMapFormat format = MemoryMapFormat::automatic) {
    return parse_memory_map(text, "FILE", format);
}

/// What `directmap: ` is printed before.
std::string error_of(std::string_view text, MemoryMapFormat format = MemoryMapFormat::automatic) {
    try {
        static_cast<void>(parse(text, format));
    } catch (const InputError& error) {
        return error.what();
    }
    return "no error";
}

// ---- /proc/iomem

TEST(MemoryMap, AWideIndentedIomemGivesTheRamOfTheServer) {
    const MemoryMap map = read_memory_map(data_path("iomem-ampere-emag-256g.txt"));
    EXPECT_EQ(map.format, MemoryMapFormat::iomem);
    EXPECT_THAT(map.ram, SizeIs(16));
    EXPECT_EQ(map.ram.front(), (Range{0x90000000, 0x92000000}));
    EXPECT_EQ(map.ram[1], (Range{0x928c0000, 0xfff80000}));
    EXPECT_EQ(map.ram.back(), (Range{0xbfffd90000, 0xc000000000}));
    EXPECT_EQ(total_size(map.ram), 274537971712U);
    EXPECT_THAT(map.kernel_image, ElementsAre(NamedRange{{0x92a80000, 0x93b70000}, "Kernel code"},
                                              NamedRange{{0x942c0000, 0x94f10000}, "Kernel data"}));
    EXPECT_THAT(map.crash_kernel, ElementsAre(NamedRange{{0xeee00000, 0xffe00000}, "Crash kernel"}));
}

TEST(MemoryMap, TheCrashKernelInsideRamIsRam) {
    const MemoryMap map = parse("80000000-ffffffff : System RAM\n  e0000000-efffffff : Crash kernel\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x80000000, 0x100000000}));
    EXPECT_THAT(map.crash_kernel, ElementsAre(NamedRange{{0xe0000000, 0xf0000000}, "Crash kernel"}));
}

TEST(MemoryMap, ReservedInsideRamIsRamAndOutsideIsNoMap) {
    const MemoryMap map = parse("80000000-8fffffff : System RAM\n"
                                "  81000000-81ffffff : reserved\n"
                                "90000000-90ffffff : reserved\n"
                                "91000000-9fffffff : System RAM\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x80000000, 0x90000000}, Range{0x91000000, 0xa0000000}));
    EXPECT_THAT(map.nomap, ElementsAre(NamedRange{{0x90000000, 0x91000000}, "reserved"}));
}

TEST(MemoryMap, ABootAliasIsTheSameRamASecondTimeAndNotRam) {
    const MemoryMap map = parse("80000000-9fffffff : System RAM (boot alias)\n800000000-81fffffff : System RAM\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x800000000, 0x820000000}));
}

TEST(MemoryMap, HotPluggedRamBelowADeviceIsRam) {
    const MemoryMap map = parse("80000000-9fffffff : System RAM\n"
                                "140000000-23fffffff : virtio0\n"
                                "  140000000-1bfffffff : System RAM (virtio_mem)\n"
                                "1050000000-144fffffff : CXL Window 0\n"
                                "  1050000000-144fffffff : region0\n"
                                "    1050000000-144fffffff : dax0.0\n"
                                "      1050000000-144fffffff : System RAM (kmem)\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x80000000, 0xa0000000}, Range{0x140000000, 0x1c0000000},
                                     Range{0x1050000000, 0x1450000000}));
}

TEST(MemoryMap, RamNestedInRamCountsOnce) {
    const MemoryMap map = parse("80000000-8fffffff : System RAM\n  80000000-87ffffff : System RAM\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x80000000, 0x90000000}));
}

TEST(MemoryMap, AdjacentRamIsOneRange) {
    const MemoryMap map = parse("80000000-8fffffff : System RAM\n90000000-9fffffff : System RAM\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x80000000, 0xa0000000}));
}

TEST(MemoryMap, TheEndsOfAnIomemAreInclusive) {
    EXPECT_THAT(parse("00001000-0009fbff : System RAM\n").ram, ElementsAre(Range{0x1000, 0x9fc00}));
}

TEST(MemoryMap, RamIsSortedWhateverTheOrderOfTheLines) {
    const MemoryMap map = parse("880000000-8ffffffff : System RAM\n80000000-8fffffff : System RAM\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x80000000, 0x90000000}, Range{0x880000000, 0x900000000}));
}

TEST(MemoryMap, AZeroFilledIomemIsReportedAsNotRoot) {
    const std::string error = error_of("00000000-00000000 : PCI ECAM\n"
                                       "00000000-00000000 : System RAM\n"
                                       "  00000000-00000000 : Kernel code\n");
    EXPECT_THAT(error, AllOf(HasSubstr("FILE:1: "), HasSubstr("root"), HasSubstr("sudo cat /proc/iomem")));
}

TEST(MemoryMap, ADeviceAtAddressZeroIsNoSignOfAMissingRoot) {
    EXPECT_THAT(parse("00000000-00000000 : x\n80000000-8fffffff : System RAM\n").ram, SizeIs(1));
}

TEST(MemoryMap, ADeviceThatReachesToTheEndOfAllAddressesIsNoError) {
    const MemoryMap map = parse("80000000-8fffffff : System RAM\n90000000-ffffffffffffffff : PCI Bus\n");
    EXPECT_THAT(map.devices, ElementsAre(NamedRange{{0x90000000, std::uint64_t{1} << 56}, "PCI Bus"}));
}

// ---- what mails and terminals do to a text

TEST(MemoryMap, QuoteMarksCarriageReturnsColoursAndNoBreakSpacesAreNotThere) {
    const MemoryMap map = parse("\xef\xbb\xbf# a comment\r\n"
                                "> > 80000000-8fffffff : System RAM\r\n"
                                "> >   80000000-80ffffff : System RAM\r\n"
                                "> > \r\n"
                                "> >\xc2\xa0\xc2\xa0"
                                "82000000-82ffffff\xc2\xa0: Kernel code\r\n"
                                "\x1b[32m| 90000000-97ffffff : System RAM\x1b[0m\r\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x80000000, 0x98000000}));
    EXPECT_THAT(map.kernel_image, SizeIs(1));
}

TEST(MemoryMap, ANameFromTheFileIsFitForATerminal) {
    const MemoryMap map = parse("80000000-8fffffff : System RAM\n90000000-9fffffff : a\x07\xff"
                                "b\n");
    EXPECT_EQ(map.devices.front().name, "a??b");
}

// ---- lists

TEST(MemoryMap, AListHasInclusiveEndsOrSizesAndNamedHoles) {
    const MemoryMap map = parse("# the RAM of a board\n"
                                "0x80000000-0xbfffffff\n"
                                "880000000+2G : RAM   # the upper bank\n"
                                "\n"
                                "100000000 + 0x1000\n"
                                "90000000-900fffff : reserved\n"
                                "90200000-902fffff : NoMap\n");
    EXPECT_EQ(map.format, MemoryMapFormat::list);
    EXPECT_THAT(map.ram,
                ElementsAre(Range{0x80000000, 0x90000000}, Range{0x90100000, 0x90200000}, Range{0x90300000, 0xc0000000},
                            Range{0x100000000, 0x100001000}, Range{0x880000000, 0x900000000}));
    EXPECT_THAT(map.nomap, SizeIs(2));
}

TEST(MemoryMap, ASizeWithASuffixIsDecimalAndOneWithoutIsHexadecimal) {
    EXPECT_THAT(parse("0+10K\n").ram, ElementsAre(Range{0, 10 * k}));
    EXPECT_THAT(parse("0+16M\n").ram, ElementsAre(Range{0, 16 * m}));
    EXPECT_THAT(parse("0+3T\n").ram, ElementsAre(Range{0, 3072 * g}));
    EXPECT_THAT(parse("0+10\n").ram, ElementsAre(Range{0, 16}));
}

TEST(MemoryMap, AListWithAnUnknownNameIsAnErrorWhereItIsRead) {
    EXPECT_THAT(error_of("0-fff\n1000-1fff : PCI\n", MemoryMapFormat::list),
                AllOf(HasSubstr("FILE:2: "), HasSubstr("'PCI'")));
}

TEST(MemoryMap, AListWhoseHolesCoverAllRamHasNoRam) {
    EXPECT_THAT(error_of("80000000-8fffffff\n80000000-8fffffff : reserved\n"),
                AllOf(HasSubstr("FILE:2: "), HasSubstr("all RAM")));
}

// ---- kernel logs

TEST(MemoryMap, APhonesLogGivesItsNodesWithoutNoMapRanges) {
    const MemoryMap map = read_memory_map(data_path("dmesg-sm8550-phone.txt"));
    EXPECT_EQ(map.format, MemoryMapFormat::dmesg);
    EXPECT_THAT(map.nomap, SizeIs(47));
    EXPECT_EQ(map.ram.front(), (Range{0x81200000, 0x81a00000}));
    EXPECT_EQ(map.ram.back(), (Range{0x8c0000000, 0xb00000000}));
    for (const NamedRange& hole : map.nomap) EXPECT_THAT(intersect(map.ram, {hole.range}), IsEmpty()) << hole.name;
    EXPECT_EQ(map.nomap.front().name, "hyp-region@80000000");
    EXPECT_EQ(total_size(map.ram), std::uint64_t{2885779} * 4096);
}

TEST(MemoryMap, TheSpanOfANodeOrZoneIsNotItsRam) {
    const MemoryMap map = parse("NUMA: Faking a node at [mem 0x0000000080000000-0x0000000affffffff]\n"
                                "  DMA      [mem 0x0000000080000000-0x0000000affffffff]\n"
                                "Early memory node ranges\n"
                                "  node   0: [mem 0x0000000080000000-0x000000008fffffff]\n"
                                "Initmem setup node 0 [mem 0x0000000080000000-0x0000000affffffff]\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x80000000, 0x90000000}));
}

TEST(MemoryMap, PrefixesOfLogsAreNotThere) {
    for (const std::string prefix :
         {"", "[    0.000000] ", "<6>[    0.000000] ", "Nov 20 16:50:01 host kernel: ", "dmesg.txt:12:[    0.0] ",
          "> [    0.000000] ", "\x1b[32m[    0.000000] \x1b[0m"}) {
        const MemoryMap map = parse(prefix + "  node   0: [mem 0x0000000080000000-0x000000008fffffff]\n");
        EXPECT_THAT(map.ram, ElementsAre(Range{0x80000000, 0x90000000})) << prefix;
    }
}

TEST(MemoryMap, LinesThatAConsoleReplayedCountOnce) {
    const std::string boot = "node   0: [mem 0x80000000-0x8fffffff]\nnode   1: [mem 0x90000000-0x9fffffff]\n";
    EXPECT_THAT(parse(boot + "printk: console [ttyAMA0] enabled\n" + boot).ram,
                ElementsAre(Range{0x80000000, 0xa0000000}));
}

TEST(MemoryMap, ReservedMemoryThatIsMappedStaysRam) {
    const MemoryMap map = parse("OF: reserved mem: 0x80000000..0x807fffff (8192 KiB) map reusable linux,cma\n"
                                "OF: reserved mem: 0x81000000..0x810fffff (1024 KiB) nomap non-reusable fw@81000000\n"
                                "OF: reserved mem: initialized node linux,cma, compatible id shared-dma-pool\n"
                                "node   0: [mem 0x80000000-0x8fffffff]\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x80000000, 0x81000000}, Range{0x81100000, 0x90000000}));
    EXPECT_THAT(map.nomap, ElementsAre(NamedRange{{0x81000000, 0x81100000}, "fw@81000000"}));
}

TEST(MemoryMap, UsableE820RangesAreRam) {
    const MemoryMap map = parse("BIOS-provided physical RAM map:\n"
                                "BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable\n"
                                "BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff] reserved\n"
                                "BIOS-e820: [mem 0x0000000000100000-0x00000000bffdffff] usable\n"
                                "BIOS-e820: [mem 0x00000000bffe0000-0x00000000bfffffff] ACPI data\n"
                                "BIOS-e820: [mem 0x0000000100000000-0x000000063fffffff] usable\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0, 0x9fc00}, Range{0x100000, 0xbffe0000}, Range{0x100000000, 0x640000000}));
    EXPECT_THAT(map.nomap, ElementsAre(NamedRange{{0x9fc00, 0xa0000}, "reserved"},
                                       NamedRange{{0xbffe0000, 0xc0000000}, "ACPI data"}));
}

TEST(MemoryMap, TheLastE820TableIsTheOneThatTheKernelUses) {
    const MemoryMap map = parse("BIOS-e820: [mem 0x0000000000000000-0x000000063fffffff] usable\n"
                                "e820: remove [mem 0x100000000-0xfffffffffffffffe] usable\n"
                                "user-defined physical RAM map:\n"
                                "user: [mem 0x0000000000000000-0x00000000ffffffff] usable\n"
                                "e820: update [mem 0x00000000-0x00000fff] usable ==> reserved\n"
                                "e820: update [mem 0x00010000-0x00010fff] usable ==> usable\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x1000, 0x100000000}));
}

TEST(MemoryMap, TheE820LinesOfOldKernelsHaveExclusiveEnds) {
    const MemoryMap map = parse("BIOS-e820: 0000000000000000 - 000000000009fc00 (usable)\n"
                                "BIOS-e820: 000000000009fc00 - 00000000000a0000 (reserved)\n"
                                "BIOS-e820: 0000000000100000 - 00000000bffe0000 (usable)\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0, 0x9fc00}, Range{0x100000, 0xbffe0000}));
}

TEST(MemoryMap, NodesAreBelievedBeforeE820) {
    const MemoryMap map = parse("BIOS-e820: [mem 0x0000000000000000-0x00000000ffffffff] usable\n"
                                "  node   0: [mem 0x0000000000001000-0x00000000bfffffff]\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x1000, 0xc0000000}));
}

TEST(MemoryMap, AnExcerptOfAnEfiMapGivesItsRam) {
    const MemoryMap map = read_memory_map(data_path("dmesg-x86-efi.txt"));
    EXPECT_EQ(map.format, MemoryMapFormat::dmesg);
    EXPECT_THAT(map.ram, ElementsAre(Range{0x53e7000, 0xbbf78000}));
}

TEST(MemoryMap, EfiTypesThatFirmwareKeepsAreNotRam) {
    const std::string attributes = "|   |  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[";
    const MemoryMap map = parse("efi: mem00: [Boot Services Code " + attributes + "0x80000000-0x80000fff] (0MB)\n" +
                                "efi: mem01: [Runtime Data       " + attributes + "0x80001000-0x80001fff] (0MB)\n" +
                                "efi: mem02: [ACPI Reclaim Memory" + attributes + "0x80002000-0x80002fff] (0MB)\n" +
                                "efi: mem03: [Memory Mapped I/O  |RUN|  |  |  |  |  |  |  |  |   |  |  |  |UC] "
                                "range=[0x80003000-0x80003fff] (0MB)\n"
                                "efi: mem04: [Conventional Memory|   |  |SP|  |  |  |  |  |  |   |WB|WT|WC|UC] "
                                "range=[0x80004000-0x80004fff] (0MB)\n"
                                "efi: mem05: type=7, attr=0xf, range=[0x80005000-0x80006000) (0MB)\n"
                                "efi: mem06: type=5, attr=0xf, range=[0x80006000-0x80007000) (0MB)\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x80000000, 0x80001000}, Range{0x80002000, 0x80003000},
                                     Range{0x80005000, 0x80006000}));
}

TEST(MemoryMap, FirmwaresEfiMemoryIsTakenOutOfNodes) {
    const MemoryMap map = parse(
        "efi: mem01: [Runtime Data       |RUN|  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x80100000-0x801fffff]\n"
        "  node   0: [mem 0x0000000080000000-0x000000008fffffff]\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x80000000, 0x80100000}, Range{0x80200000, 0x90000000}));
}

TEST(MemoryMap, DeviceTreeLinesAreBaseAndSize) {
    const MemoryMap map = parse("[    0.000000] OF: fdt:memory scan node memory@80000000, reg size 48,\n"
                                "[    0.000000] OF: fdt: - 80000000 ,  7ee00000\n"
                                "[    0.000000] OF: fdt: - 100000000 ,  7f200000\n");
    EXPECT_THAT(map.ram, ElementsAre(Range{0x80000000, 0xfee00000}, Range{0x100000000, 0x17f200000}));
}

TEST(MemoryMap, ALogOfSeveralMachinesContradictsItself) {
    EXPECT_THAT(error_of(text_of(data_path("fdt-jetson.txt"))),
                AllOf(HasSubstr("FILE:14: "), HasSubstr("overlaps"), HasSubstr("of one machine and one boot")));
}

TEST(MemoryMap, ACrashKernelInALogIsFound) {
    const MemoryMap map = parse("crashkernel reserved: 0x00000000eee00000 - 0x00000000ffe00000 (272 MB)\n"
                                "node 0: [mem 0x80000000-0xffffffff]\n");
    EXPECT_THAT(map.crash_kernel, ElementsAre(NamedRange{{0xeee00000, 0xffe00000}, "Crash kernel"}));
}

// ---- bad input

TEST(MemoryMap, AReversedRangeIsAnErrorInItsLine) {
    EXPECT_THAT(error_of("80000000-8fffffff : System RAM\nb0000000-a0000000 : System RAM\n"),
                AllOf(HasSubstr("FILE:2: "), HasSubstr("before the start")));
    EXPECT_THAT(error_of("80000000-8fffffff\nb0000000-a0000000\n", MemoryMapFormat::list), HasSubstr("FILE:2: "));
    EXPECT_THAT(error_of("node 0: [mem 0xb0000000-0xa0000000]\n"), HasSubstr("FILE:1: "));
}

TEST(MemoryMap, ARangeThatWrapsIsAnErrorInItsLine) {
    EXPECT_THAT(error_of("80000000-ffffffffffffffff : System RAM\n"),
                AllOf(HasSubstr("FILE:1: "), HasSubstr("beyond")));
    EXPECT_THAT(error_of("fffffffffffff000+2000\n"), AllOf(HasSubstr("FILE:1: "), HasSubstr("beyond")));
    EXPECT_THAT(error_of("OF: fdt: - ffffffffffff0000 ,  20000\n"), AllOf(HasSubstr("FILE:1: "), HasSubstr("beyond")));
}

TEST(MemoryMap, ANumberOfMoreThan64BitsIsAnError) {
    EXPECT_THAT(error_of("80000000-10000000000000000 : System RAM\n", MemoryMapFormat::iomem), HasSubstr("FILE:1: "));
    EXPECT_THAT(error_of("0-10000000000000000\n", MemoryMapFormat::list),
                AllOf(HasSubstr("FILE:1: "), HasSubstr("64")));
    EXPECT_THAT(error_of("0+99999999999999999G\n", MemoryMapFormat::list), HasSubstr("FILE:1: "));
}

TEST(MemoryMap, AnEmptyRangeIsAnError) {
    EXPECT_THAT(error_of("80000000+0\n", MemoryMapFormat::list), AllOf(HasSubstr("FILE:1: "), HasSubstr("empty")));
    EXPECT_THAT(error_of("OF: fdt: - 80000000 ,  0\n"), HasSubstr("FILE:1: "));
}

TEST(MemoryMap, RamThatOverlapsNamesBothLines) {
    EXPECT_THAT(error_of("80000000-8fffffff : System RAM\n88000000-97ffffff : System RAM\n"),
                AllOf(HasSubstr("FILE:2: "), HasSubstr("line 1")));
    EXPECT_THAT(error_of("80000000-8fffffff : System RAM\n80000000-8fffffff : System RAM\n"),
                AllOf(HasSubstr("FILE:2: "), HasSubstr("line 1")));
    EXPECT_THAT(error_of("88000000-97ffffff\n80000000-8fffffff\n"), AllOf(HasSubstr("FILE:2: "), HasSubstr("line 1")));
}

TEST(MemoryMap, AnInputWithoutRamSaysWhatItLookedFor) {
    EXPECT_THAT(error_of(""), HasSubstr("FILE:1: the input is empty"));
    EXPECT_THAT(error_of("\n# nothing\n"), HasSubstr("FILE:2: the input is empty"));
    EXPECT_THAT(error_of("12600000-12600fff : ARMH0011:00\n"), AllOf(HasSubstr("FILE:1: "), HasSubstr("System RAM")));
    EXPECT_THAT(error_of("80000000-80ffffff : reserved\n"), AllOf(HasSubstr("FILE:1: "), HasSubstr("no range of RAM")));
    EXPECT_THAT(error_of("[ 0.0] BIOS-e820: [mem 0x0-0xfff] reserved\n"),
                AllOf(HasSubstr("FILE:1: "), HasSubstr("no RAM")));
    EXPECT_THAT(error_of("hello\nworld\n"), AllOf(HasSubstr("FILE:1: "), HasSubstr("no memory map found")));
}

TEST(MemoryMap, ALineThatIsNoneOfAnIomemIsAnError) {
    EXPECT_THAT(error_of("80000000-8fffffff : System RAM\nhello\n"),
                AllOf(HasSubstr("FILE:2: "), HasSubstr("'hello'")));
}

TEST(MemoryMap, BinaryDataIsAnErrorWhereItBegins) {
    EXPECT_THAT(error_of(std::string_view("80000000-8fffffff : System RAM\n\0\1", 33)),
                AllOf(HasSubstr("FILE:2: "), HasSubstr("binary")));
}

TEST(MemoryMap, RangesOfALogThatWereCutOffAreErrorsAndNotLessMemory) {
    for (const std::string line :
         {"node   0: [mem", "node   0: [mem 0x80000000", "node   0: [mem 0x80000000-",
          "node   0: [mem 0x80000000-0x8fff", "BIOS-e820: [mem 0x80000000-0x8fffffff",
          "efi: mem10: [Conventional Memory|   |WB|WT|WC|UC]",
          "efi: mem10: [Conventional Memory|   |WB] range=[0x80000000-0x8ff", "OF: fdt: - 80000000 ,",
          "OF: reserved mem: 0x80000000..0x", "OF: reserved mem: 0x80000000..0x8fffffff (2"})
        EXPECT_THAT(error_of("node   0: [mem 0x40000000-0x4fffffff]\n" + line + "\n"), HasSubstr("FILE:2: ")) << line;
}

TEST(MemoryMap, EveryTruncationOfAnIomemIsAnErrorOrHasWholeRangesOnly) {
    const std::string text = text_of(data_path("iomem-ampere-emag-256g.txt"));
    const MemoryMap whole = parse(text);
    std::size_t errors = 0, maps = 0;
    for (std::size_t size = 0; size < text.size(); ++size) {
        try {
            const MemoryMap part = parse(text.substr(0, size), MemoryMapFormat::iomem);
            ++maps;
            ASSERT_THAT(part.ram, testing::IsSubsetOf(whole.ram)) << "cut off at byte " << size;
        } catch (const InputError&) {
            ++errors;
        }
    }
    EXPECT_GT(errors, 1000U);
    EXPECT_GT(maps, 100U);
}

TEST(MemoryMap, NoTruncationOfALogInventsRam) {
    const std::string text = text_of(data_path("dmesg-sm8550-phone.txt"));
    const MemoryMap whole = parse(text);
    std::size_t maps = 0;
    for (std::size_t size = 0; size < text.size(); ++size) {
        try {
            const MemoryMap part = parse(text.substr(0, size));
            ++maps;
            ASSERT_THAT(subtract(part.ram, whole.ram), IsEmpty()) << "cut off at byte " << size;
        } catch (const InputError&) {
        }
    }
    EXPECT_GT(maps, 100U);
}

TEST(MemoryMap, AForcedFormatIsTheOneThatIsRead) {
    EXPECT_THAT(error_of("80000000-8fffffff\n", MemoryMapFormat::iomem), HasSubstr("FILE:1: "));
    EXPECT_THAT(error_of("80000000-8fffffff\n", MemoryMapFormat::dmesg), HasSubstr("no RAM"));
    EXPECT_EQ(parse("80000000-8fffffff : RAM\n", MemoryMapFormat::list).format, MemoryMapFormat::list);
}

// ---- files

TEST(MemoryMap, AFileThatCannotBeReadIsAnErrorWithItsName) {
    EXPECT_THAT([] { static_cast<void>(read_memory_map("/nonexistent/iomem")); },
                Throws<InputError>(Property(&InputError::file, "/nonexistent/iomem")));
    EXPECT_THAT([] { static_cast<void>(read_memory_map("/")); }, Throws<InputError>(Property(&InputError::line, 0U)));
    EXPECT_THAT([] { static_cast<void>(read_memory_map("/dev/zero")); },
                Throws<InputError>(Property(&InputError::reason, HasSubstr("larger than 16 MiB"))));
}

TEST(MemoryMap, TheBuiltInMapIsTheFileInTheSourceTree) {
    EXPECT_EQ(read_memory_map("builtin:ampere-emag-256g").ram,
              read_memory_map(data_path("iomem-ampere-emag-256g.txt")).ram);
    EXPECT_THAT([] { static_cast<void>(read_memory_map("builtin:none")); },
                Throws<InputError>(Property(&InputError::reason, HasSubstr("ampere-emag-256g"))));
}

TEST(MemoryMap, EveryDataFileOfTheToolIsPartOfTheProgram) {
    std::map<std::string, std::string> files, embedded;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(DIRECTMAP_SOURCE_DIR "/tool/data"))
        if (entry.is_regular_file()) files[entry.path().filename()] = text_of(entry.path());
    for (const EmbeddedFile& file : embedded_files()) embedded[std::string(file.name)] = file.text;
    EXPECT_EQ(embedded, files);
    EXPECT_FALSE(files.empty());
}

// ---- properties

/// Ranges as a machine could have them: sorted, apart, in whole bytes.
std::vector<Range> any_ram() {
    const auto gaps = *rc::gen::nonEmpty(rc::gen::container<std::vector<std::pair<std::uint64_t, std::uint64_t>>>(
        rc::gen::pair(rc::gen::inRange<std::uint64_t>(1, 64 * g), rc::gen::inRange<std::uint64_t>(1, 64 * g))));
    std::vector<Range> ram;
    std::uint64_t at = 0;
    for (const auto& [gap, size] : gaps) {
        ram.push_back({at + gap, at + gap + size});
        at += gap + size;
    }
    return ram;
}

RC_GTEST_PROP(MemoryMapProperty, EveryFormatSaysTheSameOfTheSameRam, ()) {
    const std::vector<Range> ram = any_ram();
    std::string iomem, list, sizes, nodes, e820;
    for (const Range& range : ram) {
        iomem += fmt::format("{:x}-{:x} : System RAM\n", range.start, range.end - 1);
        list += fmt::format("{:#x}-{:#x}\n", range.start, range.end - 1);
        sizes += fmt::format("{:x}+{:x}\n", range.start, range.size());
        nodes += fmt::format("[    0.000000]   node   0: [mem {:#018x}-{:#018x}]\n", range.start, range.end - 1);
        e820 += fmt::format("BIOS-e820: [mem {:#018x}-{:#018x}] usable\n", range.start, range.end - 1);
    }
    for (const std::string& text : {iomem, list, sizes, nodes, e820}) RC_ASSERT(parse(text).ram == ram);
}

RC_GTEST_PROP(MemoryMapProperty, SetsOfRangesBehaveLikeSetsOfBytes, ()) {
    const auto any_ranges = [] {
        std::vector<Range> ranges;
        for (const auto& [start, size] : *rc::gen::container<std::vector<std::pair<std::uint64_t, std::uint64_t>>>(
                 rc::gen::pair(rc::gen::inRange<std::uint64_t>(0, 200), rc::gen::inRange<std::uint64_t>(0, 20))))
            ranges.push_back({start, start + size});
        return ranges;
    };
    const std::vector<Range> a = any_ranges(), b = any_ranges();
    const auto in = [](const std::vector<Range>& ranges, std::uint64_t byte) {
        return std::any_of(ranges.begin(), ranges.end(), [&](const Range& range) { return range.contains(byte); });
    };
    const std::vector<Range> ma = merged(a), mb = merged(b), difference = subtract(ma, mb), both = intersect(ma, mb);
    for (std::uint64_t byte = 0; byte < 240; ++byte) {
        RC_ASSERT(in(ma, byte) == in(a, byte));
        RC_ASSERT(in(difference, byte) == (in(a, byte) && !in(b, byte)));
        RC_ASSERT(in(both, byte) == (in(a, byte) && in(b, byte)));
    }
    for (std::size_t i = 1; i < ma.size(); ++i) RC_ASSERT(ma[i - 1].end < ma[i].start);
    RC_ASSERT(total_size(difference) + total_size(both) == total_size(ma));
}

} // namespace
} // namespace directmap::tool

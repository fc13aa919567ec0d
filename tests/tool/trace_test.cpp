// Traces: the format, and what is made of recorders' output.
#include "trace.hpp"
#include "trace_convert.hpp"

#include "input_error.hpp"
#include "shell.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cstdint>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace {

using namespace directmap::tool;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::Pair;

struct ReadTrace {
    std::vector<TraceEvent> events;
    TraceRemarks remarks;
    std::uint64_t page_bytes = 0;
    std::optional<std::uint64_t> offset;
    bool ticks_recorded = false;

    /// `1.5 ro 0x1000 4`, an event each.
    [[nodiscard]] std::vector<std::string> lines() const {
        std::vector<std::string> lines;
        for (const TraceEvent& event : events) {
            lines.push_back(trace_line(event));
            lines.back().pop_back();
        }
        return lines;
    }
};

ReadTrace read_all(TraceReader& reader) {
    ReadTrace result;
    for (TraceEvent event; reader.next(event);) result.events.push_back(event);
    result.remarks = reader.remarks();
    result.page_bytes = reader.page_bytes();
    result.offset = reader.offset();
    result.ticks_recorded = reader.ticks_recorded();
    return result;
}

ReadTrace read(const std::string& text) {
    std::istringstream stream(text);
    return read_all(*read_trace(stream, "FILE"));
}

ReadTrace convert(const std::string& text, RecorderFormat format = RecorderFormat::ftrace,
                  const ConvertOptions& options = {}) {
    std::istringstream stream(text);
    return read_all(*convert_trace(stream, "FILE", format, options));
}

std::string error_of(const std::function<void()>& work) {
    try {
        work();
    } catch (const InputError& error) {
        return error.what();
    }
    return "";
}

// ---- The format

TEST(Trace, EverythingOfTheFormatIsRead) {
    const ReadTrace trace = read("# a comment\n"
                                 "directmap.trace/1\n"
                                 "page 64K # another\n"
                                 "offset 0xffff800000000000\r\n"
                                 "ticks recorded\n"
                                 "\n"
                                 "0 ro 0x10000 1\n"
                                 "\t0.5\trox   0xffff800000020000 16\n"
                                 "12.000000001 invalid 0x30000 2 atomic\n"
                                 "12.1 tick\n"
                                 "12.1 note modules load 3  # not this\n"
                                 "13 collapse\n");
    EXPECT_EQ(trace.page_bytes, 65536u);
    EXPECT_EQ(trace.offset, 0xffff800000000000u);
    EXPECT_TRUE(trace.ticks_recorded);
    ASSERT_EQ(trace.events.size(), 6u);
    EXPECT_EQ(trace.events[0].operation, TraceOperation::read_only);
    EXPECT_EQ(trace.events[0].line, 7u);
    EXPECT_EQ(trace.events[1].nanoseconds, 500'000'000u);
    EXPECT_EQ(trace.events[1].address, 0xffff800000020000u);
    EXPECT_EQ(trace.events[1].pages, 16u);
    EXPECT_EQ(trace.events[2].nanoseconds, 12'000'000'001u);
    EXPECT_TRUE(trace.events[2].atomic);
    EXPECT_EQ(trace.events[4].text, "modules load 3");
    EXPECT_FALSE(trace.remarks.partial);
}

TEST(Trace, ErrorsNameTheLineAndTheReason) {
    for (const auto& [text, error] : std::vector<std::pair<std::string, std::string>>{
             {"", "FILE: it is empty"},
             {"# nothing\n", "FILE: it is empty"},
             {"1 ro 0x1000 1\n", "FILE:1: a trace begins with a line 'directmap.trace/1', not with '1 ro 0x1000 1'"},
             {"directmap.trace/2\n", "FILE:1: a trace begins with a line 'directmap.trace/1'"},
             {std::string("directmap.trace/1\n1 r\0 0x1000 1\n", 33), "FILE:2: this is not text"},
             {"directmap.trace/1\npage 8K\n", "FILE:2: pages are 4K, 16K or 64K"},
             {"directmap.trace/1\noffset 12z\n", "FILE:2: an offset is a hexadecimal number of whole pages"},
             {"directmap.trace/1\noffset 0x123\n", "FILE:2: an offset is a hexadecimal number of whole pages"},
             {"directmap.trace/1\nticks\n", "FILE:2: there is only 'ticks recorded'"},
             {"directmap.trace/1\nsoon ro 0x1000 1\n", "FILE:2: a line begins with a time in seconds"},
             {"directmap.trace/1\n-1 ro 0x1000 1\n", "FILE:2: a line begins with a time in seconds"},
             {"directmap.trace/1\n1.0000000001 ro 0x1000 1\n", "FILE:2: a line begins with a time in seconds"},
             {"directmap.trace/1\n99999999999999999999 ro 0x1000 1\n", "FILE:2: a line begins with a time"},
             {"directmap.trace/1\n2 ro 0x1000 1\n1.5 rw 0x1000 1\n", "FILE:3: time goes back, from 2 to 1.5"},
             {"directmap.trace/1\n1\n", "FILE:2: an operation is missing"},
             {"directmap.trace/1\n1 fly 0x1000 1\n", "FILE:2: 'fly' is no operation; there are ro, rw,"},
             {"directmap.trace/1\n1 ro\n", "FILE:2: an address and a number of pages are missing"},
             {"directmap.trace/1\n1 ro 0x1000\n", "FILE:2: an address and a number of pages are missing"},
             {"directmap.trace/1\n1 ro 1000 1\n", "FILE:2: an address is a hexadecimal number that begins with 0x"},
             {"directmap.trace/1\n1 ro 0x1800 1\n", "FILE:2: 0x1800 is not the address of a page of 4K"},
             {"directmap.trace/1\n1 ro 0x1000 0\n", "FILE:2: a number of pages is a number from 1 on, not '0'"},
             {"directmap.trace/1\n1 ro 0x1000 0x4\n", "FILE:2: a number of pages is a number from 1 on, not '0x4'"},
             {"directmap.trace/1\n1 ro 0xfffffffffffff000 2\n", "go beyond the end of the address space"},
             {"directmap.trace/1\n1 ro 0xfffffffffff000 2\n", "go beyond what machines can address"},
             {"directmap.trace/1\n1 ro 0x1000 18446744073709551615\n", "go beyond what machines can address"},
             {"directmap.trace/1\n1 ro 0x1000 1 now\n", "FILE:2: unexpected 'now'"},
             {"directmap.trace/1\n1 ro 0x1000 1 atomic now\n", "FILE:2: unexpected 'now'"},
             {"directmap.trace/1\n1 collapse now\n", "FILE:2: unexpected 'now'"},
             {"directmap.trace/1\n1 tick\n", "FILE:2: a trace with ticks says 'ticks recorded'"},
             {"directmap.trace/1\n" + std::string(5000, '1') + "\n", "FILE:2: this line is longer than any"},
         }) {
        EXPECT_THAT(error_of([&] { (void)read(text); }), HasSubstr(error)) << text;
    }
}

TEST(Trace, ALineThatIsCutOffMakesItPartial) {
    const ReadTrace trace = read("directmap.trace/1\n1 ro 0x1000 16\n2 ro 0x10000 1");
    EXPECT_THAT(trace.lines(), ElementsAre("1.000 ro 0x1000 16")); // the other one may have been 16 too
    EXPECT_TRUE(trace.remarks.partial);
    EXPECT_EQ(trace.remarks.partial_reason, "line 3 is cut off");
    EXPECT_FALSE(read("directmap.trace/1\n1 ro 0x1000 16\n").remarks.partial);
}

RC_GTEST_PROP(Trace, WhatIsWrittenReadsTheSame, ()) {
    const std::uint64_t page = *rc::gen::element<std::uint64_t>(4096, 16384, 65536);
    std::string text = trace_head(page, 0xffff000000000000, true);
    std::vector<TraceEvent> events;
    std::uint64_t now = 0;
    const auto count = *rc::gen::inRange(1, 20);
    for (int i = 0; i < count; ++i) {
        TraceEvent event;
        event.nanoseconds = now += *rc::gen::inRange<std::uint64_t>(0, 3'000'000'000);
        event.operation = static_cast<TraceOperation>(*rc::gen::inRange(0, 17));
        if (names_memory(event.operation)) {
            event.address = *rc::gen::inRange<std::uint64_t>(0, 1 << 30) * page;
            if (*rc::gen::arbitrary<bool>()) event.address += 0xffff000000000000;
            event.pages = *rc::gen::inRange<std::uint64_t>(1, 1000);
            event.atomic = *rc::gen::arbitrary<bool>();
        }
        if (event.operation == TraceOperation::note) event.text = "a note";
        events.push_back(event);
        text += trace_line(event);
    }
    const ReadTrace again = read(text);
    RC_ASSERT(again.page_bytes == page);
    RC_ASSERT(again.events.size() == events.size());
    for (std::size_t i = 0; i < events.size(); ++i) {
        const auto key = [](const TraceEvent& e) {
            return std::tuple(e.nanoseconds, e.operation, e.address, e.pages, e.atomic, e.text);
        };
        RC_ASSERT(key(again.events[i]) == key(events[i]));
    }
}

// ---- Recorders

TEST(Convert, FunctionArgumentsOfFtraceAreRead) {
    // The function tracer with func-args, by the kernel and by trace-cmd report; the graph tracer with funcgraph-args.
    const ReadTrace trace = convert(
        "# tracer: function\n"
        "#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n"
        "        modprobe-1234    [001] .....   100.000001: set_memory_ro(addr=0xffff888012345000, numpages=4) "
        "<-module_enable_text_rox\n"
        "        modprobe-1234    [001]   100.000002: function:             set_memory_x(addr=0xffff888012345000, "
        "numpages=4) <-module_enable_text_rox\n"
        " 100.000003 |   1)   2.345 us    |  set_memory_nx(addr=0xffff888012345000, numpages=4);\n"
        "        modprobe-1234    [001]   100.000004: funcgraph_entry:        2.345 us   |  "
        "set_memory_rw(addr=0xffff888012345000, numpages=4);\n"
        " 100.000005 |   1)               |  set_memory_decrypted(addr=0xffff888000200000, numpages=512) {\n"
        " 100.000006 |   1)               |  } /* set_memory_decrypted */\n"
        "             kvm-99      [000] .....   100.000007: __set_memory_enc_dec <-set_memory_encrypted\n");
    EXPECT_THAT(trace.lines(), ElementsAre("100.000001 ro 0xffff888012345000 4", "100.000002 x 0xffff888012345000 4",
                                           "100.000003 nx 0xffff888012345000 4", "100.000004 rw 0xffff888012345000 4",
                                           "100.000005 shared 0xffff888000200000 512"));
    EXPECT_THAT(trace.remarks.skipped, IsEmpty());
    EXPECT_FALSE(trace.remarks.partial);
}

TEST(Convert, EventsOfKprobesAreRead) {
    const ReadTrace trace =
        convert("        modprobe-1234    [001] .....   100.000001: set_memory_ro: (set_memory_ro+0x0/0x40) "
                "addr=0xffff888012345000 numpages=4\n"
                "        modprobe-1234    [001] .....   100.000002: p_set_memory_rw_0: (set_memory_rw+0x0/0x40) "
                "arg1=0xffff888012345000 arg2=0x4\n"
                "        modprobe-1234    [001] .....   100.000003: r_set_memory_rw_0: (module_enable_ro+0x12/0x80 <- "
                "set_memory_rw) arg1=0x0\n"
                // As trace-cmd prints it where it doesn't know the symbols.
                "        modprobe-1234    [001]         100.000004: set_memory_x:         (ffffffff81347d40) "
                "addr=0xffff888012345000 numpages=4\n");
    EXPECT_THAT(trace.lines(), ElementsAre("100.000001 ro 0xffff888012345000 4", "100.000002 rw 0xffff888012345000 4",
                                           "100.000004 x 0xffff888012345000 4"));
}

TEST(Convert, StructPagesBecomeThePagesThatTheyDescribe) {
    const std::string text = " 1.000001 |  0)  0.2 us  |  set_direct_map_invalid_noflush(page=0xffffea0000488d40);\n"
                             " 1.000002 |  0)  0.2 us  |  set_direct_map_default_noflush(page=0xffffea0000488d40);\n"
                             " 1.000003 |  0)  0.2 us  |  set_direct_map_valid_noflush(page=0xffffea0000488d40, nr=2, "
                             "valid=0x0);\n"
                             " 1.000004 |  0)  0.2 us  |  __kernel_map_pages(page=0xffffea0000488d40, numpages=8, "
                             "enable=1);\n";
    ConvertOptions options;
    options.vmemmap = 0xffffea0000000000;
    // 0x488d40 / 64 is page frame 0x12235.
    EXPECT_THAT(convert(text, RecorderFormat::ftrace, options).lines(),
                ElementsAre("1.000001 invalid 0x12235000 1", "1.000002 default 0x12235000 1",
                            "1.000003 invalid 0x12235000 2", "1.000004 valid 0x12235000 8"));
    options.page_bytes = 65536;
    EXPECT_THAT(convert(text, RecorderFormat::ftrace, options).lines()[0], "1.000001 invalid 0x122350000 1");
    EXPECT_THAT(convert(text).remarks.skipped,
                ElementsAre(Pair("calls that name a struct page (--vmemmap tells which page that is)", 4)));
}

TEST(Convert, EveryFunctionThatChangesPermissionsIsKnown) {
    const std::string call = "(addr=0xffff888012345000, numpages=4, enable=0, page=0xffffea0000488d40, nr=2, valid=1)";
    const std::vector<std::pair<std::string, std::string>> expected = {
        {"set_memory_ro", "ro 0xffff888012345000 4"},
        {"set_memory_rw", "rw 0xffff888012345000 4"},
        {"set_memory_x", "x 0xffff888012345000 4"},
        {"set_memory_nx", "nx 0xffff888012345000 4"},
        {"set_memory_rox", "rox 0xffff888012345000 4"},
        {"set_memory_rw_nx", "rwnx 0xffff888012345000 4"},
        {"set_memory_4k", "pin 0xffff888012345000 4"},
        {"set_memory_np", "invalid 0xffff888012345000 4"},
        {"set_memory_p", "valid 0xffff888012345000 4"},
        {"set_memory_valid", "invalid 0xffff888012345000 4"},
        {"set_memory_decrypted", "shared 0xffff888012345000 4"},
        {"set_memory_encrypted", "private 0xffff888012345000 4"},
        {"set_direct_map_invalid_noflush", "invalid 0x12235000 1"},
        {"set_direct_map_default_noflush", "default 0x12235000 1"},
        {"set_direct_map_valid_noflush", "valid 0x12235000 2"},
        {"__kernel_map_pages", "invalid 0x12235000 4"},
    };
    ConvertOptions options;
    options.vmemmap = 0xffffea0000000000;
    for (const auto& [function, event] : expected) {
        const ReadTrace trace = convert(fmt::format(" 1.000001 |  0)  0.2 us  |  {}{};\n", function, call),
                                        RecorderFormat::ftrace, options);
        EXPECT_THAT(trace.lines(), ElementsAre("1.000001 " + event)) << function;
    }
    EXPECT_EQ(converted_functions().size(), expected.size());
}

TEST(Convert, ChangesOfMemoryTypeAreCountedAndNotConverted) {
    const ReadTrace trace =
        convert("  Xorg-12  [000] .....  1.000001: set_memory_wc(addr=0xffff888012345000, numpages=4) <-f\n"
                "  Xorg-12  [000] .....  1.000002: set_memory_uc(addr=0xffff888012345000, numpages=4) <-f\n"
                "  Xorg-12  [000] .....  1.000003: set_memory_wb(addr=0xffff888012345000, numpages=4) <-f\n"
                "  Xorg-12  [000] .....  1.000004: _set_memory_wb(addr=0xffff888012345000, numpages=4) <-f\n");
    EXPECT_THAT(trace.events, IsEmpty());
    EXPECT_THAT(trace.remarks.skipped,
                ElementsAre(Pair("calls that change a memory type, which traces don't have", 3)));
}

TEST(Convert, LinesOfTheBpftraceScriptAreRead) {
    ConvertOptions options;
    options.vmemmap = 0xffffea0000000000;
    const ReadTrace trace = convert("Attaching 9 probes...\n"
                                    "directmap 1000000 ro va=0xffff888012345000 count=4 by=modprobe\n"
                                    "directmap 1000500 invalid page=0xffffea0000488d40 count=1 by=key agent\n"
                                    "directmap 2000000000 default pfn=0x12235 count=1 by=\n"
                                    "\n"
                                    "@operation[1]: ro\n",
                                    RecorderFormat::bpftrace, options);
    EXPECT_THAT(trace.lines(), ElementsAre("0.001 ro 0xffff888012345000 4", "0.001000500 invalid 0x12235000 1",
                                           "2.000 default 0x12235000 1"));
}

TEST(Convert, WhatTheRecorderLostMakesItPartial) {
    const std::string call = " 1.000001 |  0)  0.2 us  |  set_memory_ro(addr=0xffff888012345000, numpages=1);\n";
    EXPECT_EQ(convert(call + "CPU:1 [LOST 12 EVENTS]\n" + call).remarks.partial_reason,
              "the recorder lost events before line 2");
    EXPECT_EQ(
        convert("directmap 1 ro pfn=0x1 count=1\nLost 5 events\n", RecorderFormat::bpftrace).remarks.partial_reason,
        "the recorder lost events before line 2");
    const ReadTrace cut = convert(call + " 1.000002 |  0)  0.2 us  |  set_memory_ro(addr=0xffff8880123");
    EXPECT_EQ(cut.remarks.partial_reason, "line 2 is cut off");
    EXPECT_THAT(cut.remarks.skipped, ElementsAre(Pair("lines that could not be read", 1)));
    const ReadTrace mixed = convert(call + " set_memory_ro(addr=0xff, num 12)\n" + call);
    EXPECT_EQ(mixed.events.size(), 2u);
    EXPECT_THAT(mixed.remarks.partial_reason, HasSubstr("line 2: set_memory_ro needs addr, numpages"));
}

TEST(Convert, CallsThatSayTooLittleAreCounted) {
    const ReadTrace trace = convert("  modprobe-12  [000] .....  1.000001: set_memory_ro <-module_enable_ro\n"
                                    " 0)  0.2 us  |  set_memory_rw();\n"
                                    " 0)  0.2 us  |  set_memory_ro(addr=0xffff888012345000, numpages=1);\n"
                                    " 0)  0.2 us  |  set_memory_rw(addr=0xffff888012345000, numpages=1);\n");
    EXPECT_THAT(trace.remarks.skipped,
                ElementsAre(Pair("calls without arguments (echo 1 > options/func-args, or options/funcgraph-args)", 2),
                            Pair("times that were missing (1 ms after the line before)", 2)));
    EXPECT_THAT(trace.lines(), ElementsAre("0.001 ro 0xffff888012345000 1", "0.002 rw 0xffff888012345000 1"));
}

TEST(Convert, ATextWithoutAnyCallSaysWhatWasExpected) {
    EXPECT_THAT(error_of([] { (void)convert("hello\nworld\n"); }),
                AllOf(HasSubstr("FILE: none of its 2 lines is a call of set_memory_*"), HasSubstr("docs/replay.md")));
    EXPECT_THAT(error_of([] { (void)convert("hello\n", RecorderFormat::bpftrace); }),
                HasSubstr("FILE: none of its 1 line is of record.bt"));
}

TEST(Convert, TimesThatStepBackAreHeld) {
    const ReadTrace trace =
        convert(" 2.000002 |  0)  0.2 us  |  set_memory_ro(addr=0xffff888012345000, numpages=1);\n"
                " 2.000001 |  1)  0.2 us  |  set_memory_rw(addr=0xffff888012345000, numpages=1);\n");
    EXPECT_EQ(trace.events[1].nanoseconds, trace.events[0].nanoseconds);
}

TEST(ConvertCommand, PrintsATraceThatReplayReads) {
    const Outcome outcome =
        shell("printf ' 1.000001 |  0)  0.2 us  |  set_memory_ro(addr=0xffff888012345000, numpages=1);\n' | $D "
              "convert-trace - --offset 0xffff888000000000 2>&1");
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_THAT(outcome.output,
                AllOf(HasSubstr("directmap.trace/1\npage 4K\noffset 0xffff888000000000\n"),
                      HasSubstr("1.000001 ro 0xffff888012345000 1\n"), HasSubstr("directmap: 1 change of 1 line\n")));
    const Outcome unusable = shell("echo nothing | $D convert-trace - 2>/dev/null");
    EXPECT_EQ(unusable.exit_code, 2);
    EXPECT_EQ(unusable.output, ""); // no half of a trace
    EXPECT_THAT(shell("echo 'set_memory_wc(addr=0xffff888012345000, numpages=1)' | $D convert-trace - 2>&1").output,
                HasSubstr("not converted: calls that change a memory type, which traces don't have: 1\n"));
    EXPECT_THAT(shell("$D convert-trace /nonexistent 2>&1").output,
                HasSubstr("directmap: /nonexistent: No such file or directory"));
}

/// The functions that a script for bpftrace asks for.
std::set<std::string> probes_of(const std::string& script, const std::string& kind) {
    std::set<std::string> functions;
    const std::regex probe("(^|\n)" + kind + ":(\\w+)");
    for (auto at = std::sregex_iterator(script.begin(), script.end(), probe); at != std::sregex_iterator(); ++at)
        functions.insert((*at)[2]);
    return functions;
}

/// What a script for bpftrace prints, a line for each printf of it, with `word` where it has %s for the operation.
std::string lines_of(const std::string& script) {
    std::string lines;
    std::istringstream stream(script);
    for (std::string line; std::getline(stream, line);) {
        const std::size_t start = line.find("printf(\"");
        if (start == std::string::npos) continue;
        std::string format = line.substr(start + 8, line.find("\\n\"") - start - 8);
        for (const auto& [from, to] :
             std::vector<std::pair<std::string, std::string>>{{"%llu", "123"},
                                                              {"0x%llx", "0xffffea0000488d40"},
                                                              {"%d", "4"},
                                                              {"directmap 123 %s", "directmap 123 ro"},
                                                              {"%s", "modprobe"}}) {
            for (std::size_t at = format.find(from); at != std::string::npos; at = format.find(from, at + to.size()))
                format.replace(at, from.size(), to);
        }
        lines += format + '\n';
    }
    return lines;
}

TEST(ConvertCommand, PrintsTheScriptThatRecords) {
    const Outcome outcome = shell("$D convert-trace --script");
    EXPECT_EQ(outcome.exit_code, 0);
    // What it prints is what the converter reads, word for word: the format strings, filled in.
    const std::string lines = lines_of(outcome.output);
    ConvertOptions options;
    options.vmemmap = 0xffffea0000000000;
    const ReadTrace trace = convert(lines, RecorderFormat::bpftrace, options);
    EXPECT_EQ(trace.events.size(), 16u) << lines;
    EXPECT_THAT(trace.remarks.skipped, IsEmpty());
    EXPECT_FALSE(trace.remarks.partial) << trace.remarks.partial_reason;
}

TEST(ConvertCommand, TheScriptRecordsEveryFunctionThatTheConverterKnows) {
    const std::string script = shell("$D convert-trace --script").output;
    std::set<std::string> known;
    for (const std::string_view name : converted_functions()) known.emplace(name);
    EXPECT_EQ(probes_of(script, "kprobe"), known);
    // What a call has noted for others is forgotten when it returns.
    for (const std::string& function : probes_of(script, "kretprobe"))
        EXPECT_TRUE(known.contains(function) || function == "find_vm_area") << function;
}

TEST(ConvertCommand, TheScriptSaysOfEachFunctionWhatTheConverterWouldSay) {
    const std::string script = shell("$D convert-trace --script").output;
    const std::regex probe("\nkprobe:(\\w+)\\n(?:/.*/\\n)?\\{\\n\\s*printf\\(\"directmap %llu (\\w+) (\\w+)=0x%llx");
    std::size_t found = 0;
    for (auto at = std::sregex_iterator(script.begin(), script.end(), probe); at != std::sregex_iterator(); ++at) {
        ++found;
        ConvertOptions options;
        options.vmemmap = 0xffffea0000000000;
        const std::string call = (*at)[1].str() + "(addr=0xffff888012345000, page=0xffffea0000488d40, numpages=4)";
        const ReadTrace trace = convert(" 1.000001 |  0)  0.2 us  |  " + call + ";\n", RecorderFormat::ftrace, options);
        ASSERT_EQ(trace.events.size(), 1u) << call;
        EXPECT_EQ(operation_name(trace.events[0].operation), (*at)[2].str()) << call;
        EXPECT_EQ(is_virtual(trace.events[0].address), (*at)[3] == "va") << call;
    }
    EXPECT_EQ(found, 13u); // all but the three that tell by an argument
}

TEST(ConvertCommand, TheScriptForAKernelHasNoFunctionThatTheKernelLacks) {
    const std::string all = shell("$D convert-trace --script").output;
    const std::string symbols = "printf 'ffffffff81347d40 T set_memory_ro\\nffffffff81347d41 t find_vm_area\\n"
                                "0000000000000000 T __kernel_map_pages\\nffffffffc0000000 t helper\\t[module]\\n' | ";
    const Outcome outcome = shell(symbols + "$D convert-trace --script --symbols - 2>/dev/null");
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_THAT(probes_of(outcome.output, "kprobe"), ElementsAre("__kernel_map_pages", "set_memory_ro"));
    EXPECT_THAT(probes_of(outcome.output, "kretprobe"),
                ElementsAre("__kernel_map_pages", "find_vm_area", "set_memory_ro"));
    EXPECT_THAT(lines_of(outcome.output), HasSubstr("count=4 by=modprobe\n"));
    EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '{'),
              std::count(outcome.output.begin(), outcome.output.end(), '}'));
    EXPECT_THAT(outcome.output, HasSubstr("\nEND\n{\n"));
    EXPECT_THAT(
        shell(symbols + "$D convert-trace --script --symbols - 2>&1 >/dev/null").output,
        AllOf(
            HasSubstr("directmap: left out, since standard input doesn't have them: set_direct_map_default_noflush, "),
            Not(HasSubstr("set_memory_ro,"))));
    // A kernel that has everything gets everything.
    std::string rich;
    for (const std::string_view name : converted_functions()) rich += fmt::format("0 T {}\\n", name);
    const Outcome whole =
        shell("printf '" + rich + "0 T find_vm_area\\n' | $D convert-trace --script --symbols - 2>&1");
    EXPECT_EQ(whole.output, all);
    EXPECT_THAT(shell("echo nothing | $D convert-trace --script --symbols - 2>&1").output,
                HasSubstr("directmap: standard input:1: expected a line of /proc/kallsyms"));
    EXPECT_THAT(shell("$D convert-trace --script --symbols /dev/null 2>&1").output,
                HasSubstr("/dev/null: it is empty"));
    EXPECT_THAT(shell("$D convert-trace --symbols /dev/null x 2>&1").output,
                HasSubstr("--symbols: it is for --script"));
}

TEST(ConvertCommand, BpftraceUnderstandsTheScript) {
    if (shell("command -v bpftrace && test \"$(id -u)\" = 0 && test -r /sys/kernel/btf/vmlinux").exit_code != 0)
        GTEST_SKIP() << "needs bpftrace, root and a kernel with BTF";
    // -d: nothing is attached to.
    const Outcome outcome = shell("$D convert-trace --script > \"${TMPDIR:-/tmp}/directmap-record-$$.bt\"; "
                                  "bpftrace -d \"${TMPDIR:-/tmp}/directmap-record-$$.bt\" 2>&1; code=$?; "
                                  "rm -f \"${TMPDIR:-/tmp}/directmap-record-$$.bt\"; exit $code");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output.substr(0, 2000);
}

} // namespace

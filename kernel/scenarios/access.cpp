#include "scenarios/access.hpp"

#include "cpu/barriers.hpp"
#include "cpu/cpu.hpp"

namespace directmap::kernel {

namespace {

// A prepared page: a word for each CPU's stores, then the same function over and over.
constexpr std::uint64_t scratch_step = 8;
constexpr std::uint64_t functions_offset = 512;         // away from the scratch words' cache lines
constexpr std::uint64_t function = 0xd65f03c0'52800540; // mov w0, #42; ret
constexpr std::uint64_t function_result = 42;
constexpr std::uint64_t functions_in_page = (page_size - functions_offset) / sizeof(function);

/// Which of them a CPU calls next. Each fetch goes to a place that the CPU hasn't fetched from lately: an emulator
/// remembers the code that it has translated by its address, and QEMU 7.2 forgets that only for the very page that an
/// invalidation names, not for the block around it. Its TLB, which is what is tried here, knows pages and not places.
constinit std::uint64_t functions_called[max_cpus] = {};

enum class Access : std::uint8_t { load, store, fetch };

const char* name_of(Access access) {
    switch (access) {
    case Access::load: return "load from";
    case Access::store: return "store to";
    case Access::fetch: return "instruction fetch from";
    }
    return "";
}

bool allowed(Access access, Attributes attributes) {
    if (!attributes.valid()) return false;
    switch (access) {
    case Access::load: return true;
    case Access::store: return attributes.writable();
    case Access::fetch: return attributes.executable();
    }
    return false;
}

/// Whether the syndrome tells of this access and of no other.
bool matches(Access access, Syndrome syndrome) {
    switch (access) {
    case Access::load: return syndrome.data_abort() && !syndrome.write();
    case Access::store: return syndrome.data_abort() && syndrome.write();
    case Access::fetch: return syndrome.instruction_abort();
    }
    return false;
}

void check_fault(Stage& stage, Access access, std::uint64_t va, Attributes attributes, Surroundings surroundings,
                 const ProbeResult& result) {
    const FaultKind wanted = attributes.valid() ? FaultKind::permission : FaultKind::translation;
    const auto leaf = stage.map.translate(stage.map.phys(VirtAddr{va}));
    const bool right_level = surroundings == Surroundings::changing ||
                             (leaf.ok() && result.syndrome.level() == static_cast<unsigned>(leaf.value().leaf.level));
    const bool right =
        right_level && result.syndrome.fault() == wanted && matches(access, result.syndrome) && result.address == va;
    if (right) {
        stage.tally.count_fault();
        return;
    }
    TextBuffer<96> text;
    result.syndrome.describe(text.sink());
    fail("{} {} on CPU {} faulted as expected, but wrongly: {}, address {}", name_of(access), Hex{va}, this_cpu().index,
         text.view(), Hex{result.address});
}

void check_one(Stage& stage, Access access, std::uint64_t va, Attributes attributes, Surroundings surroundings) {
    const std::uint64_t token = Random::mix(va + this_cpu().index);
    ProbeResult result;
    switch (access) {
    case Access::load: result = probe_load(va); break;
    case Access::store: result = probe_store(va, token); break;
    case Access::fetch: result = probe_fetch(va); break;
    }
    const bool may = allowed(access, attributes);
    if (result.faulted && !may) {
        check_fault(stage, access, va, attributes, surroundings, result);
        return;
    }
    if (result.faulted) {
        TextBuffer<96> text;
        result.syndrome.describe(text.sink());
        fail("{} {} on CPU {} must work, but: {}", name_of(access), Hex{va}, this_cpu().index, text.view());
    }
    if (!may) fail("{} {} on CPU {} must fault, but worked", name_of(access), Hex{va}, this_cpu().index);
    if (access == Access::fetch && result.value != function_result)
        fail("the function at {} returned {}", Hex{va}, result.value);
    if (access == Access::store && *reinterpret_cast<const volatile std::uint64_t*>(va) != token) {
        fail("a store to {} on CPU {} got lost", Hex{va}, this_cpu().index);
    }
    stage.tally.count_access();
}

} // namespace

void prepare_page_for_access(const Stage& stage, PhysAddr page) {
    const std::uint64_t start = stage.va(page) + functions_offset, end = stage.va(page) + page_size;
    for (std::uint64_t at = start; at < end; at += sizeof(function))
        *reinterpret_cast<volatile std::uint64_t*>(at) = function;
    // New instructions: out of the data cache, then out of every CPU's instruction cache (Arm ARM B2.4.4).
    const std::uint64_t line = std::uint64_t{4} << (read_ctr_el0() >> 16 & 0xf);
    for (std::uint64_t at = start; at < end; at += line) asm volatile("dc cvau, %0" ::"r"(at) : "memory");
    asm volatile("dsb ish\n\tic ialluis\n\tdsb ish\n\tisb" ::: "memory");
}

void check_access(Stage& stage, PhysAddr page, Attributes attributes, Surroundings surroundings) {
    const unsigned cpu = this_cpu().index;
    const std::uint64_t va = stage.va(page), scratch = va + cpu * scratch_step;
    const std::uint64_t slot = functions_called[cpu]++ % functions_in_page;
    check_one(stage, Access::load, scratch, attributes, surroundings);
    check_one(stage, Access::store, scratch, attributes, surroundings);
    check_one(stage, Access::fetch, va + functions_offset + slot * sizeof(function), attributes, surroundings);
}

void check_attributes(Stage& stage, PhysRange range, Attributes attributes) {
    for (PhysAddr page = range.start; page < range.end(); page = page + page_size) {
        const auto found = stage.map.translate(page);
        require(found, "translating a page of the arena");
        if (found.value().pa != page || found.value().attributes.with_fixed(false) != attributes) {
            fail("the page at {} doesn't have the attributes that it was given", Hex{page.value()});
        }
    }
}

} // namespace directmap::kernel

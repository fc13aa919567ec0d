// Ranges that are no ranges of the map: a typed error, and nothing changed.
#include "memory/image.hpp"
#include "scenarios/access.hpp"
#include "scenarios/spots.hpp"

namespace directmap::kernel {

namespace {

/// Where a CPU can't tolerate it, a change that needs a resize is refused and one that doesn't works. To change a whole
/// contiguous group is to resize it, for a moment.
void try_closed_gate(Stage& stage) {
    KernelMap& map = stage.map;
    const Change change = Change{}.writable(false);
    bool tried[2] = {}; // blocks, contiguous groups
    map.walk(map.span(), [&](const Leaf& leaf) {
        const bool large = leaf.mapped && !leaf.attributes.fixed() && leaf.range.size != page_size;
        if (!large || tried[leaf.contiguous ? 1 : 0] || leaf.range.overlaps(memory.tables.range())) return true;
        tried[leaf.contiguous ? 1 : 0] = true;
        require_error(map.protect({leaf.range.start, page_size}, change), ErrorCode::unsupported,
                      "a split that a CPU can't tolerate");
        require_error(map.collapse(leaf.range), ErrorCode::unsupported, "a collapse that a CPU can't tolerate");
        if (leaf.contiguous) {
            require_error(map.protect(leaf.range, change), ErrorCode::unsupported,
                          "opening a group that a CPU can't tolerate");
        } else {
            require(map.protect(leaf.range, change), "changing a whole block");
            require(map.protect(leaf.range, Change{}.writable(true)), "restoring a whole block");
        }
        stage.tally.changes += 4;
        return !tried[0] || !tried[1];
    });
}

} // namespace

void play_errors(Stage& stage) {
    KernelMap& map = stage.map;
    const PhysRange span = map.span();
    const PhysAddr page = stage.arena.start;
    const Change change = Change{}.writable(false);
    const auto refused = [&](PhysRange range, ErrorCode code, const char* what) {
        require_error(map.protect(range, change), code, what);
        require_error(map.protect_deferred(range, change), code, what);
        require_error(map.prepare(range), code, what);
        stage.tally.changes += 3;
    };
    constexpr ErrorCode invalid = ErrorCode::invalid_argument;
    refused({page, 0}, invalid, "an empty range");
    refused({page + 8, page_size}, invalid, "a misaligned start");
    refused({page, page_size - 8}, invalid, "a misaligned size");
    refused({page, align_down(~std::uint64_t{0}, page_size)}, invalid, "a range that wraps around");
    refused({span.end(), page_size}, invalid, "a page behind RAM");
    refused({span.start - page_size, page_size}, invalid, "a page before RAM");
    refused({span.end() - page_size, 2 * page_size}, invalid, "a range that ends behind RAM");
    require_error(map.translate(span.end()), invalid, "translating behind RAM");

    // Holes: memory that must not be mapped, and what lies between two banks.
    const auto try_hole = [&](PhysRange hole) {
        const PhysRange inside{PhysAddr{align_up(hole.start.value(), page_size)}, page_size};
        if (inside.start < span.start || span.end() <= inside.start || hole.end() < inside.end()) return;
        require_error(map.protect(inside, change), ErrorCode::not_mapped, "a hole");
        require_error(map.translate(inside.start), ErrorCode::not_mapped, "translating a hole");
        if (!probe_load(stage.va(inside.start)).faulted)
            fail("memory that must not be mapped can be read at {}", Hex{inside.start.value()});
        stage.tally.count_fault();
    };
    for (const PhysRange& no_map : stage.machine.information.no_map) try_hole(no_map);
    const auto& banks = stage.machine.information.memory;
    for (std::size_t i = 1; i < banks.size(); ++i) {
        try_hole(phys_range(banks[i - 1].end().value(), banks[i].start.value()));
    }

    // The kernel's own image: read-only in the map, from its first page to its last, and it stays as it is.
    for (const PhysAddr page_of_image : {image_pa, image_pa + (align_up(image_size(), page_size) - page_size)}) {
        const ProbeResult store = probe_store(stage.va(page_of_image), 0);
        if (!store.faulted) fail("the image can be written through the direct map");
        if (store.syndrome.fault() != FaultKind::permission)
            fail("the image is not mapped read-only in the direct map");
        stage.tally.count_fault();
    }
    require_error(map.protect({image_pa + page_size, page_size}, Change{}.valid(false)), ErrorCode::unsupported,
                  "resizing the image's leaf");

    if (map.gate_mode() == Gate::Mode::closed) try_closed_gate(stage);
    check_attributes(stage, {page, 4 * page_size}, Attributes{});
}

} // namespace directmap::kernel

// Random changes of random ranges, from a seed that is printed; after each the account must be right, and at the end
// every byte of the memory that was changed must still be there.
#include "scenarios/access.hpp"
#include "scenarios/crew.hpp"
#include "scenarios/spots.hpp"

namespace directmap::kernel {

namespace {

constexpr std::uint64_t window_bytes = std::uint64_t{4} << 20;
constexpr unsigned window_pages = window_bytes / page_size;
constexpr unsigned max_windows = 8;

/// A part of RAM with a record, page by page, of what its attributes ought to be.
struct Window {
    PhysRange range;
    Attributes wanted[window_pages];

    [[nodiscard]] PhysAddr page(unsigned i) const { return range.start + i * page_size; }
};
Window windows[max_windows];
unsigned window_count;

/// The content of a page's words: checked at the end.
std::uint64_t content(PhysAddr word) {
    return Random::mix(word.value() + 0x5eed);
}
constexpr std::uint64_t content_stride = 512;

void choose_windows(Stage& stage) {
    window_count = 0;
    for (unsigned attempt = 0; attempt < 4 * max_windows && window_count < max_windows; ++attempt) {
        const std::uint64_t room = stage.arena.size / window_bytes;
        if (room < 2) break;
        const PhysRange range{
            PhysAddr{align_up(stage.arena.start.value() + stage.random.below(room - 1) * window_bytes, window_bytes)},
            window_bytes};
        bool usable = range.start >= stage.arena.start && range.end() <= stage.arena.end();
        for (unsigned i = 0; i < window_count; ++i) usable = usable && !windows[i].range.overlaps(range);
        if (!usable) continue;
        Window& window = windows[window_count++];
        window.range = range;
        for (unsigned i = 0; i < window_pages; ++i) {
            window.wanted[i] = Attributes{};
            for (std::uint64_t offset = 0; offset < page_size; offset += content_stride) {
                *reinterpret_cast<volatile std::uint64_t*>(stage.va(window.page(i) + offset)) =
                    content(window.page(i) + offset);
            }
        }
    }
}

Change random_change(Random& random) {
    switch (random.below(7)) {
    case 0: return Change{}.writable(false);
    case 1: return Change{}.writable(true);
    case 2: return Change{}.executable(true);
    case 3: return Change{}.executable(false);
    case 4: return Change{}.valid(false);
    case 5: return Change{}.valid(true);
    default: return Change{}.writable(true).executable(false).valid(true);
    }
}

void change_something(Stage& stage, Window& window) {
    Random& random = stage.random;
    const auto first = static_cast<unsigned>(random.below(window_pages));
    const unsigned most = random.one_in(8) ? window_pages : 24;
    auto count = static_cast<unsigned>(1 + random.below(most));
    if (count > window_pages - first) count = window_pages - first;
    const PhysRange range{window.page(first), count * page_size};
    const Change change = random_change(random);
    if (random.one_in(4)) {
        auto owed = stage.map.protect_deferred(range, change);
        require(owed, "a random change, deferred");
        owed.value().complete();
    } else {
        require(stage.map.protect(range, change), "a random change");
    }
    for (unsigned i = first; i < first + count; ++i) window.wanted[i] = change.apply_to(window.wanted[i]);
    stage.tally.count_change();
    if (stage.can_resize() && random.one_in(3)) {
        require(stage.map.collapse(random.one_in(2) ? range : window.range), "a random collapse");
        if (random.one_in(2)) static_cast<void>(stage.map.reclaim());
    }
}

void check_window(Stage& stage, const Window& window) {
    for (unsigned i = 0; i < window_pages; ++i) check_attributes(stage, {window.page(i), page_size}, window.wanted[i]);
}

/// Loads and stores of what the record says, without disturbing the contents.
void try_page(Stage& stage, PhysAddr page, Attributes attributes) {
    const std::uint64_t va = stage.va(page);
    const ProbeResult load = probe_load(va);
    if (load.faulted == attributes.valid()) fail("a load from {} {}", Hex{va}, load.faulted ? "faulted" : "worked");
    if (!load.faulted && load.value != content(page)) fail("{} holds {}", Hex{va}, Hex{load.value});
    // Everybody stores the same.
    const ProbeResult store = probe_store(va, content(page));
    if (store.faulted == (attributes.valid() && attributes.writable()))
        fail("a store to {} {}", Hex{va}, store.faulted ? "faulted" : "worked");
    load.faulted ? stage.tally.count_fault() : stage.tally.count_access();
    store.faulted ? stage.tally.count_fault() : stage.tally.count_access();
}

void check_contents(Stage& stage, const Window& window) {
    for (PhysAddr word = window.range.start; word < window.range.end(); word = word + content_stride) {
        const std::uint64_t found = *reinterpret_cast<const volatile std::uint64_t*>(stage.va(word));
        if (found != content(word))
            fail("after the soak {} holds {} instead of {}", Hex{stage.va(word)}, Hex{found}, Hex{content(word)});
    }
}

} // namespace

void play_soak(Stage& stage) {
    choose_windows(stage);
    if (window_count == 0) return;
    const std::uint64_t bytes = stage.map.statistics().bytes;
    {
        Field field{stage};
        for (unsigned i = 0; i < window_count; ++i) { // next door to each window, unless that is another window
            for (const PhysAddr page : {windows[i].range.start - page_size, windows[i].range.end()}) {
                bool free = true;
                for (unsigned k = 0; k < window_count; ++k) free = free && !windows[k].range.contains(page);
                if (free) field.add(page);
            }
        }
        Crew crew{field};
        const std::uint64_t rounds = stage.rounds(400);
        for (std::uint64_t round = 0; round < rounds; ++round) {
            Window& window = windows[stage.random.below(window_count)];
            change_something(stage, window);
            if (stage.map.statistics().bytes != bytes)
                fail("the account says {} bytes instead of {}", stage.map.statistics().bytes, bytes);
            const auto i = static_cast<unsigned>(stage.random.below(window_pages));
            if (round % 8 == 0) crew.everyone([&](unsigned) { try_page(stage, window.page(i), window.wanted[i]); });
            if (round % 32 == 0) check_window(stage, window);
            if (round % 4 == 0) crew.tend_alone();
        }
    }
    for (unsigned i = 0; i < window_count; ++i) {
        const Window& window = windows[i];
        check_window(stage, window);
        require(stage.map.protect(window.range, Change{}.writable(true).executable(false).valid(true)),
                "restoring a window");
        heal(stage, window.range);
        check_contents(stage, window);
    }
}

} // namespace directmap::kernel

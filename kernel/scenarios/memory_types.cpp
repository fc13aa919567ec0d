// Changes that must break before they make: memory type. Their range faults in between, so nobody uses it meanwhile;
// its neighbours must not notice.
#include "scenarios/crew.hpp"
#include "scenarios/spots.hpp"

namespace directmap::kernel {

namespace {

/// Data of one memory type must not linger in a cache when it is read through another.
void clean_page(std::uint64_t va) {
    const std::uint64_t line = std::uint64_t{4} << (read_ctr_el0() >> 16 & 0xf);
    for (std::uint64_t at = va; at < va + page_size; at += line) asm volatile("dc civac, %0" ::"r"(at) : "memory");
    asm volatile("dsb sy" ::: "memory");
}

volatile std::uint64_t& word_in(Stage& stage, PhysAddr page) {
    return *reinterpret_cast<volatile std::uint64_t*>(stage.va(page) + 8);
}

void change_type(Stage& stage, Crew& crew, PhysRange target, MemoryType type) {
    const PhysAddr pages[] = {target.start, target.end() - page_size};
    for (const PhysAddr page : pages) {
        word_in(stage, page) = Random::mix(page.value());
        clean_page(stage.va(page));
    }
    require(stage.map.protect(target, Change{}.memory_type(type)), "changing the memory type");
    stage.tally.count_change();
    crew.everyone([&](unsigned) {
        for (const PhysAddr page : pages) {
            const auto leaf = stage.map.translate(page);
            require(leaf, "translating");
            if (leaf.value().attributes.memory_type() != type)
                fail("the memory type at {} didn't change", Hex{page.value()});
            if (word_in(stage, page) != Random::mix(page.value())) fail("{} lost its contents", Hex{page.value()});
            stage.tally.count_access();
        }
    });
    for (const PhysAddr page : pages) clean_page(stage.va(page));
}

} // namespace

void play_memory_types(Stage& stage) {
    for_each_leaf_size(stage, [&](PhysRange leaf, LeafSize size) {
        const bool small = size.bytes() <= Geometry::bytes(Geometry::last_level - 1);
        const PhysRange targets[] = {{leaf.start, page_size},
                                     {leaf.start + align_down(leaf.size / 2, page_size), page_size},
                                     small ? leaf : PhysRange{leaf.start, page_size}};
        for (const PhysRange& target : targets) {
            Field field{stage};
            field.add_neighbours_of(target);
            Crew crew{field};
            for (std::uint64_t round = 0; round < stage.rounds(4); ++round) {
                change_type(stage, crew, target, MemoryType::normal_noncacheable);
                crew.tend_alone();
                change_type(stage, crew, target, MemoryType::normal);
                crew.tend_alone();
            }
        }
        heal(stage, leaf);
    });
}

} // namespace directmap::kernel

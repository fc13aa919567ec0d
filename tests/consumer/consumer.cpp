// What somebody else's project does with the engine, in each of the ways in which it can be found: brings a platform,
// builds a map, protects a page, heals the map.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "directmap/directmap.hpp"

namespace {

/// Table pages are pages of this process; there is no hardware to tell about changes.
class Platform : public directmap::ExemplarPlatform, public directmap::DefaultTableMemory<> {
public:
    using Memory = directmap::DefaultTableMemory<>;
    using Memory::fill, Memory::load, Memory::store, Memory::summarize, Memory::update, Memory::Table;

    Table table(directmap::PhysAddr pa) { return memory_.data() + pa.value() / sizeof(std::uint64_t); }
    bool take_table(directmap::PhysAddr& pa, bool /*atomic*/) {
        if (used_ == pages) return false;
        pa = directmap::PhysAddr{used_++ * page_size};
        return true;
    }

private:
    static constexpr std::uint64_t page_size = 4096, pages = 16;
    std::vector<std::uint64_t> memory_ = std::vector<std::uint64_t>(pages * page_size / sizeof(std::uint64_t));
    std::uint64_t used_ = 0;
};

} // namespace

int main() {
    using Map = directmap::DirectMap<directmap::arm64::Format4K48, Platform>;
    constexpr std::uint64_t gib = std::uint64_t{1} << 30;

    Platform platform;
    std::vector<Map::RegionState> regions(4);
    Map map{platform, {.offset = 0xffff'0000'0000'0000}, {regions.data(), regions.size()}};

    const directmap::RamRange ram[] = {{{directmap::PhysAddr{4 * gib}, 4 * gib}, {}}};
    const bool built = static_cast<bool>(map.build({ram, {}}, directmap::Mapping::largest));
    const bool admitted = static_cast<bool>(map.admit({.tolerates_live_resize = true}));
    const std::uint64_t large = map.statistics().leaves[0];

    const directmap::PhysRange page{directmap::PhysAddr{5 * gib}, 4096};
    const bool changed = static_cast<bool>(map.set_read_only(page));
    const std::uint64_t split = map.statistics().leaves[0];
    const bool restored = static_cast<bool>(map.set_writable(page)) && static_cast<bool>(map.collapse(page));
    const std::uint64_t healed = map.statistics().leaves[0];

    std::printf("1G leaves: %d built, %d while a page is read-only, %d healed\n", static_cast<int>(large),
                static_cast<int>(split), static_cast<int>(healed));
    return built && admitted && changed && restored && large == 4 && split == 3 && healed == 4 ? 0 : 1;
}

// Loadable code: text, constants and data of a module, somewhere in memory and side by side in an area.
//
//     clients::ModuleArea modules{area, text_pool, data_source, scratch};
//     auto module = modules.load({text, constants, data}, cpu);   // all writable, nothing executable
//     … relocate through module.text.start …
//     modules.seal(module.value());                               // text read-only, then executable
//     modules.unload(module.value(), cpu);                        // needs no memory and can't fail
#pragma once

#include <cstddef>
#include <cstdint>

#include "directmap/area.hpp"
#include "directmap/chunk_pool.hpp"
#include "directmap/reasons.hpp"

namespace directmap::reasons {

inline constexpr Reason no_section{ErrorCode::invalid_argument, "a module without a section"};
inline constexpr Reason not_loaded{ErrorCode::invalid_argument, "the module isn't loaded"};
inline constexpr Reason no_scratch{ErrorCode::no_tables, "the module has more pages than there is scratch for",
                                   Reason::counts_needed};
inline constexpr Reason no_module_data{ErrorCode::no_tables, "no memory for the module's data", Reason::counts_needed};

} // namespace directmap::reasons

namespace directmap::clients {

/// Bytes of a module's sections; each begins on a page of its own, and may be empty.
struct ModuleSizes {
    std::uint64_t text = 0;
    std::uint64_t constants = 0;
    std::uint64_t data = 0;
};

/// A module in memory. A value that its loader keeps.
struct Module {
    enum class State : std::uint8_t { unloaded, loaded, sealed };

    VirtRange all;
    VirtRange text, constants, data;
    State state = State::unloaded;
};

/// `Area` is a directmap::Area; `TextPool` a pool of pages that are read-only in the direct map (`pool_config`), so
/// that the memory of text and constants lies together and no load, seal or unload cuts the direct map. Data comes from
/// `DataSource`, page by page, ordinary memory as it is.
///
/// Each section has leaves of its own, so sealing a module never splits one and can't run out of tables: pages for
/// small sections, larger leaves where a section is large and its memory runs.
template <class AreaType, class TextPool, ChunkSource DataSource>
class ModuleArea {
public:
    using G = typename AreaType::G;
    using P = typename AreaType::PlatformType;
    using Lock = typename P::Lock;

    [[nodiscard]] static typename TextPool::Config pool_config() {
        typename TextPool::Config config;
        config.give = Change{}.writable(false);
        config.restore = Change{}.writable(true);
        return config;
    }

    /// `scratch`: as many ranges as the largest module may have pages, at worst. Loads use it one at a time.
    ModuleArea(AreaType& area, P& platform, TextPool& text, DataSource& data, Span<PhysRange> scratch)
        : area_{area}, platform_{platform}, text_{text}, data_{data}, scratch_{scratch} {}
    ModuleArea(const ModuleArea&) = delete;
    ModuleArea& operator=(const ModuleArea&) = delete;

    /// Memory and addresses for a module: writable through the area, executable nowhere. May sleep. Errors:
    /// invalid_argument (no section), no_tables (memory, tables, addresses or scratch space): nothing is kept then.
    [[nodiscard]] Result<Module> load(ModuleSizes sizes, std::size_t cpu) {
        Module module;
        if (sizes.text + sizes.constants + sizes.data == 0) return Error{reasons::no_section, PhysAddr{}};
        while (!claim_scratch()) platform_.relax();
        auto result = load_into(module, pages(sizes.text), pages(sizes.constants), pages(sizes.data), cpu);
        release_scratch();
        if (!result) return result.error();
        return module;
    }

    /// Ends relocation: text and constants become read-only through every alias, and only when no CPU can write them
    /// any more does text become executable. Errors: invalid_argument (not loaded, or sealed already), and whatever
    /// `protect` of the area says: the module is then as it was, or text and constants are read-only already, through
    /// every alias; nothing of it is executable, and it can only be unloaded, or sealed again.
    [[nodiscard]] Result<void> seal(Module& module) {
        if (module.state != Module::State::loaded)
            return Error{reasons::not_loaded, PhysAddr{module.all.start.value()}};
        const VirtRange fixed{module.text.start, module.text.size + module.constants.size};
        if (fixed.size != 0) {
            if (auto r = area_.protect(fixed, Change{}.writable(false)); !r) return r;
        }
        if (module.text.size != 0) {
            if (auto r = area_.protect(module.text, Change{}.executable(true)); !r) return r;
        }
        module.state = Module::State::sealed;
        return {};
    }

    /// Whatever state it is in: when this returns no CPU can reach the module, and its memory is free. Takes no memory
    /// and can't fail. False if there is no module.
    bool unload(Module& module, std::size_t cpu) {
        if (module.state == Module::State::unloaded) return false;
        const std::uint64_t fixed = module.text.size + module.constants.size;
        std::uint64_t done = 0;
        const bool gone = area_.unmap(module.all, [&](PhysRange piece) {
            for (std::uint64_t at = 0; at < piece.size; at += G::page_size, done += G::page_size) {
                const PhysAddr page = piece.start + at;
                if (done >= fixed) {
                    data_.give_chunk(page, G::page_size);
                } else if (!text_.give(page, cpu)) {
                    __atomic_fetch_add(&lost_pages_, 1, __ATOMIC_RELAXED);
                }
            }
        });
        module = {};
        return gone;
    }

    /// Pages that the pool would not take back (ScatteredPages may fail to restore one): they are not used again.
    [[nodiscard]] std::uint64_t lost_pages() const { return __atomic_load_n(&lost_pages_, __ATOMIC_RELAXED); }

private:
    [[nodiscard]] static std::uint64_t pages(std::uint64_t bytes) { return align_up(bytes, G::page_size); }

    [[nodiscard]] Result<void> load_into(Module& module, std::uint64_t text, std::uint64_t constants,
                                         std::uint64_t data, std::size_t cpu) {
        std::size_t used = 0;
        Span<const PhysRange> sections[3];
        const std::uint64_t sizes[3] = {text, constants, data};
        Result<void> result;
        for (unsigned s = 0; s < 3 && result; ++s) {
            const std::size_t first = used;
            result = collect(sizes[s], s == 2, used, cpu);
            sections[s] = {scratch_.data() + first, used - first};
        }
        if (result) {
            // Writable here, read-only or ordinary in the direct map, executable nowhere.
            auto mapped = area_.map_sections(sections, Attributes{});
            if (mapped) {
                const VirtAddr start = mapped.value().start;
                module = {mapped.value(),
                          {start, text},
                          {start + text, constants},
                          {start + text + constants, data},
                          Module::State::loaded};
                return {};
            }
            result = mapped.error();
        }
        // Everything goes back where it came from.
        std::uint64_t done = 0;
        for (std::size_t i = 0; i < used; ++i) {
            for (std::uint64_t at = 0; at < scratch_[i].size; at += G::page_size, done += G::page_size) {
                const PhysAddr page = scratch_[i].start + at;
                if (done >= text + constants) {
                    data_.give_chunk(page, G::page_size);
                } else if (!text_.give(page, cpu)) {
                    __atomic_fetch_add(&lost_pages_, 1, __ATOMIC_RELAXED);
                }
            }
        }
        return result;
    }

    /// Pages for one section, as runs.
    [[nodiscard]] Result<void> collect(std::uint64_t bytes, bool data, std::size_t& used, std::size_t cpu) {
        const std::size_t first = used;
        for (std::uint64_t got = 0; got < bytes; got += G::page_size) {
            PhysAddr page;
            if (used == scratch_.size() && !data) return Error::needing(reasons::no_scratch, 1);
            if (data) {
                if (used == scratch_.size() || !data_.take_chunk(page, G::page_size))
                    return Error::needing(reasons::no_module_data, 1);
            } else {
                auto taken = text_.take(PageUse::normal, cpu);
                if (!taken) return taken.error();
                page = taken.value();
            }
            if (used != first && scratch_[used - 1].end() == page) {
                scratch_[used - 1].size += G::page_size;
            } else {
                scratch_[used++] = {page, G::page_size};
            }
        }
        return {};
    }

    [[nodiscard]] bool claim_scratch() {
        platform_.acquire(lock_);
        const bool free = !loading_;
        loading_ = true;
        platform_.release(lock_);
        return free;
    }
    void release_scratch() {
        platform_.acquire(lock_);
        loading_ = false;
        platform_.release(lock_);
    }

    AreaType& area_;
    P& platform_;
    TextPool& text_;
    DataSource& data_;
    Span<PhysRange> scratch_;
    Lock lock_{};
    bool loading_ = false;
    std::uint64_t lost_pages_ = 0;
};

} // namespace directmap::clients

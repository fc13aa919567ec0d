// ClientSet for one format and one placement, on a rig.
#pragma once

#include "clients.hpp"

#include <directmap_clients/guard_pages.hpp>
#include <directmap_clients/scattered_pages.hpp>
#include <directmap_clients/secret_memory.hpp>
#include <directmap_clients/shadow_stacks.hpp>
#include <directmap_clients/shared_buffers.hpp>
#include <machine/area_rig.hpp>
#include <machine/protected_rig.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

namespace directmap::tool {

inline constexpr Reason nobodys_page{ErrorCode::invalid_argument, "the page isn't shared"};

/// The direct map of a rig, and somebody who is told what happens to it.
template <class F>
class ToldMap : public machine::RigMap<F, machine::PooledPlatform> {
public:
    using Base = machine::RigMap<F, machine::PooledPlatform>;

    ToldMap(typename Base::RigType& rig, ChangeListener& listener) : Base(rig), listener_(listener) {}

    Result<void> protect(PhysRange range, Change change, ChangeOptions options = {}) {
        listener_.on_change(range, change);
        return Base::protect(range, change, options);
    }
    Result<void> flip(PhysAddr page, bool valid) {
        listener_.on_flip(page, valid);
        return Base::flip(page, valid);
    }
    Result<void> prepare(PhysRange range, ChangeOptions options = {}) {
        listener_.on_pin(range, true);
        return Base::prepare(range, options);
    }
    Result<void> release(PhysRange range) {
        listener_.on_pin(range, false);
        if (!Base::rig().config().zones.empty()) return {}; // a zone of pages stays one
        return Base::release(range);
    }

private:
    ChangeListener& listener_;
};

template <class F, Placement placement>
class RigClients final : public ClientSet {
public:
    using G = typename F::geometry;
    using Rig = machine::Rig<F, machine::PooledPlatform>;

    RigClients(Rig& rig, PageSupply& supply, ChangeListener& listener)
        : map_(rig, listener), source_{supply}, host_{rig.machine()}, area_(map_, code_range(), aliases),
          secret_storage_(rig), text_storage_(rig), stack_storage_(rig), shared_storage_(rig),
          secret_pool_(make_pool(secret_storage_, Secrets::pool_config())),
          text_pool_(make_pool(text_storage_, Modules::pool_config())),
          stack_pool_(make_pool(stack_storage_, Stacks::read_only_pool_config())),
          secrets_(map_, secret_pool_, memory_), scratch_(most_module_pages),
          modules_(area_, rig.platform(), text_pool_, source_, {scratch_.data(), scratch_.size()}),
          stacks_(stack_pool_, memory_), guards_(map_, source_, guard_storage_),
          shared_(map_, rig.platform(), source_, host_,
                  {shared_storage_.frames(), shared_storage_.magazines(), leaks_}) {
        const CpuCapabilities cpus{.tolerates_live_resize = rig.config().bbm >= 3};
        (void)area_.area().admit(cpus);
        if (is_pooled) cache_.emplace(map_, area_, source_, memory_).admit(cpus);
    }

    [[nodiscard]] Result<void> ready() const override {
        return area_.opened() && cache_ ? cache_->windows.opened() : area_.opened();
    }

    Result<PhysAddr> take_secret() override { return secrets_.take(cpu()); }
    bool give_secret(PhysAddr page) override { return secrets_.give(page, cpu()); }

    Result<clients::Module> load_module(clients::ModuleSizes sizes) override {
        auto module = modules_.load(sizes, cpu());
        if (!module) return module;
        if (auto sealed = modules_.seal(module.value()); !sealed) {
            modules_.unload(module.value(), cpu());
            return sealed.error();
        }
        return module;
    }
    bool unload_module(clients::Module& module) override { return modules_.unload(module, cpu()); }

    /// Without a cache every piece of code has pages of its own, as small as it may be.
    Result<Code> add_code(std::uint64_t bytes) override {
        Code code;
        if (!cache_) {
            auto pages = load_module({bytes, 0, 0});
            if (!pages) return pages.error();
            code.pages = pages.value();
            return code;
        }
        auto piece = cache_->cache.allocate(bytes);
        if (!piece) return piece.error();
        code.piece = piece.value();
        if (auto written = cache_->cache.write(code.piece, 0, nullptr, bytes); !written) {
            (void)cache_->cache.free(code.piece);
            return written.error();
        }
        return code;
    }
    Result<void> remove_code(Code& code) override {
        if (cache_) return cache_->cache.free(code.piece);
        if (unload_module(code.pages)) return {};
        return Error{reasons::not_loaded, PhysAddr{}};
    }

    Result<PhysAddr> create_stack() override { return stacks_.create(cpu()); }
    bool destroy_stack(PhysAddr stack) override { return stacks_.destroy(stack, cpu()); }

    Result<PhysRange> prepare_guards(std::uint64_t bytes) override { return guards_.prepare(std::bit_ceil(bytes)); }
    Result<void> flip_guard(PhysAddr page, bool valid) override {
        return valid ? guards_.unguard(page) : guards_.guard(page);
    }
    void release_guards() override { guards_.release_all(); }

    /// Out of clusters, if they are large enough for that; otherwise in a piece.
    Result<SharedArea> share(std::uint64_t bytes) override {
        SharedArea area;
        if (!is_pooled || bytes >= cluster_bytes) {
            auto buffer = shared_.take_buffer(std::bit_ceil(bytes));
            if (!buffer) return buffer.error();
            area.piece = buffer.value();
            return area;
        }
        for (std::uint64_t done = 0; done < bytes; done += G::page_size) {
            auto page = shared_.take(cpu());
            if (!page) {
                (void)unshare(area);
                return page.error();
            }
            area.pages.push_back(page.value());
        }
        return area;
    }
    Result<void> unshare(const SharedArea& area) override {
        if (!area.piece.empty()) return shared_.give_buffer(area.piece);
        for (const PhysAddr page : area.pages)
            if (!shared_.give(page, cpu())) return Error{nobodys_page, page};
        return {};
    }

    void shrink() override {
        constexpr std::uint64_t everything = ~std::uint64_t{0};
        secrets_.shrink(everything);
        text_pool_.shrink(everything);
        stacks_.shrink(everything);
        if (!is_pooled) return;
        shared_.shrink(everything);
        cache_->cache.shrink(everything);
    }
    [[nodiscard]] PoolUse use() override {
        PoolUse use;
        if (!is_pooled) return use;
        for (const PoolStatistics& s : {secret_pool_.statistics(), text_pool_.statistics(), stack_pool_.statistics(),
                                        shared_.pool_statistics()}) {
            use.owned += s.owned << G::page_shift;
            use.idle += s.free << G::page_shift;
        }
        const clients::CodeStatistics code = cache_->cache.statistics();
        use.owned += code.bytes;
        use.idle += code.bytes - code.used;
        return use;
    }
    void check() override { area_.verify(); }

private:
    static constexpr bool is_pooled = placement == Placement::pooled;
    /// Buffers of this size and more are pieces of their own.
    static constexpr std::uint64_t cluster_bytes = std::uint64_t{2} << 20;
    static constexpr std::size_t most_frames = 4096, most_module_pages = 1 << 16, aliases = 1 << 18, most_guards = 64,
                                 most_chunks = 256;

    /// The page allocator as the components see it.
    struct Source {
        PageSupply& supply;
        bool take_chunk(PhysAddr& pa, std::uint64_t bytes) { return supply.take(pa, bytes); }
        void give_chunk(PhysAddr pa, std::uint64_t bytes) { supply.give(pa, bytes); }
    };
    /// The machine's granule table is the host's view.
    struct Host {
        machine::Machine& machine;
        bool share(PhysRange range) {
            machine.set_granules(range, true);
            return true;
        }
        bool unshare(PhysRange range) {
            machine.set_granules(range, false);
            return true;
        }
    };
    /// Nothing runs here, so nobody looks at what memory holds.
    struct Memory {
        void zero(PhysRange) {}
        void write(VirtAddr, const void*, std::size_t) {}
        void fill(VirtAddr, std::uint32_t, std::size_t) {}
    };
    class Storage {
    public:
        explicit Storage(const Rig& rig) : frames_(most_frames), magazines_(rig.config().cpus) {}
        [[nodiscard]] Span<ChunkFrame> frames() { return {frames_.data(), frames_.size()}; }
        [[nodiscard]] Span<Magazine<machine::Machine::Lock>> magazines() {
            return {magazines_.data(), magazines_.size()};
        }

    private:
        std::vector<ChunkFrame> frames_;
        std::vector<Magazine<machine::Machine::Lock>> magazines_;
    };

    using Map = ToldMap<F>;
    using Area = machine::RigArea<F, machine::PooledPlatform>;
    using Pool = std::conditional_t<is_pooled, ChunkPool<Map, Source>, clients::ScatteredPages<Map, Source>>;
    using Secrets = clients::SecretMemory<Map, Pool, Memory>;
    using Modules = clients::ModuleArea<Area, Pool, Source>;
    using Stacks = clients::ShadowStacks<Pool, Memory>;

    /// Code is written through windows in an area of their own, which one CPU alone reaches.
    class CodeCache {
    public:
        CodeCache(Map& map, Area& area, Source& source, Memory& memory)
            : window_map_(map.rig()), windows(window_map_, window_range()), chunks_(most_chunks),
              cache(map, map.rig().platform(), area, windows, source, memory, {chunks_.data(), chunks_.size()}) {
            window_map_.window = true;
        }
        void admit(CpuCapabilities cpus) { (void)windows.area().admit(cpus); }

    private:
        machine::RigMap<F, machine::PooledPlatform> window_map_;

    public:
        Area windows;

    private:
        std::vector<clients::CodeChunk> chunks_;

    public:
        clients::ExecutableCache<Map, Area, Area, Source, Memory> cache;
    };

    [[nodiscard]] Pool make_pool(Storage& storage, const typename Pool::Config& config) {
        if constexpr (is_pooled) {
            return Pool(map_, map_.rig().platform(), source_, config, storage.frames(), storage.magazines());
        } else {
            return Pool(map_, map_.rig().platform(), source_, config);
        }
    }
    [[nodiscard]] unsigned cpu() { return map_.rig().machine().cpu(); }
    /// In the upper half of the addresses: the direct map begins at their start.
    [[nodiscard]] static VirtRange code_range() {
        constexpr std::uint64_t half = std::uint64_t{1} << (G::va_bits - 1);
        constexpr std::uint64_t regions =
            G::region_bytes >= (std::uint64_t{4} << 30) ? 1 : (std::uint64_t{4} << 30) / G::region_bytes;
        return {VirtAddr{~std::uint64_t{0} << G::va_bits | half}, regions * G::region_bytes};
    }
    [[nodiscard]] static VirtRange window_range() { return {code_range().end(), G::region_bytes}; }

    Map map_;
    Source source_;
    Host host_;
    Memory memory_;
    Area area_;
    Storage secret_storage_, text_storage_, stack_storage_, shared_storage_;
    Pool secret_pool_, text_pool_, stack_pool_;
    Secrets secrets_;
    std::vector<PhysRange> scratch_;
    Modules modules_;
    Stacks stacks_;
    PhysRange guard_storage_[most_guards];
    clients::GuardPages<Map, Source> guards_;
    PhysRange leaks_[16];
    clients::SharedBuffers<Map, Source, Host> shared_;
    std::optional<CodeCache> cache_; ///< of pooled users
};

} // namespace directmap::tool

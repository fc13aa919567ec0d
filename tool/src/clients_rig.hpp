// ClientSet for one format, on a rig.
#pragma once

#include "clients.hpp"

#include <directmap_clients/guard_pages.hpp>
#include <directmap_clients/secret_memory.hpp>
#include <directmap_clients/shared_buffers.hpp>
#include <machine/area_rig.hpp>
#include <machine/protected_rig.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace directmap::tool {

template <class F>
class RigClients final : public ClientSet {
public:
    using G = typename F::geometry;
    using Rig = machine::Rig<F, machine::PooledPlatform>;

    RigClients(Rig& rig, PageSupply& supply)
        : map_(rig), source_{supply}, host_{rig.machine()}, area_(map_, area_range(), aliases),
          secret_storage_(rig.config().cpus), text_storage_(rig.config().cpus), shared_storage_(rig.config().cpus),
          secret_pool_(map_, rig.platform(), source_, Secrets::pool_config(), secret_storage_.frames(),
                       secret_storage_.magazines()),
          text_pool_(map_, rig.platform(), source_, Modules::pool_config(), text_storage_.frames(),
                     text_storage_.magazines()),
          secrets_(map_, secret_pool_, memory_), scratch_(most_module_pages),
          modules_(area_, rig.platform(), text_pool_, source_, {scratch_.data(), scratch_.size()}),
          guards_(map_, source_, guard_storage_),
          shared_(map_, rig.platform(), source_, host_,
                  {shared_storage_.frames(), shared_storage_.magazines(), leaks_}) {
        (void)area_.area().admit({.tolerates_live_resize = rig.config().bbm >= 3});
    }

    [[nodiscard]] const Result<void>& ready() const override { return area_.opened(); }
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
    Result<PhysRange> prepare_guards(std::uint64_t bytes) override { return guards_.prepare(bytes); }
    Result<void> flip_guard(PhysAddr page, bool valid) override {
        return valid ? guards_.unguard(page) : guards_.guard(page);
    }
    void release_guards() override { guards_.release_all(); }
    Result<PhysAddr> take_shared() override { return shared_.take(cpu()); }
    bool give_shared(PhysAddr page) override { return shared_.give(page, cpu()); }
    Result<PhysRange> take_shared_buffer(std::uint64_t bytes) override { return shared_.take_buffer(bytes); }
    Result<void> give_shared_buffer(PhysRange buffer) override { return shared_.give_buffer(buffer); }
    void shrink() override {
        constexpr std::uint64_t everything = ~std::uint64_t{0};
        secrets_.shrink(everything);
        text_pool_.shrink(everything);
        shared_.shrink(everything);
    }
    [[nodiscard]] PoolUse use() override {
        PoolUse use;
        for (const PoolStatistics& s :
             {secret_pool_.statistics(), text_pool_.statistics(), shared_.pool_statistics()}) {
            use.owned += s.owned << G::page_shift;
            use.idle += s.free << G::page_shift;
        }
        return use;
    }

private:
    /// The page allocator as pools see it.
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
        explicit Storage(unsigned cpus) : frames_(most_frames), magazines_(cpus) {}
        [[nodiscard]] Span<ChunkFrame> frames() { return {frames_.data(), frames_.size()}; }
        [[nodiscard]] Span<Magazine<machine::Machine::Lock>> magazines() {
            return {magazines_.data(), magazines_.size()};
        }

    private:
        std::vector<ChunkFrame> frames_;
        std::vector<Magazine<machine::Machine::Lock>> magazines_;
    };

    static constexpr std::size_t most_frames = 4096, most_module_pages = 1 << 16, aliases = 1 << 18, most_guards = 64;

    using Map = machine::RigMap<F, machine::PooledPlatform>;
    using Area = machine::RigArea<F, machine::PooledPlatform>;
    using Pool = ChunkPool<Map, Source>;
    using Secrets = clients::SecretMemory<Map, Pool, Memory>;
    using Modules = clients::ModuleArea<Area, Pool, Source>;

    [[nodiscard]] unsigned cpu() { return map_.rig().machine().cpu(); }
    /// The upper half of the addresses: the direct map begins at their start.
    [[nodiscard]] static VirtRange area_range() {
        constexpr std::uint64_t half = std::uint64_t{1} << (G::va_bits - 1);
        constexpr std::uint64_t regions =
            G::region_bytes >= (std::uint64_t{4} << 30) ? 1 : (std::uint64_t{4} << 30) / G::region_bytes;
        return {VirtAddr{~std::uint64_t{0} << G::va_bits | half}, regions * G::region_bytes};
    }

    Map map_;
    Source source_;
    Host host_;
    Memory memory_;
    Area area_;
    Storage secret_storage_, text_storage_, shared_storage_;
    Pool secret_pool_, text_pool_;
    Secrets secrets_;
    std::vector<PhysRange> scratch_;
    Modules modules_;
    PhysRange guard_storage_[most_guards];
    clients::GuardPages<Map, Source> guards_;
    PhysRange leaks_[16];
    clients::SharedBuffers<Map, Source, Host> shared_;
};

} // namespace directmap::tool

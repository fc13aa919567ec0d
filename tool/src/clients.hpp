// The users of a direct map from clients/, on pools, behind one interface whatever the granule.
#pragma once

#include <directmap/direct_map.hpp>
#include <directmap_clients/module_area.hpp>

#include <cstdint>

namespace directmap::tool {

/// Where the pools get their memory from: the page allocator of the modelled machine.
class PageSupply {
public:
    PageSupply() = default;
    PageSupply(const PageSupply&) = delete;
    PageSupply& operator=(const PageSupply&) = delete;
    virtual ~PageSupply() = default;

    /// `bytes` in one piece, aligned to their size.
    [[nodiscard]] virtual bool take(PhysAddr& pa, std::uint64_t bytes) = 0;
    virtual void give(PhysAddr pa, std::uint64_t bytes) = 0;
};

/// What the pools hold.
struct PoolUse {
    std::uint64_t owned = 0; ///< bytes
    std::uint64_t idle = 0;  ///< of these, nobody's
};

class ClientSet {
public:
    ClientSet() = default;
    ClientSet(const ClientSet&) = delete;
    ClientSet& operator=(const ClientSet&) = delete;
    virtual ~ClientSet() = default;

    [[nodiscard]] virtual const Result<void>& ready() const = 0;
    virtual Result<PhysAddr> take_secret() = 0;
    virtual bool give_secret(PhysAddr page) = 0;
    virtual Result<clients::Module> load_module(clients::ModuleSizes sizes) = 0; ///< loaded and sealed
    virtual bool unload_module(clients::Module& module) = 0;
    virtual Result<PhysRange> prepare_guards(std::uint64_t bytes) = 0;
    virtual Result<void> flip_guard(PhysAddr page, bool valid) = 0;
    virtual void release_guards() = 0;
    /// A buffer out of clusters of shared pages.
    virtual Result<PhysAddr> take_shared() = 0;
    virtual bool give_shared(PhysAddr page) = 0;
    virtual Result<PhysRange> take_shared_buffer(std::uint64_t bytes) = 0;
    virtual Result<void> give_shared_buffer(PhysRange buffer) = 0;
    /// Every pool gives back the chunks that nobody uses.
    virtual void shrink() = 0;
    [[nodiscard]] virtual PoolUse use() = 0;
};

} // namespace directmap::tool

// The users of a direct map from clients/, behind one interface whatever the granule and wherever their memory lies.
#pragma once

#include <directmap/direct_map.hpp>
#include <directmap_clients/executable_cache.hpp>
#include <directmap_clients/module_area.hpp>

#include <cstdint>
#include <memory>
#include <vector>

namespace directmap::tool {

/// Where users get their memory from: the page allocator of the modelled machine.
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

/// Is told of what users do to the direct map, before it happens.
class ChangeListener {
public:
    ChangeListener() = default;
    ChangeListener(const ChangeListener&) = delete;
    ChangeListener& operator=(const ChangeListener&) = delete;
    virtual ~ChangeListener() = default;

    virtual void on_change(PhysRange range, Change change) = 0;
    virtual void on_flip(PhysAddr page, bool valid) = 0;
    /// The range is to be kept by pages from here on, or no longer.
    virtual void on_pin(PhysRange range, bool pinned) = 0;
};

/// Where the memory lies whose permissions change.
enum class Placement : std::uint8_t {
    scattered, ///< wherever the page allocator has it: every user cuts the leaf that it meets
    pooled,    ///< in chunks of pools, one for each kind of permission
};

/// What the pools hold.
struct PoolUse {
    std::uint64_t owned = 0; ///< bytes
    std::uint64_t idle = 0;  ///< of these, nobody's
};

/// What a guest shares with its host: one piece, or pages out of clusters.
struct SharedArea {
    PhysRange piece;
    std::vector<PhysAddr> pages;
};

/// A small piece of code: out of the cache, or pages of its own.
struct Code {
    clients::CodePiece piece;
    clients::Module pages;
};

class ClientSet {
public:
    ClientSet() = default;
    ClientSet(const ClientSet&) = delete;
    ClientSet& operator=(const ClientSet&) = delete;
    virtual ~ClientSet() = default;

    [[nodiscard]] virtual Result<void> ready() const = 0;
    virtual Result<PhysAddr> take_secret() = 0;
    virtual bool give_secret(PhysAddr page) = 0;
    virtual Result<clients::Module> load_module(clients::ModuleSizes sizes) = 0; ///< loaded and sealed
    virtual bool unload_module(clients::Module& module) = 0;
    virtual Result<Code> add_code(std::uint64_t bytes) = 0; ///< written and executable
    virtual Result<void> remove_code(Code& code) = 0;
    virtual Result<PhysAddr> create_stack() = 0;
    virtual bool destroy_stack(PhysAddr stack) = 0;
    virtual Result<PhysRange> prepare_guards(std::uint64_t bytes) = 0;
    virtual Result<void> flip_guard(PhysAddr page, bool valid) = 0;
    virtual void release_guards() = 0;
    virtual Result<SharedArea> share(std::uint64_t bytes) = 0;
    virtual Result<void> unshare(const SharedArea& area) = 0;
    /// Every pool gives back the chunks that nobody uses.
    virtual void shrink() = 0;
    [[nodiscard]] virtual PoolUse use() = 0;
    /// Compares the area of code with the reference, page by page; the machine takes down what is wrong.
    virtual void check() = 0;
};

} // namespace directmap::tool

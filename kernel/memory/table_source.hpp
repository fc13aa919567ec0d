// Where a map's tables come from: memory of its own while it is built, the engine's pool afterwards (kernel_map.hpp).
#pragma once

#include "directmap/early_tables.hpp"
#include "memory/granule.hpp"

namespace directmap::kernel {

/// What the platform asks for table pages; it can be exchanged while nobody does.
class TableSource {
public:
    [[nodiscard]] virtual bool take(PhysAddr& pa, bool atomic) = 0;
    virtual void give(PhysAddr pa) = 0;

protected:
    ~TableSource() = default;
};

/// One range of RAM, page by page. For one CPU.
template <class P>
class EarlySource final : public TableSource {
public:
    EarlySource(P& platform, PhysRange range) : range_{range}, tables_{platform, {&range_, 1}, page_size} {}
    EarlySource(const EarlySource&) = delete;
    EarlySource& operator=(const EarlySource&) = delete;

    [[nodiscard]] bool take(PhysAddr& pa, bool) override {
        const bool taken = tables_.take(pa);
        in_use_ += taken ? 1 : 0;
        return taken;
    }
    void give(PhysAddr pa) override {
        tables_.give(pa);
        --in_use_;
    }
    /// Pages handed out and not given back.
    [[nodiscard]] std::uint64_t in_use() const { return in_use_; }

private:
    PhysRange range_;
    EarlyTableSource<P> tables_;
    std::uint64_t in_use_ = 0;
};

} // namespace directmap::kernel

// Seeded faults: mistakes that page-table code really makes, put between the engine and the machine. They keep the
// machine honest: a checker that lets one of them pass doesn't check what it claims.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "directmap/span.hpp"
#include "machine/platform.hpp"

namespace directmap::machine {

enum class Fault : std::uint8_t {
    none,
    drop_publish_barrier,
    late_publish_barrier,
    drop_completion_barrier,
    weak_completion_barrier,
    drop_invalidation,
    narrow_invalidation,
    wrong_level_hint,
    stale_level_hint,
    unmasked_address,
    leaves_only_collapse,
    local_invalidation,
    half_group,
    unopened_group,
    unaligned_group,
    publish_before_fill,
    short_fill,
    forgotten_attribute,
    wrong_leaf_type,
    two_step_parent,
    emptied_invalid_leaf,
    wide_update,
    missing_break,
    missing_break_flush,
    free_before_flush,
    free_before_grace,
    double_free,
    lost_table,
    drop_lock,
    drop_write_section,
};

struct FaultInfo {
    Fault fault;
    const char* name;        ///< as in the enumeration
    const char* description; ///< one line: what goes wrong
};

/// Every fault but `none`, in the order of the enumeration.
[[nodiscard]] Span<const FaultInfo> all_faults();
/// The fault of that name; "none" is one.
[[nodiscard]] std::optional<Fault> fault_named(std::string_view name);
[[nodiscard]] const char* name_of(Fault fault);

/// The machine's platform, with one mistake in it once it is armed.
class FaultyPlatform : public Platform {
public:
    explicit FaultyPlatform(Machine& machine, Fault fault = Fault::none) : Platform{machine}, fault_{fault} {}

    /// The fault takes effect from here on; the map's build is usually over by then.
    void arm(bool on = true) { armed_ = on; }

    void store(Table table, unsigned index, Descriptor value, Where where = Where::current());
    void fill(Table table, unsigned first, unsigned count, Descriptor value, std::uint64_t step,
              Where where = Where::current());
    void update(Table table, unsigned first, unsigned count, DescriptorChange change, Where where = Where::current());
    void barrier_publish(Where where = Where::current());
    void barrier_complete(Where where = Where::current());
    void invalidate(VirtAddr va, InvalidationScope scope, Where where = Where::current());
    void invalidate_range(VirtAddr va, std::uint64_t bytes, InvalidationScope scope, Where where = Where::current());
    void invalidate_all(Where where = Where::current());
    void acquire(Lock& lock, Where where = Where::current());
    void release(Lock& lock, Where where = Where::current());
    void give_table(PhysAddr pa, Where where = Where::current());
    bool begin_table_writes(Where where = Where::current());
    void end_table_writes(bool was_open, Where where = Where::current());
    bool grace_elapsed(std::uint64_t stamp, Where where = Where::current());

private:
    [[nodiscard]] bool is(Fault fault) const { return armed_ && fault_ == fault; }
    void issue(std::uint64_t va, std::uint64_t bytes, InvalidationScope scope, Where where);
    static void run(std::vector<std::function<void()>>& calls);

    Fault fault_;
    bool armed_ = false;
    bool breaking_ = false;                      ///< leaves are broken and not made again yet
    bool barrier_owed_ = false;                  ///< a publish barrier has been held back
    std::vector<std::function<void()>> fills_;   ///< held back until something is published
    std::vector<std::function<void()>> flushes_; ///< held back until a table is given back
};

static_assert(directmap::Platform<FaultyPlatform>);

} // namespace directmap::machine

// The machine as a directmap::Platform: every call goes to the machine with the engine's source line.
#pragma once

#include <source_location>

#include "directmap/platform.hpp"
#include "machine/machine.hpp"

namespace directmap::machine {

class Platform {
public:
    using Where = std::source_location;
    /// A table page by its physical address.
    struct Table {
        std::uint64_t pa = 0;
        friend bool operator==(Table, Table) = default;
    };
    using Lock = Machine::Lock;

    explicit Platform(Machine& machine) : machine_{&machine} {}
    [[nodiscard]] Machine& machine() { return *machine_; }

    Table table(PhysAddr pa) { return {pa.value()}; }
    Descriptor load(Table t, unsigned index, Where where = Where::current()) {
        return Descriptor::from_bits(machine_->load(t.pa, index, where));
    }
    void store(Table t, unsigned index, Descriptor value, Where where = Where::current()) {
        machine_->store(t.pa, index, value.bits(), where);
    }
    void fill(Table t, unsigned first, unsigned count, Descriptor value, std::uint64_t step,
              Where where = Where::current()) {
        if (count != 0) machine_->fill(t.pa, first, count, value.bits(), step, where);
    }
    void update(Table t, unsigned first, unsigned count, DescriptorChange change, Where where = Where::current()) {
        machine_->update(t.pa, first, count, change.clear.bits(), change.set.bits(), where);
    }
    RunSummary summarize(Table t, unsigned first, unsigned count, Descriptor expected, std::uint64_t step,
                         Where where = Where::current()) {
        std::uint64_t any = 0, all = 0;
        machine_->summarize(t.pa, first, count, expected.bits(), step, any, all, where);
        return {Descriptor::from_bits(any), Descriptor::from_bits(all)};
    }
    void barrier_publish(Where where = Where::current()) { machine_->barrier("barrier_publish", false, where); }
    void barrier_complete(Where where = Where::current()) { machine_->barrier("barrier_complete", true, where); }
    void barrier_context(Where where = Where::current()) { machine_->context_barrier(where); }
    [[nodiscard]] bool range_invalidation() const { return machine_->config().range_invalidation; }
    void invalidate(VirtAddr va, InvalidationScope scope, Where where = Where::current()) {
        machine_->invalidate(va.value(), page_size(), scope, everyone, where);
    }
    void invalidate_range(VirtAddr va, std::uint64_t bytes, InvalidationScope scope, Where where = Where::current()) {
        machine_->invalidate(va.value(), bytes, scope, everyone, where);
    }
    void invalidate_all(Where where = Where::current()) {
        machine_->invalidate(0, 0, {InvalidationScope::any_level, false}, everyone, where);
    }
    void acquire(Lock& lock, Where where = Where::current()) { machine_->acquire(lock, where); }
    void release(Lock& lock, Where where = Where::current()) { machine_->release(lock, where); }
    bool take_table(PhysAddr& pa, bool atomic, Where where = Where::current()) {
        std::uint64_t taken = 0;
        if (!machine_->take_table(taken, atomic, where)) return false;
        pa = PhysAddr{taken};
        return true;
    }
    void give_table(PhysAddr pa, Where where = Where::current()) { machine_->give_table(pa.value(), where); }
    [[nodiscard]] bool tables_mapped_here() const {
        return machine_->config().tables_through_map && !machine_->quiescent();
    }
    bool begin_table_writes(Where where = Where::current()) { return machine_->begin_table_writes(where); }
    void end_table_writes(bool was_open, Where where = Where::current()) {
        machine_->end_table_writes(was_open, where);
    }
    void walker_enter(Where where = Where::current()) { machine_->walker(true, where); }
    void walker_exit(Where where = Where::current()) { machine_->walker(false, where); }
    std::uint64_t grace_stamp(Where where = Where::current()) { return machine_->grace_stamp(where); }
    bool grace_elapsed(std::uint64_t stamp, Where where = Where::current()) {
        return machine_->grace_elapsed(stamp, where);
    }
    std::uint64_t now() { return machine_->clock; }
    void relax(Where where = Where::current()) { machine_->relax(where); }

protected:
    static constexpr std::uint64_t everyone = ~std::uint64_t{0};
    [[nodiscard]] std::uint64_t page_size() const { return std::uint64_t{1} << machine_->regime().page_shift; }

private:
    Machine* machine_;
};

static_assert(directmap::Platform<Platform>);

} // namespace directmap::machine

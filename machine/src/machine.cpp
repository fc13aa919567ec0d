#include "machine/machine.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include <fmt/format.h>

namespace directmap::machine {

namespace {

constexpr std::size_t most_violations = 50;

std::uint64_t align_to(std::uint64_t va, unsigned shift) {
    return va >> shift << shift;
}

/// Whether two ranges share a byte. By distance: at the end of the address space the end of a range is 0.
bool overlap(std::uint64_t a, std::uint64_t a_size, std::uint64_t b, std::uint64_t b_size) {
    return b - a < a_size || a - b < b_size;
}

} // namespace

Machine::Machine(const MachineConfig& config)
    : config_{config}, bbm_(config.cpus, config.bbm), unpublished_pages_(config.cpus),
      unpublished_regions_(config.cpus), invalidations_(config.cpus), key_registers_(config.cpus, closed_keys()),
      locks_held_(config.cpus), epoch_slots_(config.cpus), epochs_{{epoch_slots_.data(), epoch_slots_.size()}},
      next_table_{config.table_pool.end().value()} {}

// ---- plumbing -------------------------------------------------------------------------------------------------------

void Machine::yield(const char* call) {
    if (scheduler_ != nullptr) scheduler_->before_call(call);
}

/// Rule 1 of the lock protocol (directmap/region.hpp).
void Machine::check_lock(std::uint64_t va) {
    const auto& held = locks_held_[cpu_];
    if (quiescent_) return;
    if (held.empty()) {
        report("lock protocol", fmt::format("CPU {} changes a live table at {:#x} without holding a lock", cpu_, va),
               pa_of(va));
        return;
    }
    const auto lock = region_locks_.find(region_of(va));
    if (!config_.check_region_locks || lock == region_locks_.end()) return;
    if (std::find(held.begin(), held.end(), lock->second) != held.end()) return;
    report("lock protocol", fmt::format("CPU {} changes a live table at {:#x} without that region's lock", cpu_, va),
           pa_of(va));
}

void Machine::event(Event& e, Where where) {
    ++sequence_;
    if (!sink_) return;
    e.sequence = sequence_;
    e.cpu = cpu_;
    e.where = where;
    sink_(e);
}

/// An event that is no platform call; `range` is physical, and may be empty.
void Machine::scenario_event(const char* call, PhysRange range, const std::string& text) {
    Event e;
    e.call = call;
    e.va = range.size == 0 ? 0 : range.start.value() + config_.offset;
    e.size = range.size;
    e.text = text;
    event(e, {});
}

void Machine::record_to(EventSink sink) {
    sink_ = std::move(sink);
    Event e;
    e.call = "config";
    e.machine = this;
    event(e, {});
}

void Machine::report(const std::string& promise, const std::string& what, std::uint64_t pa) {
    if (violations_.size() < most_violations) violations_.push_back({promise, what, cpu_, sequence_, pa});
    if (sink_) scenario_event("violation", {}, fmt::format("{} at {:#x}: {}", promise, pa, what));
}

bool Machine::any_intolerant(std::uint64_t cpus) const {
    for (unsigned c = 0; c < config_.cpus; ++c) {
        if ((cpus >> c & 1) != 0 && bbm_[c] < 3) return true;
    }
    return false;
}

Machine::Page& Machine::page(std::uint64_t pa) {
    Page& p = pages_[pa];
    if (p.words.empty()) p.words = Words{1u << config_.regime.index_bits, 0, 0};
    return p;
}

/// A page that the engine accesses as a table: its own, and reachable through the map if that is how it is reached.
Machine::Page& Machine::own_page(std::uint64_t pa, bool write) {
    Page& p = page(pa);
    touch(Touched::page, pa, false);
    touch_regions(Touched::reference, pa + config_.offset, 1, false);
    if (p.owned && !p.linked && p.taker != cpu_) {
        report("P7 reclaim",
               fmt::format("CPU {} accesses {:#x}, which CPU {} has taken for a new table", cpu_, pa, p.taker), pa);
    }
    if (!p.owned)
        report("P7 reclaim", fmt::format("CPU {} accesses {:#x}, which is not a table any more", cpu_, pa), pa);
    const bool translated = config_.tables_through_map && installed_ && !quiescent_ && (on_map_ >> cpu_ & 1) != 0;
    if (translated) {
        const unsigned keys = may_write_tables() ? ~0u : ~(1u << config_.table_key);
        if (!reference_.accessible(PhysAddr{pa}, write, keys)) {
            report("own access",
                   fmt::format("CPU {} {} the table at {:#x}, whose own mapping may not allow it", cpu_,
                               write ? "writes" : "reads", pa),
                   pa);
        }
    }
    return p;
}

// ---- what leaves amount to
// --------------------------------------------------------------------------------------------

Machine::LeafRun Machine::run_of(const Entry& entry, std::uint64_t va, int level) const {
    const Regime& r = config_.regime;
    LeafRun run;
    run.level = level;
    run.descriptor_shift = r.shift(level);
    run.unit_shift = run.descriptor_shift + (entry.contiguous ? r.group_shift[level] : 0);
    run.va = align_to(va, run.unit_shift);
    run.size = std::uint64_t{1} << run.unit_shift;
    run.access = entry.access;
    return run;
}

/// Whether a whole table of `level` holds leaves that agree and continue one another. Says no when finding out would
/// take a look at every word.
bool Machine::is_one_run(const Words& words, std::uint64_t va, int level) const {
    const Regime& r = config_.regime;
    // Words that advance by a leaf's size differ in the address alone if the last one's address is where it must be: a
    // carry out of the address field would have cost address bits.
    if (level < r.first_block_level || !words.advance_by(r.bytes(level))) return false;
    const unsigned entries = r.entries(level);
    const Entry first = r.decode(level, words[0]), last = r.decode(level, words[entries - 1]);
    return first.is_leaf() && last.kind == first.kind && last.access == first.access &&
           last.contiguous == first.contiguous && last.pa == first.pa + (entries - 1) * r.bytes(level) &&
           pa_of(va) == first.pa;
}

/// Visits the runs of valid leaves below an entry (or the entry itself); with `older_too` also those that unpublished
/// stores have replaced.
template <class Visit>
void Machine::for_each_run(const Entry& entry, std::uint64_t va, int level, bool older_too, Visit&& visit) {
    if (entry.kind == Entry::Kind::leaf) {
        visit(run_of(entry, va, level));
        return;
    }
    if (entry.kind != Entry::Kind::table) return;
    const Page& p = page(entry.pa);
    const unsigned shift = config_.regime.shift(level + 1);
    if (p.older.empty() && is_one_run(p.words, va, level + 1)) {
        const Entry first = config_.regime.decode(level + 1, p.words[0]);
        LeafRun run = run_of(first, va, level + 1);
        run.size = config_.regime.entries(level + 1) * config_.regime.bytes(level + 1);
        if (first.access.valid) visit(run);
        return;
    }
    LeafRun open;
    const auto add = [&](std::uint64_t word, unsigned i) {
        const Entry child = config_.regime.decode(level + 1, word);
        const std::uint64_t child_va = va + (std::uint64_t{i} << shift);
        if (child.kind == Entry::Kind::table) {
            for_each_run(child, child_va, level + 1, older_too, visit);
        } else if (child.kind == Entry::Kind::leaf) {
            const LeafRun run = run_of(child, child_va, level + 1);
            if (open.size != 0 && open.unit_shift == run.unit_shift && open.access == run.access) {
                if (run.va - open.va < open.size) return; // the same group
                if (open.va + open.size == run.va) {
                    open.size += run.size;
                    return;
                }
            }
            if (open.size != 0) visit(open);
            open = run;
        }
    };
    for (unsigned i = 0; i < p.words.size(); ++i) {
        add(p.words[i], i);
        if (older_too && !p.older.empty() && p.older[i] != p.words[i]) add(p.older[i], i);
    }
    if (open.size != 0) visit(open);
}

// ---- checks
// -------------------------------------------------------------------------------------------------------------

/// P1 and P3 for one decoded leaf that has just become visible.
void Machine::check_leaves(const LeafRun& run, const Entry& first, std::uint64_t first_va) {
    const std::uint64_t home = pa_of(run.va);
    const std::uint64_t pa = first.pa - (first_va - run.va);
    for (std::uint64_t at = 0; at < run.size;) { // piece by piece: a leaf must not run on where its alias doesn't
        std::uint64_t next = run.size;
        each_alias_at(home + at, next - at, [&](const Alias& alias) {
            for (const std::uint64_t edge : {alias.home, alias.home + alias.size})
                if (home + at < edge && edge < home + next) next = edge - home;
        });
        if (pa + at != leads_to(home + at)) {
            report("P1 translation",
                   fmt::format("VA {:#x} leads to {:#x} instead of {:#x}", run.va + at, pa + at, leads_to(home + at)),
                   home + at);
            return;
        }
        at = next;
    }
    if ((pa & ((std::uint64_t{1} << run.unit_shift) - 1)) != 0 && run.unit_shift != run.descriptor_shift) {
        report("P1 translation",
               fmt::format("a contiguous group at {:#x} whose physical address is not aligned", run.va), pa);
    }
    if (const auto where = reference_.forbids({PhysAddr{home}, run.size}, run.access)) {
        const bool in_flight = std::any_of(operation_ranges_.begin(), operation_ranges_.end(),
                                           [&](const auto& operation) { return operation.second.contains(*where); });
        report(in_flight ? "P1 translation" : "P3 neighbours",
               fmt::format("a walk may return '{}' for {:#x}", describe(run.access), where->value()), where->value());
    }
    if (!shared_granules_.empty() && run.access.valid) {
        auto it = shared_granules_.upper_bound(pa);
        const bool begins_shared = it != shared_granules_.begin() && std::prev(it)->second > pa;
        const bool all_shared = begins_shared && std::prev(it)->second >= pa + run.size;
        const bool some_shared = begins_shared || (it != shared_granules_.end() && it->first < pa + run.size);
        if (run.access.shared ? !all_shared : some_shared) {
            report("realm",
                   fmt::format("{:#x} is mapped {} but the host has it {}", pa,
                               run.access.shared ? "shared" : "private", some_shared ? "shared" : "private"),
                   pa);
        }
    }
    if (run.access.valid) check_aliases(run);
}

template <class Visit>
void Machine::each_alias_at(std::uint64_t home, std::uint64_t size, Visit&& visit) const {
    auto it = aliases_.upper_bound(home);
    if (it != aliases_.begin()) --it;
    for (; it != aliases_.end() && it->first < home + size; ++it) {
        if (home < it->first + it->second.size) visit(it->second);
    }
}

template <class Visit>
void Machine::each_alias_of(std::uint64_t pa, std::uint64_t size, Visit&& visit) const {
    const std::uint64_t from = pa > largest_alias_ ? pa - largest_alias_ : 0;
    for (auto it = aliases_by_pa_.lower_bound(from); it != aliases_by_pa_.end() && it->first < pa + size; ++it) {
        const Alias& alias = aliases_.at(it->second);
        if (pa < alias.pa + alias.size) visit(alias);
    }
}

std::uint64_t Machine::leads_to(std::uint64_t home) const {
    std::uint64_t pa = home;
    each_alias_at(home, 1, [&](const Alias& alias) { pa = alias.pa + (home - alias.home); });
    return pa;
}

void Machine::add_alias(PhysRange home, PhysAddr pa, bool window) {
    scenario_event("alias", home, fmt::format("{:#x}", pa.value()));
    aliases_[home.start.value()] = {home.start.value(), home.size, pa.value(), window};
    aliases_by_pa_.emplace(pa.value(), home.start.value());
    largest_alias_ = std::max(largest_alias_, home.size);
}

void Machine::remove_alias(PhysRange home) {
    scenario_event("alias gone", home);
    const auto from = aliases_.lower_bound(home.start.value()), to = aliases_.lower_bound(home.end().value());
    for (auto it = from; it != to; ++it) {
        const auto [first, last] = aliases_by_pa_.equal_range(it->second.pa);
        const auto found = std::find_if(first, last, [&](const auto& entry) { return entry.second == it->first; });
        if (found != last) aliases_by_pa_.erase(found);
    }
    aliases_.erase(from, to);
}

/// W^X for every page behind leaves that have just become visible.
void Machine::check_aliases(const LeafRun& run) {
    if (aliases_.empty() || (!run.access.writable && !run.access.executable)) return;
    const std::uint64_t page_size = std::uint64_t{1} << config_.regime.page_shift, home = pa_of(run.va);
    std::vector<std::uint64_t> pages;
    const auto add = [&](std::uint64_t pa, std::uint64_t end) {
        for (; pa < end; pa += page_size) pages.push_back(pa);
    };
    each_alias_at(home, run.size, [&](const Alias& alias) {
        const std::uint64_t from = std::max(home, alias.home), to = std::min(home + run.size, alias.home + alias.size);
        add(alias.pa + (from - alias.home), alias.pa + (to - alias.home));
    });
    if (pages.empty()) { // of the direct map itself
        each_alias_of(home, run.size, [&](const Alias& alias) {
            add(std::max(home, alias.pa), std::min(home + run.size, alias.pa + alias.size));
        });
    }
    for (const std::uint64_t pa : pages) check_page_aliases(pa);
}

void Machine::check_page_aliases(std::uint64_t pa) {
    Rights rights;
    collect_rights(pa + config_.offset, rights);
    each_alias_of(pa, 1, [&](const Alias& alias) {
        if (!alias.window) collect_rights(alias.home + (pa - alias.pa) + config_.offset, rights);
    });
    if (rights.write && rights.execute) {
        report("W^X", fmt::format("{:#x} may be written through one alias and executed through another", pa), pa);
    }
}

/// What a walk may find now, and what may be cached.
void Machine::collect_rights(std::uint64_t va, Rights& rights) {
    if (!installed_) return;
    collect_rights(root_, config_.regime.root_level(), va, rights);
    const auto it = stale_.find(region_of(va));
    if (it == stale_.end()) return;
    for (const StaleLeaves& s : it->second.leaves) {
        if (va - s.va >= s.size || (s.cpus & on_map_) == 0) continue;
        rights.write = rights.write || s.access.writable;
        rights.execute = rights.execute || s.access.executable;
    }
}

void Machine::collect_rights(std::uint64_t table, int level, std::uint64_t va, Rights& rights) {
    const Regime& r = config_.regime;
    const Page& p = page(table);
    const unsigned index = static_cast<unsigned>(va >> r.shift(level)) & (r.entries(level) - 1);
    for (unsigned version = 0; version < (p.older.empty() || p.older[index] == p.words[index] ? 1u : 2u); ++version) {
        const Entry entry = r.decode(level, version == 0 ? p.words[index] : p.older[index]);
        if (entry.kind == Entry::Kind::table) {
            collect_rights(entry.pa, level + 1, va, rights);
        } else if (entry.kind == Entry::Kind::leaf) {
            rights.write = rights.write || entry.access.writable;
            rights.execute = rights.execute || entry.access.executable;
        }
    }
}

/// Everything that an entry makes reachable.
void Machine::check_visible(const Entry& entry, std::uint64_t va, int level) {
    switch (entry.kind) {
    case Entry::Kind::malformed: report("descriptor", fmt::format("{} at {:#x}", entry.problem, va), pa_of(va)); break;
    case Entry::Kind::empty:
        if (const auto where = reference_.present_in({PhysAddr{pa_of(va)}, config_.regime.bytes(level)})) {
            report("P1 translation", fmt::format("nothing is mapped at {:#x}, which is RAM", where->value()),
                   where->value());
        }
        break;
    case Entry::Kind::invalid:
    case Entry::Kind::leaf: {
        const LeafRun run = run_of(entry, va, level);
        check_leaves(run, entry, va);
        if (entry.access.valid) check_conflicts(run);
        break;
    }
    case Entry::Kind::table: link(entry.pa, va, level + 1); break;
    }
}

/// A leaf becomes visible beside leaves that may still be cached: of another size only where everybody tolerates that,
/// of another memory type or address space never.
void Machine::check_conflicts(const LeafRun& run) {
    if (quiescent_) return;
    for (std::uint64_t region = region_of(run.va); region <= region_of(run.va + run.size - 1); ++region) {
        const auto it = stale_.find(region);
        if (it == stale_.end()) continue;
        for (const StaleLeaves& s : it->second.leaves) {
            if (!overlap(s.va, s.size, run.va, run.size)) continue;
            if (config_.regime.breaks_before_makes && s.access.must_break_for(run.access)) {
                report("break-before-make",
                       fmt::format("'{}' at {:#x} while '{}' may still be cached", describe(run.access), run.va,
                                   describe(s.access)),
                       pa_of(run.va));
            }
            if (s.unit_shift != run.unit_shift && config_.regime.sizes_mix_if_alike && !(s.access == run.access)) {
                report("mixed sizes",
                       fmt::format("'{}' at {:#x} while '{}' of another size may still be cached", describe(run.access),
                                   run.va, describe(s.access)),
                       pa_of(run.va));
            }
            if (s.unit_shift != run.unit_shift && any_intolerant(s.cpus & on_map_)) {
                report("P8 gate",
                       fmt::format("leaves of {} and {} bytes may both be cached at {:#x} on a CPU that takes a "
                                   "conflict abort",
                                   std::uint64_t{1} << s.unit_shift, std::uint64_t{1} << run.unit_shift, run.va),
                       pa_of(run.va));
            }
        }
    }
}

/// P2 and P1 for everything that may be cached of a range.
void Machine::check_stale(PhysRange range) {
    const std::uint64_t va = range.start.value() + config_.offset, last = va + range.size - 1;
    for (std::uint64_t region = region_of(va); region <= region_of(last); ++region) {
        const auto it = stale_.find(region);
        if (it == stale_.end()) continue;
        for (const StaleLeaves& s : it->second.leaves) {
            const std::uint64_t from = std::max(va, s.va), to = std::min(last, s.va + s.size - 1);
            if (from > to || (s.cpus & on_map_) == 0) continue;
            if (const auto where = reference_.forbids({PhysAddr{pa_of(from)}, to - from + 1}, s.access)) {
                report("P2 tightening",
                       fmt::format("CPU mask {:#x} may still use '{}' for {:#x}", s.cpus & on_map_, describe(s.access),
                                   where->value()),
                       where->value());
                return;
            }
        }
    }
}

/// The entries of a contiguous group, all values that a walk may see: where one carries the bit, all must agree.
void Machine::check_group(const Ref& ref, std::uint64_t table, unsigned index) {
    const Regime& r = config_.regime;
    const unsigned group = r.group(ref.level);
    if (group == 1) return;
    constexpr std::uint64_t contiguous_bit = std::uint64_t{1} << 52;
    const Page& p = page(table);
    const unsigned first = index & ~(group - 1);
    std::uint64_t any = 0;
    for (unsigned i = first; i < first + group; ++i) {
        any |= p.words[i];
        if (!p.older.empty()) any |= p.older[i];
    }
    if ((any & contiguous_bit) == 0) return;
    bool has_bit = false, has_other = false;
    Access common{};
    bool has_common = false;
    for (unsigned i = first; i < first + group; ++i) {
        for (unsigned version = 0; version < (p.older.empty() || p.older[i] == p.words[i] ? 1u : 2u); ++version) {
            const Entry e = r.decode(ref.level, version == 0 ? p.words[i] : p.older[i]);
            if (e.kind == Entry::Kind::invalid || e.kind == Entry::Kind::malformed) continue;
            if (e.kind != Entry::Kind::leaf) {
                has_other = true;
                continue;
            }
            has_bit = has_bit || e.contiguous;
            if (has_common && !(e.access == common)) has_other = true;
            common = e.access;
            has_common = true;
        }
    }
    if (has_bit && has_other) {
        report("contiguous group",
               fmt::format("members of the group at {:#x} disagree while the contiguous bit may be seen",
                           ref.va + (std::uint64_t{first} << r.shift(ref.level))),
               pa_of(ref.va + (std::uint64_t{first} << r.shift(ref.level))));
    }
}

// ---- what changes when a word changes
// -----------------------------------------------------------------------------------

/// The page is about to be written: until a barrier, walks may see what it holds now.
void Machine::mark_unpublished(std::uint64_t table, Page& p) {
    if (p.older.empty()) p.older = p.words;
    p.released_by &= ~(std::uint64_t{1} << cpu_);
    if ((p.unpublished_by >> cpu_ & 1) != 0) return;
    if (p.unpublished_by != 0 && p.writers.empty()) { // the second CPU: from now on it matters whose each store is
        const auto first = static_cast<std::uint8_t>(std::countr_zero(p.unpublished_by) + 1);
        p.writers.assign(p.words.size(), 0);
        for (unsigned i = 0; i < p.words.size(); ++i) {
            if (p.older[i] != p.words[i]) p.writers[i] = first;
        }
    }
    p.unpublished_by |= std::uint64_t{1} << cpu_;
    unpublished_pages_[cpu_].push_back(table);
}

/// The current CPU's stores into the page are visible to every walk from now on.
void Machine::publish_words(Page& p) {
    p.unpublished_by &= ~(std::uint64_t{1} << cpu_);
    p.seen.clear();
    if (p.unpublished_by == 0) {
        p.older = {};
        p.writers.clear();
        return;
    }
    for (unsigned i = 0; i < p.writers.size(); ++i) {
        if (p.writers[i] != cpu_ + 1) continue;
        p.older.set(i, p.words[i]);
        p.writers[i] = 0;
    }
}

/// Whether another CPU's unpublished store may still be missed by a load of this CPU.
bool Machine::unpublished_by_other(const Page& p, unsigned index) const {
    if (p.older.empty() || p.older[index] == p.words[index]) return false;
    const unsigned writer = p.writers.empty() ? static_cast<unsigned>(std::countr_zero(p.unpublished_by))
                                              : static_cast<unsigned>(p.writers[index]) - 1;
    return writer != cpu_ && (p.released_by >> writer & 1) == 0;
}

void Machine::write_word(std::uint64_t table, Page& p, unsigned index, std::uint64_t value) {
    mark_unpublished(table, p);
    touch_word(table, index, true);
    const std::uint64_t old = p.words[index];
    p.words.set(index, value);
    if (!p.writers.empty()) p.writers[index] = static_cast<std::uint8_t>(cpu_ + 1);
    if (p.refs.empty()) return;
    const std::vector<Ref> refs = p.refs; // a change may add and remove some
    for (const Ref& ref : refs) changed(ref, table, index, old, value);
}

void Machine::changed(const Ref& ref, std::uint64_t table, unsigned index, std::uint64_t old_word,
                      std::uint64_t new_word) {
    const Regime& r = config_.regime;
    const std::uint64_t va = ref.va + (std::uint64_t{index} << r.shift(ref.level));
    const Entry old = r.decode(ref.level, old_word), now = r.decode(ref.level, new_word);
    if (!ref.live) {
        // Reached through a table pointer that may be cached: whatever it says now, a walk may return.
        if (now.kind == Entry::Kind::malformed || now.kind == Entry::Kind::table) {
            report("P7 reclaim",
                   fmt::format("the table at {:#x} is rewritten while walk caches may still point to it", table),
                   table);
        } else {
            check_visible(now, va, ref.level);
        }
        return;
    }
    // The owner of a pinned page may flip its valid bit without the lock (directmap/flip.hpp).
    constexpr std::uint64_t valid_bit = 1, pinned_bit = std::uint64_t{1} << 55;
    if ((old_word ^ new_word) != valid_bit || (old_word & pinned_bit) == 0) check_lock(va);
    if (old_word == new_word) return;
    touch_regions(Touched::region, va, r.bytes(ref.level), true);
    touch_regions(Touched::reference, va, r.bytes(ref.level), false);
    // A resize must change nothing else. (Compared before the old entry is retired.)
    const bool was = old.kind == Entry::Kind::leaf || old.kind == Entry::Kind::table;
    const bool is = now.kind == Entry::Kind::leaf || now.kind == Entry::Kind::table;
    const bool tables = old.kind == Entry::Kind::table || now.kind == Entry::Kind::table;
    if (was && is && !quiescent_) {
        if (tables || old.contiguous != now.contiguous) {
            bool same = true;
            Access first{};
            bool has_first = false;
            const auto compare = [&](const LeafRun& run) {
                if (!has_first) first = run.access;
                same = same && run.access == first;
                has_first = true;
            };
            if (old.kind == Entry::Kind::leaf || now.kind == Entry::Kind::leaf) {
                for_each_run(old, va, ref.level, false, compare);
                for_each_run(now, va, ref.level, true, compare);
            } else {
                for_each_run(old, va, ref.level, false,
                             [&](const LeafRun&) {}); // table to table: leaves speak for themselves
                report("break-before-make", fmt::format("a table pointer at {:#x} is replaced by another", va),
                       pa_of(va));
            }
            if (!same) {
                report("break-before-make", fmt::format("a leaf at {:#x} changes size and something else at once", va),
                       pa_of(va));
            }
        } else if ((config_.regime.breaks_before_makes && old.access.must_break_for(now.access)) || old.pa != now.pa) {
            report("break-before-make",
                   fmt::format("'{}' becomes '{}' at {:#x} without a break", describe(old.access), describe(now.access),
                               va),
                   pa_of(va));
        }
    }
    if (old.kind == Entry::Kind::table && now.kind == Entry::Kind::leaf && !quiescent_)
        check_merge(run_of(now, va, ref.level));
    retire(old, va, ref.level);
    check_visible(now, va, ref.level);
    check_group(ref, table, index);
}

/// Rule 4 of the lock protocol: a larger leaf is put over smaller ones only once nobody uses what they said before.
void Machine::check_merge(const LeafRun& run) {
    const auto it = stale_.find(region_of(run.va));
    if (it == stale_.end()) return;
    for (const StaleLeaves& s : it->second.leaves) {
        if (!overlap(s.va, s.size, run.va, run.size) || s.access == run.access || (s.cpus & on_map_) == 0) continue;
        report("unflushed merge",
               fmt::format("'{}' of {} bytes is put at {:#x} while '{}' may still be cached there",
                           describe(run.access), run.size, run.va, describe(s.access)),
               pa_of(run.va));
        return;
    }
}

/// A table becomes reachable at `va`; everything behind it, published or not, may be walked from now on.
void Machine::link(std::uint64_t table, std::uint64_t va, int level) {
    Page& p = page(table);
    if (!p.owned) report("P7 reclaim", fmt::format("{:#x} is linked at {:#x} but is not a table", table, va), table);
    check_table_key(table);
    p.linked = true;
    p.refs.push_back({va, level, true});
    const unsigned shift = config_.regime.shift(level);
    const unsigned entries = config_.regime.entries(level);
    if (p.older.empty() && is_one_run(p.words, va, level)) { // groups agree, too
        const Entry first = config_.regime.decode(level, p.words[0]);
        LeafRun run = run_of(first, va, level);
        run.size = std::uint64_t{entries} << shift;
        check_leaves(run, first, va);
        if (first.access.valid) check_conflicts(run);
        return;
    }
    LeafRun open;
    Entry open_entry;
    std::uint64_t open_va = 0;
    const auto settle_open = [&] {
        if (open.size != 0) {
            check_leaves(open, open_entry, open_va);
            if (open_entry.access.valid) check_conflicts(open);
        }
        open.size = 0;
    };
    const auto look = [&](std::uint64_t word, unsigned i) {
        const Entry e = config_.regime.decode(level, word);
        const std::uint64_t entry_va = va + (std::uint64_t{i} << shift);
        if (!e.is_leaf()) {
            settle_open();
            check_visible(e, entry_va, level);
            return;
        }
        const LeafRun run = run_of(e, entry_va, level);
        // Neighbours that continue one another are judged together.
        const bool runs_on = e.pa - open_entry.pa == entry_va - open_va;
        if (open.size != 0 && runs_on && open.unit_shift == run.unit_shift && open.access == run.access) {
            open.size = std::max(open.size, run.va - open.va + run.size);
            return;
        }
        settle_open();
        open = run;
        open_entry = e;
        open_va = entry_va;
    };
    for (unsigned i = 0; i < entries; ++i) {
        look(p.words[i], i);
        if (!p.older.empty() && p.older[i] != p.words[i]) look(p.older[i], i);
    }
    settle_open();
    if (level >= config_.regime.first_block_level) {
        for (unsigned i = 0; i < entries; i += config_.regime.group(level)) check_group({va, level, true}, table, i);
    }
}

/// An entry is being replaced: what it said may be cached, and until the store is published may still be walked.
void Machine::retire(const Entry& old, std::uint64_t va, int level) {
    if (on_map_ == 0) return;
    for_each_run(old, va, level, true, [&](const LeafRun& run) { add_stale(run, false); });
    if (old.kind == Entry::Kind::table) add_stale_table(old.pa, va, level + 1);
}

void Machine::add_stale(const LeafRun& run, bool published) {
    const std::uint64_t region = region_of(run.va);
    auto& leaves = stale_[region].leaves;
    const int by = published ? -1 : static_cast<int>(cpu_);
    for (StaleLeaves& s : leaves) {
        if (s.unit_shift != run.unit_shift || s.level != run.level || !(s.access == run.access) || s.cpus != on_map_ ||
            s.unpublished_by != by) {
            continue;
        }
        if (run.va - s.va < s.size && run.va - s.va + run.size <= s.size) return;
        if (s.va + s.size == run.va && !published) {
            s.size += run.size;
            return;
        }
    }
    leaves.push_back({run.va, run.size, run.unit_shift, run.descriptor_shift, run.level, run.access, on_map_, by, 0});
    if (!published) unpublished_regions_[cpu_].push_back(region);
}

void Machine::add_stale_table(std::uint64_t table, std::uint64_t va, int level) {
    Page& p = page(table);
    for (Ref& ref : p.refs) {
        if (ref == Ref{va, level, true}) {
            ref.live = false;
            break;
        }
    }
    const std::uint64_t region = region_of(va);
    stale_[region].tables.push_back(
        {va, config_.regime.bytes(level - 1), level, table, on_map_, static_cast<int>(cpu_), 0});
    unpublished_regions_[cpu_].push_back(region);
    if (level == 3) return;
    for (unsigned i = 0; i < p.words.size(); ++i) {
        const Entry e = config_.regime.decode(level, p.words[i]);
        if (e.kind == Entry::Kind::table)
            add_stale_table(e.pa, va + (std::uint64_t{i} << config_.regime.shift(level)), level + 1);
    }
}

void Machine::drop_stale_table(const StaleTable& stale) {
    Page& p = page(stale.table);
    const auto it = std::find(p.refs.begin(), p.refs.end(), Ref{stale.va, stale.level, false});
    if (it != p.refs.end()) p.refs.erase(it);
}

// ---- the scenario's side
// --------------------------------------------------------------------------------------------------

void Machine::enter(unsigned cpu, std::uint64_t root) {
    const unsigned current = cpu_;
    cpu_ = cpu;
    Event e;
    e.call = "install";
    e.table = root;
    event(e, {});
    if (!installed_) {
        root_ = root;
        installed_ = true;
        on_map_ |= std::uint64_t{1} << cpu;
        const std::uint64_t half = config_.regime.va_bits;
        const auto first = reference_.pages().begin();
        const std::uint64_t va = first == reference_.pages().end() ? 0 : first->first + config_.offset;
        link(root, va >> half << half, config_.regime.root_level());
    } else {
        if (root != root_) report("machine", "a CPU enters with another root", root);
        on_map_ |= std::uint64_t{1} << cpu;
        for (auto& [region, stale] : stale_) { // unpublished stores: the newcomer may walk the old words too
            for (StaleLeaves& s : stale.leaves) {
                if (s.unpublished_by < 0) continue;
                s.cpus |= std::uint64_t{1} << cpu;
                if (bbm_[cpu] >= 3 || fresh_unit_shift(s.va) == s.unit_shift) continue;
                report("P8 gate",
                       fmt::format("CPU {}, which takes conflict aborts, enters while a leaf at {:#x} is being resized",
                                   cpu, s.va),
                       pa_of(s.va));
            }
            for (StaleTable& s : stale.tables) {
                if (s.unpublished_by >= 0) s.cpus |= std::uint64_t{1} << cpu;
            }
        }
    }
    cpu_ = current;
}

/// log2 of the leaf that the tables hold for `va` now; 0 if none.
unsigned Machine::fresh_unit_shift(std::uint64_t va) {
    const Regime& r = config_.regime;
    std::uint64_t table = root_;
    for (int level = r.root_level();; ++level) {
        const unsigned index = static_cast<unsigned>(va >> r.shift(level)) & (r.entries(level) - 1);
        const Entry entry = r.decode(level, page(table).words[index]);
        if (entry.is_leaf()) return run_of(entry, va, level).unit_shift;
        if (entry.kind != Entry::Kind::table) return 0;
        table = entry.pa;
    }
}

void Machine::leave(unsigned cpu) {
    const unsigned current = std::exchange(cpu_, cpu);
    scenario_event("leave");
    cpu_ = current;
    const std::uint64_t bit = std::uint64_t{1} << cpu;
    on_map_ &= ~bit;
    for (auto& [region, stale] : stale_) {
        for (StaleLeaves& s : stale.leaves) s.cpus &= ~bit;
        for (StaleTable& s : stale.tables) {
            s.cpus &= ~bit;
            if (s.cpus == 0) drop_stale_table(s);
        }
        std::erase_if(stale.leaves, [](const StaleLeaves& s) { return s.cpus == 0; });
        std::erase_if(stale.tables, [](const StaleTable& s) { return s.cpus == 0; });
    }
}

void Machine::begin_quiescence() {
    scenario_event("begin_quiescence");
    quiescent_ = true;
}

void Machine::end_quiescence() {
    scenario_event("end_quiescence");
    quiescent_ = false;
    // Everything that is visible now must agree with everything that may still be cached.
    for (const auto& [start, pages] : reference_.pages()) check_stale({PhysAddr{start}, pages.end - start});
    if (!any_intolerant(on_map_)) return;
    Entry root;
    root.kind = Entry::Kind::table;
    root.pa = root_;
    const Page& p = page(root_);
    if (p.refs.empty()) return;
    for_each_run(root, p.refs.front().va, config_.regime.root_level() - 1, true,
                 [&](const LeafRun& run) { check_conflicts(run); });
}

unsigned Machine::begin_change(PhysRange range, Effect effect, bool breaks, const std::string& name,
                               const std::string& change) {
    yield("begin");
    touch_regions(Touched::reference, range.start.value() + config_.offset, range.size, true);
    const unsigned id = next_operation_++;
    operation_ranges_[id] = range;
    reference_.begin(id, range, std::move(effect), breaks, !change.empty());
    Event e;
    e.call = "begin";
    e.operation = id;
    e.va = range.start.value() + config_.offset;
    e.size = range.size;
    e.text = name;
    e.change = change;
    event(e, {});
    return id;
}

void Machine::end_change(unsigned id, Outcome outcome) {
    const PhysRange range = operation_ranges_.at(id);
    operation_ranges_.erase(id);
    touch_regions(Touched::reference, range.start.value() + config_.offset, range.size, true);
    touch_regions(Touched::region, range.start.value() + config_.offset, range.size, true);
    Event e;
    e.call = "end";
    e.operation = id;
    e.text = outcome == Outcome::done ? "done" : outcome == Outcome::deferred ? "deferred" : "failed";
    event(e, {});
    if (outcome == Outcome::failed) {
        reference_.fail(id);
    } else {
        reference_.succeed(id, outcome == Outcome::deferred);
    }
    verify(range);
    check_stale(range);
}

void Machine::deferred_flushed(PhysRange range) {
    scenario_event("flushed", range);
    touch_regions(Touched::reference, range.start.value() + config_.offset, range.size, true);
    touch_regions(Touched::region, range.start.value() + config_.offset, range.size, true);
    reference_.flushed(range);
    check_stale(range);
}

void Machine::set_granules(PhysRange range, bool shared) {
    scenario_event("host", range, shared ? "shared" : "private");
    // Keep maximal disjoint ranges: cut what overlaps, then insert.
    std::uint64_t start = range.start.value(), end = range.end().value();
    auto it = shared_granules_.lower_bound(start);
    if (it != shared_granules_.begin() && std::prev(it)->second >= start) --it;
    while (it != shared_granules_.end() && it->first <= end) {
        const auto [s, e] = *it;
        it = shared_granules_.erase(it);
        if (shared) {
            start = std::min(start, s);
            end = std::max(end, e);
        } else {
            if (s < start) shared_granules_[s] = start;
            if (e > end) shared_granules_[end] = e;
        }
    }
    if (shared) shared_granules_[start] = end;
    // What may be used of the range must not contradict the host's new view.
    for (const bool write : {false}) {
        for (std::uint64_t pa = range.start.value(); pa < range.end().value();
             pa += std::uint64_t{1} << config_.regime.page_shift) {
            const Reference::Pages* pages = reference_.find(PhysAddr{pa});
            if (pages == nullptr) continue;
            for (const Access& a : pages->allowed) {
                if (a.valid && a.shared != shared) {
                    report("realm", fmt::format("the host changes {:#x} while '{}' may be used", pa, describe(a)), pa);
                    return;
                }
            }
            (void)write;
        }
    }
}

void Machine::verify(PhysRange range) {
    const Regime& r = config_.regime;
    if (!installed_) return;
    const Words* words = nullptr; // of the table at hand, until the address `beyond`
    std::uint64_t beyond = 0;
    int level = 0;
    for (std::uint64_t pa = range.start.value(); pa < range.end().value();) {
        const std::uint64_t va = pa + config_.offset;
        if (va >= beyond) {
            words = &page(root_).words;
            level = r.root_level();
        }
        Entry e;
        std::uint64_t size = 0; // of what the entry, or a table of entries that say the same, maps from `start` on
        std::uint64_t start = 0;
        for (;; ++level) {
            const unsigned index = static_cast<unsigned>(va >> r.shift(level)) & (r.entries(level) - 1);
            e = r.decode(level, (*words)[index]);
            start = align_to(va, r.shift(level));
            size = r.bytes(level);
            if (e.kind == Entry::Kind::table) {
                words = &page(e.pa).words;
                beyond = start + size;
                continue;
            }
            const std::uint64_t table_start = start - index * size;
            if (is_one_run(*words, table_start, level)) size *= r.entries(level) - index;
            break;
        }
        const std::uint64_t next = std::min(start + size - config_.offset, range.end().value());
        for (std::uint64_t at = pa; at < next;) {
            const Reference::Pages* pages = reference_.find(PhysAddr{at});
            if (pages == nullptr) {
                if (e.kind != Entry::Kind::empty)
                    report("P3 neighbours", fmt::format("{:#x} is mapped but is no RAM", at), at);
                const auto mapped = reference_.mapped_in({PhysAddr{at}, next - at});
                at = mapped ? mapped->value() : next;
                continue;
            }
            const std::uint64_t until = std::min(pages->end, next);
            if (pages->base.size() > 1 && pages->in_flight.empty() && e.is_leaf()) {
                const auto& base = pages->base;
                if (std::find(base.begin(), base.end(), e.access) != base.end()) {
                    reference_.settle({PhysAddr{at}, until - at}, e.access);
                    pages = reference_.find(PhysAddr{at});
                }
            }
            const auto& states = pages->in_flight.empty() ? pages->base : pages->allowed;
            const Access found = e.kind == Entry::Kind::empty ? hole() : e.access;
            const bool ok = (e.is_leaf() || e.kind == Entry::Kind::empty) &&
                            std::find(states.begin(), states.end(), found) != states.end();
            if (!ok) {
                report("P1 translation",
                       fmt::format("{:#x} is '{}' but should be '{}'", at,
                                   e.is_leaf() ? describe(e.access) : "not mapped", describe(states.front())),
                       at);
                return;
            }
            if (e.is_leaf() && e.pa + (at + config_.offset - start) != leads_to(at)) {
                report("P1 translation", fmt::format("{:#x} leads elsewhere", at), at);
                return;
            }
            at = until;
        }
        pa = next;
    }
}

Machine::Reach Machine::reach(unsigned cpu, PhysAddr pa, bool write, bool execute) const {
    Reach reach;
    const auto consider = [&](const Access& a) {
        const bool key_allows =
            !write || !keys_in_force_ || a.key != config_.table_key || (key_registers_[cpu] & write_bit()) != 0;
        const bool ok = a.valid && (!write || a.writable) && (!execute || a.executable) && key_allows;
        (ok ? reach.may_succeed : reach.may_fault) = true;
    };
    const Reference::Pages* pages = reference_.find(pa);
    if (pages == nullptr) return {false, true};
    // Fresh walks show one of the states that the reference allows (checked as they arise); caches may hold more.
    for (const Access& a : pages->allowed) consider(a);
    const std::uint64_t va = pa.value() + config_.offset;
    const auto it = stale_.find(region_of(va));
    if (it != stale_.end()) {
        for (const StaleLeaves& s : it->second.leaves) {
            if (s.va <= va && va - s.va < s.size && (s.cpus >> cpu & 1) != 0) consider(s.access);
        }
    }
    return reach;
}

bool Machine::walks_in_flight_since(std::uint64_t issued) const {
    return std::any_of(walks_.begin(), walks_.end(), [&](const WalkInFlight& walk) { return walk.began < issued; });
}

Entry Machine::hardware_walk(PhysAddr pa, Where where) {
    const Regime& r = config_.regime;
    const std::uint64_t va = pa.value() + config_.offset;
    std::uint64_t table = root_;
    int level = r.root_level();
    yield("hardware_walk");
    const std::uint64_t began = ++sequence_;
    const unsigned on = cpu_;
    walks_.push_back({on, began});
    touch(Touched::walkers, hardware_walks, true);
    Entry entry;
    for (;; ++level) {
        Page& p = page(table);
        const unsigned index = static_cast<unsigned>(va >> r.shift(level)) & (r.entries(level) - 1);
        // Whichever word it reads: it may end here, and a barrier may have waited for that.
        touch(Touched::page, table, false);
        touch_word(table, index, false);
        touch(Touched::walkers, hardware_walks, true);
        touch_expectations({pa, 1}, true);
        std::uint64_t word = p.words[index];
        const bool unpublished = !p.older.empty() && p.older[index] != word;
        if (unpublished && scheduler_ != nullptr && scheduler_->choose("hardware_walk", 2) == 1) word = p.older[index];
        entry = r.decode(level, word);
        Event e;
        e.call = "hardware_walk";
        e.table = table;
        e.index = index;
        e.count = 1;
        e.value = word;
        e.va = va;
        event(e, where);
        if (!p.owned) {
            report("P7 reclaim",
                   fmt::format("a walk in flight on CPU {} reads {:#x}, which is not a table any more", on, table),
                   pa.value());
            break;
        }
        if (entry.kind != Entry::Kind::table) break;
        table = entry.pa;
        yield("hardware_walk");
    }
    std::erase_if(walks_, [&](const WalkInFlight& walk) { return walk.cpu == on && walk.began == began; });
    if (entry.is_leaf()) {
        check_leaves(run_of(entry, va, level), entry, align_to(va, r.shift(level)));
    } else {
        report("P1 translation", fmt::format("a walk for {:#x} on CPU {} ends at no leaf", va, on), pa.value());
    }
    return entry;
}

std::string Machine::explain(std::uint64_t table, std::uint64_t word) const {
    const auto p = pages_.find(table);
    if (p == pages_.end() || p->second.refs.empty()) return fmt::format("{:#x}", word);
    const int level = p->second.refs.front().level;
    const Entry e = config_.regime.decode(level, word);
    switch (e.kind) {
    case Entry::Kind::empty: return "nothing";
    case Entry::Kind::malformed: return e.problem;
    case Entry::Kind::table: return fmt::format("table {:#x}", e.pa);
    case Entry::Kind::invalid:
    case Entry::Kind::leaf: break;
    }
    return fmt::format("'{}' {} bytes{}", describe(e.access), config_.regime.bytes(level),
                       e.contiguous ? " contiguous" : "");
}

bool Machine::is_table(std::uint64_t table, std::uint64_t word) const {
    const auto p = pages_.find(table);
    if (p == pages_.end() || p->second.refs.empty()) return false;
    return config_.regime.decode(p->second.refs.front().level, word).kind == Entry::Kind::table;
}

void Machine::for_each_word(const std::function<void(std::uint64_t, unsigned, std::uint64_t)>& visit) const {
    const auto visit_table = [&](const auto& self, std::uint64_t table, int level) -> void {
        const auto p = pages_.find(table);
        if (p == pages_.end()) return;
        for (unsigned i = 0; i < config_.regime.entries(level); ++i) {
            const std::uint64_t word = p->second.words[i];
            visit(table, i, word);
            const Entry e = config_.regime.decode(level, word);
            if (e.kind == Entry::Kind::table) self(self, e.pa, level + 1);
        }
    };
    if (installed_) visit_table(visit_table, root_, config_.regime.root_level());
}

std::size_t Machine::stale_entries() const {
    std::size_t n = 0;
    for (const auto& [region, stale] : stale_) n += stale.leaves.size() + stale.tables.size();
    return n;
}

// ---- the platform's side
// ----------------------------------------------------------------------------------------------------

std::uint64_t Machine::load(std::uint64_t table, unsigned index, Where where) {
    yield("load");
    Page& p = own_page(table, false);
    touch_word(table, index, false);
    std::uint64_t word = p.words[index];
    if (scheduler_ != nullptr && unpublished_by_other(p, index)) {
        // Nothing makes this CPU see the store yet, unless it has seen it before.
        auto seen = std::find_if(p.seen.begin(), p.seen.end(), [&](const auto& s) { return s.first == index; });
        if (seen == p.seen.end()) seen = p.seen.insert(seen, {index, 0});
        if ((seen->second >> cpu_ & 1) == 0) {
            if (scheduler_->choose("load", 2) == 1) {
                word = p.older[index];
            } else {
                seen->second |= std::uint64_t{1} << cpu_;
            }
        }
    }
    Event e;
    e.call = "load";
    e.table = table;
    e.index = index;
    e.count = 1;
    e.value = word;
    event(e, where);
    return word;
}

void Machine::store(std::uint64_t table, unsigned index, std::uint64_t value, Where where) {
    yield("store");
    Event e;
    e.call = "store";
    e.order = "relaxed";
    e.table = table;
    e.index = index;
    e.count = 1;
    e.value = value;
    event(e, where);
    write_word(table, own_page(table, true), index, value);
}

void Machine::fill(std::uint64_t table, unsigned first, unsigned count, std::uint64_t value, std::uint64_t step,
                   Where where) {
    yield("fill");
    Event e;
    e.call = "fill";
    e.order = "plain";
    e.table = table;
    e.index = first;
    e.count = count;
    e.value = value;
    e.step = step;
    event(e, where);
    if (Page& fresh = page(table); !fresh.filled) {
        fresh.taker = cpu_;
        fresh.filled = true;
    }
    Page& p = own_page(table, true);
    for (const Ref& ref : p.refs) {
        if (ref.live) {
            report("P1 translation",
                   fmt::format("a plain fill of the table at {:#x}, which is linked at {:#x}", table, ref.va), table);
            break;
        }
    }
    if (count == p.words.size() && p.refs.empty()) { // nobody sees it: all at once
        mark_unpublished(table, p);
        p.words = Words{count, value, step};
        return;
    }
    for (unsigned i = 0; i < count; ++i) write_word(table, p, first + i, value + i * step);
}

void Machine::update(std::uint64_t table, unsigned first, unsigned count, std::uint64_t clear, std::uint64_t set,
                     Where where) {
    for (unsigned i = first; i < first + count; ++i) {
        yield("update"); // each descriptor is a store of its own
        Event e;
        e.call = "update";
        e.order = "relaxed";
        e.table = table;
        e.index = i;
        e.count = 1;
        Page& p = own_page(table, true);
        e.value = (p.words[i] & ~clear) | set;
        event(e, where);
        write_word(table, p, i, e.value);
    }
}

void Machine::summarize(std::uint64_t table, unsigned first, unsigned count, std::uint64_t expected, std::uint64_t step,
                        std::uint64_t& any, std::uint64_t& all, Where where) {
    yield("summarize");
    const Page& p = own_page(table, false);
    Event e;
    e.call = "summarize";
    e.table = table;
    e.index = first;
    e.count = count;
    e.value = expected;
    e.step = step;
    event(e, where);
    any = 0;
    all = ~std::uint64_t{0};
    for (unsigned i = 0; i < count; ++i) {
        touch_word(table, first + i, false);
        const std::uint64_t difference = p.words[first + i] ^ (expected + i * step);
        any |= difference;
        all &= difference;
    }
}

void Machine::barrier(const char* name, bool completes_invalidations, Where where) {
    const bool waits = completes_invalidations && !invalidations_[cpu_].empty() && config_.invalidation_waits_for_walks;
    if (waits && scheduler_ != nullptr) {
        const std::uint64_t issued = invalidations_[cpu_].back().issued;
        scheduler_->wait(name, [this, issued] { return !walks_in_flight_since(issued); });
    } else {
        yield(name);
    }
    Event e;
    e.call = name;
    e.order = completes_invalidations ? "DSB ISH" : "DSB ISHST";
    event(e, where);
    for (const std::uint64_t pa : unpublished_pages_[cpu_]) {
        touch(Touched::page, pa, true);
        publish_words(page(pa));
    }
    unpublished_pages_[cpu_].clear();
    for (const std::uint64_t region : unpublished_regions_[cpu_]) {
        touch(Touched::region, region, true);
        RegionStale& stale = stale_[region];
        for (StaleLeaves& s : stale.leaves) {
            if (s.unpublished_by == static_cast<int>(cpu_)) s.unpublished_by = -1, s.settled = sequence_;
        }
        for (StaleTable& s : stale.tables) {
            if (s.unpublished_by == static_cast<int>(cpu_)) s.unpublished_by = -1, s.settled = sequence_;
        }
    }
    unpublished_regions_[cpu_].clear();
    if (!completes_invalidations) return;
    for (const PendingInvalidation& invalidation : invalidations_[cpu_]) {
        touch_invalidation(invalidation);
        apply(invalidation);
    }
    invalidations_[cpu_].clear();
}

void Machine::context_barrier(Where where) {
    yield("barrier_context");
    Event e;
    e.call = "barrier_context";
    e.order = "ISB";
    event(e, where);
}

void Machine::invalidate(std::uint64_t va, std::uint64_t size, InvalidationScope scope, std::uint64_t targets,
                         Where where) {
    yield("invalidate");
    Event e;
    e.call = size == 0                                               ? "invalidate_all"
             : size == std::uint64_t{1} << config_.regime.page_shift ? "invalidate"
                                                                     : "invalidate_range";
    e.va = va;
    e.size = size;
    e.scope = scope;
    e.targets = targets;
    event(e, where);
    invalidations_[cpu_].push_back({va, size, scope, targets, sequence_});
    touch_invalidation(invalidations_[cpu_].back());
}

void Machine::touch_invalidation(const PendingInvalidation& inv) const {
    if (scheduler_ == nullptr) return;
    touch(Touched::walkers, hardware_walks, false);
    if (inv.size != 0) {
        touch_regions(Touched::region, inv.va, inv.size, true);
        return;
    }
    const auto& pages = reference_.pages();
    if (pages.empty()) return;
    const std::uint64_t start = pages.begin()->first, end = pages.rbegin()->second.end;
    touch_regions(Touched::region, start + config_.offset, end - start, true);
}

/// An invalidation has completed: it removes what had settled before it was issued.
void Machine::apply(const PendingInvalidation& inv) {
    const auto apply_to = [&](RegionStale& stale) {
        std::vector<StaleLeaves> kept;
        for (const StaleLeaves& s : stale.leaves) {
            const bool all = inv.size == 0;
            const bool hit = (all || overlap(inv.va, inv.size, s.va, s.size)) && s.unpublished_by < 0 &&
                             s.settled < inv.issued && (s.cpus & inv.targets) != 0 &&
                             (inv.scope.level == InvalidationScope::any_level || inv.scope.level == s.level);
            if (!hit) {
                kept.push_back(s);
                continue;
            }
            // A leaf is hit as a whole, but a contiguous group may be cached descriptor by descriptor.
            const unsigned shift = s.descriptor_shift;
            const std::uint64_t last = align_to(inv.va + inv.size - 1, shift);
            // As distances from the first leaf.
            const std::uint64_t from = all || inv.va < s.va ? 0 : align_to(inv.va, shift) - s.va;
            const std::uint64_t to = all ? s.size : std::min(s.size, last - s.va + (std::uint64_t{1} << shift));
            const auto keep = [&](std::uint64_t start, std::uint64_t stop, std::uint64_t cpus, bool whole_units) {
                if (start >= stop || cpus == 0) return;
                StaleLeaves rest = s;
                rest.va = s.va + start;
                rest.size = stop - start;
                rest.cpus = cpus;
                if (!whole_units) rest.unit_shift = shift;
                kept.push_back(rest);
            };
            const bool units = (from & ((std::uint64_t{1} << s.unit_shift) - 1)) == 0 &&
                               (to & ((std::uint64_t{1} << s.unit_shift) - 1)) == 0;
            keep(0, from, s.cpus, units);
            keep(to, s.size, s.cpus, units);
            keep(from, to, s.cpus & ~inv.targets, true);
        }
        stale.leaves = std::move(kept);
        if (inv.scope.leaves_only) return;
        std::erase_if(stale.tables, [&](StaleTable& s) {
            const bool hit = (inv.size == 0 || overlap(inv.va, inv.size, s.va, s.size)) && s.unpublished_by < 0 &&
                             s.settled < inv.issued && inv.scope.level == InvalidationScope::any_level;
            if (hit) s.cpus &= ~inv.targets;
            if (s.cpus != 0) return false;
            drop_stale_table(s);
            return true;
        });
    };
    if (inv.size == 0) {
        for (auto& [region, stale] : stale_) apply_to(stale);
        return;
    }
    const std::uint64_t first = region_of(inv.va), last = region_of(inv.va + inv.size - 1);
    if (last - first > stale_.size()) {
        for (auto& [region, stale] : stale_) {
            if (first <= region && region <= last) apply_to(stale);
        }
        return;
    }
    for (std::uint64_t region = first; region <= last; ++region) {
        const auto it = stale_.find(region);
        if (it != stale_.end()) apply_to(it->second);
    }
}

void Machine::acquire(Lock& lock, Where where) {
    if (scheduler_ != nullptr) {
        scheduler_->wait("acquire", [&lock] { return !lock.held; });
    } else if (lock.held) {
        report("lock protocol",
               fmt::format("CPU {} waits for a lock that CPU {} holds: nobody would release it", cpu_, lock.owner), 0);
    }
    touch_lock(lock);
    lock.held = true;
    lock.owner = cpu_;
    if (lock.id == 0) lock.id = next_lock_++;
    locks_held_[cpu_].push_back(&lock);
    Event e;
    e.call = "acquire";
    e.lock = lock.id;
    event(e, where);
}

void Machine::release(Lock& lock, Where where) {
    yield("release");
    touch_lock(lock);
    if (!lock.held || lock.owner != cpu_) report("lock protocol", "a lock is released by who doesn't hold it", 0);
    lock.held = false;
    std::erase(locks_held_[cpu_], &lock);
    // Who takes the lock next sees this CPU's stores, though table walks need not.
    for (const std::uint64_t pa : unpublished_pages_[cpu_]) page(pa).released_by |= std::uint64_t{1} << cpu_;
    Event e;
    e.call = "release";
    e.lock = lock.id;
    event(e, where);
}

/// Region locks are told apart by their region; all others count as one.
void Machine::touch_lock(const Lock& lock) const {
    if (scheduler_ == nullptr) return;
    for (const auto& [region, known] : region_locks_) {
        if (known == &lock) return touch(Touched::lock, region + 1, true);
    }
    touch(Touched::lock, 0, true);
}

std::optional<PhysAddr> Machine::region_of_lock(unsigned id) const {
    for (const auto& [region, known] : region_locks_) {
        if (known->id == id) return PhysAddr{(region << config_.regime.region_shift()) - config_.offset};
    }
    return std::nullopt;
}

bool Machine::take_table(std::uint64_t& pa, bool atomic, Where where) {
    yield("take_table");
    touch(Touched::source, 0, true);
    const bool none = tables_left == 0 || (free_tables_.empty() && next_table_ == config_.table_pool.start.value());
    if (none) {
        Event e;
        e.call = "take_table";
        e.text = atomic ? "none, atomic" : "none";
        event(e, where);
        return false;
    }
    if (!free_tables_.empty()) {
        pa = free_tables_.back();
        free_tables_.pop_back();
    } else {
        next_table_ -= std::uint64_t{1} << config_.regime.page_shift;
        pa = next_table_;
    }
    --tables_left;
    own_table(pa, where);
    return true;
}

void Machine::own_table(std::uint64_t pa, Where where) {
    Event e;
    e.call = "take_table";
    e.table = pa;
    event(e, where);
    if (!locks_held_[cpu_].empty()) report("lock protocol", "tables are taken with a lock held", pa);
    if (keys_in_force_ && may_write_tables())
        report("P9 protected tables", "tables are taken inside a write section", pa);
    touch(Touched::page, pa, true);
    ++tables_in_use_;
    Page& p = page(pa);
    if (p.owned) report("P4 all or nothing", fmt::format("the table {:#x} is handed out twice", pa), pa);
    p.owned = true;
    p.linked = false;
    p.taker = cpu_;
    p.filled = false;
    // What a recycled page may hold at worst: valid leaves and tables that lead elsewhere.
    const std::uint64_t page_size = std::uint64_t{1} << config_.regime.page_shift;
    p.words = Words{p.words.size(), 0x0060'0000'dead'0703 | page_size, page_size};
    p.older = {};
    p.unpublished_by = 0;
}

void Machine::give_table(std::uint64_t pa, Where where) {
    yield("give_table");
    touch(Touched::source, 0, true);
    disown_table(pa, where);
    ++tables_left;
    free_tables_.push_back(pa);
}

void Machine::disown_table(std::uint64_t pa, Where where) {
    touch(Touched::page, pa, true);
    Event e;
    e.call = "give_table";
    e.table = pa;
    event(e, where);
    Page& p = page(pa);
    if (!p.owned) report("P4 all or nothing", fmt::format("the table {:#x} is given back twice", pa), pa);
    for (const Ref& ref : p.refs) {
        report("P7 reclaim",
               fmt::format("the table {:#x} is given back while {} may still reach it at {:#x}", pa,
                           ref.live ? "every walk" : "a walk cache", ref.va),
               pa);
        break;
    }
    p.owned = false;
    --tables_in_use_;
}

/// P9: a page that is a table has the table key in every state that hardware may show, once keys are in force.
void Machine::check_table_key(std::uint64_t table) {
    if (!keys_in_force_) return;
    const Reference::Pages* pages = reference_.find(PhysAddr{table});
    bool ok = pages != nullptr;
    for (std::size_t i = 0; ok && i < pages->allowed.size(); ++i) ok = pages->allowed[i].key == config_.table_key;
    if (!ok)
        report("P9 protected tables", fmt::format("the table {:#x} may be mapped without the table key", table), table);
}

void Machine::enforce_keys() {
    keys_in_force_ = true;
    for (const auto& [pa, p] : pages_) {
        if (p.owned && !p.refs.empty()) check_table_key(pa);
    }
}

bool Machine::stray_write_faults(PhysAddr page) const {
    return !reference_.accessible(page, true, config_.table_key == 0 ? ~0u : ~(1u << config_.table_key));
}

void Machine::write_key_register(std::uint64_t value) {
    ++key_register_writes_;
    key_registers_[cpu_] = value;
}

bool Machine::begin_table_writes(Where where) {
    Event e;
    e.call = "begin_table_writes";
    event(e, where);
    const bool was_open = may_write_tables();
    if (!was_open) write_key_register(key_registers_[cpu_] | write_bit());
    return was_open;
}

void Machine::end_table_writes(bool was_open, Where where) {
    Event e;
    e.call = "end_table_writes";
    event(e, where);
    if (!was_open) write_key_register(key_registers_[cpu_] & ~write_bit());
}

std::uint64_t Machine::enter_exception() {
    return std::exchange(key_registers_[cpu_], closed_keys());
}

void Machine::leave_exception(std::uint64_t interrupted) {
    key_registers_[cpu_] = interrupted;
}

void Machine::walker(bool enter, Where where) {
    yield(enter ? "walker_enter" : "walker_exit");
    touch(Touched::walkers, walker_slots + cpu_, true);
    if (enter) touch(Touched::walkers, current_epoch, false);
    Event e;
    e.call = enter ? "walker_enter" : "walker_exit";
    event(e, where);
    if (enter) {
        epochs_.enter(cpu_);
    } else {
        epochs_.exit(cpu_);
    }
}

std::uint64_t Machine::grace_stamp(Where where) {
    yield("grace_stamp");
    touch(Touched::walkers, current_epoch, true);
    Event e;
    e.call = "grace_stamp";
    event(e, where);
    return epochs_.stamp();
}

bool Machine::grace_elapsed(std::uint64_t stamp, Where where) {
    yield("grace_elapsed");
    for (unsigned c = 0; c < config_.cpus; ++c) touch(Touched::walkers, walker_slots + c, false);
    Event e;
    e.call = "grace_elapsed";
    event(e, where);
    return epochs_.elapsed(stamp);
}

void Machine::relax(Where where) {
    if (scheduler_ != nullptr) scheduler_->pause();
    Event e;
    e.call = "relax";
    event(e, where);
}

} // namespace directmap::machine

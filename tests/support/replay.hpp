// A second judge: replays a record of events and looks at the tables after every single store. It shares nothing with
// the machine but the decoding of descriptors: no may-be-cached sets, no Reference. What it knows of the truth it reads
// from the record's own account of what each operation was to do.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "machine/events.hpp"
#include "machine/regime.hpp"

namespace directmap::test {

class Replay {
public:
    Replay(const machine::Regime& regime, std::uint64_t offset) : regime_{regime}, offset_{offset} {}

    /// RAM that is mapped from the start. Small machines only: every page is looked at after every store.
    void expect(PhysRange range, const machine::Access& access) {
        for (std::uint64_t pa = range.start.value(); pa < range.end().value(); pa += page_size()) truth_[pa] = access;
    }

    void operator()(const machine::Event& e) {
        const std::string_view call = e.call;
        if (call == "take_table" && e.table != 0) {
            tables_[e.table].assign(std::size_t{1} << regime_.index_bits, garbage);
        } else if (call == "store" || call == "update") {
            tables_.at(e.table).at(e.index) = e.value;
            look(e);
        } else if (call == "fill") {
            for (unsigned i = 0; i < e.count; ++i) tables_.at(e.table).at(e.index + i) = e.value + i * e.step;
            if (root_ != 0) look(e);
        } else if (call == "install" && root_ == 0) {
            root_ = e.table;
            look(e);
        } else if (call == "begin") {
            operation_ = Operation{e.operation, e.va - offset_, e.size, e.change};
        } else if (call == "end" && operation_ && operation_->id == e.operation) {
            if (e.text != "failed") {
                for (auto& [pa, access] : truth_) {
                    if (operation_->holds(pa)) access = operation_->apply(access);
                }
            }
            operation_.reset();
            look(e);
        }
    }

    [[nodiscard]] const std::string& problem() const { return problem_; }
    [[nodiscard]] std::uint64_t stores() const { return stores_; }
    /// The page as a walk finds it now.
    [[nodiscard]] std::optional<machine::Access> translation(std::uint64_t pa) const {
        const machine::Entry e = walk(pa);
        return e.is_leaf() && leads_to(e, pa) ? std::optional{e.access} : std::nullopt;
    }

private:
    static constexpr std::uint64_t garbage = 0x0060'0000'feed'0703;

    struct Operation {
        unsigned id = 0;
        std::uint64_t start = 0, size = 0;
        std::string change;

        [[nodiscard]] bool holds(std::uint64_t pa) const { return pa - start < size; }
        [[nodiscard]] bool breaks() const {
            return change.find("type=") != std::string::npos || change.find("shared=") != std::string::npos;
        }
        [[nodiscard]] machine::Access apply(machine::Access a) const {
            for (std::size_t at = 0; at < change.size();) {
                const std::size_t end = std::min(change.find(' ', at), change.size());
                const std::string_view word = std::string_view{change}.substr(at, end - at);
                const std::size_t equals = word.find('=');
                const std::string_view name = word.substr(0, equals);
                const unsigned value = static_cast<unsigned>(std::stoul(std::string{word.substr(equals + 1)}));
                if (name == "valid") a.valid = value != 0;
                if (name == "writable") a.writable = value != 0;
                if (name == "executable") a.executable = value != 0;
                if (name == "global") a.global = value != 0;
                if (name == "shared") a.shared = value != 0;
                if (name == "type") a.type = value & 7u;
                if (name == "key") a.key = value & 7u;
                at = end + 1;
            }
            return a;
        }
    };

    [[nodiscard]] std::uint64_t page_size() const { return std::uint64_t{1} << regime_.page_shift; }

    [[nodiscard]] machine::Entry walk(std::uint64_t pa) const {
        const std::uint64_t va = pa + offset_;
        std::uint64_t table = root_;
        for (int level = regime_.root_level();; ++level) {
            const auto found = tables_.find(table);
            if (found == tables_.end()) return {.kind = machine::Entry::Kind::malformed, .problem = "not a table"};
            const unsigned index = static_cast<unsigned>(va >> regime_.shift(level)) & (regime_.entries(level) - 1);
            machine::Entry e = regime_.decode(level, found->second[index]);
            if (e.kind != machine::Entry::Kind::table) {
                level_ = level;
                group_agrees_ = !e.contiguous || agrees(found->second, index, level, e);
                return e;
            }
            table = e.pa;
        }
    }
    /// The other members of the group that an entry with the contiguous bit belongs to, as far as they are valid.
    [[nodiscard]] bool agrees(const std::vector<std::uint64_t>& words, unsigned index, int level,
                              const machine::Entry& e) const {
        const unsigned group = regime_.group(level), first = index & ~(group - 1);
        for (unsigned i = first; i < first + group; ++i) {
            const machine::Entry other = regime_.decode(level, words[i]);
            if (other.kind == machine::Entry::Kind::invalid || e.kind == machine::Entry::Kind::invalid) continue;
            if (!other.is_leaf() || !(other.access == e.access)) return false;
        }
        return true;
    }
    [[nodiscard]] bool leads_to(const machine::Entry& e, std::uint64_t pa) const {
        const std::uint64_t size = regime_.bytes(level_), va = pa + offset_;
        return e.pa + (va & (size - 1)) == pa;
    }

    void look(const machine::Event& e) {
        if (root_ == 0 || !problem_.empty()) return;
        ++stores_;
        for (const auto& [pa, before] : truth_) {
            const machine::Entry found = walk(pa);
            const char* wrong = nullptr;
            if (!found.is_leaf()) {
                wrong = found.problem != nullptr ? found.problem : "nothing is mapped";
            } else if (!leads_to(found, pa)) {
                wrong = "it leads elsewhere";
            } else if (!group_agrees_) {
                wrong = "its contiguous group disagrees";
            } else if (!allowed(found.access, pa, before)) {
                wrong = "neither the old nor the new attributes";
            }
            if (wrong == nullptr) continue;
            problem_ =
                fmt::format("after event {} ({} at {}:{}): {:#x}: {} ({})", e.sequence, e.call, e.where.file_name(),
                            e.where.line(), pa, wrong, found.is_leaf() ? describe(found.access) : "no leaf");
            return;
        }
    }
    [[nodiscard]] bool allowed(const machine::Access& found, std::uint64_t pa, const machine::Access& before) const {
        if (found == before) return true;
        if (!operation_ || !operation_->holds(pa)) return false;
        const machine::Access after = operation_->apply(before);
        if (found == after) return true;
        // A break: invalid in between, for all that an operation changes which changes what has to break.
        machine::Access broken = before;
        broken.valid = false;
        return operation_->breaks() && !(after == before) && found == broken;
    }

    machine::Regime regime_;
    std::uint64_t offset_;
    std::map<std::uint64_t, machine::Access> truth_;
    std::map<std::uint64_t, std::vector<std::uint64_t>> tables_;
    std::uint64_t root_ = 0;
    std::optional<Operation> operation_;
    std::string problem_;
    std::uint64_t stores_ = 0;
    mutable int level_ = 0;
    mutable bool group_agrees_ = true;
};

} // namespace directmap::test

#include "machine/reference.hpp"

#include <algorithm>

namespace directmap::machine {

namespace {

void insert(std::vector<Access>& set, const Access& access) {
    if (std::find(set.begin(), set.end(), access) == set.end()) set.push_back(access);
}

} // namespace

void Reference::map(PhysRange range, const Access& access) {
    Pages pages;
    pages.end = range.end().value();
    pages.states = {{access, 0}};
    pages.base = pages.allowed = {access};
    pages_[range.start.value()] = pages;
}

void Reference::cut(std::uint64_t at) {
    auto it = pages_.upper_bound(at);
    if (it == pages_.begin()) return;
    --it;
    if (it->first == at || it->second.end <= at) return;
    Pages upper = it->second;
    it->second.end = at;
    pages_.emplace_hint(std::next(it), at, std::move(upper));
}

void Reference::for_each(PhysRange range, const std::function<void(Pages&)>& visit) {
    cut(range.start.value());
    cut(range.end().value());
    for (auto it = pages_.lower_bound(range.start.value()); it != pages_.end() && it->first < range.end().value();
         ++it) {
        visit(it->second);
    }
}

/// Every change in flight may take effect at any moment: adds what that leads to, then derives what hardware may show.
void Reference::close(Pages& pages) const {
    for (std::size_t i = 0; i < pages.states.size(); ++i) { // grows while it is read
        for (std::size_t bit = 0; bit < pages.in_flight.size(); ++bit) {
            const State from = pages.states[i];
            if ((from.applied >> bit & 1) != 0) continue;
            const State to{operations_.at(pages.in_flight[bit]).effect(from.access), from.applied | 1u << bit};
            if (std::find(pages.states.begin(), pages.states.end(), to) == pages.states.end())
                pages.states.push_back(to);
        }
    }
    pages.base.clear();
    for (const State& state : pages.states) insert(pages.base, state.access);
    pages.allowed = pages.base;
    bool breaks = false;
    for (const unsigned id : pages.in_flight) breaks = breaks || operations_.at(id).breaks;
    if (breaks) {
        for (const Access& access : pages.base) {
            Access broken = access;
            broken.valid = false;
            insert(pages.allowed, broken);
        }
    }
    for (const Access& old : pages.older) insert(pages.allowed, old);
}

/// Change `id` has ended: what remains are the states with it applied, or those without it.
void Reference::end(Pages& pages, unsigned id, bool applied) {
    const auto at = std::find(pages.in_flight.begin(), pages.in_flight.end(), id);
    const auto bit = static_cast<unsigned>(at - pages.in_flight.begin());
    pages.in_flight.erase(at);
    std::erase(pages.beside, id);
    std::erase_if(pages.states, [&](const State& state) { return ((state.applied >> bit & 1) != 0) != applied; });
    const std::uint32_t below = (std::uint32_t{1} << bit) - 1;
    for (State& state : pages.states) state.applied = (state.applied & below) | (state.applied >> 1 & ~below);
}

void Reference::merge(PhysRange range) {
    auto it = pages_.lower_bound(range.start.value());
    if (it != pages_.begin()) --it;
    while (it != pages_.end() && it->first <= range.end().value()) {
        const auto next = std::next(it);
        if (next == pages_.end()) break;
        const Pages &a = it->second, &b = next->second;
        if (a.end == next->first && a.in_flight.empty() && b.in_flight.empty() && a.base == b.base &&
            a.older == b.older) {
            it->second.end = b.end;
            pages_.erase(next);
        } else {
            it = next;
        }
    }
}

void Reference::begin(unsigned id, PhysRange range, Effect effect, bool breaks, bool settles) {
    operations_[id] = {range, std::move(effect), breaks, settles};
    for_each(range, [&](Pages& pages) {
        pages.in_flight.push_back(id);
        close(pages);
    });
}

void Reference::succeed(unsigned id, bool deferred) {
    const PhysRange range = operations_.at(id).range;
    const bool settles = operations_.at(id).settles;
    for_each(range, [&](Pages& pages) {
        const bool flushed_too_early = std::find(pages.beside.begin(), pages.beside.end(), id) != pages.beside.end();
        if (deferred) {
            pages.older = pages.allowed;
            pages.beside = pages.in_flight;
        } else if (settles && !flushed_too_early) {
            pages.older.clear();
        }
        end(pages, id, true);
        close(pages);
    });
    operations_.erase(id);
    merge(range);
}

void Reference::fail(unsigned id) {
    const PhysRange range = operations_.at(id).range;
    for_each(range, [&](Pages& pages) {
        end(pages, id, false);
        close(pages);
    });
    operations_.erase(id);
    merge(range);
}

void Reference::flushed(PhysRange range) {
    for_each(range, [&](Pages& pages) {
        pages.older.clear();
        close(pages);
    });
    merge(range);
}

void Reference::settle(PhysRange range, const Access& access) {
    for_each(range, [&](Pages& pages) {
        if (!pages.in_flight.empty()) return;
        pages.states = {{access, 0}};
        close(pages);
    });
    merge(range);
}

std::optional<PhysAddr> Reference::forbids(PhysRange range, const Access& access) const {
    std::uint64_t at = range.start.value();
    auto it = pages_.upper_bound(at);
    if (it != pages_.begin()) --it;
    for (; at < range.end().value(); ++it) {
        while (it != pages_.end() && it->second.end <= at) ++it;
        if (it == pages_.end() || it->first > at) return PhysAddr{at}; // not RAM
        const auto& allowed = it->second.allowed;
        const bool ok = std::any_of(allowed.begin(), allowed.end(),
                                    [&](const Access& state) { return access.valid ? state == access : !state.valid; });
        if (!ok) return PhysAddr{at};
        at = it->second.end;
    }
    return std::nullopt;
}

std::optional<PhysAddr> Reference::mapped_in(PhysRange range) const {
    auto it = pages_.upper_bound(range.start.value());
    if (it != pages_.begin() && std::prev(it)->second.end > range.start.value()) return range.start;
    if (it == pages_.end() || it->first >= range.end().value()) return std::nullopt;
    return PhysAddr{it->first};
}

std::optional<PhysAddr> Reference::present_in(PhysRange range) const {
    auto it = pages_.upper_bound(range.start.value());
    if (it != pages_.begin() && std::prev(it)->second.end > range.start.value()) --it;
    for (; it != pages_.end() && it->first < range.end().value(); ++it) {
        const auto& allowed = it->second.allowed;
        const bool hole = std::any_of(allowed.begin(), allowed.end(), [](const Access& a) { return a.absent; });
        if (!hole) return PhysAddr{std::max(it->first, range.start.value())};
    }
    return std::nullopt;
}

const Reference::Pages* Reference::find(PhysAddr page) const {
    auto it = pages_.upper_bound(page.value());
    if (it == pages_.begin()) return nullptr;
    --it;
    return it->second.end > page.value() ? &it->second : nullptr;
}

bool Reference::accessible(PhysAddr page, bool write, unsigned writable_keys) const {
    const Pages* pages = find(page);
    if (pages == nullptr) return false;
    return std::all_of(pages->allowed.begin(), pages->allowed.end(), [&](const Access& state) {
        if (!state.valid || state.shared || state.type > 1) return false;
        return !write || (state.writable && (writable_keys >> state.key & 1) != 0);
    });
}

} // namespace directmap::machine

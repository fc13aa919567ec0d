// Operations on a map with protected tables and its pool, for tests that play sequences of them: what each does, what
// it may answer, and what must hold after it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "machine/protected_rig.hpp"

namespace directmap::machine {

/// Tables of eight entries: pages of 4K, groups of 16K, blocks of 32K (groups of 128K) and 256K. Chunks of 8 and 4
/// pages.
inline constexpr Shape toy_shape{12, 24, 48, 3, 1, {0, 0, 2, 2}};
using Toy = arm64::Format<toy_shape>;
/// Tables of 32 entries, so that there are chunks of 32, 16 and 4 pages. Blocks of 128K and 4M, groups of four.
inline constexpr Shape wide_toy_shape{12, 27, 48, 5, 1, {0, 0, 2, 2}};
using WideToy = arm64::Format<wide_toy_shape>;

[[nodiscard]] inline bool long_run() {
    return std::getenv("DIRECTMAP_LONG") != nullptr;
}

/// The places of a machine: memory of users (three regions), early tables, memory that nobody has yet, chunks.
struct PoolStage {
    ProtectedRigConfig config;
    PhysRange user;
    PhysRange spare; ///< two ranges of three pages
};

template <class F>
[[nodiscard]] PoolStage stage_of(std::uint64_t chunk_pages = 112, std::uint64_t largest_chunk = RangeAllocator::none) {
    using G = typename F::geometry;
    constexpr std::uint64_t region = G::region_bytes, page = G::page_size;
    constexpr std::uint64_t base = (16 * page + region - 1) / region * region;
    PoolStage stage;
    stage.config.largest_chunk = largest_chunk;
    stage.user = phys_range(base, base + 3 * region);
    const std::uint64_t early = stage.user.end().value();
    stage.config.ram = phys_range(base, early + (chunk_pages * page > region / 2 ? 2 : 1) * region);
    stage.config.early = phys_range(early, early + 8 * page);
    stage.spare = phys_range(early + 9 * page, early + 15 * page);
    stage.config.chunks = phys_range(early + 16 * page, early + (16 + chunk_pages) * page);
    return stage;
}

/// Plays on one rig; every function says what is wrong, or nothing.
template <class F>
class Player {
public:
    using Rig = ProtectedRig<F>;
    using G = typename F::geometry;
    using Pool = typename Rig::Pool;
    static constexpr std::uint64_t page = G::page_size;
    static constexpr std::uint64_t smallest_chunk = 4 * page;
    static constexpr unsigned reserves = G::worst_tables + Pool::chunk_tables;

    explicit Player(const PoolStage& stage) : stage_{stage}, rig{stage.config} {}

    std::string change(PhysRange range, Change to, ChangeOptions options = {}) {
        const std::uint64_t before = rig.allocator().refusals;
        return judge("protect", rig.protect(range, to, options), before);
    }
    std::string take(PageUse use) {
        const std::uint64_t before = rig.allocator().refusals, available = rig.pool().available();
        auto taken = rig.take(use);
        const std::uint64_t left = rig.pool().available();
        if (taken && use == PageUse::normal && left < available && left < reserves)
            return fmt::format("a normal request leaves {} pages to splits and refills", left);
        if (taken) outside.push_back(taken.value());
        const bool would_block = !taken && taken.error().code() == ErrorCode::would_block;
        if (use == PageUse::atomic && would_block) {
            // It may say so only where the reserve is at its floor and no magazine holds a page.
            const PoolStatistics s = rig.pool().statistics();
            return s.free <= Pool::chunk_tables ? "" : fmt::format("an atomic caller is refused with {} free", s.free);
        }
        return judge("take", taken ? Result<void>{} : Result<void>{taken.error()}, before);
    }
    std::string give() {
        if (outside.empty()) return {};
        const bool ours = rig.give(outside.back());
        outside.pop_back();
        return ours ? "" : "the pool doesn't know a page that it handed out";
    }
    std::string shrink() {
        const std::uint64_t splits = rig.map().statistics().counters.splits;
        (void)rig.shrink(~std::uint64_t{0});
        return rig.map().statistics().counters.splits == splits ? "" : "a shrink splits a leaf";
    }
    /// Three pages, the middle one of which somebody uses.
    std::string adopt() {
        if (adopted_ == 2) return {};
        const PhysRange range{stage_.spare.start + adopted_ * 3 * page, 3 * page};
        const std::uint64_t before = rig.allocator().refusals;
        auto r = rig.adopt(range, [&](PhysAddr pa) { return pa == range.start + page; });
        if (r) ++adopted_, outside.push_back(range.start + page);
        return judge("adopt", r, before);
    }
    std::string pin_and_release() {
        const PhysRange block{stage_.user.start, G::bytes(G::last_level - 1)};
        const std::uint64_t before = rig.allocator().refusals;
        auto pinned = rig.map().prepare(block);
        if (!pinned) return judge("prepare", pinned, before);
        return judge("release", rig.map().release(block), before);
    }
    [[nodiscard]] std::string check() { return rig.check(outside.size()); }

    /// `no_tables` is an answer only after the source has refused the smallest chunk, and with no page in a magazine
    /// that would have helped.
    std::string judge(const char* what, const Result<void>& result, std::uint64_t refusals_before) {
        if (result) return {};
        const RangeAllocator& allocator = rig.allocator();
        const bool dry = allocator.refusals != refusals_before && allocator.last_refused == smallest_chunk &&
                         rig.pool().statistics().free <= reserves;
        if (result.error().code() == ErrorCode::no_tables && dry) return {};
        return fmt::format("{} answers {} ({})", what, name(result.error().code()), result.error().reason());
    }

    [[nodiscard]] PhysRange pages(std::uint64_t first, std::uint64_t count) const {
        return {stage_.user.start + first * page, count * page};
    }
    [[nodiscard]] const PoolStage& stage() const { return stage_; }

private:
    PoolStage stage_;
    unsigned adopted_ = 0;

public:
    Rig rig;
    std::vector<PhysAddr> outside; ///< pages that others have
};

template <class F>
struct PoolStep {
    const char* name;
    std::function<std::string(Player<F>&)> run;
};

/// What sequences are made of.
template <class F>
[[nodiscard]] const std::vector<PoolStep<F>>& pool_steps() {
    using P = Player<F>;
    using G = typename F::geometry;
    constexpr std::uint64_t region = G::region_bytes / G::page_size, block = G::table_entries;
    static const std::vector<PoolStep<F>> all = {
        {"one page read-only", [](P& p) { return p.change(p.pages(5, 1), Change{}.writable(false)); }},
        {"a range over three regions read-only",
         [](P& p) { return p.change(p.pages(region - block - 1, region + 2 * block + 2), Change{}.writable(false)); }},
        {"both ends inside one block",
         [](P& p) { return p.change(p.pages(2 * region + block + 1, 3), Change{}.key(2)); }},
        {"everything as it was", [](P& p) { return p.change(p.stage().user, Change{}.writable(true).key(0)); }},
        {"take for another map", [](P& p) { return p.take(PageUse::normal); }},
        {"take in atomic context", [](P& p) { return p.take(PageUse::atomic); }},
        {"give", [](P& p) { return p.give(); }},
        {"shrink", [](P& p) { return p.shrink(); }},
        {"adopt", [](P& p) { return p.adopt(); }},
        {"pin a block and release it", [](P& p) { return p.pin_and_release(); }},
        {"memory becomes scattered", [](P& p) { return p.rig.allocator().largest = P::smallest_chunk, std::string{}; }},
        {"memory runs out", [](P& p) { return p.rig.allocator().largest = 0, std::string{}; }},
        {"memory comes back", [](P& p) { return p.rig.allocator().largest = RangeAllocator::none, std::string{}; }},
    };
    return all;
}

/// One sequence of steps on a new machine; says what went wrong and after which steps, or nothing. `calls` gets the
/// number of times that the source was asked.
template <class F>
[[nodiscard]] std::string play(const PoolStage& stage, const std::vector<unsigned>& sequence, std::uint64_t fails,
                               std::uint64_t fails_from, std::uint64_t* calls = nullptr) {
    Player<F> player{stage};
    if (!player.rig.ready()) return fmt::format("can't begin: {}", player.rig.ready().error().reason());
    RangeAllocator& allocator = player.rig.allocator();
    allocator.calls = 0;
    allocator.fails = fails;
    allocator.fails_from = fails_from;
    std::string story;
    for (const unsigned step : sequence) {
        story += fmt::format("{}; ", pool_steps<F>()[step].name);
        std::string problem = pool_steps<F>()[step].run(player);
        if (problem.empty()) problem = player.check();
        if (!problem.empty()) return story + problem;
    }
    if (calls != nullptr) *calls = allocator.calls;
    return {};
}

/// The next sequence of the same length, in order; false after the last.
[[nodiscard]] inline bool advance(std::vector<unsigned>& sequence, std::size_t steps) {
    for (std::size_t i = sequence.size(); i-- != 0;) {
        if (++sequence[i] != steps) return true;
        sequence[i] = 0;
    }
    return false;
}

} // namespace directmap::machine

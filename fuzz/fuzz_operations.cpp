// Whole lives of a direct map: bytes become a layout and a sequence of operations, every one of which is held against a
// model of pages, sizes and pins, and against a TLB that forgets nothing (support/light_machine.hpp). Small tables, in
// seven shapes of three architectures' kinds, so that a million operations take a minute.
//
//     fuzz_operations [--operations=N] [--seconds=N] [libFuzzer's own options]
//
// --operations ends the run, successfully, once that many operations have been played; a run that ends otherwise before
// that fails. With DIRECTMAP_LONG in the environment it plays for an hour (or --seconds), each time with another seed.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "support/light_machine.hpp"
#include "support/x86_format.hpp"

namespace directmap::test {
namespace {

/// Bytes that decide; zeros once they have run out.
class Script {
public:
    Script(const std::uint8_t* bytes, std::size_t size) : next_{bytes}, end_{bytes + size} {}
    [[nodiscard]] bool ended() const { return next_ == end_; }
    [[nodiscard]] unsigned byte() { return ended() ? 0 : *next_++; }
    /// A number in [0, n), n at most 65536.
    [[nodiscard]] unsigned below(unsigned n) {
        const unsigned value = n > 256 ? byte() << 8 | byte() : byte();
        return n == 0 ? 0 : value % n;
    }
    [[nodiscard]] bool one_in(unsigned n) { return byte() % n == n - 1; }

private:
    const std::uint8_t* next_;
    const std::uint8_t* end_;
};

/// A change, as the model understands it and as the engine is told.
struct ModelChange {
    machine::Access to{};
    bool valid = false, writable = false, executable = false, global = false, shared = false, type = false, key = false;

    [[nodiscard]] machine::Access operator()(machine::Access a) const {
        if (valid) a.valid = to.valid;
        if (writable) a.writable = to.writable;
        if (executable) a.executable = to.executable;
        if (global) a.global = to.global;
        if (shared) a.shared = to.shared;
        if (type) a.type = to.type;
        if (key) a.key = to.key;
        return a;
    }
    [[nodiscard]] Change for_the_engine() const {
        Change c;
        if (valid) c = c.valid(to.valid);
        if (writable) c = c.writable(to.writable);
        if (executable) c = c.executable(to.executable);
        if (global) c = c.global(to.global);
        if (shared) c = c.shared(to.shared);
        if (type) c = c.memory_type(static_cast<MemoryType>(to.type));
        if (key) c = c.key(to.key);
        return c;
    }
};

/// With DIRECTMAP_STORY in the environment every life is told as it goes: for inputs that failed.
const bool telling = std::getenv("DIRECTMAP_STORY") != nullptr;
template <class... Args>
void tell(fmt::format_string<Args...> text, Args&&... args) {
    if (telling) fmt::print(stderr, text, std::forward<Args>(args)...);
}

enum class Hold : std::uint8_t { none, pinned, fixed_size };

[[nodiscard]] std::string describe(const ModelChange& c) {
    std::string text;
    const auto say = [&](bool named, const char* name, unsigned value) {
        if (named) text += fmt::format("{}={} ", name, value);
    };
    say(c.valid, "valid", c.to.valid);
    say(c.writable, "writable", c.to.writable);
    say(c.executable, "executable", c.to.executable);
    say(c.global, "global", c.to.global);
    say(c.shared, "shared", c.to.shared);
    say(c.type, "type", c.to.type);
    say(c.key, "key", c.to.key);
    return text;
}

template <class F>
class Life {
public:
    using G = typename F::geometry;
    using Map = DirectMap<F, LightMachine<F>>;
    static constexpr std::uint64_t page = G::page_size;
    static constexpr unsigned region = 1U << (G::region_shift - G::page_shift);
    static constexpr unsigned most_pages = LightMachine<F>::most_pages;

    explicit Life(Script script) : script_{script} {}

    /// Returns the number of operations played.
    std::uint64_t run() {
        build();
        std::uint64_t operations = 0;
        for (; !script_.ended(); ++operations) step();
        finish();
        return operations;
    }

private:
    // ---- the scenario
    // ------------------------------------------------------------------------------------------------

    void build() {
        const unsigned kind = script_.byte();
        machine_.ranges = (kind & 1) != 0;
        config_.flush_ceiling = (kind & 2) != 0 ? 6 : 512;
        constexpr CollapsePolicy policies[] = {CollapsePolicy::on_request, CollapsePolicy::on_request,
                                               CollapsePolicy::on_restore, CollapsePolicy::background};
        config_.policy = policies[kind >> 2 & 3];
        const bool by_pages = (kind >> 4 & 7) == 7;
        realm_ = G::first_leaf_level > 0 && !F::break_mask.empty() && (kind & 128) != 0;

        // RAM in up to three ranges, from some page of the second region on; or around a split of the address field.
        const unsigned where = script_.byte();
        std::uint64_t first = std::uint64_t{2 * region} + (where % 3 == 0 ? script_.below(region) : 0);
        if constexpr (F::progression_limit < std::uint64_t{1} << G::pa_bits) {
            if (where % 5 == 0) first = (F::progression_limit >> G::page_shift) - 1 - script_.below(2 * region);
        }
        constexpr unsigned most = region >= 128 ? 2 * region : 3 * region;
        std::vector<RamRange> ram;
        unsigned at = 0;
        do {
            const unsigned pages = std::min(most - at, script_.one_in(2) ? region : 1 + script_.below(region));
            const Attributes attributes = script_.one_in(4) ? Attributes{}.with_executable(true) : Attributes{};
            ram.push_back({{PhysAddr{(first + at) * page}, pages * page}, attributes});
            at += pages + (script_.one_in(2) ? script_.below(region / 2) : 0);
        } while (at < most && ram.size() < 3 && !script_.one_in(2));
        first_ = first;
        pages_ = static_cast<unsigned>((ram.back().range.end().value()) / page - first);

        // Offsets that share all alignment with physical addresses, some of it or none; some maps end where the address
        // space does.
        std::uint64_t skew = 0;
        if (where % 7 == 1) skew = script_.below(region) * page;
        config_.offset = (~std::uint64_t{0} << G::va_bits) + skew;
        const bool far = (first + pages_) * page + skew > std::uint64_t{1} << G::va_bits;
        if (far || where % 11 == 2) config_.offset = 0 - (first + pages_) * page;

        std::vector<Zone> zones;
        for (unsigned from = script_.below(region); zones.size() < 2 && script_.one_in(3) && from < pages_;) {
            const unsigned size = 1 + script_.below(region / 2);
            Zone zone{.range = {PhysAddr{(first + from) * page}, size * page},
                      .kind = static_cast<ZoneKind>(script_.below(3))};
            if (script_.one_in(3)) zone.has_attributes = true, zone.attributes = Attributes{}.with_writable(false);
            zones.push_back(zone);
            from += size + script_.below(region);
        }

        F format{};
        if (realm_) format.realm_shared_address = std::uint64_t{1} << (G::pa_bits - 1);
        machine_.describe(first * page, pages_, config_.offset, format.realm_shared_address);
        const std::uint64_t first_region = (first * page + config_.offset) >> G::region_shift;
        const std::uint64_t last_region = ((first + pages_) * page - 1 + config_.offset) >> G::region_shift;
        regions_.resize(last_region - first_region + 1);
        map_ = std::make_unique<Map>(machine_, config_,
                                     Span<typename Map::RegionState>{regions_.data(), regions_.size()}, format);
        const Layout layout{{ram.data(), ram.size()}, {zones.data(), zones.size()}};
        tell("map of {} pages from {:#x}, offset {:#x}, region of {} pages{}{}\n", pages_, first * page, config_.offset,
             region, by_pages ? ", by pages" : "", realm_ ? ", realm" : "");
        for (const Zone& z : zones) {
            tell("  zone {}+{} kind {}\n", z.range.start.value() / page - first, z.range.size / page,
                 static_cast<int>(z.kind));
        }
        const auto built = map_->build(layout, by_pages ? Mapping::pages : Mapping::largest);
        if (!built) tell("build: {}\n", built.error().reason());
        require(built.ok(), "a map is built");

        hold_.assign(pages_, Hold::none);
        owed_.assign(pages_, false);
        auto& truth = machine_.truth();
        const auto describe_range = [&](PhysRange range, const Attributes& attributes, Hold hold, bool mapped) {
            for (std::uint64_t pa = range.start.value(); pa < range.end().value(); pa += page) {
                const std::uint64_t n = pa / page - first;
                if (n >= pages_ || (hold != Hold::none && !truth[n].mapped)) continue;
                truth[n].mapped = mapped;
                truth[n].access = machine::access_of(attributes);
                hold_[n] = hold;
            }
        };
        for (const RamRange& r : ram) describe_range(r.range, r.attributes, Hold::none, true);
        for (const Zone& z : zones) {
            const Hold hold = z.kind == ZoneKind::fixed_size ? Hold::fixed_size : Hold::pinned;
            for (std::uint64_t pa = z.range.start.value(); pa < z.range.end().value(); pa += page) {
                const std::uint64_t n = pa / page - first;
                if (n >= pages_ || !truth[n].mapped) continue;
                hold_[n] = hold;
                if (z.has_attributes) truth[n].access = machine::access_of(z.attributes);
                truth[n].mapped = z.kind != ZoneKind::excluded;
            }
        }
        machine_.install(map_->root());
        machine_.read(now_);
        built_ = before_ = now_;
        if (by_pages) {
            for (unsigned n = 0; n < pages_; ++n) {
                require(!now_[n].mapped || hold_[n] == Hold::fixed_size || now_[n].log2_pages == 0, "pages mean pages");
            }
        } else {
            require_smallest(0, pages_, "a build makes the fewest leaves", true);
        }
        compare("build");
        switch (script_.byte() % 8) {
        case 0: break;
        case 1: admit({.tolerates_live_resize = false}, AdmissionPolicy::repaint); break;
        default: admit({.tolerates_live_resize = true}, AdmissionPolicy::repaint); break;
        }
    }

    void step() {
        machine_.clock += 1;
        scarce_ = script_.one_in(10);
        machine_.tables_left = scarce_ ? script_.below(6) : enough;
        const unsigned what = script_.byte() % 64;
        if (what < 28) {
            protect(false);
        } else if (what < 35) {
            protect(true);
        } else if (what < 37) {
            complete();
        } else if (what < 47) {
            collapse();
        } else if (what < 50) {
            prepare();
        } else if (what < 53) {
            release();
        } else if (what < 55) {
            bad_range();
        } else if (what < 57) {
            set_aside();
        } else if (what < 59) {
            background();
        } else if (what < 60) {
            translate();
        } else if (what < 61) {
            repaint();
        } else if (what < 62) {
            machine_.walker_stalls = script_.one_in(2);
            operate([&] { (void)map_->reclaim(); });
            compare("reclaim");
        } else {
            newcomer();
        }
    }

    // ---- operations
    // ---------------------------------------------------------------------------------------------------

    struct Pages {
        unsigned first = 0, count = 0;
        [[nodiscard]] unsigned end() const { return first + count; }
        [[nodiscard]] bool holds(unsigned n) const { return n - first < count; }
    };
    [[nodiscard]] PhysRange range_of(Pages p) const { return {address(p.first), p.count * page}; }
    [[nodiscard]] PhysAddr address(unsigned n) const { return PhysAddr{(first_ + n) * page}; }

    /// Often at an edge of a leaf size, or beside one.
    [[nodiscard]] Pages choose_pages() {
        const unsigned how = script_.byte();
        unsigned first = script_.below(pages_), count = 1;
        if ((how & 3) != 0) {
            const unsigned unit = 1U << sizes[(how >> 2) % sizes_count];
            const unsigned skew = static_cast<unsigned>(va_page(first)) & (unit - 1);
            first = first >= skew ? first - skew : 0;
            count = unit * (1 + (how >> 5) % 3);
            if ((how & 3) == 2) {
                first += script_.byte() & 1;
                count -= count > 1 ? script_.byte() & 1 : 0;
            }
            if ((how & 3) == 3) count = 1 + (how >> 5);
        } else {
            count = (how & 4) != 0 ? 1 + script_.below(pages_) : 1 + (how >> 3) % 8;
        }
        first = std::min(first, pages_ - 1);
        return {first, std::min(count, pages_ - first)};
    }
    [[nodiscard]] ModelChange restoring() const {
        ModelChange c;
        c.valid = c.writable = c.executable = c.global = c.type = c.key = true;
        c.shared = realm_;
        return c;
    }
    [[nodiscard]] ModelChange choose_change() {
        const unsigned which = script_.byte();
        if (which % 4 == 3) return restoring();
        ModelChange c;
        const auto choose = [&](unsigned attribute) {
            const bool on = (which & 1) != 0;
            switch (attribute & 7) {
            case 0: c.valid = true, c.to.valid = on; break;
            case 1: c.executable = true, c.to.executable = on; break;
            case 2: c.key = true, c.to.key = which & 7u; break;
            case 3: c.type = true, c.to.type = (which & 7u) % 5 & 7u; break;
            case 4: c.global = true, c.to.global = on; break;
            case 5:
                if (realm_) c.shared = true, c.to.shared = on;
                break;
            default: c.writable = true, c.to.writable = on; break;
            }
        };
        choose(which >> 2);
        if (which >= 192) choose(which >> 5);
        return c;
    }

    /// Plays one operation; `compare` judges it afterwards.
    template <class Operation>
    auto operate(Operation operation, const ModelChange* change = nullptr, Pages pages = {}) {
        auto& truth = machine_.truth();
        auto& after = machine_.after();
        for (unsigned n = 0; n < pages_; ++n) after[n] = truth[n].access;
        for (unsigned n = pages.first; change != nullptr && n < pages.end(); ++n) after[n] = (*change)(after[n]);
        std::swap(before_, now_);
        gate_before_ = map_->gate_mode();
        machine_.taken = 0;
        machine_.begin_operation(change != nullptr && (change->type || change->shared));
        struct Ending {
            LightMachine<F>& machine;
            ~Ending() { machine.end_operation(); }
        } ending{machine_};
        return operation();
    }

    [[nodiscard]] std::optional<unsigned> hole_in(Pages pages) const {
        for (unsigned n = pages.first; n < pages.end(); ++n) {
            if (!truth_of(n).mapped) return n;
        }
        return std::nullopt;
    }
    [[nodiscard]] const PageView& truth_of(unsigned n) const { return machine_.truth()[n]; }
    /// The leaf that holds page `n`, in a state of the map.
    [[nodiscard]] Pages leaf_at(const std::vector<PageView>& views, unsigned n) const {
        const unsigned size = 1U << views[n].log2_pages;
        return {n - (static_cast<unsigned>(va_page(n)) & (size - 1)), size};
    }
    [[nodiscard]] std::uint64_t va_page(unsigned n) const { return first_ + n + (config_.offset >> G::page_shift); }

    struct Wants {
        bool cut = false;    ///< a leaf that changes straddles an end
        bool resize = false; ///< or a contiguous group changes, which is opened meanwhile unless it is broken
        bool fixed = false;  ///< a static leaf would have to be cut
    };
    [[nodiscard]] Wants wants(Pages pages, const ModelChange& change) const {
        Wants w;
        for (unsigned n = pages.first; n < pages.end(); ++n) {
            if (!before_[n].mapped || change(before_[n].access) == before_[n].access) continue;
            const Pages leaf = leaf_at(before_, n);
            const bool straddles = leaf.first < pages.first || pages.end() < leaf.end();
            w.cut = w.cut || straddles;
            w.resize = w.resize || straddles || before_[n].contiguous;
            w.fixed = w.fixed || (straddles && hold_[n] == Hold::fixed_size);
        }
        return w;
    }

    /// Whether an error can be explained from the model.
    void judge(const char* operation, const Error& error, Pages pages, bool may_want_tables, bool atomic, bool resize,
               bool fixed) {
        const auto hole = hole_in(pages);
        bool explained = false;
        switch (error.code()) {
        case ErrorCode::not_mapped: explained = hole.has_value() && error.where() == address(*hole); break;
        case ErrorCode::no_tables: explained = scarce_ && !atomic && may_want_tables && error.needed() != 0; break;
        case ErrorCode::would_block: explained = atomic && may_want_tables; break;
        case ErrorCode::unsupported: explained = fixed || (resize && gate_before_ == Gate::Mode::closed); break;
        case ErrorCode::busy: explained = resize && gate_before_ == Gate::Mode::undecided; break;
        case ErrorCode::invalid_argument:
        case ErrorCode::incompatible: break;
        }
        if (!explained) {
            fmt::print(stderr, "{} of pages {}+{}: {}: {}\n", operation, pages.first, pages.count, name(error.code()),
                       error.reason());
        }
        require(explained, "an error has a reason (P13)");
    }

    void protect(bool deferred) {
        const Pages pages = choose_pages();
        const ModelChange change = choose_change();
        const unsigned how = script_.byte();
        ChangeOptions options{.atomic = how % 8 == 7};
        options.quiescent = how % 16 == 8 && !deferred;
        tell("{}{}{} {}+{} {}\n", deferred ? "protect deferred" : "protect", options.atomic ? " atomic" : "",
             options.quiescent ? " quiescent" : "", pages.first, pages.count, describe(change));
        const bool one_region = va_page(pages.first) / region == va_page(pages.end() - 1) / region;
        Result<void> result;
        if (deferred) {
            auto r = operate([&] { return map_->protect_deferred(range_of(pages), change.for_the_engine(), options); },
                             &change, pages);
            if (r) {
                flush_.merge(std::move(r.value()));
            } else {
                result = r.error();
            }
        } else {
            result = operate([&] { return map_->protect(range_of(pages), change.for_the_engine(), options); }, &change,
                             pages);
        }
        require(machine_.taken <= 2 * (G::last_level - G::first_leaf_level), "a change reserves in bounds (P6)");
        const Wants w = wants(pages, change);
        if (!result) {
            judge("protect", result.error(), pages, w.cut || !one_region, options.atomic, w.resize, w.fixed);
            machine_.read(now_);
            require(now_ == before_, "a change that fails leaves everything as it was (P4)");
            compare("protect");
            return;
        }
        require(!hole_in(pages) && !w.fixed, "no success where it was impossible (P13)");
        if (!options.quiescent && gate_before_ != Gate::Mode::open) {
            const bool breaks = change.type || change.shared;
            require(!w.cut && (breaks || !w.resize), "no resize but through the gate (P8)");
        }
        auto& truth = machine_.truth();
        for (unsigned n = pages.first; n < pages.end(); ++n) {
            truth[n].access = machine_.after()[n];
            if (deferred) owed_[n] = true;
        }
        machine_.read(now_);
        if (config_.policy == CollapsePolicy::on_restore && !deferred) {
            if (gate_before_ == Gate::Mode::open && !machine_.walker_stalls)
                require_smallest(pages.first, pages.end(), "what is restored is healed (P10)");
        } else if (gate_before_ == Gate::Mode::open) {
            require_least_splitting(pages, change);
        }
        compare("protect");
    }

    void complete() {
        tell("complete\n");
        operate([&] { flush_.complete(); });
        owed_.assign(pages_, false);
        compare("complete");
    }

    void collapse() {
        const Pages pages = script_.one_in(3) ? Pages{0, pages_} : choose_pages();
        std::uint64_t budget = script_.one_in(3) ? 1 + script_.below(20) : ~std::uint64_t{0};
        tell("collapse {}+{} budget {}\n", pages.first, pages.count, budget);
        PhysRange rest = range_of(pages);
        for (unsigned rounds = 0;; ++rounds) {
            const auto r = operate([&] { return map_->collapse(rest, budget); });
            if (!r) {
                require(gate_before_ != Gate::Mode::open, "a collapse is refused by the gate alone");
                require(r.error().code() ==
                            (gate_before_ == Gate::Mode::closed ? ErrorCode::unsupported : ErrorCode::busy),
                        "a collapse that is refused says why");
                return compare("collapse");
            }
            compare("collapse");
            if (r.value().finished) break;
            require(rest.contains(r.value().next), "a collapse goes on inside of its range");
            rest = {r.value().next, rest.end() - r.value().next};
            budget += 1 + rounds; // one may be too small for a large leaf's tables, never for long
            if (machine_.walker_stalls) machine_.walker_stalls = false; // or nothing is ever reclaimed
            require(rounds < 2000, "a collapse comes to an end");
        }
        require(gate_before_ == Gate::Mode::open, "no collapse but through the gate (P8)");
        require_smallest(pages.first, pages.end(), "a collapse leaves the smallest cover (P10)");
    }

    void prepare() {
        Pages pages = choose_pages();
        const ChangeOptions options{.atomic = script_.byte() % 16 == 15};
        tell("prepare {}+{}\n", pages.first, pages.count);
        const auto r = operate([&] { return map_->prepare(range_of(pages), options); });
        bool large = false, fixed = false;
        for (unsigned n = pages.first; n < pages.end(); ++n) {
            large = large || before_[n].log2_pages != 0;
            fixed = fixed || (hold_[n] == Hold::fixed_size && before_[n].log2_pages != 0);
        }
        if (!r) {
            judge("prepare", r.error(), pages, true, options.atomic, large, fixed);
        } else {
            require(!hole_in(pages) && !fixed && !options.atomic, "no success where it was impossible (P13)");
            for (unsigned n = pages.first; n < pages.end(); ++n) {
                if (hold_[n] == Hold::none) hold_[n] = Hold::pinned;
            }
            require(map_->translate(address(pages.first)).value().attributes.fixed() &&
                        map_->translate(address(pages.end() - 1)).value().attributes.fixed(),
                    "prepared pages are pinned");
        }
        compare("prepare");
    }
    void release() {
        const Pages pages = choose_pages();
        for (unsigned n = pages.first; n < pages.end(); ++n) {
            if (hold_[n] == Hold::fixed_size) return; // a static zone's own pages look like prepared ones
        }
        tell("release {}+{}\n", pages.first, pages.count);
        const auto r = operate([&] { return map_->release(range_of(pages)); });
        if (!r) {
            // A pinned page is no leaf that is cut; whole regions between are asked for all the same.
            judge("release", r.error(), pages, true, false, true, false);
        } else {
            require(!hole_in(pages), "no success where it was impossible (P13)");
            for (unsigned n = pages.first; n < pages.end(); ++n) hold_[n] = Hold::none;
        }
        compare("release");
        const bool heals = config_.policy == CollapsePolicy::on_restore && !machine_.walker_stalls;
        if (r && heals && gate_before_ == Gate::Mode::open) {
            require_smallest(pages.first, pages.end(), "what is released is healed (P10)");
        }
    }

    void bad_range() {
        PhysRange range = range_of(choose_pages());
        const auto some = 1 + script_.below(static_cast<unsigned>(std::min<std::uint64_t>(page - 1, 65535)));
        switch (script_.byte() % 7) {
        case 0: range.size = 0; break;
        case 1: range.size += some; break;
        case 2: range.start = range.start + some; break;
        case 3: range = {address(pages_ - 1), 2 * page}; break;
        case 4: range = {address(0) - page, page}; break;
        case 5: range = {address(pages_), page}; break;
        default: range.size = 0 - page; break;
        }
        operate([&] {
            const auto refused = [&](const auto& r) {
                require(!r && r.error().code() == ErrorCode::invalid_argument, "a bad range is refused (P13)");
            };
            refused(map_->protect(range, Change{}.writable(false)));
            refused(map_->protect_deferred(range, Change{}.valid(false)));
            refused(map_->tables_needed(range, Change{}.valid(false)));
            refused(map_->prepare(range));
            refused(map_->release(range));
            refused(map_->collapse(range));
        });
        machine_.read(now_);
        require(now_ == before_, "a bad range changes nothing (P13)");
        compare("bad range");
    }

    void set_aside() {
        const unsigned count = script_.below(12);
        const auto r = operate([&] { return map_->set_aside(count); });
        require(r.ok() || scarce_, "tables are set aside where there are some");
        compare("set aside");
    }
    void background() {
        machine_.clock += script_.below(10);
        const std::uint64_t budget = 1 + script_.below(20);
        operate([&] { (void)map_->background_step(budget); });
        compare("background");
    }
    void translate() {
        const unsigned n = script_.below(pages_);
        const std::uint64_t into = script_.byte() * 8;
        operate([&] {
            const auto r = map_->translate(address(n) + into);
            require(r.ok() == truth_of(n).mapped, "translate finds what is there");
            if (!r) return;
            require(r.value().pa == address(n) + into, "translate leads to where it should");
            require(machine::access_of(r.value().attributes) == truth_of(n).access, "translate tells attributes");
            require(r.value().leaf.shift == before_[n].log2_pages + G::page_shift, "translate tells the leaf's size");
        });
        compare("translate");
    }
    void repaint() {
        const ChangeOptions options{.quiescent = script_.one_in(3)};
        tell("repaint{}\n", options.quiescent ? " quiescent" : "");
        const auto r = operate([&] { return map_->repaint(options); });
        if (!r) {
            const bool gate = !options.quiescent && gate_before_ != Gate::Mode::open;
            require((scarce_ && r.error().code() == ErrorCode::no_tables) ||
                        (gate && (r.error().code() == ErrorCode::unsupported || r.error().code() == ErrorCode::busy)),
                    "a repaint fails for want of tables or by the gate");
        } else {
            require_pages();
        }
        compare("repaint");
    }
    void require_pages() {
        machine_.read(now_);
        for (unsigned n = 0; n < pages_; ++n) {
            require(!now_[n].mapped || hold_[n] == Hold::fixed_size || now_[n].log2_pages == 0,
                    "a repaint leaves pages and static zones");
        }
    }
    void newcomer() {
        const unsigned how = script_.byte();
        const CpuCapabilities cpu{.tolerates_live_resize = how % 16 != 15,
                                  .no_contiguous = how % 16 == 14 && map_->gate_mode() != Gate::Mode::undecided,
                                  .invalidate_twice = how % 16 == 13};
        admit(cpu, how % 3 == 0 ? AdmissionPolicy::refuse : AdmissionPolicy::repaint);
    }
    void admit(CpuCapabilities cpu, AdmissionPolicy policy) {
        tell("admit tolerates {} no groups {} twice {} {}\n", cpu.tolerates_live_resize, cpu.no_contiguous,
             cpu.invalidate_twice, policy == AdmissionPolicy::refuse ? "or refuse" : "");
        const auto r = operate([&] { return map_->admit(cpu, policy); });
        if (!r) tell("  {}\n", r.error().reason());
        const bool tolerates = cpu.tolerates_live_resize && !cpu.no_contiguous;
        if (cpu.invalidate_twice) machine_.twice = true;
        if (!r) {
            require(!tolerates || gate_before_ == Gate::Mode::closed, "a CPU that tolerates resizing is admitted");
            require(map_->gate_mode() == gate_before_, "an admission that fails leaves the gate as it was");
            const bool refused = policy == AdmissionPolicy::refuse || cpu.no_contiguous;
            require((refused && r.error().code() == ErrorCode::unsupported) ||
                        (scarce_ && r.error().code() == ErrorCode::no_tables),
                    "an admission fails for a reason");
        } else if (!tolerates) {
            require(map_->gate_mode() == Gate::Mode::closed, "the gate closes behind a CPU that can't resize (P8)");
            if (gate_before_ == Gate::Mode::open) require_pages();
        }
        compare("admit");
    }

    // ---- what must hold
    // ---------------------------------------------------------------------------------------------------

    /// P5: leaves inside, outside or unchanged stay as they are; those that are cut are cut into the largest pieces.
    void require_least_splitting(Pages pages, const ModelChange& change) {
        for (unsigned n = 0; n < pages_; ++n) whole_[n] = before_[n].log2_pages;
        const auto cut = [&](unsigned n) {
            if (!before_[n].mapped || change(before_[n].access) == before_[n].access) return;
            const Pages leaf = leaf_at(before_, n);
            if (pages.first <= leaf.first && leaf.end() <= pages.end()) return;
            const unsigned from = std::max(leaf.first, pages.first), to = std::min(leaf.end(), pages.end());
            cover(leaf.first, from, before_[n].log2_pages);
            cover(from, to, before_[n].log2_pages);
            cover(to, leaf.end(), before_[n].log2_pages);
        };
        cut(pages.first);
        cut(pages.end() - 1);
        for (unsigned n = 0; n < pages_; ++n) {
            require(whole_[n] == now_[n].log2_pages, "leaves are split as little as can be (P5)");
        }
    }
    /// The largest leaves below 2^limit pages.
    void cover(unsigned from, unsigned to, unsigned limit) {
        while (from < to) {
            for (unsigned s = 0; s < sizes_count; ++s) {
                const unsigned size = 1U << sizes[s];
                if (sizes[s] >= limit || size > to - from || !aligned(from, size)) continue;
                for (unsigned n = from; n < from + size; ++n) whole_[n] = sizes[s];
                from += size;
                break;
            }
        }
    }
    [[nodiscard]] bool aligned(unsigned n, unsigned size) const {
        return (va_page(n) & (size - 1)) == 0 && ((first_ + n) & (size - 1)) == 0;
    }

    /// P10: around no page of [from, to) could there be a larger leaf.
    void require_smallest(unsigned from, unsigned to, const char* promise, bool fixed_too = false) {
        machine_.read(now_);
        // The first page from which on everything up to this one is alike.
        for (unsigned n = 0; n < pages_; ++n) {
            const bool continues = n != 0 && now_[n].mapped && now_[n - 1].mapped && hold_[n] == hold_[n - 1] &&
                                   now_[n].access == now_[n - 1].access;
            alike_[n] = continues ? alike_[n - 1] : n;
        }
        for (unsigned n = from; n < to; ++n) {
            // What is held keeps its size; but a build makes static zones as large as can be.
            if (!now_[n].mapped || hold_[n] == Hold::pinned) continue;
            if (hold_[n] == Hold::fixed_size && !fixed_too) continue;
            for (unsigned s = 0; s < sizes_count && sizes[s] > now_[n].log2_pages; ++s) {
                const unsigned size = 1U << sizes[s], start = n - (static_cast<unsigned>(va_page(n)) & (size - 1));
                if (start > n || start + size > pages_ || !aligned(start, size)) continue;
                require(alike_[start + size - 1] > start, promise);
            }
        }
    }

    void compare(const char* operation) {
        machine_.read(now_);
        if (telling) tell("  after {}: {}\n", operation, sizes_of(now_));
        const auto& truth = machine_.truth();
        const auto& tlb = machine_.tlb();
        const Gate::Mode gate = map_->gate_mode();
        std::array<unsigned, 16> pages_by_size{};
        unsigned mapped = 0;
        for (unsigned n = 0; n < pages_; ++n) {
            const PageView& view = now_[n];
            require(view.mapped == truth[n].mapped, "what is mapped stays mapped, and nothing else");
            if (!view.mapped) continue;
            require(view.access == truth[n].access, "every page has the attributes that it was given");
            ++pages_by_size[view.log2_pages];
            ++mapped;
            if (hold_[n] == Hold::pinned) require(view.log2_pages == 0, "pinned pages stay pages");
            if (hold_[n] == Hold::fixed_size)
                require(view.log2_pages == built_[n].log2_pages, "static leaves keep their size");
            if (owed_[n] || !tlb[n].mapped) continue;
            require(tlb[n].access == view.access, "no older attribute is used any more (P2)");
            if (gate == Gate::Mode::closed)
                require(tlb[n].log2_pages == view.log2_pages, "a CPU that can't tolerate two sizes sees one (P8)");
        }
        const Statistics s = map_->statistics();
        require(s.bytes == mapped * page, "leaves times size is what is mapped (P12)");
        for (unsigned i = 0; i < G::leaf_sizes.count; ++i) {
            const unsigned log2 = G::leaf_sizes.of[i].shift - G::page_shift;
            require(s.leaves[i] << log2 == pages_by_size[log2], "leaves are counted as they are (P12)");
        }
        if (s.retired == 0) {
            require(machine_.tables_in_use() == machine_.tables_reached() + s.set_aside,
                    "every table is in the map or set aside (P4, P12)");
        }
        machine_.refill();
    }

    /// Each leaf as the log2 of its pages, a hole as a dot.
    [[nodiscard]] std::string sizes_of(const std::vector<PageView>& views) const {
        std::string text;
        for (unsigned n = 0; n < pages_;) {
            text += views[n].mapped ? fmt::format("{}", views[n].log2_pages) : ".";
            n = views[n].mapped ? leaf_at(views, n).end() : n + 1;
        }
        return text;
    }

    /// Everything is undone; the map must be what it was.
    void finish() {
        scarce_ = false;
        machine_.tables_left = enough;
        machine_.walker_stalls = false;
        complete();
        if (map_->gate_mode() != Gate::Mode::open) return;
        const ModelChange change = restoring();
        for (unsigned n = 0; n < pages_;) {
            Pages pages{n, 0};
            while (n < pages_ && truth_of(n).mapped && hold_[n] == hold_[pages.first]) ++n, ++pages.count;
            if (pages.count == 0) {
                ++n;
                continue;
            }
            const auto r =
                operate([&] { return map_->protect(range_of(pages), change.for_the_engine()); }, &change, pages);
            require(r.ok(), "what was changed can be restored");
            for (unsigned p = pages.first; p < pages.end(); ++p) machine_.truth()[p].access = machine_.after()[p];
            compare("restore");
            if (hold_[pages.first] != Hold::pinned) continue;
            require(operate([&] { return map_->release(range_of(pages)); }).ok(), "what was prepared can be released");
            for (unsigned p = pages.first; p < pages.end(); ++p) hold_[p] = Hold::none;
            compare("release");
        }
        const auto r = operate([&] { return map_->collapse(range_of({0, pages_})); });
        require(r.ok() && r.value().finished, "a collapse without a budget finishes");
        compare("heal");
        require_smallest(0, pages_, "at last the map is the smallest cover (P10)");
        require(map_->reclaim() == 0, "no table waits for nobody");
    }

    static constexpr std::uint64_t enough = ~std::uint64_t{0} >> 1;
    /// log2 of the pages of each leaf size, the largest first.
    static constexpr unsigned sizes_count = [] {
        unsigned count = 0;
        for (int level = G::first_leaf_level; level <= G::last_level; ++level) count += G::has_groups(level) ? 2 : 1;
        return count;
    }();
    static constexpr std::array<unsigned, sizes_count> sizes = [] {
        std::array<unsigned, sizes_count> log2{};
        unsigned count = 0;
        for (int level = G::first_leaf_level; level <= G::last_level; ++level) {
            const unsigned entry = G::shift(level) - G::page_shift;
            if (G::has_groups(level)) log2[count++] = entry + G::group_shift(level);
            log2[count++] = entry;
        }
        return log2;
    }();

    Script script_;
    LightMachine<F> machine_;
    Config config_{};
    std::vector<typename Map::RegionState> regions_;
    std::unique_ptr<Map> map_;
    typename Map::DeferredFlush flush_; // after the map: what it owes at the end still reaches it
    std::uint64_t first_ = 0;           ///< the first page's number
    unsigned pages_ = 0;
    bool realm_ = false, scarce_ = false;
    Gate::Mode gate_before_ = Gate::Mode::undecided;
    std::vector<Hold> hold_;
    std::vector<bool> owed_; ///< pages whose deferred flush is owed
    std::vector<PageView> now_, before_, built_;
    std::array<unsigned, most_pages> whole_{}, alike_{};
};

// Shapes like those of the granules, with tables of eight entries. Sizes of one shape differ all.
using Small4K = arm64::Format<Shape{12, 24, 48, 3, 1, {0, 0, 2, 2}}>;
using Small4KTopGroups = arm64::Format<Shape{12, 24, 48, 3, 1, {0, 1, 2, 2}}>;
using Small4KWide = arm64::Format<Shape{12, 24, 52, 3, 1, {0, 0, 1, 1}}>;
using Small16K = arm64::Format<Shape{14, 26, 48, 3, 2, {0, 0, 2, 1}}>;
using Small16KWide = arm64::Format<Shape{14, 26, 52, 3, 2, {0, 0, 1, 2}}>;
using Small64KWide = arm64::Format<Shape{16, 28, 52, 3, 2, {0, 0, 2, 2}}>;

std::uint64_t operations = 0, inputs = 0, wanted = 0;
std::chrono::steady_clock::time_point until{};
bool timed = false;

void print_total() {
    std::fprintf(stderr, "fuzz_operations: %llu operations in %llu lives\n",
                 static_cast<unsigned long long>(operations), static_cast<unsigned long long>(inputs));
    std::fflush(stderr);
}
/// libFuzzer has stopped by itself.
void at_exit() {
    print_total();
    if (operations >= wanted) return;
    std::fprintf(stderr, "fuzz_operations: %llu were wanted\n", static_cast<unsigned long long>(wanted));
    std::_Exit(1);
}

} // namespace
} // namespace directmap::test

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
    using namespace directmap::test;
    unsigned long long seconds = std::getenv("DIRECTMAP_LONG") != nullptr ? 3600 : 0;
    for (int i = 1; i < *argc; ++i) {
        char* argument = (*argv)[i];
        constexpr char count[] = "--operations=", time[] = "--seconds=", seed[] = "-seed=1";
        if (std::strncmp(argument, count, sizeof count - 1) == 0)
            wanted = std::strtoull(argument + sizeof count - 1, nullptr, 10);
        if (std::strncmp(argument, time, sizeof time - 1) == 0)
            seconds = std::strtoull(argument + sizeof time - 1, nullptr, 10);
        if (seconds != 0 && std::strcmp(argument, seed) == 0) argument[sizeof seed - 2] = '0'; // another one each time
    }
    if (seconds != 0) {
        timed = true;
        until = std::chrono::steady_clock::now() + std::chrono::seconds{seconds};
    }
    (void)std::atexit(at_exit);
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace directmap::test;
    if (size == 0) return 0;
    const Script script{data + 1, size - 1};
    ++inputs;
    switch (data[0] % 7) {
    case 0: operations += Life<Small4K>{script}.run(); break;
    case 1: operations += Life<Small4KTopGroups>{script}.run(); break;
    case 2: operations += Life<Small4KWide>{script}.run(); break;
    case 3: operations += Life<Small16K>{script}.run(); break;
    case 4: operations += Life<Small16KWide>{script}.run(); break;
    case 5: operations += Life<Small64KWide>{script}.run(); break;
    default: operations += Life<SmallX86Format>{script}.run(); break;
    }
    const bool enough = operations >= wanted && (!timed || std::chrono::steady_clock::now() >= until);
    if ((wanted != 0 || timed) && enough) {
        print_total();
        std::_Exit(0); // libFuzzer takes an exit from in here for a finding
    }
    return 0;
}

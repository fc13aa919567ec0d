#include "diff.hpp"

#include "input_error.hpp"
#include "output.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace directmap::tool {
namespace {

constexpr std::size_t most_permission_groups = 64;

/// `dump.txt#2` when there is no file of that name.
std::pair<std::string, std::uint64_t> path_and_dump(const std::string& path) {
    const std::size_t mark = path.rfind('#');
    const bool has_number = mark != std::string::npos && mark != 0 && mark + 1 < path.size() &&
                            path.size() - mark < 10 &&
                            path.find_first_not_of("0123456789", mark + 1) == std::string::npos;
    if (!has_number || ::access(path.c_str(), F_OK) == 0) return {path, 0};
    return {path.substr(0, mark), std::stoull(path.substr(mark + 1))};
}

class DescriptorSource final : public ByteSource {
public:
    DescriptorSource(int descriptor, std::string name) : descriptor_(descriptor), name_(std::move(name)) {}

    std::size_t read(std::span<char> buffer) override {
        const ssize_t got = ::pread(descriptor_, buffer.data(), buffer.size(), offset_);
        if (got < 0) throw InputError(name_, 0, fmt::format("can't be read: {}", std::strerror(errno)));
        offset_ += got;
        return static_cast<std::size_t>(got);
    }

private:
    int descriptor_;
    std::string name_;
    off_t offset_ = 0;
};

/// Copies everything into a file that has no name.
int spooled(ByteSource& source, const std::string& name) {
    std::FILE* file = std::tmpfile();
    if (file == nullptr) throw InputError(name, 0, fmt::format("no temporary file for it: {}", std::strerror(errno)));
    std::vector<char> buffer(std::size_t{256} << 10);
    bool written = true;
    while (const std::size_t got = source.read(buffer))
        written = written && std::fwrite(buffer.data(), 1, got, file) == got;
    written = std::fflush(file) == 0 && written;
    const int descriptor = written ? ::dup(::fileno(file)) : -1;
    std::fclose(file);
    if (descriptor < 0)
        throw InputError(name, 0, fmt::format("can't be copied to a temporary file: {}", std::strerror(errno)));
    return descriptor;
}

/// The leaves of a direct map that was found before, one run after the other.
class LeafStream {
public:
    LeafStream(ByteSource& source, const DumpAnalysis& analysis, const MapSummary& map, DumpVocabulary& vocabulary)
        : reader_(source, analysis.name, vocabulary), map_(map), dump_(analysis.index) {}

    /// Returns false at the end.
    bool next(LeafRun& run) {
        while (next_run_ == runs_.count) {
            if (!next_line()) return false;
        }
        run = runs_.runs[next_run_++];
        return true;
    }

private:
    bool next_line() {
        for (;;) {
            const DumpEvent event = reader_.next();
            if (event == DumpEvent::end) return false;
            if (event == DumpEvent::new_dump) ++current_;
            if (event != DumpEvent::line || current_ < dump_) continue;
            if (current_ > dump_) return false;
            const DumpLine& line = reader_.line();
            levels_.see(line);
            if (line.start > map_.last) return false;
            if (line.entry != DumpEntry::leaf || line.start < map_.start) continue;
            runs_ = leaf_runs(line, map_.geometry, levels_);
            next_run_ = 0;
            return true;
        }
    }

    DumpReader reader_;
    const MapSummary& map_;
    std::uint64_t dump_;
    std::uint64_t current_ = 0;
    LevelNames levels_;
    LeafRuns runs_;
    std::size_t next_run_ = 0;
};

DumpAnalysis find_direct_map(RereadableInput& input, const AnalyzeOptions& options) {
    std::optional<DumpAnalysis> found;
    std::uint64_t with_map = 0;
    std::string without_map;
    const std::unique_ptr<ByteSource> source = input.open();
    const std::uint64_t dumps =
        analyze_dumps(*source, input.name(), options, [&](DumpAnalysis&& analysis, const DumpVocabulary&) {
            if (input.wanted_dump() != 0 && analysis.index != input.wanted_dump()) return;
            const auto bad = std::ranges::find(analysis.problems, DumpProblem::Kind::bad, &DumpProblem::kind);
            if (bad != analysis.problems.end()) throw InputError(input.name(), bad->line, bad->reason);
            if (!analysis.map.has_value()) {
                without_map = analysis.problems.back().reason;
                return;
            }
            ++with_map;
            if (!found.has_value()) found = std::move(analysis);
        });
    if (input.wanted_dump() > dumps)
        throw InputError(
            input.name(), 0,
            fmt::format("has no dump {}; it has {}", input.wanted_dump(), counted(dumps, "dump", "dumps")));
    if (!found.has_value()) throw InputError(input.name(), 0, without_map);
    if (with_map > 1)
        throw InputError(input.name(), 0,
                         fmt::format("holds {} dumps with a direct map; say which one: {}#1", with_map, input.name()));
    return std::move(*found);
}

/// Compares two maps, stretch by stretch: within one, neither side changes.
class Comparison {
public:
    Comparison(DumpDiff& diff, const MapSummary& before, const MapSummary& after, const DiffOptions& options)
        : diff_(diff), listed_(options.listed), before_base_(base_of(before)), after_base_(base_of(after)) {
        diff_.moved = before_base_ != after_base_;
    }

    void run(LeafStream& before, LeafStream& after) {
        Side a{before, before_base_};
        Side b{after, after_base_};
        a.advance();
        b.advance();
        while (!a.ended || !b.ended) {
            const std::uint64_t start = std::min(a.ended ? UINT64_MAX : a.begin, b.ended ? UINT64_MAX : b.begin);
            const bool in_a = !a.ended && a.begin == start;
            const bool in_b = !b.ended && b.begin == start;
            // Up to the next place where either side begins or ends.
            std::uint64_t last = UINT64_MAX;
            for (const Side* side : {&a, &b}) {
                if (!side->ended) last = std::min(last, side->begin == start ? side->last : side->begin - 1);
            }
            take(start, last, in_a ? &a.run : nullptr, in_b ? &b.run : nullptr);
            if (in_a) a.pass(last);
            if (in_b) b.pass(last);
        }
        close_leaf(split_leaf_, diff_.split);
        close_leaf(healed_leaf_, diff_.healed);
        close_permission();
        std::ranges::stable_sort(diff_.permission_groups, std::ranges::greater{}, &PermissionGroup::bytes);
    }

private:
    struct Side {
        LeafStream& stream;
        std::uint64_t base;
        LeafRun run{};
        std::uint64_t begin = 0; ///< what is left of the run, counted from the base
        std::uint64_t last = 0;
        bool ended = false;

        void advance() {
            ended = !stream.next(run);
            begin = run.start - base;
            last = run.last - base;
        }
        void pass(std::uint64_t passed) {
            if (passed == last)
                advance();
            else
                begin = passed + 1;
        }
    };
    /// A large leaf and what has been seen of its parts.
    struct OpenLeaf {
        bool open = false;
        LeafChange change;
        std::uint64_t start = 0; ///< counted from the base
    };

    /// Where both maps are aligned alike: physical memory stays where it is when the map moves.
    static std::uint64_t base_of(const MapSummary& map) { return round_down(map.start, map.geometry.largest_leaf()); }

    void take(std::uint64_t start, std::uint64_t last, const LeafRun* a, const LeafRun* b) {
        const std::uint64_t bytes = last - start + 1;
        if (a == nullptr || b == nullptr) {
            add_range(a == nullptr ? diff_.mapped : diff_.unmapped, start + (a == nullptr ? after_base_ : before_base_),
                      bytes);
            // A page that was taken out of a leaf is why the leaf split, just as one whose permission changed.
            if (b == nullptr) {
                note_edges(split_leaf_, diff_.split, before_base_, start, last, *a, a->attributes, 0);
            } else {
                note_edges(healed_leaf_, diff_.healed, after_base_, start, last, *b, 0, b->attributes);
                draw(start, bytes, *b, ChangeKind::mapped);
            }
            return;
        }
        ChangeKind kind = ChangeKind::none;
        const bool changed_permission = a->attributes != b->attributes;
        if (changed_permission) {
            kind = ChangeKind::permission;
            add_permission(start, bytes, a->attributes, b->attributes);
        }
        if (b->leaf_size < a->leaf_size) {
            kind = ChangeKind::split;
            add_resize(diff_.split, split_leaf_, before_base_, start, last, *a, *b, changed_permission);
        } else if (a->leaf_size < b->leaf_size) {
            kind = ChangeKind::healed;
            add_resize(diff_.healed, healed_leaf_, after_base_, start, last, *b, *a, changed_permission);
        }
        if (kind == ChangeKind::none) diff_.unchanged_bytes += bytes;
        draw(start, bytes, *b, kind);
    }

    void draw(std::uint64_t start, std::uint64_t bytes, const LeafRun& run, ChangeKind kind) {
        diff_.picture.add(start + after_base_, bytes, {run.leaf_size, run.attributes, static_cast<std::uint8_t>(kind)});
    }

    void add_range(RangeTotals& totals, std::uint64_t address, std::uint64_t bytes) {
        totals.bytes += bytes;
        if (!totals.list.empty() && totals.list.size() == totals.ranges && totals.list.back().last + 1 == address) {
            totals.list.back().last = address + (bytes - 1);
            return;
        }
        ++totals.ranges;
        if (totals.list.size() < listed_) totals.list.push_back({address, address + (bytes - 1)});
    }

    void add_permission(std::uint64_t start, std::uint64_t bytes, DumpAttributes before, DumpAttributes after) {
        diff_.permission_bytes += bytes;
        PermissionChange& open = permission_;
        if (open.bytes != 0 && open.start + open.bytes == start + after_base_ && open.before == before &&
            open.after == after) {
            open.bytes += bytes;
            return;
        }
        close_permission();
        open = {start + after_base_, bytes, before, after};
    }

    void close_permission() {
        if (permission_.bytes == 0) return;
        ++diff_.permission_ranges;
        if (diff_.permissions.size() < listed_) diff_.permissions.push_back(permission_);
        std::vector<PermissionGroup>& groups = diff_.permission_groups;
        auto group = std::ranges::find_if(groups, [this](const PermissionGroup& known) {
            return known.before == permission_.before && known.after == permission_.after;
        });
        if (group == groups.end() && groups.size() < most_permission_groups)
            group = groups.insert(groups.end(), {.before = permission_.before, .after = permission_.after});
        if (group != groups.end()) {
            ++group->ranges;
            group->bytes += permission_.bytes;
        }
        permission_.bytes = 0;
    }

    /// Memory that `large` maps by larger leaves than `small`. Both maps are aligned alike, so leaves never straddle.
    void add_resize(ResizeSummary& summary, OpenLeaf& open, std::uint64_t base, std::uint64_t start, std::uint64_t last,
                    const LeafRun& large, const LeafRun& small, bool changed_permission) {
        summary.bytes += last - start + 1;
        const std::pair from_to = &summary == &diff_.split ? std::pair(large.leaf_size, small.leaf_size)
                                                           : std::pair(small.leaf_size, large.leaf_size);
        summary.bytes_from_to[from_to] += last - start + 1;
        for (std::uint64_t at = start; at <= last;) {
            const std::uint64_t leaf = round_down(at, large.leaf_size);
            if (!is_open_at(open, leaf, large)) {
                close_leaf(open, summary);
                // Many whole leaves that are all alike need not be looked at one by one when the list is full.
                const std::uint64_t whole = (last - at + 1) / large.leaf_size;
                if (at == leaf && whole > 1 && summary.list.size() >= listed_) {
                    summary.leaves[size_index(large.leaf_size)] += whole;
                    if (whole * large.leaf_size == last - at + 1) return;
                    at += whole * large.leaf_size;
                    continue;
                }
                open_leaf(open, leaf, base, large);
            }
            const std::uint64_t part_last = std::min(last, leaf + (large.leaf_size - 1));
            open.change.parts[size_index(small.leaf_size)] +=
                std::max<std::uint64_t>((part_last - at + 1) / small.leaf_size, 1);
            if (changed_permission) {
                const bool split = &summary == &diff_.split;
                note_cause(open.change, at, part_last, split ? large.attributes : small.attributes,
                           split ? small.attributes : large.attributes);
            }
            if (part_last == last) return;
            at = part_last + 1;
        }
    }

    static bool is_open_at(const OpenLeaf& open, std::uint64_t leaf, const LeafRun& run) {
        return open.open && open.start == leaf && open.change.size == run.leaf_size;
    }

    static void open_leaf(OpenLeaf& open, std::uint64_t leaf, std::uint64_t base, const LeafRun& run) {
        open = {.open = true, .change = {.start = leaf + base, .size = run.leaf_size}, .start = leaf};
    }

    void note_cause(LeafChange& change, std::uint64_t start, std::uint64_t last, DumpAttributes before,
                    DumpAttributes after) const {
        if (change.permission_changes++ != 0) return;
        change.cause_start = start + after_base_;
        change.cause_bytes = last - start + 1;
        change.cause_before = before;
        change.cause_after = after;
    }

    /// Memory that only one side maps. Where it ends inside a leaf of that side, the leaf became several, or was
    /// several.
    void note_edges(OpenLeaf& open, ResizeSummary& summary, std::uint64_t base, std::uint64_t start, std::uint64_t last,
                    const LeafRun& run, DumpAttributes before, DumpAttributes after) {
        const std::uint64_t first_leaf = round_down(start, run.leaf_size);
        const std::uint64_t last_leaf = round_down(last, run.leaf_size);
        const auto note = [&](std::uint64_t leaf) {
            const std::uint64_t from = std::max(start, leaf);
            const std::uint64_t to = std::min(last, leaf + (run.leaf_size - 1));
            if (to - from == run.leaf_size - 1) return;
            if (!is_open_at(open, leaf, run)) {
                close_leaf(open, summary);
                open_leaf(open, leaf, base, run);
            }
            note_cause(open.change, from, to, before, after);
        };
        note(first_leaf);
        if (last_leaf != first_leaf) note(last_leaf);
    }

    void close_leaf(OpenLeaf& open, ResizeSummary& summary) const {
        if (!open.open) return;
        open.open = false;
        // Without parts, all that became of the leaf is that some of it isn't mapped.
        if (std::ranges::all_of(open.change.parts, [](std::uint64_t count) { return count == 0; })) return;
        ++summary.leaves[size_index(open.change.size)];
        if (summary.list.size() < listed_) summary.list.push_back(open.change);
    }

    DumpDiff& diff_;
    std::size_t listed_;
    std::uint64_t before_base_;
    std::uint64_t after_base_;
    OpenLeaf split_leaf_;
    OpenLeaf healed_leaf_;
    PermissionChange permission_;
};

} // namespace

RereadableInput::RereadableInput(const std::string& path) {
    std::tie(name_, wanted_dump_) = path_and_dump(path);
    if (name_ != "-") {
        descriptor_ = ::open(name_.c_str(), O_RDONLY | O_CLOEXEC);
        if (descriptor_ < 0) throw InputError(name_, 0, fmt::format("can't be opened: {}", std::strerror(errno)));
        struct stat status {};
        // Files that the kernel makes up as they are read are empty to look at.
        if (::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode) && status.st_size != 0) return;
        ::close(descriptor_);
        descriptor_ = -1;
    }
    const std::unique_ptr<ByteSource> source = open_source(name_);
    if (name_ == "-") name_ = "standard input";
    descriptor_ = spooled(*source, name_);
}

RereadableInput::~RereadableInput() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

std::unique_ptr<ByteSource> RereadableInput::open() {
    return std::make_unique<DescriptorSource>(descriptor_, name_);
}

std::uint64_t ResizeSummary::count() const {
    std::uint64_t total = 0;
    for (const std::uint64_t by_size : leaves) total += by_size;
    return total;
}

std::string DumpDiff::title_of(const DumpAnalysis& dump) const {
    return before.name == after.name ? fmt::format("{}#{}", dump.name, dump.index) : dump.name;
}

bool DumpDiff::same() const {
    return split.bytes == 0 && healed.bytes == 0 && permission_bytes == 0 && mapped.bytes == 0 && unmapped.bytes == 0;
}

DumpDiff diff_dumps(RereadableInput& before, RereadableInput& after, const DiffOptions& options) {
    DumpDiff diff;
    diff.before = find_direct_map(before, options.analyze);
    diff.after = find_direct_map(after, options.analyze);
    diff.picture = MapPicture(options.picture_limit);
    const MapSummary& map_before = diff.before.map.value();
    const MapSummary& map_after = diff.after.map.value();
    if (diff.before.architecture != diff.after.architecture ||
        map_before.geometry.granule() != map_after.geometry.granule())
        throw InputError(
            diff.title_of(diff.after), 0,
            fmt::format(
                "is a dump of {} with {} pages, but {} is one of {} with {} pages; expected two dumps of one host",
                architecture_name(diff.after.architecture), leaf_name(map_after.geometry.granule()),
                diff.title_of(diff.before), architecture_name(diff.before.architecture),
                leaf_name(map_before.geometry.granule())));
    const std::unique_ptr<ByteSource> source_before = before.open();
    const std::unique_ptr<ByteSource> source_after = after.open();
    LeafStream leaves_before(*source_before, diff.before, map_before, diff.vocabulary);
    LeafStream leaves_after(*source_after, diff.after, map_after, diff.vocabulary);
    Comparison(diff, map_before, map_after, options).run(leaves_before, leaves_after);
    return diff;
}

} // namespace directmap::tool

#include "analyze_picture.hpp"

#include <algorithm>

namespace directmap::tool {
namespace {

/// Hostile input could bring any number of kinds; all beyond this are drawn as the last one.
constexpr std::size_t most_kinds = 256;

} // namespace

void MapPicture::add(std::uint64_t start, std::uint64_t bytes, PictureKind kind) {
    if (limit_ == 0 || bytes == 0) return;
    // A kind that was seen is usually one of the last seen.
    auto found = std::ranges::find(kinds_, kind);
    if (found == kinds_.end() && kinds_.size() < most_kinds) found = kinds_.insert(kinds_.end(), kind);
    const auto index = found == kinds_.end() ? kinds_.size() - 1 : static_cast<std::size_t>(found - kinds_.begin());
    append({.start = start, .span = bytes, .bytes = bytes, .kind = static_cast<std::uint32_t>(index)});
    if (runs_.size() <= limit_) return;
    // What came since the last time may be finer than the resolution. Only when that isn't enough, the resolution has
    // to change; half of the room is free afterwards, so that this doesn't come up with every run.
    compact();
    while (runs_.size() > limit_ / 2 && resolution_ < std::uint64_t{1} << 60) {
        resolution_ *= 4;
        compact();
    }
}

void MapPicture::append(PictureRun run) {
    if (!runs_.empty()) {
        PictureRun& before = runs_.back();
        if (before.exact() && run.exact() && before.kind == run.kind && before.start + before.span == run.start) {
            before.span += run.span;
            before.bytes += run.bytes;
            return;
        }
    }
    runs_.push_back(run);
}

/// What is smaller than a block of the resolution is summed up by kind, block by block.
void MapPicture::compact() {
    const std::uint64_t block_mask = ~(resolution_ - 1);
    std::vector<PictureRun> old;
    old.swap(runs_);
    runs_.reserve(old.size() / 2);

    std::vector<PictureRun> block; // the runs that touch the block in work
    std::uint64_t block_start = 0;
    const auto close_block = [&] {
        if (block.size() == 1) {
            append(block.front());
        } else {
            std::ranges::sort(block, {}, &PictureRun::kind);
            for (std::size_t at = 0; at < block.size();) {
                PictureRun sum{.start = block_start, .span = resolution_, .bytes = 0, .kind = block[at].kind};
                for (; at < block.size() && block[at].kind == sum.kind; ++at) sum.bytes += block[at].bytes;
                append(sum);
            }
        }
        block.clear();
    };
    const auto add_part = [&](const PictureRun& part) {
        const std::uint64_t start = part.start & block_mask;
        if (!block.empty() && start != block_start) close_block();
        block_start = start;
        block.push_back(part);
    };
    for (const PictureRun& run : old) {
        const std::uint64_t end = run.start + run.span;
        const std::uint64_t first_whole = (run.start + resolution_ - 1) & block_mask;
        const std::uint64_t last_whole = end & block_mask;
        if (!run.exact() || first_whole >= last_whole) {
            // Inside one block, or over the border of two; summed-up runs never cross one.
            const std::uint64_t head =
                run.exact() && first_whole > run.start ? std::min(first_whole - run.start, run.span) : run.span;
            if (head < run.span) {
                add_part({run.start, head, head, run.kind});
                add_part({first_whole, run.span - head, run.span - head, run.kind});
            } else {
                add_part(run);
            }
            continue;
        }
        if (run.start < first_whole) add_part({run.start, first_whole - run.start, first_whole - run.start, run.kind});
        if (!block.empty()) close_block();
        append({first_whole, last_whole - first_whole, last_whole - first_whole, run.kind});
        if (last_whole < end) add_part({last_whole, end - last_whole, end - last_whole, run.kind});
    }
    if (!block.empty()) close_block();
}

} // namespace directmap::tool

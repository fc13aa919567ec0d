// The admission gate: whether leaves may be resized while CPUs run on the map (promise P8, design §7).
#pragma once

#include <cstdint>

namespace directmap {

/// What a CPU reports before its first translation through the map.
struct CpuCapabilities {
    /// Resizing a live leaf neither aborts nor mixes on this CPU (arm64: FEAT_BBM level 2 without conflict aborts).
    bool tolerates_live_resize = false;
    /// The CPU mishandles contiguous groups.
    bool no_contiguous = false;
    /// Invalidation and barrier must be issued twice.
    bool invalidate_twice = false;
};

/// What to do with a CPU that doesn't tolerate resizing while the map still needs it.
enum class AdmissionPolicy : std::uint8_t {
    repaint, ///< bring the map to pages, live, while the newcomer waits outside; then forbid resizing for good
    refuse,  ///< answer `unsupported`; the CPU stays out
};

/// The gate's state. It is read under a region's lock before anything is resized there, and changed by storing the new
/// mode and then passing once through every region's lock (as a repaint does anyway). So a resize that saw the old mode
/// has finished when the change of mode returns, and none that starts later sees it: deciding and resizing exclude each
/// other without a counter that all CPUs would share.
class Gate {
public:
    enum class Mode : std::uint8_t {
        undecided, ///< capabilities aren't known yet: nothing is resized, callers may try later
        open,      ///< every CPU on the map tolerates resizing
        splitting, ///< a repaint is under way: leaves may become smaller, never larger
        closed,    ///< some CPU doesn't tolerate resizing, for good
    };

    [[nodiscard]] Mode mode() const { return static_cast<Mode>(__atomic_load_n(&mode_, __ATOMIC_ACQUIRE)); }
    [[nodiscard]] bool may_split() const { return mode() == Mode::open || mode() == Mode::splitting; }
    [[nodiscard]] bool may_merge() const { return mode() == Mode::open; }
    void set(Mode mode) { __atomic_store_n(&mode_, static_cast<std::uint8_t>(mode), __ATOMIC_SEQ_CST); }

    /// Quirks of the CPUs admitted so far.
    [[nodiscard]] bool contiguous_allowed() const { return !__atomic_load_n(&no_contiguous_, __ATOMIC_ACQUIRE); }
    [[nodiscard]] bool invalidate_twice() const { return __atomic_load_n(&invalidate_twice_, __ATOMIC_ACQUIRE); }
    void forbid_contiguous(bool on = true) { __atomic_store_n(&no_contiguous_, on, __ATOMIC_SEQ_CST); }
    void require_twice() { __atomic_store_n(&invalidate_twice_, true, __ATOMIC_SEQ_CST); }

private:
    std::uint8_t mode_ = static_cast<std::uint8_t>(Mode::undecided);
    bool no_contiguous_ = false;
    bool invalidate_twice_ = false;
};

} // namespace directmap

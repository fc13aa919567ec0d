// What a page allows, in the words of no particular architecture. A format translates it to descriptor bits.
#pragma once

#include <cstdint>

namespace directmap {

/// Memory types of the direct map and its aliases. The value is the index into arm64 MAIR_EL1 that the
/// reference kernel programs (Arm ARM, MAIR_EL1); a format for another architecture maps it to its own.
enum class MemoryType : std::uint8_t {
    normal = 0,              ///< write-back cacheable
    normal_tagged = 1,       ///< the same, with allocation tags (FEAT_MTE)
    normal_noncacheable = 2, ///< uncached normal memory
    device_nGnRnE = 3,       ///< strictly ordered device memory
    device_nGnRE = 4,        ///< device memory with early write acknowledgement
};

class Change;

/// The attributes of a page. A value; every combination is representable, and any two compare.
class Attributes {
public:
    /// Kernel RAM as a direct map holds it: valid, writable, not executable, global, cacheable, key 0.
    constexpr Attributes() = default;

    [[nodiscard]] constexpr bool writable() const { return !bit(read_only_bit); }
    [[nodiscard]] constexpr bool executable() const { return !bit(execute_never_bit); }
    /// False: present-invalid. The leaf keeps its address and attributes but every access faults.
    [[nodiscard]] constexpr bool valid() const { return bit(valid_bit); }
    [[nodiscard]] constexpr bool global() const { return !bit(not_global_bit); }
    /// Shared with the host by a confidential guest (arm64 realms: the top address bit is set).
    [[nodiscard]] constexpr bool shared() const { return bit(shared_bit); }
    /// The leaf keeps its size: never split, never collapsed. Pages pinned by `prepare`, and static zones.
    [[nodiscard]] constexpr bool fixed() const { return bit(fixed_bit); }
    [[nodiscard]] constexpr MemoryType memory_type() const {
        return static_cast<MemoryType>(bits_ >> type_shift & type_mask);
    }
    /// Protection key (arm64 FEAT_S1POE overlay index), 0–7.
    [[nodiscard]] constexpr unsigned key() const { return static_cast<unsigned>(bits_ >> key_shift & key_mask); }

    [[nodiscard]] constexpr Attributes with_writable(bool on) const { return with(read_only_bit, !on); }
    [[nodiscard]] constexpr Attributes with_executable(bool on) const { return with(execute_never_bit, !on); }
    [[nodiscard]] constexpr Attributes with_valid(bool on) const { return with(valid_bit, on); }
    [[nodiscard]] constexpr Attributes with_global(bool on) const { return with(not_global_bit, !on); }
    [[nodiscard]] constexpr Attributes with_shared(bool on) const { return with(shared_bit, on); }
    [[nodiscard]] constexpr Attributes with_fixed(bool on) const { return with(fixed_bit, on); }
    [[nodiscard]] constexpr Attributes with_memory_type(MemoryType type) const {
        return Attributes{(bits_ & ~(type_mask << type_shift)) | (static_cast<std::uint64_t>(type) << type_shift)};
    }
    [[nodiscard]] constexpr Attributes with_key(unsigned key) const {
        return Attributes{(bits_ & ~(key_mask << key_shift)) | ((std::uint64_t{key} & key_mask) << key_shift)};
    }

    friend constexpr bool operator==(Attributes, Attributes) = default;

    // For formats: the attributes as bits. Those that arm64 has in its descriptors are where it has them, so that its
    // format moves all of them at once. `shared_bit` is none of them: realms decide at boot where theirs is.
    static constexpr std::uint64_t valid_bit = 1u << 0, read_only_bit = 1u << 7, not_global_bit = 1u << 11,
                                   shared_bit = 1u << 12, execute_never_bit = std::uint64_t{1} << 53,
                                   fixed_bit = std::uint64_t{1} << 55;
    static constexpr unsigned type_shift = 2, key_shift = 60;
    static constexpr std::uint64_t type_mask = 7, key_mask = 7;
    [[nodiscard]] constexpr std::uint64_t bits() const { return bits_; }
    [[nodiscard]] static constexpr Attributes from_bits(std::uint64_t bits) { return Attributes{bits}; }

private:
    friend class Change;

    explicit constexpr Attributes(std::uint64_t bits) : bits_{bits} {}
    [[nodiscard]] constexpr bool bit(std::uint64_t mask) const { return (bits_ & mask) != 0; }
    [[nodiscard]] constexpr Attributes with(std::uint64_t mask, bool on) const {
        return Attributes{on ? bits_ | mask : bits_ & ~mask};
    }

    std::uint64_t bits_ = valid_bit | execute_never_bit;
};

/// A change of some attributes; the others stay. Built by naming what changes:
/// `Change{}.writable(false).executable(true)`.
class Change {
public:
    constexpr Change() = default;

    [[nodiscard]] constexpr Change writable(bool on) const { return with(Attributes::read_only_bit, !on); }
    [[nodiscard]] constexpr Change executable(bool on) const { return with(Attributes::execute_never_bit, !on); }
    [[nodiscard]] constexpr Change valid(bool on) const { return with(Attributes::valid_bit, on); }
    [[nodiscard]] constexpr Change global(bool on) const { return with(Attributes::not_global_bit, !on); }
    [[nodiscard]] constexpr Change shared(bool on) const { return with(Attributes::shared_bit, on); }
    [[nodiscard]] constexpr Change memory_type(MemoryType type) const {
        return field(Attributes::type_mask, Attributes::type_shift, static_cast<std::uint64_t>(type));
    }
    [[nodiscard]] constexpr Change key(unsigned key) const {
        return field(Attributes::key_mask, Attributes::key_shift, key & Attributes::key_mask);
    }

    [[nodiscard]] constexpr bool empty() const { return mask_ == 0; }
    [[nodiscard]] constexpr Attributes apply_to(Attributes attributes) const {
        return Attributes{(attributes.bits_ & ~mask_) | value_};
    }
    /// For formats: the bits that the change names, laid out as in Attributes.
    [[nodiscard]] constexpr std::uint64_t mask() const { return mask_; }
    /// The attributes that the change names, as values: those named are meaningful, the others are not.
    [[nodiscard]] constexpr Attributes values() const { return Attributes{value_}; }
    [[nodiscard]] constexpr bool names_writable() const { return (mask_ & Attributes::read_only_bit) != 0; }
    [[nodiscard]] constexpr bool names_executable() const { return (mask_ & Attributes::execute_never_bit) != 0; }
    [[nodiscard]] constexpr bool names_valid() const { return (mask_ & Attributes::valid_bit) != 0; }
    [[nodiscard]] constexpr bool names_global() const { return (mask_ & Attributes::not_global_bit) != 0; }
    [[nodiscard]] constexpr bool names_shared() const { return (mask_ & Attributes::shared_bit) != 0; }
    [[nodiscard]] constexpr bool names_fixed() const { return (mask_ & Attributes::fixed_bit) != 0; }
    [[nodiscard]] constexpr bool names_memory_type() const {
        return (mask_ & (Attributes::type_mask << Attributes::type_shift)) != 0;
    }
    [[nodiscard]] constexpr bool names_key() const {
        return (mask_ & (Attributes::key_mask << Attributes::key_shift)) != 0;
    }

    friend constexpr bool operator==(Change, Change) = default;

    /// Pinning is the engine's own (`prepare`, `release`); callers don't name it.
    [[nodiscard]] constexpr Change fixed(bool on) const { return with(Attributes::fixed_bit, on); }

private:
    [[nodiscard]] constexpr Change with(std::uint64_t mask, bool on) const { return naming(mask, on ? mask : 0); }
    [[nodiscard]] constexpr Change field(std::uint64_t mask, unsigned shift, std::uint64_t value) const {
        return naming(mask << shift, value << shift);
    }
    [[nodiscard]] constexpr Change naming(std::uint64_t mask, std::uint64_t value) const {
        Change change;
        change.mask_ = mask_ | mask;
        change.value_ = (value_ & ~mask) | value;
        return change;
    }

    std::uint64_t mask_ = 0;
    std::uint64_t value_ = 0; ///< of the bits in `mask_`; the others are 0
};

} // namespace directmap

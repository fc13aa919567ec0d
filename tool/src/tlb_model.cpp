#include "tlb_model.hpp"

#include "embedded.hpp"
#include "input_error.hpp"
#include "output.hpp"
#include "scanner.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

namespace directmap::tool {
namespace {

using Json = nlohmann::json;

constexpr std::string_view data_file = "tlb-cores.json";
constexpr std::uint64_t most_entries = 1 << 20;

/// Reads cores and says which part of the text is wrong.
class CoreParser {
public:
    CoreParser(const std::string& source, const Json& json) : source_(source) {
        const Json& list = member(json, "cores", "the file");
        if (!list.is_array() || list.empty()) fail("'cores' is a list of at least one core");
        for (const Json& core : list) cores_.push_back(parse_core(core));
    }
    [[nodiscard]] std::vector<TlbCore> take() { return std::move(cores_); }

private:
    [[noreturn]] void fail(const std::string& reason) const { throw InputError(source_, 0, reason); }

    const Json& member(const Json& json, const char* key, const std::string& where) const {
        if (!json.is_object() || !json.contains(key)) fail(fmt::format("{} has no '{}'", where, key));
        return json[key];
    }
    std::string text(const Json& json, const char* key, const std::string& where) const {
        const Json& value = member(json, key, where);
        if (!value.is_string()) fail(fmt::format("'{}' of {} is not text", key, where));
        return printable(value.get<std::string>());
    }
    std::uint64_t number(const Json& json, const char* key, const std::string& where) const {
        const Json& value = member(json, key, where);
        if (!value.is_number_unsigned() || value.get<std::uint64_t>() == 0 || value.get<std::uint64_t>() > most_entries)
            fail(fmt::format("'{}' of {} is not a number from 1 to {}", key, where, most_entries));
        return value.get<std::uint64_t>();
    }
    std::uint64_t size(const Json& json, const std::string& where) const {
        const std::string word = json.is_string() ? json.get<std::string>() : "";
        Scanner scanner(word);
        std::uint64_t value = 0;
        const bool counted = scanner.decimal(value) && std::has_single_bit(value) && value < 1024;
        const std::size_t unit =
            scanner.rest().size() == 1 ? std::string_view("KMGT").find(scanner.rest()) : std::string_view::npos;
        if (!counted || unit == std::string_view::npos || (unit == 0 && value < 4))
            fail(fmt::format("'{}' of {} is not a size such as 4K, 2M or 1G", printable(json.dump()), where));
        return value << (10 * (unit + 1));
    }

    TlbCore parse_core(const Json& json) const {
        TlbCore core;
        core.name = text(json, "name", "a core");
        core.about = text(json, "about", core.name);
        core.source = text(json, "source", core.name);
        if (json.contains("contiguous")) {
            if (!json["contiguous"].is_boolean()) fail(fmt::format("'contiguous' of {} is true or false", core.name));
            core.contiguous = json["contiguous"].get<bool>();
        }
        const Json& levels = member(json, "levels", core.name);
        if (!levels.is_array() || levels.empty() || levels.size() > 4)
            fail(fmt::format("'levels' of {} is a list of one to four levels", core.name));
        for (const Json& level : levels) core.levels.push_back(parse_level(level, core.name));
        return core;
    }

    TlbLevel parse_level(const Json& json, const std::string& core) const {
        TlbLevel level;
        level.name = text(json, "name", fmt::format("a level of {}", core));
        const std::string where = fmt::format("{} of {}", level.name, core);
        const Json& parts = member(json, "parts", where);
        if (!parts.is_array() || parts.empty()) fail(fmt::format("'parts' of {} is a list", where));
        std::set<std::uint64_t> sizes;
        for (const Json& item : parts) {
            TlbPart part;
            part.entries = number(item, "entries", where);
            part.ways = number(item, "ways", where);
            if (part.entries % part.ways != 0)
                fail(fmt::format("{} has {} entries in {} ways, which leaves some over", where, part.entries,
                                 part.ways));
            const Json& list = member(item, "sizes", where);
            if (!list.is_array() || list.empty()) fail(fmt::format("'sizes' of {} is a list", where));
            for (const Json& word : list) {
                part.sizes.push_back(size(word, where));
                if (!sizes.insert(part.sizes.back()).second)
                    fail(fmt::format("{} names {} twice", where, leaf_name(part.sizes.back())));
            }
            std::sort(part.sizes.begin(), part.sizes.end());
            level.parts.push_back(std::move(part));
        }
        // Any page must fit somewhere: the smallest there is.
        if (*sizes.begin() != 4096) fail(fmt::format("{} can't hold 4K, so that a page might fit nowhere", where));
        return level;
    }

    std::string source_;
    std::vector<TlbCore> cores_;
};

} // namespace

std::vector<TlbCore> parse_tlb_cores(std::string_view text, const std::string& source) {
    const Json json = Json::parse(text, nullptr, false);
    if (json.is_discarded()) throw InputError(source, 0, "this is not JSON");
    return CoreParser(source, json).take();
}

std::vector<TlbCore> builtin_tlb_cores() {
    for (const EmbeddedFile& file : embedded_files())
        if (file.name == data_file) return parse_tlb_cores(file.text, std::string(data_file));
    return {};
}

TlbCore read_tlb_core(const std::string& name_or_path) {
    std::string names;
    for (TlbCore& core : builtin_tlb_cores()) {
        if (core.name == name_or_path) return std::move(core);
        names += (names.empty() ? "" : ", ") + core.name;
    }
    std::ifstream file(name_or_path, std::ios::binary);
    if (!file)
        throw InputError(printable(name_or_path), 0,
                         fmt::format("{}; cores that are part of the program: {}", std::strerror(errno), names));
    const std::string text(std::istreambuf_iterator<char>(file), {});
    return parse_tlb_cores(text, printable(name_or_path)).front();
}

TlbModel::TlbModel(const TlbCore& core) : contiguous_(core.contiguous) {
    for (const TlbLevel& from : core.levels) {
        Level level;
        for (const TlbPart& part : from.parts)
            level.push_back({part.ways, part.entries / part.ways, part.sizes,
                             std::vector<std::uint64_t>(part.sizes.size()), std::vector<Entry>(part.entries)});
        levels_.push_back(std::move(level));
    }
    start_counting();
}

void TlbModel::start_counting() {
    counts_ = {};
    counts_.misses.resize(levels_.size());
}

std::size_t TlbModel::look_up(std::uint64_t va) {
    ++now_;
    for (std::size_t number = 0; number < levels_.size(); ++number) {
        for (Part& part : levels_[number]) {
            for (std::size_t i = 0; i < part.sizes.size(); ++i) {
                if (part.present[i] == 0) continue;
                const std::uint64_t size = part.sizes[i];
                const std::uint64_t start = va & ~(size - 1);
                Entry* const set = &part.entries[start / size % part.sets * part.ways];
                for (std::uint64_t way = 0; way < part.ways; ++way) {
                    if (set[way].size != size || set[way].va != start) continue;
                    set[way].used = now_;
                    found_ = set[way].leaf;
                    return number;
                }
            }
        }
    }
    return levels_.size();
}

void TlbModel::fill(std::uint64_t va, std::size_t level, const TlbLeaf& leaf) {
    const std::uint64_t reach = contiguous_ ? leaf.size : leaf.descriptor_size;
    for (std::size_t number = 0; number < level; ++number) {
        Part* best = nullptr;
        std::size_t best_index = 0;
        for (Part& part : levels_[number])
            for (std::size_t i = 0; i < part.sizes.size(); ++i)
                if (part.sizes[i] <= reach && (best == nullptr || part.sizes[i] > best->sizes[best_index])) {
                    best = &part;
                    best_index = i;
                }
        const std::uint64_t size = best->sizes[best_index];
        const std::uint64_t start = va & ~(size - 1);
        Entry* const set = &best->entries[start / size % best->sets * best->ways];
        Entry* const oldest =
            std::min_element(set, set + best->ways, [](const Entry& a, const Entry& b) { return a.used < b.used; });
        for (std::size_t i = 0; i < best->sizes.size(); ++i) best->present[i] -= oldest->size == best->sizes[i] ? 1 : 0;
        ++best->present[best_index];
        *oldest = {start, size, now_, leaf};
    }
}

} // namespace directmap::tool

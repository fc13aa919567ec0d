#include "run_scenario.hpp"

#include "embedded.hpp"
#include "input_error.hpp"
#include "output.hpp"
#include "scanner.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>
#include <utility>

namespace directmap::tool {
namespace {

// Far above what makes sense, and low enough that a slip of the finger ends in a message and not in a run of days.
constexpr std::uint64_t most_of_anything = 1'000'000;
constexpr std::uint64_t most_iterations = 10'000;
constexpr std::uint64_t most_steps = 100'000;
constexpr std::uint64_t longest_wait = std::uint64_t{24} * 3600 * 1000;
constexpr std::uint64_t largest_size = std::uint64_t{1} << 40;
constexpr std::size_t deepest_nesting = 8;
constexpr std::size_t largest_file = std::size_t{1} << 20;

constexpr std::uint64_t default_module_smallest = std::uint64_t{64} << 10;
constexpr std::uint64_t default_module_largest = std::uint64_t{512} << 10;
constexpr std::uint64_t default_code_smallest = std::uint64_t{1} << 10;
constexpr std::uint64_t default_code_largest = std::uint64_t{8} << 10;
/// What the executable cache has room for in one piece, whatever the granule.
constexpr std::uint64_t largest_code = std::uint64_t{2} << 20;
constexpr std::string_view suffix = ".scenario";

/// The words of one statement, consumed from the front.
class Words {
public:
    Words(std::string_view line, std::string source, std::size_t number) : source_(std::move(source)), line_(number) {
        std::istringstream stream{std::string(line)};
        for (std::string word; stream >> word;) words_.push_back(word);
    }

    [[noreturn]] void fail(const std::string& reason) const { throw InputError(source_, line_, reason); }

    [[nodiscard]] bool at_end() const { return next_ == words_.size(); }
    [[nodiscard]] std::size_t line() const { return line_; }
    [[nodiscard]] std::string text() const { return fmt::format("{}", fmt::join(words_, " ")); }
    [[nodiscard]] std::string rest() const {
        return fmt::format("{}", fmt::join(words_.begin() + static_cast<std::ptrdiff_t>(next_), words_.end(), " "));
    }
    bool accept(std::string_view word) {
        if (at_end() || words_[next_] != word) return false;
        ++next_;
        return true;
    }
    void expect(std::string_view word) {
        if (!accept(word)) fail(fmt::format("'{}' is missing{}", word, behind()));
    }
    void expect_end() const {
        if (!at_end()) fail(fmt::format("unexpected '{}'", printable(words_[next_])));
    }
    std::string take(std::string_view what) {
        if (at_end()) fail(fmt::format("{} is missing{}", what, behind()));
        return words_[next_++];
    }

    std::uint64_t number(std::string_view what, std::uint64_t most = most_of_anything) {
        const std::string word = take(what);
        Scanner scanner(word);
        std::uint64_t value = 0;
        if (!scanner.decimal(value) || !scanner.at_end() || value == 0)
            fail(fmt::format("{} is a number from 1 on, not '{}'", what, printable(word)));
        if (value > most) fail(fmt::format("{} is at most {}, not {}", what, grouped(most), printable(word)));
        return value;
    }
    std::uint64_t number_or_all(std::string_view what) { return accept("all") ? everything : number(what); }
    std::uint64_t size(std::string_view what) { return size_of(take(what), what); }
    void size_range(std::string_view what, Statement& statement) {
        const std::string word = take(what);
        const std::size_t dots = word.find("..");
        statement.smallest_size = size_of(word.substr(0, dots), what);
        statement.largest_size =
            dots == std::string::npos ? statement.smallest_size : size_of(word.substr(dots + 2), what);
        if (statement.largest_size < statement.smallest_size)
            fail(fmt::format("{} {} ends below its start", what, printable(word)));
    }
    std::uint64_t duration() {
        const std::string word = take("a duration");
        Scanner scanner(word);
        std::uint64_t value = 0;
        const bool counted = scanner.decimal(value);
        std::uint64_t unit = 0;
        for (const auto& [name, milliseconds] :
             {std::pair{"ms", 1}, std::pair{"s", 1000}, std::pair{"m", 60'000}, std::pair{"h", 3'600'000}})
            if (scanner.rest() == name) unit = static_cast<std::uint64_t>(milliseconds);
        if (!counted || unit == 0 || value == 0)
            fail(fmt::format("a duration is a number and ms, s, m or h, such as 10s, not '{}'", printable(word)));
        if (value > longest_wait / unit) fail(fmt::format("nobody waits longer than 24h: {}", printable(word)));
        return value * unit;
    }

private:
    [[nodiscard]] std::string behind() const {
        return next_ == 0 ? "" : fmt::format(" behind '{}'", printable(words_[next_ - 1]));
    }
    [[nodiscard]] std::uint64_t size_of(const std::string& word, std::string_view what) const {
        Scanner scanner(word);
        std::uint64_t value = 0;
        const bool counted = scanner.decimal(value);
        const std::size_t unit =
            scanner.rest().size() == 1 ? std::string_view("KMGT").find(scanner.rest()) : std::string_view::npos;
        if (!counted || unit == std::string_view::npos || value == 0)
            fail(fmt::format("{} is a number and K, M, G or T, such as 64K, not '{}'", what, printable(word)));
        const std::uint64_t bytes = std::uint64_t{1} << (10 * (unit + 1));
        if (value > largest_size / bytes) fail(fmt::format("{} is at most 1T, not {}", what, printable(word)));
        return value * bytes;
    }

    std::string source_;
    std::size_t line_;
    std::vector<std::string> words_;
    std::size_t next_ = 0;
};

void parse_within(Words& words, Statement& statement) {
    if (words.accept("within")) statement.within = words.size("the window");
}

/// The two halves of a statement about users that come and go.
struct ComeAndGo {
    std::string_view come_word;
    Action come;
    std::string_view go_word;
    Action go;
    std::string_view how_many;
    const char* mistake; ///< what to say to any other word
};

/// How many, or when they go all that are there. True if they come: more words may follow then.
bool parse_come_and_go(Words& words, Statement& statement, const ComeAndGo& users) {
    if (words.accept(users.go_word)) {
        statement.action = users.go;
        statement.count = words.number_or_all(users.how_many);
        return false;
    }
    if (!words.accept(users.come_word)) words.fail(users.mistake);
    statement.action = users.come;
    statement.count = words.number(users.how_many);
    return true;
}

void parse_modules(Words& words, Statement& statement) {
    if (!parse_come_and_go(words, statement,
                           {"load", Action::modules_load, "unload", Action::modules_unload, "how many modules",
                            "modules are loaded or unloaded: 'modules load N' or 'modules unload N'"}))
        return;
    statement.smallest_size = default_module_smallest;
    statement.largest_size = default_module_largest;
    if (words.accept("size")) words.size_range("a module's size", statement);
    parse_within(words, statement);
}

void parse_secret(Words& words, Statement& statement) {
    if (!parse_come_and_go(words, statement,
                           {"take", Action::secret_take, "give", Action::secret_give, "how many pages",
                            "secret pages are taken or given back: 'secret take N' or 'secret give N'"}))
        return;
    if (words.accept("in")) {
        statement.places = words.number("how many places");
        words.expect("places");
    }
    parse_within(words, statement);
}

void parse_guard(Words& words, Statement& statement) {
    if (words.accept("prepare")) {
        statement.action = Action::guard_prepare;
        statement.smallest_size = statement.largest_size = words.size("the pool's size");
        parse_within(words, statement);
    } else if (words.accept("flip")) {
        statement.action = Action::guard_flip;
        statement.count = words.number("how many flips");
    } else if (words.accept("release")) {
        statement.action = Action::guard_release;
    } else {
        words.fail(
            "guard pages are prepared, flipped and released: 'guard prepare SIZE', 'guard flip N', 'guard release'");
    }
}

void parse_code(Words& words, Statement& statement) {
    if (!parse_come_and_go(words, statement,
                           {"add", Action::code_add, "remove", Action::code_remove, "how many pieces",
                            "pieces of code are added or removed: 'code add N' or 'code remove N'"}))
        return;
    statement.smallest_size = default_code_smallest;
    statement.largest_size = default_code_largest;
    if (words.accept("size")) words.size_range("a piece's size", statement);
    if (statement.largest_size > largest_code) words.fail("a piece of code has 2M at most");
    parse_within(words, statement);
}

void parse_threads(Words& words, Statement& statement) {
    if (parse_come_and_go(words, statement,
                          {"start", Action::threads_start, "end", Action::threads_end, "how many threads",
                           "threads start and end: 'threads start N' or 'threads end N'"}))
        parse_within(words, statement);
}

void parse_copy(Words& words, Statement& statement) {
    statement.action = Action::copy;
    words.expect("for");
    statement.for_hibernation = words.accept("hibernation");
    if (!statement.for_hibernation && !words.accept("kexec"))
        words.fail("a map is copied for somebody: 'copy for kexec' or 'copy for hibernation'");
}

Statement parse_statement(Words& words) {
    Statement statement;
    statement.line = words.line();
    statement.text = words.text();
    const std::string verb = words.take("a statement");
    if (verb == "boot") {
        statement.action = Action::boot;
        if (words.accept("zone")) statement.smallest_size = statement.largest_size = words.size("the zone's size");
    } else if (verb == "modules") {
        parse_modules(words, statement);
    } else if (verb == "secret") {
        parse_secret(words, statement);
    } else if (verb == "guard") {
        parse_guard(words, statement);
    } else if (verb == "share") {
        statement.action = Action::share;
        statement.count = words.number("how many areas");
        words.expect("x");
        statement.smallest_size = statement.largest_size = words.size("an area's size");
        parse_within(words, statement);
    } else if (verb == "unshare") {
        statement.action = Action::unshare;
        statement.count = words.number_or_all("how many areas");
    } else if (verb == "code") {
        parse_code(words, statement);
    } else if (verb == "threads") {
        parse_threads(words, statement);
    } else if (verb == "copy") {
        parse_copy(words, statement);
    } else if (verb == "collapse") {
        statement.action = Action::collapse;
    } else if (verb == "wait") {
        statement.action = Action::wait;
        statement.milliseconds = words.duration();
    } else if (verb == "repeat") {
        statement.action = Action::repeat;
        statement.count = words.number("how many times", most_iterations);
        words.expect("{");
    } else {
        words.fail(
            fmt::format("'{}' is no statement; there are about, seed, boot, modules, secret, guard, share, unshare, "
                        "code, threads, copy, collapse, wait and repeat",
                        printable(verb)));
    }
    words.expect_end();
    return statement;
}

std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

/// Goes through a scenario without a machine: what is in use after each statement.
class DryRun {
public:
    DryRun(const Scenario& scenario, std::uint64_t page_size) : scenario_(scenario), page_size_(page_size) {
        play(scenario.statements);
    }

    [[nodiscard]] std::uint64_t steps() const { return steps_; }
    [[nodiscard]] std::uint64_t peak_bytes() const { return peak_bytes_; }

private:
    /// Users of one kind, in the order in which they came: how many of which size.
    using Users = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

    [[noreturn]] void fail(const Statement& statement, const std::string& reason) const {
        throw InputError(scenario_.source, statement.line, reason);
    }

    void play(const std::vector<Statement>& statements) {
        for (const Statement& statement : statements) {
            if (statement.action == Action::repeat) {
                for (std::uint64_t i = 0; i < statement.count; ++i) play(statement.body);
                continue;
            }
            if (++steps_ > most_steps)
                fail(statement, fmt::format("more than {} statements would be played", grouped(most_steps)));
            play(statement);
            std::uint64_t bytes = guard_bytes_;
            for (const Users* users : {&modules_, &secrets_, &areas_, &code_, &threads_}) bytes += bytes_of(*users);
            peak_bytes_ = std::max(peak_bytes_, bytes);
        }
    }

    void play(const Statement& statement) {
        const auto come = [&](Users& users) {
            users.emplace_back(statement.count,
                               round_up(std::max<std::uint64_t>(statement.largest_size, 1), page_size_));
        };
        const auto go = [&](Users& users, std::string_view what) {
            std::uint64_t present = 0;
            for (const auto& [count, bytes] : users) present += count;
            if (present == 0) fail(statement, fmt::format("there are no {} at this point", what));
            std::uint64_t left = statement.count == everything ? present : statement.count;
            if (left > present)
                fail(statement, fmt::format("there are only {} {} at this point", grouped(present), what));
            while (left != 0) {
                const std::uint64_t some = std::min(left, users.back().first);
                left -= some;
                users.back().first -= some;
                if (users.back().first == 0) users.pop_back();
            }
        };
        switch (statement.action) {
        case Action::modules_load: come(modules_); break;
        case Action::modules_unload: go(modules_, "modules"); break;
        case Action::secret_take: come(secrets_); break;
        case Action::secret_give: go(secrets_, "secret pages"); break;
        case Action::share: come(areas_); break;
        case Action::unshare: go(areas_, "shared areas"); break;
        case Action::code_add: come(code_); break;
        case Action::code_remove: go(code_, "pieces of code"); break;
        case Action::threads_start: come(threads_); break;
        case Action::threads_end: go(threads_, "threads"); break;
        case Action::guard_prepare: guard_bytes_ += round_up(statement.largest_size, page_size_); break;
        case Action::guard_flip:
            if (guard_bytes_ == 0) fail(statement, "no guard pages are prepared at this point");
            break;
        case Action::guard_release:
            if (guard_bytes_ == 0) fail(statement, "no guard pages are prepared at this point");
            guard_bytes_ = 0;
            break;
        default: break;
        }
    }

    static std::uint64_t bytes_of(const Users& users) {
        std::uint64_t sum = 0;
        for (const auto& [count, bytes] : users) sum += count * bytes;
        return sum;
    }

    const Scenario& scenario_;
    std::uint64_t page_size_;
    std::uint64_t steps_ = 0;
    std::uint64_t peak_bytes_ = 0;
    std::uint64_t guard_bytes_ = 0;
    Users modules_;
    Users secrets_;
    Users areas_;
    Users code_;
    Users threads_;
};

void check_boot(const std::vector<Statement>& statements, const std::string& source, bool outermost) {
    for (std::size_t i = 0; i < statements.size(); ++i) {
        const bool may_boot = outermost && i == 0;
        if ((statements[i].action == Action::boot) != may_boot)
            throw InputError(source, statements[i].line,
                             may_boot ? "the first statement is 'boot'"
                                      : "a machine boots once, in the first statement");
        check_boot(statements[i].body, source, false);
    }
}

} // namespace

std::uint64_t Scenario::peak_bytes(std::uint64_t page_size) const {
    return DryRun(*this, page_size).peak_bytes();
}

bool Scenario::shares() const {
    const std::function<bool(const std::vector<Statement>&)> shares_in = [&](const std::vector<Statement>& list) {
        return std::any_of(list.begin(), list.end(), [&](const Statement& statement) {
            return statement.action == Action::share || shares_in(statement.body);
        });
    };
    return shares_in(statements);
}

Scenario parse_scenario(std::string_view text, const std::string& name, const std::string& source) {
    Scenario scenario;
    scenario.name = name;
    scenario.source = source;
    scenario.text = text;
    std::vector<Statement> open; // repeats whose '}' is still to come
    std::size_t number = 0;
    for (std::string_view rest = text; !rest.empty();) {
        ++number;
        const std::size_t end = rest.find('\n');
        std::string_view line = rest.substr(0, end);
        rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
        if (line.find('\0') != std::string_view::npos) throw InputError(source, number, "this is not text");
        if (line.ends_with('\r')) line.remove_suffix(1);
        line = line.substr(0, line.find('#'));
        Words words(line, source, number);
        if (words.at_end()) continue;
        if (words.accept("about")) {
            if (!scenario.about.empty()) words.fail("there is one 'about'");
            scenario.about = words.rest();
            if (scenario.about.empty()) words.fail("a text is missing behind 'about'");
            continue;
        }
        if (words.accept("seed")) {
            if (scenario.seed) words.fail("there is one 'seed'");
            scenario.seed = words.number("the seed", UINT64_MAX);
            words.expect_end();
            continue;
        }
        if (words.accept("}")) {
            words.expect_end();
            if (open.empty()) words.fail("there is no 'repeat' to end");
            if (open.back().body.empty()) words.fail("there is nothing to repeat");
            Statement repeat = std::move(open.back());
            open.pop_back();
            (open.empty() ? scenario.statements : open.back().body).push_back(std::move(repeat));
            continue;
        }
        Statement statement = parse_statement(words);
        if (statement.action == Action::repeat) {
            if (open.size() == deepest_nesting) words.fail("repeats are nested too deeply");
            open.push_back(std::move(statement));
        } else {
            (open.empty() ? scenario.statements : open.back().body).push_back(std::move(statement));
        }
    }
    if (!open.empty()) throw InputError(source, open.back().line, "the '}' of this 'repeat' is missing");
    if (scenario.statements.empty()) throw InputError(source, 0, "there is no statement in it");
    check_boot(scenario.statements, source, true);
    scenario.steps = DryRun(scenario, 1).steps();
    return scenario;
}

std::vector<Scenario> builtin_scenarios() {
    std::vector<Scenario> scenarios;
    for (const EmbeddedFile& file : embedded_files()) {
        if (!file.name.ends_with(suffix)) continue;
        const std::string name(file.name.substr(0, file.name.size() - suffix.size()));
        scenarios.push_back(parse_scenario(file.text, name, "builtin:" + name));
    }
    std::stable_partition(scenarios.begin(), scenarios.end(),
                          [](const Scenario& scenario) { return scenario.name == default_scenario; });
    return scenarios;
}

Scenario read_scenario(const std::string& name_or_path) {
    for (const EmbeddedFile& file : embedded_files())
        if (file.name == name_or_path + std::string(suffix))
            return parse_scenario(file.text, name_or_path, "builtin:" + name_or_path);
    std::string text;
    if (name_or_path == "-") {
        text.assign(std::istreambuf_iterator<char>(std::cin), {});
        return parse_scenario(text, "standard input", "standard input");
    }
    std::ifstream file(name_or_path, std::ios::binary);
    if (!file) {
        const int error = errno;
        const bool is_name = name_or_path.find('/') == std::string::npos && error == ENOENT;
        throw InputError(printable(name_or_path), 0,
                         is_name ? "there is no scenario and no file of this name; --list shows the scenarios"
                                 : std::strerror(error));
    }
    text.resize(largest_file + 1);
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (file.bad()) throw InputError(printable(name_or_path), 0, std::strerror(errno));
    text.resize(static_cast<std::size_t>(file.gcount()));
    if (text.size() > largest_file) throw InputError(printable(name_or_path), 0, "this is larger than any scenario");
    const std::size_t slash = name_or_path.rfind('/');
    return parse_scenario(text, name_or_path.substr(slash == std::string::npos ? 0 : slash + 1), name_or_path);
}

} // namespace directmap::tool

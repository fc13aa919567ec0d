// The manual page and shell completion: nothing that --help says is missing, and the shells take them.
#include "shell.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsSupersetOf;
using testing::Not;
using testing::UnorderedElementsAreArray;

/// The commands that --help lists.
std::vector<std::string> commands() {
    std::istringstream help(shell("$D --help").output);
    std::vector<std::string> names;
    bool listed = false;
    for (std::string line; std::getline(help, line);) {
        if (line.starts_with("Subcommands:"))
            listed = true;
        else if (listed && line.empty())
            break;
        else if (listed && line.starts_with("  ") && line[2] != ' ')
            names.push_back(line.substr(2, line.find(' ', 2) - 2));
    }
    return names;
}

/// The options that a --help lists: the words that start with a dash before its descriptions.
std::set<std::string> options(const std::string& command) {
    std::istringstream help(shell("$D " + command + " --help").output);
    std::set<std::string> names;
    bool listed = false;
    for (std::string line; std::getline(help, line);) {
        if (line.starts_with("Options:"))
            listed = true;
        else if (listed && line.empty())
            break;
        if (!listed || !line.starts_with("  -")) continue;
        std::istringstream words(line);
        for (std::string word; words >> word && word.starts_with('-');) {
            std::istringstream parts(word);
            for (std::string part; std::getline(parts, part, ',');)
                if (!part.empty()) names.insert(part);
            if (!word.ends_with(',') && word.find(',') == std::string::npos) break;
        }
    }
    return names;
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
}

bool has(const std::string& program) {
    return shell("command -v " + program + " > /dev/null").exit_code == 0;
}

/// What a new bash offers behind `line`, with nothing of the user's set up.
std::vector<std::string> bash_offers(const std::string& line) {
    const Outcome outcome =
        shell("cd / && env -i PATH=\"$PATH\" D=\"$D\" bash --norc --noprofile -c '"
              "source <($D completion bash)\n"
              "line=\"" +
              line +
              "\"\n"
              "# Words as readline splits them.\n"
              "read -ra COMP_WORDS <<< \"${line//=/ = }\"\n"
              "[[ $line == *\" \" ]] && COMP_WORDS+=(\"\")\n"
              "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$line COMP_POINT=${#line}\n"
              "compopt() { :; }\n" // only inside of readline
              "function=$(complete -p directmap)\n"
              "function=${function#*-F } function=${function%% *}\n"
              "$function directmap \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"\n"
              "printf \"%s\\n\" \"${COMPREPLY[@]}\"' 2>&1");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    std::vector<std::string> offers = lines_of(outcome.output);
    std::erase(offers, "");
    return offers;
}

TEST(Manual, TheHelpOfEveryCommandIsReadByTheseTests) {
    EXPECT_THAT(commands(), IsSupersetOf({"run", "plan", "analyze", "diff", "replay", "convert-trace", "watch", "man",
                                          "completion"}));
    EXPECT_THAT(options("run"), IsSupersetOf({"-h", "--help", "--memory-map", "--policy", "--trace", "--json"}));
    EXPECT_THAT(options("replay"), IsSupersetOf({"-h", "--policy", "--list-cores"}));
}

TEST(Manual, EveryOptionOfEveryCommandIsInThePage) {
    const std::string page = shell("$D man").output;
    for (const std::string& command : commands()) {
        const std::size_t start = page.find(".SS directmap " + [&] {
            std::string name;
            for (const char c : command) name += c == '-' ? std::string("\\-") : std::string(1, c);
            return name;
        }());
        ASSERT_NE(start, std::string::npos) << command;
        const std::string section = page.substr(start, page.find("\n.S", start + 1) - start);
        for (const std::string& option : options(command)) {
            std::string name;
            for (const char c : option) name += c == '-' ? std::string("\\-") : std::string(1, c);
            EXPECT_THAT(section, HasSubstr("\\fB" + name + "\\fR")) << command;
        }
    }
}

TEST(Manual, GroffHasNothingToSayAboutThePage) {
    if (!has("groff")) GTEST_SKIP() << "groff is not installed";
    const Outcome warnings = shell("$D man | groff -man -ww -Tutf8 -z 2>&1");
    EXPECT_EQ(warnings.exit_code, 0);
    EXPECT_EQ(warnings.output, "");
    const Outcome page = shell("$D man | groff -man -Tascii -P-c -P-b -P-o -P-u 2>&1");
    for (const char* text : {"directmap - plan, play and read", "directmap replay [OPTION]... [TRACE]",
                             "--memory-map FILE", "jq .verdict"})
        EXPECT_THAT(page.output, HasSubstr(text));
}

TEST(Manual, AFileCanBeWrittenAndAFolderCannot) {
    const Outcome same =
        shell("t=$(mktemp); $D man --output \"$t\" && $D man | cmp - \"$t\"; s=$?; rm \"$t\"; exit $s");
    EXPECT_EQ(same.exit_code, 0) << same.output;
    const Outcome outcome = shell("$D man --output / 2>&1");
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_EQ(outcome.output, "directmap: /: Is a directory\n");
}

TEST(Completion, BashCompletesCommands) {
    EXPECT_THAT(bash_offers("directmap re"), ElementsAre("replay"));
    std::vector<std::string> all = commands();
    all.insert(all.end(), {"-h", "--help", "--version"});
    EXPECT_THAT(bash_offers("directmap "), UnorderedElementsAreArray(all));
}

TEST(Completion, BashCompletesEveryOptionOfEveryCommand) {
    for (const std::string& command : commands()) {
        const std::set<std::string> wanted = options(command);
        EXPECT_THAT(bash_offers("directmap " + command + " -"),
                    UnorderedElementsAreArray(std::vector<std::string>(wanted.begin(), wanted.end())))
            << command;
    }
}

TEST(Completion, BashCompletesValues) {
    EXPECT_THAT(bash_offers("directmap replay --policy on"), ElementsAre("on-restore"));
    EXPECT_THAT(bash_offers("directmap replay --format=arm64-1"), ElementsAre("arm64-16k"));
    EXPECT_THAT(bash_offers("directmap replay --format="), ElementsAre("arm64-4k", "arm64-16k", "arm64-64k"));
    EXPECT_THAT(bash_offers("directmap completion f"), ElementsAre("fish"));
    EXPECT_THAT(bash_offers("directmap replay --memory-map /et"), ElementsAre("/etc"));
    EXPECT_THAT(bash_offers("directmap replay /et"), ElementsAre("/etc"));
    EXPECT_TRUE(bash_offers("directmap replay --cpus ").empty()); // a number
}

TEST(Completion, ZshTakesTheScript) {
    if (!has("zsh")) GTEST_SKIP() << "zsh is not installed";
    const Outcome outcome =
        shell("D=\"$D\" zsh -fc 'autoload -Uz compinit; compinit -D -u; source <($D completion zsh) && "
              "whence -w _directmap; print $_comps[directmap]' 2>&1");
    EXPECT_EQ(outcome.output, "_directmap: function\n_directmap\n");
    const std::string script = shell("$D completion zsh").output;
    for (const std::string& command : commands())
        for (const std::string& option : options(command)) EXPECT_THAT(script, HasSubstr(option + "[")) << command;
}

TEST(Completion, FishCompletes) {
    if (!has("fish")) GTEST_SKIP() << "fish is not installed";
    const auto offers = [](const std::string& line) {
        return shell("HOME=$(mktemp -d) fish --no-config -c \"$D completion fish | source; complete -C '" + line +
                     "'\" 2>&1 | cut -f1")
            .output;
    };
    EXPECT_EQ(offers("directmap rep"), "replay\n");
    EXPECT_EQ(offers("directmap replay --policy on"), "on-restore\n");
    EXPECT_EQ(offers("directmap run --no-com"), "--no-comparison\n");
    const std::string script = shell("$D completion fish").output;
    for (const std::string& command : commands())
        for (const std::string& option : options(command))
            EXPECT_THAT(script,
                        HasSubstr(option.starts_with("--") ? " -l " + option.substr(2) : " -s " + option.substr(1)));
}

TEST(Completion, AnUnknownShellIsRefused) {
    const Outcome outcome = shell("$D completion tcsh 2>&1");
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_THAT(outcome.output, HasSubstr("'tcsh' is none of bash, zsh, fish"));
}

} // namespace

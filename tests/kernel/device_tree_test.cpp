// The device tree reader: what it finds, and that it can't be led out of the blob.
#include "pure/device_tree.hpp"

#include "flat_tree.hpp"

#include <algorithm>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <string>

namespace directmap::kernel {
namespace {

using test::FlatTree;

/// Null, or what is wrong with it.
const char* verdict_on(const std::vector<unsigned char>& blob) {
    DeviceTree tree;
    return tree.check(blob.data(), blob.size());
}

FlatTree small_tree() {
    FlatTree tree;
    tree.begin("").cells("#address-cells", {2}).strings("compatible", {"a,first", "b,second"});
    tree.begin("soc@1000").flag("ranges").nothing();
    tree.begin("uart@9000000").strings("status", {"okay"}).end();
    tree.begin("timer").strings("status", {"disabled"}).end();
    tree.end();
    tree.begin("chosen").strings("bootargs", {"seed=7 json"}).end();
    tree.end();
    return tree;
}

TEST(DeviceTree, NodesAreFoundByPathWithAndWithoutUnitAddress) {
    const auto blob = small_tree().blob();
    DeviceTree tree;
    ASSERT_EQ(tree.check(blob.data(), blob.size()), nullptr);
    EXPECT_TRUE(tree.find("/soc/uart"));
    EXPECT_TRUE(tree.find("/soc@1000/uart@9000000"));
    EXPECT_FALSE(tree.find("/soc/uart@1"));
    EXPECT_FALSE(tree.find("/chosen/uart"));
    EXPECT_FALSE(tree.find("chosen"));
    EXPECT_EQ(tree.find("/")->name(), "");
    EXPECT_EQ(tree.find("/soc")->name(), "soc@1000");
    EXPECT_EQ(tree.find("/soc")->base_name(), "soc");
}

TEST(DeviceTree, ChildrenComeInTheirOrderAndEndWithTheirParent) {
    const auto blob = small_tree().blob();
    DeviceTree tree;
    ASSERT_EQ(tree.check(blob.data(), blob.size()), nullptr);
    std::vector<std::string> names;
    for (auto node = tree.root().first_child(); node; node = node->next_sibling()) names.emplace_back(node->name());
    EXPECT_EQ(names, (std::vector<std::string>{"soc@1000", "chosen"}));
    names.clear();
    for (auto node = tree.find("/soc")->first_child(); node; node = node->next_sibling())
        names.emplace_back(node->name());
    EXPECT_EQ(names, (std::vector<std::string>{"uart@9000000", "timer"}));
    EXPECT_FALSE(tree.find("/chosen")->first_child());
}

TEST(DeviceTree, PropertiesBelongToTheirNodeAlone) {
    const auto blob = small_tree().blob();
    DeviceTree tree;
    ASSERT_EQ(tree.check(blob.data(), blob.size()), nullptr);
    EXPECT_EQ(tree.find("/chosen")->property("bootargs")->text(), "seed=7 json");
    EXPECT_FALSE(tree.root().property("bootargs"));
    EXPECT_FALSE(tree.find("/soc")->property("status"));
    EXPECT_EQ(tree.find("/soc")->property("ranges")->size(), 0u);
    EXPECT_EQ(tree.root().property("#address-cells")->cell(), 2u);
    EXPECT_TRUE(tree.root().compatible("b,second"));
    EXPECT_FALSE(tree.root().compatible("second"));
    EXPECT_TRUE(tree.find("/soc/uart")->enabled());
    EXPECT_FALSE(tree.find("/soc/timer")->enabled());
    EXPECT_TRUE(tree.find("/chosen")->enabled());
}

TEST(DeviceTree, ValuesOfTheWrongLengthAnswerNothing) {
    FlatTree builder;
    builder.begin("")
        .property("three", {1, 2, 3})
        .cells("one", {5})
        .cells("two", {1, 2})
        .cells("many", {1, 2, 3})
        .end();
    const auto blob = builder.blob();
    DeviceTree tree;
    ASSERT_EQ(tree.check(blob.data(), blob.size()), nullptr);
    const auto value = [&](const char* name) { return *tree.root().property(name); };
    EXPECT_FALSE(value("three").cell());
    EXPECT_FALSE(value("three").number());
    EXPECT_EQ(value("three").text(), ""); // not terminated
    EXPECT_EQ(value("one").number(), 5u);
    EXPECT_EQ(value("two").number(), 0x1'0000'0002u);
    EXPECT_FALSE(value("many").number());
}

TEST(DeviceTree, RegIsReadWithTheParentsCells) {
    FlatTree builder;
    builder.begin("").cells("#address-cells", {2}).cells("#size-cells", {1});
    builder.begin("good").cells("reg", {1, 2, 3, 4, 5, 6}).end();
    builder.begin("odd").cells("reg", {1, 2, 3, 4}).end();
    builder.begin("bare").end();
    builder.end();
    const auto blob = builder.blob();
    DeviceTree tree;
    ASSERT_EQ(tree.check(blob.data(), blob.size()), nullptr);
    std::uint64_t address = 0, size = 0;
    RegCursor good{tree.root(), *tree.find("/good")};
    ASSERT_TRUE(good.next(address, size));
    EXPECT_EQ(address, 0x1'0000'0002u);
    EXPECT_EQ(size, 3u);
    ASSERT_TRUE(good.next(address, size));
    EXPECT_EQ(address, 0x4'0000'0005u);
    EXPECT_FALSE(good.next(address, size));
    EXPECT_FALSE(good.malformed());

    RegCursor odd{tree.root(), *tree.find("/odd")};
    EXPECT_TRUE(odd.next(address, size));
    EXPECT_FALSE(odd.next(address, size));
    EXPECT_TRUE(odd.malformed());

    RegCursor bare{tree.root(), *tree.find("/bare")};
    EXPECT_FALSE(bare.next(address, size));
    EXPECT_FALSE(bare.malformed());
}

TEST(DeviceTree, NumbersOfMoreThan64BitsAndPairsWithoutCellsAreMalformed) {
    for (const std::uint32_t cells : {0u, 3u, 0xffffffffu}) {
        FlatTree builder;
        builder.begin("").cells("#address-cells", {cells}).cells("#size-cells", {0});
        builder.begin("node").cells("reg", {1, 2, 3}).end().end();
        const auto blob = builder.blob();
        DeviceTree tree;
        ASSERT_EQ(tree.check(blob.data(), blob.size()), nullptr);
        RegCursor reg{tree.root(), *tree.find("/node")};
        std::uint64_t address = 0, size = 0;
        EXPECT_FALSE(reg.next(address, size)) << cells;
        EXPECT_TRUE(reg.malformed()) << cells;
    }
}

TEST(DeviceTree, ReservationsAreListed) {
    auto builder = small_tree();
    builder.reserve(0x8000'0000, 0x1000).reserve(0x9000'0000, 0);
    const auto blob = builder.blob();
    DeviceTree tree;
    ASSERT_EQ(tree.check(blob.data(), blob.size()), nullptr);
    std::uint64_t address = 0, size = 0;
    ASSERT_TRUE(tree.reservation(0, address, size));
    EXPECT_EQ(address, 0x8000'0000u);
    EXPECT_EQ(size, 0x1000u);
    EXPECT_TRUE(tree.reservation(1, address, size));
    EXPECT_FALSE(tree.reservation(2, address, size));
}

TEST(DeviceTree, ABlobThatIsNoTreeIsToldSo) {
    const auto good = small_tree().blob();
    EXPECT_EQ(verdict_on(good), nullptr);
    EXPECT_EQ(DeviceTree::claimed_size(good.data()), good.size());

    const auto spoiled = [&](FlatTree::Field field, std::uint32_t value) {
        auto blob = good;
        FlatTree::set(blob, field, value);
        return verdict_on(blob);
    };
    EXPECT_STREQ(spoiled(FlatTree::magic, 0xedfe0dd0), "wrong magic number");
    EXPECT_STREQ(spoiled(FlatTree::total_size, 39), "its size is not what its header says");
    EXPECT_STREQ(spoiled(FlatTree::total_size, static_cast<std::uint32_t>(good.size()) + 1),
                 "its size is not what its header says");
    EXPECT_STREQ(spoiled(FlatTree::total_size, 0xffff'ffff), "larger than 2 MiB");
    EXPECT_STREQ(spoiled(FlatTree::version, 16), "its version is not supported");
    EXPECT_STREQ(spoiled(FlatTree::last_compatible_version, 18), "its version is not supported");
    for (const std::uint32_t wrong : {0u, 2u, 41u, 0x7fff'fffcu, 0xffff'fffcu}) {
        EXPECT_STREQ(spoiled(FlatTree::structure_offset, wrong), "its structure block lies outside") << wrong;
    }
    EXPECT_STREQ(spoiled(FlatTree::structure_size, 0xffff'ffff), "its structure block lies outside");
    EXPECT_STREQ(spoiled(FlatTree::strings_offset, 0xffff'ffff), "its strings block lies outside");
    EXPECT_STREQ(spoiled(FlatTree::strings_size, 0xffff'ffff), "its strings block lies outside");
    EXPECT_STREQ(spoiled(FlatTree::reservations_offset, 0xffff'ffff), "its reservation block lies outside");
    EXPECT_STREQ(spoiled(FlatTree::reservations_offset, static_cast<std::uint32_t>(good.size()) - 8),
                 "its reservation block has no end");
    EXPECT_EQ(DeviceTree::claimed_size("no device tree at all, but long enough"), 0u);
}

TEST(DeviceTree, AStructureThatDoesNotAddUpIsToldSo) {
    const auto verdict = [](const FlatTree& builder, bool closed = true) { return verdict_on(builder.blob(closed)); };
    EXPECT_STREQ(verdict(FlatTree{}), "it ends inside a node"); // no root
    EXPECT_STREQ(verdict(FlatTree{}.begin("")), "it ends inside a node");
    EXPECT_STREQ(verdict(FlatTree{}.begin("").end(), false), "its structure block is malformed");
    EXPECT_STREQ(verdict(FlatTree{}.begin("").end().end()), "a node ends that never began");
    EXPECT_STREQ(verdict(FlatTree{}.begin("").end().begin("").end()), "it has two roots");
    EXPECT_STREQ(verdict(FlatTree{}.nothing().begin("").end()), "its root is not at the start");
    EXPECT_STREQ(verdict(FlatTree{}.flag("lost").begin("").end()), "a property stands outside of its node");
    EXPECT_STREQ(verdict(FlatTree{}.begin("").begin("child").end().flag("late").end()),
                 "a property stands outside of its node");
    EXPECT_STREQ(verdict(FlatTree{}.begin("").token(7).end()), "its structure block is malformed");
    FlatTree deep;
    for (unsigned i = 0; i <= DeviceTree::depth_limit; ++i) deep.begin("n");
    for (unsigned i = 0; i <= DeviceTree::depth_limit; ++i) deep.end();
    EXPECT_STREQ(verdict(deep), "its nodes nest too deep");
}

TEST(DeviceTree, NamesAndValuesThatRunOutOfTheirBlockAreToldSo) {
    // A property whose length, or whose name's offset, is wrong.
    for (const auto& [length, name] :
         {std::pair{0xffff'ffffu, 0u}, {0x7fff'fff0u, 0u}, {4u, 0xffff'ffffu}, {4u, 5000u}}) {
        FlatTree builder;
        builder.begin("").token(3).token(length).token(name).token(0).end();
        EXPECT_STREQ(verdict_on(builder.blob()), "its structure block is malformed") << length << ' ' << name;
    }
    auto blob = small_tree().blob();
    // The last string loses its zero.
    blob.back() = 'x';
    EXPECT_STREQ(verdict_on(blob), "its structure block is malformed");
}

TEST(DeviceTree, ATruncatedBlobIsRefusedAtEveryLength) {
    const auto blob = small_tree().blob();
    for (std::size_t size = 0; size < blob.size(); ++size) {
        const std::vector<unsigned char> cut(blob.begin(), blob.begin() + static_cast<std::ptrdiff_t>(size));
        EXPECT_NE(verdict_on(cut), nullptr) << size;
    }
}

RC_GTEST_PROP(DeviceTree, AFlippedByteIsRefusedOrReadWithoutLeavingTheBlob, ()) {
    auto blob = small_tree().blob();
    const auto at = *rc::gen::inRange<std::size_t>(0, blob.size());
    blob[at] = *rc::gen::arbitrary<unsigned char>();
    DeviceTree tree; // the sanitizer watches the reads
    if (tree.check(blob.data(), blob.size()) != nullptr) return;
    unsigned nodes = 0;
    for (auto node = tree.root().first_child(); node; node = node->next_sibling()) ++nodes;
    RC_ASSERT(nodes <= 4u);
    (void)tree.find("/chosen");
}

} // namespace
} // namespace directmap::kernel

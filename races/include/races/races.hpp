// Races: a few CPUs do something to one map at once. One source for the machine, whose explorer tries every order, and
// for the reference kernel, whose CPUs really race.
//
// Each brings its `World`: the map's operations, which must succeed; what CPUs do to it without the engine; and a
// place.
//
//   page        0 1 2 3 | 4 5 6 7 | 8 …  31 | 32 … 63 | 64 …
//   leaves      a group | a group |         |         |
//               a block           | blocks  |         |
//               a group of blocks           | another |
//               region 0, as large as the leaves get  | region 1
//
// - `pages(first, count)`, `region(i)`: PhysRange. How many pages of the real map lie between the pages of a race, and
//   whether a region is one leaf, is the world's business; a range that ends where a leaf ends reaches to that end.
// - `protect(range, change, options)`, `protect_deferred(i, range, change)` and `complete(i)`, `collapse(range)`,
//   `prepare(range)`, `release(range)`, `repaint()`.
// - `access(pa, write, must_fault)`: this CPU's load or store; `walk_in_hardware(pa)`: its MMU walks there;
//   `translate(pa)`, `walk(range)`: its software does.
// - `flags[i]`: signals between agents; `await(why, condition)`: until another agent has given one.
#pragma once

#include "directmap/attributes.hpp"
#include "directmap/pages.hpp"

namespace directmap::races {

/// What one CPU does.
template <class World>
struct Agent {
    unsigned cpu = 0;
    const char* what = "";
    void (*run)(World&) = nullptr;
};

template <class World>
struct Race {
    static constexpr unsigned max_agents = 3;

    const char* name;
    const char* what; ///< in words
    unsigned cpus = 2;
    void (*prepare)(World&) = nullptr; ///< before the race
    Agent<World> agents[max_agents];
    bool repaints = false; ///< the whole map: takes long on a large one
};

inline constexpr Change read_only = Change{}.writable(false), writable = Change{}.writable(true),
                        executable = Change{}.executable(true), invalid = Change{}.valid(false),
                        valid = Change{}.valid(true), uncached = Change{}.memory_type(MemoryType::normal_noncacheable);

/// Leaves region 0 with a table of pages 0-7 and one of blocks, and the attributes that it had.
template <class World>
void split_and_restore(World& w) {
    w.protect(w.pages(5), read_only);
    w.protect(w.pages(5), writable);
}

namespace detail {

template <class World, class Visit>
void visit_changes(Visit& visit) {
    visit({.name = "split-split-same-leaf",
           .what = "two CPUs change pages of one large leaf, in different blocks",
           .agents = {{0, "makes page 5 read-only", [](World& w) { w.protect(w.pages(5), read_only); }},
                      {1, "makes page 50 read-only", [](World& w) { w.protect(w.pages(50), read_only); }}}});
    visit({.name = "split-split-same-block",
           .what = "two CPUs change neighbouring pages of one large leaf",
           .agents = {{0, "makes page 5 read-only", [](World& w) { w.protect(w.pages(5), read_only); }},
                      {1, "makes page 6 executable", [](World& w) { w.protect(w.pages(6), executable); }}}});
    visit({.name = "split-split-neighbours",
           .what = "two CPUs split neighbouring large leaves, in different regions but with entries in one table",
           .agents = {{0, "makes page 63 read-only", [](World& w) { w.protect(w.pages(63), read_only); }},
                      {1, "makes page 64 read-only", [](World& w) { w.protect(w.pages(64), read_only); }}}});
    visit({.name = "split-access",
           .what = "one CPU splits a leaf, another one uses a neighbouring page",
           .agents = {{0, "makes page 5 read-only", [](World& w) { w.protect(w.pages(5), read_only); }},
                      {1, "writes, looks up and walks to page 6", [](World& w) {
                           w.access(w.pages(6).start, true, false);
                           w.walk_in_hardware(w.pages(6).start);
                           (void)w.translate(w.pages(6).start);
                           w.access(w.pages(6).start, true, false);
                       }}}});
    visit({.name = "split-hardware-walk",
           .what = "one CPU splits a leaf, another one's MMU walks to the page that changes",
           .agents = {{0, "makes page 5 read-only", [](World& w) { w.protect(w.pages(5), read_only); }},
                      {1, "walks to page 5 twice", [](World& w) {
                           w.walk_in_hardware(w.pages(5).start);
                           w.walk_in_hardware(w.pages(5).start);
                       }}}});
    visit({.name = "protect-protect-halves",
           .what = "two CPUs change the two halves of one large leaf",
           .agents = {{0, "makes pages 0-31 read-only", [](World& w) { w.protect(w.pages(0, 32), read_only); }},
                      {1, "makes pages 32-63 executable", [](World& w) { w.protect(w.pages(32, 32), executable); }}}});
    visit({.name = "protect-protect-same-page",
           .what = "two CPUs change one page in opposite directions",
           .prepare = split_and_restore<World>,
           .agents = {{0, "makes page 5 read-only", [](World& w) { w.protect(w.pages(5), read_only); }},
                      {1, "makes pages 4-6 writable", [](World& w) { w.protect(w.pages(4, 3), writable); }}}});
    visit({.name = "protect-protect-same-group",
           .what = "two CPUs change pages of one contiguous group",
           .prepare = split_and_restore<World>, // pages 0-3 are a group
           .agents = {{0, "makes page 1 read-only", [](World& w) { w.protect(w.pages(1), read_only); }},
                      {1, "makes pages 0-3 executable", [](World& w) { w.protect(w.pages(0, 4), executable); }}}});
    visit({.name = "tighten-remote-access",
           .what = "once a permission has been taken away no other CPU can use it",
           .agents = {{0, "makes page 5 read-only, then says so",
                       [](World& w) {
                           w.protect(w.pages(5), read_only);
                           w.flags[0] = 1;
                       }},
                      {1, "walks to page 5, waits for that, then writes", [](World& w) {
                           w.walk_in_hardware(w.pages(5).start);
                           w.await("agent 0 to be done", [&w] { return w.flags[0] != 0; });
                           w.access(w.pages(5).start, true, true);
                           w.access(w.pages(6).start, true, false);
                       }}}});
    visit({.name = "invalidate-remote-access",
           .what = "once a page is invalid no other CPU can reach it, and once it is valid again every one can",
           .agents = {{0, "makes page 5 invalid, then valid",
                       [](World& w) {
                           w.protect(w.pages(5), invalid);
                           w.flags[0] = 1;
                           w.await("agent 1 to have tried", [&w] { return w.flags[0] == 2; });
                           w.protect(w.pages(5), valid);
                           w.flags[0] = 3;
                       }},
                      {1, "reads page 5 after each", [](World& w) {
                           w.await("agent 0 to be done", [&w] { return w.flags[0] == 1; });
                           w.access(w.pages(5).start, false, true);
                           w.flags[0] = 2;
                           w.await("agent 0 to be done", [&w] { return w.flags[0] == 3; });
                           w.access(w.pages(5).start, false, false);
                       }}}});
    visit({.name = "break-neighbour-access",
           .what = "a change that must break before it makes leaves its neighbours alone",
           .agents = {{0, "makes page 5 uncached", [](World& w) { w.protect(w.pages(5), uncached); }},
                      {1, "uses page 6", [](World& w) {
                           w.access(w.pages(6).start, true, false);
                           w.walk_in_hardware(w.pages(6).start);
                           w.access(w.pages(6).start, true, false);
                       }}}});
    visit({.name = "break-protect",
           .what = "a change that must break before it makes, and a change of the same pages that need not",
           .agents = {{0, "makes pages 4-7 uncached", [](World& w) { w.protect(w.pages(4, 4), uncached); }},
                      {1, "makes page 6 read-only", [](World& w) { w.protect(w.pages(6), read_only); }}}});
    visit({.name = "regions-crossing",
           .what = "two CPUs change ranges that overlap and lie in two regions each",
           .agents = {{0, "makes pages 60-66 read-only", [](World& w) { w.protect(w.pages(60, 7), read_only); }},
                      {1, "makes pages 62-69 executable", [](World& w) { w.protect(w.pages(62, 8), executable); }}}});
    visit({.name = "regions-collapse",
           .what = "one CPU changes a range of two regions, another one collapses the first of them",
           .prepare = [](World& w) { w.protect(w.pages(63), read_only); },
           .agents = {{0, "makes pages 62-65 read-only", [](World& w) { w.protect(w.pages(62, 4), read_only); }},
                      {1, "collapses region 0, then makes page 62 writable", [](World& w) {
                           w.collapse(w.region(0));
                           w.protect(w.pages(61), read_only);
                       }}}});
    visit(
        {.name = "regions-nothing-to-do",
         .what = "one CPU changes a range of two regions, another one finds its page changed already and relies on it",
         .agents = {{0, "makes pages 62-65 read-only", [](World& w) { w.protect(w.pages(62, 4), read_only); }},
                    {1, "makes page 63 read-only, then can't write to it", [](World& w) {
                         w.protect(w.pages(63), read_only);
                         w.access(w.pages(63).start, true, true);
                     }}}});
    visit({.name = "split-lingers-tighten",
           .what = "a page changes while the larger leaf that it was split from may still be cached",
           .agents = {{0, "prepares pages 0-7",
                       [](World& w) {
                           w.prepare(w.pages(0, 8));
                           w.release(w.pages(0, 8));
                       }},
                      {1, "makes page 6 read-only", [](World& w) { w.protect(w.pages(6), read_only); }}}});
}

template <class World, class Visit>
void visit_resizes(Visit& visit) {
    visit({.name = "collapse-protect",
           .what = "one CPU merges pages, another one changes one of them",
           .prepare = split_and_restore<World>,
           .agents = {{0, "collapses region 0", [](World& w) { w.collapse(w.region(0)); }},
                      {1, "makes page 6 read-only", [](World& w) { w.protect(w.pages(6), read_only); }}}});
    visit({.name = "collapse-split",
           .what = "one CPU merges blocks, another one splits one of them",
           .prepare = split_and_restore<World>,
           .agents = {{0, "collapses region 0", [](World& w) { w.collapse(w.region(0)); }},
                      {1, "makes page 40 read-only", [](World& w) { w.protect(w.pages(40), read_only); }}}});
    visit({.name = "collapse-collapse",
           .what = "two CPUs collapse one region and reclaim its tables",
           .prepare = split_and_restore<World>,
           .agents = {{0, "collapses region 0", [](World& w) { w.collapse(w.region(0)); }},
                      {1, "collapses region 0", [](World& w) { w.collapse(w.region(0)); }}}});
    visit({.name = "collapse-hardware-walk",
           .what = "a table is taken away and used anew while another CPU's MMU walks through it",
           .prepare = split_and_restore<World>,
           .agents = {{0, "collapses region 0, then splits region 1",
                       [](World& w) {
                           w.collapse(w.region(0));
                           w.protect(w.pages(70), read_only);
                       }},
                      {1, "walks to page 5", [](World& w) { w.walk_in_hardware(w.pages(5).start); }}}});
    visit({.name = "free-walk-in-flight",
           .what = "a collapse frees a table, a third CPU takes it, and a walk is still in flight",
           .cpus = 3,
           .prepare = split_and_restore<World>,
           .agents = {{0, "collapses region 0", [](World& w) { w.collapse(w.region(0)); }},
                      {1, "walks to page 5", [](World& w) { w.walk_in_hardware(w.pages(5).start); }},
                      {2, "makes page 70 read-only", [](World& w) { w.protect(w.pages(70), read_only); }}}});
    visit({.name = "deferred-flush-collapse",
           .what = "pages agree again by a change whose flush is still owed, and are merged",
           .prepare =
               [](World& w) {
                   w.protect(w.pages(0, 5), read_only);
                   w.protect(w.pages(6, 2), read_only);
               },
           .agents = {{0, "makes page 5 read-only, the flush deferred, then flushes",
                       [](World& w) {
                           w.protect_deferred(0, w.pages(5), read_only);
                           w.complete(0);
                       }},
                      {1, "collapses region 0", [](World& w) { w.collapse(w.region(0)); }}}});
    visit({.name = "deferred-flush-split",
           .what = "a large leaf changes with the flush deferred, and is split before it",
           .agents = {{0, "makes region 0 read-only, the flush deferred, then flushes",
                       [](World& w) {
                           w.protect_deferred(0, w.region(0), read_only);
                           w.complete(0);
                       }},
                      {1, "makes page 5 executable", [](World& w) { w.protect(w.pages(5), executable); }}}});
    visit({.name = "prepare-collapse",
           .what = "one CPU pins pages, another one merges",
           .agents = {{0, "prepares pages 0-7, changes one without tables, releases them",
                       [](World& w) {
                           w.prepare(w.pages(0, 8));
                           w.protect(w.pages(5), read_only, {.atomic = true});
                           w.release(w.pages(0, 8));
                       }},
                      {1, "collapses region 0", [](World& w) { w.collapse(w.region(0)); }}}});
    visit({.name = "prepare-protect",
           .what = "one CPU pins pages, another one changes one of them",
           .agents = {{0, "prepares pages 4-11, releases them",
                       [](World& w) {
                           w.prepare(w.pages(4, 8));
                           w.release(w.pages(4, 8));
                       }},
                      {1, "makes page 6 read-only", [](World& w) { w.protect(w.pages(6), read_only); }}}});
    visit({.name = "repaint-protect",
           .what = "one CPU brings the map to pages, another one changes one of them",
           .agents = {{0, "repaints", [](World& w) { w.repaint(); }},
                      {1, "makes pages 4-7 read-only", [](World& w) { w.protect(w.pages(4, 4), read_only); }}},
           .repaints = true});
    visit({.name = "repaint-protect-leaf",
           .what = "one CPU brings the map to pages, another one changes a large leaf as a whole",
           .agents = {{0, "repaints", [](World& w) { w.repaint(); }},
                      {1, "makes region 0 read-only", [](World& w) { w.protect(w.region(0), read_only); }}},
           .repaints = true});
    visit({.name = "repaint-collapse",
           .what = "one CPU brings the map to pages, another one merges them",
           .prepare = split_and_restore<World>,
           .agents = {{0, "repaints", [](World& w) { w.repaint(); }},
                      {1, "collapses region 0", [](World& w) { w.collapse(w.region(0)); }}},
           .repaints = true});
}

} // namespace detail

/// Calls `visit(const Race<World>&)` for every race.
template <class World, class Visit>
void for_each(Visit visit) {
    detail::visit_changes<World>(visit);
    detail::visit_resizes<World>(visit);
}

} // namespace directmap::races

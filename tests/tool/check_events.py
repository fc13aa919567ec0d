#!/usr/bin/env python3
"""Judges a recorded run of the machine: the order of stores, barriers and invalidations.

    check_events.py EVENTS.jsonl

Reads what `directmap run --record` writes (docs/events.md) and nothing else. It keeps the page tables that the stores
amount to, and holds against every event what the architecture asks of software. It shares no code with the machine, and
works differently: the machine looks at what could be seen at each moment, this looks at what is owed to whom.

Exit code: 0 the run is right, 1 it isn't (one line for each finding), 2 the input can't be used.
"""

import json
import sys

VALID, TYPE, ACCESSED, CONTIGUOUS = 1, 2, 1 << 10, 1 << 52
SOFTWARE = 0xF << 55
PINNED = 1 << 55  # by prepare: a page for good, whose validity is flipped without a lock
MOST_FINDINGS = 20


class Owed:
    """Something that a store made stale: cached entries that an invalidation has to remove, or may leave behind."""

    def __init__(self, event, cpu, start, end, levels, walks, alone=False):
        self.event = event
        self.cpu = cpu
        self.left = [(start, end)]  # still to be invalidated
        self.start, self.end = start, end
        self.levels = levels  # of leaves that may be cached there
        self.walks = walks  # a table pointer is stale as well
        self.alone = alone  # and nothing else: the table was empty
        self.published = False
        self.deferred = False
        self.walkers = set()  # CPUs that were walking when it was settled

    def settled(self):
        return not self.left

    def pieces(self, invalidation):
        """What an invalidation removes of it."""
        start, end, level, leaves_only = invalidation
        if not self.published or (self.walks and leaves_only):
            return []
        if level is not None and self.levels != {level}:
            return []
        hit = []
        for a, b in self.left:
            low, high = max(a, start), min(b, end)
            if low < high:
                # A leaf goes as a whole, and so does a pointer; what a table maps goes page by page.
                hit.append((low, high) if self.walks and not self.alone else (a, b))
        return hit

    def remove(self, pieces):
        for low, high in pieces:
            left = []
            for a, b in self.left:
                if a < low:
                    left.append((a, min(b, low)))
                if high < b:
                    left.append((max(a, high), b))
            self.left = [(a, b) for a, b in left if a < b]


class Checker:
    def __init__(self):
        self.findings = []
        self.config = None
        self.tables = {}  # address -> {index: word}
        self.live = {}  # address -> (va of its first byte, level of its entries)
        self.handed_out = set()
        self.root = None
        self.unpublished = {}  # cpu -> tables with stores that no barrier has published
        self.locks = {}  # cpu -> locks held
        self.write_sections = {}
        self.walking = {}  # cpu -> depth
        self.owed = []
        self.issued = {}  # cpu -> [(owed, pieces)]
        self.unlinked = {}  # table -> owed
        self.lingering = []  # leaves that a split or an opened group left behind: right, but of another level
        self.broken = {}  # (va, level) -> the last valid leaf there, while it is invalid
        self.operations = {}
        self.quiescent = False
        self.counts = dict(events=0, stores=0, operations=0, flushed=0, links=0, frees=0, breaks=0)

    # ---- words ------------------------------------------------------------------------------------------------------

    def shift(self, level):
        return self.config["page_shift"] + self.config["index_bits"] * (3 - level)

    def root_level(self):
        bits, index = self.config["va_bits"] - self.config["page_shift"], self.config["index_bits"]
        return 4 - (bits + index - 1) // index

    def is_table(self, level, word):
        return level != 3 and word & 3 == 3

    def is_leaf(self, level, word):
        return bool(word & ACCESSED) and not self.is_table(level, word)

    def is_valid_leaf(self, level, word):
        return self.is_leaf(level, word) and bool(word & VALID)

    def table_address(self, word):
        page = (1 << self.config["page_shift"]) - 1
        if self.config["pa_bits"] == 48:
            return word & 0x0000FFFFFFFFF000 & ~page
        if self.config["page_shift"] == 16:
            return word & 0x0000FFFFFFFF0000 | (word >> 12 & 0xF) << 48
        return word & 0x0003FFFFFFFFF000 & ~page | (word >> 8 & 3) << 50

    def must_break(self, a, b):
        """Address, memory type and shareability of a valid leaf never change in place."""
        return bool((a ^ b) & (0x0003FFFFFFFFF000 | 7 << 2 | 3 << 8))

    # ---- findings ---------------------------------------------------------------------------------------------------

    def find(self, event, text):
        self.findings.append("event %d, %s at %s: %s" % (event["seq"], event["call"], event.get("at", "the scenario"), text))

    # ---- the tree ---------------------------------------------------------------------------------------------------

    def subtree(self, table, level):
        yield table, level
        if level != 3:
            for word in self.tables.get(table, {}).values():
                if self.is_table(level, word):
                    yield from self.subtree(self.table_address(word), level + 1)

    def link(self, event, table, va, level):
        for cpu, tables in self.unpublished.items():
            if table in tables:
                self.find(event, "the table %#x is linked while stores of CPU %d into it are not published" % (table, cpu))
        if table not in self.handed_out:
            self.find(event, "%#x is linked but was not handed out as a table" % table)
        self.live[table] = (va, level)
        if level != 3:
            for index, word in self.tables[table].items():
                if self.is_table(level, word):
                    self.link(event, self.table_address(word), va + (index << self.shift(level)), level + 1)

    def unlink(self, event, table, level, owed):
        for below, _ in list(self.subtree(table, level)):
            self.live.pop(below, None)
            self.unlinked[below] = owed

    def leaf_levels(self, table, level):
        """Levels of valid leaves below."""
        levels = set()
        for below, at in self.subtree(table, level):
            if any(self.is_valid_leaf(at, word) for word in self.tables.get(below, {}).values()):
                levels.add(at)
        return levels

    def owe(self, event, start, end, levels, walks, alone=False):
        levels = set(levels)
        for left in self.lingering:
            if left.start < end and start < left.end:
                levels |= left.levels
        owed = Owed(event["seq"], event["cpu"], start, end, levels, walks, alone)
        self.owed.append(owed)
        return owed

    def linger(self, event, start, end, level):
        """The leaf of `level` may stay cached; an invalidation there needs a hint that fits it too, or none."""
        self.lingering.append(Owed(event["seq"], event["cpu"], start, end, {level}, False))
        for owed in self.owed:
            if owed.start < end and start < owed.end:
                owed.levels.add(level)

    # ---- events -----------------------------------------------------------------------------------------------------

    def written(self, event, table, index, word):
        self.counts["stores"] += 1
        cpu = event["cpu"]
        words = self.tables.setdefault(table, {})
        old = words.get(index)
        words[index] = word
        self.unpublished.setdefault(cpu, set()).add(table)
        if table not in self.handed_out:
            self.find(event, "a store into %#x, which is not a table" % table)
        if not self.write_sections.get(cpu):
            self.find(event, "a store into a table outside of a write section")
        if table not in self.live:
            if table in self.unlinked and not self.unlinked[table].settled():
                self.find(event, "the table %#x is written while walk caches may still point to it" % table)
            return
        if event["call"] == "fill":
            self.find(event, "a plain fill of the live table %#x" % table)
        level = self.live[table][1]
        flips = old is not None and level == 3 and old & PINNED and old ^ word == VALID
        if not self.locks.get(cpu) and not self.quiescent and not flips:
            self.find(event, "a store into a live table without a lock")
        if old is not None and old != word:
            self.changed(event, *self.live[table], index, old, word)

    def changed(self, event, base, level, index, old, new):
        start = base + (index << self.shift(level))
        end = start + (1 << self.shift(level))
        old_table, new_table = self.is_table(level, old), self.is_table(level, new)
        old_valid, new_valid = self.is_valid_leaf(level, old), self.is_valid_leaf(level, new)
        resizes = (old_table and new_valid) or (old_valid and new_table)
        resizes = resizes or (old_valid and new_valid and bool((old ^ new) & CONTIGUOUS))
        if resizes and min(self.config["bbm"]) < 3 and not self.quiescent:
            self.find(event, "a leaf at %#x changes size on CPUs that don't tolerate it" % start)
        if new_table and not old_table:
            self.counts["links"] += 1
            self.link(event, self.table_address(new), start, level + 1)
            if old_valid:
                self.linger(event, start, end, level)
        elif old_table:
            table = self.table_address(old)
            empty = not any(word & VALID for word in self.tables.get(table, {}).values())
            owed = self.owe(event, start, end, self.leaf_levels(table, level + 1), walks=True, alone=empty)
            self.unlink(event, table, level + 1, owed)
        elif old_valid:
            if new_valid and self.must_break(old, new):
                self.find(event, "the leaf at %#x changes its address or memory type without a break" % start)
            if (old ^ new) & ~(SOFTWARE | CONTIGUOUS):
                self.owe(event, start, end, {level}, walks=False)
            if new_valid and (old ^ new) & CONTIGUOUS:
                self.linger(event, start, end, level)
        elif new_valid and (start, level) in self.broken:
            # What was there before it became invalid must be gone everywhere, if this is something else.
            if self.must_break(self.broken.pop((start, level)), new):
                self.counts["breaks"] += 1
                if any(owed.start < end and start < owed.end for owed in self.owed):
                    self.find(event, "the leaf at %#x is made before its break is flushed" % start)
        if old_valid and not new_valid and not new_table:
            self.broken[(start, level)] = old

    def barrier(self, event, completes):
        cpu = event["cpu"]
        self.unpublished.pop(cpu, None)
        for owed in self.owed + self.lingering:
            if owed.cpu == cpu:
                owed.published = True
        if not completes:
            return
        for owed, pieces in self.issued.pop(cpu, []):
            owed.remove(pieces)
            if owed.settled():
                owed.walkers = {c for c, depth in self.walking.items() if depth}
        before = len(self.owed)
        self.owed = [owed for owed in self.owed if not owed.settled()]
        self.lingering = [left for left in self.lingering if not left.settled()]
        self.counts["flushed"] += before - len(self.owed)

    def invalidation(self, event):
        everyone = (1 << self.config["cpus"]) - 1
        if "targets" in event and int(event["targets"], 16) & everyone != everyone:
            return
        start = int(event.get("va", "0"), 16)
        size = int(event.get("size", "0"), 16)
        end = start + size if size else 1 << 64
        level = event.get("level")
        issued = self.issued.setdefault(event["cpu"], [])
        for owed in self.owed + self.lingering:
            pieces = owed.pieces((start, end, level, event["leaves_only"]))
            if pieces:
                issued.append((owed, pieces))

    def freed(self, event, table):
        self.counts["frees"] += 1
        if table in self.live:
            self.find(event, "the table %#x is freed while walks reach it" % table)
        owed = self.unlinked.pop(table, None)
        if owed is not None and not owed.settled():
            self.find(event, "the table %#x is freed before the flush that its unlinking owes (event %d)" % (table, owed.event))
        if owed is not None and owed.walkers:
            self.find(event, "the table %#x is freed under a walker" % table)
        if table not in self.handed_out:
            self.find(event, "the table %#x is freed but was not handed out" % table)
        self.handed_out.discard(table)
        self.tables.pop(table, None)

    def end_of(self, event):
        start, end, begin = self.operations.pop(event["operation"])
        deferred = event["text"] == "deferred"
        settles = event["text"] == "done" and begin.get("change")  # also what others have deferred
        for owed in self.owed:
            if owed.start < end and start < owed.end and not owed.deferred:
                if deferred:
                    owed.deferred = True
                else:
                    self.find(event, "operation %d returns while the change of event %d is not flushed"
                              % (event["operation"], owed.event))
            elif settles and any(low < end and start < high for low, high in owed.left):
                self.find(event, "operation %d returns while the deferred change of event %d is not flushed for its pages"
                          % (event["operation"], owed.event))
        for cpu, tables in self.unpublished.items():
            if cpu == event["cpu"] and any(table in self.live for table in tables):
                self.find(event, "operation %d returns with stores that are not published" % event["operation"])
        if self.write_sections.get(event["cpu"]):
            self.find(event, "operation %d returns inside a write section" % event["operation"])
        if self.locks.get(event["cpu"]):
            self.find(event, "operation %d returns with a lock held" % event["operation"])

    def take(self, event):
        self.counts["events"] += 1
        call, cpu = event["call"], event["cpu"]
        if call == "config":
            if event["schema"] != "directmap.events/1":
                raise ValueError("this is schema %s" % event["schema"])
            self.config = event
        elif self.config is None:
            raise ValueError("the first event is no config")
        elif call in ("store", "update"):
            self.written(event, int(event["table"], 16), event["index"], int(event["value"], 16))
        elif call == "fill":
            value, step = int(event["value"], 16), int(event.get("step", "0"), 16)
            for i in range(event.get("count", 1)):
                self.written(event, int(event["table"], 16), event["index"] + i, (value + i * step) & (1 << 64) - 1)
        elif call == "load":
            seen = self.tables.get(int(event["table"], 16), {}).get(event["index"])
            if seen is not None and seen != int(event["value"], 16):
                self.find(event, "a load returns %s, but %#x was stored" % (event["value"], seen))
        elif call == "barrier_publish":
            self.barrier(event, False)
        elif call == "barrier_complete":
            self.barrier(event, True)
        elif call in ("invalidate", "invalidate_range", "invalidate_all"):
            self.invalidation(event)
        elif call == "take_table":
            if "table" in event:
                table = int(event["table"], 16)
                self.handed_out.add(table)
                self.tables[table] = {}
                if self.locks.get(cpu):
                    self.find(event, "a table is taken with a lock held")
        elif call == "give_table":
            self.freed(event, int(event["table"], 16))
        elif call == "acquire":
            if any(event["lock"] in held for held in self.locks.values()):
                self.find(event, "lock %d is taken twice" % event["lock"])
            self.locks.setdefault(cpu, set()).add(event["lock"])
        elif call == "release":
            if event["lock"] not in self.locks.get(cpu, set()):
                self.find(event, "lock %d is released but not held" % event["lock"])
            self.locks.get(cpu, set()).discard(event["lock"])
        elif call == "begin_table_writes":
            self.write_sections[cpu] = self.write_sections.get(cpu, 0) + 1
        elif call == "end_table_writes":
            self.write_sections[cpu] -= 1
        elif call == "walker_enter":
            self.walking[cpu] = self.walking.get(cpu, 0) + 1
        elif call == "walker_exit":
            self.walking[cpu] -= 1
            if self.walking[cpu] == 0:
                for owed in self.unlinked.values():
                    owed.walkers.discard(cpu)
        elif call == "install":
            root = int(event["table"], 16)
            if self.root is None:
                self.root = root
                first = int(self.config["ram"][0]["start"], 16) + int(self.config["offset"], 16) & (1 << 64) - 1
                bits = self.config["va_bits"]
                self.link(event, root, first >> bits << bits, self.root_level())
            elif root != self.root:
                self.find(event, "a CPU installs another root")
        elif call == "begin":
            self.counts["operations"] += 1
            start, size = int(event["va"], 16), int(event["size"], 16)
            self.operations[event["operation"]] = (start, start + size, event)
        elif call == "end":
            self.end_of(event)
        elif call == "flushed":
            start = int(event["va"], 16)
            end = start + int(event["size"], 16)
            for owed in self.owed:
                if owed.deferred and owed.start < end and start < owed.end:
                    self.find(event, "a deferred flush is over, but not for the change of event %d" % owed.event)
        elif call == "begin_quiescence":
            self.quiescent = True
        elif call == "end_quiescence":
            self.quiescent = False
        elif call == "violation":
            self.find(event, "the machine itself says: " + event["text"])


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: check_events.py EVENTS.jsonl")
    checker = Checker()
    number = 0
    try:
        with open(sys.argv[1], encoding="ascii") as events:
            for number, line in enumerate(events, 1):
                checker.take(json.loads(line))
                if len(checker.findings) >= MOST_FINDINGS:
                    break
        if number == 0:
            raise ValueError("there is no event")
    except (OSError, ValueError, KeyError) as error:
        print("%s:%d: %s" % (sys.argv[1], number, error), file=sys.stderr)
        return 2
    for finding in checker.findings:
        print(finding)
    if checker.findings:
        return 1
    print("right: " + ", ".join("%d %s" % (count, name) for name, count in checker.counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

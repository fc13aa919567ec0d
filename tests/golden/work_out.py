#!/usr/bin/env python3
"""Works out what `directmap analyze` must say about the dumps in tests/data/ptdumps.

It shares nothing with the tool: it is told where each direct map is and what its pages are, walks from leaf to leaf where the tool
calculates, and keeps everything in memory. It only has to be right for these files.

  work_out.py           writes analyze.json next to itself
  work_out.py --check   exits with 1 when analyze.json isn't what it would write
"""
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
DUMPS = HERE.parent / "data" / "ptdumps"
K, M, G = 1 << 10, 1 << 20, 1 << 30

# Level -> (bytes of an entry, bytes of a contiguous group); then all leaf sizes; then the reach of the tables of each level, bottom up.
ARM64_4K = ({"PTE": (4 * K, 64 * K), "PMD": (2 * M, 32 * M), "PUD": (G, None)},
            [G, 32 * M, 2 * M, 64 * K, 4 * K], [2 * M, G, 512 * G])
ARM64_4K_39BIT = ({"PTE": (4 * K, 64 * K), "PMD": (2 * M, 32 * M), "PGD": (G, None)},
                  [G, 32 * M, 2 * M, 64 * K, 4 * K], [2 * M, G])
ARM64_16K = ({"PTE": (16 * K, 2 * M), "PMD": (32 * M, G)},
             [G, 32 * M, 2 * M, 16 * K], [32 * M, 64 * G])
X86 = ({"pte": (4 * K, None), "pmd": (2 * M, None), "pud": (G, None)}, [G, 2 * M, 4 * K], [2 * M, G, 512 * G])
RISCV = ({"PTE": (4 * K, None), "PMD": (2 * M, None), "PUD": (G, None)}, [G, 2 * M, 4 * K], [2 * M, G, 512 * G])

# File, which dump of it, geometry, first and last line of the direct map as `grep -n` counts them; None: there is no direct map.
CASES = [
    ("arm64-16k-and-4k-kasan.txt", 1, ARM64_16K, (8, 12)),
    ("arm64-16k-and-4k-kasan.txt", 2, ARM64_4K, (52, 58)),
    ("arm64-4k-39bit-2g.txt", 1, ARM64_4K_39BIT, (32, 39)),
    ("arm64-4k-ampereone-12g-repainted.txt", 1, ARM64_4K, (5, 15)),
    ("arm64-4k-phone-pages.txt", 1, ARM64_4K, (6, 50)),
    ("arm64-64k-efi.txt", 1, None, None),
    ("arm64-vendor-variant-tbl.txt", 1, ARM64_4K, (5, 17)),
    ("riscv-sv48.txt", 1, RISCV, (36, 37)),
    ("x86-64-desktop-32g.txt", 1, X86, (15, 40)),
    ("x86-64-dmesg.txt", 1, None, None),
    ("x86-64-holes.txt", 1, None, None),
]
SHAPE = {"CON", "BLK", "PSE"}
LEVELS = {"PTE", "PMD", "PUD", "P4D", "PGD", "pte", "pmd", "pud", "p4d", "pgd"}


def name(size):
    for unit, letter in ((1 << 40, "T"), (G, "G"), (M, "M"), (K, "K")):
        if size % unit == 0:
            return f"{size // unit}{letter}"


def entries(path):
    """(line number, start, end, physical, level, words) of each entry, wrapped lines joined."""
    joined = []
    for number, text in enumerate(path.read_text().split("\n"), 1):
        if text.startswith("#"):
            continue
        text = re.sub(r"^[> ]*(\[[^]]*\])*", "", text).strip()
        text = text.replace("0xffff80 00 0000 0000", "0xffff800000000000")  # the one line with blanks in an address
        if re.match(r"0x[0-9a-fA-F]{16}-0x[0-9a-fA-F]{16}\s", text):
            joined.append([number, text])
        elif joined and text and joined[-1][0] == number - 1 and not text.startswith(("---", "0x", "=")):
            joined[-1][1] += " " + text
    result = []
    for number, text in joined:
        addresses, *words = text.split()
        start, end = (int(a, 16) for a in addresses.split("-"))
        physical = int(words.pop(0), 16) if words[0].startswith("0x") else None
        words = [w for w in words[1:] if set(w) != {"."}]
        if end % 4096 == 4095:
            end += 1
        elif end == 0:
            end = 1 << 64
        level = next(w for w in words if w in LEVELS)
        words.remove(level)
        words = ["ro" if w == "RO" else w for w in words]
        if "TBL" not in words:
            result.append((number, start, end, physical, level, words))
    return result


def writable_executable(words):
    return ("RW" in words or "W" in words) and ("x" in words or "X" in words) and "F" not in words


def joined_ranges(pieces):
    """Neighbours with equal second part become one."""
    result = []
    for start, end, what in pieces:
        if result and result[-1][1] == start and result[-1][2] == what:
            result[-1][1] = end
        else:
            result.append([start, end, what])
    return result


def cover(start, end, sizes, offset):
    """Walks from start to end, always taking the largest leaf that fits."""
    leaves = []
    while start < end:
        size = next(s for s in sizes if start % s == 0 and offset % s == 0 and start + s <= end)
        leaves.append((start, size))
        start += size
    return leaves


def tables(leaves, reaches, page_sizes):
    """The tables that hold an entry for one of these leaves, or a table that does. leaves: (start, end, depth of the entry)."""
    found = set()
    for start, end, depth in leaves:
        for level in range(depth, len(reaches)):
            found.update((level, index) for index in range(start // reaches[level], (end - 1) // reaches[level] + 1))
    return found


def depth_of(size, reaches):
    """A leaf smaller than the reach of a table of pages is made of pages, and so on."""
    return sum(1 for reach in reaches if size >= reach)


def islands(runs, mapped, sizes):
    """Stretches that differ from most of the aligned range, as long as the largest leaf, around them."""
    largest = sizes[0]
    found = []
    for region in sorted({a // largest for s, e, _ in runs for a in range(s - s % largest, e, largest)}):
        low, high = region * largest, (region + 1) * largest
        inside = [(max(s, low), min(e, high), w) for s, e, w in runs if s < high and e > low]
        amounts = {}
        for s, e, w in inside:
            amounts[w] = amounts.get(w, 0) + e - s
        usual = max(amounts, key=amounts.get)
        for s, e, w in inside:
            if w == usual:
                continue
            broke = (0, 0)
            for size in sizes[:-1]:
                for block in (s - s % size, (e - 1) - (e - 1) % size):
                    whole = any(ms <= block and block + size <= me for ms, me, _ in mapped)
                    if whole and not (s <= block and block + size <= e) and size > broke[0]:
                        broke = (size, block)
            if found and found[-1]["end"] == s and found[-1]["what"] == (w, usual):
                found[-1]["end"] = e
                found[-1]["broke"] = max(found[-1]["broke"], broke)
            else:
                found.append({"start": s, "end": e, "what": (w, usual), "broke": broke})
    return found


def work_out(file, index, geometry, lines):
    everything = entries(DUMPS / file)
    # A dump ends where the next starts; only one file has two, and its second starts in line 52.
    own = [e for e in everything if (e[0] < 52) == (index == 1)] if file.startswith("arm64-16k") else everything
    result = {"file": file, "dump": index, "entries": len(own), "direct_map": None,
              "writable_executable": {"bytes": sum(e - s for _, s, e, _, _, w in own if writable_executable(w))}}
    if lines is None:
        return result
    levels, sizes, reaches = geometry
    inside = [e for e in own if lines[0] <= e[0] <= lines[1]]
    groups = []  # (start, end, leaf size, depth, attributes, offset)
    for _, start, end, physical, level, words in inside:
        if not words:
            continue
        entry, group = levels[level]
        size = group if "CON" in words else entry
        assert start % size == 0 and end % size == 0, (file, hex(start))
        attributes = " ".join(w for w in words if w not in SHAPE)
        groups.append((start, end, size, depth_of(entry, reaches), attributes, 0 if physical is None else start - physical))

    runs = joined_ranges((s, e, (a, o)) for s, e, _, _, a, o in groups)
    mapped = joined_ranges((s, e, o) for s, e, _, _, _, o in groups)
    best = [leaf for s, e, (_, o) in runs for leaf in cover(s, e, sizes, o)]
    uniform = [leaf for s, e, o in mapped for leaf in cover(s, e, sizes, o)]
    bytes_by_size = {size: sum(e - s for s, e, z, *_ in groups if z == size) for size in sizes}

    into = {size: 0 for size in sizes}
    collapsible = 0
    for start, size in best:
        is_there = any(s <= start and start + size <= e and z == size for s, e, z, *_ in groups)
        if not is_there:
            into[size] += 1
            collapsible += size
    now = tables([(s, e, d) for s, e, _, d, *_ in groups], reaches, sizes)
    then = tables([(s, s + z, depth_of(z, reaches)) for s, z in best], reaches, sizes)
    assert then <= now

    isles = islands([(s, e, a) for s, e, (a, _) in runs], mapped, sizes)
    broke = {}
    for isle in isles:
        if isle["broke"][0]:
            broke[isle["broke"][0]] = broke.get(isle["broke"][0], 0) + 1
    extents = joined_ranges((s, e, None) for s, e, *_ in groups)
    holes = [b[0] - a[1] for a, b in zip(extents, extents[1:])]
    result["direct_map"] = {
        "start": f"0x{groups[0][0]:016x}",
        "end": f"0x{groups[-1][1] % (1 << 64):016x}",
        "mapped_bytes": sum(bytes_by_size.values()),
        "granule": name(sizes[-1]),
        "leaves": {name(z): bytes_by_size[z] // z for z in sizes},
        "bytes": {name(z): bytes_by_size[z] for z in sizes},
        "units": sum(bytes_by_size[z] // z for z in sizes),
        "minimum_units": len(best),
        "minimum_leaves": {name(z): sum(1 for _, s in best if s == z) for z in sizes},
        "uniform_units": len(uniform),
        "all_pages_units": sum(bytes_by_size.values()) // sizes[-1],
        "collapsible": {"bytes": collapsible, "into": {name(z): into[z] for z in sizes}},
        "tables": len(now),
        "tables_reclaimable": len(now) - len(then),
        "present_invalid_bytes": sum(e - s for s, e, _, _, a, _ in groups if "F" in a.split()),
        "writable_executable_bytes": sum(e - s for s, e, _, _, a, _ in groups if writable_executable(a.split())),
    }
    result["islands"] = {"count": len(isles), "bytes": sum(i["end"] - i["start"] for i in isles),
                         "broke": {name(z): n for z, n in sorted(broke.items(), reverse=True)},
                         "list": [{"start": f"0x{i['start']:016x}", "end": f"0x{i['end']:016x}",
                                   "broke": name(i["broke"][0]) if i["broke"][0] else None} for i in isles]}
    result["holes"] = {"count": len(holes), "bytes": sum(holes),
                       "small": {"count": sum(1 for h in holes if h < reaches[0]),
                                 "bytes": sum(h for h in holes if h < reaches[0])}}
    return result


def main():
    text = json.dumps([work_out(*case) for case in CASES], indent=1) + "\n"
    target = HERE / "analyze.json"
    if sys.argv[1:] == ["--check"]:
        if target.read_text() != text:
            print(f"{target} isn't what {sys.argv[0]} works out", file=sys.stderr)
            return 1
        return 0
    target.write_text(text)
    return 0


sys.exit(main())

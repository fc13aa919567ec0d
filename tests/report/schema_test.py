#!/usr/bin/python3
"""What `run`, `plan`, `watch`, `replay` and `explore` print with --json, held against docs/schema: every shape that they can print, and that
nothing else would pass.

usage: schema_test.py DIRECTMAP
"""
import copy
import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import jsonschema

from harness import command_of

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
MEMORY_MAPS = SOURCE / "tests/data/memmaps"
SMALL = "80000000-bfffffff : System RAM\n100000000-13fffffff : System RAM\n"
SCENARIO = """about modules that come and go
seed 7
boot
repeat 2 {
  modules load 2 size 8K..40K
  repeat 2 {
    secret take 3
    wait 6s
    secret give all
  }
  modules unload all
}
share 1 x 64K
unshare all
collapse
"""
MEMINFO = "DirectMap4k:       28672 kB\nDirectMap2M:     2068480 kB\nDirectMap1G:    25165824 kB\n"
VMSTAT = "direct_map_level2_splits 94\ndirect_map_level3_splits 4\n"

# Keys that may be missing; all others must be there. A key of an open list of names may be missing too.
OPTIONAL = {"run": {"keyed_bytes", "pools", "refused"}, "plan": {"name"}, "watch": set(), "replay": {"note"},
            "explore": {"fault", "violation"}, "explore-replay": {"fault"}}
OPEN = {"run": {"leaves", "smallest_cover"}, "plan": {"leaves"}, "watch": {"bytes", "events", "rates"},
        "replay": {"leaves", "smallest_cover", "operations", "skipped", "refused", "misses"}, "explore": set(), "explore-replay": set()}

command = None


def objects(value, name="", path=()):
    """Every object of a document: its path, and the name that it has in the object around it."""
    if isinstance(value, dict):
        yield path, name, value
        for key, part in value.items():
            yield from objects(part, key, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from objects(part, "", (*path, index))


def at(document, path):
    for step in path:
        document = document[step]
    return document


def shortened(value):
    """The document with at most two of each list."""
    if isinstance(value, dict):
        return {key: shortened(part) for key, part in value.items()}
    return [shortened(part) for part in value[:2]] if isinstance(value, list) else value


def described(schema):
    """The names of all properties that a schema describes."""
    names = set()
    for path, name, value in objects(schema):
        if name == "properties" and not {"if", "then", "else"} & set(path):
            names |= set(value)
    return names


class Schemas(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="directmap-schema-"))
        cls.write("iomem", SMALL)
        cls.write("crash", SMALL + "  130000000-137ffffff : Crash kernel\n")
        cls.write("list", "80000200+1G # begins within a page\n")
        cls.write("mine", SCENARIO)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder, ignore_errors=True)

    @classmethod
    def write(cls, name, text):
        (cls.folder / name).write_text(text)
        return cls.folder / name

    def output(self, arguments, codes=(0,)):
        done = subprocess.run([command, *arguments.split(), "--json"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              cwd=self.folder)
        self.assertIn(done.returncode, codes, (arguments, done.stderr))
        return done.stdout

    def hold(self, name, documents):
        """Holds documents against a schema: they pass, all that the schema describes is in one of them, and no other document passes."""
        schema = json.loads((SOURCE / f"docs/schema/{name}.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        seen = set()
        for what, document in documents:
            self.assertEqual([f"{list(error.path)}: {error.message}" for error in validator.iter_errors(document)], [], what)
            for _, _, value in objects(document):
                seen |= set(value)
        self.assertEqual(described(schema) - seen, set(), "nothing that was printed has these")
        for what, document in documents:
            self.refuse(name, validator, what, shortened(document))

    def refuse(self, name, validator, what, document):
        self.assertTrue(validator.is_valid(document), what)

        def changed(path, change, *expected):
            other = copy.deepcopy(document)
            change(at(other, path))
            self.assertFalse(validator.is_valid(other), (what, *path, *expected))

        for path, parent, value in objects(document):
            changed(path, lambda o: o.update(news="x"), "a key more")
            for key, part in value.items():
                if key not in OPTIONAL[name] and parent not in OPEN[name]:
                    changed(path, lambda o, k=key: o.pop(k), key, "is missing")
                if not isinstance(part, (dict, list)):
                    changed(path, lambda o, k=key: o.update({k: [1]}), key, "is a list")
        changed((), lambda o: o.update(schema=f"directmap.{name}/2"), "another version")

    def test_run(self):
        tiny = "run --memory-map iomem --scenario tiny"
        calls = [f"{tiny} --policy all", f"{tiny} --protect-tables on", f"{tiny} --placement pooled --no-comparison",
                 f"{tiny} --placement pooled --protect-tables on --policy on-restore --no-comparison",
                 f"{tiny} --bbm 0", f"{tiny} --bbm 2 --policy pages --no-comparison --cpus 1 --seed 18446744073709551615",
                 f"{tiny} --granule 16k --va-bits 47 --no-comparison", f"{tiny} --granule 64k --va-bits 52 --no-comparison",
                 f"{tiny} --va-bits 39 --policy never --no-comparison", "run --memory-map iomem --scenario mine",
                 "run --memory-map iomem --scenario mine --placement pooled --no-comparison",
                 f"run --memory-map {MEMORY_MAPS}/dmesg-sm8550-phone.txt --scenario tiny --no-comparison"]
        calls += [f"run --scenario {scenario['name']} --no-comparison" for scenario in json.loads(self.output("run --list"))
                  if scenario["name"] in ("guards", "modules", "secret", "sharing")]
        documents = [(call, json.loads(self.output(call))) for call in calls]
        self.assertIn("background", {run["policy"] for _, document in documents for run in document["runs"]})
        self.hold("run", documents)

    def test_run_that_did_not_end(self):
        # Only a broken promise stops a run: what it prints is made of one that ended.
        document = json.loads(self.output("run --memory-map iomem --scenario tiny --no-comparison"))
        run = document["runs"][0]
        run.update(finished=False, problems=["tiny:3: P1 translation"])
        del run["smallest_cover"], run["healed"]
        run["steps"] = run["steps"][:1]
        document["ok"] = False
        schema = json.loads((SOURCE / "docs/schema/run.schema.json").read_text())
        validator = jsonschema.Draft202012Validator(schema)
        self.assertEqual([error.message for error in validator.iter_errors(document)], [])
        for key in ("boot", "worst", "end", "steps"):
            other = copy.deepcopy(document)
            del other["runs"][0][key]
            self.assertFalse(validator.is_valid(other), key)
        for key in ("boot", "worst", "end", "steps"):  # not even its boot did
            del run[key]
        self.assertEqual([error.message for error in validator.iter_errors(document)], [])
        run["problems"] = []
        self.assertFalse(validator.is_valid(document))

    def test_plan(self):
        # The Jetson's file is of three boards, which no plan fits.
        calls = [f"plan --memory-map {path}" for path in sorted(MEMORY_MAPS.glob("*.txt")) if "jetson" not in path.name]
        self.assertGreaterEqual(len(calls), 4)
        calls += ["plan --memory-map iomem", "plan --memory-map iomem --granule 16k --offset 0xffff000000204000",
                  "plan --memory-map iomem --granule 64k --va-bits 52 --pages 80000000+512M --static a0000000+64M",
                  "plan --memory-map iomem --contiguous-top --exclude 90000000-9fffffff", "plan --memory-map crash --exclude-crash-kernel",
                  "plan --memory-map list", "plan --memory-map builtin:ampere-emag-256g"]
        documents = [(call, json.loads(self.output(call))) for call in calls]
        reasons = {lost["reason"] for _, document in documents for lost in document["lost"]}
        self.assertEqual(reasons, {"alignment", "hole", "end_of_ram", "exclusion", "zone"})
        self.hold("plan", documents)

    def test_watch(self):
        lines = []
        for name, meminfo, vmstat in (("x86", MEMINFO, VMSTAT), ("old", MEMINFO, "nr_free_pages 1\n"),
                                      ("s390", "DirectMap4k: 8 kB\nDirectMap1M: 2048 kB\nDirectMap2G: 0 kB\n", "")):
            (self.folder / name).mkdir()
            self.write(f"{name}/meminfo", meminfo)
            self.write(f"{name}/vmstat", vmstat)
            text = self.output(f"watch --count 3 --interval 0.02 --proc {name}")
            self.assertEqual(len(text.splitlines()), 3)
            lines += [(name, json.loads(line)) for line in text.splitlines()]
        # Where this kernel counts, its counters too.
        lines += [("/proc", json.loads(line)) for line in self.output("watch --count 2 --interval 0.02", codes=(0, 2)).splitlines()]
        self.hold("watch", lines)

    def test_replay(self):
        head = "directmap.trace/1\npage 4K\n"
        self.write("all", head + "1 note begin\n1 ro 0x80000000 3\n2 rw 0x80000000 3\n2 x 0x80000000 1\n3 nx 0x80000000 1\n"
                                 "4 rox 0x80010000 1\n5 ronx 0x80010000 1\n5 rwnx 0x80010000 1\n6 invalid 0x80020000 1\n7 valid 0x80020000 1\n"
                                 "7 default 0x80020000 1\n8 shared 0x80030000 16\n9 private 0x80030000 16\n10 pin 0x80200000 512\n"
                                 "11 invalid 0x80200000 1 atomic\n12 valid 0x80200000 1 atomic\n13 unpin 0x80200000 512\n13.5 collapse\n"
                                 "14 ro 0x1000 5\n15 ro 0xbffff000 2\n16 ro 0xffff")
        self.write("atomic", head + "1 ro 0x80000000 4 atomic\n2 ro 0x100000000 80000\n")
        self.write("ftrace", " 1.000001 |  0)  0.2 us  |  set_memory_ro(addr=0xffff888080000000, numpages=1);\n"
                             " 1.000002 |  0)  0.2 us  |  set_direct_map_default_noflush(page=0xffffea0000488d40);\nCPU:1 [LOST 12 EVENTS]\n")
        self.write("addresses", "0x80000000\n0x80001000\n0x100000000\n")
        replay = "replay --memory-map iomem --access-count 50"
        calls = ["replay builtin:example --access-count 50", f"{replay} all", f"{replay} all --accesses none",
                 f"{replay} all --policy explicit --policy on-restore --accesses uniform --core cortex-a72",
                 f"{replay} all --format arm64-16k --accesses sequential", f"{replay} all --format arm64-64k --va-bits 52 --accesses addresses",
                 f"{replay} all --bbm 0", f"{replay} atomic --bbm 0 --policy zoned --zone 16M --seed 0",
                 f"{replay} ftrace --from ftrace --offset 0xffff888000000000 --cpus 1 --policy never"]
        documents = [(call, json.loads(self.output(call))) for call in calls]
        by_call = dict(documents)
        self.assertIsNone(by_call[calls[7]]["verdict"]["policy"])  # all that there was has refused a change
        self.assertTrue(by_call[calls[1]]["trace"]["partial"])
        self.assertNotIn("tlb", by_call[calls[2]])
        self.hold("replay", documents)

    def test_explore(self):
        race = "explore --scenario split-split-same-leaf"
        calls = [race, f"{race} --bound 1", f"{race} --exhaustive", f"{race} --random 1 --runs 20", f"{race} --fault trust-old-plan",
                 "explore --fault trust-old-plan --save found.json", "explore --fault walk-unannounced --save chosen.json"]
        documents = [(call, json.loads(self.output(call, codes=(0, 3)))) for call in calls]
        self.hold("explore", documents)
        clean = json.loads((self.folder / "found.json").read_text())
        clean.update(switches=[], choices=[])
        del clean["fault"], clean["violation"]
        self.write("clean.json", json.dumps(clean))
        calls = ["explore --replay found.json", "explore --replay clean.json"]
        self.hold("explore-replay", [(call, json.loads(self.output(call, codes=(0, 3)))) for call in calls])


if __name__ == "__main__":
    command = command_of(__doc__)
    unittest.main()

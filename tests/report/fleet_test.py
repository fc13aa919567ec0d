#!/usr/bin/python3
"""`directmap analyze` on fleets: memory that doesn't grow with the input, all cores, bad inputs skipped, and output that other
programs load as it is.

usage: fleet_test.py DIRECTMAP
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

import jsonschema

from harness import command_of

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
DUMPS = SOURCE / "tests/data/ptdumps"
SCHEMAS = SOURCE / "docs/schema"
# The address sanitizer keeps freed memory for a while: that would hide what the program itself keeps.
LEAN = {**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=1:malloc_context_size=0:allocator_release_to_os_interval_ms=-1"}

command = None


class Used:
    """A run of the command, and what it took."""

    def __init__(self, *arguments, feed=None, cores=None):
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        before = (lambda: os.sched_setaffinity(0, cores)) if cores else None
        started = time.monotonic()
        process = subprocess.Popen([command, *map(str, arguments)], stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
                                   stdout=out, stderr=err, env=LEAN, preexec_fn=before)
        if feed:
            for piece in feed:
                process.stdin.write(piece)
            process.stdin.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.seconds = time.monotonic() - started
        self.exit_code = process.returncode
        self.rss_mib = usage.ru_maxrss / 1024
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        self.out, self.err = texts


def dump_pieces(megabytes):
    """A dump of one host, as long as is asked for: a page in every few is read-only or gone. Pieces of about 1 MB."""
    words = "NX SHD AF            UXN    MEM/NORMAL-TAGGED"
    kinds = [("RW", 13), ("ro", 1), ("RW", 7), ("F RW", 2), ("RW", 30), ("ro", 3)]
    yield b"---[ Linear Mapping start ]---\n"
    at, made, lines = 0xffff000000000000, 0, []
    pending = 0
    while made < megabytes * 1_000_000:
        for mode, pages in kinds:
            end = at + pages * 4096
            lines.append(f"0x{at:016x}-0x{end:016x}        {pages * 4:>5}K PTE       {mode} {words}\n")
            pending += len(lines[-1])
            at = end
        if pending > 1_000_000:
            yield "".join(lines).encode()
            made += pending
            pending, lines = 0, []
    yield b"---[ Linear Mapping end ]---\n"


def readme_commands(page, marker):
    """The commands of the code block of a page that begins with `marker`."""
    text = (SOURCE / "docs" / page).read_text()
    block = next(block for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.S) if block.startswith(marker))
    return block


class Fleet(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="directmap-fleet-"))
        cls.inputs = sorted(path for path in DUMPS.glob("*.txt") if not path.name.startswith("meminfo"))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder, ignore_errors=True)

    def fleet(self, name, count, bad=()):
        """A folder of `count` real dumps; those numbered in `bad` are no dumps."""
        folder = self.folder / name
        if not folder.exists():
            folder.mkdir()
            for host in range(count):
                path = folder / f"host{host:05}.txt"
                if host in bad:
                    path.write_bytes(bad[host])
                else:
                    path.symlink_to(self.sound[host % len(self.sound)])
        return folder

    @property
    def sound(self):
        return [path for path in self.inputs if path.name in
                ("arm64-4k-39bit-2g.txt", "riscv-sv48.txt", "x86-64-desktop-32g.txt", "arm64-4k-phone-pages.txt")]

    def test_a_dump_of_100_mb_takes_the_memory_of_one_of_1_mb(self):
        small = Used("analyze", "--json", "-", feed=dump_pieces(1))
        large = Used("analyze", "--json", "-", feed=dump_pieces(100))
        self.assertEqual((small.exit_code, large.exit_code), (0, 0), small.err + large.err)
        units = json.loads(large.out)["direct_map"]["units"]
        self.assertGreater(units, 5_000_000)
        self.assertLess(large.rss_mib, small.rss_mib + 16, (small.rss_mib, large.rss_mib))
        self.assertLess(large.rss_mib, 120)

    def test_10000_dumps_take_the_memory_of_1000_and_come_in_their_order(self):
        few = Used("analyze", "--json", self.fleet("few", 1000))
        many = Used("analyze", "--json", self.fleet("many", 10000))
        self.assertEqual((few.exit_code, many.exit_code), (0, 0), many.err[-500:])
        names = [json.loads(line)["file"] for line in many.out.splitlines()]
        self.assertEqual(names, sorted(names))
        self.assertEqual(len(names), 10000)
        # The names of the inputs are kept, and little else.
        self.assertLess(many.rss_mib, few.rss_mib + 16, (few.rss_mib, many.rss_mib))

    def test_all_cores_work(self):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            self.skipTest("one core only")
        # What is looked at is how many threads there are, not how fast they are: other work may be going on here.
        # Inputs that don't end keep every thread that took one.
        pipes = [self.folder / name for name in ("pipe1", "pipe2")]
        for pipe in pipes:
            os.mkfifo(pipe)
        process = subprocess.Popen([command, "analyze", "--json", *map(str, pipes)], stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            threads = 0
            while threads < 2 and time.monotonic() < deadline:
                threads = len(os.listdir(f"/proc/{process.pid}/task"))
                time.sleep(0.01)
            self.assertGreaterEqual(threads, 2)
        finally:
            for pipe in pipes:
                with open(pipe, "wb") as writer:
                    writer.write(self.sound[0].read_bytes())
            process.wait()

    def test_bad_inputs_are_skipped_with_their_reasons_and_the_rest_goes_on(self):
        bad = {3: b"", 5: b"\x00\x01\x02 binary", 7: b"nothing of the kind\n", 9: b"\x1f\x8b compressed"}
        result = Used("analyze", "--json", self.fleet("bad", 12, bad))
        self.assertEqual(result.exit_code, 2)
        lines = [json.loads(line) for line in result.out.splitlines()]
        self.assertEqual(len(lines), 12)
        for host, line in enumerate(lines):
            self.assertEqual(line["direct_map"] is None, host in bad, line["file"])
            self.assertEqual(line["error"] is not None, host in bad)
        for host, reason in {3: "empty; expected", 5: "binary data", 7: "expected", 9: "compressed data"}.items():
            self.assertIn(reason, lines[host]["error"])
            self.assertRegex(result.err, rf"directmap: \S+host{host:05}\.txt(:\d+)?: .*{reason}")
        self.assertIn("4 of 12 inputs could not be used in full", result.err)

    def test_a_missing_file_does_not_stop_the_others(self):
        result = Used("analyze", "--json", self.sound[0], self.folder / "nowhere", self.sound[1])
        self.assertEqual(result.exit_code, 2)
        self.assertEqual([json.loads(line)["error"] for line in result.out.splitlines()],
                         [None, "can't be opened: No such file or directory", None])

    def test_progress_is_told_where_it_is_asked_for(self):
        # At a terminal: one line that changes. `script` gives the command one.
        if not shutil.which("script"):
            self.skipTest("no script command")
        line = f"{command} analyze --json {self.fleet('few', 1000)} >/dev/null"
        done = subprocess.run(["script", "-qec", line, "/dev/null"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        self.assertRegex(done.stdout, r"directmap: [0-9,]+ of 1,000 inputs, 0 bad, about \d+ s left")
        self.assertTrue(done.stdout.rstrip("\r\n").endswith("\x1b[K"), repr(done.stdout[-80:]))  # and goes away

    # ---- What other programs make of the output

    def validator(self, name):
        schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        return jsonschema.Draft202012Validator(schema)

    def failures(self, validator, text):
        lines = [json.loads(line) for line in text.splitlines()]
        self.assertTrue(lines)
        return [f"{list(error.path)}: {error.message}" for line in lines for error in validator.iter_errors(line)]

    def test_every_line_of_analyze_is_as_its_schema_says(self):
        validator = self.validator("analyze")
        bad = {1: b"", 3: b"nothing of the kind\n"}
        folder = self.fleet("schema", 5, bad)
        result = Used("analyze", "--json", *self.inputs, folder, self.folder / "nowhere")
        self.assertEqual(self.failures(validator, result.out), [])
        self.assertGreater(len(result.out.splitlines()), 15)
        self.assertEqual(self.failures(validator, Used("analyze", "--json", "-", "--working-set", "1G", feed=[self.sound[0].read_bytes()]).out), [])

    def test_the_line_of_diff_is_as_its_schema_says(self):
        validator = self.validator("diff")
        text = (DUMPS / "arm64-4k-39bit-2g.txt").read_text()
        other = self.folder / "other.txt"
        other.write_text(re.sub(r"(1G PGD\s+)RW", r"\1ro", text))
        for arguments in ((DUMPS / "arm64-4k-39bit-2g.txt", other), (other, other)):
            result = Used("diff", "--json", *arguments)
            self.assertIn(result.exit_code, (0, 1), result.err)
            self.assertEqual(self.failures(validator, result.out), [])
        self.assertEqual(Used("diff", "--json", self.sound[0], other).exit_code, 1)  # there was something to say

    def test_the_data_of_pages_is_as_its_schema_says(self):
        validator = self.validator("report")
        (self.folder / "iomem").write_text("80000000-bfffffff : System RAM\n")
        page = self.folder / "page.html"
        for arguments in (["analyze", DUMPS / "arm64-16k-and-4k-kasan.txt"], ["diff", DUMPS / "riscv-sv48.txt", DUMPS / "riscv-sv48.txt"],
                          ["run", "--scenario", "tiny", "--memory-map", self.folder / "iomem"]):
            self.assertEqual(Used(*arguments, "--report", page).exit_code, 0)
            data = re.search(r'id="data">(.*?)</script>', page.read_text(), re.S)[1]
            self.assertEqual(self.failures(validator, data), [])

    def test_a_schema_refuses_what_it_does_not_describe(self):
        validator = self.validator("analyze")
        line = json.loads(Used("analyze", "--json", self.sound[0]).out)
        self.assertEqual(list(validator.iter_errors(line)), [])
        for change in (lambda o: o.pop("partial"), lambda o: o.update(schema="directmap.analyze/2"),
                       lambda o: o["direct_map"].update(units="many"), lambda o: o["direct_map"].pop("collapsible"),
                       lambda o: o.update(news=1), lambda o: o["direct_map"]["leaves"].update({"3G": 1}),
                       lambda o: o["direct_map"].update(start="12")):
            changed = json.loads(json.dumps(line))
            change(changed)
            self.assertTrue(list(validator.iter_errors(changed)), change)

    def test_the_documented_query_runs_in_sqlite(self):
        folder = self.fleet("query", 40, {11: b"nothing of the kind\n"})
        script = readme_commands("analyze.md", "directmap analyze --json dumps/")
        work = self.folder / "work"
        work.mkdir()
        (work / "dumps").symlink_to(folder)
        (work / "directmap").symlink_to(command)
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=work,
                              env={**LEAN, "PATH": f"{work}:{os.environ['PATH']}"})
        self.assertEqual([line for line in done.stderr.splitlines() if not line.startswith("directmap: ")], [])
        rows = [line.split("|") for line in done.stdout.strip().splitlines()]
        # The same from the lines themselves.
        lines = [json.loads(line) for line in Used("analyze", "--json", folder).out.splitlines()]
        maps = {}
        for line in lines:
            if line["direct_map"]:
                maps.setdefault(line["architecture"], []).append(line["direct_map"])
        expected = sorted(((name, len(found), round(sum(m["units"] for m in found) / sum(m["minimum_units"] for m in found), 2),
                            sum(m["tables_reclaimable"] for m in found)) for name, found in maps.items()), key=lambda row: -row[2])
        self.assertEqual([(row[0], int(row[1]), float(row[2]), int(row[3])) for row in rows], expected)


if __name__ == "__main__":
    command = command_of(__doc__)
    unittest.main()

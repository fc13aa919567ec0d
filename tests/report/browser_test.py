#!/usr/bin/python3
"""The pages that --report writes, in a real browser: Debian's Chromium, headless, driven through its WebDriver.

usage: browser_test.py DIRECTMAP [--screenshots FOLDER]

  DIRECTMAP      the command whose reports are looked at
  --screenshots  also write the pictures that docs/ shows
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.chrome.service import Service

from harness import command_of

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
DUMPS = SOURCE / "tests/data/ptdumps"
# Without the switches against traffic of its own, every start of the browser looks for servers in the network.
SWITCHES = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
# A folder and a file whose path would break out of the script element, out of a tag and out of an attribute.
HOSTILE = ("a<", "script><img src=x onerror=alert(1)>\"'&.txt")

command = None
screenshots = None
folder = None
browser = None


def report(name, *arguments, allowed=(0,)):
    path = folder / name
    done = subprocess.run([command, *map(str, arguments), "--report", str(path)], capture_output=True, text=True)
    if done.returncode not in allowed:
        raise AssertionError(f"{arguments}: exit code {done.returncode}: {done.stderr}")
    return path


def setUpModule():
    global folder, browser
    folder = pathlib.Path(tempfile.mkdtemp(prefix="directmap-report-"))
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for switch in [*SWITCHES, f"--user-data-dir={folder}/profile"]:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or "chromedriver"))
    browser.set_script_timeout(20)

    report("arm64.html", "analyze", DUMPS / "arm64-4k-39bit-2g.txt")
    # The second dump of the pair has one page of a 1G leaf read-only.
    text = (DUMPS / "arm64-4k-39bit-2g.txt").read_text()
    giga = next(line for line in text.splitlines() if " 1G PGD" in line)
    start = int(giga.split("-")[0], 16)
    rest = giga.split("PGD", 1)[1]

    def entry(begin, size, level, words):
        units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
        return f"0x{begin:016x}-0x{begin + int(size[:-1]) * units[size[-1]]:016x} {size:>11} {level}{words}\n"

    # The columns of the shape are left out: their words are what says that a leaf is contiguous or a block.
    words = re.sub(r"\b(BLK|CON)\b", "   ", rest)
    after = text.replace(giga + "\n",
                         entry(start, "4K", "PTE", words.replace("RW", "ro")) + entry(start + 0x1000, "2044K", "PTE", words) +
                         entry(start + 0x200000, "1022M", "PMD", words))
    (folder / "after.txt").write_text(after)
    report("diff.html", "diff", DUMPS / "arm64-4k-39bit-2g.txt", folder / "after.txt", allowed=(1,))
    (folder / "iomem.txt").write_text("80000000-bfffffff : System RAM\n")
    report("run.html", "run", "--scenario", "tiny", "--memory-map", folder / "iomem.txt")
    hostile = folder / HOSTILE[0] / HOSTILE[1]
    hostile.parent.mkdir()
    hostile.write_text(text)
    report("hostile.html", "analyze", hostile)
    broken = folder / "broken.txt"
    broken.write_text(text.replace("0xffffffc001000000-", "0xffffffc000f00000-", 1))
    report("broken.html", "analyze", broken, allowed=(2,))


def tearDownModule():
    if browser:
        browser.quit()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def run_script(text, *arguments):
    return browser.execute_script("return " + text, *arguments)


class Page(unittest.TestCase):
    """Opens the page of the class anew for every test, and looks for errors behind it."""

    page = "arm64.html"

    def setUp(self):
        self.size(1280, 900)
        self.theme("light")
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get((folder / self.page).as_uri())
        self.assertEqual(run_script("document.documentElement.dataset.ready"), "yes", browser.get_log("browser"))

    def tearDown(self):
        self.assertEqual([entry["message"] for entry in browser.get_log("browser")], [])

    def size(self, width, height, mobile=False):
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile})

    def theme(self, name):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                {"features": [{"name": "prefers-color-scheme", "value": name}]})

    def find(self, selector):
        return browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return run_script("document.querySelector(arguments[0]).textContent", selector)

    def cell_size(self):
        return re.match(r"Each cell is ([0-9.]+ \w+)", self.text(".view"))[1]

    def press(self, *keys):
        browser.switch_to.active_element.send_keys(*keys)

    def focus_map(self):
        browser.execute_script("document.querySelector('.cell[tabindex=\"0\"]').focus()")

    def focused_cell(self):
        return browser.switch_to.active_element.get_attribute("aria-label")


class AnalyzePage(Page):
    def test_it_loads_nothing_and_complains_about_nothing(self):
        asked = []
        for entry in browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.append(message["params"]["request"]["url"])
        self.assertEqual([url for url in asked if not url.startswith(("file:", "data:"))], [])
        self.assertEqual(len([url for url in asked if url.startswith("file:")]), 1, asked)
        source = (folder / self.page).read_text()
        self.assertNotRegex(source.split('id="data"')[0], r"(src|href)=.?(https?:)?//")

    def test_it_says_what_the_command_says_and_with_which_command(self):
        done = subprocess.run([command, "analyze", "--json", str(DUMPS / "arm64-4k-39bit-2g.txt")], capture_output=True, text=True)
        result = json.loads(done.stdout)["direct_map"]
        self.assertIn(f"{result['units']:,} leaves where {result['minimum_units']:,} would do", self.text(".verdict"))
        self.assertIn(f"directmap analyze {DUMPS}/arm64-4k-39bit-2g.txt --report", self.text(".command code"))
        self.assertIn("2 GiB of 2 GiB mapped", self.text(".view"))

    def test_zooming_goes_from_all_of_the_map_to_single_pages_and_back(self):
        sizes = [self.cell_size()]
        into = self.find('button[aria-label="Zoom in"]')
        while into.is_enabled() and len(sizes) < 20:
            into.click()
            sizes.append(self.cell_size())
        self.assertEqual(sizes[0], "2 MiB")
        self.assertEqual(sizes[-1], "4 KiB")
        self.assertEqual(len(sizes), 6)  # 2M, 512K, 128K, 32K, 8K, 4K
        self.find('button[aria-label="Show the whole map"]').click()
        self.assertEqual(self.cell_size(), sizes[0])
        self.assertFalse(self.find('button[aria-label="Zoom out"]').is_enabled())

    def test_hovering_shows_range_leaves_and_attributes(self):
        cell = self.find('.cell[data-i="0"]')
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", cell)
        self.assertFalse(self.find("#tip").is_displayed())
        ActionChains(browser).move_to_element(cell).perform()
        tip = self.find("#tip")
        self.assertTrue(tip.is_displayed())
        # The first 2 MiB, as worked out by hand in tests/golden/README.md.
        self.assertIn("0xffffffc000000000-0xffffffc000200000", tip.text)
        self.assertIn("8 × 64K (512 KiB), 384 × 4K (1.5 MiB)", tip.text)
        self.assertIn("1.5 MiB: ro NX SHD AF", tip.text)
        self.assertIn("512 KiB: RW NX SHD AF", tip.text)
        ActionChains(browser).move_to_element(self.find("h1")).perform()
        self.assertFalse(tip.is_displayed())

    def test_every_leaf_of_the_dump_is_on_the_map_where_it_belongs(self):
        # By hand again: offset, bytes, what the map must say there.
        expected = [(0x0, "64K leaves", ""), (0x7f000, "64K leaves", ""), (0x80000, "4K leaves", "read-only"),
                    (0x1ff000, "4K leaves", "read-only"), (0x200000, "2M leaves", "read-only"), (0x1000000, "4K leaves", "read-only"),
                    (0x11df000, "4K leaves", "read-only"), (0x11e0000, "64K leaves", ""), (0x1200000, "2M leaves", ""),
                    (0x2000000, "32M leaves", ""), (0x3fffff000, None, ""), (0x40000000, "1G leaves", ""), (0x7ffff000, "1G leaves", "")]
        for offset, size, permission in expected:
            if size is None:
                continue
            browser.execute_script("document.getElementById('map').showRange(0, arguments[0], 4096)", hex(0xffffffc000000000 + offset))
            self.assertEqual(self.cell_size(), "4 KiB")
            name = self.focused_cell()
            self.assertTrue(name.startswith(f"0x{0xffffffc000000000 + offset:016x}, 4 KiB: {size} 4 KiB"), (hex(offset), name))
            self.assertEqual(name.endswith("; some read-only"), permission == "read-only", name)
            outline = browser.switch_to.active_element.get_attribute("data-p")
            self.assertEqual(outline, permission or "none")

    def test_the_keyboard_reaches_and_does_everything(self):
        for _ in range(40):  # Tab alone must lead to the map
            self.press(Keys.TAB)
            if browser.switch_to.active_element.get_attribute("class").startswith("cell"):
                break
        first = self.focused_cell()
        self.assertTrue(first.startswith("0xffffffc000000000, 2 MiB"), first)
        self.press(Keys.ARROW_RIGHT)
        self.assertTrue(self.focused_cell().startswith("0xffffffc000200000"), self.focused_cell())
        self.press(Keys.ARROW_DOWN)
        below = self.focused_cell()
        self.assertTrue(below.startswith("0xffffffc008200000"), below)  # 64 cells of 2 MiB further on
        self.press("+")
        self.assertEqual(self.cell_size(), "512 KiB")
        self.assertTrue(self.focused_cell().startswith("0xffffffc008200000, 512 KiB"), self.focused_cell())
        self.press(Keys.PAGE_DOWN)
        self.assertTrue(int(self.focused_cell().split(",")[0], 16) > 0xffffffc008200000, self.focused_cell())
        self.press(Keys.PAGE_UP)
        self.press(Keys.ESCAPE)
        self.assertEqual(self.cell_size(), "2 MiB")
        self.press(Keys.ENTER, Keys.ENTER)
        self.assertEqual(self.cell_size(), "128 KiB")
        self.press("0")
        self.assertEqual(self.cell_size(), "2 MiB")
        self.press(Keys.END)
        self.assertTrue(self.focused_cell().startswith("0xffffffc007e00000"), self.focused_cell())

    def test_a_table_leads_to_its_place_on_the_map(self):
        row = next(section for section in browser.find_elements(By.CSS_SELECTOR, "section") if section.text.startswith("Permission islands"))
        row.find_element(By.CSS_SELECTOR, "td button").click()
        # The island starts in the middle of the first 2 MiB.
        self.assertTrue(self.focused_cell().startswith("0xffffffc00008"), self.focused_cell())
        self.assertEqual(browser.switch_to.active_element.get_attribute("data-p"), "read-only")

    def test_letters_stand_for_colours_where_they_are_wanted(self):
        letter = self.find('.cell[data-i="20"] .letter')
        self.assertFalse(letter.is_displayed())
        next(button for button in browser.find_elements(By.CSS_SELECTOR, "#map button") if button.text == "Letters").click()
        self.assertTrue(letter.is_displayed())
        self.assertEqual(letter.text, "m")  # 32M

    def contrast(self, one, other):
        def luminance(name):
            colour = run_script("getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()", name)
            channels = [int(colour[at:at + 2], 16) / 255 for at in (1, 3, 5)]
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        light, dark = sorted((luminance(one), luminance(other)), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    def test_text_and_outlines_stand_out_in_light_and_in_dark(self):
        backs = {}
        for theme in ("light", "dark"):
            self.theme(theme)
            backs[theme] = run_script("getComputedStyle(document.body).backgroundColor")
            for back in ("--back", "--card"):
                for ink in ("--ink", "--dim", "--accent"):
                    self.assertGreaterEqual(self.contrast(ink, back), 4.5, (theme, ink, back))
            for outline in ("--ro", "--exec", "--wx", "--invalid", "--shared", "--key", "--uncached"):
                self.assertGreaterEqual(self.contrast(outline, "--card"), 3, (theme, outline))
            for line in range(6):
                self.assertGreaterEqual(self.contrast(f"--l{line}", "--card"), 3, (theme, line))
            # Neighbouring leaf sizes differ in lightness, so that they can be told apart without seeing hues.
            for one, other in (("--s0", "--s1"), ("--s1", "--s2"), ("--s3", "--s4")):
                self.assertGreaterEqual(self.contrast(one, other), 1.4, (theme, one, other))
        self.assertNotEqual(backs["light"], backs["dark"])

    def test_it_fits_a_phone(self):
        self.size(360, 740, mobile=True)
        browser.refresh()
        self.assertLessEqual(run_script("document.documentElement.scrollWidth"), 360)
        boxes = run_script("[...document.querySelectorAll('.cell')].map((cell) => cell.getBoundingClientRect().width)")
        self.assertGreaterEqual(min(boxes), 16)
        self.assertGreaterEqual(run_script("parseFloat(getComputedStyle(document.querySelector('.view')).fontSize)"), 12)
        cell = self.find('.cell[data-i="17"]')
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", cell)
        box = run_script("JSON.parse(JSON.stringify(arguments[0].getBoundingClientRect()))", cell)
        before = self.cell_size()
        for _ in range(2):  # a tap chooses a cell, a second one goes into it
            browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
            point = {"x": box["left"] + box["width"] / 2, "y": box["top"] + box["height"] / 2}
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
            self.assertIn("0x", self.text(".detail"))
        run_script("new Promise((done) => setTimeout(done, 100))")
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        self.assertNotEqual(self.cell_size(), before)

    def test_everything_has_a_name_for_those_who_listen(self):
        nameless = run_script("""[...document.querySelectorAll('button, select, [role=slider], [role=grid], svg[role=img]')]
            .filter((each) => !(each.getAttribute('aria-label') || each.textContent.trim() || each.closest('label')))
            .map((each) => each.outerHTML.slice(0, 80))""")
        self.assertEqual(nameless, [])
        self.assertEqual(run_script("document.querySelectorAll('h1').length"), 1)
        self.assertEqual(run_script("document.documentElement.lang"), "en")


class DiffPage(Page):
    page = "diff.html"

    def test_it_colours_what_changed(self):
        self.assertIn("1 leaf split", self.text(".verdict"))
        before = run_script("document.querySelector('.cell[data-i=\"512\"]').style.background")
        button = next(each for each in browser.find_elements(By.CSS_SELECTOR, "#map button") if each.text == "Colour by what changed")
        button.click()
        after = run_script("document.querySelector('.cell[data-i=\"512\"]').style.background")
        self.assertNotEqual(before, after)
        self.assertIn("--split", after)
        self.assertIn("--none", run_script("document.querySelector('.cell[data-i=\"0\"]').style.background"))
        self.assertIn("split: 2 MiB", run_script("(document.querySelector('.cell[data-i=\"512\"]').click(), document.querySelector('.detail').textContent)"))


class RunPage(Page):
    page = "run.html"

    def test_charts_tell_their_numbers_to_pointer_and_keyboard(self):
        chart = self.find(".timeline figure svg")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", chart)
        self.press(Keys.HOME)
        self.assertRegex(self.text(".readout"), r"^Step 1, .*boot")
        self.press(Keys.ARROW_RIGHT)
        self.assertRegex(self.text(".readout"), r"^Step 2, .*never heal leaves [0-9,]+")
        ActionChains(browser).move_to_element(chart).perform()
        self.assertNotRegex(self.text(".readout"), r"^Step 2, ")

    def test_policies_stand_side_by_side_and_each_has_its_map(self):
        columns = run_script("[...document.querySelectorAll('section')].find((each) => each.textContent.startsWith('The same scenario')).querySelectorAll('th').length")
        self.assertEqual(columns, 5)
        names = run_script("[...document.querySelectorAll('#pick-map option')].map((each) => each.textContent)")
        self.assertEqual(names, ["never heal, at the end", "on restore, at the end", "background, at the end", "pages only, at the end"])
        browser.execute_script("const pick = document.getElementById('pick-map'); pick.value = 3; pick.dispatchEvent(new Event('change'))")
        self.assertRegex(self.text(".detail"), r"× 4K")

    def test_another_measure_redraws_the_lines(self):
        select = self.find(".timeline select")
        before = run_script("document.querySelector('.timeline path.series').getAttribute('d')")
        browser.execute_script("arguments[0].value = 'tables'; arguments[0].dispatchEvent(new Event('change'))", select)
        self.assertNotEqual(run_script("document.querySelector('.timeline path.series').getAttribute('d')"), before)


class HostilePage(Page):
    page = "hostile.html"

    def test_names_from_outside_stay_text(self):
        self.assertTrue(self.text("h1").endswith("/".join(HOSTILE)))
        self.assertEqual(run_script("document.querySelectorAll('img').length"), 0)
        self.assertIn("2 GiB of 2 GiB mapped", self.text(".view"))


class BrokenPage(Page):
    page = "broken.html"

    def test_partial_results_say_so_and_why(self):
        self.assertIn("These results are partial", self.text(".verdict"))
        section = next(each for each in browser.find_elements(By.CSS_SELECTOR, "section") if "Why these results are partial" in each.text)
        self.assertRegex(section.text, r"overlaps line|long, but the line says")


class Pictures(Page):
    """Not a test: what docs/ shows."""

    def shoot(self, name, width, height, theme, page, prepare=None, scroll="h1"):
        self.theme(theme)
        self.size(width, height, mobile=width < 500)
        browser.get((folder / page).as_uri())
        browser.execute_script("document.querySelector(arguments[0]).scrollIntoView({block: 'start'})", scroll)
        if prepare:
            prepare()
        run_script("new Promise((done) => setTimeout(done, 200))")
        browser.save_screenshot(str(screenshots / name))

    def test_take_them(self):
        if screenshots is None:
            self.skipTest("only with --screenshots")
        screenshots.mkdir(parents=True, exist_ok=True)
        report("day.html", "run")

        def hover():
            browser.execute_script("document.getElementById('map').showRange(0, '0xffffffc000000000', 262144)")
            ActionChains(browser).move_to_element(self.find('.cell[data-i="70"]')).perform()

        self.shoot("report-analyze.png", 1180, 900, "light", "arm64.html", hover, "#map")
        self.shoot("report-run.png", 1180, 1180, "dark", "day.html")
        self.shoot("report-map.png", 1180, 640, "light", "day.html", None, "#map")
        self.shoot("report-phone.png", 360, 800, "light", "arm64.html", None, "#map")


if __name__ == "__main__":
    if "--screenshots" in sys.argv:
        at = sys.argv.index("--screenshots")
        screenshots = pathlib.Path(sys.argv[at + 1]).resolve()
        del sys.argv[at:at + 2]
    command = command_of(__doc__)
    unittest.main(verbosity=1)

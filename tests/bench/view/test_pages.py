"""The pages of `bench view`: what stands on them, that nothing in them is markup of a user's, and a browser's look."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from store_data import CELL, PROVENANCE, SUMMARY, batch, image

from bench.commands.show import compare, show
from bench.commands.view import make_pages
from bench.records import NOT_CONVERGED, WEAK_ATTACK
from bench.store import Store
from bench.view import make_server, write_bundle
from bench.view.pages import Pages
from bench.view.safe import write_script

EVIL = "<script>document.title='owned'</script>"
FAILED = [{"gate": EVIL, "passed": False, "reason": f"because {EVIL} & more", "value": 1.0}]


def fill(path: Path) -> Path:
    """Three cells with results, of which one has a hostile name everywhere, and one that only failed."""
    curve = [{"attack": "pgd", "step": step, "loss": 0.1, "accuracy": 1 - step / 4, "images": 2} for step in range(4)]
    with Store(path) as store:
        for number, (defense, right) in enumerate((("diffpure_sde", 9), ("plain", 2), (EVIL, 5))):
            key = f"{number:02d}112233aabbccdd"
            changes = {"key": key, "defense": defense, "defense_params": {"note": EVIL, "t": 0.1 * number}}
            store.add_cell(CELL | changes | {"grid": EVIL if defense == EVIL else "quickstart"})
            run = store.start_run(key, **PROVENANCE, notes=[f"a note {EVIL}"])
            store.save_batch(run, replace(batch(0), curve=curve), [image(42, right), image(7, right)])
            store.save_batch(run, replace(batch(1), curve=curve), [image(9, 0), image(3, right, broken_by=EVIL)])
            gates = FAILED if defense == EVIL else SUMMARY["gates"]
            store.finish_run(run, **(SUMMARY | {"robust_accuracy": 10.0 * right, "gates": gates}))
        store.add_cell(CELL | {"key": "ff112233aabbccdd", "seed": 9})
        store.fail_run(store.start_run("ff112233aabbccdd", **PROVENANCE), ValueError(f"no {EVIL}"))
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with Store(fill(folder / "r.sqlite"), readonly=True) as store:
        picture = folder / "strip.png"
        picture.write_bytes(b"\x89PNG\r\n\x1a\n")
        pages = make_pages(store, lambda key: [picture] if key.startswith("00") else [])
        assert write_bundle(pages, folder / "site") == 11 + 2 * 4 + 1
    return folder / "site"


def test_a_cell_page_says_what_was_measured_and_how_to_measure_it_again(site: Path) -> None:
    page = (site / "cell" / "00112233aabbccdd.html").read_text()
    for text in (
        "DiffPure (SDE", "Robust accuracy 90.0 %", "[15.0, 85.0]", "differentiates the whole defense exactly",
        "noise is weaker", "Quick tier: not a robustness claim.", "abc", "../pictures/00112233aabbccdd/strip.png",
    ):  # fmt: skip
        assert text in page, text
    assert (site / "pictures" / "00112233aabbccdd" / "strip.png").read_bytes().startswith(b"\x89PNG")
    assert "<h2>Pictures</h2>" not in (site / "cell" / "01112233aabbccdd.html").read_text()
    failed = (site / "cell" / "ff112233aabbccdd.html").read_text()
    assert "no &lt;script&gt;" in failed and "Numbers" not in failed
    data = json.loads((site / "data" / "00112233aabbccdd.js").read_text().partition("] = ")[2].rstrip(";\n"))
    assert data["rows"][0][:8] == [42, 3, 10, 10, 9, 9, 3, "3×9, 1×1"]


def read_data(content: bytes | None) -> Any:
    return json.loads((content or b"").decode().partition(" = ")[2].rstrip(";\n"))


def read_row(pages: Pages) -> dict[str, Any]:
    """The first row of the index."""
    told = read_data(pages.content("data/cells.js"))
    return dict(zip(told["columns"], told["rows"][0], strict=True))


def add_one(store: Store, changes: dict[str, Any]) -> None:
    """A cell of four images, with these columns of its run."""
    store.add_cell(CELL)
    run = store.start_run(CELL["key"], **PROVENANCE)
    store.save_batch(run, batch(0), [image(42, 9), image(7, 9)])
    store.save_batch(run, batch(1), [image(9, 0), image(3, 9)])
    store.finish_run(run, **(SUMMARY | changes))


def test_the_table_shows_the_digits_of_every_other_table(tmp_path: Path) -> None:
    """151 of 192 draws are 78.6 %, not 78.65 and so 78.7; ties go to the even digit, where JavaScript's go up."""
    odd = {"robust_accuracy": 100 * 151 / 192, "null_accuracy": 6.25, "clean_accuracy": 93.75}
    with Store(tmp_path / "r.sqlite") as store:
        add_one(store, odd)
        row = read_row(make_pages(store))
    assert [row[name] for name in ("robust", "null", "clean")] == [78.6, 6.2, 93.8]


def test_the_literature_says_what_the_published_attack_could_differentiate(tmp_path: Path) -> None:
    with Store(fill(tmp_path / "r.sqlite"), readonly=True) as store:
        published = {row["key"]: row for row in store.published()}
        pages = make_pages(store)
        rows = read_data(pages.content("data/literature.js"))
    kinds = {row["attacker_gradient"] for row in published.values()}
    assert {"exact", "transfer", "surrogate", None} <= kinds
    assert [row[14] for row in rows] == [row["attacker_gradient"] for row in published.values()]
    assert all(isinstance(row[15], list) for row in rows)  # what was measured here stands behind it
    script = (pages.content("assets/site.js") or b"").decode()
    assert '["Attacker differentiates", 14' in script and '["Measured here", 15' in script


KNOWN = "0a" + "0" * 14


def fill_known(path: Path) -> Path:
    """One cell more, of an attacker who knows the noise."""
    with Store(fill(path)) as store:
        store.add_cell(CELL | {"key": KNOWN, "noise": "known"})
        run = store.start_run(KNOWN, **PROVENANCE)
        store.save_batch(run, batch(0), [image(42, 1), image(7, 1)])
        store.save_batch(run, batch(1), [image(9, 0), image(3, 1)])
        store.finish_run(run, **SUMMARY)
    return path


def test_an_attacker_who_knows_the_noise_is_named_on_every_page(tmp_path: Path) -> None:
    with Store(fill_known(tmp_path / "r.sqlite"), readonly=True) as store:
        pages = make_pages(store)
        threats = {row[0]: row[7] for row in read_data(pages.content("data/cells.js"))["rows"]}
        assert [name for name, threat in threats.items() if threat.endswith(", known noise")] == [KNOWN]
        known, fresh = ((pages.content(f"cell/{name}.html") or b"").decode() for name in (KNOWN, "00112233aabbccdd"))
        assert "The attacker knows the noise" in known and "The attacker knows the noise" not in fresh


def test_no_conclusion_is_drawn_across_known_and_fresh_noise(tmp_path: Path, browser: Any) -> None:
    with Store(fill_known(tmp_path / "r.sqlite"), readonly=True) as store:
        write_bundle(make_pages(store), tmp_path / "site")
    look(browser, tmp_path / "site" / "compare.html", f"?a=00112233aabbccdd&b={KNOWN}")
    said = browser.find_element("id", "outcome").text
    asked = compare(str(tmp_path / "r.sqlite"), "00112233aabbccdd", KNOWN)
    conclusion = next(line for line in asked.splitlines() if line.startswith("No conclusion"))
    assert conclusion in said and "more robust" not in said and "No difference" not in said
    assert "Careful, not the same noise: A fresh, B known." in said


def test_the_command_measures_the_very_cell(tmp_path: Path) -> None:
    from bench.commands.again import Commands
    from bench.commands.grid_data import find_grid

    with Store(tmp_path / "r.sqlite") as store:
        first = find_grid("quickstart").cells()[0]
        other = first.change(num_images=8, seed=3)
        cells = {cell.key: {**cell.row(), "cell_key": cell.key, "grid": "quickstart"} for cell in (first, other)}
        commands = Commands(store, cells, "r.sqlite")
        assert commands.find(first.key) == f"bench run --grid quickstart --filter key={first.key} --force --db r.sqlite"
        assert "--num-images 8 --seed 3 --filter key=" + other.key in commands.find(other.key)
        strange = {**cells[first.key], "draws": 77}
        assert "No grid that is known here" in Commands(store, {"0" * 16: strange}, "r.sqlite").find("0" * 16)


def test_nothing_that_a_user_named_becomes_markup(site: Path) -> None:
    for path in [*site.rglob("*.html"), *(site / "data").glob("*.js")]:
        assert EVIL not in path.read_text() and "<script>document" not in path.read_text(), path
    assert "&lt;script&gt;document.title" in (site / "cell" / "02112233aabbccdd.html").read_text()
    assert (
        "</script>" not in write_script("</script><!--")
        and json.loads(write_script("</script>\u2028")) == "</script>\u2028"
    )


def test_a_folder_with_other_files_is_left_alone(site: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with Store(site.parent / "r.sqlite", readonly=True) as store:
        with pytest.raises(ValueError, match="holds other files"):
            write_bundle(make_pages(store), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
        write_bundle(make_pages(store), site)  # its own folder is written again


def test_the_server_answers_this_machine_alone(site: Path) -> None:
    with Store(site.parent / "r.sqlite", readonly=True) as store, make_server(make_pages(store)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"

        def get(path: str, **headers: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")

        assert get("/")[0] == 200 and "00112233aabbccdd" in get("/data/cells.js")[1]
        assert get("/cell/00112233aabbccdd.html")[1] == (site / "cell" / "00112233aabbccdd.html").read_text().replace(
            "\n<section>\n<h2>Pictures</h2>\n<figure><img src=\"../pictures/00112233aabbccdd/strip.png\" "
            "alt=\"strip.png\"></figure>\n</section>", "",
        )  # fmt: skip
        for path in ("/cell/ee.html", "/../r.sqlite", "/pictures/00112233aabbccdd/r.sqlite", "/data/%2e%2e/r.sqlite"):
            assert get(path)[0] == 404, path
        assert get("/", Host="evil.example:80")[0] == 404  # another site's name that points here
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with its driver here (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as found:
        found.set_window_size(1300, 1000)
        yield found


def look(browser: Any, page: Path, query: str = "", wait: str = "document.body.dataset.ready") -> None:
    """Open a page and wait until its table is drawn; no error may stand in the console."""
    wait = "document.body.dataset.marked" if page.name == "index.html" else wait
    browser.get(page.as_uri() + query)
    end = time.monotonic() + 30
    while not browser.execute_script(f"return {wait}"):
        assert time.monotonic() < end, f"{page.name}: {browser.get_log('browser')}"
        time.sleep(0.05)
    assert browser.get_log("browser") == [] and browser.title != "owned"


def column(browser: Any, number: int) -> list[str]:
    return browser.execute_script(
        f"return [...document.querySelectorAll('#cells tbody tr')].map(row => row.cells[{number}].innerText.trim())"
    )


def wait_for_column(browser: Any, number: int, wanted: list[str]) -> None:
    """The table sorts itself after the event: look until it has."""
    end = time.monotonic() + 10
    while (seen := column(browser, number)) != wanted:
        assert time.monotonic() < end, seen
        time.sleep(0.05)


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def test_the_table_sorts_filters_searches_and_opens_a_cell(site: Path, browser: Any) -> None:
    look(browser, site / "index.html")
    assert len(column(browser, 1)) == 4 and EVIL in column(browser, 1)
    heading = "[...document.querySelectorAll('#cells thead th')].find(th => th.innerText.includes('Robust'))"
    browser.execute_script(f"{heading}.click()")
    wait_for_column(browser, 2, ["–", "20.0", "50.0", "90.0"])
    browser.execute_script(
        "const s = document.querySelector('select[name=Grid]'); s.value = 'quickstart';"
        "s.dispatchEvent(new Event('change'))"
    )
    assert EVIL not in column(browser, 1) and len(column(browser, 1)) == 3
    field = browser.find_element("css selector", "input[type=search]")
    field.send_keys("01112233")
    wait_for_column(browser, 2, ["20.0"])
    look(browser, site / "index.html")
    browser.find_element("link text", EVIL).click()
    look(browser, site / "cell" / "02112233aabbccdd.html")
    assert "FAILED" in browser.find_element("tag name", "body").text
    look(browser, site / "cell" / "02112233aabbccdd.html", wait="document.querySelector('#chart .main-svg')")


def test_two_cells_are_compared_image_by_image(site: Path, browser: Any) -> None:
    look(browser, site / "index.html")
    for box in browser.find_elements("css selector", "#cells input[type=checkbox]")[:2]:
        box.click()
    browser.find_element("id", "compare").click()
    keys = ("00112233aabbccdd", "01112233aabbccdd")
    look(browser, site / "compare.html", f"?a={keys[0]}&b={keys[1]}")
    said = browser.find_element("id", "outcome").text
    wanted = compare(str(site.parent / "r.sqlite"), *keys)
    for pattern in (r"Robust on the .*", r"By vote, .*", r"No difference is established\.|.* is more robust than .*"):
        line = next(line for line in wanted.splitlines() if re.fullmatch(pattern, line))
        assert line.replace("0.25", "0.250").replace("p = 1.", "p = 1.00.")[:60] in said.replace("−", "-"), line
    doubtful = (keys[0], "02112233aabbccdd")  # whose gate failed
    look(browser, site / "compare.html", f"?a={doubtful[0]}&b={doubtful[1]}")
    lines = [line for line in compare(str(site.parent / "r.sqlite"), *doubtful).splitlines() if "in doubt" in line]
    assert lines and all(line in browser.find_element("id", "outcome").text for line in lines)
    look(browser, site / "compare.html", f"?a={keys[0]}&b={keys[1]}")
    rows = browser.find_elements("css selector", "#images tbody tr")
    assert len(rows) == 4 and "9/10" in rows[0].text and "2/10" in rows[0].text
    look(
        browser,
        site / "compare.html",
        "?a=00&b=zz",
        wait="document.getElementById('outcome').innerText.includes('cells')",
    )
    assert "0 cells have a key" in browser.find_element("id", "outcome").text


def test_pages_are_readable_on_a_phone_and_by_keyboard(site: Path, browser: Any) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for page in ("index.html", "literature.html", "cell/02112233aabbccdd.html"):
            look(browser, site / page)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, page
            assert float(browser.execute_script("return parseFloat(getComputedStyle(document.body).fontSize)")) >= 14
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    look(browser, site / "index.html")
    seen = []
    for _ in range(60):
        press(browser, "\ue004")
        seen.append(browser.execute_script(FOCUS))
    for wanted in ("A Skip to the content", "SELECT Grid", "INPUT search", f"A {EVIL[:8]}"):
        assert any(name.startswith(wanted) for name in seen), (wanted, seen)
    heading = "[...document.querySelectorAll('#cells thead th')].find(th => th.innerText.includes('Robust'))"
    browser.execute_script(f"({heading}.querySelector('[tabindex]') || {heading}).focus()")
    press(browser, "\ue007")
    wait_for_column(browser, 2, ["–", "20.0", "50.0", "90.0"])


FOCUS = """
const e = document.activeElement;
return e.tagName + ' ' + (e.name || e.innerText || e.ariaLabel || e.type || '');
"""
CONTRAST = """
const light = (c) => { const [r, g, b] = c.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const read = (text) => text.match(/[\\d.]+/g).map(Number);
const behind = (e) => { for (; e; e = e.parentElement) { const c = read(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] === 1) return c.slice(0, 3); } return [255, 255, 255]; };
const ratio = (e) => { const a = light(read(getComputedStyle(e).color).slice(0, 3)), b = light(behind(e));
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
return [...document.querySelectorAll('main *, header *')]
  .filter(e => e.children.length === 0 && e.innerText && e.offsetParent && !e.closest('svg, [disabled], .disabled'))
  .map(e => [ratio(e), e.tagName + ' ' + e.innerText.slice(0, 30)])
  .filter(([ratio]) => ratio < 4.5);
"""


def test_letters_stand_out_from_their_ground(site: Path, browser: Any) -> None:
    for page in ("index.html", "literature.html", "cell/02112233aabbccdd.html"):
        look(browser, site / page)
        assert browser.execute_script(CONTRAST) == [], page


def test_what_other_results_contradict_is_in_doubt(tmp_path: Path) -> None:
    """The same attack with another gradient breaks all images: the table hears of it, and the cell's page says it."""
    with Store(tmp_path / "r.sqlite") as store:
        for gradient, right in (("exact", 10), ("straight_through", 0)):
            key = f"{right:02d}" + "0" * 14
            store.add_cell(CELL | {"key": key, "gradient": gradient, "num_images": 20, "batch_size": 20})
            run = store.start_run(key, **PROVENANCE)
            store.save_batch(run, batch(0), [image(index, right) for index in range(20)])
            store.finish_run(run, **(SUMMARY | {"robust_accuracy": 10.0 * right, "first_success_accuracy": None}))
        pages = make_pages(store)
        marks = json.loads((pages.content("data/marks.js") or b"").decode().partition(" = ")[2].rstrip(";\n"))
        assert list(marks) == ["10" + "0" * 14] and "straight_through gradient leaves 0.0 %" in marks["10" + "0" * 14]
        assert "leaves 0.0 %" in (pages.content("cell/" + "10" + "0" * 14 + ".html") or b"").decode()
        assert "leaves 0.0 %" not in (pages.content("cell/" + "00" + "0" * 14 + ".html") or b"").decode()
    told = [show(str(tmp_path / "r.sqlite"), key) for key in ("10", "00")]
    assert ["  in doubt: The same attack" in text for text in told] == [True, False]
    assert "B's attack finds more than A's.\nA is in doubt: The same" in compare(str(tmp_path / "r.sqlite"), "10", "00")


def test_what_one_seed_failed_is_in_doubt_for_all(tmp_path: Path) -> None:
    """Cells that differ in seeds alone share their gates, which the row of one of them holds."""
    db = str(tmp_path / "r.sqlite")
    with Store(db) as store:
        for key, changes, right in (("aa", {}, 10), ("bb", {"seed": 1}, 10), ("cc", {"defense": "plain"}, 0)):
            store.add_cell(CELL | changes | {"key": key * 8, "num_images": 20, "batch_size": 20})
            run = store.start_run(key * 8, **PROVENANCE)
            store.save_batch(run, batch(0), [image(index, right) for index in range(20)])
            told = {
                "robust_accuracy": 10.0 * right,
                "gates": FAILED if key == "aa" else [],
                "first_success_accuracy": None,
            }
            store.finish_run(run, **(SUMMARY | told))
        pages = make_pages(store)
        cells = read_data(pages.content("data/cells.js"))
        badges = {row[0][:2]: row[cells["columns"].index("gates")] for row in cells["rows"]}
        assert badges == {"aa": "doubt", "bb": "doubt", "cc": ""}
        assert "because" in (pages.content("cell/" + "bb" * 8 + ".html") or b"").decode()
    for key in ("aa", "bb"):
        assert "A has the higher number, but A is in doubt: no conclusion." in compare(db, key, "cc")
        assert "in doubt" in show(db, key) and "in doubt" not in show(db, "cc")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"notes": [f"{NOT_CONVERGED}the last doubling won 12.5 points."]}, "doubling won 12.5 points"),
        ({"notes": ["AutoAttack: there seems to be a problem"]}, "seems to be a problem"),
        ({"notes": [f"{WEAK_ATTACK}PGD in L1."]}, "PGD in L1"),
        ({"rounded_accuracy": 40.0}, "As 8-bit pictures the adversarial images leave 40.0 %"),
    ],
)  # fmt: skip
def test_a_page_warns_of_a_number_as_tables_do(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    """What gets a number its exclamation mark in a table makes it doubtful here; rounding is told, and no doubt."""
    with Store(tmp_path / "r.sqlite") as store:
        add_one(store, changes)
        row = read_row(make_pages(store))
        page = (make_pages(store).content(f"cell/{CELL['key']}.html") or b"").decode()
    assert told in page.partition("Before you use this number")[2].partition("</section>")[0]
    assert row["gates"] == ("doubt" if "notes" in changes else "passed") and told in row["doubts"]


def test_an_empty_database_says_so(tmp_path: Path) -> None:
    with Store(tmp_path / "r.sqlite") as store, pytest.raises(ValueError, match="no results"):
        make_pages(store)

"""No string of any file, and no name of one, becomes markup or a script of a page."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from scoreflow.figures.plot import Plot, Series
from scoreflow.report.blocks import Figures, Section
from scoreflow.report.html import render
from scoreflow.report.page import write_report
from scoreflow.report.schemas import check
from scoreflow.run_table import RunTable, table
from scoreflow.storage.run_folder import RunDir
from scoreflow.storage.validation import InvalidError
from tests.hostile.stored.damage import places
from tests.scoreflow.report.conftest import Chromium, found

OLD = Path(__file__).parents[2] / "fixtures" / "run-0.1"
RUNS = "window.hurt=1"
PAYLOADS = (
    f"<script>{RUNS}</script>",
    f'"><img src=x onerror={RUNS}>',
    f"' onmouseover='{RUNS}' autofocus onfocus='{RUNS}",
    f"</title></style></script><script>{RUNS}</script>",
    f"<svg onload={RUNS}></svg>]]>--><script>{RUNS}</script>",
    f"javascript:{RUNS}",
    "{{ ''.__class__ }}{% raw %}$x^{2$ &lt;&#x3c;script>",
)
NAMED = "<img src=x onerror=window.hurt=1>'\"{{7*7}}"
"""A name that a file can have."""


class Page(HTMLParser):
    """What a page would run, or load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts, self.active, self.tags = 0, list[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count scripts; note handlers, links to scripts, and pictures from elsewhere."""
        self.scripts += tag == "script"
        self.tags.add(tag)
        for name, value in attrs:
            link = (value or "").strip().lower()
            outside = name in ("src", "href", "xlink:href", "action", "data", "formaction") and (
                ":" in link.split("/")[0] and not link.startswith("data:image/")
            )
            if name.startswith("on") or name == "srcdoc" or outside:
                self.active.append(f"<{tag} {name}={value!r:.60}>")


def assert_inert(text: str) -> None:
    """One script, the page's own; nothing else that runs or loads."""
    page = Page(text)
    assert page.scripts == 1
    assert page.active == []
    assert page.tags.isdisjoint({"iframe", "object", "embed", "base", "form", "link", "math"})
    assert "__class__" not in text or "{{ &#39;&#39;.__class__ }}" in text


def strings(value: Any) -> Iterator[tuple[str | int, ...]]:
    """The places of the texts in a JSON value."""
    for place in places(value):
        inside = value
        for key in place:
            inside = inside[key]
        if isinstance(inside, str):
            yield place


def put(value: Any, place: tuple[str | int, ...], new: object) -> Any:
    """A copy of a JSON value with another one at a place."""
    value = json.loads(json.dumps(value))
    holder = value
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = new
    return value


def fits(name: str, value: Any) -> bool:
    """Whether a result is still of its kind."""
    try:
        check(name, value)
    except InvalidError:
        return False
    return True


def poisoned(folder: Path, payload: str, spared: tuple[str, ...]) -> int:
    """Put a payload into every text of every JSON file; returns into how many."""
    count = 0
    for path in [*folder.glob("*.json"), *folder.glob("*/*.json")]:
        if path.name.startswith("broken"):
            continue
        value = json.loads(path.read_bytes())
        for place in list(strings(value)):
            if any(key in spared for key in place):
                continue
            changed = put(value, place, payload)
            if path.parent.name != "results" or fits(path.stem, changed):
                value, count = changed, count + 1
        for key in ("facts", "versions", "others"):  # names, too
            if isinstance(value.get(key), dict):
                value[key] = {payload: payload, **value[key]}
        path.write_text(json.dumps(value))
    return count


@pytest.fixture
def hurt(trained: Path, tmp_path: Path) -> Path:
    """A run with results of many kinds, in a folder whose name is markup."""
    folder = Path(shutil.copytree(trained, tmp_path / NAMED))
    for path in (OLD / "results").glob("*.json"):
        if not (folder / "results" / path.name).exists():
            shutil.copy(path, folder / "results")
    (folder / "results" / f"{NAMED}.html").write_text(PAYLOADS[0])
    shutil.copy(
        folder / "results" / "samples-pc.json", folder / "results" / f"samples-{NAMED}.json"
    )
    shutil.copy(
        folder / "results" / "likelihood.json", folder / "results" / f"likelihood-{NAMED}.json"
    )
    (folder / "results" / f"broken {NAMED}.json").write_text("{")
    (folder / "samples" / f"{NAMED}.png").write_bytes(b"")
    return folder


STRUCTURE = ("sampler", "kept", "group", "kind", "picture", "pictures", "png", "dtype")
"""Texts that choose what is shown; other texts there show less."""


def pages(hurt: Path, tmp_path: Path) -> Iterator[Path]:
    """Pages with each payload everywhere, and with it in all texts that are only shown."""
    for k, payload in enumerate(PAYLOADS):
        for spared in ((), (*STRUCTURE, "picture_of_test_data")):
            folder = tmp_path / f"{k}-{len(spared)}" / NAMED
            run = Path(shutil.copytree(hurt, folder))
            assert poisoned(run, payload, spared) > 40
            page = write_report(RunDir.open(run))
            yield page
            yield table([run]).write(run / "table.html")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without plots: those are looked at by themselves."""
    monkeypatch.setattr("scoreflow.figures.svg.svg", lambda plot, salt="": "")


def test_texts_and_names_stay_texts(hurt: Path, tmp_path: Path, undrawn: None):
    for page in pages(hurt, tmp_path):
        text = page.read_text()
        assert_inert(text)
        assert "&lt;img src=x onerror=window.hurt=1&gt;" in text  # the folder's name


@pytest.mark.parametrize("payload", PAYLOADS)
def test_texts_of_plots_stay_texts(payload: str):
    line = Series(payload, [1.0, 2.0], [1.0, 2.0])
    plot = Plot(payload, payload, payload, (line, Series("b", [1.0], [3.0])))
    damaged: list[str] = []
    section = Section(payload, (Figures((plot,)),))
    text = render("page.html", damaged, title=payload, sections=[section], headlines=[])
    assert damaged == []
    assert_inert(text)


def test_markup_in_a_drawing_is_refused(monkeypatch: pytest.MonkeyPatch):
    plot = Plot("a", "b", "c", (Series("", [1.0], [1.0]),))
    for inside in (
        "<script>1</script>",
        '<g onload="x"/>',
        '<use href="http://x/y"/>',
        '<a href="javascript:1"/>',
        "<foreignObject/>",
        "<g>",
    ):
        drawing = f"<svg>{inside}</svg>"
        monkeypatch.setattr("scoreflow.figures.svg.svg", lambda plot, salt="", d=drawing: d)
        damaged: list[str] = []
        section = Section("s", (Figures((plot,)),))
        text = render("page.html", damaged, title="t", sections=[section], headlines=[])
        assert_inert(text)
        assert "the plot 'a' cannot be drawn (its SVG " in damaged[0]


def test_a_csv_file_has_no_formulas(hurt: Path, tmp_path: Path):
    names = ["=1+1", "+cmd|' /C calc'!A0", "@SUM(1)", "-2+3", "\tx", "\rx", "plain", "-1.5"]
    runs = []
    for k, name in enumerate(names):
        runs.append(Path(shutil.copytree(hurt, tmp_path / str(k) / name)))
        config = json.loads((runs[-1] / "config.json").read_bytes())
        config["data"]["path"] = name
        (runs[-1] / "config.json").write_text(json.dumps(config))
    made: RunTable = table(runs)
    rows = list(csv.reader(io.StringIO(made.as_csv())))
    for cell in (cell for row in rows for cell in row):
        if cell.startswith(("=", "+", "-", "@", "\t", "\r")):
            float(cell)
    firsts = [row[0] for row in rows[1:]]
    assert {"'=1+1", "'-2+3", "plain", "-1.5"} <= set(firsts)


@pytest.mark.slow
@pytest.mark.skipif(found() is None, reason="no Chromium")
def test_nothing_runs_in_a_browser(hurt: Path, tmp_path: Path):
    with Chromium(tmp_path / "profile") as browser:
        count = 0
        for page in pages(hurt, tmp_path):
            browser.open(page, 1280)
            assert browser.run("window.hurt === undefined"), page
            assert browser.run("document.scripts.length") == 1
            count += 1
        # even what is pasted raw does not run, for the page names its own script's hash
        raw = page.read_text().replace("</body>", f"<script>{RUNS}</script></body>")
        assert raw.count("<script>") == 2
        page.write_text(raw.replace("<header>", f"<header><img src=x onerror={RUNS}>"))
        browser.open(page, 1280)
        assert browser.run("window.hurt === undefined")
    print(f"\n{count} of {count} pages full of scripts: nothing ran")

"""Other measurements in the report, and classes by their names."""

import json

import pytest

from scoreflow.report.page import write_report
from scoreflow.storage.run_folder import RunDir
from tests.scoreflow.report.test_page import LIKELIHOOD, drawn, keep, parse


@pytest.fixture
def run(tmp_path):
    with RunDir.create(tmp_path / "run", {"seed": 0}, {}) as run:
        yield run


def rank(result):
    return {"of more data": result["num_images"]}


def measured(run, count, value, **settings):
    result = {**LIKELIHOOD, "num_images": count, "value": value, "settings": settings}
    return run.keep_result("likelihood", result, {"count": count, **settings}, rank)


def cells(checker, first):
    """The cells of the row that begins with a file's name."""
    start = checker.cells.index(first)
    return checker.cells[start : start + 8]


def test_every_measurement_has_a_row(run):
    kept = [
        measured(run, 360, 1.5, seed=0, tolerance=1e-4, probes=2, checked=16),
        measured(run, 8, 1.25, seed=0, tolerance=1e-4, probes=2, checked=16),
        measured(run, 64, 1.75, seed=3, tolerance=1e-2, probes=2, checked=16),
    ]
    page, checker = parse(write_report(run))
    assert [each.path.stem == "likelihood" for each in kept] == [True, False, False]
    heads = ("file", "value", "count", "seed", "tolerance", "probes", "step", "date")
    assert "".join(f'<th scope="col">{head}</th>' for head in heads) in page  # checked is alike
    expected = (("1.5000", "360", "0", "0.0001"), ("1.2500", "8", "0", "0.0001"))
    expected += (("1.7500", "64", "3", "0.01"),)
    for each, row in zip(kept, expected, strict=True):
        assert cells(checker, each.path.stem)[1:6] == [*row, "2"]
    assert checker.damaged == []


def test_a_copy_that_a_kill_left_is_passed_over(run):
    measured(run, 360, 1.5, seed=0)
    headline = run.path / "results" / "likelihood.json"
    copy = headline.with_name("likelihood-0badf00d.json")
    copy.write_bytes(headline.read_bytes())
    _, checker = parse(write_report(run))
    assert "Other measurements" not in " ".join(checker.text)
    copy.write_text(json.dumps({"kept": {"as": "likelihood", "hash": "x"}, "value": "y"}))
    _, checker = parse(write_report(run))
    (line,) = checker.damaged
    assert "results/likelihood-0badf00d.json is damaged (value must be a number, got 'y')" in line


def test_classes_have_their_names(run):
    keep(
        run,
        "ddim",
        classes=[3, 1],
        class_names=["cat", "sea lion"],
        of_class={"label": 1, "rate": 0.25, "standard_error": 0.2},
    )
    result = run.read_result("samples-ddim")
    result["settings"] |= {"label": 1, "guidance": 2.0, "guide": "network"}
    run.write_result("samples-ddim", result)
    page, checker = parse(write_report(run))
    text = " ".join(checker.text)
    assert "class 1 (sea lion) with weight 2 by the network" in text
    assert "class 1 (sea lion): 0.250 ± 0.200 of the samples" in text
    assert '<th scope="col">cat</th><th scope="col">sea lion</th>' in page
    assert "class_names" not in drawn("ode")  # of results that have none, numbers

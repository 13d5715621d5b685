"""The benchmark of progressive files: bytes at equal distortion, and a case of a tiny run."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.progressive import __main__ as progressive
from benchmarks.progressive import baselines
from scoreflow.storage.run_folder import RunDir

pytest.importorskip("constriction")
ROOT = Path(__file__).parents[3]


def test_bits_at_a_distortion_lie_between_the_rows_next_to_it():
    rows = [
        {"rmse": 50.0, "bits_per_dim": 1.0},
        {"rmse": 30.0, "bits_per_dim": 2.0},
        {"rmse": 31.0, "bits_per_dim": 3.0},
        {"rmse": 11.0, "bits_per_dim": 4.0},
    ]
    assert progressive.bits_at(rows, 45.0) == pytest.approx(1.25)
    assert progressive.bits_at(rows, 21.0) == pytest.approx(3.5)
    assert progressive.bits_at(rows, 60.0) is None
    assert progressive.bits_at(rows, 5.0) is None


def test_the_ledgers_curve_stands_beside_the_bytes_of_the_same_weights(tmp_path):
    case = json.loads((ROOT / "results/cpu/compression-lossy.json").read_text())["rows"][0]
    with RunDir.create(tmp_path / "run", {}, {}) as folder:
        assert progressive.ledger_of(folder, "its") == []
        curve = {"rate": [9.0, 1.0, 0.5], "distortion": [1.0, 8.0, 40.0]}
        folder.write_result("likelihood-ledger", {"rate_distortion": curve, "weights": "its"})
        assert progressive.ledger_of(folder, "other") == []
        rows = progressive.ledger_of(folder, "its")
    assert [row["rmse"] for row in rows] == [40.0, 8.0, 1.0]
    plot = progressive._plot({**case, "ledger": rows})
    lines = {line.label: (line.x, line.y) for line in plot.series}
    assert lines["ledger's curve"] == ([0.5, 1.0], [40.0, 8.0])
    assert "| ledger's curve | - | 0.66 |" in progressive._text({**case, "ledger": rows})
    assert "ledger" not in progressive._text({**case, "ledger": []})


@pytest.mark.slow
def test_a_case_is_measured_and_written(tmp_path, monkeypatch, capsys):
    every = progressive.encode.__globals__["times_of"]
    few = lambda *process: every(*process)[3::4]  # noqa: E731
    monkeypatch.setitem(progressive.encode.__globals__, "times_of", few)
    run = Path(shutil.copytree(ROOT / "tests" / "fixtures" / "run-0.1", tmp_path / "run"))
    argv = ["progressive", "--case", str(run), "3", "600", "4", "--out", str(tmp_path / "out")]
    argv += ["--fit-images", "8"]
    assert progressive.main(argv) == 0, capsys.readouterr().err
    (case,) = json.loads((tmp_path / "out" / "compression-lossy.json").read_text())["rows"]
    assert case["rows"][-1]["t"] == 600
    text = (tmp_path / "out" / "compression-lossy.md").read_text()
    assert "3 test images down to t = 600" in text
    assert (tmp_path / "out" / "compression-lossy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("case", [["3", "0", "4"], ["3", "x", "4"], ["999", "600", "4"]], ids=str)
def test_what_cannot_be_is_a_line(case, tmp_path, capsys):
    run = Path(shutil.copytree(ROOT / "tests" / "fixtures" / "run-0.1", tmp_path / "run"))
    argv = ["progressive", "--case", str(run), *case, "--out", str(tmp_path / "out")]
    assert progressive.main(argv) == 2
    assert capsys.readouterr().err.startswith("progressive: ")


def test_other_codes_of_a_run_are_a_table(tmp_path, capsys):
    run = ROOT / "tests" / "fixtures" / "run-0.1"
    argv = ["baselines", "--case", str(run), "4", "--out", str(tmp_path)]
    assert baselines.main(argv) == 0, capsys.readouterr().err
    (case,) = json.loads((tmp_path / "compression-baselines.json").read_text())["rows"]
    assert case["num_images"] == 4
    lines = (tmp_path / "compression-baselines.md").read_text().splitlines()
    for row in case["rows"]:
        assert any(f"| {row['name']} |" in line for line in lines)
    assert baselines.main(["baselines", "--case", str(run), "none"]) == 2

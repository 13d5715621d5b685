"""Runs side by side: what differs, in which order, and what is said of what is missing."""

import csv
import io
import json
import os
from pathlib import Path

import pytest

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.run_table import table
from scoreflow.schema.config import Config
from scoreflow.schema.request import flatten
from scoreflow.storage.run_folder import RunDir

DATA = {"name": "digits", "num_train": 9, "num_test": 3, "num_levels": 17, "num_classes": 10}
DATA |= {"shape": [1, 8, 8]}
RATES = {"samples_recognised": 0.9, "real_recognised": 0.9}
DRAWN = {"settings": {"sampler": "ode"}, "step": 10, "num_images": 12, "nfe": 20.0}
DRAWN |= {"two_sample": RATES, "two_sample_of_test_data": RATES}


def made(path, bits=None, steps=10, unit="bits/dim", **keys):
    """A run of 10 steps in its folder, as far as `steps`, with a likelihood if it is given."""
    flat = flatten(Config().to_dict()) | {"training.num_steps": 10}
    flat |= {key.replace("__", "."): value for key, value in keys.items()}
    config = {"seed": flat.pop("seed")}
    for key, value in flat.items():
        section, _, name = key.partition(".")
        config.setdefault(section, {})[name] = value
    with RunDir.create(path, config, {}) as run:
        run.log(steps, 1.5, loss=1.0)
        run.write_result("training", {"parameters": 12345, "data": DATA, "date": "2026-01-01"})
        if bits is not None:
            about = {"standard_error": 0.01, "unit": unit, "num_images": 360}
            run.write_result("likelihood", {"value": bits, **about, "settings": {"label": -1}})
            drawn = {"value": 0.6, "standard_error": 0.02, "images_per_second": 7.5, **DRAWN}
            run.write_result("samples-ode", {**drawn, "metric": "told_apart"})
    return path


@pytest.fixture
def runs(tmp_path):
    return [
        made(tmp_path / "worse", 2.25),
        made(tmp_path / "better", 1.75, sde__schedule="cosine", model__width=64),
        made(tmp_path / "half", None, 4),
        made(tmp_path / "vectors", 0.5, unit="nats"),
        tmp_path / "nothing",
    ]


def test_the_best_comes_first_and_what_differs_is_shown(runs):
    found = table(runs)
    assert [row.name for row in found.rows] == ["better", "worse", "vectors", "half", "nothing"]
    assert found.keys == ("sde.schedule", "model.width")
    lines = str(found).splitlines()
    heads = lines[0].split("  ")
    assert [head.strip() for head in heads if head] == [
        "run",
        "sde.schedule",
        "model.width",
        "parameters",
        "steps",
        "bits/dim",
        "nats",
        "n",
        "training, s",
        "ode told apart",
        "ode images/s",
    ]
    assert lines[1].split() == [
        *("better", "cosine", "64", "12,345", "10", "1.7500", "+-", "0.0100", "-", "360", "1.5"),
        *("0.600", "+-", "0.020", "7.5"),
    ]
    assert "half: not done: 4 of 10 steps" in lines
    assert "half: no likelihood: --mode likelihood measures it" in lines
    assert any(line.startswith("nothing: ") and "holds no run" in line for line in lines)


@pytest.mark.parametrize(
    ("sort", "first"),
    [("-bits/dim", "worse"), ("steps", "half"), ("run", "better"), ("-model.width", "worse")],
)
def test_by_any_column(runs, sort, first):
    assert table(runs, sort).rows[0].name == first


def test_what_is_wrong_is_said(runs, tmp_path):
    with pytest.raises(sf.RequestError, match="got 'bit/dim'; did you mean"):
        table(runs, "bit/dim")
    with pytest.raises(sf.RequestError, match="'training, s', 'ode told apart'"):
        table(runs, "zzz")
    with pytest.raises(sf.RequestError, match="table takes a list of runs' folders, got '/tmp"):
        table("/tmp")
    with pytest.raises(sf.RequestError, match=r"ends in \.html, \.csv"):
        table(runs).write(tmp_path / "table.txt")
    (runs[0] / "results" / "likelihood.json").write_text("{")
    (runs[1] / "results" / "samples-ode.json").write_text('{"value": "x"}')
    (runs[2] / "config.json").write_text("[]")
    found = {row.name: row for row in table(runs).rows}
    assert "bits/dim" not in found["worse"].entries
    assert any("likelihood.json cannot be read" in each for each in found["worse"].reasons)
    assert any("samples-ode.json is damaged" in each for each in found["better"].reasons)
    assert found["better"].entries["bits/dim"].value == 1.75
    assert "must hold a JSON object" in found["half"].reasons[0]


def test_files_hold_all_of_it(runs, tmp_path):
    found = sf.table(runs)
    (first, *_) = json.loads(found.write(tmp_path / "t.json").read_text())
    assert first["run"] == "better"
    assert first["bits/dim"] == {"value": 1.75, "standard_error": 0.01}
    assert first["config"] == {"sde.schedule": "cosine", "model.width": 64}
    lines = list(csv.DictReader(io.StringIO(found.write(tmp_path / "t.csv").read_text())))
    assert (lines[1]["run"], lines[1]["bits/dim"], lines[1]["bits/dim error"]) == (
        *("worse", "2.25", "0.01"),
    )
    assert lines[3]["reasons"].startswith("not done: 4 of 10 steps; no likelihood")
    page = found.write(tmp_path / "t.html").read_text()
    assert "1.7500 ± 0.0100" in page
    assert "not done: 4 of 10 steps" in page
    assert "https://" not in page


def test_from_the_command_line(runs, tmp_path, capsys):
    base = ["run.py", "--mode=table", str(runs[0])]
    assert main([*base, f"--runs={runs[1]},{runs[2]}", f"--out={tmp_path / 't.csv'}"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[1:4]] == ["better", "worse", "half"]
    assert out[-1] == f"written to {tmp_path / 't.csv'}"
    for more, says in (
        (["--sort=bts/dim"], "did you mean 'bits/dim'"),
        (["--out=t.txt"], "ends in .html, .csv, .json, got t.txt"),
        (["--config.sampling.seed=1"], "sampling.seed has no effect on --mode table"),
        (["--to=diffusers"], "--to is of --mode export"),
    ):
        assert main([*base, *more]) == 2
        assert says in capsys.readouterr().err
    assert main(["run.py", "--mode=table"]) == 2
    assert "needs runs: --mode table DIR DIR" in capsys.readouterr().err
    assert main(["run.py", "--mode=sample", "--sort=steps", f"--workdir={runs[0]}"]) == 2
    assert "--sort is of --mode table" in capsys.readouterr().err


def test_keys_that_an_old_run_lacks_have_their_default(tmp_path):
    old, new = made(tmp_path / "old"), made(tmp_path / "new", data__mode="grey")
    config = json.loads((old / "config.json").read_text())
    del config["data"]["mode"], config["data"]["levels"]
    (old / "config.json").write_text(json.dumps(config))
    found = table([old, new])
    assert found.keys == ("data.mode",)
    assert [row.config["data.mode"] for row in found.rows] == ["exact", "grey"]


@pytest.mark.parametrize("ending", ["html", "csv", "json"])
def test_a_folder_whose_name_is_no_utf_8(ending, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff"))
    text = table([made(path, 1.5)]).write(tmp_path / f"t.{ending}").read_text("utf-8")
    assert "bad\\udcff" in text


def test_where_there_is_no_run_or_nothing_can_be_written(runs, tmp_path, capsys, monkeypatch):
    assert main(["run.py", "--mode=table", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    out, err = capsys.readouterr()
    assert out.count("holds no run") == 2
    assert "none of these folders holds one" in err
    assert main(["run.py", "--mode=table", str(runs[0]), str(tmp_path / "b")]) == 0
    monkeypatch.setattr("scoreflow.cli.modes.table.table", None)  # it is not read before that
    there = ["run.py", "--mode=table", str(runs[0]), "--out=/proc/t.csv"]
    assert main(there) == 2
    assert "cannot write into /proc" in capsys.readouterr().err

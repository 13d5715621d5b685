"""--config.compress.stop as a user meets it: a file, its beginnings, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.cli.main import main
from scoreflow.cli.modes.applications import progressive
from scoreflow.data.levels import from_uint8, to_uint8
from scoreflow.data.loading import load_digits
from scoreflow.likelihood.compression import archive
from scoreflow.likelihood.compression.progressive import rates
from scoreflow.likelihood.compression.progressive.file import unpacked
from scoreflow.likelihood.compression.progressive.rates import distortion

pytest.importorskip("constriction")
ROOT = Path(__file__).parents[4]
STOP = 600
TINY = [
    f"--config.compress.stop={STOP}",
    "--config.compress.fit_images=8",
    "--config.compress.part_bits=4",
    "--device=cpu",
]


def command(mode, *flags):
    return main(["run.py", f"--mode={mode}", *map(str, flags)])


@pytest.fixture(scope="module", autouse=True)
def few_times():
    """A quarter of the times and one quality, so that measuring takes no longer than it must."""
    every = progressive.times_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progressive, "times_of", lambda *process: every(*process)[3::4])
        patch.setattr(rates, "QUALITIES", (5,))
        yield


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A run, and a file of its first five test images."""
    place = tmp_path_factory.mktemp("packed")
    run = Path(shutil.copytree(ROOT / "tests" / "fixtures" / "run-0.1", place / "run"))
    asked = [*TINY, "--config.compress.num_images=5", f"--out={place / 'a.sf'}"]
    assert command("compress", f"--workdir={run}", *asked) == 0
    return run, place / "a.sf"


def result_of(run):
    return json.loads((run / "results" / "compression-progressive.json").read_text())


def rmse_of(folder):
    shown = [np.asarray(Image.open(folder / f"{k:08d}.png")) for k in range(5)]
    levels = from_uint8(torch.from_numpy(np.stack(shown))[:, None], 17)
    return distortion(levels, load_digits(0.2, 0).test[:5], 17)


def line(capfd):
    return capfd.readouterr().err.strip().splitlines()[-1]


def test_a_file_has_the_bytes_and_the_images_that_the_result_says(packed, tmp_path, capfd):
    run, file = packed
    result = result_of(run)
    assert result["rows"][-1]["bytes"] == file.stat().st_size
    assert result["rows"][-1]["t"] == STOP
    assert result["num_images"] == 5
    out = tmp_path / "out"
    assert command("decompress", f"--in={file}", f"--out={out}") == 0
    assert f"as they are known at t = {STOP}" in capfd.readouterr().out
    assert rmse_of(out) == pytest.approx(result["rows"][-1]["rmse"], rel=1e-12)
    assert 'id="progressive-compression"' in (run / "report.html").read_text()


def test_a_beginning_is_read_up_to_a_time(packed, tmp_path, capfd):
    run, file = packed
    rows = result_of(run)["rows"]
    for row in rows[:-1]:
        out = tmp_path / f"out{row['t']}"
        asked = [f"--in={file}", f"--out={out}", f"--config.compress.stop={row['t']}"]
        assert command("decompress", *asked) == 0
        assert f"t = {row['t']}" in capfd.readouterr().out
        assert rmse_of(out) == pytest.approx(row["rmse"], rel=1e-12)


def test_images_of_a_folder_keep_their_names(packed, tmp_path, monkeypatch):
    run, file = packed
    names = ("00000001", "b", "00000000", "ü", "d e")
    (tmp_path / "mine").mkdir()
    for name, image in zip(names, to_uint8(load_digits(0.2, 0).test[:5], 17), strict=True):
        Image.fromarray(image[0].numpy()).save(tmp_path / "mine" / f"{name}.png")
    own, rows = unpacked(file.read_bytes(), "it"), result_of(run)["rows"]

    def encode(_trained, _asked, levels, _typed, names):
        assert len(levels) == 5
        return progressive.Encoded(replace(own, names=names), rows)

    monkeypatch.setattr(progressive, "encode", encode)  # whose images are those of `packed`
    named, out = tmp_path / "b.sf", tmp_path / "out"
    asked = [*TINY, f"--config.compress.data={tmp_path / 'mine'}", f"--out={named}"]
    assert command("compress", f"--workdir={run}", *asked) == 0
    assert unpacked(named.read_bytes(), "it").names == tuple(sorted(names))
    assert command("decompress", f"--in={named}", f"--out={out}") == 0
    assert {path.name for path in out.iterdir()} == {f"{name}.png" for name in names}
    assert command("decompress", f"--in={file}", f"--out={tmp_path / 'numbered'}") == 0
    for k, name in enumerate(sorted(names)):
        numbered = tmp_path / "numbered" / f"{k:08d}.png"
        assert (out / f"{name}.png").read_bytes() == numbered.read_bytes()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config.compress.stop=1000"], "from 1 to 999 for this run, got 1000"),
        (["--config.compress.stop=-1"], "compress.stop must lie in"),
        (["--config.compress.stop=500", "--config.compress.steps=9"], "compress.steps"),
        (["--config.compress.stop=500", "--config.compress.verify=false"], "compress.verify"),
        (["--config.compress.part_bits=5"], "compress.part_bits"),
        (["--config.compress.stop=500", "--config.compress.part_bits=13"], "must lie in"),
        (["--config.compress.stop=0.5"], "whole number"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_anything_is_done(flags, said, packed, tmp_path, capfd):
    run, _ = packed
    out = tmp_path / "x.sf"
    assert command("compress", f"--workdir={run}", f"--out={out}", *flags) == 2
    assert said in line(capfd)
    assert not out.exists()


def test_a_time_that_a_file_has_not_and_damage_are_refused(packed, tmp_path, capfd):
    _, file = packed
    out = tmp_path / "out"
    asked = [f"--out={out}", "--device=cpu"]
    for stop in (STOP - 1, 1001):
        flags = [f"--in={file}", f"--config.compress.stop={stop}"]
        assert command("decompress", *asked, *flags) == 2
        assert f"has the times from {STOP} to 1000, got {stop}" in line(capfd)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    other = tmp_path / "other.sf"
    other.write_bytes(content)
    assert command("decompress", *asked, f"--in={other}") == 2
    assert "damaged or cut" in line(capfd)
    other.write_bytes(file.read_bytes()[:60])
    assert command("decompress", *asked, f"--in={other}") == 2
    assert not out.exists()


def test_other_weights_and_another_shape_are_refused(packed, tmp_path, capfd):
    _, file = packed
    own = unpacked(file.read_bytes(), "it")
    other = tmp_path / "other.sf"
    for changed, said in (
        ({"weights": bytes(16)}, "with other weights than those of"),
        ({"event": (1, 4, 16)}, "images of another shape"),
        ({"run": "runs/gone"}, "which is not there: name it by --workdir"),
    ):
        other.write_bytes(replace(own, **changed).packed())
        assert command("decompress", f"--in={other}", f"--out={tmp_path / 'out'}") == 2
        assert said in line(capfd)
    assert not (tmp_path / "out").exists()


def test_a_lossless_file_has_no_beginning(tmp_path, capfd):
    file = tmp_path / "whole.sf"
    file.write_bytes(archive.MAGIC)  # what follows is not looked at
    flags = [f"--in={file}", f"--out={tmp_path / 'out'}", "--config.compress.stop=500"]
    assert command("decompress", *flags) == 2
    assert "is lossless, and no part of it is an image" in line(capfd)

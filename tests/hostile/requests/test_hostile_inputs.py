"""Data and weights that would start a program, fill the memory or never end: a line each."""

import ast
import io
import os
import pickle
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.cli.main import main
from scoreflow.data.loading import load_images
from scoreflow.data.reading import image_file
from scoreflow.data.reading.formats import decoders
from scoreflow.data.vectors import load_vectors
from scoreflow.errors import RequestError, printable, warn
from scoreflow.evaluation import fid
from scoreflow.paths import short_name, user_path

ROOT = Path(__file__).parents[3]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
ESCAPE = "\x1b[31mred\x1b]0;title\a\u202e"


class Hostile:
    """Leaves a file where Python unpickles it."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


def png(value: int = 3, size: tuple[int, int] = (8, 8)) -> bytes:
    stream = io.BytesIO()
    Image.new("L", size, value).save(stream, "PNG")
    return stream.getvalue()


def refused(path: Path) -> str:
    with pytest.raises(RequestError) as caught:
        load_images(str(path))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ---- no other program ---------------------------------------------------------------------------


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A `gs` that notes that it was started."""
    folder, noted = tmp_path / "bin", tmp_path / "started"
    folder.mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        (folder / name).write_text(f"#!/bin/sh\ntouch {noted}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return noted


def test_postscript_starts_no_program(tmp_path, ghostscript):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images, table = tmp_path / "images", tmp_path / "table"
    images.mkdir()
    table.mkdir()
    for name in ("a.png", "b.jpg", "c.tif"):
        (images / name).write_bytes(EPS)
    parquet.write_table(arrow.table({"image": [EPS, EPS]}), table / "train.parquet")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a.png", EPS)
    for path in (images, table, tmp_path / "images.zip"):
        assert "begins like no format that is read" in refused(path)
    assert not ghostscript.exists()
    assert {"EPS", "PSD", "FITS", "WMF", "PDF"}.isdisjoint(decoders())


def test_every_picture_names_its_formats_and_every_tensor_file_is_read_as_tensors():
    seen = 0
    for path in [*(ROOT / "scoreflow").rglob("*.py"), *(ROOT / "samplers").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called, named = ast.unparse(node.func), {each.arg for each in node.keywords}
            wanted = {"Image.open": "formats", "torch.load": "weights_only"}.get(called)
            wanted = "allow_pickle" if called == "np.load" else wanted
            assert wanted is None or wanted in named, f"{path}:{node.lineno}: {called}"
            value = {each.arg: ast.unparse(each.value) for each in node.keywords}
            assert value.get("weights_only", "True") == "True"
            assert value.get("allow_pickle", "False") == "False"
            assert called not in ("pickle.load", "pickle.loads", "torch.jit.load", "eval", "exec")
            seen += wanted is not None
    assert seen >= 10


# ---- code in a pickle ---------------------------------------------------------------------------


def test_a_pickle_in_the_place_of_data_or_weights_does_not_run(tmp_path, monkeypatch):
    witness = tmp_path / "witness"
    bare, saved = pickle.dumps(Hostile(witness)), io.BytesIO()
    torch.save({"x": Hostile(witness)}, saved)
    monkeypatch.setattr(fid, "_try_network", lambda *_: None)
    for k, content in enumerate((bare, saved.getvalue())):
        for name in ("x.npy", "x.npz", "x.parquet", "x.png", "x.zip"):
            folder = tmp_path / f"{k}-{name}"
            folder.mkdir()
            (folder / name).write_bytes(content)
            refused(folder / name if name[-3:] != "png" else folder)
            with pytest.raises(RequestError):
                load_vectors(str(folder / name))
        weights = tmp_path / f"{k}.pth"
        weights.write_bytes(content)
        with pytest.raises(RequestError, match="does not fit"):
            fid.scores(str(weights), 17, torch.device("cpu"))
    assert not witness.exists()


@pytest.mark.parametrize("mode", ["sample", "compare", "train"])
def test_a_pickle_in_the_place_of_a_runs_files_does_not_run(run_copy, tmp_path, capfd, mode):
    run, witness = run_copy(), tmp_path / "witness"
    stream = io.BytesIO()
    torch.save({"model": Hostile(witness), "step": 60}, stream)
    for path in [*(run / "checkpoints").glob("*.pt"), run / "classifier.pt"]:
        path.write_bytes(stream.getvalue())
    assert main(["run.py", f"--mode={mode}", "--device=cpu", f"--workdir={run}"]) in (1, 2)
    assert capfd.readouterr().err.splitlines()[-1].startswith("run.py: ")
    assert not witness.exists()


def test_inception_weights_are_read_once(tmp_path, monkeypatch):
    path, witness, given = tmp_path / "weights.pth", tmp_path / "witness", []
    torch.save({"a": torch.ones(2)}, path)

    def swapped(copy: str, _: str) -> None:
        torch.save({"a": Hostile(witness)}, path)  # between the check and the use
        given.append(torch.load(copy, weights_only=False))  # as the package does

    monkeypatch.setattr(fid, "_try_network", swapped)
    fid.scores(str(path), 17, torch.device("cpu"))
    assert torch.equal(given[0]["a"], torch.ones(2))
    assert not witness.exists()


# ---- too large, or without an end ---------------------------------------------------------------


def test_large_pictures_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(size=(5000, 5000)))
    monkeypatch.setattr(image_file, "header_of", None)  # which decodes
    said = refused(tmp_path)
    assert "5000x5000 pixels" in said
    assert "--config.data.fit=resize" in said


def test_archives_that_grow_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("scoreflow.data.sources.folders.MOST_BYTES", 10**6)
    monkeypatch.setattr("scoreflow.data.sources.arrays.total_bytes", lambda: 10**6)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10**7))
    big = np.zeros((10**4, 32, 32), np.uint8)
    np.savez_compressed(tmp_path / "x.npz", big)
    assert "more than 1000000 bytes" in refused(tmp_path / "x.zip")
    said = refused(tmp_path / "x.npz")
    assert "array arr_0 takes 10240128 bytes of memory, and there are 1000000 in all" in said
    assert "whole" not in said
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((5, 8, 8), np.uint8), more=big)
    assert len(load_images(str(tmp_path / "x.npz")).train) == 4  # the other is never read


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_pipes_and_devices_are_no_images(tmp_path):
    for name, make in (
        ("pipe", os.mkfifo),
        ("zero", lambda path: path.symlink_to("/dev/zero")),
        ("deep", lambda path: path.joinpath(*("a",) * 150).mkdir(parents=True)),
        ("lost", lambda path: path.symlink_to("nowhere")),
        ("self", lambda path: path.symlink_to(path.name)),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.png").write_bytes(png())
        make(folder / "b.png")
        assert str(folder) in refused(folder)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no sockets in folders")
def test_pipes_and_sockets_beside_images_are_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    for k in range(3):
        Path(f"{k}.png").write_bytes(png(k))
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("viewer.sock")
        found = load_images(str(tmp_path))
    assert len(found.train) + len(found.test) == 3
    assert "viewer.sock" in "".join(found.remarks)


@pytest.mark.parametrize("label", [10**12, 2**63, 10**6])
def test_a_table_with_wild_labels_or_columns(tmp_path, label):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = arrow.array([png(k) for k in range(6)])
    labels = arrow.array([label, 1, 2, 3, 1, label], arrow.uint64())
    parquet.write_table(arrow.table({"image": images, "label": labels}), tmp_path / "a.parquet")
    assert load_images(str(tmp_path)).num_classes in (0, 4)
    twice = arrow.Table.from_arrays([images, images], names=["image", "image"])
    parquet.write_table(twice, tmp_path / "a.parquet")
    assert "several columns called `image`" in refused(tmp_path)


@pytest.mark.slow
def test_damaged_tables_name_the_file(tmp_path, capfd):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path, draw = tmp_path / "train.parquet", np.random.default_rng(0)
    parquet.write_table(arrow.table({"image": [png(k) for k in range(6)]}), path)
    whole, count, refusals, whole_ones = path.read_bytes(), 400, 0, 0
    for _ in range(count):
        content = bytearray(whole)
        for _ in range(draw.integers(1, 6)):
            content[draw.integers(len(content))] = draw.integers(256)
        path.write_bytes(bytes(content))
        try:
            load_images(str(tmp_path))
        except RequestError as error:
            refusals += "train.parquet" in str(error)
        else:
            whole_ones += 1
    assert refusals + whole_ones == count
    with capfd.disabled():
        print(f"\n{count} of {count} damaged tables: {refusals} in one line, others read")


# ---- names --------------------------------------------------------------------------------------


def test_what_a_terminal_obeys_is_not_printed(tmp_path, capfd):
    folder = tmp_path / ESCAPE
    folder.mkdir()
    (folder / f"{ESCAPE}.png").write_bytes(b"no image")
    assert main(["run.py", "--mode=train", f"--data={folder}", f"--workdir={folder}/run"]) == 2
    err = capfd.readouterr().err
    assert "\\x1b[31mred" in err
    assert {each for each in err if not each.isprintable()} <= {"\n"}
    assert printable("caf\u00e9 \U0001f642\n\tx") == "caf\u00e9 \U0001f642\n\tx"
    assert printable("\x9b\x7f\r\udc80") == "\\x9b\\x7f\\r\\udc80"


def test_one_function_prints_to_standard_error(capsys):
    for path in [*(ROOT / "scoreflow").rglob("*.py"), *(ROOT / "samplers").rglob("*.py")]:
        source = path.read_text(encoding="utf-8")
        assert ("file=sys.stderr" in source) == (path.name == "errors.py"), path
        assert "import logging" not in source
    warn(f"{ESCAPE}.png")
    assert capsys.readouterr().err == "\\x1b[31mred\\x1b]0;title\\x07\\u202e.png\n"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("a\0b", "embedded null"),
        ("a" * 300, "File name too long"),
        ("~nobodyzz/x", "nobody's home is known"),
        ("a/" * 2000, "longer than|File name too long"),
    ],
)
def test_paths_that_cannot_be(path, says):
    with pytest.raises(RequestError, match=says):
        user_path(path, "data.path")


def test_a_long_name_inside_a_files_name_is_cut_with_its_hash():
    one, two = short_name("\u00e9" * 200), short_name("\u00e9" * 201)
    assert one != two
    assert max(len(os.fsencode(each)) for each in (one, two)) < 120
    assert short_name("digits") == "digits"

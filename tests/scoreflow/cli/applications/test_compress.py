"""--mode compress and decompress as a user meets them: whole files, and those that are not."""

import json
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.cli.main import main
from scoreflow.cli.modes.applications import chains, compress, decompress
from scoreflow.data.levels import to_uint8
from scoreflow.data.loading import load_digits
from scoreflow.errors import RequestError, RunError
from scoreflow.likelihood.compression import archive, coding, halfway
from scoreflow.schema.applications.compress import CompressConfig
from scoreflow.schema.request import Request
from scoreflow.trained_run import TrainedRun, open_run

pytest.importorskip("constriction")
ROOT = Path(__file__).parents[4]
TINY = ["--config.compress.steps=4", "--config.compress.fit_images=8", "--device=cpu"]


def command(mode, *flags):
    return main(["run.py", f"--mode={mode}", *map(str, flags)])


@pytest.fixture(scope="module", autouse=True)
def few_times():
    """A quarter of the times, so that measuring takes no longer than it must."""
    with pytest.MonkeyPatch.context() as patch:
        every = chains.times_of
        patch.setattr(chains, "times_of", lambda *process: every(*process)[3::4])
        yield


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A run, and a file of its first five test images, three at a time."""
    place = tmp_path_factory.mktemp("packed")
    run = Path(shutil.copytree(ROOT / "tests" / "fixtures" / "run-0.1", place / "run"))
    asked = [*TINY, "--config.compress.num_images=5", "--config.compress.batch_size=3"]
    assert command("compress", f"--workdir={run}", f"--out={place / 'a.sf'}", *asked) == 0
    return run, place / "a.sf"


@pytest.fixture
def images(packed):
    return load_digits(0.2, 0).test[:5]


def pixels(folder, names):
    shown = [np.asarray(Image.open(folder / f"{name}.png")) for name in names]
    return torch.from_numpy(np.stack(shown))[:, None]


def line(capfd):
    return capfd.readouterr().err.strip().splitlines()[-1]


def test_the_images_of_a_file_come_back_bit_for_bit(packed, images, tmp_path, capfd):
    """In their order, by the run that the file names, without --workdir."""
    _, file = packed
    assert command("decompress", f"--in={file}", f"--out={tmp_path / 'out'}") == 0
    assert "5 images, as they were encoded" in capfd.readouterr().out
    names = [f"{k:08d}" for k in range(5)]
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == names
    assert torch.equal(pixels(tmp_path / "out", names), to_uint8(images, 17))
    assert not list(tmp_path.glob("*tmp*")) + list(tmp_path.glob(".*"))


def test_the_result_says_where_each_byte_is(packed):
    run, file = packed
    result = json.loads((run / "results" / "compression.json").read_text())
    held = result["bytes"]
    assert held["file"] == file.stat().st_size
    parts = held["borrowed"] + held["header"] + held["names"] + held["images"]
    assert parts == pytest.approx(held["file"], abs=9)  # a stack ends within its last words
    assert result["value"] == pytest.approx(8 * held["file"] / 5 / 64)
    assert result["predicted_bytes"] == pytest.approx(5 * 64 * result["predicted"] / 8)
    assert result["net_minus_predicted"] == pytest.approx(
        result["net"] - result["predicted"], rel=1e-9
    )
    assert result["num_images"] == 5
    page = (run / "report.html").read_text()
    assert f"{held['file']}" in page[page.index("Compression</h2>") :]
    assert "than predicted" in page


def test_batches_weigh_as_many_images_as_they_have():
    """The error of a ratio, to first order, against that of draws of whole batches."""
    counts = torch.tensor([4, 4, 4, 2])
    sums = torch.tensor([9.0, 5.0, 7.0, 3.0])
    mean, error = compress._by_image(sums, counts)
    assert mean == pytest.approx(24 / 14)
    apart = [float(s - 24 / 14 * c) for s, c in zip(sums, counts, strict=True)]
    assert error == pytest.approx(np.std(apart, ddof=1) * 4**0.5 / 14)
    assert compress._by_image(sums[:1], counts[:1]) == (9 / 4, None)


def test_a_folder_comes_back_under_its_names(packed, tmp_path):
    run, _ = packed
    (tmp_path / "mine").mkdir()
    levels = torch.arange(3 * 64).reshape(3, 8, 8).remainder(17).to(torch.uint8)
    for name, image in zip(("00000001", "b", "00000000"), levels, strict=True):
        Image.fromarray(to_uint8(image, 17).numpy()).save(tmp_path / "mine" / f"{name}.png")
    out, file = tmp_path / "out", tmp_path / "b.sf"
    data = f"--config.compress.data={tmp_path / 'mine'}"
    assert command("compress", f"--workdir={run}", f"--out={file}", data, *TINY) == 0
    assert command("decompress", f"--in={file}", f"--out={out}", f"--workdir={run}") == 0
    assert {path.name for path in out.iterdir()} == {"00000000.png", "00000001.png", "b.png"}
    for path in (tmp_path / "mine").iterdir():
        own, found = (np.asarray(Image.open(each / path.name)) for each in (path.parent, out))
        assert np.array_equal(own, found)
    assert any((run / "results").glob("compression-data-mine*.json"))


# ---- what is refused ----------------------------------------------------------------------------


def test_a_byte_that_is_another_one_is_damage(packed):
    """Of every byte of the file."""
    _, file = packed
    whole = file.read_bytes()
    archive.of_bytes(whole, "it")
    for k in range(len(whole)):
        for flip in (1, 0x80):
            damaged = bytearray(whole)
            damaged[k] ^= flip
            with pytest.raises(ValueError, match=r"^it (is|has)"):
                archive.of_bytes(bytes(damaged), "it")


def test_a_part_of_a_file_or_more_than_one_is_damage(packed):
    whole = packed[1].read_bytes()
    for data in (*(whole[:k] for k in range(len(whole))), whole + b"\0", whole + whole):
        with pytest.raises(ValueError, match=r"^it (is|has)"):
            archive.of_bytes(data, "it")


REFUSED = {
    "empty": (b"", "is no file of --mode compress"),
    "foreign": (b"\x89PNG\r\n\x1a\n" + bytes(200), "is no file of --mode compress"),
    "newer": (b"SFBB\x02" + bytes(200), "has the format 2"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_such_file_is_one_line(packed, tmp_path, capfd, kind):
    data, said = REFUSED[kind]
    (tmp_path / "b.sf").write_bytes(data)
    assert command("decompress", f"--in={tmp_path / 'b.sf'}", f"--out={tmp_path / 'out'}") == 2
    assert said in line(capfd)
    assert not (tmp_path / "out").exists()


def altered(packed, tmp_path, monkeypatch, **fields):
    """The same file with another header, whose check sums are right."""
    header, words = archive.of_bytes(packed[1].read_bytes(), "it")
    made = archive.Header(**{**vars(header), **fields})
    (tmp_path / "b.sf").write_bytes(archive.to_bytes(made, words))
    return [f"--in={tmp_path / 'b.sf'}", f"--out={tmp_path / 'out'}"]


@pytest.mark.parametrize(
    ("fields", "said", "status"),
    [
        ({"weights": bytes(16)}, "other weights", 2),
        ({"laws": bytes(8)}, "other laws", 2),
        ({"shape": (1, 8, 9)}, "holds images (1, 8, 9) of 17 levels", 2),
        ({"num_levels": 256}, "of 256 levels", 2),
        ({"step": 1}, "has no checkpoint of step 1", 2),
        ({"run": "nowhere"}, "name it by --workdir DIR", 2),
        ({"batch": 2, "block": 64}, "do not come back as they were encoded", 1),
        ({"checks": (7,)}, "do not come back as they were encoded", 1),
        ({"bits": 3}, "do not come back as they were encoded", 1),
        ({"machine": "1.0 cpu", "bits": 4}, "it was written by 1.0 cpu, and this", 1),
    ],
)
def test_a_file_of_something_else_is_one_line(
    packed, tmp_path, monkeypatch, capfd, fields, said, status
):
    flags = altered(packed, tmp_path, monkeypatch, **fields)
    assert command("decompress", *flags) == status
    assert said in line(capfd)
    assert not (tmp_path / "out").exists()


def test_numbers_that_would_take_much_memory_are_refused(packed, tmp_path, monkeypatch, capfd):
    for fields in (
        {"count": 2**28, "block": 2**28},
        {"count": 2**31, "block": 2**31},
        {"batch": 2**15, "shape": (4, 2**10, 2**10)},
        {"shape": (1,) * 200},
        {"count": 5, "block": 2, "checks": (1,)},
    ):
        flags = altered(packed, tmp_path, monkeypatch, **fields)
        assert command("decompress", *flags) in (1, 2)
        assert not (tmp_path / "out").exists()
    header, _ = archive.of_bytes(packed[1].read_bytes(), "it")
    bomb = zlib.compress(bytes(2**27), 9)  # of names
    inside = archive._header_bytes(header, 0)
    monkeypatch.setattr(archive, "packed_names", lambda _names: bomb)
    inside = archive._header_bytes(header, 0)
    data = struct.pack(">4sBII", b"SFBB", 1, len(inside), zlib.crc32(inside)) + inside
    with pytest.raises(ValueError, match="names without an end"):
        archive.of_bytes(data, "it")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"steps": 1}, "steps 1 is not in 2..128"),
        ({"steps": 129}, "steps 129"),
        ({"bits": 0}, "bits 0"),
        ({"bits": 200}, "bits 200"),
        ({"fitted": 1}, "fitted 1"),
        ({"fitted": 2**32 - 1}, "fitted"),
        ({"seed": 2**64 - 1}, "seed"),
        ({"batch": 4097}, "batch 4097"),
        ({"threads": 0}, "threads 0"),
        ({"num_levels": 2**32 - 1}, "num_levels"),
        ({"count": 0, "checks": ()}, "count 0"),
        ({"block": 2**28}, "other check sums than blocks"),  # none would be seen before the end
        ({"shape": ()}, "no images"),
        ({"run": "a\0b"}, "no folder of a run"),
    ],
    ids=str,
)
def test_a_header_has_no_numbers_but_an_encoders(packed, fields, said):
    header, words = archive.of_bytes(packed[1].read_bytes(), "it")
    data = archive.to_bytes(archive.Header(**{**vars(header), **fields}), words)
    with pytest.raises(RequestError, match=said):
        archive.of_bytes(data, "it")


def test_a_header_takes_what_the_keys_take(packed):
    """No file of a request that is granted is refused when it is read."""
    header, words = archive.of_bytes(packed[1].read_bytes(), "it")
    keys = {"steps": "steps", "bits": "precision", "fitted": "fit_images", "batch": "batch_size"}
    for name, key in keys.items():
        declared = CompressConfig.__dataclass_fields__[key].metadata["limits"]
        assert archive._RANGES[name] == (declared.low, declared.high)
    for batch in (1, 63, 64, 65, 4096):
        block = archive.block_of(batch)
        assert block % batch == 0
        assert block >= 64
        made = archive.Header(**{**vars(header), "batch": batch, "block": block})
        assert archive.of_bytes(archive.to_bytes(made, words), "it")[0] == made


def test_a_batch_that_no_decoder_takes_is_refused_before_any_work(monkeypatch):
    levels = torch.zeros(1, dtype=torch.uint8).expand(2000, 3, 512, 512)
    with pytest.raises(RequestError, match="must be at most 341 for images"):
        compress._refuse_too_large(342, levels)
    compress._refuse_too_large(341, levels)
    compress._refuse_too_large(4096, levels[:341])  # no more are ever in flight
    header = archive.Header(
        bytes(16), bytes(8), 0, 2, 1, 256, 341, 0, 0, 4096, 2, 2, 1, 4096, (3, 512, 512), "", "",
        (), (0,),
    )  # fmt: skip
    data = archive.to_bytes(header, np.zeros(0, np.uint32))
    assert archive.of_bytes(data, "it")[0] == header


def test_a_file_that_cannot_be_read_back_is_none(packed):
    header, words = archive.of_bytes(packed[1].read_bytes(), "it")
    compress._refuse_unreadable(archive.to_bytes(header, words), header)
    made = archive.Header(**{**vars(header), "names": ("a/b",) * 5})
    with pytest.raises(RunError, match="cannot be read back"):
        compress._refuse_unreadable(archive.to_bytes(made, words), made)
    with pytest.raises(RunError, match="does not come back"):
        compress._refuse_unreadable(archive.to_bytes(header, words), replace(header, step=1))


@pytest.mark.parametrize(
    "names",
    [
        b"[" * 10**6,
        b"[[1], [2], [3], [4], [5]]",
        b"[{}, {}, {}, {}, {}]",
        b"5",
        b"null",
        b"\xff\xfe[",
        b"9" * 10**5,
        json.dumps(["\u65e5" * 80, "b", "c", "d", "e"]).encode(),  # 240 bytes
        b'["a", "b", "c", "d", "e"',
    ],
    ids=lambda names: names[:12].decode(errors="replace"),
)
def test_names_are_names_and_nothing_else(packed, monkeypatch, names):
    header, words = archive.of_bytes(packed[1].read_bytes(), "it")
    monkeypatch.setattr(archive, "packed_names", lambda _header: zlib.compress(names))
    with pytest.raises(RequestError, match=r"^it is damaged"):
        archive.of_bytes(archive.to_bytes(header, words), "it")


def test_names_lead_nowhere(packed, tmp_path, monkeypatch, capfd):
    for bad in ("../a", "/a", "a/b", "..", "", "a\0", "c:\\x", "a\nb", "x" * 300):
        names = (bad, "b", "c", "d", "e")
        flags = altered(packed, tmp_path, monkeypatch, names=names)
        assert command("decompress", *flags) == 2
        assert "is damaged" in line(capfd)
    flags = altered(packed, tmp_path, monkeypatch, names=("a",) * 5)
    assert command("decompress", *flags) == 2


@pytest.mark.parametrize(
    ("mode", "flags", "said"),
    [
        ("compress", ["--workdir=x"], "--mode compress needs --out, a new file"),
        ("compress", ["--out=x"], "--mode compress needs --workdir DIR"),
        ("compress", ["--workdir=x", "--out=x", "--to=sf"], "--to is of --mode export"),
        ("compress", ["--workdir=x", "--out=x", "--in=y"], "--in is of --mode decompress"),
        ("decompress", ["--out=x"], "--mode decompress needs --in FILE"),
        ("decompress", ["--in=x"], "--mode decompress needs --out, a new folder"),
        ("decompress", ["--in=x", "--out=y", "--from=z"], "--from is of --mode import"),
        ("sample", ["--workdir=x", "--in=y"], "--in is of --mode decompress"),
        ("compress", ["--workdir=x", "--out=y/z"], "there is no folder y: make it first"),
        ("decompress", ["--in=nothing.sf", "--out=y/z"], "there is no folder y: make it first"),
        ("decompress", ["--in=nothing.sf", "--out=y"], "there is no file nothing.sf"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(
    tmp_path, monkeypatch, capfd, mode, flags, said
):
    monkeypatch.chdir(tmp_path)
    assert command(mode, *flags) == 2
    assert said in line(capfd)


def test_what_is_there_is_left_as_it_is(packed, tmp_path, capfd):
    run, file = packed
    before = file.read_bytes()
    assert command("compress", f"--workdir={run}", f"--out={file}", *TINY) == 2
    assert "is there already" in line(capfd)
    assert file.read_bytes() == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    assert command("decompress", f"--in={file}", f"--out={tmp_path / 'out'}") == 2
    assert "is there already" in line(capfd)


def test_too_many_steps_and_no_bin_are_refused(packed, tmp_path, capfd):
    run, _ = packed
    asked = ["--config.compress.steps=128", *TINY[1:]]
    assert command("compress", f"--workdir={run}", f"--out={tmp_path / 'b.sf'}", *asked) == 2
    assert "compress.steps" in line(capfd)


def test_a_file_that_does_not_decode_is_not_written(packed, tmp_path, monkeypatch, capfd):
    run, _ = packed

    def other(grid, words, count, batch, on_call):
        yield torch.zeros(1, 1, 8, 8, dtype=torch.uint8)

    monkeypatch.setattr(compress, "decode", other)
    asked = ["--config.compress.num_images=1", *TINY]
    assert command("compress", f"--workdir={run}", f"--out={tmp_path / 'b.sf'}", *asked) == 1
    assert "does not decode" in line(capfd)
    assert not (tmp_path / "b.sf").exists()


def test_what_no_chain_codes_is_refused(packed, tmp_path):
    run = TrainedRun.__new__(TrainedRun)
    run.folder = SimpleNamespace(path="runs/toy")
    vectors = SimpleNamespace(num_levels=None)
    run.experiment, run._given = SimpleNamespace(data=vectors), None
    with pytest.raises(RequestError, match="runs/toy is of vectors"):
        chains.refuse_uncodable(run)
    images = SimpleNamespace(num_levels=17)
    run.experiment = SimpleNamespace(data=images)
    run._given = (SimpleNamespace(needs_class=True), 0)
    with pytest.raises(RequestError, match="has no row for none"):
        chains.refuse_uncodable(run)


def test_who_is_stopped_leaves_no_file(packed, tmp_path, monkeypatch, capfd):
    run, file = packed

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compress, "encode", stopped)
    assert command("compress", f"--workdir={run}", f"--out={tmp_path / 'b.sf'}", *TINY) == 130
    assert "no file was written" in line(capfd)
    monkeypatch.setattr(decompress, "decode", stopped)
    assert command("decompress", f"--in={file}", f"--out={tmp_path / 'out'}") == 130
    assert "nothing was written" in line(capfd)
    assert not list(tmp_path.iterdir())


ONE_AT_A_TIME = (*TINY, "--config.compress.num_images=5", "--config.compress.batch_size=1")


def test_who_is_stopped_goes_on_to_the_same_bytes(packed, tmp_path, monkeypatch, capfd):
    run, _ = packed
    whole, parts = tmp_path / "whole.sf", run / "results"
    flags = (f"--workdir={run}", *ONE_AT_A_TIME)
    assert command("compress", *flags, f"--out={whole}") == 0
    pushes, push = [], coding.push
    monkeypatch.setattr(halfway, "EVERY", 0)

    def counted(*args):
        if len(pushes) == 2:
            raise KeyboardInterrupt
        pushes.append(1)
        push(*args)

    monkeypatch.setattr(coding, "push", counted)
    assert command("compress", *flags, f"--out={tmp_path / 'a.sf'}") == 130
    (part,) = parts.glob("compression-*.part")
    state = part.read_bytes()
    monkeypatch.setattr(coding, "push", lambda *args: pushes.append(1) or push(*args))
    for kept, left in ((state, 3), (state.replace(b"A", b"B", 1), 5)):
        part.write_bytes(kept)  # as it was; damaged
        pushes.clear()
        out = tmp_path / f"{len(kept)}-{left}.sf"
        assert command("compress", *flags, f"--out={out}") == 0
        assert len(pushes) == left
        assert out.read_bytes() == whole.read_bytes()
        assert not part.exists()
    part.write_bytes(state)  # of another question
    pushes.clear()
    other = ("--config.compress.precision=1", f"--out={tmp_path / 'other.sf'}")
    assert command("compress", *flags, *other) == 0
    assert len(pushes) == 5
    part.unlink()


def test_other_steps_are_chosen_from_what_was_measured_once(packed, monkeypatch):
    """The same laws, to the byte, as from a measurement; of anything else it is made again."""
    run, _ = packed
    results = run / "results"
    trained = open_run(Request("compress", run, "cpu", "", {}, {}, False), lambda _: None)
    calls, fit = [], chains.fit
    monkeypatch.setattr(chains, "fit", lambda *args: calls.append(1) or fit(*args))
    asked, whole = chains.Laws(5, 0, 8), (results / "compression-laws-all.json").read_text()
    before = {path.name: path.read_text() for path in results.iterdir()}

    def digest(laws):
        (results / f"compression-laws-{laws.steps}.json").unlink(missing_ok=True)
        return chains.digest_of(chains.chain_of(trained, laws)[1])

    found = digest(asked)
    assert not calls
    kept = json.loads(whole)
    kept["kinds"]["step"]["whole"] = kept["kinds"]["step"]["unseen"]
    (results / "compression-laws-all.json").write_text(json.dumps(kept))
    assert digest(asked) == found
    assert len(calls) == 1  # as it was damaged
    assert (results / "compression-laws-all.json").read_text() == whole
    assert digest(chains.Laws(5, 0, 7)) != found
    assert digest(chains.Laws(5, 1, 7)) != found
    assert len(calls) == 3
    for name, text in before.items():
        (results / name).write_text(text)


def test_laws_that_were_damaged_are_measured_again(packed, tmp_path):
    run, file = packed
    kept = run / "results" / "compression-laws-4.json"
    laws = json.loads(kept.read_text())
    for bad in (
        {**laws, "squares": laws["of_levels"]},
        {**laws, "times": [0, *laws["times"]]},
        {**laws, "squares": "A" * 2**20},
    ):
        kept.write_text(json.dumps(bad))
        out = tmp_path / str(len([*tmp_path.iterdir()]))
        assert command("decompress", f"--in={file}", f"--out={out}") == 0
    kept.write_text(json.dumps(laws))

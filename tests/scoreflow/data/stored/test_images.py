"""Images on the disk: each way of reading them against the array that they were, and a run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scoreflow as sf
from scoreflow.data.collect import collect
from scoreflow.data.dataset import Batches, Data, digest, overlap
from scoreflow.data.levels import centres
from scoreflow.data.loading import load_images
from scoreflow.data.reading.settings import Reading
from scoreflow.data.reading.tally import Tally
from scoreflow.data.stored import sets
from scoreflow.data.stored.images import (
    RowWriter,
    StoredImages,
    allocate,
    available_memory,
    chosen,
    filled,
    mapped,
    storing,
)
from scoreflow.errors import RequestError, RunError
from scoreflow.likelihood.gaussian_reference import Reference
from scoreflow.training.batch_reader import BatchReader

RANDOM = np.random.default_rng(0)
LEVELS = RANDOM.integers(0, 256, (23, 3, 4, 5), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (23, 1, 4, 5), dtype=np.int32)
TENSOR = torch.from_numpy(LEVELS)


def stored(values, folder):
    """Values in a file, by the door that `collect` uses."""
    with storing(folder, 0):
        array = allocate(values.shape, values.dtype)
        for k in RANDOM.permutation(len(values)):  # in any order
            array[k] = values[k]
        found = filled(array)
    assert isinstance(found, StoredImages)
    return found


@pytest.fixture
def images(tmp_path):
    return stored(LEVELS, tmp_path)


KEYS = {
    "rows": torch.tensor([5, 5, 0, 22, 6, 7]),
    "neighbours": torch.arange(3, 20),
    "from the end": torch.tensor([-1, -23]),
    "none": torch.tensor([], dtype=torch.int64),
    "one": 7,
    "a slice": slice(4, 9),
    "a stride": slice(None, None, -3),
    "all": slice(None),
    "beyond": slice(20, 99),
}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_gives_what_the_tensor_gives(key, images):
    key = KEYS[key]
    expected = TENSOR.numpy()[key.numpy() if isinstance(key, torch.Tensor) else key]
    found = images[key]
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), expected)


def test_it_looks_like_the_tensor(images):
    assert (images.shape, len(images), images.ndim) == (TENSOR.shape, 23, 4)
    assert (images.dtype, images.device) == (torch.uint8, TENSOR.device)
    assert torch.equal(torch.cat(list(images.split(5))), TENSOR)
    assert [len(block) for block in images.split(10)] == [10, 10, 3]
    with pytest.raises(IndexError):
        images[23]


def test_parts_of_it_read_nothing_until_they_are_asked(images):
    rows = torch.tensor([9, 3, 3, 20])
    mask = torch.arange(23) % 2 == 1
    for part, expected in (
        (images.chosen(rows), TENSOR[rows]),
        (images[mask], TENSOR[mask]),
        (images[mask].chosen(torch.tensor([2, 0])), TENSOR[mask][[2, 0]]),
        (chosen(images, rows), TENSOR[rows]),
    ):
        assert isinstance(part, StoredImages)
        assert torch.equal(part[:], expected)
    assert torch.equal(chosen(TENSOR, rows), TENSOR[rows])


def test_maps_are_of_what_is_read(images):
    def doubled(x):
        return x.int() * 2

    def wide(x):
        return x.repeat(1, 2, 1, 1)

    found = mapped(mapped(images, doubled), wide)
    assert found.shape == (23, 6, 4, 5)
    assert found.dtype == torch.int32
    assert torch.equal(found[:], wide(doubled(TENSOR)))
    assert torch.equal(mapped(TENSOR, wide), wide(TENSOR))


def test_more_than_8_bits_take_two_bytes(tmp_path):
    found = stored(DEEP, tmp_path)
    assert found.dtype == torch.int32
    assert np.array_equal(found[:].numpy(), DEEP)
    assert (tmp_path / "0.rows").stat().st_size == 2 * DEEP.size


def test_grey_images_may_become_coloured_while_they_are_written(tmp_path):
    writer = RowWriter(tmp_path / "0.rows", (3, 1, 2, 2), np.dtype(np.uint8))
    grey = RANDOM.integers(0, 256, (2, 1, 2, 2), dtype=np.uint8)
    writer[0], writer[1] = grey
    wide = writer.repeat(3, axis=1)
    wide[2] = LEVELS[0, :, :2, :2]
    expected = np.concatenate([grey.repeat(3, axis=1), LEVELS[:1, :, :2, :2]])
    assert np.array_equal(wide.finished()[:].numpy(), expected)


def test_a_platform_without_addressed_reads_gives_the_same(images, monkeypatch):
    monkeypatch.delattr("os.preadv", raising=False)
    assert torch.equal(images[KEYS["rows"]], TENSOR[KEYS["rows"]])


def test_a_file_that_was_cut_short_is_named(images):
    images.file.path.write_bytes(images.file.path.read_bytes()[:-1])
    assert torch.equal(images[:22], TENSOR[:22])
    with pytest.raises(RunError, match=r"0\.rows was cut short: remove it"):
        images[22]


def test_only_what_is_too_large_goes_to_the_disk(tmp_path, monkeypatch):
    assert isinstance(allocate((2, 1, 2, 2), np.uint8), np.ndarray)
    with storing(tmp_path, 10):
        first, second, third = (allocate((n, 1, 1, 1), np.uint8) for n in (6, 5, 4))
    assert isinstance(first, np.ndarray)
    assert isinstance(second, RowWriter)
    assert isinstance(third, np.ndarray)
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 3))
    said = r"has 0\.0 GB free: name a folder with room by --config\.data\.cache=DIR"
    with storing(tmp_path, 0), pytest.raises(RequestError, match=said):
        allocate((4, 1, 1, 1), np.uint8)
    assert available_memory(torch.device("cpu")) > 10**6


def test_measures_of_the_data_are_those_of_the_tensor(images):
    assert digest(images) == digest(TENSOR)
    labels = torch.arange(23)
    assert digest(images, labels) == digest(TENSOR, labels)
    data = Data("x", images, images.chosen(torch.tensor([1, 1, 7])), 256, None, None)
    assert overlap(data) == 3
    assert overlap(Data("x", TENSOR[:5], TENSOR[3:9], 256, None, None)) == 2
    x = centres(TENSOR, 256).flatten(1)
    found = Reference.fit(images, 0.25, lambda block: centres(block, 256))
    torch.testing.assert_close(found.mean, x.mean(0))
    torch.testing.assert_close(
        (found.axes * (found.variances - 0.25)) @ found.axes.T, x.T.cov(correction=0)
    )
    assert data.accept(TENSOR[:2].long()).dtype == torch.uint8


@pytest.mark.parametrize("parts", [1, 3])
def test_batches_that_are_read_ahead_are_those_of_the_tensor(parts, images):
    """In whatever order the steps come, and when the order of the data changes."""
    places = torch.arange(1, 8).tensor_split(parts)  # the second process's share
    readers = [BatchReader(values, places) for values in (TENSOR, images)]
    for batches in (Batches(23, 8, 0), Batches(23, 8, 1)):
        for step in (0, 1, 2, 9, 3, 3, 4):
            for part in range(parts):
                (rows, values), (same, read) = (r.read(batches, step, part) for r in readers)
                assert torch.equal(rows, batches.indices(step)[places[part]])
                assert torch.equal(rows, same)
                assert torch.equal(values, TENSOR[rows])
                assert torch.equal(read, values)


# ---- sets that are kept -------------------------------------------------------------------------


def write_pngs(folder, count=12):
    for k in range(count):
        path = folder / f"{k % 3}" / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RANDOM.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(path)
    return folder


def kept_at(source, folder, load=None, most=0, **settings):
    load = load or (lambda: load_images(str(source), 0.25, 3))
    return sets.loaded(load, source, settings, folder, most)


def same_data(found, expected):
    for part in ("train", "test"):
        assert isinstance(getattr(found, part), StoredImages)
        assert torch.equal(getattr(found, part)[:], getattr(expected, part))
        labels, wanted = (getattr(data, f"{part}_labels") for data in (found, expected))
        assert torch.equal(labels, wanted)
    for name in ("name", "num_levels", "class_names", "test_names"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.remarks[:-1] == expected.remarks
    assert "are read from" in found.remarks[-1]


def fail():
    raise AssertionError("it was decoded again")


def test_a_set_is_decoded_once_until_it_changes(tmp_path):
    source, folder = write_pngs(tmp_path / "images"), tmp_path / "cache"
    expected = load_images(str(source), 0.25, 3)
    same_data(kept_at(source, folder), expected)
    same_data(kept_at(source, folder, fail), expected)
    assert not list(folder.glob("*.part"))
    with pytest.raises(AssertionError):  # another setting is another set
        kept_at(source, folder, fail, size=8)
    Image.new("RGB", (12, 8), "red").save(source / "0" / "00.png")
    same_data(kept_at(source, folder), load_images(str(source), 0.25, 3))
    shutil.copy(source / "0" / "00.png", source / "1" / "new.png")
    assert len(kept_at(source, folder).train) + len(kept_at(source, folder).test) == 13


def test_what_fits_into_memory_leaves_no_trace(tmp_path):
    source, folder = write_pngs(tmp_path / "images"), tmp_path / "cache"
    found = kept_at(source, folder, most=10**9)
    assert isinstance(found.train, torch.Tensor)
    assert not folder.exists()


def test_a_set_that_failed_or_was_killed_is_made_anew(tmp_path):
    source, folder = write_pngs(tmp_path / "images"), tmp_path / "cache"
    (source / "2" / "11.png").write_bytes(b"no image")
    with pytest.raises(RequestError, match=r"11\.png"):
        kept_at(source, folder)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]
    write_pngs(source)
    (place,) = {path.stem for path in kept_path(source, folder)}
    half = folder / f"{place}.part"
    half.mkdir()
    (half / "0.rows").write_bytes(b"half")
    same_data(kept_at(source, folder), load_images(str(source), 0.25, 3))


@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_a_set_whose_file_is_cut_or_removed_is_made_anew(damage, tmp_path):
    source, folder = write_pngs(tmp_path / "images"), tmp_path / "cache"
    kept_at(source, folder)
    rows = sorted(folder.rglob("*.rows"))[-1]
    if damage == "cut":
        rows.write_bytes(rows.read_bytes()[:-1])
    else:
        rows.unlink()
    same_data(kept_at(source, folder), load_images(str(source), 0.25, 3))
    same_data(kept_at(source, folder, fail), load_images(str(source), 0.25, 3))


def kept_path(source, folder):
    """The folder that a set gets."""
    kept_at(source, folder)
    places = [path for path in folder.iterdir() if path.is_dir()]
    for path in places:
        shutil.rmtree(path)
    return places


def test_a_set_that_another_process_made_meanwhile_is_taken(tmp_path, monkeypatch):
    source, folder = write_pngs(tmp_path / "images"), tmp_path / "cache"
    expected = load_images(str(source), 0.25, 3)
    opened, calls = sets._opened, []

    def late(place):
        calls.append(place)
        return None if len(calls) == 1 else opened(place)

    kept_at(source, folder)
    monkeypatch.setattr(sets, "_opened", late)
    same_data(kept_at(source, folder), expected)
    assert len(calls) == 3  # before it decodes, with the lock, and for good


def test_levels_that_were_mapped_and_parts_that_are_one_are_kept_as_they_are(tmp_path):
    source, folder = write_pngs(tmp_path / "images"), tmp_path / "cache"

    def load():
        data = load_images(str(source), whole=True)
        dark = mapped(data.train, lambda x: x // 16)
        return Data("dark", dark, dark, 17, data.train_labels, data.test_labels)

    expected = load_images(str(source), whole=True)
    for found in (kept_at(source, folder, load), kept_at(source, folder, fail)):
        assert found.one_part
        assert found.num_levels == 17
        assert torch.equal(found.train[:], expected.train // 16)


def test_rows_of_a_source_are_collected_into_a_file(tmp_path):
    source = write_pngs(tmp_path / "images")
    files = sorted(source.rglob("*.png"))
    rows = [(str(path), path, None) for path in files]
    expected = collect(rows, len(rows), "here", Tally())
    with storing(tmp_path / "store", 0):
        found = collect(rows, len(rows), "here", Tally())
    assert isinstance(found, StoredImages)
    assert torch.equal(found[:], expected)


def test_greys_behind_colours_become_coloured_in_memory_and_on_the_disk(tmp_path):
    images = [LEVELS[0].transpose(1, 2, 0), *LEVELS[1:4, 0], LEVELS[4].transpose(1, 2, 0)]
    rows = [(str(k), image, None) for k, image in enumerate(images)]
    expected = LEVELS[:5].copy()
    expected[1:4] = expected[1:4, :1]
    for order in ([0, 1, 2, 3, 4], [1, 2, 0, 3, 4]):
        here = [rows[k] for k in order]
        found = collect(here, 5, "here", Tally(Reading(mode="auto")))
        assert torch.equal(found, torch.from_numpy(expected[order]))
        with storing(tmp_path / f"store{order[0]}", 0):
            stored = collect(here, 5, "here", Tally(Reading(mode="auto")))
        assert torch.equal(stored[:], torch.from_numpy(expected[order]))


# ---- a run --------------------------------------------------------------------------------------

TINY = {
    "data": {"name": "images"},
    "sde": {"num_steps": 100},
    "model": {"channels": 8, "num_groups": 4, "blocks": 1, "multipliers": (1,), "dropout": 0.1}
    | {"attention_sizes": (), "attention_middle": False, "conditional": True},
    "training": {"num_steps": 4, "batch_size": 5, "log_every": 2, "checkpoint_every": 2}
    | {"flip": True, "micro_batches": 2},
}
SCRIPT = """
import sys
from tests.scoreflow.data.stored import test_images
test_images.train(sys.argv[1], sys.argv[2], sys.argv[3])
from scoreflow.runtime import distributed
distributed.leave()
"""


def train(source, workdir, cache="", stop=None):
    data = {**TINY["data"], "path": str(source), "cache": str(cache)}
    for interval in sf.train("cifar10", workdir, {**TINY, "data": data}, "cpu"):
        if interval.step == stop:
            return


def weights(workdir):
    state = torch.load(Path(workdir) / "checkpoints" / "00000004.pt", weights_only=True)
    return {key: state[key] for key in ("model", "ema", "optimizer")}


def same_bits(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same_bits(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_a_training_from_the_disk_is_the_one_from_memory_bit_for_bit(tmp_path, monkeypatch):
    source, cache = write_pngs(tmp_path / "images"), tmp_path / "cache"
    train(source, tmp_path / "memory")
    train(source, tmp_path / "disk", cache)
    train(source, tmp_path / "parts", cache, stop=2)
    train(source, tmp_path / "parts", cache)
    monkeypatch.setattr("scoreflow.factory.data.available_memory", lambda _: 0)
    train(source, tmp_path / "beside")
    same_bits(weights(tmp_path / "disk"), weights(tmp_path / "memory"))
    same_bits(weights(tmp_path / "parts"), weights(tmp_path / "memory"))
    same_bits(weights(tmp_path / "beside"), weights(tmp_path / "memory"))
    kinds = {"memory": torch.Tensor, "disk": StoredImages, "beside": StoredImages}
    monkeypatch.undo()
    runs = {name: sf.load(tmp_path / name, "cpu") for name in kinds}
    assert isinstance(runs["memory"].data.train, torch.Tensor)
    assert runs["disk"].data.train.file.path.is_relative_to(cache)
    assert runs["beside"].data.train.file.path.is_relative_to(tmp_path / "beside" / "cache")
    told = [json.loads((tmp_path / name / "results/training.json").read_text()) for name in kinds]
    places = [each["data"].pop("remarks")[1:] for each in told]  # behind that about classes
    assert [len(each) for each in places] == [0, 1, 1]
    assert told[0]["data"] == told[1]["data"] == told[2]["data"]
    found = [run.log_likelihood(run.data.test[:2], nodes=8) for run in runs.values()]
    assert torch.equal(found[0].values, found[1].values)


@pytest.mark.slow
def test_two_processes_read_one_store(torchrun, tmp_path):
    source, script = write_pngs(tmp_path / "images"), tmp_path / "script.py"
    script.write_text(SCRIPT)
    for name, cache in (("memory", ""), ("disk", str(tmp_path / "cache"))):
        done = torchrun(2, script, str(source), str(tmp_path / name), cache)
        assert done.returncode == 0, done.stderr
    same_bits(weights(tmp_path / "disk"), weights(tmp_path / "memory"))
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1

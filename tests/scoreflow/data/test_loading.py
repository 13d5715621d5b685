import contextlib
import io
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.data import dataset, loading, toy
from scoreflow.data.dataset import Batches
from scoreflow.data.levels import dequantize, quantize, to_uint8
from scoreflow.data.loading import load_digits, load_images, load_whole
from scoreflow.data.reading.image_file import decode
from scoreflow.errors import RequestError, RunError

SHARED = Path(os.environ.get("SCOREFLOW_DATA", Path(__file__).parents[3] / "shared" / "data"))


def whole_of(path: str) -> torch.Tensor:
    return load_whole(path).test


def pictures(count, shape=(5, 4), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def encoded(pixels, file_format="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=file_format, **options)
    return stream.getvalue()


def write_parquet(file, images, labels=None, column="image", row_group_size=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [None if image is None else {"bytes": image, "path": None} for image in images]
    columns = {column: pa.array(cells, kind)}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
    parquet.write_table(pa.table(columns), file, row_group_size=row_group_size)


def write_images(folder, images, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        (folder / (names[index] if names else f"{index:03}.png")).write_bytes(encoded(image))


def planar(images):
    """The tensor (n, C, H, W) that a loader should return for pictures (n, H, W[, 3])."""
    tensor = torch.from_numpy(images)
    return tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)


def refused(match, load, *args):
    with pytest.raises(RequestError, match=match) as refusal:
        load(*args)
    assert "\n" not in str(refusal.value)


# ---- the scale


@pytest.mark.parametrize("num_levels", [2, 3, 16, 17, 32, 100, 255, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_level_comes_back_whatever_u(num_levels, dtype):
    levels = torch.arange(num_levels)[:, None].to(torch.uint8)
    last = 1 - 8 * num_levels * torch.finfo(dtype).eps  # nearer to 1, levels + u rounds up
    u = torch.cat(
        [torch.linspace(0, 1, 1001)[:-1].double(), torch.tensor([last], dtype=torch.float64)]
    ).to(dtype)
    x = dequantize(levels, u, num_levels)
    assert x.dtype == dtype
    assert x.min() == -1
    assert x.max() < 1
    back = quantize(x, num_levels)
    assert back.dtype == torch.uint8
    assert torch.equal(back, levels.expand_as(back))


def test_edges_and_centres_are_where_they_should_be():
    levels, u = torch.tensor([0, 1, 255]), torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    expected = torch.tensor([-1.0, 2 * 1.5 / 256 - 1, 1 - 1 / 256], dtype=torch.float64)
    assert torch.equal(dequantize(levels, u, 256), expected)


def test_uniform_levels_and_u_fill_the_interval_uniformly():
    """Stratified u make the points an exact lattice: its distribution is no estimate."""
    num_levels, strata = 17, 64
    u = (torch.arange(strata, dtype=torch.float64) + 0.5) / strata
    x = dequantize(torch.arange(num_levels)[:, None], u, num_levels).flatten()
    count = num_levels * strata
    lattice = (2 * torch.arange(count, dtype=torch.float64) + 1) / count - 1
    torch.testing.assert_close(x, lattice, rtol=0, atol=1e-15)


def test_quantize_clamps_what_a_sampler_overshoots_and_refuses_nan():
    x = torch.tensor([-1.7, -1.0, 0.999, 1.0, 30.0])
    assert quantize(x, 16).tolist() == [0, 0, 15, 15, 15]
    with pytest.raises(RunError, match="2 of 3 values are not finite"):
        quantize(torch.tensor([0.0, float("nan"), float("inf")]), 16)


@pytest.mark.parametrize("num_levels", [2, 16, 17, 256])
def test_pictures_use_the_whole_range_to_the_nearest_integer(num_levels):
    levels = torch.arange(num_levels).to(torch.uint8)
    grey = to_uint8(levels, num_levels)
    exact = np.arange(num_levels) * 255 / (num_levels - 1)
    assert grey.dtype == torch.uint8
    assert (grey[0], grey[-1]) == (0, 255)
    assert np.abs(grey.numpy() - exact).max() <= 0.5
    if num_levels == 256:
        assert torch.equal(grey, levels)


# ---- digits and the split


def test_digits_are_scikit_learns_split_disjoint_complete_and_fixed():
    from sklearn.datasets import load_digits as oracle

    images, labels = oracle().images, oracle().target
    digits = load_digits(0.2, 0)
    assert (len(digits.train), len(digits.test), digits.num_levels) == (1437, 360, 17)
    assert digits.train.shape[1:] == (1, 8, 8)
    assert digits.train.dtype == torch.uint8
    order = np.random.default_rng(0).permutation(1797)
    assert (digits.test[:, 0].numpy() == images[order[:360]]).all()
    assert (digits.train[:, 0].numpy() == images[order[360:]]).all()
    assert (digits.test_labels.numpy() == labels[order[:360]]).all()
    assert (digits.train_labels.numpy() == labels[order[360:]]).all()
    # fixed for good: results on this split must stay comparable
    assert digits.test_labels[:12].tolist() == FIRST_TEST_LABELS


FIRST_TEST_LABELS = [6, 6, 6, 2, 5, 6, 6, 2, 2, 1, 1, 9]


def test_other_seeds_and_fractions_split_otherwise():
    first, again, other = load_digits(0.2, 0), load_digits(0.2, 0), load_digits(0.2, 1)
    assert torch.equal(first.test, again.test)
    assert not torch.equal(first.test, other.test)
    assert len(load_digits(0.5, 0).test) == 899


@pytest.mark.parametrize("fraction", [1.0, -0.1, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    refused(r"test_fraction must lie in \[0, 1\), got", load_digits, fraction, 0)


def test_a_fraction_of_0_makes_the_whole_set_both_parts_and_says_so():
    whole = load_digits(0)
    assert whole.one_part
    assert (len(whole.train), len(whole.train_labels), whole.num_classes) == (1797, 1797, 10)
    assert whole.class_names == tuple("0123456789")
    assert toy.load(0).one_part
    (line,) = whole.remarks
    assert "nothing is held out (data.test_fraction = 0): all 1797 data" in line


def test_a_negative_split_seed_is_refused():
    refused("split_seed must be 0 or more, got -1", load_digits, 0.2, -1)


# ---- parquet


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
@pytest.mark.parametrize("column", ["image", "img"])
def test_parquet_comes_back_exactly_over_shards_and_row_groups(tmp_path, shape, column):
    images = pictures(12, shape)
    png = [encoded(image) for image in images]
    write_parquet(tmp_path / "train-00000-of-00002.parquet", png[:5], range(5), column, 2)
    write_parquet(tmp_path / "train-00001-of-00002.parquet", png[5:9], range(5, 9), column, 3)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", png[9:], range(9, 12), column)
    loaded = load_images(str(tmp_path), labels="label")
    assert (loaded.name, loaded.num_levels) == (tmp_path.name, 256)
    assert torch.equal(loaded.train, planar(images[:9]))
    assert torch.equal(loaded.test, planar(images[9:]))
    assert loaded.train_labels.tolist() == list(range(9))
    assert loaded.test_labels.tolist() == [9, 10, 11]
    assert loaded.test_labels.dtype == torch.int64
    assert loaded.test_names[1] == "test-00000-of-00001.parquet row 1"


def test_a_validation_split_is_held_out_for_want_of_a_test_split(tmp_path):
    images = pictures(3)
    write_parquet(tmp_path / "train-0.parquet", [encoded(images[0]), encoded(images[1])])
    write_parquet(tmp_path / "validation-0.parquet", [encoded(images[2])])
    loaded = load_images(str(tmp_path))
    assert torch.equal(loaded.test, planar(images[2:]))
    assert loaded.train_labels is None
    assert loaded.test_labels is None
    assert "the split validation is held out, for want of a test split" in loaded.remarks[0]


def test_a_training_split_alone_is_cut_by_seed_as_image_files_are(tmp_path):
    images = pictures(10)
    write_parquet(tmp_path / "pq" / "train-0.parquet", [encoded(image) for image in images])
    write_images(tmp_path / "files" / "train", images)
    tables, files = (load_images(str(tmp_path / name), 0.3, 5) for name in ("pq", "files"))
    assert len(tables.test) == 3
    assert torch.equal(tables.test, files.test)
    assert torch.equal(tables.train, files.train)
    order = np.random.default_rng(5).permutation(10)
    assert torch.equal(tables.test, planar(images[order[:3]]))
    assert files.test_names == tuple(f"train/{k:03}.png" for k in order[:3])


@pytest.mark.parametrize("name", ["test-0.parquet", "test/a.png", "val/a.png"])
def test_nothing_to_train_on_is_refused_with_the_remedy(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    if name.endswith("parquet"):
        write_parquet(tmp_path / name, [grey()])
    else:
        (tmp_path / name).write_bytes(grey())
    refused(
        "has a split named (test|validation), but none to train on", load_images, str(tmp_path)
    )
    assert torch.equal(whole_of(str(tmp_path)), planar(pictures(1)))


def grey(height=5, width=4):
    return encoded(pictures(1, (height, width))[0])


@pytest.mark.parametrize(
    ("train", "match"),
    [
        (
            [grey(), grey(6, 4)],
            "one size and mode, got 5x4 grey in .* row 0 and 6x4 grey in .* row 1",
        ),
        (
            [grey(), encoded(pictures(1, (5, 4, 3))[0])],
            "5x4 grey in .* row 0 and 5x4 RGB in .* row 1",
        ),
        (
            [grey(), encoded(pictures(1, (5, 4, 4))[0])],
            r"row 1: transparent pixels \(mode RGBA\); add --config.data.background=#ffffff",
        ),
        ([grey(), grey()[:-30]], "row 1: not a whole image"),
        ([grey(), b"no image"], "row 1: not a whole image"),
        ([grey(), b""], "row 1: not a whole image"),
        ([grey(), None], "row 1 has no image"),
        ([grey(6, 4)], "train and test must share one size and mode, got 6x4 grey and 5x4 grey"),
        ([], "no images in .*train.*: it has 0 rows"),
    ],
)
def test_parquet_rows_that_cannot_be_read_exactly_are_named(tmp_path, train, match):
    write_parquet(tmp_path / "train-0.parquet", train)
    write_parquet(tmp_path / "test-0.parquet", [grey()])
    refused(match, load_images, str(tmp_path))


def test_a_damaged_parquet_file_is_named(tmp_path):
    rows = [encoded(image) for image in pictures(200, (28, 28))]
    write_parquet(tmp_path / "test-0.parquet", [grey()])
    file = tmp_path / "train-0.parquet"
    write_parquet(file, rows)
    whole = file.read_bytes()
    for cut in (whole[:-50], whole[:100], b""):
        file.write_bytes(cut)
        refused("not a whole parquet file", load_images, str(tmp_path))
    flipped = bytearray(whole)
    flipped[4:200] = bytes(196)
    file.write_bytes(flipped)
    refused("train-0.parquet.*not a whole (parquet file|image)", load_images, str(tmp_path))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused("needs pyarrow: pip install pyarrow", load_images, str(tmp_path))


# ---- folders


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_a_folder_with_train_and_test_in_order_of_names(tmp_path, shape):
    images = pictures(6, shape)
    write_images(tmp_path / "train", images[:4], ["b.png", "a.PNG", "d.png", "c.png"])
    write_images(tmp_path / "test", images[4:])
    (tmp_path / "train" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".hidden.png").write_bytes(b"not an image")
    loaded = load_images(str(tmp_path))
    assert torch.equal(loaded.train, planar(images[[1, 0, 3, 2]]))
    assert torch.equal(loaded.test, planar(images[4:]))
    assert (loaded.name, loaded.num_levels) == (tmp_path.name, 256)
    assert loaded.train_labels is None


def test_sub_folders_are_classes_the_same_in_train_and_test(tmp_path):
    images = pictures(6)
    write_images(tmp_path / "train" / "dog" / "deep", images[:2])
    write_images(tmp_path / "train" / "cat", images[2:3])
    write_images(tmp_path / "train" / "ant", images[3:4])
    write_images(tmp_path / "test" / "dog", images[4:5])
    write_images(tmp_path / "test" / "cat", images[5:])
    loaded = load_images(str(tmp_path))
    assert torch.equal(loaded.train, planar(images[[3, 2, 0, 1]]))
    assert loaded.train_labels.tolist() == [0, 1, 2, 2]
    assert torch.equal(loaded.test, planar(images[[5, 4]]))
    assert loaded.test_labels.tolist() == [1, 2]
    assert loaded.class_names == ("ant", "cat", "dog")
    assert loaded.test_names == ("test/cat/000.png", "test/dog/000.png")
    assert loaded.remarks == ("3 classes by folder: ant, cat, dog",)


def test_a_pool_is_split_by_seed_disjoint_and_complete(tmp_path):
    images = np.arange(20, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    write_images(tmp_path / "even", images[::2], [f"{k:02}.png" for k in range(0, 20, 2)])
    write_images(tmp_path / "odd", images[1::2], [f"{k:02}.png" for k in range(1, 20, 2)])
    loaded = load_images(str(tmp_path), 0.25, 7)
    train, test = loaded.train[:, 0, 0, 0], loaded.test[:, 0, 0, 0]
    assert len(test) == 5
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(20))
    assert loaded.test_labels.tolist() == [k % 2 for k in test.tolist()]
    assert torch.equal(load_images(str(tmp_path), 0.25, 7).test, loaded.test)
    assert not torch.equal(load_images(str(tmp_path), 0.25, 8).test, loaded.test)


@pytest.mark.parametrize(
    ("made", "match"),
    [
        ([], "no images in .*, which holds no files; pass a folder of image files, .*zip"),
        (["a.txt"], "no images in .*, which holds 1 files, ending in .txt"),
        (["train/a.png"], r"leaves none to train on; lower it \(0 trains on all"),
        (["a.png"], "leaves none to train on"),
        (["a.tar"], r"unpack it \(tar -xf a.tar\)"),
        (["a.npz"], r"pass the file, --config.data.path=.*a\.npz"),
        (["a.png", "b.npy"], "holds a.png, and b.npy: keep one kind"),
    ],
)
def test_folders_that_hold_no_data_set(tmp_path, made, match):
    for name in made:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(grey())
    refused(match, load_images, str(tmp_path))


def test_folder_images_that_do_not_fit_are_named(tmp_path):
    write_images(tmp_path, pictures(3))
    (tmp_path / "zz.png").write_bytes(grey(5, 9))
    refused(r"got 5x4 grey in .*000\.png and 5x9 grey in .*zz\.png", load_images, str(tmp_path))
    (tmp_path / "zz.png").write_bytes(grey()[:40])
    refused(r"zz\.png: not a whole image", load_images, str(tmp_path))
    (tmp_path / "zz.png").write_bytes(encoded(pictures(1)[0] > 99))
    refused(r"one number of levels, got 256 in .* and 2 in .*zz\.png", load_images, str(tmp_path))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_every_cut_of_an_image_file_is_refused_or_the_same_picture(file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    whole = encoded(pictures(1, (9, 7, 3))[0], file_format, **options)
    expected = decode(whole, "it")
    for cut in range(len(whole)):
        with contextlib.suppress(RequestError):
            assert (decode(whole[:cut], "it") == expected).all()  # only padding was missing
    refused("it: not a whole image", decode, whole[: len(whole) // 2], "it")


# ---- which one it is


@pytest.mark.parametrize(
    "name",
    [
        "./nothing",
        "~/no-such-thing",
        "/no/such",
        "a/b/c",
        "",
        "data/",
        "../..x",
        "my images",
        "images.zip",
        "one.png",
    ],
)
def test_what_looks_like_a_path_is_never_looked_up_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(loading, "hub_data", lambda name, _: pytest.fail(f"looked up {name}"))
    refused("no such dataset path: .*looked in .*; pass a folder", load_images, name)


@pytest.mark.parametrize("name", ["mnist", "ylecun/mnist", "some-one/data_set.v2"])
def test_other_names_go_to_the_hub(name, monkeypatch):
    asked = []

    def hub(name, labels):
        asked.append((name, labels))
        raise RequestError("stop here")

    monkeypatch.setattr(loading, "hub_data", hub)
    refused("stop here", load_images, name)
    assert asked == [(name, "auto")]


def test_a_file_that_is_no_data_set_names_what_is(tmp_path):
    file = tmp_path / "table.csv"
    file.write_bytes(b"1,2")
    refused(
        "table.csv is no set of images that is read; pass a folder .*data.name=vectors",
        load_images,
        str(file),
    )


# ---- the Hub, by a stand-in for the `datasets` package


class Rows(list):
    def __init__(self, rows, columns):
        super().__init__(rows)
        self.column_names = columns

    def cast_column(self, column, feature):
        assert (column, feature) == (self.column_names[0], ("Image", False))
        if not isinstance(self[0][column], dict):
            raise TypeError("Couldn't cast array of type int64\nto Image")
        return self


def stand_in(monkeypatch, splits):
    def load_dataset(name, split):
        assert name == "owner/name"
        if isinstance(splits, Exception):
            raise splits
        if split not in splits:
            raise ValueError(f'Unknown split "{split}". Should be one of {sorted(splits)}.')
        return splits[split]

    def split_names(_name):
        if isinstance(splits, Exception):
            raise splits
        return list(splits)

    fake = ModuleType("datasets")
    fake.load_dataset, fake.Image = load_dataset, lambda decode: ("Image", decode)
    fake.get_dataset_split_names = split_names
    monkeypatch.setitem(sys.modules, "datasets", fake)


def test_hub_images_come_back_exactly_from_bytes_or_paths(tmp_path, monkeypatch):
    images = pictures(3, (5, 4, 3))
    (tmp_path / "cached.png").write_bytes(encoded(images[1]))
    cells = [
        {"bytes": encoded(images[0]), "path": "0.png"},
        {"bytes": None, "path": str(tmp_path / "cached.png")},
        {"bytes": encoded(images[2]), "path": None},
    ]
    rows = [{"img": cell, "label": k} for k, cell in enumerate(cells)]
    columns = ["img", "label"]
    stand_in(monkeypatch, {"train": Rows(rows[:2], columns), "test": Rows(rows[2:], columns)})
    loaded = load_images("owner/name")
    assert loaded.name == "owner/name"
    assert torch.equal(loaded.train, planar(images[:2]))
    assert torch.equal(loaded.test, planar(images[2:]))
    loaded = load_images("owner/name", labels="label")
    assert (loaded.train_labels.tolist(), loaded.test_labels.tolist()) == ([0, 1], [2])
    assert loaded.test_names == ("Hub dataset 'owner/name', split 'test' row 0",)


@pytest.mark.parametrize(
    ("splits", "match"),
    [
        (ConnectionError("Couldn't reach\nthe Hub"), r"cannot be had \(Couldn't reach\): check"),
        ({"test": Rows([{"image": {"bytes": grey()}}], ["image"])}, "but none to train on"),
        ({"train": Rows([{"text": "a"}], ["text"])}, "`image` or `img`, .* got the columns text"),
        ({"train": Rows([{"image": 3}], ["image"])}, "must hold images, got Couldn't cast"),
        ({"train": Rows([{"image": None}], ["image"])}, "must hold images"),
        ({"train": Rows([{"image": {"bytes": None, "path": None}}], ["image"])}, "has no image"),
    ],
)
def test_hub_failures_are_one_clear_line(monkeypatch, splits, match):
    stand_in(monkeypatch, splits)
    refused(match, load_images, "owner/name")


def test_hub_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(
        r"no such folder or file: mnist \(looked in /.*\); .* Hub, pip install datasets",
        load_images,
        "mnist",
    )


# ---- the order of training


@pytest.mark.parametrize(
    ("num_items", "batch_size"), [(10, 5), (10, 3), (7, 16), (5, 23), (1, 4), (6, 6), (97, 10)]
)
def test_each_epoch_is_a_permutation_and_no_item_is_lost(num_items, batch_size):
    batches, epochs = Batches(num_items, batch_size, 3), 6
    steps = -(-num_items * epochs // batch_size)
    seen = torch.cat([batches.indices(step) for step in range(steps)])
    assert seen.dtype == torch.int64
    assert len(seen) == steps * batch_size
    rows = seen[: num_items * epochs].reshape(epochs, num_items)
    assert torch.equal(rows.sort().values, torch.arange(num_items).expand(epochs, -1))
    if num_items > 5:
        assert len({tuple(row.tolist()) for row in rows}) == epochs


@pytest.mark.parametrize(("num_items", "batch_size"), [(10, 3), (7, 16), (97, 10)])
def test_a_step_depends_on_nothing_before_it(num_items, batch_size):
    forward = [Batches(num_items, batch_size, 5).indices(step) for step in range(40)]
    for step in reversed(range(40)):
        dataset._epoch_order.cache_clear()
        assert torch.equal(Batches(num_items, batch_size, 5).indices(step), forward[step])


def test_batches_cut_the_same_row_whatever_their_size():
    whole = Batches(10, 60, 1).indices(0)
    for batch_size in (1, 4, 7, 10, 13):
        parts = [Batches(10, batch_size, 1).indices(step) for step in range(60 // batch_size)]
        assert torch.equal(torch.cat(parts), whole[: 60 // batch_size * batch_size])


def test_what_a_caller_does_to_a_batch_changes_no_other():
    batches = Batches(8, 8, 0)
    first = batches.indices(0).clone()
    batches.indices(0).zero_()
    assert torch.equal(batches.indices(0), first)


def test_the_order_is_philoxs_and_differs_with_the_seed():
    expected = np.random.Generator(np.random.Philox(key=[4, 1])).permutation(50)
    assert Batches(50, 50, 4).indices(1).tolist() == expected.tolist()
    assert not torch.equal(Batches(50, 50, 4).indices(1), Batches(50, 50, 5).indices(1))
    assert Batches(50, 50, 4).indices(10**9).sort().values.tolist() == list(range(50))


@pytest.mark.parametrize("wrong", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_batches_refuse_what_cannot_be(wrong):
    refused("must be at least 1 and seed at least 0, got", Batches, *wrong)


# ---- the shared data sets


def shared(name):
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing; set SCOREFLOW_DATA to the folder that holds {name}/")
    pytest.importorskip("pyarrow", reason="reading it needs pyarrow")
    return load_images(str(folder))


@pytest.mark.slow
def test_mnist_is_mnist():
    mnist = shared("mnist")
    assert mnist.train.shape == (60000, 1, 28, 28)
    assert mnist.test.shape == (10000, 1, 28, 28)
    assert mnist.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert mnist.train_labels.bincount().tolist()[:3] == [5923, 6742, 5958]
    scaled = mnist.train.double() / 255
    assert (round(scaled.mean().item(), 4), round(scaled.std().item(), 4)) == (0.1307, 0.3081)


@pytest.mark.slow
def test_cifar10_has_its_classes():
    cifar = shared("cifar10")
    assert cifar.train.shape == (50000, 3, 32, 32)
    assert cifar.test.shape == (10000, 3, 32, 32)
    assert cifar.train_labels.bincount().tolist() == [5000] * 10
    assert cifar.test_labels.bincount().tolist() == [1000] * 10
    means = cifar.train.double().mean((0, 2, 3)) / 255  # JPEG moves the known means only a little
    torch.testing.assert_close(
        means, torch.tensor([0.4914, 0.4822, 0.4465]).double(), atol=2e-3, rtol=0
    )


# ---- images that measure a network from elsewhere: nothing is held out of one pool


def whole(path, train, test):
    """Both parts of what is loaded, as images; the same object where they are one."""
    loaded = load_images(str(path), whole=True)
    assert torch.equal(loaded.train, planar(train))
    assert torch.equal(loaded.test, planar(test))
    assert loaded.one_part == (loaded.train is loaded.test)
    return loaded


def test_a_pool_of_image_files_is_measured_whole(tmp_path):
    images = pictures(10)
    write_images(tmp_path / "pool", images)
    assert whole(tmp_path / "pool", images, images).one_part
    assert len(load_images(str(tmp_path / "pool")).test) == 2
    write_images(tmp_path / "split" / "test" / "a", images[:3])
    assert whole(tmp_path / "split", images[:3], images[:3]).test_labels.tolist() == [0, 0, 0]
    write_images(tmp_path / "split" / "train" / "b", images[3:])
    assert not whole(tmp_path / "split", images[3:], images[:3]).one_part
    write_images(tmp_path / "half" / "train", images)
    assert whole(tmp_path / "half", images, images).one_part


def test_parquet_files_are_measured_whole_unless_there_is_a_test_split(tmp_path):
    images = pictures(6)
    rows = [encoded(image) for image in images]
    write_parquet(tmp_path / "train-0.parquet", rows[:2])
    assert whole(tmp_path, images[:2], images[:2]).one_part
    write_parquet(tmp_path / "validation-0.parquet", rows[2:4])
    assert whole(tmp_path, images[:4], images[:4]).one_part
    write_parquet(tmp_path / "test-0.parquet", rows[4:])
    assert not whole(tmp_path, images[:2], images[4:]).one_part
    (tmp_path / "train-0.parquet").unlink()
    assert whole(tmp_path, images[4:], images[4:]).one_part


def test_a_set_of_the_hub_is_measured_whole_unless_it_has_a_test_split(monkeypatch):
    images = pictures(4)
    rows = [{"image": {"bytes": encoded(image), "path": None}} for image in images]
    first, last = Rows(rows[:2], ["image"]), Rows(rows[2:], ["image"])
    stand_in(monkeypatch, {"train": first, "validation": last})
    assert whole("owner/name", images, images).one_part
    stand_in(monkeypatch, {"train": first, "test": last})
    assert not whole("owner/name", images[:2], images[2:]).one_part
    stand_in(monkeypatch, {"test": last})
    assert whole("owner/name", images[2:], images[2:]).one_part
    with monkeypatch.context() as patched:
        stand_in(patched, {"test": last})
        patched.delattr(sys.modules["datasets"], "get_dataset_split_names")
        refused("'owner/name' cannot be had", lambda: load_images("owner/name", whole=True))


def test_splits_of_the_hub_are_held_out_cut_or_named_as_left_out(monkeypatch):
    images = pictures(12)
    rows = [{"image": {"bytes": encoded(image), "path": None}} for image in images]
    parts = [Rows(rows[:10], ["image"]), Rows(rows[10:], ["image"])]
    stand_in(monkeypatch, {"train": parts[0]})
    order = np.random.default_rng(0).permutation(10)
    assert torch.equal(load_images("owner/name").test, planar(images[order[:2]]))
    stand_in(monkeypatch, {"train": parts[0], "validation": parts[1], "extra": parts[0]})
    loaded = load_images("owner/name")
    assert torch.equal(loaded.test, planar(images[10:]))
    assert "owner/name: its splits extra are not read" in loaded.remarks


def test_a_pool_is_everything_whatever_its_splits(tmp_path):
    images = pictures(6)
    write_images(tmp_path / "a" / "test", images[:2])
    write_images(tmp_path / "a" / "train", images[2:])
    pool = load_whole(str(tmp_path / "a"))
    assert torch.equal(pool.test, planar(images))
    assert pool.test_names[:3] == ("test/000.png", "test/001.png", "train/000.png")
    assert torch.equal(whole_of("digits").sort(0).values, load_digits(0).train.sort(0).values)
    (tmp_path / "one.png").write_bytes(encoded(images[0]))
    one = load_whole(str(tmp_path / "one.png"))
    assert (one.test_names, torch.equal(one.test, planar(images[:1]))) == (("one.png",), True)

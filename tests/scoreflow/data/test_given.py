"""Data from Python: each form against the array that it stands for, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

import scoreflow as sf
from scoreflow.configs import toy
from scoreflow.data.given import given_data, no_data
from scoreflow.errors import RequestError
from scoreflow.factory.data import given_of
from scoreflow.schema.request import flatten

RGB = np.random.default_rng(0).integers(0, 256, (10, 6, 8, 3), dtype=np.uint8)
GREY = RGB[..., 0]
LABELS = np.arange(10) % 3
CHW = torch.from_numpy(RGB.transpose(0, 3, 1, 2).copy())


class Listed(torch.utils.data.Dataset):
    """A torch data set of what a function makes of each picture and label."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return len(RGB)

    def __getitem__(self, k):
        return self.make(RGB[k], LABELS[k])


def to_tensor(picture):
    """As torchvision's ToTensor."""
    return torch.from_numpy(picture.transpose(2, 0, 1).copy()).float().div(255)


def split(data):
    """Both parts in the order in which they were given."""
    order = np.random.default_rng(0).permutation(len(RGB))
    at = np.argsort(np.concatenate([order[2:], order[:2]]))
    labels = data.train_labels
    joined = None if labels is None else torch.cat([labels, data.test_labels])[at]
    assert (len(data.train), len(data.test)) == (8, 2)
    return torch.cat([data.train, data.test])[at], joined


FORMS = {
    "channels last": RGB,
    "channels first": CHW,
    "not contiguous": CHW.permute(0, 2, 3, 1),
    "int64": CHW.long(),
    "ToTensor": CHW.float().div(255),
    "float64": RGB / 255,
    "a list of pictures": [Image.fromarray(each) for each in RGB],
    "pictures": Listed(lambda x, y: Image.fromarray(x)),
    "arrays": Listed(lambda x, y: x),
    "tensors": Listed(lambda x, y: to_tensor(x)),
    "no label": Listed(lambda x, y: (x,)),
}
LABELLED = {
    "a pair": (RGB, LABELS),
    "a pair with a list": (CHW, LABELS.tolist()),
    "names": (RGB, [("ant", "bee", "cat")[k] for k in LABELS]),
    "ids": (RGB, torch.tensor(LABELS) * 7 + 3_000_000),
    "floats": (RGB, LABELS.astype(float)),
    "a column": (RGB, LABELS[:, None]),
    "natural order": (RGB, [("a2", "a10", "a11")[k] for k in LABELS]),
    "0-d tensors": Listed(lambda x, y: (x, torch.tensor(y))),
    "pictures": Listed(lambda x, y: (Image.fromarray(x), y)),
    "tensors": Listed(lambda x, y: (to_tensor(x), int(y))),
    "as the Hub": Listed(lambda x, y: {"image": Image.fromarray(x), "label": int(y)}),
}
NAMES = {"names": ("ant", "bee", "cat"), "ids": ("3000000", "3000007", "3000014")}
NAMES["natural order"] = ("a2", "a10", "a11")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_images_is_the_same_levels(form):
    data = given_data(FORMS[form])
    values, labels = split(data)
    assert values.dtype == torch.uint8
    assert torch.equal(values, CHW)
    assert data.num_levels == 256
    assert labels is None


@pytest.mark.parametrize("form", LABELLED)
def test_every_form_of_labels_is_the_same_classes(form):
    data = given_data(LABELLED[form])
    values, labels = split(data)
    assert torch.equal(values, CHW)
    assert labels.tolist() == LABELS.tolist()
    assert data.num_classes == 3
    names = NAMES.get(form, ("0", "1", "2"))
    assert data.class_names == names
    assert data.remarks == (f"3 classes by label: {', '.join(names)}",)


def test_grey_images_need_no_axis_of_channels():
    assert torch.equal(split(given_data(GREY))[0], CHW[:, :1])
    assert torch.equal(split(given_data([Image.fromarray(each) for each in GREY]))[0], CHW[:, :1])


def test_levels_of_other_depths():
    bits = GREY > 99
    for form in (bits, [Image.fromarray(each) for each in bits]):
        data = given_data(form)
        assert data.num_levels == 2
        assert torch.equal(split(data)[0][:, 0], torch.from_numpy(bits).to(torch.uint8))
    deep = GREY.astype(np.uint16) * 257
    data = given_data(deep, num_levels=65536)
    assert data.num_levels == 65536
    assert torch.equal(split(data)[0][:, 0], torch.from_numpy(deep.astype(np.int32)))
    data = given_data([Image.fromarray(each) for each in deep], num_levels=65536)
    assert torch.equal(split(data)[0][:, 0], torch.from_numpy(deep.astype(np.int32)))
    assert given_data(GREY // 16, num_levels=17).num_levels == 17


def test_two_axes_are_vectors():
    table = np.random.default_rng(1).normal(size=(10, 4))
    data = given_data(table)
    assert data.num_levels is None
    assert torch.equal(split(data)[0], torch.from_numpy(table).float())
    assert torch.equal(split(given_data(list(table)))[0], torch.from_numpy(table).float())


def test_a_held_out_part_of_its_own():
    data = given_data((RGB[:6], LABELS[:6]), (RGB[6:], LABELS[6:] + 1))
    assert torch.equal(data.train, CHW[:6])
    assert torch.equal(data.test, CHW[6:])
    assert data.test_labels.tolist() == (LABELS[6:] + 1).tolist()
    assert data.class_names == ("0", "1", "2", "3")


@pytest.mark.parametrize("missing", [-1, None])
def test_classes_are_left_out_where_some_have_none(missing):
    data = given_data((RGB, [*LABELS[:9].tolist(), missing]))
    assert data.train_labels is data.test_labels is None
    why = "no classes: 1 of 10 images have none by label (data[9]), so all are taken without"
    assert data.remarks == (why,)


NO_CLASSES = {
    "label holds 0.5 (float), and a class is a whole number or text": (RGB, LABELS + 0.5),
    "the labels of data are 5 values a datum, and not one; "
    "one-hot labels are made class numbers by labels.argmax(1)": (
        RGB,
        np.zeros((10, 5)),
    ),
    "data has 10 data and 9 labels": (RGB, LABELS[:9]),
    "label holds {'boxes': []} (dict), and a class is a whole number or text": Listed(
        lambda x, y: (x, {"boxes": []})
    ),
    "the labels of data are a int, and not one a datum": (RGB, 3),
    "label has 10 distinct values for 10 images, too many to be classes; pass (data, labels) to "
    "take them for classes": Listed(lambda x, y: (x, int(x.astype(int).sum()))),
}


@pytest.mark.parametrize("why", NO_CLASSES)
def test_labels_that_are_no_classes_are_left_out_with_a_line(why):
    data = given_data(NO_CLASSES[why])
    assert torch.equal(split(data)[0], CHW)
    assert data.train_labels is data.test_labels is None
    assert data.remarks == (f"no classes: {why}",)


def test_a_part_without_labels_leaves_them_out():
    data = given_data((RGB[:6], LABELS[:6]), RGB[6:])
    assert data.train_labels is data.test_labels is None
    assert data.remarks == ("no classes: data_test has no labels, and data has",)


def test_mirrored_and_big_endian_arrays_are_read():
    assert torch.equal(split(given_data(RGB[:, :, ::-1]))[0], CHW.flip(3))
    other = given_data(GREY.astype(">u2"), num_levels=300)
    assert torch.equal(split(other)[0][:, 0], torch.from_numpy(GREY.astype(np.int32)))


@pytest.mark.parametrize("parts", [{"test_fraction": 0.0}, {"data_test": RGB[:2]}, {}])
def test_what_the_caller_changes_later_is_not_the_data(parts):
    mine = torch.from_numpy(RGB.transpose(0, 3, 1, 2).copy())
    data = given_data(mine, **parts)
    before = data.train.clone()
    mine.fill_(7)
    assert torch.equal(data.train, before)
    assert data.one_part == ("test_fraction" in parts)


def test_vectors_are_told_of_their_scales_as_files_are():
    table = np.random.default_rng(1).normal(size=(10, 3)) * [1, 8, 1]
    said = given_data(table).remarks
    assert [line.split(",")[0] for line in said] == [
        f"columns have standard deviations from {table.std(0).min():.3g} to "
        f"{table.std(0).max():.3g} and means up to {abs(table.mean(0)).max():.3g}",
        "vectors of 3 numbers: pictures show the first two alone",
    ]
    for bad, why in (([1, 0, 1], "constant columns"), ([1e6, 1, 1], "about unit scale")):
        with pytest.raises(RequestError, match=f"data: .*{why}"):
            given_data(table * bad)


def picture(**info):
    image = Image.fromarray(RGB[0])
    image.info.update(info)
    return image


def test_pictures_that_viewers_turn_or_see_through_are_refused():
    turned = picture()
    turned.getexif()[0x0112] = 6
    turned.info["exif"] = turned.getexif().tobytes()
    with pytest.raises(RequestError, match=r"data\[0\] has an EXIF .*exif_transpose\(image\)"):
        given_data([turned] * 4)
    seen_through = picture(transparency=tuple(map(int, RGB[0, 0, 0])))
    with pytest.raises(RequestError, match=r"data\[0\] has transparent pixels .*'RGBA'\)"):
        given_data([seen_through] * 4)
    unused = next(c for c in range(256) if not (RGB[0] == (c, 0, 0)).all(-1).any())
    assert given_data([picture(transparency=(unused, 0, 0))] * 4).num_levels == 256


NORMALISED = Listed(lambda x, y: to_tensor(x) * 2 - 1)
REFUSED = {
    "must be an array or tensor": 3,
    r"must be an array or tensor .* got dict_values": {}.values(),
    "got the shape": np.zeros((3, 2, 2, 2, 2), np.uint8),
    "must hold a datum": RGB[:0],
    r"as overrides=\{'data\.levels': 65536\} for 16 bits": GREY.astype(np.int32) + 200,
    r"normalised to \[-1, 1\]: pass the uint8 .* float32 values in -1\.\.": NORMALISED,
    r"normalised to \[-1, 1\]: pass the uint8 images": RGB / 127.5 - 1,
    r"normalised to \[-1, 1\]: .* in -1\.\.1$": np.where(GREY > 99, 1.0, -1.0),
    "got float64 values in 0.*; pass the uint8 images they were made of": RGB / 256,
    "data: floats of whole values: pass them as uint8, .* in 0..255": RGB.astype(np.float32),
    "pass the uint8 images, without normalisation": (RGB - 100.0) / 50,
    "values that are not finite": np.full((3, 4, 4), np.nan),
    "must be an array or tensor .* got dict": {"image": RGB},
    "must be an array or tensor .* got str": "digits",
    r"16 bits \(uint16\) need .* overrides=\{'data\.levels': 65536\}": GREY.astype(np.uint16),
    r"\(uint16\) need the number": [Image.fromarray(each.astype(np.uint16)) for each in GREY],
    r"data\[0\]: PIL images must have .* got CMYK": [Image.new("CMYK", (2, 2))],
    r"one shape and dtype, .* in data\[1\]": [RGB[0], RGB[0][:3]],
    r"data\[0\] must be an image or \(image, label\), got 3 items": [(RGB[0], 1, 2)],
    r"data\[0\] has no `image`, got the keys picture": [{"picture": RGB[0]}],
    "vectors must be finite in float32, got one in row 2": np.diag([1.0, 2.0, np.inf]),
    "real numbers": np.zeros((3, 2), complex),
    "must be numbers, got an array of object": np.array([[None]]),
    "leaves none to train on": RGB[:1],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_data_is_refused_in_one_line(reason):
    with pytest.raises(RequestError, match=reason) as refusal:
        given_data(REFUSED[reason])
    assert "\n" not in str(refusal.value)


def test_levels_out_of_range_and_parts_that_differ_are_refused():
    with pytest.raises(RequestError, match=r"levels in 0\.\.16, got .*\.\.255"):
        given_data(RGB, num_levels=17)
    with pytest.raises(RequestError, match=r"alike, got \(3, 6, 8\), 256 levels; and \(1, 6"):
        given_data(RGB, GREY)


def test_what_is_not_here_has_a_shape():
    images, vectors = no_data((1, 2, 3), 4096), no_data((5,), 0)
    assert images.train.shape == (0, 1, 2, 3)
    assert images.train.dtype == torch.int32
    assert vectors.num_levels is None
    assert vectors.train.dtype == torch.float32


# ---- through a run ------------------------------------------------------------------------------

TINY = {
    "sde": {"num_steps": 100},
    "model": {"channels": 8, "num_groups": 4, "blocks": 1, "multipliers": (1,), "dropout": 0.0}
    | {"attention_sizes": (), "conditional": True},
    "training": {"num_steps": 4, "batch_size": 4, "log_every": 2, "checkpoint_every": 2},
    "sampling": {"tolerance": 0.1},
    "likelihood": {"tolerance": 0.1, "checked": 0},
}


def test_a_run_goes_on_and_draws_and_measures(tmp_path):
    """Stopped and resumed it is the run in one piece; without the data it draws the same."""
    data = (np.concatenate([RGB, RGB[..., :1]], -1), LABELS)  # four channels, not square

    def train(folder, stop=None):
        for interval in sf.train("digits", folder, TINY, "cpu", data=data):
            if interval.step == stop:
                return

    train(tmp_path / "whole")
    train(tmp_path / "parts", stop=2)
    train(tmp_path / "parts")
    runs = [sf.load(tmp_path / name, "cpu") for name in ("whole", "parts")]
    assert runs[0].fingerprint == runs[1].fingerprint
    with_data = sf.load(tmp_path / "whole", "cpu", data=data)
    drawn = [run.sample(2, steps=3, label=2) for run in (*runs, with_data)]
    assert drawn[0].shape == (2, 4, 6, 8)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    found = with_data.log_likelihood(with_data.data.test, probes=1)
    assert torch.equal(found.values, runs[0].log_likelihood(with_data.data.test, probes=1).values)
    assert runs[0].config.data.name == "given"
    with pytest.raises(RequestError, match=r"given from Python: pass them again.*\.train"):
        next(sf.train(runs[0].config, tmp_path / "whole", device="cpu"))
    with pytest.raises(RequestError, match=r"another config: model\.shape"):
        next(sf.train("digits", tmp_path / "whole", TINY, "cpu", data=(RGB, LABELS)))
    other = r"data from Python are not those .*: pass|; pass the same data again, .*training\.init"
    with pytest.raises(RequestError, match=other) as refused:
        next(sf.train("digits", tmp_path / "whole", TINY, "cpu", data=(255 - data[0], LABELS)))
    assert "data.path" not in str(refused.value)


def test_how_files_are_read_says_nothing_of_data_from_python(tmp_path):
    why = r"data\.mode has no effect on data from Python .*: convert them first"
    with pytest.raises(RequestError, match=why):
        next(sf.train("digits", tmp_path, {"data.mode": "grey"}, "cpu", data=GREY))


def test_the_config_s_own_levels_and_split_are_heeded():
    flat = flatten(toy.get_config().to_dict())
    flat |= {"data.test_fraction": 0.5, "data.levels": 300, "data.split_seed": 3}
    data = given_of(flat, GREY)
    order = np.random.default_rng(3).permutation(10)
    assert torch.equal(data.test[:, 0], torch.from_numpy(GREY[order[:5]].astype(np.int32)))
    assert data.num_levels == 300

"""Images in numpy's files."""

import numpy as np
import pytest
import torch

from scoreflow.data.levels import to_uint8
from scoreflow.data.loading import load_images


def saved(made, name, **arrays):
    """A .npy of one array or a .npz of several, as its path."""
    path = made.root / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, *arrays.values())
    else:
        np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize("shape", [(5, 6, 3), (5, 6)])
def test_a_npy_is_one_pool_with_rows_as_names(made, shape):
    pictures = made.pictures(10, shape)
    data = load_images(saved(made, "x.npy", x=pictures), 0.2, 1)
    order = np.random.default_rng(1).permutation(10)
    assert made.holds(data, pictures[order[2:]], pictures[order[:2]])
    assert data.test_names == tuple(f"x.npy row {k}" for k in order[:2])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint32, ">i2"])
def test_integers_of_any_type_and_channels_first_are_the_same_pictures(made, dtype):
    pictures = made.pictures(4, (6, 5, 3))
    for axes in ((0, 1, 2, 3), (0, 3, 1, 2)):
        path = saved(made, "x.npy", x=pictures.transpose(axes).astype(dtype))
        assert made.holds(load_images(path, whole=True), pictures, pictures)


def test_truth_values_are_black_and_white(made):
    pictures = made.pictures(4, (5, 6)) > 99
    data = load_images(saved(made, "x.npy", x=pictures), whole=True)
    brightness = to_uint8(data.train, data.num_levels)
    assert torch.equal(brightness, made.planar(255 * pictures.astype(np.uint8)))


@pytest.mark.parametrize("names", [("arr_0", "arr_1"), ("images", "labels"), ("x", "y")])
def test_a_npz_has_images_and_labels_under_their_usual_names(made, names):
    pictures, labels = made.pictures(4), np.array([7, 2, 7, 2])
    arrays = dict(zip(names, (pictures, labels), strict=True))
    path = saved(made, "d.npz", **arrays)
    data = load_images(path, whole=True)
    assert made.holds(data, pictures, pictures)
    assert data.train_labels.tolist() == [1, 0, 1, 0]
    assert data.class_names == ("2", "7")
    assert load_images(path, labels="none", whole=True).train_labels is None


@pytest.mark.parametrize(
    ("names", "held_out"),
    [
        (("x_train", "y_train", "x_test", "y_test"), "test"),
        (("train_images", "train_labels", "test_images", "test_labels"), "test"),
        (("train_images", "train_labels", "val_images", "val_labels"), "validation"),
        (("images", "labels", "images_test", "labels_test"), "test"),
    ],
)
def test_a_npz_may_hold_splits(made, names, held_out):
    pictures = made.pictures(6)
    values = (pictures[:4], np.array([[0], [1], [1], [0]]), pictures[4:], np.array([1, 0]))
    data = load_images(saved(made, "d.npz", **dict(zip(names, values, strict=True))))
    assert made.holds(data, pictures[:4], pictures[4:])
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 1, 1, 0], [1, 0])
    assert any(f"split {held_out}" in line for line in data.remarks) == (held_out != "test")


def test_other_arrays_of_a_npz_are_named_and_one_can_be_the_labels(made):
    pictures = made.pictures(4)
    path = saved(made, "d.npz", images=pictures, fine=np.arange(4), mean=np.zeros(3))
    assert load_images(path, whole=True).remarks == ("d.npz: its arrays fine, mean are not read",)
    data = load_images(path, labels="fine", whole=True)
    assert data.train_labels.tolist() == [0, 1, 2, 3]
    made.refused("labels = coarse is no array of .*fine", load_images, path, labels="coarse")


def test_a_folder_of_npy_has_an_image_in_each_and_classes_by_folder(made):
    pictures = made.pictures(4, (6, 5, 3))
    for k, name in enumerate(("b/0", "b/1", "a/2", "a/3")):
        picture = pictures[k] if k % 2 else pictures[k].transpose(2, 0, 1)
        saved(made, f"{name}.npy", x=picture)
    data = load_images(str(made.root), whole=True)
    order = [2, 3, 0, 1]
    assert made.holds(data, pictures[order], pictures[order])
    assert data.train_labels.tolist() == [0, 0, 1, 1]
    saved(made, "a/4.npy", x=pictures)
    made.refused(r"4.npy: .*each is one image.*data.path=.*4.npy", load_images, str(made.root))


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((4, 3)), r"got the shape \(4, 3\); rows of numbers .*data.name=vectors"),
        (np.zeros((2, 5, 6, 7), np.uint8), "with C up to 4, got the shape"),
        (np.zeros((2, 5, 6)), r"row 0: images must be integers 0..255, got float64.*255 \* x"),
        (
            np.arange(60.0).reshape(2, 5, 6) // 30 * 200,
            "floats of whole values: pass them as uint8",
        ),
        (np.linspace(-1, 1, 60).reshape(2, 5, 6), r"normalised to \[-1, 1\]: pass the uint8"),
        (np.full((2, 5, 6), 300), "row 0: images must be integers 0..255, got 300..300"),
        (np.full((2, 5, 6), -1), "got -1..-1"),
        (np.zeros((0, 5, 6), np.uint8), "it has 0 rows"),
        (np.array([None, 1], object), "not a whole .npy file"),
    ],
)
def test_arrays_that_are_no_images_are_refused(made, array, match):
    made.refused(match, load_images, saved(made, "x.npy", x=array))


def test_files_that_are_no_arrays_are_refused(made):
    path = made.root / "x.npz"
    path.write_bytes(b"PK no")
    made.refused("not a whole .npz file", load_images, str(path))
    with path.open("wb") as file:
        np.save(file, made.pictures(2))
    made.refused("not a whole .npz file .it is a .npy", load_images, str(path))
    path = saved(made, "y.npz", z=np.zeros(3))
    made.refused("must be an array called arr_0, images or x, got z", load_images, path)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (np.zeros(2), "array `y` of shape (2,) is not one label for each of 3"),
        (np.zeros((3, 5)), "array `y` of shape (3, 5) is not one label for each of 3"),
        (np.array(["a", None, {}], object), "array `y` cannot be read (Object arrays"),
    ],
)
def test_labels_of_an_npz_that_are_none_are_left_out_with_a_line(made, labels, why):
    images = made.pictures(3)
    data = load_images(saved(made, "z.npz", x=images, y=labels), whole=True)
    assert torch.equal(data.test, torch.from_numpy(images.transpose(0, 3, 1, 2)))
    assert data.train_labels is None
    (line,) = data.remarks
    assert line.startswith(f"no classes: {why}")
    path = saved(made, "z.npz", x=images, other=np.array([{}], object), y=[0, 0, 0])
    assert load_images(path, whole=True).test_labels.tolist() == [0, 0, 0]
    assert load_images(path, whole=True, labels="none").test_labels is None

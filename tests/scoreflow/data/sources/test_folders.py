"""Folders of image files and zip archives of them."""

import io
import json
import os
import zipfile

import numpy as np
import pytest

from scoreflow.data.loading import load_images


def zipped(made, pictures, names, told=None, **more):
    """A zip of PNG files, as its path."""
    path = made.root / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, picture in zip(names, pictures, strict=True):
            archive.writestr(name, made.png(picture))
        if told is not None:
            archive.writestr("dataset.json", json.dumps(told))
        for name, content in more.items():
            archive.writestr(name.replace("__", "."), content)
    return str(path)


# ---- folders


@pytest.mark.parametrize("names", [("Training", "Testing"), ("Train", "Test"), ("TRAIN", "val")])
def test_splits_in_any_case_are_never_classes(made, names):
    pictures = made.pictures(6)
    made.files(f"d/{names[0]}/glioma", pictures[:2])
    made.files(f"d/{names[0]}/none", pictures[2:4])
    made.files(f"d/{names[1]}/glioma", pictures[4:5])
    path = made.files(f"d/{names[1]}/none", pictures[5:])
    data = load_images(path)
    assert made.holds(data, pictures[:4], pictures[4:])
    assert data.class_names == ("glioma", "none")
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 0, 1, 1], [0, 1])
    assert data.remarks[0].startswith(f"splits by folder: {min(names)}/ is ")


def test_shard_folders_are_one_pool_unless_the_user_says_that_they_are_classes(made):
    pictures = made.pictures(6)
    made.files("d/00000", pictures[:3])
    path = made.files("d/01000", pictures[3:])
    data = load_images(path)
    assert data.train_labels is None
    assert data.remarks == (
        "no classes: 00000/, 01000/ are taken for shards of one pool "
        "(--config.data.labels=folders makes them classes)",
    )
    data = load_images(path, labels="folders")
    assert data.class_names == ("00000", "01000")
    assert load_images(path, labels="none").remarks == ()


def test_digits_as_names_of_classes_count_by_value(made):
    for name in range(12):
        grey = np.full((3, 4, 4), 20 * name, np.uint8)
        path = made.files(f"d/{name}", grey)
    data = load_images(path)
    assert data.class_names == tuple(str(k) for k in range(12))
    for images, labels in ((data.train, data.train_labels), (data.test, data.test_labels)):
        assert (images[:, 0, 0, 0] == 20 * labels).all()
    assert data.remarks[-1] == "12 classes by folder: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"


def test_links_are_followed_but_not_around_in_circles(made):
    pictures = made.pictures(4)
    made.files("elsewhere/cat", pictures[:2])
    made.files("elsewhere/dog", pictures[2:])
    (made.root / "d").mkdir()
    for name in ("cat", "dog"):
        os.symlink(made.root / "elsewhere" / name, made.root / "d" / name)
    os.symlink(made.root / "d", made.root / "elsewhere/cat/back")
    os.symlink(made.root, made.root / "elsewhere/dog/up")
    os.symlink(made.root / "d/self", made.root / "d/self")
    data = load_images(str(made.root / "d"), whole=True)
    assert made.holds(data, pictures, pictures)
    assert data.class_names == ("cat", "dog")


def test_a_link_to_an_image_that_is_gone_is_refused_by_name(made):
    path = made.files("d", made.pictures(5))
    os.symlink(made.root / "elsewhere.png", made.root / "d/gone.png")
    made.refused("d/gone.png: not a whole image .*No such file", load_images, path)


def test_files_beside_folders_leave_all_without_a_class_and_are_named(made):
    pictures = made.pictures(10)
    made.files("d", pictures[:5])
    data = load_images(made.files("d/more", pictures[5:]), whole=True)
    assert made.holds(data, pictures, pictures)
    assert data.train_labels is None
    assert data.remarks == (
        "no classes: 5 of 10 images have none by folder (000.png), so all are taken without",
    )


def test_a_class_in_one_split_alone_is_numbered_over_both(made):
    pictures = made.pictures(6)
    for k, name in enumerate(("train/a", "train/b", "test/a", "test/z")):
        path = made.files(f"d/{name}", pictures[k : k + 1])
    data = load_images(path, labels="folders")
    assert data.class_names == ("a", "b", "z")
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 1], [0, 2])


def test_junk_is_passed_over_and_everything_else_is_counted_and_named(made):
    pictures = made.pictures(5)
    made.files("d", pictures)
    made.files("d/__MACOSX", made.pictures(1, (9, 9, 3)))
    made.files("d/.ipynb_checkpoints", made.pictures(1, (9, 9, 3)))
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (made.root / "d" / name).write_bytes(b"x")
    path = str(made.root / "d")
    assert load_images(path).remarks == ()
    for name in ("a.psd", "b.txt", "c", "sub/d.csv", "sub/e.csv"):
        (made.root / "d" / name).parent.mkdir(exist_ok=True)
        (made.root / "d" / name).write_bytes(b"x")
    assert load_images(path).remarks == (
        "d: left out 5 files that are no images of it: a.psd, b.txt, c, sub/d.csv and 1 more",
    )


def test_names_that_are_no_text_are_said_as_they_can_be_printed(made):
    pictures = made.pictures(6)
    made.files(b"caf\xe9".decode("utf-8", "surrogateescape"), pictures[:3])
    path = str(made.root)
    made.files("two\nlines", pictures[3:])
    data = load_images(path)
    assert data.class_names == ("caf?", "two?lines")
    assert all(name.isprintable() for name in (*data.test_names, *data.remarks))
    assert sorted(data.train_labels.tolist() + data.test_labels.tolist()) == [0, 0, 0, 1, 1, 1]


def test_a_folder_of_image_files_has_no_columns(made):
    path = made.files("d", made.pictures(5))
    made.refused("label names a column.*auto, none or folders", load_images, path, labels="label")


def test_classes_of_a_dataset_json_beside_the_files(made):
    pictures = made.pictures(4)
    path = made.files("d/00000", pictures)
    told = {"labels": [[f"00000/{k:03}.png", 7 - k % 2] for k in range(4)]}
    (made.root / "d/dataset.json").write_text(json.dumps(told))
    data = load_images(path, whole=True)
    assert data.train_labels.tolist() == [1, 0, 1, 0]
    assert data.class_names == ("6", "7")
    assert data.remarks == ("2 classes by dataset.json: 6, 7",)


def test_a_dataset_json_may_lie_in_a_folder_around_everything(made):
    pictures = made.pictures(4)
    made.files("d/x/a", pictures)
    told = {"labels": [[f"a/{k:03}.png", k % 2] for k in range(4)]}
    (made.root / "d/x/dataset.json").write_text(json.dumps(told))
    data = load_images(str(made.root / "d"), whole=True)
    assert (data.train_labels.tolist(), len(data.remarks)) == ([0, 1, 0, 1], 1)


# ---- zip archives


def test_a_zip_with_a_dataset_json_is_read_as_edms_tool_writes_it(made):
    pictures = made.pictures(10)
    names = [f"00000/img{k:08}.png" for k in range(10)]
    path = zipped(
        made, pictures, names, {"labels": [[name, k % 2] for k, name in enumerate(names)]}
    )
    data = load_images(path, 0.2, 4)
    order = np.random.default_rng(4).permutation(10)
    assert made.holds(data, pictures[order[2:]], pictures[order[:2]])
    assert data.train_labels.tolist() == (order[2:] % 2).tolist()
    assert data.test_names == tuple(names[k] for k in order[:2])
    assert (data.name, data.remarks) == ("set.zip", ("2 classes by dataset.json: 0, 1",))


def test_a_zip_without_one_is_read_as_a_folder_would_be(made):
    pictures = made.pictures(4)
    names = ["x/train/dog/0.png", "x/train/cat/1.png", "x/test/cat/2.png", "__MACOSX/x/._0.png"]
    data = load_images(zipped(made, pictures, names, x__txt="text"), labels="folders")
    assert made.holds(data, pictures[[1, 0]], pictures[2:3])
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 1], [0])
    assert "set.zip: left out 1 file that is no image of it: x.txt" in data.remarks


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[0, 1, 0], [1, 0, 0]] * 2, [1, 0, 1, 0]),
        ([[0.0, 1.0], [1.0, 0.0]] * 2, [1, 0, 1, 0]),
        ([[0.2, 0.8], [1.0, 0.0]] * 2, None),
        (None, None),
    ],
)
def test_vectors_in_a_dataset_json_are_classes_if_they_are_one_hot(made, labels, expected):
    names = [f"{k}.png" for k in range(4)]
    told = {"labels": labels and [list(pair) for pair in zip(names, labels, strict=True)]}
    data = load_images(zipped(made, made.pictures(4), names, told), whole=True)
    assert (None if data.train_labels is None else data.train_labels.tolist()) == expected
    assert len(data.remarks) == (labels is not None)


def test_zips_that_cannot_be_read_are_refused(made):
    path = str(made.root / "set.zip")
    made.refused(
        "no images in .*this one has a.txt", load_images, zipped(made, [], [], a__txt="b")
    )
    whole = (made.root / "set.zip").read_bytes()
    (made.root / "set.zip").write_bytes(whole[: len(whole) // 2])
    made.refused("not a whole zip archive", load_images, path)
    stream = io.BytesIO(made.png(made.pictures(1)[0])[:30])
    with zipfile.ZipFile(made.root / "set.zip", "w") as archive:
        archive.writestr("cut.png", stream.getvalue())
    made.refused("set.zip/cut.png: not a whole image", load_images, path)


def test_a_zip_in_a_folder_is_named(made):
    zipped(made, made.pictures(1), ["a.png"])
    made.refused("holds set.zip: pass the file, --config.data.path=", load_images, str(made.root))


@pytest.mark.parametrize("told", [[1, 2], {"labels": 3}, {"labels": ["a.png"]}])
def test_a_dataset_json_of_another_kind_is_left_out_with_a_line(made, told):
    path = zipped(made, made.pictures(4), ["a/0.png", "a/1.png", "b/0.png", "b/1.png"], told)
    data = load_images(path, whole=True)
    assert data.test_labels.tolist() == [0, 0, 1, 1]
    assert data.remarks == (
        'dataset.json is not read for classes, as it does not hold {"labels": [[file, class], '
        "...]}, as EDM's dataset tool writes it",
        "2 classes by folder: a, b",
    )
    assert load_images(path, whole=True, labels="none").remarks == ()

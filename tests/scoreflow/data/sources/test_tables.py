"""Parquet and Arrow files: clones of Hub repositories, save_to_disk, columns of every kind."""

import json

import numpy as np
import pytest

from scoreflow.data.loading import load_images

pa = pytest.importorskip("pyarrow")
types = pytest.importorskip("pyarrow.types")


# ---- where the files are


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("d/train-00000-of-00001.parquet", "d/test-00000-of-00001.parquet"),
        ("d/data/train-00000-of-00001.parquet", "d/data/test-00000-of-00001.parquet"),
        ("d/mnist/train-00000-of-00001.parquet", "d/mnist/test-00000-of-00001.parquet"),
        ("d/default/train/0000.parquet", "d/default/test/0000.parquet"),
        ("d/default/partial-train/0000.parquet", "d/default/partial-test/0000.parquet"),
        ("d/train.parquet", "d/test.parquet"),
        ("d/train/0.parquet", "d/test/0.parquet"),
        ("d/Train/0.parquet", "d/TEST/0.parquet"),
        ("d/train.parquet", "d/validation.parquet"),
        ("d/train/data-00000-of-00001.arrow", "d/test/data-00000-of-00001.arrow"),
    ],
)
def test_splits_are_known_by_names_of_files_or_folders(made, train, test):
    pictures = made.pictures(6)
    made.table(train, pictures[:4], label=[0, 1, 0, 1])
    path = made.table(test, pictures[4:], label=[1, 0])
    data = load_images(path)
    assert made.holds(data, pictures[:4], pictures[4:])
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 1, 0, 1], [1, 0])
    assert data.test_names[1] == f"{test.removeprefix('d/')} row 1"


def test_shards_follow_one_another_empty_ones_too(made):
    pictures = made.pictures(5)
    for k, (start, stop) in enumerate(((0, 2), (2, 2), (2, 4))):
        made.table(f"d/part-{k}/train-0.parquet", pictures[start:stop], label=[k] * (stop - start))
    path = made.table("d/part-0/test-0.parquet", pictures[4:], label=[0])
    data = load_images(path)
    assert made.holds(data, pictures[:4], pictures[4:])
    assert data.train_labels.tolist() == [0, 0, 1, 1]
    assert data.class_names == ("0", "2")


def test_files_of_no_split_are_one_pool(made):
    pictures = made.pictures(10)
    made.table("d/0000.parquet", pictures[:6])
    data = load_images(made.table("d/0001.parquet", pictures[6:]), 0.2, 3)
    order = np.random.default_rng(3).permutation(10)
    assert made.holds(data, pictures[order[2:]], pictures[order[:2]])


def test_train_validation_and_test_leave_the_validation_split_unread_and_say_so(made):
    pictures = made.pictures(6)
    for k, split in enumerate(("train", "validation", "test")):
        path = made.table(f"d/{split}-0.parquet", pictures[2 * k : 2 * k + 2])
    data = load_images(path)
    assert made.holds(data, pictures[:2], pictures[4:])
    assert data.remarks == ("d: its split validation (2 images) is not read",)


def test_a_single_file_is_one_pool_whatever_its_name(made):
    pictures = made.pictures(5)
    path = made.table("d/test.parquet", pictures, label=[0, 0, 0, 1, 1])
    data = load_images(f"{path}/test.parquet", 0.2, 1)
    order = np.random.default_rng(1).permutation(5)
    assert made.holds(data, pictures[order[1:]], pictures[order[:1]])
    assert (data.name, data.test_names) == ("test.parquet", (f"test.parquet row {order[0]}",))


def test_both_kinds_of_tables_may_hold_the_same_images_and_are_refused(made):
    made.table("d/train.parquet", made.pictures(2))
    path = made.table("d/train.arrow", made.pictures(2))
    made.refused("holds train.parquet, and train.arrow: keep one kind", load_images, path)


def test_several_data_sets_in_one_clone_are_named_unless_one_is_the_default(made):
    pictures = made.pictures(6)
    for name in ("fine", "coarse"):
        made.table(f"d/{name}/train-0.parquet", pictures[:2])
        path = made.table(f"d/{name}/test-0.parquet", pictures[2:4])
    made.refused("holds 2 data sets: coarse, fine; .*data.path=.*/d/coarse", load_images, path)
    assert made.holds(load_images(f"{path}/fine"), pictures[:2], pictures[2:4])
    made.table("d/default/train-0.parquet", pictures[4:5])
    made.table("d/default/test-0.parquet", pictures[5:])
    data = load_images(path)
    assert made.holds(data, pictures[4:5], pictures[5:])
    assert "left out 4 files" in data.remarks[0]


def test_other_files_of_a_clone_are_left_out_by_name(made):
    pictures = made.pictures(3)
    made.table("d/data/train-0.parquet", pictures[:2])
    path = made.table("d/data/test-0.parquet", pictures[2:])
    for name in ("README.md", ".gitattributes", "data/more.parquet.txt"):
        (made.root / "d" / name).write_text("text")
    (line,) = load_images(path).remarks
    assert line == "d: left out 2 files that are no images of it: README.md, data/more.parquet.txt"


def test_a_pointer_of_git_lfs_is_called_so(made):
    path = made.table("d/test-0.parquet", made.pictures(1))
    (made.root / "d/train-0.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    made.refused("train-0.parquet is a pointer of Git LFS.*git lfs pull", load_images, path)
    (made.root / "p").mkdir()
    (made.root / "p/a.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    made.refused("a.png is a pointer of Git LFS", load_images, str(made.root / "p"))


def test_what_save_to_disk_writes_is_read_in_both_formats_of_arrow(made):
    pictures = made.pictures(4)
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    for split, part, labels in (("train", pictures[:3], [0, 1, 1]), ("test", pictures[3:], [0])):
        path = made.table(f"d/{split}/data-00000-of-00001.arrow", part, label=labels)
        (made.root / "d" / split / "state.json").write_text("{}")
        told = json.dumps({"features": features})
        (made.root / "d" / split / "dataset_info.json").write_text(told)
    (made.root / "d/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    data = load_images(path)
    assert made.holds(data, pictures[:3], pictures[3:])
    assert data.train_labels.tolist() == [0, 1, 1]
    assert data.class_names == ("cat", "dog")
    assert data.remarks == ("2 classes by column `label`: cat, dog",)
    file = made.root / "d/train/data-00000-of-00001.arrow"
    table = pa.ipc.open_stream(file.read_bytes()).read_all()
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)
    assert made.holds(load_images(path), pictures[:3], pictures[3:])
    file.write_bytes(b"ARROW1 no")
    made.refused("not a whole arrow file", load_images, path)


# ---- the column of images


def kinds(made, pictures):
    """Every type of a column that holds these pictures, and its cells."""
    files = [made.png(picture) for picture in pictures]
    binary, text = pa.binary(), pa.string()
    three = pa.list_(pa.list_(pa.list_(pa.uint8())))
    return {
        "bytes first": (
            pa.struct([("bytes", binary), ("path", text)]),
            [{"bytes": f} for f in files],
        ),
        "path first": (
            pa.struct([("path", text), ("bytes", binary)]),
            [{"bytes": f} for f in files],
        ),
        "bytes alone": (pa.struct([("bytes", binary)]), [{"bytes": f} for f in files]),
        "more fields": (
            pa.struct([("w", pa.int32()), ("bytes", binary), ("path", text)]),
            [{"bytes": f, "w": 4} for f in files],
        ),
        "polars": (
            pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())]),
            [{"bytes": f} for f in files],
        ),
        "binary": (binary, files),
        "large binary": (pa.large_binary(), files),
        "list of bytes": (pa.list_(pa.uint8()), [list(f) for f in files]),
        "large list": (pa.large_list(pa.uint8()), [list(f) for f in files]),
        "levels": (three, [picture.tolist() for picture in pictures]),
        "levels as int64": (
            pa.list_(pa.list_(pa.list_(pa.int64()))),
            [picture.tolist() for picture in pictures],
        ),
        "levels, channels first": (three, [p.transpose(2, 0, 1).tolist() for p in pictures]),
    }


KINDS = (
    "bytes first,path first,bytes alone,more fields,polars,binary,large binary,list of bytes,"
    "large list,levels,levels as int64,levels, channels first"
).replace("levels, channels", "levels; channels")


@pytest.mark.parametrize("name", [each.replace(";", ",") for each in KINDS.split(",")])
def test_every_kind_of_column_gives_the_same_pictures(made, name):
    pictures = made.pictures(4, (6, 5, 3))
    kind, cells = kinds(made, pictures)[name]
    made.table("d/train.parquet", kind=kind, cells=cells[:3])
    path = made.table("d/test.parquet", kind=kind, cells=cells[3:])
    assert made.holds(load_images(path), pictures[:3], pictures[3:])


def test_grey_levels_in_lists_are_one_channel(made):
    pictures = made.pictures(2, (5, 6))
    kind = pa.list_(pa.list_(pa.uint8()))
    made.table("d/train.parquet", kind=kind, cells=[pictures[0].tolist()])
    path = made.table("d/test.parquet", kind=kind, cells=[pictures[1].tolist()])
    assert made.holds(load_images(path), pictures[:1], pictures[1:])


@pytest.mark.parametrize(
    ("cell", "match"),
    [([[1, 2], [3]], "every row of one length"), ([[300, 1], [2, 3]], r"in 0..255, got 1..300")],
)
def test_lists_that_are_no_picture_are_refused_by_row(made, cell, match):
    path = made.table("d/a.parquet", kind=pa.list_(pa.list_(pa.int64())), cells=[cell])
    made.refused(f"a.parquet row 0: .*{match}", load_images, path)


def test_the_single_column_that_can_hold_images_is_taken(made):
    pictures = made.pictures(2)
    made.table("d/train.parquet", pictures[:1], image="pixel_values", label=["a"])
    path = made.table("d/test.parquet", pictures[1:], image="pixel_values", label=["a"])
    assert made.holds(load_images(path), pictures[:1], pictures[1:])


def test_of_two_columns_of_images_image_wins_and_the_other_is_named(made):
    pictures = made.pictures(4)
    kind = pa.struct([("bytes", pa.binary())])
    masks = pa.array([{"bytes": made.png(picture)} for picture in pictures[2:]], kind)
    made.table("d/train.parquet", pictures[:1], mask=masks[:1])
    path = made.table("d/test.parquet", pictures[1:2], mask=masks[1:])
    data = load_images(path)
    assert made.holds(data, pictures[:1], pictures[1:2])
    assert data.remarks == ("images of column `image`; `mask` may hold some too, not read",)
    made.table("d/train.parquet", pictures[:1], image="a", b=masks[:1])
    made.refused("must be in a column `image` or `img`.*got the columns a ", load_images, path)


def test_a_path_in_a_cell_is_followed_below_the_folder_alone(made):
    pictures = made.pictures(3)
    made.files("d/images", pictures)
    outside = made.root / "outside.png"
    outside.write_bytes(made.png(pictures[0]))

    def cells(*paths):
        return [{"bytes": None, "path": str(path)} for path in paths]

    here = made.root / "d/images/001.png"
    path = made.table("d/data/train.parquet", cells=cells("images/000.png", here))
    made.table("d/data/test.parquet", cells=cells("images/002.png"))
    data = load_images(path)
    assert made.holds(data, pictures[:2], pictures[2:])
    assert data.remarks == ()  # the files were read
    for wrong in ("../outside.png", "images/../../outside.png", outside, "..\\outside.png"):
        made.table("d/data/test.parquet", cells=cells(wrong))
        made.refused("test.parquet row 0 names the file .*, outside of", load_images, path)
    made.table("d/data/test.parquet", cells=cells("images/none.png"))
    made.refused("row 0 names the file images/none.png, which is not in", load_images, path)
    made.table("d/data/test.parquet", kind=pa.string(), cells=["images/002.png"])
    assert made.holds(load_images(path), pictures[:2], pictures[2:])


def test_a_table_that_only_describes_image_files_is_left_out(made):
    pictures = made.pictures(5)
    path = made.files("d", pictures)
    made.table("d/metadata.parquet", image="file_name", kind=pa.string(), cells=["000.png"])
    data = load_images(path)
    assert len(data.train) == 4
    assert data.remarks == ("d: left out 1 file that is no image of it: metadata.parquet",)


# ---- the column of labels


def both(made, labels, name="label", kind=None):
    """A data set of six and two rows with these labels, as its path."""
    labels = pa.array(labels, kind)
    pictures = made.pictures(8)
    made.table("d/train.parquet", pictures[:6], **{name: labels[:6]})
    return made.table("d/test.parquet", pictures[6:], **{name: labels[6:]})


@pytest.mark.parametrize(
    ("kind", "labels", "names"),
    [
        (pa.int8(), [0, 1] * 4, ("0", "1")),
        (pa.uint64(), [2**64 - 1, 3] * 4, ("3", str(2**64 - 1))),
        (pa.bool_(), [True, False] * 4, ("False", "True")),
        (pa.float32(), [3.0, 4.0] * 4, ("3", "4")),
        (pa.string(), ["dog", "cat"] * 4, ("cat", "dog")),
        (pa.dictionary(pa.int8(), pa.string()), ["b", "a"] * 4, ("a", "b")),
        (pa.int64(), [20_000_000_000, 0] * 4, ("0", "20000000000")),
        (pa.int64(), [1, 2] * 4, ("1", "2")),
    ],
)
def test_labels_of_every_type_are_numbered(made, kind, labels, names):
    data = load_images(both(made, labels, kind=kind))
    assert data.class_names == names
    expected = [names.index(str(int(x) if isinstance(x, float) else x)) for x in labels]
    assert data.train_labels.tolist() == expected[:6]
    assert data.test_labels.tolist() == expected[6:]


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, None, 0, 1, 0, 1, 0],
        [0, 1, 0, 1, 0, 1, -1, -1],
        [0.5, 1.5] * 4,
        [[0, 1]] * 8,
        [3_000_000 + 7 * k for k in range(8)],
        [None] * 8,
    ],
)
def test_labels_that_are_no_classes_do_not_stop_a_training_that_needs_none(made, labels):
    kind = pa.int64() if labels[-1] is None else None
    data = load_images(both(made, labels, kind=kind))
    assert (data.train_labels, data.test_labels, data.class_names) == (None, None, ())
    assert data.remarks[0].startswith("no classes: ")
    assert load_images(both(made, labels, kind=kind), labels="none").remarks == ()


def test_columns_that_could_be_labels_are_named_and_taken_by_name(made):
    path = both(made, [5, 7] * 4, "fine_label")
    data = load_images(path)
    assert data.train_labels is None
    assert data.remarks[0].endswith(
        "of `fine_label` one can be named, as --config.data.labels=fine_label"
    )
    data = load_images(path, labels="fine_label")
    assert data.train_labels.tolist() == [0, 1] * 3
    assert data.class_names == ("5", "7")
    made.refused(
        "labels = fine is no column of .*got image, fine_label", load_images, path, labels="fine"
    )
    made.refused("folders is for folders of image files", load_images, path, labels="folders")


def test_shards_that_differ_in_columns_have_no_classes(made):
    pictures = made.pictures(5)
    made.table("d/train-0.parquet", pictures[:2], label=[0, 0])
    made.table("d/train-1.parquet", pictures[2:4])
    data = load_images(made.table("d/test-0.parquet", pictures[4:], label=[0]))
    assert made.holds(data, pictures[:4], pictures[4:])
    assert data.remarks[0].startswith(
        "no classes: 2 of 5 images have none by column `label` (train-1"
    )


def test_names_of_classes_come_from_the_metadata_of_the_file(made):
    path = both(made, [2, 0] * 4)
    parquet = pytest.importorskip("pyarrow.parquet")
    names = {"label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}}
    for file in ("train", "test"):
        table = parquet.read_table(made.root / f"d/{file}.parquet")
        told = json.dumps({"info": {"features": names}})
        table = table.replace_schema_metadata({"huggingface": told})
        parquet.write_table(table, made.root / f"d/{file}.parquet")
    data = load_images(path)
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train_labels.tolist() == [2, 0] * 3

import pytest

from scoreflow.data.sources.layout import layout
from scoreflow.errors import RequestError


def arranged(names, labels="auto"):
    """By split, the file and its class as "file:class"."""
    found = layout(names.split(), labels)
    splits = {
        split: " ".join(f"{name}:{found.class_of(name)}".removesuffix(":None") for name in files)
        for split, files in found.splits.items()
    }
    return splits, found


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ("a.png b.png", {"": "a.png b.png"}),
        ("cat/a.png dog/x/b.png", {"": "cat/a.png:cat dog/x/b.png:dog"}),
        ("cat/a.png b.png", {"": "cat/a.png:cat b.png"}),
        ("train/a.png test/b.png", {"train": "train/a.png", "test": "test/b.png"}),
        ("Train/a/1.png TEST/b/2.png", {"train": "Train/a/1.png:a", "test": "TEST/b/2.png:b"}),
        ("train/a.png", {"train": "train/a.png"}),
        # folders around everything are passed over
        (
            "x/train/a/1.png x/test/b/2.png",
            {"train": "x/train/a/1.png:a", "test": "x/test/b/2.png:b"},
        ),
        ("x/y/cat/1.png x/y/dog/2.png", {"": "x/y/cat/1.png:cat x/y/dog/2.png:dog"}),
        (
            "train/x/a/1.png test/x/b/2.png",
            {"train": "train/x/a/1.png:a", "test": "test/x/b/2.png:b"},
        ),
        ("only/1.png only/2.png", {"": "only/1.png only/2.png"}),
        (
            "train/train/1.png test/Test/2.png",
            {"train": "train/train/1.png", "test": "test/Test/2.png"},
        ),
        # the split below the class
        (
            "cat/train/1.png cat/test/2.png dog/train/3.png",
            {"train": "cat/train/1.png:cat dog/train/3.png:dog", "test": "cat/test/2.png:cat"},
        ),
        (
            "x/cat/val/1.png x/dog/val/2.png",
            {"validation": "x/cat/val/1.png:cat x/dog/val/2.png:dog"},
        ),
        # shards
        ("00000/1.png 01000/2.png", {"": "00000/1.png 01000/2.png"}),
        ("img/00000/1.png img/01000/2.png", {"": "img/00000/1.png img/01000/2.png"}),
        (
            "train/0000/1.png test/0000/2.png",
            {"train": "train/0000/1.png", "test": "test/0000/2.png"},
        ),
    ],
)
def test_splits_and_classes_of_folders(names, splits):
    assert arranged(names)[0] == splits


def test_folders_are_classes_by_force_whatever_they_are_called():
    assert arranged("00000/1.png 01000/2.png", "folders")[0] == {
        "": "00000/1.png:00000 01000/2.png:01000"
    }
    assert arranged("bus/1.png train/2.png", "folders")[0] == {
        "": "bus/1.png:bus train/2.png:train"
    }
    splits, _ = arranged("train/a/1.png test/b/2.png", "folders")
    assert splits == {"train": "train/a/1.png:a", "test": "test/b/2.png:b"}


def test_shards_and_renamed_splits_are_said():
    assert arranged("00000/1.png 01000/2.png")[1].shards.startswith("00000/, 01000/ are taken for")
    assert arranged("cat/1.png dog/2.png")[1].shards == ""
    assert arranged("Train/1.png val/2.png test/3.png")[1].remarks == [
        "splits by folder: Train/ is train, val/ is validation"
    ]


def test_what_lies_beside_a_whole_data_set_is_left_out_by_name():
    splits, found = arranged("extra/0.png train/1.png test/2.png 3.png")
    assert splits == {"train": "train/1.png", "test": "test/2.png"}
    assert found.left_out == ["extra/0.png", "3.png"]


@pytest.mark.parametrize(
    ("names", "beside"),
    [
        ("bus/1.png car/2.png train/3.png", "the folder train/ .* lie in bus/"),
        ("1.png train/2.png", "the folder train/ .* lie in none"),
        ("x/train/1.png x/test/1.png y/2.png", "the folder x/train/ .* lie in x/test/"),
        ("cat/train/1.png cat/test/2.png dog/3.png", "the folder cat/train/ .* lie in cat/test/"),
    ],
)
def test_a_split_or_a_class_is_not_guessed(names, beside):
    with pytest.raises(RequestError, match=f"{beside}.*data.labels=folders; if it is a split"):
        layout(names.split())


@pytest.mark.parametrize("folder", ["photos", "nested/a/b"])
def test_a_folder_around_all_images_is_no_class(folder):
    files = [f"{folder}/{k}.png" for k in range(3)]
    assert {layout(files).class_of(name) for name in files} == {None}
    forced = layout(files, "folders")
    assert {forced.class_of(name) for name in files} == {folder.split("/")[0]}

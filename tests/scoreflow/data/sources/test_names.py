import random

import pytest

from scoreflow.data.sources.names import (
    are_shards,
    is_junk,
    natural,
    split_of_file,
    split_of_folder,
)


@pytest.mark.parametrize(
    ("split", "names"),
    [
        (
            "train",
            "train Train TRAIN training Training trainA train2017 train_images training_set",
        ),
        ("test", "test TEST Testing test_set test1 testB images-test"),
        ("validation", "val Val valid validation eval dev val2014 DEV"),
        ("", "trainer tested contest station train_station traintest train-test evaluate a 00000"),
    ],
)
def test_a_folder_states_a_split_if_its_whole_name_does(split, names):
    assert {name: split_of_folder(name) for name in names.split()} == dict.fromkeys(
        names.split(), split
    )


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00003", "train"),
        ("train", "train"),
        ("cifar10-train", "train"),
        ("mnist_test_01", "test"),
        ("validation-00000-of-00001-abcdef", "validation"),
        ("0000", ""),
        ("data-00000-of-00001", ""),
        ("trainer", ""),
    ],
)
def test_a_file_states_a_split_if_a_word_of_its_name_does(name, split):
    assert split_of_file(name) == split


def test_digits_in_names_sort_by_value():
    ordered = ["0", "1", "2", "10", "11", "a", "class_2", "class_10", "class_10_b", "n007", "n12"]
    shuffled = random.Random(0).sample(ordered, len(ordered))
    assert sorted(shuffled, key=natural) == ordered
    assert sorted(["1", "01", "001"], key=natural) == ["001", "01", "1"]


def test_names_without_digits_sort_as_text():
    names = ["ant", "Bee", "cat", "a b", "a-b", "é"]
    assert sorted(names, key=natural) == sorted(names)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["00000", "01000"], True),
        (["0000"], True),
        (["shard-0001", "shard-0002"], True),
        (["part_1", "part_12"], True),
        (["0", "1", "10"], False),
        (["001", "002"], False),
        (["0000", "00001"], False),
        (["00000", "cats"], False),
        (["partridge", "shard"], False),
        ([], False),
    ],
)
def test_folders_of_shards(names, expected):
    assert are_shards(names) == expected


def test_what_systems_leave_in_folders_is_junk():
    assert all(map(is_junk, (".DS_Store", ".git", "Thumbs.db", "desktop.ini", "__MACOSX")))
    assert not any(map(is_junk, ("thumbs", "macosx", "a.db")))

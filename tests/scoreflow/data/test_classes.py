"""Classes by number or name."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scoreflow.data import toy
from scoreflow.data.classes import as_asked, names_of, numbers_of, of_classes
from scoreflow.data.dataset import Data
from scoreflow.data.stored.images import RowFile, StoredImages
from scoreflow.errors import RequestError
from scoreflow.factory.evaluation import build_judge
from scoreflow.report.results import called

ANIMALS = ("cat", "dog", "sea, deep", "7")
FOLDERS = ("1", "2", "10")


def numbers(asked, names):
    return numbers_of(asked, len(names) or 4, names, "sampling.label")


@pytest.mark.parametrize(
    ("asked", "names", "expected"),
    [
        (2, (), (2,)),
        ("2", ANIMALS, (2,)),  # for not all classes are called by numbers
        ("cat", ANIMALS, (0,)),
        ("7", ANIMALS, (3,)),
        ("sea, deep", ANIMALS, (2,)),
        ("0,1, dog", ANIMALS, (0, 1, 1)),
        (2, FOLDERS, (1,)),  # the folder 2, as the user sees it
        ("10,1", FOLDERS, (2, 0)),
        (3, tuple("0123456789"), (3,)),
    ],
)
def test_what_is_meant(asked, names, expected):
    assert numbers(asked, names) == expected


@pytest.mark.parametrize(
    ("asked", "names", "says"),
    [
        (4, (), r"sampling\.label must lie in 0\.\.3 \(-1 for none\), got 4"),
        ("0,-1", (), r"must lie in 0\.\.3"),
        (10, tuple("0123456789"), r"must lie in 0\.\.9 \(-1 for none\), got 10"),
        ("cat", (), "the classes here have no names, got 'cat'"),
        ("Dgo", ANIMALS, "no class is called 'Dgo'; did you mean 'dog'"),
        (0, FOLDERS, "no class is called '0'.* they are 1, 2, 10"),
        ("", ANIMALS, "no class is called ''"),
    ],
)
def test_what_there_is_not(asked, names, says):
    with pytest.raises(RequestError, match=says):
        numbers(asked, names)


def test_words_for_a_class():
    assert [called(k, FOLDERS) for k in range(3)] == ["0 (1)", "1 (2)", "2 (10)"]
    assert called(3, ("0", "1", "2", "3")) == called(3, ()) == "3"
    for names in (FOLDERS, ANIMALS, ()):
        assert [numbers(as_asked(k, names), names)[0] for k in range(3)] == [0, 1, 2]


def test_the_data_of_some_classes():
    labels = torch.tensor([0, 2, 1, 2, 0])
    levels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    data = Data("d", levels, levels[:3], 8, labels, labels[:3], ("a", "b", "c"), ("x", "y", "z"))
    some = of_classes(data, (2, 1))
    assert some.train.flatten().tolist() == [1, 2, 3]
    assert some.train_labels.tolist() == [2, 1, 2]
    assert some.test.flatten().tolist() == [1, 2]
    assert names_of(data, 3) == ("a", "b", "c")
    assert names_of(data, 4) == ()


def test_classes_that_only_the_held_out_part_has_count_and_keep_their_names():
    levels = torch.zeros(3, 1, 1, 1, dtype=torch.uint8)
    data = Data("d", levels, levels, 2, torch.tensor([0, 0, 2]), torch.tensor([3, 0, 2]))
    assert (data.num_classes, data.empty_classes) == (4, (1, 3))
    named = replace(data, class_names=tuple("abcde"))
    assert (named.num_classes, named.empty_classes) == (5, (1, 3, 4))
    assert names_of(named, named.num_classes) == tuple("abcde")
    assert replace(named, train_labels=None).num_classes == 0


class Unread(StoredImages):
    """Images on the disk that are not to be read."""

    def _read(self, rows):
        raise AssertionError("they are read")


def test_classes_of_stored_images_are_chosen_without_reading_them(tmp_path):
    (tmp_path / "0.rows").write_bytes(bytes(range(5)))
    file = RowFile(tmp_path / "0.rows", (1, 1, 1), np.dtype(np.uint8))
    labels = torch.tensor([0, 2, 1, 2, 0])
    images = Unread(file, np.arange(5))
    some = of_classes(Data("d", images, images, 8, labels, labels), (2, 1))
    assert some.train.rows.tolist() == [1, 2, 3]
    assert some.one_part
    assert StoredImages(file, some.train.rows)[:].flatten().tolist() == [1, 2, 3]


def test_a_folder_called_toy_is_not_the_toy_mixture():
    levels = torch.zeros(3, 1, 1, 1, dtype=torch.uint8)
    folder = Data("toy", levels, levels, 2, torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1]))
    for data, known in ((folder, False), (toy.load(), True)):
        assert data.is_toy == known
        assert (build_judge("", data, data, None).truth is not None) == known

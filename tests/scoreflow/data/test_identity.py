"""Data are told from others by what a run keeps of them, and found where they lie."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scoreflow.data import identity
from scoreflow.data.dataset import Batches, Data, digest


@pytest.fixture
def data():
    """Ten images and four, three classes of which one has no training image."""
    levels = torch.arange(14 * 2 * 3, dtype=torch.uint8).reshape(14, 1, 2, 3)
    labels = torch.tensor([0, 2] * 7)
    return Data("mine", levels[:10], levels[10:], 256, labels[:10], labels[10:], ("a", "b", "c"))


def kept(data):
    return identity.record(data, "", Path("run"))


def test_the_same_data_do_not_differ_and_their_hashes_are_sha256(data):
    record = kept(data)
    assert identity.differences(record, data) == ""
    assert record["train"]["count"] == 10
    assert record["train"]["sha256"] == hashlib.sha256(bytes(range(60))).hexdigest()
    assert record["empty_classes"] == [1]
    assert record["num_classes"] == 3


def changed(data, **parts):
    return identity.differences(kept(data), replace(data, **parts))


def test_each_difference_is_said(data):
    fewer = {"test": data.test[:3], "test_labels": data.test_labels[:3]}
    assert changed(data, **fewer) == "1 fewer held-out data (3, not 4)"
    more = {"train": torch.cat([data.train, data.train[:2]])}
    more["train_labels"] = torch.cat([data.train_labels, data.train_labels[:2]])
    assert changed(data, **more) == "2 more training data (12, not 10)"
    turned = changed(data, train=data.train.flip(0))
    assert turned == "the training data are in another order"
    assert changed(data, test=data.test + 1) == "other held-out data"
    assert (
        changed(data, test_labels=data.test_labels.flip(0)) == "other labels of the held-out data"
    )
    assert changed(data, train_labels=None, test_labels=None) == "0 classes, not 3"
    wide = changed(data, train=data.train.reshape(10, 1, 3, 2), test=data.test.reshape(4, 1, 3, 2))
    assert wide == "they are 1 x 3 x 2, not 1 x 2 x 3"
    assert changed(data, num_levels=17) == "they have 17 levels, not 256"


def test_hashes_do_not_depend_on_the_blocks_they_are_made_in(data, monkeypatch):
    whole = kept(data)
    monkeypatch.setattr(identity, "BLOCK", 3)
    monkeypatch.setattr("scoreflow.data.dataset.BLOCK", 3)
    assert kept(data) == whole


def test_the_stand_in_is_like_the_data(data):
    found = identity.absent(kept(data), torch.device("cpu"))
    assert found.train.shape == (0, 1, 2, 3)
    assert found.train.dtype == torch.uint8
    assert (found.num_levels, found.num_classes, found.class_names) == (256, 3, ("a", "b", "c"))
    assert not found.one_part
    assert torch.equal(found.accept(data.test), data.test)


def test_places_are_tried_as_given_as_they_were_and_beside_the_run(tmp_path, monkeypatch):
    run, images = tmp_path / "a" / "run", tmp_path / "a" / "imgs"
    run.mkdir(parents=True)
    images.mkdir()
    monkeypatch.chdir(tmp_path / "a")
    record = identity.places("imgs", run)
    assert record == {"path": "imgs", "absolute": str(images), "relative": "../imgs"}
    assert identity.candidates(record, "imgs", run) == ["imgs"]
    monkeypatch.chdir(tmp_path)
    assert identity.candidates(record, "imgs", run) == [str(images)]
    (tmp_path / "a").rename(tmp_path / "b")
    beside = tmp_path / "b" / "imgs"
    assert identity.candidates(record, "imgs", tmp_path / "b" / "run") == [str(beside)]
    beside.rmdir()
    assert identity.candidates(record, "imgs", tmp_path / "b" / "run") == []
    for other in ("~nobodyzz/imgs", "a" * 300):  # of another machine
        beside.mkdir()
        assert identity.candidates(record, other, tmp_path / "b" / "run") == [str(beside)]
        beside.rmdir()
        assert identity.candidates(record, other, tmp_path / "b" / "run") == []
        assert identity.places(other, run) == {"path": other, "absolute": "", "relative": ""}
    hub = identity.places("owner/name", run)
    assert identity.candidates(hub, "owner/name", run) == ["owner/name"]


def test_a_place_that_may_not_be_looked_into_is_not_there(tmp_path, monkeypatch):
    shut, images, stat = tmp_path / "shut", tmp_path / "imgs", Path.stat
    images.mkdir()

    def refusing(path, **more):
        if shut in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **more)

    monkeypatch.setattr(Path, "stat", refusing)
    within = str(shut / "imgs")
    record = {"absolute": within, "relative": "../imgs"}
    assert identity.candidates(record, within, tmp_path / "run") == [str(images)]
    assert identity.places(within, tmp_path)["absolute"] == ""


def test_digest_is_that_of_the_bytes():
    values = torch.arange(5000 * 2, dtype=torch.int64).reshape(5000, 2)
    assert digest(values) == hashlib.sha256(values.numpy().tobytes()).hexdigest()


# ---- the order of the data ----------------------------------------------------------------------


def test_a_change_of_the_batch_size_goes_on_in_the_same_order():
    whole = torch.cat([Batches(7, 1, 3).indices(step) for step in range(40)])
    eras = ((0, 4), (3, 4), (3, 6), (5, 2))
    changing = Batches(7, 2, 3, eras)
    sizes = [4, 4, 4, 6, 6, 2, 2, 2]
    found = [changing.indices(step) for step in range(8)]
    assert [len(each) for each in found] == sizes
    assert torch.equal(torch.cat(found), whole[: sum(sizes)])
    plain = Batches(7, 4, 3)
    assert all(torch.equal(plain.indices(k), found[k]) for k in range(3))

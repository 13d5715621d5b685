"""Nothing is overwritten by less: which measurement is the headline, and where the others are."""

import json
from itertools import permutations

import pytest

from scoreflow.errors import RunError
from scoreflow.storage import measurements
from scoreflow.storage.measurements import NEWEST, hash_in, headline_of, keep
from scoreflow.storage.result_rows import rows_in, rows_name
from scoreflow.storage.sample_names import hash_of


def rank(result):
    return {"of newer weights": result["step"], "of more data": result["num_images"]}


def measured(count, step=8, seed=0):
    """A measurement, and what it is an answer to."""
    asked = {"num_images": count, "step": step, "seed": seed}
    return {"value": count + seed / 10, "step": step, "num_images": count}, asked


def read(folder):
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.parametrize("order", list(permutations([(8, 8), (360, 8), (64, 8)])))
def test_the_largest_is_the_headline_in_whatever_order(order, tmp_path):
    for count, step in order:
        keep(tmp_path, "likelihood", *measured(count, step), rank)
    found = read(tmp_path)
    assert found["likelihood"]["num_images"] == 360
    others = {name: each for name, each in found.items() if name != "likelihood"}
    assert sorted(each["num_images"] for each in others.values()) == [8, 64]
    for name, each in others.items():
        _, asked = measured(each["num_images"])
        assert name == f"likelihood-{hash_of(asked)[:8]}"
        assert headline_of(name, each) == "likelihood"
    assert headline_of("likelihood", found["likelihood"]) == "likelihood"


def test_newer_weights_come_first_and_of_equals_the_newest(tmp_path):
    keep(tmp_path, "likelihood", *measured(360, step=4), rank)
    keep(tmp_path, "likelihood", *measured(64, step=8), rank)
    assert read(tmp_path)["likelihood"]["step"] == 8
    kept = keep(tmp_path, "likelihood", *measured(360, step=4, seed=1), rank)
    assert read(tmp_path)["likelihood"]["step"] == 8
    own = f"kept as {tmp_path.name}/{kept.path.name}; {tmp_path.name}/likelihood.json stays: "
    assert kept.remark == f"{own}it is of newer weights"
    less = keep(tmp_path, "likelihood", *measured(8), rank)
    assert less.remark.endswith("stays: it is of more data")
    less.path.unlink()
    assert keep(tmp_path, "likelihood", *measured(64, seed=1), rank).remark == ""
    assert read(tmp_path)["likelihood"]["value"] == 64.1
    assert len(read(tmp_path)) == 4


@pytest.mark.parametrize(
    ("there", "last", "gone"),
    [
        ({"step": 8, "weights": "a"}, 8, True),  # the same step, trained anew
        ({"step": 8, "weights": "b"}, 8, False),
        ({"step": 8}, 8, False),  # older results do not say it
        ({"step": 9, "weights": "a"}, 8, True),
        ({"step": 9, "weights": "a"}, 9, False),  # this one is of an earlier checkpoint
        ({"step": 9}, None, False),
    ],
)
def test_a_headline_of_weights_that_are_gone_makes_way(there, last, gone, tmp_path):
    _, asked = measured(360)
    keep(tmp_path, "likelihood", {"num_images": 360, **there}, asked, rank)
    new, other = {**measured(64)[0], "weights": "b"}, {**measured(64)[1], "weights": "b"}
    kept = keep(tmp_path, "likelihood", new, other, rank, last)
    assert read(tmp_path)["likelihood"]["num_images"] == (64 if gone else 360)
    assert (kept.remark == "") == gone
    assert len(read(tmp_path)) == 2


def test_an_answer_takes_over_what_it_lacks(tmp_path):
    result, asked = measured(64)
    for place, count in (("headline", 64), ("beside", 360)):
        folder = tmp_path / place
        keep(folder, "samples", {**result, "worth": 0.25}, asked, rank)
        keep(folder, "samples", *measured(count, seed=1), rank)
        merge = lambda new, old: {**new, "worth": old["worth"]}  # noqa: E731
        keep(folder, "samples", result, asked, rank, merge=merge)
        (again,) = [
            each for each in read(folder).values() if each["kept"]["hash"] == hash_of(asked)
        ]
        assert again["worth"] == 0.25


def test_the_same_question_replaces_its_own_answer_alone(tmp_path):
    for count in (360, 8, 8, 360, 8):
        keep(tmp_path, "likelihood", *measured(count), rank)
    assert len(read(tmp_path)) == 2
    result, asked = measured(8)
    keep(tmp_path, "likelihood", {**result, "value": 7.0}, asked, rank)
    assert sorted(each["value"] for each in read(tmp_path).values()) == [7.0, 360.0]


def test_without_a_rank_the_newest_is_the_headline(tmp_path):
    for count in (360, 8):
        keep(tmp_path, "vary", *measured(count), NEWEST)
    assert read(tmp_path)["vary"]["num_images"] == 8
    assert len(read(tmp_path)) == 2


def test_a_result_of_an_earlier_version_is_kept_too(tmp_path):
    """It records nothing of what was asked, and perhaps not what ranks it."""
    for old in (
        {"value": 1.0, "step": 8, "num_images": 64, "settings": {"seed": 0}},
        {"value": 2},
    ):
        folder = tmp_path / str(old["value"])
        folder.mkdir()
        (folder / "likelihood.json").write_text(json.dumps(old))
        keep(folder, "likelihood", *measured(360), rank)
        found = read(folder)
        assert found.pop("likelihood")["num_images"] == 360
        ((name, other),) = found.items()
        assert {key: other[key] for key in old} == old
        assert name == f"likelihood-{hash_in(old)[:8]}"
        assert headline_of(name, other) == "likelihood"


def test_a_kill_at_any_write_loses_nothing(tmp_path, monkeypatch):
    """Whichever write is the last, the old headline is there, whole, under one name or two."""
    write = measurements.write_atomic
    for last in range(3):
        folder = tmp_path / str(last)
        keep(folder, "likelihood", *measured(8), rank)
        writes = 0

        def killed(path, data, last=last):
            nonlocal writes
            if writes == last:
                raise KeyboardInterrupt
            writes += 1
            write(path, data)

        monkeypatch.setattr(measurements, "write_atomic", killed)
        if last < 2:
            with pytest.raises(KeyboardInterrupt):
                keep(folder, "likelihood", *measured(360), rank)
        else:
            keep(folder, "likelihood", *measured(360), rank)
        monkeypatch.setattr(measurements, "write_atomic", write)
        found = read(folder)
        assert 8 in [each["num_images"] for each in found.values()]
        assert found["likelihood"]["num_images"] == (360 if last == 2 else 8)
        keep(folder, "likelihood", *measured(360), rank)  # and the same command mends it
        assert sorted(each["num_images"] for each in read(folder).values()) == [8, 360]


def test_what_is_no_number_is_not_written(tmp_path):
    keep(tmp_path, "likelihood", *measured(8), rank)
    result, asked = measured(360)
    with pytest.raises(RunError, match="must be finite"):
        keep(tmp_path, "likelihood", {**result, "value": float("nan")}, asked, rank)
    assert read(tmp_path)["likelihood"]["num_images"] == 8


def test_rows_of_another_heading_keep_their_file(tmp_path):
    one, two = {"seed": 0}, {"seed": 1}

    def rows(heading, rank=0):
        return rows_in(tmp_path, rows_name(tmp_path, "compare", heading), heading, rank, "case")

    rows(one).append([{"case": "a", "value": 1}])
    rows(two).append([{"case": "a", "value": 2}])
    rows(two).append([{"case": "b", "value": 3}])
    assert rows(one).done == {"a": {"case": "a", "value": 1}}
    assert {k: row["value"] for k, row in rows(two).done.items()} == {"a": 2, "b": 3}
    assert rows(one).path.name == "compare.jsonl"
    assert rows(two).path.name == f"compare-{hash_of(two)[:8]}.jsonl"
    # what another process has begun under the plain name is not taken over either
    (tmp_path / "compare.jsonl").unlink()
    rows_in(tmp_path, "compare", one, 1, "case").append([{"case": "c", "value": 4}])
    assert rows(two).path.name != "compare.jsonl"
    assert rows(one).done["c"]["value"] == 4

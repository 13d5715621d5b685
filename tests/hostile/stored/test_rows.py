"""Rows of results: damaged, of another question, and asked for by several commands at once.

The long part makes every kind of damage in every file of rows of a run, and counts.
"""

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from scoreflow.cli.main import main
from scoreflow.errors import RequestError, RunError
from scoreflow.evaluation.cached_cases import check_case
from scoreflow.generation import error_table
from scoreflow.generation.error_table import ErrorTable
from scoreflow.likelihood.dataset_likelihood import _Mean, check_row
from scoreflow.sde.processes.vp import VPSDE
from scoreflow.storage.locks import ownership
from scoreflow.storage.locks.ownership import Waiting, attempt, held, let_go
from scoreflow.storage.measurements import keep
from scoreflow.storage.result_rows import Rows, owned_rows, rows_in
from scoreflow.storage.sample_names import claim
from scoreflow.storage.validation import InvalidError
from scoreflow.uncertainty import standard_error

ROOT = Path(__file__).parents[3]
HEADING = {"seed": 0, "weights": "5" * 8}
ROW = {
    "image": 3,
    "bits_per_dim": 4.25,
    "nats": [-197.5, -190.25],
    "evaluations": 20,
    "solver_error": 0.005,
    "status": "done",
}
DEEP = "[" * 100_000 + "]" * 100_000
HUGE = "1" + "0" * 400


def changed(row, **fields):
    """The line of a row with other values; None leaves one out."""
    made = {key: fields.get(key, value) for key, value in row.items()}
    made |= {key: value for key, value in fields.items() if key not in row}
    return json.dumps({key: value for key, value in made.items() if value is not LEFT_OUT})


LEFT_OUT = object()
OF_LIKELIHOOD = {
    "text": lambda row: changed(row, nats="x"),
    "a list of one": lambda row: changed(row, nats=[1.0]),
    "a number": lambda row: changed(row, nats=5.0),
    "texts": lambda row: changed(row, nats=["a", "b"]),
    "lists": lambda row: changed(row, nats=[[1.0], [2.0]]),
    "a nan": lambda row: changed(row, nats=[math.nan, 1.0]),
    "an infinity": lambda row: changed(row, nats=[math.inf, 1.0]),
    "empty": lambda row: changed(row, nats=[]),
    "no nats": lambda row: changed(row, nats=LEFT_OUT),
    "null": lambda row: changed(row, nats=None),
    "ten times as much": lambda row: changed(row, nats=[10 * n for n in row["nats"]]),
    "ten times the bits": lambda row: changed(row, bits_per_dim=10 * row["bits_per_dim"]),
    "a list as its number": lambda row: changed(row, image=[1]),
    "true as its number": lambda row: changed(row, image=True),
    "a fraction as its number": lambda row: changed(row, image=float(row["image"])),
    "no number": lambda row: changed(row, image=LEFT_OUT),
    "no evaluations": lambda row: changed(row, evaluations=LEFT_OUT),
    "evaluations in text": lambda row: changed(row, evaluations="20"),
    "less than no evaluations": lambda row: changed(row, evaluations=-1),
    "no solver error": lambda row: changed(row, solver_error=LEFT_OUT),
    "a solver error in text": lambda row: changed(row, solver_error="small"),
    "no status": lambda row: changed(row, status=LEFT_OUT),
    "an unknown status": lambda row: changed(row, status="perhaps"),
    "a huge number": lambda row: changed(row).replace('"evaluations": ', f'"evaluations": {HUGE}'),
    "deep nesting": lambda row: changed(row)[:-1] + f', "more": {DEEP}}}',
    "a list": lambda row: "[1]",
    "null itself": lambda row: "null",
    "garbage": lambda row: "\x00\x01 no row",
    "an empty line": lambda row: "",
    "torn in the middle": lambda row: changed(row)[:30],
    "not UTF-8": lambda row: changed(row)[:-1].encode() + b', "name": "\xff"}',
    "one key twice": lambda row: changed(row)[:-1] + ', "status": "done"}',
}
"""Damage of a row -> the line that stands for it."""


def as_bytes(line):
    return line if isinstance(line, bytes) else line.encode()


def file_of(path, lines, heading=HEADING, marked=False):
    """A file of rows as versions before the hashes of rows wrote it."""
    first = json.dumps({**heading, **({"hashed": True} if marked else {})}, sort_keys=True)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\n".join(map(as_bytes, [first, *lines])) + b"\n")
    return path


def fitting(row):
    """Whether a row is of the schema and its two spellings of one value agree."""
    return row["bits_per_dim"] == ROW["bits_per_dim"] and row["nats"] == ROW["nats"]


# ---- rows that were written with hashes


def test_no_byte_of_a_row_can_change(tmp_path):
    """Each byte of a row in turn becomes another one: the row is made again, never believed."""
    path = tmp_path / "it.jsonl"
    Rows(path, HEADING).append([ROW])
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for at in range(start, len(whole) - 1):
        other = whole[at] ^ (1 if at % 2 else 0x80)
        path.write_bytes(whole[:at] + bytes([other]) + whole[at + 1 :])
        rows = Rows(path, HEADING)
        assert (rows.done, rows.damaged) == ({}, 1), at
        path.write_bytes(whole[:at] + b"\n" + whole[at + 1 :])
        assert Rows(path, HEADING).done == {}, at


def test_a_row_of_another_question_is_none_of_this_one(tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    Rows(one, {"seed": 0}).append([{"image": 0, "value": 1.0}])
    Rows(two, {"seed": 1}).append([{"image": 0, "value": 2.0}, {"image": 1, "value": 2.0}])
    moved = two.read_bytes().splitlines(keepends=True)[1:]
    one.write_bytes(one.read_bytes() + b"".join(moved))
    rows = Rows(one, {"seed": 0})
    assert rows.done == {0: {"image": 0, "value": 1.0}}
    assert rows.remark == ("one.jsonl: 2 rows are damaged, or of another question, and made again")
    rows.append([{"image": 1, "value": 3.0}])
    again = Rows(one, {"seed": 0})
    assert {k: row["value"] for k, row in again.done.items()} == {0: 1.0, 1: 3.0}
    assert again.remark == ""  # and the file is whole


@pytest.mark.parametrize("damage", OF_LIKELIHOOD)
def test_a_damaged_row_of_a_likelihood_is_made_again(damage, tmp_path):
    """With hashes, where bytes decide, and without, where schema and arithmetic must."""
    path = tmp_path / "it.jsonl"
    Rows(path, HEADING).append([{**ROW, "image": 4}])
    other = path.read_bytes()
    path.write_bytes(other + as_bytes(OF_LIKELIHOOD[damage](ROW)) + b"\n")
    rows = Rows(path, HEADING, schema=check_row)
    assert rows.done.keys() == {4}
    assert rows.damaged == 1
    old = file_of(
        tmp_path / "old.jsonl", [json.dumps({**ROW, "image": 4}), OF_LIKELIHOOD[damage](ROW)]
    )
    rows = Rows(old, HEADING, schema=check_row)
    assert 4 in rows.done
    told = rows.done.get(3)  # what the schema allows is for the likelihood itself to hold together
    assert told is None or not fitting(told)


def test_rows_that_are_older_than_hashes_are_taken_and_get_them(tmp_path):
    path = file_of(tmp_path / "it.jsonl", [json.dumps(ROW)])
    before = path.read_bytes()
    rows = Rows(path, HEADING, schema=check_row)
    assert rows.done == {3: ROW}
    assert rows.remark == ""
    assert path.read_bytes() == before
    rows.append([{**ROW, "image": 4}])
    first, *lines = path.read_text().splitlines()
    assert json.loads(first) == {**HEADING, "hashed": True}
    assert all(re.search(r'"question": "\w{16}", "check": "\w{16}"}$', line) for line in lines)
    assert Rows(path, HEADING, schema=check_row).done.keys() == {3, 4}


def test_a_row_without_hashes_is_none_where_they_are_promised(tmp_path):
    path = file_of(tmp_path / "it.jsonl", [json.dumps(ROW)], marked=True)
    assert Rows(path, HEADING).done == {}


CASE = {"case": "ddim-4", "sampler": "ddim", "budget": 4, "nfe": 4.0, "seconds": 0.1}
CASE |= {
    "num_images": 64,
    "precision": 0.5,
    "precision_error": 0.1,
    "classes": [1, 2],
    "copies": 0,
}
ORDER = {"case": "order-ddim", "sampler": "ddim", "kind": "flow", "stated": 1, "order": 1.01}
ORDER |= {"order_error": 0.1, "over": [8], "steps": [8], "errors": [0.1], "errors_error": [0.1]}
ORDER |= {"seconds": 0.1}


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        (CASE, {"nfe": LEFT_OUT}),
        (CASE, {"nfe": "4"}),
        (CASE, {"precision": "x"}),
        (CASE, {"precision_error": [1]}),
        (CASE, {"seconds": None}),
        (CASE, {"sampler": 5}),
        (CASE, {"sampler": "heun"}),
        (CASE, {"budget": 8}),
        (CASE, {"budget": 4.0}),
        (CASE, {"num_images": 0}),
        (CASE, {"copies": 1.5}),
        (CASE, {"classes": 5}),
        (CASE, {"classes": [-1]}),
        (ORDER, {"errors": "x"}),
        (ORDER, {"errors": LEFT_OUT}),
        (ORDER, {"kind": "guess"}),
        (ORDER, {"sampler": "heun"}),
        ({"case": "held-out data", "precision": 0.5}, {"precision": {}}),
        ({"case": "floors", "wasserstein": 0.5}, {"wasserstein": "x"}),
        ({**CASE, "case": "guidance-1-4", "weight": 1.0}, {"weight": "1"}),
    ],
)
def test_a_damaged_row_of_a_comparison_is_no_row(row, wrong):
    check_case(row)
    with pytest.raises(InvalidError):
        check_case(json.loads(changed(row, **wrong)))


@pytest.mark.parametrize(
    "kind", ["folder", "pipe", "link", "other heading", "no heading", "empty"]
)
def test_a_file_of_rows_that_is_none(kind, tmp_path):
    path, aside = tmp_path / "it.jsonl", tmp_path / "precious.txt"
    aside.write_text("precious")
    if kind in ("folder", "pipe"):
        path.mkdir() if kind == "folder" else os.mkfifo(path)
        with pytest.raises(RequestError, match=r"it\.jsonl cannot be read .*: move it away"):
            Rows(path, HEADING)
        with (
            pytest.raises(RequestError, match="move it away"),
            owned_rows(tmp_path, "it", HEADING),
        ):
            pass
        return
    if kind == "link":
        path.symlink_to(aside)
    else:
        path.write_bytes(
            {"other heading": b'{"seed": 9}\n{"image": 3}\n', "empty": b""}.get(kind, b"\xff\n")
        )
    before = path.read_bytes()
    with owned_rows(tmp_path, "it", HEADING) as rows:
        assert rows.done == {}
        rows.append([ROW])
    assert aside.read_text() == "precious"
    assert rows_in(tmp_path, rows.path.stem, HEADING, 0, "image").done == {3: ROW}
    if "heading" in kind:
        assert path.read_bytes() == before  # what stands under another heading stays


def test_a_link_that_takes_the_place_of_rows_is_not_followed(tmp_path):
    aside = tmp_path / "precious.txt"
    with owned_rows(tmp_path, "it", HEADING) as rows:
        rows.append([ROW])
        aside.write_bytes(rows.path.read_bytes())
        rows.path.unlink()
        rows.path.symlink_to(aside)
        before = aside.read_bytes()
        with pytest.raises(RunError, match=r"cannot write .* \(it is a link"):
            rows.append([{**ROW, "image": 4}])
    assert aside.read_bytes() == before


def test_a_pipe_that_takes_the_place_of_rows_is_not_written_to(tmp_path):
    with owned_rows(tmp_path, "it", HEADING) as rows:
        rows.append([ROW])
        rows.path.unlink()
        os.mkfifo(rows.path)
        with pytest.raises(RunError, match=r"cannot write .* \(it is no regular file"):
            rows.append([{**ROW, "image": 4}])


# ---- the first line

FIRST_LINES = {
    "garbage": b"\xff garbage\n",
    "no JSON": b'{"hashed": true, "seed": 0, "weights": "55555555"\n',
    "one digit": b'{"hashed": true, "seed": 1, "weights": "55555555"}\n',
    "a list": b"[]\n",
    "empty": b"\n",
    "torn in two": b'{"hashed": true, "seed"\n: 0, "weights": "55555555"}\n',
    "a carriage return": b'{"hashed": true,\r"seed": 0, "weights": "55555555"}\n',
}


@pytest.mark.parametrize("damage", FIRST_LINES)
def test_rows_under_a_damaged_first_line_are_kept_by_who_asks_for_them(damage, tmp_path, capfd):
    path, made = tmp_path / "it.jsonl", []
    ask_like_a_command(tmp_path, HEADING, range(4), made)
    whole = path.read_bytes()
    _, rest = whole.split(b"\n", 1)
    path.write_bytes(FIRST_LINES[damage] + rest)
    capfd.readouterr()
    assert ask_like_a_command(tmp_path, HEADING, range(5), made) == path
    assert made == list(range(5))
    told = capfd.readouterr().err
    assert "it.jsonl: its first line was damaged, and is written anew: its rows are kept" in told
    assert told.count("\n") == 1
    assert path.read_bytes().startswith(whole)
    path.write_bytes(FIRST_LINES[damage] + rest)  # and where no row is to be made
    ask_like_a_command(tmp_path, HEADING, range(4), made)
    assert path.read_bytes() == whole
    capfd.readouterr()
    assert ask_like_a_command(tmp_path, HEADING, range(4), made) == path
    assert capfd.readouterr().err == ""
    assert len(made) == 5


@pytest.mark.parametrize("damage", ["garbage", "one digit"])
def test_a_damaged_first_line_of_another_question_is_named_and_its_rows_stay(
    damage, tmp_path, capfd
):
    path, made, other = tmp_path / "it.jsonl", [], {**HEADING, "seed": 2}
    ask_like_a_command(tmp_path, HEADING, range(4), made)
    whole = path.read_bytes()
    _, rest = whole.split(b"\n", 1)
    path.write_bytes(FIRST_LINES[damage] + rest)
    capfd.readouterr()
    theirs = ask_like_a_command(tmp_path, other, range(2), made)
    told = capfd.readouterr().err
    assert f"{path}: its first line is damaged, and its rows are none of this question" in told
    assert f"which go to {theirs.name}: remove it, unless" in told
    assert path.read_bytes() == FIRST_LINES[damage] + rest
    assert ask_like_a_command(tmp_path, HEADING, range(4), []) == path  # none is made again
    assert path.read_bytes() == whole
    theirs.write_bytes(FIRST_LINES["garbage"] + rest)  # in a file with their own name
    capfd.readouterr()
    again = []
    assert ask_like_a_command(tmp_path, other, range(2), again) == theirs
    assert again == [0, 1]
    assert "its first line is damaged, no row is of this question: begun" in capfd.readouterr().err


def test_a_heading_counts_while_one_row_is_of_it(tmp_path):
    """Rows of two questions in one file: the first line decides, as before."""
    one, two = tmp_path / "it.jsonl", tmp_path / "other.jsonl"
    Rows(one, HEADING).append([ROW])
    Rows(two, {"seed": 1}).append([{"image": 0}, {"image": 1}])
    first, own = one.read_bytes().splitlines(keepends=True)
    foreign = two.read_bytes().splitlines(keepends=True)[1:]
    one.write_bytes(b"".join([first, *foreign, own]))
    assert Rows(one, {"seed": 1}).done == {}
    assert Rows(one, HEADING).done == {3: ROW}


def test_a_row_that_is_done_is_not_lost_to_a_later_one_that_is_not(tmp_path):
    path, failed = tmp_path / "it.jsonl", {**ROW, "status": "failed", "evaluations": 7}
    rows = Rows(path, HEADING)
    rows.append([failed])
    rows.append([ROW])
    assert Rows(path, HEADING).done == rows.done == {3: ROW}
    rows.append([failed])
    assert Rows(path, HEADING).done == rows.done == {3: ROW}
    rows.append([{**ROW, "evaluations": 9}])
    assert Rows(path, HEADING).done == rows.done == {3: {**ROW, "evaluations": 9}}
    rows.tidy()
    assert len(path.read_text().splitlines()) == 2
    assert Rows(path, HEADING).done == rows.done


# ---- several commands at once


def ask_like_a_command(folder, heading, images, made):
    """Make the rows that are missing, and say which were made."""
    with owned_rows(folder, "it", heading) as rows:
        for k in images:
            if k not in rows.done:
                time.sleep(0.002)
                rows.append([{"image": k, "seed": heading["seed"]}])
                made.append(k)
        return rows.path


def test_four_that_ask_the_same_leave_each_image_once(tmp_path):
    made = []
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(ask_like_a_command, tmp_path, HEADING, range(20), made) for _ in range(4)
        ]
        paths = {each.result() for each in asked}
    assert sorted(made) == list(range(20))
    (path,) = paths
    lines = path.read_text().splitlines()[1:]
    assert sorted(json.loads(line)["image"] for line in lines) == list(range(20))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["it.jsonl"]  # no lock is left


def test_four_that_ask_something_else_have_a_file_each(tmp_path):
    headings = [{**HEADING, "seed": seed} for seed in range(4)]
    made = [[] for _ in headings]
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(ask_like_a_command, tmp_path, heading, range(20), each)
            for heading, each in zip(headings, made, strict=True)
        ]
        paths = [each.result() for each in asked]
    assert len(set(paths)) == 4
    for heading, path in zip(headings, paths, strict=True):
        rows = Rows(path, heading)
        assert rows.damaged == 0
        assert [row["seed"] for row in rows.done.values()] == [heading["seed"]] * 20
        again = []
        assert ask_like_a_command(tmp_path, heading, range(20), again) == path
        assert again == []


def test_an_owner_that_found_nothing_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), owned_rows(tmp_path, "it", HEADING):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_rows_under_a_hash_are_found_when_the_plain_name_is_free_again(tmp_path):
    ask_like_a_command(tmp_path, HEADING, range(2), [])
    other, made = {**HEADING, "seed": 1}, []
    path = ask_like_a_command(tmp_path, other, range(3), made)
    (tmp_path / "it.jsonl").unlink()
    assert ask_like_a_command(tmp_path, other, range(3), made) == path
    assert made == [0, 1, 2]


def test_a_file_that_was_replaced_gets_no_rows(tmp_path):
    """Where there are no locks: rows go to the file whose heading was seen, or nowhere."""
    mine = Rows(tmp_path / "it.jsonl", {"seed": 0})
    mine.append([{"image": 0}])
    Rows(tmp_path / "it.jsonl", {"seed": 1}).append([{"image": 5}])
    with pytest.raises(RunError, match=r"was replaced .* give the same command again"):
        mine.append([{"image": 1}])
    assert Rows(tmp_path / "it.jsonl", {"seed": 1}).done.keys() == {5}


def test_rows_go_on_where_their_file_was_removed(tmp_path):
    rows = Rows(tmp_path / "it.jsonl", HEADING)
    rows.append([ROW])
    rows.path.unlink()
    rows.append([{**ROW, "image": 4}])
    assert Rows(rows.path, HEADING).done.keys() == {3, 4}


def let_go_at_the_third_pause(lock, monkeypatch):
    pause, pauses = Waiting.pause, []
    monkeypatch.setattr(ownership, "UNSAID", -1.0)

    def counted(waiting):
        pause(waiting)
        pauses.append(waiting)
        if len(pauses) == 3:
            let_go(lock)

    monkeypatch.setattr(Waiting, "pause", counted)


def test_who_waits_says_so_once(tmp_path, capfd, monkeypatch):
    path = tmp_path / ".it.lock"
    let_go_at_the_third_pause(attempt(path), monkeypatch)
    with held(path, "measures the same"):
        pass
    assert capfd.readouterr().err == "another process measures the same: waiting for it\n"
    assert not path.exists()


@pytest.fixture(params=["no fcntl", errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def without_locks(request, monkeypatch):
    """A system or a file system without locks."""
    if request.param == "no fcntl":
        monkeypatch.setitem(sys.modules, "fcntl", None)
        return
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_killed_owner_of_another_machine_is_named_with_its_marker(
    without_locks, tmp_path, monkeypatch, capfd
):
    """It is never found out, so the line says which file to remove; then the waiting ends."""
    marker = tmp_path / ".it.jsonl.lock.soft"
    marker.write_text("7\nanother.example\n")
    pause = Waiting.pause
    monkeypatch.setattr(ownership, "UNSAID", -1.0)

    def paused(waiting):
        pause(waiting)
        assert not (tmp_path / ".it.jsonl.lock").exists()
        marker.unlink()  # as the user who has read the line

    monkeypatch.setattr(Waiting, "pause", paused)
    made = []
    ask_like_a_command(tmp_path, HEADING, [3], made)
    assert made == [3]
    assert capfd.readouterr().err.count(f"waiting for it (remove {marker} if it has ended)") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["it.jsonl"]


def test_where_there_are_no_locks_a_file_stands_for_one(
    without_locks, tmp_path, monkeypatch, capfd
):
    marker = tmp_path / ".it.jsonl.lock.soft"
    with owned_rows(tmp_path, "it", HEADING) as rows:
        rows.append([ROW])
        assert marker.exists()
        assert attempt(tmp_path / ".it.jsonl.lock") is None
    assert [path.name for path in tmp_path.iterdir()] == ["it.jsonl"]
    let_go_at_the_third_pause(attempt(tmp_path / ".it.jsonl.lock"), monkeypatch)
    made = []
    ask_like_a_command(tmp_path, HEADING, [3, 4], made)
    assert made == [4]
    assert f"waiting for it (remove {marker} if it has ended)" in capfd.readouterr().err


def test_a_killed_owner_holds_nobody_up(tmp_path):
    if (pid := os.fork()) == 0:
        with owned_rows(tmp_path, "it", HEADING) as rows:
            rows.append([ROW])
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    made = []
    ask_like_a_command(tmp_path, HEADING, range(3, 5), made)
    assert made == [4]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    aside = tmp_path / "precious.txt"
    aside.write_text("precious")
    (tmp_path / ".it.jsonl.lock").symlink_to(aside)
    with (
        pytest.raises(RequestError, match=r"cannot lock .* \(it is a link.*\): remove it"),
        owned_rows(tmp_path, "it", HEADING),
    ):
        pass
    assert aside.read_text() == "precious"


@pytest.mark.parametrize("name", [".it.jsonl.lock", ".it.jsonl.lock.soft"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_lock_that_is_no_file_is_a_line(kind, name, tmp_path):
    path = tmp_path / name
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    what = "no regular file" if kind == "pipe" else "a folder"
    with pytest.raises(RequestError) as caught, owned_rows(tmp_path, "it", HEADING):
        pass
    assert str(caught.value) == f"cannot lock {path} (it is {what}): remove it, and ask again"


def test_two_results_that_are_done_at_once_are_both_kept(tmp_path):
    def put(seed):
        result = {"value": float(seed), "step": 1, "weights": "w"}
        return keep(tmp_path, "likelihood", result, {"seed": seed}).path

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(8)))
    values = [json.loads(path.read_text())["value"] for path in tmp_path.glob("*.json")]
    assert sorted(values) == list(range(8))


def test_two_draws_with_other_settings_have_names_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        places = list(
            pool.map(lambda seed: claim(tmp_path, "00000004-ddim", {"seed": seed}), range(8))
        )
    assert len({place.name for place in places}) == 8
    for place in places:
        assert (
            json.loads((tmp_path / f"{place.name}.json").read_text())["seed"]
            == (place.settings["seed"])
        )


# ---- the running mean, and the table of errors


def test_the_running_mean_is_the_mean():
    values = 4 + torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    running = _Mean(values[:10].tolist())
    for each in values[10:].split(7):
        running.add(each.tolist())
    assert str(running) == f"{values.mean():.4f} +- {standard_error(values):.4f}"
    assert str(_Mean([2.0])) == "2.0000"
    assert str(_Mean([])) == ""


TABLE = ErrorTable(
    VPSDE.linear(50),
    *torch.tensor([[1, 20, 50], [0.3, 0.2, 0.1], [0.01, 0.01, 0.01]], dtype=torch.float64),
)


@pytest.mark.parametrize(
    "damage",
    [
        {"eps_error": [0.9, 0.6, 0.3]},
        {"eps_error": [0.3, 0.2]},
        {"eps_error": "x"},
        {"eps_error": None},
        {"eps_error": []},
        {"eps_error": [0.2, 0.3, 0.1]},
        {"eps_error": [0.3, 0.2, -0.1]},
        {"times": [1.0, 20.0, 51.0]},
        {"times": [20.0, 1.0, 50.0]},
        {"times": [1.0, 21.0, 50.0]},
        {"standard_errors": ["a", "b", "c"]},
        {"standard_errors": [0.02, 0.01, 0.01]},
        {"value": 5.0},
        {"sha256": "0" * 64},
        {"sha256": 5},
    ],
)
def test_a_damaged_table_of_errors_is_none(damage):
    whole = TABLE.as_result()
    assert torch.equal(ErrorTable.of_result(TABLE.sde, whole).eps_error, TABLE.eps_error)
    with pytest.raises(InvalidError):
        ErrorTable.of_result(TABLE.sde, {**whole, **damage})
    for key in damage:
        with pytest.raises(InvalidError):
            ErrorTable.of_result(
                TABLE.sde,
                {k: whole[k] for k in whole if k not in (key, "sha256")}
                if key != "sha256"
                else {**whole, **damage},
            )


def test_a_table_that_is_older_than_its_hash_is_taken_if_its_mean_is_right():
    old = {key: value for key, value in TABLE.as_result().items() if key != "sha256"}
    assert torch.equal(ErrorTable.of_result(TABLE.sde, old).eps_error, TABLE.eps_error)
    with pytest.raises(InvalidError, match="not the mean"):
        ErrorTable.of_result(TABLE.sde, {**old, "eps_error": [0.9, 0.6, 0.3]})


# ---- as a user meets it

RUN = ("run.py", "--device=cpu")


def ask(run, mode, *more):
    return main(
        [*RUN, f"--mode={mode}", f"--workdir={run}", *(f"--config.{each}" for each in more)]
    )


def result(run, name):
    return json.loads((run / "results" / f"{name}.json").read_text())


def measured(run, **settings):
    """The measurement of the test set under some settings, headline or not."""
    found = [json.loads(path.read_text()) for path in (run / "results").glob("likelihood*.json")]
    (one,) = (
        each
        for each in found
        if each.get("kept", {}).get("as") == "likelihood"
        and all(each["settings"][key] == value for key, value in settings.items())
    )
    return one


def value_of(run, **settings):
    return measured(run, **settings)["value"]


def unsealed(path):
    """The rows of a file as a version before the hashes of rows would have left them."""
    first, *lines = map(json.loads, path.read_text().splitlines())
    rows = [{k: v for k, v in row.items() if k not in ("question", "check")} for row in lines]
    return {key: value for key, value in first.items() if key != "hashed"}, rows


def test_damaged_rows_change_no_likelihood(run_copy, capfd):
    """Of twelve rows eleven are damaged, each in another way, with hashes and without."""
    run = run_copy()
    before, path = value_of(run), run / "results" / "likelihood.jsonl"
    heading, rows = unsealed(path)
    kinds = iter(list(OF_LIKELIHOOD.values()))
    for marked in (True, False):
        kind = [next(kinds) for _ in rows[1:]]
        lines = [change(row) for change, row in zip(kind, rows[1:], strict=True)]
        file_of(path, [json.dumps(rows[0]), *lines], heading, marked)
        capfd.readouterr()
        assert ask(run, "likelihood") == 0
        assert "rows are damaged, or of another question, and made again" in capfd.readouterr().err
        assert value_of(run) == pytest.approx(before, abs=1e-6)
        assert len(path.read_text().splitlines()) == 13  # a row an image


def test_a_damaged_first_line_costs_no_likelihood(run_copy, capfd):
    """No image is measured again, and the file is as it was."""
    run = run_copy()
    before, path = value_of(run), run / "results" / "likelihood.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"seed": 0', b'"seed": 8', 1))
    assert path.read_bytes() != whole
    capfd.readouterr()
    assert ask(run, "likelihood") == 0
    assert "its first line was damaged, and is written anew" in capfd.readouterr().err
    assert value_of(run) == before
    assert path.read_bytes() == whole
    assert [each.name for each in path.parent.glob("likelihood*.jsonl")] == [path.name]


def test_a_folder_in_place_of_rows_is_one_line(run_copy, capfd):
    run = run_copy()
    path = run / "results" / "likelihood.jsonl"
    path.unlink()
    path.mkdir()
    capfd.readouterr()
    assert ask(run, "likelihood") == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "likelihood.jsonl cannot be read (Is a directory): move it away" in err


def forked(*commands):
    """Run functions at once, each in a process of its own; their exit statuses."""
    children = []
    for command in commands:
        if (pid := os.fork()) == 0:
            status = 70
            try:
                status = command()
            finally:
                os._exit(status)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def test_two_likelihoods_at_once_keep_apart(run_copy):
    """Seed 1 and seed 2 begin together; each has the number that it has alone."""
    run, alone = run_copy(), run_copy("alone")
    for path in (run / "results").glob("likelihood*"):
        path.unlink()
    few = "likelihood.num_images=4"
    asked = [
        lambda seed=seed: ask(run, "likelihood", f"likelihood.seed={seed}", few) for seed in (1, 2)
    ]
    assert forked(*asked) == [0, 0]
    for seed in (1, 2):
        assert ask(alone, "likelihood", f"likelihood.seed={seed}", few) == 0
        assert value_of(run, seed=seed) == pytest.approx(value_of(alone, seed=seed), abs=1e-6)
        heading, rows = unsealed(run / "results" / measured(run, seed=seed)["rows"])
        assert heading["seed"] == seed
        assert sorted(row["image"] for row in rows) == list(range(4))


def test_damaged_rows_change_no_comparison(run_copy, capfd):
    run = run_copy()
    asked = ("compare.num_images=16", "compare.nfe=(2,3)", "compare.samplers=('ddim',)")
    assert ask(run, "compare", *asked) == 0
    before, path = result(run, "compare"), run / "results" / "compare.jsonl"
    heading, (first, second, held_out, floors) = unsealed(path)
    whole = path.read_bytes()
    sealed = whole.splitlines(keepends=True)
    path.write_bytes(  # one value of the first, one of another place, one digit of the third
        b"".join(
            [sealed[0], sealed[1].replace(b'"nfe": 2', b'"nfe": 3'), sealed[2], sealed[3][:40]]
        )
    )
    capfd.readouterr()
    assert ask(run, "compare", *asked) == 0
    assert "1 row is damaged" in capfd.readouterr().err
    clock = ("seconds", "images_per_second")

    def told(found):
        return [{k: v for k, v in row.items() if k not in clock} for row in found["rows"]]

    assert told(result(run, "compare")) == told(before)
    assert result(run, "compare")["test_data"] == before["test_data"]
    old = [
        changed(first, nfe=LEFT_OUT),
        changed(second, precision="x"),
        changed(held_out, classes=5),
    ]
    file_of(path, [*old, json.dumps(floors)], heading)
    assert ask(run, "compare", *asked) == 0
    assert told(result(run, "compare")) == told(before)
    assert result(run, "compare")["test_data"] == before["test_data"]


def test_a_changed_table_of_errors_changes_no_samples(run_copy, capfd, monkeypatch):
    monkeypatch.setattr(error_table, "KNOTS", 8)
    monkeypatch.setattr(error_table, "IMAGES", 16)
    run = run_copy()
    asked = ("sampling.variance=optimal", "sampling.sampler=ancestral", "sampling.num_images=4")
    assert ask(run, "sample", *asked) == 0
    (picture,) = (run / "samples").glob("*ancestral-*.png")
    before, path = picture.read_bytes(), run / "results" / "moments.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "eps_error": [3 * each for each in kept["eps_error"]]}))
    capfd.readouterr()
    assert ask(run, "sample", *asked) == 0
    assert "results/moments.json is damaged" in "".join(capfd.readouterr())
    assert picture.read_bytes() == before
    assert json.loads(path.read_text()) == kept


# ---- the long part: real processes, and every kind of damage

SAME = ("likelihood.num_images=96", "likelihood.batch_size=8", "likelihood.checked=0")


def started(run, mode, *more, world=0):
    """A command in a process of its own, or in several of torchrun's."""
    program = [sys.executable]
    if world:
        program += ["-m", "torch.distributed.run", f"--nproc_per_node={world}"]
        program += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    program += [str(ROOT / "run.py"), "--device=cpu", f"--mode={mode}", f"--workdir={run}"]
    program += [f"--config.{each}" for each in more]
    return subprocess.Popen(
        program,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(*processes):
    """Wait for commands that are to be done well; what each printed."""
    told = [process.communicate(timeout=550) for process in processes]
    for process, (_, err) in zip(processes, told, strict=True):
        assert process.returncode == 0, err
        assert "Traceback" not in err
    return told


def images_in(path):
    return sorted(row["image"] for row in unsealed(path)[1])


@pytest.mark.slow
def test_another_question_that_is_interrupted_takes_no_rows(run_copy):
    """Seed 1 begins beside seed 0 and is stopped; asked again, it says what it says alone."""
    run, alone = run_copy(), run_copy("alone")
    for path in (run / "results").glob("likelihood*"):
        path.unlink()
    first = started(run, "likelihood", *SAME, "likelihood.seed=0")
    while not (run / "results" / "likelihood.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.05)
    second = started(run, "likelihood", *SAME, "likelihood.seed=1")
    while not list((run / "results").glob("likelihood-*.jsonl")):
        assert second.poll() is None
        time.sleep(0.05)
    second.send_signal(signal.SIGINT)
    second.communicate()
    assert second.returncode == 130
    ended(first)
    ended(started(run, "likelihood", *SAME, "likelihood.seed=1"))
    ended(started(alone, "likelihood", *SAME, "likelihood.seed=1"))
    assert value_of(run, seed=1) == pytest.approx(value_of(alone, seed=1), abs=1e-6)
    for path in (run / "results").glob("likelihood*.jsonl"):
        assert images_in(path) == list(range(96))


@pytest.mark.slow
def test_one_question_asked_four_times_at_once_is_answered_once(run_copy):
    """By two plain commands and two of two processes each."""
    run = run_copy()
    for path in (run / "results").glob("likelihood*"):
        path.unlink()
    ended(*(started(run, "likelihood", *SAME, world=world) for world in (0, 2, 0, 2)))
    assert [path.name for path in (run / "results").glob("likelihood*.jsonl")] == [
        "likelihood.jsonl"
    ]
    assert images_in(run / "results" / "likelihood.jsonl") == list(range(96))
    assert not [path.name for path in (run / "results").iterdir() if path.name.startswith(".")]
    print("96 of 96 images once, by 4 commands at once")


@pytest.mark.slow
def test_comparisons_at_once(run_copy):
    """Two of one question and one of another: every case once, each under its heading."""
    run = run_copy()
    asked = ("compare.num_images=16", "compare.nfe=(2,3,4)", "compare.samplers=('ddim','dpm')")
    ended(*(started(run, "compare", *asked, f"compare.seed={seed}") for seed in (0, 0, 1)))
    files = sorted((run / "results").glob("compare*.jsonl"))
    assert len(files) == 2
    seeds = set()
    for path in files:
        heading, rows = unsealed(path)
        seeds.add(heading["seed"])
        assert len(rows) == len({row["case"] for row in rows}) == 6 + 2
    assert seeds == {0, 1}
    assert len(list((run / "results").glob("compare*.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("save", ["npz", "png", "pt"])
def test_one_folder_drawn_by_two_at_once(run_copy, save):
    """The files are those of one command, and the second finds them."""
    run, alone = run_copy(), run_copy("alone")
    asked = ("sampling.num_images=48", f"sampling.save={save}", "sampling.sampler=dpm")
    ended(*(started(run, "sample", *asked, world=world) for world in (0, 2)))
    ended(started(alone, "sample", *asked))
    (folder,) = [path for path in (run / "samples").iterdir() if path.is_dir()]
    (other,) = [path for path in (alone / "samples").iterdir() if path.is_dir()]

    def tree(of):
        return {p.name: p.read_bytes() for p in of.iterdir() if p.suffix != ".jsonl"}

    assert tree(folder) == tree(other)


DAMAGED_BATCHES = {
    "text": lambda row: changed(row, rows="x"),
    "less than none": lambda row: changed(row, rows=-1),
    "no rows": lambda row: changed(row, rows=LEFT_OUT),
    "no seconds": lambda row: changed(row, seconds=LEFT_OUT),
    "a nan": lambda row: changed(row, seconds=math.nan),
    "a list as its number": lambda row: changed(row, batch=[1]),
    "a fraction": lambda row: changed(row, outside=0.5),
    "garbage": lambda row: "\x00",
    "deep nesting": lambda row: changed(row)[:-1] + f', "more": {DEEP}}}',
}


@pytest.mark.slow
def test_every_damage_of_rows_is_survived(run_copy, capfd):
    """Row by row, with hashes and without: the right answer, and no traceback."""
    run, survived = run_copy(), 0
    before, path = value_of(run), run / "results" / "likelihood.jsonl"
    heading, rows = unsealed(path)
    for damage in OF_LIKELIHOOD.values():
        for marked in (True, False):
            lines = [*map(json.dumps, rows[:5]), damage(rows[5]), *map(json.dumps, rows[6:])]
            file_of(path, lines, heading, marked)
            assert ask(run, "likelihood", "likelihood.checked=0") == 0
            assert value_of(run, checked=0) == pytest.approx(before, abs=1e-6)
            survived += 1
    drawn = ("sampling.num_images=16", "sampling.save=pt", "sampling.sampler=dpm")
    assert ask(run, "sample", *drawn) == 0
    (path,) = (run / "samples").glob("*/progress-pt.jsonl")
    whole = (path.parent / "samples.pt").read_bytes()
    heading, rows = unsealed(path)
    for damage in DAMAGED_BATCHES.values():
        for marked in (True, False):
            file_of(path, [damage(rows[0]), *map(json.dumps, rows[1:])], heading, marked)
            assert ask(run, "sample", *drawn) == 0
            assert (path.parent / "samples.pt").read_bytes() == whole
            survived += 1
    capfd.readouterr()
    count = 2 * (len(OF_LIKELIHOOD) + len(DAMAGED_BATCHES))
    print(f"{survived} of {count} damaged rows: the right answer")
    assert survived == count


@pytest.mark.slow
def test_in_another_batch_a_row_differs_by_the_network_s_rounding_alone(run_copy):
    """docs/likelihood.md says by how much."""
    run, nats = run_copy(), {}
    for batch in (1, 3, 8, 12):
        (run / "results" / "likelihood.jsonl").unlink(missing_ok=True)
        assert (
            ask(run, "likelihood", f"likelihood.batch_size={batch}", "likelihood.checked=0") == 0
        )
        rows = unsealed(run / "results" / "likelihood.jsonl")[1]
        nats[batch] = torch.tensor(
            [row["nats"] for row in sorted(rows, key=lambda row: row["image"])],
            dtype=torch.float64,
        )
    apart = max(float((each - nats[1]).abs().max()) for each in nats.values())
    print(f"rows of batches of 1, 3, 8 and 12 differ by at most {apart:.1e} nats")
    assert apart < 1e-4

"""Requests that nobody should make: each ends in one line, or its work begins; never a traceback.

The requests are made from the table of keys and flags, so a new key is asked for nonsense too.
"""

import json
import os
import select
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from scoreflow.cli.main import main
from scoreflow.cli.modes import train
from scoreflow.runtime import distributed, progress_bar
from scoreflow.schema.config import KEYS, belongs_to_weights
from scoreflow.schema.section import Key

FLAGS = ("--config.model.channels=8", "--config.model.num_groups=4")
PATIENCE = 300
"""Seconds after which a request counts as one without an end."""
QUICK, ALL = 150, 2100
TURN = 50
"""Requests that one process is asked in turn."""
BY_KIND = {
    bool: ("2", "maybe", "", "none", "1.5"),
    int: ("-1", "0", "2147483647", "2147483648", str(2**63), "9" * 400, "1.5", "x", "", "nan"),
    float: ("-1", "0", "nan", "inf", "-inf", "1e308", "1e-320", "9" * 400, "x", "", "(1,)"),
    str: (
        "",
        "zzz",
        "a" * 300,
        "a" * 5000,
        "a\0b",
        "~nobodyzz/x",
        "\x1b[31mred\x1b]0;title\a",
        "\u202e\udc80",
        "test:" + "9" * 300,
        "../" * 2000,
        "/dev/null",
        "%s{0}$(id)`id`",
    ),
    tuple: ("()", "(1", "('a',)", "(9e999,)", "x", "(-1,)", "(2147483648,)", "None", "[[1]]"),
}
"""Hostile values, by the type of a key's default."""
TEXTS = (*BY_KIND[str], "1", "none", "\n", "--", "=")
FLAG_MODES = {
    "mode": ("sample",),
    "workdir": ("sample", "train", "likelihood", "compare", "classifier", "profile", "export"),
    "device": ("sample", "train"),
    "sde": ("train",),
    "sampler": ("sample", "train"),
    "samplers": ("compare", "train"),
    "data": ("train", "sample"),
    "config": ("train",),
    "from": ("import",),
    "as": ("import",),
    "recipe": ("import",),
    "set": ("import",),
    "anyway": ("import",),
    "to": ("export",),
    "out": ("export", "table", "features"),
    "weights": ("export",),
    "sort": ("table",),
    "runs": ("table", "compare"),
    "undefok": ("train",),
    "flagfile": ("train",),
    "nosuchflag": ("sample",),
}
VARIABLES = {
    "WORLD_SIZE": ("x", "0", "-1", "1.5", "9" * 30, "2", "\x1b[1m", "\u0662"),
    "RANK": ("x", "-1", "2", "9" * 30, "", "1.0"),
    "MASTER_PORT": ("x", "0", "-1", "65536", "9" * 30, ""),
    "MASTER_ADDR": ("",),
    "LOCAL_RANK": ("x", "-1", "1e3"),
}
MEETING = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@dataclass(frozen=True)
class Asked:
    """A request: a mode, its flags, variables of the environment."""

    mode: str
    flags: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)


class BegunError(BaseException):
    """The work began: the request was taken."""


def requests() -> Iterator[Asked]:
    """All requests, the same ones in the same order each time."""
    for key in KEYS.values():
        for value in BY_KIND[type(key.default)]:
            for mode in _modes(key):
                yield Asked(mode, (f"--config.{key.name}={value}",))
    for flag, modes in FLAG_MODES.items():
        for mode in modes:
            for value in TEXTS:
                yield Asked(mode, (f"--{flag}={value}",))
            yield Asked(mode, (f"--{flag}",))
            yield Asked(mode, (f"--{flag}=a", f"--{flag}=b"))
    for name, values in VARIABLES.items():
        for value in values:
            for mode in ("train", "sample", "table"):
                yield Asked(mode, (), {**MEETING, name: value})


def _modes(key: Key) -> tuple[str, ...]:
    """The modes in which a key is set to nonsense: a training stores it, others read it."""
    asked = ("sample", "likelihood", "compare", "features")
    after = [mode for mode in key.modes if mode in asked]
    if belongs_to_weights(key.name):
        return ("train", "sample") if key.name.startswith(("sde.", "data.")) else ("train",)
    return ("train", *after[:1])


def outcome(asked: Asked, run: Path, scratch: Path) -> object:
    """The exit status; "begun", or the exception that would be a traceback."""
    named = {each.partition("=")[0] for each in asked.flags}
    own = {"--mode": asked.mode, "--device": "cpu"}
    if asked.mode != "table":
        own["--workdir"] = str(scratch / "new" if asked.mode in ("train", "import") else run)
    argv = ["run.py", *(f"{flag}={text}" for flag, text in own.items() if flag not in named)]
    small = FLAGS if asked.mode == "train" else ()
    argv += [flag for flag in small if flag.partition("=")[0] not in named]
    before = dict(os.environ)
    os.environ.update(asked.variables)
    try:
        return main([*argv, *asked.flags])
    except BegunError:
        return "begun"
    except BaseException as error:  # which would be a traceback
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        os.environ.clear()
        os.environ.update(before)


def wrong_with(status: object, out: str, err: str) -> str:
    """What is wrong with an outcome; "" for nothing."""
    if status == "begun" or status == 0:
        pass
    elif status not in (1, 2):
        return f"a traceback: {status}"
    elif not err.strip().splitlines() or not err.strip().splitlines()[-1].startswith("run.py: "):
        return f"no line: {err[-300:]!r}"
    elif len(err.strip().splitlines()) > 3 or len(err) > 6000:
        return f"more than a line: {err[-300:]!r}"
    strange = {each for each in out + err if not each.isprintable()} - {"\n", "\t", "\r"}
    return f"what a terminal obeys was printed: {sorted(strange)}" if strange else ""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends a request where its work would begin."""

    def begin(*_args: object, **_named: object) -> None:
        raise BegunError

    monkeypatch.setattr(progress_bar.Progress, "__init__", begin)
    monkeypatch.setattr(distributed, "MEETING", timedelta(seconds=0.1))


@pytest.mark.usefixtures("begun")
def test_bad_requests_end_in_a_line(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # of trainings, up to where torch comes in: the other modes read a run first (the slow test)
    monkeypatch.setattr(train, "run", progress_bar.Progress)
    every = [each for each in requests() if each.mode == "train"]
    wrong = []
    for asked in every[:: len(every) // QUICK]:
        capfd.readouterr()
        status = outcome(asked, tmp_path / "none", tmp_path)
        out, err = capfd.readouterr()
        if said := wrong_with(status, out, err):
            wrong.append(f"{asked}: {said}"[:600])
    assert wrong == []


@pytest.mark.slow
@pytest.mark.usefixtures("begun")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a request without an end is ended by a fork")
def test_all_bad_requests_end_in_a_line(run_copy, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    every, wrong = list(requests()), []
    assert len(every) >= ALL
    run = run_copy("run")

    def answer(asked: Asked) -> str:
        shutil.rmtree(tmp_path / "new", ignore_errors=True)  # which the request before began
        capfd.readouterr()
        status = outcome(asked, run, tmp_path)
        return wrong_with(status, *capfd.readouterr())

    for asked, said in in_children(answer, every):
        if said:
            wrong.append(f"{asked.mode} {asked.flags} {asked.variables}: {said}"[:600])
            with capfd.disabled():
                print(f"\n{wrong[-1]!r}", flush=True)
    with capfd.disabled():
        print(f"\n{len(every) - len(wrong)} of {len(every)} bad requests: one line or begun")
    assert wrong == []


def in_children(ask: Callable[[Asked], str], every: list[Asked]) -> Iterator[tuple[Asked, str]]:
    """Each request with what is wrong with it, asked in processes that are ended if need be.

    A process asks `TURN` requests, since a fork takes longer than most of them.
    """
    left = every
    while left:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                for asked in left[:TURN]:
                    os.write(write, json.dumps(ask(asked)[:600]).encode() + b"\n")
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb", buffering=0) as told:
            for asked in left[:TURN]:
                line = told.readline() if select.select([told], [], [], PATIENCE)[0] else None
                left = left[1:]
                yield asked, json.loads(line) if line else "no end" if line is None else "died"
                if not line:
                    break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

"""Checkpoints that fit their hash and hold something else, and the same bytes after any kill."""

import hashlib
import io
import json
import math
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.schema.config import Config
from scoreflow.schema.request import Request, flatten
from scoreflow.storage.checkpoints import content
from scoreflow.storage.checkpoints.states import DamagedError, read_state, sidecar, write_state
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import open_run
from scoreflow.training import initial
from scoreflow.training.trainer import check_state

LAST, BEFORE = 60, 50
SAMPLE = ("--mode=sample", "--sampler=ddim", "--config.sampling.steps=2")


def run(mode, folder, *flags):
    return main(["run.py", *([mode] if isinstance(mode, str) else mode), *flags,
                 "--device=cpu", f"--workdir={folder}"])  # fmt: skip


def go_on(folder):
    """Train to the last step, as --mode train does, without the samples at its end."""
    config = Config.of_flat(flatten(RunDir.open(folder).config), "the test")
    return list(sf.train(config.to_config_dict(), folder, device="cpu"))


def path_of(folder, step=LAST):
    return folder / "checkpoints" / f"{step:08d}.pt"


def state_of(folder, step=LAST):
    return read_state(path_of(folder, step), "cpu")


def with_its_hash(path, data):
    """Bytes in the place of a checkpoint, under a hash that fits, as a copy leaves them."""
    path.write_bytes(data)
    sidecar(path).write_text(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")


def set_in(*where, to):
    def change(state):
        for key in where[:-1]:
            state = state[key]
        if callable(to):
            state[where[-1]] = to(state[where[-1]])
        else:
            state[where[-1]] = to

    return change


def without(*where):
    def change(state):
        for key in where[:-1]:
            state = state[key]
        del state[where[-1]]

    return change


def first(weights):
    return next(iter(weights))


def in_weights(change):
    """A change of the first tensor of weights."""
    return lambda held: {**held, first(held): change(held[first(held)])}


GROUP, MOMENTS = ("optimizer", "param_groups", 0), ("optimizer", "state", 0)
TRAINED_WITH = {
    "trained_with 5": set_in("trained_with", to=5),
    "trained_with.config a list": set_in("trained_with", "config", to=[1]),
    "trained_with's values a list": set_in("trained_with", "config", "values", to=[1]),
    "trained_with's values none": set_in("trained_with", "config", "values", to=None),
    "trained_with of a list and its hash": set_in(
        "trained_with", to=content.trained_with(config=[1])["trained_with"]
    ),
    "trained_with of other values": set_in(
        "trained_with", "config", "values", "sde.num_steps", to=7
    ),
    "trained_with of a tensor": set_in(
        "trained_with", "config", "values", "sde.num_steps", to=torch.zeros(2, device="meta")
    ),
    "trained_with of other data": set_in("trained_with", "data", "sha256", to="x"),
}
"""What a state can say of its training that does not hold."""
SEEN_BY_SAMPLE = ("step", "half", "no step", "ema", "no ema", "trained_with")
CONTENT = {
    "step of text": set_in("step", to="x"),
    "step below 0": set_in("step", to=-5),
    "half a step": set_in("step", to=60.0),
    "step 10^9": set_in("step", to=10**9),
    "step of a bool": set_in("step", to=True),
    "no step": without("step"),
    "no ema": without("ema"),
    "ema a list": set_in("ema", to=[]),
    "ema of numbers": set_in("ema", to=lambda held: dict.fromkeys(held, 1.0)),
    "ema empty": set_in("ema", to={}),
    "ema lacks one": set_in("ema", to=lambda held: dict(list(held.items())[1:])),
    "ema has one more": set_in("ema", to=lambda held: {**held, "more": torch.zeros(1)}),
    "ema of float64": set_in("ema", to=in_weights(torch.Tensor.double)),
    "ema of float8": set_in("ema", to=in_weights(lambda w: w.to(torch.float8_e4m3fn))),
    "ema sparse": set_in("ema", to=in_weights(torch.Tensor.to_sparse)),
    "ema without numbers": set_in("ema", to=in_weights(lambda w: w.to("meta"))),
    "ema of complex": set_in("ema", to=in_weights(lambda w: w.to(torch.complex64))),
    "ema with nan": set_in("ema", to=in_weights(lambda w: w * math.nan)),
    "ema with inf": set_in("ema", to=in_weights(lambda w: w + math.inf)),
    "ema of another shape": set_in("ema", to=in_weights(lambda w: w[..., None])),
    "model None": set_in("model", to=None),
    "model with nan": set_in("model", to=in_weights(lambda w: w * math.nan)),
    "model of another shape": set_in("model", to=in_weights(lambda w: w.flatten()[:1])),
    "no optimizer": without("optimizer"),
    "optimizer 5": set_in("optimizer", to=5),
    "optimizer without state": set_in("optimizer", "state", to={}),
    "optimizer's state a list": set_in("optimizer", "state", to=[]),
    "no param_groups": without("optimizer", "param_groups"),
    "two param_groups": set_in("optimizer", "param_groups", to=lambda g: [*g, *g]),
    "param_groups of None": set_in("optimizer", "param_groups", to=[None]),
    "betas of text": set_in(*GROUP, "betas", to="x"),
    "betas above 1": set_in(*GROUP, "betas", to=(2.0, 3.0)),
    "eps nan": set_in(*GROUP, "eps", to=math.nan),
    "lr of text": set_in(*GROUP, "lr", to="fast"),
    "lr nan": set_in(*GROUP, "lr", to=math.nan),
    "fewer params": set_in(*GROUP, "params", to=lambda params: params[:-1]),
    "moment of another shape": set_in(*MOMENTS, "exp_avg", to=torch.zeros(1)),
    "moment of float64": set_in(*MOMENTS, "exp_avg_sq", to=torch.Tensor.double),
    "moment sparse": set_in(*MOMENTS, "exp_avg", to=torch.Tensor.to_sparse),
    "no moment": without(*MOMENTS, "exp_avg"),
    "moment of text": set_in(*MOMENTS, "exp_avg", to="x"),
    "moments 5": set_in(*MOMENTS, to=5),
    "moments' step nan": set_in(*MOMENTS, "step", to=torch.tensor(math.nan)),
    "moments of no parameter": set_in("optimizer", "state", 10**6, to={}),
    "pending of text": set_in("pending", to="x"),
    "pending of another shape": set_in("pending", to=torch.zeros(3)),
    "scaler of nothing": set_in("scaler", to={}),
    "scale of text": set_in("scaler", to={"scale": "x"}),
    **TRAINED_WITH,
}
"""What a state can hold that fits its hash and none of which a training may go on from."""


def of_torch(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def an_archive(name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"x")
    return stream.getvalue()


BYTES = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"hello, this is no checkpoint",
    "cut in half": lambda whole: whole[: len(whole) // 2],
    "cut by a byte": lambda whole: whole[:-1],
    "no archive's end": lambda whole: whole[:-200],
    "zeros": lambda whole: bytes(len(whole)),
    "an archive of something else": lambda whole: an_archive("readme.txt"),
    "an archive of a bad pickle": lambda whole: an_archive("archive/data.pkl"),
    "a list": lambda whole: of_torch([1, 2]),
    "a number": lambda whole: of_torch(5),
    "an object": lambda whole: of_torch({"step": LAST, "path": Path("x")}),
    "a bare pickle": lambda whole: b"\x80\x02}q\x00.",
    "pickle's end alone": lambda whole: b".",
}


@pytest.fixture(scope="module")
def network(trained):
    return sf.load(trained, "cpu").experiment.network


@pytest.mark.parametrize("kind", CONTENT)
def test_what_a_state_holds_is_checked(kind, trained, network):
    state = state_of(trained)
    check_state(network, LAST, state)  # as it is, it passes
    CONTENT[kind](state)
    with pytest.raises(DamagedError) as caught:
        check_state(network, LAST, state)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("kind", BYTES)
def test_bytes_that_are_no_checkpoint_are_damage(kind, trained, tmp_path):
    path = tmp_path / "00000060.pt"
    with_its_hash(path, BYTES[kind](path_of(trained).read_bytes()))
    with pytest.raises(DamagedError, match=r"00000060\.pt"):
        read_state(path, "cpu")
    content.glance(path)  # says nothing, whatever it is


@pytest.mark.parametrize("kind", ["step 10^9", "ema with nan"])
def test_a_mode_takes_the_checkpoint_before_a_bad_one_and_says_so(kind, run_copy, capsys):
    folder = run_copy()
    state = state_of(folder)
    CONTENT[kind](state)
    write_state(path_of(folder), state)
    assert run(SAMPLE, folder) == 0
    out = capsys.readouterr().out
    assert "passed over a damaged checkpoint" in out
    assert "00000060.pt fits its hash, but" in out
    assert (folder / "samples" / "00000050-ddim.png").exists()


def damage_a_byte_of_what_it_was_trained_with(path):
    data = bytearray(path.read_bytes())
    at = data.index(b"linear")
    data[at] ^= 1
    path.write_bytes(data)
    return bytes(data)


@pytest.mark.parametrize("fits", [True, False])
def test_a_damaged_byte_in_what_it_was_trained_with_costs_one_checkpoint(
    fits, run_copy, trained, capsys
):
    """Whether its hash fits or not, every mode goes on from the one before it, with a line."""
    folder = run_copy()
    data = damage_a_byte_of_what_it_was_trained_with(path_of(folder))
    if fits:
        with_its_hash(path_of(folder), data)
    told = r"00000060.pt fits its hash, but trained_with.config does not fit its hash"
    told = told if fits else "does not fit its hash"
    for mode in (SAMPLE, ("--mode=likelihood", "--config.likelihood.num_images=2")):
        assert run(mode, folder) == 0
        out = capsys.readouterr().out
        assert "passed over a damaged checkpoint" in out
        assert told in out
    assert (folder / "samples" / "00000050-ddim.png").exists()
    assert [each.step for each in go_on(folder)] == [55, 60]
    assert told in capsys.readouterr().out
    assert path_of(folder).read_bytes() == path_of(trained).read_bytes()


@pytest.mark.parametrize("kind", ["pipe", "folder", "pipe for its hash", "link"])
def test_what_is_no_file_is_a_damaged_checkpoint_and_keeps_nobody_waiting(
    kind, run_copy, tmp_path, capsys
):
    folder = run_copy()
    path = sidecar(path_of(folder)) if "hash" in kind else path_of(folder)
    aside = path.rename(tmp_path / "aside")
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(aside)
    else:
        os.mkfifo(path)
    assert run(SAMPLE, folder) == 0
    out = capsys.readouterr().out
    read = LAST if kind == "link" else BEFORE  # which are read through, and never written
    assert (folder / "samples" / f"{read:08d}-ddim.png").exists()
    what = "Is a directory" if kind == "folder" else "it is no regular file"
    assert (f"{path} cannot be read ({what})" in out) == (kind != "link")
    if kind != "folder":
        assert [each.step for each in go_on(folder)] == ([] if kind == "link" else [55, 60])


@pytest.mark.parametrize("kind", TRAINED_WITH)
def test_what_it_was_trained_with_is_passed_over_where_it_does_not_hold(kind, run_copy):
    folder = run_copy()
    state = state_of(folder)
    TRAINED_WITH[kind](state)
    write_state(path_of(folder), state)
    step, earlier = RunDir.open(folder).glance()
    assert step == BEFORE
    assert content.values_in(earlier)["sde.name"] == "vp"
    lines = []
    run_of = open_run(Request("", folder, "cpu", "", {}, {}, False), lines.append)
    assert run_of.step == BEFORE
    (line,) = [each for each in lines if "passed over" in each]
    assert "trained_with" in line
    beginning = initial.read(folder)
    assert beginning.step == BEFORE


def test_a_training_goes_on_from_the_one_before_to_the_same_bytes(run_copy, trained, capsys):
    folder = run_copy()
    state = state_of(folder)
    CONTENT["optimizer without state"](state)
    write_state(path_of(folder), state)
    assert [each.step for each in go_on(folder)] == [55, 60]
    out = capsys.readouterr().out
    assert "optimizer: it has no state, and steps were taken" in out
    assert path_of(folder).read_bytes() == path_of(trained).read_bytes()


def test_without_another_one_it_is_a_line(run_copy, capsys):
    folder = run_copy()
    for step in (BEFORE, LAST):
        with_its_hash(path_of(folder, step), b"not a checkpoint")
    for mode in (SAMPLE, "--mode=train", "--mode=likelihood"):
        assert run(mode, folder) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "has no whole checkpoint" in line
        assert "train again, in a new folder" in line


def test_one_that_was_asked_for_is_not_replaced_by_another(run_copy, capsys):
    folder = run_copy()
    state = state_of(folder)
    state["step"] = 7
    write_state(path_of(folder), state)
    assert run(SAMPLE, folder, "--config.sampling.step=60") == 2
    assert "its step must be 60, as in its name, got 7" in capsys.readouterr().err


def test_what_it_was_trained_with_fits_its_own_hash(trained):
    state = state_of(trained)
    assert content.values_in(state)["sde.name"] == "vp"
    assert content.values_in({}) == {}
    state["trained_with"]["config"]["values"]["sde.name"] = "ve"
    with pytest.raises(DamagedError, match=r"trained_with\.config does not fit its hash"):
        content.values_in(state)
    for odd in (5, {"config": 5}, {"config": {"values": 5, "sha256": 5}}, {"config": {}}):
        with pytest.raises(DamagedError, match="trained_with"):
            content.values_in({"trained_with": odd})


def test_runs_that_are_older_than_such_entries_go_on_without_a_word(run_copy, trained, capsys):
    folder = run_copy()
    for step in (BEFORE, LAST):
        state = state_of(folder, step)
        del state["trained_with"]
        write_state(path_of(folder, step), state)
    path_of(folder).unlink()
    sidecar(path_of(folder)).unlink()
    assert run(SAMPLE, folder) == 0
    go_on(folder)
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 2, out  # the sampler's own
    assert "damaged" not in out
    assert path_of(folder).read_bytes() == path_of(trained).read_bytes()


def test_rows_that_were_lost_before_a_resume_are_said(run_copy, capsys):
    folder = run_copy()
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:3] + lines[5:]))
    path_of(folder).unlink()
    sidecar(path_of(folder)).unlink()
    go_on(folder)
    out = capsys.readouterr().out
    assert "metrics.jsonl lacks 2 of the 10 rows up to step 50" in out
    assert "the first is of step 20, the last of 25" in out


def test_a_classifier_that_is_something_else_is_a_line(run_copy, capsys):
    folder = run_copy()
    few = ("--config.classifier.num_steps=2", "--config.classifier.width=8")
    assert run("--mode=classifier", folder, *few) == 0
    path, guided = folder / "classifier.pt", ("--config.sampling.guidance=2.0",)
    guided += ("--config.sampling.label=3",)
    whole = read_state(path, "cpu")
    capsys.readouterr()
    for change, told in (
        (set_in("network", to=in_weights(lambda w: w * math.nan)), "not finite"),
        (set_in("width", to="x"), "is damaged"),
        (set_in("shape", to=None), "is damaged"),
        (set_in("network", to=[]), "is damaged"),
    ):
        state = dict(whole)
        change(state)
        write_state(path, state)
        assert run(SAMPLE, folder, *guided) == 2
        assert told in capsys.readouterr().err
    other = dict(whole["trained_with"]["config"]["values"], **{"sde.schedule": "cosine"})
    write_state(path, {**whole, **content.trained_with(config=other)})
    assert run(SAMPLE, folder, *guided) == 2
    assert "was trained with sde.schedule = cosine, and the run with" in capsys.readouterr().err
    write_state(path, whole)
    assert run(SAMPLE, folder, *guided) == 0


@pytest.mark.slow
def test_twenty_resumes_under_load_end_in_the_same_bytes(trained, run_copy, capsys):
    """Cut back to every checkpoint in turn, beside processes that keep all cores busy."""
    load = [
        subprocess.Popen([sys.executable, "-c", "while True: sum(range(10**5))"])
        for _ in range(2 * (os.cpu_count() or 1))
    ]
    same, rows = 0, metrics_of(trained)
    try:
        for k in range(20):
            folder = run_copy(f"run{k}")
            cut_back_to(folder, BEFORE)
            go_on(folder)
            assert path_of(folder).read_bytes() == path_of(trained).read_bytes()
            assert metrics_of(folder) == rows
            same += 1
    finally:
        for process in load:
            process.kill()
            process.wait()
    with capsys.disabled():
        print(f"\n{same} of 20 resumed trainings under load: the same bytes")


def cut_back_to(folder, step):
    for path in (folder / "checkpoints").glob("*.pt"):
        if int(path.stem) > step:
            path.unlink()
            sidecar(path).unlink()


def metrics_of(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


@pytest.mark.slow
def test_every_bad_content_in_every_mode(trained, run_copy, capsys):
    """All kinds through sample and train: the one before it is taken, with a line.

    Sampling reads the averaged weights and the step, and does not see what is wrong elsewhere.
    """
    survived, tried = 0, 0
    kinds = {**CONTENT, **BYTES}
    for number, (kind, change) in enumerate(kinds.items()):
        folder = run_copy(f"run{number}")
        if kind in CONTENT:
            state = state_of(folder)
            change(state)
            write_state(path_of(folder), state)
        else:
            with_its_hash(path_of(folder), change(path_of(folder).read_bytes()))
        for mode in ("sample", "train"):
            tried += 1
            assert run(SAMPLE, folder) == 0 if mode == "sample" else go_on(folder), kind
            told = capsys.readouterr().out
            seen = mode == "train" or kind in BYTES or kind.startswith(SEEN_BY_SAMPLE)
            assert not seen or "passed over a damaged checkpoint" in told, (kind, mode)
            survived += 1
        assert path_of(folder).read_bytes() == path_of(trained).read_bytes(), kind
    with capsys.disabled():
        print(f"\n{survived} of {tried} bad checkpoints: the one before it, with a line")

"""One training, however many processes and parts its batches are split into."""

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from scoreflow.cli.main import main
from scoreflow.errors import RequestError, RunError
from scoreflow.runtime import distributed
from scoreflow.runtime.distributed import Shard

ROOT = Path(__file__).parents[3]
TRAINING = (
    "--config.training.num_steps=6",
    "--config.training.batch_size=7",
    "--config.training.log_every=2",
    "--config.training.checkpoint_every=2",
    "--config.training.low_discrepancy=true",
    "--config.sampling.num_images=4",
    "--config.sampling.steps=2",
    "--config.likelihood.num_images=4",
    "--config.likelihood.nodes=8",
    "--config.likelihood.checked=1",
)
TOY = (f"--config={ROOT / 'configs' / 'toy.py'}", "--config.model.width=16")


def command(workdir, *more):
    return [
        str(ROOT / "run.py"),
        "--mode=train",
        f"--workdir={workdir}",
        "--device=cpu",
        *more,
        *TRAINING,
    ]


def weights(workdir, step=6):
    path = workdir / "checkpoints" / f"{step:08d}.pt"
    return torch.load(path, weights_only=True)


def close(a, b):
    for part in ("model", "ema"):
        assert a[part].keys() == b[part].keys()
        for name in a[part]:
            torch.testing.assert_close(a[part][name], b[part][name], rtol=1e-4, atol=1e-6)


UNET = ("--config.model.channels=8", "--config.model.num_groups=4", "--config.model.dropout=0.4")
UNET += ("--config.model.multipliers=(1,)", "--config.model.attention_sizes=()")
UNET += ("--config.sampling.tolerance=0.5", "--config.model.conditional=true")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    assert main(command(workdir, *TOY)) == 0
    return workdir


@pytest.fixture(scope="module")
def together(tmp_path_factory, torchrun):
    """Two processes, with four and with three of each batch."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    done = torchrun(2, *command(workdir, *TOY))
    assert done.returncode == 0, done.stderr
    return workdir


def test_two_processes_train_what_one_does(alone, together):
    close(weights(alone), weights(together))
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (alone, together)
    ]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] == [2, 4, 6]
    for one, two in zip(*rows, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)


@pytest.mark.slow
def test_four_processes_train_what_one_does(alone, torchrun, tmp_path):
    done = torchrun(4, *command(tmp_path / "run", *TOY))
    assert done.returncode == 0, done.stderr
    close(weights(alone), weights(tmp_path / "run"))


def test_two_processes_leave_one_runs_results(alone, together):
    """One process speaks and writes; the images of the likelihood are shared."""
    names = {path.name for path in (alone / "results").iterdir()}
    more = {path.name for path in (together / "results").iterdir()} - names
    assert names <= {path.name for path in (together / "results").iterdir()}
    assert all(".rank1." in name for name in more)
    assert (together / "report.html").exists()


def test_one_process_goes_on_where_two_were(alone, together, tmp_path):
    workdir = Path(shutil.copytree(together, tmp_path / "run"))
    for path in (workdir / "checkpoints").glob("00000006.*"):
        path.unlink()
    assert main(command(workdir, *TOY)) == 0
    close(weights(workdir), weights(alone))


@pytest.mark.parametrize("parts", [2, 7])
def test_parts_of_a_batch_add_up_to_it(alone, tmp_path, parts):
    workdir = tmp_path / "run"
    assert main(command(workdir, *TOY, f"--config.training.micro_batches={parts}")) == 0
    close(weights(workdir), weights(alone))


def test_dropout_and_hidden_labels_are_those_of_one_process_and_part(forked, tmp_path):
    """They belong to an image's place in the batch."""
    runs = [tmp_path / name for name in ("alone", "together", "parts")]
    assert main(command(runs[0], *UNET)) == 0
    done = forked(2, *command(runs[1], *UNET))
    assert done.returncode == 0, done.stderr
    assert main(command(runs[2], *UNET, "--config.training.micro_batches=3")) == 0
    for other in runs[1:]:
        close(weights(runs[0]), weights(other))


def test_a_batch_must_have_something_for_each(tmp_path, capsys):
    workdir = tmp_path / "run"
    assert main(command(workdir, *TOY, "--config.training.micro_batches=8")) == 2
    error = capsys.readouterr().err
    assert "training.batch_size must be at least processes x training.micro_batches" in error
    assert error.count("\n") == 1 or "\r" in error  # besides what a progress bar leaves


@pytest.mark.parametrize(
    ("wrong", "status", "reason"),
    [
        ("micro_batches=4", 2, "must be at least processes x training.micro_batches (2 x 4)"),
        pytest.param("learning_rate=1e30", 1, "not finite", marks=pytest.mark.slow),
    ],
)
def test_processes_that_fail_end_with_their_own_status(torchrun, tmp_path, wrong, status, reason):
    """Not aborted (-6) by the group that they have joined: a refusal is 2, a failure 1."""
    done = torchrun(2, *command(tmp_path / "run", *TOY, f"--config.training.{wrong}"))
    assert done.returncode != 0
    assert reason in done.stderr
    assert "terminate called" not in done.stderr
    first = re.search(r"Root Cause.*?exitcode\s*:\s*(-?\d+)", done.stderr, re.DOTALL)
    assert first is not None, done.stderr
    assert int(first[1]) == status


@pytest.mark.parametrize("error", [RequestError, RunError, KeyboardInterrupt, ZeroDivisionError])
def test_the_group_is_left_however_a_command_ends(error, monkeypatch, capfd):
    left = []

    def fail(*_):
        raise error("on purpose")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "leave", lambda: left.append(error))
    monkeypatch.setattr("scoreflow.cli.main._run", fail)
    with pytest.raises(error) if error is ZeroDivisionError else nullcontext():
        assert main(["run.py", "--mode=train"]) in (1, 2, 130)
    assert left == [error]


@pytest.mark.parametrize(("count", "world"), [(7, 2), (8, 3), (3, 3), (2, 5)])
def test_shares_are_a_partition_into_like_parts(count, world):
    places = torch.arange(count)
    shares = [places[Shard(rank, world).slice_of(count)] for rank in range(world)]
    assert torch.cat(shares).tolist() == places.tolist()
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


SIGNALLED = """
import os, signal, sys
from scoreflow.cli.main import script
from scoreflow.training.trainer import Trainer

whole = Trainer._advance

def step(self):
    if self.step == 2 and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGTERM)
    return whole(self)

Trainer._advance = step
script()
"""


@pytest.mark.slow
def test_all_processes_stop_at_one_step_where_one_is_asked_to(torchrun, alone, tmp_path):
    """A signal that comes after a step's question is answered at the end of the next one."""
    script, workdir = tmp_path / "run.py", tmp_path / "run"
    script.write_text(SIGNALLED)
    _, *flags = command(workdir, *TOY)
    done = torchrun(2, str(script), *flags)
    assert done.stderr.count("stopped at step 4, which is saved") == 2
    assert (workdir / "checkpoints" / "00000004.pt").exists()
    assert not (workdir / "checkpoints" / "00000006.pt").exists()
    assert torchrun(2, *command(workdir, *TOY)).returncode == 0
    close(weights(alone), weights(workdir))

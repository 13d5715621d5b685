"""The likelihood benchmark: that both procedures are right, and what it makes of its numbers."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.likelihood import (
    accuracy,
    bench,
    command,
    outliers,
    probes,
    report,
    settings,
    timing,
)
from benchmarks.likelihood.methods import ours, solver_of, usual
from benchmarks.likelihood.smooth_schedule import Smooth
from scoreflow.cli.main import main as run_py
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise
from scoreflow.sde.processes.vp import VPSDE

ROOT = Path(__file__).parents[2]
F64 = torch.float64
TABLE = VPSDE.log_linear(40, sigma_min=1e-2, alpha_min=1e-5)
CLOCKS = {"as trained": TABLE, "smooth": Smooth(TABLE)}
TOLERANCE = {"as trained": 1e-4, "smooth": 1e-5}
WITHIN = {"as trained": 5e-2, "smooth": 2e-4}  # bits/dim: no tolerance knows what kinks cost
MEAN, VARIANCE, LEVELS = 0.3, 0.25, 17


class GaussianPixels(nn.Module):
    """The exact v of independent N(0.3, 0.25) pixels."""

    def __init__(self, sde):
        super().__init__()
        self.sde = sde

    def forward(self, x, index):
        t = index.to(F64) + 1
        alpha, sigma = (each.view(-1, 1, 1, 1) for each in (self.sde.alpha(t), self.sde.sigma(t)))
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        x_0 = MEAN + gain * (x - alpha * MEAN)
        return (alpha / sigma * x - x_0 / sigma).to(x.dtype)


class Mixing(nn.Module):
    """A smooth field whose Jacobian is far from diagonal."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(4, 4, generator=generator) / 2)

    def forward(self, x, index):
        turned = torch.tanh(x.flatten(1) @ self.weight + (index / 40)[:, None])
        return turned.view_as(x)


def model_of(network, clock):
    return ScoreModel(network, CLOCKS[clock], "v")


def points_of(model, count=3):
    levels = torch.randint(0, LEVELS, (count, 1, 2, 2), generator=torch.Generator().manual_seed(1))
    return bench.points_of(model, levels.to(torch.uint8), LEVELS, 1.0)


# ---- both procedures


@pytest.mark.parametrize("clock", CLOCKS)
def test_both_meet_a_closed_form(clock):
    """Independent pixels: any signs give the divergence exactly."""
    sde = CLOCKS[clock]
    model = model_of(GaussianPixels(sde), clock)
    points, t = points_of(model), torch.tensor(1.0, dtype=F64)
    alpha, variance = sde.alpha(t), sde.alpha(t) ** 2 * VARIANCE + sde.variance(t)
    energy = (points.x - alpha * MEAN) ** 2 / variance + torch.log(2 * math.pi * variance)
    exact = points.bits(-0.5 * energy.flatten(1).sum(1, keepdim=True))
    theirs = [usual(model, points, TOLERANCE[clock], passes) for passes in (2, 1)]
    own = ours(model, points, solver_of(1e-5))
    for found, within in (*((each, WITHIN[clock]) for each in theirs), (own, 2e-5)):
        assert found.unsolved == 0
        torch.testing.assert_close(found.bits, exact, rtol=0, atol=within)


@pytest.mark.parametrize("clock", CLOCKS)
def test_both_agree_on_one_probe(clock):
    model = model_of(Mixing(), clock)
    points = points_of(model)
    truth = ours(model, points, solver_of(1e-7)).bits
    theirs = usual(model, points, TOLERANCE[clock])
    torch.testing.assert_close(theirs.bits, truth, rtol=0, atol=WITHIN[clock])
    own = ours(model, points, solver_of(1e-5), capacity=2)
    torch.testing.assert_close(own.bits, truth, rtol=0, atol=2e-4)
    exact = ours(model, points, solver_of(1e-5, probes=0)).bits
    assert float((exact - truth).abs().min()) > 1e-3  # the probe is what they agree on


def test_passes_and_products_are_counted():
    model = model_of(Mixing(), "smooth")
    points = points_of(model)
    two, one = (usual(model, points, 1e-3, passes) for passes in (2, 1))
    assert two.forwards == 2 * two.products == 2 * float(two.evaluations[0])
    assert one.forwards == one.products == float(one.evaluations[0])
    torch.testing.assert_close(one.bits, two.bits, rtol=0, atol=1e-5)
    own = ours(model, points, solver_of(1e-3, probes=4))
    assert own.forwards == pytest.approx(float(own.evaluations.double().mean()))
    assert own.products == 4 * own.forwards


def test_the_usual_procedure_gives_up():
    model = model_of(Mixing(), "smooth")
    found = usual(model, points_of(model), 1e-5, cap=-1.0)
    assert found.unsolved == 3
    assert bool(found.bits.isnan().all())


@pytest.mark.parametrize("table", [TABLE, VPSDE.linear(100), VPSDE.cosine(100)])
def test_the_smooth_schedule_is_the_table_at_integers(table):
    smooth, n = Smooth(table), table.num_steps
    at = torch.arange(1, n + 1, dtype=F64)
    torch.testing.assert_close(smooth.log_snr(at), table.log_snr(at))
    torch.testing.assert_close(smooth.alpha(at), table.alpha(at))
    between = torch.linspace(1, n, 77, dtype=F64)
    torch.testing.assert_close(smooth.time(smooth.angle(between)), between, rtol=0, atol=1e-7)
    inside = between[1:-1] + 0.01
    torch.testing.assert_close(smooth.drift(inside), SDE.drift(smooth, inside))
    torch.testing.assert_close(smooth.diffusion(inside), SDE.diffusion(smooth, inside))


# ---- outliers


@pytest.mark.parametrize("kind", outliers.OUTLIERS)
def test_the_last_two_of_a_crowd_are_outliers(kind):
    levels = torch.randint(0, LEVELS, (5, 1, 8, 8), generator=torch.Generator().manual_seed(2))
    levels = levels.to(torch.uint8)
    crowd = outliers.crowd_of(levels, LEVELS, kind)
    assert crowd.dtype == levels.dtype
    assert torch.equal(crowd[:3], levels[:3])
    assert int(crowd.max()) < LEVELS
    changed = (crowd != levels).flatten(1)
    assert bool(changed[3:].any(1).all())
    assert not torch.equal(changed[3], changed[4])


def test_flipped_pixels_are_at_the_opposite_extreme():
    levels = torch.randint(0, LEVELS, (2, 1, 8, 8), generator=torch.Generator().manual_seed(3))
    found = outliers.flipped(levels.to(torch.uint8), Noise.of(0, 0, 2), LEVELS).long()
    changed = found != levels
    assert changed.flatten(1).sum(1).tolist() == [outliers.FLIPPED] * 2
    assert bool((found[changed] == torch.where(levels[changed] > 8, 0, 16)).all())


# ---- what is concluded


def curve(method, errors, seconds, tolerances=None):
    return [
        {
            "method": method, "tolerance": tol, "rms_error": error, "mean_error": error / 2,
            "seconds": s, "unsolved": 0,
        }
        for error, s, tol in zip(errors, seconds, tolerances or errors, strict=True)
    ]  # fmt: skip


def test_seconds_at_equal_error_are_interpolated():
    fast = curve("ours", [1e-1, 1e-3], [1.0, 10.0])  # seconds = error^(-1/2) up to a factor
    slow = curve("usual", [1e-2, 1e-4], [6 * 10**0.5, 6 * 10**1.5])
    found = accuracy.seconds_at_equal_error(slow, fast)
    assert found["overlap"] == pytest.approx([1e-3, 1e-2])
    assert [found[k] for k in ("min", "median", "max")] == pytest.approx([6, 6, 6])
    beaten = curve("ours", [2e-1], [5.0])  # slower and worse than another row: nobody's choice
    assert accuracy.seconds_at_equal_error(slow, fast + beaten) == found


def test_curves_that_do_not_overlap_say_so():
    fast, slow = curve("ours", [1e-4, 1e-5], [1, 2]), curve("usual", [1e-2, 1e-3], [1, 2])
    found = accuracy.seconds_at_equal_error(slow, fast)
    assert found["overlap"] is None
    assert "no overlap, 1.0e-03 .. 1.0e-02 there" in report.at_equal_error(found)
    unsolved = accuracy.seconds_at_equal_error(curve("usual", [], []), fast)
    assert "not known" in report.at_equal_error(unsolved)


def test_the_loosest_tolerance_is_not_chosen_by_luck():
    tolerances = [1e-2, 3e-3, 1e-3, 1e-4]
    rows = curve("ours", [1e-4, 1e-2, 1e-3, 1e-4], [1, 2, 3, 4], tolerances)
    rows += curve("usual", [1e-4], [30], [settings.USUAL])
    found = accuracy.gains(rows)
    assert found["ours_tolerance"] == 1e-3  # 1e-2 has a small error too, 3e-3 has not
    assert found["against"]["usual"]["usual_tolerance_over_ours"] == 10
    assert found["against"]["usual"]["as_accurate"] == [[settings.USUAL, 30]]
    rows[3]["mean_error"] = 1.0
    assert accuracy.gains(rows)["ours_tolerance"] is None


def outcome(bits):
    return bench.Outcome(torch.tensor([[b] for b in bits]), torch.tensor([8, 10]), 9.0, 9.0, 0)


def test_jobs_take_turns_and_slow_ones_are_not_repeated(monkeypatch):
    order, truth = [], torch.tensor([1.0, 2.0])

    def run(name, bits):
        return lambda n: order.append((name, n)) or outcome(bits)

    quick = timing.Job({"method": "quick"}, run("quick", [1.1, 1.7]), truth)
    slow = timing.Job({"method": "slow"}, run("slow", [1.0, math.nan]), truth)
    ticks = iter([0.0, 1.0, 0.0, 100.0, 0.0, 3.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks))
    rows = timing.in_turn([quick, slow], 2)
    assert order == [("quick", 0), ("slow", 0), ("quick", 1)]
    assert [row["seconds"] for row in rows] == [2.0, 100.0]
    errors = [rows[0][key] for key in ("mean_error", "rms_error", "worst_error")]
    assert errors == pytest.approx([-0.1, 0.05**0.5, 0.3], rel=1e-5)
    assert rows[1]["rms_error"] is None
    assert rows[0]["evaluations"] == 9.0


def of_four_pixels():
    model = model_of(Mixing(), "smooth")
    levels = torch.randint(0, LEVELS, (6, 1, 2, 2), generator=torch.Generator().manual_seed(4))
    found = bench.Bench({"as trained": model}, levels.to(torch.uint8), LEVELS, 1.0, 0)
    return probes.divergence(found, 6, 4)


def test_probes_err_as_their_spread_says():
    rows = of_four_pixels()
    assert [row["probes"] for row in rows] == [1, 2, 4, 0]
    assert [row["expected"] for row in rows[2:]] == [0, 0]
    one, two, every, exact = (row["rms_error"] for row in rows)
    assert exact == 0
    assert every < 0.02 < two < one  # what is left is the solver's
    for row in rows[:2]:
        assert row["rms_error"] == pytest.approx(row["expected"], rel=0.5)
    assert rows[1]["expected"] == pytest.approx(rows[1]["independent"] * (2 / 3) ** 0.5)


# ---- the command


TINY = (
    "--device=cpu", "--config.training.num_steps=2", "--config.training.batch_size=4",
    "--config.training.checkpoint_every=2", "--config.training.log_every=2",
    "--config.model.channels=8", "--config.model.multipliers=(1,)",
    "--config.model.attention_sizes=(8,)", "--config.sampling.num_images=4",
    "--config.sampling.steps=2",
    "--config.sampling.tolerance=0.1", "--config.likelihood.num_images=4",
    "--config.likelihood.nodes=8",
)  # fmt: skip


def train(workdir, *more):
    return run_py(["run.py", "--mode=train", f"--workdir={workdir}", *TINY, *more])


def benchmark(*argv):
    return command.main(["likelihood", *map(str, argv)])


@pytest.mark.slow
def test_a_run_is_measured_and_written(tmp_path, monkeypatch, capsys):
    for name, value in {
        "TRUTH": 1e-2, "USUAL": 1e-1, "CURVE": (1e-1,), "TOLERANCES": (1e-1,), "EXACT": 0.1,
        "NODES": ((4, 1, 1), (4, 2, 2)), "PROBES": (1, 2), "FIXED_TOLERANCES": (1e-1,),
        "K_DIFFUSION": (1e-1,), "REPETITIONS": 2, "CROWD_NODES": 4, "WHOLE_SET": 1,
        "BUDGET_MEASUREMENTS": 10, "BUDGET_IMAGES": 3, "BUDGET_NODES": 4, "BUDGET_REFERENCE": 4,
    }.items():  # fmt: skip
        monkeypatch.setattr(settings, name, value)
    rows = of_four_pixels()  # 64 take too long
    monkeypatch.setattr(command, "divergence", lambda *_: rows)
    assert train(tmp_path / "run") == 0
    out = tmp_path / "new" / "found.json"
    more = ("--images=3", "--crowd=4", "--repeats=1", f"--out={out}", "--parts", *command.PARTS)
    more += ("--work", tmp_path / "work")
    assert benchmark("--workdir", tmp_path / "run", *more) == 0
    record, text = json.loads(out.read_text()), out.with_suffix(".md").read_text()
    assert {"commit", "versions", "command", "gains", "settings", "minutes"} <= record.keys()
    assert len(record["methods"]) == 6
    assert len(record["crowds"]) == 2 * 5
    assert len(record["equal_error"]["rows"]) == 2 + 2 + 3
    for row in record["methods"] + record["crowds"]:
        assert row["unsolved"] == 0
        if not row["method"].startswith("nodes"):
            assert row["rms_error"] < 0.05
    assert text in capsys.readouterr().out
    for name in ("usual, kinks", "usual, one pass", "angle, scipy:RK45", "ours", "k-diffusion"):
        assert text.count(f"\n| {name} | 0.1") == 1
    assert "uniform noise" in text
    assert "exact by all signs" in text
    assert f"({out.with_suffix('.png').name})" in text
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "work").iterdir())) == 3


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "--workdir"),
        (["--workdir=nowhere"], "nowhere holds no run"),
        (["--workdir=nowhere", "--images=1"], "a whole number from 2 up"),
        (["--workdir=nowhere", "--repeats=x"], "a whole number from 1 up"),
        (["--workdir=nowhere", "--crowd=2"], "a whole number from 3 up"),
        (["--workdir=nowhere", "--out=table.md"], "must end in .json"),
        (["--workdir=nowhere", "--device=nonsense"], "cpu always can"),
        (["--workdir=nowhere", "--parts=all"], "invalid choice: 'all'"),
        (["--workdir=nowhere", "--image=3"], "unrecognized arguments"),
    ],
)
def test_bad_arguments_cost_a_line(argv, expected, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert benchmark(*argv) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("likelihood: ")
    assert expected in err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_measured_is_refused(capfd, tmp_path):
    toy = ("--config", ROOT / "configs" / "toy.py", "--config.model.width=8")
    assert train(tmp_path / "digits") == 0
    argv = ["run.py", "--mode=train", f"--workdir={tmp_path / 'toy'}", *map(str, toy), *TINY[:5]]
    argv += [each for each in TINY if "sampling" in each or "likelihood" in each]
    assert run_py(argv) == 0
    capfd.readouterr()
    assert benchmark("--workdir", tmp_path / "toy", f"--out={tmp_path / 'a.json'}") == 2
    assert "a run on vectors" in capfd.readouterr().err
    out = f"--out={tmp_path / 'a.json'}"
    assert benchmark("--workdir", tmp_path / "digits", "--images=1000", out) == 2
    assert "at most 360" in capfd.readouterr().err
    assert not (tmp_path / "a.json").exists()

"""The certificate holds where it should, and catches each identity that is broken on purpose."""

import json
import math
import os
from dataclasses import dataclass

import pytest
import torch

from samplers import DDIM, EulerMaruyama, Reclocked, ReverseDiffusion
from scoreflow import bound, losses, modes, toy
from scoreflow.data import dequantize, load_digits
from scoreflow.identities import chain, conversions, flows, learned, marginals, objectives, steps
from scoreflow.identities.identity import Identity, falls_as, order, worst
from scoreflow.main import main
from scoreflow.mlp import MLP
from scoreflow.model import ScoreModel
from scoreflow.unet import UNet
from sde import SDE, VESDE, VPSDE, Noise, Stream, SubVPSDE
from sde.base import broadcast
from sde.prediction import Prediction, predict

PROCESSES: list[SDE] = [
    VPSDE.linear(1000),
    VPSDE.cosine(1000),
    VPSDE.log_linear(1000, 5e-4),
    SubVPSDE.linear(1000),
    VESDE(1000, 5e-4, 50.0),
]
BY_NAME = {"ids": lambda sde: type(sde).__name__}


def failed(rows):
    return [row.name for row in rows if not row.passed]


# ---- 1


@pytest.mark.parametrize("sde", PROCESSES, **BY_NAME)
def test_conversions_hold(sde):
    assert failed(conversions.conversions(sde)) == []


ORIGINAL = {view: getattr(Prediction, view).func for view in ("eps", "x_0", "v", "score")}
BREAKS = {
    "a thousandth in x_0": ("x_0", lambda p, true: true * 1.001),
    "score without its sign": ("score", lambda p, true: -true),
    "score by sigma^2": ("score", lambda p, true: true / p.sigma),
    "v by sin for cos": ("v", lambda p, true: p.sigma * p.eps - p.alpha * p.x_0),
    "eps without alpha": (
        "eps",
        lambda p, true: p.x_t - p.value if p.kind == "x_0" else true,
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_conversion_is_caught(name, monkeypatch):
    view, broken = BREAKS[name]

    def wrong(p):
        return p.value if p.kind == view else broken(p, ORIGINAL[view](p))

    monkeypatch.setattr(Prediction, view, property(wrong))
    rows = conversions.conversions(VPSDE.linear(100))
    assert len(failed(rows)) >= 2, rows


# ---- 2


@pytest.fixture(scope="module")
def digits():
    levels = load_digits().train[:64]
    u = Noise.of(0, 0, 64).uniform(Stream.TRAIN_DEQUANTIZE, (1, 8, 8))
    return dequantize(levels, u, 17)


def network_on(sde, output="v"):
    torch.manual_seed(0)
    network = UNet(
        image_size=8,
        in_channels=1,
        out_channels=1,
        channels=8,
        multipliers=(1, 2),
        blocks=1,
        attention_sizes=(4,),
        dropout=0.0,
        num_groups=4,
    )
    with torch.no_grad():  # as if it had been trained: an answer that is not zero
        network.head[2].weight.normal_(0, 0.1)
    return ScoreModel(network, sde, output)


@pytest.mark.parametrize("output", ["eps", "x_0", "v", "score", "mean"])
@pytest.mark.parametrize("sde", [PROCESSES[0], PROCESSES[4]], **BY_NAME)
def test_objectives_are_one(sde, output, digits):
    assert failed(objectives.objectives(network_on(sde, output), digits, 5, 4)) == []


WRONG_LOSSES = {
    "weighted by sigma": lambda d, sde, x, t, e: (
        losses.score_matching(d, sde, x, t, e) / sde.sigma(t)
    ),
    "half": lambda d, sde, x, t, e: 0.5 * losses.score_matching(d, sde, x, t, e),
    "a step late": lambda d, sde, x, t, e: losses.score_matching(
        d, sde, x, (t - 1).clamp(min=1), e
    ),
    "a millionth": lambda d, sde, x, t, e: (1 + 1e-6) * losses.score_matching(d, sde, x, t, e),
}


@pytest.mark.parametrize("name", WRONG_LOSSES)
def test_a_broken_objective_is_caught(name, digits, monkeypatch):
    right, wrong = losses.score_matching, WRONG_LOSSES[name]

    def broken(*args):
        with monkeypatch.context() as patch:
            patch.setattr(losses, "score_matching", right)
            return wrong(*args)

    monkeypatch.setattr(losses, "score_matching", broken)
    rows = objectives.objectives(network_on(PROCESSES[0]), digits, 5, 4)
    assert any("gradient, over all t" in row for row in failed(rows))
    assert any("loss, over all t" in row for row in failed(rows))
    if name in ("weighted by sigma", "a step late"):  # Adam does not mind a factor
        assert any("Adam" in row for row in failed(rows))


def test_a_large_network_is_not_trained_on_a_cpu(digits, monkeypatch):
    monkeypatch.setattr(objectives, "LARGEST_TRAINED", 10)
    rows = objectives.objectives(network_on(PROCESSES[0]), digits, 3, 4)
    assert failed(rows) == []
    assert "small MLP" in rows[-1].name


# ---- 3


@pytest.mark.parametrize("sde", PROCESSES[:3], ids=["linear", "cosine", "log_linear"])
def test_the_chain_is_the_sde(sde):
    assert failed(chain.chain(sde)) == []


class Late(VPSDE):
    """An index off by one in the table."""

    def log_alpha(self, t):
        return super().log_alpha((t - 1).clamp(min=0) + 1e-9 * t)


class WrongPosterior(VPSDE):
    """alpha_t for alpha_s in the factor of x_0."""

    def posterior(self, x_t, x_0, t, s):
        _, w = self.transition(s, t)
        mean, std = super().posterior(x_t, x_0, t, s)
        factor = (self.alpha(t) - self.alpha(s)) * w / self.variance(t)
        return mean + broadcast(factor, x_0) * x_0, std


@pytest.mark.parametrize(("kind", "caught"), [(Late, "transitions"), (WrongPosterior, "Eq. 7")])
def test_a_broken_chain_is_caught(kind, caught):
    assert any(caught in name for name in failed(chain.chain(kind.linear(1000))))


def test_a_lost_half_in_the_bound_is_caught(monkeypatch):
    term = bound.term
    monkeypatch.setattr(bound, "term", lambda *args: 2 * term(*args))
    names = failed(chain.chain(VPSDE.linear(1000)))
    assert any("KLs" in name for name in names)
    assert any("O(1/N)" in name for name in names)


# ---- 4


def test_steps_agree_to_first_order():
    assert failed(steps.steps()) == []


@dataclass(frozen=True)
class Reverse(ReverseDiffusion):
    score: float = 1.0
    spread: float = 1.0

    def step(self, denoiser, sde, x_t, t, s, noise):
        a, w = sde.transition(s, t)
        z = noise.normal(Stream.PREDICTOR, tuple(x_t.shape[1:]))
        push = self.score * broadcast(w, x_t) * denoiser(x_t, t).score
        return broadcast(2 - a, x_t) * x_t + push + self.spread * broadcast(w.sqrt(), x_t) * z


@dataclass(frozen=True)
class Euler(EulerMaruyama):
    """The drift of the flow for that of the SDE, or a noise that is too large."""

    score: float = 1.0
    spread: float = 1.0

    def step(self, denoiser, sde, x_t, t, s, noise):
        dt, f, g = t - s, sde.drift(t), sde.diffusion(t)
        z = noise.normal(Stream.PREDICTOR, tuple(x_t.shape[1:]))
        mean = (1 - f * dt) * x_t + self.score * g**2 * dt * denoiser(x_t, t).score
        return mean + self.spread * g * dt.sqrt() * z


@pytest.mark.parametrize(
    ("name", "broken", "caught"),
    [
        ("ReverseDiffusion", Reverse(score=0.5), "reverse diffusion, mean"),
        ("EulerMaruyama", Euler(score=0.5), "Euler-Maruyama, mean"),
        ("EulerMaruyama", Euler(spread=math.sqrt(2)), "Euler-Maruyama, variance"),
    ],
)
def test_a_broken_step_is_caught(name, broken, caught, monkeypatch):
    monkeypatch.setattr(steps, name, lambda: broken)
    assert any(caught in row for row in failed(steps.steps()))


# ---- 5


def test_flows_agree(elementwise):
    sde = VESDE(1000, 5e-4, 50.0)
    rows = flows.flows(elementwise(sde), sde, 1.0, Noise.of(0, 0, 4), (3,))
    assert failed(rows) == []


class WrongDDIM(DDIM):
    def step(self, denoiser, sde, x_t, t, s, noise):
        return super().step(denoiser, sde, x_t, t, s + 0.05 * (t - s), noise)


def test_a_broken_ddim_is_caught(monkeypatch):
    monkeypatch.setattr(flows, "DDIM", WrongDDIM)
    sde = VPSDE.linear(1000)
    assert not flows._exponential(sde, 1.0).passed
    assert not flows._first_order(sde, 1.0).passed


def test_a_corrector_that_works_unasked_is_caught(monkeypatch, elementwise):
    langevin = flows.Langevin
    monkeypatch.setattr(flows, "Langevin", lambda corrections: langevin(corrections=1))
    sde = VPSDE.linear(100)
    assert not flows._no_corrections(elementwise(sde), sde, Noise.of(0, 0, 4), (3,)).passed


def test_a_g_that_is_wrong_is_caught_in_every_process(monkeypatch):
    diffusion = SDE.diffusion
    monkeypatch.setattr(SDE, "diffusion", lambda self, t: 1.05 * diffusion(self, t))
    assert len(failed(flows._clocks())) == 3


class Unscaled(Reclocked):
    """The other process's x_t, shown at its own scale."""

    def __call__(self, x_t, t):
        v = self.denoiser(x_t, self.of.time(self.on.angle(t))).v
        return predict(self.on, x_t, t, "v", v)


def test_a_wrong_scale_between_processes_is_caught(monkeypatch, mixture):
    monkeypatch.setattr(flows, "Reclocked", Unscaled)
    sde = VPSDE.linear(1000)
    row = flows._same_images(mixture.denoiser(sde), sde, 1.0, Noise.of(0, 0, 4), (2,))
    assert not row.passed


# ---- 6


@pytest.mark.parametrize(
    "sde", [VPSDE.linear(200), SubVPSDE.linear(200), VESDE(200, 0.01, 20.0)], **BY_NAME
)
def test_samplers_draw_the_mixture(sde):
    assert failed(marginals.marginals(sde, 1.0)) == []


def test_a_sampler_of_another_law_is_caught(monkeypatch):
    monkeypatch.setattr(marginals, "Ancestral", lambda _: Reverse(score=0.5))
    names = failed(marginals.marginals(VPSDE.linear(100), 1.0))
    assert any(name.startswith("ancestral") for name in names)


def test_the_energy_distance_is_that_of_its_definition():
    x = Noise.of(0, 0, 7).normal(Stream.DATA, (2,))
    y = Noise.of(1, 0, 5).normal(Stream.DATA, (2,))

    def mean(a, b):
        return (a[:, None] - b[None]).norm(dim=2).mean()

    expected = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    found = marginals.same_law("it", x, y, 1).residual
    assert found == pytest.approx(float(expected), rel=1e-9)


def test_equal_laws_pass_and_near_ones_fail():
    held = 0
    for seed in range(8):
        x = Noise.of(seed, 0, 200).normal(Stream.DATA, (2,))
        y = Noise.of(100 + seed, 0, 200).normal(Stream.DATA, (2,))
        held += marginals.same_law("it", x, y, 1).passed
        assert not marginals.same_law("it", x, 2 * y, 1).passed
        assert not marginals.same_law("it", x, y + 0.5, 1).passed
    assert held == 8


# ---- 7


def trained_toy(sde):
    torch.manual_seed(0)
    return ScoreModel(MLP(2, 16, 1), sde, "v")


@pytest.mark.parametrize("sde", PROCESSES, **BY_NAME)
def test_excess_loss_is_the_error_of_the_score(sde):
    assert failed(learned.learned(trained_toy(sde), toy.distribution(), "it")) == []


def test_a_wrong_truth_is_caught():
    class Doubled:
        def sample(self, noise):
            return toy.distribution().sample(noise)

        def denoiser(self, sde):
            exact = toy.distribution().denoiser(sde)

            def denoise(x_t, t):
                return predict(sde, x_t, t, "score", 2 * exact(x_t, t).score)

            return denoise

    sde = VPSDE.linear(1000)
    assert failed(learned.learned(trained_toy(sde), Doubled(), "it")) != []


# ---- the rows


def test_orders_of_known_functions():
    sizes = [0.1 / 2**k for k in range(6)]
    assert order(sizes, [3 * h**2 for h in sizes]).slope == pytest.approx(2)
    row = falls_as("it", 2, sizes, [3 * h**2 + h**3 for h in sizes])
    assert row.passed
    assert not falls_as("it", 1, sizes, [3 * h**2 + h**3 for h in sizes]).passed
    assert not falls_as("it", 2, sizes, [h**2 + 0.1 * h for h in sizes]).passed


def test_a_residual_that_is_no_number_fails():
    assert not Identity("it", math.nan, 1.0, "").passed
    assert not Identity("it", math.inf, math.inf, "").passed
    assert worst([(0.1, 1.0), (math.nan, 1.0), (2.0, 1.0)])[0] != 0.1


# ---- the command


TINY = [
    "--config.sde.num_steps=100",
    "--config.model.channels=8",
    "--config.model.num_groups=4",
    "--config.model.blocks=1",
    "--config.equivalence.train_steps=3",
    "--config.equivalence.num_images=16",
    "--config.sampling.steps=4",
    "--config.sampling.tolerance=0.1",
]


@pytest.fixture
def quick(monkeypatch):
    """Without the groups that take seconds and that the tests above have run."""
    monkeypatch.setattr(flows, "_clocks", list)
    for name in ("_exponential", "_first_order"):
        row = Identity("it", 0.0, 1.0, "")
        monkeypatch.setattr(flows, name, lambda *_, row=row: row)
    monkeypatch.setattr("scoreflow.equivalence.marginals", lambda *_: [])
    monkeypatch.setattr("scoreflow.equivalence.steps", list)
    monkeypatch.setattr("scoreflow.equivalence._learned", lambda _: [])


@pytest.mark.parametrize("sde", ["vp", "subvp", "ve"])
def test_without_a_run(sde, quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["run.py", "--mode=equivalence", f"--sde={sde}", "--device=cpu", *TINY]
    assert main(command) == 0
    assert "identities hold" in capsys.readouterr().out
    folder = tmp_path / "runs" / f"equivalence-digits-{sde}"
    result = json.loads((folder / "results" / "equivalence.json").read_text())
    assert result["passed"]
    assert {"residual", "tolerance", "passed", "identity"} <= result["rows"][0].keys()
    page = (folder / "report.html").read_text()
    assert "Equivalence certificate" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert main(command) == 0  # once more into the same folder
    assert main([*command, "--config.sde.num_steps=50"]) == 2
    assert "holds the results of another config" in capsys.readouterr().err


def test_with_a_run_and_with_a_broken_identity(quick, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    few = ["--config.training.num_steps=2", "--config.training.checkpoint_every=2"]
    few += ["--config.training.log_every=2", "--config.likelihood.num_images=1"]
    likelihood = ["--config.likelihood.tolerance=0.5", "--config.likelihood.tolerance_bits=0.5"]
    train = ["run.py", "--mode=train", f"--workdir={workdir}", "--device=cpu"]
    assert main([*train, *TINY, *few, *likelihood]) == 0
    certify = ["run.py", "--mode=equivalence", f"--workdir={workdir}", "--device=cpu"]
    main(certify)  # what two steps have learned need not have one law
    rows = json.loads((workdir / "results" / "equivalence.json").read_text())["rows"]
    assert sum("from the trained network" in row["identity"] for row in rows) == 3
    monkeypatch.setattr(
        "scoreflow.equivalence.conversions", lambda _: [Identity("broken", 2.0, 1.0, "it")]
    )
    capsys.readouterr()
    assert main(certify) == 1
    said = capsys.readouterr()
    assert "FAILED" in said.out
    assert "broken" in said.err
    assert not json.loads((workdir / "results" / "equivalence.json").read_text())["passed"]
    assert main(["run.py", "--mode=equivalence", f"--workdir={tmp_path}/none"]) == 2
    assert os.listdir(tmp_path) == ["run"]


def test_the_report_keeps_the_certificate(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run.py", "--mode=equivalence", "--device=cpu", *TINY]) == 0
    from scoreflow.run_dir import RunDir

    run = RunDir.open(tmp_path / "runs" / "equivalence-digits-vp")
    page = modes.report.write(run).read_text()
    assert "Equivalence certificate" in page

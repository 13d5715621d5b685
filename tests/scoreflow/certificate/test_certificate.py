"""The certificate holds where it should, and catches each identity that is broken on purpose."""

import json
import math
import os
from dataclasses import dataclass, replace

import pytest
import torch

from scoreflow.certificate import (
    certificate,
    chain_is_sde,
    exact_sampler_laws,
    fisher_divergence,
    noise_vs_score_loss,
    one_flow,
    one_step_methods,
    prediction_views,
    trained_sampler_laws,
)
from scoreflow.certificate.identity import (
    CHANCE,
    FALSE_ALARM,
    RANDOM_ROWS,
    Identity,
    falls_as,
    order,
    worst,
)
from scoreflow.cli.main import main
from scoreflow.cli.modes.equivalence import _log_density
from scoreflow.data import toy
from scoreflow.data.levels import dequantize
from scoreflow.data.loading import load_digits
from scoreflow.errors import RunError
from scoreflow.losses import denoising, variational
from scoreflow.models.mlp import MLP
from scoreflow.models.score_model import ScoreModel
from scoreflow.models.unet import UNet
from scoreflow.samplers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    PredictorCorrector,
    ProbabilityFlow,
    Reclocked,
    ReverseDiffusion,
    ancestral,
    predictor_corrector,
    sample,
)
from scoreflow.sde import EDMSDE, SDE, VESDE, VPSDE, Noise, RectifiedSDE, Stream, SubVPSDE
from scoreflow.sde.analytic import GaussianMixture, gaussian
from scoreflow.sde.base import broadcast
from scoreflow.sde.prediction import KINDS, Prediction, predict

PROCESSES: list[SDE] = [
    VPSDE.linear(1000),
    VPSDE.cosine(1000),
    VPSDE.log_linear(1000, 5e-4),
    SubVPSDE.linear(1000),
    VESDE(1000, 5e-4, 50.0),
    RectifiedSDE(1000),
    EDMSDE(1000),
]
BY_NAME = {"ids": lambda sde: type(sde).__name__}


def failed(rows):
    return [row.name for row in rows if not row.passed]


# ---- 1


@pytest.mark.parametrize("sde", PROCESSES, **BY_NAME)
def test_conversions_hold(sde):
    assert failed(prediction_views.conversions(sde)) == []


def test_conversions_hold_at_the_real_times_of_a_network_trained_there():
    rows = prediction_views.conversions(VPSDE.linear(50), 1e-3)
    assert failed(rows) == []
    assert "from 0.001 to 50" in rows[0].name
    t = torch.tensor(rows[0].plots[0].series[0].x)
    assert ((t > 0) & (t < 1)).sum() >= 10
    assert (t % 1 == 0.5).any()


ORIGINAL = {view: getattr(Prediction, view).func for view in KINDS}
BREAKS = {
    "a thousandth in x_0": ("x_0", lambda p, true: true * 1.001),
    "score without its sign": ("score", lambda p, true: -true),
    "score by sigma^2": ("score", lambda p, true: true / p.sigma),
    "u without its sign": ("u", lambda p, true: -true),
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
    rows = prediction_views.conversions(VPSDE.linear(100))
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


OUTPUTS = [(sde, output) for sde in (PROCESSES[0], PROCESSES[4])
           for output in ("eps", "x_0", "v", "score", "mean")]  # fmt: skip


@pytest.mark.parametrize(("sde", "output"), [*OUTPUTS, (PROCESSES[5], "eps"), (PROCESSES[5], "u")])
def test_objectives_are_one(sde, output, digits):
    assert failed(noise_vs_score_loss.objectives(network_on(sde, output), digits, 5, 4)) == []


WRONG_LOSSES = {
    "weighted by sigma": lambda d, sde, x, t, e: (
        denoising.score_matching(d, sde, x, t, e) / sde.sigma(t)
    ),
    "half": lambda d, sde, x, t, e: 0.5 * denoising.score_matching(d, sde, x, t, e),
    "a step late": lambda d, sde, x, t, e: denoising.score_matching(
        d, sde, x, (t - 1).clamp(min=1), e
    ),
    "a millionth": lambda d, sde, x, t, e: (1 + 1e-6) * denoising.score_matching(d, sde, x, t, e),
}


@pytest.mark.parametrize("name", WRONG_LOSSES)
def test_a_broken_objective_is_caught(name, digits, monkeypatch):
    right, wrong = denoising.score_matching, WRONG_LOSSES[name]

    def broken(*args):
        with monkeypatch.context() as patch:
            patch.setattr(denoising, "score_matching", right)
            return wrong(*args)

    monkeypatch.setattr(denoising, "score_matching", broken)
    rows = noise_vs_score_loss.objectives(network_on(PROCESSES[0]), digits, 5, 4)
    assert any("gradient, over all t" in row for row in failed(rows))
    assert any("loss, over all t" in row for row in failed(rows))
    if name in ("weighted by sigma", "a step late"):  # Adam does not mind a factor
        assert any("Adam" in row for row in failed(rows))


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_objectives_are_one_in_the_precision_of_the_training(precision, digits, monkeypatch):
    model = network_on(PROCESSES[0])
    model = model.in_precision(precision)
    rows = {row.name: row for row in noise_vs_score_loss.objectives(model, digits, 2, 4)}
    assert failed(rows.values()) == []
    gradient = rows[f"L_simple = sigma^2 DSM: parameter gradient, the network in {precision}"]
    assert gradient.tolerance < 0.05
    right = denoising.score_matching
    with monkeypatch.context() as patch:
        patch.setattr(denoising, "score_matching", lambda *a: 0.5 * right(*a))
        rows = noise_vs_score_loss.objectives(model, digits, 2, 4)
    assert sum(f"in {precision}" in name for name in failed(rows)) == 2


def test_trainings_keep_no_path(digits):
    model = noise_vs_score_loss.copied(network_on(PROCESSES[0]).network).double()
    model = network_on(PROCESSES[0]).with_network(model).in_precision("float64")
    before = [p.clone() for p in model.network.parameters()]
    training = noise_vs_score_loss._training(model, denoising.simple, digits.double(), 3, 4)
    first, second = next(training), next(training)
    assert first is second  # one network, moved on
    assert noise_vs_score_loss._distance(second, model.network) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.network.parameters(), strict=True))


def test_the_distance_of_weights_is_euclidean():
    one, other = MLP(2, 4, 1), MLP(2, 4, 1)
    flat = [torch.cat([p.flatten() for p in n.parameters()]) for n in (one, other)]
    expected = float((flat[0] - flat[1]).norm().detach())
    assert noise_vs_score_loss._distance(one, other) == pytest.approx(expected, rel=1e-6)


def test_a_large_network_is_not_trained_on_a_cpu(digits, monkeypatch):
    monkeypatch.setattr(noise_vs_score_loss, "LARGEST_TRAINED", 10)
    rows = noise_vs_score_loss.objectives(network_on(PROCESSES[0]), digits, 3, 4)
    assert failed(rows) == []
    assert "small MLP" in rows[-1].name


# ---- 3


FEW_STEPS = [VPSDE.linear(21), SubVPSDE.linear(21), VESDE(2, 0.01, 50.0), VPSDE.log_linear(2)]
FEW_STEPS += [RectifiedSDE(2), RectifiedSDE(1), EDMSDE(2, 0.01, 50.0, 3.0)]
CHAINS = {
    VPSDE: "DDPM's chain",
    SubVPSDE: "sub-VP's betas",
    VESDE: "SMLD's chain =",
    RectifiedSDE: "the rectified path's chain",
    EDMSDE: "SMLD's chain on Karras' scales",
}


@pytest.mark.parametrize("sde", [*PROCESSES, *FEW_STEPS], **BY_NAME)
def test_the_chain_is_the_sde(sde):
    rows = chain_is_sde.chain(sde)
    assert failed(rows) == []
    assert CHAINS[type(sde)] in rows[0].name


def test_a_sub_vp_answers_for_its_own_betas():
    betas = torch.full((30,), 0.02, dtype=torch.float64)
    i = chain_is_sde.chain(SubVPSDE(betas))[0].plots[0].series[0].x
    assert i == list(range(1, 31))


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


class WrongNoise(VESDE):
    """The variances of SMLD, a step late."""

    def variance(self, t):
        return super().variance((t - 1).clamp(min=1e-3))


class WrongTransition(VESDE):
    def transition(self, s, t):
        a, w = super().transition(s, t)
        return a, 1.001 * w


@pytest.mark.parametrize("kind", [WrongNoise, WrongTransition])
def test_a_broken_chain_of_score_matching_is_caught(kind):
    assert any("transitions" in name for name in failed(chain_is_sde.chain(kind(100, 0.01, 50.0))))


@pytest.mark.parametrize(("kind", "caught"), [(Late, "transitions"), (WrongPosterior, "Eq. 7")])
def test_a_broken_chain_is_caught(kind, caught):
    assert any(caught in name for name in failed(chain_is_sde.chain(kind.linear(1000))))


def test_a_lost_half_in_the_bound_is_caught(monkeypatch):
    term = variational.term
    monkeypatch.setattr(variational, "term", lambda *args: 2 * term(*args))
    names = failed(chain_is_sde.chain(VPSDE.linear(1000)))
    assert any("KLs" in name for name in names)
    assert any("O(1/N)" in name for name in names)


# ---- 4


def test_steps_agree_to_first_order():
    assert failed(one_step_methods.steps()) == []


@dataclass(frozen=True)
class Reverse(ReverseDiffusion):
    score: float = 1.0
    spread: float = 1.0

    def step(self, x_t, step):
        a, w = step.sde.transition(step.s, step.t)
        push = self.score * broadcast(w, x_t) * step.predict(x_t).score
        noise = self.spread * broadcast(w.sqrt(), x_t) * step.normal(x_t)
        return broadcast(2 - a, x_t) * x_t + push + noise


@dataclass(frozen=True)
class Euler(EulerMaruyama):
    """The drift of the flow for that of the SDE, or a noise that is too large."""

    score: float = 1.0
    spread: float = 1.0

    def step(self, x_t, step):
        dt, f, g = step.t - step.s, step.sde.drift(step.t), step.sde.diffusion(step.t)
        mean = (1 - f * dt) * x_t + self.score * g**2 * dt * step.predict(x_t).score
        return mean + self.spread * g * dt.sqrt() * step.normal(x_t)


@pytest.mark.parametrize(
    ("name", "broken", "caught"),
    [
        ("ReverseDiffusion", Reverse(score=0.5), "reverse diffusion, mean"),
        ("EulerMaruyama", Euler(score=0.5), "Euler-Maruyama, mean"),
        ("EulerMaruyama", Euler(spread=math.sqrt(2)), "Euler-Maruyama, variance"),
    ],
)
def test_a_broken_step_is_caught(name, broken, caught, monkeypatch):
    monkeypatch.setattr(one_step_methods, name, lambda: broken)
    assert any(caught in row for row in failed(one_step_methods.steps()))


# ---- 5


def test_flows_agree(elementwise, rough, few_counts):
    sde = VESDE(1000, 5e-4, 50.0)
    rows = one_flow.flows(elementwise(sde), sde, 1.0, Noise.of(0, 0, 4), (3,))
    assert failed(rows) == []


class WrongDDIM(DDIM):
    def step(self, x_t, step):
        return super().step(x_t, replace(step, s=step.s + 0.05 * (step.t - step.s)))


def test_a_broken_ddim_is_caught(monkeypatch, few_counts):
    monkeypatch.setattr(one_flow, "DDIM", WrongDDIM)
    sde = VPSDE.linear(1000)
    assert not one_flow._exponential(sde, 1.0).passed
    assert not one_flow._first_order(sde, 1.0).passed


def test_a_corrector_that_works_unasked_is_caught(monkeypatch, elementwise):
    langevin = one_flow.Langevin
    monkeypatch.setattr(one_flow, "Langevin", lambda corrections: langevin(corrections=1))
    sde = VPSDE.linear(100)
    row = one_flow._no_corrections(elementwise(sde), sde, Noise.of(0, 0, 4), (3,))
    assert not row.passed
    assert max(row.plots[0].series[0].y) == row.residual


def test_a_g_that_is_wrong_is_caught_in_every_process(monkeypatch, rough):
    diffusion = SDE.diffusion
    monkeypatch.setattr(SDE, "diffusion", lambda self, t: 1.05 * diffusion(self, t))
    assert len(failed(one_flow._clocks())) == 4  # flow matching's own field has no g


def one_network(sde):
    """A fresh one, its head awake."""
    model = network_on(sde)
    return one_flow._same_images(model, sde, 1.0, Noise.of(0, 0, 1), (1, 8, 8))


@pytest.fixture
def rough(monkeypatch):
    """Solvers as rough as will do."""
    monkeypatch.setattr(one_flow, "TOLERANCES", (1e-2, 2e-3))
    monkeypatch.setattr(one_flow, "CLOCK_TOLERANCES", (1e-3, 1e-4))
    monkeypatch.setattr(one_flow, "PIECES", 3)


@pytest.fixture
def few_counts(monkeypatch):
    """Steps from which an order can be seen just as well."""
    monkeypatch.setattr(one_flow, "COUNTS", (32, 64, 128, 256))


@pytest.fixture
def one_process(monkeypatch):
    """The VP, for what is broken in every process."""
    vp = {"VP": one_flow._processes()["VP"]}
    monkeypatch.setattr(one_flow, "_processes", lambda: vp)


def test_one_network_draws_the_same_images_under_every_process(rough):
    row = one_network(VPSDE.log_linear(1000, 5e-4))
    assert row.passed
    assert row.residual > 0  # five other ways, not the same one
    assert row.tolerance < 0.2
    assert len(row.plots) == 5
    assert row.picture is not None


@pytest.mark.parametrize("name", ["drift", "diffusion"])
def test_a_wrong_process_does_not_draw_the_same_images(name, monkeypatch, rough, one_process):
    right = getattr(SDE, name)
    monkeypatch.setattr(SDE, name, lambda self, t: 1.5 * right(self, t))
    assert not one_network(VPSDE.log_linear(1000, 5e-4)).passed


class Unscaled(Reclocked):
    """The other process's x_t, shown at its own scale."""

    def __call__(self, x_t, t):
        v = self.denoiser(x_t, self.of.time(self.on.angle(t))).v
        return predict(self.on, x_t, t, "v", v)


def test_a_wrong_scale_between_processes_is_caught(monkeypatch, mixture, rough):
    monkeypatch.setattr(one_flow, "Reclocked", Unscaled)
    monkeypatch.setattr(one_flow, "PIECES", 8)  # three are solved too roughly to tell
    sde = VPSDE.linear(1000)
    row = one_flow._same_images(mixture.denoiser(sde), sde, 1.0, Noise.of(0, 0, 4), (2,))
    assert not row.passed


# ---- 6


@pytest.mark.parametrize(
    "sde",
    [
        pytest.param(VPSDE.linear(200), id="vp"),
        pytest.param(SubVPSDE.linear(200), id="subvp", marks=pytest.mark.slow),
        pytest.param(VESDE(200, 0.01, 20.0), id="ve"),
    ],
)
def test_samplers_draw_the_mixture(sde, monkeypatch):
    monkeypatch.setattr(exact_sampler_laws, "COUNT", 2048)  # all of them in the whole certificate
    rows = exact_sampler_laws.marginals(sde)
    assert failed(rows) == []
    assert sum("by chance" in row.basis for row in rows) == 6


def langevin(of_score, of_noise):
    """A step h of Langevin's with these factors of the score and of 2 h."""
    return lambda x, score, z, h: (
        x + of_score * broadcast(h, x) * score + (of_noise * broadcast(h, x)).sqrt() * z
    )


class Asked(ProbabilityFlow):
    """The flow of a score that is too small."""

    def step(self, x_t, step):
        def weak(x, t):
            return predict(step.sde, x, t, "score", 0.9 * step.denoiser(x, t).score)

        return super().step(x_t, replace(step, denoiser=weak))


class Tardy(Ancestral):
    """Asks about the time at which the step before began."""

    def step(self, x_t, step):
        grid = exact_sampler_laws.log_snr_times(step.sde, exact_sampler_laws.STEPS)
        k = int((grid - step.t).abs().argmin())
        before = grid[max(k - 1, 0)]
        return super().step(x_t, replace(step, denoiser=lambda x, _: step.denoiser(x, before)))


def spread(factor):
    """Ancestral sampling with so many times its variance."""
    right = ancestral.reverse_variance
    return lambda *args: factor * right(*args)


LANGEVIN = (predictor_corrector, "_langevin_step")
BROKEN_SAMPLERS = {
    "sqrt(h) for sqrt(2 h)": (*LANGEVIN, langevin(1, 1), "predictor-corrector"),
    "no score in the corrector": (*LANGEVIN, langevin(0, 2), "predictor-corrector"),
    "twice the score": (*LANGEVIN, langevin(2, 2), "predictor-corrector"),
    "a step late": (exact_sampler_laws, "Ancestral", Tardy, "ancestral"),
    "0.9 of the score in the flow": (
        exact_sampler_laws,
        "ProbabilityFlow",
        Asked,
        "probability flow",
    ),
    "twice the variance": (ancestral, "reverse_variance", spread(2.0), "ancestral"),
    "half the variance": (ancestral, "reverse_variance", spread(0.5), "ancestral"),
}


@pytest.mark.parametrize("name", BROKEN_SAMPLERS)
def test_a_broken_sampler_is_caught(name, monkeypatch):
    module, attribute, broken, caught = BROKEN_SAMPLERS[name]
    monkeypatch.setattr(module, attribute, broken)
    if name != "a step late":  # the smallest of them
        monkeypatch.setattr(exact_sampler_laws, "COUNT", 4096)
    names = failed(exact_sampler_laws.drawn_law(caught, VPSDE.linear(1000)))
    assert any("radius" in row for row in names), names


def drawn_from(mixture, width=toy.WIDTH):
    noise, truth = Noise.of(5, 0, exact_sampler_laws.COUNT), toy.distribution()
    return exact_sampler_laws.law_of_the_mixture(
        "it", mixture.sample(noise), truth, width**2, noise
    )


def test_wrong_mixtures_are_caught():
    truth = toy.distribution()
    assert failed(drawn_from(truth)) == []
    wide = GaussianMixture(truth.weights, truth.means, 4 * truth.covariances)
    assert "it from the exact denoiser: radius within a component" in failed(drawn_from(wide))
    wider = GaussianMixture(truth.weights, truth.means, 1.12 * truth.covariances)
    assert "it from the exact denoiser: radius within a component" in failed(drawn_from(wider))
    seven = GaussianMixture(torch.full((7,), 1 / 7), truth.means[:7], truth.covariances[:7])
    rows = failed(drawn_from(seven))
    assert rows == ["it from the exact denoiser: shares of the 8 components"]


def test_a_component_by_its_steps_is_what_ancestral_sampling_draws():
    sde = VPSDE.linear(300)
    times = exact_sampler_laws.log_snr_times(sde, 25)  # so coarse that its bias is plain
    one = gaussian(torch.zeros(2), toy.WIDTH**2 * torch.eye(2))
    for snr in (0.0, 0.3):
        sampler = PredictorCorrector(Ancestral(), AnnealedLangevin(snr, int(snr > 0)))
        expected = exact_sampler_laws.component_variance(sde, times, snr)
        x = sample(sampler, one.denoiser(sde), sde, times, Noise.of(0, 0, 100_000), (2,))
        assert float(x.var()) == pytest.approx(expected, rel=0.02)
        assert expected > 1.2 * toy.WIDTH**2


def test_a_bias_that_stays_is_caught(monkeypatch):
    right = exact_sampler_laws.component_variance
    monkeypatch.setattr(
        exact_sampler_laws, "component_variance", lambda *args: right(*args) + 0.01 * toy.WIDTH**2
    )
    assert not exact_sampler_laws._vanishing(VPSDE.linear(100), 0.0).passed


@pytest.fixture
def few_deals(monkeypatch):
    monkeypatch.setattr(trained_sampler_laws, "DEALS", 1000)
    monkeypatch.setattr(trained_sampler_laws, "CHANCE", 1e-3)


def two_sets(x, y, steps=0.0):
    kernel = trained_sampler_laws.kernel_of(torch.cat([x, y]))
    return trained_sampler_laws.same_law("it", x, y, kernel, steps)


def test_the_discrepancy_is_that_of_its_definition():
    x = Noise.of(0, 0, 7).normal(Stream.DATA, (2,))
    y = Noise.of(1, 0, 5).normal(Stream.DATA, (2,))
    kernel = trained_sampler_laws.kernel_of(torch.cat([x, y]))
    k = kernel(torch.cat([x, y]))
    expected = k[:7, :7].mean() + k[7:, 7:].mean() - 2 * k[:7, 7:].mean()
    assert trained_sampler_laws.same_law("it", x, y, kernel).residual == pytest.approx(
        float(expected**0.5)
    )
    unbiased = k[:7, :7].triu(1).sum() / 21 + k[7:, 7:].triu(1).sum() / 10 - 2 * k[:7, 7:].mean()
    assert trained_sampler_laws.change(x, y, kernel) ** 2 == pytest.approx(
        max(0.0, float(unbiased)), abs=1e-12
    )


def test_equal_laws_pass_and_near_ones_fail(few_deals):
    for seed in range(3):
        x = Noise.of(seed, 0, 200).normal(Stream.DATA, (2,))
        y = Noise.of(100 + seed, 0, 200).normal(Stream.DATA, (2,))
        assert two_sets(x, y).passed
        assert not two_sets(x, 2 * y).passed
        assert not two_sets(x, y + 0.6).passed
        assert two_sets(x, y + 0.6, 5.0).passed


def test_small_scales_of_the_data_count(few_deals):
    truth = toy.distribution()
    x = truth.sample(Noise.of(1, 0, 512))
    wide = GaussianMixture(truth.weights, truth.means, 4 * truth.covariances)
    seven = GaussianMixture(torch.full((7,), 1 / 7), truth.means[:7], truth.covariances[:7])
    assert two_sets(x, truth.sample(Noise.of(2, 0, 512))).passed
    assert not two_sets(x, wide.sample(Noise.of(3, 0, 512))).passed
    assert not two_sets(x, seven.sample(Noise.of(3, 0, 512))).passed


@pytest.mark.parametrize("t_min", [1.0, 0.01])
def test_half_the_steps_of_a_grid_have_its_ends(t_min):
    for count in (2, 4, 5, 64):
        fine = trained_sampler_laws.chain_times(VPSDE.linear(1000), t_min, count)
        coarse = trained_sampler_laws.halved(fine)
        for times in (fine, coarse):
            assert times[0] == 1000
            assert times[-2:].tolist() == [t_min, 0]
            assert bool((times.diff() < 0).all())
        assert len(fine) <= count + 1
        assert len(coarse) <= len(fine) // 2 + 2
        assert t_min < 1 or bool((fine % 1 == 0).all())


class Wavering:
    """The exact denoiser of a Gaussian whose place depends on t: scores of no one path."""

    def __init__(self, sde, drift):
        self.sde = self.posed = sde
        self.t_min, self.network, self.drift = 1.0, MLP(2, 4, 1), drift

    def __call__(self, x_t, t):
        mean = torch.zeros(2, dtype=torch.float64)
        exact = gaussian(mean, 0.25 * torch.eye(2)).denoiser(self.sde)(x_t, t)
        angle = self.sde.angle(t)
        factor = 1 + self.drift * (3 * angle).sin()
        return predict(self.sde, x_t, t, "score", broadcast(factor, x_t) * exact.score)

    def for_solver(self):
        return self


def test_the_laws_of_a_true_score_are_one_and_of_a_wavering_one_are_not(few_deals):
    sde, amount = VPSDE.log_linear(1000), trained_sampler_laws.Amount(256, 256, 64)
    rows = trained_sampler_laws.laws(Wavering(sde, 0.0), (2,), amount)
    assert failed(rows) == []
    assert "A failure is the network's" in rows[0].basis
    assert failed(trained_sampler_laws.laws(Wavering(sde, 0.5), (2,), amount)) != []


# ---- 7


def trained_toy(sde):
    torch.manual_seed(0)
    return ScoreModel(MLP(2, 16, 1), sde, "v")


@pytest.mark.parametrize("sde", PROCESSES, **BY_NAME)
def test_excess_loss_is_the_error_of_the_score(sde):
    assert failed(fisher_divergence.learned(trained_toy(sde), toy.distribution(), "it")) == []


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
    assert failed(fisher_divergence.learned(trained_toy(sde), Doubled(), "it")) != []


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
    assert worst([(0.1, 1.0), (0.0, 0.0), (1e-9, 0.0)]) == (1e-9, 0.0)


@pytest.mark.parametrize("power", [1, 2])
def test_a_difference_that_does_not_fall_has_no_order(power):
    sizes = [0.1 / 2**k for k in range(6)]
    for stays in ([1.0] * 6, [1.0, 2.0] * 3, [1, 1, 1, 1e-6, 1, 1e-6]):
        row = falls_as("it", power, sizes, stays)
        assert row.tolerance <= 0.5
        assert not row.passed


def test_random_rows_fail_by_chance_as_often_as_is_said():
    assert pytest.approx(FALSE_ALARM) == RANDOM_ROWS * CHANCE
    # each of 20 times, both sides of a normal
    tail = math.erfc(fisher_divergence.STANDARD_ERRORS / math.sqrt(2))
    assert tail * fisher_divergence.TIMES == pytest.approx(CHANCE, rel=1e-6)


def test_the_radius_within_a_component_is_rejected_as_often_as_is_said(monkeypatch):
    monkeypatch.setattr(exact_sampler_laws, "CHANCE", 0.05)
    monkeypatch.setattr(exact_sampler_laws, "COUNT", 500)
    truth, rejected = toy.distribution(), 0
    for seed in range(100):
        noise = Noise.of(1000 + seed, 0, 500)
        x = truth.sample(Noise.of(seed, 0, 500))
        rows = exact_sampler_laws.law_of_the_mixture("it", x, truth, toy.WIDTH**2, noise)
        rejected += len(failed(rows))
    assert 2 <= rejected <= 22  # of 200, 10 expected


# ---- the command


TINY = [
    "--config.sde.num_steps=100",
    "--config.model.channels=8",
    "--config.model.num_groups=4",
    "--config.model.blocks=1",
    "--config.equivalence.train_steps=3",
    "--config.equivalence.num_images=16",
    "--config.equivalence.steps=4",
]


@pytest.fixture
def quick(monkeypatch):
    """Without the groups that take seconds and that the tests above have run."""
    monkeypatch.setattr(trained_sampler_laws, "DEALS", 1000)
    monkeypatch.setattr(trained_sampler_laws, "CHANCE", 1e-3)
    slow = ("flows", "marginals", "steps", "_learned")
    flow_matching = ("losses", "euler_steps", "log_likelihoods", "time_laws", "preconditioned")
    for name in (*slow, "processes", "sampler_steps", "numbers", "estimates", *flow_matching):
        monkeypatch.setattr(f"scoreflow.certificate.certificate.{name}", lambda *_: [])


@pytest.mark.parametrize(
    "sde", ["vp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("subvp", "ve"))]
)
def test_without_a_run(sde, quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["run.py", "--mode=equivalence", f"--sde={sde}", "--device=cpu", *TINY]
    assert main(command) == 0
    assert "identities hold" in capsys.readouterr().out
    folder = tmp_path / "runs" / f"equivalence-digits-{sde}"
    result = json.loads((folder / "results" / "equivalence.json").read_text())
    assert result["passed"]
    assert {"residual", "tolerance", "passed", "identity"} <= result["rows"][0].keys()
    assert result["settings"]["sde"] == sde
    assert result["settings"]["precision"] == "float32"
    assert {"commit", "device_name", "versions"} <= result["environment"].keys()
    page = (folder / "report.html").read_text()
    assert "Equivalence certificate" in page
    assert f"sde {sde}; precision float32; trained no" in page
    assert "http:" not in page
    assert "https:" not in page
    assert sorted(os.listdir(folder / "results")) == ["equivalence.json"]  # and no HTML
    plots = sum(len(row["plots"]) for row in result["rows"])
    assert plots > 5
    assert page.count("<svg") == plots
    assert len(result["looked_at"]) >= len(certificate.GROUPS)
    assert "What this certificate looked at" in page
    assert page.count("not looked at</td>") == len(result["not_looked_at"]) > 5
    if sde == "vp":
        assert main(command) == 0  # once more into the same folder
        assert main([*command, "--config.sde.num_steps=50"]) == 2
        assert "holds the results of another config" in capsys.readouterr().err


def test_with_a_run_and_with_a_broken_identity(quick, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    few = ["--config.sampling.steps=4", "--config.sampling.tolerance=0.1"]
    few += ["--config.training.num_steps=2", "--config.training.checkpoint_every=2"]
    few += ["--config.training.log_every=2", "--config.likelihood.num_images=1"]
    likelihood = ["--config.likelihood.nodes=8"]
    train = ["run.py", "--mode=train", f"--workdir={workdir}", "--device=cpu"]
    assert main([*train, *TINY, *few, *likelihood]) == 0
    certify = ["run.py", "--mode=equivalence", f"--workdir={workdir}", "--device=cpu"]
    main(certify)  # what two steps have learned need not have one law
    rows = json.loads((workdir / "results" / "equivalence.json").read_text())["rows"]
    assert sum("from the trained network" in row["identity"] for row in rows) == 3
    monkeypatch.setattr(
        "scoreflow.certificate.certificate.conversions",
        lambda *_: [Identity("broken", 2.0, 1.0, "it")],
    )
    capsys.readouterr()
    assert main(certify) == 1
    said = capsys.readouterr()
    assert "FAILED" in said.out
    assert "broken" in said.err
    assert not json.loads((workdir / "results" / "equivalence.json").read_text())["passed"]
    assert main(["run.py", "--mode=equivalence", f"--workdir={tmp_path}/none"]) == 2
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("3 of 4 samples did not reach t = 1.0"),
        AssertionError("a flow was not solved"),
        RunError("no"),
        ZeroDivisionError("float division by zero"),
    ],
    ids=str,
)
def test_what_ends_a_part_is_a_row_of_its_group(error, monkeypatch):
    def part():
        raise error

    monkeypatch.setattr(certificate, "parts", lambda *_: [(3, part), (4, list), (5, part)])
    rows = list(certificate.certify(None, None))
    assert [number for number, _ in rows] == [3, 5]
    assert all(str(error) in row.basis and not row.passed for _, row in rows)


@pytest.mark.parametrize("error", [RuntimeError("a flow was not solved"), math.nan], ids=str)
def test_what_cannot_be_computed_is_a_row_that_failed(error, quick, tmp_path, monkeypatch, capsys):
    def part(*_):
        if isinstance(error, Exception):
            raise error
        return [Identity("no number", error, 1.0, "it")]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(certificate, "chain", part)
    assert main(["run.py", "--mode=equivalence", "--device=cpu", *TINY]) == 1
    assert "FAILED" in capsys.readouterr().out
    folder = tmp_path / "runs" / "equivalence-digits-vp"
    result = json.loads((folder / "results" / "equivalence.json").read_text())
    row = next(row for row in result["rows"] if not row["passed"])
    assert row["residual"] is None
    assert result["value"] == 1
    assert len(result["rows"]) > 5  # the others stand
    if isinstance(error, Exception):
        assert str(error) in row["basis"]
    page = (folder / "report.html").read_text()
    assert page.count('class="failed" data-sort="0">FAILED</td>') == 1
    assert page.count('<summary class="failed">') == 1


def test_a_defect_keeps_its_traceback(quick, tmp_path, monkeypatch):
    def part(*_):
        raise KeyError("a name that is not there")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(certificate, "chain", part)
    with pytest.raises(KeyError):
        main(["run.py", "--mode=equivalence", "--device=cpu", *TINY])


def test_the_precision_is_asked_for_and_recorded(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["run.py", "--mode=equivalence", "--device=cpu", *TINY]
    assert main([*command, "--config.equivalence.precision=bfloat16"]) == 0
    path = tmp_path / "runs" / "equivalence-digits-vp" / "results" / "equivalence.json"
    result = json.loads(path.read_text())
    assert result["settings"]["precision"] == "bfloat16"
    assert any("network in bfloat16" in row["identity"] for row in result["rows"])
    capsys.readouterr()
    assert main([*command, "--config.equivalence.precision=bfloat"]) == 2
    assert "did you mean 'bfloat16'?" in capsys.readouterr().err


def test_a_fresh_network_is_certified_awake():
    fresh = UNet(
        image_size=8, in_channels=1, out_channels=1, channels=8, multipliers=(1, 2), blocks=1,
        attention_sizes=(4,), dropout=0.0, num_groups=4,
    )  # fmt: skip
    x, index = torch.randn(2, 1, 8, 8), torch.zeros(2)
    with torch.no_grad():
        assert fresh(x, index).abs().max() < 1e-3
        assert certificate.awake(fresh)(x, index).std() > 0.1
        assert fresh(x, index).abs().max() < 1e-3  # itself it sleeps on


@pytest.mark.slow
def test_the_whole_certificate_of_a_fresh_network_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run.py", "--mode=equivalence", "--device=cpu"]) == 0
    path = tmp_path / "runs" / "equivalence-digits-vp" / "results" / "equivalence.json"
    result = json.loads(path.read_text())
    assert result["passed"]
    assert {row["group"] for row in result["rows"]} == set(certificate.GROUPS)
    assert all(row["passed"] for row in result["rows"])


@pytest.mark.slow
def test_the_rows_on_random_draws_are_as_many_as_share_the_false_alarms():
    """The most rows: a trained network on the data whose density is known."""
    sde = VPSDE.log_linear(100, 5e-3)
    subject = certificate.Subject(trained_toy(sde), toy.load(), True, _log_density)
    effort = certificate.Effort(trained_sampler_laws.Amount(64, 64, 8), 4, 3)
    numbered = list(certificate.certify(subject, effort))
    rows = [row for _, row in numbered]
    assert sum("by chance" in row.basis for row in rows) == RANDOM_ROWS
    assert all(
        row.plots
        for number, row in numbered
        if number <= 9 and "over all t" not in row.name and "in float32" not in row.name
    )

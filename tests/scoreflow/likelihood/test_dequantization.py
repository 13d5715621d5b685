"""Integers as points: each dequantization against a distribution of levels in closed form."""

import itertools
import math
from dataclasses import dataclass, field

import pytest
import scipy.stats
import torch
from torch import nn

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.likelihood.dataset_likelihood import DatasetLikelihood, LikelihoodSettings, measure
from scoreflow.likelihood.dequantization import Dequantizer, at_most_bits
from scoreflow.likelihood.flow_likelihood import Solver
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde import VPSDE, Noise
from scoreflow.sde.analytic import GaussianMixture, LevelGrid

F64 = torch.float64
SDE = VPSDE.log_linear(1000, sigma_min=1e-3, alpha_min=1e-4)
LEVELS, DIMS = 5, 2
P = torch.tensor([0.05, 0.3, 0.1, 0.15, 0.4], dtype=F64)
ENTROPY = float(-(P * P.log2()).sum())
EVERY = torch.tensor(list(itertools.product(range(LEVELS), repeat=DIMS)))  # all 25 images
SOLVER = Solver(0, 1e-5, 1e-5)


class Exact(ScoreModel):
    """A ScoreModel whose network is the truth."""

    def __init__(self, truth, t_min=1.0):
        super().__init__(nn.Identity(), SDE, "v", t_min)
        self.truth = truth

    def __call__(self, x_t, t):
        return self.truth.denoiser(self.sde)(x_t, t)


def on_bins():
    """Levels spread uniformly over their bins."""
    return LevelGrid(P, DIMS)


def on_centres():
    """Levels at the centres of their bins: one point each."""
    means = 2 * (EVERY.double() + 0.5) / LEVELS - 1
    weights = P[EVERY].prod(1)
    return GaussianMixture(weights, means, torch.zeros(len(EVERY), DIMS, DIMS, dtype=F64))


def time_of(sigma):
    """The time at which sigma / alpha is this."""
    return float(SDE.time(torch.tensor(sigma, dtype=F64).atan()))


def image_data(images):
    images = images.to(torch.uint8)
    return Data("grid", images, images, LEVELS, None, None)


def expected_bits(truth, name, t, embedding, draws, **more):
    """E over the data of the bits/dim: every image, weighted by its probability."""
    images = EVERY.repeat_interleave(draws, 0)
    deq = Dequantizer(name, LEVELS, t, embedding)
    question = LikelihoodSettings(SOLVER, 0, deq, batch_size=5000, checked=0, **more)
    values = measure(Exact(truth), image_data(images), 0, question).values.mean(1)
    each = values.view(len(EVERY), draws)
    weights = P[EVERY].prod(1)
    error = (weights**2 * each.var(1) / draws).sum().sqrt()
    return float(weights @ each.mean(1)), float(error), each.mean(1)


@pytest.mark.parametrize("reach", [2.0, 3.0, 6.0])
def test_truncated_normal_costs_the_mass_that_it_cuts_off_and_no_more(reach):
    """On centres: log P(k) = log p_t - log q + log of the mass kept, but for the neighbours."""
    t = time_of(1 / LEVELS / reach)
    bits, error, _ = expected_bits(on_centres(), "truncated_normal", t, "centre", 40)
    cut = at_most_bits(Dequantizer("truncated_normal", LEVELS, t, "centre"), SDE)
    assert cut == pytest.approx(-math.log2(1 - 2 * scipy.stats.norm.sf(reach)), rel=1e-6)
    # the tails of the neighbours in the bin make the image likelier than it is: by what they hold
    neighbours = 2 * scipy.stats.norm.sf(reach) / float(P.min()) / math.log(2)
    assert ENTROPY + cut - neighbours - 4 * error - 1e-4 < bits < ENTROPY + cut + 4 * error + 1e-4


@dataclass(frozen=True)
class Given(Noise):
    """Noise whose uniforms are given."""

    uniforms: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def uniform(self, stream, shape=(), draw=0):
        return self.uniforms


@pytest.mark.parametrize("reach", [0.5, 1.0, 2.0, 3.0])
def test_the_density_of_the_truncated_normal_is_normalised(reach):
    """E_q 1 / q is the length of the bin, alpha 2 / L, by midpoints of u."""
    u = ((torch.arange(20_000, dtype=F64) + 0.5) / 20_000)[:, None]
    t = time_of(1 / LEVELS / reach)
    deq = Dequantizer("truncated_normal", LEVELS, t, "centre")
    noise = Given(0, torch.arange(20_000), 0, u)
    x_t, offset = deq.place(on_centres().denoiser(SDE), SDE, torch.full_like(u, 3).long(), noise)
    alpha = float(SDE.alpha(torch.tensor(t, dtype=F64)))
    assert float(offset.exp().mean()) == pytest.approx(alpha * 2 / LEVELS, rel=1e-3)
    centre = alpha * (2 * 3.5 / LEVELS - 1)
    assert float((x_t - centre).abs().max()) <= alpha / LEVELS + 1e-12


@pytest.mark.parametrize("sigma", [1e-3, 0.02])
def test_uniform_costs_at_most_the_truncation(sigma):
    t = time_of(sigma)
    bits, error, _ = expected_bits(on_bins(), "uniform", t, "uniform", 40)
    most = at_most_bits(Dequantizer("uniform", LEVELS, t), SDE)
    assert -4 * error - 0.1 * most - 1e-4 < bits - ENTROPY < most + 4 * error + 1e-4
    if sigma == 1e-3:
        assert abs(bits - ENTROPY) < 0.01


@pytest.mark.parametrize("sigma", [0.01, 0.05])
def test_last_step_is_exact_on_far_centres_and_a_bound_on_bins(sigma):
    t = time_of(sigma)
    bits, error, _ = expected_bits(on_centres(), "last_step", t, "centre", 40)
    assert abs(bits - ENTROPY) < 4 * error + 1e-4
    bits, error, _ = expected_bits(on_bins(), "last_step", t, "uniform", 60)
    assert bits > ENTROPY - 4 * error
    # a decoder that knew everything would cost nothing; the normal one errs next to the edges
    assert bits < ENTROPY + 1.5 * LEVELS * sigma / math.log(2) + 4 * error


@pytest.mark.parametrize(
    ("truth", "name", "embedding"),
    [
        (on_bins, "uniform", "uniform"),
        (on_centres, "truncated_normal", "centre"),
        (on_bins, "last_step", "uniform"),
        (on_centres, "last_step", "centre"),
    ],
)
def test_probabilities_of_all_images_sum_to_no_more_than_one(truth, name, embedding):
    """exp of a bound's expectation, summed over every image there is."""
    _, _, each = expected_bits(truth(), name, time_of(0.05), embedding, 60)
    total = float((2.0 ** (-DIMS * each)).sum())
    assert 0.5 < total < 1.02


def test_more_points_of_an_image_give_a_tighter_bound():
    """On bins started late, uniform points lose at the edges; K of them lose less."""
    t = time_of(0.1)
    one, error, _ = expected_bits(on_bins(), "uniform", t, "uniform", 160)
    four, _, _ = expected_bits(on_bins(), "uniform", t, "uniform", 40, samples=4)
    sixteen, _, _ = expected_bits(on_bins(), "uniform", t, "uniform", 10, samples=16)
    blurred = blurred_bits(
        SDE.sigma(torch.tensor(t, dtype=F64)), SDE.alpha(torch.tensor(t, dtype=F64))
    )
    assert one > four + error
    assert four > sixteen + error / 4
    assert sixteen > blurred - 4 * error
    assert sixteen - blurred < 0.5 * (one - blurred)


def blurred_bits(sigma, alpha):
    """What a model of the blurred density gives to the bins: no K can do better."""
    edges = torch.linspace(-1, 1, LEVELS + 1, dtype=F64)
    grid = LevelGrid(P, 1)
    u = (torch.arange(4000, dtype=F64) + 0.5) / 4000
    mass = []
    for low, high in itertools.pairwise(edges):
        x = alpha * (low + (high - low) * u)
        density = grid.log_prob(x[:, None], alpha.expand(4000), sigma.expand(4000)).exp()
        mass.append(float(density.mean() * alpha * (high - low)))
    return float(-(P * torch.tensor(mass, dtype=F64).log2()).sum())


def test_the_same_point_many_times_is_one_point(monkeypatch):
    """Without -log K, twenty copies would seem better by log2(20) / D bits/dim."""
    place = Dequantizer.place
    monkeypatch.setattr(Dequantizer, "place", lambda *given: place(*given[:5]))
    deq = Dequantizer("uniform", LEVELS, 1.0)
    images = image_data(EVERY)
    values = [
        measure(
            Exact(on_bins()), images, 0, LikelihoodSettings(SOLVER, 0, deq, samples=k, checked=0)
        ).values
        for k in (1, 20)
    ]
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=1e-12)


def test_points_do_not_depend_on_how_they_are_batched():
    deq = Dequantizer("uniform", LEVELS, time_of(0.1))
    images = image_data(EVERY)

    def values(batch_size):
        question = LikelihoodSettings(SOLVER, 0, deq, samples=3, batch_size=batch_size, checked=0)
        return measure(Exact(on_bins()), images, 0, question).values

    torch.testing.assert_close(values(4), values(1000), rtol=0, atol=1e-9)


def test_noisy_logarithms_are_not_averaged_as_probabilities():
    with pytest.raises(RequestError, match=r"probes = 0.*samples 2, probes 3"):
        LikelihoodSettings(Solver(3), samples=2)


# ---- the stated errors hold at their rates


def groups(values, size):
    return values.view(-1, size)


@pytest.fixture(scope="module")
def many():
    """1200 images of a level grid of 6 pixels: exactly, and at looser tolerances."""
    truth = LevelGrid(P, 6)
    images = truth.levels(Noise.of(3, 0, 1200)).to(torch.uint8)
    data = Data("grid", images, images, LEVELS, None, None)
    deq = Dequantizer("uniform", LEVELS, 1.0)

    def values(probes, tolerance):
        question = LikelihoodSettings(
            Solver(probes, tolerance, tolerance), 0, deq, 1, 1200, checked=0
        )
        return measure(Exact(truth), data, 0, question).values

    return {
        "exact": values(0, 1e-6),
        **{tolerance: values(0, tolerance) for tolerance in (1e-2, 1e-3, 1e-4)},
    }


def test_the_error_over_images_covers_the_entropy_at_its_rate(many):
    sets = groups(many["exact"].mean(1), 20)
    off = (sets.mean(1) - ENTROPY) / (sets.std(1) / math.sqrt(20))
    inside = int((off.abs() <= 1).sum())  # of 60; Student's t with 19 degrees: 67.0 %
    low, high = scipy.stats.binom.interval(0.999, len(off), 1 - 2 * scipy.stats.t.sf(1, 19))
    assert low <= inside <= high


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4])
def test_the_error_of_the_solver_covers_what_it_did(many, tolerance):
    """Stated from 16 images of each set solved at a tenth of the tolerance."""
    from scoreflow.likelihood.error_budget import _by_solver

    loose, finer, exact = many[tolerance], many.get(tolerance / 10, many["exact"]), many["exact"]
    if tolerance == 1e-4:
        finer = exact
    inside = []
    for first in range(0, 1200, 40):
        rows = slice(first, first + 40)
        again = dict(enumerate(finer[rows][:16, 0].tolist()))
        stated = _by_solver(loose[rows], [None] * 40, again, 1.0)
        inside.append(abs(float((loose - exact)[rows].mean())) <= stated)
    assert sum(inside) >= scipy.stats.binom.ppf(0.001, len(inside), 0.683)


def test_an_asker_knows_its_unit():
    images = image_data(EVERY)
    model = Exact(on_bins())
    bits = DatasetLikelihood(
        model, images.test, LikelihoodSettings(SOLVER, 0, Dequantizer("uniform", LEVELS, 1.0))
    )
    assert bits.per_nat == pytest.approx(1 / (DIMS * math.log(2)))
    assert (
        DatasetLikelihood(model, images.test.double(), LikelihoodSettings(SOLVER)).per_nat == 1.0
    )


@pytest.mark.parametrize(
    ("experiment", "levels"),
    [("digits", 17), pytest.param("mnist", 256, marks=pytest.mark.slow)],
)
def test_the_shipped_schedules_cost_a_perfect_model_less_than_five_thousandths(experiment, levels):
    """Truncation at t_min costs most where many pixels share a level: four fifths in MNIST."""
    import importlib

    from scoreflow.factory.assembly import build_sde

    config = importlib.import_module(f"scoreflow.configs.{experiment}").get_config()
    sde = build_sde(config)
    p = torch.full((levels,), 0.19 / (levels - 1), dtype=F64)
    p[0] = 0.81
    truth = LevelGrid(p, 4)

    class Perfect(Exact):
        def __init__(self):
            super().__init__(truth)
            self.sde = sde

    images = truth.levels(Noise.of(2, 0, 1500)).to(torch.uint8)
    data = Data("grid", images, images, levels, None, None)
    question = LikelihoodSettings(
        Solver(0, 1e-5, 1e-5), 0, Dequantizer("uniform", levels, 1.0), batch_size=1500, checked=0
    )
    found = measure(Perfect(), data, 0, question)
    entropy = -p.log2()[images.long()].mean(1)  # of these very images
    excess = found.values[:, 0] - entropy
    error = float(excess.std()) / 1500**0.5
    assert float(excess.mean()) + 2 * error < 0.005  # 0.0035 and 0.0006
    assert found.result["error_budget"]["truncation_at_most"] < 0.005

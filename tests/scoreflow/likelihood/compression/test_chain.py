"""The chain of a coder: its bound against the ledger's terms, closed forms and an entropy."""

import math

import pytest
import torch

from scoreflow.data.levels import dequantize
from scoreflow.likelihood.compression.chain import Chain, bound, choose, priced
from scoreflow.likelihood.compression.error_law import (
    FIT,
    KINDS,
    STRANGE,
    buckets,
    level_nats,
    measure,
    value_of,
)
from scoreflow.losses.variational import term
from scoreflow.sde import EDMSDE, VESDE, VPSDE, Noise, RectifiedSDE, SubVPSDE
from scoreflow.sde.analytic import LevelGrid
from scoreflow.sde.noise import Stream

F64 = torch.float64
SDE = VPSDE.log_linear(200, sigma_min=2e-2, alpha_min=5e-3)
EVENT, LEVELS = (6,), 16
SHARES = torch.exp(-0.5 * ((torch.arange(LEVELS, dtype=F64) - 6) / 2.5) ** 2)
GRID = LevelGrid(SHARES / SHARES.sum(), EVENT[0])
TIMES = tuple(range(2, 201, 2))


def fitted(sde=SDE, times=TIMES, count=400):
    halves = []
    for half in (range(count), range(count, 2 * count)):
        noise = Noise(3, torch.tensor(half))
        levels = GRID.levels(noise)
        x_0 = dequantize(levels, noise.uniform(Stream.DATA, EVENT, draw=1), LEVELS)
        found = measure(GRID.denoiser(sde), sde, times, x_0, levels, LEVELS, KINDS, noise)
        halves.append(found)
    return halves[0], halves[1]


HALVES = fitted()


def chain_of(steps, sde=SDE, halves=HALVES, times=TIMES):
    choice = choose(priced(halves, times, sde), steps)
    return Chain(GRID.denoiser(sde), sde, choice.law, choice.times, EVENT, LEVELS), choice


def test_probabilities_of_levels_add_up_to_1_wherever_the_estimate_lies():
    mean = torch.tensor([-1.0, -0.999, 0.0, 0.3, 1.0], dtype=F64)[:, None]
    levels = torch.arange(17)[None].expand(5, 17)
    for std in (1e-4, 1e-2, 1.0, 8.0):
        nats = level_nats(mean.expand(5, 17), torch.tensor(std, dtype=F64), levels, 17)
        assert nats.isfinite().all()
        assert float(nats.max()) <= -math.log(STRANGE) + 1e-9
        assert torch.allclose((-nats).exp().sum(1), torch.ones(5, dtype=F64), atol=1e-12)


def test_a_step_costs_what_the_ledgers_term_says_at_the_same_point():
    """With one bucket the variance is the optimal one of that error, whatever made the table."""
    law = HALVES[0]["step"].law(TIMES)
    chain = Chain(GRID.denoiser(SDE), SDE, law, (0, *TIMES), EVENT, LEVELS)
    noise = Noise.of(1, 0, 32)
    levels = GRID.levels(noise)
    found = bound(chain, levels, noise)
    x_0 = dequantize(levels, noise.uniform(Stream.DEQUANTIZE, EVENT), LEVELS)
    for k in (2, 3, 50, len(TIMES)):
        s, t = (torch.tensor(float(chain.times[j]), dtype=F64) for j in (k - 1, k))
        eps = noise.at((6 << 24) + k).normal(Stream.TRAIN_EPS, EVENT)
        prediction = GRID.denoiser(SDE)(SDE.perturb(x_0, t, eps), t)
        error = float(value_of(law.squares)[k - 1, 0])

        def of_eps(time, error=error):
            return SDE.alpha(time) ** 2 / SDE.variance(time) * error

        ledger = term(prediction, SDE, x_0, t, s, "optimal", of_eps)
        assert torch.allclose(found[:, k - 1], ledger, rtol=1e-9, atol=1e-12)


def test_errors_of_a_pixel_are_those_of_the_exact_denoiser():
    """E|x_0 error|^2 is the mean posterior variance, by a fine Riemann sum over x_t."""
    law = HALVES[0]["step"].law(TIMES)
    t = torch.tensor(float(TIMES[40]), dtype=F64)
    x = torch.linspace(-6, 6, 20001, dtype=F64)[:, None]
    one = LevelGrid(GRID.probabilities, 1)
    a, s = SDE.alpha(t), SDE.sigma(t)
    density = one.log_prob(x, a, s).exp() * (x[1, 0] - x[0, 0])
    mean = one.score_and_mean(x, a, s)[1][:, 0]
    centres = (2 * torch.arange(LEVELS, dtype=F64) + 1) / LEVELS - 1
    square = float((GRID.probabilities * (centres**2 + 1 / (3 * LEVELS**2))).sum())
    truth = square - float((density * mean**2).sum())
    # 2400 pixels, whose squared errors scatter by about their mean; a code rounds by 1.1 %
    assert value_of(law.squares)[40, 0] == pytest.approx(truth, rel=4 / math.sqrt(2400) + 0.011)


def test_the_deviation_of_levels_is_the_one_that_makes_them_likeliest():
    """Of those tried, on images that were not measured: a neighbour is off by half an octave."""
    noise, law = Noise.of(11, 0, 600), HALVES[0]["step"].law(TIMES)
    levels = GRID.levels(noise)
    x_0 = dequantize(levels, noise.uniform(Stream.DEQUANTIZE, EVENT), LEVELS)
    for k in (30, 40):  # of 2.7 and of 6.8 bins of noise
        t = torch.tensor(float(TIMES[k]), dtype=F64)
        x_t = SDE.perturb(x_0, t, noise.normal(Stream.TRAIN_EPS, EVENT))
        estimate = GRID.denoiser(SDE)(x_t, t).x_0
        std = value_of(law.of_levels)[k, 0].sqrt()
        assert float(std.log2() * 2) == pytest.approx(round(float(std.log2() * 2)), abs=1e-9)
        less, own, more = (
            float(level_nats(estimate, std * 2.0**j, levels, LEVELS).mean())
            for j in (-0.5, 0, 0.5)
        )
        assert own < min(less, more)


@pytest.mark.parametrize("steps", [2, 30])
def test_the_bound_lies_above_the_entropy_and_close_to_it(steps):
    """Close, for data that are nearly normal: normal laws are then nearly right for any stride."""
    noise = Noise.of(7, 0, 1000)
    levels = GRID.levels(noise)
    chain, _ = chain_of(steps)
    nats = bound(chain, levels, noise).sum(1) / EVENT[0]
    given = -GRID.probabilities.log()[levels].mean(1)  # these images' own
    error = float((nats - given).std()) / math.sqrt(len(nats))
    above = float((nats - given).mean())
    assert -3 * error < above < 0.02 * GRID.bits_per_dim * math.log(2) + 3 * error


def test_choosing_says_what_other_images_cost():
    chain, choice = chain_of(12)
    noise = Noise.of(9, 0, 1000)
    # the law of the choice is of both halves: of its cost other images tell within the scatter
    values = bound(chain, GRID.levels(noise), noise)[:, :-1].sum(1) / EVENT[0]
    error = float(values.std()) * math.sqrt(1 / 1000 + 1 / 400)
    assert float(values.mean()) == pytest.approx(choice.costs[choice.law.kind], abs=4 * error)
    assert choice.law.kind == min(choice.costs, key=lambda kind: choice.costs[kind])
    assert choice.times[:: len(choice.times) - 1] == (0, 200)
    assert len(choice.times) == 13


@pytest.mark.parametrize("name", ["ve", "subvp", "edm", "rectified"])
def test_other_processes_have_a_chain_as_well(name):
    """Without signal at N too, where snr is 0."""
    sde = {
        "ve": VESDE(100, 0.02, 20.0),
        "subvp": SubVPSDE.linear(100),
        "edm": EDMSDE(100, 0.02, 20.0),
        "rectified": RectifiedSDE(100),
    }[name]
    times = tuple(range(4, 101, 4))
    chain, _ = chain_of(10, sde, fitted(sde, times, 30), times)
    noise = Noise.of(7, 0, 200)
    levels = GRID.levels(noise)
    nats = bound(chain, levels, noise).sum(1) / EVENT[0]
    assert nats.isfinite().all()
    given = -GRID.probabilities.log()[levels].mean(1)
    error = float((nats - given).std()) / math.sqrt(len(nats))
    assert -3 * error < float((nats - given).mean()) < 0.25


def test_no_chain_where_none_can_be():
    with pytest.raises(ValueError, match=r"1\.\.100 steps, got 101"):
        choose(priced(HALVES, TIMES, SDE), 101)
    with pytest.raises(ValueError, match="take fewer"):  # 100 steps end at t = 2, below a bin
        choose(priced(HALVES, TIMES, SDE), 100)
    law = HALVES[0]["step"].law(TIMES)
    for times in ((0, 100), (1, 200), (0, 20, 10, 200)):
        with pytest.raises(ValueError, match="must rise from 0 to N = 200"):
            Chain(GRID.denoiser(SDE), SDE, law, times, EVENT, LEVELS)
    chain = Chain(GRID.denoiser(SDE), SDE, law, (0, 100, 200), EVENT, LEVELS)
    with pytest.raises(ValueError, match=r"2\.\.2, got 1"):
        chain.reverse(1, torch.zeros(1, 6, dtype=F64))


def test_buckets_of_a_pixel_are_its_own():
    assert [buckets(kind, (1, 3, 3)) for kind in KINDS] == [1, 9, 24]
    assert FIT % (1 << 24) == 0

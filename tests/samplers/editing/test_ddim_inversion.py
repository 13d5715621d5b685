"""DDIM run forwards: on a Gaussian the flow is known, and there and back again is x_0."""

import itertools
import math

import pytest
import torch

from scoreflow.samplers import DDIM, Step, grid, invert
from scoreflow.sde.analytic import gaussian
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE

PROCESSES = {
    "vp": VPSDE.log_linear(1000, 1e-2, 1e-2),
    "subvp": SubVPSDE.log_linear(1000, 1e-1, 1e-2),
    "ve": VESDE(1000, 1e-2, 50.0),
}
MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
VARIANCES = torch.tensor([0.5, 0.1], dtype=torch.float64)
DATA = gaussian(MEAN, VARIANCES.diag())


def rising(sde, count):
    """count steps from 1 to N."""
    return grid("log_snr", sde, count + 1)[:-1].flip(0)


def flow(sde, x, t, s):
    """The flow of DATA from t to s: each axis's offset grows as its marginal's deviation."""

    def deviation(at):
        return (sde.alpha(at) ** 2 * VARIANCES + sde.variance(at)).sqrt()

    return sde.alpha(s) * MEAN + (x - sde.alpha(t) * MEAN) * deviation(s) / deviation(t)


@pytest.mark.parametrize("process", PROCESSES)
def test_inversion_tends_to_the_flow_at_first_order(process):
    sde, x_0 = PROCESSES[process], DATA.sample(Noise.of(0, 0, 32))
    errors = []
    for count in (50, 100, 200):
        times = rising(sde, count)
        truth = flow(sde, sde.alpha(times[0]) * x_0, times[0], times[-1])
        found = invert(DATA.denoiser(sde), sde, times, x_0)
        errors.append(float((found - truth).square().mean().sqrt()) / float(truth.std()))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert 0.8 < slopes[-1] < 1.2, (slopes, errors)
    assert errors[-1] < 0.05


@pytest.mark.parametrize("process", PROCESSES)
def test_there_and_back_again_at_first_order(process):
    """Back to t = 1 on the same times; DDIM's two errors do not cancel, but vanish alike."""
    sde, x_0 = PROCESSES[process], DATA.sample(Noise.of(0, 0, 32))
    errors = []
    for count in (50, 100, 200):
        times = rising(sde, count)
        x = invert(DATA.denoiser(sde), sde, times, x_0)
        for t, s in itertools.pairwise(times.flip(0)):
            x = DDIM().step(x, Step(DATA.denoiser(sde), sde, t, s, Noise.of(0, 0, 32)))
        errors.append(float((x / sde.alpha(times[0]) - x_0).square().mean().sqrt()))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert 0.8 < slopes[-1] < 1.2, (slopes, errors)


def test_a_step_is_its_formula():
    """x_s = alpha_s x_0 + sigma_s eps with x_0 and eps of the exact denoiser at x_t, by hand."""
    sde, x_0 = PROCESSES["vp"], DATA.sample(Noise.of(0, 0, 5))
    t, s = times = torch.tensor([3.0, 40.0], dtype=torch.float64)
    x_t = sde.alpha(t) * x_0
    marginal = sde.alpha(t) ** 2 * VARIANCES + sde.variance(t)
    pull = (x_t - sde.alpha(t) * MEAN) / marginal
    of_x_0, of_eps = MEAN + sde.alpha(t) * VARIANCES * pull, sde.sigma(t) * pull
    found = invert(DATA.denoiser(sde), sde, times, x_0)
    expected = sde.alpha(s) * of_x_0 + sde.sigma(s) * of_eps
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_data_become_their_noise():
    """Of N(mean, V) data x_N is N(0, I), to what alpha_N and the strides leave."""
    sde, x_0 = PROCESSES["vp"], DATA.sample(Noise.of(1, 0, 4000))
    x = invert(DATA.denoiser(sde), sde, rising(sde, 200), x_0)
    assert (x.mean(0).abs() < 4 / 4000**0.5 + 0.02).all()
    assert ((x.var(0) - 1).abs() < 4 * (2 / 4000) ** 0.5 + 0.05).all()


def test_a_datum_is_inverted_alike_in_any_batch(elementwise):
    sde, x_0 = PROCESSES["vp"], Noise.of(0, 0, 9).normal(Stream.DATA, (1, 3, 3))
    everyone = invert(elementwise(sde), sde, rising(sde, 5), x_0)
    for k in (0, 4, 8):
        alone = invert(elementwise(sde), sde, rising(sde, 5), x_0[k : k + 1])
        assert torch.equal(alone[0], everyone[k])


@pytest.mark.parametrize(
    "times",
    [[], [1.0], [0, 5, 1000], [1, 5, 5], [5, 1], [1, 1001], [1, float("nan")], [[1, 5]]],
)
def test_times_that_do_not_rise_are_refused(times):
    sde, times = PROCESSES["vp"], torch.tensor(times, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"must increase strictly within \(0, 1000\]"):
        invert(DATA.denoiser(sde), sde, times, torch.zeros(1, 2).double())

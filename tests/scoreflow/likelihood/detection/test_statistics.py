"""Statistics of images against what they are on Gaussian data, whose denoisers are exact."""

import math
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from scoreflow.likelihood.detection import statistics
from scoreflow.likelihood.detection.statistics import (
    LOG_SNR,
    at_level,
    levels,
    noise_of,
    path_moments,
    probes_of,
)
from scoreflow.likelihood.nodes.clock import Clock
from scoreflow.sde import EDMSDE, VPSDE, RectifiedSDE
from scoreflow.sde.analytic import GaussianMixture, gaussian
from scoreflow.sde.noise import Noise

PATH = VPSDE.log_linear(1000, sigma_min=4e-4)
PROCESSES = {"vp": PATH, "edm": EDMSDE(1000), "rectified": RectifiedSDE(1000)}


def time_of(log_snr, sde=PATH):
    return sde.time_of_log_snr(torch.tensor(log_snr, dtype=torch.float64))


def rotation(dims, seed=0):
    drawn = torch.randn(dims, dims, generator=torch.Generator().manual_seed(seed)).double()
    return torch.linalg.qr(drawn)[0]


def thin(dims=12, rank=5):
    """A Gaussian on a rotated plane of few dimensions, and points of it."""
    axes = rotation(dims)[:, :rank]
    law = gaussian(torch.zeros(dims).double(), axes @ axes.T)
    return law, law.sample(Noise.of(0, 0, 8))


@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("log_snr", [-2.0, 2.0, 10.0])
def test_the_dimension_of_a_thin_gaussian_is_its_closed_form(sde, log_snr):
    """Of N(0, P) with P of rank r, in P: r alpha^2 / s^2 + (alpha sigma |x_0| / s^2)^2."""
    law, x_0 = thin()
    t = time_of(log_snr, sde)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    found = at_level(law.denoiser(sde), sde, x_0, t, torch.zeros_like(x_0), ())
    var = alpha**2 + sigma**2
    expected = 5 * alpha**2 / var + (alpha * sigma / var) ** 2 * (x_0**2).sum(1)
    torch.testing.assert_close(12 * found.dimension, expected, rtol=1e-9, atol=1e-9)


def test_the_dimension_tends_to_the_rank_as_noise_vanishes():
    """Its error falls as sigma^2: with a log-SNR larger by 2, e^2 times."""
    law, x_0 = thin()
    off, still = [], torch.zeros_like(x_0)
    for log_snr in (8.0, 10.0, 12.0, 14.0):
        found = at_level(law.denoiser(PATH), PATH, x_0, time_of(log_snr), still, ())
        off.append((12 * found.dimension - 5).abs())
    assert float(off[-1].max()) < 1e-4
    for far, near in pairwise(off):
        expected = torch.full_like(near, math.e**2)
        torch.testing.assert_close(far / near, expected, rtol=0.02, atol=0)


def test_off_the_plane_the_dimension_is_large():
    """An image beside the data has a score of its distance over sigma^2, and is found."""
    law, x_0 = thin()
    away, still = x_0 + 0.5 * rotation(12)[:, 11], torch.zeros_like(x_0)
    t, denoiser = time_of(6.0), law.denoiser(PATH)
    near, far = (at_level(denoiser, PATH, x, t, still, ()) for x in (x_0, away))
    sigma, alpha = float(PATH.sigma(t)), float(PATH.alpha(t))
    expected = torch.full((8,), (alpha * 0.5 / sigma) ** 2).double()
    torch.testing.assert_close(12 * (far.dimension - near.dimension), expected)


def fits_chi_square(values, dims):
    return stats.kstest(values.numpy(), stats.chi2(dims).cdf).pvalue > 1e-3


@pytest.mark.parametrize("log_snr", [4.0, 0.0, -3.0])
def test_the_score_norm_has_its_chi_square_law(log_snr):
    """Of N(0, 1/4): D s^2 / sigma^2 times the norm is chi-square of D, s^2 the law's variance."""
    dims, count, t = 6, 2000, time_of(log_snr)
    law = gaussian(torch.zeros(dims).double(), torch.eye(dims).double() / 4)
    noise = Noise.of(0, 0, count)
    x_0, eps = law.sample(noise), noise_of(noise.at(1), (dims,))
    found = at_level(law.denoiser(PATH), PATH, x_0, t, eps, ())
    alpha, sigma = float(PATH.alpha(t)), float(PATH.sigma(t))
    var = alpha**2 / 4 + sigma**2
    assert fits_chi_square(dims * found.norm * var / sigma**2, dims)
    torch.testing.assert_close(found.curvature, torch.full((count,), sigma**2 / var).double())
    # the estimate's error is that of Wiener's filter, a chi-square too
    assert fits_chi_square(dims * found.reconstruction / (sigma**2 / 4 / var), dims)


@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES)
def test_norm_and_curvature_have_one_mean_under_the_law_itself(sde):
    """Integration by parts, on a mixture, at every level, within four standard errors."""
    means = torch.tensor([[0.8, 0.0, 0.0], [-0.8, 0.2, 0.0]]).double()
    spread = torch.stack([torch.eye(3).double() * variance for variance in (0.02, 0.05)])
    law = GaussianMixture(torch.tensor([0.3, 0.7]).double(), means, spread)
    noise = Noise.of(1, 0, 1500)
    x_0 = law.sample(noise)
    for k, t in enumerate(levels(sde, 1.0, float(sde.num_steps))):
        found = at_level(law.denoiser(sde), sde, x_0, t, noise_of(noise.at(1 + k), (3,)), ())
        apart = found.norm - found.curvature
        assert abs(float(apart.mean())) < 4 * float(apart.std()) / 1500**0.5
        assert float(found.norm.mean()) > 0


def test_random_probes_have_the_exact_trace_as_their_mean():
    """Of 12 dimensions 16 signs are all that there are, whose mean is the trace to rounding."""
    law, x_0 = thin()
    t, eps = time_of(1.0), noise_of(Noise.of(0, 0, 8), (12,))
    exact = at_level(law.denoiser(PATH), PATH, x_0, t, eps, ())
    for count in (1, 16):
        probes = probes_of(Noise.of(0, 0, 8), (12,), count)
        assert len(probes) == count
        found = at_level(law.denoiser(PATH), PATH, x_0, t, eps, probes)
        assert torch.equal(found.norm, exact.norm)
        off = float((found.curvature - exact.curvature).abs().max())
        assert (off < 1e-12) == (count == 16)


def test_the_exact_trace_holds_a_probe_or_two_at_a_time(monkeypatch):
    """All D unit vectors of a batch are D times its size: of MNIST 784 batches."""
    law, x_0 = thin()
    alive, most, real = weakref.WeakSet(), [], statistics.unit_probes

    def watched(x):
        for probe in real(x):
            alive.add(probe)
            most.append(len(alive))
            yield probe

    monkeypatch.setattr(statistics, "unit_probes", watched)
    at_level(law.denoiser(PATH), PATH, x_0, time_of(0.0), torch.zeros_like(x_0), ())
    assert len(most) == 12
    assert max(most) <= 3


def test_the_angle_is_finite_whatever_the_trace():
    law, x_0 = thin()
    found = at_level(law.denoiser(PATH), PATH, x_0, time_of(0.0), torch.zeros_like(x_0), ())
    torch.testing.assert_close(found.angle.tan(), found.norm / found.curvature)


def test_levels_are_where_they_say_and_within_the_networks_times():
    found = levels(PATH, 1.0, 1000.0)
    torch.testing.assert_close(PATH.log_snr(found), torch.tensor(LOG_SNR).double())
    times = levels(VPSDE.linear(1000), 200.0, 300.0).tolist()
    assert (times[0], times[-1]) == (200.0, 300.0)
    assert times == sorted(times)


def along_the_flow(variances, x_0, t_min, end, count):
    """The moments of the exact flow of N(0, diag(variances)), at the same points."""
    bounds = torch.tensor((t_min, end), dtype=torch.float64)
    clock = Clock(*PATH.angle(bounds).tolist())
    angles, _ = clock.angles(torch.arange(count, dtype=torch.float64) / count)
    std = (angles.cos()[:, None] ** 2 * variances + angles.sin()[:, None] ** 2).sqrt()
    x = x_0[:, None] / float(PATH.scale(bounds[0])) * std / std[0]
    eps = (angles.sin()[:, None] / std**2 * x).numpy()
    rate = np.diff(eps, axis=1) * count
    powers = [(each**power).mean((1, 2)) for each in (eps, rate) for power in (1, 2, 3)]
    return torch.from_numpy(np.stack(powers, 1))


def test_path_moments_tend_to_those_of_the_exact_flow():
    """DDIM's steps are of order 1: with twice as many the error is half, the last of each pair."""
    variances = torch.tensor([0.5, 0.1, 0.02]).double()
    law = gaussian(torch.zeros(3).double(), variances.diag())
    x_0 = law.sample(Noise.of(0, 0, 5))
    off = []
    for count in (160, 320, 640):
        found = path_moments(law.denoiser(PATH), PATH, x_0, 1.0, 1000.0, count)
        expected = along_the_flow(variances, x_0, 1.0, 1000.0, count)
        off.append((found - expected).norm(dim=0) / expected.norm(dim=0))
    assert float(off[-1].max()) < 0.02
    orders = (off[1] / off[2]).log2()
    assert bool((orders - 1).abs().max() < 0.15), orders


def test_few_steps_are_ddims_own():
    """On Gaussian data each step multiplies by a known number: an independent recursion."""
    count, var = 10, 0.3
    law = gaussian(torch.zeros(1).double(), torch.full((1, 1), var).double())
    x_0, times = torch.tensor([[0.7]]).double(), torch.tensor([1.0, 1000.0]).double()
    found = path_moments(law.denoiser(PATH), PATH, x_0, 1.0, 1000.0, count)[0].tolist()
    ends = [math.atan2(float(PATH.sigma(t)), float(PATH.alpha(t))) for t in times]
    angles = Clock(*ends).angles(torch.arange(count).double() / count)[0].tolist()
    x, eps = 0.7, []
    for k, phi in enumerate(angles):
        s = math.cos(phi) ** 2 * var + math.sin(phi) ** 2
        eps.append(math.sin(phi) / s * x)
        if k + 1 < count:
            after, x_0_hat = angles[k + 1], math.cos(phi) * var / s * x
            x = math.cos(after) * x_0_hat + math.sin(after) * eps[-1]
    rate = [count * (b - a) for a, b in pairwise(eps)]
    expected = [np.mean(np.power(each, power)) for each in (eps, rate) for power in (1, 2, 3)]
    # the first angles are of 4e-4, whose time is known by log cos, 1e-7 of size, to 1e-16
    assert found == pytest.approx(expected, rel=1e-6)

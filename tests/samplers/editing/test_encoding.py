"""The flow's latent code, on Gaussian data, where it is a closed form; and starts below N."""

import pytest
import torch

from scoreflow.samplers import (
    Ancestral,
    DPMSolver,
    ProbabilityFlow,
    grid,
    sample,
    slerp,
    times_from,
)
from scoreflow.sde.analytic import gaussian
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.processes.vp import VPSDE

MEAN = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
EYE = torch.eye(3, dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.4]], dtype=torch.float64)


def moved(sde, x, start, end):
    """The flow of N(MEAN, COVARIANCE): each eigenvector's deviation keeps its rank.

    On the unit scale the variance along one of eigenvalue l is cos^2 l + sin^2.
    """
    values, axes = torch.linalg.eigh(COVARIANCE)
    first, last = (sde.angle(torch.tensor(float(t), dtype=torch.float64)) for t in (start, end))

    def std(angle):
        return (angle.cos() ** 2 * values + angle.sin() ** 2).sqrt()

    offset = (x - first.cos() * MEAN) @ axes
    return last.cos() * MEAN + (offset * std(last) / std(first)) @ axes.T


@pytest.mark.parametrize("t_min", [1.0, 3.0])
def test_the_latent_of_gaussian_data_is_the_closed_form(t_min, process):
    data, noise = gaussian(MEAN, COVARIANCE), Noise.of(0, 0, 6)
    x, denoiser = data.sample(noise), data.denoiser(process)
    flow = ProbabilityFlow(t_min, tolerance=1e-9)
    latent = flow.encode(denoiser, process, x)
    torch.testing.assert_close(
        latent, moved(process, x, t_min, process.num_steps), rtol=1e-6, atol=1e-6
    )
    back = flow.decode(denoiser, process, latent)
    torch.testing.assert_close(back, x, rtol=1e-6, atol=1e-6)


def test_the_error_of_there_and_back_falls_with_the_tolerance(mixture):
    """An order-5 solver: its error goes as the tolerance, here at least as its power 0.7."""
    sde = VPSDE.linear(200)
    x, denoiser = mixture.sample(Noise.of(0, 0, 32)), mixture.denoiser(sde)
    errors = []
    for tolerance in (1e-3, 1e-5, 1e-7):
        flow = ProbabilityFlow(tolerance=tolerance)
        back = flow.decode(denoiser, sde, flow.encode(denoiser, sde, x))
        errors.append(float((back - x).square().mean().sqrt()))
    assert errors[0] < 0.1
    assert errors[1] < errors[0] * 100**-0.7
    assert errors[2] < errors[1] * 100**-0.7


def test_the_way_between_two_gaussian_data_is_the_closed_form():
    sde, data = VPSDE.linear(200), gaussian(MEAN, COVARIANCE)
    x, denoiser = data.sample(Noise.of(0, 0, 2)), data.denoiser(sde)
    flow, share = ProbabilityFlow(tolerance=1e-9), torch.linspace(0, 1, 5, dtype=torch.float64)
    codes = flow.encode(denoiser, sde, x)
    path = flow.decode(denoiser, sde, slerp(codes[:1], codes[1:], share))
    ends = moved(sde, x, 1, 200)
    arc = slerp(ends[:1], ends[1:], share)
    torch.testing.assert_close(path, moved(sde, arc, 200, 1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(path[[0, -1]], x, rtol=1e-6, atol=1e-6)


# ---- starts below N


def noised(sde, x, t, noise):
    return sde.perturb(x, torch.tensor(float(t), dtype=torch.float64), noise)


@pytest.mark.parametrize("start", [25, 100, 200])
def test_data_noised_and_drawn_again_have_the_law_of_data(start):
    """SDEdit (Meng et al. 2022) of data is data: x_t is in law what the sampler would have."""
    sde, n, data = VPSDE.linear(200), 4000, gaussian(MEAN, COVARIANCE)
    noise = Noise.of(1, 0, n)
    x_t = noised(sde, data.sample(noise), start, noise.normal(Stream.PRIOR, (3,)))
    times = times_from(grid("uniform", sde, 200), start)
    for sampler in (Ancestral("beta"), DPMSolver(2)):
        x = sample(sampler, data.denoiser(sde), sde, times, noise, (3,), start=x_t)
        bias = 3 / 200  # of the steps
        assert ((x.mean(0) - MEAN).abs() < 4 * (COVARIANCE.diag() / n).sqrt() + bias).all()
        products = (x - MEAN)[:, :, None] * (x - MEAN)[:, None, :]
        error = 4 * products.std(0) / n**0.5 + bias
        assert ((products.mean(0) - COVARIANCE).abs() < error).all()


def test_the_later_the_start_the_less_is_left_of_the_image():
    """Of x_0 itself, alpha times the gain is left: for a Gaussian a closed form, of the flow."""
    sde, data = VPSDE.linear(200), gaussian(0 * MEAN, EYE)  # of which the flow is the identity
    x = torch.tensor([[0.9, -0.4, 0.1]], dtype=torch.float64)
    flow = ProbabilityFlow(tolerance=1e-8)
    for start in (20, 100, 200):
        noise = Noise.of(1, 0, 1)
        eps = noise.normal(Stream.PRIOR, (3,))
        x_t = noised(sde, x, start, eps)
        times = times_from(flow.times(200), start)
        drawn = sample(flow, data.denoiser(sde), sde, times, noise, (3,), start=x_t)
        # but for the last step, which returns alpha_1 x_1
        torch.testing.assert_close(drawn, sde.alpha(times[1]) * x_t, rtol=1e-6, atol=1e-6)


def test_a_start_at_n_from_the_prior_is_sampling():
    sde, data = VPSDE.linear(50), gaussian(MEAN, COVARIANCE)
    noise, times = Noise.of(2, 0, 4), grid("uniform", sde, 10)
    for sampler in (Ancestral(), DPMSolver(2)):
        plain = sample(sampler, data.denoiser(sde), sde, times, noise, (3,))
        start = sde.prior_std() * noise.normal(Stream.PRIOR, (3,))
        again = sample(
            sampler, data.denoiser(sde), sde, times_from(times, 50), noise, (3,), start=start
        )
        assert torch.equal(again, plain)


def test_a_grid_from_a_start():
    times = torch.tensor([50.0, 30.0, 10.0, 1.0, 0.0], dtype=torch.float64)
    assert times_from(times, 50).tolist() == times.tolist()
    assert times_from(times, 30).tolist() == [30, 10, 1, 0]
    assert times_from(times, 29.5).tolist() == [29.5, 10, 1, 0]
    assert times_from(times, 0.5).tolist() == [0.5, 0]
    for start in (0, -1, 51, float("nan")):
        with pytest.raises(ValueError, match="a start must lie in"):
            times_from(times, start)


def test_bad_starts_are_refused():
    sde, data = VPSDE.linear(50), gaussian(MEAN, COVARIANCE)
    noise, denoiser = Noise.of(2, 0, 4), data.denoiser(sde)
    x = noise.normal(Stream.PRIOR, (3,))
    low = torch.tensor([30.0, 10.0, 0.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="strictly from 50 to 0"):
        sample(Ancestral(), denoiser, sde, low, noise, (3,))
    with pytest.raises(ValueError, match="strictly from at most 50 to 0"):
        sample(Ancestral(), denoiser, sde, 2 * low, noise, (3,), start=x)
    with pytest.raises(ValueError, match=r"shape \(4, 3\), got \(2, 3\)"):
        sample(Ancestral(), denoiser, sde, low, noise, (3,), start=x[:2])

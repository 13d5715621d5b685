"""What every Gaussian path has: conditioning, composition, the SDE and its probability flow."""

import pytest
import torch
from torch import Tensor

from scoreflow.sde.base import broadcast


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def pairs(num_steps: int) -> tuple[Tensor, Tensor]:
    """Random s < t, some of them at the ends."""
    generator = torch.Generator().manual_seed(0)
    times = num_steps * torch.rand(100, 2, dtype=torch.float64, generator=generator)
    ends = torch.tensor([[0.01, 0.02], [0.5, num_steps], [1, 2], [num_steps - 1, num_steps]])
    s, t = torch.cat([times, ends.double()]).sort(dim=1).values.unbind(1)
    return s, t


def condition(mean: Tensor, covariance: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """First of two jointly Gaussian numbers, given the second."""
    gain = covariance[0, 1] / covariance[1, 1]
    return mean[0] + gain * (value - mean[1]), covariance[0, 0] - gain * covariance[0, 1]


def test_posterior_is_gaussian_conditioning(process):
    s, t = pairs(process.num_steps)
    x_t, x_0 = scalar(0.7), scalar(-0.4)
    mean, std = process.posterior(x_t.expand(len(t), 1), x_0.expand(len(t), 1), t, s)
    for k in range(len(t)):
        alpha_s, alpha_t = process.alpha(s[k]), process.alpha(t[k])
        var_s, var_t = process.variance(s[k]), process.variance(t[k])
        # x_t = a x_s + independent noise, so Cov(x_s, x_t) = a Var(x_s), given x_0
        cross = alpha_t / alpha_s * var_s
        joint = torch.stack([var_s, cross, cross, var_t]).view(2, 2)
        expected, variance = condition(torch.stack([alpha_s * x_0, alpha_t * x_0]), joint, x_t)
        torch.testing.assert_close(mean[k, 0], expected, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(std[k] ** 2, variance, rtol=1e-7, atol=1e-14)


def test_posterior_at_clean_data_is_the_datum(process):
    t = torch.linspace(0.01, process.num_steps, 50, dtype=torch.float64)
    x_t, x_0 = torch.full((50, 2), 3.0).double(), torch.full((50, 2), -0.3).double()
    mean, std = process.posterior(x_t, x_0, t, torch.zeros_like(t))
    torch.testing.assert_close(mean, x_0, rtol=1e-15, atol=0)
    assert (std == 0).all()


def test_transitions_compose(process):
    s, t = pairs(process.num_steps)
    u = s + 0.3 * (t - s)
    (a_1, w_1), (a_2, w_2) = process.transition(s, u), process.transition(u, t)
    a, w = process.transition(s, t)
    torch.testing.assert_close(a, a_2 * a_1, rtol=1e-13, atol=0)
    torch.testing.assert_close(w, a_2**2 * w_1 + w_2, rtol=1e-10, atol=1e-15)


def test_transition_from_clean_data_is_the_marginal(process):
    _, t = pairs(process.num_steps)
    a, w = process.transition(torch.zeros_like(t), t)
    torch.testing.assert_close(a, process.alpha(t), rtol=1e-15, atol=0)
    torch.testing.assert_close(w, process.sigma(t) ** 2, rtol=1e-14, atol=0)


def test_drift_and_diffusion_move_the_moments(process):
    """The moments of dx = f x dt + g dW obey alpha' = f alpha, (sigma^2)' = 2 f sigma^2 + g^2."""
    n = process.num_steps
    t = torch.arange(1, n, 7, dtype=torch.float64) + 0.5  # off the kinks
    h = 1e-4

    def slope(function):
        return (function(t + h) - function(t - h)) / (2 * h)

    f, g = process.drift(t), process.diffusion(t)
    torch.testing.assert_close(slope(process.alpha), f * process.alpha(t), rtol=1e-6, atol=1e-10)
    expected = 2 * f * process.variance(t) + g**2
    torch.testing.assert_close(slope(process.variance), expected, rtol=1e-6, atol=1e-10)


def test_angle_and_scale_are_polar_coordinates(process):
    t = torch.linspace(0, process.num_steps, 101, dtype=torch.float64)
    phi, r = process.angle(t), process.scale(t)
    torch.testing.assert_close(r * phi.cos(), process.alpha(t), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(r * phi.sin(), process.sigma(t), rtol=1e-12, atol=1e-15)
    assert (phi.diff() > 0).all()
    torch.testing.assert_close(process.time(phi), t, rtol=1e-9, atol=1e-9)


def test_log_snr_is_that_of_the_scales(process):
    t = torch.linspace(0.1, process.num_steps, 101, dtype=torch.float64)
    expected = 2 * (process.alpha(t) / process.sigma(t)).log()
    torch.testing.assert_close(process.log_snr(t), expected, rtol=1e-10, atol=1e-10)


def test_time_of_log_snr_is_the_inverse_of_log_snr(process):
    t = torch.linspace(1, process.num_steps, 57, dtype=torch.float64)
    log_snr = process.log_snr(t)
    torch.testing.assert_close(process.time_of_log_snr(log_snr), t, rtol=1e-9, atol=0)
    assert float(process.time_of_log_snr(log_snr[3])) == pytest.approx(float(t[3]), rel=1e-9)


def test_perturb_weighs_datum_and_noise(process):
    t = torch.tensor([0.0, 1.0, process.num_steps], dtype=torch.float64)
    x_0, eps = torch.full((3, 2, 2), 2.0).double(), torch.full((3, 2, 2), -1.0).double()
    expected = 2 * process.alpha(t) - process.sigma(t)
    x_t = process.perturb(x_0, t, eps)
    torch.testing.assert_close(x_t, expected[:, None, None].expand(3, 2, 2), rtol=1e-14, atol=0)


def test_flow_in_the_angle_is_the_flow_in_time(process, mixture):
    """dx/dt = f x - g^2 score / 2, and x = r x~ with dx~/dphi = v."""
    n = process.num_steps
    t = torch.tensor([0.3, 1.0, 7.2, 50.0, 99.5, 150.1, float(n)], dtype=torch.float64)
    t = t[process.alpha(t) > 0]  # f and g are infinite elsewhere
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(len(t), 2, dtype=torch.float64, generator=generator)
    prediction = mixture.denoiser(process)(x, t)

    _, d_phi = torch.func.jvp(process.angle, (t,), (torch.ones_like(t),))
    _, d_log_r = torch.func.jvp(lambda t: process.scale(t).log(), (t,), (torch.ones_like(t),))
    in_angle = d_log_r[:, None] * x + (process.scale(t) * d_phi)[:, None] * prediction.v
    f, g = process.drift(t)[:, None], process.diffusion(t)[:, None]
    in_time = f * x - g**2 / 2 * prediction.score
    size = (f * x).abs() + (g**2 / 2 * prediction.score).abs()
    assert ((in_angle - in_time).abs() <= 1e-11 * size).all()


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 1, 2, 2)])
def test_broadcast_multiplies_rows(shape):
    x = torch.ones(shape)
    rows = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    product = broadcast(rows, x) * x
    assert product.dtype == x.dtype
    assert product.shape == x.shape
    for k in range(4):
        assert (product[k] == rows[k]).all()
    assert torch.equal(broadcast(scalar(2.0), x) * x, 2 * x)


@pytest.mark.parametrize("shape", [(3,), (1,), (4, 1)])
def test_broadcast_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"shape \(\) or \(4,\)"):
        broadcast(torch.ones(shape), torch.ones(4, 3))

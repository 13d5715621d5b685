"""The objective by hand, and the times it is asked at."""

import math

import pytest
import torch

from scoreflow import losses
from sde import VPSDE, Noise, Stream
from sde.prediction import predict

SDE = VPSDE.linear(1000)


def silent(x_t, t):
    """A model that answers no noise."""
    return predict(SDE, x_t, t, "eps", torch.zeros_like(x_t))


def test_simple_by_hand():
    x_0 = torch.tensor([[1.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
    eps = torch.tensor([[0.0, 2.0], [1.0, -1.0]], dtype=torch.float64)
    t = torch.tensor([1.0, 400.0], dtype=torch.float64)
    seen = []

    def half(x_t, t):
        seen.append(x_t)
        return predict(SDE, x_t, t, "eps", x_t / 2)

    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha = (1 - betas).cumprod(0)[[0, 399]].sqrt()
    x_t = alpha[:, None] * x_0 + (1 - alpha**2).sqrt()[:, None] * eps
    expected = ((x_t / 2 - eps) ** 2).mean(1)
    torch.testing.assert_close(losses.simple(half, SDE, x_0, t, eps), expected)
    torch.testing.assert_close(seen[0], x_t)


def test_simple_is_one_for_a_silent_model_and_zero_for_one_that_knows():
    noise = Noise.of(0, 0, 20_000)
    eps = noise.normal(Stream.TRAIN_EPS, (3,))
    x_0 = 5 * torch.ones_like(eps)
    t = losses.integer_times(noise.uniform(Stream.TRAIN_TIME), 1000)
    loss = losses.simple(silent, SDE, x_0, t, eps)
    assert loss.shape == (20_000,)
    assert abs(float(loss.mean()) - 1) < 4 * math.sqrt(2 / eps.numel())
    assert (
        losses.simple(lambda x, t: predict(SDE, x, t, "x_0", x_0), SDE, x_0, t, eps).max() < 1e-6
    )


def test_simple_over_times_equals_the_closed_form():
    """For N(0, s^2) data the least loss at t is alpha^2 s^2 / (alpha^2 s^2 + sigma^2)."""
    s, sde = 0.5, VPSDE.linear(50)
    noise = Noise.of(1, 0, 400_000)
    t = losses.integer_times(noise.uniform(Stream.TRAIN_TIME), 50)

    def best(x_t, t):
        total = sde.alpha(t) ** 2 * s**2 + sde.variance(t)
        return predict(sde, x_t, t, "eps", (sde.sigma(t) / total)[:, None] * x_t)

    x_0 = s * noise.normal(Stream.DATA, (1,))
    found = losses.simple(best, sde, x_0, t, noise.normal(Stream.TRAIN_EPS, (1,)))
    every = torch.arange(1, 51, dtype=torch.float64)
    signal = sde.alpha(every) ** 2 * s**2
    expected = float((signal / (signal + sde.variance(every))).mean())
    error = float(found.std()) / math.sqrt(len(found))
    assert abs(float(found.mean()) - expected) < 4 * error


def test_gradients_are_those_of_denoising_score_matching():
    """With the weight sigma^2, |score - target|^2 has L_simple's gradient in every parameter."""
    weight = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    x_0, eps = torch.randn(2, 8, 4, dtype=torch.float64)
    t = torch.linspace(1, 1000, 8, dtype=torch.float64)

    def model(x_t, t):
        return predict(SDE, x_t, t, "eps", x_t @ weight)

    (simple,) = torch.autograd.grad(losses.simple(model, SDE, x_0, t, eps).mean(), weight)
    sigma = SDE.sigma(t)[:, None]
    score = model(SDE.perturb(x_0, t, eps), t).score
    matching = (sigma**2 * (score + eps / sigma) ** 2).mean()
    (expected,) = torch.autograd.grad(matching, weight)
    torch.testing.assert_close(simple, expected)


@pytest.mark.parametrize("n", [2, 7, 1000])
def test_integer_times(n):
    u = torch.tensor([0.0, 0.5, 1 - 2**-32, 1 - 2**-53], dtype=torch.float64)
    assert losses.integer_times(u, n).tolist() == [1, 1 + n // 2, n, n]
    k = torch.arange(n, dtype=torch.float64)
    assert losses.integer_times((k + 0.5) / n, n).tolist() == list(range(1, n + 1))


def test_integer_times_are_equally_likely():
    u = Noise.of(0, 0, 100_000).uniform(Stream.TRAIN_TIME)
    counts = torch.bincount(losses.integer_times(u, 10).long(), minlength=11)[1:].double()
    assert counts.sum() == 100_000
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 30  # chi-squared, 9 degrees: p = 4e-4


def test_real_times():
    u = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    t = losses.real_times(u, 1000, 0.05)
    assert t.dtype == torch.float64
    assert t[0] == 0.05
    assert float(t[1]) == pytest.approx(0.05 + 0.5 * 999.95)
    assert t[2] <= 1000

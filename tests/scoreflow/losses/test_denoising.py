"""The objective by hand, and the times it is asked at."""

import math

import pytest
import torch

from scoreflow.losses import denoising, times, variational
from scoreflow.sde import VESDE, VPSDE, Noise, Stream, SubVPSDE
from scoreflow.sde.prediction import predict

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
    torch.testing.assert_close(denoising.simple(half, SDE, x_0, t, eps), expected)
    torch.testing.assert_close(seen[0], x_t)


def test_simple_is_one_for_a_silent_model_and_zero_for_one_that_knows():
    noise = Noise.of(0, 0, 20_000)
    eps = noise.normal(Stream.TRAIN_EPS, (3,))
    x_0 = 5 * torch.ones_like(eps)
    t = times.integer_times(noise.uniform(Stream.TRAIN_TIME), 1000)
    loss = denoising.simple(silent, SDE, x_0, t, eps)
    assert loss.shape == (20_000,)
    assert abs(float(loss.mean()) - 1) < 4 * math.sqrt(2 / eps.numel())
    assert (
        denoising.simple(lambda x, t: predict(SDE, x, t, "x_0", x_0), SDE, x_0, t, eps).max()
        < 1e-6
    )


def test_simple_over_times_equals_the_closed_form():
    """For N(0, s^2) data the least loss at t is alpha^2 s^2 / (alpha^2 s^2 + sigma^2)."""
    s, sde = 0.5, VPSDE.linear(50)
    noise = Noise.of(1, 0, 400_000)
    t = times.integer_times(noise.uniform(Stream.TRAIN_TIME), 50)

    def best(x_t, t):
        total = sde.alpha(t) ** 2 * s**2 + sde.variance(t)
        return predict(sde, x_t, t, "eps", (sde.sigma(t) / total)[:, None] * x_t)

    x_0 = s * noise.normal(Stream.DATA, (1,))
    found = denoising.simple(best, sde, x_0, t, noise.normal(Stream.TRAIN_EPS, (1,)))
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

    (simple,) = torch.autograd.grad(denoising.simple(model, SDE, x_0, t, eps).mean(), weight)
    sigma = SDE.sigma(t)[:, None]
    score = model(SDE.perturb(x_0, t, eps), t).score
    matching = (sigma**2 * (score + eps / sigma) ** 2).mean()
    (expected,) = torch.autograd.grad(matching, weight)
    torch.testing.assert_close(simple, expected)


@pytest.mark.parametrize("n", [2, 7, 1000])
def test_integer_times(n):
    u = torch.tensor([0.0, 0.5, 1 - 2**-32, 1 - 2**-53], dtype=torch.float64)
    assert times.integer_times(u, n).tolist() == [1, 1 + n // 2, n, n]
    k = torch.arange(n, dtype=torch.float64)
    assert times.integer_times((k + 0.5) / n, n).tolist() == list(range(1, n + 1))


def test_integer_times_are_equally_likely():
    u = Noise.of(0, 0, 100_000).uniform(Stream.TRAIN_TIME)
    counts = torch.bincount(times.integer_times(u, 10).long(), minlength=11)[1:].double()
    assert counts.sum() == 100_000
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 30  # chi-squared, 9 degrees: p = 4e-4


def test_real_times():
    u = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    t = times.real_times(u, 1000, 0.05)
    assert t.dtype == torch.float64
    assert t[0] == 0.05
    assert float(t[1]) == pytest.approx(0.05 + 0.5 * 999.95)
    assert t[2] <= 1000


# ---- other ways to write it


PROCESSES = [SDE, VPSDE.cosine(100), SubVPSDE.linear(100), VESDE(100, 0.02, 20.0)]


def random_model(sde):
    """Any function of x_t and t, with a parameter to take gradients in."""
    theta = torch.tensor([0.7, -0.3], dtype=torch.float64, requires_grad=True)

    def denoise(x_t, t):
        x = x_t / sde.scale(t)[:, None]
        value = theta[0] * x.sin() + theta[1] * x.roll(1, 1) * sde.angle(t)[:, None]
        return predict(sde, x_t, t, "eps", value)

    return denoise, theta


def batch_of(sde, size=64):
    noise = Noise.of(3, 0, size)
    t = times.integer_times(noise.uniform(Stream.TRAIN_TIME), sde.num_steps)
    return noise.normal(Stream.DATA, (3,)), t, noise.normal(Stream.TRAIN_EPS, (3,))


@pytest.mark.parametrize("sde", PROCESSES)
def test_score_matching_is_noise_prediction_in_value_and_gradient(sde):
    x_0, t, eps = batch_of(sde)
    results = []
    for loss in (denoising.simple, denoising.score_matching):
        model, theta = random_model(sde)
        value = loss(model, sde, x_0, t, eps)
        value.mean().backward()
        results.append((value.detach(), theta.grad))
    torch.testing.assert_close(*[value for value, _ in results], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*[grad for _, grad in results], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sde", PROCESSES)
def test_the_mean_weight_is_the_error_of_the_posterior_mean(sde):
    x_0, t, eps = batch_of(sde)
    model, _ = random_model(sde)
    x_t = sde.perturb(x_0, t, eps)
    truth, _ = sde.posterior(x_t, x_0, t, t - 1)
    guess, _ = sde.posterior(x_t, model(x_t, t).x_0, t, t - 1)
    expected = (truth - guess).square().mean(1)
    found = denoising.mean_weight(sde, t) * denoising.simple(model, sde, x_0, t, eps)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("sde", PROCESSES)
def test_the_variational_objective_is_the_bound(sde):
    x_0, t, eps = batch_of(sde)
    model, _ = random_model(sde)
    terms = variational.term(model(sde.perturb(x_0, t, eps), t), sde, x_0, t, t - 1, "beta")
    found = denoising.variational(model, sde, x_0, t, eps, "beta")
    torch.testing.assert_close(found, sde.num_steps * terms / 3)


def test_the_variational_objective_on_the_mean_is_ddpms_weight():
    """beta^2 / (2 sigma^2 alpha (1 - alpha_bar)) in DDPM's letters (Eq. 12), fixed variance."""
    x_0, t, eps = batch_of(SDE)
    t = t.clamp(min=2)
    values = []
    for shift in (0.0, 0.1):
        found = denoising.variational(
            lambda x, t, shift=shift: predict(SDE, x, t, "eps", eps + shift),
            SDE,
            x_0,
            t,
            eps,
            "beta",
        )
        values.append(found)
    beta = SDE.betas[t.long() - 1]
    alpha_bar = (1 - SDE.betas).cumprod(0)[t.long() - 1]
    weight = beta**2 / (2 * beta * (1 - beta) * (1 - alpha_bar))
    torch.testing.assert_close(
        values[1] - values[0], SDE.num_steps * weight * 0.1**2, rtol=1e-6, atol=1e-9
    )


def test_hybrid_teaches_the_mean_by_the_simple_loss_alone():
    x_0, t, eps = batch_of(SDE)
    grads = []
    for loss in (denoising.simple, lambda *args: denoising.hybrid(*args, weight=0.5)):
        value = torch.zeros_like(x_0, requires_grad=True)
        fraction = torch.full_like(x_0, 0.3).requires_grad_()

        def model(x_t, t, value=value, fraction=fraction):
            return predict(SDE, x_t, t, "eps", value, fraction)

        loss(model, SDE, x_0, t, eps).mean().backward()
        grads.append((value.grad, fraction.grad))
    torch.testing.assert_close(grads[0][0], grads[1][0])
    assert grads[0][1] is None
    assert (grads[1][1] != 0).all()


@pytest.mark.parametrize("sde", PROCESSES)
def test_the_likelihood_weighting_integrates_the_log_snr(sde):
    """Half the fall of log-SNR, for a model that answers no noise and whose error is 1."""
    t = torch.linspace(0.5, sde.num_steps, 2_000_001, dtype=torch.float64)
    middle = (t[1:] + t[:-1]) / 2
    found = denoising.likelihood_weight(sde, middle, sde.num_steps - 0.5).mean()
    fall = sde.log_snr(t[0]) - sde.log_snr(t[-1])
    torch.testing.assert_close(found, fall / 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("sde", PROCESSES)
def test_importance_times_make_the_likelihood_weighting_constant(sde):
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    t, density = times.importance_times(u, sde, 0.3)
    assert (t >= 0.3).all()
    assert (t <= sde.num_steps).all()
    weighed = denoising.likelihood_weight(sde, t, sde.num_steps - 0.3) / density
    torch.testing.assert_close(weighed, weighed[:1].expand(1000), rtol=1e-9, atol=0)
    assert float((1 / density).mean()) == pytest.approx(1, rel=1e-2)  # a density, by midpoints


@pytest.mark.parametrize("sde", PROCESSES)
def test_importance_times_have_the_density_that_they_state(sde):
    """E p / q = 1 over q, with p uniform on [t_min, N]: seen where t_min is not small."""
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    _, density = times.importance_times(u, sde, 0.5 * sde.num_steps)
    assert float((1 / density).mean()) == pytest.approx(1, rel=1e-3)


def test_published_weightings_by_hand():
    sde, t = VPSDE.linear(1000), torch.tensor([1.0, 300.0, 1000.0], dtype=torch.float64)
    snr = sde.alpha(t) ** 2 / (1 - sde.alpha(t) ** 2)
    torch.testing.assert_close(
        denoising.p2_weight(sde, t, 1.0, 1.0), 1 / (1 + snr), rtol=1e-9, atol=0
    )
    weight = denoising.min_snr_weight(sde, t, 5.0)
    torch.testing.assert_close(weight * snr, torch.minimum(snr, 0 * snr + 5))
    assert float(weight[2]) == 1


def test_low_discrepancy_times_are_one_in_each_cell():
    for first in (0.0, 0.3, 0.999):
        u = times.low_discrepancy(torch.tensor(first, dtype=torch.float64), 16)
        assert sorted((u * 16).floor().int().tolist()) == list(range(16))

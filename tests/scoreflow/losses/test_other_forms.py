"""Flow matching's, v's and EDM's losses are the noise error and the x_0 error, and one another.

Roundings: a residual is made of at most 40 operations on terms of size at most SIZE, so it is off
by 40 SIZE u; a form that divides by alpha or sigma has GAIN times that. Two forms of a loss whose
residuals a and b differ by d differ by |a^2 - b^2| <= (|a| + |b|) |d|.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from scoreflow.losses import denoising
from scoreflow.losses.objective import Objective
from scoreflow.models.asking import Label
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde import EDMSDE, VESDE, VPSDE, Noise, RectifiedSDE, Stream
from scoreflow.sde.base import broadcast
from scoreflow.sde.prediction import predict

U = 2.0**-53
SIZE = 40.0
"""Of the terms: data and noise of a few standard deviations, at scales of up to 20 here divided
out, and a network's answers below 4."""
GAIN = 100.0


def times_of(sde):
    """Times at which neither alpha / sigma nor sigma / alpha is beyond GAIN / 2."""
    ends = 2 * math.log(GAIN / 2)
    times = sde.time_of_log_snr(torch.linspace(ends, -ends, 12, dtype=torch.float64))
    return times.unique()


def batch_at(t):
    noise = Noise.of(3, 0, len(t))
    return noise.normal(Stream.DATA, (3,)), noise.normal(Stream.TRAIN_EPS, (3,))


def model_of(sde, kind):
    theta = torch.tensor([0.7, -0.3], dtype=torch.float64, requires_grad=True)

    def denoise(x_t, t):
        x = x_t / sde.scale(t)[:, None]
        value = theta[0] * x.sin() + theta[1] * x.roll(1, 1) * sde.angle(t)[:, None]
        return predict(sde, x_t, t, kind, value)

    return denoise, theta


def value_and_gradients(loss, sde, kind, t):
    """A loss at each time, and its gradient in each parameter at each time: (T,), (T, 2)."""
    x_0, eps = batch_at(t)
    model, theta = model_of(sde, kind)
    values = loss(model, sde, x_0, t, eps)
    gradients = [torch.autograd.grad(v, theta, retain_graph=True)[0] for v in values]
    return values.detach(), torch.stack(gradients)


def of_noise(factor):
    """The noise error times the square of a factor of (sde, t)."""
    return lambda model, sde, *rest: (
        factor(sde, rest[1]) ** 2 * denoising.simple(model, sde, *rest)
    )


def of_x_0(factor):
    """The x_0 error times the square of a factor."""

    def loss(model, sde, x_0, t, eps):
        error = model(sde.perturb(x_0, t, eps), t).x_0 - x_0
        return factor(sde, t) ** 2 * error.square().mean(1)

    return loss


def f_scale(sde, t):
    """R / (spread sigma), R = sqrt(alpha^2 spread^2 + sigma^2), by EDM's c_out."""
    sigma = sde.sigma(t) / sde.alpha(t)
    return (sigma**2 + SPREAD**2).sqrt() / (sigma * SPREAD)


SPREAD = 0.6
FORMS = {
    "velocity": (
        denoising.velocity,
        of_noise(lambda sde, t: sde.scale(t) / sde.alpha(t)),
        of_x_0(lambda sde, t: sde.scale(t) / sde.sigma(t)),
    ),
    "flow_matching": (
        denoising.flow_matching,
        of_noise(lambda sde, t: (sde.alpha(t) + sde.sigma(t)) / sde.alpha(t)),
        of_x_0(lambda sde, t: (sde.alpha(t) + sde.sigma(t)) / sde.sigma(t)),
    ),
    "edm": (
        lambda *given: denoising.edm(*given, SPREAD),
        of_noise(lambda sde, t: f_scale(sde, t) * sde.sigma(t) / sde.alpha(t)),
        of_x_0(f_scale),
    ),
}


@pytest.mark.parametrize("kind", ["eps", "x_0", "v", "u", "score"])
@pytest.mark.parametrize("name", FORMS)
def test_each_is_the_error_of_the_noise_and_that_of_x_0(name, kind, process):
    t = times_of(process)
    (value, gradients), *others = (
        value_and_gradients(loss, process, kind, t) for loss in FORMS[name]
    )
    off = 40 * SIZE * U * GAIN**2
    for other, its_gradients in others:
        allowed = 2 * value.sqrt() * off + off**2
        assert ((value - other).abs() <= allowed).all()
        steep = gradients.abs() / value.sqrt().clamp(min=1e-3)[:, None]  # 2 |d error / d theta|
        allowed = off * (steep + GAIN * SIZE) + 100 * U * gradients.abs()
        assert ((gradients - its_gradients).abs() <= allowed).all()


def test_where_no_signal_is_left_they_are_finite_and_the_error_of_x_0():
    """At N of the rectified path v = u = F = -x_0 up to what is known, and so are their errors."""
    sde, t = RectifiedSDE(50), torch.tensor([50.0], dtype=torch.float64)
    x_0, eps = batch_at(t)
    for kind in ("x_0", "v", "u"):
        model, theta = model_of(sde, kind)
        error = (model(eps, t).x_0 - x_0).square().mean(1)
        losses = [
            denoising.velocity(model, sde, x_0, t, eps),
            denoising.flow_matching(model, sde, x_0, t, eps),
            SPREAD**2 * denoising.edm(model, sde, x_0, t, eps, SPREAD),
            denoising.score_matching(model, sde, x_0, t, eps) + error,  # which is 0 there
        ]
        for loss in losses:
            torch.testing.assert_close(loss, error, rtol=80 * U * SIZE, atol=80 * U * SIZE)
        (gradient,) = torch.autograd.grad(sum(losses).sum(), theta)
        assert gradient.isfinite().all()
        assert (gradient != 0).all()


def test_flow_matching_at_uniform_times_is_the_v_loss_at_uniform_angles():
    """|u error|^2 dtau = |v error|^2 dphi, in value and gradient, by Gauss's rule in either.

    Both integrands are analytic on their interval, so 80 points leave roundings alone.
    """
    sde = RectifiedSDE(10)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(80))
    tau, share = (nodes + 1) / 2, weights / 2
    x_0, eps = (each.expand(80, 3) for each in batch_at(tau[:1]))
    found = []
    for loss, t, length in (
        (denoising.flow_matching, 10 * tau, 1.0),
        (denoising.velocity, sde.time(tau * math.pi / 2), math.pi / 2),
    ):
        theta = torch.tensor([0.7, -0.3], dtype=torch.float64, requires_grad=True)

        def smooth(x_t, t, theta=theta):
            value = theta[0] * x_t.sin() + theta[1] * x_t.roll(1, 1) * sde.sigma(t)[:, None]
            return predict(sde, x_t, t, "u", value)

        total = length * (share * loss(smooth, sde, x_0, t, eps)).sum()
        found.append((total.detach(), torch.autograd.grad(total, theta)[0]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class Answers(nn.Module):
    """Any function of the input and the label, which it remembers."""

    def forward(self, x, label):
        self.x, self.label = x, label
        self.f = (2 * x).sin() + x.roll(1, 1) * label[:, None].tanh()
        return -self.f


@pytest.mark.parametrize("sde", [EDMSDE(100), VESDE(100, 0.002, 80.0), VPSDE.cosine(100)])
@pytest.mark.parametrize(("data_std", "unit"), [(0.5, False), (3.0, False), (0.25, True)])
def test_edms_preconditioned_network_is_minus_v_for_any_data(sde, data_std, unit):
    """c_skip, c_out, c_in and c_noise of Karras et al. 2022, Table 1, written out from there.

    Of images y in the network's own range, at the noise scale sigma that it sees, under any
    process: x_t / alpha is theirs.
    """
    network = Answers()
    model = ScoreModel(
        network,
        sde,
        "v",
        0.1,
        "float64",
        label=Label("log_sigma", 0.25, 0.0),
        data_std=data_std,
        data_range="unit" if unit else "symmetric",
    )
    t = sde.time_of_log_snr(torch.linspace(8, -6, 9, dtype=torch.float64))
    x_0, eps = batch_at(t)
    x_t = sde.perturb(x_0, t, eps)
    prediction = model(x_t, t)

    centre, half = (-1.0, 2.0) if unit else (0.0, 1.0)
    y, clean = (x_t / broadcast(sde.alpha(t), x_t) - centre) / half, (x_0 - centre) / half
    sigma = (sde.sigma(t) / sde.alpha(t) / half)[:, None]
    total = sigma**2 + data_std**2
    c_skip, c_out = data_std**2 / total, sigma * data_std / total.sqrt()
    c_in, c_noise = 1 / total.sqrt(), sigma.log() / 4
    wide = float(y.abs().max()) + SIZE
    torch.testing.assert_close(network.x, c_in * y, rtol=40 * U, atol=40 * U * SIZE)
    torch.testing.assert_close(network.label[:, None], c_noise, rtol=40 * U, atol=40 * U * 10)
    denoised = c_skip * y + c_out * network.f
    x_0_by_them = centre + half * denoised
    torch.testing.assert_close(prediction.x_0, x_0_by_them, rtol=0, atol=40 * U * wide)

    objective = Objective("edm", "real", 1.0, False, "beta", 1e-3, 5.0, 1.0, 1.0)
    loss = objective.loss(model, x_0, t, eps)
    weight = total / (sigma * data_std) ** 2
    theirs = (weight * (denoised - clean) ** 2).mean(1)
    of_f = ((network.f - (clean - c_skip * y) / c_out) ** 2).mean(1)
    off = 80 * U * wide * float((1 / c_out).max())  # of F: a difference of images over c_out
    allowed = 2 * loss.sqrt() * off + off**2
    assert ((loss - theirs).abs() <= allowed).all()
    assert ((loss - of_f).abs() <= allowed).all()


def test_velocity_is_about_x_0_and_edm_about_the_networks_datum():
    """With data_std = 1 they are one loss; with another, edm is the v loss of x_0 / data_std."""
    base, t = VPSDE.cosine(100), torch.linspace(5, 95, 7, dtype=torch.float64)
    z_0, eps = batch_at(t)
    for spread in (1.0, 0.5):
        model, _ = model_of(base, "x_0")

        def scaled(x_t, t, spread=spread, model=model):
            """The model of z_0 under the process of z_0, alpha spread : sigma, in x_0's terms."""
            return predict(base, x_t, t, "x_0", spread * model(x_t, t).x_0)

        alpha, sigma = base.alpha(t)[:, None], base.sigma(t)[:, None]
        whole = ((alpha * spread) ** 2 + sigma**2).sqrt()
        x_t = alpha * spread * z_0 + sigma * eps
        estimate = model(x_t, t).x_0
        v_z = (alpha * spread * x_t / whole - whole * estimate) / sigma
        expected = (v_z - (alpha * spread * eps - sigma * z_0) / whole).square().mean(1)
        edm = denoising.edm(scaled, base, spread * z_0, t, eps, spread)
        torch.testing.assert_close(edm, expected, rtol=1e-11, atol=0)
        velocity = denoising.velocity(scaled, base, spread * z_0, t, eps)
        if spread == 1:
            torch.testing.assert_close(velocity, edm, rtol=1e-11, atol=0)
        else:
            assert ((velocity - edm).abs() > 0.01 * edm).any()


def test_min_snr_has_its_limit_where_no_signal_is_and_its_bits_elsewhere():
    sde, t = RectifiedSDE(4), torch.tensor([1.0, 2.0, 3.9999, 4.0], dtype=torch.float64)
    weight = denoising.min_snr_weight(sde, t, 5.0)
    snr = sde.log_snr(t[:3]).exp()
    assert torch.equal(weight[:3], snr.clamp(max=5.0) / snr)
    assert weight[2:].tolist() == [1, 1]

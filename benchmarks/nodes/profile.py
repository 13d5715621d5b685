"""The divergence along solved trajectories and the variance of a probe there: all a rule sees."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.likelihood.bench import points_of
from scoreflow.likelihood.gaussian_reference import Reference
from scoreflow.likelihood.nodes.clock import Clock
from scoreflow.sde.base import SDE
from scoreflow.sde.flow import sign_probes, unit_probes, velocity, velocity_and_divergence
from scoreflow.sde.noise import Noise
from scoreflow.sde.ode.adams import adams
from scoreflow.sde.prediction import Denoiser
from scoreflow.trained_run import TrainedRun


@dataclass(frozen=True)
class Profile:
    """Along the flow of each image, from data to noise.

    Attributes:
        s: log tan of the angle, where the nodes' clock is even, (M + 1,).
        integrand: div v dphi/ds, (n, M + 1).
        variance: of one random-sign probe's estimate of it, (n, M + 1).
        beyond_gaussian: the same of the Jacobian less that of the training images' Gaussian.
        dims: D.
        whole: whether the Jacobian was known; else `integrand` and `variance` are estimates from
            `PROBES` probes at each point, and `beyond_gaussian` is not known.
    """

    s: Tensor
    integrand: Tensor
    variance: Tensor
    beyond_gaussian: Tensor
    dims: int
    whole: bool = True


MOST_PRODUCTS = 512
"""Products with the Jacobian at a point, up to which it is found whole."""
PROBES = 8
"""Of a larger one."""


def sign_variance(jacobian: Tensor) -> Tensor:
    """Variance of probe^T J probe over random signs: sum over i < j of (J_ij + J_ji)^2, (...)."""
    return (jacobian + jacobian.mT).triu(1).square().sum((-2, -1))


def jacobian_of(sde: SDE, denoiser: Denoiser, angle: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The field and its Jacobian, (b, D) and (b, D, D), by D products."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = velocity(sde, denoiser, angle, x)
        rows = [
            torch.autograd.grad(v, x, probe, retain_graph=True)[0].flatten(1)
            for probe in unit_probes(x)
        ]
    return v.detach().flatten(1), torch.stack(rows, 1)


def by_probes(
    sde: SDE, denoiser: Denoiser, angle: Tensor, x: Tensor, noise: Noise
) -> tuple[Tensor, Tensor, Tensor]:
    """The field, an estimate of its divergence and of the variance of one probe's, (b,)."""
    signs = sign_probes(noise, tuple(x.shape[1:]), PROBES).unbind(1)
    v, products = velocity_and_divergence(sde, denoiser, angle, x, signs)
    return v.flatten(1), products.mean(1), products.var(1)


def gaussian_jacobian(reference: Reference, angle: float) -> Tensor:
    """That of the flow of N(mean, C) at an angle, (D, D).

    On the unit scale it stretches an axis of variance c by sqrt(c cos^2 + sin^2).
    """
    sin, cos = math.sin(angle), math.cos(angle)
    c = reference.variances
    slopes = sin * cos * (1 - c) / (c * cos**2 + sin**2)
    return reference.axes * slopes @ reference.axes.T


def measure(run: TrainedRun, images: int, points: int, t: float = 1.0) -> Profile:
    """The profile of test images of a run, solved by Adams' method on so many points.

    Args:
        run: of levels.
        images: n, the first of the test set.
        points: M, steps of the clock.
        t: where the flow begins, in steps.
    """
    model, data = run.model.for_solver(), run.data
    sde = model.posed
    assert data.num_levels is not None, "a run of images"
    at = points_of(model, data.test[:images], data.num_levels, t)
    start = torch.tensor(t, dtype=torch.float64)
    end = torch.tensor(float(sde.num_steps), dtype=torch.float64)
    clock = Clock(float(sde.angle(start)), float(sde.angle(end)))
    levels = data.num_levels
    whole = at.dims <= MOST_PRODUCTS
    reference = None
    if whole:
        added = 1 / (3 * levels**2)
        reference = Reference.fit(data.train, added, lambda k: (2 * k + 1) / levels - 1)
    q = torch.linspace(0, 1, points + 1, dtype=torch.float64)
    angles, _ = clock.angles(q)
    shape, integrand, variance, beyond = at.x.shape[1:], [], [], []

    def slope(k: int, flat: Tensor) -> Tensor:
        rate = float(angles[k].sin() * angles[k].cos())  # dphi/ds
        x = flat.view(-1, *shape)
        if reference is None:
            v, divergence, spread = by_probes(sde, model, angles[k], x, at.noise.at(k))
            integrand.append(rate * divergence)
            variance.append(rate**2 * spread)
            beyond.append(torch.zeros_like(spread))
            return v
        v, jacobian = jacobian_of(sde, model, angles[k], x)
        integrand.append(rate * jacobian.diagonal(dim1=1, dim2=2).sum(1))
        variance.append(rate**2 * sign_variance(jacobian))
        rest = jacobian - gaussian_jacobian(reference, float(angles[k]))
        beyond.append(rate**2 * sign_variance(rest))
        return v

    grid = q.expand(images, -1)
    unit = (at.x.double() / sde.scale(start)).flatten(1)
    never = torch.zeros(images, dtype=torch.bool)
    for _ in adams(slope, unit, grid, never, after=0, rate=lambda q: clock.angles(q)[1]):
        pass
    along = (torch.stack(each, 1) for each in (integrand, variance, beyond))
    return Profile(angles.tan().log(), *along, dims=unit.shape[1], whole=whole)

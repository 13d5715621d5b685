"""Identity 1: the five views of an estimate are one estimate.

Every conversion is an affine map b = c_x x_t + c_a a, computed in a handful of operations, each of
which rounds to a relative error of at most u, the unit roundoff. What goes from a to b and back
can therefore be off by a few times

    u (|d_x x_t| + |d_b| (|c_x x_t| + |c_a a|)),

element by element, and by no more: that is the unit in which the residuals are given.

Where no signal is left (alpha = 0, at the end of the rectified path) x_t is the noise: an estimate
of noise or score says nothing of the data, and no number may come of it; of the others each does.
"""

import itertools
from typing import get_args

import torch
from torch import Tensor

from scoreflow.certificate.identity import UNIT_ROUNDOFF, Identity
from scoreflow.figures.plot import Plot, Series
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import OF_NOISE, Kind, Prediction

ROUNDINGS = 16.0
"""Operations there and back: at most eight each way."""
PAIRS: list[tuple[Kind, Kind]] = list(itertools.permutations(get_args(Kind), 2))
"""Every view with every other one."""
BELOW_ONE = 16
"""Real times that are tried below t = 1."""


def conversions(
    sde: SDE, t_min: float = 1.0, device: torch.device | str = "cpu"
) -> list[Identity]:
    """There and back, and against the truth, at every time, in float32 and float64.

    Args:
        sde: the process.
        t_min: the least time of its network: 1 for integer times, of which every one
            is tried; below 1 for real ones, of which those between are.
        device: where to compute.
    """
    t = _times(sde, t_min).to(device)
    return [
        check(sde, t, dtype)
        for check in (_there_and_back, _against_the_truth)
        for dtype in (torch.float64, torch.float32)
    ]


def _times(sde: SDE, t_min: float) -> Tensor:
    """Every integer; for real times also what lies half way, and the stretch below 1."""
    integers = torch.arange(1, sde.num_steps + 1, dtype=torch.float64)
    if t_min >= 1:
        return integers
    first = torch.linspace(t_min, 1, BELOW_ONE + 1, dtype=torch.float64)[:-1]
    return torch.cat([first, integers, integers[:-1] + 0.5]).sort().values


def _there_and_back(sde: SDE, t: Tensor, dtype: torch.dtype) -> Identity:
    x_0, eps = _batch(t)
    alpha, sigma, x_t = _path(sde, t, x_0, eps, dtype)
    worst = torch.zeros_like(t)
    for a, b in PAIRS:
        value = _truth(sde, t, x_0, eps)[a].to(dtype)
        there = _convert(x_t, alpha, sigma, a, b, value)
        back = _convert(x_t, alpha, sigma, b, a, there)
        one_way = _unknown(sde, t, a, b) | _unknown(sde, t, b, a)
        (c_x, c_a), (d_x, d_b) = _coefficients(sde, t, a, b), _coefficients(sde, t, b, a)
        unit = d_x * x_t.abs() + d_b * (c_x * x_t.abs() + c_a * value.abs())
        error = (back.double() - value.double()).abs() / unit / UNIT_ROUNDOFF[dtype]
        worst = torch.maximum(worst, torch.where(one_way, 0.0, error.amax(1)))
    return _identity("eps <-> x_0 <-> v <-> u <-> score there and back", t, worst, dtype)


def _against_the_truth(sde: SDE, t: Tensor, dtype: torch.dtype) -> Identity:
    """Each view of (x_0, eps), by its definition, from each other one."""
    x_0, eps = _batch(t)
    alpha, sigma, x_t = _path(sde, t, x_0, eps, dtype)
    truth = _truth(sde, t, x_0, eps)
    worst = torch.zeros_like(t)
    for a, b in PAIRS:
        found = _convert(x_t, alpha, sigma, a, b, truth[a].to(dtype))
        c_x, c_a = _coefficients(sde, t, a, b)
        # x_t, alpha and sigma are themselves rounded, and enter the coefficients
        terms = broadcast(sde.alpha(t), x_0) * x_0.abs() + broadcast(sde.sigma(t), x_0) * eps.abs()
        unit = c_x * terms + c_a * truth[a].abs()
        # and so is the angle, by which cos(phi) and sin(phi) are off by u each
        unit = unit + (eps.abs() + x_0.abs()) * (c_a * (a == "v") + (b == "v"))
        error = (found.double() - truth[b]).abs() / unit / UNIT_ROUNDOFF[dtype]
        made_up = torch.where(found.isfinite().any(1), torch.inf, 0.0)
        error = torch.where(_unknown(sde, t, a, b), made_up, error.amax(1))
        worst = torch.maximum(worst, error)
    return _identity("each view = its definition from (x_0, eps)", t, worst, dtype)


def _identity(name: str, t: Tensor, worst: Tensor, dtype: torch.dtype) -> Identity:
    kind = str(dtype).removeprefix("torch.")
    line = Series("worst of all pairs", t.tolist(), worst.tolist())
    ends = [float(t[0]), float(t[-1])]
    allowed = Series("allowed", ends, [ROUNDINGS, ROUNDINGS])
    title = f"{name}, {kind}: error in roundings"
    plot = Plot(title, "t, steps", "error, unit roundoffs", (line, allowed), log_y=False)
    return Identity(
        f"{name}, {len(t)} t from {ends[0]:g} to {ends[1]:g}, {kind}",
        float(worst.max()),
        ROUNDINGS,
        "in unit roundoffs of the terms; operations that round",
        (plot,),
    )


def _batch(t: Tensor) -> tuple[Tensor, Tensor]:
    """x_0 and eps in eight dimensions, for every time."""
    noise = Noise.of(0, 0, len(t), t.device)
    x_0 = 2 * noise.uniform(Stream.DATA, (8,)) - 1
    return x_0, noise.normal(Stream.TRAIN_EPS, (8,))


def _path(
    sde: SDE, t: Tensor, x_0: Tensor, eps: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    x_t = sde.perturb(x_0, t, eps).to(dtype)
    return broadcast(sde.alpha(t), x_t), broadcast(sde.sigma(t), x_t), x_t


def _truth(sde: SDE, t: Tensor, x_0: Tensor, eps: Tensor) -> dict[Kind, Tensor]:
    """The definitions, through the angle."""
    phi = broadcast(sde.angle(t), x_0)
    return {
        "eps": eps,
        "x_0": x_0,
        "v": phi.cos() * eps - phi.sin() * x_0,
        "score": -eps / broadcast(sde.sigma(t), x_0),
        "u": eps - x_0,
    }


def _unknown(sde: SDE, t: Tensor, a: Kind, b: Kind) -> Tensor:
    """Where b does not follow from a: of noise alone, without a signal, no datum does."""
    return (sde.alpha(t) == 0) & (a in OF_NOISE and b not in OF_NOISE)


def _convert(x_t: Tensor, alpha: Tensor, sigma: Tensor, a: Kind, b: Kind, value: Tensor) -> Tensor:
    found: Tensor = getattr(Prediction(x_t, alpha, sigma, a, value), b)
    return found


def _coefficients(sde: SDE, t: Tensor, a: Kind, b: Kind) -> tuple[Tensor, Tensor]:
    """|c_x| and |c_a| from x_t = alpha x_0 + sigma eps, terms that cancel counted in full.

    Written out here, so that they do not depend on the code they test.
    """
    alpha, sigma, phi = (f(t)[:, None] for f in (sde.alpha, sde.sigma, sde.angle))
    zero, one, r = torch.zeros_like(alpha), torch.ones_like(alpha), sde.scale(t)[:, None]
    # what (x_t, a) are to x_0 and to eps, then what these are to b
    x_0, eps = {
        "eps": ((1 / alpha, sigma / alpha), (zero, one)),
        "x_0": ((zero, one), (1 / sigma, alpha / sigma)),
        "v": ((phi.cos() / r, phi.sin()), (phi.sin() / r, phi.cos())),
        "score": ((1 / alpha, sigma**2 / alpha), (zero, sigma)),
        "u": (
            (1 / (alpha + sigma), sigma / (alpha + sigma)),
            (1 / (alpha + sigma), alpha / (alpha + sigma)),
        ),
    }[a]
    to = {"eps": (zero, one), "x_0": (one, zero), "v": (phi.sin(), phi.cos()), "u": (one, one)}
    to["score"] = (zero, 1 / sigma)
    of_x_0, of_eps = to[b]
    # what is not asked of x_0 costs nothing, however much x_0 is lost to rounding
    c_x, c_a = (torch.where(of_x_0 == 0, 0, of_x_0 * x_0[k]) + of_eps * eps[k] for k in (0, 1))
    return c_x, c_a

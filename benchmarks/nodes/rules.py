"""What a rule for K nodes makes of a profile: the noise of its places and that of its probes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.nodes.profile import Profile
from scoreflow.likelihood.nodes.clock import CENTRE, WIDTH

Places = Callable[[int, Tensor], Tensor]
"""(K, uniform numbers (R, K)) -> R sets of K places in [0, 1], (R, K)."""


def one_shift(count: int, u: Tensor) -> Tensor:
    """Even places, shifted by one number."""
    return (torch.arange(count) + u[:, :1]) / count


def folded(count: int, u: Tensor) -> Tensor:
    """The same on a circle that runs through [0, 1] there and back."""
    return 1 - (2 * one_shift(count, u) - 1).abs()


def strata(count: int, u: Tensor) -> Tensor:
    """One place in each of K equal parts."""
    return (torch.arange(count) + u) / count


def antithetic(count: int, u: Tensor) -> Tensor:
    """Two in each of K / 2, mirror images of each other."""
    half = torch.arange(count // 2)
    u = u[:, : count // 2]
    return torch.cat(((half + u), (half + 1 - u)), 1) / (count // 2)


PLACES: dict[str, Places] = {
    "one shift": one_shift,
    "one shift, folded": folded,
    "antithetic pairs in strata": antithetic,
    "independent in strata": strata,
}
"""Rules of equal weights, each unbiased."""
GAUSS = "Gauss-Legendre"


@dataclass(frozen=True)
class Density:
    """Where nodes are dense.

    Attributes:
        share: of the nodes up to each point of the profile, (M + 1,), 0 to 1.
        value: its derivative in s, (M + 1,).
    """

    share: Tensor
    value: Tensor


def densities(profile: Profile) -> dict[str, Density]:
    """The clock of `likelihood.method=nodes`, one even in log tan phi, and the best of all."""
    s = profile.s
    clock = 1 / (WIDTH**2 + (s - CENTRE) ** 2).sqrt()  # of asinh((s - CENTRE) / WIDTH)
    best = profile.variance.mean(0).sqrt()
    named = {"the clock": clock, "even in log tan phi": torch.ones_like(s), "the best": best}
    return {name: _normalised(s, value) for name, value in named.items()}


def _normalised(s: Tensor, value: Tensor) -> Density:
    parts = torch.cumulative_trapezoid(value, s)
    share = torch.cat((parts.new_zeros(1), parts))
    return Density(share / share[-1], value / share[-1])


def probe_part(profile: Profile, density: Density, count: int, variance: Tensor) -> float:
    """Mean square error by one probe a node, bits/dim squared, a mean over images."""
    inside = variance.mean(0) / density.value
    return float(torch.trapezoid(inside, profile.s)) / count / _unit(profile) ** 2


def place_part(
    profile: Profile, density: Density, places: Places, count: int, times: int
) -> float:
    """Mean square error by where the nodes stand, bits/dim squared, over images and shifts."""
    u = torch.rand(times, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimates = _at(profile, density, places(count, u)).mean(2)
    if places is one_shift:  # as the method has it, without what its ends alone make
        ends = _at(profile, density, torch.tensor([[0.0, 1.0]], dtype=torch.float64))[:, 0]
        estimates = estimates + (ends[:, 1:] - ends[:, :1]) * (0.5 - u[:, 0]) / count
    return float(_off(profile, estimates).square().mean())


def gauss_part(profile: Profile, density: Density, count: int) -> tuple[float, float]:
    """Of Gauss-Legendre nodes: mean square error, and the error that all images share."""
    nodes, weights = (torch.from_numpy(x) / 2 for x in np.polynomial.legendre.leggauss(count))
    estimates = (_at(profile, density, nodes[None] + 0.5) * weights).sum(2)
    off = _off(profile, estimates)
    return float(off.square().mean()), float(off.mean())


def _off(profile: Profile, estimates: Tensor) -> Tensor:
    """Bits/dim by which estimates (n, R) of the integral are off."""
    truth = torch.trapezoid(profile.integrand, profile.s)
    return (estimates - truth[:, None]) / _unit(profile)


def _unit(profile: Profile) -> float:
    return profile.dims * math.log(2)


def _at(profile: Profile, density: Density, places: Tensor) -> Tensor:
    """Integrand over density at places (R, K): (n, R, K), linear between points."""
    share, flat = density.share.numpy(), places.flatten().numpy()
    values = (profile.integrand / density.value).numpy()
    found = np.stack([np.interp(flat, share, row) for row in values])
    return torch.from_numpy(found).view(len(values), *places.shape)

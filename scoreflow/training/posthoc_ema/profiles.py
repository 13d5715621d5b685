"""Power-function averages of a trajectory, and any of them from some (Karras et al. 2024, EDM2).

    average(T) = int_0^T p(t) theta(t) dt,   p(t) = (gamma + 1) t^gamma / T^(gamma + 1),
    length = std of p over T = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))).

The weights stand still during a step: theta(t) = theta_k on (k - 1, k]. With that the update
average <- b average + (1 - b) theta_k, b = (1 - 1/k)^(gamma + 1), is the integral exactly:
theta_k ends with the share (k^(gamma + 1) - (k - 1)^(gamma + 1)) / T^(gamma + 1), which is that
of p on the step. t/T is of the law Beta(gamma + 1, 1), whose variance is the length's square.

Averages are linear in the weights, so a combination of kept averages is the average with the
combined profile. `reconstruct` finds the one nearest to a wanted profile in L2 on (0, T]: the
inner products of power functions are closed forms. The coefficients are held to the sum 1, as a
profile's integral is: what stands still is reconstructed exactly, and the size of the weights is
in no error. All in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LONGEST = 0.28
"""Greatest length. Profiles of gamma > 0, which rise to the end, are below 1/sqrt(12) = 0.2887."""
RIDGE = 1e-13
"""Added to the Gram matrix of profiles of unit norm: 500 times float64's rounding.

Profiles of neighbouring steps are nearly one; without it their coefficients would cancel in
thousands where that gains nothing, and each carries the rounding of its float32 snapshot.
"""
ROUNDING = 16 * torch.finfo(torch.float64).eps
"""Of a sum of products in the error, relative to the squared sum of their sizes."""


@dataclass(frozen=True)
class Profile:
    """The profile of an average.

    Attributes:
        step: T, after which step it was kept, from 1.
        length: its standard deviation over T, in (0, 1/sqrt(12)).
    """

    step: int
    length: float


@dataclass(frozen=True)
class Reconstruction:
    """A wanted profile as a combination of kept ones.

    Attributes:
        coefficients: one a kept profile; they add up to 1.
        relative_error: L2 norm of wanted - reconstructed over that of wanted.
        gain: sum of the coefficients' sizes: what a relative rounding of the kept averages is
            multiplied by at most.
    """

    coefficients: tuple[float, ...]
    relative_error: float
    gain: float


def gamma_of(length: float) -> float:
    """The exponent of the profile of a length.

    The largest root of (gamma + 2)^2 (gamma + 3) = (gamma + 1) / length^2, by Newton's method from
    1/length: above the root, where the cubic is convex, it comes down without passing it.

    Args:
        length: in (0, 1/sqrt(12)).

    Raises:
        ValueError: it is out of that.
    """
    if not 0 < length < 12**-0.5:
        raise ValueError(f"length must lie in (0, 1/sqrt(12)), got {length}")
    q = length**-2
    found, step = 1 / length, math.inf
    while abs(step) > 1e-15 * max(found, 1.0):
        value = (found + 2) ** 2 * (found + 3) - q * (found + 1)
        slope = (found + 2) * (3 * found + 8) - q
        before, step = step, value / slope
        if abs(step) >= abs(before):  # rounding alone is left
            break
        found -= step
    return found


def length_of(gamma: float) -> float:
    """The length of the profile of an exponent: the standard deviation of Beta(gamma + 1, 1)."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def share_at(gamma: float, step: int) -> float:
    """The share 1 - (1 - 1/t)^(gamma + 1) of the new weights in the average, t = step + 1.

    Args:
        gamma: the exponent.
        step: optimiser steps before this one, 0, 1, ...: the first weights are the first average.
    """
    return 1.0 if step == 0 else -math.expm1((gamma + 1) * math.log1p(-1 / (step + 1)))


def shares(profile: Profile, steps: int | None = None) -> Tensor:
    """The share of the weights of each step in an average: (steps,) float64, adding up to 1.

    Args:
        profile: of the average.
        steps: how many, at least its own; those after it have no share.
    """
    edges = torch.arange(profile.step + 1, dtype=torch.float64) / profile.step
    found = torch.zeros(profile.step if steps is None else steps, dtype=torch.float64)
    found[: profile.step] = (edges ** (gamma_of(profile.length) + 1)).diff()
    return found


def inner_products(one: Sequence[Profile], other: Sequence[Profile]) -> Tensor:
    """Integrals of products of profiles over t, in closed form: (n, m), per step.

    int_0^min(S, T) p q dt = (a + 1)(b + 1) min^(a + b + 1) / ((a + b + 1) S^(a + 1) T^(b + 1)),
    written with a ratio below 1 to the power of the later one's exponent.
    """
    s, a = (column[:, None] for column in _columns(one))
    t, b = (column[None, :] for column in _columns(other))
    early, late = torch.minimum(s, t), torch.maximum(s, t)
    power = torch.where(s < t, b, a)
    return (a + 1) * (b + 1) * (early / late) ** power / ((a + b + 1) * late)


def _columns(profiles: Sequence[Profile]) -> tuple[Tensor, Tensor]:
    steps = [float(each.step) for each in profiles]
    exponents = [gamma_of(each.length) for each in profiles]
    return torch.tensor(steps, dtype=torch.float64), torch.tensor(exponents, dtype=torch.float64)


def reconstruct(kept: Sequence[Profile], wanted: Profile) -> Reconstruction:
    """The combination of kept profiles that is nearest to a wanted one.

    A wanted profile that was kept is that one alone.

    Args:
        kept: profiles of different steps or lengths, at least one; of steps up to the wanted one.
        wanted: the profile.

    Raises:
        ValueError: none was kept, or one is of a later step.
    """
    if not kept or max(each.step for each in kept) > wanted.step:
        raise ValueError(f"kept profiles must be of steps up to {wanted.step}, got {kept}")
    if wanted in kept:
        found = tuple(float(each == wanted) for each in kept)
        return Reconstruction(found, 0.0, 1.0)
    return _Solver(kept, wanted.step).of(wanted.length)


def reach(kept: Sequence[Profile], step: int, most: float) -> list[tuple[float, float]]:
    """The ranges of lengths of averages at a step that kept ones give, to 0.001.

    Few snapshots of lengths that are far apart leave a hole between them.

    Args:
        kept: as in `reconstruct`.
        step: of the wanted average.
        most: greatest relative error of its profile.

    Returns:
        Rising, the first and the last length of each range in which the error stays below; of a
        range in which only a kept length lies, that one twice.
    """
    solver = _Solver(kept, step)
    own = {each.length for each in kept if each.step == step}  # which may lie between thousandths
    grid = sorted(own.union(k / 1000 for k in range(1, round(1000 * LONGEST) + 1)))
    found: list[tuple[float, float]] = []
    inside = False
    for length in grid:
        before, inside = inside, length in own or solver.of(length).relative_error <= most
        if inside and before:
            found[-1] = (found[-1][0], length)
        elif inside:
            found.append((length, length))
    return found


class _Solver:
    """Least squares against the same kept profiles, for one length after another."""

    def __init__(self, kept: Sequence[Profile], step: int) -> None:
        self.kept, self.step = kept, step
        gram = inner_products(kept, kept)
        self.norms = gram.diagonal().sqrt()
        self.gram = gram / self.norms[:, None] / self.norms
        # of profiles of unit norm, sum_i c_i = 1 is sum_i y_i / norm_i = 1 with y_i = c_i norm_i
        bordered = torch.zeros(len(kept) + 1, len(kept) + 1, dtype=torch.float64)
        bordered[:-1, :-1] = self.gram + RIDGE * torch.eye(len(kept), dtype=torch.float64)
        self.scale = float(self.norms.min())  # the border is of the matrix' own size
        bordered[-1, :-1] = bordered[:-1, -1] = self.scale / self.norms
        self.factors = torch.linalg.lu_factor(bordered)

    def of(self, length: float) -> Reconstruction:
        wanted = [Profile(self.step, length)]
        norm = float(inner_products(wanted, wanted).sqrt())
        along = inner_products(self.kept, wanted)[:, 0] / self.norms
        right = torch.cat([along, torch.tensor([self.scale], dtype=torch.float64)])
        found = torch.linalg.lu_solve(*self.factors, right[:, None])[:-1, 0]
        left = norm**2 - 2 * found @ along + found @ self.gram @ found
        rounded = ROUNDING * (norm + float(found.abs().sum())) ** 2
        error = math.sqrt(max(float(left), 0.0) + rounded) / norm
        coefficients = found / self.norms
        gain = float(coefficients.abs().sum())
        return Reconstruction(tuple(coefficients.tolist()), error, gain)

"""Every sampler's step on a Gaussian, by its paper's formula in Python's own floats.

Data N(mean, SPREAD^2 I) make every estimate a closed form,

    x_0(x, t) = mean + alpha SPREAD^2 / V (x - alpha mean),    V = alpha^2 SPREAD^2 + sigma^2,
    eps(x, t) = sigma / V (x - alpha mean),                    score(x, t) = -(x - alpha mean) / V,

and every step affine. What the samplers compute by coefficients is found here in another way where
there is one: a posterior by Bayes' rule, an exponential integrator by Gauss-Legendre quadrature of
the polynomial through its estimates, the flow by its solution.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scoreflow.certificate.closed_forms.processes import Known
from scoreflow.sde.noise import Noise, Stream

SPREAD = 0.5
MEAN = (0.3, -0.2, 0.6)
FloatArray = npt.NDArray[np.float64]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(48)


@dataclass(frozen=True)
class World:
    """A trajectory so far, and all that its next step depends on.

    Attributes:
        known: the process.
        noise: of the batch, at step 0.
        times: of the grid, floats.
        states: x at times[0], times[1], ... as they were sampled, (B, 3) each.
    """

    known: Known
    noise: Noise
    times: list[float]
    states: list[Tensor]

    def at(self, k: int) -> tuple[Tensor, float, float]:
        """x_t, t and s of step k."""
        return self.states[k], self.times[k], self.times[k + 1]

    def normal(self, k: int, stream: Stream = Stream.PREDICTOR, draw: int = 0) -> Tensor:
        """Step k's own normals."""
        return self.noise.at(k).normal(stream, (len(MEAN),), draw)

    def pull(self, x: Tensor, t: float) -> Tensor:
        """(x - alpha mean) / V."""
        return (x - self.known.alpha(t) * x.new_tensor(MEAN)) / self.total(t)

    def total(self, t: float) -> float:
        """V: variance of x_t."""
        return (self.known.alpha(t) * SPREAD) ** 2 + self.known.variance(t)

    def x_0(self, x: Tensor, t: float) -> Tensor:
        """E[x_0 | x_t = x]."""
        return x.new_tensor(MEAN) + self.known.alpha(t) * SPREAD**2 * self.pull(x, t)

    def eps(self, x: Tensor, t: float) -> Tensor:
        """E[eps | x_t = x]."""
        return self.known.sigma(t) * self.pull(x, t)

    def ratio(self, t: float) -> float:
        """Rho = sigma / alpha."""
        return self.known.ratio(t)

    def half_log_snr(self, t: float) -> float:
        """Lambda = -log rho; -inf where no signal is left."""
        return -math.log(self.ratio(t))


Reference = Callable[[World, int], Tensor]
"""(the world, k) -> x after step k."""
Starts = list[Tensor] | None
"""Where a corrector left the state at each time so far; None without one."""


# ---- one-step methods


def ddim(eta: float) -> Reference:
    """Song, Meng & Ermon 2021, Eq. 12 and 16."""

    def step(world: World, k: int) -> Tensor:
        x, t, s = world.at(k)
        alpha, variance = world.known.alpha(s), world.known.variance(s)
        _, w = world.known.transition(s, t)
        drawn = eta**2 * variance * w / world.known.variance(t)
        old = math.sqrt(max(variance - drawn, 0.0)) * world.eps(x, t)
        return alpha * world.x_0(x, t) + old + math.sqrt(drawn) * world.normal(k)

    return step


ALMOST = 0.999
"""Of N, where the error of x_0 is still known from that of eps: as it is just before no signal."""


def _law_given(world: World, t: float, s: float) -> float:
    """Variance of x_s given x_t itself: precisions add."""
    a, w = world.known.transition(s, t)
    if a > 0:
        return 1 / (1 / world.total(s) + a**2 / w)
    before = ALMOST * t
    unknown = SPREAD**2 * world.known.variance(before) / world.total(before)
    return world.known.variance(s) + world.known.alpha(s) ** 2 * unknown


LEARNED = 0.3
"""A learned variance's place between the posterior's and the transition's."""


def ancestral(variance: str) -> Reference:
    """Bayes' rule: precisions add (Ho et al. 2020, Eq. 6 and 7), and one of four variances."""

    def step(world: World, k: int, starts: Starts = None) -> Tensor:
        x, t, s = world.at(k)
        x = starts[k] if starts else x
        if s == 0:
            return world.x_0(x, t)
        a, w = world.known.transition(s, t)
        before = world.known.variance(s)
        posterior = 1 / (1 / before + a**2 / w)
        mean = posterior * (world.known.alpha(s) * world.x_0(x, t) / before + a * x / w)
        added = {
            "beta": w,
            "posterior": posterior,
            "optimal": _law_given(world, t, s),
            "learned": w**LEARNED * posterior ** (1 - LEARNED),
        }[variance]
        return mean + math.sqrt(added) * world.normal(k)

    return step


def reverse_diffusion(world: World, k: int, starts: Starts = None) -> Tensor:
    """Song et al. 2021, appendix E; from noise alone DDIM's, as of all that divide by alpha."""
    x, t, s = world.at(k)
    if world.known.alpha(t) == 0:
        return ddim(0.0)(world, k)
    x = starts[k] if starts else x
    a, w = world.known.transition(s, t)
    fresh = math.sqrt(w) * world.normal(k) if s > 0 else 0.0
    return (2 - a) * x - w * world.pull(x, t) + fresh


def euler_maruyama(world: World, k: int) -> Tensor:
    """Song et al. 2021, Eq. 6, with the slopes from below; DDIM's where they are infinite."""
    x, t, s = world.at(k)
    if world.known.alpha(t) == 0:
        return ddim(0.0)(world, k)
    f, square, dt = world.known.drift(t), world.known.square(t), t - s
    fresh = math.sqrt(square * dt) * world.normal(k) if s > 0 else 0.0
    return x - (f * x + square * world.pull(x, t)) * dt + fresh


def heun(churn: float) -> Reference:
    """Karras et al. 2022, Algorithm 2, in y = x / alpha and rho; from noise alone, in tau."""

    def step(world: World, k: int) -> Tensor:
        x, t, s = world.at(k)
        if world.known.alpha(t) == 0:
            return _trapezium(world, k)
        end, rho = world.ratio(world.known.sde.num_steps), world.ratio(t)
        y, raised, later = x / world.known.alpha(t), rho, t
        if churn:
            raised = min((1 + churn) * rho, end)
            y = y + math.sqrt(raised**2 - rho**2) * world.normal(k)
            angle = torch.tensor(math.atan(raised), dtype=torch.float64)
            later = min(float(world.known.sde.time(angle)), float(world.known.sde.num_steps))
        rho_s, alpha_s = world.ratio(s), world.known.alpha(s)
        slope = world.eps(world.known.alpha(later) * y, later)
        moved = y + (rho_s - raised) * slope
        if s == 0:
            return alpha_s * moved
        return alpha_s * (y + (rho_s - raised) * (slope + world.eps(alpha_s * moved, s)) / 2)

    return step


def _trapezium(world: World, k: int) -> Tensor:
    """Of d(x / (alpha + sigma)) / d tau = eps - x_0 from tau = sigma / (alpha + sigma) = 1."""
    x, t, s = world.at(k)
    alpha, sigma = world.known.alpha(s), world.known.sigma(s)
    noise, mean = world.eps(x, t), world.x_0(x, t)
    euler = alpha * mean + sigma * noise
    if s == 0:
        return euler
    ends = [noise - mean, world.eps(euler, s) - world.x_0(euler, s)]
    moved = x / world.known.sigma(t) - alpha / (alpha + sigma) * (ends[0] + ends[1]) / 2
    return (alpha + sigma) * moved


def flow(t_min: float) -> Reference:
    """The solution: an offset grows as the marginal's deviation; the estimate is held below."""

    def step(world: World, k: int) -> Tensor:
        x, t, s = world.at(k)
        stop = max(s, t_min)
        grown = math.sqrt(world.total(stop) * world.total(t)) * world.pull(x, t)
        x = world.known.alpha(stop) * x.new_tensor(MEAN) + grown
        if s >= t_min:
            return x
        held = world.known.sigma(s) * world.eps(x, stop)
        return world.known.alpha(s) * world.x_0(x, stop) + held

    return step


# ---- multistep methods


def _through(places: Sequence[float], at: FloatArray) -> list[FloatArray]:
    """Of each place, the polynomial that is 1 there and 0 at the others: by Lagrange.

    An infinite place, where no signal was left, counts for nothing: the limit of one far away.
    """
    found = []
    for j, place in enumerate(places):
        one = np.ones_like(at) if math.isfinite(place) else np.zeros_like(at)
        for i, other in enumerate(places):
            near = i != j and math.isfinite(place) and math.isfinite(other)
            one = one * ((at - other) / (place - other) if near else 1.0)
        found.append(one)
    return found


def _integral(
    kept: "Estimates", start: float, end: float, weight: Callable[[FloatArray], FloatArray]
) -> Tensor:
    """Of weight times the polynomial through the estimates, by 48 Gauss-Legendre nodes."""
    half, middle = (end - start) / 2, (end + start) / 2
    at = middle + half * NODES
    basis = _through([place for place, _ in kept], at)
    shares = [float(half * (WEIGHTS * weight(at) * one).sum()) for one in basis]
    return _sum(shares, kept)


def _sum(shares: Sequence[float], kept: "Estimates") -> Tensor:
    terms = [share * value for share, (_, value) in zip(shares, kept, strict=True)]
    return torch.stack(terms).sum(0)


Estimates = list[tuple[float, Tensor]]
"""Where each was made, latest first, and what it was."""


def _kept(world: World, k: int, order: int, of_eps: bool, starts: Starts = None) -> Estimates:
    """Estimates of step k and those before it, as step k sees them.

    Where a corrector has moved a state, all estimates before it are moved by what its own is, so
    that their differences stay the path's own.
    """
    estimate, place = (world.eps, world.ratio) if of_eps else (world.x_0, world.half_log_snr)
    found: Estimates = []
    shift: Tensor | float = 0.0
    for j in range(k, max(k - order, -1), -1):
        x, t, _ = world.at(j)
        own = estimate(x if starts is None else starts[j], t)
        found.append((place(t), own + shift))
        shift = shift + (own - estimate(x, t))
    return found


def deis(order: int) -> Reference:
    """The integral of eps drho moves x / alpha (Zhang & Chen 2023)."""

    def step(world: World, k: int, starts: Starts = None) -> Tensor:
        x, t, s = world.at(k)
        if world.known.alpha(t) == 0:
            return ddim(0.0)(world, k)
        x, kept = starts[k] if starts else x, _kept(world, k, order, True, starts)
        gone = _integral(kept, world.ratio(t), world.ratio(s), np.ones_like)
        return world.known.alpha(s) * (x / world.known.alpha(t) + gone)

    return step


def _exponential(world: World, x: Tensor, t: float, s: float, kept: Estimates) -> Tensor:
    """sigma_s (x / sigma_t + integral of e^lambda x_0 dlambda), scaled so that none overflows."""
    start, end = world.half_log_snr(t), world.half_log_snr(s)
    if start == -math.inf:  # of all e^lambda from no signal on, of the one estimate
        return world.known.sigma(s) / world.known.sigma(t) * x + world.known.alpha(s) * kept[0][1]
    gone = _integral(kept, start, end, lambda at: np.exp(at - end))
    return world.known.sigma(s) / world.known.sigma(t) * x + world.known.alpha(s) * gone


def dpm(order: int) -> Reference:
    """DPM-Solver++ (Lu et al. 2022): 2M adds half the difference, 3M integrates the quadratic."""

    def step(world: World, k: int, starts: Starts = None) -> Tensor:
        x, t, s = world.at(k)
        x, kept = starts[k] if starts else x, _kept(world, k, order, False, starts)
        if s == 0:
            return kept[0][1]
        if len(kept) == 2:
            kept = [(0.0, _ahead(kept, world.half_log_snr(s)))]
        return _exponential(world, x, t, s, kept)

    return step


def _ahead(kept: Estimates, end: float) -> Tensor:
    """The estimate in the middle of the step, linear through the last two."""
    (place, value), *before = kept
    if not before:
        return value
    ahead = 0.5 * (end - place) / (place - before[0][0])
    return value + ahead * (value - before[0][1])


def dpm_sde(order: int) -> Reference:
    """SDE-DPM-Solver++: both laws of the linear part, e^-2h of the signal's noise kept."""

    def step(world: World, k: int) -> Tensor:
        x, t, s = world.at(k)
        kept = _kept(world, k, order, of_eps=False)
        if s == 0:
            return kept[0][1]
        fall = (world.ratio(s) / world.ratio(t)) ** 2  # e^-2h
        shrink = world.known.sigma(s) / world.known.sigma(t) * math.sqrt(fall)
        guess = _ahead(kept, world.half_log_snr(s))
        fresh = world.known.sigma(s) * math.sqrt(1 - fall) * world.normal(k)
        return shrink * x + world.known.alpha(s) * (1 - fall) * guess + fresh

    return step


def unipc(order: int, correct: bool) -> Reference:
    """Zhao et al. 2023, B(h) = e^h - 1: a step, and the same with its end's estimate known."""

    def corrected(world: World, k: int, starts: Starts) -> Tensor:
        """The state at times[k], once it is known what is estimated there.

        Where Langevin has moved the state, what is corrected is the same as without.
        """
        x, t, _ = world.at(k)
        start = starts[k] if starts else x
        if k == 0 or not correct:
            return start
        known = _kept(world, k - 1, order, False, starts)
        here = (world.half_log_snr(t), world.x_0(x, t))
        before = corrected(world, k - 1, starts)
        return start - x + _unified(world, before, world.times[k - 1], t, [*known, here])

    def step(world: World, k: int, starts: Starts = None) -> Tensor:
        _, t, s = world.at(k)
        known = _kept(world, k, order, False, starts)
        if s == 0:
            return known[0][1]
        return _unified(world, corrected(world, k, starts), t, s, known)

    return step


def _unified(world: World, x: Tensor, t: float, s: float, known: Estimates) -> Tensor:
    """The polynomial through all, integrated; a single difference gets one half."""
    first, *others = known
    known = [first, *((place, value) for place, value in others if place > -math.inf)]
    if len(known) == 2:
        (place, value), (other, there) = known
        step = world.half_log_snr(s) - place
        ratio = (other - place) / step if step < math.inf else 1.0  # from noise alone, to its end
        known = [(0.0, value + 0.5 * (there - value) / ratio)]
    return _exponential(world, x, t, s, known)


# ---- correctors


def corrected(
    predictor: Callable[[World, int, Starts], Tensor],
    snr: float,
    corrections: int,
    annealed: bool,
) -> Reference:
    """Steps x + h score + sqrt(2 h) z, then the predictor (Song et al. 2021, Algorithm 5)."""

    def moved(world: World, k: int) -> Tensor:
        x, t, s = world.at(k)
        a, _ = world.known.transition(s, t)
        for draw in range(corrections):
            pull = world.pull(x, t)
            square = 1 / world.known.variance(t) if annealed else pull.square().mean(1)[:, None]
            h = 2 * (a * snr) ** 2 / square
            z = world.normal(k, Stream.CORRECTOR, draw)
            x = x - h * pull + (2 * h) ** 0.5 * z
        return x

    return lambda world, k: predictor(world, k, [moved(world, j) for j in range(k + 1)])

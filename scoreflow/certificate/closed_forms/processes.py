"""Identity 8: every process is its paper's formulas, at the integers and between them.

Schedules, marginals, slopes, transitions, prior and clocks, written out once more in Python's own
floats and from the schedules' definitions, so that nothing here depends on the code it tests. At
an integer a slope is the one from below; below t = 1 every process comes from clean data. Where no
signal is left log alpha, the log-SNR and f must be -inf, g inf and the angle pi / 2.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch

from scoreflow.certificate.identity import Identity
from scoreflow.figures.plot import Plot, Series
from scoreflow.sde.base import SDE, Ended, Rescaled
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.log_alpha import Parabola
from scoreflow.sde.processes.rectified import RectifiedSDE
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE

STEPS = 30
"""N of the processes that are looked at besides the run's own."""
HALF_THE_DIGITS = 2.0**-26
"""Relative: half of float64's digits are left to what neighbouring scales lose in a difference."""
BASIS = "relative; half of float64's 53 bits, for a difference of neighbouring scales loses some"

Function = Callable[[float], float]


@dataclass(frozen=True)
class Known:
    """A process and what it should be, as functions of one time in steps.

    Attributes:
        name: for rows and messages.
        sde: the process.
        log_alpha: logarithm of the signal scale.
        variance: sigma^2.
        drift: the slope of log alpha, from below.
        square: g^2, likewise.
        prior: standard deviation at N of what stands in for x_N.
    """

    name: str
    sde: SDE
    log_alpha: Function
    variance: Function
    drift: Function
    square: Function
    prior: float

    def alpha(self, t: float) -> float:
        """Signal scale."""
        return math.exp(self.log_alpha(t))

    def sigma(self, t: float) -> float:
        """Noise scale."""
        return math.sqrt(self.variance(t))

    def ratio(self, t: float) -> float:
        """Rho = sigma / alpha; inf where no signal is left."""
        alpha = self.alpha(t)
        return self.sigma(t) / alpha if alpha else math.inf

    def log_snr(self, t: float) -> float:
        """Of alpha^2 / sigma^2; -inf where no signal is left."""
        return 2 * self.log_alpha(t) - math.log(self.variance(t))

    def transition(self, s: float, t: float) -> tuple[float, float]:
        """A and w of x_t = a x_s + sqrt(w) z."""
        a = math.exp(self.log_alpha(t) - self.log_alpha(s))
        return a, self.variance(t) - a**2 * self.variance(s)


def every_process(own: SDE | None = None) -> list[Known]:
    """One of each kind with few steps, and the run's own."""
    n = STEPS
    vp, continuous = VPSDE.linear(n), VPSDE.linear_continuous(n)
    known = [
        _vp("VP, linear", vp, _linear(n, 0.1, 20.0)),
        _vp("VP, scaled linear", VPSDE.scaled_linear(n), _scaled_linear(n, 0.85, 12.0)),
        _vp("VP, cosine", VPSDE.cosine(n), _cosine(n)),
        _vp("VP, log-linear", VPSDE.log_linear(n, 1e-2), _log_linear(n, 1e-2, 5e-3)),
        _continuous("VP, continuous", continuous, 0.1, 20.0),
        _sub_vp("sub-VP", SubVPSDE.linear(n), _linear(n, 0.1, 20.0)),
        _ve("VE", VESDE(n, 0.01, 50.0), 0.01, 50.0),
    ]
    known.append(_rescaled("other units", Rescaled(SubVPSDE.linear(n), 0.8), known[5], 0.8))
    known.append(_ended("ended early", Ended(VESDE(n, 0.01, 50.0), 20), known[6]))
    known.append(_rectified("rectified path", RectifiedSDE(n)))
    known.append(_edm("EDM", EDMSDE(n, 0.01, 50.0), 0.01, 50.0, 7.0))
    return known if own is None else [*known, of(own)]


def of(sde: SDE) -> Known:
    """A process by its own betas or ends."""
    name = "the run's own"
    if isinstance(sde, Rescaled):
        return _rescaled(name, sde, of(sde.base), sde.unit)
    if isinstance(sde, Ended):
        return _ended(name, sde, of(sde.base))
    if isinstance(sde, VESDE):
        return _ve(name, sde, sde.sigma_min, sde.sigma_max)
    if isinstance(sde, RectifiedSDE):
        return _rectified(name, sde)
    if isinstance(sde, EDMSDE):
        return _edm(name, sde, sde.sigma_min, sde.sigma_max, sde.rho)
    assert isinstance(sde, VPSDE), f"closed forms of {type(sde).__name__} are not known"
    if isinstance(sde, SubVPSDE):
        return _sub_vp(name, sde, sde.betas.tolist())
    path = sde._path
    if isinstance(path, Parabola):
        return _continuous(name, sde, path.start, path.start + path.rise)
    return _vp(name, sde, sde.betas.tolist())


def _linear(n: int, low: float, high: float) -> list[float]:
    return [(low + (high - low) * i / (n - 1)) / n for i in range(n)]


def _scaled_linear(n: int, low: float, high: float) -> list[float]:
    first, last = math.sqrt(low / n), math.sqrt(high / n)
    return [(first + (last - first) * i / (n - 1)) ** 2 for i in range(n)]


def _cosine(n: int, offset: float = 0.008, cap: float = 0.999) -> list[float]:
    bars = [math.cos((i / n + offset) / (1 + offset) * math.pi / 2) ** 2 for i in range(n + 1)]
    return [min(1 - after / before, cap) for before, after in pairwise(bars)]


def _log_linear(n: int, sigma_min: float, alpha_min: float) -> list[float]:
    top = math.log((1 - sigma_min**2) / sigma_min**2)
    bottom = math.log(alpha_min**2 / (1 - alpha_min**2))
    log_snr = [top + (bottom - top) * i / (n - 1) for i in range(n)]
    bars = [1.0, *(1 / (1 + math.exp(-each)) for each in log_snr)]
    return [1 - after / before for before, after in pairwise(bars)]


def _vp(name: str, sde: SDE, betas: Sequence[float]) -> Known:
    """alpha_i^2 = prod (1 - beta_j), log-linear between; f = log(1 - beta_i) / 2, g^2 = -2 f."""
    slopes = [0.5 * math.log1p(-beta) for beta in betas]
    values = [0.0, *accumulate(slopes)]

    def piece(t: float) -> int:
        return min(max(math.ceil(t), 1), len(slopes))

    def log_alpha(t: float) -> float:
        i = piece(t)
        return values[i - 1] + (t - (i - 1)) * slopes[i - 1]

    def drift(t: float) -> float:
        return slopes[piece(t) - 1]

    return _preserving(name, sde, log_alpha, drift)


def _continuous(name: str, sde: SDE, low: float, high: float) -> Known:
    """Song et al. 2021, Eq. 33: log alpha = -u^2 (high - low) / 4 - u low / 2, u = t / N."""
    n = sde.num_steps

    def log_alpha(t: float) -> float:
        return -((t / n) ** 2) * (high - low) / 4 - t / n * low / 2

    return _preserving(name, sde, log_alpha, lambda t: -0.5 * (low + t / n * (high - low)) / n)


def _preserving(name: str, sde: SDE, log_alpha: Function, drift: Function) -> Known:
    """sigma^2 = 1 - alpha^2."""

    def variance(t: float) -> float:
        return -math.expm1(2 * log_alpha(t))

    return Known(name, sde, log_alpha, variance, drift, lambda t: -2 * drift(t), 1.0)


def _sub_vp(name: str, sde: SDE, betas: Sequence[float]) -> Known:
    """Sigma = 1 - alpha^2, g^2 = -2 f (1 - alpha^4) (Song et al. 2021, Eq. 11 of section 3.4)."""
    vp = _vp(name, sde, betas)

    def square(t: float) -> float:
        return 2 * vp.drift(t) * math.expm1(4 * vp.log_alpha(t))

    end = vp.variance(sde.num_steps)
    prior = math.sqrt(vp.alpha(sde.num_steps) ** 2 + end**2)
    return replace(vp, variance=lambda t: vp.variance(t) ** 2, square=square, prior=prior)


def _ve(name: str, sde: SDE, low: float, high: float) -> Known:
    """sigma_t = low (high / low)^((t - 1) / (N - 1)); the variance is low^2 t below t = 1."""
    rate = math.log(high / low) / (sde.num_steps - 1)

    def variance(t: float) -> float:
        return low**2 * t if t <= 1 else low**2 * math.exp(2 * rate * (t - 1))

    def square(t: float) -> float:
        return low**2 if t <= 1 else 2 * rate * variance(t)

    return Known(name, sde, lambda _t: 0.0, variance, lambda _t: 0.0, square, high)


def _edm(name: str, sde: SDE, low: float, high: float, rho: float) -> Known:
    """Karras et al. 2022, Eq. 5, from the least noise up; the variance is low^2 t below t = 1."""
    first, last = math.pow(low, 1 / rho), math.pow(high, 1 / rho)

    def root(t: float) -> float:
        return first + (t - 1) / (sde.num_steps - 1) * (last - first)

    def variance(t: float) -> float:
        return low**2 * t if t <= 1 else math.pow(root(t), 2 * rho)

    def square(t: float) -> float:
        rate = (last - first) / (sde.num_steps - 1)
        return low**2 if t <= 1 else 2 * rho * rate * math.pow(root(t), 2 * rho - 1)

    return Known(name, sde, lambda _t: 0.0, variance, lambda _t: 0.0, square, high)


def _rectified(name: str, sde: SDE) -> Known:
    """X = (1 - tau) x_0 + tau eps, tau = t / N: f = -1 / (N - t), g^2 = 2 tau / (N - t)."""
    n = sde.num_steps

    def log_alpha(t: float) -> float:
        return math.log1p(-t / n) if t < n else -math.inf

    def drift(t: float) -> float:
        return -1 / (n - t) if t < n else -math.inf

    def square(t: float) -> float:
        return 2 * t / n / (n - t) if t < n else math.inf

    return Known(name, sde, log_alpha, lambda t: (t / n) ** 2, drift, square, 1.0)


def _rescaled(name: str, sde: SDE, base: Known, unit: float) -> Known:
    return replace(
        base,
        name=name,
        sde=sde,
        variance=lambda t: unit**2 * base.variance(t),
        square=lambda t: unit**2 * base.square(t),
        prior=unit * base.prior,
    )


def _ended(name: str, sde: SDE, base: Known) -> Known:
    """Its prior is N(0, r^2 I) where it ends, whatever that of the whole process."""
    end = sde.num_steps
    prior = math.sqrt(base.alpha(end) ** 2 + base.variance(end))
    return replace(base, name=name, sde=sde, prior=prior)


# ---- the rows


def processes(known: list[Known], device: torch.device | str = "cpu") -> list[Identity]:
    """A row a process: the worst of all its functions at all of its times."""
    return [_row(each, device) for each in known]


def times(num_steps: int) -> list[float]:
    """Both ends, integers, and what lies between and below t = 1."""
    n = float(num_steps)
    few = {1e-3, 0.25, 0.5, 0.999, 1.0, 1.5, 2.0, 2.25, n / 2, n / 2 + 0.3, n - 1, n - 0.5, n}
    few |= {1 + (n - 1) * k / 10 for k in range(10)} | {
        float(round(n * k / 7)) for k in range(1, 7)
    }
    return sorted(t for t in few if 0 < t <= n)


def _row(known: Known, device: torch.device | str) -> Identity:
    at = times(known.sde.num_steps)
    errors = {
        **_of_one_time(known, at, device),
        "transition": _of_transitions(known, at, device),
        "prior": [abs(float(known.sde.prior_std()) / known.prior - 1)] * len(at),
    }
    name = max(errors, key=lambda part: _worst(errors[part]))
    lines = tuple(
        Series(part, at, [max(each, 1e-20) for each in error]) for part, error in errors.items()
    )
    title = f"{known.name}: its functions against their formulas"
    return Identity(
        f"{known.name} = its formulas, {len(at)} t from {at[0]:g} to {at[-1]:g}; worst: {name}",
        _worst(errors[name]),
        HALF_THE_DIGITS,
        BASIS,
        (Plot(title, "t, steps", "relative error", lines),),
    )


def _worst(errors: list[float]) -> float:
    """The greatest; inf where one is no number."""
    return max(errors) if all(map(math.isfinite, errors)) else math.inf


def _of_one_time(
    known: Known, at: list[float], device: torch.device | str
) -> dict[str, list[float]]:
    sde, t = known.sde, torch.tensor(at, dtype=torch.float64, device=device)

    def relative(found: torch.Tensor, expected: Function, least: float = 0.0) -> list[float]:
        pairs = zip(found.tolist(), map(expected, at), strict=True)
        return [abs(a - b) / max(abs(b), least) if a != b else 0.0 for a, b in pairs]

    def angle(t: float) -> float:
        return math.atan2(known.sigma(t), known.alpha(t))

    def expected(like: torch.Tensor, function: Function) -> torch.Tensor:
        return like.new_tensor([function(each) for each in at])

    one = torch.ones_like(t)[:, None]
    x_t = sde.perturb(one, t, -2 * one)[:, 0]
    return {
        "log alpha": relative(sde.log_alpha(t), known.log_alpha, 1.0),
        "variance": relative(sde.variance(t), known.variance),
        "angle": relative(sde.angle(t), angle),
        "scale": relative(sde.scale(t), lambda t: math.hypot(known.alpha(t), known.sigma(t))),
        "log-SNR": relative(sde.log_snr(t), known.log_snr, 1.0),
        "f": relative(sde.drift(t), known.drift),
        "g": relative(sde.diffusion(t), lambda t: math.sqrt(known.square(t))),
        "x_t": relative(x_t, lambda t: known.alpha(t) - 2 * known.sigma(t), 0.1),
        "time of an angle": relative(sde.time(expected(t, angle)), lambda t: t, 1e-3),
        "time of a log-SNR": relative(
            sde.time_of_log_snr(expected(t, known.log_snr)), lambda t: t, 1e-3
        ),
    }


def _of_transitions(known: Known, at: list[float], device: torch.device | str) -> list[float]:
    """From 0 and from the time before, the worse of the two; relative to the variance at t."""
    t = torch.tensor(at, dtype=torch.float64, device=device)
    worst = torch.zeros_like(t)
    for before in ([0.0] * len(at), [0.0, *at[:-1]]):
        a, w = known.sde.transition(t.new_tensor(before), t)
        rows = [known.transition(s, each) for s, each in zip(before, at, strict=True)]
        factor, added = (t.new_tensor([row[k] for row in rows]) for k in (0, 1))
        total = t.new_tensor([known.variance(each) for each in at])
        off = torch.where(a == factor, 0.0, (a / factor - 1).abs())  # both 0 without a signal
        worst = torch.maximum(worst, off)
        worst = torch.maximum(worst, (w - added).abs() / total)
    return worst.tolist()

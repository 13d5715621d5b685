"""Identity 11: a shift multiplies sigma / alpha, and log-normal sigma is logit-normal tau.

The times of training and of sampling against Python's own floats: a normal law is `statistics`'.
"""

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist

import torch

from scoreflow.certificate.closed_forms.processes import BASIS, HALF_THE_DIGITS, Known
from scoreflow.certificate.identity import Identity
from scoreflow.figures.plot import Plot, Series
from scoreflow.losses.times import log_normal_times, shifted_times
from scoreflow.samplers import grid
from scoreflow.sde.processes.rectified import RectifiedSDE

SHIFTS = (3.0, 0.5)
T_MIN = 0.25
P_MEAN, P_STD = -1.2, 1.2
SHARES = tuple((k + 0.5) / 12 for k in range(12))
NEXT_TO_DATA = 1e-9
"""Least time of a shifted grid: its sigma / alpha counts for nothing at the others."""


def time_laws(known: list[Known], device: torch.device | str = "cpu") -> list[Identity]:
    """Of every process: shifted and log-normal times; of the rectified path a shifted grid."""
    return [_shifted(known, device), _shifted_grid(), _log_normal(known, device)]


def _log_ratio(known: Known, t: float) -> float:
    """ln(sigma / alpha), inf where no signal is left."""
    ratio = known.ratio(t)
    return math.log(ratio) if ratio < math.inf else math.inf


def _row(name: str, title: str, at: Sequence[float], worst: dict[str, list[float]]) -> Identity:
    place = max(worst, key=lambda each: _greatest(worst[each]))
    lines = tuple(
        Series(each, list(at), [max(error, 1e-20) for error in errors])
        for each, errors in worst.items()
    )
    return Identity(
        f"{name}, {len(worst)} processes; worst: {place}",
        _greatest(worst[place]),
        HALF_THE_DIGITS,
        BASIS,
        (Plot(title, "share of the times", "difference of ln(sigma / alpha)", lines),),
    )


def _greatest(errors: list[float]) -> float:
    """Nan is no small error."""
    return max(errors) if all(map(math.isfinite, errors)) else math.inf


def _shifted(known: list[Known], device: torch.device | str) -> Identity:
    """Uniform times with z times k, between the ends of the process.

    z = (y - y_low) / (1 - y / y_high) of y = sigma / alpha. From t = 0 to where no signal is left
    it is y, and the log-SNR of all times is moved alike.
    """
    u, worst = torch.tensor(SHARES, dtype=torch.float64, device=device), {}
    for each in known:
        errors, last = [0.0] * len(SHARES), float(each.sde.num_steps)
        starts = (T_MIN, 0.0) if each.ratio(last) == math.inf else (T_MIN,)
        for shift, first in itertools.product(SHIFTS, starts):
            found = shifted_times(u, each.sde, first, shift).tolist()
            for k, (share, t) in enumerate(zip(SHARES, found, strict=True)):
                y = each.ratio(first + (last - first) * share)
                expected = shift * y if first == 0 else _moved(each, y, shift)
                errors[k] = max(errors[k], abs(_log_ratio(each, t) - math.log(expected)))
        worst[each.name] = errors
    name = "training.shift k = z times k; where z = sigma / alpha, log-SNR moved by -2 ln k"
    return _row(name, "Shifted times against their formula", SHARES, worst)


def _moved(known: Known, y: float, shift: float) -> float:
    """The sigma / alpha that y becomes, of the ends T_MIN and N."""
    low, high = known.ratio(T_MIN), known.ratio(float(known.sde.num_steps))
    z = shift * (y - low) / (1 - y / high)
    return (z + low) / (1 + z / high)


def _shifted_grid() -> Identity:
    """sampling.shift on the rectified path: SD3's k tau / (1 + (k - 1) tau), and -2 ln k."""
    sde, count, worst = RectifiedSDE(1000), 12, 0.0
    share = [k / (count - 1) for k in range(1, count - 1)]
    shown: list[Series] = []
    for shift in SHIFTS:
        plain = grid("angle", sde, count, NEXT_TO_DATA).tolist()[1:-2]
        moved = grid("angle", sde, count, NEXT_TO_DATA, shift).tolist()[1:-2]
        errors = []
        for before, after in zip(plain, moved, strict=True):
            tau, found = before / sde.num_steps, after / sde.num_steps
            snr = 2 * (math.log((1 - found) / found) - math.log((1 - tau) / tau))
            straight = shift * tau / (1 + (shift - 1) * tau)
            errors.append(max(abs(snr + 2 * math.log(shift)), abs(found / straight - 1)))
        shown.append(Series(f"k = {shift:g}", share, [max(each, 1e-20) for each in errors]))
        worst = max(worst, _greatest(errors))
    title = "A shifted grid against a translation of log-SNR"
    return Identity(
        "sampling.shift k = log-SNR moved by -2 ln k, tau to k tau / (1 + (k - 1) tau)",
        worst,
        HALF_THE_DIGITS,
        BASIS,
        (Plot(title, "share of the grid", "difference of log-SNR", tuple(shown)),),
    )


def _log_normal(known: list[Known], device: torch.device | str) -> Identity:
    """The same sigma / alpha under every process, and tau / (1 - tau) of the rectified path."""
    law, worst = NormalDist(P_MEAN, P_STD), {}
    u = torch.tensor(SHARES, dtype=torch.float64, device=device)
    for each in known:
        low, high = _log_ratio(each, T_MIN), _log_ratio(each, float(each.sde.num_steps))
        below, until = law.cdf(low), law.cdf(high) if high < math.inf else 1.0
        if until - below < 1e-2:
            continue  # a process of few steps that hardly has this law
        found = log_normal_times(u, each.sde, T_MIN, P_MEAN, P_STD).tolist()
        expected = [law.inv_cdf(below + (until - below) * share) for share in SHARES]
        pairs = zip(found, expected, strict=True)
        worst[each.name] = [abs(_log_ratio(each, t) - value) for t, value in pairs]
    name = "training.times log_normal = EDM's sigma = SD3's logit-normal tau, cut to the process"
    return _row(name, "Log-normal times against the normal law", SHARES, worst)

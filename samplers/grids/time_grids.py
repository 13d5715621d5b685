"""Time grids by name: K + 1 sampling times from N down to 0.

A grid is a list; no step recomputes its neighbour. All but the last interval is cut evenly in some
clock; the last goes from t_min, below which a denoiser is not evaluated, to 0. With K = 1 there is
only the step from N to 0.

    uniform     the time itself, N, N - N/K, ..., rounded
    trailing    another name of uniform: for every K it is what Lin et al. 2024 ("Common diffusion
                noise schedules and sample steps are flawed") call so
    quadratic   sqrt(t) (DDIM, Song et al. 2021, appendix D.2)
    leading     multiples of N // K, and 1 (DDPM's respacing; its first step is not at N)
    log_snr     log(alpha / sigma) (DPM-Solver)
    karras      (sigma / alpha)^(1 / rho), rho = 7 (EDM, Karras et al. 2022, Eq. 5)
    angle       phi

A `shift` k multiplies sigma / alpha by k at the times between two ends that stay. On the straight
line of noise tau = sigma / (alpha + sigma), tau becomes k tau / (1 + (k - 1) tau), as for images
of higher resolution (Esser et al. 2024, SD3), and log-SNR moves by -2 log k. In general, with
y = sigma / alpha at a time and y_low, y_high at the ends, it is

    z = (y - y_low) / (1 - y / y_high)

that is multiplied: y itself where the lower end is clean data and the upper one without signal.
"""

from collections.abc import Callable
from math import inf

import torch
from torch import Tensor

from scoreflow.sde.base import SDE, shifted
from scoreflow.sde.types import Times

KARRAS_RHO = 7.0
LEAST_LOG_SNR = -10.0
"""About DDPM's at N."""


def grid(name: str, sde: SDE, count: int, t_min: float = 1.0, shift: float = 1.0) -> Times:
    """A grid by its name.

    Args:
        name: one of `GRIDS`.
        sde: the process.
        count: K, at least 1; at most N for those of whole steps.
        t_min: the least time at which a denoiser is evaluated, in steps.
        shift: k, positive; 1 moves nothing. Grids of whole steps are rounded after it.

    Raises:
        ValueError: no such grid, or too many or no steps, or a shift of a grid that has none.
    """
    if name not in GRIDS:
        raise ValueError(f"grid must be one of {', '.join(GRIDS)}, got {name!r}")
    if not 0 < shift < inf:
        raise ValueError(f"a shift multiplies sigma / alpha, and must be positive, got {shift}")
    whole = name in WHOLE
    if count < 1 or (whole and count > sde.num_steps):
        limit = f"1..{sde.num_steps}" if whole else "1 or more"
        raise ValueError(f"the number of sampling steps must lie in {limit}, got {count}")
    if shift == 1:
        return GRIDS[name](sde, count, t_min)
    _refuse_fixed(name, sde, count, shift)
    if not whole:
        times = GRIDS[name](sde, count, t_min)
        return torch.cat((_shifted(sde, times[:-1], shift), times[-1:]))
    return _whole(_shifted(sde, CLOCKS[name](sde, count), shift), count)


def _refuse_fixed(name: str, sde: SDE, count: int, shift: float) -> None:
    """Refuse a shift where there is no other choice of times."""
    if name not in CLOCKS and name in WHOLE:
        raise ValueError(
            f"the grid {name} is the multiples of N // K, and has no shift, got {shift}: use "
            "uniform, log_snr, karras or angle"
        )
    if name in WHOLE and count == sde.num_steps:
        raise ValueError(
            f"all {count} whole steps are made, and a shift of {shift} finds no others: set "
            "sampling.steps to fewer, or the grid to log_snr, karras or angle"
        )


def _shifted(sde: SDE, times: Tensor, shift: float) -> Tensor:
    """The times between the first and the last with sigma / alpha multiplied; see the module."""
    if len(times) < 3:
        return times
    moved = shifted(sde, times[1:-1], float(times[-1]), float(times[0]), shift)
    return torch.cat((times[:1], moved, times[-1:]))


def _whole(times: Tensor, count: int) -> Tensor:
    """Rounded, with at least a step between neighbours; from N to 0."""
    least = torch.arange(count, -1, -1, dtype=torch.float64)
    # rounding may have made equals: none may lie above its upper neighbour less one
    return (torch.maximum(times.round(), least) - least).cummin(0).values + least


def _even(sde: SDE, count: int) -> Tensor:
    return torch.linspace(sde.num_steps, 0, count + 1, dtype=torch.float64)


def _even_roots(sde: SDE, count: int) -> Tensor:
    times = torch.linspace(sde.num_steps**0.5, 0, count + 1, dtype=torch.float64) ** 2
    times[0] = sde.num_steps  # of 40 the square of the root is rounded above it
    return times


def _uniform(sde: SDE, count: int, t_min: float) -> Tensor:
    return _whole(_even(sde, count), count)


def _quadratic(sde: SDE, count: int, t_min: float) -> Tensor:
    return _whole(_even_roots(sde, count), count)


def _leading(sde: SDE, count: int, t_min: float) -> Tensor:
    times = 1 + (sde.num_steps // count) * torch.arange(count - 1, -1, -1, dtype=torch.float64)
    times[0] = sde.num_steps  # the prior stands at N
    return torch.cat((times, times.new_zeros(1)))


def _even_in(
    clock: Callable[[SDE, Tensor], Tensor], time: Callable[[SDE, Tensor], Tensor]
) -> Callable[[SDE, int, float], Tensor]:
    """A grid that is even in a clock between N and t_min.

    A clock that is infinite at N, where no signal is left, is even below `LEAST_LOG_SNR`.
    """

    def build(sde: SDE, count: int, t_min: float) -> Tensor:
        ends = torch.tensor([float(sde.num_steps), t_min], dtype=torch.float64)
        if count == 1:
            return torch.tensor([float(sde.num_steps), 0.0], dtype=torch.float64)
        first, last = clock(sde, ends)
        if not first.isfinite():
            first = clock(sde, sde.time_of_log_snr(ends.new_tensor([LEAST_LOG_SNR])))[0]
        share = torch.linspace(0, 1, count, dtype=torch.float64)
        times = time(sde, first + (last - first) * share)
        times[0], times[-1] = ends  # there and back is exact but for rounding
        return torch.cat((times, times.new_zeros(1)))

    return build


GRIDS: dict[str, Callable[[SDE, int, float], Tensor]] = {
    "uniform": _uniform,
    "trailing": _uniform,
    "quadratic": _quadratic,
    "leading": _leading,
    "log_snr": _even_in(lambda sde, t: sde.log_snr(t), lambda sde, y: sde.time_of_log_snr(y)),
    "karras": _even_in(
        lambda sde, t: (-0.5 * sde.log_snr(t)).exp() ** (1 / KARRAS_RHO),
        lambda sde, y: sde.time((y**KARRAS_RHO).atan()),
    ),
    "angle": _even_in(lambda sde, t: sde.angle(t), lambda sde, y: sde.time(y)),
}
WHOLE = ("uniform", "trailing", "quadratic", "leading")
CLOCKS = {"uniform": _even, "trailing": _even, "quadratic": _even_roots}
"""Of those of whole steps that a shift moves, the times before they are rounded."""

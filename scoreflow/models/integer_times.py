"""A network that knows the integers of its process only, as a Denoiser at every real time.

A chain's network was trained at t = 1, 2, ..., N; what it answers to a label between two is
nobody's estimate. But its estimates are those of one rotation, x~ = cos(phi) x_0 + sin(phi) eps,
whose velocity v(x~, phi) is smooth in the angle. So between the integers i < t < i + 1

    v(x~, phi_t) = (1 - w) v(x~, phi_i) + w v(x~, phi_j),    w = (phi_t - phi_i) / (phi_j - phi_i)

with j = i + 1, at the same point x~ = x_t / r_t of the unit scale: two evaluations a row, and one
where t is an integer. The error is that of linear interpolation, at most h^2 / 8 max |d^2 v /
dphi^2| with h the angle of the step: of second order in 1 / N. The field is continuous, and its
divergence is that of the interpolated field itself.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.prediction import Prediction, predict

CLOCK_ROUNDING = 1e-9
"""Steps between a time and an integer that are rounding: angle and back is exact to less."""

Ask = Callable[[Tensor, Tensor, Tensor | None], Prediction]
"""(x_t (b, ...), integer times () or (b,), which rows of the batch these are, or None for all)."""


def at_real_times(ask: Ask, sde: SDE, x_t: Tensor, t: Tensor) -> Prediction:
    """The prediction at any time from those at the integers.

    Args:
        ask: the network.
        sde: the process.
        x_t: (B, ...).
        t: () or (B,) float64 in [1, N], in steps.
    """
    nearest, whole = t.round(), between_integers(t) == 0
    if bool(whole.all()):
        return ask(x_t, nearest, None)
    low = torch.where(whole, nearest, t.floor().clamp(1, sde.num_steps - 1))
    r = sde.scale(t)
    below = ask(_moved(x_t, torch.where(whole, 1.0, sde.scale(low) / r)), low, None)
    v, fraction = below.v, below.fraction
    # the rows between two integers alone are asked about the upper one; all, if they share a time
    rows = None if t.ndim == 0 else (~whole).nonzero().squeeze(1)
    t_rows, low = (t, low) if rows is None else (t[rows], low[rows])
    x_rows = x_t if rows is None else x_t[rows]
    high = low + 1
    above = ask(_moved(x_rows, sde.scale(high) / sde.scale(t_rows)), high, rows)
    start = sde.angle(low)
    w = broadcast((sde.angle(t_rows) - start) / (sde.angle(high) - start), x_rows)
    v = _towards(v, above.v, w, rows)
    if fraction is not None and above.fraction is not None:
        fraction = _towards(fraction, above.fraction, w, rows)
    return predict(sde, x_t, t, "v", v, fraction)


def between_integers(t: Tensor) -> Tensor:
    """1 for each time between two integers, where the network is asked once more; else 0."""
    return ((t - t.round()).abs() > CLOCK_ROUNDING).long()


def _moved(x: Tensor, factor: Tensor) -> Tensor:
    """The same point of the unit scale at another time's scale."""
    return broadcast(factor, x) * x


def _towards(below: Tensor, above: Tensor, w: Tensor, rows: Tensor | None) -> Tensor:
    """(1 - w) below + w above in these rows, and below in the others."""
    if rows is None:
        return below + w * (above - below)
    return below.index_add(0, rows, w * (above - below[rows]))

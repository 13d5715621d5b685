"""Where an axis has its ticks: round numbers, a handful of them."""

import math

MOST = 7
"""Ticks that an axis holds without crowding."""


def ticks(low: float, high: float, logarithmic: bool) -> list[tuple[float, float]]:
    """The value and the place of each tick of an axis from low to high.

    A linear axis has multiples of 1, 2 or 5 times a power of ten. A logarithmic one, whose places
    are decimal logarithms, has powers of ten, all or every k-th; with 2 and 5 times them, or with
    1, 2, 3, 5 and 7 times, where there is room; with 3 times them where fewer than three are left;
    and over less than a factor of two or so, where that is too few too, those of a linear axis.
    """
    if not logarithmic:
        return [(value, value) for value in _linear(low, high)]
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1,)):
        found = _decades(low, high, factors)
        if len(found) <= MOST:
            break
    found = found[:: max(1, -(-len(found) // MOST))]
    if len(found) < 3:
        found = _decades(low, high, (1, 3))
    if len(found) < 3:
        found = [value for value in _linear(10**low, 10**high) if value > 0]
    return [(value, math.log10(value)) for value in found]


def _decades(low: float, high: float, factors: tuple[int, ...]) -> list[float]:
    """The factors times powers of ten between 10^low and 10^high."""
    slack = 1e-9  # a tick at the very end is a tick
    return [
        value
        for power in range(math.floor(low), math.ceil(high) + 1)
        for value in (factor * 10.0**power for factor in factors)
        if low - slack <= math.log10(value) <= high + slack
    ]


def _linear(low: float, high: float) -> list[float]:
    """Multiples of the least round step that leaves no more than `MOST`."""
    rough = (high - low) / MOST
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def label(value: float) -> str:
    """A tick's value in few characters."""
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e")

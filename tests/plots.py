"""Plots of pages are drawn once a kind: matplotlib takes longer than most of what is tested.

What a plot's drawing does depends on its labels, its axes and how many points its lines show. One
that differs from a drawn one in numbers alone, and in none that is extreme, has the same
elements in other places; pages get the drawing that is there. `tests/scoreflow/figures` and
whatever else imports `svg` itself draws every plot.
"""

import functools
import math
import sys
from collections.abc import Callable, Hashable
from dataclasses import fields
from typing import Any

NUMBERS = ("x", "y", "error")
EXTREME = 1e30, 1e-30
"""Numbers beyond or below which a plot is drawn whatever was drawn before."""


def kind(plot: Any) -> Hashable | None:
    """All but the numbers of a plot; None of one that is always drawn."""
    from scoreflow.figures.svg import _points

    if not hasattr(plot, "series"):  # bars
        return None
    large, small = EXTREME
    found: list[Hashable] = []
    for each in plot.series:
        for values in (each.x, each.y, each.error or ()):
            if not all(math.isfinite(v) and (v == 0 or small < abs(v) < large) for v in values):
                return None
        several = tuple(len(set(values)) > 1 for values in (each.x, each.y))
        rest = [getattr(each, f.name) for f in fields(each) if f.name not in NUMBERS]
        bars = each.error is not None and any(each.error)
        found.append((len(_points(each, plot)), len(each.x), several, bars, repr(rest)))
    rest = [getattr(plot, f.name) for f in fields(plot) if f.name != "series"]
    return (repr(rest), *found)


def once_a_kind(svg: Callable[[Any, str], str]) -> Callable[..., str]:
    """`figures.svg.svg` that draws the first plot of each kind under each salt."""
    drawn: dict[Hashable, str] = {}

    @functools.wraps(svg)
    def found(plot: Any, salt: str = "") -> str:
        of = kind(plot)
        if of is None:
            return svg(plot, salt)
        if (of, salt) not in drawn:
            drawn[of, salt] = svg(plot, salt)
        return drawn[of, salt]

    found.__dict__["once_a_kind"] = True
    return found


def install() -> None:
    """For pages, as soon as the module that draws is there; it is not imported for this."""
    module: Any = sys.modules.get("scoreflow.figures.svg")
    if module is not None and not hasattr(module.svg, "once_a_kind"):
        module.svg = once_a_kind(module.svg)

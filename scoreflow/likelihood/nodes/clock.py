"""A clock along the flow that is dense where the divergence is uncertain.

In s = log tan phi, half the log of the noise-to-signal ratio, the change of log-density is smooth
and of one size, sin phi cos phi div v ds. What a random probe adds to it varies most where the
noise hides what is left of the image, a little below s = 0. The clock q in [0, 1] is even in
asinh((s - CENTRE) / WIDTH) between both ends: closed in both directions, smooth, and with so heavy
tails that no part of any process is skipped.

s is regular at phi = pi/2 too, where a process ends without signal: s = -log(cot phi + e^-5).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CENTRE, WIDTH = -1.0, 0.7
"""Of the density of nodes; docs/design.md says what they cost beside the best density."""
_LEAST_COTANGENT = math.exp(-5.0)


@dataclass(frozen=True)
class Clock:
    """The clock between two angles.

    Attributes:
        start: angle in radians where q = 0, > 0.
        end: angle where q = 1, in (start, pi/2].

    Raises:
        ValueError: angles in another order, or a start without noise.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if not 0 < self.start < self.end:
            raise ValueError(
                f"a flow by nodes leads from a time with noise to a later one: its angles must be "
                f"0 < start < end, got {self.start:g} and {self.end:g}"
            )

    def angles(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Angles at q in [0, 1], never beyond the ends, and their derivative in q."""
        low, high = (math.asinh((_s(angle) - CENTRE) / WIDTH) for angle in (self.start, self.end))
        up = torch.exp(low + (high - low) * q)
        sinh, cosh = (up - 1 / up) / 2, (up + 1 / up) / 2
        raised = torch.exp(-(CENTRE + WIDTH * sinh))
        cotangent = raised - _LEAST_COTANGENT
        # torch's sinh, cosh and atan2 round otherwise at the end of a tensor than within it
        steep = torch.where(cotangent > 1, 1 / cotangent, cotangent).atan()
        angle = torch.where(cotangent > 1, steep, math.pi / 2 - steep)
        rate = raised / (1 + cotangent * cotangent) * (WIDTH * (high - low)) * cosh
        return angle.clamp(self.start, self.end), rate


def _s(angle: float) -> float:
    """S of an angle in (0, pi/2]."""
    return -math.log(math.cos(angle) / math.sin(angle) + _LEAST_COTANGENT)

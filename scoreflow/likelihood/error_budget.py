"""Error budget of a mean log-likelihood: images, probes and nodes, solver, truncation, prior.

Of n images with P probes each, the mean of image i over its probes varies by the image and by the
probes, so that the squared standard error of the mean of all is a sum of two,

    total^2 = images^2 + probes^2

total^2 from the spread of the images' means, which has both; probes^2 from the spread within the
images; images^2 what is left. Few images know total^2 badly, and a difference that is smaller than
its own standard error says nothing: then the parts are not told apart, and the total is stated.

Where the divergence is estimated at random nodes, the probes of an image share them, and their
spread knows nothing of the nodes. So m images are solved once more, at other nodes and by other
probes: half the squared difference of the two values estimates the variance of one without bias,

    probes^2 = (mean over the m images of (first - second)^2 / 2) / n

of relative standard error sqrt(1 / (2 m)) as a standard error, for normal differences.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.uncertainty import standard_error

SHOWN_BITS = 5e-5
"""Bits/dim that the prior may cost without being named: none at four digits."""


@dataclass(frozen=True)
class Budget:
    """In the unit of the mean; None for what is not known.

    Attributes:
        images: standard error by the choice of images and their dequantization; None also where
            it is not told apart from that by the probes.
        probes: standard error by the random probes of the divergence, and by `random` nodes; 0
            where neither was random.
        solver: of the ODE solver, by solving some of the images again, at a tenth of the tolerance
            or at the same nodes with more steps between them: what that moved their mean by and
            its standard error, as the root of the sum of squares; where none was, the accumulated
            estimates of its local errors.
        truncation_at_most: bound on what the start at t costs; for integers only.
        total: standard error by images and probes together, never less than that by the probes;
            images^2 + probes^2 where both are known. None also in results older than it.
        too_few: of so many images the parts cannot be told apart; None where they are.
        prior_at_most: bound on what the prior costs where the flow ends; for integers only, and
            None in results older than it.
        solver_guess: whether `solver` is the solver's own guess, for want of a second solution.
        random: what `probes` is the error by: "probes", "probes and nodes", or "nodes".
        repeated: so many images were solved once more for `probes`; 0 for its spread in each.
    """

    images: float | None
    probes: float | None
    solver: float | None
    truncation_at_most: float | None
    total: float | None = None
    too_few: int | None = None
    prior_at_most: float | None = None
    solver_guess: bool = False
    random: str = "probes"
    repeated: int = 0

    def __str__(self) -> str:
        solver = "solver, its own estimate" if self.solver_guess else "solver"
        named = [("images", self.images), (self.random, self.probes), (solver, self.solver)]
        if self.too_few is not None:
            both = "the two" if self.random != "probes and nodes" else "them"
            joined = f"images{',' if both == 'them' else ' and'} {self.random}"
            told = f"{joined}: {self.too_few} images are too few to tell {both} apart"
            named[:2] = [(told, self.total)]
        text = " ".join(f"+- {value:.4f} ({name})" for name, value in named if value is not None)
        if self.truncation_at_most is not None:
            text += f", truncation <= {self.truncation_at_most:.4f}"
        if self.prior_at_most is not None and self.prior_at_most >= SHOWN_BITS:
            text += f", prior <= {self.prior_at_most:.4f}"
        return text


def budget_of(
    values: Tensor,
    *,
    probes: int,
    sign_set: int,
    local: list[float | None],
    finer: dict[int, float],
    per_nat: float,
    truncation_at_most: float | None,
    prior_at_most: float | None = None,
    nodes: bool = False,
    repeated: dict[int, float] | None = None,
) -> Budget:
    """The budget of the mean of some values.

    Args:
        values: a row an image, a column a probe, (n, P).
        probes: how many there are; 0 for the exact divergence.
        sign_set: how many they were drawn from, without replacement.
        local: of each image, the solver's own guess of its error, nats.
        finer: values of a few images, by number, at a tenth of the tolerance, or at more steps.
        per_nat: the unit in nats.
        truncation_at_most: bound on what the start at t costs, bits/dim; None if not known.
        prior_at_most: bound on what the prior costs, bits/dim; None if not known.
        nodes: whether the divergence was estimated at random nodes.
        repeated: then, values of some images, by number, at other nodes by other probes.
    """
    again = repeated or {}
    if nodes:
        by_probes, freedom = _by_repetition(values, again), len(again)
    else:
        by_probes = _by_probes(values, probes, sign_set)
        freedom = len(values) * (values.shape[1] - 1)
    total, images, too_few = _joint(values, by_probes, freedom)
    return Budget(
        images=images,
        probes=by_probes,
        solver=_by_solver(values, local, finer, per_nat),
        truncation_at_most=truncation_at_most,
        total=total,
        too_few=too_few,
        prior_at_most=prior_at_most,
        solver_guess=not finer,
        random="probes" if not nodes else "probes and nodes" if probes else "nodes",
        repeated=len(again),
    )


def _joint(
    values: Tensor, by_probes: float | None, freedom: int
) -> tuple[float | None, float | None, int | None]:
    """Total, the part of the images, and how many they are where they are too few for that."""
    total, n = standard_error(values.mean(1)), len(values)
    if total is None or not by_probes:
        return total, total, None
    left = total**2 - by_probes**2
    # of a variance from f degrees of freedom the relative standard error is sqrt(2 / f)
    error = math.hypot(total**2 * math.sqrt(2 / (n - 1)), by_probes**2 * math.sqrt(2 / freedom))
    if left < error:
        return max(total, by_probes), None, n
    return total, math.sqrt(left), None


def _by_probes(values: Tensor, probes: int, sign_set: int) -> float | None:
    if probes == 0:
        return 0.0
    images, columns = values.shape
    if columns < 2:
        return None  # one probe does not know its error
    without_replacement = 1 - columns / sign_set
    each = values.var(1) / columns * without_replacement
    return math.sqrt(float(each.mean()) / images)


def _by_repetition(values: Tensor, repeated: dict[int, float]) -> float | None:
    if not repeated:
        return None  # one solution does not know its error
    apart = torch.tensor(list(repeated.values()), dtype=torch.float64) - _means(values, repeated)
    return math.sqrt(float(apart.square().mean()) / 2 / len(values))


def _means(values: Tensor, numbers: Iterable[int]) -> Tensor:
    return values[list(numbers)].mean(1)


def _by_solver(
    values: Tensor, local: list[float | None], finer: dict[int, float], per_nat: float
) -> float | None:
    if finer:
        moved = torch.tensor(list(finer.values()), dtype=torch.float64) - _means(values, finer)
        return math.hypot(float(moved.mean()), standard_error(moved) or 0.0)
    known = [error for error in local if error is not None]
    return sum(known) / len(known) * per_nat if known else None

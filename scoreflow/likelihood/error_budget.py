"""Error budget of a mean log-likelihood: images, probes, solver tolerance, truncation."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.uncertainty import standard_error


@dataclass(frozen=True)
class Budget:
    """In the unit of the mean; None for what is not known.

    Attributes:
        images: standard error by the choice of images and their dequantization.
        probes: standard error by the random probes of the divergence; 0 when it was exact.
        solver: of the ODE solver, by solving some of the images again at a tenth of the tolerance:
            what that moved their mean by and its standard error, as the root of the sum of
            squares; where none was, the accumulated estimates of its local errors.
        truncation_at_most: bound on what the start at t costs; for integers only.
    """

    images: float | None
    probes: float | None
    solver: float | None
    truncation_at_most: float | None

    def __str__(self) -> str:
        named = (("images", self.images), ("probes", self.probes), ("solver", self.solver))
        text = " ".join(f"+- {value:.4f} ({name})" for name, value in named if value is not None)
        if self.truncation_at_most is not None:
            text += f", truncation <= {self.truncation_at_most:.4f}"
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
) -> Budget:
    """The budget of the mean of some values.

    Args:
        values: a row an image, a column a probe, (n, P).
        probes: how many there are; 0 for the exact divergence.
        sign_set: how many they were drawn from, without replacement.
        local: of each image, the solver's own guess of its error, nats.
        finer: values of a few images, by number, at a tenth of the tolerance.
        per_nat: the unit in nats.
        truncation_at_most: bound on what the start at t costs, bits/dim; None if not known.
    """
    total, by_probes = standard_error(values.mean(1)), _by_probes(values, probes, sign_set)
    images = total
    if total is not None and by_probes:
        images = math.sqrt(max(total**2 - by_probes**2, 0.0))
    return Budget(
        images=images,
        probes=by_probes,
        solver=_by_solver(values, local, finer, per_nat),
        truncation_at_most=truncation_at_most,
    )


def _by_probes(values: Tensor, probes: int, sign_set: int) -> float | None:
    if probes == 0:
        return 0.0
    images, columns = values.shape
    if columns < 2:
        return None  # one probe does not know its error
    without_replacement = 1 - columns / sign_set
    each = values.var(1) / columns * without_replacement
    return math.sqrt(float(each.mean()) / images)


def _by_solver(
    values: Tensor, local: list[float | None], finer: dict[int, float], per_nat: float
) -> float | None:
    if finer:
        rough = values[list(finer)].mean(1)
        moved = torch.tensor(list(finer.values()), dtype=torch.float64) - rough
        return math.hypot(float(moved.mean()), standard_error(moved) or 0.0)
    known = [error for error in local if error is not None]
    return sum(known) / len(known) * per_nat if known else None

"""Scores of anomaly, high for what is unlike the reference, from columns of numbers an image.

Nothing here sees other data before it scores them: what is ordinary is learned from a reference of
in-distribution images alone, so no score can be turned round after the fact. A column that is
anomalous in one direction, as bits/dim, is taken as it is. One that may be off in either is a
distance: from the reference's mean (typicality, Nalisnick et al. 2019), or minus the log of the
density that a Gaussian mixture has of it, fitted on the reference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

By = Literal["value", "distance", "mean z", "density"]
Columns = Mapping[str, Tensor]
"""Of some images, a number each under a name, (n,) float64."""
Judge = Callable[[Columns], Tensor]
"""Columns of other images -> their scores, (n,)."""
MOST_PARTS, A_PART = 4, 20
"""Components of a mixture at most, and images of the reference that each needs a parameter of its
mean."""
LEAST_VARIANCE = 1e-3
"""That a component keeps in each direction, where the reference has 1 along each column."""


@dataclass(frozen=True)
class Score:
    """How columns become one number.

    Attributes:
        name: of the score.
        of: the columns' names.
        by: "value" of the one column; "distance" of the one column from the reference's mean;
            "mean z", of values in standard deviations above the reference's means; or "density",
            minus the log-density of all columns, in nats.
    """

    name: str
    of: tuple[str, ...]
    by: By

    def learned(self, reference: Columns) -> Judge:
        """The score, with what it takes from the reference.

        Args:
            reference: columns of in-distribution images, at least two.
        """
        if self.by == "value":
            return lambda columns: columns[self.of[0]]
        known = self._matrix(reference)
        centre, spread = known.mean(0), known.std(0)
        if self.by == "distance":
            return lambda columns: (columns[self.of[0]] - centre[0]).abs()
        moving = (spread > 0).nonzero()[:, 0]  # a column that never moves has no unit
        if not len(moving):
            return lambda columns: torch.zeros_like(columns[self.of[0]])

        def standard(columns: Columns) -> Tensor:
            return ((self._matrix(columns) - centre) / spread)[:, moving]

        if self.by == "mean z":
            return lambda columns: standard(columns).mean(1)
        mixture = _fitted(standard(reference).numpy())
        return lambda columns: torch.from_numpy(-mixture.score_samples(standard(columns).numpy()))

    def _matrix(self, columns: Columns) -> Tensor:
        return torch.stack([columns[name] for name in self.of], 1)


def _fitted(reference: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401  # scikit-learn has no types
    """The mixture of 1 to `MOST_PARTS` Gaussians with the least BIC on a reference (n, d)."""
    from sklearn.mixture import GaussianMixture  # half a second, for those who score alone

    count, dims = reference.shape
    most = min(MOST_PARTS, max(1, count // (A_PART * (dims + 1))))
    tried = [
        GaussianMixture(parts, reg_covar=LEAST_VARIANCE, random_state=0).fit(reference)
        for parts in range(1, most + 1)
    ]
    return min(tried, key=lambda each: each.bic(reference))

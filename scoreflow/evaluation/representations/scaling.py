"""Features brought to one scale by training data, for probes and k-means alike."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
DEAD = 1e-6
"""Standard deviation, over the greatest value, up to which a number is taken as constant."""


@dataclass(frozen=True)
class Scale:
    """(features - mean) / unit.

    Attributes:
        mean: of the training data, (F,).
        unit: (F,), or one number for all.
    """

    mean: Array
    unit: Array

    @classmethod
    def of(cls, train: Array, alike: bool) -> "Scale":
        """The scale of training data.

        Args:
            train: (n, F).
            alike: whether all numbers are in one unit, as pixels are, whose distances mean
                something: they are divided by one number, their root mean variance. Others, as
                activations, by a standard deviation each; dead ones, by 1.
        """
        values = train.astype(np.float64)
        mean, sd = values.mean(0), values.std(0)
        dead = sd <= DEAD * np.abs(values).max(0)
        if alike:
            whole = float(np.sqrt((sd**2).mean()))
            return cls(mean, np.array(1.0 if dead.all() else whole))
        return cls(mean, np.where(dead, 1.0, sd))

    def __call__(self, values: Array) -> Array:
        """The features at that scale, float64."""
        found: Array = (values.astype(np.float64) - self.mean) / self.unit
        return found

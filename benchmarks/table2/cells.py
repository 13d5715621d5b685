"""The seven cells of the table, and the keys of a config that each of them sets."""

from dataclasses import dataclass

from scoreflow.storage.atomic_files import Json


@dataclass(frozen=True)
class Cell:
    """One row of the table.

    Attributes:
        prediction: the network's output.
        objective: what training minimises.
        learned: whether the reverse variance is learned.
    """

    prediction: str
    objective: str
    learned: bool

    @property
    def title(self) -> str:
        """The objective in the notation of the papers."""
        loss = {"variational": "L", "hybrid": "L_hybrid", "mean": "‖mean error‖²"}
        return loss.get(self.objective, "L_simple")

    @property
    def variance(self) -> str:
        """Variance of a reverse step, as `sampling.variance` names it."""
        return "learned" if self.learned else "beta"

    @property
    def name(self) -> str:
        """Output, objective and variance in words."""
        return f"{self.prediction} {self.title} {self.variance}"

    def overrides(self) -> Json:
        """Keys of a config, with their values."""
        return {
            "sde.name": "vp",
            "sde.schedule": "linear",
            "sde.num_steps": 1000,
            "model.prediction": self.prediction,
            "model.learned_variance": self.learned,
            "training.objective": self.objective,
            "training.variance": "beta",
            "training.times": "integer",
            "training.t_min": 1.0,
            "training.dequantization": "uniform",
            "likelihood.dequantization": "uniform",
            "likelihood.samples": 1,
            "likelihood.t_start": 0.0,
            "sampling.variance": self.variance,
        }


CELLS = (
    Cell("mean", "variational", True),
    Cell("mean", "variational", False),
    Cell("mean", "mean", False),
    Cell("eps", "variational", True),
    Cell("eps", "variational", False),
    Cell("eps", "simple", False),
    Cell("eps", "hybrid", True),
)
FIXED = frozenset(CELLS[0].overrides())
"""Keys that every cell sets."""

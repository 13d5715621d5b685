"""Exact log-likelihoods of some data, and how sure their mean is."""

from dataclasses import dataclass

from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.likelihood.dataset_likelihood import Measured
from scoreflow.likelihood.error_budget import Budget
from scoreflow.storage.atomic_files import Json


@dataclass(frozen=True)
class LogLikelihoods:
    """Exact log-likelihoods of some data, and how sure their mean is.

    Attributes:
        values: bits/dim of images, nats of vectors (minus the log density), one a datum, (n,);
            the mean over its probes.
        unit: "bits/dim" or "nats".
        standard_error: of their mean, by the spread over data; None for one datum.
        error_budget: of their mean: images, probes, solver, truncation.
        evaluations: of the network, (n,).
        result: all of it as --mode likelihood writes it to results/likelihood.json.
    """

    values: Tensor
    unit: str
    standard_error: float | None
    error_budget: Budget
    evaluations: Tensor
    result: Json

    @property
    def bits_per_dim(self) -> Tensor:
        """The values, (n,); of images only."""
        if self.unit != "bits/dim":
            raise RequestError(f"vectors have no bits/dim: their values are in {self.unit}")
        return self.values

    @classmethod
    def of(cls, measured: Measured) -> "LogLikelihoods":
        """From what `likelihood.dataset_likelihood.measure` found."""
        result = measured.result
        return cls(
            measured.values.mean(1),
            result["unit"],
            result["standard_error"],
            Budget(**result["error_budget"]),
            measured.evaluations,
            result,
        )

    def __str__(self) -> str:
        text = f"{float(self.values.mean()):.4f} {self.error_budget} {self.unit}"
        return f"{text}\n{self.result['warning']}" if self.result.get("warning") else text

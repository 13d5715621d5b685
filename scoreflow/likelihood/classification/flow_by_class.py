"""The exact log-likelihood of every class, with the same dequantization, nodes and probes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.errors import RunError
from scoreflow.likelihood.classification.bound_by_class import LogLikelihoods
from scoreflow.likelihood.dequantization import Dequantizer
from scoreflow.likelihood.flow_likelihood import Solver, log_likelihood
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise
from scoreflow.sde.ode import Status
from scoreflow.sde.prediction import Denoiser


@dataclass(frozen=True)
class FlowByClass:
    """The probability flow given each class.

    Attributes:
        denoiser: of a class, by its number.
        sde: the process.
        t: where the flows start, in steps.
        classes: their numbers, (K,) int64.
        dequantizer: of integers; None for vectors.
        solver: how a flow is solved.
        seed: of dequantization, nodes and probes, which are the same for all classes.
    """

    denoiser: Callable[[int], Denoiser]
    sde: SDE
    t: float
    classes: Tensor
    dequantizer: Dequantizer | None
    solver: Solver
    seed: int

    def of(self, data: Tensor, index: Tensor) -> LogLikelihoods:
        """Log-likelihoods of some data.

        Args:
            data: levels or vectors, (b, ...).
            index: which of the data set they are, (b,); it addresses their noise.

        Raises:
            RunError: a flow was not solved.
        """
        columns = [self._given(int(k), data, index) for k in self.classes.tolist()]
        nats, evaluations = (torch.stack(each, 1) for each in zip(*columns, strict=True))
        return LogLikelihoods(nats, None, evaluations)

    def _given(self, label: int, data: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood given a class, and evaluations: (b,) each."""
        noise, denoiser, deq = Noise(self.seed, index), self.denoiser(label), self.dequantizer
        x, offset = data.double(), torch.zeros(len(data), dtype=torch.float64, device=data.device)
        if deq is not None:
            x, offset = deq.place(denoiser, self.sde, data, noise)
        found = log_likelihood(denoiser, self.sde, x, self.t, noise, self.solver)
        nats = found.log_prob.mean(1) + offset
        self._refuse_unsolved(found.status, nats, index, label)
        return nats, found.evaluations

    def _refuse_unsolved(self, status: Tensor, nats: Tensor, index: Tensor, label: int) -> None:
        bad = (status != Status.DONE) | ~nats.isfinite()
        if not bool(bad.any()):
            return
        first = int(bad.nonzero()[0])
        why = Status(int(status[first])).name.lower().replace("_", " ")
        why = "not finite" if why == "done" else why
        raise RunError(
            f"the flow given class {label} was not solved for {int(bad.sum())} of {len(bad)} "
            f"images, the first being test image {int(index[first])} ({why}): raise "
            f"likelihood.max_evaluations (it is {self.solver.max_evaluations}) or the tolerance, "
            "or classify.by = bound; the images that are done are kept"
        )

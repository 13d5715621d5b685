"""Predictor-corrector sampling (Song et al. 2021, "Score-based generative modeling through SDEs").

At each time t of the grid, a few steps of Langevin dynamics on the marginal p_t correct the
sample, then a predictor carries it to s. The paper's Algorithm 1 corrects after predicting; the
order here is that of its code, and visits the same sequence but for its two ends: the corrector is
never called at s = 0, where there is no score, so that no step is a special one.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch

from scoreflow.samplers.denoisers.instrumentation import Cached, FirstKept
from scoreflow.samplers.sampler import Memory, Multistep, Sampler, Step
from scoreflow.sde.base import broadcast
from scoreflow.sde.noise import Stream
from scoreflow.sde.prediction import Prediction
from scoreflow.sde.types import Batch, Times


@runtime_checkable
class Corrector(Protocol):
    """A method that moves samples along p_t without changing their law."""

    def correct(self, x_t: Batch, step: Step) -> Batch:
        """Move x_t along p_t, t being the time at which the step to come starts."""
        ...


@dataclass(frozen=True)
class Langevin:
    """x <- x + h score + sqrt(2 h) z, with h = 2 (a snr sqrt(D) / |score|)^2 for each sample.

    The paper's Algorithm 5, but for its norms, which there are means over the batch and would make
    a sample depend on its batch mates: |score| is each sample's own, and |z| its mean sqrt(D). (A
    sample's own |z| would tie the step to the noise, and double the bias.) That leaves p_t alone
    where |score| hardly varies from point to point, as in images: what rests is p_t weighted by
    |score|^2, on a Gaussian 2 / D more variance. In a handful of dimensions `AnnealedLangevin` is
    right. a = alpha_t / alpha_s is the factor of the step about to be made: DDPM's
    sqrt(1 - beta_i) on the full grid, and as it should be on any other.

    Attributes:
        snr: signal-to-noise ratio of a correction, dimensionless.
        corrections: how many at each time; 0 leaves the predictor alone.
    """

    snr: float = 0.1
    corrections: int = 1

    def correct(self, x_t: Batch, step: Step) -> Batch:
        """Move x_t along p_t."""
        a, _ = step.sde.transition(step.s, step.t)
        for draw in range(self.corrections):
            score = step.predict(x_t).score
            z = step.noise.normal(Stream.CORRECTOR, tuple(x_t.shape[1:]), draw)
            mean_square = score.flatten(1).square().mean(dim=1)  # |score|^2 / D
            # no score, no step: of a clipped x_0 that is x_t itself, where sigma_t is next to 0
            h = torch.where(mean_square == 0, 0.0, 2 * (a * self.snr) ** 2 / mean_square)
            x_t = _langevin_step(x_t, score, z, h)
        return x_t


@dataclass(frozen=True)
class AnnealedLangevin:
    """x <- x + h score + sqrt(2 h) z, with h = 2 (a snr sigma_t)^2: one step size a time.

    The step of `Langevin` when |score| is its typical sqrt(D) / sigma_t; Song & Ermon 2019 scale
    their steps by sigma_t^2 likewise.

    Attributes:
        snr: as in `Langevin`.
        corrections: how many at each time.
    """

    snr: float = 0.1
    corrections: int = 1

    def correct(self, x_t: Batch, step: Step) -> Batch:
        """Move x_t along p_t."""
        a, _ = step.sde.transition(step.s, step.t)
        h = 2 * (a * self.snr * step.sde.sigma(step.t)) ** 2
        for draw in range(self.corrections):
            z = step.noise.normal(Stream.CORRECTOR, tuple(x_t.shape[1:]), draw)
            x_t = _langevin_step(x_t, step.predict(x_t).score, z, h)
        return x_t


def _langevin_step(x: Batch, score: Batch, z: Batch, h: Times) -> Batch:
    h = broadcast(h, x)
    return x + h * score + (2 * h).sqrt() * z


@dataclass(frozen=True)
class PredictorCorrector(Multistep):
    """Correct at t, then predict from t to s.

    A multistep predictor keeps its memory: its estimates of earlier times were made on the
    trajectory that a correction has left, so they are moved to the new one (`Multistep.moved`).
    Left where they were, what the correction did to the estimate would be taken for its slope
    along the path.

    Attributes:
        predictor: the sampler that goes from t to s.
        corrector: applied at t, before.
    """

    predictor: Sampler
    corrector: Corrector

    def advance(self, x_t: Batch, step: Step, memory: Memory) -> tuple[Batch, Memory]:
        """Draw x_s given x_t and the predictor's memory; as many evaluations as without one."""
        first = FirstKept(step.denoiser)
        x_t = self.corrector.correct(x_t, replace(step, denoiser=first))
        if not isinstance(self.predictor, Multistep):
            return self.predictor.step(x_t, step), None
        if first.prediction is None:  # no correction
            return self.predictor.advance(x_t, step, memory)
        after = step.predict(x_t)
        if memory is not None:
            memory = self.predictor.moved(memory, step, first.prediction, after)
        cached = Cached(step.denoiser, x_t, step.t, after)
        return self.predictor.advance(x_t, replace(step, denoiser=cached), memory)

    def moved(self, memory: Memory, step: Step, before: Prediction, after: Prediction) -> Memory:
        """The predictor's memory, moved; None of one that has none."""
        if memory is None or not isinstance(self.predictor, Multistep):
            return None
        return self.predictor.moved(memory, step, before, after)

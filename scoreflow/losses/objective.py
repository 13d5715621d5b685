"""Training objectives by name: the law of the times, and the loss at a time.

The loss of a sample at time t is divided by the density of t relative to uniform times, so how
times are drawn changes the noise of a gradient and never what it estimates.
"""

from dataclasses import dataclass, replace
from typing import Literal, assert_never, get_args

import torch
from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.losses import denoising
from scoreflow.losses import times as at_times
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers.reverse_variance import Variance
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream

Name = Literal[
    "simple",
    "score_matching",
    "mean",
    "variational",
    "hybrid",
    "likelihood",
    "min_snr",
    "p2",
    "velocity",
    "flow_matching",
    "edm",
]
Times = Literal["integer", "real", "importance"]
NAMES: tuple[str, ...] = get_args(Name)
TIMES: tuple[str, ...] = get_args(Times)
OF_WHOLE_STEPS = ("mean", "variational", "hybrid")


@dataclass(frozen=True)
class Objective:
    """A loss and its times: see `losses` for the formulas and sources.

    Attributes:
        name: one of `NAMES`.
        times: "integer" (the chain's steps), "real" (uniform down to t_min) or "importance"
            (uniform in log-SNR down to t_min, which makes the likelihood weighting constant).
        t_min: least real time, in steps; integer times start at 1.
        low_discrepancy: spread the times of a batch evenly.
        variance: of the reverse steps in "variational": "beta", "posterior" or "learned".
        hybrid_weight: of L in "hybrid".
        min_snr_gamma: of "min_snr".
        p2_gamma: of "p2".
        p2_k: of "p2".
    """

    name: Name
    times: Times
    t_min: float
    low_discrepancy: bool
    variance: Variance
    hybrid_weight: float
    min_snr_gamma: float
    p2_gamma: float
    p2_k: float

    def __post_init__(self) -> None:
        if self.name in OF_WHOLE_STEPS and self.times != "integer":
            raise RequestError(
                f"training.objective = {self.name} is about whole steps of the chain and needs "
                f"training.times = integer, got {self.times}"
            )

    @property
    def least_time(self) -> float:
        """The least time that is drawn, in steps."""
        return at_times.least_time(self.times, self.t_min)

    def draw(self, noise: Noise, sde: SDE, whole: int | None = None) -> tuple[Tensor, Tensor]:
        """Times of a batch and their density relative to uniform ones, both (B,).

        With low_discrepancy the batch shares one number: that of the training's sample 0.

        Args:
            noise: its sample indices are places in the batch.
            sde: the process.
            whole: size of the batch that these are a part of; None if they are all of it.
        """
        u = noise.uniform(Stream.TRAIN_TIME)
        if self.low_discrepancy:
            first = replace(noise, index=torch.zeros_like(noise.index[:1]), ahead=None)
            spread = at_times.low_discrepancy(first.uniform(Stream.TRAIN_TIME)[0], whole or len(u))
            u = spread if whole is None else spread[noise.index]
        match self.times:
            case "integer":
                return at_times.integer_times(u, sde.num_steps), torch.ones_like(u)
            case "real":
                return at_times.real_times(u, sde.num_steps, self.t_min), torch.ones_like(u)
            case "importance":
                return at_times.importance_times(u, sde, self.t_min)

    def loss(self, model: ScoreModel, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """One value a sample, (B,)."""
        sde = model.sde
        match self.name:
            case "simple":
                return denoising.simple(model, sde, x_0, t, eps)
            case "score_matching":
                return denoising.score_matching(model, sde, x_0, t, eps)
            case "velocity":
                return denoising.velocity(model, sde, x_0, t, eps)
            case "flow_matching":
                return denoising.flow_matching(model, sde, x_0, t, eps)
            case "edm":
                return denoising.edm(model, sde, x_0, t, eps, model.asking.spread)
            case "variational":
                return denoising.variational(model, sde, x_0, t, eps, self.variance)
            case "hybrid":
                return denoising.hybrid(model, sde, x_0, t, eps, self.hybrid_weight)
            case "mean":
                weight = denoising.mean_weight(sde, t)
            case "likelihood":
                weight = denoising.likelihood_weight(sde, t, sde.num_steps - self.least_time)
            case "min_snr":
                weight = denoising.min_snr_weight(sde, t, self.min_snr_gamma)
            case "p2":
                weight = denoising.p2_weight(sde, t, self.p2_gamma, self.p2_k)
            case _:
                assert_never(self.name)
        return weight * denoising.simple(model, sde, x_0, t, eps)

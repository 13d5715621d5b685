"""Training objectives by name: the law of the times, and the loss at a time.

The loss of a sample at time t is divided by the density of t relative to uniform times, so how
integer, real or importance times are drawn changes the noise of a gradient and never what it
estimates. Log-normal times and a shift are a part of the objective, as those who use them have it:
nothing is divided by.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, assert_never, get_args

import torch
from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.losses import denoising
from scoreflow.losses import times as at_times
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers.reverse_variance import Variance
from scoreflow.sde.base import SDE, ends_without_signal
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
Times = Literal["integer", "real", "importance", "log_normal"]
NAMES: tuple[str, ...] = get_args(Name)
TIMES: tuple[str, ...] = get_args(Times)
OF_WHOLE_STEPS = ("mean", "variational", "hybrid")


@dataclass(frozen=True)
class Objective:
    """A loss and its times: see `losses` for the formulas and sources.

    Attributes:
        name: one of `NAMES`.
        times: "integer" (the chain's steps), "real" (uniform down to t_min), "importance"
            (uniform in log-SNR down to t_min, which makes the likelihood weighting constant) or
            "log_normal" (normal in ln(sigma / alpha), cut to [t_min, N]).
        t_min: least real time, in steps; integer times start at 1.
        low_discrepancy: spread the times of a batch evenly.
        variance: of the reverse steps in "variational": "beta", "posterior" or "learned".
        hybrid_weight: of L in "hybrid".
        min_snr_gamma: of "min_snr".
        p2_gamma: of "p2".
        p2_k: of "p2".
        log_normal_mean: of ln(sigma / alpha) at log-normal times.
        log_normal_std: of the same.
        shift: by which sigma / alpha of real and log-normal times is multiplied.
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
    log_normal_mean: float = -1.2
    log_normal_std: float = 1.2
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.name in OF_WHOLE_STEPS and self.times != "integer":
            raise RequestError(
                f"training.objective = {self.name} is about whole steps of the chain and needs "
                f"training.times = integer, got {self.times}"
            )
        self._refuse_shift()
        if self.name == "likelihood" and (self.times == "log_normal" or self.shift != 1):
            raise RequestError(
                "training.objective = likelihood is a bound, of times uniform or divided by their "
                "density: it needs training.times = integer, real or importance and "
                f"training.shift = 1, got {self.times} and {self.shift:g}"
            )

    def _refuse_shift(self) -> None:
        """Refuse to shift times that have a meaning where they are."""
        why = {
            "integer": "integer times are the chain's own steps, and no step is half way",
            "importance": "a loss is divided by the density of importance times, so that no shift "
            "would change what it is",
        }
        if self.shift != 1 and self.times in why:
            raise RequestError(
                f"training.shift = {self.shift:g} needs training.times = real or log_normal, got "
                f"{self.times}: {why[self.times]}"
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
        return self._at(u, sde)

    def _at(self, u: Tensor, sde: SDE) -> tuple[Tensor, Tensor]:
        """The times of uniform numbers, and their density relative to uniform ones."""
        match self.times:
            case "integer":
                return at_times.integer_times(u, sde.num_steps), torch.ones_like(u)
            case "real" if self.shift != 1:
                return at_times.shifted_times(u, sde, self.t_min, self.shift), torch.ones_like(u)
            case "real":
                return at_times.real_times(u, sde.num_steps, self.t_min), torch.ones_like(u)
            case "importance":
                return at_times.importance_times(u, sde, self.t_min)
            case "log_normal":
                mean = self.log_normal_mean + math.log(self.shift)
                law = self.t_min, mean, self.log_normal_std
                return at_times.log_normal_times(u, sde, *law), torch.ones_like(u)

    def first_middle_last(self, sde: SDE) -> Tensor:
        """The least time that is drawn, one in the middle and the greatest, (3,).

        Raises:
            RequestError: the process has no times of this law.
        """
        last = float(sde.num_steps)
        middle = last // 2 or 1.0
        lawful = self.times == "log_normal" or self.shift != 1
        if lawful or (self.times != "integer" and ends_without_signal(sde)):
            greatest = torch.tensor([1 - 2.0**-32], dtype=torch.float64)  # that noise has
            last = float(self._at(greatest, sde)[0])
        return torch.tensor([self.least_time, middle, last], dtype=torch.float64)

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

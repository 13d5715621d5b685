"""The sampler protocols, a step's arguments, and the sampling loop.

A one-step sampler has `step(x_t, step) -> x_s`; a multistep one, `advance(x_t, step, memory)`,
which also returns the memory for the next step. `sample` runs either over a grid of times.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser, Prediction
from scoreflow.sde.types import Batch, Times

Memory = Any
"""The state of a multistep sampler between steps, of a type of its own; None in the first step."""


@dataclass(frozen=True)
class Step:
    """A step from t to s: everything it depends on but the state x_t.

    Attributes:
        denoiser: (x_t, t) -> Prediction.
        sde: the process.
        t: (), in steps; where the step starts.
        s: (), in steps, s < t; where it ends. 0 is clean data.
        noise: the randomness of this step and batch.
    """

    denoiser: Denoiser
    sde: SDE
    t: Times
    s: Times
    noise: Noise

    def predict(self, x_t: Batch) -> Prediction:
        """The denoiser's prediction at x_t, (B, ...), and t."""
        return self.denoiser(x_t, self.t)

    def normal(self, x_t: Batch) -> Batch:
        """The step's own noise z ~ N(0, I), shaped like x_t; the same in every call."""
        return self.noise.normal(Stream.PREDICTOR, tuple(x_t.shape[1:]))

    @property
    def without_signal(self) -> bool:
        """Whether alpha_t is 0, so that x_t is noise alone and nothing may divide by alpha_t."""
        return self.sde.alpha(self.t).item() == 0

    def from_noise(self, x_t: Batch) -> Batch:
        """DDIM's step, for a method that divides by alpha_t, where there is none to divide by.

        It is off by the second power of the stride, as every first step of order 1.
        """
        prediction = self.predict(x_t)
        return self.sde.perturb(prediction.x_0, self.s, prediction.eps)


@runtime_checkable
class Sampler(Protocol):
    """A method that carries a sample from time t to an earlier time s.

    One that follows the probability flow also states `flow_order`, the order at which its error
    falls with the stride; `scoreflow.evaluation.convergence_order` measures it. A path may begin
    without signal, alpha_N = 0: one that divides by alpha_t makes `Step.from_noise` there.
    """

    def step(self, x_t: Batch, step: Step) -> Batch:
        """Draw x_s given x_t.

        Args:
            x_t: (B, ...) float64.
            step: the denoiser, the process, t, s and the noise.

        Returns:
            x_s, shaped like x_t. No row of it may depend on another row.
        """
        ...


Final = Literal["mean", "x_0", "none"]
FINALS: tuple[str, ...] = get_args(Final)


@runtime_checkable
class Multistep(Protocol):
    """A sampler that uses estimates of earlier steps, its memory. To be inherited from."""

    def step(self, x_t: Batch, step: Step) -> Batch:
        """Draw x_s given x_t without memory, as in a first step."""
        x_s: Batch = self.advance(x_t, step, None)[0]
        return x_s

    def advance(self, x_t: Batch, step: Step, memory: Memory) -> tuple[Batch, Memory]:
        """Draw x_s given x_t and the memory of the steps before.

        Args:
            x_t: (B, ...) float64.
            step: as in `Sampler.step`.
            memory: as returned by the step before; None in the first.

        Returns:
            x_s, and the memory for the next step.
        """
        ...

    def moved(self, memory: Memory, step: Step, before: Prediction, after: Prediction) -> Memory:
        """The memory as if the trajectory had come to another point at t.

        Estimates of earlier times are moved by what the estimate at t is: their differences, the
        path's own, stay.

        Args:
            memory: as returned by the last step, which came to t.
            step: the next step, which starts at t.
            before: the prediction at the point that the last step came to.
            after: the prediction at the point that the next step starts from.
        """
        ...


class UnknownStartError(ValueError):
    """A first step from noise alone found no numbers: its estimate says nothing of x_0."""


def sample(
    sampler: Sampler,
    denoiser: Denoiser,
    sde: SDE,
    times: Times,
    noise: Noise,
    shape: tuple[int, ...],
    after_step: Callable[[int, Tensor], None] = lambda _step, _x: None,
    final: Final = "mean",
    start: Batch | None = None,
) -> Batch:
    """Draw one datum for every sample index of the noise.

    Args:
        sampler: the method.
        denoiser: (x_t, t) -> Prediction.
        sde: the process.
        times: (K + 1,) float64 in steps, strictly decreasing from sde.num_steps to 0: a grid is a
            list, and no step recomputes its neighbour. With a start, from anywhere up to N.
        noise: the randomness of the batch; it also places it on its device.
        shape: shape of one datum.
        after_step: called with the number of the step just done, counted from 1, and x_s.
        final: what the last interval does: "mean", the sampler's own step to 0, which adds no
            noise; "x_0", the estimate of x_0 and nothing else (Tweedie); "none", nothing: the
            result stands at the last time above 0.
        start: x at times[0], (B, *shape) float64; None for the prior, which stands at N.

    Returns:
        (B, *shape) float64.

    Raises:
        UnknownStartError: the first step, from where alpha is 0, gave inf or nan.
        ValueError: times or a start are none such as above.
    """
    check_times(times, sde.num_steps, at_prior=start is None)
    if start is not None and start.shape != (len(noise.index), *shape):
        raise ValueError(
            f"a start must have the shape {(len(noise.index), *shape)}, got {tuple(start.shape)}"
        )
    times = times.cpu()  # 0-d CPU times multiply tensors of any device without a synchronisation
    last, memory = len(times) - 2, None
    # isinstance of a protocol takes longer than a small step: once
    multistep = sampler if isinstance(sampler, Multistep) else None
    x = sde.prior_std() * noise.normal(Stream.PRIOR, shape) if start is None else start
    noise = noise.reading_ahead(last + 1)
    with torch.no_grad(), sde.cached_at(times):
        for k, (t, s) in enumerate(pairwise(times.unbind())):
            step = Step(denoiser, sde, t, s, noise.at(k))
            if k == last and final == "none":
                break
            if k == last and final == "x_0":
                x = step.predict(x).x_0
            elif multistep is not None:
                x, memory = multistep.advance(x, step, memory)
            else:
                x = sampler.step(x, step)
            if k == 0 and step.without_signal:
                _refuse_unknown(x)
            after_step(k + 1, x)
    return x


def _refuse_unknown(x: Batch) -> None:
    """Refuse what the first step from noise alone could not find."""
    if not bool(x.isfinite().all()):
        raise UnknownStartError(
            "where no signal is left (alpha = 0) an estimate of the noise, a score or a gradient "
            "says nothing of x_0, and the first step from there gave numbers that are not finite: "
            "sample the process that ends before, scoreflow.sde.flow.well_posed(sde, 'eps')"
        )


def times_from(times: Times, start: int | float) -> Times:
    """The part of a grid that lies below `start`, in (0, N], after `start` itself."""
    if not 0 < start <= times[0]:
        raise ValueError(f"a start must lie in (0, {float(times[0])}], got {start}")
    return torch.cat((times.new_tensor([start]), times[times < start]))


def check_times(times: Times, num_steps: int, at_prior: bool = True) -> None:
    """Refuse a grid that is not strictly decreasing to 0, from N or, not at the prior, below."""
    if times.dtype != torch.float64:
        raise ValueError(f"sampling times must be float64, got {times.dtype}")
    if (
        times.ndim != 1
        or len(times) < 2
        or not (times[0] == num_steps or (not at_prior and times[0] <= num_steps))
        or times[-1] != 0
        or not bool((times.diff() < 0).all())  # so that nan fails too
    ):
        raise ValueError(
            f"sampling times must decrease strictly from {'' if at_prior else 'at most '}"
            f"{num_steps} to 0, got {times.tolist()}"
        )

"""What a sampler is, the loop around it, and the times that the loop visits."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser, Prediction
from scoreflow.sde.types import Batch, Times


@runtime_checkable
class Sampler(Protocol):
    """A method that carries a sample from time t to an earlier time s."""

    def step(
        self, denoiser: Denoiser, sde: SDE, x_t: Batch, t: Times, s: Times, noise: Noise
    ) -> Batch:
        """Draw x_s given x_t.

        Args:
            denoiser: (x_t, t) -> Prediction.
            sde: the process.
            x_t: (B, ...) float64.
            t: (), in steps.
            s: (), in steps, s < t; 0 asks for the clean datum.
            noise: the randomness of this step and batch.

        Returns:
            x_s, shaped like x_t. No row of it may depend on another row.
        """
        ...


Final = Literal["mean", "x_0", "none"]
FINALS: tuple[str, ...] = get_args(Final)


@runtime_checkable
class Multistep(Protocol):
    """A sampler that remembers: interval and memory in, x_s and memory out. To be inherited."""

    def step(
        self, denoiser: Denoiser, sde: SDE, x_t: Batch, t: Times, s: Times, noise: Noise
    ) -> Batch:
        """Draw x_s given x_t, without memory: of the order that needs none."""
        x_s: Batch = self.advance(denoiser, sde, x_t, t, s, noise, None)[0]
        return x_s

    def advance(
        self,
        denoiser: Denoiser,
        sde: SDE,
        x_t: Batch,
        t: Times,
        s: Times,
        noise: Noise,
        memory: Any,  # noqa: ANN401
    ) -> tuple[Batch, Any]:
        """Draw x_s given x_t and the memory of the steps before.

        Args:
            denoiser: as in `Sampler.step`, and so on.
            sde: the process.
            x_t: (B, ...) float64.
            t: (), in steps.
            s: (), in steps.
            noise: the randomness of this step and batch.
            memory: what the last step returned; None in the first.
        """
        ...

    def moved(
        self,
        sde: SDE,
        memory: Any,  # noqa: ANN401
        t: Times,
        before: Prediction,
        after: Prediction,
    ) -> Any:  # noqa: ANN401
        """The memory as if the trajectory had come to another point at t.

        Estimates of earlier times are moved by what the estimate at t is: their differences, the
        path's own, stay.

        Args:
            sde: the process.
            memory: as the last step, which came to t, returned it.
            t: (), in steps.
            before: at the point that the last step came to.
            after: at the point that the next one sets out from.
        """
        ...


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
    """
    check_times(times, sde.num_steps, at_prior=start is None)
    if start is not None and start.shape != (len(noise.index), *shape):
        raise ValueError(
            f"a start must have the shape {(len(noise.index), *shape)}, got {tuple(start.shape)}"
        )
    times = times.cpu()  # 0-d CPU times multiply tensors of any device without a synchronisation
    last, memory = len(times) - 2, None
    # asked once: it takes longer than a small step
    multistep = sampler if isinstance(sampler, Multistep) else None
    x = sde.prior_std() * noise.normal(Stream.PRIOR, shape) if start is None else start
    noise = noise.reading_ahead(last + 1)
    with torch.no_grad(), sde.cached_at(times):
        for k, (t, s) in enumerate(pairwise(times.unbind())):
            if k == last and final == "none":
                break
            if k == last and final == "x_0":
                x = denoiser(x, t).x_0
            elif multistep is not None:
                x, memory = multistep.advance(denoiser, sde, x, t, s, noise.at(k), memory)
            else:
                x = sampler.step(denoiser, sde, x, t, s, noise.at(k))
            after_step(k + 1, x)
    return x


def uniform_times(num_steps: int, count: int, integer: bool) -> Times:
    """K + 1 times from N to 0 in equal strides; all N steps of the chain when count = N.

    Args:
        num_steps: N.
        count: K, in 1..N if `integer`.
        integer: round to the integer times that a discretely trained network knows.

    Raises:
        ValueError: more integer steps than there are, or none.
    """
    if count < 1 or (integer and count > num_steps):
        limit = f"1..{num_steps}" if integer else "1 or more"
        raise ValueError(f"the number of sampling steps must lie in {limit}, got {count}")
    times = torch.linspace(num_steps, 0, count + 1, dtype=torch.float64)
    return times.round() if integer else times


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

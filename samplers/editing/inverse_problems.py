"""Posterior sampling for linear inverse problems by MMPS, DPS and replacement.

All take a denoiser trained without the measurement y (`linear_operators`), and approximate

    grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t),

whose last term depends on the law of x_0 given x_t:

    MMPS      approximates it by a Gaussian of its true mean and covariance; a Denoiser wrapper
    DPS       approximates it by a point, its mean; a sampler wrapper
    Replaced  does without it: replaces what is known of x_t before each step; a sampler wrapper

The first is exact for Gaussian data. Replacing is what Song et al. 2021 do; it is not the
posterior, since what is put in at t does not depend on the rest of x_t.

Both sampler wrappers move the state off the path of a multistep sampler, and its memory with it,
at one more evaluation a step.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoreflow.samplers.denoisers.instrumentation import Cached
from scoreflow.samplers.denoisers.wrapper import Wrapper
from scoreflow.samplers.editing.conjugate_gradients import conjugate_gradients
from scoreflow.samplers.editing.linear_operators import Measurement
from scoreflow.samplers.sampler import Memory, Multistep, Sampler, Step
from scoreflow.sde.base import broadcast
from scoreflow.sde.noise import Stream
from scoreflow.sde.prediction import Denoiser, Prediction
from scoreflow.sde.types import Batch, Times


class MMPS(Wrapper):
    """x_0(x_t, y) = x_0 + C A^T (s^2 I + A C A^T)^-1 (y - A x_0), with C = sigma^2 / alpha J.

    Moment matching posterior sampling (Rozet et al. 2024, "Learning diffusion priors from
    observations by expectation maximization"). J = d x_0 / d x_t, so that C is the covariance of
    x_0 given x_t (the second-order Tweedie formula). It is never formed: the linear system is
    solved by conjugate gradients, for each sample on its own, a vector-Jacobian product an
    iteration, through one evaluation of the denoiser.

    Near the prior C is alpha / sigma^2 made large again, and the Jacobian of a network no
    covariance: one was -70 there, where data have 0.3. A sample along whose residual it is not
    positive gets C = (1 + alpha^2 / sigma^2)^-1 I, that of data N(0, I) (as in pseudo-inverse
    guidance, Song et al. 2023). For an exact denoiser this does not happen. So does every sample
    where alpha is 0: there J is 0, and tells nothing of the covariance, which is the data's own.

    Args:
        denoiser: of the data; differentiable.
        measurement: A, y and s > 0.
        iterations: of conjugate gradients, at most; as many as y has elements solve exactly.

    Attributes:
        products: vector-Jacobian products taken, summed over samples.
    """

    def __init__(self, denoiser: Denoiser, measurement: Measurement, iterations: int = 3) -> None:
        if measurement.std <= 0 or iterations < 1:
            raise ValueError(
                "MMPS needs a measurement with noise and at least one iteration, got std "
                f"{measurement.std} and {iterations}"
            )
        self.denoiser, self.measurement, self.iterations = denoiser, measurement, iterations
        self.products = 0

    def __call__(self, x_t: Batch, t: Times) -> Prediction:
        """The prediction given y."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            prediction = self.denoiser(x, t)
            x_0 = prediction.x_0
        operator = self.measurement.operator
        told = prediction.alpha > 0
        tweedie = torch.where(told, prediction.sigma**2 / prediction.alpha, 0.0).detach()

        def spread(y: Tensor) -> Batch:
            """C A^T y."""
            self.products += len(y)
            (product,) = torch.autograd.grad(x_0, x, operator.adjoint(y), retain_graph=True)
            return tweedie * product

        def covariance(y: Tensor) -> Tensor:
            """(s^2 I + A C A^T) y: the covariance of y given x_t."""
            return self.measurement.std**2 * y + operator.apply(spread(y))

        residual = self.measurement.residual(x_0.detach())
        pull = conjugate_gradients(covariance, residual, self.iterations)
        alpha, variance = prediction.alpha, prediction.sigma**2
        isotropic = (variance / (alpha**2 + variance)).detach()
        total = self.measurement.std**2 + isotropic * operator.gain
        plain = isotropic / total * operator.adjoint(residual)
        lost = (pull == 0).flatten(1).all(1).view(-1, *[1] * (x_t.ndim - 1))
        lost = lost | ~told
        value = x_0.detach() + torch.where(lost, plain, spread(pull))
        return replace(_detached(prediction, x_t), kind="x_0", value=value)


@dataclass(frozen=True)
class _MemoryAt:
    """A multistep sampler's memory, and the point it belongs to: the last step's end."""

    memory: Memory
    point: Batch


class _SamplerWrapper(Multistep):
    """A sampler that wraps another one, and moves the state off the inner one's trajectory.

    Its memory is that of the inner sampler, if it is a multistep one, with the point it belongs
    to: the next step moves it from there to the point it starts at.
    """

    sampler: Sampler

    def moved(self, memory: Memory, step: Step, before: Prediction, after: Prediction) -> Memory:
        """The same memory: the next step moves it to wherever it starts."""
        return memory

    def _inner(
        self, x_t: Batch, step: Step, left: _MemoryAt | None
    ) -> tuple[Batch, _MemoryAt | None]:
        """The inner sampler's step from x_t, and the memory for the next.

        A memory is moved by what the estimate is (`Multistep.moved`). That takes an evaluation at
        the point that it belongs to, which no step makes; the first step has nothing to move.
        """
        if not isinstance(self.sampler, Multistep):
            return self.sampler.step(x_t, step), None
        memory = None
        if left is not None:
            before, after = step.predict(left.point), step.predict(x_t)
            memory = self.sampler.moved(left.memory, step, before, after)
        x_s, memory = self.sampler.advance(x_t, step, memory)
        return x_s, None if memory is None else _MemoryAt(memory, x_s)


@dataclass(frozen=True)
class DPS(_SamplerWrapper):
    """x_s = step(x_t) - weight grad |y - A x_0(x_t)|^2 / |y - A x_0(x_t)|, for each sample.

    Diffusion posterior sampling (Chung et al. 2023, Algorithm 1 with its step size
    zeta' / |y - A x_0|). The gradient goes through the denoiser, and the step makes use of the
    same evaluation. As if x_0 were known given x_t: the pull neither weakens where it is
    uncertain nor knows s, and its sum grows with the number of steps. The weight makes good for
    all that, and is tuned.

    Attributes:
        sampler: the step.
        measurement: A and y; its noise is not used.
        weight: zeta', dimensionless.
    """

    sampler: Sampler
    measurement: Measurement
    weight: float = 1.0

    def advance(self, x_t: Batch, step: Step, memory: Memory) -> tuple[Batch, Memory]:
        """Draw x_s given x_t and y, and the memory of the sampler's steps before."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            prediction = step.predict(x)
            square = self.measurement.residual(prediction.x_0).flatten(1).square().sum(1)
            (gradient,) = torch.autograd.grad(square.sum(), x)
        cached = Cached(step.denoiser, x_t, step.t, _detached(prediction, x_t))
        x_s, memory = self._inner(x_t, replace(step, denoiser=cached), memory)
        length = square.detach().sqrt().clamp(min=torch.finfo(x_t.dtype).tiny)
        return x_s - self.weight * gradient / broadcast(length, x_t), memory


@dataclass(frozen=True)
class Replaced(_SamplerWrapper):
    """step(x_t + A^+ (y_t - A x_t)) with y_t = alpha_t y + sigma_t A z, z ~ N(0, I).

    What is known of x_t is replaced, as noisy as x_t, before each step (Song et al. 2021, "Score-
    based generative modeling through SDEs", imputation; with A the mean over the channels, their
    colourising). The step to s = 0 ends with y itself.

    Attributes:
        sampler: the step.
        measurement: A and y; its noise is not used.
    """

    sampler: Sampler
    measurement: Measurement

    def advance(self, x_t: Batch, step: Step, memory: Memory) -> tuple[Batch, Memory]:
        """Draw x_s given x_t and y, and the memory of the sampler's steps before."""
        y, alpha, sigma = self.measurement.value, step.sde.alpha(step.t), step.sde.sigma(step.t)
        z = step.noise.normal(Stream.MEASUREMENT, tuple(x_t.shape[1:]))
        noisy = broadcast(alpha, y) * y + broadcast(sigma, z) * self.measurement.operator.apply(z)
        x_t = self.measurement.projected(x_t, noisy)
        cached = Cached(step.denoiser, x_t, step.t)
        x_s, memory = self._inner(x_t, replace(step, denoiser=cached), memory)
        return (self.measurement.projected(x_s, y) if step.s == 0 else x_s), memory


def _detached(prediction: Prediction, x_t: Batch) -> Prediction:
    """The prediction at x_t without the graph that it was made with."""
    fraction = None if prediction.fraction is None else prediction.fraction.detach()
    return replace(prediction, x_t=x_t, value=prediction.value.detach(), fraction=fraction)

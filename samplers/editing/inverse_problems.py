"""Samples of the posterior, given a measurement, from a denoiser that was trained without it.

All rest on grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t), whose last term asks for
the law of x_0 given x_t:

    MMPS      a Gaussian of its true mean and covariance: a Denoiser around a Denoiser
    DPS       a point, at its mean: a step around a step
    Replaced  none: what is known of x_t is set down anew, a step around a step

The first is exact for Gaussian data. Replacing is what Song et al. 2021 do; it is not the
posterior, since what is set down at t does not depend on the rest of x_t.

Both steps around steps move the sample off the path of a sampler that remembers, and what it
remembers with it, at one more evaluation a step.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scoreflow.samplers.denoisers.instrumentation import Cached
from scoreflow.samplers.denoisers.wrapper import Wrapper
from scoreflow.samplers.editing.conjugate_gradients import conjugate_gradients
from scoreflow.samplers.editing.linear_operators import Measurement
from scoreflow.samplers.sampler import Multistep, Sampler
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.noise import Noise, Stream
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
    guidance, Song et al. 2023). For an exact denoiser this does not happen.

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
        tweedie = (prediction.sigma**2 / prediction.alpha).detach()

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
        value = x_0.detach() + torch.where(lost, plain, spread(pull))
        return replace(_detached(prediction, x_t), kind="x_0", value=value)


class _AroundAStep(Multistep):
    """A step around a step, whose memory it keeps with the point that the step came to."""

    def moved(
        self,
        sde: SDE,
        memory: Any,  # noqa: ANN401
        t: Times,
        before: Prediction,
        after: Prediction,
    ) -> Any:  # noqa: ANN401
        """The same memory: the next step moves it to wherever it sets out from."""
        return memory


@dataclass(frozen=True)
class DPS(_AroundAStep):
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
        """Draw x_s given x_t and y, and the memory of the sampler's steps before."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            prediction = denoiser(x, t)
            square = self.measurement.residual(prediction.x_0).flatten(1).square().sum(1)
            (gradient,) = torch.autograd.grad(square.sum(), x)
        here = Cached(denoiser, x_t, t, _detached(prediction, x_t))
        x_s, memory = _went_on(self.sampler, here, sde, s, noise, memory)
        length = square.detach().sqrt().clamp(min=torch.finfo(x_t.dtype).tiny)
        return x_s - self.weight * gradient / broadcast(length, x_t), memory


@dataclass(frozen=True)
class Replaced(_AroundAStep):
    """step(x_t + A^+ (y_t - A x_t)) with y_t = alpha_t y + sigma_t A z, z ~ N(0, I).

    What is known is set down anew, as noisy as x_t, before each step (Song et al. 2021, "Score-
    based generative modeling through SDEs", imputation; with A the mean over the channels, their
    colourising). The step to s = 0 ends with y itself.

    Attributes:
        sampler: the step.
        measurement: A and y; its noise is not used.
    """

    sampler: Sampler
    measurement: Measurement

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
        """Draw x_s given x_t and y, and the memory of the sampler's steps before."""
        y, z = self.measurement.value, noise.normal(Stream.MEASUREMENT, tuple(x_t.shape[1:]))
        noisy = broadcast(sde.alpha(t), y) * y
        noisy = noisy + broadcast(sde.sigma(t), z) * self.measurement.operator.apply(z)
        x_t = self.measurement.projected(x_t, noisy)
        here = Cached(denoiser, x_t, t)
        x_s, memory = _went_on(self.sampler, here, sde, s, noise, memory)
        return (self.measurement.projected(x_s, y) if s == 0 else x_s), memory


@dataclass(frozen=True)
class _Left:
    """What a sampler remembers, and the point that it came to and that has been left since."""

    memory: Any
    point: Batch


def _went_on(
    sampler: Sampler, here: Cached, sde: SDE, s: Times, noise: Noise, left: _Left | None
) -> tuple[Batch, _Left | None]:
    """A step from a point that the last one did not come to, and the memory for the next.

    What is remembered is moved by what the estimate is (`Multistep.moved`). That takes an
    evaluation at the point left behind, which no step makes; the first has nothing to move.
    """
    x_t, t = here.x_t, here.t
    if not isinstance(sampler, Multistep):
        return sampler.step(here, sde, x_t, t, s, noise), None
    memory = None
    if left is not None:
        memory = sampler.moved(sde, left.memory, t, here(left.point, t), here(x_t, t))
    x_s, memory = sampler.advance(here, sde, x_t, t, s, noise, memory)
    return x_s, None if memory is None else _Left(memory, x_s)


def _detached(prediction: Prediction, x_t: Batch) -> Prediction:
    """The prediction at x_t without the graph that it was made with."""
    fraction = None if prediction.fraction is None else prediction.fraction.detach()
    return replace(prediction, x_t=x_t, value=prediction.value.detach(), fraction=fraction)

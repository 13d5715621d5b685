"""The probability-flow ODE, solved adaptively in the angle and finished in closed form.

The flow is followed from the prior down to t_min, the least time at which the denoiser is
evaluated, each sample with its own step sizes. From there to clean data the estimate is held
fixed, and the rotation x~_s = cos(phi_s) x_0 + sin(phi_s) eps is exact: at s = 0 it returns x_0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.samplers.sampler import Step
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.flow import velocity
from scoreflow.sde.ode import Status, odeint
from scoreflow.sde.prediction import Denoiser
from scoreflow.sde.types import Batch, State, Times


@dataclass(frozen=True)
class ProbabilityFlow:
    """dx~/dphi = v, from t to s; below t_min with the estimate at t_min.

    Attributes:
        t_min: the denoiser is not evaluated below this time, in steps.
        tolerance: of the local error of a step, relative and absolute, on the unit scale.
        method: "dopri5" (per sample), "torchdiffeq:METHOD" or "scipy:METHOD".
        max_evaluations: cap for each sample.
    """

    t_min: float = 1.0
    tolerance: float = 1e-4
    method: str = "dopri5"
    max_evaluations: int = 10_000

    def times(self, num_steps: int) -> Times:
        """The grid: N, t_min, 0. The solver chooses its own steps inside the first interval."""
        return torch.tensor([num_steps, self.t_min, 0], dtype=torch.float64)

    def step(self, x_t: Batch, step: Step) -> Batch:
        """Carry x_t to time s; deterministic, the noise is not used.

        Raises:
            ValueError: t is below t_min.
            RuntimeError: some samples did not reach s within their evaluations.
        """
        t, s = step.t, step.s
        if t < self.t_min:
            raise ValueError(f"a step must start at t >= t_min = {self.t_min}, got {float(t)}")
        stop = s.clamp(min=self.t_min)
        if stop < t:
            x_t = self._follow(step.denoiser, step.sde, x_t, t, stop)
        if s == stop:
            return x_t
        prediction = step.denoiser(x_t, stop)
        alpha, sigma = step.sde.alpha(s), step.sde.sigma(s)
        return broadcast(alpha, x_t) * prediction.x_0 + broadcast(sigma, x_t) * prediction.eps

    def encode(self, denoiser: Denoiser, sde: SDE, x: Batch) -> Batch:
        """The latent x_N that the flow carries data to, on the unit scale.

        Data stand at t_min as they are, x~ = x, as in a likelihood: `decode` gives them back up to
        the solver's error.

        Raises:
            RuntimeError: as in `step`.
        """
        high, low, _ = self.times(sde.num_steps)
        x_t = broadcast(sde.scale(low), x) * x
        return self._follow(denoiser, sde, x_t, low, high) / broadcast(sde.scale(high), x)

    def decode(self, denoiser: Denoiser, sde: SDE, latent: Batch) -> Batch:
        """The data, at t_min on the unit scale, of latents at N on the unit scale.

        Raises:
            RuntimeError: as in `step`.
        """
        high, low, _ = self.times(sde.num_steps)
        x_t = broadcast(sde.scale(high), latent) * latent
        return self._follow(denoiser, sde, x_t, high, low) / broadcast(sde.scale(low), latent)

    def _follow(self, denoiser: Denoiser, sde: SDE, x_t: Batch, t: Times, s: Times) -> Batch:
        def field(angle: Tensor, state: State, _rows: Tensor) -> State:
            return (velocity(sde, denoiser, angle, state[0]),)

        solution = odeint(
            field,
            (x_t / broadcast(sde.scale(t), x_t),),
            float(sde.angle(t)),
            float(sde.angle(s)),
            method=self.method,
            rtol=self.tolerance,
            atol=self.tolerance,
            max_evaluations=self.max_evaluations,
        )
        unfinished = int((solution.status != Status.DONE).sum())
        if unfinished:
            raise RuntimeError(
                f"{unfinished} of {len(x_t)} samples did not reach t = {float(s)} at tolerance "
                f"{self.tolerance} within {self.max_evaluations} evaluations"
            )
        return solution.state[0] * broadcast(sde.scale(s), x_t)

"""The four wrappers of EDM's networks: the process each stands for, and how it asks.

With x = x_0 + sigma eps as the wrappers take it, F the network and D the denoised images:

    VPPrecond       F(x / sqrt(1 + sigma^2), 999 u), D = x - sigma F: F is eps at the time u of
                    alpha = exp(-beta_d u^2 / 4 - beta_min u / 2), alpha^2 (1 + sigma^2) = 1
    VEPrecond       F(x, ln(sigma / 2)), D = x + sigma F: F is -eps
    iDDPMPrecond    F(x / sqrt(1 + sigma^2), M - 1 - j), D = x - sigma F: F is eps and a variance,
                    at the M noise scales u_0 > u_1 > ... of the cosine schedule
    EDMPrecond      F(x / sqrt(sigma^2 + s^2), ln(sigma) / 4), s = sigma_data,
                    D = s^2 / (sigma^2 + s^2) x + sigma s / sqrt(sigma^2 + s^2) F

In the last, with tan(phi) = sigma / s, x = s (x_0 / s + tan(phi) eps), and D = x_0 where F =
sin(phi) x_0 / s - cos(phi) eps: the negative velocity of x_0 / s (Karras et al. 2022, Section 5
and Table 1; Salimans & Ho 2022, Appendix D).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scoreflow.interop.edm.modules import MisfitError, Module

STEPS = 1000
"""Steps of our chain where the original has none: it is continuous in time."""
SAMPLED = 0.002, 80.0
"""Noise scales between which Karras et al. sample, where the wrapper does not bound them."""


@dataclass(frozen=True)
class Preconditioning:
    """What a wrapper fixes.

    Attributes:
        settings: keys of the process, of asking and of training.
        negated: the network estimates the negative of `model.prediction`.
        schedule: in words.
        asked: in words.
    """

    settings: dict[str, Any]
    negated: bool
    schedule: str
    asked: str


def preconditioning_of(wrapper: Module) -> Preconditioning:
    """What a wrapper says about how its network is asked.

    Raises:
        MisfitError: it is none of the four, or one with a schedule that cannot be had.
    """
    if wrapper.kind not in WRAPPERS:
        raise MisfitError(
            f"its wrapper is a {wrapper.kind}: only {', '.join(WRAPPERS)} can be had"
        )
    found = WRAPPERS[wrapper.kind](wrapper)
    settings = {"training.dequantization": "centre", **found.settings}
    return Preconditioning(settings, found.negated, found.schedule, found.asked)


def _vp(wrapper: Module) -> Preconditioning:
    steps = _steps(wrapper)
    spread, beta_min = wrapper.real("beta_d"), wrapper.real("beta_min")
    settings = {
        "sde.name": "vp",
        "sde.num_steps": steps,
        "sde.schedule": "linear_continuous",
        "sde.beta_min": beta_min,
        "sde.beta_max": beta_min + spread,
        "model.prediction": "eps",
        "model.label": "time",
        "model.label_scale": (steps - 1) / steps,
        "model.label_offset": 0.0,
        "training.times": "real",
        "training.t_min": steps * wrapper.real("epsilon_t"),
    }
    schedule = f"linear in continuous time, betas {beta_min:g} to {beta_min + spread:g}"
    return Preconditioning(settings, False, schedule, f"eps, label {steps - 1} t / {steps}")


def _steps(wrapper: Module) -> int:
    steps = wrapper.whole("M")
    if steps < 2:
        raise MisfitError(f"a chain needs at least 2 steps, M is {steps}")
    return steps


def _ve(wrapper: Module) -> Preconditioning:
    low, high = wrapper.real("sigma_min"), wrapper.real("sigma_max")
    settings = {
        **_exploding(low, high),
        "model.prediction": "eps",
        "model.label": "log_sigma",
        "model.label_scale": 1.0,
        "model.label_offset": -math.log(2),
        "model.input_scale": "alpha",
    }
    return Preconditioning(settings, True, _range(low, high), "-eps, label ln(sigma / 2)")


def _edm(wrapper: Module) -> Preconditioning:
    low = max(wrapper.real("sigma_min"), SAMPLED[0])
    high = min(wrapper.real("sigma_max"), SAMPLED[1])
    spread = wrapper.real("sigma_data")
    settings = {
        **_exploding(low, high),
        "model.prediction": "v",
        "model.label": "log_sigma",
        "model.label_scale": 0.25,
        "model.label_offset": 0.0,
        "model.data_std": spread,
    }
    asked = f"-v of x_0 / {spread:g}, label ln(sigma) / 4"
    return Preconditioning(settings, True, _range(low, high), asked)


def _exploding(low: float, high: float) -> dict[str, Any]:
    return {
        "sde.name": "ve",
        "sde.num_steps": STEPS,
        "sde.sigma_min": low,
        "sde.sigma_max": high,
        "training.times": "real",
        "training.t_min": 1.0,
    }


def _range(low: float, high: float) -> str:
    return f"variance exploding, sigma from {low:g} to {high:g} of images in [-1, 1]"


def _iddpm(wrapper: Module) -> Preconditioning:
    steps = _steps(wrapper)
    if (wrapper.real("C_1"), wrapper.real("C_2")) != (0.001, 0.008):
        raise MisfitError("a cosine schedule with other constants than 0.001 and 0.008")
    settings = {
        "sde.name": "vp",
        "sde.num_steps": steps,
        "sde.schedule": "cosine",
        "model.prediction": "eps",
        "model.learned_variance": True,
        "model.label": "time",
        "model.label_scale": 1.0,
        "model.label_offset": -1.0,
        "model.integer_times": True,
        "training.times": "integer",
        "training.objective": "hybrid",
        "sampling.variance": "learned",
    }
    return Preconditioning(settings, False, f"cosine, {steps} steps", "eps and variance, index")


WRAPPERS: dict[str, Callable[[Module], Preconditioning]] = {
    "VPPrecond": _vp,
    "VEPrecond": _ve,
    "iDDPMPrecond": _iddpm,
    "EDMPrecond": _edm,
}

"""Image editing with a trained network: inverse problems, variations and latent-space tasks.

    inpaint, colorize, superresolve   images that fit a measurement, by posterior sampling
    vary                              an image noised part of the way and sampled from there
    reconstruct, interpolate          along the probability flow, to latents and back

None needs a network that was trained for it. A task is an `EditPlan`, and `edit` does it with a
`SamplingPlan`; `edit_summary` puts what comes of it into words and pictures.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scoreflow.data.levels import centres, quantize
from scoreflow.errors import RequestError
from scoreflow.generation.edit_plan import EditPlan, unlimited
from scoreflow.generation.generate import draw_samples, out_of_evaluations
from scoreflow.generation.plan import SamplingPlan
from scoreflow.runtime import distributed
from scoreflow.runtime.stopwatch import Stopwatch
from scoreflow.samplers import MMPS, Counted, ProbabilityFlow, slerp, times_from
from scoreflow.schema.task_keys import LATENT_TASKS
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.uncertainty import standard_error

FALLS = (100.0, 10.0, 1.0)
"""Multiples of the tolerance at which an image is encoded and decoded."""
LATENT_REACH = 3.0
"""Standard deviations of a latent that black and white stand for."""


@dataclass(frozen=True)
class Edited:
    """What a task has made.

    Attributes:
        plan: the task.
        result: for results/.
        levels: the images made, (n, C, H, W) uint8.
        shown: images to show with them: the measured part, or the latents, (m, C, H, W) uint8.
        tolerance: of the solver, for tasks along the probability flow.
        latents: of the images made, for these tasks, (n, C, H, W) float64.
    """

    plan: EditPlan
    result: dict[str, Any]
    levels: Tensor
    shown: Tensor | None = None
    tolerance: float | None = None
    latents: Tensor | None = None


def edit(plan: EditPlan, sampling: SamplingPlan, sde: SDE) -> Edited:
    """Do a task.

    Args:
        plan: the task.
        sampling: how samples are drawn; of the tasks along the probability flow, that flow and
            the denoiser that it follows.
        sde: the process.

    Raises:
        RequestError: `strength` leaves no step to sample by.
        RunError: a solver ran out of evaluations.
    """
    if plan.task not in LATENT_TASKS:
        return _sample(plan, sampling, sde)
    assert isinstance(sampling.sampler, ProbabilityFlow), f"{plan.task} follows a flow"
    process = sampling.process or sde
    flow = _Flow(sampling.sampler, Counted(sampling.denoiser), process, plan.batch_size)
    return _reconstruct(plan, flow) if plan.task == "reconstruct" else _interpolate(plan, flow)


# ---- inpaint, colorize, superresolve, vary


def _sample(plan: EditPlan, sampling: SamplingPlan, sde: SDE) -> Edited:
    """Samples that fit a measurement, or that start from a noised image."""
    device, event = plan.given.device, tuple(plan.given.shape[1:])
    watch, counted = Stopwatch(device), Counted(unlimited(sampling.denoiser))
    sampling, mmps = plan.conditioned(sampling, counted)
    noise, start = Noise.of(plan.seed, 0, plan.count, device), None
    if plan.strength is not None:
        sampling, start = _started(plan, sampling, sde, noise)
    x = draw_samples(sampling, sde, noise, event, plan.batch_size, plan.task, start)
    seconds = watch.seconds
    shard = distributed.shard()  # every process has drawn its share of the images
    steps = len(sampling.times) - 1
    result = {
        "num_images": len(x),
        "nfe": shard.total(counted.rows) / len(x),
        "jacobian_products": _products(plan, mmps, len(x), steps),
        "seconds": seconds,
        "steps": steps,
        "given": plan.names,
        **_measures(plan, x),
    }
    if plan.strength is not None:
        result["t_start"] = float(sampling.times[0])
    return Edited(plan, result, quantize(x, plan.num_levels), _measured(plan, x))


def _started(
    plan: EditPlan, sampling: SamplingPlan, sde: SDE, noise: Noise
) -> tuple[SamplingPlan, Tensor]:
    """The rest of the times from a share of N on, and the image at the first of them."""
    assert plan.strength is not None, "vary has a strength"
    # a whole step, which every network knows
    t = torch.tensor(max(1.0, round(plan.strength * sde.num_steps)), dtype=torch.float64)
    t = t.clamp(max=float(sampling.times[0]))  # of a process that ends before N
    event = tuple(plan.given.shape[1:])
    x_0 = centres(plan.given, plan.num_levels).expand(plan.count, *event)
    start = sde.perturb(x_0, t, noise.normal(Stream.PRIOR, event))
    sampling = replace(sampling, times=times_from(sampling.times, float(t)))
    if sampling.final == "none" and len(sampling.times) == 2:
        raise RequestError(
            f"sampling.final = none leaves out the last step, and below control.strength = "
            f"{plan.strength:g}, t = {float(t):g}, there is no other: raise either "
            "control.strength or sampling.steps"
        )
    return sampling, start


def _products(plan: EditPlan, mmps: MMPS | None, images: int, steps: int) -> float:
    """Vector-Jacobian products an image: those counted, or one a step of dps."""
    if mmps is not None:
        return distributed.shard().total(mmps.products) / images
    return float(steps) if plan.method == "dps" else 0


def _measured(plan: EditPlan, x: Tensor) -> Tensor | None:
    """The known part of the image, as levels, where a task has a measurement."""
    if plan.measurement is None:
        return None
    fitted = plan.measurement.projected(torch.zeros_like(x[:1]), plan.measurement.value)
    return quantize(fitted, plan.num_levels)


def _measures(plan: EditPlan, x: Tensor) -> dict[str, Any]:
    """Misfit of samples, their distance from the input, and their spread."""
    found: dict[str, Any] = {"unit": "root mean square of a pixel, in units of [-1, 1]"}
    if plan.measurement is not None:
        levels = centres(quantize(x, plan.num_levels), plan.num_levels)
        misfit = plan.measurement.misfit(x)
        found |= _mean_of("", misfit)
        found |= {
            "unit": "misfit: root mean square of y - A x over the elements of y, in units of "
            "[-1, 1]; mean over images",
            "misfits": misfit,
            "noise": plan.measurement.std,
            "misfit_of_levels": float(plan.measurement.misfit(levels).mean()),
        }
    if len(plan.given):
        gap = _rms(x - centres(plan.given, plan.num_levels))
        found |= _mean_of("to_given_" if plan.measurement is not None else "", gap)
    if len(x) > 1:
        found["spread"] = float(x.var(0).mean().sqrt())
    return found


# ---- reconstruct, interpolate


@dataclass(frozen=True)
class _Flow:
    """A probability flow, and what it follows."""

    method: ProbabilityFlow
    counted: Counted
    sde: SDE
    batch_size: int

    def encode(self, x: Tensor) -> Tensor:
        with out_of_evaluations():
            parts = x.split(self.batch_size)
            return torch.cat([self.method.encode(self.counted, self.sde, p) for p in parts])

    def decode(self, latent: Tensor) -> Tensor:
        with out_of_evaluations():
            parts = latent.split(self.batch_size)
            return torch.cat([self.method.decode(self.counted, self.sde, p) for p in parts])


def _reconstruct(plan: EditPlan, flow: _Flow) -> Edited:
    """Images to latents and back, at three tolerances."""
    watch, x = Stopwatch(plan.given.device), centres(plan.given, plan.num_levels)
    trips = []
    for multiple in FALLS:
        method = replace(flow.method, tolerance=multiple * flow.method.tolerance)
        trips.append(_round_trip(plan, replace(flow, method=method), x))
    latent, back, _ = trips[-1]
    rows = [row for _, _, row in trips]
    result = {
        **rows[-1],
        "unit": "root mean square of a pixel there and back, in units of [-1, 1]; mean over "
        "images",
        "seconds": watch.seconds,
        "num_images": len(x),
        "t_min": flow.method.t_min,
        "tolerances": rows,
        "images": _of_each(plan.names, back - x, latent),
    }
    # a latent as a picture: black and white at so many standard deviations
    shown = quantize(latent / LATENT_REACH, plan.num_levels)
    levels = quantize(back, plan.num_levels)
    return Edited(plan, result, levels, shown, flow.method.tolerance, latent)


def _round_trip(plan: EditPlan, flow: _Flow, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Latents, what they decode to, and the row of results of one tolerance."""
    flow = replace(flow, counted=Counted(flow.counted.denoiser))
    latent = flow.encode(x)
    back = flow.decode(latent)
    changed = quantize(back, plan.num_levels) != plan.given
    row: dict[str, Any] = {"tolerance": flow.method.tolerance, **_mean_of("", _rms(back - x))}
    row["most"] = float((back - x).abs().max())
    row["levels_changed"] = float(changed.double().mean())
    return latent, back, {**row, "nfe": flow.counted.rows / len(x)}


def _of_each(names: list[str], error: Tensor, latent: Tensor) -> list[dict[str, Any]]:
    """The rows of results of each image."""
    return [
        {
            "image": name,
            "value": float(e.square().mean().sqrt()),
            "most": float(e.abs().max()),
            "latent_mean_square": float(z.square().mean()),
        }
        for name, e, z in zip(names, error.flatten(1), latent, strict=True)
    ]


def _interpolate(plan: EditPlan, flow: _Flow) -> Edited:
    """From one image to another, along an arc between their latents."""
    watch, x = Stopwatch(plan.given.device), centres(plan.given, plan.num_levels)
    share = torch.linspace(0, 1, plan.count, dtype=torch.float64, device=x.device)
    codes = flow.encode(x)
    arc = slerp(codes[:1], codes[1:], share)
    path = flow.decode(arc)
    result = {
        "value": float(_rms(path[[0, -1]] - x).max()),
        "standard_error": None,
        "unit": "root mean square of a pixel at the worse end, in units of [-1, 1]",
        "num_images": len(path),
        "nfe": flow.counted.rows / (len(path) + 2),
        "seconds": watch.seconds,
        "given": plan.names,
        "strides": _rms(path.diff(dim=0)),
        "latent_mean_square": codes.flatten(1).square().mean(1),
    }
    levels = quantize(path, plan.num_levels)
    return Edited(plan, result, levels, tolerance=flow.method.tolerance, latents=arc)


def _rms(x: Tensor) -> Tensor:
    """Root mean square over the elements of each, (n, ...) -> (n,)."""
    return x.flatten(1).square().mean(1).sqrt()


def _mean_of(name: str, of_each: Tensor) -> dict[str, float | None]:
    return {
        f"{name}value": float(of_each.mean()),
        f"{name}standard_error": standard_error(of_each),
    }

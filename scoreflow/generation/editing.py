"""What a trained network does with the user's image, without being trained for it."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.levels import dequantize, quantize, to_uint8
from scoreflow.errors import RequestError
from scoreflow.figures.image_grid import image_grid
from scoreflow.generation.edit_plan import Control
from scoreflow.generation.generate import draw_samples, out_of_evaluations
from scoreflow.generation.pictures import GRID_PIXELS
from scoreflow.generation.plan import Drawing
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime import distributed
from scoreflow.samplers import Clipped, Counted, ProbabilityFlow, Thresholded, slerp, times_from
from scoreflow.schema.task_keys import FLOWN, MEASURED
from scoreflow.sde.noise import Noise, Stream

MOST_COLUMNS = 10
FALLS = (100.0, 10.0, 1.0)
"""Multiples of the tolerance at which an image is encoded and decoded."""
LATENT_REACH = 3.0
"""Standard deviations of a latent that black and white stand for."""


@dataclass(frozen=True)
class Done:
    """A task's result for results/, its PNG, and a line for the terminal."""

    result: dict[str, Any]
    picture: bytes
    line: str


def do(
    control: Control, plan: Drawing, model: ScoreModel, data: Data, settings: ConfigDict
) -> Done:
    """Do a task with a network.

    Args:
        control: the task.
        plan: how samples are drawn; of no use to a task along the probability flow.
        model: the network.
        data: that it was trained on.
        settings: the `sampling` section.
    """
    if control.task in FLOWN:
        around = _reconstructed if control.task == "reconstruct" else _interpolated
        return around(control, settings, model, data)
    return _drawn(control, plan, model, data, settings)


# ---- inpaint, colorize, superresolve, vary


def _drawn(
    control: Control, drawing: Drawing, model: ScoreModel, data: Data, c: ConfigDict
) -> Done:
    """Images that fit a measurement, or that an image becomes when it is noised and drawn."""
    begun, sde = time.monotonic(), model.sde
    limited = isinstance(drawing.denoiser, Clipped | Thresholded)
    counted = Counted(drawing.denoiser.denoiser if limited else drawing.denoiser)
    drawing, moments = control.conditioned(drawing, counted)
    noise = Noise.of(c.seed, 0, control.count, data.test.device)
    event, start = tuple(data.test.shape[1:]), None
    if control.strength is not None:
        # a whole step, which every network knows
        t = torch.tensor(max(1.0, round(control.strength * sde.num_steps)), dtype=torch.float64)
        x_0 = _centres(control.given, data).expand(control.count, *event)
        start = sde.perturb(x_0, t, noise.normal(Stream.PRIOR, event))
        drawing = replace(drawing, times=times_from(drawing.times, float(t)))
        if drawing.final == "none" and len(drawing.times) == 2:
            raise RequestError(
                f"sampling.final = none leaves out the last step, and below control.strength = "
                f"{control.strength:g}, t = {float(t):g}, there is no other: raise either "
                "control.strength or sampling.steps"
            )
    x = draw_samples(drawing, sde, noise, event, c.batch_size, control.task, start)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    shard = distributed.shard()  # every process has drawn its share of the images
    products = len(x) * (len(drawing.times) - 1)
    if moments:
        products = shard.total(moments.products)
    result = {
        "num_images": len(x),
        "nfe": shard.total(counted.rows) / len(x),
        "jacobian_products": products / len(x) if control.method in ("mmps", "dps") else 0,
        "seconds": time.monotonic() - begun,
        "steps": len(drawing.times) - 1,
        "given": control.names,
        **_measures(control, x, data),
    }
    if control.strength is not None:
        result["t_start"] = float(drawing.times[0])
    levels = quantize(x, data.num_levels)
    first = [control.given]
    if control.measurement is not None:
        fitted = control.measurement.projected(torch.zeros_like(x[:1]), control.measurement.value)
        first.append(quantize(fitted, data.num_levels))
    tiles = torch.cat((*first, levels))
    columns = min(len(tiles), MOST_COLUMNS)
    return Done(result, _picture(tiles, columns, data), _told(control, result, c))


def _measures(control: Control, x: Tensor, data: Data) -> dict[str, Any]:
    """How well samples fit, how far they are from what was given, and how they differ."""
    root_mean_square = {"unit": "root mean square of a pixel, in units of [-1, 1]"}
    found: dict[str, Any] = dict(root_mean_square)
    if control.measurement is not None:
        levels = _centres(quantize(x, data.num_levels), data)
        misfit = control.measurement.misfit(x)
        found |= _mean_of("", misfit)
        found |= {
            "unit": "misfit: root mean square of y - A x over the elements of y, in units of "
            "[-1, 1]; mean over images",
            "misfits": misfit,
            "noise": control.measurement.std,
            "misfit_of_levels": float(control.measurement.misfit(levels).mean()),
        }
    if len(control.given):
        gap = (x - _centres(control.given, data)).flatten(1).square().mean(1).sqrt()
        found |= _mean_of("to_given_" if control.measurement is not None else "", gap)
    if len(x) > 1:
        found["spread"] = float(x.var(0).mean().sqrt())
    return found


def _mean_of(name: str, of_each: Tensor) -> dict[str, float | None]:
    n = len(of_each)
    error = float(of_each.std() / n**0.5) if n > 1 else None
    return {f"{name}value": float(of_each.mean()), f"{name}standard_error": error}


def _told(control: Control, result: dict[str, Any], c: ConfigDict) -> str:
    way = f" by {control.method}" if control.method else f" from t = {result['t_start']:g}"
    told = [f"{control.task}{way} and {c.sampler}: {result['num_images']} images"]
    if control.task in MEASURED:
        told.append(
            f"misfit {result['value']:.4f} (noise {result['noise']:.4f}, of the levels drawn "
            f"{result['misfit_of_levels']:.4f})"
        )
    else:
        told.append(f"{result['value']:.3f} from the given one")
    cost = f"{result['nfe']:.0f} evaluations"
    if result["jacobian_products"]:
        cost += f" and {result['jacobian_products']:.0f} vector-Jacobian products"
    return ", ".join((*told, f"{cost} each", f"{result['seconds']:.1f} s"))


# ---- reconstruct, interpolate


def _flow(c: ConfigDict, model: ScoreModel, tolerance: float) -> ProbabilityFlow:
    return ProbabilityFlow(model.t_min, tolerance, c.method, c.max_evaluations)


def _reconstructed(control: Control, c: ConfigDict, model: ScoreModel, data: Data) -> Done:
    """Images to latents and back, at three tolerances."""
    begun, x, rows = time.monotonic(), _centres(control.given, data), []
    for multiple in FALLS:
        flow, counted = _flow(c, model, multiple * c.tolerance), Counted(model)
        with out_of_evaluations():
            codes = [flow.encode(counted, model.sde, part) for part in x.split(c.batch_size)]
            back = torch.cat([flow.decode(counted, model.sde, code) for code in codes])
        error = (back - x).flatten(1)
        latent, levels = torch.cat(codes), quantize(back, data.num_levels)
        row = {"tolerance": flow.tolerance, **_mean_of("", error.square().mean(1).sqrt())}
        row["most"] = float(error.abs().max())
        row["levels_changed"] = float((levels != control.given).double().mean())
        rows.append({**row, "nfe": counted.rows / len(x)})
    of_each = [
        {
            "image": name,
            "value": float(e.square().mean().sqrt()),
            "most": float(e.abs().max()),
            "latent_mean_square": float(z.square().mean()),
        }
        for name, e, z in zip(control.names, error, latent, strict=True)
    ]
    result = {
        **rows[-1],
        "unit": "root mean square of a pixel there and back, in units of [-1, 1]; mean over "
        "images",
        "seconds": time.monotonic() - begun,
        "num_images": len(x),
        "t_min": model.t_min,
        "tolerances": rows,
        "images": of_each,
    }
    shown = torch.stack((control.given, _shown(latent, data), levels))
    shown = shown[:, :MOST_COLUMNS]
    line = (
        f"reconstruct: {len(x)} images, off by {result['value']:.2e} at tolerance "
        f"{c.tolerance:g} (at most {result['most']:.2e}), "
        f"{100 * result['levels_changed']:.2g} % of pixels at another level, "
        f"{result['nfe']:.0f} evaluations each, {result['seconds']:.1f} s"
    )
    picture = _picture(shown.flatten(0, 1), shown.shape[1], data)
    return Done(result, picture, line)


def _interpolated(control: Control, c: ConfigDict, model: ScoreModel, data: Data) -> Done:
    """From one image to another, along an arc between their latents."""
    begun, x = time.monotonic(), _centres(control.given, data)
    flow, counted = _flow(c, model, c.tolerance), Counted(model)
    share = torch.linspace(0, 1, control.count, dtype=torch.float64, device=x.device)
    with out_of_evaluations():
        codes = flow.encode(counted, model.sde, x)
        arc = slerp(codes[:1], codes[1:], share)
        path = torch.cat(
            [flow.decode(counted, model.sde, part) for part in arc.split(c.batch_size)]
        )
    ends = (path[[0, -1]] - x).flatten(1).square().mean(1).sqrt()
    strides = path.diff(dim=0).flatten(1).square().mean(1).sqrt()
    result = {
        "value": float(ends.max()),
        "standard_error": None,
        "unit": "root mean square of a pixel at the worse end, in units of [-1, 1]",
        "num_images": len(path),
        "nfe": counted.rows / (len(path) + 2),
        "seconds": time.monotonic() - begun,
        "given": control.names,
        "strides": strides,
        "latent_mean_square": codes.flatten(1).square().mean(1),
    }
    line = (
        f"interpolate: {len(path)} points, off by {result['value']:.2e} at the ends at tolerance "
        f"{c.tolerance:g}, {result['nfe']:.0f} evaluations each, {result['seconds']:.1f} s"
    )
    levels = quantize(path, data.num_levels)
    tiles = torch.cat((control.given[:1], levels, control.given[1:]))
    return Done(result, _picture(tiles, min(len(tiles), MOST_COLUMNS), data), line)


# ---- pictures


def _centres(levels: Tensor, data: Data) -> Tensor:
    return dequantize(levels, torch.tensor(0.5, dtype=torch.float64), data.num_levels)


def _shown(latent: Tensor, data: Data) -> Tensor:
    """A latent as a picture: black and white at so many standard deviations."""
    return quantize(latent / LATENT_REACH, data.num_levels)


def _picture(levels: Tensor, columns: int, data: Data) -> bytes:
    shown = to_uint8(levels, data.num_levels)
    return image_grid(shown, columns, max(1, GRID_PIXELS // shown.shape[-1]))

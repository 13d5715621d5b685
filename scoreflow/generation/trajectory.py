"""Sampling trajectories: estimates of x_0 at decreasing t, as a strip of images and a GIF."""

import io
from dataclasses import dataclass
from itertools import pairwise

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.levels import to_uint8, values_of
from scoreflow.figures.image_grid import image_grid
from scoreflow.figures.scatter import scatter
from scoreflow.generation.pictures import GRID_PIXELS, reach_of
from scoreflow.generation.plan import SamplingPlan
from scoreflow.samplers import ProbabilityFlow, Recorded, Step, grid, sample
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream

SHOWN = 8
"""Images that are followed."""
COLUMNS, FRAMES = 10, 40
"""Times in the strip and in the GIF, at most."""
LABEL_HEIGHT = 14
FRAME_MS, LAST_MS = 90, 2000
POINTS_PIXELS = 120
"""The side of a picture of points in the plane."""


@dataclass(frozen=True)
class Trajectory:
    """Estimates of x_0 along the sampling trajectory.

    Attributes:
        times: in steps, decreasing to 0.
        values: at each time, the estimates of x_0 as the data are: levels, or vectors.
    """

    times: list[float]
    values: list[Tensor]


def follow(plan: SamplingPlan, sde: SDE, noise: Noise, data: Data, last: Tensor) -> Trajectory:
    """The estimates of x_0 along the way to some samples, which are the last of them.

    The samples are drawn once more from the same noise, as a batch of their own. Of a method that
    evaluates twice at a time, the second estimate counts. The adaptive flow,
    which has a clock for each sample, is solved from time to time of a common grid instead.

    Args:
        plan: how they were drawn.
        sde: the process.
        noise: of these samples.
        data: what samples are like.
        last: the samples, (n, ...) as drawn.
    """
    sde, event = plan.process or sde, tuple(last.shape[1:])
    seen: dict[float, Tensor] = {}
    for rows in plan.groups(noise.index):
        if isinstance(plan.sampler, ProbabilityFlow):
            found = _along_the_flow(plan, plan.sampler, sde, noise.rows(rows), event)
        else:
            heard = Recorded(plan.denoiser)
            sample(plan.sampler, heard, sde, plan.times, noise.rows(rows), event, final=plan.final)
            found = dict(heard.records)
        for t, x_0 in found.items():
            seen.setdefault(t, torch.empty(len(last), *event, dtype=x_0.dtype))[rows.cpu()] = (
                x_0.cpu()
            )
    seen |= {0.0: last}
    times = sorted(seen, reverse=True)
    return Trajectory(times, [values_of(seen[t].cpu().double(), data) for t in times])


def _along_the_flow(
    plan: SamplingPlan, flow: ProbabilityFlow, sde: SDE, noise: Noise, event: tuple[int, ...]
) -> dict[float, Tensor]:
    """The estimates at times equal in log-SNR, each image carried from one to the next."""
    seen = {}
    with torch.no_grad():
        x = sde.prior_std() * noise.normal(Stream.PRIOR, event)
        times = grid("log_snr", sde, FRAMES, flow.t_min)[:-1]
        for k, (t, s) in enumerate(pairwise(times)):
            seen[float(t)] = plan.denoiser(x, t).x_0
            x = flow.step(x, Step(plan.denoiser, sde, t, s, noise.at(k)))
        seen[float(times[-1])] = plan.denoiser(x, times[-1]).x_0
    return seen


def strip(trajectory: Trajectory, data: Data) -> bytes:
    """A PNG: a row an image, a column a time, its t above; of points, a picture a time."""
    kept = _spread(len(trajectory.times), COLUMNS)
    times = [trajectory.times[k] for k in kept]
    values = [trajectory.values[k] for k in kept]
    if data.num_levels is None:
        pictures = [_points(each, reach=reach_of(data)) for each in values]
        body = Image.new("L", (POINTS_PIXELS * len(pictures), POINTS_PIXELS), 255)
        for k, each in enumerate(pictures):
            body.paste(each, (k * POINTS_PIXELS, 0))
    else:
        images = torch.stack(values, dim=1).flatten(0, 1)  # (image, time) in rows of times
        body = _grid(images, data.num_levels, len(times))
    page = Image.new(body.mode, (body.width, body.height + LABEL_HEIGHT), "white")
    page.paste(body, (0, LABEL_HEIGHT))
    draw, width = ImageDraw.Draw(page), body.width / len(times)
    for k, t in enumerate(times):
        draw.text(((k + 0.5) * width, 1), _formatted(t), fill="black", anchor="ma")
    return _encoded(page)


def animation(trajectory: Trajectory, data: Data) -> bytes:
    """A GIF of the images, or points, with t below; it stands at the end and begins again."""
    kept = _spread(len(trajectory.times), FRAMES)
    frames = []
    for k in kept:
        values = trajectory.values[k]
        if data.num_levels is None:
            body = _points(values, 2 * POINTS_PIXELS, reach_of(data))
        else:
            body = _grid(values, data.num_levels, SHOWN // 2)
        frame = Image.new(body.mode, (body.width, body.height + LABEL_HEIGHT), "white")
        frame.paste(body, (0, 0))
        text = f"t = {_formatted(trajectory.times[k])}"
        ImageDraw.Draw(frame).text((3, body.height + 1), text, fill="black")
        frames.append(frame)
    stream = io.BytesIO()
    frames[0].save(
        stream,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[FRAME_MS] * (len(frames) - 1) + [LAST_MS],
        loop=0,
    )
    return stream.getvalue()


def _formatted(t: float) -> str:
    """A time in few characters."""
    return f"{t:.0f}" if t >= 10 else f"{t:.2g}"


def _spread(count: int, most: int) -> list[int]:
    """As many of `count` numbers as there may be, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def _grid(values: Tensor, num_levels: int, columns: int) -> Image.Image:
    scale = max(1, GRID_PIXELS // values.shape[-1])
    png = image_grid(to_uint8(values, num_levels), columns, scale)
    return Image.open(io.BytesIO(png), formats=("PNG",))


def _points(values: Tensor, side: int = POINTS_PIXELS, reach: float = 1.5) -> Image.Image:
    return Image.open(io.BytesIO(scatter(values[:, :2], side, reach)), formats=("PNG",))


def _encoded(page: Image.Image) -> bytes:
    stream = io.BytesIO()
    page.save(stream, format="PNG")
    return stream.getvalue()

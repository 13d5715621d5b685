"""Samples on their way: from nothing known to the sample itself, as pictures that open."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.data.dataset import Data
from scoreflow.data.levels import dequantize, quantize
from scoreflow.data.toy import distribution, load
from scoreflow.generation import trajectory
from scoreflow.generation.plan import SamplingPlan
from scoreflow.samplers import (
    DDIM,
    Ancestral,
    Clipped,
    Heun,
    ProbabilityFlow,
    grid,
    sample,
)
from scoreflow.sde import VPSDE
from scoreflow.sde.noise import Noise
from scoreflow.sde.prediction import predict

SDE = VPSDE.cosine(60)
LEVELS = 17
GREYS = torch.arange(16).view(1, 1, 4, 4)
IMAGES = Data("greys", GREYS.to(torch.uint8), GREYS.to(torch.uint8), LEVELS, None, None)
FLOW = ProbabilityFlow(1.0, 1e-3)
METHODS = {
    "ancestral": (Ancestral("beta"), grid("uniform", SDE, 60)),
    "ddim": (DDIM(), grid("uniform", SDE, 6)),
    "heun": (Heun(), grid("uniform", SDE, 12)),
    "ode": (FLOW, FLOW.times(60)),
}


def knowing(x_t, t):
    """The exact denoiser of N(grey image, 0.01)."""
    mean = dequantize(GREYS.to(torch.uint8), torch.tensor(0.5, dtype=torch.float64), LEVELS)
    alpha, sigma = (each.view(-1, 1, 1, 1) for each in (SDE.alpha(t), SDE.sigma(t)))
    gain = alpha * 0.01 / (alpha**2 * 0.01 + sigma**2)
    return predict(SDE, x_t, t, "x_0", mean + gain * (x_t - alpha * mean))


def followed(name):
    sampler, times = METHODS[name]
    drawing = SamplingPlan(sampler, times, Clipped(knowing) if name != "ode" else knowing)
    noise = Noise.of(3, 0, 5)
    last = sample(sampler, drawing.denoiser, SDE, times, noise, (1, 4, 4))
    return trajectory.follow(drawing, SDE, noise, IMAGES, last), last


@pytest.mark.parametrize("name", METHODS)
def test_it_begins_with_the_mean_and_ends_with_the_samples(name):
    """The first estimate, at x_N, is the mean of the data to what x_N tells of x_0; the last is
    the sample, to the bit, and so, but for its spread, is the estimate before."""
    progress, last = followed(name)
    assert progress.times[0] == 60
    assert progress.times[-1] == 0
    assert progress.times == sorted(progress.times, reverse=True)
    assert torch.equal(progress.values[-1], quantize(last, LEVELS))
    first = progress.values[0].double()
    assert float((first - GREYS).abs().max()) <= 1
    before = progress.values[-2].double()
    assert float((before - progress.values[-1].double()).abs().max()) <= 1
    if name == "ancestral":
        assert progress.times == list(range(60, -1, -1))
    if name == "heun":  # which asks about each time but the first twice
        assert len(progress.times) == 13


def test_the_gif_has_a_frame_a_time_and_ends_with_the_samples():
    progress, last = followed("ancestral")
    gif = Image.open(io.BytesIO(trajectory.animation(progress, IMAGES)))
    assert gif.format == "GIF"
    assert gif.n_frames == trajectory.FRAMES
    gif.seek(gif.n_frames - 1)
    assert gif.info["duration"] == trajectory.LAST_MS
    shown = np.asarray(gif.convert("L"))
    cell = 48  # 12 to a pixel of 4, and 6 between: the first pixel of the first image
    expected = int(quantize(last, LEVELS)[0, 0, 0, 0]) * 255 / (LEVELS - 1)
    assert shown[6 : 6 + cell // 4, 6 : 6 + cell // 4].mean() == pytest.approx(expected, abs=1)


def test_the_strip_has_a_row_an_image_and_a_column_a_time():
    progress, last = followed("ancestral")
    page = np.asarray(Image.open(io.BytesIO(trajectory.strip(progress, IMAGES))))
    top, cell, gap = trajectory.LABEL_HEIGHT, 48, 6
    assert page.shape == (
        5 * (cell + gap) + gap + top,
        trajectory.COLUMNS * (cell + gap) + gap,
    )
    right = page[top:, -(cell + gap) : -gap]
    expected = quantize(last, LEVELS)[:, 0, 0, 0].double() * 255 / (LEVELS - 1)
    found = [right[k * (cell + gap) + gap + 3, 3] for k in range(5)]
    assert found == pytest.approx(expected.round().tolist(), abs=1)
    assert page[:top].min() < 50  # the times are written


def test_few_times_are_all_shown():
    progress, _ = followed("ddim")
    gif = Image.open(io.BytesIO(trajectory.animation(progress, IMAGES)))
    assert gif.n_frames == len(progress.times) == 7


def test_points_are_followed_too():
    data, truth = load(), distribution()
    sampler, times = METHODS["ddim"]
    drawing = SamplingPlan(sampler, times, truth.denoiser(SDE))
    noise = Noise.of(0, 0, 50)
    last = sample(sampler, drawing.denoiser, SDE, times, noise, (2,))
    progress = trajectory.follow(drawing, SDE, noise, data, last)
    assert torch.equal(progress.values[-1], last)
    size = Image.open(io.BytesIO(trajectory.strip(progress, data))).size
    side = trajectory.POINTS_PIXELS
    assert size == (7 * side, side + trajectory.LABEL_HEIGHT)
    assert Image.open(io.BytesIO(trajectory.animation(progress, data))).n_frames == 7

"""The errors that a chain's laws rest on, measured on training images in one pass."""

from collections.abc import Callable

import torch

from scoreflow.data.dataset import Data
from scoreflow.data.levels import points
from scoreflow.generation.error_table import knots
from scoreflow.likelihood.compression.error_law import FIT, KINDS, Measured, measure
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser

LEAST_IMAGES = 2
"""Of each half one: the one fits, the other chooses."""


def times_of(sde: SDE, t_min: float) -> tuple[int, ...]:
    """The whole times that a chain may visit, about even in log-SNR; the last one is N."""
    whole = {int(t) for t in knots(sde, t_min).tolist() if t >= 1}
    return tuple(sorted(whole | {sde.num_steps}))


def num_calls(images: int, times: int, batch_size: int) -> int:
    """How often `fit` calls its denoiser."""
    return times * sum(-(-half // batch_size) for half in (images - images // 2, images // 2))


def fit(
    denoiser: Denoiser,
    sde: SDE,
    times: tuple[int, ...],
    data: Data,
    seed: int,
    images: int,
    batch_size: int,
    on_call: Callable[[], None] = lambda: None,
) -> tuple[Measured, Measured]:
    """The errors of two halves of so many training images, taken from all over the set.

    Args:
        denoiser: evaluated at every time for every batch.
        sde: the process.
        times: as from `times_of`.
        data: images with levels.
        seed: of the places within the bins and of the noise.
        images: at least 2, at most all.
        batch_size: images at a time.
        on_call: called after each evaluation.
    """
    rows = torch.linspace(0, len(data.train) - 1, images).round().long().to(data.train.device)
    halves = []
    for half in (rows[::2], rows[1::2]):
        parts = [
            _measured(denoiser, sde, times, data, seed, i, on_call) for i in half.split(batch_size)
        ]
        halves.append(_sum(parts))
    return halves[0], halves[1]


def _measured(
    denoiser: Denoiser,
    sde: SDE,
    times: tuple[int, ...],
    data: Data,
    seed: int,
    index: torch.Tensor,
    on_call: Callable[[], None],
) -> Measured:
    assert data.num_levels is not None, "images have levels"
    noise, levels = Noise(seed, index, FIT), data.train[index]
    x_0 = points(levels, data.num_levels, noise, Stream.TRAIN_DEQUANTIZE)
    return measure(denoiser, sde, times, x_0, levels, data.num_levels, KINDS, noise, on_call)


def _sum(parts: list[Measured]) -> Measured:
    total = parts[0]
    for part in parts[1:]:
        total = {kind: total[kind] + part[kind] for kind in total}
    return total

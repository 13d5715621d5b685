"""What a network draws, and its loss on held-out data, while it is trained.

Samples k of every preview start from the same x_N, and the held-out data have the same times and
noise each time: what differs between two previews is the weights. Nothing here is drawn from the
training's randomness, so a training with previews is, bit for bit, the one without.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scoreflow.data.dataset import Data
from scoreflow.data.levels import points, values_of
from scoreflow.generation.pictures import picture
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime.compiling import Compiler, Use
from scoreflow.samplers import Clipped, DPMSolver, grid, sample
from scoreflow.sde.base import ends_without_signal
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser
from scoreflow.training.trainer import Trainer

IMAGES, POINTS, STEPS, COLUMNS = 16, 1000, 20, 8
"""Samples of a preview (vectors are shown as points), steps of its sampler, images a row."""
HELD_OUT = 256
"""Held-out data whose loss is measured, at most."""
APART = 2**32 - 1
"""The step that their noise is addressed by, which no training comes to."""


@dataclass(frozen=True)
class Preview:
    """A look at the averaged weights of a step.

    Attributes:
        picture: a PNG of samples.
        loss: the training's, on the first held-out data; None where nothing is held out.
    """

    picture: bytes
    loss: float | None


def preview(trainer: Trainer, compiler: Compiler | None = None) -> Preview:
    """Samples of the averaged weights, and their loss on held-out data.

    Args:
        trainer: where it stands.
        compiler: of the averaged network, if all previews of the training are worth it; None for
            none.
    """
    found = (compiler or Compiler(False)).network(*_planned(trainer), trainer.model.precision)
    model = trainer.model.with_network(found)
    drawn = values_of(_drawn(model, trainer.data), trainer.data)
    few, labels = _held_out(trainer.data, model.num_classes > 0)
    loss = _loss(trainer, model, few, labels) if len(few) else None
    return Preview(picture(drawn, trainer.data, COLUMNS), loss)


def _planned(trainer: Trainer) -> tuple[nn.Module, Use, int, int, tuple[int, ...]]:
    """The averaged network, and what all previews ask of it, as a compiler is told."""
    settings, data = trainer.settings, trainer.data
    previews = settings.num_steps // max(settings.preview_every, 1)
    images = STEPS * IMAGES + min(len(data.test), HELD_OUT)
    return trainer.ema.module, "eval", previews, images, tuple(data.train.shape[1:])


def _drawn(model: ScoreModel, data: Data) -> Tensor:
    """Samples as points; of a conditional network a class each, in turn, of those it is shown."""
    vectors = data.num_levels is None
    noise = Noise.of(0, 0, POINTS if vectors else IMAGES, data.train.device)
    if model.num_classes:
        there = _shown_classes(data).to(noise.index.device)
        model = model.labelled(there[noise.index % len(there)])
    denoiser: Denoiser = model if vectors else Clipped(model)
    # where no signal is left, some networks know nothing of x_0
    sde = model.posed if ends_without_signal(model.sde) else model.sde
    times = grid("log_snr", sde, STEPS, model.t_min)
    event = tuple(data.train.shape[1:])
    return sample(DPMSolver(order=2), denoiser, sde, times, noise, event)


def _shown_classes(data: Data) -> Tensor:
    """The classes that a training on data with labels shows to its network, in order."""
    assert data.train_labels is not None, "a conditional network is trained on labels"
    found: Tensor = data.train_labels.unique()
    return found


def _held_out(data: Data, conditional: bool) -> tuple[Tensor, Tensor | None]:
    """The first held-out data, of a conditional training those of classes that it shows."""
    few, labels = data.test[:HELD_OUT], data.test_labels
    if not conditional or labels is None:
        return few, None
    labels = labels[:HELD_OUT].to(few.device)
    known = torch.isin(labels, _shown_classes(data).to(few.device))
    return few[known], labels[known]


@torch.no_grad()
def _loss(trainer: Trainer, model: ScoreModel, few: Tensor, labels: Tensor | None) -> float:
    """The mean of the objective over some data, each at one fixed time and noise."""
    data, settings, size = trainer.data, trainer.settings, trainer.settings.batch_size
    losses = []
    for start in range(0, len(few), size):
        part = few[start : start + size]
        noise = Noise.of(trainer.seed, start, start + len(part), few.device).at(APART)
        x_0 = points(
            part, data.num_levels, noise, Stream.TRAIN_DEQUANTIZE, settings.dequantization
        ).float()
        t, density = trainer.objective.draw(noise, model.sde)
        eps = noise.normal(Stream.TRAIN_EPS, tuple(part.shape[1:]), dtype=torch.float32)
        asked = model
        if labels is not None:
            asked = model.labelled(labels[start : start + len(part)])
        losses.append(trainer.objective.loss(asked, x_0, t, eps) / density)
    return float(torch.cat(losses).double().mean())

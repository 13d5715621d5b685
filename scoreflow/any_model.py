"""Samples and log-likelihoods of any score model, without a run's folder.

own = ScoreModel(my_network, VPSDE.linear(1000), "eps")
x = sample(own, (3, 32, 32), 16, sampler="dpm", steps=20)
found = bits_per_dim(own, images)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from scoreflow.data.dataset import Data
from scoreflow.data.levels import MOST_LEVELS, dtype_of, values_of
from scoreflow.errors import RequestError
from scoreflow.factory.likelihood import build_question
from scoreflow.factory.sampling import build_drawing, needs_moments
from scoreflow.generation.generate import draw_samples
from scoreflow.likelihood.dataset_likelihood import measure
from scoreflow.likelihood.log_likelihoods import LogLikelihoods
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime.device import states_of
from scoreflow.schema.config import refuse_idle
from scoreflow.schema.experiments import default_config
from scoreflow.schema.request import flatten
from scoreflow.schema.resolve import resolve
from scoreflow.sde.noise import Noise


def sample(
    model: ScoreModel,
    shape: tuple[int, ...],
    num_samples: int,
    sampler: str = "dpm",
    num_levels: int | None = 256,
    **settings: Any,  # noqa: ANN401
) -> Tensor:
    """Draw samples of a score model; sample k of a seed is the same in every batch.

    Args:
        model: around any network; it is put into evaluation mode while it draws.
        shape: of one sample: (C, H, W), or (D,) for vectors.
        num_samples: how many.
        sampler: its name, as in `--sampler`.
        num_levels: of images, whose x_0 is kept in [-1, 1] by `clip`; None for vectors.
        settings: any key of the `sampling` section: steps, order, seed, grid, eta, ...

    Returns:
        levels (num_samples, C, H, W), uint8 up to 256 of them and else int32; float64
        (num_samples, D) where num_levels is None.

    Raises:
        RequestError: a setting is wrong, or needs a trained run with its data.
    """
    _check_levels(num_levels)
    config = configured({f"sampling.{key}": value for key, value in settings.items()})
    c, device = config.sampling, device_of(model)
    dtype = torch.float32 if num_levels is None else dtype_of(num_levels)
    nothing = torch.empty(0, *shape, dtype=dtype)
    data = Data("given", nothing.to(device), nothing.to(device), num_levels, None, None)
    if needs_moments(config, sampler):
        raise RequestError(
            "sampling.variance = optimal and sampling.grid = least_cost need training data: use "
            "the sample method of a trained run"
        )
    plan = build_drawing(config, sampler, model, data)
    noise = Noise.of(c.seed, 0, num_samples, device)
    with evaluating(model.network):
        x = draw_samples(plan, model.sde, noise, shape, c.batch_size, sampler)
    return values_of(x, data)


def bits_per_dim(
    model: ScoreModel,
    images: Tensor,
    num_levels: int = 256,
    trained_on: str = "uniform",
    **settings: Any,  # noqa: ANN401
) -> LogLikelihoods:
    """Exact log-likelihood of images under a score model, with its error budget.

    Args:
        model: around any network; it is put into evaluation mode while it is measured.
        images: integer levels (n, C, H, W) in 0..num_levels-1.
        num_levels: 2..65536; 256 for 8 bits.
        trained_on: x_0 of a level in the network's training: "uniform" on its bin, or the
            bin's "centre".
        settings: any key of the `likelihood` section: probes, tolerance, dequantization, ...

    Raises:
        RequestError: the images are no such levels, or a setting is wrong.
        RunError: the solver gave up on some of them.
    """
    _check_levels(num_levels)
    if images.ndim != 4:
        raise RequestError(f"images must be (n, C, H, W), got {tuple(images.shape)}")
    keys = {f"likelihood.{key}": value for key, value in settings.items()}
    config = configured({**keys, "training.dequantization": trained_on})
    refuse_idle(keys, flatten(config.to_dict()), "likelihood")
    nothing = torch.empty(
        0, *images.shape[1:], dtype=dtype_of(num_levels), device=device_of(model)
    )
    data = Data("given", nothing, nothing, num_levels, None, None)
    data = replace(data, test=data.accept(images))
    question = build_question(config, model, data)
    with evaluating(model.network):
        return LogLikelihoods.of(measure(model, data, 0, question))


def _check_levels(num_levels: int | None) -> None:
    if num_levels is not None and not 2 <= num_levels <= MOST_LEVELS:
        raise RequestError(f"num_levels must lie in 2..{MOST_LEVELS}, got {num_levels}")


def configured(overrides: dict[str, Any]) -> ConfigDict:
    """The default config with other values by dotted keys, checked."""
    return resolve({**flatten(default_config().to_dict()), **overrides}, "the call")


def device_of(model: ScoreModel) -> torch.device:
    """Where its states lie: with the network, or on the CPU if that has none or no float64."""
    network = model.network
    first = next(chain(network.parameters(), network.buffers()), None)
    return torch.device("cpu") if first is None else states_of(first.device)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """A network in evaluation mode, and back in the mode that it was in."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training

"""Likelihood bounds beside the exact flow, on the same images: --config.likelihood.ledger=true."""

from collections.abc import Callable, Mapping

import torch
from ml_collections import ConfigDict

from scoreflow.cli.console import say
from scoreflow.data.dataset import Data
from scoreflow.data.levels import dequantize, quantize, to_uint8
from scoreflow.figures.image_grid import image_grid
from scoreflow.likelihood import bound_table
from scoreflow.likelihood.dataset_likelihood import Measured
from scoreflow.likelihood.dequantization import DEQUANTIZATIONS
from scoreflow.likelihood.rate_distortion import reconstructions
from scoreflow.models.score_model import ScoreModel, arithmetic
from scoreflow.runtime import distributed
from scoreflow.runtime.progress_bar import Progress
from scoreflow.sde.base import SDE, ends_without_signal
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json

TRAIN_IMAGES = 512
"""Training images that fit the optimal variances."""

RECONSTRUCTED = 8
"""Test images shown as they are reconstructed."""


def measure_bounds(
    model: ScoreModel,
    of: Data,
    config: ConfigDict,
    measured: Measured,
    measure_by: Callable[[str], Measured],
    more: Mapping[str, Callable[[], Measured]] = {},
    compiled: Callable[[ScoreModel, int, int], ScoreModel] = lambda model, _calls, _size: model,
) -> tuple[Json, bytes | None] | None:
    """Every bound and estimate of the same images, and the rate-distortion curve.

    Args:
        model: its averaged network.
        of: its data.
        config: its config.
        measured: the exact flow by the config's dequantization.
        measure_by: the exact flow by another one.
        more: what else is the exact flow of, by name, as of the network asked in another way.
        compiled: the network for so many evaluations of so many images.

    Returns:
        The result, and a PNG of progressive reconstructions if the data are images, in the first
        process; None in the others.
    """
    c = config.likelihood
    exact = [("exact flow, " + measured.result["dequantization"], measured)]
    for other in _other_dequantizations(config, of):
        found = measure_by(other)
        say(f"{other}: {found.line}")
        exact.append((f"exact flow, {other}", found))
    for name, measure in more.items():
        found = measure()
        say(f"{name}: {found.line}")
        exact.append((f"exact flow, {name}", found))
    if not distributed.is_main_process():
        return None
    kind: bound_table.Kind = (
        "exact" if of.num_levels is None else "bound"
    )  # by Jensen, over the dequantization
    entries = [bound_table.Entry(name, kind, each.values.mean(1), {}) for name, each in exact]
    test, train = of.test[: c.num_images or None], min(TRAIN_IMAGES, len(of.train))
    chain = _chain_of(model)
    strata = min(c.terms, chain.num_steps - 1)
    calls = bound_table.num_calls(len(test), train, c.batch_size, strata)
    model = compiled(model.in_precision("float32"), calls, c.batch_size)
    with (
        Progress("likelihood bounds", calls, "call") as progress,
        arithmetic("float32"),
        torch.no_grad(),
    ):
        bounds, rate = bound_table.bounds(
            model,
            chain,
            model.t_min,
            of,
            test,
            c.seed,
            strata,
            c.batch_size,
            train,
            config.training.dequantization,
            lambda: progress.advance(1),
        )
        picture = _reconstructed(model, of)
    result = bound_table.as_result([*entries, *bounds], rate)
    say(bound_table.table(result))
    return result, picture


def _other_dequantizations(c: ConfigDict, of: Data) -> list[str]:
    """Those shown with the one of the config."""
    if of.num_levels is None or c.likelihood.samples > 1:
        return []
    of_centres = c.training.dequantization == "centre"
    alien = "uniform" if of_centres else "truncated_normal"
    return [n for n in DEQUANTIZATIONS if n not in (alien, c.likelihood.dequantization)]


def _chain_of(model: ScoreModel) -> SDE:
    """The process of the bounds: all of it, but where no estimate of eps tells x_0 at N.

    There, at alpha = 0, such a network's chain ends where its flow does, and L_T counts the rest.
    """
    return model.posed if ends_without_signal(model.sde) else model.sde


def _reconstructed(model: ScoreModel, of: Data) -> bytes | None:
    """A few test images as the chain comes to know them: estimates of x_0 from x_N to x_1."""
    if of.num_levels is None:
        return None
    few, n = of.test[:RECONSTRUCTED], _chain_of(model).num_steps
    times = sorted({max(1, round(n * k / 10)) for k in range(11)}, reverse=True)
    x_0 = dequantize(few, torch.full(few.shape, 0.5, device=few.device), of.num_levels).double()
    noise = Noise.of(0, 0, len(few), few.device)
    estimates = reconstructions(model, model.sde, x_0, noise, times)
    levels = torch.cat([quantize(estimates, of.num_levels), few[:, None]], 1).flatten(0, 1)
    shown = to_uint8(levels, of.num_levels)
    return image_grid(shown, len(times) + 1, max(1, 40 // shown.shape[-1]))

"""The chain of K steps that images are coded by, and the measurement that it was chosen from.

compression-laws-K.json     the times and errors of K steps
compression-laws-all.json   those of every step that a chain may have: any K is chosen from them
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated

import numpy as np
import torch

from scoreflow.errors import RequestError
from scoreflow.likelihood.compression.archive import (
    packed,
    packed_reals,
    unpacked,
    unpacked_reals,
)
from scoreflow.likelihood.compression.chain import (
    Chain,
    Choice,
    Priced,
    Prices,
    choose,
    priced,
)
from scoreflow.likelihood.compression.error_law import KINDS, ErrorLaw, Kind, buckets
from scoreflow.likelihood.compression.fitting import LEAST_IMAGES, fit, num_calls, times_of
from scoreflow.models.score_model import ScoreModel, arithmetic
from scoreflow.runtime.progress_bar import Progress
from scoreflow.sde.base import SDE, ends_without_signal
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.validation import InvalidError, Length, conform
from scoreflow.trained_run import TrainedRun

LAWS = "compression-laws-"
ALL = f"{LAWS}all"
MACHINE = "torch, numpy, constriction, device"
"""What a header says of a machine, in this order."""
AT_ONCE = 32
"""Training images of one evaluation; a bucket's mean does not depend on it but by rounding."""


@dataclass(frozen=True)
class Laws:
    """What a chain is made with, beside the run.

    Attributes:
        steps: K.
        seed: of the measurement.
        images: training images that it is made on.
    """

    steps: int
    seed: int
    images: int


@dataclass(frozen=True)
class Kept:
    """The schema of what is kept; see `_as_result`."""

    kind: str
    times: Annotated[list[int], Length(2)]
    costs: dict[str, float]
    squares: str
    of_levels: str
    sha256: str


@dataclass(frozen=True)
class KeptKind:
    """The schema of one kind of buckets; see `_prices_as_result`."""

    squares: str
    of_levels: str
    fitted: str
    unseen: str
    whole: str


@dataclass(frozen=True)
class KeptPrices:
    """The schema of what any K is chosen from."""

    times: Annotated[list[int], Length(2)]
    kinds: dict[str, KeptKind]
    sha256: str


def refuse_uncodable(trained: TrainedRun) -> None:
    """Refuse a run whose data have no levels, or whose network needs a class.

    Raises:
        RequestError: with what to do.
    """
    if trained.like.num_levels is None:
        raise RequestError(
            f"--mode compress is for images, and {trained.folder.path} is of vectors, which have "
            "no levels: compress them by another tool"
        )
    if trained.model.needs_class:
        raise RequestError(
            "--mode compress codes by the law of no class, and this network has no row for none: "
            "train one with model.null_class = true"
        )


def chain_of(trained: TrainedRun, asked: Laws, keep: bool = True) -> tuple[Chain, Choice]:
    """The chain of a run, measured on its training images where that is not kept.

    Args:
        trained: the run.
        asked: how.
        keep: whether a new measurement is written to the run's folder.

    Raises:
        RequestError: there are too few training images, or no such chain.
    """
    refuse_uncodable(trained)
    model = trained.model.in_precision("float32")
    sde = model.posed if ends_without_signal(model.sde) else model.sde
    event, num_levels = tuple(trained.like.train.shape[1:]), trained.like.num_levels
    assert num_levels is not None, "refused above"
    settings = _settings(trained, asked)
    choice = _kept(trained, settings, event, sde)
    if choice is None:
        choice = _chosen(trained, model, sde, asked, keep)
        if keep:
            trained.folder.write_result(
                f"{LAWS}{asked.steps}", {**_as_result(choice), "settings": settings}
            )
    return Chain(model, sde, choice.law, choice.times, event, num_levels), choice


def digest_of(choice: Choice) -> str:
    """SHA-256 of a chain's times and errors."""
    law = choice.law
    text = f"{law.kind} {choice.times}".encode()
    codes = (law.squares.numpy().astype("<i2"), law.of_levels.numpy().astype("<i2"))
    return hashlib.sha256(text + b"".join(each.tobytes() for each in codes)).hexdigest()


def machine_of(device: torch.device) -> str:
    """What the floats of a network depend on, beside its weights: see `MACHINE`."""
    where = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else ""
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    versions = (torch.__version__, np.__version__, version("constriction"))
    return " ".join((*versions, device.type, where)).strip()


def _settings(trained: TrainedRun, asked: Laws) -> Json:
    return {
        "weights": trained.fingerprint,
        **vars(asked),
        "device": trained.experiment.device.type,
        **trained.trained_with,
        **({} if trained.folder.bound else {"data": trained.data_digests["data"]["train"]}),
    }


def _kept(trained: TrainedRun, settings: Json, event: tuple[int, ...], sde: SDE) -> Choice | None:
    """What is kept under these settings; None where that is nothing, or damaged."""
    try:
        result = trained.folder.read_result(f"{LAWS}{settings['steps']}", "it is made again")
        if result.get("settings") != settings:
            return None
        choice = _of_result(conform(result, Kept), event)
    except (InvalidError, RequestError, ValueError):
        return None
    whole = choice.times[0] == 0 and choice.times[-1] == sde.num_steps
    return choice if whole and digest_of(choice) == result["sha256"] else None


def _as_result(choice: Choice) -> Json:
    law = choice.law
    return {
        "value": choice.costs[law.kind] / math.log(2),
        "standard_error": None,
        "unit": "bits/dim of half the training images",
        "kind": law.kind,
        "times": list(choice.times),
        "costs": {kind: cost / math.log(2) for kind, cost in choice.costs.items()},
        "squares": packed(law.squares.numpy()),
        "of_levels": packed(law.of_levels.numpy()),
        "sha256": digest_of(choice),
    }


def _of_result(kept: Kept, event: tuple[int, ...]) -> Choice:
    kind = _kind(kept.kind)
    times = tuple(kept.times[1:])
    shape = (len(times), buckets(kind, event))
    codes = (torch.from_numpy(unpacked(each, shape)) for each in (kept.squares, kept.of_levels))
    costs = {_kind(name): cost * math.log(2) for name, cost in kept.costs.items()}
    return Choice(ErrorLaw(kind, times, *codes), tuple(kept.times), costs)


def _kind(name: str) -> Kind:
    for kind in KINDS:
        if kind == name:
            return kind
    raise ValueError(f"no variances are by {name}")


def _chosen(trained: TrainedRun, model: ScoreModel, sde: SDE, asked: Laws, keep: bool) -> Choice:
    """K steps of what is kept for any K, or is measured now."""
    times = times_of(sde, model.t_min)
    if asked.steps > len(times):
        raise RequestError(
            f"compress.steps must be at most {len(times)}, the times that a chain of this process "
            f"may visit, got {asked.steps}"
        )
    settings = _settings(trained, asked)
    del settings["steps"]
    event = tuple(trained.like.train.shape[1:])
    prices = _kept_prices(trained, settings, times, event)
    if prices is None:
        prices = _measured(trained, model, sde, times, asked)
        if keep:
            kept = {**_prices_as_result(prices, times), "settings": settings}
            trained.folder.write_result(ALL, kept)
    try:
        return choose(prices, asked.steps)
    except ValueError as error:
        raise RequestError(f"compress.steps = {asked.steps}: {error}") from error


def _measured(
    trained: TrainedRun, model: ScoreModel, sde: SDE, times: tuple[int, ...], asked: Laws
) -> Prices:
    data = trained.data
    images = min(asked.images, len(data.train))
    if images < LEAST_IMAGES:
        raise RequestError(
            f"the laws of --mode compress are measured on {LEAST_IMAGES} training images or more, "
            f"got {len(data.train)}: add --data PATH"
        )
    with (
        Progress("laws by time", num_calls(images, len(times), AT_ONCE), "call") as progress,
        arithmetic("float32"),
    ):
        halves = fit(
            model, sde, times, data, asked.seed, images, AT_ONCE, lambda: progress.advance(1)
        )
    return priced(halves, times, sde)


# ---- what any K is chosen from ------------------------------------------------------------------


def _kept_prices(
    trained: TrainedRun, settings: Json, times: tuple[int, ...], event: tuple[int, ...]
) -> Prices | None:
    """What is kept under these settings; None where that is nothing, or damaged."""
    try:
        result = trained.folder.read_result(ALL, "it is made again")
        kept = conform(result, KeptPrices)
        if result.get("settings") != settings or kept.times != [*times]:
            return None
        if kept.sha256 != _digest_of_kinds(kept.times, result["kinds"]):
            return None
        return {kind: _of_kind(kind, each, times, event) for kind, each in _sorted(kept)}
    except (InvalidError, RequestError, ValueError):
        return None


def _sorted(kept: KeptPrices) -> list[tuple[Kind, KeptKind]]:
    """In the order in which they were measured, which decides between equals."""
    found = {_kind(name): each for name, each in kept.kinds.items()}
    return [(kind, found[kind]) for kind in KINDS if kind in found]


def _of_kind(kind: Kind, kept: KeptKind, times: tuple[int, ...], event: tuple[int, ...]) -> Priced:
    shape, square = (len(times), buckets(kind, event)), (len(times) + 1,) * 2
    codes = (torch.from_numpy(unpacked(each, shape)) for each in (kept.squares, kept.of_levels))
    texts = (kept.fitted, kept.unseen, kept.whole)
    costs = (torch.from_numpy(unpacked_reals(each, square)) for each in texts)
    return Priced(ErrorLaw(kind, times, *codes), *costs)


def _prices_as_result(prices: Prices, times: tuple[int, ...]) -> Json:
    kinds: dict[str, Json] = {
        kind: {
            "squares": packed(each.law.squares.numpy()),
            "of_levels": packed(each.law.of_levels.numpy()),
            "fitted": packed_reals(each.fitted.numpy()),
            "unseen": packed_reals(each.unseen.numpy()),
            "whole": packed_reals(each.whole.numpy()),
        }
        for kind, each in prices.items()
    }
    return {"times": [*times], "kinds": kinds, "sha256": _digest_of_kinds([*times], kinds)}


def _digest_of_kinds(times: list[int], kinds: Mapping[str, Json]) -> str:
    """SHA-256 of the texts as they are kept."""
    return hashlib.sha256(json.dumps([times, kinds], sort_keys=True).encode()).hexdigest()

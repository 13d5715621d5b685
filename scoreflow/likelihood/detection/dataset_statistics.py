"""Statistics of a set of images for its detection: one row an image, resumable, shared."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor

from scoreflow.data.levels import Embedding, points
from scoreflow.errors import RunError
from scoreflow.likelihood.detection.statistics import (
    LOG_SNR,
    MOMENTS,
    AtLevel,
    at_level,
    levels,
    noise_of,
    path_moments,
    probes_of,
)
from scoreflow.models.score_model import ScoreModel, arithmetic
from scoreflow.runtime.distributed import Shard
from scoreflow.runtime.progress_bar import Progress
from scoreflow.samplers.denoisers.instrumentation import Counted
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.result_rows import Rows
from scoreflow.storage.validation import Length, Range, conform

FEW = len(LOG_SNR)
PARTS = ("with noise", "without noise", "path")
"""Of the statistics, whose evaluations are counted apart."""


@dataclass(frozen=True)
class Row:
    """The schema of an image's row; lists are None where a number is not finite.

    Attributes:
        image: its number.
        status: "done" or "not_finite".
        evaluations: of the denoiser, by `PARTS`.
        norm: |eps_hat|^2 / D at each level of noise.
        curvature: sigma tr(d eps_hat / d x_t) / D there.
        angle: of the one against the other, radians.
        reconstruction: |x_0_hat - x_0|^2 / D there.
        dimension: of the data around it over D, at each level.
        path: moments along the flow, as `MOMENTS`.
        name: of its file.
    """

    image: Annotated[int, Range(0)]
    status: Literal["done", "not_finite"]
    evaluations: Annotated[list[int], Length(len(PARTS))]
    norm: Annotated[list[float], Length(FEW)] | None
    curvature: Annotated[list[float], Length(FEW)] | None
    angle: Annotated[list[float], Length(FEW)] | None
    reconstruction: Annotated[list[float], Length(FEW)] | None
    dimension: Annotated[list[float], Length(FEW)] | None
    path: Annotated[list[float], Length(len(MOMENTS))] | None
    name: str = ""


KINDS = ("norm", "curvature", "angle", "reconstruction", "dimension", "path")
"""The fields of a row with statistics."""


def check_row(row: Json) -> None:
    """Refuse what is no row of an image.

    Raises:
        InvalidError: with the field that is wrong.
    """
    conform(row, Row)


@dataclass(frozen=True)
class Settings:
    """How images are looked at.

    Attributes:
        seed: of noise, probes and dequantization.
        probes: of the traces; 0 takes them exactly.
        batch_size: images at a time.
        embedding: where in a level's bin its point lies: where the network was shown it.
    """

    seed: int
    probes: int
    batch_size: int
    embedding: Embedding


@dataclass(frozen=True)
class Statistics:
    """Of a set of images.

    Attributes:
        columns: a number an image by the name of the statistic, (n,) float64.
        evaluations: of the denoiser an image, by `PARTS`.
    """

    columns: dict[str, Tensor]
    evaluations: dict[str, float]


def names_of(kind: str) -> tuple[str, ...]:
    """The columns of a kind of statistic: one a level, or one a moment."""
    if kind == "path":
        return tuple(f"path: {moment}" for moment in MOMENTS)
    return tuple(f"{kind} at log-SNR {level:g}" for level in LOG_SNR)


def measure(
    model: ScoreModel,
    images: Tensor,
    num_levels: int,
    settings: Settings,
    rows: Rows,
    shard: Shard,
    title: str,
    names: tuple[str, ...] = (),
) -> Statistics:
    """The statistics of each image; those in the rows are taken from there.

    Args:
        model: evaluated in float32.
        images: (n, C, H, W) levels in 0..num_levels-1.
        num_levels: L.
        settings: how.
        rows: where rows are kept.
        shard: this process's share.
        title: of the progress bar.
        names: of the images.

    Raises:
        RunError: a number is not finite; the rows of the others are kept.
    """
    looked = _Images(model.in_precision("float32"), images, num_levels, settings, names)
    done = {k: row for k, row in rows.done.items() if row["status"] == "done"}
    left = [k for k in range(len(images)) if k not in done and shard.has(k)]
    ours = sum(shard.has(k) for k in range(len(images)))
    with Progress(title, ours, "img", ours - len(left)) as progress, arithmetic("float32"):
        for new in looked.rows(left, progress):
            done |= {row["image"]: row for row in new}
            rows.append(new)
            progress.advance(len(new))
    own = {k: done[k] for k in range(len(images)) if k in done and shard.has(k)}
    theirs = shard.gathered(own)
    if shard.rank == 0:
        rows.adopt()
    found = [(done | theirs)[k] for k in range(len(images))]
    _refuse_infinite(found, title)
    return _joined(found)


def _joined(found: list[Json]) -> Statistics:
    columns: dict[str, Tensor] = {}
    for kind in KINDS:
        values = torch.tensor([row[kind] for row in found], dtype=torch.float64).T.contiguous()
        columns |= dict(zip(names_of(kind), values.unbind(), strict=True))
    calls = torch.tensor([row["evaluations"] for row in found], dtype=torch.float64).mean(0)
    return Statistics(columns, dict(zip(PARTS, calls.tolist(), strict=True)))


def _refuse_infinite(found: list[Json], title: str) -> None:
    bad = [row["image"] for row in found if row["status"] != "done"]
    if bad:
        raise RunError(
            f"{title}: {len(bad)} of {len(found)} images have statistics that are not finite, the "
            f"first being image {bad[0]}: the network's estimates are beyond float32. Train for "
            "more steps, or leave these images out; the rows of the others are kept"
        )


class _Images:
    """Images to be looked at.

    Args:
        model: in float32.
        images: levels.
        num_levels: L.
        settings: how.
        names: of the images, or none.
    """

    def __init__(
        self,
        model: ScoreModel,
        images: Tensor,
        num_levels: int,
        settings: Settings,
        names: tuple[str, ...],
    ) -> None:
        self.model, self.images, self.names = model, images, names
        self.num_levels, self.settings = num_levels, settings
        self.end = float(model.posed.num_steps)
        self.times = levels(model.sde, model.t_min, self.end)

    def rows(self, left: list[int], progress: Progress) -> Iterator[list[Json]]:
        """A row for each image, a batch at a time."""
        size = self.settings.batch_size
        for start in range(0, len(left), size):
            yield self._looked_at(left[start : start + size], progress)

    def _looked_at(self, numbers: list[int], progress: Progress) -> list[Json]:
        index = torch.tensor(numbers, dtype=torch.int64, device=self.images.device)
        noise = Noise(self.settings.seed, index)
        x_0 = points(
            self.images[index],
            self.num_levels,
            noise,
            Stream.DEQUANTIZE,
            self.settings.embedding,
        )
        counted, calls = Counted(self.model, progress.evaluated), [0]
        with torch.no_grad():
            seen = self._at_levels(counted, x_0, noise, still=False)
            calls.append(counted.rows)
            alone = self._at_levels(counted, x_0, noise, still=True)
            calls.append(counted.rows)
            path = path_moments(counted, self.model.sde, x_0, self.model.t_min, self.end)
            calls.append(counted.rows)
        each = [(b - a) // len(numbers) for a, b in pairwise(calls)]
        found = {
            "norm": torch.stack([level.norm for level in seen], 1),
            "curvature": torch.stack([level.curvature for level in seen], 1),
            "angle": torch.stack([level.angle for level in seen], 1),
            "reconstruction": torch.stack([level.reconstruction for level in seen], 1),
            "dimension": torch.stack([level.dimension for level in alone], 1),
            "path": path,
        }
        return [self._row(k, place, found, each) for place, k in enumerate(numbers)]

    def _at_levels(
        self, denoiser: Denoiser, x_0: Tensor, noise: Noise, still: bool
    ) -> list[AtLevel]:
        """Each level of noise, with fresh probes at each; `still`: without the noise."""
        found, shape = [], tuple(x_0.shape[1:])
        for k, t in enumerate(self.times):
            there = noise.at(1 + k)
            eps = torch.zeros_like(x_0) if still else noise_of(there, shape)
            probes = probes_of(there.at(1 + k + still * FEW), shape, self.settings.probes)
            found.append(at_level(denoiser, self.model.sde, x_0, t, eps, probes))
        return found

    def _row(self, number: int, place: int, found: dict[str, Tensor], calls: list[int]) -> Json:
        """The row of an image, which is not done if a number of it is not finite."""
        values: Json = {kind: of_all[place].tolist() for kind, of_all in found.items()}
        finite = all(bool(of_all[place].isfinite().all()) for of_all in found.values())
        if not finite:
            values = dict.fromkeys(found)
        named = {"name": self.names[number]} if number < len(self.names) else {}
        status = "done" if finite else "not_finite"
        return {"image": number, **named, "status": status, "evaluations": calls, **values}

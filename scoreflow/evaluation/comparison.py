"""Samplers compared on one network, from the same noise: quality against evaluations and seconds.

A case is a sampler with a budget of evaluations. Every case starts from the same x_N, so that
image k of one and image k of another are what two methods make of one noise.
"""

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from samplers import Counted
from scoreflow import parallel
from scoreflow.build import Drawing
from scoreflow.data import Data
from scoreflow.draw import draw_samples, picture, values_of
from scoreflow.files import Json
from sde.base import SDE
from sde.noise import Noise, Stream

PICTURED = 16


@dataclass(frozen=True)
class Case:
    """A sampler and how it is to be run.

    Attributes:
        sampler: its name.
        budget: evaluations an image that it may take; of the adaptive one, what its tolerance is
            meant to take.
        drawing: the method, its times and its denoiser.
    """

    sampler: str
    budget: int
    drawing: Drawing


def measured(
    case: Case, sde: SDE, data: Data, seed: int, count: int, batch_size: int
) -> tuple[Json, bytes, Tensor]:
    """Draw a case: its row without metrics, a picture of its first images, and the samples.

    Several processes share the samples, and every one of them must call this.
    """
    counted = Counted(case.drawing.denoiser)
    drawing = replace(case.drawing, denoiser=counted)
    noise = Noise.of(seed, 0, count, data.train.device)
    # what is only done once is not the first case's to pay for
    event = tuple(data.train.shape[1:])
    with torch.no_grad():
        case.drawing.denoiser(noise.rows(noise.index[:batch_size]).normal(Stream.PRIOR, event),
                              case.drawing.times[0])  # fmt: skip
    if noise.index.is_cuda:
        torch.cuda.synchronize(noise.index.device)
    start = time.monotonic()
    title = f"{case.sampler} {case.budget}"
    x = draw_samples(drawing, sde, noise, tuple(data.train.shape[1:]), batch_size, title)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    seconds = time.monotonic() - start
    row = {
        "sampler": case.sampler,
        "budget": case.budget,
        "nfe": parallel.shard().total(counted.rows) / count,
        "seconds": seconds,
        "images_per_second": count / seconds,
        "num_images": count,
        "processes": parallel.shard().world,
        "threads": torch.get_num_threads(),
    }
    return row, picture(values_of(x, data)[: _shown(data)], data), x


def _shown(data: Data) -> int | None:
    """How many samples a picture shows: a few images, all points."""
    return None if data.num_levels is None else PICTURED


# ---- the table ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A number of a row, as both tables show it.

    Attributes:
        key: of the row; its error has `_error` behind it.
        title: in the page, "" for not there.
        short: in the terminal, "" for not there.
        form: of the number, and of its error; "" for two digits of the error.
        part: the table of the page that it stands in.
    """

    key: str
    title: str
    short: str
    form: str = ".3f"
    part: int = 0

    def told(self, row: Json, sign: str = "+-") -> str:
        """The number and its error; nothing where the row has none."""
        value = row.get(self.key)
        if value is None:
            return ""
        error, form = row.get(f"{self.key}_error"), self.form
        if not form:
            form = f".{max(0, 1 - math.floor(math.log10(error)))}f" if error else ".3g"
        return f"{value:{form}}" + ("" if error is None else f" {sign} {error:{form}}")


COLUMNS = (
    Column("budget", "", "budget", "d"),
    Column("nfe", "evaluations an image", "evaluations", ".1f"),
    Column("seconds", "seconds", "", ".2f"),
    Column("images_per_second", "images/s", "images/s", ".1f"),
    Column("two_sample", "two-sample accuracy", "two-sample"),
    Column("samples_recognised", "samples recognised", ""),
    Column("real_recognised", "data recognised", ""),
    Column("told_apart", "", "worse rate from .5"),
    Column("precision", "precision", "precision"),
    Column("recall", "recall", "recall"),
    Column("feature_distance", "feature distance", "feature distance", ".2f", part=1),
    Column("class_distance", "classes, total variation", "", part=1),
    Column("nearest_train_distance", "distance to training data", "", "", part=1),
    Column("nearest_ratio", "over that of held-out data", "nearest/held-out", part=1),
    Column("copies", "copies", "copies", "d", part=1),
    Column("energy_distance", "energy distance", "energy distance", ".5f", part=1),
    Column("wasserstein", "Wasserstein-2", "Wasserstein-2", ".4f", part=1),
    Column("fid", "FID", "FID", ".2f", part=1),
    Column("kid", "KID", "KID", ".5f", part=1),
    Column("inception_score", "inception score", "IS", ".2f", part=1),
)


def columns_of(rows: list[Json]) -> list[Column]:
    """The columns that one of the rows has."""
    return [column for column in COLUMNS if any(column.key in row for row in rows)]


def beside(test_data: Json, floors: Json) -> list[Json]:
    """The rows under those of the samplers: what real data get."""
    rows = [{"sampler": "held-out data", **test_data}]
    return [*rows, {"sampler": "two sets of the truth", **floors}] if floors else rows


def table(rows: list[Json]) -> str:
    """The rows for the terminal."""
    columns = [column for column in columns_of(rows) if column.short]
    cells = [["", *(column.short for column in columns)]]
    cells += [[row["sampler"], *(column.told(row) for column in columns)] for row in rows]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns) + 1)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in cells
    )

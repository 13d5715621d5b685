"""Samplers compared on one network, from the same noise: quality against evaluations and seconds.

A case is a sampler with a budget of evaluations. Every case starts from the same x_N, so that
image k of one and image k of another are what two methods make of one noise.
"""

import base64
import html
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from samplers import Counted
from scoreflow.build import Drawing
from scoreflow.data import Data
from scoreflow.draw import draw_samples, picture, values_of
from scoreflow.files import Json
from scoreflow.metrics import precision_recall, two_sample_accuracy
from scoreflow.plot import Plot, Series, svg
from sde.analytic import Distribution
from sde.base import SDE
from sde.noise import Noise

REFERENCE_SEED = 77


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
    """Draw a case: its row without metrics, a picture of its first images, and the samples."""
    counted = Counted(case.drawing.denoiser)
    drawing = replace(case.drawing, denoiser=counted)
    noise = Noise.of(seed, 0, count, data.train.device)
    start = time.monotonic()
    title = f"{case.sampler} {case.budget}"
    x = draw_samples(drawing, sde, noise, tuple(data.train.shape[1:]), batch_size, title)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    seconds = time.monotonic() - start
    row = {
        "sampler": case.sampler,
        "budget": case.budget,
        "nfe": counted.rows / count,
        "seconds": seconds,
        "images_per_second": count / seconds,
        "num_images": count,
    }
    return row, picture(values_of(x, data)[: _shown(data)], data), x


def _shown(data: Data) -> int | None:
    """How many samples a picture shows: a few images, all points."""
    return None if data.num_levels is None else PICTURED


PICTURED = 16


def judged(x: Tensor, data: Data, truth: Distribution | None) -> Json:
    """The metrics of some samples.

    Args:
        x: as drawn, (n, ...).
        data: to compare with.
        truth: the law of the data, where it is known.
    """
    values = values_of(x, data)
    n = min(len(values), len(data.train), len(data.test))
    two = two_sample_accuracy(values[:n], data.train[:n])
    close = precision_recall(values[:n], data.train[:n])
    nearest = torch.cdist(values[:n].double().flatten(1), data.train.double().flatten(1)).amin(1)
    found = {
        "two_sample": two["accuracy"],
        "two_sample_error": two["standard_error"],
        "samples_recognised": two["samples_recognised"],
        "real_recognised": two["real_recognised"],
        "precision": close["precision"],
        "recall": close["recall"],
        "nearest_train_distance": float(nearest.mean()),
        "copies": int((nearest == 0).sum()),
    }
    if truth is not None:
        real = truth.sample(Noise.of(REFERENCE_SEED, 0, len(x)))
        found |= energy_distance(x.cpu(), real)
    return found


def energy_distance(x: Tensor, y: Tensor, blocks: int = 8) -> dict[str, float]:
    """Energy distance (Szekely & Rizzo 2013) of samples to draws of the truth, unbiased.

    2 E|x - y| - E|x - x'| - E|y - y'|, 0 for equal laws; its standard error by the spread over
    disjoint blocks of both.
    """
    values = [
        _energy(a.double().flatten(1), b.double().flatten(1))
        for a, b in zip(x.chunk(blocks), y.chunk(blocks), strict=True)
    ]
    each = torch.tensor(values, dtype=torch.float64)
    return {
        "energy_distance": float(each.mean()),
        "energy_distance_error": float(each.std() / len(each) ** 0.5),
    }


def _energy(x: Tensor, y: Tensor) -> float:
    n, m = len(x), len(y)
    apart = torch.cdist(x, y).mean()
    own_x = torch.cdist(x, x).sum() / (n * (n - 1))
    own_y = torch.cdist(y, y).sum() / (m * (m - 1))
    return float(2 * apart - own_x - own_y)


def table(rows: list[Json]) -> str:
    """The rows for the terminal."""
    head = f"{'sampler':18s}{'evaluations':>12s}{'images/s':>10s}{'two-sample':>18s}"
    head += f"{'precision':>11s}{'recall':>9s}"
    exact = any("energy_distance" in row for row in rows)
    lines = [head + (f"{'energy distance':>22s}" if exact else "")]
    for row in rows:
        line = f"{row['sampler']:18s}{row['nfe']:12.1f}{row['images_per_second']:10.1f}"
        line += f"{row['two_sample']:11.3f} +- {row['two_sample_error']:.3f}"
        line += f"{row['precision']:10.3f}{row['recall']:9.3f}"
        if exact:
            line += f"{row['energy_distance']:13.5f} +- {row['energy_distance_error']:.5f}"
        lines.append(line)
    return "\n".join(lines)


def section(rows: list[Json], pictures: dict[tuple[str, int], bytes], seed: int) -> str:
    """The comparison as a part of the report: plots, table, and the images column by column."""
    exact = any("energy_distance" in row for row in rows)
    measure = ("energy_distance", "energy distance") if exact else (
        "two_sample", "two-sample accuracy (0.5 is best)"
    )  # fmt: skip
    plots = [
        svg(_plot(rows, "nfe", "evaluations an image", *measure, exact)),
        svg(_plot(rows, "seconds", "seconds for all images", *measure, exact)),
    ]
    columns = tuple(key for key in rows[0] if key not in ("case", "budget", "num_images"))
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(row[name])}</td>" for name in columns) + "</tr>"
        for row in rows
    )
    return (
        "<h2>Samplers compared</h2><p class=small>One network; every case starts from the same "
        f"noise (seed {seed}), so image k is in the same place in each picture.</p>"
        f"<div class=figures>{''.join(plots)}</div>"
        f"<table class=wide><tr>{head}</tr>{body}</table>{_pictures(rows, pictures)}"
    )


def _plot(rows: list[Json], x: str, x_label: str, y: str, y_label: str, log_y: bool) -> Plot:
    names = dict.fromkeys(row["sampler"] for row in rows)
    series = tuple(
        Series(
            name,
            [row[x] for row in rows if row["sampler"] == name],
            [row[y] for row in rows if row["sampler"] == name],
        )
        for name in names
    )
    return Plot(f"{y_label} against {x_label}", x_label, series, log_x=True, log_y=log_y)


def _cell(value: Any) -> str:  # noqa: ANN401
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))


def _pictures(rows: list[Json], pictures: dict[tuple[str, int], bytes]) -> str:
    """A row a budget, a column a sampler."""
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    budgets = sorted({row["budget"] for row in rows})
    by_case: dict[tuple[str, int], Json] = {(r["sampler"], r["budget"]): r for r in rows}

    def cell(name: str, budget: int) -> str:
        if (name, budget) not in pictures:
            return "<td></td>"
        source = base64.b64encode(pictures[name, budget]).decode()
        return (
            f'<td><img src="data:image/png;base64,{source}" alt="{name}" width="150">'
            f"<div class=small>{by_case[name, budget]['nfe']:.0f} evaluations</div></td>"
        )

    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(
        f"<tr><td>{budget}</td>{''.join(cell(name, budget) for name in names)}</tr>"
        for budget in budgets
    )
    return f"<h3>The same noise</h3><table class=wide><tr><th>budget</th>{head}</tr>{body}</table>"

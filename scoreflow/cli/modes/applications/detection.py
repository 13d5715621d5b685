"""likelihood.scores=all: a table of how well each score tells other data from the test set.

detection.json                    a table of scores and sets, with what was learned from
detection-test.jsonl              a row of statistics for each test image
detection-reference.jsonl         the same of the images that show what is ordinary
detection-data-NAME.jsonl         the same of each other set
likelihood-reference.jsonl        the likelihood of the reference, image by image

Under other settings each has a name of its own, with a hash (`storage.measurements`).
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoreflow.cli.console import say
from scoreflow.data.dataset import Data
from scoreflow.data.levels import Embedding, to_uint8
from scoreflow.figures.image_grid import image_grid
from scoreflow.figures.plot import Plot, Series
from scoreflow.likelihood.dataset_likelihood import Measured
from scoreflow.likelihood.detection import ood_detection, table
from scoreflow.likelihood.detection.dataset_statistics import (
    PARTS,
    Settings,
    Statistics,
    measure,
    names_of,
)
from scoreflow.likelihood.detection.scores import Score
from scoreflow.likelihood.detection.statistics import LOG_SNR, PATH
from scoreflow.likelihood.detection.table import REFERENCE, TEST
from scoreflow.models.score_model import ScoreModel
from scoreflow.paths import short_name
from scoreflow.runtime import distributed
from scoreflow.schema.config import AnyConfig, Config
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.result_rows import Rows

NOT_OF_STATISTICS = (
    "dequantization",
    "samples",
    "t_start",
    "method",
    "nodes",
    "substeps",
    "trajectory_tolerance",
    "tolerance",
    "tolerance_bits",
    "batch",
)
"""What a row of a likelihood depends on and one of statistics does not."""
SHOWN = 10
"""Images of each set in the picture."""
EXTREMES = 5
"""Images of each set that a result names as the least and the most anomalous."""
BLOCK = 1024
"""Images in float64 at a time."""


# ---- measuring ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What the table is made with.

    Attributes:
        config: of the run.
        model: its network, of the class that was asked for.
        own: its data.
        likelihood: of all images of the reference.
        rows: under a name and a heading, held while they are written.
        heading: all that a row of the likelihood of data depends on.
        compiled: the network for so many evaluations of so many images.
        keep_picture: writes the PNG of a name, and returns the name that it has.
    """

    config: AnyConfig
    model: ScoreModel
    own: Data
    likelihood: Callable[[Data], Measured]
    rows: Callable[[str, Json], AbstractContextManager[Rows]]
    heading: Callable[[Data], Json]
    compiled: Callable[[ScoreModel, float, int], ScoreModel]
    keep_picture: Callable[[str, bytes], str]


@dataclass(frozen=True)
class _Seen:
    """A set of images with all that is known of each."""

    data: Data
    measured: Measured
    statistics: Statistics
    columns: dict[str, Tensor]


def detection(
    asked: Asked, measured: Measured, others: Mapping[str, tuple[Data, Measured]]
) -> Json:
    """The table, said and as a result.

    Args:
        asked: how.
        measured: the likelihood of the test set.
        others: other data, and their likelihoods.
    """
    start = time.monotonic()
    c, own = Config.of(asked.config).likelihood, asked.own
    known = reference(asked.config, own)
    taught = _seen(asked, "reference", known, asked.likelihood(known))
    count = len(measured.values)
    if c.reference == "test":
        count = min(count, len(own.test) - c.held_out)
    test = _seen(asked, "test", own, _first_of(measured, count))
    seen = {
        name: _seen(asked, f"data-{short_name(name)}", data, found)
        for name, (data, found) in others.items()
    }
    if not distributed.is_main_process():
        return {}
    sets = {"reference": taught, "test": test, **seen}
    for each in sets.values():
        each.columns[NEAREST] = _nearest(each.data.test, known.test, each is taught)
    found = _result(asked, taught, test, seen)
    return {**found, "seconds": time.monotonic() - start}


def reference(config: AnyConfig, own: Data) -> Data:
    """The images that show what is ordinary, as a test part."""
    c = Config.of(config).likelihood
    if c.reference == "test":
        images, labels = own.test[-c.held_out :], own.test_labels
        return replace(own, test=images, test_labels=_last(labels, c.held_out), test_names=())
    rows = torch.linspace(0, len(own.train) - 1, c.held_out).round().long().to(own.train.device)
    labels = None if own.train_labels is None else own.train_labels[rows]
    return replace(own, test=own.train[rows], test_labels=labels, test_names=())


def _last(labels: Tensor | None, count: int) -> Tensor | None:
    return None if labels is None else labels[-count:]


def _first(data: Data, count: int) -> Data:
    return replace(data, test=data.test[:count], test_names=data.test_names[:count])


def _first_of(measured: Measured, count: int) -> Measured:
    parts = (measured.values, measured.evaluations, measured.solver_error)
    values, evaluations, error = (each[:count] for each in parts)
    return replace(measured, values=values, evaluations=evaluations, solver_error=error)


def _seen(asked: Asked, name: str, whole: Data, measured: Measured) -> _Seen:
    """The statistics of the images of a set that were measured, and their likelihood."""
    data = _first(whole, len(measured.values))
    c, shard = Config.of(asked.config).likelihood, distributed.shard()
    embedding: Embedding = (
        "centre" if Config.of(asked.config).training.dequantization == "centre" else "uniform"
    )
    assert data.num_levels is not None, "images have levels"
    settings = Settings(c.seed, c.probes, c.batch_size, embedding)
    heading = {k: v for k, v in asked.heading(whole).items() if k not in NOT_OF_STATISTICS}
    heading |= {"log_snr": list(LOG_SNR), "path": PATH}
    calls = 2 * len(LOG_SNR) * (1 + 2 * (c.probes or data.test[0].numel())) + PATH
    with asked.rows(f"detection-{name}", heading) as rows:
        left = max(0, len(data.test) - len(rows.done))
        statistics = measure(
            asked.compiled(asked.model, calls, left),
            data.test,
            data.num_levels,
            settings,
            rows,
            shard,
            f"statistics, {name.removeprefix('data-')}",
            data.test_names,
        )
    bits = measured.values.mean(1)
    png = ood_detection.png_bits_per_dim(data.test, data.num_levels)
    by_nodes = c.method == "nodes"
    effort = measured.evaluations
    if by_nodes:  # nearly all images take equally many
        effort = ood_detection.effort(effort, measured.solver_error)
    columns = {BITS: bits, PNG: png, OVER_PNG: bits - png, EFFORT: effort}
    return _Seen(data, measured, statistics, {**columns, **_as_logs(statistics.columns)})


def _as_logs(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Squared sizes by their logarithms, which are nearer to a Gaussian; 0 has none."""
    least = torch.finfo(torch.float64).tiny
    logs = ("norm", "reconstruction")
    return {
        name: values.clamp(min=least).log() if name.startswith(logs) else values
        for name, values in columns.items()
    }


def _nearest(images: Tensor, known: Tensor, same: bool) -> Tensor:
    """The distance of each image from the nearest of others, in levels (Euclidean)."""
    others, nearest = known.flatten(1).double().cpu(), []
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK].flatten(1).double().cpu()
        # 0 where equal
        found = torch.cdist(block, others, compute_mode="donot_use_mm_for_euclid_dist")
        if same:
            found.diagonal(start).fill_(torch.inf)
        nearest.append(found.min(1).values)
    return torch.cat(nearest)


# ---- the table ----------------------------------------------------------------------------------

BITS, PNG, OVER_PNG = "bits/dim", "a PNG's bits/dim", "bits/dim over a PNG's"
EFFORT, NEAREST = "evaluations", "distance to the nearest image"
TOGETHER = "all together"
WITH, WITHOUT, ALONG = PARTS
OF_LIKELIHOOD = "likelihood"
DENSITY = {
    "score norm": ("norm", WITH),
    "curvature": ("curvature", WITH),
    "SCOPED": ("angle", WITH),
    "FLIPD": ("dimension", WITHOUT),
    "DiffPath": ("path", ALONG),
}
"""Scores by a density: the statistics that they are of, and the evaluations that those take."""


def scores() -> dict[Score, tuple[str, ...]]:
    """Every score of the table, with the parts whose evaluations it takes."""
    vector = [BITS, OVER_PNG]
    for kind in ("norm", "curvature", "dimension", "reconstruction", "path"):
        vector += names_of(kind)
    return {
        Score(BITS, (BITS,), "value"): (OF_LIKELIHOOD,),
        Score("typicality", (BITS,), "distance"): (OF_LIKELIHOOD,),
        Score(OVER_PNG, (OVER_PNG,), "value"): (OF_LIKELIHOOD,),
        Score(EFFORT, (EFFORT,), "value"): (OF_LIKELIHOOD,),
        **{
            Score(name, names_of(kind), "density"): (part,)
            for name, (kind, part) in DENSITY.items()
        },
        Score("reconstruction", names_of("reconstruction"), "mean z"): (WITH,),
        Score(TOGETHER, tuple(vector), "density"): (OF_LIKELIHOOD, *PARTS),
        Score("no network: PNG", (PNG,), "density"): (),
        Score("no network: nearest", (NEAREST,), "value"): (),
    }


def _result(asked: Asked, taught: _Seen, test: _Seen, seen: Mapping[str, _Seen]) -> Json:
    rows, by_score = [], {}
    columns = {name: each.columns for name, each in seen.items()}
    calls = {OF_LIKELIHOOD: float(test.measured.result["nfe"]), **test.statistics.evaluations}
    for score, parts in scores().items():
        row, values = table.judged(score, taught.columns, test.columns, columns)
        rows.append({**row, "evaluations": sum(calls[part] for part in parts)})
        by_score[score.name] = values
    say(table.text(rows))
    c = Config.of(asked.config).likelihood
    warning = _warning(rows, c.reference)
    if warning:
        say(warning)
    together = next(row for row in rows if row["name"] == TOGETHER)
    shown = {TEST: test, REFERENCE: taught, **seen}
    return {
        "value": together["worst"]["auroc"],
        "standard_error": together["worst"]["standard_error"],
        "unit": "AUROC of all scores of the network together, of the set that is told worst",
        "num_images": len(test.data.test),
        "reference": {"of": c.reference, "num_images": len(taught.data.test)},
        "warning": warning,
        "scores": rows,
        "sets": {name: _about(name, each, by_score) for name, each in shown.items()},
        "histograms": _histograms(by_score),
        "picture": asked.keep_picture("detection", _picture(shown)),
    }


def _warning(rows: list[Json], of: str) -> str:
    """A line where the test set is not like the reference."""
    apart = table.shifted(rows)
    if not apart:
        return ""
    most = max(apart, key=lambda row: abs(row["shift"]["auroc"] - 0.5))
    shift = most["shift"]
    told = (
        f"Beware: by {len(apart)} of {len(rows)} scores the test set differs from the reference, "
        f"most by {most['name']} (AUROC {shift['auroc']:.3f} +- {shift['standard_error']:.3f}"
        ", where 0.5 is no difference)"
    )
    if of == "train":
        told += (
            ": the network was trained on the reference, so what the scores learned there is not "
            "what holds for images it has not seen; take --config.likelihood.reference=test"
        )
    return told


def _about(name: str, each: _Seen, by_score: Mapping[str, Mapping[str, Tensor]]) -> Json:
    """A set's size and likelihood, and which of its images are the least and most anomalous."""
    bits = each.columns[BITS]
    about: Json = {"num_images": len(bits), "bits_per_dim": float(bits.mean())}
    values = by_score[TOGETHER].get("" if name == TEST else name)
    if values is None:
        return about
    order = values.argsort().tolist()

    def named(k: int) -> Json:
        names = each.data.test_names
        return {"image": k, **({"name": names[k]} if k < len(names) else {})}

    about["least"] = [{**named(k), "value": float(values[k])} for k in order[:EXTREMES]]
    about["most"] = [{**named(k), "value": float(values[k])} for k in order[: -EXTREMES - 1 : -1]]
    return about


def _histograms(by_score: Mapping[str, Mapping[str, Tensor]]) -> list[Json]:
    """Plots of the likelihood, of typicality and of all scores together, set by set."""
    plots = []
    for name in (BITS, OVER_PNG, TOGETHER):
        drawn = table.histogram(by_score[name])
        lines = tuple(
            Series(of or TEST, drawn["middles"], shares) for of, shares in drawn["shares"].items()
        )
        plots.append(Plot(name, name, "share of the images", lines, log_y=False).as_json())
    return plots


def _picture(shown: Mapping[str, _Seen]) -> bytes:
    """A row of images of each set; a set with few of them begins again."""
    rows = []
    for each in shown.values():
        images = each.data.test
        assert each.data.num_levels is not None, "images have levels"
        few = torch.arange(SHOWN, device=images.device) * max(1, len(images) // SHOWN)
        rows.append(to_uint8(images[few % len(images)], each.data.num_levels).cpu())
    whole = torch.cat(rows)
    return image_grid(whole, SHOWN, max(1, 40 // whole.shape[-1]))

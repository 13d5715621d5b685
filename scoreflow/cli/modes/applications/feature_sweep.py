"""--mode features with features.sweep=true: how well classes are told by each layer at each time.

features.json     a row a layer and time, and what stands beside them
features.jsonl    the rows, kept as they come, so a sweep that was stopped goes on

One evaluation of the network at a time and draw gives all layers.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoreflow.cli.console import recorded, say
from scoreflow.data.dataset import Data, digest
from scoreflow.data.levels import centres
from scoreflow.data.stored.images import Images, chosen
from scoreflow.errors import RequestError
from scoreflow.evaluation.features import clean_features
from scoreflow.evaluation.representations.activations import (
    Asked,
    activations,
    by_batches,
    log_snr,
)
from scoreflow.evaluation.representations.layers import LATENT, Layers
from scoreflow.evaluation.representations.probe import refuse_few
from scoreflow.evaluation.representations.sweep import (
    Scoring,
    best_of,
    case_of,
    check_row,
    differences,
    in_the_plane,
    principal,
)
from scoreflow.factory.applications.features import (
    build_asked,
    build_layers,
    build_swept,
    build_times,
    refuse_size,
)
from scoreflow.factory.choose import choose_key
from scoreflow.runtime.distributed import Shard
from scoreflow.runtime.progress_bar import Progress
from scoreflow.schema.applications.features import BESIDE
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.fingerprint import fingerprint
from scoreflow.storage.result_rows import Rows
from scoreflow.trained_run import TrainedRun

NAME = "features"
"""Of the result."""
NOT_OF_A_ROW = (
    "layer", "t", "data", "fit", "mode", "background", "layers", "times", "beside", "sweep",
    "batch_size", "clusters",
)  # fmt: skip
"""Keys of the section that a row does not depend on, or that its heading has in other words."""

Features = tuple[Tensor, Tensor]
"""Of the training and of the test data."""


@dataclass(frozen=True)
class Sweep:
    """A sweep as it is asked for, everything checked.

    Attributes:
        trained: the run.
        asked: how features are made.
        layers: of the network.
        paths: of those swept over.
        times: in steps, rising.
        train: data that probes and clusters are fitted on.
        test: data that they are scored on.
        scoring: how.
        beside: what stands beside the layers.
    """

    trained: TrainedRun
    asked: Asked
    layers: Layers
    paths: tuple[str, ...]
    times: tuple[float, ...]
    train: Images
    test: Images
    scoring: Scoring
    beside: tuple[str, ...]

    @property
    def cases(self) -> list[str]:
        """All, in their order."""
        of_layers = [case_of(self.layers.short(p), t) for t in self.times for p in self.paths]
        return [*self.beside, *of_layers]

    def at(self, t: float, paths: tuple[str, ...], advance: Callable[[int], None]) -> Json:
        """Features of both parts, by path, at a time."""
        parts = [
            activations(self.asked, each, t, paths, advance) for each in (self.train, self.test)
        ]
        return {path: (parts[0][path], parts[1][path]) for path in paths}


def first(values: Images, count: int) -> Images:
    """The first so many data, all for 0; stored ones are not read."""
    few = min(count or len(values), len(values))
    return values if few == len(values) else chosen(values, torch.arange(few))


def encoded(
    trained: TrainedRun,
    asked: Asked,
    values: Images,
    advance: Callable[[int], None],
    shard: Shard | None = None,
) -> Tensor:
    """Latents of data by the probability flow, (n, ...) float32 on the CPU.

    Args:
        trained: the run.
        asked: of which class, and how many data at a time.
        values: levels or vectors.
        advance: gets the number of data encoded.
        shard: this process's share, as for `activations`.
    """

    def latents(part: Tensor, _start: int) -> dict[str, Tensor]:
        found = trained.encode(part, model=asked.model)
        advance(len(part))
        return {LATENT: found}

    return by_batches(values, asked.batch_size, latents, shard)[LATENT]


def sweep(trained: TrainedRun) -> None:
    """Measure what is not there yet; the result into results/features.json."""
    began, swept = time.monotonic(), _checked(trained)
    heading = _heading(swept)
    with trained.folder.rows(NAME, heading, 0, "case", check_row) as rows:
        _measure(swept, rows)
        found = [rows.done[case] for case in swept.cases]
    _keep(swept, found, heading, time.monotonic() - began)


def _checked(trained: TrainedRun) -> Sweep:
    """The sweep that the section asks for.

    Raises:
        RequestError: it cannot be made.
    """
    config, data = trained.config, trained.data
    c = config.features
    asked = build_asked(config, trained.model, data)
    layers = build_layers(asked, data)
    paths, times = build_swept(config, layers), build_times(config, trained.model)
    train, test = first(data.train, c.train_images), first(data.test, c.num_images)
    if data.one_part:
        raise RequestError(
            f"features.sweep fits on training data and scores on others, and {data.name} is one "
            "part that holds nothing out: give --data with a train and a test split"
        )
    labels = _labels(data, len(train), len(test))
    clusters = c.clusters or (data.num_classes if labels is not None else 0)
    if c.clusters == 1:
        raise RequestError("features.clusters must be at least 2 in a sweep, got 1: raise it")
    if clusters < 2:
        raise RequestError(
            f"{data.name} has no labels to tell classes by: set features.clusters=K for k-means "
            "alone, of K clusters"
        )
    if clusters > min(len(train), len(test)):
        raise RequestError(
            f"features.clusters = {clusters} must be at most the number of data, "
            f"{min(len(train), len(test))}"
        )
    remedy = "pool it, or lower features.train_images and features.num_images"
    refuse_size(asked, layers, paths, data, len(train) + len(test), remedy)
    scoring = Scoring(labels, clusters, c.repeats, c.seed)
    beside = _named_beside(trained)
    return Sweep(trained, asked, layers, paths, times, train, test, scoring, beside)


def _labels(data: Data, train: int, test: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The classes of both parts; None where they are not known."""
    if data.train_labels is None or data.test_labels is None:
        return None
    of_train = data.train_labels[:train].cpu().numpy()
    refuse_few(of_train)
    return of_train, data.test_labels[:test].cpu().numpy()


def _named_beside(trained: TrainedRun) -> tuple[str, ...]:
    """What stands beside the layers, each once.

    Raises:
        RequestError: one is no choice, or is asked for by name and the run has none.
    """
    asked = trained.config.features.beside
    found = tuple(dict.fromkeys(choose_key("features.beside", each) for each in asked))
    if "classifier" not in found:
        return found
    try:
        trained.classifier()
    except RequestError:
        if found != BESIDE:  # it was named
            raise
        return tuple(each for each in found if each != "classifier")
    return found


def _heading(swept: Sweep) -> Json:
    """All that a row depends on but its case."""
    trained, c = swept.trained, swept.trained.config.features
    data, scoring = trained.data, swept.scoring
    heading = {key: value for key, value in c.to_dict().items() if key not in NOT_OF_A_ROW}
    sampling = trained.config.sampling
    return heading | {
        "label": swept.asked.model.label if isinstance(swept.asked.model.label, int) else -1,
        "num_images": len(swept.test),
        "train_images": len(swept.train),
        "k": scoring.clusters,
        "flow": [sampling.method, sampling.tolerance],
        "step": trained.step,
        "device": trained.experiment.device.type,
        "weights": trained.fingerprint,
        "train": digest(swept.train, data.train_labels),
        "test": digest(swept.test, data.test_labels),
        **trained.trained_with,
        **(
            {"classifier": fingerprint(trained.classifier().network)}
            if "classifier" in swept.beside
            else {}
        ),
    }


# ---- rows ---------------------------------------------------------------------------------------


def _measure(swept: Sweep, rows: Rows) -> None:
    """The rows that are not there yet, each kept as soon as it is made."""
    missing = [case for case in swept.cases if case not in rows.done]
    done = len(swept.cases) - len(missing)
    with Progress("features", len(swept.cases), "case", done) as progress:

        def keep(name: str, t: float | None, features: Features) -> None:
            snr = None if t is None else log_snr(swept.trained.model.sde, t)
            row = swept.scoring.row(name, t, snr, *features)
            rows.append([row])
            told = {"probe": f"{row['accuracy']:.3f}"} if "accuracy" in row else {}
            progress.advance(1, case=row["case"], **told)

        for name in swept.beside:
            if name in missing:
                keep(name, None, _beside(swept, name, progress))
        for t in swept.times:
            left = [p for p in swept.paths if case_of(swept.layers.short(p), t) in missing]
            if left:
                found = swept.at(t, tuple(left), lambda _evaluated: progress.evaluated())
            for path in left:
                keep(swept.layers.short(path), t, found.pop(path))


def _beside(swept: Sweep, name: str, progress: Progress) -> Features:
    """Features that stand beside the layers."""
    trained, levels = swept.trained, swept.trained.data.num_levels
    if name == "latent":
        train, test = (
            encoded(trained, swept.asked, each, lambda _n: progress.evaluated())
            for each in (swept.train, swept.test)
        )
        return train, test
    if name == "classifier":
        classifier = trained.classifier()
        assert levels is not None, "asked for above"
        train, test = (
            clean_features(classifier, each[:], levels).float().cpu()
            for each in (swept.train, swept.test)
        )
        return train, test
    train, test = (
        each[:].double() if levels is None else centres(each[:], levels)
        for each in (swept.train, swept.test)
    )
    if name == "pixels":
        return train.float().cpu(), test.float().cpu()
    a, b = principal(train.flatten(1).cpu().numpy(), test.flatten(1).cpu().numpy())
    return torch.from_numpy(a).float(), torch.from_numpy(b).float()


# ---- the result ---------------------------------------------------------------------------------


def _keep(swept: Sweep, rows: list[Json], heading: Json, seconds: float) -> None:
    trained, data = swept.trained, swept.trained.data
    of_layers = [row for row in rows if row["t"] is not None]
    best = best_of(of_layers)
    by_case = {row["case"]: row for row in rows}
    of_probe = by_case[best["probe"]] if "probe" in best else None
    shown, beside = by_case[best["clusters"]], [row for row in rows if row["t"] is None]
    result: Json = {
        "value": of_probe["accuracy"] if of_probe else shown["agreement"],
        "standard_error": of_probe["accuracy_error"] if of_probe else None,
        "unit": "accuracy of a linear probe on test data" if of_probe else "ARI between starts",
        "rows": [{k: row[k] for k in row if k != "right"} for row in rows],
        "best": best,
        "differences": differences(of_probe, beside, len(swept.test)) if of_probe else [],
        "layers": [swept.layers.short(path) for path in swept.paths],
        "times": list(swept.times),
        "log_snr": [log_snr(trained.model.sde, t) for t in swept.times],
        "plane": _plane(swept, shown),
        "num_train": len(swept.train),
        "num_images": len(swept.test),
        "num_clusters": swept.scoring.clusters,
        "evaluations": swept.asked.evaluations * len(swept.times),
        "seconds": seconds,
        "step": trained.step,
        "settings": recorded(trained.config.features, trained.experiment.device)
        | trained.averaged_as,
        "weights": trained.fingerprint,
        **({"class_names": list(data.class_names)} if data.class_names else {}),
        **trained.measured_on,
    }
    asked = {"cases": swept.cases, **heading}
    written = trained.folder.keep_result(NAME, result, asked, _rank)
    _tell(result, by_case)
    if written.remark:
        say(written.remark)


def _plane(swept: Sweep, row: Json) -> Json:
    """Test data in the plane, by the features whose clusters are best."""
    path = next(p for p in swept.paths if swept.layers.short(p) == row["name"])
    train, test = swept.at(row["t"], (path,), lambda _evaluated: None)[path]
    a, b = train.flatten(1).numpy(), test.flatten(1).numpy()
    if a.shape[1] < 2:
        return {"points": [], "shares": [], "labels": []}
    points, shares = in_the_plane(row["name"], a, b)
    labels = swept.scoring.labels
    return {
        "points": [[float(f"{v:.4g}") for v in point] for point in points.tolist()],
        "shares": shares,
        "labels": [] if labels is None else labels[1][: len(points)].tolist(),
    }


def _tell(result: Json, by_case: dict[str, Json]) -> None:
    """Lines of the best layers, and of what stands beside them."""
    best, beside = result["best"], [row for row in result["rows"] if row["t"] is None]
    if "probe" in best:
        row = by_case[best["probe"]]
        say(
            f"linear probe, best on folds of {result['num_train']} training data: {row['name']} "
            f"at t = {row['t']:g}, right on {_number(row, 'accuracy')} of "
            f"{result['num_images']} test data"
        )
    row = by_case[best["clusters"]]
    say(
        f"k-means of {result['num_clusters']}, best on training data: {row['name']} at "
        f"t = {row['t']:g}: {_clusters(row)}"
    )
    for each in result["differences"]:
        apart = f"{each['difference']:+.3f} +- {each['standard_error']:.3f}"
        say(f"  the best layer's probe - that of {each['to']}: {apart} on the same test data")
    for row in beside:
        probe = f"probe {_number(row, 'accuracy')}, " if "accuracy" in row else ""
        say(f"  beside: {row['name']}: {probe}k-means {_clusters(row)}")
    say(f"{result['evaluations']} evaluations a datum for all {len(result['layers'])} layers")


def _number(row: Json, key: str) -> str:
    return f"{row[key]:.3f} +- {row[f'{key}_error']:.3f}"


def _clusters(row: Json) -> str:
    if "clusters" not in row:
        return f"ARI between starts {row['agreement']:.3f}"
    scores = [("ACC", "clusters"), ("NMI", "nmi"), ("ARI", "ari")]
    return ", ".join(f"{name} {_number(row, key)}" for name, key in scores)


def _rank(result: Json) -> dict[str, float]:
    """What makes a sweep the headline: newest weights, most data; of equals the newest."""
    return {
        "of newer weights": result["step"],
        "of more data": result["num_images"],
        "of more training data": result["num_train"],
    }

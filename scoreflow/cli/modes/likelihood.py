"""--mode likelihood: the test set's log-likelihood, bounds, comparisons and OOD detection.

likelihood.json, .jsonl           the test set, and a row an image
likelihood-ledger.json            every bound and estimate on the same images
likelihood-against-OTHER.json     the difference to other weights, image by image
likelihood-data-NAME.json         other data, and the AUROC of telling them from the test set
detection.json                    with scores=all a table of scores and sets (.applications)

Under other settings each has a name of its own, with a hash (`storage.measurements`).
"""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from torch import Tensor

from scoreflow.cli.console import say
from scoreflow.cli.modes.applications.detection import Asked, detection
from scoreflow.cli.modes.applications.other_data import check, other_data
from scoreflow.cli.modes.bounds import measure_bounds
from scoreflow.comparison.rows_of_likelihood import (
    Weights,
    count_of,
    heading_of,
    kept_likelihood,
    label_of,
)
from scoreflow.data.dataset import Data, digest, overlap
from scoreflow.errors import RequestError
from scoreflow.factory.likelihood import (
    OF_EACH,
    asked_of,
    labels_of,
)
from scoreflow.interop.score_sde import clock
from scoreflow.likelihood.dataset_likelihood import Measured
from scoreflow.likelihood.detection import ood_detection
from scoreflow.likelihood.detection.dataset_statistics import check_row
from scoreflow.models.score_model import ScoreModel
from scoreflow.paths import short_name
from scoreflow.report.page import write_report
from scoreflow.runtime import distributed
from scoreflow.schema.request import Request
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.fingerprint import fingerprint
from scoreflow.storage.measurements import average_of
from scoreflow.storage.result_rows import Rows
from scoreflow.storage.sample_names import SHORT
from scoreflow.trained_run import TrainedRun, open_beside, open_run
from scoreflow.uncertainty import standard_error

LEDGER, DETECTION = "likelihood-ledger", "detection"
OF_DETECTION = ("scores", "reference", "held_out")
"""Keys of the table of scores alone."""


def run(request: Request, _argv: list[str]) -> None:
    """All that the `likelihood` section wants; several processes share the images."""
    trained = open_run(request, say)
    assess(trained)
    if distributed.is_main_process():
        write_report(trained.folder)


def assess(trained: TrainedRun) -> None:
    """Measure the test set, then bounds, paired differences and other data if there are any."""
    c = trained.config.likelihood
    others = other_data(trained.config, trained.data)
    check(trained.config, trained.data, others)
    against = _against(trained) if c.against else None
    for of in (trained.data, *others.values()):  # refused before any work
        asked_of(trained.config, trained.model, of)
        labels_of(trained.config, trained.model, of)
    if c.ledger and c.label == OF_EACH:
        raise RequestError(
            "likelihood.ledger has bounds of one law, that of a class or of none, and not of each "
            "image's own class: leave out either it or likelihood.label = data"
        )
    few = others and all(count_of(of, c) < 2 for of in others.values())
    if few and against is None and not c.ledger:
        for name, of in others.items():
            _score(trained, name, of)  # nothing to tell apart: the test set is not measured
        return
    measured = measure_test_set(trained)
    if c.ledger:
        _keep_bounds(trained, measured)
    if against is not None:
        _compare(trained, against, measured)
    found = {name: (of, _tell_apart(trained, name, of, measured)) for name, of in others.items()}
    if c.scores == "all":
        _detect(trained, measured, found)


def measure_test_set(trained: TrainedRun) -> Measured:
    """The likelihood of the test set into results/likelihood.json and .jsonl."""
    data = trained.data
    doubles = overlap(data) if trained.folder.bound else 0  # else not what it was trained on
    if doubles:
        say(
            f"{doubles} of {len(data.test)} test images are in the training set too: "
            "they count, and make the likelihood look better than it is"
        )
    measured = kept_likelihood(trained.folder, _own(trained), data, "likelihood")
    _write(
        trained, "likelihood", {**measured.result, "in_training_set": doubles}, data, measured.line
    )
    return measured


def _own(trained: TrainedRun) -> Weights:
    """The run's averaged weights."""
    digest, config = trained.fingerprint, trained.trained_with
    return Weights("ema", trained.experiment, trained.model, trained.step, digest, config)


def _write(
    trained: TrainedRun,
    name: str,
    result: Json,
    of: Data,
    line: str = "",
    more: Json | None = None,
) -> None:
    """Keep a result beside those of other settings, and say it; `more` is asked beside them."""
    c, own = trained.config.likelihood, _own(trained)
    settings = c.to_dict() | {"device": str(trained.experiment.device), "label": label_of(own, of)}
    settings |= trained.asked_in("vjp") | trained.averaged_as
    if name != DETECTION:  # no other result depends on them
        settings = {key: settings[key] for key in settings if key not in OF_DETECTION}
    if not distributed.is_main_process():
        return
    kept = {**result, "step": trained.step, "settings": settings, **trained.measured_on}
    kept["weights"] = own.digest
    asked = {**heading_of(own, of), "num_images": result["num_images"], "checked": c.checked}
    asked |= more or {}
    if name == LEDGER:
        asked["terms"] = c.terms
    if "against" in result:
        asked["against"] = result["against"]
    written = trained.folder.keep_result(name, kept, asked, _rank)
    for told in (line, written.remark):
        if told:
            say(told)


def _rank(result: Json) -> dict[str, float]:
    """What makes a measurement the headline: of no class, newest weights, most images."""
    return {
        "of all classes": result["settings"].get("label", -1) == -1,
        "of the weights as trained": not average_of(result),
        "of newer weights": result["step"],
        "of more data": result["num_images"],
    }


def _keep_bounds(trained: TrainedRun, measured: Measured) -> None:
    """The exact flow by every dequantization, and the bounds on the same images."""

    def measure_by(dequantization: str) -> Measured:
        name = f"likelihood-{dequantization.replace('_', '-')}"
        own = _own(trained)
        return kept_likelihood(trained.folder, own, trained.data, name, dequantization)

    model, data = asked_of(trained.config, trained.model, trained.data), trained.data
    name, more = LEDGER, _by_its_published_clock(trained)
    compiled = partial(_for_bounds, trained)
    found = measure_bounds(model, data, trained.config, measured, measure_by, more, compiled)
    if found is None:
        return
    result, picture = found
    _write(trained, name, result, data)
    if picture is not None:
        trained.folder.write_image(trained.folder.sample_path(trained.step, name), picture)


def _for_bounds(trained: TrainedRun, model: ScoreModel, evaluations: int, size: int) -> ScoreModel:
    return trained.experiment.fast(model, "eval", evaluations, size)


def _by_its_published_clock(trained: TrainedRun) -> dict[str, Callable[[], Measured]]:
    """The flow as score_sde's own evaluation asks its discrete networks, for one of them.

    Twice: from where ours begins and with our dequantization, so that the clock is all that
    differs; and from where theirs begins.
    """
    c = trained.config
    discrete = c.model.integer_times and c.sde.name == "vp" and c.sde.schedule == "linear"
    try:
        known = discrete and trained.folder.read_result("import")["format"] == "score_sde"
    except RequestError:  # not an imported run
        known = False
    if not known or c.likelihood.t_start:
        return {}
    own = _own(trained)

    def measure_it(name: str, start: float, dequantization: str) -> Measured:
        other = clock.published(own.model, c.sde.beta_min, c.sde.beta_max, start)
        asked = replace(own, model=other)
        return kept_likelihood(trained.folder, asked, trained.data, name, dequantization)

    begun, name = 1 / c.sde.num_steps, "likelihood-published-"
    return {
        "labels 999 t, all else alike": lambda: measure_it(f"{name}labels", begun, ""),
        "labels 999 t, from t = 1e-5 as published": lambda: measure_it(
            f"{name}clock", clock.LEAST_TIME, "truncated_normal"
        ),
    }


# ---- in pairs -----------------------------------------------------------------------------------


def _against(trained: TrainedRun) -> Weights:
    """The other weights: the raw ones of this run, or the averaged ones of another."""
    name, experiment = trained.config.likelihood.against, trained.experiment
    if name == "raw":
        model, _ = trained.weights("model")
        if fingerprint(model.network) == trained.fingerprint:
            raise RequestError(
                f"likelihood.against = raw: {trained.folder.path} has one set of weights, which "
                "would be compared with itself"
            )
        raw, config = fingerprint(model.network), trained.trained_with
        return Weights("raw", experiment, model, trained.step, raw, config)
    theirs = open_beside(trained, name, ("likelihood",), "likelihood.against", say)
    if digest(theirs.data.test) != digest(experiment.data.test):
        raise RequestError(
            f"likelihood.against: {theirs.folder.path} has another test set, and images can't be "
            "compared in pairs"
        )
    name = theirs.folder.path.resolve().name
    sha256, config = theirs.fingerprint, theirs.trained_with
    return Weights(name, theirs.experiment, theirs.model, trained.step, sha256, config)


def _compare(trained: TrainedRun, against: Weights, measured: Measured) -> None:
    """The difference on the same images, dequantization and probes, with its own error."""
    name = f"likelihood-against-{short_name(against.name)}"
    other = kept_likelihood(trained.folder, against, trained.data, name)
    apart = measured.values.mean(1) - other.values.mean(1)
    error, alone = standard_error(apart), measured.result["standard_error"]
    result = {
        "value": float(apart.mean()),
        "standard_error": error,
        "unit": measured.result["unit"],
        "this": measured.result["value"],
        "other": other.result["value"],
        "standard_error_of_each": [alone, other.result["standard_error"]],
        "num_images": len(apart),
        "solver": [r.result["error_budget"]["solver"] for r in (measured, other)],
    }
    shown = "" if error is None else f" +- {error:.4f}"
    line = (
        f"this - {against.name}: {result['value']:+.4f}{shown} {result['unit']} on the same "
        f"{len(apart)} images, dequantization and probes ({result['this']:.4f} and "
        f"{result['other']:.4f})"
    )
    result["against"] = against.digest
    _write(trained, name, result, trained.data, line)


# ---- other data ---------------------------------------------------------------------------------


def _score(trained: TrainedRun, name: str, of: Data) -> None:
    """Score other data that are too few to be told from the test set: one image, say."""
    file = f"likelihood-data-{short_name(name)}"
    found = kept_likelihood(trained.folder, _own(trained), of, file)
    why = "no AUROC: it takes two images of each side to tell them apart"
    result = {**found.result, "detection": {}, "no_detection": why}
    _write(trained, file, result, of, f"{_line_of(name, of, found)}; {why}")


def _line_of(name: str, of: Data, found: Measured) -> str:
    """The line about other data, which are no test set of the run."""
    count, kind = found.result["num_images"], "training images" if name == "train" else "images"
    said = f"{count} of {len(of.test)} {kind}"
    return f"{name}: {found.line.replace(f'{count} test images', said, 1)}"


def _tell_apart(trained: TrainedRun, name: str, of: Data, measured: Measured) -> Measured:
    """Score other data, and how well each score detects them among the test set."""
    file = f"likelihood-data-{short_name(name)}"
    found = kept_likelihood(trained.folder, _own(trained), of, file)
    by_nodes = trained.experiment.config.likelihood.method == "nodes"
    own = _scores(measured, trained.data, by_nodes)
    if min(len(measured.values), len(found.values)) < 2:
        _score(trained, name, of)
        return found
    rows = ood_detection.detection(own, _scores(found, of, by_nodes))
    line = _line_of(name, of, found)
    if warning := measured.result.get("warning"):  # said of the test set already
        line = line.removesuffix(f"\n{warning}")
    _write(trained, file, {**found.result, "detection": rows}, of, line)
    for score, row in rows.items():
        say(f"  AUROC by {score}: {row['auroc']:.3f} +- {row['standard_error']:.3f}")
    return found


def _detect(
    trained: TrainedRun, measured: Measured, others: dict[str, tuple[Data, Measured]]
) -> None:
    """The table of scores and sets, by statistics beyond the likelihood."""
    own, shard = _own(trained), distributed.shard()

    def rows(name: str, heading: Json) -> AbstractContextManager[Rows]:
        agree = shard.broadcast_from_rank_0
        return trained.folder.rows(name, heading, shard.rank, "image", check_row, agree)

    def keep_picture(name: str, png: bytes) -> str:
        own = hashlib.sha256(png).hexdigest()[:SHORT]  # other sets, another picture
        path = trained.folder.sample_path(trained.step, f"{name}-{own}")
        trained.folder.write_image(path, png)
        return path.stem

    asked = Asked(
        config=trained.config,
        model=asked_of(trained.config, trained.model, trained.data),
        own=trained.data,
        likelihood=lambda of: kept_likelihood(
            trained.folder, own, of, "likelihood-reference", every=True
        ),
        rows=rows,
        heading=lambda of: heading_of(own, of),
        compiled=lambda model, calls, left: trained.experiment.fast(model, "vjp", calls, left),
        keep_picture=keep_picture,
    )
    found = detection(asked, measured, others)
    c = trained.config.likelihood
    if found:
        sets = {name: [digest(of.test), len(it.values)] for name, (of, it) in others.items()}
        _write(
            trained,
            DETECTION,
            found,
            trained.data,
            more={"sets": sets, "reference": [c.reference, c.held_out]},
        )


def _scores(measured: Measured, of: Data, by_nodes: bool) -> dict[str, Tensor]:
    """Of each image, what a high value of would be anomalous.

    By nodes nearly all images take equally many evaluations, which alone would tell little.
    """
    assert of.num_levels is not None, "images have levels"
    bits = measured.values.mean(1)
    png = ood_detection.png_bits_per_dim(of.test[: len(bits)], of.num_levels)
    scores = {"bits/dim": bits, "bits/dim over a PNG's": bits - png}
    if not by_nodes:
        return scores | {"evaluations": measured.evaluations}
    effort = ood_detection.effort(measured.evaluations, measured.solver_error)
    return scores | {"evaluations, then the trajectory's error": effort}

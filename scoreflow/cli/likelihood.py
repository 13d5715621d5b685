"""What --mode likelihood does: the test set, and what else a config asks about it.

likelihood.json, .jsonl           the test set, and a row an image
likelihood-ledger.json            every bound and estimate on the same images
likelihood-against-OTHER.json     the difference to other weights, image by image
likelihood-data-NAME.json         other data, and how well they are told from the test set
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from scoreflow import factory
from scoreflow.data import loading, toy
from scoreflow.data.dataset import Data, overlap
from scoreflow.data.levels import dequantize, quantize, to_uint8
from scoreflow.errors import RequestError
from scoreflow.factory import Experiment
from scoreflow.figures.image_grid import image_grid
from scoreflow.likelihood import bound_table, ood_detection
from scoreflow.likelihood.dataset_likelihood import Measured, measure
from scoreflow.likelihood.dequantization import DEQUANTIZATIONS
from scoreflow.likelihood.rate_distortion import reconstructions
from scoreflow.models.score_model import ScoreModel, arithmetic
from scoreflow.report import bounds_section
from scoreflow.runtime import distributed
from scoreflow.runtime.progress_bar import Progress
from scoreflow.schema import request, resolve
from scoreflow.sde.analytic import Distribution
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json, write_atomic
from scoreflow.storage.fingerprint import fingerprint
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import averaged, trained_of
from scoreflow.training.trainer import Trainer
from scoreflow.uncertainty import standard_error

Say = Callable[[str], None]
NOT_OF_A_ROW = (
    "num_images",
    "batch_size",
    "max_evaluations",
    "checked",
    "ledger",
    "terms",
    "against",
    "data",
)
"""Keys of the section that a row does not depend on."""

LEDGER_TRAIN_IMAGES = 512
"""Training images that fit the ledger's optimal variances."""

RECONSTRUCTED = 8
"""Test images shown as they are reconstructed."""


def assess(experiment: Experiment, run: RunDir, trainer: Trainer, say: Say) -> None:
    """All that the `likelihood` section asks."""
    c, step = experiment.config.likelihood, trainer.step
    other = _other_data(experiment) if c.data else None
    against = _against(experiment, trainer, say) if c.against else None
    model = averaged(experiment, trainer.ema)
    measured = measure_test_set(experiment, run, model, step, say)
    if c.ledger:
        _keep_ledger(experiment, run, model, step, measured, say)
    if against is not None:
        _compare(experiment, run, against, step, measured, say)
    if other is not None:
        _tell_apart(experiment, run, model, step, other, measured, say)


def measure_test_set(
    experiment: Experiment, run: RunDir, model: ScoreModel, step: int, say: Say
) -> Measured:
    """The likelihood of the test set into results/likelihood.json and .jsonl."""
    doubles = overlap(experiment.data)
    if doubles:
        say(
            f"{doubles} of {len(experiment.data.test)} test images are in the training set too: "
            "they count, and make the likelihood look better than it is"
        )
    truth = toy.distribution() if experiment.data.name == "toy" else None
    measured = _measured(experiment, run, model, experiment.data, "likelihood", step, truth)
    result = {**measured.result, "in_training_set": doubles}
    _write(experiment, run, "likelihood", result, step)
    say(measured.line)
    return measured


def _measured(
    experiment: Experiment,
    run: RunDir,
    model: ScoreModel,
    of: Data,
    name: str,
    step: int,
    truth: Distribution | None = None,
    dequantization: str = "",
) -> Measured:
    """The likelihood of data, its rows in results/{name}.jsonl."""
    c = experiment.config.likelihood
    heading = {key: value for key, value in c.to_dict().items() if key not in NOT_OF_A_ROW}
    heading |= {
        "dequantization": dequantization or c.dequantization,
        "step": step,
        "device": experiment.device.type,
        "weights": fingerprint(model),
        "data": hashlib.sha256(of.test.cpu().numpy().tobytes()).hexdigest(),
    }
    shard = distributed.shard()
    if c.method != "dopri5":  # one clock for a whole batch: a row depends on its batch mates
        heading |= {"batch": [c.num_images, c.batch_size, shard.world]}
    rows = run.rows(name, heading, shard.rank)
    question = factory.build_question(experiment.config, model, of, dequantization)
    return measure(model, of, c.num_images, question, truth, rows, shard)


def _write(experiment: Experiment, run: RunDir, name: str, result: Json, step: int) -> None:
    settings = experiment.config.likelihood.to_dict() | {"device": str(experiment.device)}
    if distributed.leads():
        run.write_result(name, {**result, "step": step, "settings": settings})


# ---- the ledger ---------------------------------------------------------------------------------


def _keep_ledger(
    experiment: Experiment,
    run: RunDir,
    model: ScoreModel,
    step: int,
    measured: Measured,
    say: Say,
) -> None:
    """Every account of the same images beside the exact flow, and the rate-distortion curve."""
    c, of = experiment.config.likelihood, experiment.data
    exact = [("exact flow, " + measured.result["dequantization"], measured)]
    for other in _other_dequantizations(experiment):
        name = f"likelihood-{other.replace('_', '-')}"
        found = _measured(experiment, run, model, of, name, step, dequantization=other)
        say(f"{other}: {found.line}")
        exact.append((f"exact flow, {other}", found))
    if not distributed.leads():
        return
    kind = "exact" if of.num_levels is None else "bound"  # by Jensen, over the dequantization
    entries = [bound_table.Entry(name, kind, each.values.mean(1), {}) for name, each in exact]
    test, train = of.test[: c.num_images or None], min(LEDGER_TRAIN_IMAGES, len(of.train))
    strata = min(c.terms, model.sde.num_steps - 1)
    calls = bound_table.num_calls(len(test), train, c.batch_size, strata)
    with Progress("ledger", calls, "call") as progress, arithmetic("float32"), torch.no_grad():
        bounds, rate = bound_table.bounds(
            model.around(model.network, "float32"),
            model.sde,
            model.t_min,
            of,
            test,
            c.seed,
            strata,
            c.batch_size,
            train,
            experiment.config.training.dequantization,
            lambda: progress.advance(1),
        )
        picture = _reconstructed(model.around(model.network, "float32"), of)
    result = bound_table.as_result([*entries, *bounds], rate)
    _write(experiment, run, "likelihood-ledger", result, step)
    page = bounds_section.section(result, rate, picture)
    page += f"<p class=small>Of the checkpoint of step {step}, {result['num_images']} images.</p>"
    write_atomic(run.path / "results" / "likelihood-ledger.html", page.encode())
    say(bound_table.table(result))


def _other_dequantizations(experiment: Experiment) -> list[str]:
    """Those that the ledger shows beside the one asked for."""
    c = experiment.config
    if experiment.data.num_levels is None or c.likelihood.samples > 1:
        return []
    of_centres = c.training.dequantization == "centre"
    alien = "uniform" if of_centres else "truncated_normal"
    return [n for n in DEQUANTIZATIONS if n not in (alien, c.likelihood.dequantization)]


def _reconstructed(model: ScoreModel, of: Data) -> bytes | None:
    """A few test images as the chain comes to know them: estimates of x_0 from x_N to x_1."""
    if of.num_levels is None:
        return None
    few, n = of.test[:RECONSTRUCTED], model.sde.num_steps
    times = sorted({max(1, round(n * k / 10)) for k in range(11)}, reverse=True)
    x_0 = dequantize(few, torch.full(few.shape, 0.5, device=few.device), of.num_levels).double()
    noise = Noise.of(0, 0, len(few), few.device)
    estimates = reconstructions(model, model.sde, x_0, noise, times)
    levels = torch.cat([quantize(estimates, of.num_levels), few[:, None]], 1).flatten(0, 1)
    shown = to_uint8(levels, of.num_levels)
    return image_grid(shown, len(times) + 1, max(1, 40 // shown.shape[-1]))


# ---- in pairs -----------------------------------------------------------------------------------


Against = tuple[str, Experiment, ScoreModel]
"""What to compare with: its name, its experiment with this run's questions, its model."""


def _against(experiment: Experiment, trainer: Trainer, say: Say) -> Against:
    """The other weights: the raw ones of this run, or the averaged ones of another."""
    name = experiment.config.likelihood.against
    if name == "raw":
        raw = trainer.network.eval()
        model = factory.build_model(experiment.config, raw, experiment.model.sde)
        return "raw", experiment, model
    run = RunDir.open(name)
    if not run.checkpoint_steps():
        raise RequestError(f"likelihood.against: {run.path} has no checkpoint")
    own = request.flatten(experiment.config.to_dict())
    asked = {key: own[key] for key in own if key.startswith("likelihood.")}
    config = {**resolve.completed(request.flatten(run.config)), **asked}
    resolved = resolve.resolve(config, str(run.path / "config.json"))
    other = factory.experiment(resolved, experiment.device, training=False)
    if not torch.equal(other.data.test, experiment.data.test):
        raise RequestError(
            f"likelihood.against: {run.path} has another test set, and images can't be compared "
            "in pairs"
        )
    return run.path.resolve().name, other, trained_of(other, run, say)[0]


def _compare(
    experiment: Experiment,
    run: RunDir,
    against: Against,
    step: int,
    measured: Measured,
    say: Say,
) -> None:
    """The difference on the same images, dequantization and probes, with its own error."""
    name, theirs, model = against
    other = _measured(theirs, run, model, experiment.data, f"likelihood-against-{name}", step)
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
    _write(experiment, run, f"likelihood-against-{name}", result, step)
    shown = "" if error is None else f" +- {error:.4f}"
    say(
        f"this - {name}: {result['value']:+.4f}{shown} {result['unit']} on the same {len(apart)} "
        f"images, dequantization and probes ({result['this']:.4f} and {result['other']:.4f})"
    )


# ---- other data ---------------------------------------------------------------------------------


def _other_data(experiment: Experiment) -> tuple[str, Data]:
    """Data of the config's key `likelihood.data`, refused unless the model can score them."""
    wanted, own = experiment.config.likelihood.data, experiment.data
    if own.num_levels is None:
        raise RequestError("likelihood.data is for images; this run's data are vectors")
    if wanted == "train":
        return "train", replace(own, name="train", test=own.train, test_labels=own.train_labels)
    levels = loading.load_pool(wanted)
    top = int(levels.max())
    if levels.shape[1:] != own.test.shape[1:]:
        raise RequestError(
            f"likelihood.data: this run's images are {tuple(own.test.shape[1:])} (channels, "
            f"height, width), got {tuple(levels.shape[1:])} in {wanted}"
        )
    if top >= own.num_levels:
        raise RequestError(
            f"likelihood.data: levels must lie in 0..{own.num_levels - 1}, got {top} in {wanted}"
        )
    if min(len(levels), len(own.test), experiment.config.likelihood.num_images or 2) < 2:
        raise RequestError(
            f"likelihood.data needs two images of each side to tell apart, got {len(levels)} in "
            f"{wanted} and likelihood.num_images = {experiment.config.likelihood.num_images}"
        )
    name = Path(wanted).expanduser().resolve().name
    return name, replace(own, name=name, test=levels.to(own.test.device), test_labels=None)


def _tell_apart(
    experiment: Experiment,
    run: RunDir,
    model: ScoreModel,
    step: int,
    other: tuple[str, Data],
    measured: Measured,
    say: Say,
) -> None:
    """Score other data, and say how well each score tells them from the test set."""
    name, of = other
    file = f"likelihood-data-{name}"
    found = _measured(experiment, run, model, of, file, step)
    own = _scores(measured, experiment.data)
    told = ood_detection.detection(own, _scores(found, of))
    _write(experiment, run, file, {**found.result, "detection": told}, step)
    say(f"{name}: {found.line}")
    for score, row in told.items():
        say(f"  AUROC by {score}: {row['auroc']:.3f} +- {row['standard_error']:.3f}")


def _scores(measured: Measured, of: Data) -> dict[str, Tensor]:
    """Of each image, what a high value of would be anomalous."""
    assert of.num_levels is not None, "images have levels"
    bits = measured.values.mean(1)
    png = ood_detection.png_bits_per_dim(of.test[: len(bits)], of.num_levels)
    return {
        "bits/dim": bits,
        "bits/dim over a PNG's": bits - png,
        "evaluations": measured.evaluations,
    }

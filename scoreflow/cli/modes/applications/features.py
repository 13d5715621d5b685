"""--mode features: activations of the averaged network as features of data, into a .npz file.

    features   (n, C) float32, pooled; (n, C, H, W) with pool=none, and of what is no module
    labels     (n,) int64, where the data have any
    names      (n,) texts, where the data have any: their files
    clusters   (n,) int64, with features.clusters=K
    about      JSON: layer, t, log-SNR, draws, seed, pool, data, weights, step

With features.sweep=true no file, but what a linear probe and k-means make of each layer at each
time: `feature_sweep`.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from scoreflow.cli.console import say
from scoreflow.cli.modes.applications import feature_sweep
from scoreflow.cli.modes.applications.feature_sweep import encoded, first
from scoreflow.data.dataset import Data, digest
from scoreflow.data.loading import load_whole
from scoreflow.data.stored.images import Images
from scoreflow.errors import RequestError
from scoreflow.evaluation.representations.activations import Asked, activations, log_snr
from scoreflow.evaluation.representations.clusters import k_means
from scoreflow.evaluation.representations.layers import LATENT, OF_NO_MODULE, PIXELS
from scoreflow.evaluation.representations.sweep import scaled
from scoreflow.factory.applications.features import (
    build_asked,
    build_layer,
    build_layers,
    build_time,
    refuse_size,
)
from scoreflow.factory.editing import build_user_reading
from scoreflow.paths import short_name, user_path
from scoreflow.report.page import write_report
from scoreflow.runtime.progress_bar import Progress
from scoreflow.schema.config import Config
from scoreflow.schema.request import Request
from scoreflow.storage.atomic_files import Json, check_writable, make_folder, replacing
from scoreflow.trained_run import TrainedRun, open_run

OF_A_FILE = ("layer", "t", "data", "fit", "mode", "background")
OF_A_SWEEP = ("layers", "beside", "times", "train_images", "repeats")
"""Keys that a sweep does not read, and that nothing else reads."""


def run(request: Request, _argv: list[str]) -> None:
    """Write the file, or measure the sweep."""
    if request.out is not None:
        check_writable(request.out.parent, "choose another --out")
    trained = open_run(request, say)
    _refuse_idle(trained, request)
    assess(trained, request.out)


def assess(trained: TrainedRun, out: Path | None = None) -> None:
    """What the `features` section wants of a run.

    Args:
        trained: the run.
        out: the file; None for one in the run's folder.
    """
    if trained.config.features.sweep:
        feature_sweep.sweep(trained)
        write_report(trained.folder)
    else:
        write_features(trained, out)


def _refuse_idle(trained: TrainedRun, request: Request) -> None:
    """Refuse keys that were set for the other of the two: a file, or a sweep."""
    sweep = trained.config.features.sweep
    if sweep and request.out is not None:
        raise RequestError(
            "--out has no effect on features.sweep = true, which writes results/features.json: "
            "leave one out"
        )
    for name in OF_A_FILE if sweep else OF_A_SWEEP:
        if f"features.{name}" in request.overrides:
            told = str(sweep).lower()
            raise RequestError(
                f"features.{name} has no effect on features.sweep = {told}: leave it out, or set "
                f"--config.features.sweep={str(not sweep).lower()}"
            )


def write_features(trained: TrainedRun, out: Path | None) -> Path:
    """The features of some data into a .npz file; returns its path."""
    c = trained.config.features
    of = _asked_data(trained)
    asked = build_asked(trained.config, trained.model, trained.data)
    layers = build_layers(asked, trained.data)
    path = build_layer(trained.config, layers)
    t = None if path in (LATENT, PIXELS) else build_time(c.t, trained.model)
    values = first(of.test, c.num_images)
    if c.clusters > len(values):
        raise RequestError(
            f"features.clusters = {c.clusters} must be at most the number of data, {len(values)}"
        )
    remedy = "pool it, or lower features.num_images"
    refuse_size(asked, layers, (path,), trained.data, len(values), remedy)
    name = layers.short(path)
    about: Json = {
        "layer": name,
        "module": "" if path in OF_NO_MODULE else path,
        "t": t,
        "log_snr": None if t is None else log_snr(trained.model.sde, t),
        "draws": c.draws,
        "seed": c.seed,
        "pool": "none" if path in OF_NO_MODULE else c.pool,
        "label": asked.model.label if isinstance(asked.model.label, int) else -1,
        "data": of.name,
        "data_sha256": digest(values),
        "weights": trained.fingerprint,
        "step": trained.step,
        **trained.averaged_as,
    }
    out = out or _default_path(trained, about)
    check_writable(out.parent, "choose another --out")
    found = _made(trained, asked, path, t, values)
    _write(out, of, found, about, c.clusters)
    at = "" if t is None else f" at t = {t:g}"
    say(
        f"features of {name}{at}: {tuple(found.shape)} of {of.name}, written to {out}; read by "
        f"numpy.load({str(out)!r})['features']"
    )
    return out


def _made(trained: TrainedRun, asked: Asked, path: str, t: float | None, values: Images) -> Tensor:
    """The features, with a bar."""
    if path == LATENT:
        with Progress("latents", len(values), "datum") as progress:
            return encoded(trained, values, progress.advance)
    evaluated = 0 if path == PIXELS else asked.evaluations * len(values)
    with Progress("features", evaluated, "evaluation") as progress:
        at = trained.model.t_min if t is None else t
        return activations(asked, values, at, (path,), progress.advance)[path]


def _default_path(trained: TrainedRun, about: Json) -> Path:
    """DIR/features/STEP-LAYER-tT-DATA.npz, with what else is asked otherwise than by default."""
    t, draws, seed, label = (about[key] for key in ("t", "draws", "seed", "label"))
    noisy = t is not None
    parts = [
        f"{trained.step:08d}",
        about["layer"],
        *([about["pool"]] if about["module"] and about["pool"] != "mean" else []),
        *([f"t{t:g}"] if noisy else []),
        *([f"draws{draws}"] if noisy and draws != 1 else []),
        *([f"seed{seed}"] if noisy and seed else []),
        *([f"label{label}"] if label != -1 else []),
        short_name(about["data"]),
    ]
    return trained.folder.path / "features" / f"{'-'.join(parts)}.npz"


def _write(out: Path, of: Data, found: Tensor, about: Json, clusters: int) -> None:
    """The arrays, none of which needs pickle."""
    arrays = {"features": found.numpy(), "about": np.array(json.dumps(about))}
    if of.test_labels is not None:
        arrays["labels"] = of.test_labels[: len(found)].cpu().numpy()
    if of.test_names:
        arrays["names"] = np.array(of.test_names[: len(found)])
    if clusters:
        flat = found.flatten(1).numpy()
        at_one_scale, _ = scaled(about["layer"], flat, flat)
        arrays["clusters"] = k_means(at_one_scale, clusters, about["seed"]).labels_.astype(
            np.int64
        )
    make_folder(out.parent)
    with replacing(out) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


# ---- data ---------------------------------------------------------------------------------------


def _asked_data(trained: TrainedRun) -> Data:
    """The data of the key `features.data`, as a test part.

    Raises:
        RequestError: the network cannot be asked about them.
    """
    wanted, own = trained.config.features.data, trained.data
    if wanted == "test":
        return replace(own, name="test")
    if wanted == "train":
        return replace(
            own, name="train", test=own.train, test_labels=own.train_labels, test_names=()
        )
    if own.num_levels is None:
        raise RequestError(
            "features.data is test or train for a run of vectors, which no folder of images is "
            f"like, got {wanted!r}; from Python: scoreflow.load(DIR).features(DATA, LAYER, T)"
        )
    config = Config.of(trained.config)
    reading = build_user_reading(config.features, config.data)
    like = reading.like(own.test.shape[1:], own.num_levels)
    pool = load_whole(wanted, like, labels="auto")
    for remark in pool.remarks:
        say(f"features.data: {remark}")
    levels = own.accept(pool.test[:])
    name = user_path(wanted, "features.data").resolve().name
    return replace(
        own, name=name, test=levels, test_labels=pool.test_labels, test_names=pool.test_names
    )

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
from ml_collections import ConfigDict
from torch import Tensor

from scoreflow.cli.console import say
from scoreflow.cli.modes.applications import feature_sweep
from scoreflow.cli.modes.applications.feature_sweep import encoded, first
from scoreflow.cli.modes.applications.other_images import other_images
from scoreflow.data.dataset import Data, digest
from scoreflow.data.stored.images import Images
from scoreflow.errors import RequestError
from scoreflow.evaluation.representations.activations import Asked, activations, log_snr
from scoreflow.evaluation.representations.clusters import k_means
from scoreflow.evaluation.representations.layers import ESTIMATE, LATENT, OF_NO_MODULE, PIXELS
from scoreflow.evaluation.representations.sweep import scaled
from scoreflow.factory.applications.features import (
    build_asked,
    build_layer,
    build_layers,
    build_time,
    refuse_size,
)
from scoreflow.factory.editing import build_user_reading
from scoreflow.paths import short_name
from scoreflow.report.page import write_report
from scoreflow.runtime import distributed
from scoreflow.runtime.progress_bar import Progress
from scoreflow.schema.config import Config
from scoreflow.schema.request import Request
from scoreflow.storage.atomic_files import Json, check_writable, make_folder, replacing
from scoreflow.trained_run import TrainedRun, open_run

OF_A_FILE = ("layer", "t", "data", "fit", "mode", "background")
OF_A_SWEEP = ("layers", "beside", "times", "train_images", "repeats")
"""Keys that a sweep does not read, and that nothing else reads."""
OF_FOLDERS = ("fit", "mode", "background")
UNREAD = {
    PIXELS: ("t", "draws", "seed", "pool", "label"),
    LATENT: ("t", "draws", "seed", "pool"),
    ESTIMATE: ("pool",),
}
"""Keys that a file of what is no module of the network does not read."""


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
    """Refuse keys of the other of the two, a file or a sweep, and a sweep of processes."""
    sweep = trained.config.features.sweep
    if sweep and distributed.placement().world > 1:
        raise RequestError(
            "features.sweep = true runs in one process, torchrun shares a file of features alone: "
            "start it without torchrun"
        )
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
    if not sweep:
        _refuse_unread(trained.config.features, request)


def _refuse_unread(c: ConfigDict, request: Request) -> None:
    """Refuse keys that a file of these features of these data does not read."""
    unread = dict.fromkeys(UNREAD.get(c.layer, ()), ("layer", c.layer))
    if "seed" in unread and c.clusters:
        del unread["seed"]  # of k-means
    if c.data in ("test", "train"):
        unread |= dict.fromkeys(OF_FOLDERS, ("data", c.data))
    for name, (key, value) in unread.items():
        if f"features.{name}" in request.overrides:
            raise RequestError(
                f"features.{name} has no effect on features.{key} = {value}: leave it out"
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
    together = distributed.local_world()
    refuse_size(asked, layers, (path,), trained.data, len(values), remedy, together)
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
    if not distributed.is_main_process():
        return out
    _write(out, of, found, about, c.clusters)
    at = "" if t is None else f" at t = {t:g}"
    say(
        f"features of {name}{at}: {tuple(found.shape)} of {of.name}, written to {out}; read by "
        f"numpy.load({str(out)!r})['features']"
    )
    return out


def _made(trained: TrainedRun, asked: Asked, path: str, t: float | None, values: Images) -> Tensor:
    """The features, with a bar of this process's share."""
    shard, size = distributed.shard(), asked.batch_size
    starts = [s for k, s in enumerate(range(0, len(values), size)) if shard.has(k)]
    ours = sum(min(size, len(values) - start) for start in starts)
    if path == LATENT:
        with Progress("latents", ours, "datum") as progress:
            return encoded(trained, asked, values, progress.advance, shard)
    evaluated = 0 if path == PIXELS else asked.evaluations * ours
    with Progress("features", evaluated, "evaluation") as progress:
        at = trained.model.t_min if t is None else t
        return activations(asked, values, at, (path,), progress.advance, shard)[path]


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
    _name, found = other_images(own, wanted, "features.data", reading, labels="auto")
    return found

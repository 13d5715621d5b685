"""--mode classifier: train a classifier of noisy images on the run's process, and measure it."""

import math
import time

from ml_collections import ConfigDict

from scoreflow.cli.console import recorded, say
from scoreflow.data.dataset import Data, digest
from scoreflow.factory.training import build_classifying
from scoreflow.runtime.memory import refuse_above_memory
from scoreflow.schema.request import Request
from scoreflow.trained_run import TrainedRun, open_run
from scoreflow.training.classifier_file import CLASSIFIER_FILE, save_classifier
from scoreflow.training.classifier_trainer import measure, train_classifier


def run(request: Request, _argv: list[str]) -> None:
    """Train a classifier of x_t, measure it and keep it in the folder."""
    train(open_run(request, say))


def train(trained: TrainedRun) -> None:
    """Train the classifier of a run."""
    folder, experiment, data = trained.folder, trained.experiment, trained.data
    settings = build_classifying(experiment.config)
    _refuse_size(experiment.config.classifier, data)
    path = folder.path / CLASSIFIER_FILE
    if path.exists():
        say(f"{path} is there already and will be replaced")
    start, sde = time.monotonic(), experiment.model.sde
    model = train_classifier(data, sde, experiment.objective, settings)
    seconds = time.monotonic() - start
    found = measure(model, data, settings.seed)
    save_classifier(folder.path, model, _of(trained), trained.known_to_classifier)
    kept = recorded(experiment.config.classifier, experiment.device)
    about = {"seconds": seconds, "settings": kept, **trained.measured_on}
    if data.class_names:
        about["class_names"] = list(data.class_names)
    # always the headline: it is of the classifier in the folder, which is the last one
    folder.keep_result("classifier", {**found, **about}, {"settings": kept, "of": _of(trained)})
    half = found["times"][len(found["times"]) // 2]
    say(
        f"classifier of {found['num_classes']} classes, {settings.num_steps} steps in "
        f"{seconds:.1f} s: right on {found['value']:.3f} +- {found['standard_error']:.3f} of "
        f"{found['num_test']} test images, at t = {half['t']:g} on {half['accuracy']:.3f}; "
        f"{path}"
    )


def _refuse_size(c: ConfigDict, data: Data) -> None:
    """Refuse a network or a batch that is larger than the memory."""
    device = data.train.device
    need = 4 * c.batch_size * c.width * math.prod(data.train.shape[2:])
    told = f"classifier.width = {c.width} with classifier.batch_size = {c.batch_size}"
    refuse_above_memory(told, need + 4 * 9 * c.width**2, device, "make them smaller")


def _of(trained: TrainedRun) -> str:
    """What its data are told apart by, where they can be others; else nothing."""
    data = trained.data
    return "" if trained.folder.bound else digest(data.train, data.train_labels)

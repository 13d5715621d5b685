"""Training and evaluation of the classifier of noisy images.

It is trained on what the score network is trained on: the same data order, dequantization, law of
times and noise, addressed by (seed, step). Its learning rate falls to zero along a cosine, which
does here what an average of weights would do.
"""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scoreflow.data.dataset import Batches, Data
from scoreflow.data.levels import points
from scoreflow.errors import RequestError, RunError
from scoreflow.losses.objective import Objective
from scoreflow.models.classifier import Classifier, NoisyClassifier
from scoreflow.runtime.progress_bar import Progress
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.storage.atomic_files import Json
from scoreflow.training import trainer
from scoreflow.training.batch_reader import BatchReader
from scoreflow.training.settings import ClassifierSettings
from scoreflow.uncertainty import rate_error, standard_error

SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 1.0)
"""Times at which it is measured besides the least one, as shares of N."""
INTERVAL = 20
"""Steps between two looks at the loss."""


def check_labels(data: Data, what: str) -> None:
    """Refuse data that a classifier cannot be trained or tested on."""
    if data.num_classes == 0 or data.num_levels is None:
        raise RequestError(f"{what} needs images with labels, and {data.name} has none")
    assert data.test_labels is not None, "data have labels in both splits or in none"
    held_out = set(data.test_labels.unique().tolist())
    untrained = sorted(held_out.intersection(data.empty_classes))
    if data.num_classes < 2 or untrained:
        lacking = f", no training data of {untrained}" if untrained else ""
        raise RequestError(
            f"{what} needs two classes or more, all of them in the training data, got "
            f"{data.num_classes} classes{lacking}"
        )


def train_classifier(
    data: Data, sde: SDE, objective: Objective, settings: ClassifierSettings
) -> NoisyClassifier:
    """Train on x_t with t of the objective's law; the same bits each time on a CPU.

    Args:
        data: images with labels, on the device to train on.
        sde: the process.
        objective: whence the times.
        settings: how.

    Raises:
        RunError: a loss was not finite.
    """
    check_labels(data, "a classifier")
    assert data.train_labels is not None, "checked above"
    device = data.train.device
    torch.manual_seed(settings.seed)
    event = tuple(data.train.shape[1:])
    network = Classifier((event[0], event[1], event[2]), data.num_classes, settings.width)
    model = NoisyClassifier(network.to(device, non_blocking=True), sde, objective.least_time)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    batches = Batches(len(data.train), settings.batch_size, settings.seed)
    labels = data.train_labels.to(device)
    positions = torch.arange(settings.batch_size, device=device)
    reader = BatchReader(data.train, [positions])
    with Progress("classifier", settings.num_steps, "step") as progress:
        stops = [*range(0, settings.num_steps, INTERVAL), settings.num_steps]
        for first, last in pairwise(stops):
            losses = []
            for step in range(first, last):
                share = 0.5 * (1 + math.cos(math.pi * step / settings.num_steps))
                optimizer.param_groups[0]["lr"] = settings.learning_rate * share
                noise = Noise(settings.seed, positions, step)
                rows, values = reader.read(batches, step, 0)
                x_0 = trainer.shown(data, values, noise, settings.flip, settings.dequantization)
                t, _ = objective.draw(noise, sde)
                x_t = sde.perturb(
                    x_0, t, noise.normal(Stream.TRAIN_EPS, event, dtype=torch.float32)
                )
                loss = F.nll_loss(model.log_probs(x_t, t), labels[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            mean = float(torch.stack(losses).mean())
            if not math.isfinite(mean):
                raise RunError(
                    f"classifier, steps {first + 1}..{last}: the loss is {mean}: try a smaller "
                    "classifier.learning_rate"
                )
            progress.advance(last - first, loss=f"{mean:.4f}")
    network.eval().requires_grad_(False)
    return model


def measure(model: NoisyClassifier, data: Data, seed: int) -> dict[str, Any]:
    """How often it is right on the test set, at the least time and at later ones.

    Returns:
        value: accuracy on clean images, those at the least time; its standard error; the
        cross-entropy there, in nats; and "times", the same at each time.
    """
    check_labels(data, "a classifier")
    end = model.sde.num_steps
    times = [model.t_min, *(max(share * end, model.t_min) for share in SHARES)]
    rows = [_at(model, data, round(t) if k else t, k, seed) for k, t in enumerate(times)]
    return {
        "value": rows[0]["accuracy"],
        "standard_error": rows[0]["standard_error"],
        "unit": "share of test images whose class was found, at the least time",
        "cross_entropy": rows[0]["cross_entropy"],
        "num_test": len(data.test),
        "num_classes": data.num_classes,
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "times": rows,
    }


@torch.no_grad()
def _at(model: NoisyClassifier, data: Data, t: float, step: int, seed: int) -> Json:
    """Accuracy and cross-entropy on the test set at one time."""
    assert data.num_levels is not None and data.test_labels is not None, "checked by the caller"  # noqa: PT018
    time = torch.tensor(t, dtype=torch.float64)
    device, event = data.test.device, tuple(data.test.shape[1:])
    noise = Noise.of(seed, 0, len(data.test), device).at(step)
    found = []
    for rows in torch.arange(len(data.test), device=device).split(256):
        drawn = noise.rows(rows)
        x_0 = points(data.test[rows], data.num_levels, drawn, Stream.DEQUANTIZE)
        x_t = model.sde.perturb(x_0, time, drawn.normal(Stream.DATA, event))
        found.append(model.log_probs(x_t, time))
    log_probs, labels = torch.cat(found), data.test_labels.to(device)
    right = float((log_probs.argmax(1) == labels).double().mean())
    nats: Tensor = -log_probs.gather(1, labels[:, None])[:, 0]
    log_snr = float(model.sde.log_snr(time))
    return {
        "t": t,
        "log_snr": log_snr if math.isfinite(log_snr) else None,  # of noise alone
        "accuracy": right,
        "standard_error": rate_error(right, len(labels)),
        "cross_entropy": float(nats.mean()),
        "cross_entropy_error": standard_error(nats),
    }

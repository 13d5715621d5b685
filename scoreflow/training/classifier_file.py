"""DIR/classifier.pt: the classifier of noisy images in a run's folder."""

from pathlib import Path

import torch

from scoreflow.errors import RequestError
from scoreflow.generation.plan import MAKE_CLASSIFIER
from scoreflow.models.classifier import Classifier, NoisyClassifier
from scoreflow.runtime.gpu.transfer import load_weights
from scoreflow.sde.base import SDE
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.checkpoints.content import check_weights, trained_with, values_in
from scoreflow.storage.checkpoints.states import DamagedError, read_state, write_state

CLASSIFIER_FILE = "classifier.pt"


class OtherDataError(RequestError):
    """A classifier of other data than those that are asked about."""


def save_classifier(
    folder: Path, model: NoisyClassifier, data: str = "", config: Json | None = None
) -> None:
    """Write DIR/classifier.pt and its hash, in the place of what was there.

    Args:
        folder: the run's folder.
        model: the classifier.
        data: SHA-256 of what it was trained on, where that does not belong to the run's weights.
        config: what else it was trained with, by name.
    """
    network = model.network
    state = {
        "shape": list(network.shape),
        "num_classes": network.num_classes,
        "width": network.width,
        "network": network.state_dict(),
    }
    if data:
        state["data"] = data
    write_state(folder / CLASSIFIER_FILE, {**state, **trained_with(config=config or {})})


def load_classifier(
    folder: Path,
    sde: SDE,
    t_min: float,
    device: torch.device | str = "cpu",
    data: str = "",
    bound: bool = True,
    config: Json | None = None,
) -> NoisyClassifier:
    """The run's classifier, in eval mode and without gradients of its weights.

    Args:
        folder: the run's folder.
        sde: its process.
        t_min: the least time of its training, in steps.
        device: where to.
        data: SHA-256 of the data that it shall know.
        bound: whether those belong to the run's weights, so that one which names none knows them.
        config: what it must have been trained with, unless it is older than such notes.

    Raises:
        OtherDataError: it was trained on other data.
        RequestError: there is none, it is damaged, or was trained with something else.
    """
    path, make = folder / CLASSIFIER_FILE, f"{MAKE_CLASSIFIER} --workdir {folder}"
    if not path.exists():
        raise RequestError(f"{folder} has no {CLASSIFIER_FILE}: {make}")
    try:
        state = read_state(path, "cpu")
        with torch.device(device):
            network = Classifier(tuple(state["shape"]), state["num_classes"], state["width"])
        check_weights("network", state["network"], network)
        load_weights(network, state["network"])
        held = values_in(state)
    except (DamagedError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RequestError(f"{path} is damaged ({reason}): {make}") from error
    if state.get("data", data if bound else "") != data:
        raise OtherDataError(f"{path} was trained on other data than these: {make}, under these")
    for key, own in (config or {}).items():
        if held.get(key, own) != own:
            raise RequestError(
                f"{path} was trained with {key} = {held[key]}, and the run with {own}: {make}"
            )
    network = network.eval().requires_grad_(False)
    return NoisyClassifier(network, sde, t_min)

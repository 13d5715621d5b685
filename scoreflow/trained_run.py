"""A run's network, from its last whole checkpoint, and its classifier, where one guides."""

from collections.abc import Callable

import torch

from scoreflow import factory
from scoreflow.errors import RequestError
from scoreflow.factory import Experiment
from scoreflow.generation.plan import Guidance
from scoreflow.models.classifier import Classifier, NoisyClassifier
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime.distributed import Shard
from scoreflow.sde.base import SDE
from scoreflow.storage.checkpoint_file import DamagedError, read_state
from scoreflow.storage.run_folder import RunDir
from scoreflow.training.classifier_trainer import FILE, MAKE
from scoreflow.training.ema import EMA
from scoreflow.training.trainer import ALONE, Trainer

Say = Callable[[str], None]


def trainer_of(experiment: Experiment, shard: Shard = ALONE) -> Trainer:
    """The training of an experiment, at its beginning.

    Args:
        experiment: what is trained.
        shard: this process's share of every batch.
    """
    return Trainer(
        experiment.model,
        experiment.network,
        EMA(experiment.network, experiment.settings.ema_decay),
        experiment.data,
        experiment.objective,
        experiment.settings,
        experiment.config.seed,
        shard,
    )


def load(trainer: Trainer, experiment: Experiment, run: RunDir, say: Say) -> None:
    """Take up the last whole checkpoint of a run; damaged ones are said."""
    _, state = run.load_checkpoint(map_location=experiment.device, warn=say)
    try:
        trainer.load_state(state)
    except (RuntimeError, ValueError, KeyError) as error:
        raise RequestError(
            f"the checkpoints of {run.path} are not of the network in its config.json "
            f"({str(error).splitlines()[0]}): put back the config that it was trained with"
        ) from error


def averaged(experiment: Experiment, ema: EMA) -> ScoreModel:
    """The averaged network as a Denoiser."""
    return factory.build_model(experiment.config, ema.module, experiment.model.sde)


def trained_of(experiment: Experiment, run: RunDir, say: Say) -> tuple[ScoreModel, int]:
    """A run's averaged network as a Denoiser, and its step."""
    trainer = trainer_of(experiment)
    load(trainer, experiment, run, say)
    return averaged(experiment, trainer.ema), trainer.step


def classifier_for(guidance: Guidance, run: RunDir, model: ScoreModel) -> NoisyClassifier | None:
    """The run's classifier, where the guidance needs one; a RequestError if it is not there."""
    if not guidance.needs_classifier:
        return None
    device = next(model.network.parameters()).device
    return load_classifier(run, model.sde, model.t_min, device)


def load_classifier(
    run: RunDir, sde: SDE, t_min: float, device: torch.device | str = "cpu"
) -> NoisyClassifier:
    """The run's classifier, in eval mode and without gradients of its weights.

    Args:
        run: the run's folder.
        sde: its process.
        t_min: the least time of its training, in steps.
        device: where to.

    Raises:
        RequestError: there is none, or it is damaged.
    """
    path = run.path / FILE
    if not path.exists():
        raise RequestError(f"{run.path} has no {FILE}: {MAKE} --workdir {run.path}")
    try:
        state = read_state(path, device)
        network = Classifier(tuple(state["shape"]), state["num_classes"], state["width"])
        network.load_state_dict(state["network"])
    except (DamagedError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RequestError(
            f"{path} is damaged ({str(error).splitlines()[0]}): {MAKE} --workdir {run.path}"
        ) from error
    return NoisyClassifier(network.to(device).eval().requires_grad_(False), sde, t_min)

"""A run's network, from its last whole checkpoint, and its classifier, where one guides."""

from collections.abc import Callable

from scoreflow import build
from scoreflow.build import Experiment, Guidance
from scoreflow.classifier import NoisyClassifier
from scoreflow.classifying import load_classifier
from scoreflow.ema import EMA
from scoreflow.errors import RequestError
from scoreflow.model import ScoreModel
from scoreflow.parallel import Shard
from scoreflow.run_dir import RunDir
from scoreflow.train import ALONE, Trainer

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
    return build.build_model(experiment.config, ema.module, experiment.model.sde)


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

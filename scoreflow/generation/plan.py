"""A sampling plan: sampler, time grid, guided denoiser, last step."""

from dataclasses import dataclass

import torch

from scoreflow.errors import RequestError
from scoreflow.models.classifier import NoisyClassifier
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers.denoisers.guidance import ClassifierGuided, Guided
from scoreflow.samplers.sampler import Final, Sampler
from scoreflow.sde.base import SDE
from scoreflow.sde.prediction import Denoiser

MAKE_CLASSIFIER = "train one with --mode classifier"


@dataclass(frozen=True)
class SamplingPlan:
    """A sampler, its time grid, and the denoiser to sample from.

    Attributes:
        sampler: the method.
        times: its grid.
        denoiser: guided and clipped as the config says.
        final: what the step to t = 0 does.
        label: the class to sample, -1 for none.
        process: the process to sample, where it is to end before that of the network: see
            `sde.flow.well_posed`.
    """

    sampler: Sampler
    times: torch.Tensor
    denoiser: Denoiser
    final: Final = "mean"
    label: int = -1
    process: SDE | None = None


@dataclass(frozen=True)
class Guidance:
    """Guidance towards a class: which, how strongly, and by which model.

    Attributes:
        label: the class, -1 for none.
        weight: of the class: 0 ignores it, 1 is the conditional law that was learned.
        guide: its source: "network" (classifier-free) or "classifier"; "" without a class.
    """

    label: int
    weight: float
    guide: str

    @property
    def needs_classifier(self) -> bool:
        """Whether it cannot do without a classifier of noisy images."""
        return self.guide == "classifier" and self.weight != 0

    def denoiser(self, model: ScoreModel, classifier: NoisyClassifier | None) -> Denoiser:
        """The guided Denoiser; a classifier guides the unconditional model.

        Raises:
            RequestError: a classifier is needed, and there is none.
        """
        if not self.guide or self.weight == 0:
            return model
        if self.guide == "network":
            conditional = model.labelled(self.label)
            return conditional if self.weight == 1 else Guided(conditional, model, self.weight)
        if classifier is None:
            raise RequestError(
                f"sampling.label = {self.label} needs a classifier of this run's noisy images to "
                f"guide a network that is not told of classes: {MAKE_CLASSIFIER}"
            )
        return ClassifierGuided(model, classifier.of(self.label), self.weight)

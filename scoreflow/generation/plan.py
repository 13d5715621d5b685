"""A sampling plan: sampler, time grid, guided denoiser, last step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.generation.classes import ByClass, Classes
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
        label: the class to sample, -1 for none, or for several.
        classes: of the samples, where they are of several.
        by_class: what of the denoiser knows them, where it does.
        apart: whether each class is drawn by itself: the adaptive flow asks about some rows of a
            batch, and does not say which.
        process: the process to sample, where it is to end before that of the network: see
            `sde.flow.well_posed`.
    """

    sampler: Sampler
    times: torch.Tensor
    denoiser: Denoiser
    final: Final = "mean"
    label: int = -1
    classes: Classes | None = None
    by_class: ByClass | None = None
    apart: bool = False
    process: SDE | None = None

    def labels(self, index: Tensor) -> Tensor | None:
        """The class that each sample is asked to be of, (B,) int64; None for none.

        Args:
            index: of the samples among all of a seed, (B,) int64.
        """
        if self.classes is not None:
            return self.classes.of(index)
        return None if self.label < 0 else torch.full_like(index, self.label)

    def groups(self, index: Tensor) -> Iterator[Tensor]:
        """Rows of a batch that are drawn at once, while the denoiser is turned to their classes.

        All of them; where classes are drawn `apart`, those of each.

        Args:
            index: of the samples among all of a seed, (B,) int64.
        """
        rows = torch.arange(len(index), device=index.device)
        if self.by_class is None or self.classes is None:
            yield rows
            return
        labels = self.classes.of(index)
        if not self.apart:
            self.by_class.turn(labels)
            yield rows
            return
        for label in labels.unique().tolist():
            self.by_class.turn(label)
            yield rows[labels == label]


@dataclass(frozen=True)
class Guidance:
    """Guidance towards a class: which, how strongly, and by which model.

    Attributes:
        label: the class, -1 for none, or for several.
        weight: of the class: 0 ignores it, 1 is the conditional law that was learned.
        guide: its source: "network" (classifier-free) or "classifier"; "" without a class.
        classes: of the samples, where they are of several.
    """

    label: int
    weight: float
    guide: str
    classes: Classes | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The classes that samples may be of; none without a class."""
        if self.classes is not None:
            return self.classes.numbers
        return () if self.label < 0 else (self.label,)

    @property
    def asked(self) -> int | str:
        """The classes by their numbers, as results and names of files keep them."""
        if self.classes is None:
            return self.label
        return self.classes.word or ",".join(map(str, self.classes.numbers))

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
        if self.guide != "network" and classifier is None:
            raise RequestError(
                "sampling.label needs a classifier of this run's noisy images to guide a network "
                f"that is not told of classes: {MAKE_CLASSIFIER}"
            )

        def guided(label: int | Tensor) -> Denoiser:
            if self.guide == "network":
                conditional = model.labelled(label)
                return conditional if self.weight == 1 else Guided(conditional, model, self.weight)
            assert classifier is not None, "refused above"
            return ClassifierGuided(model, classifier.of(label), self.weight)

        return (
            guided(self.label)
            if self.classes is None
            else ByClass(guided, self.classes.numbers[0])
        )

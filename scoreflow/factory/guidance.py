"""Whose class guides a sample, and how strongly: sampling.label, guidance and guide."""

from dataclasses import dataclass

from ml_collections import ConfigDict

from samplers import ClassifierGuided, Guided
from scoreflow.build.choices import choose
from scoreflow.classifier import NoisyClassifier
from scoreflow.classifying import MAKE
from scoreflow.data import Data
from scoreflow.errors import RequestError
from scoreflow.model import ScoreModel
from sde import Denoiser

GUIDES = ("auto", "network", "classifier")


@dataclass(frozen=True)
class Guidance:
    """What of a class goes into a Denoiser.

    Attributes:
        label: the class, -1 for none.
        weight: of the class: 0 ignores it, 1 is the conditional law that was learned.
        guide: whence it comes: "network" (classifier-free) or "classifier"; "" without a class.
    """

    label: int
    weight: float
    guide: str

    @property
    def needs_classifier(self) -> bool:
        """Whether it cannot do without a classifier of noisy images."""
        return self.guide == "classifier" and self.weight != 0

    def denoiser(self, model: ScoreModel, classifier: NoisyClassifier | None) -> Denoiser:
        """The guided Denoiser; a classifier guides the model that is told no class.

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
                f"guide a network that is not told of classes: {MAKE}"
            )
        return ClassifierGuided(model, classifier.of(self.label), self.weight)


def build_guidance(config: ConfigDict, model: ScoreModel, data: Data) -> Guidance:
    """The guidance of the `sampling` section; "auto" asks the network, if it knows of classes."""
    c = config.sampling
    guide = choose("sampling.guide", c.guide, GUIDES)
    if c.label == -1:
        if c.guidance != 1:
            raise RequestError(
                f"sampling.guidance = {c.guidance:g} needs a class, --config.sampling.label=K"
            )
        return Guidance(-1, 1.0, "")
    if data.num_classes == 0 or data.num_levels is None:
        raise RequestError(
            f"sampling.label = {c.label} needs images with labels, and {data.name} has none"
        )
    if c.label >= data.num_classes:
        raise RequestError(
            f"sampling.label must lie in 0..{data.num_classes - 1} (-1 for none), got {c.label}"
        )
    assert data.train_labels is not None, "num_classes counts them"
    if not bool((data.train_labels == c.label).any()):
        raise RequestError(f"sampling.label = {c.label}: {data.name} has none in training")
    if guide == "auto":
        guide = "network" if model.num_classes else "classifier"
    if guide == "network" and not model.num_classes:
        raise RequestError(
            "sampling.guide = network needs a network trained with model.conditional = true; "
            "this one can be guided by a classifier"
        )
    return Guidance(c.label, c.guidance, guide)

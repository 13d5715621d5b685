"""Whose class guides a sample, and how strongly: sampling.label, guidance and guide."""

from ml_collections import ConfigDict

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose
from scoreflow.generation.plan import Guidance
from scoreflow.models.score_model import ScoreModel

GUIDES = ("auto", "network", "classifier")


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

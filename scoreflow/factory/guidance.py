"""Class guidance from the keys sampling.label, guidance and guide."""

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose_key
from scoreflow.generation.plan import Guidance
from scoreflow.models.score_model import ScoreModel
from scoreflow.schema.config import AnyConfig, Config
from scoreflow.schema.evaluation_sections import SamplingConfig


def build_guidance(config: AnyConfig, model: ScoreModel, data: Data) -> Guidance:
    """The guidance of the `sampling` section; "auto" takes the network, if it is conditional.

    Raises:
        RequestError: as of `guidance_of`, or the network has no answer for no class and needs one.
    """
    checked = Config.of(config)
    own = checked.model.num_classes > 0
    found = guidance_of(checked.sampling, model.num_classes, data, own)
    if not model.needs_class or model.label is not None:
        return found
    if found.label == -1:
        raise RequestError(
            "this network has no row for no class: draw one of its classes, "
            f"--config.sampling.label=0..{model.num_classes - 1}"
        )
    if found.weight != 1 or found.needs_classifier:
        raise RequestError(
            "guidance needs the network's answer for no class, and this network has no row for "
            f"it: leave sampling.guidance at 1, got {found.weight:g} by the {found.guide}"
        )
    return found


def guidance_of(c: SamplingConfig, num_classes: int, data: Data, own: bool = False) -> Guidance:
    """The same for a network that need not exist yet.

    Args:
        c: the `sampling` section.
        num_classes: classes that the network knows; 0 for an unconditional one.
        data: what it is trained on, or measured on.
        own: whether the classes are the network's (`model.num_classes`), whatever the data have.

    Raises:
        RequestError: there is no such class, or nothing to guide by.
    """
    guide = choose_key("sampling.guide", c.guide)
    if c.label == -1:
        if c.guidance != 1:
            raise RequestError(
                f"sampling.guidance = {c.guidance:g} needs a class, --config.sampling.label=K"
            )
        return Guidance(-1, 1.0, "")
    if guide == "auto":
        guide = "network" if num_classes else "classifier"
    known = num_classes if guide == "network" and num_classes else data.num_classes
    if known == 0 or data.num_levels is None:
        raise RequestError(
            f"sampling.label = {c.label} needs images with labels, and {data.name} has none"
        )
    if c.label >= known:
        raise RequestError(
            f"sampling.label must lie in 0..{known - 1} (-1 for none), got {c.label}"
        )
    labels = None if own and guide == "network" else data.train_labels
    if labels is not None and not bool((labels == c.label).any()):
        raise RequestError(f"sampling.label = {c.label}: {data.name} has none in training")
    if guide == "network" and not num_classes:
        raise RequestError(
            "sampling.guide = network needs a network trained with model.conditional = true; "
            "this one can be guided by a classifier"
        )
    return Guidance(c.label, c.guidance, guide)

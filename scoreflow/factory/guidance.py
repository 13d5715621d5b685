"""Class guidance from the keys sampling.label, guidance and guide."""

from scoreflow.data.classes import names_of, numbers_of
from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose_key
from scoreflow.generation.classes import Classes
from scoreflow.generation.plan import Guidance
from scoreflow.models.score_model import ScoreModel
from scoreflow.schema.config import AnyConfig, Config
from scoreflow.schema.evaluation_sections import SamplingConfig

ALL, BY_SHARES = "all", "data"
"""Words of sampling.label."""


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
    if not found.guide:
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
    if c.label in (-1, "none"):
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
    classes = _classes(c, known, data, own and guide == "network")
    if guide == "network" and not num_classes:
        raise RequestError(
            "sampling.guide = network needs a network trained with model.conditional = true; "
            "this one can be guided by a classifier"
        )
    if len(classes.numbers) == 1:
        return Guidance(classes.numbers[0], c.guidance, guide)
    return Guidance(-1, c.guidance, guide, classes)


def _classes(c: SamplingConfig, known: int, data: Data, own: bool) -> Classes:
    """The classes of the samples.

    Args:
        c: the `sampling` section.
        known: how many classes there are.
        data: what they are of.
        own: whether the data need not have them.
    """
    names, counts = names_of(data, known), _counts(data, known)
    if c.label == ALL and ALL not in names:
        there = [k for k in range(known) if own or not counts or counts[k]]
        return Classes(tuple(there), word=ALL)
    if c.label == BY_SHARES and BY_SHARES not in names:
        if not counts:
            raise RequestError(
                "sampling.label = data takes the classes in the shares of the training data, and "
                f"{data.name} has no labels: use all, or list the classes, as 0,1,2"
            )
        there = [k for k in range(known) if counts[k]]
        shares = tuple(counts[k] for k in there)
        return Classes(tuple(there), shares, c.seed, BY_SHARES)
    numbers = numbers_of(c.label, known, names, "sampling.label")
    for number in numbers:
        if counts and not own and not counts[number]:
            raise RequestError(f"sampling.label = {number}: {data.name} has none in training")
    return Classes(numbers)


def _counts(data: Data, known: int) -> list[int]:
    """How many training data each class has; [] where they have no labels."""
    if data.train_labels is None:
        return []
    counts: list[int] = data.train_labels.bincount(minlength=known).tolist()
    return counts[:known]

"""Section of --mode classify: classes by Bayes' rule from log p(x | class)."""

from dataclasses import dataclass
from typing import ClassVar

from scoreflow.schema.ranges import POSITIVE, Range
from scoreflow.schema.section import Condition, Section, key

WAYS = ("flow", "bound", "both")
BY_BOUND: Condition = {"classify.by": ("bound", "both")}
WITH_HALVING: Condition = {"classify.halving": (True,)}


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(Section):
    """Classification by the likelihood of each class."""

    NAME: ClassVar[str] = "classify"
    MODES: ClassVar[tuple[str, ...]] = ("classify",)

    by: str = key(
        "both",
        "log p(x | class) by the exact flow (as the likelihood section asks), by the bound at "
        "random times, or by both side by side",
        choices=WAYS,
    )
    prior: str = key(
        "data",
        "of the classes: their shares of the training data, or uniform",
        choices=("data", "uniform"),
    )
    times: int = key(
        64,
        "random times of the bound, the same for all classes of an image",
        Range(8, 10**6, "[]"),
        only=BY_BOUND,
    )
    halving: bool = key(
        True,
        "the bound is not asked further of classes out of reach: after 8, 16, 32, ... times those "
        "of the worse half go that are behind the best by more than z standard errors of the "
        "difference; the flow is asked of all classes",
        only=BY_BOUND,
    )
    z: float = key(
        4.0,
        "standard errors by which a class must be behind to be left out",
        POSITIVE,
        only={**BY_BOUND, **WITH_HALVING},
    )

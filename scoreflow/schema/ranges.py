"""What each number of a config may be: one table, so that no key is forgotten."""

import math
from dataclasses import dataclass
from typing import Any

from scoreflow.errors import RequestError


@dataclass(frozen=True)
class Range:
    """Numbers from low to high; which ends belong to it is written as in mathematics, "[)"."""

    low: float
    high: float = math.inf
    ends: str = "[)"

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        above = self.low <= value if self.ends[0] == "[" else self.low < value
        return above and (value <= self.high if self.ends[1] == "]" else value < self.high)

    def __str__(self) -> str:
        return f"{self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"


COUNT, COUNT_OR_NONE = Range(1, 2**31), Range(0, 2**31)
POSITIVE = Range(0, ends="()")
FRACTION = Range(0, 1, "()")
EVALUATIONS = Range(8, 2**31)  # a step takes six, and two more choose the first

LIMITS = {
    "seed": COUNT_OR_NONE,
    "data.test_fraction": FRACTION,
    "data.split_seed": COUNT_OR_NONE,
    "sde.num_steps": Range(2, 1_000_000, "[]"),
    "sde.beta_min": POSITIVE,
    "sde.beta_max": POSITIVE,
    "sde.sigma_min": FRACTION,
    "sde.sigma_max": POSITIVE,
    "sde.alpha_min": FRACTION,
    "model.channels": COUNT,
    "model.multipliers": COUNT,
    "model.blocks": COUNT,
    "model.attention_sizes": COUNT,
    "model.num_groups": COUNT,
    "model.dropout": Range(0, 1),
    "model.width": COUNT,
    "model.depth": COUNT,
    "model.embedding": Range(4, 2**31),
    "training.num_steps": COUNT,
    "training.batch_size": COUNT,
    "training.learning_rate": POSITIVE,
    "training.warmup_steps": COUNT_OR_NONE,
    "training.clip_norm": POSITIVE,
    "training.ema_decay": Range(0, 1),
    "training.t_min": Range(0, 1, "(]"),
    "training.hybrid_weight": POSITIVE,
    "training.min_snr_gamma": POSITIVE,
    "training.p2_gamma": POSITIVE,
    "training.p2_k": POSITIVE,
    "training.micro_batches": COUNT,
    "training.label_dropout": Range(0, 1),
    "training.log_every": COUNT,
    "training.checkpoint_every": COUNT,
    "sampling.seed": COUNT_OR_NONE,
    "sampling.num_images": COUNT,
    "sampling.batch_size": COUNT,
    "sampling.steps": COUNT_OR_NONE,
    "sampling.order": Range(1, 4, "[]"),
    "sampling.churn": Range(0, 0.41421),
    "sampling.eta": Range(0, 1, "[]"),
    "sampling.dynamic_threshold": Range(0, 1),
    "sampling.label": Range(-1, 2**31),
    "sampling.guidance": Range(0),
    "sampling.snr": POSITIVE,
    "sampling.corrections": COUNT_OR_NONE,
    "sampling.tolerance": POSITIVE,
    "sampling.max_evaluations": EVALUATIONS,
    "control.factor": Range(2, 2**15),
    "control.noise": Range(0),
    "control.iterations": Range(1, 2**15),
    "control.weight": POSITIVE,
    "control.strength": Range(0, 1, "(]"),
    "control.count": COUNT,
    "classifier.num_steps": COUNT,
    "classifier.batch_size": COUNT,
    "classifier.learning_rate": POSITIVE,
    "classifier.width": Range(8, 2**15),
    "likelihood.seed": COUNT_OR_NONE,
    "likelihood.num_images": COUNT_OR_NONE,
    "likelihood.batch_size": COUNT,
    "likelihood.samples": Range(1, 2**16),
    "likelihood.t_start": Range(0),
    "likelihood.checked": COUNT_OR_NONE,
    "likelihood.terms": COUNT,
    "likelihood.probes": Range(0, 2**24),
    "likelihood.tolerance": POSITIVE,
    "likelihood.tolerance_bits": POSITIVE,
    "likelihood.max_evaluations": EVALUATIONS,
    "compare.nfe": COUNT,
    "compare.num_images": COUNT,
    "compare.guidance": Range(0),
    "compare.seed": COUNT_OR_NONE,
    "profile.num_steps": COUNT,
    "profile.warmup": COUNT,
    "equivalence.num_images": Range(2, 2**31),
    "equivalence.steps": Range(4, 2**31),
    "equivalence.batch_size": COUNT,
    "equivalence.train_steps": COUNT,
}
"""By dotted key; the limits of a tuple are those of each of its numbers."""


def check(flat: dict[str, Any]) -> None:
    """Refuse a config, by dotted keys, with a number outside its limits."""
    for key, limits in LIMITS.items():
        value = flat[key]
        for number in value if isinstance(value, list | tuple) else (value,):
            if number not in limits:
                raise RequestError(f"{key} must lie in {limits}, got {value}")

"""What the values in diffusers' JSON must be, by key: its constructors check none of them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoreflow.errors import RequestError
from scoreflow.interop.torch_files import printable

LARGEST = 1_000_000
"""Of counts: of steps, channels, pixels. More is a damaged file, and would fill the memory."""


@dataclass(frozen=True)
class Kind:
    """A rule for a value.

    Attributes:
        what: the rule, after "must be".
        holds: whether a value obeys it.
    """

    what: str
    holds: Callable[[Any], bool]


def _count(value: object) -> bool:
    return type(value) is int and 0 < value <= LARGEST


def _within(low: float, high: float, value: object) -> bool:
    return type(value) in (int, float) and low < value < high  # type: ignore[operator]


def _listed(value: object, holds: Callable[[Any], bool]) -> bool:
    return type(value) is list and bool(value) and all(map(holds, value))


def or_null(kind: Kind) -> Kind:
    """The same rule, or null."""
    return Kind(f"{kind.what}, or null", lambda value: value is None or kind.holds(value))


TRUTH = Kind("true or false", lambda value: type(value) is bool)
NAME = Kind("a name", lambda value: type(value) is str)
NAMES = Kind("a list of names", lambda value: _listed(value, NAME.holds))
COUNT = Kind(f"a whole number from 1 to {LARGEST}", _count)
COUNT_OR_NONE = Kind(
    f"a whole number from 0 to {LARGEST}, or null",
    lambda value: value is None or (value is not False and value == 0) or _count(value),
)
COUNTS = Kind(f"a list of {COUNT.what}s", lambda value: _listed(value, _count))
SIDES = Kind(
    f"{COUNT.what}, or two",
    lambda value: _count(value) or (_listed(value, _count) and len(value) == 2),
)
NUMBER = Kind("a number", lambda value: _within(-math.inf, math.inf, value))
BETA = Kind("a number between 0 and 1", lambda value: _within(0, 1, value))
BETAS = Kind("a list of numbers between 0 and 1", lambda value: _listed(value, BETA.holds))
SHARE = Kind(
    "a number from 0 to below 1",
    lambda value: type(value) in (int, float) and 0 <= value < 1,
)
SMALL = Kind("a number above 0 and below 1", BETA.holds)

NETWORK = {
    "sample_size": or_null(SIDES),
    "in_channels": COUNT,
    "out_channels": COUNT,
    "time_embedding_dim": or_null(COUNT),
    "flip_sin_to_cos": TRUTH,
    "down_block_types": NAMES,
    "up_block_types": NAMES,
    "block_out_channels": COUNTS,
    "layers_per_block": COUNT,
    "dropout": SHARE,
    "attention_head_dim": or_null(COUNT),
    "norm_num_groups": COUNT,
    "attn_norm_num_groups": or_null(COUNT),
    "norm_eps": SMALL,
    "add_attention": TRUTH,
    "num_class_embeds": COUNT_OR_NONE,
}
"""UNet2DModel's arguments; those of which our U-Net has one or two values are not here."""
SCHEDULER = {
    "num_train_timesteps": COUNT,
    "beta_start": BETA,
    "beta_end": BETA,
    "beta_schedule": NAME,
    "trained_betas": or_null(BETAS),
    "variance_type": or_null(NAME),
    "prediction_type": NAME,
    "rescale_betas_zero_snr": or_null(TRUTH),
    "clip_sample": or_null(TRUTH),
    "clip_sample_range": or_null(NUMBER),
    "thresholding": or_null(TRUTH),
}
"""A scheduler's arguments that matter here."""


def check(where: Path, values: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Refuse a value that is not of its key's kind.

    Args:
        where: the file, for messages.
        values: of its keys, or some of them.
        kinds: the rules.

    Raises:
        RequestError: naming the key, its rule and the value.
    """
    for key, kind in kinds.items():
        if key in values and not kind.holds(values[key]):
            raise RequestError(
                f"{where}: {key} must be {kind.what}, got {shown(values[key])}: the file is "
                "damaged, or of another version; download it again"
            )


def shown(value: object) -> str:
    """A value of a JSON file on one short line."""
    return printable(str(value))

"""What a checkpoint holds, checked before it is believed: a hash says that it is whole, no more.

Beside the weights and the optimiser lies what they were trained with: the values of the frozen
config keys and what the data are, under a SHA-256 each. config.json and data.json lie open to any
editor; what is sampled or trained under others of their values than these would be another thing.

    {"step": k, "model": ..., "ema": ..., "optimizer": ..., "trained_with":
        {"config": {"values": {"sde.name": "vp", ...}, "sha256": ...}, "data": {...}}}
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from scoreflow.errors import RunError
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.checkpoints.states import DamagedError
from scoreflow.storage.sample_names import hash_of

TRAINED_WITH = "trained_with"
PARTS = ("config", "data")
Accept = Callable[[int, Json], None]
"""Refuses by a DamagedError the state of a step that cannot be used."""
FIXED = ("betas", "eps", "weight_decay", "amsgrad", "maximize")
"""Settings of Adam that a training never changes."""
OF_A_MOMENT = ("exp_avg", "exp_avg_sq")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class OtherNetworkError(DamagedError):
    """Weights whose names or shapes are not those of the network that the config describes."""


def trained_with(**parts: Json) -> Json:
    """The entry of a checkpoint that says what it was trained with.

    Args:
        parts: plain values by name, in sets: "config", "data".
    """
    told = {name: {"values": each, "sha256": hash_of(each)} for name, each in parts.items()}
    return {TRAINED_WITH: told}


def values_in(state: Mapping[str, Any], part: str = "config") -> Json:
    """What a checkpoint was trained with, by name; {} of one that is older than such entries.

    Raises:
        DamagedError: it does not fit its hash.
    """
    held = _part(state, part)
    return {} if held is None else dict(held["values"])


def hash_in_state(state: Mapping[str, Any], part: str = "config") -> str:
    """The SHA-256 of the same; "" of a checkpoint that is older."""
    held = _part(state, part)
    return "" if held is None else str(held["sha256"])


def check_trained_with(state: Mapping[str, Any]) -> None:
    """Refuse a state that says of its training what does not fit its hash, or is of no such form.

    Raises:
        DamagedError: names the part.
    """
    for part in PARTS:
        _part(state, part)


def _part(state: Mapping[str, Any], part: str) -> Json | None:
    told = state.get(TRAINED_WITH, {})
    held = told.get(part) if isinstance(told, dict) else told
    if held is None:
        return None
    values = held.get("values") if isinstance(held, dict) else None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise DamagedError(f"{TRAINED_WITH}.{part} is {held!r:.40}")
    try:
        fits = hash_of(values) == held.get("sha256")
    except (RunError, TypeError, ValueError, RuntimeError) as error:  # no values of JSON
        raise DamagedError(f"{TRAINED_WITH}.{part} is {held!r:.40}") from error
    if not fits:
        raise DamagedError(f"{TRAINED_WITH}.{part} does not fit its hash")
    return dict(held)


def glance(path: Path) -> Json:
    """The state in a file without its tensors' values, which stay on the disk; {} if unreadable.

    For what a checkpoint was trained with, before anything is built: that alone is hashed.
    """
    try:
        if not path.is_file():  # a pipe would keep the reader waiting
            return {}
        state = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            return {}
        check_trained_with(state)
    except Exception:  # whatever is wrong with it is said where it is read
        return {}
    return state


def check_nothing(_step: int, _state: Json) -> None:
    """Accept every state."""


def check_step(step: int, state: Mapping[str, Any]) -> None:
    """Refuse a state of another step than the name of its file says.

    Raises:
        DamagedError: says what it holds instead.
    """
    got = state.get("step")
    if type(got) is not int or got != step:
        raise DamagedError(f"its step must be {step}, as in its name, got {got!r:.40}")


def check_weights(name: str, held: object, network: nn.Module) -> None:
    """Refuse weights that a network cannot take as they are.

    Half a precision may stand for a float32, as imported weights do; nothing else is converted.

    Args:
        name: of the entry, "ema" or "model".
        held: what the checkpoint has under it.
        network: the one that shall take them.

    Raises:
        OtherNetworkError: a name or a shape differs.
        DamagedError: they are no tensors, of another kind of number, or not finite.
    """
    own, held = network.state_dict(), check_tensors(name, held)
    for key in [*own, *held]:
        if key not in held or key not in own or held[key].shape != own[key].shape:
            there, here = _shape(held.get(key)), _shape(own.get(key))
            raise OtherNetworkError(f"{name}: {key} is {there}, and {here} in the network")
    for key, value in held.items():
        if torch.promote_types(value.dtype, own[key].dtype) != own[key].dtype:
            raise DamagedError(f"{name}: {key} is of {value.dtype}, not {own[key].dtype}")


def check_tensors(name: str, held: object) -> dict[str, Tensor]:
    """Weights by name, finite ones, of whatever network.

    Raises:
        DamagedError: they are something else.
    """
    if not isinstance(held, dict) or not held:
        raise DamagedError(f"{name} must hold tensors by name, got {held!r:.40}")
    for key, value in held.items():
        if not isinstance(key, str) or not _is_plain(value):
            raise DamagedError(
                f"{name} must hold tensors by name, got {value!r:.40} as {key!r:.40}"
            )
    bad = _first_not_finite(held)
    if bad is not None:
        raise DamagedError(f"{name}: {bad} has a value that is not finite")
    return held


def _is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor with its numbers one beside the other, of a kind that one adds."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    counts = not value.is_floating_point() or value.dtype in FLOATS
    return counts and not value.is_quantized and not value.is_meta


def _first_not_finite(held: Mapping[str, Tensor]) -> str | None:
    floats = {key: value for key, value in held.items() if value.is_floating_point()}
    # one answer from the device for all of them; x - x is 0 but where x is not finite
    sums = [(value - value).float().sum() for value in floats.values()]
    if not sums or bool(torch.stack(sums).isfinite().all()):
        return None
    return next(key for key, each in zip(floats, sums, strict=True) if not each.isfinite())


def check_adam(held: object, optimizer: torch.optim.Optimizer, fresh: bool) -> None:
    """Refuse a state of Adam that is not one of these parameters.

    Args:
        held: what the checkpoint has under "optimizer".
        optimizer: of the training, at its beginning.
        fresh: whether it may have no moments yet.

    Raises:
        DamagedError: names what is wrong.
    """
    if not isinstance(held, dict) or {"state", "param_groups"} - held.keys():
        raise DamagedError(f"optimizer must hold state and param_groups, got {held!r:.40}")
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    _check_groups(held["param_groups"], optimizer.param_groups, len(parameters))
    states = held["state"]
    if not isinstance(states, dict):
        raise DamagedError(f"optimizer: state must be a dict, got {states!r:.40}")
    if not states and not fresh:
        raise DamagedError("optimizer: it has no state, and steps were taken")
    for number, moments in states.items():
        if type(number) is not int or not 0 <= number < len(parameters):
            raise DamagedError(f"optimizer: it has a state of parameter {number!r:.40}")
        for problem in _of_moments(moments, parameters[number]):
            raise DamagedError(f"optimizer: parameter {number}: {problem}")


def _check_groups(held: object, own: list[dict[str, Any]], count: int) -> None:
    if not isinstance(held, list) or len(held) != len(own) or not isinstance(held[0], dict):
        raise DamagedError(f"optimizer: param_groups must be {len(own)}, got {held!r:.40}")
    group = held[0]
    if group.get("params") != list(range(count)):
        raise DamagedError(f"optimizer: it is not of the network's {count} parameters")
    for name in FIXED:
        got = group.get(name, own[0][name])
        if _comparable(got) != _comparable(own[0][name]):
            raise DamagedError(f"optimizer: {name} must be {own[0][name]}, got {got!r:.40}")
    rate = group.get("lr")
    if type(rate) is not float or not 0 <= rate < math.inf:
        raise DamagedError(f"optimizer: lr must be a rate, got {rate!r:.40}")


def _comparable(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _of_moments(held: object, parameter: Tensor) -> Iterator[str]:
    """What is wrong with Adam's moments of a parameter."""
    if not isinstance(held, dict) or {"step", *OF_A_MOMENT} - held.keys():
        yield f"its state must have step, exp_avg and exp_avg_sq, got {held!r:.40}"
        return
    step = held["step"]
    if not _is_plain(step) or step.numel() != 1 or not 0 <= float(step) < math.inf:
        yield f"step must be a count, got {step!r:.40}"
    for name in OF_A_MOMENT:
        value = held[name]
        if not _is_plain(value) or value.shape != parameter.shape:
            yield f"{name} is {_shape(value)}, and the parameter {_shape(parameter)}"
        elif value.dtype != parameter.dtype:
            yield f"{name} is of {value.dtype}, not {parameter.dtype}"


def check_pending(held: object) -> None:
    """Refuse rows of an interval, that is not yet over, which are no pairs of numbers.

    Raises:
        DamagedError: says what they are.
    """
    if not _is_plain(held) or held.ndim != 2 or held.shape[1] != 2:
        raise DamagedError(f"pending must be (steps, 2), got {_shape(held)}")


def check_scaler(held: object) -> None:
    """Refuse a state of a scaled loss that has not what a GradScaler needs.

    Raises:
        DamagedError: names the entry.
    """
    names = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
    for name in names:
        value = held.get(name) if isinstance(held, dict) else None
        if type(value) is bool or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise DamagedError(f"scaler: {name} must be a number, got {value!r:.40}")


def _shape(value: object) -> str:
    if value is None:
        return "missing"
    if not isinstance(value, Tensor):
        return f"{value!r:.40}"
    return " x ".join(map(str, value.shape)) or "a number"

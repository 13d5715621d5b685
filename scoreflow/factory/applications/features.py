"""Features from the `features` section: who is asked, at which time, in which layer."""

import torch

from scoreflow.data.classes import names_of, numbers_of
from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.evaluation.representations.activations import Asked, bytes_of, spaced_times
from scoreflow.evaluation.representations.layers import (
    ESTIMATE,
    LATENT,
    OF_NO_MODULE,
    PIXELS,
    Layers,
    layers_of,
)
from scoreflow.factory.choose import choose_key
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime.memory import refuse_above_memory
from scoreflow.schema.applications.features import ALL_BLOCKS, BY_LOG_SNR
from scoreflow.schema.config import AnyConfig, Config


def build_asked(config: AnyConfig, model: ScoreModel, data: Data) -> Asked:
    """How features are made: draws, seed, pool, and the Denoiser of the class asked about.

    Args:
        config: of the run.
        model: its averaged network.
        data: which may name the classes.

    Raises:
        RequestError: the network knows no such class, or cannot do without one.
    """
    c = Config.of(config).features
    pool = choose_key("features.pool", c.pool)
    model = _of_class(c.label, model, data)
    return Asked(model, data.num_levels, c.draws, c.seed, pool, c.batch_size)


def _of_class(label: int | str, model: ScoreModel, data: Data) -> ScoreModel:
    if label in (-1, "none"):
        if model.needs_class:
            raise RequestError(
                "this network has no row for no class, and its features are those given a class: "
                f"set features.label to one of 0..{model.num_classes - 1}"
            )
        return model
    if not model.num_classes:
        return model.labelled(0)  # which it refuses
    names = names_of(data, model.num_classes)
    numbers = numbers_of(label, model.num_classes, names, "features.label")
    if len(numbers) > 1:
        raise RequestError(f"features.label is one class, got {label}")
    return model.labelled(numbers[0])


def build_layers(asked: Asked, data: Data) -> Layers:
    """The layers of the network, which is evaluated once."""
    return layers_of(asked.model, tuple(data.train.shape[1:]), data.train.device)


def build_layer(config: AnyConfig, layers: Layers) -> str:
    """The path of the layer `features.layer`, or a name that is no module's.

    Raises:
        RequestError: there is no such layer, none is named, or t or pool says nothing of it.
    """
    c = Config.of(config).features
    if not c.layer:
        shown = ", ".join(map(layers.short, layers.blocks))
        raise RequestError(
            f"features.layer is missing: it is one of {shown}, another module by its path, or "
            f"{', '.join(OF_NO_MODULE)}; for all of them, features.sweep=true"
        )
    if c.layer in (LATENT, PIXELS) and c.t:
        raise RequestError(
            f"features.t has no effect on features.layer = {c.layer}, which is of no time, got "
            f"{c.t:g}: leave it out"
        )
    return c.layer if c.layer in OF_NO_MODULE else layers.path(c.layer)


def build_time(t: float, model: ScoreModel, key: str = "features.t") -> float:
    """A time at which the network can be asked; the least for 0.

    Raises:
        RequestError: it was not trained there, or is asked at whole times alone.
    """
    least, end = model.t_min, model.sde.num_steps
    t = t or least
    if not least <= t <= end:
        raise RequestError(
            f"{key} must lie in [{least:g}, {end}] (0 for the least), got {t:g}: the network is "
            "not asked about times that it was not trained at"
        )
    if model.asking.integer_times and t != round(t):
        raise RequestError(
            f"{key} must be a whole number for this network, which is evaluated at whole times "
            f"alone (model.integer_times), got {t:g}"
        )
    return t


def build_times(config: AnyConfig, model: ScoreModel) -> tuple[float, ...]:
    """The times of a sweep, rising, each once."""
    c = Config.of(config).features
    if tuple(c.times) == BY_LOG_SNR:
        return spaced_times(model.sde, model.t_min, model.asking.integer_times)
    return tuple(sorted({build_time(t, model, "features.times") for t in c.times}))


def build_swept(config: AnyConfig, layers: Layers) -> tuple[str, ...]:
    """The paths of the layers of a sweep, each once; "x_0" among them where it is asked for.

    Raises:
        RequestError: there is no such layer, or it is of no time.
    """
    found: list[str] = []
    for name in Config.of(config).features.layers:
        if name in (LATENT, PIXELS):
            raise RequestError(
                f"features.layers: {name} is of no time, and stands beside the layers: name it in "
                "features.beside"
            )
        if name == ALL_BLOCKS[0] and name not in layers.shapes:
            found += layers.blocks
        else:
            found.append(name if name == ESTIMATE else layers.path(name))
    return tuple(dict.fromkeys(found))


def refuse_size(
    asked: Asked,
    layers: Layers,
    paths: tuple[str, ...],
    data: Data,
    count: int,
    remedy: str,
    processes: int = 1,
) -> None:
    """Refuse features of so many data that do not fit into the host's memory.

    Args:
        asked: how they are made.
        layers: of the network.
        paths: of those that are kept at a time.
        data: whose shape estimates and pixels have.
        count: of data.
        remedy: what to do.
        processes: on this machine, each of which has all in the end.
    """
    event = tuple(data.train.shape[1:])
    modules = [layers.shapes[path] for path in paths if path in layers.shapes]
    need = bytes_of(modules, asked.pool, count)
    need += bytes_of([event] * (len(paths) - len(modules)), "none", count)
    told = f"features.pool = {asked.pool} of {count} data and {len(paths)} layers"
    told += f" in {processes} processes" if processes > 1 else ""
    refuse_above_memory(told, processes * need, torch.device("cpu"), remedy)

"""NVlabs' EDM: a pickle of a preconditioned network as our settings and weights."""

import re
from collections.abc import Mapping
from pathlib import Path

from scoreflow.errors import RequestError
from scoreflow.interop.edm.architecture import Architecture, architecture_of
from scoreflow.interop.edm.modules import MisfitError, Module, all_modules, all_tensors
from scoreflow.interop.edm.preconditioning import Preconditioning, preconditioning_of
from scoreflow.interop.edm.records import Record, load_network
from scoreflow.interop.edm.weights import renamed
from scoreflow.interop.imported import Imported

ENDINGS = (".pkl", ".pickle")


def recognises(path: Path) -> bool:
    """Whether a path is a pickle: of all codebases that are read here, EDM alone has them."""
    return path.is_file() and path.suffix in ENDINGS


def read(path: Path, options: Mapping[str, object]) -> Imported:
    """A network snapshot, nothing in it executed.

    Args:
        path: the .pkl file.
        options: none; the file says all that is needed.

    Raises:
        RequestError: an option; or a file that is damaged, asks for more than a network needs, or
            holds a network that cannot be had.
    """
    if options:
        name = next(iter(options))
        raise RequestError(f"the format edm has no option {name!r}: its files say all themselves")
    held = load_network(path)
    try:
        return _imported(held, path)
    except MisfitError as error:
        raise RequestError(
            f"{path}: {error}; wrap the network instead (docs/networks.md)"
        ) from error


def _imported(held: object, path: Path) -> Imported:
    outermost = held.get("ema") if type(held) is dict else None
    if not isinstance(outermost, Record):
        raise MisfitError("it has no network under 'ema', as network-snapshot-*.pkl has")
    modules = all_modules(outermost)
    asked = preconditioning_of(modules[""])
    if "model" not in modules:
        raise MisfitError("its wrapper holds no network")
    inside = {
        name.removeprefix("model."): module
        for name, module in modules.items()
        if name.startswith("model.")
    }
    plan = architecture_of(modules["model"], inside)
    _check_channels(modules["model"], plan, asked)
    weights = renamed(all_tensors(inside), plan, asked.negated)
    settings = {**plan.settings, **asked.settings}
    return Imported("edm", settings, weights, None, _facts(modules, plan, asked, path))


def _check_channels(network: Module, plan: Architecture, asked: Preconditioning) -> None:
    told = network.arguments()
    images, answers = plan.settings["model.shape"][0], told.whole("out_channels")
    if answers != images * (2 if asked.settings.get("model.learned_variance") else 1):
        raise MisfitError(f"{answers} channels of an answer to {images} of an image")


def _facts(
    modules: dict[str, Module], plan: Architecture, asked: Preconditioning, path: Path
) -> dict[str, str]:
    had = plan.settings
    widths = ", ".join(str(had["model.channels"] * each) for each in had["model.multipliers"])
    at = ", ".join(map(str, had["model.attention_sizes"])) or "the middle alone"
    classes = had.get("model.num_classes", 0)
    facts = {
        "architecture": (
            f"{modules['model'].kind}, {widths} channels, {plan.blocks} blocks a level, attention "
            f"at {at}" + (", filter and input pyramid" if had.get("model.input_pyramid") else "")
        ),
        "schedule": f"{modules[''].kind}: {asked.schedule}",
        "prediction": asked.asked,
        "weights": "averaged; the file has no others",
        "variance": "learned" if had.get("model.learned_variance") else "fixed",
        "classes": f"{classes}, and no class" if classes else "none",
    }
    if images := re.fullmatch(r"network-snapshot-(\d+)", path.stem):
        facts["training"] = f"{int(images[1]):,} thousand images, by the file's name"
    return facts

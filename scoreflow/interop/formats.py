"""Which codebase a checkpoint is from, and its reader."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scoreflow.errors import RequestError, did_you_mean
from scoreflow.interop import own_file
from scoreflow.interop.diffusers import reader as diffusers
from scoreflow.interop.edm import reader as edm
from scoreflow.interop.imported import Imported
from scoreflow.interop.openai import reader as openai
from scoreflow.interop.openai.recipes import RECIPES as OPENAI
from scoreflow.interop.openai.recipes import Recipe
from scoreflow.interop.score_sde import reader as score_sde
from scoreflow.interop.score_sde.recipes import RECIPES as SCORE_SDE
from scoreflow.interop.torch_files import ENDINGS as TORCH_ENDINGS
from scoreflow.interop.torch_files import load_tensors, read_once

Options = Mapping[str, object]


@dataclass(frozen=True)
class Format:
    """A codebase's way to keep a network.

    Attributes:
        what: a line for messages.
        recognises: whether a path looks like it, without reading more than it must.
        read: the path as settings and weights, given the user's answers.
    """

    what: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Options], Imported]


FORMATS = {
    "diffusers": Format(
        "a folder of a DDPMPipeline or UNet2DModel",
        diffusers.recognises,
        diffusers.read,
    ),
    "improved_diffusion": Format(
        "a .pt of OpenAI's improved-diffusion",
        partial(openai.recognises, format="improved_diffusion"),
        partial(openai.read, format="improved_diffusion"),
    ),
    "guided_diffusion": Format(
        "a .pt of OpenAI's guided-diffusion",
        partial(openai.recognises, format="guided_diffusion"),
        partial(openai.read, format="guided_diffusion"),
    ),
    "edm": Format("a network-snapshot .pkl of NVlabs' EDM", edm.recognises, edm.read),
    "score_sde": Format(
        "a .pth of score_sde_pytorch",
        score_sde.recognises,
        score_sde.read,
    ),
    own_file.NAME: Format("a .safetensors of --mode export", own_file.recognises, own_file.read),
}
"""By the name that --as takes."""
RECIPES = OPENAI | {name: Recipe("score_sde", each) for name, each in SCORE_SDE.items()}
"""By the name that --recipe takes: of OpenAI's files, of score_sde's configs."""


def recognise(path: Path) -> str:
    """The name of a checkpoint's format.

    Raises:
        RequestError: there is no such path, no format fits, or more than one does; or a file of
            torch.save that asks for code, which is named.
    """
    if not path.exists():
        raise RequestError(f"there is no {path}: --from takes a file, a folder or a Hub's name")
    with read_once():
        found = [name for name, each in FORMATS.items() if each.recognises(path)]
    if len(found) == 1:
        return found[0]
    if (path / "checkpoints").is_dir() and (path / "config.json").is_file():
        raise RequestError(f"{path} is a run already: pass it as --workdir to any other mode")
    known = "; ".join(f"{name}, {each.what}" for name, each in FORMATS.items())
    if not found:
        if path.suffix in TORCH_ENDINGS:  # why none could read it, if it asks for code
            load_tensors(path)
        raise RequestError(
            f"{path} is of no format that is read here ({known}): wrap the network instead "
            "(docs/networks.md)"
        )
    raise RequestError(
        f"{path} may be {' or '.join(found)}, whose files look alike: add "
        f"--as {found[0]}, or --recipe NAME for a published one"
    )


def read(path: Path, as_: str = "", recipe: str = "", options: Options | None = None) -> Imported:
    """A checkpoint of another codebase as our settings and weights.

    Args:
        path: its file or folder.
        as_: its format; "" to recognise it.
        recipe: a published network's, whose flags `options` may change; "" for none.
        options: answers to what the reader asks.

    Raises:
        RequestError: the format is unknown or another, or its reader refuses the file.
    """
    given = dict(options or {})
    if recipe:
        if recipe not in RECIPES:
            raise RequestError(f"unknown recipe {recipe!r}; {_listed(recipe, RECIPES)}")
        as_ = as_ or RECIPES[recipe].format
        given = {**RECIPES[recipe].options, **given}
    if as_ and as_ not in FORMATS:
        raise RequestError(f"unknown format {as_!r}; {_listed(as_, FORMATS)}")
    with read_once():
        name = as_ or recognise(path)
        if not path.exists():
            raise RequestError(
                f"there is no {path}: --from takes a file, a folder or a Hub's name"
            )
        return FORMATS[name].read(path, given)


def _listed(name: str, known: Collection[str]) -> str:
    """The nearest name, if one is near, and all that there are."""
    return f"{did_you_mean(name, known)} they are {', '.join(known)}".strip()

"""Layers of any network by name, and what comes out of them while it is evaluated.

A layer is a module that is called once an evaluation and returns a tensor of a row a datum. It is
named by its path in the network, and a block of a U-Net in short as well: down.0.1 for
down.0.blocks.1, middle for the last one there. Which layers a network has is seen by evaluating
it once, so that networks of any code have theirs.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from scoreflow.errors import RequestError, did_you_mean
from scoreflow.models.score_model import ScoreModel
from scoreflow.models.unet_blocks import Block
from scoreflow.sde.noise import Noise, Stream

PIXELS, ESTIMATE, LATENT = "pixels", "x_0", "latent"
OF_NO_MODULE = (PIXELS, ESTIMATE, LATENT)
"""Names that are no module's: they come before one that a module has."""
_BLOCK = re.compile(r"(down|up)\.(\d+)\.blocks\.(\d+)")
_MIDDLE = re.compile(r"middle\.\d+")
ROWS = 3
"""Data that a network is evaluated on, to see its layers: a number that no width often is."""
LISTED = 40
"""Layers that a message names."""

Hook = Callable[[str, object], None]


@dataclass(frozen=True)
class Layers:
    """The layers of a network.

    Attributes:
        shapes: by path, of what comes out for one datum; in the order of their calls.
        blocks: paths of its blocks, or, where it has none of ours, of its outermost layers.
    """

    shapes: dict[str, tuple[int, ...]]
    blocks: tuple[str, ...]

    def path(self, name: str) -> str:
        """The path of a layer that is named by it, or in short.

        Raises:
            RequestError: there is no such layer; names the nearest, and those that there are.
        """
        if name in self.shapes:
            return name
        by_short = {self.short(path): path for path in self.shapes}
        if middle := [path for path in self.shapes if _MIDDLE.fullmatch(path)]:
            by_short.setdefault("middle", middle[-1])
        if name in by_short:
            return by_short[name]
        shown = [self.short(path) for path in self.blocks]
        more = f" and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
        options = [*by_short, *self.shapes, *OF_NO_MODULE]
        hint = did_you_mean(name, dict.fromkeys(options))
        raise RequestError(
            f"features.layer: this network has no layer {name!r}; {hint + ' ' if hint else ''}its "
            f"blocks are {', '.join(shown[:LISTED])}{more}; any other of its modules that returns "
            f"a tensor is named by its path; and there are {', '.join(OF_NO_MODULE)}"
        )

    def short(self, path: str) -> str:
        """A path as it is shown: down.0.1 for down.0.blocks.1."""
        found = _BLOCK.fullmatch(path)
        short = f"{found[1]}.{found[2]}.{found[3]}" if found else path
        return path if short in self.shapes else short


@torch.no_grad()
def layers_of(model: ScoreModel, event: tuple[int, ...], device: torch.device) -> Layers:
    """The layers of a network, by evaluating it once on noise at the least time.

    Args:
        model: the network as a Denoiser, of a class where it cannot do without one.
        event: shape of a datum.
        device: where x_t lies.
    """
    called: dict[str, list[object]] = {}

    def note(name: str, output: object) -> None:
        called.setdefault(name, []).append(output)

    network = model.network
    modules = [name for name, _ in network.named_modules() if name]
    x = Noise.of(0, 0, ROWS, device).normal(Stream.PRIOR, event)
    with _hooked(network, modules, note):
        model(x, torch.tensor(model.t_min, dtype=torch.float64))
    once = {name: outputs[0] for name, outputs in called.items() if len(outputs) == 1}
    tensors = {
        name: output
        for name, output in once.items()
        if isinstance(output, Tensor)
        and output.is_floating_point()
        and output.ndim > 1
        and len(output) == ROWS
    }
    shapes = {name: tuple(output.shape[1:]) for name, output in tensors.items()}
    kinds = dict(network.named_modules())
    blocks = tuple(name for name in shapes if isinstance(kinds[name], Block))
    return Layers(shapes, blocks or _outermost(tensors))


def _outermost(tensors: dict[str, Tensor]) -> tuple[str, ...]:
    """Layers that lie in no other layer, and whose output is of the datum, not of the time alone.

    Where there is one alone, a wrapper, those in it.
    """
    below = [name for name, output in tensors.items() if bool((output != output[:1]).any())]
    while True:
        outer = [name for name in below if not any(_within(name, other) for other in below)]
        inner = [name for name in below if name not in outer]
        if len(outer) != 1 or not inner:
            return tuple(outer)
        below = inner


def _within(name: str, other: str) -> bool:
    return name.startswith(f"{other}.")


@contextmanager
def captured(network: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of layers, by path, of the evaluation that is made inside, as they come.

    Raises:
        RequestError: at the evaluation: a layer is called twice, or returns no tensor.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, output: object) -> None:
        if name in found or not isinstance(output, Tensor):
            what = "called twice" if name in found else f"{type(output).__name__}, no tensor"
            raise RequestError(
                f"features.layer = {name} must be a module that is called once an evaluation and "
                f"returns a tensor, got {what}: name another layer"
            )
        found[name] = output.detach()

    with _hooked(network, paths, keep):
        yield found


@contextmanager
def _hooked(network: nn.Module, paths: Sequence[str], hook: Hook) -> Iterator[None]:
    """`hook(path, output)` at each call of some modules."""
    handles: list[RemovableHandle] = []

    def watch(path: str) -> None:
        def after(_module: nn.Module, _given: object, output: object) -> None:
            hook(path, output)

        handles.append(network.get_submodule(path).register_forward_hook(after))

    try:
        for path in paths:
            watch(path)
        yield
    finally:
        for handle in handles:
            handle.remove()
